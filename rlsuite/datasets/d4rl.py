"""D4RL's files (.hdf5, or .npz with the same keys) as flat transitions, without D4RL itself.

A file holds rows as they were logged: observations, actions, rewards, terminals, timeouts, and in
some files next_observations. Reading follows `d4rl.qlearning_dataset`:

- without next_observations the next row's observation stands in for them, and the last row, which
  has no next row, is dropped. At a terminal that is the next episode's first observation: masked
  wherever a value is bootstrapped, but visible to statistics of next_obs;
- a row at a time-out is dropped, because its next row belongs to another episode. A row that is
  both terminal and time-out is dropped, too;
- a file without `timeouts` is cut by the task's time limit, counted anew after each end. D4RL is
  off by one there: after a terminal it starts at 1, so that the next time-out comes a row early and
  its transitions cross into the following episode. Here the count starts at 0 each time;
- float64 becomes float32; actions [N] of floats become [N, 1].

Unlike D4RL, next_observations are used where the file has them. The last row then stays, and
`timeouts="kept"` keeps the rows at time-outs, with their true next observation.
"""

import contextlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlsuite.datasets import stored, writing
from rlsuite.datasets.transitions import (
    DatasetError,
    Transitions,
    finite_rows,
    skip_command,
    skipped,
)
from rlsuite.envs.tasks import TASKS

SUFFIXES = (".hdf5", ".h5", ".npz")
TIMEOUTS = ("kept", "dropped")
REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")
OBSERVATIONS = ("observations", "next_observations")
FLAGS = ("terminals", "timeouts")
# Of files that `write` wrote; D4RL's own have none
ATTRIBUTES = {"task": str, "source": str, "action_low": list, "action_high": list}
ATTRIBUTES |= {"action_start": int, "action_count": int}
PART = 1_000_000  # rows at a time
# What NumPy, zipfile and h5py raise on damaged files
FAULTS = (OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError)
FAULTS += (zipfile.BadZipFile, zlib.error)


class Family(NamedTuple):
    """What D4RL's name of a task stands for. Actions lie in [-1, 1] unless the task says so."""

    task: str | None  # closest task of today's Gymnasium, None where observations differ
    time_limit: int | None  # D4RL's, in steps; None where it differs from maze to maze


FAMILIES = {
    "halfcheetah": Family("HalfCheetah-v4", 1000),
    "hopper": Family("Hopper-v4", 1000),
    "walker2d": Family("Walker2d-v4", 1000),
    "walker": Family("Walker2d-v4", 1000),  # walker_mixed.hdf5, of version 0
    "ant": Family("Ant-v4", 1000),
    "pen": Family("AdroitHandPen-v1,max_episode_steps=100", 100),  # 200 in Gymnasium's
    "hammer": Family("AdroitHandHammer-v1", 200),
    "door": Family("AdroitHandDoor-v1", 200),
    "relocate": Family("AdroitHandRelocate-v1", 200),
    "kitchen": Family(None, 280),
    "antmaze": Family(None, None),
    "maze2d": Family(None, None),
}


def family(name: str) -> Family | None:
    """The family that a file's or a set's name speaks of: `hopper-medium-v2` of Hopper-v4."""
    return next((FAMILIES[word] for word in _words(name) if word in FAMILIES), None)


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.lower().replace("ant_maze", "antmaze"))


