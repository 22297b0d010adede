"""Policies kept along a run: which, with what returns, and that nothing else notices."""

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import start_of

from rlsuite import envs
from rlsuite.core.saving import load_policy
from rlsuite.runs import run as runs
from rlsuite.runs import snapshots
from rlsuite.runs.evaluation import evaluate
from rlsuite.runs.settings import Settings

TASK = "Pendulum-v1,max_episode_steps=8"
# 8 iterations of 64 steps; snapshots after every second one
SHORT = {"seeds": (0, 3), "checkpoints": 2, "evaluations": 2, "evaluation_episodes": 1}


def rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return [{k: v for k, v in r.items() if k != "wall_seconds"} for r in csv.DictReader(file)]


def snapshots_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in (folder / "snapshots").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_run_with_snapshots_has_the_numbers_and_the_hash_of_one_without(short_runs) -> None:
    with_, without = (
        short_runs.train(name, "sac", TASK, snapshots=count, **SHORT)
        for name, count in (("with", 4), ("without", None))
    )
    for name in ("progress.csv", "preparation.csv", "evaluations.csv"):
        assert rows(with_ / name) == rows(without / name) != []
    policies = [f / "policy/policy.safetensors" for f in (with_, without)]
    assert policies[0].read_bytes() == policies[1].read_bytes()
    read = runs.folders.read
    assert read(with_)["config_hash"] == read(without)["config_hash"]
    assert not (without / "snapshots").exists() and not (without / "snapshots.csv").exists()


def test_a_snapshot_is_the_policy_of_its_step_and_its_returns_are_of_sampled_actions(
    short_runs,
) -> None:
    folder = short_runs.train("run", "sac", TASK, snapshots=4, **SHORT)
    alone = short_runs.train("alone", "sac", TASK, snapshots=4, **SHORT | {"seeds": (3,)})
    found = rows(folder / "snapshots.csv")
    assert [int(row["step"]) for row in found[::2]] == [128, 256, 384, 512]
    assert [row for row in found if row["seed"] == "3"] == rows(alone / "snapshots.csv")
    last, about = load_policy(folder / "snapshots/000000000512")
    assert about["step"] == 512
    assert last.theta.equal(load_policy(folder)[0].theta)
    pool = envs.make(TASK, (0, 3), snapshots.EPISODES, "gymnasium")
    rngs = [snapshots._generator(seed, 512) for seed in (0, 3)]
    seeds = np.stack([rng.integers(0, 2**31 - 1, 20) for rng in rngs])
    sampled, mode = evaluate(last, pool, seeds, rngs), evaluate(last, pool, seeds)
    pool.close()
    means = [float(row["return"]) for row in found[-2:]]
    np.testing.assert_allclose(means, sampled.returns.mean(1))
    assert abs(means - mode.returns.mean(1)).min() > 1e-6


@pytest.mark.parametrize("done", [3, 6])
def test_a_resumed_run_has_the_snapshots_of_an_unbroken_one(done, short_runs) -> None:
    whole = short_runs.train("whole", "sac", TASK, snapshots=4, **SHORT)
    run = short_runs.create("broken", "sac", TASK, snapshots=4, **SHORT)
    start_of(run, done)  # a checkpoint after the fourth iteration
    left = run.folder / "snapshots/000000000384.partial"
    left.mkdir(exist_ok=True)
    runs.execute(runs.reopen(run.folder))
    assert snapshots_of(run.folder) == snapshots_of(whole)
    assert rows(run.folder / "snapshots.csv") == rows(whole / "snapshots.csv")


def test_less_than_one_snapshot_is_refused() -> None:
    with pytest.raises(ValueError, match="snapshots is 0; it must be at least 1"):
        Settings(TASK, snapshots=0)
