"""All algorithms of a benchmark in one table: ours, with intervals, beside published values.

Every table holds one quantity, so that a column can be read downwards. The published value under
an algorithm is the one most like ours in that quantity; one that stands at another horizon is
shown only where there is no other, with its steps in words and a mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlsuite.evidence import aggregates, limits, published
from rlsuite.evidence.published import Published
from rlsuite.evidence.rows import FINALS, Result
from rlsuite.evidence.tables.summaries import (
    data_notes,
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
)
from rlsuite.evidence.tables.tabular import NONE, PLUS_MINUS, Cell, Table

TASKS_PER_TABLE = 6
POOLED = ("training_return", "return", "score", "score_last_10")  # a cost is better lower


def build(results: Sequence[Result], values: Sequence[Published]) -> list[Table]:
    """Per quantity: the aggregate over tasks, then every task, at most 6 wide; [] of one alone."""
    tables = []
    if len({result.algorithm for result in results}) < 2:
        return []
    for column in FINALS:
        shown = [result for result in results if column in result.quantities()]
        if not shown:
            continue
        pooled = aggregates.table(results, values, column) if column in POOLED else None
        tables += [pooled] if pooled else []
        names = list(dict.fromkeys(result.algorithm for result in shown))
        if len(names) < 2:
            continue
        all_parts = f"All algorithms: {FINALS[column]} per {task_word(shown)}"
        for title, part in parts(all_parts, shown):
            tables.append(_per_task(title, part, values, column))
    return tables


def parts(title: str, results: Sequence[Result]) -> Iterator[tuple[str, list[Result]]]:
    """Results in parts of at most 6 tasks, as even as can be, each with its numbered title."""
    tasks = sorted({result.task for result in results})
    count = -(-len(tasks) // TASKS_PER_TABLE)
    ends = [round(index * len(tasks) / count) for index in range(count + 1)]
    for number in range(count):
        chosen = tasks[ends[number] : ends[number + 1]]
        suffix = f" ({number + 1} of {count})" if count > 1 else ""
        yield title + suffix, [result for result in results if result.task in chosen]


def nearest(result: Result, values: Sequence[Published], column: str) -> Published | None:
    """The published value most like a run in one quantity; else the one of the nearest horizon."""
    known = published.beside(values, result.place, [column])
    near = published.closest(known, result.place)
    return near or published.elsewhere(values, result.place, [column])


def published_words(row: Published, result: Result) -> Cell:
    """A published value with its source: "2383 ± 272 (CleanRL, v4)", and its steps if not ours."""
    cell = published_cell(row, result)
    facts = [row.source, row.environment]
    facts += [f"at {steps_text(row.steps)}"] if "h" in cell.marks else []
    return Cell(f"{cell.text} ({joined(facts)})", cell.marks)


def _per_task(
    title: str, results: Sequence[Result], values: Sequence[Published], column: str
) -> Table:
    tasks = sorted({result.task for result in results})
    by_key = {(result.algorithm, result.task): result for result in results}
    lines, marks = [], set()
    for name in dict.fromkeys(result.algorithm for result in results):
        ours = [by_key.get((name, task)) for task in tasks]
        summaries = [summarise(r.final(column)) if r else None for r in ours]
        near = [nearest(r, values, column) if r else None for r in ours]
        beside = [
            published_words(row, r) if row else Cell(NONE)
            for row, r in zip(near, ours, strict=True)
        ]
        marks.update(mark for cell in beside for mark in cell.marks)
        trained = [r for r in ours if r]
        seeds = joined(str(len(r.seeds)) for r in trained)
        steps = joined(steps_text(r.last_step) for r in trained)
        # A return above a limit is told to be so wherever it stands beside others
        own = [limits.marks(r, column) if r else () for r in ours]
        marks.update(mark for each in own for mark in each)
        pairs = list(zip(summaries, own, strict=True))
        means = [Cell(mean_text(s) if s else NONE, mark) for s, mark in pairs]
        iqms = [Cell(iqm_text(s) if s else NONE, mark) for s, mark in pairs]
        lines.append([Cell(name), Cell(seeds), Cell(steps), *means])
        lines.append([Cell(f"{name}, IQM [95% interval]"), Cell(""), Cell(""), *iqms])
        counts = joined(str(row.seeds or "") for row in near if row)
        horizons = joined(steps_text(row.steps) for row in near if row)
        lines.append([Cell(f"{name}, published"), Cell(counts), Cell(horizons), *beside])
    notes = [
        f"{PLUS_MINUS}: mean and standard deviation over seeds. Published: the value most like "
        f"ours in {FINALS[column]}, not the highest; all others, with their citations, stand "
        "in the algorithm's own table.",
        *legend(marks),
        *data_notes(results),
        *settings_notes(results),
        *failings(results),
    ]
    return Table(title, ["Algorithm", "Seeds", steps_header(results), *tasks], lines, notes)
