"""What a run writes while it trains: rows, every evaluation episode, and TensorBoard's events."""

import contextlib
import csv
import io
import os
import socket
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from rlsuite.envs import Constraint
from rlsuite.runs.evaluation import Evaluation, cells_of, label
from rlsuite.runs.files import flush, write_whole

COLUMNS = (  # of evaluations.csv, and so of the rows in results/
    "seed",
    "step",
    "return",
    "cost",
    "length",
    "score",
    "wall_seconds",
    "training_return",
)
PROGRESS, PREPARATION, EVALUATIONS = "progress.csv", "preparation.csv", "evaluations.csv"
SNAPSHOTS = "snapshots.csv"
TABLES = (PROGRESS, PREPARATION, EVALUATIONS, SNAPSHOTS)
EPISODES = "evaluations.npz"
History = list[tuple[int, dict[str, Evaluation]]]  # steps of each seed, evaluations by label


class LogError(RuntimeError):
    """Rows that a run wrote are gone, and nothing can restore them."""


class Board:
    """TensorBoard's event file. It is written at once: a full disk is told where it is met."""

    def __init__(self, folder: Path, first: int) -> None:
        """Readers forget what an earlier part of the run has shown from step `first` on."""
        origin = f"{socket.gethostname()}.{os.getpid()}"
        name = f"events.out.tfevents.{int(time.time()):010d}.{origin}"
        self._file = (folder / name).open("ab")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2", step=first))
        self._write(Event(session_log=SessionLog(status=SessionLog.START), step=first))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Show each of `values` by its tag."""
        shown = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.write(Summary(value=shown), step)

    def write(self, summary: Summary, step: int) -> None:
        self._write(Event(summary=summary, step=step))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written was said
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()


def append(folder: Path, name: str, rows: Sequence[dict]) -> None:
    """Write `rows` behind those of a table, whose first ones bring the header."""
    path = folder / name
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


def evaluation_rows(
    found: Mapping[str, Evaluation],
    policies: Sequence[str],
    constraints: Sequence[Constraint],
    shared: Sequence[dict],
    score: Callable[[np.ndarray], np.ndarray | None] | None,
) -> list[dict]:
    """A row of each policy and seed; `shared`: what the rows of a seed have in common.

    Where a run has several policies, their names are a column.
    """
    rows = []
    for position, name in enumerate(policies):
        further = name if position else ""
        means = found[label(further)].returns.mean(1)
        known = score(means) if score else None
        columns = [*COLUMNS[:2], *["policy"] * (len(policies) > 1), *COLUMNS[2:]]
        for index, common in enumerate(shared):
            row = dict.fromkeys(columns) | cells_of(found, further, index, constraints)
            row["score"] = None if known is None else float(known[index])
            rows.append(row | ({"policy": name} if "policy" in row else {}) | common)
    return rows


def evaluation_tags(found: Mapping[str, Evaluation]) -> dict[str, float]:
    """What TensorBoard shows of evaluations: the mean return of each."""
    return {
        f"evaluation/{name}{'_' * bool(name)}return": float(result.returns.mean())
        for name, result in found.items()
    }


def write_history(folder: Path, history: History, seeds: Sequence[int]) -> None:
    """Write the raw episodes of all evaluations: [evaluations, S, E], and costs [..., C].

    Those with sampled actions are `sampled_returns`, those of another policy `NAME_returns`.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **_arrays(history, seeds))
    write_whole(folder / EPISODES, buffer.getbuffer())


def contents(folder: Path) -> dict[str, str]:
    """The text of each table, which is on disk when this returns."""
    found = {}
    for name in TABLES:
        if (folder / name).exists():
            flush(folder / name)
            found[name] = _bytes(folder / name).decode()
    return found


def recorded(folder: Path, state: dict) -> dict[str, str]:
    """The text of each table as of the checkpoint `state`.

    LogError where rows are gone that the checkpoint, of an older version, has only counted.
    """
    if "tables" in state:
        return state["tables"]
    found = {}
    for name in TABLES:
        size, content = state["bytes"].get(name, 0), _bytes(folder / name)
        if len(content) < size:
            raise LogError(
                f"{folder / name} has {len(content)} bytes of the {size} that the checkpoint "
                "counts: rows are gone; put the file back, or begin a new run with --folder"
            )
        found[name] = content[:size].decode()
    return found


def restore(
    folder: Path,
    tables: Mapping[str, str],
    history: History,
    seeds: Sequence[int],
    say: Callable[[str], None],
) -> None:
    """Make the logs what `tables` and `history` hold.

    Later rows go. What somebody else changed is said, and stays beside the restored file.
    """
    for name in TABLES:
        path, wanted = folder / name, tables.get(name, "").encode()
        content = _bytes(path)
        if content == wanted:
            continue
        if content.startswith(wanted):
            os.truncate(path, len(wanted))
            continue
        aside = ""
        if not wanted.startswith(content):
            os.replace(path, path.with_suffix(".changed.csv"))
            aside = f", and what was there is now {path.with_suffix('.changed.csv').name}"
        write_whole(path, wanted)
        say(f"{path} was not as the run left it: restored from the checkpoint{aside}")
    if history and not _holds(folder, history, seeds):
        write_history(folder, history, seeds)


def same(folder: Path, tables: Mapping[str, str], history: History, seeds: Sequence[int]) -> bool:
    """Whether `restore` would change nothing."""
    texts = all(_bytes(folder / name) == tables.get(name, "").encode() for name in TABLES)
    return texts and _holds(folder, history, seeds)


def lines(folder: Path) -> int:
    """Rows of training so far, of all seeds."""
    texts = (_bytes(folder / name) for name in (PROGRESS, PREPARATION))
    return sum(max(text.count(b"\n") - 1, 0) for text in texts)


def _holds(folder: Path, history: History, seeds: Sequence[int]) -> bool:
    wanted = _arrays(history, seeds)
    try:
        with np.load(folder / EPISODES) as found:
            return found.keys() == wanted.keys() and all(
                np.array_equal(found[name], values, equal_nan=True)
                for name, values in wanted.items()
            )
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def _arrays(history: History, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    found = {"steps": np.array([step for step, _ in history]), "seeds": np.array(seeds)}
    for each in history[-1][1]:
        results = [evaluations[each] for _, evaluations in history]
        prefix = f"{each}_" if each else ""
        for name in ("returns", "lengths"):
            found[prefix + name] = np.stack([getattr(result, name) for result in results])
        costs = [result.costs for result in results]
        newest = costs[-1]
        if newest.ndim == 3:  # [S, E, C]; a run begun by an older version had one cost, [S, E]
            costs = [x if x.ndim == 3 else x[..., None][..., : newest.shape[2]] for x in costs]
        found[f"{prefix}costs"] = np.stack(costs)
        discounted = [result.discounted for result in results]
        if all(each is not None for each in discounted):
            found[f"{prefix}discounted_costs"] = np.stack(discounted)
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
