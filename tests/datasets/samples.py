"""One tiny set in every format, written by other hands than ours where there are such.

Four episodes of a task with a time limit of 4 steps, 13 rows in all:

| episode | rows   | ends by                                      | rewards        | return |
|---------|--------|----------------------------------------------|----------------|--------|
| 0       | 0..3   | the time limit                               | 0 1 2 3        | 6      |
| 1       | 4..5   | the task                                     | 10 11          | 21     |
| 2       | 6..9   | both: the task, exactly at the time limit    | 20 21 22 23    | 86     |
| 3       | 10..12 | nothing: the set stops here                  | 30 31 32       | 93     |

Observation t of episode e is [100 e + t, 100 e + t + 1/4, 100 e + t + 1/2]; its action
[(t - e) / 4] fits Pendulum-v1, as does the size of the observation.
"""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
from gymnasium.spaces import Box, Discrete

from rlsuite.datasets.minari import Episode
from rlsuite.datasets.transitions import Transitions

ROWS = 13
ENDS = ((4, False, True), (2, True, False), (4, True, True), (3, False, False))
LAST = [3, 5, 9, 12]
FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "last")


def episodes() -> list[Episode]:
    return [episode(number, *ends) for number, ends in enumerate(ENDS)]


def episode(number: int, steps: int, terminated: bool, truncated: bool) -> Episode:
    first = 100.0 * number + np.arange(steps + 1)
    return Episode(
        obs=first[:, None] + [0, 0.25, 0.5],
        action=((np.arange(steps)[:, None] - number) / 4).astype(np.float32),
        reward=10.0 * number + np.arange(steps),
        terminated=terminated,
        truncated=truncated,
    )


def transitions(**about) -> Transitions:
    """The 13 rows, time-outs kept."""
    parts = episodes()
    ends = np.zeros((3, ROWS), bool)
    for row, (_, terminated, truncated) in zip(LAST, ENDS, strict=True):
        ends[:, row] = terminated, truncated, True
    known = {"name": "sample", "task": "Pendulum-v1", "timeouts": "kept", "source": "by hand"}
    known |= {"action_low": [-2.0], "action_high": [2.0]}
    return Transitions(
        obs=np.concatenate([e.obs[:-1] for e in parts]).astype(np.float32),
        action=np.concatenate([e.action for e in parts]),
        reward=np.concatenate([e.reward for e in parts]).astype(np.float32),
        next_obs=np.concatenate([e.obs[1:] for e in parts]).astype(np.float32),
        terminated=ends[0],
        truncated=ends[1],
        last=ends[2],
        metadata=known | about,
    )


# ------------------------------------------------------------------------------------- D4RL


def columns(*without: str, **instead) -> dict[str, np.ndarray]:
    """The keys of a D4RL file."""
    data = transitions()
    found = {"observations": data.obs.astype(float), "actions": data.action}
    found |= {"rewards": data.reward, "terminals": data.terminated, "timeouts": data.truncated}
    found |= {"next_observations": data.next_obs.astype(float)}
    return {key: values for key, values in found.items() if key not in without} | instead


def d4rl_file(path: Path, *without: str, **instead) -> Path:
    """A D4RL file at `path`, .hdf5 or .npz, without some keys and with others in their place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **columns(*without, **instead))
    else:
        with h5py.File(path, "w") as file:
            for key, values in columns(*without, **instead).items():
                file.create_dataset(key, data=values, compression="gzip" if len(values) else None)
    return path


def cut_short(path: Path, keep: float = 0.7) -> Path:
    """As a copy that was interrupted."""
    os.truncate(path, int(path.stat().st_size * keep))
    return path


# ------------------------------------------------------------------------------------- Minari


def minari_set(
    folder: Path,
    dataset_id: str = "samples/pendulum-v0",
    parts: list[Episode] | None = None,
    action_space=None,
    observation_space=None,
    data_format: str = "hdf5",
    task: str | None = "Pendulum-v1",
) -> Path:
    """A set under `folder`, written by Minari itself."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    path = folder / dataset_id
    shutil.rmtree(path, ignore_errors=True)
    (path / "data").mkdir(parents=True)
    storage = MinariStorage.new(
        path / "data",
        observation_space or Box(-np.inf, np.inf, (3,), np.float64),
        action_space or Box(-2, 2, (1,), np.float32),
        gymnasium.spec(task) if task else None,
        data_format,
    )
    about = {"dataset_id": dataset_id, "minari_version": minari.__version__}
    storage.update_metadata(about | {"author": {"Ada"}, "algorithm_name": "SAC"})
    buffers = []
    for part in episodes() if parts is None else parts:
        flags = np.zeros((2, len(part.reward)), bool)
        flags[:, -1:] = [[part.terminated], [part.truncated]]
        seen = {"observations": part.obs, "actions": part.action, "rewards": part.reward}
        buffers.append(EpisodeBuffer(**seen, terminations=flags[0], truncations=flags[1], infos={}))
    storage.update_episodes(buffers)
    return path


def discrete(parts: list[Episode], start: int = 0) -> tuple[list[Episode], Discrete]:
    """The same episodes with actions 0, 1, 0, 1 ... counted from `start`, and their space."""
    for part in parts:
        part.action = np.arange(len(part.reward)) % 2 + start
    return parts, Discrete(2, start=start)


def same(one: Transitions, other: Transitions, rows=slice(None)) -> None:
    """Every field of `one` is that of `other`, there only in `rows`."""
    for name in FIELDS:
        found, expected = getattr(one, name), getattr(other, name)[rows]
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.dtype == expected.dtype, name
