"""What a run leaves behind: TensorBoard, rows, raw episodes; and when its events fall."""

import csv

import numpy as np
import pytest

from rlsuite.runs import run as runs


def test_tensorboard_shows_every_seed_and_metric(short_runs) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = short_runs.train("run", "ppo", "InvertedPendulum-v4", seeds=(4, 7))
    board = EventAccumulator(str(folder)).Reload()
    tags = board.Tags()["scalars"]
    assert {"training_return/seed_4", "training_return/seed_7", "evaluation/return"} <= set(tags)
    shown = board.Scalars("metrics/policy_loss")
    # 2048 steps in iterations of 128
    assert [event.step for event in shown] == list(range(128, 2049, 128))
    with open(folder / "progress.csv", newline="") as file:
        losses = [float(row["policy_loss"]) for row in csv.DictReader(file)]
    means = np.reshape(losses, (16, 2)).mean(1)
    np.testing.assert_allclose([event.value for event in shown], means, rtol=1e-5)


def test_rows_are_the_means_of_the_raw_episodes(short_runs) -> None:
    folder = short_runs.train("run", "ppo", "InvertedPendulum-v4", evaluation_episodes=3)
    with open(folder / "evaluations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(folder / "evaluations.npz") as raw:
        assert raw["returns"].shape == (10, 2, 3)  # evaluations, seeds, episodes
        means = raw["returns"].mean(2).reshape(-1)
        assert raw["steps"].tolist() == sorted({int(row["step"]) for row in rows})
    np.testing.assert_allclose([float(row["return"]) for row in rows], means)
    assert [row["seed"] for row in rows[:2]] == ["0", "1"]


@pytest.mark.parametrize(
    ("total", "times", "ends"),
    [
        (10, 2, [4, 9]),
        (7, 3, [2, 4, 6]),  # (k+1)*3//7 steps up at k = 2, 4, 6
        (3, 5, [0, 1, 2]),  # more events than iterations: one at each
    ],
)
def test_events_are_evenly_spaced_and_the_last_is_at_the_end(total, times, ends) -> None:
    assert [k for k in range(total) if runs._due(k, total, times)] == ends


def test_a_finished_run_reopened_trains_nothing_more(short_runs) -> None:
    folder = short_runs.train("run", "ppo", "InvertedPendulum-v4")
    before = (folder / "progress.csv").read_bytes()
    runs.execute(runs.reopen(folder))
    assert (folder / "progress.csv").read_bytes() == before
