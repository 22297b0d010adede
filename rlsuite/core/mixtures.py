"""tanh of a mixture of Gaussians, and the network that says it: the behaviour behind logged data.

| symbol | shape | meaning |
|---|---|---|
| log_weight | [S, B, K] | log of the K components' weights, which sum to one |
| mean, log_std | [S, B, K, A] | of each component, before the tanh |
| action | [S, B, A] | in (-1, 1): half widths of the action box, from its centre |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlsuite.core.actors import dense
from rlsuite.core.distributions import DiagGaussian
from rlsuite.core.layers import Layout, linear, mlp_shapes

EDGE = 1 - 1e-6  # actions are taken from inside the box, where they have a finite pre-image
FARTHEST_MEAN = 9.0  # a component's mean in the density; tanh(9) is 1 - 3e-8
LOG_STD = (-5.0, 2.0)


@dataclass
class TanhMixture:
    """Actions in (-1, 1)^A; with one component a TanhGaussian."""

    log_weight: Tensor
    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density [S, B] of the squashed action."""
        pre_tanh = torch.atanh(action.clamp(-EDGE, EDGE))
        mean = self.mean.clamp(-FARTHEST_MEAN, FARTHEST_MEAN)
        each = DiagGaussian(mean, self.log_std).log_prob(pre_tanh[:, :, None])
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x)), without cancellation for large |x|
        log_slope = 2 * (math.log(2) - pre_tanh - softplus(-2 * pre_tanh))
        return torch.logsumexp(self.log_weight + each, -1) - log_slope.sum(-1)


class MixtureNetwork:
    """pi(. | s) with K components; parameters [S, P] live with the caller.

    The weights of the components are read off features that get no gradient from them.
    """

    def __init__(self, obs_size: int, actions: int, hidden: Sequence[int], components: int) -> None:
        self.actions, self.components, self.depth = actions, components, len(hidden)
        shapes = mlp_shapes("actor", (obs_size, *hidden, 2 * actions * components))
        if components > 1:
            shapes |= {"mixture.weight": (components, hidden[-1]), "mixture.bias": (1, components)}
        self.layout = Layout(shapes)

    def distribution(self, theta: Tensor, obs: Tensor) -> TanhMixture:
        """At standardised observations [S, B, O]."""
        weights, x = dense(self.layout, theta), obs
        for i in range(self.depth):
            x = torch.relu(linear(x, weights[f"actor.{i}.weight"], weights[f"actor.{i}.bias"]))
        last = f"actor.{self.depth}"
        heads = linear(x, weights[f"{last}.weight"], weights[f"{last}.bias"])
        mean, log_std = heads.unflatten(-1, (self.components, -1)).chunk(2, -1)
        log_weight = torch.zeros_like(mean[..., 0])
        if self.components > 1:
            logits = linear(x.detach(), weights["mixture.weight"], weights["mixture.bias"])
            log_weight = logits.log_softmax(-1)
        return TanhMixture(log_weight, mean, log_std.clamp(*LOG_STD))
