"""Checkpoints that survive: a kill at any instant, a full disk, a file cut short."""

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import torch

KEEP = 2  # the newest, and the one before in case the newest was damaged
_HASH_BYTES = 32


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or none could be read; the message says what to do."""


def save(folder: Path, iteration: int, state: dict) -> None:
    """Write `state` as the checkpoint after `iteration` iterations, whole or not at all.

    The file is the state behind its SHA-256; it gets its name only once it is flushed to disk.
    Raises CheckpointError, with earlier checkpoints intact, if it cannot be written.
    """
    path = folder / f"{iteration:09d}.ckpt"
    partial = path.with_suffix(".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with open(partial, "wb") as file:
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _flush_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):  # there may be none, or no permission to remove it
            partial.unlink()
        raise CheckpointError(
            f"could not write {path} ({error.strerror or error}); earlier checkpoints are intact: "
            "make room or fix the permissions, then run the same command with --resume"
        ) from error
    for old in sorted(folder.glob("*.ckpt"))[:-KEEP]:
        old.unlink()


def capture(learner) -> dict:
    """The state of a learner: a dataclass of modules, tensors and named tuples, nested at will."""
    return {f.name: _taken(getattr(learner, f.name)) for f in dataclasses.fields(learner)}


def restore(learner, state: dict) -> None:
    """Put back what `capture` took."""
    for name, saved in state.items():
        setattr(learner, name, _put_back(getattr(learner, name), saved))


def _taken(part):
    if isinstance(part, torch.Tensor):
        return part
    if isinstance(part, tuple):
        return {name: _taken(value) for name, value in part._asdict().items()}
    return part.state_dict()


def _put_back(part, saved):
    """`part` as it was when `saved` was taken of it; a module is changed in place."""
    if isinstance(part, torch.Tensor):
        return saved
    if isinstance(part, tuple):
        return type(part)(*(_put_back(x, saved[name]) for name, x in part._asdict().items()))
    part.load_state_dict(saved)
    return part


def load(folder: Path, say: Callable[[str], None]) -> tuple[int, dict] | None:
    """(iterations, state) of the newest sound checkpoint, None if there never was one.

    A damaged one is refused through `say`, and the one before is used; if all are damaged,
    CheckpointError.
    """
    paths = sorted(folder.glob("*.ckpt"), reverse=True)
    for path in paths:
        content = path.read_bytes()
        digest, payload = content[:_HASH_BYTES], content[_HASH_BYTES:]
        if digest == hashlib.sha256(payload).digest():
            return int(path.stem), torch.load(io.BytesIO(payload), weights_only=True)
        say(f"{path} is damaged or cut short ({len(content)} bytes, wrong checksum): refused")
    if paths:
        raise CheckpointError(f"every checkpoint in {folder} is damaged; start in another --folder")
    return None


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
