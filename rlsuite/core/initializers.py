"""First parameters that one paper's code asks for, beside those of core.layers."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.layers import Layout


def fresh(layout: Layout, draw: Callable, rngs: Sequence, count: int = 1) -> Tensor:
    """Parameters [S, count P]: weights as `draw` gives them, biases of zero."""
    theta = torch.zeros(len(rngs) * count, layout.size)
    for i, row in enumerate(theta):
        for name, view in layout.views(row[None]).items():
            if name.endswith("weight"):
                view.copy_(torch.from_numpy(draw(rngs[i // count], view.shape[1:])))
    return theta.view(len(rngs), -1)


def xavier(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Uniform, as wide as keeps variances alike both ways (Glorot and Bengio 2010)."""
    return rng.uniform(-1, 1, shape) * math.sqrt(6 / sum(shape))


def truncated_normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """N(0, 1 / (4 fan_in)), drawn again where it is over two deviations (Chua et al. 2018)."""
    x = rng.standard_normal(shape)
    while (far := np.abs(x) > 2).any():
        x[far] = rng.standard_normal(far.sum())
    return x / (2 * math.sqrt(shape[1]))
