"""The episodes of a Minari set, joined to flat arrays.

Files of hdf5 are read below h5py's usual layer: 45,000 short episodes then take two fifths of the
time of Minari's own loop. Other formats go through Minari.
"""

import math
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np

from rlsuite.datasets.stored import (
    Declared,
    hdf5_array,
    hdf5_object,
    require_room,
)
from rlsuite.datasets.transitions import DatasetError, finite_rows, skip_command

MAIN_FILE = "main_data.hdf5"  # Minari's name
FIELDS = ("obs", "next_obs", "action", "reward", "terminated", "truncated", "last")
FLAGS = ("terminated", "truncated")
STORED = ("actions", "rewards", "terminations", "truncations")
FAULTS = (OSError, KeyError, ValueError, TypeError, RuntimeError)  # of h5py, and DatasetError
# (observations float32 [T + 1, O], actions, rewards, terminations, truncations [T]) of an episode
Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Damage(Exception):
    """An episode cannot be used; the message follows its number."""


def joined(dataset, path: Path, skip_damaged: bool = False) -> tuple[dict, list[int]]:
    """The fields of `Transitions`, all rows of a `minari.MinariDataset`, which lies in `path`; and
    the numbers of the episodes that were left out, if `skip_damaged`.

    Raises DatasetError for spaces that are not supported, for arrays that do not fit, and, with its
    number, for an episode without steps, one that does not fit or ends twice. Whatever pyarrow or
    Minari raise on damaged files comes through.
    """
    rows, promised, arrays, skipped = 0, dataset.total_steps, {}, []
    for number, columns in enumerate(_episodes(dataset, path)):
        try:
            parts = _parts(columns, dataset.action_space, arrays, path, skip_damaged)
        except Damage as damage:
            if not skip_damaged:
                raise DatasetError(
                    f"{path}: episode {number} {damage}; to leave out such episodes, type: "
                    f"{skip_command(dataset.id)}"
                ) from None
            skipped.append(number)
            continue
        steps = len(parts["reward"])
        if not arrays:  # made once: joined from parts, a set would lie in memory twice
            arrays = _room(path, parts, promised)
        if rows + steps <= promised:
            for key, values in parts.items():
                arrays[key][rows : rows + steps] = values
        rows += steps
    if rows > promised or (rows < promised and not skipped):
        raise DatasetError(
            f"{path}: its metadata speaks of {promised} steps, its episodes hold {rows}; it is "
            "damaged; download, convert or collect it again"
        )
    if rows == 0:
        raise DatasetError(f"{path} holds no transition; download, convert or collect it again")
    return {key: values[:rows] for key, values in arrays.items()}, skipped


def _room(path: Path, parts: dict[str, np.ndarray], promised: int) -> dict[str, np.ndarray]:
    """Arrays for all `promised` rows, like the first episode's. DatasetError if they cannot be."""
    shapes = {key: (promised, *values.shape[1:]) for key, values in parts.items()}
    kinds = {key: np.dtype(_kind(key, values)) for key, values in parts.items()}
    need = sum(Declared(shapes[key], kinds[key]).nbytes for key in parts)
    files = (file for file in (path / "data").rglob("*") if file.is_file())
    require_room(path, need, sum(file.stat().st_size for file in files))
    return {key: np.empty(shapes[key], kinds[key]) for key in parts}


def _kind(field: str, values: np.ndarray) -> type:
    if field in (*FLAGS, "last"):
        return bool
    return np.int64 if field == "action" and values.ndim == 1 else np.float32


def _parts(
    columns: Columns | Exception, space, before: dict, path: Path, check_numbers: bool
) -> dict[str, np.ndarray]:
    """The fields of one episode. Damage if it cannot be used; `before` are arrays it must fit."""
    if isinstance(columns, Exception):
        raise Damage(f"cannot be read ({type(columns).__name__}: {columns})")
    obs, action, reward, *flags = columns
    steps = len(reward)
    if any(len(values) != steps for values in (obs[1:], action, *flags)):
        raise Damage(
            f"has {len(obs)} observations, {len(action)} actions and {steps} rewards; one "
            "observation more is right. The set is damaged"
        )
    if steps == 0:
        raise Damage("has no steps")
    action = _numbered(path, action, space)
    reward, *flags = (_one_a_row(values) for values in (reward, *flags))
    for name, values in zip(FLAGS, flags, strict=True):
        _require_flags(name, values)
    ends = np.arange(steps) == steps - 1
    parts = dict(zip(FIELDS, (obs[:-1], obs[1:], action, reward, *flags, ends), strict=True))
    for key, values in parts.items():
        if key in before and values.shape[1:] != before[key].shape[1:]:
            shapes = f"{list(values.shape[1:])}, and those before it {list(before[key].shape[1:])}"
            raise Damage(f"has {key} of shape {shapes}")
        if check_numbers and not finite_rows(values).all():
            raise Damage(f"has {key} that are not finite")
    return parts


