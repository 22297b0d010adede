"""Physics by Gymnasium: a loop over plain environments, without the wrappers of `gymnasium.make`.

`Environments` applies the time limit in place of `TimeLimit`; `OrderEnforcing` and
`PassiveEnvChecker` check what this suite does by construction. Wrappers of the user's own stay.
"""

from __future__ import annotations

import contextlib
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space
from gymnasium.wrappers import (
    FlattenObservation,
    OrderEnforcing,
    PassiveEnvChecker,
    TimeLimit,
)
from numpy.typing import NDArray

from rlsuite.core.spaces import Shape, Spaces
from rlsuite.envs.faults import RowFault, explained, warn_once
from rlsuite.envs.tasks import TASKS, engine_id, find
from rlsuite.envs.variants import split

# Pictures have at least so many rows and columns; a stack of four vectors is none.
_IMAGE_SIDE = 16
_PARTS = ("observation", "reward", "terminated", "truncated", "info")
_NOTHING = object()  # what a call that raised has returned
# Whether the tasks outside the table follow their seeds, by task and what builds it.
_seeded: dict[tuple[str, Any], bool] = {}


class GymnasiumPhysics:
    """`count` copies of `task`, without time limit or automatic reset."""

    def __init__(
        self, task: str, count: int, wrap: Callable | None = None, **options: object
    ) -> None:
        """`wrap` goes around each environment, `options` are those of its constructor."""
        known = find(task)
        self._task, self._id = task, engine_id(task)
        self._signals = known.signals if known else ()
        self._reported = known is None  # whether info["cost"] is the task's cost
        self._count = count
        self._wrap, self._options = wrap, options
        env, self.time_limit, parts = self._build()
        self._envs: list[gymnasium.Env] = []
        observation, action = env.observation_space, env.action_space
        _require_supported(task, observation, action)
        self.first_action = 0
        self._obs_shape = observation.shape
        self.spaces = spaces = _spaces(task, parts, action)
        self.obs_size, self.action_size = spaces.obs_size, spaces.action_size
        self.discrete = bool(spaces.choices)
        self.action_dtype = np.dtype(np.int64) if self.discrete else action.dtype
        self.action_low = self.action_high = None
        if not self.discrete:
            self.action_low = action.low.astype(np.float32).reshape(-1)
            self.action_high = action.high.astype(np.float32).reshape(-1)
        elif not action.shape:
            self.first_action = int(action.start)
        self._fresh = [env]
        self.seeded = self._id in TASKS or self._follows_its_seed()

    def open(self, seeds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Create the environments anew from `seeds` [E]; return the first observations [E, O]."""
        for env in self._envs:
            env.close()
        missing = self._count - len(self._fresh)
        self._envs = self._fresh + [self._build()[0] for _ in range(missing)]
        self._fresh = []
        self._steps = [env.step for env in self._envs]
        obs = np.empty((self._count, self.obs_size))
        for row, (env, seed) in enumerate(zip(self._envs, seeds, strict=True)):
            obs[row] = self._first(env, row, int(seed)).reshape(-1)
        return obs

    def step(
        self, action: NDArray, rows: NDArray[np.integer] | None = None
    ) -> tuple[NDArray, NDArray, NDArray, NDArray, dict[str, NDArray]]:
        """Step all, or `rows` [K] alone by their actions; return what `Environments` asks for:

        obs [E, O], reward, terminated, truncated [E], signals {name: [E]}. A task outside the table
        has the signal "cost", info["cost"], where an environment reports one. Raises RowFault where
        one of them raises, or returns something else than its spaces say.
        """
        asked = range(self._count) if rows is None else rows.tolist()
        count = len(asked)
        obs = np.empty((count, *self._obs_shape))
        reward = np.empty(count)
        terminated = np.empty(count, dtype=bool)
        truncated = np.empty(count, dtype=bool)
        signals = {name: np.empty(count) for name in self._signals}
        actions = self._own(action)
        shape, row, result = self._obs_shape, 0, _NOTHING
        try:
            for index, row in enumerate(asked):
                result = _NOTHING  # of this row alone: a fault is read off it
                result = self._steps[row](actions[index])
                observation, reward[index], terminated[index], truncated[index], info = result
                if np.shape(observation) != shape:  # NumPy would stretch a single number over it
                    break
                obs[index] = observation
                for name in self._signals:
                    signals[name][index] = info[name]
                if self._reported and "cost" in info:
                    signals.setdefault("cost", np.zeros(count))[index] = info["cost"]
            else:
                return obs.reshape(count, -1), reward, terminated, truncated, signals
        except Exception as error:  # of the user's own code, or of unpacking what it returned
            raise RowFault(row, self._stated("step", result, error)) from error
        raise RowFault(row, self._stated("step", result))

    def _own(self, action: NDArray) -> NDArray | list[int]:
        """Actions of K environments as each of them takes its own."""
        if self.discrete and not self.spaces.shape:
            return action.tolist()  # counted from `first_action` already
        return self.spaces.action(action)

    def reset(self, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Start new episodes in `rows` [K], and only there; return their observations [K, O]."""
        obs = np.empty((len(rows), *self._obs_shape))
        for index, row in enumerate(rows):
            obs[index] = self._first(self._envs[row], int(row), None)
        return obs.reshape(len(rows), -1)

    def _first(self, env: gymnasium.Env, row: int, seed: int | None) -> NDArray:
        """Return the observation after a reset. Raises RowFault."""
        result = _NOTHING
        try:
            result = env.reset() if seed is None else env.reset(seed=seed)
            observation, _ = result
            if np.shape(observation) == self._obs_shape:
                return np.asarray(observation)
        except Exception as error:
            raise RowFault(row, self._stated("reset", result, error)) from error
        raise RowFault(row, self._stated("reset", result))

    def _stated(self, call: str, result: object, error: Exception | None = None) -> str:
        """What is wrong with `call`, which returned `result` or raised `error`."""
        parts = _PARTS if call == "step" else ("observation", "info")
        if result is _NOTHING:
            return f"{call} failed: {explained(error)}"
        if not isinstance(result, tuple | list) or len(result) != len(parts):
            several = isinstance(result, tuple | list)
            count = f"{len(result)} values" if several else f"one {type(result).__name__}"
            return f"{call} returned {count}, not {len(parts)} values: {', '.join(parts)}"
        if np.shape(result[0]) != self._obs_shape:
            return (
                f"{call} returned an observation of shape {np.shape(result[0])}, but "
                f"observation_space has shape {self._obs_shape}"
            )
        for name, value in zip(parts[1:-1], result[1:-1], strict=True):
            if np.ndim(value):
                return f"{call} returned a {name} of shape {np.shape(value)}, not a single value"
        for name in self._signals if call == "step" else ():
            if name not in result[-1]:
                return f"{call} returned an info without {name!r}, which the task's costs ask for"
        return f"{call} returned {', '.join(parts)} that cannot be used: {explained(error)}"

    def _follows_its_seed(self) -> bool:
        """Whether two resets with one seed agree; asked once of each task, of a throwaway copy."""
        key = (self._id, gymnasium.spec(split(self._id)[0].rpartition(":")[2]).entry_point)
        if key not in _seeded:
            (env,), self._fresh = self._fresh, []  # those that train start as new ones do
            try:
                first, second = (self._first(env, 0, 0) for _ in range(2))
            except RowFault as fault:
                raise ValueError(f"{self._task}: {fault}") from fault.__cause__
            finally:
                env.close()
            _seeded[key] = np.array_equal(first, second, equal_nan=True)
            if not _seeded[key]:
                warn_once(
                    f"{self._task} ignores its seed: two resets with seed 0 differ, so no run on "
                    "it can be repeated (draw from self.np_random, after super().reset(seed=seed))"
                )
        return _seeded[key]

    def _build(self) -> tuple[gymnasium.Env, int | None, tuple]:
        env, *others = _build(self._id, self._options)
        return (self._wrap(env) if self._wrap else env), *others

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs + self._fresh:
            env.close()
        self._envs, self._fresh = [], []


def _require_supported(task: str, observation: Space, action: Space) -> None:
    if not isinstance(observation, Box):
        raise ValueError(
            f"{task} has observations in {observation}; only Box observations are supported: "
            "wrap it, for instance in gymnasium.wrappers.FlattenObservation"
        )
    shape = observation.shape
    if len(shape) > 2 or (len(shape) == 2 and min(shape) >= _IMAGE_SIDE):
        raise ValueError(
            f"{task} has observations of shape {shape}, as images have; the networks here take "
            "vectors: give it features instead (or, if these numbers are a vector, wrap it in "
            "gymnasium.wrappers.FlattenObservation)"
        )
    floats = isinstance(action, Box) and np.issubdtype(action.dtype, np.floating)
    if not (floats or isinstance(action, Discrete | MultiDiscrete)):
        raise ValueError(
            f"{task} has actions in {action}; only Discrete, MultiDiscrete and floating-point Box "
            "are supported"
        )


def _spaces(task: str, parts: tuple[tuple[tuple[str, ...], Shape], ...], action: Space) -> Spaces:
    """Those of `task`; several choices at once are one, of all their combinations."""
    if isinstance(action, Box):
        return Spaces.box(parts, action.shape, action.low, action.high, action.dtype)
    choices = action.n if isinstance(action, Discrete) else action.nvec
    try:
        return Spaces.counted(parts, action.shape, choices, action.start, action.dtype)
    except ValueError as error:
        raise ValueError(f"{task}: {error}") from None


def _parts(space: Space, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Shape]]:
    """(path of keys, shape) of each box of an observation space, in its order."""
    if not isinstance(space, Dict):
        return [(path, tuple(space.shape or ()))]
    return [each for key, part in space.items() for each in _parts(part, (*path, key))]