def read(
    path: Path,
    timeouts: str = "dropped",
    time_limit: int | None = None,
    skip_damaged: bool = False,
) -> Transitions:
    """The transitions of a D4RL file, by the rules above.

    `time_limit`, in steps, is used where the file has no `timeouts`; by default that of the family
    in the file's name. `skip_damaged` leaves out the episodes that hold a number or a flag which is
    none. `metadata` holds an action box only if `write` wrote the file.

    Raises DatasetError naming the file: missing, damaged, cut short, keys that are missing or do
    not fit one another, empty, or `timeouts="kept"` without next_observations.
    """
    if timeouts not in TIMEOUTS:
        raise DatasetError(f"timeouts {timeouts!r} is unknown; use one of {', '.join(TIMEOUTS)}")
    columns, declared = _columns(path)
    _check_shapes(path, columns)
    sound = _sound_flags(path, columns, skip_damaged)
    terminated = columns.pop("terminals")
    truncated = columns.pop("timeouts", None)
    if truncated is None:
        truncated = _cut_by_limit(path, terminated, time_limit)
    last = terminated | truncated
    last[-1] = True
    arrays = {
        "obs": columns.pop("observations"),
        "action": columns.pop("actions"),
        "reward": columns.pop("rewards"),
        "terminated": terminated,
        "truncated": truncated,
        "last": last,
    }
    if "next_observations" in columns:
        arrays["next_obs"] = columns.pop("next_observations")
    elif timeouts == "kept":
        raise DatasetError(
            f"{path} has no 'next_observations', so rows at a time limit have no true next "
            "observation and cannot be kept; leave the choice out, or say timeouts dropped"
        )
    else:
        following = arrays["obs"][1:].copy()
        arrays = {key: values[:-1] for key, values in arrays.items()}
        arrays["next_obs"] = following
    remarks = _skip_damaged(arrays, sound[: len(arrays["reward"])]) if skip_damaged else []
    if timeouts == "dropped":
        keep_rows(arrays, ~arrays["truncated"])
    if len(arrays["reward"]) == 0:
        raise DatasetError(
            f"{path}: no transition is left of {len(terminated)} rows: the last one and those at a "
            "time limit have no next observation; collect or copy the set again"
        )
    metadata = {"name": path.stem, "format": "d4rl", "path": str(path), "sha256": None}
    metadata["remarks"] = remarks
    metadata |= {key: declared.get(key) for key in ATTRIBUTES}
    metadata |= {"task": task(path), "timeouts": timeouts}
    metadata["source"] = declared.get("source", "unknown")
    return Transitions(**arrays, metadata=metadata)


def keep_rows(arrays: dict[str, np.ndarray], keep: np.ndarray) -> None:
    """Leave in each of `arrays` [N, ...], in place, the rows where `keep` [N]; `last` moves along.

    `last` then marks the last row that is left of each episode. Needs no second copy of the set.
    """
    episode = np.cumsum(arrays["last"], dtype=np.int32) - arrays["last"]
    arrays["episode"] = episode
    rows = np.flatnonzero(keep)
    for key, values in arrays.items():
        for start in range(0, len(rows), PART):  # rows[k] >= k, so what is to come is still there
            part = rows[start : start + PART]
            values[start : start + len(part)] = values[part]
        arrays[key] = values[: len(rows)]
    episode = arrays.pop("episode")
    arrays["last"] = np.append(episode[1:] != episode[:-1], True)[: len(rows)]


