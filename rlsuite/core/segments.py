"""Replay buffers on disk: a checkpoint must not rewrite a million rows that it has written before.

Rows go to segments, files that are written once and never changed: `save_buffer` adds one with the
rows since the last call, and the state that it returns names each segment with its SHA-256. The
state of the ring's random numbers is part of it.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rlsuite.core.buffers import ReplayBuffer

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


def save_buffer(buffer: ReplayBuffer, folder: Path) -> dict:
    """Write the rows added since the last call to `folder`, flushed; the state to load from.

    Files that no kept state needs are deleted first: of a segment, all of whose rows the ring
    had overwritten KEPT_STATES states ago. OSError if the disk is full; nothing is lost then.
    """
    _forget(buffer, folder)
    start = max(buffer.segments[-1].end if buffer.segments else 0, buffer.added - buffer.capacity)
    if start < buffer.added:
        buffer.segments.append(_write(buffer, folder, start, buffer.added))
    buffer.states = [*buffer.states, buffer.added][-KEPT_STATES:]
    segments = [tuple(segment) for segment in buffer.segments]
    state = {"added": buffer.added, "states": buffer.states, "segments": segments}
    state |= {"capacity": buffer.capacity, "fields": dict(buffer.shapes)}
    return state | {"rng": buffer.rng.state_dict()}


def load_buffer(buffer: ReplayBuffer, state: dict, folder: Path) -> None:
    """The ring as it was when `save_buffer` returned `state`.

    SegmentError if a file is damaged, ValueError for the state of another capacity or other fields.
    """
    if state.get("fields", buffer.shapes) != buffer.shapes:
        raise ValueError(f"fields are {list(buffer.shapes)}, they were {list(state['fields'])}")
    grown = buffer.capacity > state["capacity"] >= state["added"]  # no row has moved
    if not grown and state["capacity"] != buffer.capacity:
        raise ValueError(f"capacity is {buffer.capacity}, it was {state['capacity']}")
    buffer.added, buffer.states = state["added"], list(state["states"])
    buffer.segments = [Segment(*segment) for segment in state["segments"]]
    for segment, content in read_segments(state, folder):
        _fill(buffer, segment, content)
    buffer.count.fill_(len(buffer))
    buffer.rng.load_state_dict(state["rng"])


def _forget(buffer: ReplayBuffer, folder: Path) -> None:
    if len(buffer.states) < KEPT_STATES:
        return
    oldest = buffer.states[0] - buffer.capacity
    for segment in [s for s in buffer.segments if s.end <= oldest]:
        (folder / segment.name).unlink(missing_ok=True)
        buffer.segments.remove(segment)


def _write(buffer: ReplayBuffer, folder: Path, start: int, end: int) -> Segment:
    folder.mkdir(parents=True, exist_ok=True)
    at, digest = np.arange(start, end) % buffer.capacity, hashlib.sha256()
    partial = folder / f"{start:012d}.partial"
    with open(partial, "wb") as file:
        for field in buffer.fields.values():
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


def _fill(buffer: ReplayBuffer, segment: Segment, content: bytes) -> None:
    at = np.arange(segment.start, segment.end) % buffer.capacity
    for name, values in _fields(buffer.shapes, buffer.num_seeds, segment, content):
        buffer.fields[name][:, at] = torch.from_numpy(values.copy()).to(buffer.device)


def _fields(
    shapes: Mapping[str, tuple[int, ...]], num_seeds: int, segment: Segment, content: bytes
) -> Iterator[tuple[str, np.ndarray]]:
    """Each field of a segment, [S, rows, ...]."""
    rows, offset = segment.end - segment.start, 0
    for name, shape in shapes.items():
        size = num_seeds * rows * math.prod(shape)
        values = np.frombuffer(content, np.float32, size, offset)
        yield name, values.reshape(num_seeds, rows, *shape)
        offset += 4 * size


def first_rows(state: dict, folder: Path, seed: int, num_seeds: int, count: int) -> dict:
    """{field: the first `count` rows that one of the seeds has ever added}, [count, ...].

    `state` is what `save_buffer` returned. ValueError where the ring has overwritten some, or has
    not seen as many; SegmentError if a file is damaged.
    """
    if state["added"] > state["capacity"]:
        lost = state["added"] - state["capacity"]
        raise ValueError(
            f"its replay buffer has overwritten the first {lost:,} rows; a run with --capacity "
            f"{state['added']} keeps them"
        )
    if count > state["added"]:
        raise ValueError(f"its replay buffer has {state['added']:,} rows, not {count:,}")
    if "fields" not in state:
        raise ValueError("its replay buffer is of a version that kept no log-densities")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in state["fields"]}
    for segment, content in read_segments(state, folder):
        for name, values in _fields(state["fields"], num_seeds, segment, content):
            parts[name].append(values[seed, : max(count - segment.start, 0)])
    return {name: np.concatenate(values) for name, values in parts.items()}


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
