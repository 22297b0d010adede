"""Published values: reads ``results/published/*.csv`` and says how each differs from our runs.

One row is one value from a paper, a repository or a figure. The columns:

    algorithm    our name of the algorithm ("ppo"); "ppo-m" and the like are variants of papers
    task         task family without the version, as in our task ids ("Hopper"); of an offline value
                 the data set, without its version ("hopper-medium")
    environment  version as published ("v4"); empty where the source does not state it; of an
                 offline value origin and version of the data set ("D4RL-v2")
    source       short key of the source ("CleanRL")
    citation     page or paper, table, commit or tag, and what else limits the comparison
    steps        environment steps (offline: gradient steps) at which the value holds; empty where
                 not stated
    metric       one of METRICS
    mean         the value itself
    spread       half-width of mean +- spread, or "LOW to HIGH"; empty where none was published
    spread_kind  one of SPREAD_KINDS; empty exactly where the spread is
    seeds        number of training runs behind the value; empty where not stated
    status       one of STATUSES: how far the value itself was checked
    error        reading error of a digitised value ("2%"), else empty
"""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Metric(NamedTuple):
    """Which of our columns a published metric stands beside, and what sets the two apart."""

    column: str  # a key of `rows.FINALS`: what of our rows it is like
    caveat: str = ""  # empty where the two measure the same thing


METRICS = {
    "training return, end of training": Metric("training_return"),
    "deterministic evaluation, end of training": Metric("return"),
    "deterministic normalised score, end of training": Metric("score"),
    "deterministic evaluation cost, end of training": Metric("cost"),
    "training return smoothed over 11 epochs, point on a longer curve": Metric(
        "training_return", "other smoothing, and a point on a longer run"
    ),
    "training return read off the paper's curve": Metric(
        "training_return", "read off a curve by third parties"
    ),
    "mean of 10 test episodes with sampled actions, point on a 10M-step curve": Metric(
        "training_return", "test episodes with sampled actions, and a point on a 10M-step run"
    ),
    "reported return, metric not recorded": Metric("training_return", "metric not recorded"),
    "training return with deterministic actions, end of training": Metric(
        "return", "training episodes, though with deterministic actions"
    ),
    "deterministic test return smoothed over 11 epochs, point on a longer curve": Metric(
        "return", "other smoothing, and a point on a longer run"
    ),
    "max over training of the mean of 10 test episodes": Metric(
        "return", "maximum over training: optimistic by construction"
    ),
    "test return at this step": Metric("return", "not recorded whether actions were sampled"),
    "IQM over seeds of the test return at this step": Metric(
        "return", "interquartile mean, not the mean; not recorded whether actions were sampled"
    ),
    "evaluation return, end of training": Metric(
        "return", "not recorded whether actions were sampled"
    ),
    "deterministic evaluation of one agent": Metric("return", "a single agent"),
    "normalised score averaged over 7 tasks": Metric("score", "the paper's own normalisation"),
    "normalised score, not recorded of which evaluations": Metric(
        "score", "the last one, a mean of several, or a mixture"
    ),
    "normalised score, mean of 10 evaluations 5k steps apart": Metric(
        "score_last_10", "ours may lie further apart"
    ),
    "deterministic normalised score, end of training, hyper-parameters searched": Metric(
        "score", "the best of a search, not the paper's settings"
    ),
    "normalised score, best evaluation": Metric("score_best", "optimistic; best of how many?"),
}
SPREAD_KINDS = (
    "std over seeds",
    "standard error over seeds",
    "95% CI",
    "std over episodes of one agent",
)
STATUSES = {
    "verified": "read in the source itself",
    "verified, spread recalled": "mean read in the source or in a quote, spread from memory",
    "digitised": "read off a published figure, with a reading error",
    "noted": "confirmed only through reading notes of the paper",
    "noted, spread recalled": "mean confirmed through reading notes, spread from memory",
    "recalled": "from memory of the paper, not verified",
}
DIFFERENCES = {
    "d": "other data: the value is of D4RL's set of that level, ours of another (see Data)",
    "e": "the environment version differs from ours or is not recorded",
    "h": "the number of training steps differs from ours by more than 2%, or is not recorded",
    "m": "the metric differs from ours (see the source)",
    "s": "the spread is not a standard deviation over seeds (see the source)",
}

