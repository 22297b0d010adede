"""Limits of a task's constraints, and the costs of episodes that are held against them.

| symbol | shape | meaning |
|---|---|---|
| J_C | [S, C] | mean cost of finished episodes, in the unit of the limits; NaN: no episode ended |
| limit | [C] | of each constraint: J_C is to stay at or below it |
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

KINDS = ("episode", "step")  # limits that the sums of an episode can be held against
DISCOUNTED = (*KINDS, "discounted")  # limits that values of costs can be held against


def require_constraints(envs) -> None:
    """ValueError for a task without constraints."""
    if not envs.constraints:
        raise ValueError(
            f"{envs.task} has no constraints, and this algorithm learns under some: use one such "
            "as HopperVelocity-v4; `rlsuite tasks` lists them"
        )


def limits(envs, kinds: Sequence[str] = KINDS) -> Tensor:
    """The limits [C] of a task's constraints; ValueError for what no multiplier can be held to."""
    require_constraints(envs)
    task, constraints = envs.task, envs.constraints
    for each in constraints:
        wrong = None
        if each.limit is None:
            wrong = "has no limit: add the task with rlsuite.envs.constrain and give one"
        elif not 0 <= each.limit < math.inf:
            wrong = f"has the limit {each.limit}: it must be 0 or greater"
        elif each.kind not in kinds:
            wrong = f"limits a {each.kind} cost: use one of kind {' or '.join(kinds)}"
        if wrong:
            raise ValueError(f"{task}: constraint {each.name!r} {wrong}")
    return torch.tensor([float(each.limit) for each in constraints])


def discounted_limits(envs, discount: float) -> Tensor:
    """The limits [C] in the unit of a cost's value, a sum discounted by `discount`.

    Those of kind "discounted" are that already. Where a sum of the T steps of an episode is limited
    to d, each step may cost d/T, and T such steps have the value d (1 - discount^T) / (1 -
    discount) / T. A limit per step counts for T steps, or for ever without a time limit.
    """
    found, steps = limits(envs, DISCOUNTED), envs.time_limit
    kinds = [each.kind for each in envs.constraints]
    if steps is None and "episode" in kinds:
        name = envs.constraints[kinds.index("episode")].name
        raise ValueError(
            f"{envs.task} has no time limit, and so the limit of {name!r} on an episode's sum is "
            "none on a discounted one: give it one of kind 'discounted' or 'step'"
        )
    if steps is None and discount == 1 and "step" in kinds:
        raise ValueError(f"{envs.task} has no time limit: use a discount below 1")
    whole = math.inf if steps is None else steps
    sum_of_ones = whole if discount == 1 else (1 - discount**whole) / (1 - discount)
    scale = {"discounted": 1.0, "step": sum_of_ones, "episode": sum_of_ones / whole}
    return found * torch.tensor([scale[kind] for kind in kinds])


def episode_cost(episode, constraints: Sequence) -> list[float]:
    """The costs [C] of a finished episode, in the unit of each limit: its sum, or the mean step."""
    pairs = zip(episode.cost, constraints, strict=True)
    return [c / episode.length if each.kind == "step" else c for c, each in pairs]


class EpisodeCosts(nn.Module):
    """J_C over each seed's last `window` finished episodes, and the limits it is held against."""

    def __init__(self, envs, window: int) -> None:
        super().__init__()
        self.constraints, seeds = envs.constraints, len(envs.seeds)
        self.limit = limits(envs)
        shape = (seeds, window, len(self.constraints))
        self.register_buffer("last", torch.full(shape, math.nan, dtype=torch.float64))

    def add(self, episodes: Iterable) -> None:
        """Take in episodes that ended, in their order."""
        for episode in episodes:
            cost = torch.tensor([episode_cost(episode, self.constraints)], dtype=torch.float64)
            row = self.last[episode.seed]
            row.copy_(torch.cat((row[1:], cost)))

    def mean(self) -> Tensor:
        """J_C [S, C], float32."""
        return self.last.nanmean(1).float()
