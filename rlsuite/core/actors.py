"""Policies with bounded actions: centre + half width x tanh(MLP(s)), for S seeds at once.

Deterministic where there is no `log_std`; with one, a Gaussian around that mean whose samples are
clipped to the bounds. Learned from data or off-policy, so critics are no part of them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.core.layers import ACTIVATIONS, Layout, linear, mlp_shapes, uniform
from rlsuite.core.policies import Bound, Rngs, Snapshot
from rlsuite.core.ranges import require_bounded

STD_FLOOR = 1e-3  # added to a data set's standard deviations, as TD3+BC does


class Standardizer(nn.Module):
    """(o - mean) / std, with numbers that training never changes, such as those of a data set."""

    def __init__(self, num_seeds: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_seeds, size))
        self.register_buffer("std", torch.ones(num_seeds, size))

    def fit(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Use the statistics [O] of a data set for every seed; std gets 1e-3 more."""
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std + STD_FLOOR))

    def normalize(self, obs: np.ndarray) -> np.ndarray:
        """Raw [S, N, O] to what the networks see, float32."""
        return self.snapshot()(obs)

    def snapshot(self) -> Callable[[np.ndarray], np.ndarray]:
        """`normalize` with the numbers as they are now."""
        mean, std = (x.cpu().numpy()[:, None].copy() for x in (self.mean, self.std))
        return lambda obs: ((obs - mean) / std).astype(np.float32)

    def standardize(self, obs: Tensor) -> Tensor:
        """The same for tensors."""
        return (obs - self.mean[:, None]) / self.std[:, None]


class BoundedActor(nn.Module):
    """A whole policy: raw observations in, actions of the environment's units out.

    `low` and `high` [A] are the bounds of actions. Weights start as torch.nn.Linear's do; those of
    the last layer from U(-last, last) where `last` is given. `log_std` None: deterministic.
    """

    discrete = False
    outputs = 1  # of the network, per action dimension

    def __init__(
        self,
        obs_size: int,
        low: Sequence[float],
        high: Sequence[float],
        *,
        rngs: Rngs,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        log_std: float | None = None,
        last: float | None = None,
    ) -> None:
        super().__init__()
        low, high = ([float(x) for x in end] for end in (low, high))
        require_bounded(low, high, "give the environment a bounded action space")
        names = ("obs_size", "low", "high", "hidden", "activation", "log_std")
        values = (obs_size, low, high, list(hidden), activation, log_std)
        self.spec = dict(zip(names, values, strict=True))  # what a copy is built from
        self.action_size, self.depth, self.activation = len(low), len(hidden) + 1, activation
        self.stochastic = log_std is not None
        shapes = mlp_shapes("actor", (obs_size, *hidden, self.outputs * self.action_size))
        shapes |= {"log_std": (1, self.action_size)} if self.stochastic else {}
        self.layout = self.actor_layout = Layout(shapes)
        self.normalizer = Standardizer(len(rngs), obs_size)
        bounds = torch.tensor([low, high])
        self.register_buffer("centre", (bounds[1] + bounds[0]) / 2, persistent=False)
        self.register_buffer("half_width", (bounds[1] - bounds[0]) / 2, persistent=False)
        theta = initial(self.layout, rngs, f"actor.{self.depth - 1}", last)
        self.theta = nn.Parameter(theta, requires_grad=False)
        if self.stochastic:
            self.layout.views(self.theta)["log_std"].fill_(log_std)

    @classmethod
    def for_data(cls, data, config, device: str, rngs, **others) -> "BoundedActor":
        """One for the observations and action bounds of `data`; `others` as of the class.

        `config` has its widths, and whether observations are standardised by those of the data.
        """
        box = data.action_bounds()
        policy = cls(data.obs_size, *box, rngs=rngs, hidden=config.hidden, **others).to(device)
        if config.normalize_obs:
            policy.normalizer.fit(*data.obs_statistics())
        return policy

    def mean(self, theta: Tensor, obs: Tensor, dropout: Sequence[Tensor] | None = None) -> Tensor:
        """Action [S, B, A] at standardised observations [S, B, O].

        `dropout` has a mask [S, B, H] for each hidden layer, which multiplies what comes out of its
        activation. For ReLU that is the same as multiplying what goes in: no mask is negative.
        """
        return self.centre + self.half_width * torch.tanh(self.output(theta, obs, dropout))

    def output(self, theta: Tensor, obs: Tensor, dropout: Sequence[Tensor] | None = None) -> Tensor:
        """What the network says [S, B, outputs A], before any bound."""
        weights, x = dense(self.layout, theta, obs.shape[1]), obs
        for i in range(self.depth):
            x = linear(x, weights[f"actor.{i}.weight"], weights[f"actor.{i}.bias"])
            if i < self.depth - 1:
                x = ACTIVATIONS[self.activation](x)
                x = x if dropout is None else x * dropout[i]
        return x

    def clip_action(self, action: Tensor, margin: float = 0.0) -> Tensor:
        """Actions [S, B, A] clipped to their bounds, from which they keep `margin` half widths."""
        half_width = self.half_width * (1 - margin)
        low, high = self.centre - half_width, self.centre + half_width
        return torch.maximum(torch.minimum(action, high), low)

    def to_box(self, raw: Tensor) -> Tensor:
        """Actions of the environment [S, B, A], clipped, from such as are in half widths."""
        return self.clip_action(self.centre + self.half_width * raw)

    def to_raw(self, action: Tensor) -> Tensor:
        """Actions [S, B, A] in half widths of the box, from its centre."""
        return (action - self.centre) / self.half_width.clamp(min=1e-30)  # a box may be flat

    def behaviour(self, low: Bound = None, high: Bound = None) -> "BoundedSnapshot":
        """What acts like the policy as it is now, in an environment with these bounds [A]."""
        return BoundedSnapshot(self, low, high)


