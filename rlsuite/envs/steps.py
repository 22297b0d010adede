"""What a step of all environments gives, and what an episode was."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Step(NamedTuple):
    """One step of all environments: arrays [S, N] or [S, N, O], all real transitions.

    obs        float64 [S, N, O]  what to act on next: the reset observation where an episode ended
    reward     float32 [S, N]
    cost       float32 [S, N, C]  of the task's C constraints; none for tasks without
    terminated bool    [S, N]     the task ended the episode: bootstrap with zero
    truncated  bool    [S, N]     the time limit cut the episode: bootstrap from `final_obs`
    final_obs  float64 [S, N, O]  the true next state; the same object as `obs` when nothing ended
    margin     float32 [S, N, K]  of the constraints' columns, above zero is over; None: has none
    """

    obs: NDArray[np.float64]
    reward: NDArray[np.float32]
    cost: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    final_obs: NDArray[np.float64]
    margin: NDArray[np.float32] | None = None


class Episode(NamedTuple):
    """A finished episode: raw undiscounted return and C costs (float64 sums), length in steps."""

    seed: int
    copy: int
    ret: float
    cost: tuple[float, ...]
    length: int


class Rows(NamedTuple):
    """What K environments did: arrays [K] or [K, ...]; None where it is the same for all."""

    obs: NDArray[np.float64]
    reward: NDArray
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_] | None
    cost: NDArray | None
    margin: NDArray | None


def among_zeros(part: NDArray | None, rows: NDArray, count: int) -> NDArray | None:
    """[count, ...] with `part` [K, ...] in `rows` and zeros elsewhere; None stays None."""
    if part is None:
        return None
    whole = np.zeros((count, *part.shape[1:]), part.dtype)
    whole[rows] = part
    return whole


def constant(array: NDArray) -> NDArray:
    """`array`, which nobody can write to any more."""
    array.flags.writeable = False
    return array
