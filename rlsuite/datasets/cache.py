"""Flat arrays on disk: a set is read once, and any number of processes then map the same files.

Under the cache's folder lie `SHA-KEY/`, an `.npy` per field and `about.json`; `sources/`, what is
known of each source's content; and `locks/`. A folder gets its name once it is whole. Sizes and
headers are checked when it is opened, not every byte. All of it may be removed at any time.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from rlsuite.core.caches import root
from rlsuite.datasets.transitions import DatasetError, Transitions

LAYOUT = 2  # one more whenever the readers come to give other arrays for the same source
FIELDS = [field.name for field in fields(Transitions) if field.name != "metadata"]
# A clock of files may tick so slowly (nanoseconds): what changed just now may change unseen again
SETTLED = 2 * 10**9
FAULTS = (OSError, EOFError, ValueError, LookupError, TypeError)  # of what was written by halves


def digest(source: Path) -> str:
    """SHA-256 of a file; of a folder, of the lines that `sha256sum` prints for its files in order.

    It is remembered with the sizes and times of the files: what has not changed is not read again.
    The time of the last change to the entry itself is among them, which no program can set back.
    """
    source = source.resolve()
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    names = [file.relative_to(source).as_posix() for file in files]
    states = [file.stat() for file in files]
    stamp = [
        [name, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        for name, state in zip(names, states, strict=True)
    ]
    now = time.time_ns()
    note = root() / "sources" / f"{_sha256(str(source))[:16]}.json"
    with contextlib.suppress(*FAULTS):
        known = json.loads(note.read_text())
        if known["files"] == stamp:
            return known["sha256"]
    sums = [_file_sha256(file) for file in files]
    lines = "".join(f"{value}  {name}\n" for value, name in zip(sums, names, strict=True))
    result = sums[0] if source.is_file() else _sha256(lines)
    if any(now - state.st_ctime_ns < SETTLED for state in states):
        return result
    with _explained(note.parent):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".partial-{os.getpid()}")
        known = {"path": str(source), "sha256": result, "files": stamp}
        partial.write_text(json.dumps(known))
        os.replace(partial, note)
    return result


def fetch(
    request: dict, build: Callable[[], Transitions], say: Callable[[str], None]
) -> Transitions:
    """The arrays for `request`, mapped from the cache; `build` makes them where they are not there.

    `request` holds, in JSON's types, all that decides the arrays, `sha256` of the source among
    it. Of several processes with the same request one builds and the others wait for it. A damaged
    folder is built again, and `say` gets a line.

    Raises DatasetError if the cache cannot be written, and whatever `build` raises.
    """
    key = _sha256(json.dumps({"layout": LAYOUT, **request}, sort_keys=True))
    folder = root() / f"{request['sha256'][:16]}-{key[:8]}"
    with contextlib.suppress(*FAULTS):  # looked into under the lock
        return _open(folder)
    with _locked(folder):
        if folder.exists():
            try:
                return _open(folder)
            except FAULTS as fault:
                say(f"{folder} is damaged ({fault}); building it again")
                shutil.rmtree(folder)
        _write(build(), folder, request)
    return _open(folder)


def _open(folder: Path) -> Transitions:
    """Raises one of FAULTS for a folder that is missing or not whole."""
    contents = json.loads((folder / "about.json").read_text())
    arrays = {}
    for name in FIELDS:
        values = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        if [list(values.shape), values.dtype.str] != contents["arrays"][name]:
            raise ValueError(f"{name}.npy holds {values.dtype} {list(values.shape)}")
        arrays[name] = values
    return Transitions(**arrays, metadata=contents["about"])


def _write(data: Transitions, folder: Path, request: dict) -> None:
    partial = folder.with_name(f"{folder.name}.partial")  # one at a time: the lock is held
    arrays = {name: getattr(data, name) for name in FIELDS}
    size = sum(values.nbytes for values in arrays.values())
    with _explained(folder, size):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        contents = {"about": data.metadata, "wish": request}
        contents["arrays"] = {k: [list(v.shape), v.dtype.str] for k, v in arrays.items()}
        for name, values in arrays.items():
            with open(partial / f"{name}.npy", "wb") as file:
                np.save(file, values, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        (partial / "about.json").write_text(json.dumps(contents, indent=1))
        os.rename(partial, folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with _explained(folder):
        (folder.parent / "locks").mkdir(parents=True, exist_ok=True)
        file = os.open(folder.parent / "locks" / folder.name, os.O_CREAT | os.O_RDWR, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(file)  # gives the lock back, as does the end of the process


@contextlib.contextmanager
def _explained(folder: Path, size: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        need = f" with room for {size / 1e9:.2f} GB" if size else ""
        raise DatasetError(
            f"cannot write {folder} ({fault.strerror or fault}); name another folder{need} for the "
            "cache: RLSUITE_CACHE=FOLDER"
        ) from fault


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
