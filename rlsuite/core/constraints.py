"""What learning under constraints asks of a task, and the costs of the episodes that ended.

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


def limits(envs) -> Tensor:
    """The limits [C] of a task's constraints; ValueError for what no multiplier can be held to."""
    task, constraints = envs.task, envs.constraints
    if not constraints:
        raise ValueError(
            f"{task} has no constraints, and this algorithm learns under some: use one such as "
            "HopperVelocity-v4; `rlsuite tasks` lists them"
        )
    for each in constraints:
        wrong = None
        if each.limit is None:
            wrong = "has no limit: add the task with rlsuite.envs.constrain and give one"
        elif not 0 <= each.limit < math.inf:
            wrong = f"has the limit {each.limit}: it must be 0 or greater"
        elif each.kind not in KINDS:
            wrong = f"limits a {each.kind} cost: use one of kind {' or '.join(KINDS)}"
        if wrong:
            raise ValueError(f"{task}: constraint {each.name!r} {wrong}")
    return torch.tensor([float(each.limit) for each in constraints])


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
            row = self.last[episode.slot]
            row.copy_(torch.cat((row[1:], cost)))

    def mean(self) -> Tensor:
        """J_C [S, C], float32."""
        return self.last.nanmean(1).float()


def cost_per_step(rollout) -> Tensor:
    """Mean cost of a rollout's steps, all constraints together, [S]."""
    return torch.from_numpy(rollout.cost.mean((1, 2)).sum(1))


def slack(envs, episodes: Iterable, discount: float) -> Tensor:
    """Limit - J_C of `episodes` as a mean per step, [S, C]: below 0 the constraint is broken.

    The sum of an episode is divided by the time limit, or by 1 / (1 - discount) where there is
    none: a shorter episode may cost no more per step. NaN for a seed without an episode.
    """
    costs: list[list] = [[] for _ in envs.seeds]
    for episode in episodes:
        costs[episode.slot].append(episode_cost(episode, envs.constraints))
    none = [[math.nan] * len(envs.constraints)]
    mean = torch.stack([torch.tensor(each or none).mean(0) for each in costs])
    horizon = envs.time_limit or 1 / (1 - discount)
    steps = torch.tensor([horizon if c.kind == "episode" else 1 for c in envs.constraints])
    return (limits(envs) - mean) / steps
