"""What tuning costs: the score of the setting that a bandit picks with k online evaluations.

The protocol is that of "A Clean Slate for Offline Reinforcement Learning" (Jackson et al. 2025,
arXiv 2504.11453; github.com/EmptyJackson/unifloral, evaluation.py): each setting is trained, each
policy is an arm, a pull is one evaluation of it, drawn with replacement. UCB pulls the arm of the
greatest mean + sqrt(alpha log t / n), alpha = 2, at random among equals; an arm that was never
pulled comes first. After k pulls the arm of the greatest mean is chosen, and what counts is that
policy's true mean. The curve is the mean over many trials.

Ours, since rows keep the means of several episodes and several seeds of each setting:
- a trial has one seed of each setting, at random, as somebody has who trains each setting once;
- a policy's evaluations are its last ten, whose mean is its true score;
- only an arm that was pulled can be chosen; there an arm without a pull counts as zero;
- all settings are arms; there 8 of many are drawn for each trial;
- the interval is that of the bootstrap over the seeds of each setting, where there it is over
  trials, which shrinks as these are repeated;
- scores are percent as there; returns are scaled so that an algorithm's evaluations span 100.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlsuite.evidence import statistics
from rlsuite.evidence.cells import RowsError
from rlsuite.evidence.curves import CHARACTERS_PER_INCH, STYLE
from rlsuite.evidence.pictures import png
from rlsuite.evidence.rows import LAST, QUANTITIES, Result
from rlsuite.evidence.styles import Style, styles
from rlsuite.evidence.tables.runs import headline
from rlsuite.evidence.tables.summaries import generator, joined
from rlsuite.evidence.tables.tabular import one_line

ALPHA = 2.0  # of the paper: the weight of what is not known yet
MOST_PULLS = 100
RESAMPLES = 200  # of the seeds, for the interval
TRIALS = 200  # of each resample
SPAN = 100.0  # of scores; returns are scaled to it
ACROSS = 3  # panels beside one another, at most

Arms = Sequence[np.ndarray]  # for each setting the evaluations of its seeds, [S, E]


class Curve(NamedTuple):
    """The expected score of what is chosen after 1, 2, ... pulls, and its interval: [K] each."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(arms: Arms, rng: np.random.Generator, scale: float = 1.0) -> Curve:
    """What is chosen among `arms`, whose evaluations times `scale` are what UCB reckons with.

    The interval is NaN where a setting has one seed, which shows no spread.
    """
    own = [rng.integers(len(arm), size=RESAMPLES * TRIALS) for arm in arms]
    mean = trials(arms, own, rng, scale).mean(0)
    if min(map(len, arms)) < 2:
        return Curve(mean, *np.full((2, len(mean)), np.nan))
    redrawn = []
    for arm in arms:
        seeds = rng.integers(len(arm), size=(RESAMPLES, len(arm)))
        chosen = rng.integers(len(arm), size=(RESAMPLES, TRIALS))
        redrawn.append(np.take_along_axis(seeds, chosen, 1).ravel())
    means = trials(arms, redrawn, rng, scale).reshape(RESAMPLES, TRIALS, -1).mean(1)
    tail = (1 - statistics.CONFIDENCE) / 2
    return Curve(mean, *np.quantile(means, [tail, 1 - tail], axis=0))


def trials(
    arms: Arms,
    seeds: Sequence[np.ndarray],
    rng: np.random.Generator,
    scale: float = 1.0,
    pulls: int = MOST_PULLS,
) -> np.ndarray:
    """The true score of what is chosen in each of B trials after each pull: [B, pulls].

    seeds: for each arm the seed that it has in each trial, [B].
    """
    count = len(seeds[0])
    each = np.arange(count)
    truth = np.stack([arm.mean(1)[own] for arm, own in zip(arms, seeds, strict=True)], 1)
    counts, sums = np.zeros((2, count, len(arms)))
    chosen = np.empty((count, pulls))
    for pull in range(pulls):
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = scale * sums / counts + np.sqrt(ALPHA * np.log(pull + 1) / counts)
        bound[counts == 0] = np.inf
        best = bound == bound.max(1, keepdims=True)
        pulled = np.where(best, rng.random(best.shape), -1.0).argmax(1)
        for index, (arm, own) in enumerate(zip(arms, seeds, strict=True)):
            here = each[pulled == index]
            drawn = rng.integers(arm.shape[1], size=len(here))
            sums[here, index] += arm[own[here], drawn]
            counts[here, index] += 1
        means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
        chosen[:, pull] = truth[each, means.argmax(1)]
    return chosen


