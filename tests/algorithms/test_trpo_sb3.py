"""TRPO's step against sb3-contrib's formulas, written here once more for one seed."""

import math

import numpy as np
import pytest
import torch
from ppo_setting import draw
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from trpo_setting import OBS, batch_of, taken

from rlsuite.algorithms.on_policy import trpo
from rlsuite.core.networks import ActorCritic
from rlsuite.core.rollouts import RolloutBatch
from rlsuite.runs.settings import preset

# Of the zoo's trpo.yml and of sb3-contrib's defaults; the KL is a mean over action dimensions, too
DAMPING, CG_STEPS, SHRINKING, TRIES = 0.1, 25, 0.8, 10


def policy_of(actions: int) -> ActorCritic:
    """The zoo's 64-64 tanh network, a little away from its initialisation."""
    policy = ActorCritic(OBS, actions, False, rngs=[np.random.default_rng(0)], hidden=(64, 64))
    moved = policy.theta + 0.05 * draw(1, 1, policy.layout.size)
    policy.theta = nn.Parameter(moved.double(), requires_grad=False)
    return policy


def sb3_contribs_step(policy: ActorCritic, batch: RolloutBatch, target_kl: float) -> Tensor:
    """What sb3_contrib.TRPO adds to the actor's parameters [P]."""
    theta = policy.theta[0, : policy.actor_size].clone().requires_grad_()

    def gaussian(theta: Tensor) -> Normal:
        pi = policy.distribution(theta[None], batch.obs)
        return Normal(pi.mean[0], pi.log_std[0].exp().expand_as(pi.mean[0]))

    def objective(theta: Tensor) -> Tensor:
        log_prob = gaussian(theta).log_prob(batch.action[0]).sum(1)
        return (batch.advantage[0] * (log_prob - batch.old_log_prob[0]).exp()).mean()

    old = gaussian(theta.detach())

    def kl(theta: Tensor) -> Tensor:  # mean over states and over actions, the new policy first
        return kl_divergence(gaussian(theta), old).mean()

    (gradient,) = torch.autograd.grad(objective(theta), theta)
    (slope,) = torch.autograd.grad(kl(theta), theta, create_graph=True)

    def hessian_times(vector: Tensor) -> Tensor:
        (product,) = torch.autograd.grad((slope * vector).sum(), theta, retain_graph=True)
        return product + DAMPING * vector

    x = 1e-4 * torch.randn(len(theta), generator=torch.Generator().manual_seed(0)).double()
    residual = gradient - hessian_times(x)
    p, square = residual.clone(), residual @ residual
    for _ in range(CG_STEPS):
        z = hessian_times(p)
        alpha = square / (p @ z)
        x, residual = x + alpha * p, residual - alpha * z
        before, square = square, residual @ residual
        if square < 1e-10:
            break
        p = residual + square / before * p
    full = x * math.sqrt(2 * target_kl / (x @ hessian_times(x)))
    start = objective(theta)
    for j in range(TRIES):
        step = SHRINKING**j * full
        if kl(theta + step) < target_kl and objective(theta + step) > start:
            return step.detach()
    return torch.zeros_like(full)


def compare(name: str, task: str, actions: int, target_kl: float) -> tuple[float, float]:
    """Cosine between preset `name`'s step and sb3-contrib's, and the ratio of their lengths."""
    policy = policy_of(actions)
    batch = batch_of(policy, (0,))
    config = trpo.Config(**preset(trpo, name, task))
    new, metrics = taken(policy, config, batch)
    ours = (new - policy.theta[:, : policy.actor_size])[0]
    theirs = sb3_contribs_step(policy, batch, target_kl)
    assert metrics["accepted"] == 1
    assert theirs.any()
    cosine = ours @ theirs / (ours.norm() * theirs.norm())
    return float(cosine), float(ours.norm() / theirs.norm())


@pytest.mark.parametrize(
    ("task", "actions", "target_kl"),
    [("Swimmer-v4", 2, 0.01), ("Hopper-v4", 3, 0.01), ("HalfCheetah-v4", 6, 0.04)],
)
def test_preset_sb3_takes_sb3_contribs_step(task, actions, target_kl):
    cosine, ratio = compare("sb3", task, actions, target_kl)
    assert cosine > 0.9999
    assert ratio == pytest.approx(1, abs=1e-3)


def test_preset_mujoco_takes_another_step():
    # Its KL and damping are a third of sb3's where there are three actions. Without damping the
    # direction would be the same, so the damping is what turns it
    cosine, _ = compare("mujoco", "Hopper-v4", 3, 0.01)
    assert cosine < 0.99
