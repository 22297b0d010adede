"""What learns from replay under a constraint ends at its limit, neither above nor far below it."""

from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium
import numpy as np
import pytest
from off_policy_setting import run_of
from offline_setting import as_in_a_run

from rlsuite import algorithms
from rlsuite.envs import Constraint, constrain, tasks

TASK = "HillUnderTest-v0"
# 2048 steps of 8 environments, with one gradient step each
SETTINGS = {
    "total_steps": 2048, "warm_up": 256, "steps_per_iteration": 128, "num_envs": 8,
    "capacity": 256, "batch_size": 64, "updates_per_step": 1.0, "hidden": (16, 16),
    "polyak": 0.05, "temperature": 0.01, "temperature_lr": 0.0, "actor_lr": 3e-3,
    "critic_lr": 3e-3, "multiplier_lr": 3e-2,
}  # fmt: skip


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


@contextmanager
def registered(limit: float) -> Iterator[None]:
    gymnasium.register("Hill-v0", entry_point=Hill, max_episode_steps=1)
    constrain(TASK, "Hill-v0", lambda *given: given[1], Constraint("a", limit, "episode"))
    yield
    del gymnasium.registry["Hill-v0"], tasks.ADDED[TASK]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sac_lag", "cal"])
@pytest.mark.parametrize(("limit", "best"), [(0.5, 0.5), (-0.5, -0.5), (5.0, 1.0)])
def test_it_ends_at_the_limit_or_at_the_top_where_that_is_within(name, limit, best) -> None:
    module, changes = algorithms.load(name), {}
    if name == "cal":
        changes = {"penalty": 1.0, "cost_lr": 3e-3}
    run = run_of(task=TASK)
    with registered(limit), as_in_a_run():
        module.train(module.Config(**SETTINGS | changes), run)
    # the last 768 steps of each seed
    late = run.states[-1].buffer.fields["cost"][..., 0]
    print(name, limit, late.mean(1), [r["multiplier"] for r in run.rows[-3:]])
    assert (late.mean(1) - best).abs().max() < 0.15
