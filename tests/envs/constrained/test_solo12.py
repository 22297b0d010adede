"""Solo-12: the robot's figures, its signals and limits, and environments that stand alone."""

import numpy as np
import pytest

from rlsuite import envs
from rlsuite.cli.main import main
from rlsuite.envs.constrained import solo12
from rlsuite.envs.constrained.solo12 import CONSTRAINTS, STAND, Solo12Physics, margins
from rlsuite.runs import run as runs

TASKS = ("Solo12-v0", "Solo12Forward-v0")
NAMES = [each.name for each in CONSTRAINTS]


def column(name: str) -> slice:
    """Where a constraint's columns lie in the margins."""
    ends = np.cumsum([each.columns for each in CONSTRAINTS])
    index = NAMES.index(name)
    return slice(ends[index] - CONSTRAINTS[index].columns, ends[index])


def resting(count: int = 1, **changes) -> dict[str, np.ndarray]:
    """Signals of robots that stand still on four feet and are told to go at 0.6 m/s."""
    force = np.zeros((count, 9, 3))
    force[:, :4, 2] = 7.0
    zeros = np.zeros((count, 12))
    signals = {
        "torque": zeros, "speed": zeros, "acceleration": zeros, "action_rate": zeros,
        "force": force, "angle": np.tile(STAND, (count, 1)), "gravity": np.array([[0.0, 0, -1]]),
        "command": np.array([[0.6, 0.0, 0.0]]), "swing": np.full((count, 4), np.nan),
    }  # fmt: skip
    return signals | changes


def over(**changes) -> list[str]:
    """Names of the constraints that are broken by `changes` of a robot at rest."""
    margin = margins(None, None, None, None, resting(**changes))
    assert margin.shape == (1, sum(each.columns for each in CONSTRAINTS))
    return [name for name in NAMES if (margin[:, column(name)] > 0).any()]


def test_the_model_has_the_robots_mass_and_joints() -> None:
    model = solo12.model()
    assert model.body_mass.sum() == pytest.approx(2.8498, abs=1e-4)
    assert (model.nq, model.nv, model.nu, model.nsensordata) == (19, 18, 12, 12 + 9 * 3)
    haa = model.joint("FR_HAA").range
    assert haa.tolist() == [-2.25, 0.95]


EXCESSES = [
    ("torque", {"torque": np.full((1, 12), -3.1)}),
    ("joint_speed", {"speed": np.full((1, 12), 16.1)}),
    ("joint_acceleration", {"acceleration": np.full((1, 12), -801.0)}),
    ("action_rate", {"action_rate": np.full((1, 12), 80.1)}),
    ("upside_down", {"gravity": np.array([[0.0, 0, 1]])}),
    ("orientation", {"gravity": np.array([[0.11, 0, -0.99]])}),
    ("front_angle", {"angle": STAND + np.eye(12)[1:2]}),  # 0.4 + 1 > 1.3
    ("hip_angle", {"angle": STAND + 0.21 * np.eye(12)[:1]}),
    ("air_time", {"swing": np.array([[0.24, np.nan, np.nan, np.nan]])}),
]


@pytest.mark.parametrize(("name", "changes"), EXCESSES, ids=[name for name, _ in EXCESSES])
def test_what_is_over_its_limit_breaks_that_constraint_alone(name, changes) -> None:
    # Four feet on the ground under a fast command are two too many
    assert over(**changes) == sorted([name, "two_feet"], key=NAMES.index)


@pytest.mark.parametrize(
    ("body", "newtons", "name"),
    [(4, 1.1, "knee_contact"), (8, 1.1, "base_contact"), (0, 51.0, "foot_force")],
)
def test_forces_break_the_constraint_of_their_body(body, newtons, name) -> None:
    force = resting()["force"].copy()
    force[0, body, 0] = newtons
    assert name in over(force=force)


def test_style_is_asked_for_under_some_commands_only() -> None:
    fast = {"speed": np.full((1, 12), 5.0)}
    assert "stand_still" in over(command=np.zeros((1, 3)), **fast)
    assert "stand_still" not in over(**fast)
    assert "two_feet" not in over(command=np.array([[0.4, 0.0, 0.0]]))
    sideways = {"command": np.array([[0.6, 0.2, 0.0]]), "angle": STAND + 0.3 * np.eye(12)[:1]}
    assert "hip_angle" not in over(**sideways)


def played(task: str, seeds: list[int], steps: int, threads: int = 1) -> list[np.ndarray]:
    """Observations of environments with these seeds, whose actions depend on the seed alone."""
    physics = Solo12Physics(task, len(seeds), threads)
    found = [physics.open(np.array(seeds))]
    actors = [np.random.default_rng(seed + 100) for seed in seeds]
    for _ in range(steps):
        action = np.stack([rng.standard_normal(12) for rng in actors])
        found.append(physics.step(action)[0])
    physics.close()
    return found


