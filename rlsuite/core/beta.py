"""Beta policies: actions that lie within their bounds, so that nothing has to be clipped.

| symbol | shape | meaning |
|---|---|---|
| alpha, beta | [S, B, A] | both greater than 1: the density has one mode, inside |
| action | [S, B, A] | y in (0, 1); the environment gets low + (high - low) y |
| log_prob, entropy, kl | [S, B] | of y, summed over action dimensions, in nats |
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlsuite.core.layers import mlp, mlp_shapes
from rlsuite.core.networks import ActorCritic
from rlsuite.core.policies import Bound, Rngs, Snapshot

EDGE = 1e-6  # actions are kept this far from 0 and 1, where float32 has no finite log density
CANDIDATES = 8  # per gamma variate; fewer than one draw in 10^10 runs out of them


def log_beta_function(alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha.lgamma() + beta.lgamma() - (alpha + beta).lgamma()


@dataclass
class Beta:
    """Independent Beta distributions over A action dimensions."""

    alpha: Tensor
    beta: Tensor

    def mode(self) -> Tensor:
        return (self.alpha - 1) / (self.alpha + self.beta - 2)

    def log_prob(self, action: Tensor) -> Tensor:
        y = action.clamp(EDGE, 1 - EDGE)
        shape = (self.alpha - 1) * y.log() + (self.beta - 1) * torch.log1p(-y)
        return (shape - log_beta_function(self.alpha, self.beta)).sum(-1)

    def entropy(self) -> Tensor:
        a, b = self.alpha, self.beta
        slopes = (a - 1) * a.digamma() + (b - 1) * b.digamma() - (a + b - 2) * (a + b).digamma()
        return (log_beta_function(a, b) - slopes).sum(-1)

    def kl(self, other: "Beta") -> Tensor:
        a, b, c, d = self.alpha, self.beta, other.alpha, other.beta
        slopes = (a - c) * a.digamma() + (b - d) * b.digamma()
        slopes = slopes + (c - a + d - b) * (a + b).digamma()
        return (log_beta_function(c, d) - log_beta_function(a, b) + slopes).sum(-1)


class BetaActorCritic(ActorCritic):
    """An actor-critic whose actor gives alpha and beta, each softplus + 1, per action dimension."""

    def actor_shapes(self, obs_size: int, hidden: Sequence[int]) -> dict[str, tuple[int, ...]]:
        return mlp_shapes("actor", (obs_size, *hidden, 2 * self.action_size))

    def distribution(self, theta: Tensor, obs: Tensor) -> Beta:
        weights = self.actor_layout.views(theta[:, : self.actor_size])
        output = mlp(weights, "actor", obs, self.depth, self.activation)
        return Beta(*(1 + softplus(part) for part in output.chunk(2, -1)))

    def behaviour(self, low: Bound = None, high: Bound = None) -> "BetaSnapshot":
        return BetaSnapshot(self, low, high)


class BetaSnapshot(Snapshot):
    """Acts with samples of Beta distributions, scaled to the environment's bounds."""

    def noise(self, rngs: Rngs, *shape: int) -> np.ndarray:
        """[S, *shape, A, 2, 2, CANDIDATES]: for alpha and beta each, normal and uniform numbers."""
        shape = (*shape, self.action_size, 2, CANDIDATES)
        pairs = [np.stack([g.standard_normal(shape), g.random(shape)], -2) for g in rngs]
        return np.stack(pairs).astype(np.float32)

    def choose(self, output: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        alpha, beta = np.split(1 + np.logaddexp(output, 0), 2, -1)  # 1 + softplus
        if noise is None:
            return (alpha - 1) / (alpha + beta - 2)
        first, second = gamma(alpha, noise[..., 0, :, :]), gamma(beta, noise[..., 1, :, :])
        return np.clip(first / (first + second), EDGE, 1 - EDGE)

    def to_env(self, raw: np.ndarray) -> np.ndarray:
        """The action y in (0, 1) as a point between the environment's bounds."""
        return raw if self.low is None else self.low + (self.high - self.low) * raw


def gamma(shape: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Gamma(shape, 1) variates, shape [...] >= 1, from normal and uniform noise [..., 2, K].

    Marsaglia and Tsang 2000: the first of K candidates that their test accepts (95% or more do).
    """
    normal, uniform = noise[..., 0, :], noise[..., 1, :]
    d = (shape - 1 / 3)[..., None]
    v = np.maximum(1 + normal / np.sqrt(9 * d), 1e-12) ** 3
    with np.errstate(divide="ignore"):  # a uniform number may be 0: accepted
        accepted = np.log(uniform) < 0.5 * normal**2 + d - d * v + d * np.log(v)
    first = accepted.argmax(-1)[..., None]
    return (d * np.take_along_axis(v, first, -1))[..., 0]
