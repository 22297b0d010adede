"""The episodes of a Minari set, joined to flat arrays.

Files of hdf5 are read below h5py's usual layer: 45,000 short episodes then take two fifths of the
time of Minari's own loop. Other formats go through Minari.
"""

from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np

from rlsuite.datasets.transitions import DatasetError

MAIN_FILE = "main_data.hdf5"  # Minari's name
FIELDS = ("obs", "next_obs", "action", "reward", "terminated", "truncated", "last")
# (observations float32 [T + 1, O], actions, rewards, terminations, truncations [T]) of an episode
Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def joined(dataset, path: Path) -> dict[str, np.ndarray]:
    """The fields of `Transitions`, all rows of a `minari.MinariDataset`, which lies in `path`.

    Raises DatasetError for spaces that are not supported, and for arrays that do not fit. Whatever
    h5py, pyarrow or Minari raise on damaged files comes through.
    """
    leaves = _leaves(path, dataset.observation_space)
    if dataset.storage.FORMAT == "hdf5":
        file = dataset.storage.data_path / MAIN_FILE
        episodes = _hdf5_episodes(file, dataset.total_episodes, leaves)
    else:
        episodes = _minari_episodes(dataset, leaves)
    rows, promised, arrays = 0, dataset.total_steps, {}
    for number, (obs, action, *others) in enumerate(episodes):
        steps = len(obs) - 1
        if any(len(values) != steps for values in (action, *others)):
            raise DatasetError(
                f"{path}: episode {number} has {steps + 1} observations, {len(action)} actions and "
                f"{len(others[0])} rewards; one observation more is right. The set is damaged"
            )
        action = _numbered(path, action, dataset.action_space)
        ends = np.arange(steps) == steps - 1
        parts = dict(zip(FIELDS, (obs[:-1], obs[1:], action, *others, ends), strict=True))
        if not arrays:  # made once: joined from parts, a set would lie in memory twice
            arrays = {k: np.empty((promised, *v.shape[1:]), _kind(k, v)) for k, v in parts.items()}
        if rows + steps <= promised:
            for key, values in parts.items():
                arrays[key][rows : rows + steps] = values
        rows += steps
    if rows != promised:
        raise DatasetError(
            f"{path}: its metadata speaks of {promised} steps, its episodes hold {rows}; it is "
            "damaged; download, convert or collect it again"
        )
    if rows == 0:
        raise DatasetError(f"{path} holds no transition; download, convert or collect it again")
    return arrays


def _kind(field: str, values: np.ndarray) -> type:
    if field in ("terminated", "truncated", "last"):
        return bool
    return np.int64 if field == "action" and values.ndim == 1 else np.float32


def _leaves(path: Path, space) -> list[tuple[str, ...]]:
    """Where the boxes of an observation space lie: [()] for a box, keys for a dict of boxes."""
    from gymnasium.spaces import Box, Dict

    if isinstance(space, Dict):
        return [(key, *rest) for key, part in space.items() for rest in _leaves(path, part)]
    if not isinstance(space, Box) or (space.dtype == np.uint8 and len(space.shape) > 1):
        raise DatasetError(
            f"{path} has observations in {space}; only boxes of numbers, or dicts of them, can be "
            "read: no images, no text"
        )
    return [()]


def _hdf5_episodes(path: Path, count: int, leaves: list[tuple[str, ...]]) -> Iterator[Columns]:
    import h5py
    from h5py import h5d, h5g, h5s

    def column(group, name: str, dtype=None) -> np.ndarray:
        stored = h5d.open(group, name.encode())
        values = np.empty(stored.shape, dtype or stored.dtype)
        stored.read(h5s.ALL, h5s.ALL, values)
        return values

    names = ["/".join(("observations", *keys)) for keys in leaves]
    with h5py.File(path, "r") as file:
        for number in range(count):
            group = h5g.open(file.id, b"episode_%d" % number)
            obs = [column(group, name, np.float32) for name in names]
            others = ("actions", "rewards", "terminations", "truncations")
            yield _flattened(obs), *(column(group, name) for name in others)


def _minari_episodes(dataset, leaves: list[tuple[str, ...]]) -> Iterator[Columns]:
    for episode in dataset.iterate_episodes():
        obs = [reduce(getitem, keys, episode.observations) for keys in leaves]
        flags = (episode.terminations, episode.truncations)
        yield _flattened(obs), episode.actions, episode.rewards, *flags


def _flattened(obs: list[np.ndarray]) -> np.ndarray:
    flat = [np.asarray(part, np.float32).reshape(len(part), -1) for part in obs]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, 1)


def _numbered(path: Path, action: np.ndarray, space) -> np.ndarray:
    """[T, A], or whole numbers from 0 [T]."""
    from gymnasium.spaces import Box, Discrete

    if isinstance(space, Discrete):
        action = action.reshape(-1).astype(np.int64) - int(space.start)
        if len(action) and (action.min() < 0 or action.max() >= space.n):
            raise DatasetError(f"{path} has actions outside {space}; the set is damaged")
        return action
    if not isinstance(space, Box) or space.dtype.kind != "f":
        raise DatasetError(f"{path} has actions in {space}; only Box of floats and Discrete fit")
    return action.reshape(len(action), -1)
