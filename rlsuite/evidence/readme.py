"""What README.md says of a benchmark: one row per algorithm, generated from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlsuite.evidence import aggregates, published, rows
from rlsuite.evidence.published import Published
from rlsuite.evidence.rows import FINALS, Result
from rlsuite.evidence.tables import families as all_algorithms
from rlsuite.evidence.tables.summaries import (
    data_notes,
    duration_text,
    failings,
    iqm_text,
    joined,
    legend,
    mean_text,
    settings_notes,
    steps_header,
    steps_text,
    summarise,
    thing,
    value_text,
    wall_time_notes,
)
from rlsuite.evidence.tables.tabular import NONE, Cell

_SHOWN = ("training_return", "return", "score")  # of which a benchmark shows one


@dataclass(frozen=True)
class Score:
    """One algorithm on one task."""

    mean: str  # "2488 ± 388": mean and standard deviation over seeds
    iqm: str  # "2498 [2216, 2769]": IQM and its 95% interval
    published: Cell  # "2383 ± 272 (CleanRL, v4)"; its marks say what sets it apart from ours
    file: Path


@dataclass(frozen=True)
class Row:
    """One algorithm on all tasks of a benchmark."""

    algorithm: str
    trained: str  # "10 x 999k": seeds and steps of each
    scores: tuple[Score | None, ...]  # one per task of the benchmark; None where it was not run
    total: str  # over all tasks on one fixed scale, with its 95% interval, where there is one
    wall_time: str  # of all its runs
    folder: Path


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's rows, which all show the same quantity."""

    quantity: str
    tasks: tuple[str, ...]
    together: str  # what the totals are of: "All tasks", "All data sets"
    rows: tuple[Row, ...]
    notes: tuple[str, ...]  # marks and scale


def benchmark(source: Path, published_dir: Path) -> Benchmark:
    """Rows of a benchmark folder, beside the published values most like ours.

    Raises RowsError or PublishedError for input that does not hold.
    """
    results, values = rows.read(source), published.read(published_dir)
    column = _quantity(results, values)
    tasks = tuple(dict.fromkeys(sorted(result.task for result in results)))
    pooled = aggregates.pool(results, values, column)
    if pooled and (len(pooled.tasks) < 2 or not pooled.fixed):
        pooled = None  # nothing to pool, or a scale that says nothing beyond this benchmark
    lines = []
    for name in dict.fromkeys(result.algorithm for result in results):
        ours = {result.task: result for result in results if result.algorithm == name}
        seeds = joined(str(len(result.seeds)) for result in ours.values())
        steps = joined(steps_text(result.last_step) for result in ours.values())
        lines.append(
            Row(
                algorithm=name,
                trained=f"{seeds} x {steps}",
                scores=tuple(
                    _score(ours[task], values, column) if task in ours else None for task in tasks
                ),
                total=_total(pooled, name),
                wall_time=duration_text(sum(result.wall_seconds for result in ours.values())),
                folder=source / name,
            )
        )
    cells = [score.published for line in lines for score in line.scores if score]
    notes = legend({mark for cell in cells for mark in cell.marks})
    notes += [*data_notes(results), *settings_notes(results), *wall_time_notes(results)]
    notes += failings(results)
    notes += ["Steps are gradient steps."] if steps_header(results) != "Steps" else []
    together = f"All {thing(results)}s"
    if pooled:
        over = ", ".join(pooled.tasks)
        notes.append(f"{together}: {pooled.centre} over {over}. {pooled.scale}")
    left_out = aggregates.comparable(results, column)[1]
    if pooled and left_out:
        notes.append(f"{together} leaves out {'; '.join(left_out)}.")
    return Benchmark(FINALS[column], tasks, together, tuple(lines), tuple(notes))


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


def _score(result: Result, values: Sequence[Published], column: str) -> Score:
    summary = summarise(result.final(column))
    near = all_algorithms.nearest(result, values, column)
    mark = "" if result.state == "finished" else f" ({result.state})"
    return Score(
        mean=mean_text(summary) + mark,
        iqm=iqm_text(summary),
        published=all_algorithms.published_words(near, result) if near else Cell(NONE),
        file=result.file,
    )


def _total(pooled: aggregates.Scores | None, name: str) -> str:
    if pooled is None:
        return NONE
    return value_text(pooled.point(name), pooled.interval(name))
