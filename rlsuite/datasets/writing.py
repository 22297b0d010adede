"""Writing a set's files: whole or not at all, and one line if the disk is full."""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rlsuite.datasets.transitions import DatasetError


class PatientFile(io.FileIO):
    """A file for HDF5, which cannot bear a failed write: it would fail again whenever it is closed.

    The first fault is kept in `fault`, and what comes after it goes nowhere.
    """

    fault: OSError | None = None

    def write(self, part) -> int:
        left = memoryview(part).cast("B")
        size = len(left)
        try:
            while self.fault is None and len(left):
                left = left[super().write(left) :]
        except OSError as fault:
            self.fault = fault
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as fault:
            self.fault = self.fault or fault
            return size or 0

    def readinto(self, part) -> int:
        """Zeros beyond the end, where a write failed."""
        found = super().readinto(part)
        if self.fault is not None:
            memoryview(part).cast("B")[found:] = bytes(len(part) - found)
            return len(part)
        return found

    def check(self) -> None:
        """Raise the fault, if there was one."""
        if self.fault is not None:
            raise self.fault


@contextlib.contextmanager
def hdf5(path: Path, name: object, advice: str) -> Iterator[tuple[object, PatientFile]]:
    """A new HDF5 file, and the file below it, to `check` after each part.

    Raises DatasetError with the set's `name` and `advice` if the file cannot be written.
    """
    import h5py

    with explained(name, advice), PatientFile(path, "w+") as raw:
        try:
            with h5py.File(raw, "w") as file:
                yield file, raw
        except (RuntimeError, ValueError):  # of HDF5, over what it could not read back
            raw.check()
            raise
        raw.check()
        os.fsync(raw.fileno())


@contextlib.contextmanager
def explained(name: object, advice: str) -> Iterator[None]:
    """An OSError becomes a DatasetError that says what was kept, and `advice`."""
    try:
        yield
    except OSError as fault:
        raise DatasetError(
            f"cannot write {name} ({fault.strerror or fault}); nothing of it was kept: {advice}"
        ) from fault


def require_disk(folder: Path, need: int, advice: str) -> None:
    """DatasetError unless `folder`, or where it is to be made, has room for `need` bytes."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free < need:
        raise DatasetError(
            f"{folder} has room for {free / 1e6:,.0f} MB, and the set needs about "
            f"{need / 1e6:,.0f} MB: {advice}"
        )
