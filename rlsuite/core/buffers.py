"""Replay: a ring of transitions with named fields, one ring per seed, over logged data or alone.

| symbol | shape | meaning |
|---|---|---|
| field | [S, C, ...] float32 | the last C rows of each seed; a new one replaces the oldest |
| base | [n, ...] | logged rows that all seeds share, never copied and never overwritten |
| added | | rows that each seed has ever added: row i lies at i mod C |

A checkpoint must not rewrite a million rows that it has written before. Rows go to segments, files
that are written once and never changed: `save` adds one with the rows since the last call, and the
state that it returns names each segment with its SHA-256.
"""

import hashlib
import math
import os
from collections import namedtuple
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.chance import Chance
from rlsuite.core.replay import Minibatch

KEPT_STATES = 2  # a segment stays until the last so many states, and the next, can do without it


class Segment(NamedTuple):
    """Rows `start` to `end` - 1 of every seed, in one file."""

    start: int
    end: int
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.start:012d}.rows"


class SegmentError(RuntimeError):
    """A segment is missing or is not what was written; the message says which."""


class ReplayBuffer:
    """`capacity` rows of each seed. `fields` names them: {"obs": (17,), "reward": (), ...}.

    `rng` draws the rows of a minibatch, and its device is where the ring lies. `base` has logged
    rows under the same names, as arrays or memory maps; sampling draws from those and from the ring
    alike. Raises ValueError for a ring that does not fit into memory, before it is allocated.
    """

    def __init__(
        self,
        num_seeds: int,
        capacity: int,
        fields: Mapping[str, tuple[int, ...]],
        rng: Chance,
        base: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.num_seeds, self.capacity, self.shapes = num_seeds, capacity, dict(fields)
        self.rng, self.device = rng, rng.device
        self.Rows = namedtuple("Rows", fields)  # what `sample` returns: [S, B, ...] by name
        seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
        require_memory(self.nbytes, f"a replay buffer of {capacity:,} rows for {seeds}")
        self.fields = {name: self._zeros(shape) for name, shape in self.shapes.items()}
        self.seed_index = torch.arange(num_seeds, device=self.device)[:, None]
        self.base, self.logged = None, 0
        if base is not None:
            self.base = {name: np.asarray(base[name]) for name in self.shapes}
            self.logged = len(next(iter(self.base.values())))
            if self.device.type != "cpu":
                where = {"dtype": torch.float32, "device": self.device}
                self.base = {name: torch.as_tensor(x, **where) for name, x in self.base.items()}
        self.added = 0
        # A CUDA graph sees a Python number as it was at capture; it sees this one as it is
        self.count = torch.zeros((), dtype=torch.int64, device=self.device)
        self.segments: list[Segment] = []
        self.states: list[int] = []  # `added` at each of the last states, oldest first

    @staticmethod
    def of_transitions(envs, capacity: int, rng: Chance) -> "ReplayBuffer":
        """One for what happens in `envs`: its rows are those of a `Minibatch`."""
        shapes = ((envs.obs_size,), (envs.action_size,), (), (envs.obs_size,), ())
        fields = dict(zip(Minibatch._fields, shapes, strict=True))
        return ReplayBuffer(len(envs.seeds), capacity, fields, rng)

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

    # --------------------------------------------------------------------- rows in, rows out

    def add(self, **step: np.ndarray) -> None:
        """One step of N environments of every seed: each field [S, N, ...]."""
        rows = next(iter(step.values())).shape[1]
        at = (self.added + np.arange(rows)) % self.capacity
        for name, value in step.items():
            self.fields[name][:, at] = torch.as_tensor(
                value, dtype=torch.float32, device=self.device
            )
        self.added += rows
        self.count.fill_(len(self))

    def sample(self, size: int) -> NamedTuple:
        """`size` rows of each seed, uniform with replacement, from base and ring: [S, size, ...].

        Raises ValueError where there is nothing to draw from.
        """
        if self.logged + len(self) == 0:
            raise ValueError("the replay buffer is empty; add rows before drawing from it")
        if self.device.type != "cpu":
            rows = self.rng.rows(self.logged + self.count, size)
            return self.Rows(*(self._on_device(name, rows) for name in self.shapes))
        rows = self.rng.rows(self.logged + len(self), size)
        return self.Rows(*(self._on_host(name, rows) for name in self.shapes))

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
        ring = self.fields[name][self.seed_index, (rows - self.logged).clamp(min=0)]
        if not self.logged:
            return ring
        own = (rows >= self.logged).view(*rows.shape, *[1] * len(self.shapes[name]))
        return torch.where(own, ring, self.base[name][rows.clamp(max=self.logged - 1)])

    # ------------------------------------------------------------------------------ on disk

    def save(self, folder: Path) -> dict:
        """Write the rows added since the last call to `folder`, flushed; the state to load from.

        Files that no kept state needs are deleted first: of a segment, all of whose rows the ring
        had overwritten KEPT_STATES states ago. OSError if the disk is full; nothing is lost then.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._forget(folder)
        start = max(self.segments[-1].end if self.segments else 0, self.added - self.capacity)
        if start < self.added:
            self.segments.append(self._write(folder, start, self.added))
        self.states = [*self.states, self.added][-KEPT_STATES:]
        segments = [tuple(segment) for segment in self.segments]
        state = {"added": self.added, "states": self.states, "segments": segments}
        return state | {"capacity": self.capacity}

    def load(self, state: dict, folder: Path) -> None:
        """The ring as it was when `save` returned `state`.

        SegmentError if a file is damaged, ValueError for the state of another capacity.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"capacity is {self.capacity}, it was {state['capacity']}")
        self.added, self.states = state["added"], list(state["states"])
        self.segments = [Segment(*segment) for segment in state["segments"]]
        for segment, content in read_segments(state, folder):
            self._fill(segment, content)
        self.count.fill_(len(self))

    def _forget(self, folder: Path) -> None:
        if len(self.states) < KEPT_STATES:
            return
        oldest = self.states[0] - self.capacity
        for segment in [s for s in self.segments if s.end <= oldest]:
            (folder / segment.name).unlink(missing_ok=True)
            self.segments.remove(segment)

    def _write(self, folder: Path, start: int, end: int) -> Segment:
        at, digest = np.arange(start, end) % self.capacity, hashlib.sha256()
        partial = folder / f"{start:012d}.partial"
        with open(partial, "wb") as file:
            for field in self.fields.values():
                content = field[:, at].cpu().numpy().tobytes()
                digest.update(content)
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        segment = Segment(start, end, digest.hexdigest())
        os.replace(partial, folder / segment.name)
        names = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(names)
        finally:
            os.close(names)
        return segment

    def _fill(self, segment: Segment, content: bytes) -> None:
        rows = segment.end - segment.start
        at, offset = np.arange(segment.start, segment.end) % self.capacity, 0
        for name, shape in self.shapes.items():
            size = self.num_seeds * rows * math.prod(shape)
            values = np.frombuffer(content, np.float32, size, offset)
            values = values.reshape(self.num_seeds, rows, *shape).copy()
            self.fields[name][:, at] = torch.from_numpy(values).to(self.device)
            offset += 4 * size


def read_segments(state: dict, folder: Path) -> Iterator[tuple[Segment, bytes]]:
    """What the files hold that the ring of `state` needs. SegmentError for one that is damaged."""
    for segment in (Segment(*each) for each in state["segments"]):
        if segment.end <= state["added"] - state["capacity"]:
            continue  # overwritten since
        path = folder / segment.name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SegmentError(f"{path} cannot be read ({error.strerror})") from None
        if hashlib.sha256(content).hexdigest() != segment.sha256:
            raise SegmentError(f"{path} is damaged ({len(content):,} bytes, wrong checksum)")
        yield segment, content


def require_memory(needed: int, purpose: str) -> None:
    """Raise ValueError unless `needed` bytes are free on this machine, as far as Linux tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if needed > free:
        raise ValueError(
            f"{purpose} needs {needed / 2**30:,.1f} GiB, but {free / 2**30:,.1f} GiB are free: "
            "lower the capacity or the number of seeds"
        )
