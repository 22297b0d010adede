"""Golden traces: the first iterations of a fixed run, as they were when last looked at.

They catch a change of numbers that nobody meant. Rewrite them, after reading why they moved, with

    python tests/test_golden.py [algorithm ...]

Processors round differently, and training amplifies that, some metrics more than others. So each
metric of a trace has its own tolerance, measured when the trace is recorded: the run is repeated
DRAWS times from parameters moved by one unit in the last place, and the largest movement of the
metric, times MARGIN, is admitted.
"""

import argparse
import csv
import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import ShortRuns, needs_a_box, start_of

from rlsuite import algorithms
from rlsuite.runs import checkpoint
from rlsuite.runs.settings import learning_rates

GOLDEN = Path(__file__).parent / "golden"
ENVS = ("InvertedPendulum-v4", "CartPole-v1")
# Later ones amplify the last bit in which two processors may differ. Offline: of 50 steps each
ITERATIONS, OFFLINE_ITERATIONS = 4, 1
CASES = [(n, e) for n in algorithms.ALGORITHMS for e in ENVS[: 1 if needs_a_box(n) else 2]]
DRAWS, MARGIN = 20, 5
# A metric that no draw moved may still be summed in another order: 16 units of float32's last place
ROUNDING = 16 * 2**-23


def trace(short_runs: ShortRuns, name: str, env: str, draw: int | None = None, **changes) -> list:
    """The first rows of a run's log, from parameters moved by `draw` if there is one."""
    run = short_runs.create(f"run-{len(os.listdir(short_runs.root))}", name, env, **changes)
    count = OFFLINE_ITERATIONS if algorithms.is_offline(name) else ITERATIONS
    start_of(run, count, lambda learner: None if draw is None else move_by_one_unit(learner, draw))
    with open(run.folder / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in r.items() if v and k != "wall_seconds"} for r in rows]


def move_by_one_unit(learner, draw: int) -> None:
    """Each float32 number of `learner` but 0 to one of its two neighbours."""
    generator = torch.Generator().manual_seed(draw)
    with tempfile.TemporaryDirectory() as scratch:  # for the rows of a replay buffer
        captured = checkpoint.capture(learner, Path(scratch))
    for tensor in tensors(captured):
        if tensor.dtype == torch.float32:
            up = torch.rand(tensor.shape, generator=generator) < 0.5
            moved = tensor.nextafter(torch.where(up, torch.inf, -torch.inf))
            tensor.copy_(torch.where(tensor == 0, tensor, moved))


def tensors(state) -> list[torch.Tensor]:
    """All tensors of a state of dicts and tuples."""
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state
    nested = isinstance(state, dict | list | tuple)
    return [tensor for part in parts for tensor in tensors(part)] if nested else []


def record(short_runs: ShortRuns, name: str, env: str) -> dict:
    """{"rows": the trace, "tolerance": per metric, from DRAWS moved traces}."""
    rows = trace(short_runs, name, env)
    tolerance = {key: ROUNDING * max(abs(row.get(key, 0)) for row in rows) for key in rows[-1]}
    for draw in range(DRAWS):
        for old, new in zip(rows, trace(short_runs, name, env, draw), strict=True):
            for key in old:
                tolerance[key] = max(tolerance[key], MARGIN * abs(new[key] - old[key]))
    two_digits = {key: float(f"{value:.2g}") for key, value in tolerance.items()}
    return {"tolerance": two_digits, "rows": rows}


def differences(recorded: dict, rows: list) -> list[str]:
    """What of `rows` is further from the recorded ones than the tolerance of its metric."""
    found = []
    for old, new in zip(recorded["rows"], rows, strict=True):
        assert old.keys() == new.keys()
        for key, tolerance in recorded["tolerance"].items():
            if key in old and abs(new[key] - old[key]) > tolerance:
                what = f"{key} of seed {old['seed']:.0f} at step {old['step']:.0f}"
                found.append(f"{what}: {new[key]}, recorded {old[key]} +- {tolerance}")
    return found


def recorded(name: str, env: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())[env]


# -------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize(("name", "env"), CASES)
def test_first_iterations_are_as_recorded(name, env, short_runs) -> None:
    found = differences(recorded(name, env), trace(short_runs, name, env))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("name", "env"), CASES)
def test_each_learning_rate_raised_by_5_percent_is_noticed(name, env, short_runs) -> None:
    config = short_runs.create("unchanged", name, env).config
    rates = [flag.strip("-").replace("-", "_") for flag in learning_rates(config).split()]
    assert rates, "settings.learning_rates finds none"
    for rate in rates:
        changed = {rate: 1.05 * getattr(config, rate)}
        assert differences(recorded(name, env), trace(short_runs, name, env, **changed)), rate


def test_what_two_processors_made_of_one_trace_is_admitted() -> None:
    """Two processors with other matrix products came that far apart, and no further."""
    tolerance = recorded("trpo", "InvertedPendulum-v4")["tolerance"]
    one = {"seed": 1, "step": 512, "explained_variance": 0.112440}
    other = one | {"explained_variance": 0.112327}
    tolerance = {key: tolerance[key] for key in one}
    assert not differences({"tolerance": tolerance, "rows": [one]}, [other])
    assert differences({"tolerance": tolerance, "rows": [one]}, [one | {"seed": 0}])
    changed = one | {"explained_variance": 0.115}  # further than rounding goes
    assert differences({"tolerance": tolerance, "rows": [one]}, [changed])


def test_parameters_move_by_one_unit_in_the_last_place(short_runs) -> None:
    seen = []

    def move(learner) -> None:
        seen.append(learner.policy.theta.clone())
        move_by_one_unit(learner, 0)
        seen.append(learner.policy.theta.clone())

    start_of(short_runs.create("run", "ppo", "CartPole-v1"), 0, move)
    theta, moved = seen
    # The bits of a float32 as an integer: neighbours differ by 1
    units = (moved.view(torch.int32) - theta.view(torch.int32)).abs()
    assert torch.equal(units, (theta != 0).int())
    assert 0.4 < (moved > theta)[theta != 0].float().mean() < 0.6


def test_an_unknown_name_is_refused_and_nothing_is_written(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["ppo", "nosuch"], tmp_path)
    said = capsys.readouterr().err
    assert refusal.value.code == 2
    assert "'nosuch'" in said and all(name in said for name in algorithms.ALGORITHMS)
    assert list(tmp_path.iterdir()) == []


def main(words: list[str] | None = None, folder: Path = GOLDEN) -> None:
    parser = argparse.ArgumentParser(description="Record golden traces and their tolerances.")
    parser.add_argument("names", nargs="*", metavar="algorithm", help="default: every one")
    names = parser.parse_args(words).names or list(algorithms.ALGORITHMS)
    for name in names:
        if name not in algorithms.ALGORITHMS:
            known = ", ".join(algorithms.ALGORITHMS)
            parser.error(f"algorithm {name!r} is unknown; use some of: {known}")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RLSUITE_CACHE"] = scratch
        for name in names:
            traces = {e: record(ShortRuns(Path(scratch)), n, e) for n, e in CASES if n == name}
            (folder / f"{name}.json").write_text(json.dumps(traces, indent=1) + "\n")


if __name__ == "__main__":
    main()
