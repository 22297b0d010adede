"""EnvPool and Gymnasium, started from the same states and given the same actions, must agree.

Observations are compared bit for bit on MuJoCo tasks (EnvPool embeds the MuJoCo that the suite
pins). Classic tasks compute sines in numpy or in libm, which differ in the last bit, and hand out
float32. EnvPool's rewards are float32.

EnvPool cannot be told a state, so Gymnasium is put into EnvPool's: read from a twin pool with the
same seeds that shows the positions it usually hides, or recomputed by `Draws`, which repeats
EnvPool's random numbers.
"""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import setuptools
from packaging.requirements import Requirement

from rlsuite.envs import dm_control, make, tasks
from rlsuite.envs.tasks import TASKS, engine_id

envpool = pytest.importorskip("envpool")
mujoco = pytest.importorskip("mujoco")

SEEDS = np.array([[11, 12], [13, 14]])
BOTH = [task for task, known in TASKS.items() if len(known.engines) == 2 and known.base is None]
CONSTRAINED = [task for task, known in TASKS.items() if known.base is not None]
# Tasks that show a part of their position only in a twin pool built to show it.
SHOWN_BY_TWIN = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "Swimmer")
# Random actions end these episodes early; a test that expects truncations sets its own limit.
ENDS_EARLY = ("Hopper", "Walker2d", "Ant", "Humanoid", "InvertedPendulum", "InvertedDoublePendulum")


class Draws:
    """std::mt19937 with libstdc++'s uniform and normal distributions, as EnvPool draws them."""

    def __init__(self, seed: int) -> None:
        generator = np.random.MT19937()
        generator._legacy_seeding(seed)
        self._bits = lambda: int(generator.random_raw())
        self._spare: float | None = None

    def uniform(self, low: float, high: float) -> float:
        """std::uniform_real_distribution<double>: two words, the low one first."""
        unit = (float(self._bits()) + self._bits() * 2.0**32) / 2.0**64
        return unit * (high - low) + low

    def normal(self) -> float:
        """std::normal_distribution<double>: Marsaglia's polar method, which keeps a spare."""
        if self._spare is not None:
            spare, self._spare = self._spare, None
            return spare
        while True:
            x, y = self.uniform(-1.0, 1.0), self.uniform(-1.0, 1.0)
            square = x * x + y * y
            if 0.0 < square <= 1.0:
                break
        scale = math.sqrt(-2.0 * math.log(square) / square)
        self._spare = x * scale
        return y * scale


def classic_start(name: str, draws: Draws) -> np.ndarray:
    if name == "CartPole":
        return np.array([draws.uniform(-0.05, 0.05) for _ in range(4)])
    if name == "Acrobot":
        return np.array([draws.uniform(-0.1, 0.1) for _ in range(4)])
    return np.array([draws.uniform(-0.6, -0.4), 0.0])


def drawn_mujoco_start(name: str, draws: Draws) -> tuple[list[float], list[float]]:
    if name == "InvertedDoublePendulum":
        position = [draws.uniform(-0.1, 0.1) for _ in range(3)]
        return position, [0.1 * draws.normal() for _ in range(3)]
    if name == "Reacher":
        arm = [draws.uniform(-0.1, 0.1) for _ in range(2)]
        goal = [1.0, 1.0]
        while math.hypot(*goal) >= 0.2:
            goal = [draws.uniform(-0.2, 0.2), draws.uniform(-0.2, 0.2)]
        return arm + goal, [draws.uniform(-0.005, 0.005) for _ in range(2)] + [0.0, 0.0]
    cylinder = [0.0, 0.0]
    while math.hypot(*cylinder) <= 0.17:
        cylinder = [draws.uniform(-0.3, 0.0), draws.uniform(-0.2, 0.2)]
    velocity = [draws.uniform(-0.005, 0.005) for _ in range(7)]
    return [0.0] * 7 + cylinder + [0.0, 0.0], velocity + [0.0] * 4


