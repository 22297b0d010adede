"""Stages of a run: whose an iteration is, what its steps count, where a resumed run goes on."""

import csv

import pytest

from rlsuite.runs import run as runs
from rlsuite.runs.stages import Plan


def test_steps_of_preparing_stages_count_up_to_zero() -> None:
    plan = Plan({"model": (2, 10), "density": (3, 100)}, {"offline": (4, 1000), "online": (1, 5)})
    assert (plan.total, plan.prepared) == (10, 5)
    # 2 x 10 + 3 x 100 = 320 steps before zero; 4 x 1000 and 5 after it
    steps = [-320, -310, -300, -200, -100, 0, 1000, 2000, 3000, 4000, 4005]
    assert [plan.step(done) for done in range(11)] == steps


def test_a_stage_has_its_own_iterations_that_are_not_done() -> None:
    plan = Plan({"density": (2, 1)}, {"offline": (3, 1), "online": (0, 1)})
    assert [list(plan.remaining(name, 0)) for name in ("density",)] == [[0, 1]]
    assert list(plan.remaining("density", 3)) == []  # a resumed run is past it
    assert list(plan.remaining("offline", 3)) == [3, 4]
    assert list(plan.remaining("online", 5)) == []


def test_a_stage_cannot_begin_before_the_one_before_it_is_done() -> None:
    plan = Plan({}, {"offline": (3, 1), "online": (2, 1)})
    with pytest.raises(RuntimeError, match="online begins after 3 iterations, and 2 are done"):
        plan.remaining("online", 2)


def staged(monkeypatch, stages: tuple[str, ...]) -> list:
    """PPO's train as loops over `stages` of two iterations each; (stage, number, boundary) seen."""
    seen = []
    train = runs.algorithms.load("ppo").train

    def in_stages(config, run) -> None:
        begin, stage = run.begin, run.stage

        def begun(learner, *, train) -> None:
            two = (2, 128)
            begin(learner, prepare={"first": two}, train={"second": two, "third": two})

        def all_stages(_):
            for name in stages:
                for k in stage(name):
                    seen.append((name, k, run.at_boundary))
                    yield k

        run.begin, run.stage = begun, all_stages
        train(config, run)

    monkeypatch.setattr(runs.algorithms.load("ppo"), "train", in_stages)
    return seen


EVERY = ("first", "second", "third")


def test_each_stage_begins_at_a_boundary_and_preparation_is_not_evaluated(
    short_runs, monkeypatch
) -> None:
    seen = staged(monkeypatch, EVERY)
    settings = {"checkpoints": 1, "evaluations": 4, "seeds": (0,)}
    folder = short_runs.train("run", "ppo", "CartPole-v1", **settings)
    assert seen == [(name, k, k == 0) for name in EVERY for k in (0, 1)]
    steps = {}
    for name in ("preparation.csv", "progress.csv", "evaluations.csv"):
        with open(folder / name, newline="") as file:
            steps[name] = [int(row["step"]) for row in csv.DictReader(file)]
    # Two iterations of 128 steps before zero, four after it, each of those evaluated
    after = [128, 256, 384, 512]
    assert steps["preparation.csv"] == [-128, 0]
    assert steps["progress.csv"] == steps["evaluations.csv"] == after


def test_a_resumed_run_goes_on_in_the_stage_where_it_was(short_runs, monkeypatch) -> None:
    seen = staged(monkeypatch, EVERY)
    run = short_runs.create("run", "ppo", "CartPole-v1", checkpoints=6, evaluations=1, seeds=(0,))
    log, count = run.log, []

    def interrupted(*given) -> None:
        count.append(given)
        if len(count) == 4:
            raise KeyboardInterrupt
        log(*given)

    run.log = interrupted
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run)
    seen.clear()
    runs.execute(runs.reopen(run.folder))
    assert [each[:2] for each in seen] == [("second", 1), ("third", 0), ("third", 1)]
    assert (run.folder / "finished").exists()


def test_a_run_whose_stages_were_not_all_run_is_not_finished(short_runs, monkeypatch) -> None:
    staged(monkeypatch, EVERY[:2])
    run = short_runs.create("run", "ppo", "CartPole-v1", seeds=(0,))
    with pytest.raises(RuntimeError, match="ppo ends with 2 iterations of its stages undone"):
        runs.execute(run)
    assert not (run.folder / "finished").exists()
