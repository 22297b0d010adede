"""Replay: a ring of transitions with named fields, one ring per seed, and what fills it.

| symbol | shape | meaning |
|---|---|---|
| field | [S, C, ...] float32 | the last C rows of each seed; a new one replaces the oldest |
| kept | | names of fields that are written and saved, and never drawn |
| base | [n, ...] | logged rows that all seeds share, never copied and never overwritten |
| added | | rows that each seed has ever added: row i lies at i mod C |

Logged data alone are a base under a ring of no rows. `core.segments` writes a ring to disk.
"""

import math
from collections import namedtuple
from collections.abc import Mapping
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.memory import free_memory
from rlsuite.core.policies import Rngs
from rlsuite.core.ranges import require_multiple, require_positive, require_whole, require_within
from rlsuite.core.seed_random import SeedRandom

# What a data set needs beside a TransitionBatch: whether a time limit cut the episode, whether the
# row is the first of its episode, and the log-density of what the policy chose
KEPT = ("truncated", "first", "log_prob")


class TransitionBatch(NamedTuple):
    """B transitions of each seed, float32."""

    obs: Tensor  # [S, B, O]
    action: Tensor  # [S, B, A]
    reward: Tensor  # [S, B]
    next_obs: Tensor  # [S, B, O], what the step truly led to
    terminated: Tensor  # [S, B], 1 where the task ended the episode: no future

    def standardized(self, normalizer) -> "TransitionBatch":
        """The same with observations as the networks see them."""
        obs, next_obs = map(normalizer.standardize, (self.obs, self.next_obs))
        return self._replace(obs=obs, next_obs=next_obs)


