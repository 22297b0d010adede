"""Minari sets, hdf5 and arrow alike: which are here, reading them, and writing new ones.

A Minari episode of T steps holds T + 1 observations, so the true next observation of every row is
there, time-outs included. New sets are written without Minari's own loop, which takes five times as
long for many short episodes.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rlsuite.datasets import named, writing
from rlsuite.datasets.d4rl import TIMEOUTS, keep_rows
from rlsuite.datasets.episodes import MAIN_FILE, joined, leaves
from rlsuite.datasets.stored import unreadable
from rlsuite.datasets.transitions import DatasetError, Transitions, skipped
from rlsuite.envs.variants import LIMIT, split

METADATA = "metadata.json"  # Minari's name
ADVICE = "make room, or name a folder elsewhere: MINARI_DATASETS_PATH=FOLDER"
LEAST = 100  # bytes of an episode, in any of Minari's formats


@dataclass
class Episode:
    """One episode of T steps, as collected.

    obs [T + 1, O] float; action [T, A] float or [T] whole numbers; reward [T]; the flags are those
    of the last step, and an episode with neither is one that was left unfinished. log_prob [T] is
    the log-density of the action scaled to (-1, 1), where whoever acted knows it: infos/log_prob.
    """

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    truncated: bool
    log_prob: np.ndarray | None = None


# ------------------------------------------------------------------------------------- local sets


def root() -> Path:
    """Minari's own folder of local sets; it need not exist."""
    given = os.environ.get("MINARI_DATASETS_PATH")
    return Path(given) if given else Path.home() / ".minari" / "datasets"


def name(folder: Path) -> str:
    """The id of the local set in `folder`."""
    return folder.relative_to(root()).as_posix()


def local_ids() -> list[str]:
    """Ids of the local sets, sorted; nothing is opened.

    A set's folder holds `data`; its name has a version, even where the set is damaged. A folder
    called `data` may as well be the first part of a set's name.
    """
    found = []
    for folder, below, _ in os.walk(root()):
        path = Path(folder)
        versioned = re.search(r"-v\d+$", path.name) and path != root()
        if "data" in below and (versioned or (path / "data" / METADATA).is_file()):
            found.append(name(path))
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    return sorted(found)


def require_free(dataset_id: str) -> Path:
    """The folder of a set yet to be written. DatasetError for a name that is bad or taken."""
    match = re.fullmatch(r"((?:[-\w]{2,}/)*[-\w]+)-v(\d+)", dataset_id)
    if match is None:
        raise DatasetError(
            f"{dataset_id!r} is no name of a Minari set; write one like hopper/medium-v0, with two "
            "letters or more before each slash"
        )
    folder = root() / dataset_id
    if folder.exists():
        another = f"{match[1]}-v{int(match[2]) + 1}"
        raise DatasetError(f"{dataset_id} exists in {folder}; remove it, or write {another}")
    return folder


# ------------------------------------------------------------------------------------- reading


def task(path: Path) -> str | None:
    """The task that the set in folder `path` says. Raises DatasetError if it cannot be read."""
    return _said(path)["task"]


def count(path: Path) -> int:
    """Transitions of the set in folder `path`. Raises DatasetError if it cannot be read."""
    return _said(path)["steps"]


def _said(path: Path) -> dict:
    """What `metadata.json` says, with `task` and `steps` in any case.

    DatasetError if it lacks what Minari would otherwise ask the environment for, which may be
    anybody's code, and for counts that the files cannot hold.
    """
    with _readable(path):
        declared = json.loads((path / "data" / METADATA).read_text())
        kinds = {"total_steps": int, "total_episodes": int, "dataset_id": str}
        kinds |= {"observation_space": str, "action_space": str}
        for key, kind in kinds.items():
            if type(declared[key]) is not kind:
                raise ValueError(f"{METADATA} says {key} {declared[key]!r:.100}")
        if not re.fullmatch(r"[-\w]+(/[-\w]+)*", declared["dataset_id"]):
            raise ValueError(f"{METADATA} says the name {declared['dataset_id']!r:.100}")
        counts = declared["total_steps"], declared["total_episodes"]
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if min(counts) < 0 or LEAST * counts[1] > size:
            what = f"{counts[1]:,} episodes, {counts[0]:,} steps"
            raise ValueError(f"{METADATA} speaks of {what}, in {size / 1e6:,.3f} MB")
        return declared | {"task": named.task(declared), "steps": declared["total_steps"]}


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (DatasetError, ImportError):  # what is missing, with the command that installs it
        raise
    except Exception as fault:  # h5py, pyarrow, Minari and Gymnasium have a dozen kinds of them
        advice = "it is damaged, cut short or of another version of Minari; download, convert or "
        raise unreadable(path, fault, f"{advice}collect it again") from fault


