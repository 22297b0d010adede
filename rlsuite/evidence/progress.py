"""What a run logged at every iteration: its progress.csv, checked, and summed up for a manifest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from rlsuite.evidence import cells
from rlsuite.evidence.cells import RowsError

NOT_METRICS = ("seed", "step", "training_return", "training_length", "wall_seconds")
Logged = dict[str, dict[str, float]]  # {metric: {"mean", "least", "most"}}


@dataclass(frozen=True)
class Progress:
    """Rows of S seeds at T iterations."""

    seeds: tuple[int, ...]
    steps: np.ndarray  # int64 [T], increasing
    training_return: np.ndarray = field(repr=False)  # float64 [S, T], NaN before the first episode
    logged: Logged


def read(file: Path, dropped: Collection[int] = ()) -> Progress:
    """Read a run's progress.csv, without seeds that were `dropped`.

    RowsError for a damaged one, and for one without rows.
    """
    table = [(place, row) for place, row in cells.read(file, ("seed", "step"))
             if cells.key(row, place)[0] not in dropped]  # fmt: skip
    if not table:
        raise RowsError(f"{file}: no rows; a run writes one per seed and iteration")
    returns: dict[tuple[int, int], float] = {}
    metrics: dict[str, list[float]] = {name: [] for name in table[0][1] if name not in NOT_METRICS}
    for place, row in table:
        key = cells.key(row, place)
        if key in returns:
            raise RowsError(f"{place}: seed {key[0]} already has a row at step {key[1]}")
        returns[key] = cells.number(row.get("training_return", ""), "training_return", place, True)
        for name, values in metrics.items():
            if row[name]:
                values.append(cells.number(row[name], name, place))
    seeds, steps = cells.grid(file, list(returns))
    return Progress(
        seeds=tuple(seeds),
        steps=np.array(steps, dtype=np.int64),
        training_return=np.array([[returns[seed, step] for step in steps] for seed in seeds]),
        logged={
            name: _rounded(fmean(values), min(values), max(values))
            for name, values in metrics.items()
            if values
        },
    )


def pooled(parts: list[tuple[int, Logged]]) -> Logged:
    """Several runs of one config together: (number of seeds, what was logged) of each.

    A mean weighs by seeds, of which each has as many rows.
    """
    found = {}
    for name in dict.fromkeys(name for _, logged in parts for name in logged):
        known = [(count, logged[name]) for count, logged in parts if name in logged]
        whole = sum(count for count, _ in known)
        mean = sum(count * figures["mean"] for count, figures in known) / whole
        least = min(figures["least"] for _, figures in known)
        found[name] = _rounded(mean, least, max(figures["most"] for _, figures in known))
    return found


def _rounded(mean: float, least: float, most: float) -> dict[str, float]:
    """To six digits, as a manifest shows them."""
    figures = {"mean": mean, "least": least, "most": most}
    return {kind: float(f"{value:.6g}") for kind, value in figures.items()}