@pytest.mark.parametrize("task", TASKS)
def test_an_environment_takes_its_course_whoever_is_beside_it(task) -> None:
    alone, company = played(task, [7], 70), played(task, [3, 7, 5], 70, threads=2)
    assert all(np.array_equal(a[0], b[1]) for a, b in zip(alone, company, strict=True))
    assert not np.array_equal(company[-1][0], company[-1][1])


def test_rows_that_stand_idle_neither_move_nor_draw() -> None:
    whole, part = Solo12Physics("Solo12-v0", 2, 1), Solo12Physics("Solo12-v0", 2, 1)
    whole.open(np.array([1, 2]))
    part.open(np.array([1, 2]))
    action = np.random.default_rng(0).standard_normal((2, 12))
    both = whole.step(action)
    one = part.step(action[1:], np.array([1]))
    other = part.step(action[:1], np.array([0]))
    assert np.array_equal(both[0], np.concatenate((other[0], one[0])))
    whole.close()
    part.close()


def test_the_observation_and_reward_of_a_robot_that_stands() -> None:
    physics = Solo12Physics("Solo12Forward-v0", 1, 1)
    obs = physics.open(np.array([0]))[0]
    # Spin, the command (0.6, 0, 0) times (2, 2, 0.25), gravity, joints, their speeds, last action
    expected = [0, 0, 0, 1.2, 0, 0, 0, 0, -1, *STAND, *[0] * 24]
    assert obs.tolist() == pytest.approx(expected)
    _, reward, terminated, _, signals = physics.step(np.zeros((1, 12)))
    # Standing still: exp(-0.6^2 / 0.25) + 0.5 = 0.737, of at most 1.5
    assert reward[0] == pytest.approx(0.737, abs=0.05) and not terminated[0]
    assert signals["action_rate"].tolist() == [[0] * 12]
    moved = physics.step(np.full((1, 12), 0.1))[4]
    assert moved["action_rate"][0].tolist() == pytest.approx([0.1 / 0.02] * 12)
    physics.close()


def test_actions_are_not_clipped_and_torques_are_at_10_newton_metres() -> None:
    pool = envs.make("Solo12Forward-v0", (0,), 1)
    assert np.isinf(pool.action_high).all()
    pool.reset(np.array([[0]]))
    step = pool.step(np.full((1, 1, 12), 50.0, np.float32))
    # 10 - 3, and 50 / 0.02 - 80
    assert step.margin[0, 0, column("torque")].max() <= 7
    assert step.margin[0, 0, column("action_rate")].tolist() == [2420] * 12
    assert step.cost.shape == (1, 1, len(CONSTRAINTS)) and step.cost[0, 0, 3] == 1
    pool.close()


def test_training_begins_in_the_midst_of_episodes_and_evaluation_does_not() -> None:
    pool = envs.make("Solo12Forward-v0", (0,), 64)
    seeds, ends = np.arange(64).reshape(1, 64), {}
    for staggered in (False, True):
        pool.reset(seeds, staggered=staggered)
        ends[staggered] = 0
        for _ in range(40):
            step = pool.step(np.zeros((1, 64, 12), np.float32))
            ends[staggered] += int(step.truncated.sum())
        assert all(episode.length <= 40 for episode in pool.episodes())
    # Of 64 clocks between 0 and 500 about 5 are within 40 steps of the end
    assert ends[False] == 0 and 1 <= ends[True] <= 15
    pool.close()


@pytest.mark.parametrize("task", TASKS)
def test_rewards_are_never_below_zero_nor_above_their_sum(task) -> None:
    physics = Solo12Physics(task, 8, 1)
    physics.open(np.arange(8))
    for _ in range(20):
        reward = physics.step(np.random.default_rng(0).standard_normal((8, 12)))[1]
        assert (reward >= 0).all() and (reward <= 1.5).all()
    physics.close()


def test_cat_trains_on_it_and_a_killed_run_could_go_on(short_runs) -> None:
    settings = dict(engine="auto", num_envs=8, env_steps=8 * 32 * 2, checkpoints=2)
    one, other = (short_runs.train(n, "cat", "Solo12-v0", **settings) for n in ("one", "other"))
    logs = [(folder / "progress.csv").read_text().splitlines() for folder in (one, other)]
    assert "violated_torque" in logs[0][0] and len(logs[0]) == 1 + 2 * 2
    seconds = logs[0][0].split(",").index("wall_seconds")
    rows = [[line.split(",")[:seconds] for line in log] for log in logs]
    assert rows[0] == rows[1]
    assert runs.reopen(one).complete()


def test_the_list_of_tasks_has_it_with_limits_that_are_none(capsys) -> None:
    assert main(["tasks"]) == 0
    listed = capsys.readouterr().out
    block = listed[listed.index("Solo12-v0") : listed.index("Solo12Forward-v0")].splitlines()
    lines = [line.split() for line in block]
    assert lines[0] == ["Solo12-v0", "mujoco", "45", "12", "500", "torque", "0.02", "step"]
    assert ["two_feet", "none", "step"] in lines
