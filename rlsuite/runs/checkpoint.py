"""Checkpoints that survive: a kill at any instant, a full disk, a file cut short."""

import contextlib
import dataclasses
import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import torch

from rlsuite.core.buffers import ReplayBuffer
from rlsuite.core.segments import SegmentError, load_buffer, read_segments, save_buffer
from rlsuite.runs.files import write_whole

KEEP = 2  # the newest, and the one before in case the newest was damaged
_HASH_BYTES = 32
_NAME = re.compile(r"\d{9}\.ckpt")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or none could be read; the message says what to do."""


def save(folder: Path, iteration: int, state: dict) -> None:
    """Write `state` as the checkpoint after `iteration` iterations, whole or not at all.

    The file is the state behind its SHA-256; it gets its name only once it is flushed to disk.
    Raises CheckpointError, with earlier checkpoints intact, if it cannot be written.
    """
    path = folder / f"{iteration:09d}.ckpt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        write_whole(path, hashlib.sha256(content).digest(), content)
    except OSError as error:
        raise CheckpointError(
            f"could not write {path} ({error.strerror or error}); {_left(folder, path)}: "
            "make room or fix the permissions, then run the same command with --resume"
        ) from error
    for old in _paths(folder)[:-KEEP]:
        with contextlib.suppress(OSError):  # it is in nobody's way
            old.unlink()


def capture(learner, folder: Path | None = None) -> dict:
    """The state of a learner: a dataclass of modules, tensors and named tuples, nested at will.

    Rows of its replay buffers go to `folder`, and are on disk before this returns.
    """
    parts = {field.name: getattr(learner, field.name) for field in dataclasses.fields(learner)}
    return {name: _taken(part, folder and folder / name) for name, part in parts.items()}


def restore(learner, state: dict, folder: Path | None = None) -> None:
    """Put back what `capture` took. CheckpointError if it was taken of another kind of learner."""
    try:
        names = {field.name for field in dataclasses.fields(learner)}
        if names != state.keys():
            raise ValueError(f"it lacks or adds {', '.join(sorted(names ^ state.keys()))}")
        for name, saved in state.items():
            part = getattr(learner, name)
            setattr(learner, name, _put_back(part, saved, folder and folder / name))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the checkpoint is not of this version of the algorithm ({reason}); go on with the "
            "version that wrote it, which config.json names, or begin a new run"
        ) from error


def _taken(part, folder: Path | None = None):
    if isinstance(part, torch.Tensor):
        return part
    if isinstance(part, ReplayBuffer):
        return save_buffer(part, folder)
    if isinstance(part, tuple):
        return {name: _taken(value) for name, value in part._asdict().items()}
    return part.state_dict()


def _put_back(part, saved, folder: Path | None = None):
    """`part` as it was when `saved` was taken of it; a module is changed in place."""
    if isinstance(part, torch.Tensor):
        return saved
    if isinstance(part, ReplayBuffer):
        load_buffer(part, saved, folder)
        return part
    if isinstance(part, tuple):
        return type(part)(*(_put_back(x, saved[name]) for name, x in part._asdict().items()))
    part.load_state_dict(saved)
    return part


def load(
    folder: Path, say: Callable[[str], None], device: str | None = None
) -> tuple[int, dict] | None:
    """(iterations, state) of the newest sound checkpoint, None if there never was one.

    One that is damaged, or needs damaged rows of a replay buffer, is refused through `say`, and the
    one before is used; if all are damaged, CheckpointError. Tensors come to `device`; by default to
    where they were.
    """
    paths = _paths(folder)
    for path in reversed(paths):
        try:
            content = path.read_bytes()
        except OSError as error:
            say(f"{path} cannot be read ({error.strerror}): refused")
            continue
        digest, payload = content[:_HASH_BYTES], content[_HASH_BYTES:]
        if digest == hashlib.sha256(payload).digest():
            state = _unpacked(path, payload, device)
            try:
                _require_rows(state, folder)
            except SegmentError as error:
                say(f"{error}: {path.name}, which needs it, is refused")
                continue
            return int(path.stem), state
        say(f"{path} is damaged or cut short ({len(content)} bytes, wrong checksum): refused")
    if paths:
        raise CheckpointError(f"every checkpoint in {folder} is damaged; start in another --folder")
    return None


def clean(folder: Path) -> None:
    """Remove what writers that were killed have left by halves."""
    for path in folder.glob("*.partial"):
        if _NAME.fullmatch(f"{path.stem}.ckpt"):
            with contextlib.suppress(OSError):
                path.unlink()
    for path in folder.glob("*/*.partial"):  # of a replay buffer
        with contextlib.suppress(OSError):
            path.unlink()


def _require_rows(state: dict, folder: Path) -> None:
    """SegmentError unless the files of all replay buffers are whole."""
    for name, part in state.get("learner", {}).items():
        if isinstance(part, dict) and "segments" in part:
            for _ in read_segments(part, folder / name):
                pass


def _unpacked(path: Path, payload: bytes, device: str | None) -> dict:
    try:
        return torch.load(io.BytesIO(payload), device, weights_only=True)
    except Exception as error:  # the content is as it was written: versions or devices differ
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{path} is whole, but PyTorch {torch.__version__} cannot load it here ({reason}); go "
            "on with the version and the device that config.json names"
        ) from error


def _paths(folder: Path) -> list[Path]:
    """The checkpoints, oldest first; a folder that is named like one is none."""
    found = (path for path in folder.glob("*.ckpt") if _NAME.fullmatch(path.name))
    return sorted(path for path in found if path.is_file())


def _left(folder: Path, path: Path) -> str:
    """What there is to go on from if `path` cannot be written."""
    if [other for other in _paths(folder) if other != path]:
        return "earlier checkpoints are intact"
    return "there is no earlier one, so the run will begin anew"
