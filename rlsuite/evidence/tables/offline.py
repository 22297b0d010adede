"""What tables of offline runs have besides: the data, the best evaluation, and what a score is."""

from __future__ import annotations

from collections.abc import Sequence

from rlsuite.datasets import scores
from rlsuite.evidence.rows import FINALS, LAST, Result
from rlsuite.evidence.tables.summaries import (
    data_notes,
    iqm_text,
    joined,
    mean_text,
    number_text,
    steps_text,
    summarise,
)
from rlsuite.evidence.tables.tabular import NONE, Cell, Table


def best(algorithm: str, ours: Sequence[Result]) -> Table:
    """The data of every run with their own score, our raw returns, and the best evaluation."""
    header = ["Data set", "Episodes", "Transitions", "Score of the data", "Evaluated in"]
    header += ["Evaluation return", "Evaluations", FINALS["score_best"].capitalize()]
    header += ["its IQM [95% interval]"]
    lines = []
    for result in ours:
        data, found = result.data, result.final("score_best")
        if data is None:
            continue
        counts = (data.episodes, data.transitions)
        line = [result.task, *(NONE if count is None else f"{count:,}" for count in counts)]
        score = data.score()
        line += [NONE if score is None else number_text(score, abs(score)), data.task]
        line += [mean_text(summarise(result.final("return"))), str(len(result.steps))]
        summary = None if found is None else summarise(found)
        line += [mean_text(summary), iqm_text(summary)] if summary else [NONE, NONE]
        lines.append([Cell(text) for text in line])
    notes = [
        "Best evaluation: a seed's highest score over all its evaluations. It is optimistic: it "
        "was chosen by trying policies in the task, which nobody can who has only data, and it "
        "rises with the number of evaluations. It is not compared with published values.",
        "Score of the data: of the mean return of its episodes. Evaluation return: raw, at the "
        "last evaluation.",
        *data_notes(ours),
    ]
    return Table(
        f"{algorithm}: the data, and the best evaluation (optimistic)", header, lines, notes
    )


def score_notes(ours: Sequence[Result]) -> list[str]:
    """What the scores of offline runs are, and how far back the last evaluations reach."""
    found = [
        "Evaluation: deterministic policy, in the task itself; the last one is at the end of "
        "training. Steps are gradient steps per seed."
    ]
    if any("score" in result.quantities() for result in ours):
        found.append(
            "Normalised score: 0 is a random policy and 100 an expert, by the reference returns of "
            f"D4RL ({scores.SOURCE}), which were measured in older versions of the tasks."
        )
    reach = joined(
        f"step {steps_text(int(result.steps[-LAST]))} of {steps_text(result.last_step)}"
        for result in ours
        if "score_last_10" in result.quantities()
    )
    if reach != NONE:
        found.append(f"The last {LAST} evaluations begin at {reach}.")
    return found
