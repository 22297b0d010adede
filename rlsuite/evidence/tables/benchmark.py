"""Tables of a benchmark or a run: our final values, and the same beside published ones.

Where tasks have limits, what keeps to them comes first (``constraints.py``). Where there are
several algorithms, tables of all of them follow (``families.py``). Per algorithm there are two
kinds of tables: our runs (one row per task) and our runs beside published values (one row per
source, tasks as columns). A published value whose environment version, horizon, metric or kind of
spread differs from ours, or which was not read in its source, carries marks that the notes below
the table explain; no mark means that like stands beside like.

Of offline runs the tasks are data sets, and a further table shows the data and the best evaluation
(``offline.py``).

Conventions: a final value of a seed is its last evaluation row; the standard deviation over seeds
divides by n - 1; intervals are 95% percentile intervals of the bootstrap over seeds, of the
interquartile mean, from a generator seeded with 0, so that they can be recomputed.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rlsuite.evidence import published, rows, statistics
from rlsuite.evidence.published import Published
from rlsuite.evidence.rows import FINALS, Result
from rlsuite.evidence.tables import constraints, tabular
from rlsuite.evidence.tables import families as all_algorithms
from rlsuite.evidence.tables import offline as offline_tables
from rlsuite.evidence.tables.summaries import (
    BOOTSTRAP_SEED,
    candidates,
    data_notes,
    duration_text,
    failings,
    iqm_text,
    joined,
    legend,
    mean_text,
    published_cell,
    settings_notes,
    steps_header,
    steps_text,
    summarise,
    task_word,
    too_far,
    variant_notes,
    wall_time_notes,
)
from rlsuite.evidence.tables.tabular import NONE, PLUS_MINUS, Cell, Table

_CSV_HEADER = (
    "algorithm",
    "task",
    "origin",
    "environment",
    "quantity",
    "steps",
    "seeds",
    "mean",
    "spread",
    "spread_kind",
    "iqm",
    "iqm_low",
    "iqm_high",
    "wall_seconds",
    "differences",
    "status",
    "error",
    "citation",
)


def write(source: Path, out_dir: Path, published_dir: Path) -> list[Path]:
    """Write tables.md, tables.tex and tables.csv of a benchmark or run folder into `out_dir`.

    Raises RowsError or PublishedError, before anything is written, for input that does not hold.
    """
    results = rows.read(source)
    values = published.read(published_dir)
    return write_tables(build(results, values), results, values, out_dir)


def write_tables(
    tables: Sequence[Table],
    results: Sequence[Result],
    values: Sequence[Published],
    out_dir: Path,
) -> list[Path]:
    """Write tables as Markdown and LaTeX, and their results as CSV, into `out_dir`."""
    texts = {"tables.md": tabular.markdown(tables), "tables.tex": tabular.latex(tables)}
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out_dir / name).write_text(text, encoding="utf-8")
    with (out_dir / "tables.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_CSV_HEADER)
        writer.writerows(map(tabular.csv_cell, line) for line in _csv_rows(results, values))
    return [out_dir / name for name in (*texts, "tables.csv")]


def build(results: Sequence[Result], values: Sequence[Published]) -> list[Table]:
    """All algorithms together, where there are several; then each, ours and beside published."""
    tables = constraints.build(results) + all_algorithms.build(results, values)
    for algorithm in dict.fromkeys(result.algorithm for result in results):
        ours = [result for result in results if result.algorithm == algorithm]
        tables.append(_ours(algorithm, ours, results))
        title = f"{algorithm}: beside published values"
        for part_title, part in all_algorithms.parts(title, ours):
            tables.append(_beside(part_title, part, values))
        if any(result.data for result in ours):
            tables.append(offline_tables.best(algorithm, ours))
    return tables


def _ours(algorithm: str, ours: Sequence[Result], results: Sequence[Result]) -> Table:
    notes = [
        *our_notes(ours),
        *settings_notes(ours),
        *variant_notes(ours, results),
        *failings(ours),
    ]
    names = [result.task for result in ours]
    return our_table(f"{algorithm}: our runs", task_word(ours).capitalize(), names, ours, notes)


def our_table(
    title: str, first: str, names: Sequence[str], ours: Sequence[Result], notes: Sequence[str]
) -> Table:
    """A row for each result, called as `names` say, under a first column called `first`."""
    columns = [name for name in FINALS if any(name in r.quantities() for r in ours)]
    header = [first, "Seeds", steps_header(ours)]
    for name in columns:
        header += [FINALS[name].capitalize(), "its IQM [95% interval]"]
    lines = []
    for own, result in zip(names, ours, strict=True):
        line = [own, str(len(result.seeds)), f"{result.last_step:,}"]
        for name in columns:
            final = result.final(name)
            summary = None if final is None else summarise(final)
            line.append(mean_text(summary) if summary else NONE)
            line.append(iqm_text(summary) if summary else NONE)
        lines.append([Cell(text) for text in [*line, duration_text(result.wall_seconds)]])
    return Table(title, [*header, "Wall time"], lines, notes)


def our_notes(ours: Sequence[Result]) -> list[str]:
    """What the columns of `our_table` are."""
    measured = [
        "Training return: raw return of a seed's last 100 training episodes, sampled actions. "
        "Evaluation: deterministic policy at the end of training. Steps are per seed."
    ]
    if task_word(ours) == "data set":
        measured = offline_tables.score_notes(ours)
    return [
        *measured,
        f"{PLUS_MINUS}: mean and standard deviation over seeds (divided by n - 1). IQM: mean of "
        "the middle half of the seeds, a seed on the edge counting in part; in brackets its 95% "
        f"percentile bootstrap interval ({statistics.RESAMPLES} resamples of the seeds, generator "
        f"seed {BOOTSTRAP_SEED}).",
        "Wall time: all seeds of the row together, as they were trained.",
        *wall_time_notes(ours),
    ]


def _beside(title: str, ours: Sequence[Result], values: Sequence[Published]) -> Table:
    lines = []
    for name in FINALS:
        if any(name in result.quantities() for result in ours):
            lines.append(_our_line(name, ours))
    found: dict[tuple[str, str], dict[str, Published]] = {}
    for result in ours:
        for row in candidates(result, values):
            found.setdefault((row.source, row.column), {})[result.task] = row
    marks: set[str] = set()
    notes: list[str] = []
    sources = [source for source, _ in found]
    for (source, column), by_task in sorted(found.items(), key=lambda item: _unlike(item[1], ours)):
        label = source if sources.count(source) == 1 else f"{source}, {FINALS[column]}"
        cells = []
        for result in ours:
            row = by_task.get(result.task)
            cell = Cell(NONE) if row is None else published_cell(row, result)
            marks.update(cell.marks)
            cells.append(cell)
        shown = by_task.values()
        facts = (
            joined(row.environment for row in shown),
            joined(str(row.seeds or "") for row in shown),
            joined(steps_text(row.steps) for row in shown),
        )
        notes.append(_source_note(label, list(shown)))
        lines.append([Cell(label), *map(Cell, facts), *cells])
    notes = [*legend(marks), *data_notes(ours), *_left_out(ours, values), *notes]
    origin = "Data" if task_word(ours) == "data set" else "Environment"
    header = ["Source", origin, "Seeds", steps_header(ours), *(result.task for result in ours)]
    return Table(title, header, lines, notes)


def _our_line(name: str, ours: Sequence[Result]) -> list[Cell]:
    cells = []
    for result in ours:
        final = result.final(name) if name in result.quantities() else None
        summary = None if final is None else summarise(final)
        cells.append(Cell(mean_text(summary) if summary else NONE))
    return [
        Cell(f"ours, {FINALS[name]}"),
        Cell(joined(result.place.environment for result in ours)),
        Cell(joined(str(len(result.seeds)) for result in ours)),
        Cell(joined(steps_text(result.last_step) for result in ours)),
        *cells,
    ]


def _unlike(by_task: dict[str, Published], ours: Sequence[Result]) -> int:
    """Fewest differences that any value of a source has from ours; the most alike come first."""
    return min(
        len(published.differences(by_task[result.task], result.place))
        for result in ours
        if result.task in by_task
    )


def _left_out(ours: Sequence[Result], values: Sequence[Published]) -> list[str]:
    """A note for every task whose published values all stand at other horizons."""
    notes = []
    for result in ours:
        place = result.place
        if far := too_far(result, values, result.quantities()):
            notes.append(far)
        elif not published.find(values, place.algorithm, place.task, result.quantities()):
            notes.append(f"{result.task}: no published value of {result.algorithm} on record.")
    return notes


def _source_note(source: str, shown: Sequence[Published]) -> str:
    parts = [" / ".join(dict.fromkeys(row.metric for row in shown))]
    kinds = dict.fromkeys(row.spread_kind for row in shown if row.spread_kind)
    parts.append(f"spread: {' / '.join(kinds)}" if kinds else "no spread published")
    errors = dict.fromkeys(row.error for row in shown if row.error)
    parts += [f"reading error {' / '.join(errors)}"] if errors else []
    parts.append(" / ".join(dict.fromkeys(row.citation for row in shown)))
    return f"{source}: {'; '.join(parts)}."


def _csv_rows(results: Sequence[Result], values: Sequence[Published]) -> list[list[object]]:
    lines: list[list[object]] = []
    for result in results:
        version = result.place.environment
        status = result.state
        optimistic = ["score_best"] if result.data and "score" in result.quantities() else []
        for name in result.quantities() + optimistic:
            s = summarise(result.final(name))
            numbers = [s.mean, s.std, "std over seeds", s.iqm, s.low, s.high]
            numbers = ["" if x != x else x for x in numbers]  # NaN: one seed has no spread
            line = [result.algorithm, result.task, "ours", version, FINALS[name]]
            wall = round(result.wall_seconds, 1)
            line += [result.last_step, s.seeds, *numbers, wall, "", status, "", ""]
            lines.append(line)
        for row in candidates(result, values):
            spread = row.spread
            if isinstance(spread, tuple):
                spread = f"{spread[0]} to {spread[1]}"
            line = [result.algorithm, result.task, row.source, row.environment, row.metric]
            line += [row.steps, row.seeds, row.mean, spread, row.spread_kind, "", "", "", ""]
            marks = published.differences(row, result.place)
            lines.append([*line, marks, row.status, row.error, row.citation])
    return lines
