"""A Gaussian policy whose mean nothing bounds; shapes as in `distributions`."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rlsuite.core.actors import BoundedActor, BoundedSnapshot
from rlsuite.core.policies import Bound
from rlsuite.core.squashed import LOG_SQRT_2PI, LOG_STD


@dataclass
class UnboundedGaussian:
    """What `TanhGaussian` is, without the tanh."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(action, log_prob) [S, B, A], [S, B]."""
        action = self.mean + self.log_std.exp() * noise
        return action, self.log_prob(action)

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * z * z - self.log_std - LOG_SQRT_2PI).sum(-1)


class GaussianActor(BoundedActor):
    """A whole policy: a Gaussian around the network's output, one sigma for all states.

    Its own ("raw") action y is in half widths of the box, as `SquashedActor`'s, but may lie outside
    (-1, 1). The environment gets centre + half width x y, clipped to its bounds. `log_std` is where
    log sigma starts; it is used within [-20, 2].
    """

    def __init__(self, *box, log_std: float = 0.0, **others) -> None:
        super().__init__(*box, log_std=float(log_std), **others)

    def distribution(self, theta: Tensor, obs: Tensor) -> UnboundedGaussian:
        """pi_theta(. | s) of raw actions, at observations [S, B, O]."""
        log_std = self.layout.views(theta)["log_std"].clamp(*LOG_STD["clip"])
        return UnboundedGaussian(self.output(theta, obs), log_std)

    def mean(self, theta: Tensor, obs: Tensor) -> Tensor:
        """The deterministic action [S, B, A] at observations [S, B, O], in the box."""
        return self.clip_action(self.centre + self.half_width * self.output(theta, obs))

    def behaviour(self, low: Bound = None, high: Bound = None) -> "GaussianSnapshot":
        """What acts like the policy as it is now, in an environment with these bounds [A]."""
        return GaussianSnapshot(self, low, high)


class GaussianSnapshot(BoundedSnapshot):
    """Raw actions are output + sigma noise; the environment gets them scaled and clipped."""

    def refresh(self, policy) -> None:
        super().refresh(policy)
        self.std = np.exp(self.weights["log_std"].clip(*LOG_STD["clip"]))

    def choose(self, output: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        return output if noise is None else output + self.std * noise

    def to_env(self, raw: np.ndarray) -> np.ndarray:
        return super().to_env(self.centre + self.half_width * raw)
