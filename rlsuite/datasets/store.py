"""Data sets by name: where they lie, reading them through the cache, fetching more.

A name is a path (folder of a Minari set, .hdf5 or .npz), the id of a local Minari set such as
`deep-ope/hopper/medium-v0`, or a D4RL name such as `hopper-medium-v2`, whose file
`hopper_medium-v2.hdf5` lies in D4RL's own folder.
"""

import contextlib
import difflib
import os
import re
import socket
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rlsuite.datasets import cache, d4rl, minari, named
from rlsuite.datasets.transitions import (
    DatasetError,
    Transitions,
    check,
    check_task,
    one_row_ends,
    printable,
)

PATIENCE = 1.5  # seconds for the server to answer; Minari itself tries for 23
SERVERS = {"hf": "https://huggingface.co", "gcp": "https://storage.googleapis.com"}  # of Minari


def _tell(message: str) -> None:
    print(message, file=sys.stderr)


def load(
    name: str,
    *,
    timeouts: str | None = None,
    task: str | None = None,
    clip_actions: bool = False,
    skip_damaged: bool = False,
    say: Callable[[str], None] = _tell,
) -> Transitions:
    """The set `name`, checked, as read-only arrays mapped from the cache.

    timeouts      "kept" or "dropped"; by default kept for Minari, dropped for D4RL, as published
    task          of Gymnasium, e.g. Hopper-v4; by default what the set or its name says. The set's
                  spaces must be the task's
    clip_actions  cut actions to their box; otherwise one outside is an error
    skip_damaged  leave out episodes that cannot be used; otherwise one is an error

    The box is the set's own if it says bounds, or the task's; [-1, 1] for D4RL's tasks where they
    are not installed. `metadata["clipped_rows"]` counts the rows that were cut, its "remarks"
    tell what is unusual; `say` is told, too. No module is imported because a set names it.

    Raises DatasetError for an unknown name and for what a set should not hold, without a try at the
    network; ValueError for an unknown task.
    """
    path, kind = locate(name)
    path = path.absolute()  # so that it is found again from another folder
    source = path / "data" if kind == "minari" else path
    sha256 = _digest(source)
    declared = (minari if kind == "minari" else d4rl).task(path)
    request = {"sha256": sha256, "clip_actions": clip_actions, "skip_damaged": skip_damaged}
    request["task"] = task or (None if ":" in (declared or "") else declared)
    request["timeouts"] = timeouts or ("kept" if kind == "minari" else "dropped")
    request["family"] = d4rl.family(path.stem) if kind == "d4rl" else None

    def build() -> Transitions:
        say(f"reading {path} once; from then on it is mapped from {cache.root()}")
        envs = _environments(request["task"], declared)
        data = _with_box(_read(path, kind, request, envs), envs)
        data = check(_clipped(data) if clip_actions else data)
        _require_unchanged(source, sha256)
        more = {"sha256": sha256, "misfit": _misfit(data, envs)}
        more["remarks"] = data.metadata["remarks"] + one_row_ends(data)
        return replace(data, metadata=data.metadata | more)

    data = cache.fetch(request, build, say)
    metadata = data.metadata | {"path": str(path), "task": task or declared}
    if kind == "d4rl":
        metadata["name"] = path.stem  # the arrays may have been built from a copy of another name
    if (misfit := metadata.pop("misfit")) and task is not None:
        raise DatasetError(misfit)
    if named.unlike(declared, task):
        unlike = f"collected in {declared}, used with {task}: other returns, maybe another task"
        metadata["remarks"] = [*metadata["remarks"], unlike]
    _say_once(metadata, say)
    if timeouts == "kept" != metadata["timeouts"]:
        raise DatasetError(
            f"{name} was converted without the rows at time limits, so they cannot be kept; leave "
            "the choice out, or say timeouts dropped"
        )
    return replace(data, metadata=metadata)


def _digest(source: Path) -> str:
    try:
        return cache.digest(source)
    except OSError as fault:
        raise DatasetError(f"{source} cannot be read ({fault.strerror or fault})") from fault


_said: set[tuple[str, str]] = set()  # (path, remark): a run loads its set more than once


def _say_once(metadata: dict, say: Callable[[str], None]) -> None:
    for remark in metadata["remarks"]:
        if (metadata["path"], remark) not in _said:
            say(f"{metadata['name']}: {remark}")
        _said.add((metadata["path"], remark))


