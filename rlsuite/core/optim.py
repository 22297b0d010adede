"""Gradients, clipping and Adam on theta [S, P], the parameters of S seeds as rows of one matrix.

A `Net` is a network in training, and `descend` is one step of it. Everything is per seed: a norm, a
step count, a decision to stop. An `active` mask [S] (1 or 0) freezes a seed completely: Adam would
otherwise keep moving it by momentum.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Metrics = dict[str, Tensor]  # name -> [S]
Loss = tuple[Tensor, Metrics]  # what a loss function returns: the loss [S], and metrics of it

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


class Net(NamedTuple):
    """A network in training: its parameters [S, P] and the state of their optimiser."""

    theta: Tensor
    adam: AdamState

    @staticmethod
    def of(theta: Tensor) -> "Net":
        """One that has taken no step, from a copy of `theta`."""
        return Net(theta.detach().clone(), AdamState.zeros(theta))


Step = tuple[Net, Metrics]  # what a function returns that takes steps: the network after them


def descend(
    net: Net,
    lr: float | Tensor,
    loss: Callable[..., Loss],
    *given,
    max_norm: float | None = None,
    active: Tensor | None = None,
    eps: float = 1e-8,
) -> Step:
    """One step of Adam down `loss(theta, *given) -> ([S], metrics)`: the network, the metrics.

    `max_norm` bounds each seed's gradient first, and adds "grad_norm" to the metrics. `lr` is a
    tensor where it changes from call to call, so that compiled code need not change with it.
    """
    grad, metrics = gradient(lambda theta: loss(theta, *given), net.theta)
    if max_norm is not None:
        grad, metrics["grad_norm"] = clip_grad_norm(grad, max_norm)
    return Net(*adam_step(net.theta, grad, net.adam, lr, active, eps)), metrics


def polyak(target: Tensor, theta: Tensor, tau: float) -> Tensor:
    """The moving average of parameters, `tau` of the way from `target` to `theta`."""
    return target + tau * (theta - target)


def gradient(loss: Callable[[Tensor], Loss], theta: Tensor) -> tuple[Tensor, Metrics]:
    """Per-seed gradient [S, P] of `loss(theta) -> (loss [S], metrics)`, and the metrics.

    Seeds share no parameter, so the gradient of the sum holds each seed's own gradient in its row.
    """

    def total(theta: Tensor) -> Loss:
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
    theta: Tensor,
    grad: Tensor,
    state: AdamState,
    lr: float | Tensor,
    active: Tensor | None = None,
    eps: float = 1e-8,
) -> tuple[Tensor, AdamState]:
    """Adam (Kingma & Ba 2015) as torch.optim.Adam computes it, for the active rows only.

    theta, grad [S, P]; lr a number, 0-d, [P] or [S, 1]; active [S], None for all. Inactive rows
    keep parameters, moments and step counts bit for bit.
    """
    on = 1 if active is None else active[:, None] > 0
    steps = state.steps + on
    first = BETA_1 * state.first + (1 - BETA_1) * grad
    second = BETA_2 * state.second + (1 - BETA_2) * grad * grad
    # In float64: 1 - 0.999 loses four digits in float32. as_strided changes nothing but makes the
    # compiler compute these powers once per row, where it would once per parameter
    correction_1 = (1 - BETA_1**steps).to(theta.dtype).as_strided(steps.shape, (1, 1))
    correction_2 = (1 - BETA_2**steps).to(theta.dtype).as_strided(steps.shape, (1, 1))
    new = theta - lr * (first / correction_1) / ((second / correction_2).sqrt() + eps)
    if active is None:
        return new, AdamState(first, second, steps)
    first = torch.where(on, first, state.first)
    second = torch.where(on, second, state.second)
    return torch.where(on, new, theta), AdamState(first, second, steps)
