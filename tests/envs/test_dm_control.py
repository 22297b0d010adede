"""The tasks of dm_control on EnvPool: sizes, order, what is left out, and nothing cut."""

import math

import numpy as np
import pytest

from rlsuite.envs import dm_control, make, sizes
from rlsuite.envs.tasks import TASKS, choose_engine

envpool = pytest.importorskip("envpool")

# Length of the flattened observation in dm_control itself
SIZES = {
    "AcrobotSwingup-v1": 6,
    "BallInCupCatch-v1": 8,
    "CartpoleSwingup-v1": 5,
    "CheetahRun-v1": 17,
    "DogRun-v1": 223,
    "FingerSpin-v1": 9,
    "FingerTurnHard-v1": 12,
    "FishUpright-v1": 21,
    "HopperHop-v1": 15,
    "HumanoidRun-v1": 67,
    "HumanoidRunPureState-v1": 55,
    "HumanoidCMURun-v1": 137,
    "ManipulatorBringBall-v1": 44,
    "PendulumSwingup-v1": 3,
    "QuadrupedRun-v1": 78,
    "QuadrupedFetch-v1": 90,
    "QuadrupedEscape-v1": 101,
    "ReacherHard-v1": 6,
    "WalkerWalk-v1": 24,
}


def test_observations_have_the_size_of_dm_control():
    assert {task: make(task, [0], 1).obs_size for task in SIZES} == SIZES


def test_every_task_is_one_of_envpools():
    assert {*dm_control.NAMES} <= {*envpool.list_all_envs()}
    for task in dm_control.NAMES:
        spec = envpool.make_spec(task)
        assert spec.config.max_episode_steps == TASKS[task].time_limit
        assert {*TASKS[task].fillers} < {*spec.state_array_spec}
        shapes = [
            each.shape
            for key, each in spec.state_array_spec.items()
            if key.startswith("obs:") and key not in TASKS[task].fillers
        ]
        action = spec.action_array_spec["action"].shape
        assert sizes.SIZES[task] == (sum(map(math.prod, shapes)), math.prod(action[1:]))
        assert choose_engine(task, 1) == "envpool"


@pytest.mark.parametrize("task", ["WalkerWalk-v1", "HumanoidRun-v1", "FingerSpin-v1"])
def test_observations_are_envpools_joined_and_uncut(task):
    environments = make(task, [0], 2)
    pool = envpool.make(task, "gymnasium", num_envs=2, seed=[3, 4])
    rng = np.random.default_rng(0)

    def joined(found):
        kept = {k: v for k, v in found.items() if f"obs:{k}" not in TASKS[task].fillers}
        left_out = [v for k, v in found.items() if k not in kept]
        assert not any(np.any(v) for v in left_out)
        names = [key for key in environments._physics._obs_keys]
        return np.concatenate([kept[name[4:]].reshape(2, -1) for name in names], 1)

    np.testing.assert_array_equal(
        environments.reset(np.array([[3, 4]]))[0], joined(pool.reset()[0])
    )
    lowest = 0.0
    for _ in range(20):
        action = rng.uniform(-1, 1, (1, 2, environments.action_size)).astype(np.float32)
        found, reward, *_ = pool.step(action[0].astype(np.float64))
        step = environments.step(action)
        np.testing.assert_array_equal(step.obs[0], joined(found))
        np.testing.assert_array_equal(step.reward[0], reward)
        lowest = min(lowest, step.obs.min())
    assert lowest < -0.1  # the spaces of EnvPool say that nothing is below 2.2e-308


def test_the_time_limit_truncates():
    environments = make("WalkerWalk-v1", [0], 2)
    environments._limit = 3
    environments.reset(np.array([[3, 4]]))
    for _ in range(3):
        step = environments.step(np.zeros((1, 2, 6), np.float32))
    assert step.truncated.all()
    assert not step.terminated.any()
    assert not np.array_equal(step.obs, step.final_obs)
    assert [episode.length for episode in environments.episodes()] == [3, 3]