def _dict_of_boxes(space: Space) -> bool:
    parts = space.values() if isinstance(space, Dict) else ()
    return len(parts) > 0 and all(isinstance(p, Box) or _dict_of_boxes(p) for p in parts)


def _in_order(space: Space) -> Space:
    """The same with its keys sorted, for Gymnasium keeps the order of keyword arguments."""
    if not isinstance(space, Dict):
        return space
    return Dict({key: _in_order(part) for key, part in space.items()})


@contextlib.contextmanager
def of_any_age(name: str) -> Iterator[None]:
    """Asking for the -v4 of a known task is deliberate: most published numbers are on it."""
    with warnings.catch_warnings():
        if name in TASKS:
            warnings.filterwarnings("ignore", message=".*is out of date.*")
        yield


def is_of_renderer(error: BaseException) -> bool:
    """Whether MuJoCo's renderer raised `error`, which it also does while it is imported."""
    files = [Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)]
    return any({"mujoco", "OpenGL"} & set(parts) for parts in files)


def _without_renderer(error: BaseException) -> str:
    """What to do where a renderer that was asked for cannot even be imported."""
    return (
        f"MUJOCO_GL is {os.environ['MUJOCO_GL']!r}, a renderer that does not load here "
        f"({type(error).__name__}: {error}); training draws nothing: unset MUJOCO_GL"
    )


