"""Aggregates over tasks: which tasks are compared, on which scale, and the table of the outcome.

Before returns of different tasks are pooled they are put on one scale, per task:

    score = (return - random) / (yardstick - random)

where `random` is the return of uniformly random actions and the yardstick a published return of
PPO. Both are fixed, so a score does not move when an algorithm is added to a benchmark. They are
no targets: the yardstick is a training return with an older environment version, and anything
near it would serve. Where a task lacks either, the lowest and the highest seed of the benchmark
become 0 and 1, and the words with the scores say that such a scale moves.

Normalised scores of offline runs are on one scale as they are. Their aggregate is the mean, as in
the papers; of returns it is the IQM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlsuite.evidence import limits, published, statistics
from rlsuite.evidence.published import Published
from rlsuite.evidence.rows import FINALS, QUANTITIES, Result
from rlsuite.evidence.tables.summaries import (
    data_notes,
    generator,
    joined,
    legend,
    published_cell,
    steps_text,
    task_word,
    task_words,
    value_text,
)
from rlsuite.evidence.tables.tabular import NONE, Cell, Table

# Mean return of 200 episodes of uniformly random actions on the v4 tasks (EnvPool, seeds 0-19).
RANDOM = {
    "HalfCheetah": -282.4,
    "Hopper": 17.4,
    "InvertedDoublePendulum": 55.7,
    "InvertedPendulum": 5.7,
    "Reacher": -42.9,
    "Swimmer": -0.7,
    "Walker2d": 2.8,
}
SCORES = ("score", "score_last_10")  # columns that need no scaling
YARDSTICK = "baselines-ppo2"  # source of the published PPO values; it has all of these tasks at 1M


_CENTRES = {"IQM": statistics.iqm, "mean": statistics.mean}


@dataclass(frozen=True)
class Scores:
    """Comparable final values: `values[algorithm]` has one array [S] per task of `tasks`."""

    tasks: tuple[str, ...]
    values: dict[str, list[np.ndarray]]
    words: str  # what a score is, short enough for an axis
    scale: str  # the same in a sentence, with the numbers
    fixed: bool  # whether the scale stays when an algorithm is added
    over: str  # "2 tasks", "9 data sets"
    centre: str = "IQM"  # or "mean": what stands for all tasks together

    def point(self, algorithm: str, centre: str | None = None) -> float:
        """Mean or IQM over all tasks and seeds, every task weighing the same."""
        return statistics.estimate(self.values[algorithm], _CENTRES[centre or self.centre])

    def interval(self, algorithm: str, centre: str | None = None) -> tuple[float, float] | None:
        """95% interval of `point`; None where a task has one seed, which shows no spread."""
        strata = self.values[algorithm]
        if min(map(len, strata)) < 2:
            return None
        estimator = _CENTRES[centre or self.centre]
        return statistics.bootstrap_interval(strata, estimator, generator())

    def improvement(self, ours: str, theirs: str) -> tuple[float, tuple[float, float] | None]:
        """Probability that a seed of `ours` scores above one of `theirs`, and its 95% interval."""
        x, y = self.values[ours], self.values[theirs]
        point = statistics.probability_of_improvement(x, y)
        if min(map(len, [*x, *y])) < 2:
            return point, None
        return point, statistics.improvement_interval(x, y, generator())

    @property
    def seeds(self) -> str:
        """Numbers of seeds per task: "10" or "3 to 10"."""
        return seeds_text([x for strata in self.values.values() for x in strata])


def headline(results: Sequence[Result]) -> str:
    """The column that stands for all: the normalised score where tasks have one for everybody."""
    return "score" if comparable(results, "score")[0] else "return"


def comparable(results: Sequence[Result], column: str) -> tuple[list[str], list[str]]:
    """Tasks on which all algorithms have `column` after as many steps; and the others, with why.

    Where one is above a limit, returns are not compared.
    """
    pooled = together(results, column)
    names = list(dict.fromkeys(result.algorithm for result in pooled))
    tasks = []
    counts = Counter(result.algorithm for result in results if result.algorithm not in names)
    whole = f"of {task_words(pooled, len({result.task for result in pooled}))}"
    left_out = [f"{name} (only {count} {whole})" for name, count in counts.items()]
    results = pooled
    for task in sorted({result.task for result in results}):
        here = [r for r in results if r.task == task and r.final(column) is not None]
        absent = [name for name in names if name not in {r.algorithm for r in here}]
        above = [r.algorithm for r in here if limits.broken(r)]
        steps = [result.last_step for result in here]
        if absent:
            left_out.append(f"{task} ({', '.join(absent)} lacking)")
        elif above:
            left_out.append(f"{task} ({', '.join(above)} above its limit)")
        elif max(steps) > published.SAME_HORIZON * min(steps):
            each = [f"{r.algorithm} stands at {steps_text(r.last_step)} steps" for r in here]
            left_out.append(f"{task} ({', '.join(each)})")
        else:
            tasks.append(task)
    return tasks, left_out


def together(results: Sequence[Result], column: str) -> list[Result]:
    """Results without variants and further policies that lack a task of the algorithms."""
    have = {
        name: {r.task for r in results if r.algorithm == name and r.final(column) is not None}
        for name in dict.fromkeys(result.algorithm for result in results)
    }
    siblings = {result.algorithm for result in results if result.sibling_of}
    needed = set().union(*(have[name] for name in have if name not in siblings))
    lacking = {name for name in siblings if needed - have[name]} if needed else set()
    return [result for result in results if result.algorithm not in lacking]


def pool(results: Sequence[Result], values: Sequence[Published], column: str) -> Scores | None:
    """Final values of `column` on all comparable tasks, on one scale; None without such tasks.

    Normalised scores and the returns of a single task are taken as they are.
    """
    tasks, _ = comparable(results, column)
    if not tasks:
        return None
    results = together(results, column)
    names = list(dict.fromkeys(result.algorithm for result in results))
    by_key = {(result.algorithm, result.task): result.final(column) for result in results}
    finals = {name: [by_key[name, task] for task in tasks] for name in names}
    words, over = QUANTITIES.get(column, FINALS[column]), task_words(results, len(tasks))
    if column in SCORES or len(tasks) == 1:
        centre = "mean" if column in SCORES else "IQM"
        scale = f"Scores: {FINALS[column]}, as it is."
        return Scores(tuple(tasks), finals, words, scale, True, over, centre)
    ends = references(values, tasks)
    fixed = ends is not None
    if fixed:
        words += ", scaled per task\n(0: random actions, 1: published PPO)"
        numbers = "; ".join(f"{task} {ends[task][0]:g} and {ends[task][1]:g}" for task in tasks)
        scale = (
            f"Scores: {QUANTITIES[column]}, scaled per task so that random actions give 0 and "
            f"the training return of PPO published by {YARDSTICK} for 1M steps gives 1; these are "
            f"{numbers}. The scale is fixed: it does not move when an algorithm is added."
        )
    else:
        every = {t: np.concatenate([finals[n][i] for n in names]) for i, t in enumerate(tasks)}
        ends = {task: (x.min(), x.max()) for task, x in every.items()}
        words += ", scaled per task\n(lowest seed here = 0, highest = 1)"
        scale = (
            f"Scores: {QUANTITIES[column]}, scaled per task so that the lowest seed of this "
            "benchmark is 0 and the highest 1. The scale moves when an algorithm is added."
        )
    scaled = {
        name: [
            (x - ends[task][0]) / ((ends[task][1] - ends[task][0]) or 1.0)
            for x, task in zip(arrays, tasks, strict=True)
        ]
        for name, arrays in finals.items()
    }
    return Scores(tuple(tasks), scaled, words, scale, fixed, over)


def references(
    values: Sequence[Published], tasks: Sequence[str]
) -> dict[str, tuple[float, float]] | None:
    """What 0 and 1 stand for on every task; None where one of the tasks lacks a reference."""
    ends = {}
    for task in tasks:
        family, _ = published.split_task(task)
        known = published.find(values, "ppo", family, ["training_return"])
        ones = [row.mean for row in known if row.source == YARDSTICK]
        if not ones or family not in RANDOM:
            return None
        ends[task] = (RANDOM[family], ones[0])
    return ends


def table(results: Sequence[Result], values: Sequence[Published], column: str) -> Table | None:
    """Every algorithm over all comparable tasks, and every pair's probability.

    The IQM; of normalised scores also the mean, beside the published mean over the same data sets.
    """
    scores = pool(results, values, column)
    if scores is None or len(scores.values) < 2:
        return None
    names = list(scores.values)
    averaged = scores.centre == "mean"
    lines, marks = [], set()
    for name in names:
        line = [Cell(name), Cell(seeds_text(scores.values[name]))]
        for centre in ("mean", "IQM") if averaged else ("IQM",):
            text = value_text(scores.point(name, centre), scores.interval(name, centre))
            line.append(Cell(text))
        if averaged:
            line.append(published_mean(name, scores.tasks, results, values, column))
            marks.update(line[-1].marks)
        for other in names:
            versus = NONE if other == name else value_text(*scores.improvement(name, other))
            line.append(Cell(versus))
        lines.append(line)
    notes = [
        f"{task_word(results).capitalize()}s: {joined(scores.tasks)}. {scores.scale}",
        "IQM: mean of the middle half of all runs, every task weighing the same. P(above X): "
        "probability that a seed of the row scores above a seed of X, averaged over tasks, ties "
        "counting half. In brackets 95% intervals of the bootstrap over seeds within each task "
        f"({statistics.RESAMPLES} resamples); none where a task has one seed.",
    ]
    left_out = comparable(results, column)[1]
    notes += [f"Left out: {'; '.join(left_out)}."] if left_out else []
    header = ["Algorithm", "Seeds", "IQM [95% interval]", *(f"P(above {name})" for name in names)]
    if averaged:
        header[2:3] = ["Mean [95% interval]", "IQM [95% interval]", "Published mean"]
        notes[2:2] = [
            "Published mean: over the same tasks and levels, of the source most like ours that has "
            "all of them.",
            *legend(marks),
            *data_notes(results),
        ]
    return Table(f"All algorithms: {FINALS[column]} over {scores.over}", header, lines, notes)


def published_mean(
    algorithm: str,
    tasks: Sequence[str],
    results: Sequence[Result],
    values: Sequence[Published],
    column: str,
) -> Cell:
    """Mean over `tasks` of the source most like ours that has all: "76.45 (CORL, D4RL-v2)".

    A source that stands at another horizon is taken only where there is no other, and says so.
    """
    ours = [r for r in results if r.algorithm == algorithm and r.task in tasks]
    whole = []
    for source in dict.fromkeys(row.source for row in values if row.algorithm == algorithm):
        rows = [row for row in values if row.source == source]
        found = [published.elsewhere(rows, result.place, [column]) for result in ours]
        if all(found):
            whole.append(list(zip(found, ours, strict=True)))
    if not whole:
        return Cell(NONE)
    pairs = min(whole, key=lambda pairs: max(published.rank(row, r.place) for row, r in pairs))
    mean = float(np.mean([row.mean for row, _ in pairs]))
    marks = dict.fromkeys(mark for pair in pairs for mark in published_cell(*pair).marks)
    facts = [pairs[0][0].source, joined(row.environment for row, _ in pairs)]
    facts += [f"at {joined(steps_text(row.steps) for row, _ in pairs)}"] if "h" in marks else []
    return Cell(f"{value_text(mean, None)} ({', '.join(facts)})", tuple(marks))


def seeds_text(strata: Sequence[np.ndarray]) -> str:
    """Fewest and most seeds of a task: "10" or "3 to 10"."""
    counts = sorted({len(scores) for scores in strata})
    return " to ".join(dict.fromkeys(str(count) for count in (counts[0], counts[-1])))
