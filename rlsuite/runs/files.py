"""Files that are there whole or not at all, whatever ends the process or the power."""

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, *parts: bytes) -> None:
    """Write `parts` as the file `path`, which keeps its old content until the new one is on disk.

    OSError, with the old content intact, if it cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):  # there may be none, or no permission to remove it
            partial.unlink()
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until the file `path` is on disk; of a folder, the names of its files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
