"""Advantage-weighted regression (Peng et al. 2019): the weights of a batch, and its loss."""

import math

import torch
from torch import Tensor

from rlsuite.core.optim import Metrics

EQUAL = (
    "the advantages of a batch are all equal, so that its actions are cloned: do the rewards of "
    "the data differ?"
)


def regression_weights(
    advantage: Tensor, value: Tensor, temperature: float, bound: float
) -> tuple[Tensor, Metrics]:
    """min(exp(beta A), bound) [S, B], of which no gradient is taken; 1 if all A are equal.

    Equal means: they differ by no more than rounding of the Q `value` [S, B] does.
    """
    advantage = advantage.detach()
    same = advantage.amax(1) - advantage.amin(1) <= 5e-7 * value.abs().amax(1)
    # the exponent is bounded first: exp overflows long before the minimum is taken
    weight = (temperature * advantage).clamp(max=math.log(bound)).exp()
    weight = torch.where(same[:, None], 1.0, weight)
    capped = (weight > 0.999 * bound).to(weight.dtype)
    metrics = {"weight": weight.mean(1), "effective_size": effective_size(weight)}
    metrics |= {"capped": capped.mean(1), "equal_advantages": same.to(weight.dtype)}
    return weight, metrics


def effective_size(weight: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2: of how many equal weights the mean is as noisy. [S, B] -> [S]."""
    share = weight / weight.amax(1, keepdim=True).clamp(min=1e-30)
    return share.sum(1).square() / share.square().sum(1).clamp(min=1e-30)


def regression_loss(log_prob: Tensor, weight: Tensor) -> Tensor:
    """-mean w log pi(a|s). [S, B] -> [S]."""
    return -(weight * log_prob).mean(1)