def _require_unchanged(source: Path, sha256: str) -> None:
    if _digest(source) != sha256:
        raise DatasetError(f"{source} changed while it was read; try again")


def _read(path: Path, kind: str, request: dict, envs) -> Transitions:
    if kind == "minari":
        return minari.read(path, request["timeouts"], request["skip_damaged"])
    limit = envs.time_limit if envs else None
    return d4rl.read(path, request["timeouts"], limit, request["skip_damaged"])


def locate(name: str) -> tuple[Path, str]:
    """(path, "minari" or "d4rl") of a set. DatasetError with what is near, if there is none."""
    path = Path(name).expanduser()
    if path.suffix in d4rl.SUFFIXES and path.is_file():
        return path, "d4rl"
    for folder in (path, minari.root() / name):
        if (folder / "data" / minari.METADATA).is_file():
            return folder, "minari"
    if path.is_dir():
        raise DatasetError(f"{name} holds no Minari set (no data/{minari.METADATA})")
    files = _d4rl_files()
    exact = [file for file in files if name in (file.stem, file.name)]
    for file in exact + files:
        if _plain(name) in (_plain(file.stem), _plain(file.name)):
            return file, "d4rl"
    raise _unknown(name)


@dataclass(frozen=True)
class LocalSet:
    """A set on this machine; `problem` says why it cannot be used, if so."""

    name: str
    format: str
    path: Path
    task: str | None = None
    transitions: int = 0
    size: int = 0  # bytes
    problem: str = ""

    def __str__(self) -> str:
        return printable(self._line())

    def _line(self) -> str:
        if self.problem:
            return f"{self.name:40} {self.problem}"
        counted = f"{self.transitions:>12,} transitions {self.size / 1e6:>9,.1f} MB"
        return f"{self.name:40} {counted}  {self.format:6}  {self.task or 'task not declared'}"


def local() -> list[LocalSet]:
    """Every set in Minari's and D4RL's folders, by name; their arrays are not read."""
    sets = [_look(name, minari.root() / name, "minari") for name in minari.local_ids()]
    return sets + [_look(path.stem, path, "d4rl") for path in _d4rl_files()]


def download(name: str) -> Path:
    """Fetch a set from Minari's server; its folder.

    Raises DatasetError for a set that is here already, a name that is not of Minari, and, within
    two seconds, for a server that cannot be reached.
    """
    if "/" not in name:
        raise DatasetError(
            f"{name} is not on Minari's server, whose names are like mujoco/hopper/medium-v0; a "
            f"file of D4RL goes, by hand, to {_d4rl_folder() / _d4rl_file(name)}"
        )
    folder = minari.require_free(name)
    _require_server(name)
    import minari as farama

    minari.root().mkdir(parents=True, exist_ok=True)
    # Minari takes the rest of an interrupted download for a whole set, so it gets a folder aside
    with TemporaryDirectory(dir=minari.root(), prefix=".download-") as aside:
        with _environment_variable("MINARI_DATASETS_PATH", aside):
            farama.download_dataset(name)
            arrived = minari.local_ids()  # a combined set brings its parts
        for each in arrived:
            target = minari.root() / each
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(Path(aside) / each, target)
    return folder


# ------------------------------------------------------------------------------------- reading


def _environments(task: str | None, declared: str | None):
    """One environment of `task`; None if there is no task, or only the set says so and it fails."""
    from rlsuite import envs

    try:
        return None if task is None else envs.make(task, [0], 1)
    except Exception:  # a set may give an environment any settings
        if task == declared:
            return None
        raise


def _with_box(data: Transitions, envs) -> Transitions:
    """`data` with an action box: its own, its task's, or that of D4RL's tasks."""
    metadata, size = data.metadata, None if data.discrete else data.action.shape[1]
    low, high = metadata["action_low"], metadata["action_high"]
    if low is None and envs is not None and not envs.discrete:
        low, high = envs.action_low.tolist(), envs.action_high.tolist()
    elif low is None and size and metadata["format"] == "d4rl" and d4rl.family(metadata["name"]):
        low, high = [-1.0] * size, [1.0] * size
    if size != (low and len(low)):
        kind = "They are whole numbers"
        if size:
            span = f"[{data.action.min():g}, {data.action.max():g}]"
            kind = f"They have size {size} and lie in {span}"
        unlike = f", unlike those of {envs.task}" if envs is not None else ""
        raise DatasetError(
            f"{metadata['path']}: of which task are its actions? {kind}{unlike}. Name the task: "
            "--task Hopper-v4 (in rlsuite train: --env)"
        )
    return replace(data, metadata=metadata | {"action_low": low, "action_high": high})


