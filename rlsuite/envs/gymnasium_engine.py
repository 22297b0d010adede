"""Physics by Gymnasium: a loop over plain environments, without the wrappers of `gymnasium.make`.

`Environments` applies the time limit in place of `TimeLimit`; `OrderEnforcing` and
`PassiveEnvChecker` check what this suite does by construction. Wrappers of the user's own stay.
"""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from gymnasium.wrappers import (
    FlattenObservation,
    OrderEnforcing,
    PassiveEnvChecker,
    TimeLimit,
)
from numpy.typing import NDArray

from rlsuite.envs.tasks import TASKS
from rlsuite.envs.variants import split


class GymnasiumPhysics:
    """`count` copies of `task`, without time limit or automatic reset."""

    def __init__(self, task: str, count: int) -> None:
        self._task = task
        self._count = count
        env, self.time_limit = _build(task)
        self._fresh = [env]
        self._envs: list[gymnasium.Env] = []
        observation, action = env.observation_space, env.action_space
        _require_supported(task, observation, action)
        self._obs_shape = observation.shape
        self.obs_size = int(np.prod(observation.shape, dtype=np.int64))
        self.discrete = isinstance(action, Discrete)
        self.action_low = self.action_high = None
        self.first_action = 0  # what the environment calls its first discrete action
        if self.discrete:
            self.action_dtype = np.dtype(np.int64)
            self.action_size = int(action.n)
            self.first_action = int(action.start)
        else:
            self.action_dtype = action.dtype
            self.action_size = int(np.prod(action.shape, dtype=np.int64))
            self.action_low = action.low.astype(np.float32).reshape(-1)
            self.action_high = action.high.astype(np.float32).reshape(-1)
            self._action_shape = action.shape

    def open(self, seeds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Create the environments anew from `seeds` [E]; return the first observations [E, O]."""
        for env in self._envs:
            env.close()
        missing = self._count - len(self._fresh)
        self._envs = self._fresh + [_build(self._task)[0] for _ in range(missing)]
        self._fresh = []
        self._steps = [env.step for env in self._envs]
        obs = np.empty((self._count, self.obs_size))
        for row, (env, seed) in enumerate(zip(self._envs, seeds, strict=True)):
            first = np.asarray(env.reset(seed=int(seed))[0])
            if first.shape != self._obs_shape:
                raise ValueError(
                    f"{self._task}: reset returned an observation of shape {first.shape}, but "
                    f"observation_space has shape {self._obs_shape}"
                )
            obs[row] = first.reshape(-1)
        return obs

    def step(self, action: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray | None]:
        """Step all; return obs [E, O], reward, terminated, truncated [E] and cost [E].

        The cost is `info["cost"]`; None where no environment reports one.
        """
        count = self._count
        obs = np.empty((count, *self._obs_shape))
        reward = np.empty(count)
        terminated = np.empty(count, dtype=bool)
        truncated = np.empty(count, dtype=bool)
        cost = None
        if self.discrete:
            actions = (action + self.first_action).tolist()
        else:
            actions = action.reshape(count, *self._action_shape)
        for row, step in enumerate(self._steps):
            obs[row], reward[row], terminated[row], truncated[row], info = step(actions[row])
            if "cost" in info:
                if cost is None:
                    cost = np.zeros(count)
                cost[row] = info["cost"]
        return obs.reshape(count, -1), reward, terminated, truncated, cost

    def reset(self, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Start new episodes in `rows` [K], and only there; return their observations [K, O]."""
        obs = np.empty((len(rows), *self._obs_shape))
        for index, row in enumerate(rows):
            obs[index] = self._envs[row].reset()[0]
        return obs.reshape(len(rows), -1)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs + self._fresh:
            env.close()
        self._envs, self._fresh = [], []


def _require_supported(task: str, observation: Space, action: Space) -> None:
    flat = isinstance(observation, Box)
    if not flat:
        raise ValueError(
            f"{task} has observations in {observation}; only Box observations are supported: "
            "wrap it, for instance in gymnasium.wrappers.FlattenObservation"
        )
    floats = isinstance(action, Box) and np.issubdtype(action.dtype, np.floating)
    if not (floats or isinstance(action, Discrete)):
        raise ValueError(
            f"{task} has actions in {action}; only Discrete and floating-point Box are supported"
        )


def _dict_of_boxes(space: Space) -> bool:
    parts = space.values() if isinstance(space, Dict) else ()
    return len(parts) > 0 and all(isinstance(p, Box) or _dict_of_boxes(p) for p in parts)


def _in_order(space: Space) -> Space:
    """The same with its keys sorted, for Gymnasium keeps the order of keyword arguments."""
    if not isinstance(space, Dict):
        return space
    return Dict({key: _in_order(part) for key, part in space.items()})


def _build(task: str) -> tuple[gymnasium.Env, int | None]:
    """Return the environment without Gymnasium's standard wrappers, and the time limit in steps.

    Dicts of boxes become one box, in the order of their sorted keys: as `datasets` reads them.
    """
    name, settings = split(task)
    try:
        with warnings.catch_warnings():
            if name in TASKS:
                # Asking for -v4 is deliberate here: most published numbers are on it.
                warnings.filterwarnings("ignore", message=".*is out of date.*")
            env = gymnasium.make(name, disable_env_checker=True, **settings)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise ImportError(
            f"{task} needs a package that is not installed ({error}); for MuJoCo tasks run "
            "`pip install mujoco==3.6.0`"
        ) from error
    except TypeError as error:
        if not settings:
            raise
        raise ValueError(f"{task}: {error}") from error  # a setting that the task has not
    limit = None
    while isinstance(env, TimeLimit | OrderEnforcing | PassiveEnvChecker):
        if isinstance(env, TimeLimit):
            limit = env._max_episode_steps
        env = env.env
    if _dict_of_boxes(env.observation_space):
        env.observation_space = _in_order(env.observation_space)
        env = FlattenObservation(env)
    return env, limit
