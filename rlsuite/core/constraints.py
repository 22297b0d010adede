"""What learning under constraints from rollouts needs: a critic for each cost, slack, margins.

| symbol | shape | meaning |
|---|---|---|
| J_C | [S, C] | mean cost of finished episodes, in the unit of the limits; NaN: no episode ended |
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.limits import episode_cost, limits, require_constraints
from rlsuite.core.networks import ActorCritic, initialise
from rlsuite.core.normalizers import RunningStatistics
from rlsuite.core.optim import Metrics
from rlsuite.core.rollouts import Rollout, RolloutBatch, factors, flat, gae


def require_margins(envs) -> None:
    """ValueError for a task whose constraints have no signed distances to their limits."""
    require_constraints(envs)
    if not envs.reports_margin:
        raise ValueError(
            f"{envs.task} has costs but no margins, which this algorithm needs: use one such as "
            "HopperVelocity-v4, or give rlsuite.envs.constrain a margin function"
        )


PROBE = 100  # steps of a policy that has learned nothing


def require_rewards(envs, policy, shift: float) -> None:
    """ValueError for a task whose rewards, plus `shift`, are below zero under `policy`."""
    rngs = [np.random.default_rng(seed) for seed in envs.seeds]
    behaviour = policy.behaviour(envs.action_low, envs.action_high)
    obs = envs.reset(np.stack([rng.integers(0, 2**31 - 1, envs.num_envs) for rng in rngs]))
    least = math.inf
    for _ in range(PROBE):
        step = envs.step(behaviour.act(obs, rngs)[1])
        obs, least = step.obs, min(least, float(step.reward.min()) + shift)
    if least < 0:
        raise ValueError(
            f"{envs.task} has rewards of {least - shift:.3g}, and this algorithm makes broken "
            f"constraints a relief from what is below zero: add --reward-shift "
            f"{math.ceil(shift - least)}, or use a task whose rewards are not negative"
        )


def cost_per_step(rollout) -> Tensor:
    """Mean cost of a rollout's steps, all constraints together, [S]."""
    return torch.from_numpy(rollout.cost.mean((1, 2)).sum(1))


def violations(rollout: Rollout, constraints: Sequence) -> Metrics:
    """{violated_NAME: share of steps over the limit [S]} of each constraint."""
    over = torch.from_numpy((rollout.cost > 0).mean((1, 2))).float()
    return {f"violated_{each.name}": over[:, i] for i, each in enumerate(constraints)}


def slack(envs, episodes: Iterable, discount: float) -> Tensor:
    """Limit - J_C of `episodes` as a mean per step, [S, C]: below 0 the constraint is broken.

    The sum of an episode is divided by the time limit, or by 1 / (1 - discount) where there is
    none: a shorter episode may cost no more per step. NaN for a seed without an episode.
    """
    costs: list[list] = [[] for _ in envs.seeds]
    for episode in episodes:
        costs[episode.seed].append(episode_cost(episode, envs.constraints))
    none = [[math.nan] * len(envs.constraints)]
    mean = torch.stack([torch.tensor(each or none).mean(0) for each in costs])
    horizon = envs.time_limit or 1 / (1 - discount)
    steps = torch.tensor([horizon if c.kind == "episode" else 1 for c in envs.constraints])
    return (limits(envs) - mean) / steps


def renewed(statistics: RunningStatistics, batch: RolloutBatch) -> RolloutBatch:
    """Old values and targets in the critic's unit: its `statistics` take in the targets first."""
    mean, std = statistics.unit()
    statistics.merge(batch.target[..., None].numpy())
    new_mean, new_std = statistics.unit()
    old_value = (batch.old_value * std + mean - new_mean) / new_std
    target = (batch.target - new_mean) / new_std
    return batch._replace(old_value=old_value, target=target)


class ValueHeads:
    """K value networks as an `ActorCritic`'s, side by side, one for each reward and each cost.

    Their parameters [S, K P], the K networks of each seed in one row, live with the caller; the
    first P columns are the first network.
    """

    def __init__(self, policy: ActorCritic) -> None:
        self.policy, self.layout = policy, policy.critic_layout

    def initial(
        self, count: int, rngs: Sequence[np.random.Generator], orthogonal_init: bool
    ) -> Tensor:
        """Parameters [S, K P] of K = `count`: the policy's critic, then fresh ones."""
        size = self.layout.size
        theta = torch.empty(len(rngs), count * size)
        theta[:, :size] = self.policy.theta[:, -size:]
        for row, rng in zip(theta, rngs, strict=True):
            for part in row[size:].split(size):
                initialise(self.layout, self.policy.depth, part[None], rng, orthogonal_init)
        return theta

    def values(self, theta: Tensor, obs: Tensor) -> Tensor:
        """V_1..V_K at normalised observations: [S, B, O] -> [S, B, K]."""
        parts = theta.split(self.layout.size, 1)
        return torch.stack([self.policy.value(part, obs) for part in parts], -1)


def make_batch_of_heads(
    policy: ActorCritic,
    theta: Tensor,
    rollout: Rollout,
    discount: float,
    lam: float,
    unit: float = 1.0,
) -> RolloutBatch:
    """The rollout as `make_batch` makes it, for reward and costs: [S, M, K] with K = 1 + C.

    `old_value`, `advantage` and `target` have a column for the reward and one for each cost, all
    times `unit`. `theta` are the parameters of the policy's `ValueHeads`.
    """
    obs, next_obs, action = flat(rollout.obs), flat(rollout.next_obs), flat(rollout.action)
    old_log_prob = policy.distribution(policy.theta, obs).log_prob(action)
    paid = unit * np.concatenate((rollout.reward[..., None], rollout.cost), -1)
    heads = ValueHeads(policy)
    value, next_value = (heads.values(theta, x).view(paid.shape).numpy() for x in (obs, next_obs))
    future, carry = (x[..., None] for x in factors(rollout.terminated, rollout.truncated))
    advantage, target = gae(paid, value, next_value, future, carry, discount, lam)
    return RolloutBatch(obs, action, old_log_prob, *map(flat, (value, advantage, target)))
