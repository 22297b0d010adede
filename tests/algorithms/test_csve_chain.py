"""CSVE in tables: the theory's fixed points, and V's step on a chain with Q held, by invariant."""

import numpy as np
import pytest
import torch

from rlsuite.algorithms.offline import csve
from rlsuite.algorithms.offline.csve import value_gap
from rlsuite.core.optim import Net, descend, gradient

# ----------------------------------------------------------------- invariants 1 and 2: the theory


def chain(seed: int, states: int = 5):
    """(P^pi, r, stationary d, another d, gamma) of a random chain."""
    rng = np.random.default_rng(seed)
    p, r = rng.dirichlet(np.ones(states), states), rng.standard_normal(states)
    values, vectors = np.linalg.eig(p.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    return p, r, stationary / stationary.sum(), rng.dirichlet(np.ones(states)), 0.9


def iterated(p, r, d, d_u, gamma, alpha, sweeps=2000):
    """V <- B^pi V - alpha (d / d_u - 1), by the derivative of `value_gap` in each state's value.

    The minimiser of 0.5 E_du[(B V_k - V)^2] + alpha (E_d[V] - E_du[V]), state by state.
    """
    v = np.zeros(len(r))
    ones = torch.zeros(1, len(r), dtype=torch.float64)
    reached, data = (torch.from_numpy(x * len(r))[None] for x in (d, d_u))
    slope, _ = gradient(lambda v: (value_gap(reached * v, data * v, 1.0, 0.0), {}), ones)
    for _ in range(sweeps):
        v = r + gamma * p @ v - alpha * slope[0].numpy() / d_u
    return v


@pytest.mark.parametrize("seed", range(3))
def test_6_1_the_tabular_fixed_point_is_the_linear_solve_and_its_gap_the_chi_square(seed):
    p, r, stationary, d_u, gamma = chain(seed)
    whole = np.linalg.inv(np.eye(5) - gamma * p)
    truth, alpha = whole @ r, 0.3
    v = iterated(p, r, stationary, d_u, gamma, alpha)
    np.testing.assert_allclose(v, truth - alpha * whole @ (stationary / d_u - 1), atol=1e-9)
    chi_square = stationary @ (stationary / d_u - 1)
    assert chi_square > 0
    gap = stationary @ (v - truth)
    assert gap == pytest.approx(-alpha * chi_square / (1 - gamma), abs=1e-9)
    # alpha 0, or model states distributed as the data's: exact policy evaluation
    np.testing.assert_allclose(iterated(p, r, stationary, d_u, gamma, 0.0), truth, atol=1e-9)
    np.testing.assert_allclose(iterated(p, r, d_u, d_u, gamma, 5.0), truth, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_6_2_without_future_penalty_and_reward_cancel_over_the_data(seed):
    p, r, d, d_u, _ = chain(seed)
    v = iterated(p, r, d, d_u, 0.0, 0.7)
    assert d_u @ v == pytest.approx(d_u @ r, abs=1e-12)
    assert np.abs(v - r).max() > 0.1


# --------------------------------------------------- invariant 8: the V step on a chain, Q held

VISITS = np.array([0.24, 0.24, 0.24, 0.24, 0.04])  # d_u: the data seldom visit state 5
REACHED = np.array([0.12, 0.24, 0.24, 0.24, 0.16])  # d: the model visits it often


def settled(alpha=1.0, up=True, sign=1.0, factor=1.0, model=None):
    """V - Qbar where V's step has settled, with V a table of 5 states."""
    one_hot = torch.eye(5, dtype=torch.float64)
    data = one_hot.repeat_interleave(torch.tensor(VISITS * 100).round().long(), 0)[None]
    reached = REACHED if model is None else model
    there = one_hot.repeat_interleave(torch.tensor(reached * 100).round().long(), 0)[None]
    q = torch.tensor([1.0, -2, 0.5, 3, 2], dtype=torch.float64)
    net = Net.of(torch.zeros(1, 5, dtype=torch.float64))

    def loss(theta):
        table = theta[:, None]
        v = (data * table).sum(-1)
        known = v if up else torch.zeros_like(v)
        gap = value_gap((there * table).sum(-1), known, 1.0, 10.0)
        return csve.critic_loss(v, (data * q).sum(-1)) + sign * factor * alpha * gap, {}

    for k in range(1200):
        net, _ = descend(net, 0.05 * 0.995**k, loss)
    return (net.theta[0] - q).numpy()


def test_6_8_v_settles_at_q_less_half_alpha_times_the_ratio_less_one():
    # d/d_u - 1 = -0.5, 0, 0, 0, 3: of alpha 2 half is 1: +0.5, 0, 0, 0, -3
    theory = np.array([0.5, 0, 0, 0, -3])
    np.testing.assert_allclose(-(REACHED / VISITS - 1), theory, atol=1e-12)
    np.testing.assert_allclose(settled(alpha=2.0), theory, atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},  # no penalty
        {"alpha": 2.0, "sign": -1.0},  # inverted
        {"alpha": 2.0, "factor": 0.5},  # halved
        {"alpha": 2.0, "up": False},  # no push-up of the data's states
        {"alpha": 2.0, "model": VISITS},  # the penalty at the data's states alone
    ],
    ids=["no penalty", "inverted", "halved", "no push-up", "data only"],
)
def test_6_8_wrong_v_steps_miss_it_by_a_quarter_or_more(wrong):
    assert np.abs(settled(**wrong) - [0.5, 0, 0, 0, -3]).max() >= 0.25
