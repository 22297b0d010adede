"""What learns from replay under a constraint ends at its limit, neither above nor far below it."""

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
import torch
from off_policy_setting import run_of
from offline_setting import as_in_a_run

from rlsuite import algorithms
from rlsuite.envs import Constraint, constrain, tasks

TASK = "HillUnderTest-v0"
# 1536 steps of 8 environments, with a gradient step for every second one
SETTINGS = {
    "env_steps": 1536, "warm_up": 256, "steps_per_iteration": 128, "num_envs": 8,
    "capacity": 128, "batch_size": 64, "updates_per_step": 0.5, "hidden": (16, 16),
    "polyak": 0.2, "temperature": 0.01, "temperature_lr": 0.0, "actor_lr": 1e-2,
    "critic_lr": 1e-2, "multiplier_lr": 1e-3,
}  # fmt: skip
OWN = {"sac_lag": {}, "cal": {"cost_lr": 1e-2}}


class Hill(gymnasium.Env):
    """One step whose action a pays a - a^2 / 2 and costs a: the best is 1; within 0.5 it is 0.5."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        a = float(action[0])
        return np.zeros(1, np.float32), a - a * a / 2, True, False, {}


@pytest.fixture(autouse=True)
def task() -> Iterator[None]:
    gymnasium.register("Hill-v0", entry_point=Hill, max_episode_steps=1)
    constrain(TASK, "Hill-v0", lambda *given: given[1], Constraint("a", 0.5, "episode"))
    with as_in_a_run():
        yield
    del gymnasium.registry["Hill-v0"], tasks.ADDED[TASK]


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_it_ends_at_its_limit(name) -> None:
    """With 0.6931, where the multiplier starts, SAC-Lagrangian's best would be 0.31."""
    module, run = algorithms.load(name), run_of(task=TASK)
    module.train(module.Config(**SETTINGS | OWN[name]), run)
    # of the last 5 iterations, whose 128 rows are the whole ring: a cost swings around its limit
    late = torch.stack([each.buffer.fields["cost"].mean((1, 2)) for each in run.states[-5:]])
    assert (late.mean(0) - 0.5).abs().max() < 0.12