class Starts:
    """Puts plain Gymnasium environments into the state of EnvPool's next episode."""

    def __init__(self, task: str) -> None:
        task = engine_id(task)
        self.name = task.split("-")[0]
        self.draws = [Draws(int(seed)) for seed in SEEDS.reshape(-1)]
        self.twin = None
        if self.name in (*SHOWN_BY_TWIN, "InvertedPendulum"):
            shown = (
                {}
                if self.name == "InvertedPendulum"
                else {"exclude_current_positions_from_observation": False}
            )
            seeds = [int(seed) for seed in SEEDS.reshape(-1)]
            self.twin = envpool.make(task, "gymnasium", num_envs=4, seed=seeds, **shown)

    def apply(self, env: gymnasium.Env, row: int) -> np.ndarray:
        """Start `env` where EnvPool's `row` starts its next episode; return the observation."""
        if hasattr(env, "model"):
            if self.twin is not None:
                shown = self.twin.reset(np.array([row], dtype=np.int32))[0][0]
                position, velocity = np.split(shown[: env.model.nq + env.model.nv], [env.model.nq])
            else:
                position, velocity = drawn_mujoco_start(self.name, self.draws[row])
            mujoco.mj_resetData(env.model, env.data)  # forget the solver's warm start as well
            if self.name == "Reacher":
                env.goal = np.array(position[2:])
            env.set_state(np.array(position), np.array(velocity))
            return env._get_obs()
        env.state = classic_start(self.name, self.draws[row])
        return env._get_ob() if self.name == "Acrobot" else env.state.astype(np.float32)


def random_action(environments, rng: np.random.Generator) -> np.ndarray:
    if environments.discrete:
        return rng.integers(0, environments.action_size, (2, 2))
    # Beyond the box as well: both engines must clip.
    size = (2, 2, environments.action_size)
    return (1.3 * rng.uniform(-1, 1, size) * environments.action_high).astype(np.float32)