def figures(results: Sequence[Result]) -> dict[str, bytes]:
    """{"tuning.png": its PNG}: a panel per task, a line per algorithm that has several settings.

    RowsError where no algorithm has several settings on one task.
    """
    groups = _groups(results)
    if not groups:
        raise RowsError(
            "--tuning needs rows of several settings of one algorithm on one task; train them: "
            "rlsuite sweep iql --datasets NAME --grid temperature=0.5,3,10"
        )
    tasks = list(dict.fromkeys(task for _, task in groups))
    style_of = styles(list(dict.fromkeys(name for name, _ in groups)))
    across = min(ACROSS, len(tasks))
    down = -(-len(tasks) // across)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.5, 4.2 * across), 3.6 * down + 0.8), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for spare in panels[len(tasks) :]:
            spare.set_visible(False)
        for panel, task in zip(panels, tasks, strict=False):
            here = {name: group for (name, other), group in groups.items() if other == task}
            _panel(panel, task, here, style_of)
        figure.suptitle("What tuning costs: the score of the setting that was picked")
        figure.supxlabel(_foot(results, figure), fontsize=8, color="#444444")
        return {"tuning.png": png(figure)}


def _groups(results: Sequence[Result]) -> dict[tuple[str, str], list[list[Result]]]:
    """{(algorithm, task): a list for each setting, of the results that have it}, of two or more."""
    groups: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for result in results:
        name = result.algorithm.replace(f"@{result.variant}", "", 1)
        setting = result.manifest.get("config_hash") or json.dumps(result.manifest.get("config"))
        settings = groups.setdefault((name, result.task), {})
        settings.setdefault(setting, []).append(result)
    return {key: list(found.values()) for key, found in groups.items() if len(found) > 1}


def arm(results: Sequence[Result], column: str) -> np.ndarray:
    """The last evaluations of every seed of one setting, [S, E]; of a seed in two runs the first's.

    Ten, or as many as all of them have.
    """
    seeds: dict[int, np.ndarray] = {}
    for result in results:
        for seed, values in zip(result.seeds, result.values[column], strict=True):
            seeds.setdefault(seed, values[-LAST:])
    fewest = min(map(len, seeds.values()))
    return np.stack([values[-fewest:] for values in seeds.values()])


def _panel(
    panel: Axes, task: str, groups: dict[str, list[list[Result]]], style_of: dict[str, Style]
) -> None:
    column = headline([result for group in groups.values() for one in group for result in one])
    for name, group in groups.items():
        arms = [arm(results, column) for results in group]
        span = max(each.max() for each in arms) - min(each.min() for each in arms)
        scale = 1.0 if column == "score" else SPAN / (span or 1.0)
        found = curve(arms, generator(), scale)
        pulls = np.arange(1, MOST_PULLS + 1)
        colour, label = style_of[name].colour, f"{name}, {len(group)} settings"
        panel.plot(pulls, found.mean, color=colour, linewidth=1.8, label=label)
        panel.fill_between(pulls, found.low, found.high, color=colour, alpha=0.2, linewidth=0)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_title(one_line(task))
    panel.set_xlabel("online evaluations")
    panel.set_ylabel(QUANTITIES[column])
    panel.legend()


def _foot(results: Sequence[Result], figure: Figure) -> str:
    counts = joined(str(r.manifest.get("evaluation_episodes") or "") for r in results)
    text = (
        "UCB picks among the settings, after arXiv 2504.11453; departures in rlsuite's tuning.py. "
        f"An evaluation: the mean of {counts} episodes. Band: 95% interval, bootstrap over the "
        "seeds of each setting; none where a setting has one."
    )
    return textwrap.fill(text, int(CHARACTERS_PER_INCH * figure.get_figwidth()))
