"""Physics by EnvPool: all environments in one C++ thread pool.

Two things keep every returned row a real transition. EnvPool's own time limit is switched off
(`Environments` cuts episodes, so that a termination at the time limit is not lost: EnvPool reports
it as a truncation only). And ended environments are reset at once, by a partial reset (25 us),
before EnvPool could spend a whole step on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlsuite.core import cores
from rlsuite.envs.tasks import engine_id, find

_NO_LIMIT = 10**9  # steps; EnvPool adds one to it in a C++ int
# Waking a thread costs about what a small environment's step does; two steps repay it.
_ENVIRONMENTS_PER_THREAD = 2


class EnvPoolPhysics:
    """`count` copies of `task` in EnvPool, without time limit or automatic reset."""

    def __init__(self, task: str, count: int, threads: int | None) -> None:
        import envpool

        known = find(task)
        self._id = engine_id(task)
        self._options = dict(known.envpool_options)
        self._count = count
        self._threads = threads or _default_threads(count)
        self._pool = None
        spec = envpool.make_spec(self._id, num_envs=count)
        action = spec.action_array_spec["action"]
        sizes = {
            key: int(np.prod(part.shape, dtype=np.int64))
            for key, part in spec.state_array_spec.items()
            if key.split(":")[0] == "obs" and key not in known.fillers
        }
        self._obs_keys = list(sizes)
        self.obs_size = sum(sizes.values())
        self._signals = known.signals
        arrays = [key.removeprefix("info:") for key in spec.state_array_spec]
        if absent := [name for name in self._signals if name not in arrays]:
            raise ValueError(f"{task}: EnvPool's {self._id} tells no {absent[0]!r}")
        self.time_limit: int | None = known.time_limit
        self.seeded, self.first_action = True, 0
        self.action_dtype = np.dtype(action.dtype)
        self.discrete = np.issubdtype(action.dtype, np.integer)
        self.action_low = self.action_high = None
        if self.discrete:
            self.action_size = int(action.maximum) + 1
        else:
            shape = action.shape[1:]  # the first axis is EnvPool's batch
            self.action_size = int(np.prod(shape, dtype=np.int64))
            self.action_low = np.full(shape, action.minimum, dtype=np.float32).reshape(-1)
            self.action_high = np.full(shape, action.maximum, dtype=np.float32).reshape(-1)

    def open(self, seeds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Create the environments anew from `seeds` [E]; return the first observations [E, O]."""
        import envpool

        self.close()
        self._pool = pool = envpool.make(
            self._id,
            env_type="gymnasium",
            num_envs=self._count,
            num_threads=self._threads,
            seed=[int(seed) for seed in seeds],
            max_episode_steps=_NO_LIMIT,
            **self._options,
        )
        states = list(pool._state_keys)
        self._obs, self._reward = [states.index(k) for k in self._obs_keys], states.index("reward")
        self._done, self._env_id = states.index("done"), states.index("info:env_id")
        self._signal = {name: states.index(f"info:{name}") for name in self._signals}
        self._all = np.arange(self._count, dtype=np.int32)
        self._keys = len(pool._action_keys)
        self._action_slot = list(pool._action_keys).index("action")
        return self.reset(self._all)

    def step(
        self, action: NDArray, rows: NDArray[np.integer] | None = None
    ) -> tuple[NDArray, NDArray, NDArray, None, dict[str, NDArray]]:
        """Step all, or `rows` [K] alone by their actions; return what `Environments` asks for:

        obs [E, O], reward and terminated [E], no truncation, signals {name: [E]}. The pool's own
        `step` builds nested dictionaries around the same two calls (15 us).
        """
        asked = self._all if rows is None else rows.astype(np.int32)
        message = [asked] * self._keys
        message[self._action_slot] = action
        self._pool._send(message)
        state = self._pool._recv()
        if rows is not None:
            self._require_rows(state, asked, "stepped")
        signals = {name: state[index] for name, index in self._signal.items()}
        # Without a time limit `done` is termination alone.
        return self._rows(state), state[self._reward], state[self._done], None, signals

    def reset(self, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Start new episodes in `rows` [K], and only there; return their observations [K, O]."""
        rows = rows.astype(np.int32, copy=False)
        self._pool._reset(rows)
        state = self._pool._recv()
        self._require_rows(state, rows, "reset")
        return self._rows(state)

    def _require_rows(self, state: list[NDArray], rows: NDArray, done: str) -> None:
        if not np.array_equal(state[self._env_id], rows):
            raise RuntimeError(
                f"EnvPool {done} environments {state[self._env_id].tolist()} "
                f"where {rows.tolist()} were asked for; use engine='gymnasium'"
            )

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _rows(self, state: list[NDArray]) -> NDArray[np.float64]:
        parts = [state[i].reshape(len(state[i]), -1) for i in self._obs]
        obs = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return obs.astype(np.float64, copy=False)


def _default_threads(count: int) -> int:
    return max(1, min(cores.usable(), count // _ENVIRONMENTS_PER_THREAD))