class ReplayBuffer:
    """`capacity` rows of each seed. `fields` names them: {"obs": (17,), "reward": (), ...}.

    `sample` draws all of them but those in `kept`. `rng` draws the rows of a minibatch, and its
    device is where the ring lies. `base` has logged rows under the same names, as arrays or memory
    maps; sampling draws from those and from the ring alike. Raises ValueError for
    a ring that does not fit into memory, before it is allocated.
    """

    def __init__(
        self,
        num_seeds: int,
        capacity: int,
        fields: Mapping[str, tuple[int, ...]],
        rng: SeedRandom,
        base: Mapping[str, np.ndarray] | None = None,
        kept: tuple[str, ...] = (),
    ) -> None:
        self.num_seeds, self.capacity, self.shapes = num_seeds, capacity, dict(fields)
        self.rng, self.device = rng, rng.device
        self.drawn = tuple(name for name in fields if name not in kept)
        standard = self.drawn == TransitionBatch._fields
        # what `sample` returns
        self.Rows = TransitionBatch if standard else namedtuple("Rows", self.drawn)
        seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
        require_memory(
            self.nbytes, f"a replay buffer of {capacity:,} rows for {seeds}", self.device
        )
        self.fields = {name: self._zeros(shape) for name, shape in self.shapes.items()}
        self.seed_index = torch.arange(num_seeds, device=self.device)[:, None]
        self.base, self.logged = None, 0
        if base is not None:
            self.base = {name: np.asarray(base[name]) for name in self.drawn}
            self.logged = len(next(iter(self.base.values())))
            if self.device.type != "cpu":
                where = {"dtype": torch.float32, "device": self.device}
                self.base = {name: torch.as_tensor(x, **where) for name, x in self.base.items()}
        self.added = 0
        # A CUDA graph sees a Python number as it was at capture; it sees this one as it is
        self.count = torch.zeros((), dtype=torch.int64, device=self.device)
        self.segments: list = []  # where the rows are on disk, and
        self.states: list[int] = []  # `added` when they were last written, oldest first

    @staticmethod
    def of_transitions(
        envs, capacity: int, rng: SeedRandom, more: Mapping[str, tuple[int, ...]] | None = None
    ) -> "ReplayBuffer":
        """One for what happens in `envs`: it draws a `TransitionBatch` and `more` fields.

        A `ReplayCollector` knows "cost": (C,), of the task's constraints. `KEPT` is kept, too.
        """
        drawn = _fields((envs.obs_size,), (envs.action_size,)) | (more or {})
        fields = drawn | dict.fromkeys(KEPT, ())
        return ReplayBuffer(len(envs.seeds), capacity, fields, rng, kept=KEPT)

    @staticmethod
    def of_data(
        data, rng: SeedRandom, rows: np.ndarray | None = None, capacity: int = 0
    ) -> "ReplayBuffer":
        """One over `data`, of rlsuite.datasets, or `rows` [n] of it, which are copied."""
        base = {name: getattr(data, name) for name in TransitionBatch._fields}
        if rows is not None:
            base = {name: values[rows] for name, values in base.items()}
        fields = _fields(data.obs.shape[1:], data.action.shape[1:])
        return ReplayBuffer(len(rng.rngs), capacity, fields, rng, base)

    @property
    def nbytes(self) -> int:
        """Bytes of the ring when it is full."""
        width = sum(math.prod(shape) for shape in self.shapes.values())
        return 4 * width * self.num_seeds * self.capacity

    def __len__(self) -> int:
        """Rows in the ring of each seed."""
        return min(self.added, self.capacity)

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        size = (self.num_seeds, self.capacity, *shape)
        if self.device.type == "cpu":  # NumPy's zeros take no memory until they are written
            return torch.from_numpy(np.zeros(size, np.float32))
        return torch.zeros(size, device=self.device)

    def add(self, **step: np.ndarray) -> None:
        """One step of N environments of every seed: each field [S, N, ...]."""
        rows = next(iter(step.values())).shape[1]
        at = (self.added + np.arange(rows)) % self.capacity
        for name, value in step.items():
            value = np.asarray(value, np.float32)
            self.fields[name][:, at] = torch.as_tensor(value, device=self.device)
        self.added += rows
        self.count.fill_(len(self))

    def sample(self, size: int) -> NamedTuple:
        """`size` rows of each seed, uniform with replacement, from base and ring: [S, size, ...].

        A `TransitionBatch` where the fields are its fields. Raises ValueError where there is
        nothing to draw from.
        """
        if self.logged + len(self) == 0:
            raise ValueError("the replay buffer is empty; add rows before drawing from it")
        graphed = self.capacity and self.device.type != "cpu"
        rows = self.rng.integers(self.logged + (self.count if graphed else len(self)), size)
        pick = self._on_host if self.device.type == "cpu" else self._on_device
        return self.Rows(*(pick(name, rows) for name in self.drawn))

    def _on_host(self, name: str, rows: Tensor) -> Tensor:
        ring = self.fields[name]
        if not self.logged:
            return ring[self.seed_index, rows]
        logged = self.base[name]
        if not self.added:
            return torch.from_numpy(logged[rows.numpy()].astype(np.float32, copy=False))
        own = rows >= self.logged
        drawn = torch.from_numpy(logged[rows.masked_fill(own, 0).numpy()].astype(np.float32))
        seeds = self.seed_index.expand_as(rows)[own]
        drawn[own] = ring[seeds, rows[own] - self.logged]
        return drawn

    def _on_device(self, name: str, rows: Tensor) -> Tensor:
        if not self.capacity:
            return self.base[name][rows]
        ring = self.fields[name][self.seed_index, (rows - self.logged).clamp(min=0)]
        if not self.logged:
            return ring
        own = (rows >= self.logged).view(*rows.shape, *[1] * len(self.shapes[name]))
        return torch.where(own, ring, self.base[name][rows.clamp(max=self.logged - 1)])


