"""Make one field of a run's JSON wrong at a time: `python tests/edit_json.py config.json`.

A short run is trained; then its config.json is edited and the run reopened, or its policy.json is
edited and the policy loaded, so many times. Each edit must be refused in one line, or make no
difference: to what the run would go on with, or to the policy's actions. Exits with 1 otherwise.

--edits 1000        how many
--algorithm td3_bc  whose run
--seed 0            of the edits
"""

import argparse
import copy
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from conftest import ShortRuns

from rlsuite.core.saving import load_policy
from rlsuite.runs import run as runs

TASK = "InvertedPendulum-v4"
OTHER_TYPES = ("text", 7, -1.5, True, [], {}, [1, "a"], {"a": 1}, None)
TARGETS = ("config.json", "policy.json")


def places(value, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in `value`, itself apart."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in inner:
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from places(part, (*path, key))


def edit(document: dict, rng: random.Random) -> tuple[str, dict]:
    """What was done, and a copy of `document` with one field made wrong."""
    while True:
        edited = copy.deepcopy(document)
        path = rng.choice(list(places(document)))
        holder = edited
        for key in path[:-1]:
            holder = holder[key]
        kinds = (delete, null, other_type, other_number, other_string, unknown_key, nested)
        kind = rng.choice(kinds)
        kind(holder, path[-1], rng)
        if json.dumps(edited, sort_keys=True) != json.dumps(document, sort_keys=True):
            return f"{kind.__name__} at {'.'.join(map(str, path))}", edited


def delete(holder, key, rng: random.Random) -> None:
    del holder[key]


def null(holder, key, rng: random.Random) -> None:
    holder[key] = None


def other_type(holder, key, rng: random.Random) -> None:
    holder[key] = rng.choice([x for x in OTHER_TYPES if type(x) is not type(holder[key])])


def other_number(holder, key, rng: random.Random) -> None:
    if type(holder[key]) in (int, float):
        wild = (0, -1, 10**12, 1e300, float("inf"), float("nan"), holder[key] * 1.1)
        holder[key] = rng.choice((holder[key] + 1, *wild))


def other_string(holder, key, rng: random.Random) -> None:
    if isinstance(holder[key], str):
        wild = ("", "../..", "a\nb", "\x00", "é" * 1000, holder[key].upper(), holder[key][:-1])
        holder[key] = rng.choice((holder[key] + "x", *wild))


def unknown_key(holder, key, rng: random.Random) -> None:
    target = holder[key] if isinstance(holder[key], dict) else holder
    if isinstance(target, dict):
        target[rng.choice(("retired", "", "step_", "__class__"))] = rng.choice(OTHER_TYPES)


def nested(holder, key, rng: random.Random) -> None:
    holder[key] = rng.choice(({"value": holder[key]}, [holder[key]], [[holder[key]]]))


def reopened(folder: Path) -> object:
    """What a run would go on with."""
    run = runs.reopen(folder)
    about = {k: v for k, v in run.manifest.items() if k != "manifest_hash"}
    return run.config, run.settings, json.dumps(about, sort_keys=True)


def actions(folder: Path) -> object:
    """What a policy does in a few states."""
    policy, _ = load_policy(folder)
    obs = np.random.default_rng(0).standard_normal((len(policy.theta), 5, policy.spec["obs_size"]))
    raw, applied = policy.behaviour().act(obs)
    return raw.tobytes(), applied.tobytes()


def judge(folder: Path, outcome: Callable[[Path], object], expected: object) -> str | None:
    """What is wrong with the outcome of an edit; None if it is refused, or makes no difference."""
    try:
        found = outcome(folder)
    except (ValueError, runs.RunError) as error:
        return f"refused in {len(str(error).splitlines())} lines" if "\n" in str(error) else None
    except Exception as error:
        return f"a traceback: {error!r}"
    return None if found == expected else "goes on otherwise, in silence"


def edit_everywhere(target: str, edits: int, algorithm: str, seed: int, root: Path) -> int:
    """Print every edit that went wrong; how many did."""
    folder = ShortRuns(root).train("run", algorithm, TASK, seeds=(0, 1))
    outcome = {"config.json": reopened, "policy.json": actions}[target]
    path = folder / target if target == "config.json" else folder / "policy" / target
    text, rng, failures = path.read_text(), random.Random(seed), 0
    expected, document = outcome(folder), json.loads(text)
    for _ in range(edits):
        what, edited = edit(document, rng)
        path.write_text(json.dumps(edited))
        if wrong := judge(folder, outcome, expected):
            failures += 1
            print(f"{target}, {what}: {wrong}")
    path.write_text(text)
    assert outcome(folder) == expected
    print(f"{target}: {edits} edits, {failures} wrong")
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--algorithm", default="td3_bc")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        os.environ.setdefault("RLSUITE_CACHE", f"{root}/cache")
        return 1 if edit_everywhere(**vars(options), root=Path(root)) else 0


if __name__ == "__main__":
    sys.exit(main())