def read(path: Path, timeouts: str = "kept", skip_damaged: bool = False) -> Transitions:
    """The transitions of the Minari set in folder `path`.

    `timeouts="dropped"` leaves out the rows that a time limit cut, terminal or not, as D4RL does.
    Dict observations of boxes are joined in the order of their sorted keys, as by `envs`, and
    a remark names the keys; discrete actions are numbered from 0, whatever the environment calls
    them. A set that was converted without its time-outs says so itself: its
    `metadata["timeouts"]` is "dropped" whatever was asked for. `skip_damaged` leaves out the
    episodes that cannot be used. `metadata` holds an action box if the set's has bounds.

    Raises DatasetError naming the folder: no set, damaged, empty, or spaces that are not supported.
    """
    import minari

    if timeouts not in TIMEOUTS:
        raise DatasetError(f"timeouts {timeouts!r} is unknown; use one of {', '.join(TIMEOUTS)}")
    folder = path.resolve() / "data"  # Minari's own sums fail on relative paths
    if not (folder / METADATA).is_file():
        raise DatasetError(f"{path} holds no Minari set (no data/{METADATA}); name a set's folder")
    declared = _said(path)
    with _readable(path):
        dataset = minari.MinariDataset(folder)
        arrays, damaged = joined(dataset, path, skip_damaged)
        remarks = _remarks(declared, leaves(path, dataset.observation_space))
        remarks += declared.get("remarks", [])
        source = _source(declared)
    if damaged:
        remarks.append(skipped(damaged, dataset.total_episodes))
    if timeouts == "dropped":
        keep_rows(arrays, ~arrays["truncated"])
    if len(arrays["reward"]) == 0:
        raise DatasetError(f"{path}: no transition is left without those that a time limit cut")
    space, bounds, discrete = dataset.action_space, None, arrays["action"].ndim == 1
    if not discrete:
        bounds = np.stack([space.low, space.high]).reshape(2, -1)
    low, high = (None, None) if bounds is None or np.isinf(bounds).any() else bounds.tolist()
    metadata = {
        "name": dataset.id,
        "format": "minari",
        "path": str(path),
        "sha256": None,
        "task": declared["task"],
        "action_low": low,
        "action_high": high,
        "action_start": int(space.start) if discrete else None,
        "action_count": int(space.n) if discrete else None,
        "timeouts": "dropped" if declared.get("timeouts") == "dropped" else timeouts,
        "source": source,
        "remarks": remarks,
        "entropy": declared.get("entropy"),
    }
    return Transitions(**arrays, metadata=metadata)


def _remarks(declared: dict, keys: list[tuple[str, ...]]) -> list[str]:
    remarks = []
    if keys != [()]:
        names = ", ".join("/".join(each) for each in keys)
        remarks.append(f"an observation is {names}, joined in this order")
    around = named.wrappers(declared)
    if around:
        what = f"collected through the wrappers {', '.join(around)}"
        remarks.append(f"{what}, which are not around the environment that policies are tried in")
    return remarks


def _source(declared: dict) -> str:
    authors = ", ".join(sorted(declared.get("author", [])))
    parts = [part for part in (declared.get("algorithm_name"), authors) if part]
    return declared.get("source") or " by ".join(parts) or "unknown"


# ------------------------------------------------------------------------------------- writing