def _fields(obs: tuple[int, ...], action: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return dict(zip(TransitionBatch._fields, (obs, action, (), obs, ()), strict=True))


def require_off_policy(config: object, *periods: str, cycle: str = "policy_delay") -> None:
    """What every Config keeps to that fills a replay buffer and learns from it.

    `periods` are further counts of environment steps, after which something happens; `cycle` names
    the gradient steps that come in one call.
    """
    require_whole(config, "num_envs", "capacity", "batch_size", cycle, *periods)
    require_whole(config, "env_steps", "steps_per_iteration", "hidden")
    require_multiple(config, "num_envs", "steps_per_iteration", *periods)
    require_multiple(config, "steps_per_iteration", "env_steps", "warm_up")
    require_positive(config, "updates_per_step", "actor_lr", "critic_lr", "temperature")
    require_within(config, 0, 1, "discount", "polyak")
    last = config.env_steps - config.steps_per_iteration
    if not 0 <= config.warm_up <= last:
        steps = f"warm_up is {config.warm_up} of {config.env_steps} steps"
        raise ValueError(f"{steps}, which leaves none to learn in; use 0 to {last}")
    if config.capacity < config.num_envs:
        envs = f"{config.num_envs} environments"
        raise ValueError(f"capacity is {config.capacity}, less than one step of {envs}")
    updates = round(config.updates_per_step * config.steps_per_iteration, 6)
    length = getattr(config, cycle)
    if updates % length or updates < 1:
        near = max(1, round(updates / length)) * length / config.steps_per_iteration
        use = f"{cycle} 1" if updates >= 1 and updates % 1 == 0 else f"{near:.12g}"
        raise ValueError(
            f"updates_per_step {config.updates_per_step:g} makes {updates:g} gradient steps of "
            f"{config.steps_per_iteration} steps, no multiple of {cycle} {length}; use {use}"
        )


def chunks(rows: NamedTuple, count: int) -> list[NamedTuple]:
    """Rows [S, B, ...] in `count` parts of equal size."""
    parts = zip(*(x.chunk(count, 1) for x in rows), strict=True)
    return [type(rows)(*part) for part in parts]


def require_memory(needed: int, purpose: str, device: torch.device) -> None:
    """Raise ValueError unless `needed` bytes are free where the tensors of `device` lie."""
    cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if cuda else free_memory()
    if needed > free:
        raise ValueError(
            f"{purpose} needs {needed / 2**30:,.1f} GiB, but {free / 2**30:,.1f} GiB are free: "
            "lower the capacity or the number of seeds"
        )


class ReplayCollector:
    """Steps `envs` (of rlsuite.envs) and stores each transition in `buffer`.

    The buffer gets what the policy chose, in (-1, 1), with its log-density there, and the true next
    observation, also where an episode ended. A time limit is no end, and neither is a restart: such
    rows have a future. The row after either is the first of an episode.
    """

    def __init__(self, envs, policy, buffer: ReplayBuffer) -> None:
        self.envs, self.policy, self.buffer = envs, policy, buffer
        self.behaviour = policy.behaviour(envs.action_low, envs.action_high)
        self._seconds = {"physics": 0.0, "inference": 0.0}

    def restart(self, env_seeds: np.ndarray) -> None:
        """Fresh environments from `env_seeds` [S, N]."""
        self.obs = self.envs.reset(env_seeds)
        self.first = np.ones(env_seeds.shape, bool)
        self.behaviour.reset(self.first)

    def step(self, rngs: Rngs) -> None:
        """One step of every environment with the policy as it is now, sampled."""
        start = perf_counter()
        self.behaviour.refresh(self.policy)
        raw, applied = self.behaviour.act(self.obs, rngs)
        self._store(raw, applied, self.behaviour.log_prob, start)

    def explore(self, steps: int, rngs: Rngs) -> None:
        """So many steps of every environment with actions uniform in the box."""
        shape = (self.obs.shape[1], self.policy.action_size)
        log_prob = np.full(self.obs.shape[:2], -self.policy.action_size * math.log(2))
        for _ in range(steps):
            start = perf_counter()
            raw = np.stack([rng.uniform(-1, 1, shape) for rng in rngs]).astype(np.float32)
            self._store(raw, self.behaviour.to_env(raw), log_prob, start)

    def seconds(self) -> dict[str, float]:
        """Spent since the last call, by kind of work."""
        spent, self._seconds = self._seconds, {"physics": 0.0, "inference": 0.0}
        return spent

    def _store(
        self, raw: np.ndarray, applied: np.ndarray, log_prob: np.ndarray, start: float
    ) -> None:
        chosen = perf_counter()
        after = self.envs.step(applied)
        stepped = perf_counter()
        ended = after.terminated | after.truncated
        self.behaviour.reset(ended)
        row = dict(
            obs=self.obs,
            action=raw,
            reward=after.reward,
            next_obs=after.final_obs,
            terminated=after.terminated,
            truncated=after.truncated,
            first=self.first,
            log_prob=log_prob,
            cost=after.cost,
        )
        self.buffer.add(**{name: row[name] for name in self.buffer.shapes})
        self.obs, self.first = after.obs, ended
        self._seconds["physics"] += stepped - chosen
        self._seconds["inference"] += chosen - start + perf_counter() - stepped
