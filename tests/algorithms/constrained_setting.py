"""A small task with two constraints, held still for tests of what learns under constraints."""

from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium
import numpy as np

from rlsuite.envs import Constraint, constrain, tasks


class Toll(gymnasium.Env):
    """Three numbers at random; pays 1 - a/2 for the first action a; ends one step in 20."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.standard_normal(3)
        return self.x.astype(np.float32), {}

    def step(self, action):
        self.x = 0.9 * self.x + 0.3 * self.np_random.standard_normal(3)
        dies = self.np_random.random() < 0.05
        return self.x.astype(np.float32), 1 - 0.5 * float(action[0]), dies, False, {}


def excess(obs, action, next_obs, reward, signals) -> np.ndarray:
    """Of both actions over 0.5, and of the first number over 1: three columns."""
    return np.concatenate((action - 0.5, next_obs[:, :1] - 1), 1)


@contextmanager
def toll_registered() -> Iterator[None]:
    """TollUnderTest-v0 has costs and margins, TollUnharmed-v0 margins that end nothing."""
    gymnasium.register("Toll-v0", entry_point=Toll, max_episode_steps=15)
    actions = Constraint("actions", 3, "episode", columns=2)
    place = Constraint("place", 2, "episode", group="hard")
    constrain("TollUnderTest-v0", "Toll-v0", None, actions, place, margin=excess)
    idle = [each._replace(p_max=0.0) for each in (actions, place)]
    constrain("TollUnharmed-v0", "Toll-v0", None, *idle, margin=excess)
    yield
    del gymnasium.registry["Toll-v0"]
    for name in ("TollUnderTest-v0", "TollUnharmed-v0"):
        del tasks.ADDED[name]
