"""Distributional action values: implicit quantile networks (Dabney et al. 2018) of S seeds.

| symbol | shape | meaning |
|---|---|---|
| fraction | [S, B or 1, Q] | which quantiles of the return are asked for, each in (0, 1) |
| Z | [S, E, B, Q] | these quantiles, as each of E networks has them |

One network: (s, a) through hidden layers; cos(k pi fraction), k = 1..64, through one layer and a
sigmoid; their product through one more hidden layer. Every layer but the last is followed by a
layer normalisation. `values` is the mean over 32 evenly spaced fractions.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from rlsuite.core.actors import dense, initial
from rlsuite.core.layers import Layout, linear
from rlsuite.core.seed_random import SeedRandom

COSINES = 64  # basis functions of a fraction
ACTING = 32  # fractions whose mean is the value


class QuantileCritics:
    """Networks Z(s, a), side by side as in `critics.Critics`; parameters live with the caller."""

    def __init__(self, obs_size: int, action_size: int, hidden: Sequence[int]) -> None:
        self.layout = Layout(quantile_shapes(obs_size, action_size, hidden))
        self.depth = len(hidden) - 1

    def initial(self, rngs: Sequence[np.random.Generator], count: int = 2) -> Tensor:
        """Fresh parameters [S, count P], as torch.nn.Linear and LayerNorm start."""
        theta = initial(self.layout, [rng for rng in rngs for _ in range(count)])
        for name, view in self.layout.views(theta).items():
            if name.endswith(("scale", "shift")):
                view.fill_(float(name.endswith("scale")))
        return theta.view(len(rngs), -1)

    def quantiles(self, theta: Tensor, obs: Tensor, action: Tensor, fraction: Tensor) -> Tensor:
        """Z [S, E, B, Q] at [S, B, O], [S, B, A]."""
        seeds, rows, _ = obs.shape
        count = theta.shape[1] // self.layout.size

        def of_each(x: Tensor) -> Tensor:
            x = x[:, None].expand(-1, count, -1, -1)
            return x.reshape(seeds * count, *x.shape[2:])

        weights = dense(self.layout, theta.reshape(seeds * count, -1))
        x = of_each(torch.cat((obs, action), -1))
        for i in range(self.depth):
            x = torch.relu(_normalized(weights, f"q.{i}", x))
        order = torch.arange(1, COSINES + 1, dtype=fraction.dtype, device=fraction.device)
        waves = torch.cos(math.pi * order * fraction[..., None])  # [S, B or 1, Q, 64]
        phi = _normalized(weights, "fraction", of_each(waves.flatten(1, 2)))
        phi = torch.sigmoid(phi).unflatten(1, fraction.shape[1:])
        both = (x[:, :, None] * phi).flatten(1, 2)
        x = torch.relu(_normalized(weights, "both", both))
        z = linear(x, weights["last.weight"], weights["last.bias"])
        return z.view(seeds, count, rows, -1)

    def values(self, theta: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """The mean over 32 fractions, [S, E, B]."""
        fraction = (torch.arange(ACTING, dtype=obs.dtype, device=obs.device) + 0.5) / ACTING
        fraction = fraction.expand(len(obs), 1, -1)
        return self.quantiles(theta, obs, action, fraction).mean(-1)


def quantile_shapes(
    obs_size: int, action_size: int, hidden: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of one network; the last two widths are those of the product and of what follows."""
    sizes = (obs_size + action_size, *hidden[:-1])
    shapes = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        shapes |= _layer(f"q.{i}", fan_in, fan_out)
    shapes |= _layer("fraction", COSINES, sizes[-1]) | _layer("both", sizes[-1], hidden[-1])
    return shapes | {"last.weight": (1, hidden[-1]), "last.bias": (1, 1)}


class Fractions(NamedTuple):
    """What one step of the critics draws, [S, B, Q] each; nothing where critics are plain."""

    asked: Tensor | None  # of the prediction
    there: Tensor | None  # of the target
    width: Tensor | None  # of the target's intervals; they sum to one


def draw_fractions(rng: SeedRandom, rows: int, count: int) -> Fractions:
    """`count` fractions for the prediction, and others for the target, of `rows` transitions.

    Widths are proportional to 0.1 + u with u uniform; a fraction is the middle of its interval.
    """
    if not count:
        return Fractions(None, None, None)
    width = rng.uniform(2, rows, count) + 0.1
    width = width / width.sum(-1, keepdim=True)
    middle = width.cumsum(-1) - width / 2
    return Fractions(middle[:, 0], middle[:, 1], width[:, 1])


def quantile_loss(z: Tensor, target: Tensor, fraction: Tensor, width: Tensor) -> Tensor:
    """Quantile Huber loss; [S, ..., Q] of each -> [S].

    `fraction` is of z, and `width`, whose sum is one, weighs the target's quantiles.
    """
    error = target[..., None] - z[..., None, :]  # [S, ..., i, j]
    size = error.abs()
    huber = torch.where(size < 1, 0.5 * error.square(), size - 0.5)
    side = (fraction[..., None, :] - (error < 0).to(z.dtype)).abs()
    return (width[..., None] * side * huber).sum(-2).flatten(1).mean(1)


def _layer(name: str, fan_in: int, fan_out: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{name}.weight": (fan_out, fan_in), f"{name}.bias": (1, fan_out)}
    return shapes | {f"{name}.scale": (1, fan_out), f"{name}.shift": (1, fan_out)}


def _normalized(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """A linear layer and its layer normalisation."""
    x = linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
    x = layer_norm(x, x.shape[-1:])
    return x * weights[f"{name}.scale"] + weights[f"{name}.shift"]
