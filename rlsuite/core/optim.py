"""Gradients, clipping and Adam on theta [S, P], the parameters of S seeds as rows of one matrix.

Everything is per seed: a norm, a step count, a decision to stop. An `active` mask [S] (1 or 0)
freezes a slot completely: Adam would otherwise keep moving it by momentum.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

BETA_1, BETA_2 = 0.9, 0.999  # decay of the moments: Kingma & Ba's, which every paper here keeps


class AdamState(NamedTuple):
    """First and second moments [S, P] and the number of steps taken [S, 1] (float64)."""

    first: Tensor
    second: Tensor
    steps: Tensor

    @staticmethod
    def zeros(theta: Tensor) -> "AdamState":
        steps = torch.zeros(len(theta), 1, dtype=torch.float64, device=theta.device)
        return AdamState(torch.zeros_like(theta), torch.zeros_like(theta), steps)


def gradient(
    loss: Callable[[Tensor], tuple[Tensor, dict]], theta: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Per-seed gradient [S, P] of `loss(theta) -> (loss [S], metrics)`, and the metrics.

    Slots share no parameter, so the gradient of the sum holds each seed's own gradient in its row.
    """

    def total(theta: Tensor) -> tuple[Tensor, dict]:
        per_seed, metrics = loss(theta)
        return per_seed.sum(), {name: value.detach() for name, value in metrics.items()}

    if torch.compiler.is_compiling():  # the compiler traces torch.func, but not autograd.grad
        return torch.func.grad(total, has_aux=True)(theta)
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        value, metrics = total(leaf)
        return torch.autograd.grad(value, leaf)[0], metrics


def clip_grad_norm(grad: Tensor, max_norm: float) -> tuple[Tensor, Tensor]:
    """Scale each row of [S, P] to a norm of at most `max_norm`; also the norms [S] before that."""
    norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
    # 1e-6 as torch.nn.utils.clip_grad_norm_, so that single-seed results agree with it
    return grad * (max_norm / (norm + 1e-6)).clamp(max=1.0), norm.squeeze(1)


def adam_step(
    theta: Tensor, grad: Tensor, state: AdamState, lr: Tensor, active: Tensor, eps: float = 1e-8
) -> tuple[Tensor, AdamState]:
    """Adam (Kingma & Ba 2015) as torch.optim.Adam computes it, for the active rows only.

    theta, grad [S, P]; lr [S, 1] or scalar; active [S]. Inactive rows keep parameters, moments and
    step counts bit for bit.
    """
    on = active[:, None] > 0
    steps = state.steps + on
    first = BETA_1 * state.first + (1 - BETA_1) * grad
    second = BETA_2 * state.second + (1 - BETA_2) * grad * grad
    # In float64: 1 - 0.999 loses four digits in float32. as_strided changes nothing but makes the
    # compiler compute these powers once per row, where it would once per parameter
    correction_1 = (1 - BETA_1**steps).to(theta.dtype).as_strided(steps.shape, (1, 1))
    correction_2 = (1 - BETA_2**steps).to(theta.dtype).as_strided(steps.shape, (1, 1))
    new = theta - lr * (first / correction_1) / ((second / correction_2).sqrt() + eps)
    kept = AdamState(
        torch.where(on, first, state.first), torch.where(on, second, state.second), steps
    )
    return torch.where(on, new, theta), kept