SAME_HORIZON = 1.02  # a run ends at the last full batch, up to 2% away from the round number
_NEAR_HORIZON = 1.5  # values further off than this factor are no use beside ours
_TASK_ID = re.compile(r"(.+)-(v\d+)")


class Place(NamedTuple):
    """Where a run of ours stands: what a published value shares with it or differs from it in."""

    algorithm: str
    task: str  # as in the published rows: "Hopper", or "hopper-medium" of a data set
    version: str  # of our environment: "v4"
    steps: int
    data: str = ""  # origin and version of the data set, "deep-ope-v0"; empty if there is none

    @property
    def environment(self) -> str:
        """What published rows have in the column of this name."""
        return self.data or self.version


class PublishedError(ValueError):
    """A file of published values is not as it should be; the message names file and line."""


@dataclass(frozen=True)
class Published:
    """One published value. Fields as the columns above, then what the file says beyond them."""

    algorithm: str
    task: str
    environment: str
    source: str
    citation: str
    steps: int | None
    metric: str
    mean: float
    spread: float | tuple[float, float] | None
    spread_kind: str
    seeds: int | None
    status: str
    error: str
    decimals: int  # of the mean as published, so that nobody shows more
    place: str  # "file:line"

    @property
    def column(self) -> str:
        """Our column that this value stands beside."""
        return METRICS[self.metric].column


COLUMNS = tuple(name for name in Published.__annotations__ if name not in ("decimals", "place"))


def read(folder: Path) -> list[Published]:
    """Read and check every ``*.csv`` of `folder`, in the order of file names and lines.

    Raises PublishedError, naming file and line, for a missing folder or column, a cell that does
    not parse, an unknown metric, spread kind or status, and a value given twice.
    """
    if not folder.is_dir():
        raise PublishedError(f"{folder}: no such folder; published values are CSV files in it")
    rows = [row for file in sorted(folder.glob("*.csv")) for row in _read_file(file)]
    seen: dict[tuple, str] = {}
    for row in rows:
        key = (row.algorithm, row.task, row.source, row.column, row.steps)
        if key in seen:
            raise PublishedError(f"{row.place}: {key} was already given at {seen[key]}")
        seen[key] = row.place
    return rows


def find(
    rows: Iterable[Published],
    algorithm: str,
    family: str | None = None,
    columns: Sequence[str] | None = None,
) -> list[Published]:
    """Rows of `algorithm`, if given only of the task family and beside one of our `columns`."""
    return [
        row
        for row in rows
        if row.algorithm == algorithm
        and (family is None or row.task == family)
        and (columns is None or row.column in columns)
    ]


def split_task(task: str) -> tuple[str, str]:
    """Family and version of a task id: "Hopper-v4" -> ("Hopper", "v4"); no version -> ""."""
    match = _TASK_ID.fullmatch(task)
    return (match[1], match[2]) if match else (task, "")


def beside(
    rows: Iterable[Published], place: Place, columns: Sequence[str] | None = None
) -> list[Published]:
    """What stands beside our run at `place`: one value per source and column of ours.

    A source with several horizons gives the one nearest to ours. One whose nearest horizon is more
    than a factor of 1.5 away gives nothing; one that states no horizon is kept, and marked.
    """
    nearest: dict[tuple[str, str], Published] = {}
    for row in find(rows, place.algorithm, place.task, columns):
        if _ratio(row, place.steps) > _NEAR_HORIZON:
            continue
        best = nearest.get((row.source, row.column))
        if best is None or _ratio(row, place.steps) < _ratio(best, place.steps):
            nearest[row.source, row.column] = row
    return list(nearest.values())


def differences(row: Published, place: Place) -> str:
    """Keys of DIFFERENCES that apply to `row` beside our run, for example "em"; "" when alike."""
    marks = ""
    if place.data and row.environment != place.data:
        marks += "d"
    # D4RL's sets were evaluated in the environments of their own version: D4RL-v2 in Hopper-v2.
    if row.environment.rpartition("-")[2] != place.version:
        marks += "e"
    if row.steps is None or _ratio(row, place.steps) > SAME_HORIZON:
        marks += "h"
    if METRICS[row.metric].caveat:
        marks += "m"
    if row.spread is not None and row.spread_kind != "std over seeds":
        marks += "s"
    return marks


