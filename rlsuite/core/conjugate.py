"""Conjugate gradients for S independent systems at once (Hestenes and Stiefel 1952)."""

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 1e-10
) -> Tensor:
    """x with product(x) = b for each row of [S, P]; a row stops once |residual|^2 < tolerance."""
    x, residual, p = torch.zeros_like(b), b.clone(), b.clone()
    square = (residual * residual).sum(1, keepdim=True)
    for _ in range(iterations):
        running = square >= tolerance
        if not running.any():
            break
        z = product(p)
        alpha = torch.where(running, square / (p * z).sum(1, keepdim=True), 0.0)
        x, residual = x + alpha * p, residual - alpha * z
        new_square = (residual * residual).sum(1, keepdim=True)
        p = torch.where(running, residual + new_square / square * p, p)
        square = torch.where(running, new_square, square)
    return x
