"""Tables of one's own runs side by side: a row for each, the best of a task first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlsuite.evidence import limits
from rlsuite.evidence.rows import FINALS, Result
from rlsuite.evidence.tables import benchmark, constraints
from rlsuite.evidence.tables.summaries import data_notes, failings
from rlsuite.evidence.tables.tabular import Table

RANKS = ("", "within", "early", "above")  # verdicts on limits, the best first


def build(results: Sequence[Result]) -> list[Table]:
    """A table for every task; where it has limits, another one of what the runs pay."""
    tables = constraints.build(results)
    for task in dict.fromkeys(result.task for result in results):
        here = [result for result in results if result.task == task]
        column = headline(here)
        ranked = sorted(here, key=lambda result: _rank(result, column))
        notes = [
            f"The best {FINALS[column]} first, as the mean over seeds.",
            *benchmark.our_notes(here),
            *data_notes(here),
            *failings(here),
        ]
        names = [result.algorithm for result in ranked]
        tables.append(benchmark.our_table(f"{task}: runs", "Run", names, ranked, notes))
    return tables


def headline(results: Sequence[Result]) -> str:
    """What runs on one task are ranked by: the normalised score where all have one."""
    scored = all(result.final("score") is not None for result in results)
    return "score" if scored else "return"


def _rank(result: Result, column: str) -> tuple[int, float]:
    final = result.final(column)
    mean = -np.inf if final is None else float(final.mean())
    return RANKS.index(limits.verdict(result)), -mean
