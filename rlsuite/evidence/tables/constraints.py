"""What runs pay beside what they earn, per task with limits: ranked, so that a return above a limit
never stands before one within."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlsuite.evidence import limits
from rlsuite.evidence.limits import Limit
from rlsuite.evidence.rows import LAST, Result
from rlsuite.evidence.tables.summaries import (
    mean_text,
    number_text,
    steps_text,
    summarise,
)
from rlsuite.evidence.tables.tabular import NONE, Cell, Table
from rlsuite.runs.evaluation import SAMPLED

HEADER = (
    *("Algorithm", "Rank", "Seeds", "Steps", "Return", "Constraint", "Limit", "Cost"),
    *("Seeds within", "Episodes within", "Length", "Cost per step"),
    *("Return of the mode", "Cost of the mode", "Paid in training"),
)


def build(results: Sequence[Result]) -> list[Table]:
    """A table for every task on which a run has limits to be judged by."""
    tables = []
    for task in sorted({result.task for result in results}):
        here = [r for r in results if r.task == task and limits.limits(r)]
        if here:
            tables.append(_table(task, limits.ranked(here)))
    return tables


def _table(task: str, ranked: Sequence[Result]) -> Table:
    lines, marks = [], {}
    for rank, result in enumerate(ranked, 1):
        own = limits.marks(result, "return")
        marks |= dict.fromkeys(own)
        for index, limit in enumerate(limits.limits(result)):
            lines.append(_line(result, limit, rank, own) if index == 0 else _further(result, limit))
    sampled = all(each.sampled for result in ranked for each in limits.limits(result))
    judged = "sampled actions" if sampled else "sampled actions, or the mode where none were"
    notes = [
        f"Return, cost, length and shares: {judged}; the mean of a seed's last {LAST} evaluations, "
        "then mean and standard deviation over seeds. Limits are judged by them.",
        "Rank: within all limits by return, then what is within only by falling early, then what "
        "is above, by return. A return above a limit is no better than any within.",
        "Cost: of an episode, a step or a discounted episode, as the limit is. Seeds within: those "
        "whose mean is. Paid in training: the undiscounted cost of all steps of a seed.",
        *(f"{mark}: {limits.MARKS[mark]}." for mark in marks),
    ]
    return Table(f"Within limits: {task}", HEADER, lines, notes)


def _line(result: Result, limit: Limit, rank: int, marks: tuple[str, ...]) -> list[Cell]:
    """A result, and its first constraint."""
    prefix = f"{SAMPLED}_" * limit.sampled
    return [
        Cell(result.algorithm),
        Cell(str(rank), marks),
        Cell(str(len(result.seeds))),
        Cell(steps_text(result.last_step)),
        Cell(_mean(result, limits.earned(result)), marks),
        *_judged(result, limit),
        Cell(_share(result, f"{prefix}within")),
        Cell(_mean(result, f"{prefix}length")),
        Cell(_mean(result, f"{prefix}{limit.cost}_per_step")),
        Cell(_mean(result, "return")),
        Cell(_mean(result, limit.cost)),
        Cell(_paid(result, limit)),
    ]


def _further(result: Result, limit: Limit) -> list[Cell]:
    """A further constraint of a result: what is the same for all of them stands above."""
    prefix = f"{SAMPLED}_" * limit.sampled
    return [
        Cell(f"{result.algorithm}, {limit.name}"),
        *[Cell("")] * 4,
        *_judged(result, limit),
        Cell(""),
        Cell(""),
        Cell(_mean(result, f"{prefix}{limit.cost}_per_step")),
        Cell(""),
        Cell(_mean(result, limit.cost)),
        Cell(_paid(result, limit)),
    ]


def _judged(result: Result, limit: Limit) -> list[Cell]:
    cost = limits.last(result, limit.column)
    marks = ("L",) if cost.mean() > limit.limit else ()
    within = f"{int((cost <= limit.limit).sum())} of {len(cost)}"
    cells = (Cell(limit.name), Cell(f"{limit.limit:g}"), Cell(_mean(result, limit.column), marks))
    return [*cells, Cell(within)]


def _mean(result: Result, column: str) -> str:
    if column not in result.values:
        return NONE
    found = limits.last(result, column)
    text = mean_text(summarise(found))
    # Shares and rates are small: two decimals would show 0.00
    return f"{found.mean():.3g}" if 0 < abs(found.mean()) < 0.1 else text


def _share(result: Result, column: str) -> str:
    return f"{limits.last(result, column).mean():.0%}" if column in result.values else NONE


def _paid(result: Result, limit: Limit) -> str:
    found = result.values.get(f"total_training_{limit.cost}")
    if found is None or np.isnan(found[:, -1]).any():
        return NONE
    return number_text(found[:, -1].mean(), abs(found[:, -1].mean()))