def write_episodes(
    dataset_id: str,
    task: str,
    episodes: Iterable[Episode],
    metadata: dict,
    add: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write a new set of hdf5, whole or not at all; its folder.

    The same arguments give the same bytes. `metadata`, in JSON's types, is added to what Minari
    needs; `source` says who made the data, `remarks` what is unusual, `entropy` that of the actions
    in nats per dimension. Numbers are stored in the dtypes they come in. `add` may write more files
    into the folder that it is given, beside `data`.

    Raises DatasetError for a name that is bad or taken, no episodes, and arrays that do not fit;
    ValueError for an unknown task.
    """
    from gymnasium.spaces import Box, Discrete

    from rlsuite import envs

    sizes = envs.make(task, [0], 1)
    start = sizes.first_action
    if sizes.discrete:
        action_space = Discrete(sizes.action_size, start=start)
    else:
        action_space = Box(sizes.action_low, sizes.action_high, dtype=np.float32)
    sizes.close()
    return _write(dataset_id, task, action_space, episodes, metadata, add)


def write(data: Transitions, dataset_id: str) -> Path:
    """Write `data` as a new set of hdf5, whole or not at all; its folder.

    Rows that were dropped at time limits stay dropped, and the set says so.

    Raises DatasetError for a name that is bad or taken, and for an episode in which next_obs is not
    the next row's obs, because Minari stores each observation once.
    """
    from gymnasium.spaces import Box, Discrete

    if data.discrete:
        count = data.metadata.get("action_count") or int(data.action.max()) + 1
        action_space = Discrete(count, start=data.metadata.get("action_start") or 0)
    else:
        box = (np.asarray(data.metadata[key], np.float32) for key in ("action_low", "action_high"))
        action_space = Box(*box, dtype=np.float32)
    metadata = {key: data.metadata[key] for key in ("source", "timeouts")}
    written = _episodes(data)
    return _write(
        dataset_id, data.metadata["task"], action_space, written, metadata, lambda _: None
    )


def _episodes(data: Transitions) -> Iterator[Episode]:
    for first, end in data.bounds().tolist():
        if not np.array_equal(data.obs[first + 1 : end], data.next_obs[first : end - 1]):
            apart = (data.obs[first + 1 : end] != data.next_obs[first : end - 1]).any(1)
            raise DatasetError(
                f"{data.metadata['name']}: next_obs of row {first + int(apart.argmax())} is not "
                "the next row's obs: the episode is cut there without a mark. Minari cannot hold "
                "that, a D4RL file can: give a name that ends in .hdf5"
            )
        obs = np.concatenate([data.obs[first:end], data.next_obs[end - 1 : end]])
        flags = bool(data.terminated[end - 1]), bool(data.truncated[end - 1])
        yield Episode(obs, data.action[first:end], data.reward[first:end], *flags)


def _write(
    dataset_id: str,
    task: str | None,
    action_space,
    episodes: Iterable[Episode],
    metadata: dict,
    add: Callable[[Path], None],
) -> Path:
    import minari

    folder = require_free(dataset_id)
    # Minari's lists leave out what begins with a dot
    partial = root() / f".{dataset_id.replace('/', '-')}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    start = int(getattr(action_space, "start", 0))
    try:
        with writing.explained(folder, ADVICE):
            (partial / "data").mkdir(parents=True)
        with writing.hdf5(partial / "data" / MAIN_FILE, folder, ADVICE) as (file, raw):
            lengths, obs_kind = _store(dataset_id, file, raw, episodes, start)
        size = (partial / "data" / MAIN_FILE).stat().st_size
        contents = {
            "dataset_id": dataset_id,
            "minari_version": minari.__version__,
            "data_format": "hdf5",
            "total_episodes": len(lengths),
            "total_steps": sum(lengths),
            "dataset_size": round(size / 1e6, 1),  # MB
            "jpeg_encoding": False,
            **_spaces(task, obs_kind, action_space),
            "task": task,
            **metadata,
        }
        with writing.explained(folder, ADVICE):
            (partial / "data" / METADATA).write_text(json.dumps(contents, indent=1))
            add(partial)
            folder.parent.mkdir(parents=True, exist_ok=True)
            require_free(dataset_id)
            os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _spaces(task: str | None, obs_kind: tuple[int, np.dtype], action_space) -> dict[str, str]:
    """Minari's words for the spaces, and for the environment where Gymnasium has it."""
    import gymnasium
    from minari.serialization import serialize_space

    size, dtype = obs_kind
    obs_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), dtype)
    declared = {"observation_space": obs_space, "action_space": action_space}
    declared = {key: serialize_space(space) for key, space in declared.items()}
    name, settings = split(task or "")
    spec = gymnasium.registry.get(name.rpartition(":")[2])
    if spec is not None and not callable(spec.entry_point):  # a class has no form in JSON
        limit = settings.pop(LIMIT, spec.max_episode_steps)
        kwargs = spec.kwargs | settings
        declared["env_spec"] = replace(spec, max_episode_steps=limit, kwargs=kwargs).to_json()
    return declared


def _store(
    dataset_id: str, file, raw: writing.PatientFile, episodes: Iterable[Episode], start: int
) -> tuple[list[int], tuple]:
    """Write all episodes; their lengths, and (size, dtype) of an observation.

    Discrete actions, counted from 0 here, are stored as the environment counts them, from `start`.

    Arrays lie in one piece, where Minari makes chunks of them: a third of the bytes, a fifth of the
    time for short episodes.
    """
    lengths, kind = [], None
    for number, episode in enumerate(episodes):
        steps = len(episode.reward)
        kind = kind or (episode.obs.shape[-1], episode.obs.dtype)
        shape = (steps + 1, kind[0])
        if steps == 0 or episode.obs.shape != shape or len(episode.action) != steps:
            raise DatasetError(
                f"{dataset_id}: episode {number} has observations {list(episode.obs.shape)}, "
                f"{len(episode.action)} actions and {steps} rewards; observations must be "
                f"{list(shape)}, one more than steps"
            )
        ends = np.zeros((2, steps), bool)
        ends[:, -1] = episode.terminated, episode.truncated
        group = file.create_group(f"episode_{number}")
        group.attrs["id"], group.attrs["total_steps"] = number, steps
        infos = group.create_group("infos")
        if episode.log_prob is not None:
            infos.create_dataset("log_prob", data=episode.log_prob)
        action = episode.action + start if episode.action.ndim == 1 else episode.action
        arrays = {"observations": episode.obs, "actions": action}
        arrays |= {"rewards": episode.reward, "terminations": ends[0], "truncations": ends[1]}
        for name, values in arrays.items():
            group.create_dataset(name, data=values)
        raw.check()
        lengths.append(steps)
    if not lengths:
        raise DatasetError(f"{dataset_id}: there are no episodes to write")
    return lengths, kind
