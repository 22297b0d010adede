"""S x N environments with one step semantic, whichever engine computes the physics.

An ended environment is reset at once, inside `step`: every row of every step is a real transition,
`obs` is what to act on next and `final_obs` is what the step truly led to. `terminated` and
`truncated` follow Gymnasium's TimeLimit: an episode that terminates exactly at its time limit has
both flags. Raw returns are summed here, below everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rlsuite.core.spaces import Spaces
from rlsuite.envs.faults import EnvironmentFault, PolicyFault, RowFault, warn_once
from rlsuite.envs.steps import Episode, Rows, Step, among_zeros, constant
from rlsuite.envs.tasks import (
    MUJOCO,
    choose_engine,
    costs_of,
    find,
    physics_mismatch,
)

_SEED_LIMIT = 2**31  # EnvPool's seeds are C++ ints


class Environments:
    """S x N environments of one task: `make` builds it, `reset` must come before `step`.

    `first_action` is the environment's own number of discrete action 0. `seeded` says whether equal
    seeds give equal first observations, `reports_cost` whether there are costs (a task outside the
    table shows it by the first one), and `finished` counts all episodes that have ended since this
    object was built. `constraints` are the task's, in the order of its costs.

    Returned arrays are never overwritten by later steps; `cost` and `truncated` may be read-only.
    """

    def __init__(
        self, physics, task: str, engine: str, seeds: Sequence[int], num_envs: int
    ) -> None:
        self.task = task
        self.engine = engine
        self.seeds = tuple(int(seed) for seed in seeds)
        self.num_envs = num_envs
        self.obs_size: int = physics.obs_size
        self.discrete: bool = physics.discrete
        self.action_size: int = physics.action_size
        self.action_low: NDArray[np.float32] | None = physics.action_low
        self.action_high: NDArray[np.float32] | None = physics.action_high
        self.first_action: int = physics.first_action
        self.time_limit: int | None = physics.time_limit
        self.seeded: bool = physics.seeded
        self.spaces: Spaces = getattr(physics, "spaces", None) or Spaces.of_vectors(physics)
        self._costs = costs_of(task)
        self.constraints = self._costs.constraints
        self.reports_margin = self._costs.has_margin
        self.reports_cost = bool(self.constraints) and self._costs.known
        known = find(task)
        if known is not None and known.time_limit is not None:
            self.time_limit = known.time_limit
        self._staggered = known is not None and known.staggered
        self._physics = physics
        self._shape = (len(self.seeds), num_envs)
        self._count = len(self.seeds) * num_envs
        self._obs_shape = (*self._shape, self.obs_size)
        self._action_shape = self._shape if self.discrete else (*self._shape, self.action_size)
        self._action_kinds = "iu" if self.discrete else "f"
        if not self.discrete:
            self._low = physics.action_low.astype(physics.action_dtype)
            self._high = physics.action_high.astype(physics.action_dtype)
        self._limit = math.inf if self.time_limit is None else self.time_limit
        self._no_cost = constant(np.zeros((*self._shape, len(self.constraints)), np.float32))
        self._no_truncation = constant(np.zeros(self._count, dtype=bool))
        self._episodes: list[Episode] = []
        self._paid = np.zeros((self._count, len(self.constraints)))
        self._forgotten = 0  # episodes that ended before the last reset
        self._steps: int | None = None
        # Slots whose policy has no numbers left, and whom to ask where another one has none
        self._dropped = np.zeros(len(self.seeds), bool)
        self.diverged: Callable[[int], None] | None = None

    def reset(self, env_seeds: NDArray[np.integer], staggered: bool = False) -> NDArray[np.float64]:
        """Create every environment anew from `env_seeds` [S, N]; return obs float64 [S, N, O].

        `staggered`: where the task asks for it the first episodes are cut at random steps, as if
        they had begun before, so that not all environments reach their time limit together.
        Afterwards nothing depends on the past. Raises ValueError for seeds of another shape or
        outside 0 .. 2^31 - 1, EnvironmentFault for a first observation that is not finite.
        """
        env_seeds = np.asarray(env_seeds)
        if env_seeds.shape != self._shape or env_seeds.dtype.kind not in "iu":
            raise ValueError(
                f"env_seeds must be integers of shape {self._shape} (seeds, num_envs), "
                f"got {env_seeds.dtype} of shape {env_seeds.shape}"
            )
        if env_seeds.min() < 0 or env_seeds.max() >= _SEED_LIMIT:
            raise ValueError(
                f"env_seeds must lie in 0 .. {_SEED_LIMIT - 1}, "
                f"got {env_seeds.min()} .. {env_seeds.max()}"
            )
        self._steps = 0
        self._forgotten = self.finished
        self._episodes = []
        self._return = np.zeros(self._count)
        self._cost = np.zeros((self._count, len(self.constraints)))
        # Lengths are differences to the step at which each episode began: nothing to count.
        self._began = np.zeros(self._count, dtype=np.int64)
        self._early = np.zeros(self._count, dtype=np.int64)  # steps that a first episode lacks
        if staggered and self._staggered:
            draws = (np.random.default_rng(seed) for seed in env_seeds.reshape(-1).tolist())
            self._early[:] = [rng.integers(self.time_limit) for rng in draws]
        self._oldest = -int(self._early.max())
        try:
            obs = self._physics.open(env_seeds.reshape(-1))
        except RowFault as fault:
            raise self._fault([fault.row], str(fault)) from fault.__cause__
        self._require_finite(obs, "reset observation", np.arange(self._count))
        self._obs = obs
        return obs.reshape(self._obs_shape)

    def step(self, action: NDArray, active: NDArray[np.bool_] | None = None) -> Step:
        """Act with `action` (float32 [S, N, A], clipped to the box; int64 [S, N] if discrete).

        Environments that are not `active` [S, N] stand idle: no reward, no cost, no end, the same
        observation, and the step does not count in their episodes. Their actions go nowhere.

        Raises ValueError for another shape or a discrete action out of range, PolicyFault for a NaN
        in the action, EnvironmentFault where an environment raises, returns something else than an
        observation of its space, a number and two flags, or a NaN or an infinity.
        """
        # Small batches live on overhead: np.add.reduce and np.count_nonzero cost a half and a
        # tenth of the methods `sum` and `any`, and arrays that are constant are not computed.
        action = self._rows(action)
        self._steps += 1
        if active is None:
            rows = self._play(action, self._obs)
        else:
            rows = self._play_some(action, self._active(active))
        obs, reward, terminated, truncated, cost, margin = rows
        self._return += reward
        if cost is None:
            cost = self._no_cost
        else:
            self.reports_cost = True
            self._cost += cost
            self._paid += cost
            cost = cost.astype(np.float32).reshape(*self._shape, -1)
        if margin is not None:
            margin = margin.astype(np.float32).reshape(*self._shape, -1)
        if truncated is None:
            truncated = self._no_truncation
        if self._steps - self._oldest >= self._limit:
            clock = self._steps - self._began + self._early
            truncated = truncated | (clock >= self._limit)
        final_obs = next_obs = obs.reshape(self._obs_shape)
        self._obs = obs
        if np.count_nonzero(terminated) or np.count_nonzero(truncated):
            self._obs = self._restart(obs, terminated | truncated)
            next_obs = self._obs.reshape(self._obs_shape)
        return Step(
            next_obs,
            reward.astype(np.float32, copy=False).reshape(self._shape),
            cost,
            terminated.reshape(self._shape),
            truncated.reshape(self._shape),
            final_obs,
            margin,
        )

    def _play(self, action: NDArray, before: NDArray, rows: NDArray | None = None) -> Rows:
        """Step all, or `rows` [K] alone, which stood at `before` [K, O]. Raises as `step`."""
        try:
            obs, reward, terminated, truncated, signals = self._physics.step(action, rows)
        except RowFault as fault:
            raise self._fault([fault.row], str(fault)) from fault.__cause__
        # One sum finds every NaN and infinity; the culprit is looked up only then.
        if not math.isfinite(np.add.reduce(obs, None) + np.add.reduce(reward)):
            stepped = np.arange(self._count) if rows is None else rows
            self._require_finite(obs, "observation", stepped)
            self._require_finite(reward, "reward", stepped)
        if not self.constraints:
            return Rows(obs, reward, terminated, truncated, None, None)
        cost, margin = self._costs.of(before, action, obs, reward, signals)
        for quantity, values in (("cost", cost), ("margin", margin)):
            if values is not None and not math.isfinite(np.add.reduce(values, None)):
                stepped = np.arange(self._count) if rows is None else rows
                self._require_finite(values, quantity, stepped)
        return Rows(obs, reward, terminated, truncated, cost, margin)

    def _play_some(self, action: NDArray, active: NDArray[np.bool_]) -> Rows:
        """Step the `active` [E] environments; the others stay as they are."""
        self._began[~active] += 1  # so that their episodes are no longer than before
        rows = np.flatnonzero(active)
        if len(rows) == self._count:
            return self._play(action, self._obs)
        obs, idle = self._obs.copy(), np.zeros(self._count, bool)
        if len(rows) == 0:
            return Rows(obs, np.zeros(self._count), idle, None, None, None)
        played = self._play(action[rows], obs[rows], rows)
        obs[rows] = played.obs
        rest = (among_zeros(part, rows, self._count) for part in played[1:])
        return Rows(obs, *rest)

    def _active(self, active: NDArray) -> NDArray[np.bool_]:
        if active.shape != self._shape or active.dtype != bool:
            raise ValueError(
                f"active must be bool of shape {self._shape} (seeds, num_envs), "
                f"got {active.dtype} of shape {active.shape}"
            )
        return active.reshape(-1)

    @property
    def finished(self) -> int:
        return self._forgotten + len(self._episodes)

    def episodes(self, since: int = 0) -> list[Episode]:
        """Return the episodes finished since the last reset, in order; reading forgets nothing.

        `since`, what `finished` was, leaves out those that ended earlier: each reader has its own.
        """
        return self._episodes[max(since - self._forgotten, 0) :]

    def take_paid(self) -> NDArray[np.float64]:
        """Return the costs [S, C] of all steps since the last call, those of cut episodes, too."""
        paid, self._paid = self._paid, np.zeros_like(self._paid)
        return paid.reshape(*self._shape, -1).sum(1)

    def unfinished(self) -> list[Episode]:
        """Return the episodes under way, one for each environment, as far as they have come."""
        return [self._episode(row) for row in range(self._count)]

    def applied(self, action: NDArray) -> NDArray:
        """Return what the environments get for `action`, in its shape: the one place that decides.

        Within the box and in the environment's dtype, or discrete and counted as the environment
        counts. Raises as `step`.
        """
        return self._rows(action).reshape(self._action_shape)

    def close(self) -> None:
        """Free the environments; `reset` would create them again."""
        self._physics.close()
        self._steps = None

    def _rows(self, action: NDArray) -> NDArray:
        """Return `action` as [E, A], or [E] if discrete, as the environments get it."""
        if self._steps is None:
            raise RuntimeError("call reset(env_seeds) before step")
        if action.shape != self._action_shape or action.dtype.kind not in self._action_kinds:
            kind = "integers" if self.discrete else "floats"
            raise ValueError(
                f"{self.task}: action must be {kind} of shape {self._action_shape}, "
                f"got {action.dtype} of shape {action.shape}"
            )
        if self.discrete:
            if np.count_nonzero((action < 0) | (action >= self.action_size)):
                raise ValueError(
                    f"{self.task}: discrete actions must lie in 0 .. {self.action_size - 1}, "
                    f"got {action.min()} .. {action.max()}"
                )
            action = action.reshape(self._count) + self.first_action
        else:
            # Two ufuncs instead of np.clip: a third of the time on a few rows.
            action = action.reshape(self._count, self.action_size)
            action = np.minimum(np.maximum(action, self._low), self._high)
            # MuJoCo takes a NaN for zero and goes on, with no more than a line in a log file.
            if not math.isfinite(np.add.reduce(action, None)):
                self._require_sound(action)
        return action.astype(self._physics.action_dtype, copy=False)

    def drop(self, slot: int) -> None:
        """Let the environments of a seed, by its place among `seeds`, do without its policy."""
        self._dropped[slot] = True

    def _require_sound(self, action: NDArray) -> None:
        """Zeros for seeds that are dropped. Raises PolicyFault for others that are not finite."""
        bad = np.flatnonzero(~np.isfinite(action).all(1)) // self.num_envs
        for slot in np.unique(bad[~self._dropped[bad]]).tolist() if self.diverged else ():
            self.diverged(slot)  # which drops it, or raises
        idle = self._dropped.repeat(self.num_envs)
        action[idle] = np.minimum(np.maximum(0, self._low), self._high)
        rest = np.flatnonzero(~idle)
        self._require_finite(action[rest], "policy's action", rest, PolicyFault)

    def _restart(self, obs: NDArray, ended: NDArray) -> NDArray:
        """Record the `ended` [E] episodes and reset them; return obs [E, O] to act on next."""
        rows = np.flatnonzero(ended)
        for row in rows.tolist():
            self._episodes.append(self._episode(row))
        self._return[rows] = 0.0
        self._cost[rows] = 0.0
        self._began[rows] = self._steps
        self._early[rows] = 0
        self._oldest = int((self._began - self._early).min())
        try:
            first = self._physics.reset(rows)
        except RowFault as fault:
            raise self._fault([fault.row], str(fault)) from fault.__cause__
        self._require_finite(first, "reset observation", rows)
        obs = obs.copy()
        obs[rows] = first
        return obs

    def _episode(self, row: int) -> Episode:
        length = self._steps - int(self._began[row])
        ret, cost = float(self._return[row]), tuple(self._cost[row].tolist())
        return Episode(*divmod(row, self.num_envs), ret, cost, length)

    def _require_finite(
        self, values: NDArray, quantity: str, rows: NDArray, kind: type = EnvironmentFault
    ) -> None:
        """Raise `kind` if the `values` [K, ...] of any of `rows` are not finite."""
        values = values.reshape(len(rows), -1)
        finite = np.isfinite(values)
        bad = np.flatnonzero(~finite.all(axis=1))
        if len(bad) == 0:
            return
        column = int(np.argmin(finite[bad[0]]))
        index = f" at index {column}" if values.shape[1] > 1 else ""
        fault = self._fault(
            rows[bad].tolist(),
            f"the {quantity} is not finite ({values[bad[0], column]}{index})",
            kind,
        )
        sound = [str(seed) for seed in self.seeds if seed not in fault.seeds]
        if not sound:
            raise fault
        others = ",".join(sound) + ("," if len(sound) == 1 else "")
        without = ", ".join(map(str, fault.seeds))
        raise kind(f"{fault} (without seed {without}: --seeds {others})", fault.seeds)

    def _fault(self, rows: list[int], text: str, kind: type = EnvironmentFault) -> RuntimeError:
        """What to raise for `text` in `rows`; the message names the first of them."""
        seed, copy = divmod(rows[0], self.num_envs)
        place = f"seed {self.seeds[seed]}, copy {copy}"
        within = self._steps - int(self._began[rows[0]])
        if within:
            place += f", in step {within} of its episode"
        return kind(
            f"{self.task}: {text} for {place}, after {self._steps} steps since the last reset",
            [self.seeds[seed] for seed in sorted({row // self.num_envs for row in rows})],
        )


def make(
    task: str,
    seeds: Sequence[int],
    num_envs: int,
    engine: str = "auto",
    threads: int | None = None,
) -> Environments:
    """Build `num_envs` environments of `task` for each of `seeds`: S x N in all.

    task     a known task, an id registered with Gymnasium, or MODULE:ID (see `tasks`); settings of
             the environment may follow: Pendulum-v1,g=1.6,max_episode_steps=12 (see `variants`)
    seeds    the seeds of the run; they name the slots in messages (randomness comes from `reset`)
    engine   "auto" (EnvPool where it has the task and S*N >= 8), "envpool", "gymnasium", "mujoco"
    threads  EnvPool's threads; default: the cores, but no more than are useful

    Raises ValueError or ImportError, saying what to type instead.
    """
    if len(seeds) == 0:
        raise ValueError("seeds is empty: give at least one seed, for instance seeds=[0]")
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    count = len(seeds) * num_envs
    engine = choose_engine(task, count, engine)
    # Imported on demand: each engine is heavy, and neither has to be installed.
    if engine == "envpool":
        from rlsuite.envs.envpool_engine import EnvPoolPhysics

        physics = EnvPoolPhysics(task, count, threads)
    elif engine == MUJOCO:
        from rlsuite.envs.constrained.solo12 import Solo12Physics

        physics = Solo12Physics(task, count, threads)
    else:
        from rlsuite.envs.gymnasium_engine import GymnasiumPhysics

        physics = GymnasiumPhysics(task, count)
    if mismatch := physics_mismatch(task):
        warn_once(mismatch)
    return Environments(physics, task, engine, seeds, num_envs)