def closest(rows: Iterable[Published], place: Place) -> Published | None:
    """The value most like ours: fewest differences, then best checked, then most seeds.

    Values without a recorded horizon do not count; None where nothing is left.
    """
    dated = (row for row in rows if row.steps)
    return min(dated, key=lambda row: rank(row, place), default=None)


def elsewhere(
    rows: Iterable[Published], place: Place, columns: Sequence[str] | None = None
) -> Published | None:
    """The published value of the horizon nearest to ours, however far; of several, the most alike.

    For saying where values stand when `beside` has none: it is not to be set against ours.
    """
    dated = [row for row in find(rows, place.algorithm, place.task, columns) if row.steps]
    return min(dated, key=lambda row: (_ratio(row, place.steps), rank(row, place)), default=None)


def rank(row: Published, place: Place) -> tuple[int, int, int]:
    """Sorts published values: the one most like our run comes first."""
    alike = differences(row, place).replace("s", "")
    return len(alike), list(STATUSES).index(row.status), -(row.seeds or 0)


def _ratio(row: Published, steps: int) -> float:
    """How many times longer one horizon is than the other; 1 where none is stated."""
    if row.steps is None:
        return 1.0
    return max(row.steps, steps) / max(1, min(row.steps, steps))


def _read_file(file: Path) -> list[Published]:
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise PublishedError(
                f"{file}:1: missing column(s) {', '.join(missing)}; needed: {', '.join(COLUMNS)}"
            )
        return [_parse(cells, f"{file}:{reader.line_num}") for cells in reader]


def _parse(cells: dict[str, str], place: str) -> Published:
    try:
        if None in cells or None in cells.values():
            raise ValueError(
                f"the line does not have {len(COLUMNS)} cells; quote cells with commas"
            )
        for name in ("algorithm", "task", "source", "citation"):
            if not cells[name].strip():
                raise ValueError(f"empty cell in column {name!r}")
        row = Published(
            algorithm=cells["algorithm"],
            task=cells["task"],
            environment=cells["environment"],
            source=cells["source"],
            citation=cells["citation"],
            steps=_count(cells, "steps"),
            metric=_choice(cells, "metric", METRICS),
            mean=_number(cells["mean"], "mean"),
            spread=_spread(cells["spread"]),
            spread_kind=_choice(cells, "spread_kind", ("", *SPREAD_KINDS)),
            seeds=_count(cells, "seeds"),
            status=_choice(cells, "status", STATUSES),
            error=cells["error"],
            decimals=len(cells["mean"].partition(".")[2]),
            place=place,
        )
        if (row.spread is None) != (row.spread_kind == ""):
            raise ValueError(f"spread {cells['spread']!r} with kind {row.spread_kind!r}: give both")
        if (row.status == "digitised") != bool(row.error):
            raise ValueError(f"status {row.status!r} with error {row.error!r}: digitised needs one")
    except ValueError as fault:
        raise PublishedError(f"{place}: {fault}") from None
    return row


def _number(cell: str, name: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {cell!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {cell!r}")
    return value


def _spread(cell: str) -> float | tuple[float, float] | None:
    if cell == "":
        return None
    if " to " in cell:
        low, high = (_number(end, "spread") for end in cell.split(" to ", 1))
        if low > high:
            raise ValueError(f"spread must run from low to high, got {cell!r}")
        return low, high
    value = _number(cell, "spread")
    if value < 0:
        raise ValueError(f"spread must not be negative, got {cell!r}")
    return value


def _count(cells: dict[str, str], name: str) -> int | None:
    cell = cells[name]
    if cell == "":
        return None
    if not cell.isascii() or not cell.isdigit() or int(cell) == 0:
        raise ValueError(f"{name} must be a positive whole number or empty, got {cell!r}")
    return int(cell)


def _choice(cells: dict[str, str], name: str, known: Iterable[str]) -> str:
    cell = cells[name]
    known = list(known)
    if cell not in known:
        near = difflib.get_close_matches(cell, known, n=1) or [", ".join(filter(None, known))]
        raise ValueError(f"unknown {name} {cell!r}; did you mean: {near[0]}")
    return cell
