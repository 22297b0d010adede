"""Tables of a benchmark or a run: our final values, and the same beside published ones.

Per algorithm there are two kinds of tables: our runs (one row per task) and our runs beside
published values (one row per source, tasks as columns). A published value whose environment
version, horizon, metric or kind of spread differs from ours, or which was not read in its source,
carries marks that the notes below the table explain; no mark means that like stands beside like.

Conventions: a final value of a seed is its last evaluation row; the standard deviation over seeds
divides by n - 1; intervals are 95% percentile intervals of the bootstrap over seeds, of the
interquartile mean, from a generator seeded with 0, so that they can be recomputed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlsuite.experiments import published, rows, statistics, tabular
from rlsuite.experiments.published import Published
from rlsuite.experiments.rows import QUANTITIES, Result
from rlsuite.experiments.tabular import NONE, PLUS_MINUS, Cell, Table

TASKS_PER_TABLE = 6
BOOTSTRAP_SEED = 0
_STATUS_MARKS = {
    "verified": "",
    "digitised": "D",
    "noted": "N",
    "noted, spread recalled": "NR",
    "recalled": "R",
}
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


@dataclass(frozen=True)
class Summary:
    """Final values of one quantity over the seeds; NaN where one seed cannot tell."""

    seeds: int
    mean: float
    std: float
    iqm: float
    low: float
    high: float


@dataclass(frozen=True)
class ReadmeRow:
    """One algorithm on one task, as a README table wants it."""

    algorithm: str
    task: str
    quantity: str  # in words, for example "training return"
    mean: str  # "2310 ± 183": mean and standard deviation over seeds
    score: str  # "2306 [2231, 2385]": IQM and its 95% bootstrap interval
    published: str  # "2159 ± 302 (baselines, v2)": what sets it apart follows the source
    wall_time: str
    file: Path


def write(source: Path, out_dir: Path, published_dir: Path) -> list[Path]:
    """Write tables.md, tables.tex and tables.csv of a benchmark or run folder into `out_dir`.

    Raises RowsError or PublishedError, before anything is written, for input that does not hold.
    """
    results = rows.read(source)
    values = published.read(published_dir)
    tables = build(results, values)
    texts = {"tables.md": tabular.markdown(tables), "tables.tex": tabular.latex(tables)}
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out_dir / name).write_text(text, encoding="utf-8")
    with (out_dir / "tables.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_CSV_HEADER)
        writer.writerows(_csv_rows(results, values))
    return [out_dir / name for name in (*texts, "tables.csv")]


def build(results: Sequence[Result], values: Sequence[Published]) -> list[Table]:
    """The tables of every algorithm: ours, then beside published values, at most 6 tasks wide."""
    tables = []
    for algorithm in dict.fromkeys(result.algorithm for result in results):
        ours = [result for result in results if result.algorithm == algorithm]
        tables.append(_ours(algorithm, ours))
        parts = -(-len(ours) // TASKS_PER_TABLE)
        for number, part in enumerate(np.array_split(np.arange(len(ours)), parts), start=1):
            title = f"{algorithm}: beside published values"
            title += f" ({number} of {parts})" if parts > 1 else ""
            tables.append(_beside(title, [ours[index] for index in part], values))
    return tables


def readme_rows(source: Path, published_dir: Path) -> list[ReadmeRow]:
    """One row per algorithm and task of a folder, beside the published value most like ours.

    The quantity is the one that this value stands beside; where there is none, the normalised
    score if the task has one, else the evaluation return.
    """
    values = published.read(published_dir)
    lines = []
    for result in rows.read(source):
        known = [row for row in _candidates(result, values) if row.column != "cost"]
        near = published.closest(known, result.task, result.last_step)
        column = "score" if "score" in result.quantities() else "return"
        column = near.column if near else column
        summary = summarise(result.final(column))
        text = NONE
        if near:
            marks = published.differences(near, result.task, result.last_step)
            apart = [_difference(near, mark) for mark in marks]
            apart += [near.status] if near.status != "verified" else []
            text = f"{published_text(near)} ({', '.join([near.source, *apart])})"
        lines.append(
            ReadmeRow(
                algorithm=result.algorithm,
                task=result.task,
                quantity=QUANTITIES[column],
                mean=value_text(summary.mean, summary.std),
                score=_iqm_text(summary),
                published=text,
                wall_time=duration_text(result.wall_seconds),
                file=result.file,
            )
        )
    return lines


def summarise(final: np.ndarray) -> Summary:
    """Summary of the seeds' final values [S]."""
    seeds = len(final)
    mean, iqm = float(final.mean()), statistics.estimate([final], statistics.iqm)
    if seeds < 2:
        return Summary(seeds, mean, np.nan, iqm, np.nan, np.nan)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    low, high = statistics.bootstrap_interval([final], statistics.iqm, rng)
    return Summary(seeds, mean, float(final.std(ddof=1)), iqm, low, high)


