"""The tanh-squashed Gaussian of off-policy and offline methods; shapes as in `distributions`."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rlsuite.core.distributions import DiagGaussian


@dataclass
class TanhGaussian:
    """tanh of a diagonal Gaussian: actions in (-1, 1)^A, densities of the squashed action."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(action, log_prob) [S, B, A], [S, B]; exact even where the tanh saturates."""
        pre_tanh = self.mean + self.log_std.exp() * noise
        return torch.tanh(pre_tanh), self._log_prob_of(pre_tanh)

    def mode(self) -> Tensor:
        return torch.tanh(self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        # An action that float32 rounds to +-1 has no finite pre-image; stay just inside.
        inside = action.clamp(-1 + 1e-6, 1 - 1e-6)
        return self._log_prob_of(torch.atanh(inside))

    def _log_prob_of(self, pre_tanh: Tensor) -> Tensor:
        gaussian = DiagGaussian(self.mean, self.log_std).log_prob(pre_tanh)
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x)), without cancellation for large |x|
        log_slope = 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))
        return gaussian - log_slope.sum(-1)

    def kl(self, other: "TanhGaussian") -> Tensor:
        # A bijection shared by both sides leaves the KL unchanged.
        return DiagGaussian(self.mean, self.log_std).kl(DiagGaussian(other.mean, other.log_std))
