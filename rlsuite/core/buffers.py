"""Replay: a ring of transitions with named fields, one ring per seed.

| symbol | shape | meaning |
|---|---|---|
| field | [S, C, ...] float32 | the last C rows of each seed; a new one replaces the oldest |
| kept | | names of fields that are written and saved, and never drawn |
| base | [n, ...] | logged rows that all seeds share, never copied and never overwritten |
| added | | rows that each seed has ever added: row i lies at i mod C |

Logged data alone are a base under a ring of no rows. `core.segments` writes a ring to disk.
"""

import contextlib
import math
import os
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.ranges import require_multiple, require_whole, require_within
from rlsuite.core.seed_random import SeedRandom


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
    def of_data(
        data, rng: SeedRandom, rows: np.ndarray | None = None, capacity: int = 0
    ) -> "ReplayBuffer":
        """One over `data`, of rlsuite.datasets, or `rows` [n] of it, which are copied."""
        base = {name: getattr(data, name) for name in TransitionBatch._fields}
        if rows is not None:
            base = {name: values[rows] for name, values in base.items()}
        fields = fields_of(data.obs.shape[1:], data.action.shape[1:])
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


def fields_of(obs: tuple[int, ...], action: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return dict(zip(TransitionBatch._fields, (obs, action, (), obs, ()), strict=True))


def chunks(rows: NamedTuple, count: int) -> list[NamedTuple]:
    """Rows [S, B, ...] in `count` parts of equal size."""
    parts = zip(*(x.chunk(count, 1) for x in rows), strict=True)
    return [type(rows)(*part) for part in parts]


def free_memory() -> int:
    """Bytes that this process may still take of the machine, or of its container."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, LookupError, ValueError):  # not Linux
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)


def require_memory(needed: int, purpose: str, device: torch.device) -> None:
    """Raise ValueError unless `needed` bytes are free where the tensors of `device` lie."""
    cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if cuda else free_memory()
    if needed > free:
        raise ValueError(
            f"{purpose} needs {needed / 2**30:,.1f} GiB, but {free / 2**30:,.1f} GiB are free: "
            "lower the capacity or the number of seeds"
        )


def require_offline(config: object, *stages: str) -> None:
    """What every Config that learns from data keeps to; `stages` are step counts, 0 for none."""
    require_whole(config, "batch_size", "gradient_steps", "steps_per_iteration", "hidden")
    require_multiple(config, "steps_per_iteration", "gradient_steps", *stages)
    require_within(config, 0, math.inf, *stages)


def require_delayed(config: object) -> None:
    """What every Config keeps to whose actor steps once in `policy_freq` critic steps."""
    require_whole(config, "policy_freq")
    require_multiple(config, "policy_freq", "steps_per_iteration")
