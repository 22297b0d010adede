"""A heat map of runs that differ in two settings: the final value of every combination."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlsuite.evidence import limits, several
from rlsuite.evidence.curves import STYLE
from rlsuite.evidence.pictures import png
from rlsuite.evidence.rows import FINALS, Result, named
from rlsuite.evidence.tables.runs import headline
from rlsuite.evidence.tables.summaries import value_text
from rlsuite.evidence.tables.tabular import one_line

ACROSS = 3  # panels beside one another, at most
COLOURS = "viridis"  # even steps look even, with every kind of colour blindness, and in grey


def figures(results: Sequence[Result]) -> dict[str, bytes]:
    """{"heat_map.png": its PNG}, a panel per algorithm and task that has a grid of two settings."""
    grids = list(filter(None, map(_grid, _groups(results))))
    if not grids:
        return {}
    across = min(ACROSS, len(grids))
    down = -(-len(grids) // across)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(5.2 * across, 4.2 * down + 0.4), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for spare in panels[len(grids) :]:
            spare.set_visible(False)
        for panel, grid in zip(panels, grids, strict=False):
            _panel(figure, panel, *grid)
        figure.supxlabel("mean over seeds; blank: no run", fontsize=8, color="#444444")
        return {"heat_map.png": png(figure)}


def _groups(results: Sequence[Result]) -> list[list[Result]]:
    """Results of one algorithm on one task."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((named(result.manifest), result.task), []).append(result)
    return list(groups.values())


def _grid(group: Sequence[Result]) -> tuple[list[str], dict[tuple, Result]] | None:
    """The two settings, and {their values: result}; None where runs are no grid of two.

    Settings that only change together are one setting.
    """
    names = several.differing(group)
    if len(names) != 2:
        return None
    cells = {several.place(result, names): result for result in group}
    widths = [len({key[side] for key in cells}) for side in (0, 1)]
    return (names, cells) if len(cells) == len(group) > max(widths) else None


def _panel(figure: Figure, panel: Axes, names: list[str], cells: dict[tuple, Result]) -> None:
    """Columns are the values of the second setting, rows those of the first."""
    rows, columns = (sorted({key[side] for key in cells}) for side in (0, 1))
    results = list(cells.values())
    column = headline(results)
    means = np.full((len(rows), len(columns)), np.nan)
    for (row, other), result in cells.items():
        final = result.final(column)
        if final is not None:
            means[rows.index(row), columns.index(other)] = final.mean()
    image = panel.imshow(means, cmap=COLOURS, aspect="auto", origin="lower")
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for (row, other), result in cells.items():
        y, x = rows.index(row), columns.index(other)
        if np.isnan(means[y, x]):
            continue
        words = value_text(means[y, x], None) + _remark(result)
        dark = means[y, x] < middle
        colour = "white" if dark else "black"
        panel.text(x, y, words, color=colour, ha="center", va="center", fontsize=9)
    panel.set_xticks(range(len(columns)), [key[2] for key in columns])
    panel.set_yticks(range(len(rows)), [key[2] for key in rows])
    panel.set_ylabel(names[0])
    panel.set_xlabel(names[1])
    panel.set_title(one_line(f"{named(results[0].manifest)} on {results[0].task}"))
    panel.spines[:].set_visible(False)
    figure.colorbar(image, ax=panel, label=FINALS[column])


def _remark(result: Result) -> str:
    """What keeps a value from being the final one, or from counting."""
    if limits.verdict(result) == "above":
        return "\nabove its limit"
    return "" if result.state == "finished" else f"\n{result.state}"
