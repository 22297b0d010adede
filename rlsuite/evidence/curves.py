"""Figures of a benchmark or a run: learning curves, and aggregates over tasks.

Learning curves have one panel per task, or data set, and one figure per quantity. The line is the
mean (or the IQM) over seeds and the band its pointwise 95% bootstrap interval; a dashed line is the
published value most like ours, with the marks of `published.DIFFERENCES`. A value that stands only
at another horizon is not drawn; as in the tables, it is named where several algorithms stand
together, while one alone says how far its published values are. A dotted line is the mean score of
the data that an offline run learned from. Costs have their limit as a line, and returns of what is
above one are faint, since they count for nothing. The training returns of a run folder are those of
every iteration, of exported rows those at each evaluation. Where several algorithms share tasks, a
further figure shows the IQM (of scores: the mean) over all tasks, the probability that one
algorithm scores above another, and performance profiles (``aggregates.py``).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rlsuite.evidence import aggregates, limits, pictures, published, rows, statistics
from rlsuite.evidence.aggregates import Scores
from rlsuite.evidence.pictures import png
from rlsuite.evidence.published import Published
from rlsuite.evidence.rows import QUANTITIES, Result
from rlsuite.evidence.styles import Style, styles
from rlsuite.evidence.tables.summaries import (
    generator,
    joined,
    legend,
    published_cell,
    settings_notes,
    steps_text,
    too_far,
)
from rlsuite.evidence.tables.tabular import NONE, one_line

ESTIMATORS = {"mean": statistics.mean, "iqm": statistics.iqm}
THRESHOLDS = 201  # at which a performance profile is drawn
START = 0.1  # share of the steps that the height of a panel need not show
MOSTLY_EMPTY = 2.0  # a panel this many times higher than the rest needs is cut to that
MOST_POINTS = 500  # of a line
MARKERS = 8  # on a line, at most about as many
DASH_SHIFT = 2  # points by which the dashes of one algorithm lag behind those of the one before
CHARACTERS_PER_INCH = 15  # of a figure's foot line, at most
LONG = 20  # characters of a title
WIDE = 13  # characters of names per inch of a figure
FAINT = 0.3  # opacity of returns above a limit
LEVEL = ("--", ":", "-.")  # lines at one height: published values, data, limits
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 144,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "lines.markersize": 5,
}


def write(
    source: Path,
    out_dir: Path,
    published_dir: Path,
    statistic: str = "mean",
    seed_lines: bool = True,
) -> list[Path]:
    """Write every figure of a benchmark or run folder into `out_dir` as PNG.

    statistic: "mean" or "iqm", of the seeds at each step. seed_lines: also draw every seed, thin,
    in figures of one algorithm. Raises ValueError for an unknown statistic, and RowsError or
    PublishedError for input that does not hold, before anything is written.
    """
    found = figures(rows.read(source), published.read(published_dir), statistic, seed_lines)
    return pictures.write(found, out_dir)


def figures(
    results: Sequence[Result],
    values: Sequence[Published],
    statistic: str = "mean",
    seed_lines: bool = True,
    columns: Sequence[str] = (),
    pairs: bool = True,
) -> dict[str, bytes]:
    """Every figure as file name -> PNG bytes, in the order in which a reader wants them.

    columns: the only ones to draw, if given. pairs: also the figure over all tasks, which compares
    every pair of algorithms.
    """
    if statistic not in ESTIMATORS:
        raise ValueError(f"unknown statistic {statistic!r}; use one of {', '.join(ESTIMATORS)}")
    found = {}
    with matplotlib.rc_context(STYLE):
        for column in (*QUANTITIES, *limits.held_columns(results)):
            known = [{*r.quantities(), *limits.held_columns([r])} for r in results]
            shown = [r for r, columns in zip(results, known, strict=True) if column in columns]
            if shown and column in (columns or [column]):
                figure = _learning_curves(shown, values, column, statistic, seed_lines)
                found[f"curves_{column}.png"] = png(figure)
        if pairs and len({result.algorithm for result in results}) > 1:
            column = aggregates.headline(results)
            scores = aggregates.pool(results, values, column)
            if scores:
                left_out = aggregates.comparable(results, column)[1]
                found["aggregate.png"] = png(_aggregate(scores, results, left_out))
    return found


def _learning_curves(
    results: Sequence[Result],
    values: Sequence[Published],
    column: str,
    statistic: str,
    seed_lines: bool,
) -> Figure:
    names = list(dict.fromkeys(result.algorithm for result in results))
    style_of = styles(names)
    title = QUANTITIES.get(column) or limits.held_columns(results)[column]
    tasks = sorted({result.task for result in results})
    across = min(3, len(tasks))
    down = -(-len(tasks) // across)
    figure = Figure(figsize=(max(4.6, 3.9 * across), 1), layout="constrained")
    figure.get_layout_engine().set(hspace=0.08, wspace=0.04)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for spare in panels[len(tasks) :]:
        spare.set_visible(False)
    marks: set[str] = set()
    cut, dotted = [], False
    for panel, task in zip(panels, tasks, strict=False):
        here = [result for result in results if result.task == task]
        unit, word = step_unit(max(result.last_step for result in here))
        reach = []
        for result in here:
            style = style_of[result.algorithm]
            thin = seed_lines and len(names) == 1
            reach += _curve(panel, result, column, statistic, style, unit, thin)
            position = names.index(result.algorithm) if len(names) > 1 else None
            if not (result.variant and result.sibling_of in {r.algorithm for r in here}):
                marks |= _published_line(panel, result, values, column, style.colour, position)
        dotted |= _data_line(panel, here[0], column)
        _limit_line(panel, here, column)
        cut.append(_fit(panel, reach))
        panel.set_title(one_line(task))
        panel.set_xlabel(f"{here[0].step_unit}{word}")
        panel.set_xlim(left=0)
        if panel.get_subplotspec().is_first_col():
            panel.set_ylabel(title)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    over = {"mean": "mean", "iqm": "interquartile mean"}[statistic]
    band = f"line: {over} over seeds; band: 95% bootstrap interval"
    if any(panel.get_legend() for panel in panels):
        band += "; dashed: published value most like ours"
        band += " (no dashes: at other steps, not drawn)" * ("h" in marks)
    band += "; dotted: mean score of the data" * dotted
    notes = ["some heights are cut to what comes after the first tenth of the steps"] * any(cut)
    versions = joined(result.place.data for result in results)
    notes += [f"Data: {versions}"] if versions != NONE else []
    if len(names) == 1:
        notes += filter(None, (too_far(result, values, [column]) for result in results))
    notes += settings_notes(results)
    faint = [f"{r.algorithm} on {r.task}" for r in results if "L" in limits.marks(r, column)]
    notes += [f"faint: above its limit, no better than any within: {joined(faint)}"] * any(faint)
    foot = [band, " ".join(legend(marks)), *notes]
    _legend(figure, style_of, title[0].upper() + title[1:], foot)
    below = max(len(panel.get_legend_handles_labels()[1]) for panel in panels)
    figure.set_figheight((2.8 + 0.19 * below) * down + 1.2)  # panels keep their height
    return figure


def _curve(
    panel: Axes,
    result: Result,
    column: str,
    statistic: str,
    style: Style,
    unit: float,
    thin: bool,
) -> list[float]:
    """Draw one algorithm on one task, where all its seeds have a value.

    Returns the lowest and the highest value drawn after the first tenth of the steps.
    """
    colour = style.colour
    steps, values = _points(result, column)
    complete = ~np.isnan(values).any(axis=0)
    steps, values = steps[complete] / unit, values[:, complete]
    mass = np.full(len(values), 1 / len(values))
    if thin and len(values) > 1:
        panel.plot(steps, values.T, color=colour, linewidth=0.6, alpha=0.35)
    marker = style.point if len(steps) == 1 else style.marker
    every = -(-len(steps) // MARKERS)
    line = ESTIMATORS[statistic](values.T, mass)
    alpha = FAINT if "L" in limits.marks(result, column) else 1
    look = {"color": colour, "marker": marker, "markevery": every, "alpha": alpha}
    panel.plot(steps, line, linewidth=1.8, **look)
    low, high = (values.min(0), values.max(0)) if thin else (line, line)
    if len(values) > 1:
        ends = statistics.bootstrap_band(values, ESTIMATORS[statistic], generator())
        panel.fill_between(steps, *ends, color=colour, alpha=0.2, linewidth=0)
        low, high = np.minimum(low, ends[0]), np.maximum(high, ends[1])
    late = steps >= START * steps[-1]
    return [low[late].min(), high[late].max()]


def _points(result: Result, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [T] and values [S, T] of every evaluation, or iteration where the run logged them.

    Of more iterations than a picture has room for, every second, third and so on, up to the last.
    """
    log = result.progress
    if column == "training_return" and log and not np.isnan(log.training_return).all():
        every = slice(None, None, -(-len(log.steps) // MOST_POINTS))
        return log.steps[::-1][every][::-1], log.training_return[:, ::-1][:, every][:, ::-1]
    return result.steps, result.values[column]


def _published_line(
    panel: Axes,
    result: Result,
    values: Sequence[Published],
    column: str,
    colour: str,
    position: int | None,
) -> set[str]:
    """Draw the published value most like ours; returns the marks of its differences.

    position: place of the algorithm among several, which shifts its dashes so that lines of equal
    height all stay visible; None for one alone.
    """
    near = published.closest(published.beside(values, result.place, [column]), result.place)
    apart = near is None and position is not None
    far = published.elsewhere(values, result.place, [column]) if apart else None
    shown = near or far
    if shown is None:
        return set()
    cell = published_cell(shown, result)
    label = f"{result.algorithm}, " if position is not None else ""
    label += " ".join(filter(None, (shown.source, shown.environment, steps_text(shown.steps))))
    label += f": {cell.text}" + (f" [{','.join(cell.marks)}]" if cell.marks else "")
    label = one_line(label)
    if far:
        panel.plot([], [], linestyle="none", label=label)
        return set(cell.marks)
    colour = "#444444" if position is None else colour
    dashes = (DASH_SHIFT * (position or 0), (5, 3))
    panel.axhline(near.mean, color=colour, linewidth=1.2, linestyle=dashes, label=label)
    return set(cell.marks)


def _limit_line(panel: Axes, here: Sequence[Result], column: str) -> None:
    """Draw the limit that the costs of a task are held against."""
    found = {e.limit for r in here for e in limits.limits(r) if column in e.columns}
    for limit in found:
        panel.axhline(limit, color="#b00020", linewidth=1.2, linestyle="-.")
        look = {"transform": panel.get_yaxis_transform(), "ha": "right", "va": "bottom"}
        panel.text(0.99, limit, f"limit {limit:g}", color="#b00020", **look)


def _data_line(panel: Axes, result: Result, column: str) -> bool:
    """Draw the mean score of the data that a run learned from; whether there is one."""
    score = result.data.score() if result.data and column == "score" else None
    if score is not None:
        panel.axhline(score, color="#444444", linewidth=1, linestyle=":")
    return score is not None


def _fit(panel: Axes, reach: list[float]) -> bool:
    """Fit the height to what comes after the first steps, if those start far from the rest."""
    level = [line.get_ydata()[0] for line in panel.lines if line.get_linestyle() in LEVEL]
    low, high = min([*reach, *level]), max([*reach, *level])
    bottom, top = panel.get_ylim()
    if high == low or top - bottom <= MOSTLY_EMPTY * (high - low):
        return False
    margin = 0.05 * (high - low)
    panel.set_ylim(low - margin, high + margin)
    return True


def _legend(figure: Figure, style_of: dict[str, Style], title: str, foot: Sequence[str]) -> None:
    """Head line with the algorithms in their styles, foot lines with what else to know."""
    names = list(style_of)
    if len(names) == 1:
        figure.suptitle(f"{title} of {names[0]}")
    else:
        # A long title would meet the names on its right, and so would many names
        names_width = sum(len(name) + 7 for name in names)
        room = int(WIDE * figure.get_figwidth()) - len(title) - 2
        crowded = len(title) > LONG or names_width > room / 2
        figure.suptitle(title, **({"x": 0.01, "ha": "left"} if crowded else {}))
        columns = max(1, len(names) * room // max(room, names_width))
        samples = [
            Line2D([], [], color=style.colour, marker=style.marker, markersize=6, linewidth=3)
            for style in style_of.values()
        ]
        figure.legend(samples, names, loc="outside upper right", ncols=columns, fontsize=9)
    _foot(figure, foot)


def _foot(figure: Figure, lines: Sequence[str]) -> None:
    width = int(CHARACTERS_PER_INCH * figure.get_figwidth())
    text = "\n".join(textwrap.fill(line, width) for line in lines if line)
    figure.supxlabel(text, fontsize=8, color="#444444")


def _aggregate(scores: Scores, results: Sequence[Result], left_out: Sequence[str]) -> Figure:
    pairs = len(scores.values) * (len(scores.values) - 1) // 2
    figure = Figure(figsize=(11.5, max(3.4, 0.45 * pairs + 1.8)), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    style_of = styles(list(scores.values))
    _centre_panel(left, scores, style_of)
    _improvement_panel(middle, scores, style_of)
    _profile_panel(right, scores, style_of)
    figure.suptitle(f"Final evaluation over {scores.over}, {scores.seeds} seeds each")
    foot = [
        "intervals: 95%, stratified bootstrap over seeds (fixed tasks and scaling); "
        "none where a task has one seed",
        scores.scale,
        f"Left out: {'; '.join(left_out)}." if left_out else "",
        *settings_notes(results),
    ]
    _foot(figure, foot)
    return figure


def _interval_row(
    panel: Axes, height: int, point: float, ends: tuple[float, float] | None, style: Style
) -> None:
    if ends:
        panel.plot(ends, [height, height], color=style.colour, linewidth=5, alpha=0.35)
    panel.plot([point], [height], marker=style.point, markersize=7, color=style.colour)


def _centre_panel(panel: Axes, scores: Scores, style_of: dict[str, Style]) -> None:
    for height, name in enumerate(scores.values):
        ends = scores.interval(name)
        _interval_row(panel, height, scores.point(name), ends, style_of[name])
    panel.set_yticks(range(len(scores.values)), list(scores.values))
    panel.set_ylim(len(scores.values) - 0.5, -0.5)
    panel.set_title({"IQM": "Interquartile mean", "mean": "Mean"}[scores.centre])
    panel.set_xlabel(scores.words)


def _improvement_panel(panel: Axes, scores: Scores, style_of: dict[str, Style]) -> None:
    """Every pair once, the algorithm that is ahead over all first, so that it reads as a claim."""
    order = sorted(scores.values, key=lambda name: -scores.point(name))
    pairs = [(x, y) for index, x in enumerate(order) for y in order[index + 1 :]]
    for height, (x, y) in enumerate(pairs):
        _interval_row(panel, height, *scores.improvement(x, y), style_of[x])
    panel.axvline(0.5, color="#444444", linewidth=1, linestyle=(0, (5, 3)))
    panel.set_yticks(range(len(pairs)), [f"{x} > {y}" for x, y in pairs])
    panel.set_ylim(len(pairs) - 0.5, -0.5)
    panel.set_xlim(-0.02, 1.02)
    panel.set_title("Probability of improvement")
    panel.set_xlabel("P(a seed of the first beats one of the second)")


def _profile_panel(panel: Axes, scores: Scores, style_of: dict[str, Style]) -> None:
    every = np.concatenate([x for strata in scores.values.values() for x in strata])
    thresholds = np.linspace(every.min(), every.max(), THRESHOLDS)
    for name, strata in scores.values.items():
        profile = statistics.performance_profile(strata, thresholds)
        look = {"color": style_of[name].colour, "marker": style_of[name].marker}
        every = THRESHOLDS // MARKERS
        panel.plot(thresholds, profile, linewidth=1.8, label=name, markevery=every, **look)
        if min(map(len, strata)) > 1:
            low, high = statistics.profile_band(strata, thresholds, generator())
            panel.fill_between(
                thresholds, low, high, color=style_of[name].colour, alpha=0.15, linewidth=0
            )
    panel.set_ylim(-0.02, 1.02)
    panel.set_title("Performance profile")
    panel.set_xlabel(scores.words)
    panel.set_ylabel("share of runs above")
    panel.legend()


def step_unit(last: int) -> tuple[float, str]:
    """What an axis of steps counts in, and the words for it."""
    if last >= 1_000_000 * 0.5:
        return 1e6, " (millions)"
    return (1e3, " (thousands)") if last >= 5_000 else (1.0, "")