def number_text(value: float, scale: float, most: int = 2) -> str:
    """A number with the decimals that a value of size `scale` deserves: 2443, 111.2, -4.65.

    `most` limits them, where more were never published.
    """
    decimals = min(most, 0 if scale >= 1000 else 1 if scale >= 100 else 2)
    text = f"{value:.{decimals}f}"
    return text[1:] if float(text) == 0 and text.startswith("-") else text


def value_text(mean: float, spread: float | tuple[float, float] | None, most: int = 2) -> str:
    """A mean with its spread: "2383 ± 272", "3292 [3157, 3426]" or "1669"."""
    if isinstance(spread, tuple):
        scale = max(abs(mean), *map(abs, spread))
        low, high = (number_text(end, scale, most) for end in spread)
        return f"{number_text(mean, scale, most)} [{low}, {high}]"
    if spread is None or np.isnan(spread):
        return number_text(mean, abs(mean), most)
    scale = max(abs(mean), spread)
    ends = [number_text(value, scale, most) for value in (mean, spread)]
    return f" {PLUS_MINUS} ".join(ends)


def published_text(row: Published) -> str:
    """A published value with its spread, with no more decimals than were published."""
    return value_text(row.mean, row.spread, row.decimals)


def steps_text(steps: int | None) -> str:
    """Steps in short: 1000000 -> "1M", 999424 -> "999k"."""
    if steps is None:
        return NONE
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if steps >= size:
            return f"{steps / size:.3g}{unit}"
    return str(steps)


