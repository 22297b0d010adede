"""Which runs keep to the limits of their tasks, and which of them only because they fall early.

A limit is judged on sampled actions, by the mean of the last ten evaluations; rows from before
there were such evaluations are judged on the mode's. A return counts only within the limits, so
what is above one is ranked below all that is within, whatever it earns. Costs are sums, means per
step or discounted sums, as the limit is meant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlsuite.envs.tasks import find
from rlsuite.evidence.rows import LAST, QUANTITIES, Result
from rlsuite.runs.evaluation import DISCOUNT, HELD, SAMPLED

RETURNS = ("training_return", "return", "sampled_return", "score", "score_last_10")
MEANT = {"episode": "an episode", "step": "a step", "discounted": "a discounted episode"}
MARKS = {  # of cells
    "L": "above its limit: ranked below all that is within, whatever it earns",
    "F": "within its limit only since its episodes are short: at this cost per step an episode of "
    "full length would be above",
}
OF_VERDICT = {"above": ("L",), "early": ("F",)}


class Limit(NamedTuple):
    """A constraint of a task, and the columns of a result that are about it."""

    name: str
    limit: float
    kind: str
    cost: str  # "cost", or "cost_NAME" of further constraints
    column: str  # what the limit is held against: "sampled_cost", "cost_NAME_per_step", ...

    @property
    def columns(self) -> tuple[str, str]:
        """The columns that are measured as the limit is: of sampled actions, and of the mode."""
        return self.column, self.cost + HELD[self.kind]

    @property
    def sampled(self) -> bool:
        return self.column.startswith(SAMPLED)

    @property
    def words(self) -> str:
        """What the column is: "velocity cost of an episode with sampled actions"."""
        return f"{self.name} cost of {MEANT[self.kind]}{' with sampled actions' * self.sampled}"


def limits(result: Result) -> list[Limit]:
    """The limits that a result can be judged by, in the order of the task's constraints."""
    found = []
    for index, each in enumerate(result.manifest.get("constraints") or ()):
        name, limit, kind = (each.get(key) for key in ("name", "limit", "kind"))
        cost = f"cost_{name}" if index else "cost"
        if limit is None or kind not in HELD:
            continue
        columns = [f"{prefix}{cost}{HELD[kind]}" for prefix in (f"{SAMPLED}_", "")]
        column = next((each for each in columns if each in result.values), None)
        found += [Limit(name, limit, kind, cost, column)] if column else []
    return found


def last(result: Result, column: str) -> np.ndarray:
    """The mean of each seed's last ten evaluations, [S]; of all where there are fewer."""
    return result.values[column][:, -LAST:].mean(1)


def broken(result: Result) -> list[Limit]:
    """The limits that the mean over seeds is above."""
    return [each for each in limits(result) if last(result, each.column).mean() > each.limit]


def falls_early(result: Result) -> bool:
    """Whether it is within its limits only since its episodes are short.

    At the same cost per step an episode of the task's full length would be above.
    """
    known = find(result.manifest["task"])
    if broken(result) or known is None or known.time_limit is None:
        return False
    weights = {
        "episode": known.time_limit,
        "discounted": (1 - DISCOUNT**known.time_limit) / (1 - DISCOUNT),
    }
    return any(
        per_step(result, each) * weights.get(each.kind, 0) > each.limit for each in limits(result)
    )


def per_step(result: Result, limit: Limit) -> float:
    """The mean cost of a step; NaN where the rows do not tell."""
    column = f"{SAMPLED}_" * limit.sampled + f"{limit.cost}_per_step"
    return float(last(result, column).mean()) if column in result.values else math.nan


def verdict(result: Result) -> str:
    """ "above", "early" or "within" its limits; empty where there is none."""
    if not limits(result):
        return ""
    return "above" if broken(result) else "early" if falls_early(result) else "within"


def marks(result: Result, column: str) -> tuple[str, ...]:
    """Those of a return that is above a limit, or within it by falling early."""
    return OF_VERDICT.get(verdict(result), ()) if column in RETURNS else ()


def held_columns(results: Sequence[Result]) -> dict[str, str]:
    """{column: words} of what is held against limits, where curves have no other words for it."""
    found = {each.column: each.words for result in results for each in limits(result)}
    return {column: words for column, words in found.items() if column not in QUANTITIES}


def ranked(results: Sequence[Result]) -> list[Result]:
    """Within the limits first, then what falls early, then what is above; each by its return."""
    order = ("", "within", "early", "above")
    return sorted(results, key=lambda r: (order.index(verdict(r)), -last(r, earned(r)).mean()))


def earned(result: Result) -> str:
    """The column of returns that go with the costs that are judged."""
    return f"{SAMPLED}_return" if f"{SAMPLED}_return" in result.values else "return"


def remarks(results: Sequence[Result]) -> list[str]:
    """A line for every result that is above a limit, or within it by falling early."""
    lines = []
    for result in results:
        name = f"{result.algorithm} on {result.task}"
        costs = [
            f"{each.name} costs {last(result, each.column).mean():.4g} {MEANT[each.kind]}, "
            f"the limit is {each.limit:g}"
            for each in broken(result) or limits(result)
        ]
        if verdict(result) == "above":
            lines.append(
                f"ABOVE ITS LIMIT: {name}: {'; '.join(costs)}. Its return is no better than any "
                "within the limits."
            )
        elif verdict(result) == "early":
            length = last(result, f"{SAMPLED}_length" if limits(result)[0].sampled else "length")
            lines.append(
                f"FALLS EARLY: {name}: {'; '.join(costs)}, after {length.mean():.0f} steps; an "
                "episode of full length would be above."
            )
    return lines
