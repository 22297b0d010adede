"""Denoising: the tables of a diffusion's reverse process, and one step of it.

| symbol | shape | meaning |
|---|---|---|
| x_t | [S, B, ...] | what step t starts from; it leads to x_{t-1}, and t = 0 to the result |
| eps | [S, B, ...] | the network's guess of the noise in x_t |
| t | [S, B] or a number | index of a denoising step, 0 the last one to be taken |
| std | [K] | of x_{t-1} around its mean; 0 at t = 0 unless a floor is asked for |

Both samplers are one table. With x0 = clip(x_t sqrt(1 / abar) - eps sqrt(1 / abar - 1)), the mean
is c1 x0 + c2 x_t. DDPM (Ho et al. 2020): the posterior q(x_{t-1} | x_t, x0). DDIM (Song et al.
2021): the mean is sqrt(abar') x0 + sqrt(1 - abar' - std^2) eps', with abar' of the step that comes
next and eps' the noise that the clipped x0 leaves in x_t; written in x0 and x_t it is c1 and c2.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

OFFSET = 0.008  # s of the cosine schedule (Nichol and Dhariwal 2021)
MAX_BETA = 0.999  # so that the first step of the forward process keeps something


class Schedule(NamedTuple):
    """Tables [K], float32, of K denoising steps."""

    time: Tensor  # int64, what the network is told about step t
    abar: Tensor  # share of the clean sample's variance in x_t
    c1: Tensor  # weight of x0 in the mean of x_{t-1}
    c2: Tensor  # weight of x_t in it
    std: Tensor

    def at(self, name: str, t: Tensor | int, like: Tensor) -> Tensor:
        """Table `name` at step `t`, ready to be multiplied with `like`."""
        value = getattr(self, name)[t]
        return value.view(*value.shape, *[1] * (like.dim() - value.dim()))


def cosine_abar(steps: int) -> Tensor:
    """abar [steps] of the cosine schedule, float64."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((u + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=MAX_BETA)
    return torch.cumprod(1 - beta, 0)


def ddpm(steps: int) -> Schedule:
    """The full reverse process of `steps` steps. ValueError for fewer than one."""
    if steps < 1:
        raise ValueError(f"denoising steps are {steps}; use 1 or more")
    abar = cosine_abar(steps)
    before = torch.cat((abar.new_ones(1), abar[:-1]))
    beta = 1 - abar / before
    c1 = beta * before.sqrt() / (1 - abar)
    c2 = (1 - before) * (1 - beta).sqrt() / (1 - abar)
    std = (beta * (1 - before) / (1 - abar)).sqrt()
    return _tables(torch.arange(steps), abar, c1, c2, std)


def ddim(steps: int, used: int, eta: float) -> Schedule:
    """`used` of the `steps` steps, evenly spaced from 0; `eta` 1 is as noisy as DDPM, 0 is not.

    ValueError where `used` is not between 1 and `steps`.
    """
    if not 1 <= used <= steps:
        raise ValueError(f"ddim steps are {used}; use 1 to the {steps} that were trained")
    time = torch.arange(used) * (steps // used)
    abar = cosine_abar(steps)[time]
    before = torch.cat((abar.new_ones(1), abar[:-1]))
    std = eta * ((1 - before) / (1 - abar) * (1 - abar / before)).sqrt()
    direction = (1 - before - std**2).clamp(min=0).sqrt() / (1 - abar).sqrt()
    return _tables(time, abar, before.sqrt() - direction * abar.sqrt(), direction, std)


def noised(schedule: Schedule, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_{t+1}, the sample that step t has to denoise: forward process in one go. [S, B, ...]."""
    abar = schedule.at("abar", t, clean)
    return abar.sqrt() * clean + (1 - abar).sqrt() * noise


def denoised_mean(
    schedule: Schedule, x: Tensor, eps: Tensor, t: Tensor | int, clip: float
) -> Tensor:
    """Mean of x_{t-1} given x_t, with x0 clipped to +-`clip`. [S, B, ...]."""
    abar = schedule.at("abar", t, x)
    x0 = ((1 / abar).sqrt() * x - (1 / abar - 1).sqrt() * eps).clamp(-clip, clip)
    return schedule.at("c1", t, x) * x0 + schedule.at("c2", t, x) * x


def _tables(time: Tensor, *columns: Tensor) -> Schedule:
    return Schedule(time, *(column.float() for column in columns))
