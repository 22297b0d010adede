"""Figures of a benchmark or a run: learning curves, and aggregates over tasks.

Learning curves have one panel per task and one figure per quantity. The line is the mean (or the
IQM) over seeds and the band its pointwise 95% bootstrap interval; a dashed line is the published
value most like ours, with the marks of `published.DIFFERENCES`. Where several algorithms share
tasks, a further figure shows the IQM over all tasks, the probability that one algorithm scores
above another, and performance profiles.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rlsuite.experiments import published, rows, statistics, tables
from rlsuite.experiments.published import Published
from rlsuite.experiments.rows import QUANTITIES, Result

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ESTIMATORS = {"mean": statistics.mean, "iqm": statistics.iqm}
THRESHOLDS = 201  # at which a performance profile is drawn
CHARACTERS_PER_INCH = 15  # of a figure's foot line, at most
_STYLE = {
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
    pictures = figures(rows.read(source), published.read(published_dir), statistic, seed_lines)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (out_dir / name).write_bytes(picture)
    return [out_dir / name for name in pictures]


def figures(
    results: Sequence[Result],
    values: Sequence[Published],
    statistic: str = "mean",
    seed_lines: bool = True,
) -> dict[str, bytes]:
    """Every figure as file name -> PNG bytes, in the order in which a reader wants them."""
    if statistic not in ESTIMATORS:
        raise ValueError(f"unknown statistic {statistic!r}; use one of {', '.join(ESTIMATORS)}")
    pictures = {}
    with matplotlib.rc_context(_STYLE):
        for column in QUANTITIES:
            shown = [result for result in results if column in result.quantities()]
            if shown:
                figure = _learning_curves(shown, values, column, statistic, seed_lines)
                pictures[f"curves_{column}.png"] = _png(figure)
        shared = _shared_tasks(results)
        if shared:
            pictures["aggregate.png"] = _png(_aggregate(results, shared))
    return pictures


def _learning_curves(
    results: Sequence[Result],
    values: Sequence[Published],
    column: str,
    statistic: str,
    seed_lines: bool,
) -> Figure:
    names = list(dict.fromkeys(result.algorithm for result in results))
    tasks = sorted({result.task for result in results})
    across = min(3, len(tasks))
    down = -(-len(tasks) // across)
    figure = Figure(figsize=(max(4.6, 3.9 * across), 3.4 * down + 0.5), layout="constrained")
    figure.get_layout_engine().set(hspace=0.08, wspace=0.04)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for spare in panels[len(tasks) :]:
        spare.set_visible(False)
    marks: set[str] = set()
    for panel, task in zip(panels, tasks, strict=False):
        here = [result for result in results if result.task == task]
        unit, word = _step_unit(max(result.last_step for result in here))
        for result in here:
            colour = COLOURS[names.index(result.algorithm) % len(COLOURS)]
            thin = seed_lines and len(names) == 1
            _curve(panel, result, column, statistic, colour, unit, thin)
            marks |= _published_line(panel, result, values, column, colour, len(names) > 1)
        panel.set_title(task)
        panel.set_xlabel(f"environment steps{word}")
        panel.set_xlim(left=0)
        if panel.get_subplotspec().is_first_col():
            panel.set_ylabel(QUANTITIES[column])
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    band = "line: {} over seeds; band: 95% bootstrap interval".format(
        {"mean": "mean", "iqm": "interquartile mean"}[statistic]
    )
    _legend(figure, names, QUANTITIES[column].capitalize(), band, marks)
    return figure


def _curve(
    panel: Axes,
    result: Result,
    column: str,
    statistic: str,
    colour: str,
    unit: float,
    thin: bool,
) -> None:
    """Draw one algorithm on one task, where all its seeds have a value."""
    complete = ~np.isnan(result.values[column]).any(axis=0)
    values = result.values[column][:, complete]
    steps = result.steps[complete] / unit
    mass = np.full(len(values), 1 / len(values))
    if thin and len(values) > 1:
        panel.plot(steps, values.T, color=colour, linewidth=0.6, alpha=0.35)
    marker = "o" if len(steps) == 1 else None
    line = ESTIMATORS[statistic](values.T, mass)
    panel.plot(steps, line, color=colour, linewidth=1.8, marker=marker)
    if len(values) > 1:
        low, high = statistics.bootstrap_band(values, ESTIMATORS[statistic], _rng())
        panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _published_line(
    panel: Axes,
    result: Result,
    values: Sequence[Published],
    column: str,
    colour: str,
    name_algorithm: bool,
) -> set[str]:
    """Draw the published value most like ours; returns the marks of its differences."""
    known = published.beside(values, result.algorithm, result.task, result.last_step, [column])
    near = published.closest(known, result.task, result.last_step)
    if near is None:
        return set()
    marks = published.differences(near, result.task, result.last_step)
    label = f"{result.algorithm}, " if name_algorithm else ""
    label += f"{near.source} {near.environment}: {tables.published_text(near)}"
    label += f" [{','.join(marks)}]" if marks else ""
    label += f" ({near.status})" if near.status != "verified" else ""
    ours = colour if name_algorithm else "#444444"
    panel.axhline(near.mean, color=ours, linewidth=1.2, linestyle=(0, (5, 3)), label=label)
    return set(marks)


def _legend(figure: Figure, names: Sequence[str], title: str, band: str, marks: set[str]) -> None:
    """Head line with the algorithms in their colours, foot line with what the marks say."""
    figure.suptitle(f"{title} of {', '.join(names)}" if len(names) == 1 else title)
    if len(names) > 1:
        samples = [
            Line2D([], [], color=COLOURS[index % len(COLOURS)], linewidth=3)
            for index in range(len(names))
        ]
        figure.legend(samples, names, loc="outside upper right", ncols=len(names), fontsize=9)
    foot = [band + ("; dashed: published" if marks or _has_dashes(figure) else "")]
    foot += [f"[{m}] {text}" for m, text in published.DIFFERENCES.items() if m in marks]
    width = int(CHARACTERS_PER_INCH * figure.get_figwidth())
    lines = [textwrap.fill(line, width) for line in foot]
    figure.supxlabel("\n".join(lines), fontsize=8, color="#444444")


def _has_dashes(figure: Figure) -> bool:
    return any(axes.get_legend() for axes in figure.axes)


def _shared_tasks(results: Sequence[Result]) -> list[str]:
    """Tasks that every one of several algorithms has; empty for a single algorithm."""
    names = {result.algorithm for result in results}
    tasks = sorted({result.task for result in results})
    if len(names) < 2:
        return []
    ran = {(result.algorithm, result.task) for result in results}
    return [task for task in tasks if all((name, task) in ran for name in names)]


def _scores(results: Sequence[Result], tasks: Sequence[str]) -> tuple[dict[str, list], str]:
    """Comparable final values, algorithm -> one array [S] per task, and what they are.

    Normalised scores where all runs have them, raw returns of a single task; else returns scaled
    per task so that the lowest and the highest seed of the benchmark become 0 and 1.
    """
    chosen = [result for result in results if result.task in tasks]
    names = list(dict.fromkeys(result.algorithm for result in chosen))
    by_key = {(result.algorithm, result.task): result for result in chosen}
    normalised = all(result.final("score") is not None for result in chosen)
    column = "score" if normalised else "return"
    scores = {name: [by_key[name, task].final(column) for task in tasks] for name in names}
    if normalised or len(tasks) == 1:
        return scores, QUANTITIES[column]
    for index in range(len(tasks)):
        every = np.concatenate([scores[name][index] for name in names])
        low, width = every.min(), np.ptp(every) or 1.0
        for name in names:
            scores[name][index] = (scores[name][index] - low) / width
    return scores, "evaluation return, scaled per task\n(lowest seed here = 0, highest = 1)"


def _aggregate(results: Sequence[Result], tasks: Sequence[str]) -> Figure:
    scores, words = _scores(results, tasks)
    pairs = len(scores) * (len(scores) - 1) // 2
    height = max(3.4, 0.45 * pairs + 1.8)
    figure = Figure(figsize=(11.5, height), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    # One seed says nothing about the spread between seeds, so no interval is drawn then.
    spread = all(len(x) > 1 for strata in scores.values() for x in strata)
    _iqm_panel(left, scores, words, spread)
    _improvement_panel(middle, scores, spread)
    _profile_panel(right, scores, words, spread)
    seeds = sorted({len(x) for strata in scores.values() for x in strata})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    plural = "s" if len(tasks) > 1 else ""
    figure.suptitle(f"Final evaluation over {len(tasks)} task{plural}, {count} seeds each")
    if spread:
        note = "intervals: 95%, stratified bootstrap over seeds (fixed tasks and scaling)"
        figure.supxlabel(note, fontsize=8, color="#444444")
    return figure


def _rng() -> np.random.Generator:
    return np.random.default_rng(tables.BOOTSTRAP_SEED)


def _interval_row(
    panel: Axes, height: int, point: float, ends: tuple[float, float] | None, colour: str
) -> None:
    if ends:
        panel.plot(ends, [height, height], color=colour, linewidth=5, alpha=0.35)
    panel.plot([point], [height], marker="o", markersize=7, color=colour)


def _iqm_panel(panel: Axes, scores: dict[str, list], words: str, spread: bool) -> None:
    for height, strata in enumerate(scores.values()):
        point = statistics.estimate(strata, statistics.iqm)
        ends = statistics.bootstrap_interval(strata, statistics.iqm, _rng()) if spread else None
        _interval_row(panel, height, point, ends, COLOURS[height % len(COLOURS)])
    panel.set_yticks(range(len(scores)), list(scores))
    panel.set_ylim(len(scores) - 0.5, -0.5)
    panel.set_title("Interquartile mean")
    panel.set_xlabel(words)


def _improvement_panel(panel: Axes, scores: dict[str, list], spread: bool) -> None:
    """Every pair once, the algorithm with the higher IQM first, so that it reads as a claim."""
    order = sorted(scores, key=lambda name: -statistics.estimate(scores[name], statistics.iqm))
    pairs = [(x, y) for index, x in enumerate(order) for y in order[index + 1 :]]
    for height, (x, y) in enumerate(pairs):
        point = statistics.probability_of_improvement(scores[x], scores[y])
        ends = statistics.improvement_interval(scores[x], scores[y], _rng()) if spread else None
        _interval_row(panel, height, point, ends, COLOURS[list(scores).index(x) % len(COLOURS)])
    panel.axvline(0.5, color="#444444", linewidth=1, linestyle=(0, (5, 3)))
    panel.set_yticks(range(len(pairs)), [f"{x} > {y}" for x, y in pairs])
    panel.set_ylim(len(pairs) - 0.5, -0.5)
    panel.set_xlim(-0.02, 1.02)
    panel.set_title("Probability of improvement")
    panel.set_xlabel("P(a seed of the first beats one of the second)")


def _profile_panel(panel: Axes, scores: dict[str, list], words: str, spread: bool) -> None:
    every = np.concatenate([x for strata in scores.values() for x in strata])
    thresholds = np.linspace(every.min(), every.max(), THRESHOLDS)
    for index, (name, strata) in enumerate(scores.items()):
        colour = COLOURS[index % len(COLOURS)]
        profile = statistics.performance_profile(strata, thresholds)
        panel.plot(thresholds, profile, color=colour, linewidth=1.8, label=name)
        if spread:
            low, high = statistics.profile_band(strata, thresholds, _rng())
            panel.fill_between(thresholds, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.set_ylim(-0.02, 1.02)
    panel.set_title("Performance profile")
    panel.set_xlabel(words)
    panel.set_ylabel("share of runs above")
    panel.legend()


def _step_unit(last: int) -> tuple[float, str]:
    if last >= 1_000_000 * 0.5:
        return 1e6, " (millions)"
    return (1e3, " (thousands)") if last >= 5_000 else (1.0, "")


def _png(figure: Figure) -> bytes:
    """PNG bytes; without the software's version, so that equal figures are equal files."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
