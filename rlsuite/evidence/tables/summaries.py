"""What the seeds say together; numbers and published values the way every table shows them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rlsuite.evidence import dataset, limits, published, statistics
from rlsuite.evidence.published import Published
from rlsuite.evidence.rows import Result
from rlsuite.evidence.tables.tabular import NONE, PLUS_MINUS, Cell

BOOTSTRAP_SEED = 0
STATUS_MARKS = {
    "verified": "",
    "verified, spread recalled": "SR",
    "digitised": "D",
    "noted": "N",
    "noted, spread recalled": "NR",
    "recalled": "R",
}


@dataclass(frozen=True)
class Summary:
    """Final values of one quantity over the seeds; NaN where one seed cannot tell."""

    seeds: int
    mean: float
    std: float
    iqm: float
    low: float
    high: float


def summarise(final: np.ndarray) -> Summary:
    """Summary of the seeds' final values [S]."""
    seeds = len(final)
    mean, iqm = float(final.mean()), statistics.estimate([final], statistics.iqm)
    if seeds < 2:
        return Summary(seeds, mean, np.nan, iqm, np.nan, np.nan)
    low, high = statistics.bootstrap_interval([final], statistics.iqm, generator())
    return Summary(seeds, mean, float(final.std(ddof=1)), iqm, low, high)


def generator() -> np.random.Generator:
    """The generator that every interval is drawn from, so that it can be recomputed."""
    return np.random.default_rng(BOOTSTRAP_SEED)


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


def mean_text(summary: Summary) -> str:
    """Mean and standard deviation over seeds: "2488 ± 388"."""
    return value_text(summary.mean, summary.std)


def iqm_text(summary: Summary) -> str:
    """IQM and its 95% interval: "2498 [2216, 2769]"; of one seed, the value alone."""
    if np.isnan(summary.low):
        return value_text(summary.iqm, None)
    return value_text(summary.iqm, (summary.low, summary.high))


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


def joined(texts: Iterable[str]) -> str:
    """Different texts in order of appearance, empty ones left out."""
    return ", ".join(dict.fromkeys(text for text in texts if text)) or NONE


def candidates(result: Result, values: Sequence[Published]) -> list[Published]:
    """Published values that stand beside a run, whatever they measure of what it shows."""
    return published.beside(values, result.place, result.quantities())


def too_far(result: Result, values: Sequence[Published], columns: Sequence[str]) -> str:
    """Where the published values of a run stand, if all are at other horizons; else nothing."""
    place = result.place
    known = published.find(values, place.algorithm, place.task, columns)
    if not known or any(row.steps for row in published.beside(values, place, columns)):
        return ""
    horizons = sorted({row.steps for row in known if row.steps})
    return (
        f"{result.task}: published values stand at {joined(map(steps_text, horizons))} "
        f"steps, too far from our {steps_text(result.last_step)} to be shown."
    )


def published_cell(row: Published, result: Result) -> Cell:
    """A published value, marked with what sets it apart from a run and how well it was checked."""
    marks = [*published.differences(row, result.place)]
    marks += [STATUS_MARKS[row.status]] if STATUS_MARKS[row.status] else []
    return Cell(published_text(row), tuple(marks))


def legend(marks: set[str]) -> list[str]:
    """What the marks of cells say, one line each."""
    legend = [f"{mark}: {text}." for mark, text in limits.MARKS.items() if mark in marks]
    legend += [f"{mark}: {text}." for mark, text in published.DIFFERENCES.items() if mark in marks]
    legend += [
        f"{mark}: {published.STATUSES[status]}."
        for status, mark in STATUS_MARKS.items()
        if mark in marks
    ]
    return legend


def steps_header(results: Sequence[Result]) -> str:
    """What a column of steps is called: "Steps", or "Gradient steps" of offline runs."""
    return "Gradient steps" if task_word(results) == "data set" else "Steps"


def data_notes(results: Sequence[Result]) -> list[str]:
    """What the data of offline runs are, one line per version."""
    return dataset.notes(result.data for result in results if result.data)


def task_word(results: Sequence[Result]) -> str:
    """What the runs are told apart by: "task", or "data set" where all learned from such."""
    return "data set" if all(result.data for result in results) else "task"


def task_words(results: Sequence[Result], count: int) -> str:
    """A number of them: "9 data sets"."""
    return f"{count} {task_word(results)}{'s' * (count != 1)}"