def _one_a_row(values: np.ndarray) -> np.ndarray:
    """[T] of [T] or [T, 1]."""
    if values.size != len(values):
        raise Damage(f"has {list(values.shape)} rewards or flags; one a step is right")
    return values.reshape(-1)


def _require_flags(name: str, values: np.ndarray) -> None:
    """Damage unless `values` [T] are 0 or 1, and only the last one is 1."""
    good = (values == 0) | (values == 1)
    if not good.all():
        step = int(good.argmin())
        raise Damage(f"is {name}: {values[step]} at step {step}, which must be 0 or 1")
    if values[:-1].any():
        step = int(values.argmax())
        raise Damage(f"is {name} at step {step} and goes on to step {len(values) - 1}")


def leaves(path: Path, space) -> list[tuple[str, ...]]:
    """Where the boxes of an observation space lie: [()] for a box, sorted keys for a dict."""
    from gymnasium.spaces import Box, Dict

    if isinstance(space, Dict):
        return [(key, *rest) for key, part in sorted(space.items()) for rest in leaves(path, part)]
    if not isinstance(space, Box) or (space.dtype == np.uint8 and len(space.shape) > 1):
        raise DatasetError(
            f"{path} has observations in {space}; only boxes of numbers, or dicts of them, can be "
            "read: no images, no text"
        )
    return [()]


def _episodes(dataset, path: Path) -> Iterator[Columns | Exception]:
    """Each episode, or why it cannot be read."""
    found = leaves(path, dataset.observation_space)
    if dataset.storage.FORMAT != "hdf5":
        return _minari_episodes(dataset, found)
    file = dataset.storage.data_path / MAIN_FILE
    return _hdf5_episodes(file, dataset.total_episodes, dataset.total_steps, found)


def _hdf5_episodes(
    path: Path, count: int, steps: int, found: list[tuple[str, ...]]
) -> Iterator[Columns | Exception]:
    import h5py
    from h5py import h5s

    size = path.stat().st_size
    names = ["/".join(("observations", *keys)) for keys in found]

    def column(number: int, group, name: str, dtype=None) -> np.ndarray:
        stored, declared = hdf5_array(f"{path}: episode {number}", group, name)
        if declared.shape[:1] > (steps + 1,):
            raise ValueError(f"{name} has {declared.shape[0]} rows, the set {steps} steps")
        require_room(path, declared.nbytes, size)
        values = np.empty(declared.shape, dtype or declared.dtype)
        stored.read(h5s.ALL, h5s.ALL, values)
        return values

    with h5py.File(path, "r") as file:
        for number in range(count):
            try:
                group = hdf5_object(path, file.id, f"episode_{number}")
                obs = [column(number, group, name, np.float32) for name in names]
                others = [column(number, group, name) for name in STORED]
                episode = (_flattened(obs), *others)
            except DatasetError:  # links, sizes: somebody's intention, not damage
                raise
            except FAULTS as fault:
                episode = fault
            yield episode


def _minari_episodes(dataset, found: list[tuple[str, ...]]) -> Iterator[Columns]:
    for episode in dataset.iterate_episodes():
        obs = [reduce(getitem, keys, episode.observations) for keys in found]
        flags = (episode.terminations, episode.truncations)
        yield _flattened(obs), episode.actions, episode.rewards, *flags


def _flattened(obs: list[np.ndarray]) -> np.ndarray:
    flat = [_flat(np.asarray(part, np.float32)) for part in obs]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, 1)


def _flat(values: np.ndarray) -> np.ndarray:
    """[T, all the rest], where T may be 0."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _numbered(path: Path, action: np.ndarray, space) -> np.ndarray:
    """[T, A], or whole numbers from 0 [T]."""
    from gymnasium.spaces import Box, Discrete

    if isinstance(space, Discrete):
        action = _one_a_row(action).astype(np.int64) - int(space.start)
        if action.min() < 0 or action.max() >= space.n:
            raise Damage(f"has actions outside {space}")
        return action
    if not isinstance(space, Box) or space.dtype.kind != "f":
        raise DatasetError(f"{path} has actions in {space}; only Box of floats and Discrete fit")
    return _flat(action)