def run_both(task: str, steps: int, limit: int | None):
    """Step both engines together, comparing everything; return the numbers of both endings.

    And the sum of all costs.
    """
    pool = make(task, [0, 1], 2, engine="envpool")
    loop = make(task, [0, 1], 2, engine="gymnasium")
    if limit is not None:
        pool._limit = loop._limit = limit
    mjc = hasattr(loop._physics._fresh[0], "model")
    # Gymnasium's MountainCarContinuous multiplies in float32 what EnvPool multiplies in float64.
    small = 0.0 if mjc else 1e-4 if task == "MountainCarContinuous-v0" else 2e-6
    close = {"rtol": small, "atol": small}
    first = pool.reset(SEEDS).reshape(4, -1)
    loop.reset(SEEDS)
    starts = Starts(task)
    envs = loop._physics._envs
    for row in range(4):
        np.testing.assert_allclose(starts.apply(envs[row], row), first[row], **close)
    rng = np.random.default_rng(5)
    summed, length, finished = np.zeros((2, 2)), np.zeros((2, 2), dtype=int), []
    terminations = truncations = over = 0
    for _ in range(steps):
        action = random_action(pool, rng)
        a, b = pool.step(action), loop.step(action)
        np.testing.assert_allclose(a.final_obs, b.final_obs, **close)
        np.testing.assert_allclose(a.reward, b.reward, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(a.terminated, b.terminated)
        np.testing.assert_array_equal(a.truncated, b.truncated)
        np.testing.assert_array_equal(a.cost, b.cost)
        assert (a.margin is None) == (b.margin is None)
        if a.margin is not None:
            np.testing.assert_array_equal(a.margin, b.margin)
        over += a.cost.sum()
        summed += a.reward
        length += 1
        ended = a.terminated | a.truncated
        np.testing.assert_array_equal(a.obs[~ended], a.final_obs[~ended])
        for seed, copy in np.argwhere(ended):
            row = 2 * seed + copy
            np.testing.assert_allclose(starts.apply(envs[row], row), a.obs[seed, copy], **close)
            finished.append((seed, copy, summed[seed, copy], length[seed, copy]))
            summed[seed, copy], length[seed, copy] = 0.0, 0
        terminations += int(a.terminated.sum())
        truncations += int(a.truncated.sum())
    # No fake transition: what was seen between two ends is the whole episode, in order.
    for episodes, tolerance in ((pool.episodes(), 1e-12), (loop.episodes(), 1e-4)):
        assert [(e.seed, e.copy, e.length) for e in episodes] == [
            (seed, copy, steps_) for seed, copy, _, steps_ in finished
        ]
        np.testing.assert_allclose(
            [e.ret for e in episodes], [f[2] for f in finished], rtol=tolerance, atol=tolerance
        )
    pool.close()
    loop.close()
    return terminations, truncations, over


def test_the_tasks_that_only_one_engine_runs():
    # Pusher-v4: Gymnasium refuses it with MuJoCo 3 or newer. Pendulum-v1: EnvPool's differs.
    # Solo-12 has an engine of its own.
    alone = {"Pusher-v4", "Pendulum-v1", "Solo12-v0", "Solo12Forward-v0"}
    assert set(TASKS) - {*BOTH, *CONSTRAINED, *dm_control.NAMES} == alone


def test_the_mujoco_to_install_is_the_one_that_envpool_embeds(monkeypatch):
    said = {}
    monkeypatch.setattr(setuptools, "setup", said.update)
    monkeypatch.chdir(Path(__file__).parents[2])
    runpy.run_path("setup.py")
    (asked,) = [
        requirement
        for requirement in map(Requirement, said["install_requires"])
        if requirement.name == "mujoco" and requirement.marker.evaluate({"sys_platform": "linux"})
    ]
    assert str(asked.specifier) == f"=={tasks._embedded_mujoco()}"


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")
def test_envpools_pendulum_is_still_another_task():
    # At full speed 8 rad/s, pole level (angle pi/2) and full torque 2: the speed grows by
    # 3 * (10 / 2 * sin(pi/2) + 2) * 0.05 = 1.05, is cut back to 8, and a step of 0.05 s turns the
    # pole by 8 * 0.05 = 0.4 rad in Gymnasium, by 9.05 * 0.05 = 0.4525 rad in EnvPool.
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    env.state = np.array([math.pi / 2, 8.0])
    env.step(np.array([2.0], dtype=np.float32))
    assert env.state[0] - math.pi / 2 == pytest.approx(0.4)
    pool = envpool.make("Pendulum-v1", "gymnasium", num_envs=1, seed=[3])
    before = pool.reset()[0][0]
    fastest = 0.0
    for _ in range(150):
        torque = np.array([[math.copysign(2.0, before[2])]], dtype=np.float32)
        after = pool.step(torque)[0][0]
        turned = math.atan2(after[1], after[0]) - math.atan2(before[1], before[0])
        fastest = max(fastest, abs(math.remainder(turned, 2 * math.pi)))
        before = after
    assert fastest > 0.4 + 1e-3


@pytest.mark.parametrize("task", BOTH)
def test_engines_agree_over_whole_episodes(task):
    early = task.split("-")[0] in (*ENDS_EARLY, "CartPole")
    limit = TASKS[task].time_limit
    terminations, truncations, _ = run_both(task, 120 if early else limit + 5, None)
    if early:
        assert terminations > 0
    else:
        assert (terminations, truncations) == (0, 4)


@pytest.mark.parametrize("task", ["CartPole-v1", "Hopper-v4", "Walker2d-v5", "Humanoid-v5"])
def test_engines_agree_where_both_kinds_of_end_meet(task):
    # Random episodes last from about 8 to 30 steps: a limit of 18 cuts some and leaves others.
    terminations, truncations, _ = run_both(task, 100, 18)
    assert terminations > 0
    assert truncations > 0


# The margin of a velocity task is the speed less a number: where it is equal, so is the speed.
@pytest.mark.parametrize("task", [task for task in CONSTRAINED if "Velocity" in task])
def test_engines_agree_on_costs(task):
    over = run_both(task, 300, None)[-1]
    # Four copies under random actions; Safety-Gymnasium's thresholds leave the others below
    if task.startswith(("Hopper", "Swimmer")):
        assert over > 0


@pytest.mark.parametrize("task", ["AntSpeed-v4", "HopperSpeed-v5"])
def test_engines_agree_on_dense_costs(task):
    assert run_both(task, 100, None)[-1] > 0
