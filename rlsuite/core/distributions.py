"""Action distributions for S x B states: what a policy network's output means.

| symbol | shape | meaning |
|---|---|---|
| mean, log_std | [S, B, A], [S, 1, A] or [S, B, A] | of a Gaussian per action dimension |
| logits | [S, B, A] | unnormalised log-probabilities of A discrete actions |
| action | [S, B, A] or [S, B] (discrete) | what was sampled, before the environment clips it |
| log_prob, entropy, kl | [S, B] | summed over action dimensions, in nats |

`p.kl(q)` is KL(p || q): papers differ in direction, so every call names who comes first.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass
class DiagGaussian:
    """Independent normal distributions over A action dimensions."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised draw from standard normal `noise` [S, B, A]."""
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z * z - self.log_std - LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        log_std = self.log_std.expand_as(self.mean)
        return (log_std + LOG_SQRT_2PI + 0.5).sum(-1)

    def kl(self, other: "DiagGaussian") -> Tensor:
        # sum_i log(s_q/s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2
        variance_ratio = torch.exp(2 * (self.log_std - other.log_std))
        z = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (other.log_std - self.log_std + 0.5 * (variance_ratio + z * z - 1)).sum(-1)


@dataclass
class Categorical:
    """One of A discrete actions."""

    logits: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """argmax of logits + standard Gumbel `noise` [S, B, A]: an exact draw [S, B]."""
        return (self.logits + noise).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        log_p = self.logits.log_softmax(-1)
        return log_p.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(self, other: "Categorical") -> Tensor:
        log_p, log_q = self.logits.log_softmax(-1), other.logits.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)