def _misfit(data: Transitions, envs) -> str | None:
    """Why the set is not of the task, if so. It matters once somebody asks for that task: a name
    is a guess, and D4RL's Ant has 111 observations where today's has 27."""
    try:
        return None if envs is None else check_task(data, envs)
    except DatasetError as fault:
        return str(fault)


def _clipped(data: Transitions) -> Transitions:
    if data.discrete:
        raise DatasetError(
            f"{data.metadata['name']} has discrete actions; leave out --clip-actions"
        )
    low, high = (np.array(data.metadata[key], np.float32) for key in ("action_low", "action_high"))
    rows = ((data.action < low) | (data.action > high)).any(1)
    np.clip(data.action, low, high, out=data.action)
    return replace(data, metadata=data.metadata | {"clipped_rows": int(rows.sum())})


# ------------------------------------------------------------------------------------- names


def _d4rl_folder() -> Path:
    return Path(os.environ.get("D4RL_DATASET_DIR", Path.home() / ".d4rl" / "datasets"))


def _d4rl_files() -> list[Path]:
    folder = _d4rl_folder()
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.suffix in d4rl.SUFFIXES)


def _d4rl_file(name: str) -> str:
    base, dash, version = name.rpartition("-v")
    return f"{base.replace('-', '_')}{dash}{version}.hdf5"


def _plain(name: str) -> str:
    """The same for D4RL's name of a set, hopper-medium-v2, and of its file, hopper_medium-v2."""
    return name.lower().replace("-", "_")


def _unknown(name: str) -> DatasetError:
    near = difflib.get_close_matches(name, [each.name for each in local()], cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if re.fullmatch(r"[-\w/]+/[-\w]+-v\d+", name):
        advice = f"Minari's server may have it: rlsuite data download {name}"
    elif d4rl.family(name) and re.fullmatch(r"[-\w]+-v\d+", name):
        advice = f"a file of D4RL goes to {_d4rl_folder() / _d4rl_file(name)}"
    else:
        advice = "rlsuite data list shows what is here; a path to a Minari set's folder, an .hdf5 "
        advice += "or an .npz will do, too"
    return DatasetError(f"no data set {name!r} on this machine: {hint}{advice}")


def _look(name: str, path: Path, kind: str) -> LocalSet:
    reader, size = minari if kind == "minari" else d4rl, 0
    try:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        return LocalSet(name, kind, path, reader.task(path), reader.count(path), size)
    except DatasetError as fault:
        return LocalSet(name, kind, path, size=size, problem=str(fault))
    except Exception as fault:  # one bad set must not hide the others
        return LocalSet(name, kind, path, size=size, problem=f"{path} cannot be read ({fault})")


# ------------------------------------------------------------------------------------- network


def _require_server(name: str) -> None:
    """DatasetError within two seconds unless Minari's server, or the proxy to it, answers."""
    remote = os.environ.get("MINARI_REMOTE", "hf://").partition("://")[0]
    server = os.environ.get("HF_ENDPOINT") if remote == "hf" else None
    server = server or SERVERS.get(remote, SERVERS["hf"])
    parts = urllib.parse.urlsplit(urllib.request.getproxies().get("https") or server)
    answered = []

    def knock() -> None:
        with contextlib.suppress(OSError):
            address = (parts.hostname, parts.port or (80 if parts.scheme == "http" else 443))
            socket.create_connection(address, PATIENCE).close()
            answered.append(True)

    # In a thread of its own: looking up an address has no time limit
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not answered:
        raise DatasetError(
            f"{parts.hostname} does not answer: no network? Without one, collect a set like it "
            "(rlsuite data collect; rlsuite data list shows the recipes), or convert a file: "
            f"rlsuite data convert FILE.hdf5 --to {name}"
        )


@contextlib.contextmanager
def _environment_variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