def duration_text(seconds: float) -> str:
    """Wall time in short: "2 h 05 min", "3 min 10 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s"


def _iqm_text(summary: Summary) -> str:
    if np.isnan(summary.low):
        return value_text(summary.iqm, None)
    return value_text(summary.iqm, (summary.low, summary.high))


def _ours(algorithm: str, ours: Sequence[Result]) -> Table:
    columns = [name for name in QUANTITIES if any(name in r.quantities() for r in ours)]
    header = ["Task", "Seeds", "Steps"]
    for name in columns:
        header += [QUANTITIES[name].capitalize(), "its IQM [95% interval]"]
    lines = []
    for result in ours:
        line = [result.task, str(len(result.seeds)), f"{result.last_step:,}"]
        for name in columns:
            final = result.final(name)
            summary = None if final is None else summarise(final)
            line.append(value_text(summary.mean, summary.std) if summary else NONE)
            line.append(_iqm_text(summary) if summary else NONE)
        lines.append([Cell(text) for text in [*line, duration_text(result.wall_seconds)]])
    notes = [
        "Training return: raw return of a seed's last 100 training episodes, sampled actions. "
        "Evaluation: deterministic policy at the end of training. Steps are per seed.",
        f"{PLUS_MINUS}: mean and standard deviation over seeds (divided by n - 1). IQM: mean of "
        "the middle half of the seeds, a seed on the edge counting in part; in brackets its 95% "
        f"percentile bootstrap interval ({statistics.RESAMPLES} resamples of the seeds, generator "
        f"seed {BOOTSTRAP_SEED}).",
        "Wall time: all seeds of the row together, as they were trained.",
        *unfinished(ours),
    ]
    return Table(f"{algorithm}: our runs", [*header, "Wall time"], lines, notes)


def unfinished(results: Sequence[Result]) -> list[str]:
    """A warning for every run whose last evaluation is not at its end."""
    return [
        f"UNFINISHED: {result.algorithm} on {result.task} stands at step {result.last_step:,} of "
        f"{result.planned_steps:,}; its values are not final."
        for result in results
        if not result.finished
    ]


def _beside(title: str, ours: Sequence[Result], values: Sequence[Published]) -> Table:
    lines = []
    for name in ("training_return", "return", "score", "cost"):
        if any(name in result.quantities() for result in ours):
            lines.append(_our_line(name, ours))
    found: dict[tuple[str, str], dict[str, Published]] = {}
    for result in ours:
        for row in _candidates(result, values):
            found.setdefault((row.source, row.column), {})[result.task] = row
    marks: set[str] = set()
    notes: list[str] = []
    sources = [source for source, _ in found]
    for (source, column), by_task in sorted(found.items(), key=lambda item: _unlike(item[1], ours)):
        label = source if sources.count(source) == 1 else f"{source}, {QUANTITIES[column]}"
        cells = []
        for result in ours:
            row = by_task.get(result.task)
            cell = Cell(NONE) if row is None else _published_cell(row, result)
            marks.update(cell.marks)
            cells.append(cell)
        shown = by_task.values()
        facts = (
            _joined(row.environment for row in shown),
            _joined(str(row.seeds or "") for row in shown),
            _joined(steps_text(row.steps) for row in shown),
        )
        notes.append(_source_note(label, list(shown)))
        lines.append([Cell(label), *map(Cell, facts), *cells])
    notes = [*_legend(marks), *_left_out(ours, values), *notes]
    header = ["Source", "Environment", "Seeds", "Steps", *(result.task for result in ours)]
    return Table(title, header, lines, notes)


def _our_line(name: str, ours: Sequence[Result]) -> list[Cell]:
    cells = []
    for result in ours:
        final = result.final(name) if name in result.quantities() else None
        summary = None if final is None else summarise(final)
        cells.append(Cell(value_text(summary.mean, summary.std) if summary else NONE))
    return [
        Cell(f"ours, {QUANTITIES[name]}"),
        Cell(_joined(published.split_task(result.task)[1] for result in ours)),
        Cell(_joined(str(len(result.seeds)) for result in ours)),
        Cell(_joined(steps_text(result.last_step) for result in ours)),
        *cells,
    ]


def _unlike(by_task: dict[str, Published], ours: Sequence[Result]) -> int:
    """Fewest differences that any value of a source has from ours; the most alike come first."""
    return min(
        len(published.differences(by_task[result.task], result.task, result.last_step))
        for result in ours
        if result.task in by_task
    )


def _candidates(result: Result, values: Sequence[Published]) -> list[Published]:
    return published.beside(
        values, result.algorithm, result.task, result.last_step, result.quantities()
    )


def _published_cell(row: Published, result: Result) -> Cell:
    marks = [*published.differences(row, result.task, result.last_step)]
    marks += [_STATUS_MARKS[row.status]] if _STATUS_MARKS[row.status] else []
    return Cell(published_text(row), tuple(marks))


def _legend(marks: set[str]) -> list[str]:
    legend = [f"{mark}: {text}." for mark, text in published.DIFFERENCES.items() if mark in marks]
    legend += [
        f"{mark}: {published.STATUSES[status]}."
        for status, mark in _STATUS_MARKS.items()
        if mark in marks
    ]
    return legend


def _left_out(ours: Sequence[Result], values: Sequence[Published]) -> list[str]:
    """A note for every task whose published values all stand at other horizons."""
    notes = []
    for result in ours:
        family, _ = published.split_task(result.task)
        known = published.find(values, result.algorithm, family, result.quantities())
        if known and not any(row.steps for row in _candidates(result, values)):
            horizons = sorted({row.steps for row in known if row.steps})
            notes.append(
                f"{result.task}: published values stand at {_joined(map(steps_text, horizons))} "
                f"steps, too far from our {steps_text(result.last_step)} to be shown."
            )
        elif not known:
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


def _difference(row: Published, mark: str) -> str:
    """One difference in words short enough for a README cell."""
    return {
        "e": row.environment or "environment not recorded",
        "h": f"{steps_text(row.steps)} steps" if row.steps else "steps not recorded",
        "m": published.METRICS[row.metric].caveat,
        "s": f"spread: {row.spread_kind}",
    }[mark]


def _joined(texts: Iterable[str]) -> str:
    """Different texts in order of appearance, empty ones left out."""
    return ", ".join(dict.fromkeys(text for text in texts if text)) or NONE


def _csv_rows(results: Sequence[Result], values: Sequence[Published]) -> list[list[object]]:
    lines: list[list[object]] = []
    for result in results:
        _, version = published.split_task(result.task)
        status = "finished" if result.finished else "unfinished"
        for name in result.quantities():
            s = summarise(result.final(name))
            numbers = [s.mean, s.std, "std over seeds", s.iqm, s.low, s.high]
            numbers = ["" if x != x else x for x in numbers]  # NaN: one seed has no spread
            line = [result.algorithm, result.task, "ours", version, QUANTITIES[name]]
            wall = round(result.wall_seconds, 1)
            line += [result.last_step, s.seeds, *numbers, wall, "", status, "", ""]
            lines.append(line)
        for row in _candidates(result, values):
            spread = row.spread
            if isinstance(spread, tuple):
                spread = f"{spread[0]} to {spread[1]}"
            line = [result.algorithm, result.task, row.source, row.environment, row.metric]
            line += [row.steps, row.seeds, row.mean, spread, row.spread_kind, "", "", "", ""]
            marks = published.differences(row, result.task, result.last_step)
            lines.append([*line, marks, row.status, row.error, row.citation])
    return lines