def write(data: Transitions, path: Path) -> None:
    """Write `data` as a D4RL file with next_observations, whole or not at all.

    D4RL has no word for an episode that stops without a reason: inside the file it becomes a
    time-out. Task, source and action box go along as attributes of the file.

    Raises DatasetError for a name that is taken or does not end in .hdf5, and where rows at time
    limits were dropped, because the file could not say so.
    """
    if path.suffix != ".hdf5":
        raise DatasetError(f"{path}: a D4RL file's name ends in .hdf5; type {path.stem}.hdf5")
    if path.exists():
        raise DatasetError(f"{path} exists; choose another name, or remove it first")
    if data.metadata["timeouts"] == "dropped":
        raise DatasetError(
            f"{data.metadata['name']}: rows at time limits are missing, which a D4RL file cannot "
            "say; load it with timeouts kept, if it has the true next observations"
        )
    timeouts = data.truncated | (data.last & ~data.terminated)
    timeouts[-1] = data.truncated[-1]
    columns = {"observations": data.obs, "actions": data.action, "rewards": data.reward}
    columns |= {"next_observations": data.next_obs, "terminals": data.terminated}
    size = sum(values.nbytes for values in columns.values())
    advice = f"make room for {size / 1e6:,.0f} MB, or name a file elsewhere"
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with writing.hdf5(partial, path, advice) as (file, raw):
            for key, values in (columns | {"timeouts": timeouts}).items():
                file.create_dataset(key, data=values)
                raw.check()
            for key in ATTRIBUTES:
                if data.metadata.get(key) is not None:
                    file.attrs[key] = data.metadata[key]
        with writing.explained(path, advice):
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def task(path: Path) -> str | None:
    """The task that a file says, or its name: of D4RL, or one with a single version, as Pendulum.

    Raises DatasetError if the file cannot be read.
    """
    with _opened(path) as file:
        declared = _attributes(file).get("task")
    known, words = family(path.stem), _words(path.stem)
    if declared or known:
        return declared or known.task
    named = [task for task in TASKS if task.split("-")[0].lower() in words]
    return named[0] if len(named) == 1 else None


def count(path: Path) -> int:
    """Rows of a D4RL file, time-outs included. Raises DatasetError if it cannot be read."""
    with _opened(path) as file:
        _require_keys(path, file)
        return stored.declared(path, file, "rewards").shape[0]


# ------------------------------------------------------------------------------------- columns


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Mapping]:
    """The file as {key: array}; faults while it is open become DatasetError."""
    if path.suffix not in SUFFIXES:
        raise DatasetError(f"{path} is no D4RL file: its name must end in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; `rlsuite data list` shows what is here")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                yield file
        else:
            import h5py

            with h5py.File(path, "r") as file:
                yield file
    except DatasetError:
        raise
    except FAULTS as fault:
        advice = "it is damaged or cut short; copy it again"
        raise stored.unreadable(path, fault, advice) from fault


