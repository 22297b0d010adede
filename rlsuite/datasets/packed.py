"""Sets in a small form that a repository can carry, as `rlsuite data pack` writes it.

A packed set is a folder: `metadata.json` as in the set, and `policies/`, from which it is rolled
out again, or `rows.npz`, all its numbers without loss. There, bytes of float32 of the same place
lie side by side, column by column, which LZMA packs to about 0.8 of their size.
"""

import json
import lzma
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlsuite.datasets import behaviour, collect, kept, minari, store
from rlsuite.datasets.episodes import MAIN_FILE
from rlsuite.datasets.minari import METADATA, Episode
from rlsuite.datasets.recipes import Recipe
from rlsuite.datasets.transitions import DatasetError

ROWS = "rows.npz"
NUMBERS = ("obs", "action", "reward", "log_prob")
# What a set says of where it comes from; the rest is found again as it is written
ORIGIN = ("algorithm_name", "description", "source", "level", "run", "remarks")
MINARIS = ("dataset_id", "minari_version", "data_format", "total_episodes", "total_steps")
MINARIS += ("dataset_size", "jpeg_encoding", "observation_space", "action_space", "env_spec")
FAULTS = (OSError, EOFError, LookupError, TypeError, ValueError, AttributeError)
FAULTS += (zipfile.BadZipFile, lzma.LZMAError)


def pack(name: str, to: Path) -> Path:
    """Pack the set `name` into a folder of that name below `to`; that folder.

    DatasetError for a set that was not kept of a run, and for a folder that exists.
    """
    path, _ = store.locate(name)
    source = path / "data" / METADATA
    declared = json.loads(source.read_text()) if source.is_file() else {}
    if "checksum" not in declared:
        raise DatasetError(f"{name} was not kept of a run; rlsuite data keep makes such sets")
    folder = to / declared["dataset_id"]
    if folder.exists():
        raise DatasetError(f"{folder} exists; remove it, or give --to another folder")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        shutil.copy(source, partial)
        if "recipe" not in declared:
            _write_rows(partial / ROWS, _episodes(path, declared["total_episodes"]))
        elif (path / kept.POLICIES).is_dir():
            shutil.copytree(path / kept.POLICIES, partial / kept.POLICIES)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def found(folder: Path) -> list[Path]:
    """The packed sets in `folder` and below. DatasetError if there are none."""
    sets = sorted(path.parent for path in folder.rglob(METADATA))
    if not sets:
        raise DatasetError(f"{folder} holds no packed set (no {METADATA}); name a folder with some")
    return sets


def local(folder: Path) -> Path | None:
    """Where the set that is packed in `folder` lies on this machine, if it does."""
    path = minari.root() / _said(folder)["dataset_id"]
    return path if path.exists() else None


def steps(folder: Path) -> int:
    """Transitions of the set that is packed in `folder`."""
    return _said(folder)["total_steps"]


def _said(folder: Path) -> dict:
    """The metadata of a packed set. DatasetError if they are damaged."""
    try:
        declared = json.loads((folder / METADATA).read_text())
        kinds = {"dataset_id": str, "total_steps": int, "task": str, "checksum": str, "run": dict}
        wrong = [key for key, kind in kinds.items() if not isinstance(declared[key], kind)]
        if wrong or not re.fullmatch(r"[-\w]+(/[-\w]+)*", declared["dataset_id"]):
            raise ValueError(f"bad {', '.join(wrong) or 'name'}")
        return declared
    except FAULTS as error:
        raise DatasetError(f"{folder} is damaged ({error}); fetch it again") from None


def restore(
    folder: Path, say: Callable[[str], None], progress: collect.Progress = collect._silent
) -> Path:
    """Make the set again that is packed in `folder`; its folder among the local sets.

    `say` is told where policies have acted otherwise than on the machine that packed it. Raises
    DatasetError for a set that is there already, and for one that is damaged.
    """
    declared = _said(folder)
    name, task = declared["dataset_id"], declared["task"]
    minari.require_free(name)
    try:
        if "recipe" in declared:
            metadata = {key: declared[key] for key in ORIGIN}
            recipe, seed = Recipe(**declared["recipe"]), declared["run"]["seed"]
            path = kept.roll_out(recipe, folder / kept.POLICIES, seed, metadata, progress)
            now = json.loads((path / "data" / METADATA).read_text())["checksum"]
            if now != declared["checksum"]:
                say(f"{name}: other numbers than where it was packed, by rounding or versions")
            return path
        episodes = _read_rows(folder / ROWS)
        if kept.checksum(episodes) != declared["checksum"]:
            raise ValueError("wrong checksum")
    except DatasetError:
        raise
    except FAULTS as error:
        raise DatasetError(f"{folder} is damaged ({error}); fetch it again") from None
    metadata = {key: value for key, value in declared.items() if key not in (*MINARIS, "task")}
    return minari.write_episodes(name, task, episodes, metadata)


def _episodes(path: Path, count: int) -> list[Episode]:
    """The episodes of a set of this suite, in the dtypes that it stores."""
    import h5py

    episodes = []
    with h5py.File(path / "data" / MAIN_FILE, "r") as file:
        for number in range(count):
            group = file[f"episode_{number}"]
            arrays = [group[key][:] for key in ("observations", "actions", "rewards")]
            ends = [bool(group[key][-1]) for key in ("terminations", "truncations")]
            log_prob = group["infos"].get("log_prob")
            episodes.append(Episode(*arrays, *ends, None if log_prob is None else log_prob[:]))
    return episodes


def _write_rows(path: Path, episodes: list[Episode]) -> None:
    """All of `episodes`, float32 alone, the same bytes for the same numbers."""
    arrays = {
        "lengths": np.array([len(e.reward) for e in episodes]),
        "ends": np.array([[e.terminated, e.truncated] for e in episodes]),
    }
    for name in NUMBERS:
        arrays[name] = _bytes(np.concatenate([getattr(e, name) for e in episodes]))
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_LZMA
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def _read_rows(path: Path) -> list[Episode]:
    with behaviour.archive(path) as arrays:
        lengths, ends = arrays["lengths"], arrays["ends"].tolist()
        columns = {name: _numbers(arrays[name]) for name in NUMBERS}
    cuts = np.cumsum(lengths)[:-1]
    obs = np.split(columns["obs"], cuts + np.arange(1, len(lengths)))
    rest = [np.split(columns[name], cuts) for name in ("action", "reward", "log_prob")]
    rest[1:] = [[values[:, 0] for values in part] for part in rest[1:]]
    episodes = zip(obs, *rest, ends, strict=True)
    return [Episode(o, a, r, *flags, p) for o, a, r, p, flags in episodes]


def _bytes(values: np.ndarray) -> np.ndarray:
    """Bytes [4, columns, n] of float32 [n, columns] or [n]."""
    if values.dtype != np.float32:
        raise DatasetError(f"numbers are {values.dtype}; only float32 can be packed")
    columns = np.ascontiguousarray(values.reshape(len(values), -1).T, "<f4")
    parts = columns.view(np.uint8).reshape(*columns.shape, 4)
    return np.ascontiguousarray(np.moveaxis(parts, -1, 0))


def _numbers(parts: np.ndarray) -> np.ndarray:
    """What `_bytes` was given, [n, columns]."""
    columns = np.ascontiguousarray(np.moveaxis(parts, 0, -1)).view("<f4")[..., 0]
    return np.ascontiguousarray(columns.T)