class BoundedSnapshot(Snapshot):
    """centre + half width x tanh(output); a Gaussian around it where there is a `log_std`."""

    def __init__(self, policy, low: Bound = None, high: Bound = None) -> None:
        self.centre = policy.centre.cpu().numpy().copy()
        self.half_width = policy.half_width.cpu().numpy().copy()
        super().__init__(policy, low, high)

    def refresh(self, policy) -> None:
        super().refresh(policy)
        self.std = np.exp(self.weights["log_std"]) if "log_std" in self.weights else 0.0

    def choose(self, output: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        mean = self.centre + self.half_width * np.tanh(output)
        return mean if noise is None else mean + self.std * noise


FEW_ROWS = 64  # below, products are MKL's (`runs.machine`), which takes strided matrices as well


def dense(layout: Layout, theta: Tensor, rows: int = FEW_ROWS) -> dict[str, Tensor]:
    """`layout.views`, each in adjoining memory: a wide product would copy it at every use.

    A product with few `rows` takes about as long as the copy, and goes without.
    """
    if rows < FEW_ROWS:
        return layout.views(theta)
    return {name: view.contiguous() for name, view in layout.views(theta).items()}


def initial(layout: Layout, rngs: Rngs, last_layer: str = "", last: float | None = None) -> Tensor:
    """Theta [S, P] as torch.nn.Linear starts; `last_layer` from U(-last, last) where given."""
    theta = torch.zeros(len(rngs), layout.size)
    for row, rng in zip(theta, rngs, strict=True):
        fan_in = 0
        for name, view in layout.views(row[None]).items():
            fan_in = view.shape[-1] if name.endswith("weight") else fan_in  # its bias follows
            value = uniform(rng, view.shape[1:], fan_in)
            if last is not None and name.startswith(last_layer):
                value *= last * np.sqrt(fan_in)
            view.copy_(torch.from_numpy(value))
    return theta