def settings_notes(results: Sequence[Result]) -> list[str]:
    """A line per algorithm whose settings are not the same everywhere, most tasks' value last.

    What names another run, such as that of SPOT's VAE, is no setting: each task has its own.
    """
    notes = []
    for name in dict.fromkeys(result.algorithm for result in results):
        ours = [result for result in results if result.algorithm == name]
        configs = [result.manifest.get("config") or {} for result in ours]
        parts = []
        for field in dict.fromkeys(field for config in configs for field in config):
            texts = [json.dumps(config.get(field)) for config in configs]
            usual, count = Counter(texts).most_common(1)[0]
            runs = any(field in result.manifest.get("uses", {}) for result in ours)
            if runs or count == len(texts):
                continue
            own = [
                f"{text} on {r.task}" for text, r in zip(texts, ours, strict=True) if text != usual
            ]
            parts.append(f"{field} {joined(own)}, elsewhere {usual}")
        notes += [f"Settings of {name} that differ: {'; '.join(parts)}."] if parts else []
    return notes + variant_notes(results, results)


def variant_notes(ours: Sequence[Result], results: Sequence[Result]) -> list[str]:
    """A line per named variant of `ours`: settings unlike its algorithm's on the same tasks.

    What only one of the two has is of another version, and no setting of the other.
    """
    notes = []
    configs = {(r.algorithm, r.task): r.manifest.get("config") or {} for r in results}
    for name in dict.fromkeys(result.algorithm for result in ours if result.variant):
        changed: dict[tuple[str, str], list[str]] = {}
        mine = [result for result in ours if result.algorithm == name]
        for result in mine:
            own, plain = (configs.get((x, result.task), {}) for x in (name, result.sibling_of))
            for field in sorted(own.keys() & plain.keys() - result.manifest.get("uses", {}).keys()):
                if own[field] != plain[field]:
                    key = field, json.dumps(own[field])
                    changed.setdefault(key, []).append(json.dumps(plain[field]))
        parts = [
            f"{field} {value} instead of {' or '.join(dict.fromkeys(others))}"
            for (field, value), others in changed.items()
        ]
        notes += [f"{name} is {mine[0].sibling_of} with {', '.join(parts)}."] if parts else []
    return notes


def wall_time_notes(results: Sequence[Result]) -> list[str]:
    """A line per algorithm whose runs were given parts of other runs, which took time, too."""
    notes = []
    for name in dict.fromkeys(result.algorithm for result in results):
        used = [r.manifest.get("uses", {}) for r in results if r.algorithm == name]
        for field in dict.fromkeys(field for each in used for field in each):
            seconds = [each[field]["wall_seconds"] for each in used if field in each]
            known = "unknown" if None in seconds else duration_text(sum(seconds))
            notes.append(
                f"Wall time of {name} leaves out the runs that its {field} names: {known} in all; "
                "the manifests have their commands."
            )
    return notes


def failings(results: Sequence[Result]) -> list[str]:
    """A line for every run that has not ended, whose Q diverged, or that is above a limit."""
    lines = []
    for result in results:
        name = f"{result.algorithm} on {result.task}"
        if result.state == "unfinished":
            lines.append(
                f"UNFINISHED: {name} stands at step {result.last_step:,} of "
                f"{result.planned_steps:,}; its values are not final."
            )
        elif result.state == "diverged":
            lines.append(
                f"DIVERGED: {name}: Q reached {result.greatest_value:.0e}, more than the rewards "
                "can add up to; its values are those of a failure."
            )
        lines += histories(result)
    return lines + limits.remarks(results)


def histories(result: Result) -> list[str]:
    """A line for each seed that was dropped, and for each run that was extended or cut."""
    name, lines = f"{result.algorithm} on {result.task}", []
    for run in result.runs:
        for each in run.get("dropped") or ():
            lines.append(
                f"DROPPED: seed {each['seed']} of {name} diverged at step {each['step']:,} "
                f"({each['reason']}); the numbers are those of the seeds that did not."
            )
        for each in run.get("extended") or ():
            lines.append(
                f"EXTENDED: {name} was planned for {each['step']:,} steps and went on to "
                f"{each['to']:,}; it does not equal a run that was begun at that length."
            )
        for each in run.get("unscheduled") or ():
            lines.append(
                f"CUT: {name} was stopped at step {each['step']:,}, between checkpoints; it is not "
                "bit-equal to an unbroken run."
            )
    return lines
