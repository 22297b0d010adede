"""What README.md and results/README.md say: the papers, and one row per algorithm and task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rlsuite.algorithms import ALGORITHMS, load
from rlsuite.evidence import aggregates, limits, published, rows
from rlsuite.evidence.published import Published
from rlsuite.evidence.rows import FINALS, Result
from rlsuite.evidence.tables import families as all_algorithms
from rlsuite.evidence.tables.summaries import (
    STATUS_MARKS,
    data_notes,
    duration_text,
    failings,
    iqm_text,
    joined,
    mean_text,
    published_cell,
    settings_notes,
    steps_header,
    steps_text,
    summarise,
    task_word,
    value_text,
    wall_time_notes,
)
from rlsuite.evidence.tables.tabular import NONE

_SHOWN = ("training_return", "return", "score")  # of which a benchmark shows one
# The marks of other tables in words; `explained` has the sentences. What the marks d, e and h say
# is told by the version and the steps themselves.
WORDS = {
    "m": "other metric",
    "s": "other spread",
    "SR": "spread recalled",
    "D": "read off a figure",
    "N": "noted",
    "NR": "noted, spread recalled",
    "R": "recalled",
}


OF_VERDICT = {
    "above": " (above its limit)",
    "early": " (within its limit by falling early)",
    "within": " (within its limit)",
}


@dataclass(frozen=True)
class Paper:
    """One algorithm of the registry."""

    name: str
    title: str  # of the paper, with authors, year and number
    file: Path  # from the root of the checkout
    family: str  # what it has in common with those of its folder, in a sentence
    benchmarks: tuple[str, ...]  # that have rows of it


@dataclass(frozen=True)
class Row:
    """One algorithm on one task."""

    task: str
    algorithm: str
    mean: str  # "2488 ± 388": mean and standard deviation over seeds
    iqm: str  # "2498 [2216, 2769]": IQM and its 95% interval
    published: str  # "2383 ± 272"
    source: str  # "CleanRL, v3: other metric": whose it is, and what sets it apart from ours
    file: Path


@dataclass(frozen=True)
class Total:
    """One algorithm on all tasks of a benchmark."""

    algorithm: str
    trained: str  # "10 x 999k": seeds and steps of each
    score: str  # on one fixed scale, with its 95% interval, where there is one
    wall_time: str  # of all its runs
    folder: Path


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's rows, which all show the same quantity."""

    quantity: str
    kind: str  # what a row is of, beside the algorithm: "task", "data set"
    rows: tuple[Row, ...]
    totals: tuple[Total, ...]
    notes: tuple[str, ...]


def papers(results_dir: Path) -> list[Paper]:
    """Every algorithm of the registry, in its order."""
    ours: dict[str, list[str]] = {}
    for file in sorted(results_dir.glob("*/*/*.json")):
        names = ours.setdefault(json.loads(file.read_text(encoding="utf-8"))["algorithm"], [])
        names += [file.parents[1].name] if file.parents[1].name not in names else []
    found = []
    for name, module in ALGORITHMS.items():
        title = (load(name).__doc__ or name).splitlines()[0].partition(": ")[2]
        family = (import_module(module.rpartition(".")[0]).__doc__ or "").splitlines()[0]
        file = Path(*module.split(".")).with_suffix(".py")
        found.append(Paper(name, title.rstrip("."), file, family, tuple(ours.get(name, ()))))
    return found


def explained() -> list[str]:
    """What WORDS mean, a line each: "**other data**: ..."."""
    meanings = published.DIFFERENCES | {
        mark: published.STATUSES[status] for status, mark in STATUS_MARKS.items() if mark
    }
    return [f"**{words}**: {meanings[mark]}." for mark, words in WORDS.items()]


def benchmark(source: Path, published_dir: Path) -> Benchmark:
    """Rows of a benchmark folder, beside the published values most like ours.

    Raises RowsError or PublishedError for input that does not hold.
    """
    results, values = rows.read(source), published.read(published_dir)
    column = _quantity(results, values)
    pooled = aggregates.pool(results, values, column)
    if pooled and (len(pooled.tasks) < 2 or not pooled.fixed):
        pooled = None  # nothing to pool, or a scale that says nothing beyond this benchmark
    # Stable: in the registry's order, what is above a limit after what is within
    by_task = sorted(results, key=lambda result: (result.task, bool(limits.broken(result))))
    lines = [_row(result, values, column) for result in by_task]
    totals = []
    for name in dict.fromkeys(result.algorithm for result in results):
        ours = [result for result in results if result.algorithm == name]
        seeds = joined(str(len(result.seeds)) for result in ours)
        steps = joined(steps_text(result.last_step) for result in ours)
        known = pooled and name in pooled.values
        score = value_text(pooled.point(name), pooled.interval(name)) if known else NONE
        wall_time = duration_text(sum(result.wall_seconds for result in ours))
        totals.append(Total(name, f"{seeds} x {steps}", score, wall_time, ours[0].file.parent))
    notes = _notes(results, pooled, column)
    return Benchmark(FINALS[column], task_word(results), tuple(lines), tuple(totals), tuple(notes))


def _notes(results: Sequence[Result], pooled: aggregates.Scores | None, column: str) -> list[str]:
    notes = [*data_notes(results), *settings_notes(results), *wall_time_notes(results)]
    notes += failings(results)
    notes += ["Steps are gradient steps."] if steps_header(results) != "Steps" else []
    if pooled:
        together, over = f"All {task_word(results)}s", ", ".join(pooled.tasks)
        notes.append(f"{together}: {pooled.centre} over {over}. {pooled.scale}")
        left_out = aggregates.comparable(results, column)[1]
        notes += [f"{together} leaves out {'; '.join(left_out)}."] if left_out else []
    return notes


def _quantity(results: Sequence[Result], values: Sequence[Published]) -> str:
    """The column in which most runs have a published value; of several, the most alike.

    Where there is none, normalised scores if all runs have them, else evaluation returns.
    """
    complete = [c for c in _SHOWN if all(r.final(c) is not None for r in results)]

    def merit(column: str) -> tuple[int, int]:
        covered, unlike = 0, 0
        for result in results:
            place = result.place
            near = published.closest(published.beside(values, place, [column]), place)
            covered += near is not None
            unlike += len(published.differences(near, place)) if near else 0
        return covered, -unlike

    best = max(complete, key=merit)
    if merit(best)[0]:
        return best
    return "score" if "score" in complete else "return"


def _row(result: Result, values: Sequence[Published], column: str) -> Row:
    summary = summarise(result.final(column))
    mark = "" if result.state == "finished" else f" ({result.state})"
    mark += OF_VERDICT.get(limits.verdict(result), "")
    near = all_algorithms.nearest(result, values, column)
    value, source = _beside(near, result) if near else (NONE, NONE)
    return Row(
        task=result.task,
        algorithm=result.algorithm,
        mean=mean_text(summary) + mark,
        iqm=iqm_text(summary),
        published=value,
        source=source,
        file=result.file,
    )


def _beside(near: Published, result: Result) -> tuple[str, str]:
    """A published value, and its source with what sets it apart from ours."""
    cell = published_cell(near, result)
    facts = [near.source, near.environment or "version not recorded"]
    facts += [f"at {steps_text(near.steps)}"] if "h" in cell.marks else []
    unlike = ", ".join(WORDS[mark] for mark in cell.marks if mark in WORDS)
    return cell.text, f"{', '.join(facts)}: {unlike}" if unlike else ", ".join(facts)
