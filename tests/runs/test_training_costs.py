"""What the log of a run says of its episodes' costs, and its manifest of its environments."""

import csv
import json

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from rlsuite.envs import Constraint, constrain, tasks
from rlsuite.evidence import export as results
from rlsuite.evidence import rows
from rlsuite.runs import logs
from rlsuite.runs import run as runs
from rlsuite.runs.evaluation import Evaluation


class Toll(gymnasium.Env):
    """Episodes of 4 steps that cost 0.5 each; before step `free` of its life there is no cost."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)
    free = 0

    def __init__(self):
        self.life = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.life += 1
        info = {"cost": 0.5} if self.life > self.free else {}
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), 1.0, False, False, info


class DeafToll(Toll):
    def reset(self, *, seed=None, options=None):
        return np.random.default_rng().uniform(-1, 1, 2).astype(np.float32), {}


@pytest.fixture(autouse=True)
def registered():
    for name, kind in (("Toll-v0", Toll), ("DeafToll-v0", DeafToll)):
        gymnasium.register(name, entry_point=kind, max_episode_steps=4)
    yield
    del gymnasium.registry["Toll-v0"], gymnasium.registry["DeafToll-v0"]


def progress(folder) -> list[dict[str, str]]:
    with open(folder / "progress.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_log_has_the_costs_of_a_task_that_has_some(short_runs):
    # 4 steps at a cost of 0.5: each episode costs 2
    rows = progress(short_runs.train("run", "ppo", "Toll-v0"))
    assert {row["training_cost"] for row in rows} == {"2.0"}
    assert {row["training_return"] for row in rows} == {"4.0"}
    columns = [*rows[0]]
    assert columns[columns.index("training_length") + 1] == "training_cost"
    rows = progress(short_runs.train("other", "ppo", "InvertedPendulum-v4"))
    assert [name for name in columns if name not in rows[0]] == ["training_cost"]


def two_tolls(obs, action, next_obs, reward, signals):
    return np.stack([signals["cost"], 3 * reward], 1)


def test_every_constraint_has_its_columns(short_runs, monkeypatch, tmp_path):
    # 4 steps at 0.5, and 4 at three times the reward of 1: 2 and 12
    monkeypatch.setattr(tasks, "ADDED", {})
    two = (Constraint("toll", 3, "episode"), Constraint("wage", None, "step"))
    constrain("TwoTolls-v0", "Toll-v0", two_tolls, *two, signals=["cost"])
    folder = short_runs.train("run", "ppo", "TwoTolls-v0", evaluation_episodes=3)
    (row, *_) = progress(folder)
    assert (row["training_cost"], row["training_cost_wage"]) == ("2.0", "12.0")
    with np.load(folder / "evaluations.npz") as raw:
        assert raw["costs"].shape == (10, 2, 3, 2)  # evaluations, seeds, episodes, constraints
        assert raw["costs"].reshape(-1, 2).tolist() == [[2.0, 12.0]] * 60
    (result,) = rows.read(folder)
    assert result.final("cost").tolist() == [2.0, 2.0]
    assert result.final("cost_wage").tolist() == [12.0, 12.0]
    file = results.export(folder, tmp_path / "results")
    (result,) = rows.read(tmp_path / "results")
    assert result.values["cost_wage"].shape == (2, 10)
    told = json.loads(file.with_suffix(".json").read_text())["constraints"]
    assert [(each["name"], each["limit"], each["kind"]) for each in told] == [
        ("toll", 3, "episode"),
        ("wage", None, "step"),
    ]


@pytest.mark.parametrize("constraints", [0, 1, 2])
def test_evaluations_of_runs_that_began_with_one_cost(tmp_path, constraints):
    # 2 seeds, 1 episode each. Costs were [S, E], zeros where the task has no constraint
    ones = np.ones((2, 1))
    old = Evaluation(ones, 3 * ones, ones)
    new = Evaluation(ones, np.full((2, 1, constraints), 4.0), ones)
    logs.write_history(tmp_path, [(10, {"": old})], (0, 1))
    with np.load(tmp_path / "evaluations.npz") as raw:
        assert raw["costs"].tolist() == [[[3.0], [3.0]]]  # unchanged until there is a new one
    logs.write_history(tmp_path, [(10, {"": new}), (20, {"": new})], (0, 1))
    if constraints < 2:
        logs.write_history(tmp_path, [(10, {"": old}), (20, {"": new})], (0, 1))
    with np.load(tmp_path / "evaluations.npz") as raw:
        assert raw["costs"].shape == (2, 2, 1, constraints)
        assert raw["costs"][0, 0, 0].tolist() == [[], [3.0], [4.0, 4.0]][constraints]


def test_the_log_keeps_its_columns_when_costs_come_late(short_runs, monkeypatch):
    monkeypatch.setattr(Toll, "free", 20)  # the first iteration has 16 steps or more
    rows = progress(short_runs.train("run", "ppo", "Toll-v0", num_steps=16, num_envs=4))
    assert None not in rows[-1]  # no more values than columns
    assert "training_cost" not in rows[0]


def test_costs_survive_a_resume(short_runs):
    whole = progress(short_runs.train("whole", "ppo", "Toll-v0", checkpoints=2))
    run = short_runs.create("cut", "ppo", "Toll-v0", checkpoints=2)
    log = run.log

    def dies(*args):  # in the last iteration: it goes on from the checkpoint in the middle
        log(*args)
        if run.step == int(whole[-1]["step"]):
            raise KeyboardInterrupt

    run.log = dies
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run)
    runs.execute(runs.reopen(run.folder))
    rows = progress(run.folder)
    for row in [*rows, *whole]:
        del row["wall_seconds"]
    assert rows == whole


def test_the_manifest_says_what_the_environments_do_with_seeds(short_runs, warned):
    about = json.loads(
        (short_runs.create("a", "ppo", "Toll-v0").folder / "config.json").read_text()
    )
    assert (about["seeded"], about["physics_mismatch"]) == (True, None)
    folder = short_runs.create("b", "ppo", "DeafToll-v0").folder
    assert [text.split(":")[0] for text in warned()] == ["DeafToll-v0 ignores its seed"]
    assert json.loads((folder / "config.json").read_text())["seeded"] is False


def test_the_manifest_has_the_mismatch_of_the_engines(short_runs, monkeypatch):
    monkeypatch.setattr("rlsuite.envs.tasks.version", lambda package: "3.17.0")
    monkeypatch.setattr("rlsuite.envs.tasks._embedded_mujoco", lambda: "3.6.0")
    folder = short_runs.create("run", "ppo", "Hopper-v4").folder
    about = json.loads((folder / "config.json").read_text())
    assert about["physics_mismatch"].startswith("MuJoCo 3.17.0 is installed, but EnvPool computes")
