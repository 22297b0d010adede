"""The tanh-squashed Gaussian of off-policy and offline methods; shapes as in `distributions`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.actors import BoundedActor, BoundedSnapshot
from rlsuite.core.policies import Bound

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
LOG_STD = {"clip": (-20.0, 2.0), "tanh": (-5.0, 2.0)}  # what maps an output to log sigma: its range


@dataclass
class TanhGaussian:
    """tanh of a diagonal Gaussian: actions in (-1, 1)^A, densities of the squashed action."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(action, log_prob) [S, B, A], [S, B]; exact even where the tanh saturates."""
        pre_tanh, log_density = self.draw(noise)
        return torch.tanh(pre_tanh), log_density.sum(-1)

    def draw(self, noise: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
        """What `sample` squashes, and the log-density of each dimension, both [S, B, A]."""
        pre_tanh = self.mean + self.log_std.exp() * noise
        gaussian = -0.5 * noise * noise - self.log_std - LOG_SQRT_2PI
        return pre_tanh, gaussian - log_slope(pre_tanh, floor)

    def log_density(self, pre_tanh: Tensor, floor: float = 0.0) -> Tensor:
        """Of each dimension of tanh(pre_tanh), whichever policy drew it: [S, B, A]."""
        z = (pre_tanh - self.mean) * torch.exp(-self.log_std)
        return -0.5 * z * z - self.log_std - LOG_SQRT_2PI - log_slope(pre_tanh, floor)

    def mode(self) -> Tensor:
        return torch.tanh(self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        # An action that float32 rounds to +-1 has no finite pre-image; stay just inside.
        inside = action.clamp(-1 + 1e-6, 1 - 1e-6)
        return self.log_density(torch.atanh(inside)).sum(-1)


def log_slope(pre_tanh: Tensor, floor: float = 0.0) -> Tensor:
    """log(1 - tanh(x)^2 + floor): without a floor exact, and finite for every x."""
    if floor > 0:
        return (1 - torch.tanh(pre_tanh).square() + floor).log()
    # Without cancellation for large |x|. F.softplus would round the last few numbers of a tensor
    # otherwise than the rest, and with that a seed in company otherwise than alone
    x = pre_tanh.abs()
    return 2 * (math.log(2) - x - torch.log1p(torch.exp(-2 * x)))


class SquashedActor(BoundedActor):
    """A whole policy: the state decides the mean and the standard deviation of a TanhGaussian.

    Its own ("raw") action y lies in (-1, 1)^A. The environment gets centre + half width x y.
    `log_std_map` says how the network's output becomes log sigma: "clip" into [-20, 2], or
    "tanh", -5 + 3.5 (tanh(x) + 1).
    """

    outputs = 2

    def __init__(
        self,
        obs_size: int,
        low: Sequence[float],
        high: Sequence[float],
        *,
        rngs: Sequence[np.random.Generator],
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        log_std_map: str = "clip",
    ) -> None:
        super().__init__(obs_size, low, high, rngs=rngs, hidden=hidden, activation=activation)
        del self.spec["log_std"]
        self.spec["log_std_map"] = self.log_std_map = log_std_map

    @classmethod
    def for_envs(cls, envs, device: str, **others) -> "SquashedActor":
        """One for observations and actions of `envs`; `others` as of the class.

        ValueError where actions are discrete, or their box is unbounded.
        """
        if envs.discrete:
            raise ValueError(
                f"{envs.task} has discrete actions, and this algorithm needs continuous ones; use "
                "another algorithm, for instance ppo"
            )
        return cls(envs.obs_size, envs.action_low, envs.action_high, **others).to(device)

    def distribution(self, theta: Tensor, obs: Tensor) -> TanhGaussian:
        """pi_theta(. | s) of raw actions, at observations [S, B, O]."""
        mean, output = self.output(theta, obs).chunk(2, -1)
        return TanhGaussian(mean, log_std(output, self.log_std_map, torch))

    def mean(self, theta: Tensor, obs: Tensor) -> Tensor:
        """The deterministic action [S, B, A] at observations [S, B, O], in the box."""
        return self.centre + self.half_width * self.distribution(theta, obs).mode()

    def behaviour(self, low: Bound = None, high: Bound = None) -> "SquashedSnapshot":
        """What acts like the policy as it is now, in an environment with these bounds [A]."""
        return SquashedSnapshot(self, low, high)


class SquashedSnapshot(BoundedSnapshot):
    """Raw actions are tanh(mean + sigma noise), in (-1, 1); the environment gets them scaled.

    `log_prob` is that of the raw action.
    """

    def __init__(self, policy, low: Bound = None, high: Bound = None) -> None:
        self.log_std_map = policy.log_std_map
        super().__init__(policy, low, high)

    def choose(self, output: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        mean, width = output[..., : self.action_size], output[..., self.action_size :]
        if noise is None:
            return np.tanh(mean)
        width = log_std(width, self.log_std_map, np)
        pre_tanh = mean + np.exp(width) * noise
        slope = 2 * (math.log(2) - pre_tanh - np.logaddexp(0, -2 * pre_tanh))  # as in `log_slope`
        self.log_prob = (-0.5 * noise * noise - width - LOG_SQRT_2PI - slope).sum(-1)
        return np.tanh(pre_tanh)

    def to_env(self, raw: np.ndarray) -> np.ndarray:
        return super().to_env(self.centre + self.half_width * raw)


def log_std(output, log_std_map: str, library):
    """log sigma from a network's output: tensors with torch as `library`, arrays with numpy."""
    low, high = LOG_STD[log_std_map]
    if log_std_map == "clip":
        return library.clip(output, low, high)
    return low + (high - low) / 2 * (library.tanh(output) + 1)
