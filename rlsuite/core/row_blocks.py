"""Many rows in blocks that fit the cache: a product of 50,000 rows moves hundreds of megabytes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlsuite.core.optim import Loss, Metrics, gradient

BLOCK = 2500  # rows of one product


def in_blocks(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """`function(*rows)` [S, B, ...] of rows [S, B, ...], in blocks that fit the cache."""
    parts = zip(*(x.split(BLOCK, 1) for x in rows), strict=True)
    return torch.cat([function(*part) for part in parts], 1)


def blockwise_gradient(
    loss: Callable[..., Loss], theta: Tensor, rows: Sequence[Tensor], mean: bool = True
) -> tuple[Tensor, Metrics]:
    """`gradient` of `loss(theta, *rows)`, rows [S, B, ...] in blocks that fit the cache.

    The loss and its metrics are means over rows, or else sums.
    """
    grad, metrics = torch.zeros_like(theta), {}
    for part in zip(*(x.split(BLOCK, 1) for x in rows), strict=True):
        share = part[0].shape[1] / rows[0].shape[1] if mean else 1.0
        more, values = gradient(lambda theta, part=part: loss(theta, *part), theta)
        grad = grad + share * more
        metrics = {name: metrics.get(name, 0) + share * value for name, value in values.items()}
    return grad, metrics
