"""Golden traces: the first iterations of a fixed run, as they were when last looked at.

They catch a change of numbers that nobody meant. Rewrite them, after reading why they moved, with

    python tests/test_golden.py
"""

import csv
import json
import math
import os
import sys
import tempfile
from pathlib import Path

import pytest

from rlsuite import algorithms

GOLDEN = Path(__file__).parent / "golden"
ENVS = ("InvertedPendulum-v4", "CartPole-v1")
# Later ones amplify the last bit in which two processors may differ. Offline: of 50 steps each
ITERATIONS, OFFLINE_ITERATIONS = 4, 1
CASES = [
    (n, e) for n in algorithms.ALGORITHMS for e in ENVS[: 1 if algorithms.is_offline(n) else 2]
]


def trace(name: str, env: str, folder: Path) -> list[dict[str, float]]:
    from conftest import ShortRuns

    count = OFFLINE_ITERATIONS if algorithms.is_offline(name) else ITERATIONS
    run_folder = ShortRuns(folder).train(f"{name}-{env}", name, env)
    with open(run_folder / "progress.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file)][: 2 * count]
    return [{k: float(v) for k, v in r.items() if v and k != "wall_seconds"} for r in rows]


@pytest.mark.parametrize(("name", "env"), CASES)
def test_first_iterations_are_as_recorded(name, env, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    recorded = json.loads((GOLDEN / f"{name}.json").read_text())[env]
    now = trace(name, env, tmp_path)
    assert len(now) == len(recorded)
    for old, new in zip(recorded, now, strict=True):
        assert old.keys() == new.keys()
        for key in old:
            assert math.isclose(old[key], new[key], rel_tol=1e-3, abs_tol=1e-5), (key, old, new)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RLSUITE_CACHE"] = scratch
        for algorithm in sys.argv[1:] or algorithms.ALGORITHMS:
            traces = {e: trace(n, e, Path(scratch)) for n, e in CASES if n == algorithm}
            (GOLDEN / f"{algorithm}.json").write_text(json.dumps(traces, indent=1) + "\n")
