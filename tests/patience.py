"""A task of two steps on which learning shows: what pays at once is wrong.

From the start, where x = 0, the action a in [-1, 1] pays -a/4 and leads to x = a. There the action
b in [-1, 1] pays x - 2 (b + 1/2)^2 and ends the episode. Choosing by the next reward alone means
a = -1, and 1/4 - 1 = -3/4 at best. The best is a = 1 and b = -1/2, with -1/4 + 1 = 3/4. With
b = 0 there is 1/4 at best, and a = b = 0 brings -1/2.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import numpy as np

from rlsuite.envs import Constraint, constrain, tasks

TASK, UNDER_CONSTRAINT = "Patience-v0", "PatienceUnderTest-v0"
MODES = ((-0.8, 0.8), (0.5, -0.5))  # of the logged actions of each step: wrong, right


class Patience(gymnasium.Env):
    """Observes whether x was chosen, and x."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs = np.zeros(2, np.float32)
        return self.obs, {}

    def step(self, action):
        move, (chosen, x) = float(action[0]), self.obs
        reward = float(x) - 2 * (move + 0.5) ** 2 if chosen else -move / 4
        self.obs = np.array([1, x if chosen else move], np.float32)
        return self.obs, reward, bool(chosen), False, {}


@contextmanager
def registered() -> Iterator[None]:
    """Gymnasium knows the task, and this suite knows it under a constraint that always holds."""
    gymnasium.register(TASK, entry_point=Patience, max_episode_steps=2)
    never = Constraint("x", 1, "episode")
    constrain(UNDER_CONSTRAINT, TASK, None, never, margin=lambda *given: given[2][:, 1:] - 2)
    yield
    del gymnasium.registry[TASK], tasks.ADDED[UNDER_CONSTRAINT]


def write_log(path: Path, episodes: int = 500) -> Path:
    """A D4RL file in which each action is near the right or the wrong one, each half the time."""
    rng, env, rows = np.random.default_rng(0), Patience(), []
    for _ in range(episodes):
        obs, _ = env.reset()
        for modes in MODES:
            action = np.clip(rng.choice(modes) + 0.1 * rng.standard_normal(1), -1, 1)
            next_obs, reward, terminated, _, _ = env.step(action)
            rows.append((obs, action, reward, terminated, False, next_obs))
            obs = next_obs
    keys = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    columns = (np.stack(column) for column in zip(*rows, strict=True))
    np.savez(path, **dict(zip(keys, columns, strict=True)))
    return path