def _columns(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """({key: array [N, ...]} in the dtypes of `Transitions`, what `write` said of the file)."""
    with _opened(path) as file:
        _require_keys(path, file)
        found = _names(file)
        known = {
            key: stored.declared(path, file, key) for key in (*REQUIRED, *OPTIONAL) if key in found
        }
        need = sum(each.nbytes for each in known.values())
        stored.require_room(path, need, path.stat().st_size)
        columns = {key: _column(key, file[key]) for key in known}
        return columns, _attributes(file)


def _names(file: Mapping) -> set[str]:
    """What the file holds, by name; links are not followed."""
    return set(file.files if isinstance(file, np.lib.npyio.NpzFile) else file)


def _attributes(file: Mapping) -> dict:
    attributes = getattr(file, "attrs", {})  # HDF5 has them, .npz has not
    found = {key: attributes[key] for key in ATTRIBUTES if key in attributes}
    found = {key: v.tolist() if hasattr(v, "tolist") else v for key, v in found.items()}
    return {key: value for key, value in found.items() if isinstance(value, ATTRIBUTES[key])}


def _require_keys(path: Path, file: Mapping) -> None:
    found = _names(file)
    missing = [key for key in REQUIRED if key not in found]
    if missing:
        raise DatasetError(
            f"{path} has no {' and no '.join(map(repr, missing))}: it holds "
            f"{', '.join(sorted(found)[:20]) or 'nothing'}. Give a file with {', '.join(REQUIRED)}"
        )


def _column(key: str, array) -> np.ndarray:
    """In the dtype of `Transitions`, flags as they are stored; [N, 1] becomes [N] for one number a
    row, and [N] becomes [N, 1] for actions of floats."""
    discrete = key == "actions" and array.dtype.kind in "iu"
    flag = key in FLAGS
    dtype = np.dtype(array.dtype if flag else np.int64 if discrete else np.float32)
    if not isinstance(array, np.ndarray) and array.dtype.kind == dtype.kind == "f":
        array = array.astype(dtype)  # HDF5 converts piece by piece, NumPy would need both at once
    values = np.asarray(array[()]).astype(dtype, copy=False)
    single = flag or discrete or key == "rewards"
    if key == "actions" and not discrete and values.ndim == 1:
        return values[:, None]
    return values[:, 0] if single and values.ndim == 2 and values.shape[1] == 1 else values


def _sound_flags(path: Path, columns: dict[str, np.ndarray], skip_damaged: bool) -> np.ndarray:
    """Turn the flags into booleans, in place; where both were [N].

    DatasetError for one that is neither 0 nor 1, unless `skip_damaged`: it then counts as 0.
    """
    sound = np.ones(len(columns["rewards"]), bool)
    for key in FLAGS:
        if key not in columns:
            continue
        good = (columns[key] == 0) | (columns[key] == 1)
        if not good.all() and not skip_damaged:
            row = int(good.argmin())
            raise DatasetError(
                f"{path}: {key} of row {row} is {columns[key][row]}, and must be 0 or 1: which "
                "transitions end an episode is not known there; to leave out such episodes, type: "
                f"{skip_command(path)}"
            )
        columns[key] = (columns[key] == 1) & good
        sound &= good
    return sound


def _skip_damaged(arrays: dict[str, np.ndarray], sound: np.ndarray) -> list[str]:
    """Leave out, in place, episodes with a row that is not `sound` [N] or not finite; a remark."""
    for key in ("obs", "action", "reward", "next_obs"):
        sound = sound & finite_rows(arrays[key])
    number = np.cumsum(arrays["last"]) - arrays["last"]
    damaged = np.unique(number[~sound])
    keep_rows(arrays, ~np.isin(number, damaged))
    return [skipped(damaged.tolist(), int(number[-1]) + 1)] if len(damaged) else []


def _check_shapes(path: Path, columns: dict[str, np.ndarray]) -> None:
    discrete = columns["actions"].dtype == np.int64
    axes = dict.fromkeys(OBSERVATIONS, 2) | {"actions": 1 if discrete else 2}
    for key, values in columns.items():
        if values.ndim != axes.get(key, 1):
            raise DatasetError(
                f"{path}: {key} has shape {list(values.shape)}; needed are observations [N, O], "
                "actions [N, A] (or whole numbers [N]), and one number a row for the others"
            )
    n = len(columns["rewards"])
    if n == 0:
        raise DatasetError(f"{path} holds no transition; collect or copy it again")
    for key, values in columns.items():
        if len(values) != n:
            raise DatasetError(
                f"{path}: {key} has {len(values)} rows and rewards has {n}; the file is damaged or "
                "cut short, copy it again"
            )
    shapes = [columns.get(key, columns["observations"]).shape for key in OBSERVATIONS]
    if shapes[0] != shapes[1]:
        raise DatasetError(
            f"{path}: {' and '.join(OBSERVATIONS)} have shapes {list(shapes[0])} and "
            f"{list(shapes[1])}; they must be the same"
        )
    if discrete and columns["actions"].min() < 0:
        row = int(columns["actions"].argmin())
        raise DatasetError(
            f"{path}: action of row {row} is {columns['actions'][row]}; discrete actions are "
            "numbered from 0"
        )


def _cut_by_limit(path: Path, terminated: np.ndarray, time_limit: int | None) -> np.ndarray:
    """Where an episode's `time_limit`-th step lies [N], of a file that does not say."""
    known = family(path.stem)
    limit = time_limit or (known.time_limit if known else None)
    if limit is None:
        raise DatasetError(
            f"{path} has no 'timeouts', and the time limit of its task is not known; name the task "
            "(--task Hopper-v4), or add 'timeouts' to the file"
        )
    row = np.arange(len(terminated))
    first = np.maximum.accumulate(np.where(np.append(True, terminated[:-1]), row, 0))
    return (row - first) % limit == limit - 1