def _build(task: str, options: dict[str, object]) -> tuple[gymnasium.Env, int | None, tuple]:
    """Return the environment without Gymnasium's standard wrappers, the time limit in steps, and

    the parts of its observations. Dicts of boxes become one box, in the order of their sorted keys:
    as `datasets` reads them. Of several time limits the least holds.
    """
    name, settings = split(task)
    try:
        with of_any_age(name):
            env = gymnasium.make(name, disable_env_checker=True, **options, **settings)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise ImportError(
            f"{task} needs a package that is not installed ({error}); for MuJoCo tasks run "
            "`pip install mujoco==3.6.0`"
        ) from error
    except Exception as error:  # of the user's own constructor, or of a renderer
        if "MUJOCO_GL" in os.environ and is_of_renderer(error):
            raise ValueError(f"{task} cannot be created: {_without_renderer(error)}") from error
        raise ValueError(f"{task} cannot be created: {explained(error)}") from error
    limit = None
    while isinstance(env, TimeLimit | OrderEnforcing | PassiveEnvChecker):
        if isinstance(env, TimeLimit):
            limit = min(limit or env._max_episode_steps, env._max_episode_steps)
        env = env.env
    if _dict_of_boxes(env.observation_space):
        env.observation_space = _in_order(env.observation_space)
        parts = _parts(env.observation_space)
        return FlattenObservation(env), limit, tuple(parts)
    return env, limit, tuple(_parts(env.observation_space))
