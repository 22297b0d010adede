"""Action values of S seeds: E critics side by side, an ensemble axis [S, E, ...]."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlsuite.core.actors import dense, initial
from rlsuite.core.layers import Layout, mlp, mlp_shapes
from rlsuite.core.optim import Loss
from rlsuite.core.policies import Rngs


def critic_loss(value: Tensor, target: Tensor) -> Tensor:
    """Squared error of one critic. [S, B] -> [S]."""
    return (value - target).square().mean(1)


class Critics:
    """Networks Q(s, a) of equal width.

    Their parameters [S, E P], the E critics of each seed in one row, live with the caller; the
    first P columns are the first critic.
    """

    def __init__(
        self, obs_size: int, action_size: int, hidden: Sequence[int], activation: str = "relu"
    ) -> None:
        self.depth, self.activation = len(hidden) + 1, activation
        self.layout = Layout(mlp_shapes("q", (obs_size + action_size, *hidden, 1)))

    def initial(self, rngs: Rngs, count: int = 2, last: float | None = None) -> Tensor:
        """Fresh parameters [S, count P], as torch.nn.Linear starts; the last layer as `last`."""
        each = [rng for rng in rngs for _ in range(count)]
        return initial(self.layout, each, f"q.{self.depth - 1}", last).view(len(rngs), -1)

    def values(self, theta: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """Q_1..Q_E at [S, B, O], [S, B, A]: [S, E, B], as many as `theta` has parameters of."""
        seeds, rows, _ = obs.shape
        count = theta.shape[1] // self.layout.size
        x = torch.cat((obs, action), -1)[:, None].expand(-1, count, -1, -1)
        weights = dense(self.layout, theta.reshape(seeds * count, -1), rows)
        q = mlp(weights, "q", x.reshape(seeds * count, rows, -1), self.depth, self.activation)
        return q.view(seeds, count, rows)

    def first(self, theta: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """Q_1 alone at [S, B, O], [S, B, A]: [S, B]."""
        return self.values(theta[:, : self.layout.size], obs, action)[:, 0]

    def target(self, theta: Tensor, batch, next_action: Tensor, discount: float) -> Tensor:
        """r + discount (1 - d) min_i Q_i(s', a'): clipped double Q-learning, [S, B]."""
        values = self.values(theta, batch.next_obs, next_action)
        discount = discount * (1 - batch.terminated)
        return batch.reward + discount * values.amin(1)

    def error(self, theta: Tensor, batch, target: Tensor) -> Loss:
        """The sum of all critics' squared errors to `target` [S, B], or to their own [S, E, B]."""
        values = self.values(theta, batch.obs, batch.action).unbind(1)
        each = target.unbind(1) if target.dim() == 3 else [target] * len(values)
        total = sum(map(critic_loss, values, each))
        return total, {"critic_loss": total, "value": values[0].mean(1)}


class StateValue:
    """A network V(s); parameters [S, P] live with the caller."""

    def __init__(self, obs_size: int, hidden: Sequence[int]) -> None:
        self.depth = len(hidden) + 1
        self.layout = Layout(mlp_shapes("v", (obs_size, *hidden, 1)))

    def initial(self, rngs: Rngs) -> Tensor:
        """Fresh parameters [S, P], as torch.nn.Linear starts."""
        return initial(self.layout, rngs)

    def values(self, theta: Tensor, obs: Tensor) -> Tensor:
        """V [S, B] at [S, B, O]."""
        return mlp(dense(self.layout, theta), "v", obs, self.depth, "relu")[..., 0]

    def error(self, theta: Tensor, obs: Tensor, target: Tensor) -> Loss:
        """The squared error to `target` [S, B]; among the metrics V itself, "values" [S, B]."""
        values = self.values(theta, obs)
        loss = critic_loss(values, target)
        return loss, {"value_loss": loss, "values": values}
