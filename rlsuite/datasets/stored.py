"""What a file declares, looked at before it is read: sizes, links, and why it cannot be opened.

A file from a stranger may declare arrays far larger than itself, or point to other files, which no
checksum of the set would cover. Only arrays that lie in the file itself, whole, are read.
"""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlsuite.core.buffers import free_memory
from rlsuite.datasets.transitions import DatasetError

SMALL = 1 << 30  # bytes that any file may unpack to
SHRINKS = 200  # logged numbers hardly shrink (D4RL's files by a tenth); zeros do so 1000 times
NUMBERS = "biuf"  # kinds of NumPy's dtypes
OPEN_ELSEWHERE = ("unable to lock file", "already open for write")  # in HDF5's messages


class Declared(NamedTuple):
    """Shape and dtype of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def unreadable(path: Path, fault: Exception, advice: str) -> DatasetError:
    """Why `path` could not be read, in one line."""
    why = " ".join(f"{type(fault).__name__}: {fault}".split())
    if any(words in why for words in OPEN_ELSEWHERE):
        return DatasetError(
            f"{path} is open for writing in another program, or was when that was killed; close it "
            f"there and try again ({why})"
        )
    return DatasetError(f"{path} cannot be read ({why}): {advice}")


def require_room(path: Path, need: int, size: int) -> None:
    """DatasetError unless a file of `size` bytes can hold arrays of `need` bytes, and memory, too.

    Called before anything is allocated.
    """
    if need <= SMALL:
        return
    if need > SHRINKS * size:
        raise DatasetError(
            f"{path} declares arrays of {need / 1e9:,.1f} GB in {size / 1e6:,.3f} MB; no logged "
            f"numbers shrink {SHRINKS} times: it is damaged, or made to fill the memory"
        )
    free = free_memory()
    if need > free:
        raise DatasetError(
            f"{path} unpacks to {need / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB of memory are free; "
            "close other programs, or take a smaller set"
        )


# ------------------------------------------------------------------------------------- HDF5


def hdf5_object(path: object, group, name: str):
    """What `name` (with slashes: of a subgroup) is in a low-level h5py group.

    Raises DatasetError for a link to anywhere else, KeyError if it is missing.
    """
    from h5py import h5l, h5o

    for part in name.encode().split(b"/"):
        try:
            link = group.links.get_info(part)
        except RuntimeError:
            raise KeyError(f"there is no {name}") from None
        if link.type != h5l.TYPE_HARD:
            raise DatasetError(
                f"{path}: {name} is a link to another file or name, which is not followed; put the "
                "array itself into the file"
            )
        group = h5o.open(group, part)
    return group


def hdf5_array(path: object, group, name: str) -> tuple[object, Declared]:
    """The array `name` of a low-level h5py group, not yet read, and what it declares.

    Raises as `hdf5_object`; DatasetError, too, if it lies in another file, is no array of numbers,
    or is not all there.
    """
    from h5py import h5d

    stored = hdf5_object(path, group, name)
    if not isinstance(stored, h5d.DatasetID):
        raise DatasetError(f"{path}: {name} is a group; only flat arrays can be read")
    declared = Declared(tuple(stored.shape or ()), stored.dtype)
    _require_whole(path, name, stored, declared)
    return stored, declared


def _require_whole(path: object, name: str, stored, declared: Declared) -> None:
    from h5py import h5d

    plist = stored.get_create_plist()
    layout = plist.get_layout()
    if layout == h5d.VIRTUAL or plist.get_external_count():
        raise DatasetError(
            f"{path}: {name} lies in other files, which are not followed; put the array itself "
            "into the file"
        )
    if declared.dtype.kind not in NUMBERS:
        raise DatasetError(f"{path}: {name} holds {declared.dtype}; only numbers can be read")
    if declared.nbytes == 0:
        return
    whole = True
    if layout == h5d.CHUNKED:
        pieces = zip(declared.shape, plist.get_chunk(), strict=True)
        whole = stored.get_num_chunks() >= math.prod(-(-n // piece) for n, piece in pieces)
    elif layout == h5d.CONTIGUOUS:
        whole = stored.get_storage_size() >= declared.nbytes
    if not whole:
        raise DatasetError(
            f"{path}: {name} declares {list(declared.shape)}, {declared.nbytes / 1e6:,.1f} MB, and "
            f"holds {stored.get_storage_size() / 1e6:,.1f} MB of them: it is damaged or was never "
            "written to its end; copy or collect it again"
        )


# ------------------------------------------------------------------------------------- .npz


def npz_declared(path: Path, archive: zipfile.ZipFile, key: str, kinds: str = NUMBERS) -> Declared:
    """Of the array `key` of an .npz; its content is not unpacked. KeyError if it is missing.

    Raises DatasetError if its dtype is none of `kinds`, or it is shorter than it declares.
    """
    member = archive.getinfo(f"{key}.npy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}
        read[2, 0] = np.lib.format.read_array_header_2_0
        shape, _, dtype = read[version](file)
        at = file.tell()
    declared = Declared(shape, dtype)
    if dtype.kind not in kinds:
        raise DatasetError(f"{path} cannot be read ({key} holds {dtype}): copy it again as numbers")
    if member.file_size - at != declared.nbytes:
        raise DatasetError(
            f"{path} cannot be read ({key} declares {list(shape)}, {declared.nbytes / 1e6:,.1f} "
            f"MB, and holds {(member.file_size - at) / 1e6:,.1f} MB): it is damaged or cut short; "
            "copy it again"
        )
    return declared


def declared(path: Path, file: Mapping, key: str) -> Declared:
    """Of the array `key` of an open .npz or h5py file. Raises as `hdf5_array`, `npz_declared`."""
    if isinstance(file, np.lib.npyio.NpzFile):
        return npz_declared(path, file.zip, key)
    return hdf5_array(path, file.id, key)[1]
