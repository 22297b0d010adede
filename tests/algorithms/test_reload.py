"""ReLOAD, exactly: the figures of its fact sheet, and descent-ascent written by hand."""

import math
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import tensor

from rlsuite.algorithms.constrained.reload import (
    Multiplier,
    descent,
    mix,
    optimistic,
    predict,
    solve,
)
from rlsuite.envs.constrained.tabular import TabularCMDP, evaluate, grid, optimum, two_state

RATES = (1.0, 0.5, 0.2)
# Of the policy and of the multiplier
GDA, RELOAD, POLICY_ONLY, MULTIPLIER_ONLY = (0, 0), (1, 1), (1, 0), (0, 1)
METHODS = {
    "gda": GDA, "reload": RELOAD, "policy": POLICY_ONLY, "multiplier": MULTIPLIER_ONLY
}  # fmt: skip


def double(values) -> torch.Tensor:
    return tensor(values, dtype=torch.float64)


def start(cmdp: TabularCMDP, seeds: int) -> torch.Tensor:
    """Logits 0.1 N(0, 1) of numpy's default_rng(0), the same for all."""
    logits = 0.1 * np.random.default_rng(0).standard_normal(cmdp.reward.shape[1:])
    return torch.from_numpy(logits).expand(seeds, *logits.shape)


def solved(cmdp: TabularCMDP, rows: list, iterations: int, multiplier: float, predicted=False):
    """(v, mu) of runs that are rows of (eta, eta_mu, b of the policy, b of the multiplier)."""
    first = torch.full((len(rows), 1), multiplier, dtype=torch.float64)
    given = start(cmdp, len(rows)), first, double(rows), iterations, predicted
    return solve(partial(evaluate, cmdp), cmdp.threshold, *given)


@cache
def paradox() -> dict:
    """{(method, rate): (v [5000, 2], mu [5000])} of the two-state task."""
    keys = [(name, rate) for name in METHODS for rate in RATES]
    rows = [(rate, rate, *METHODS[name]) for name, rate in keys]
    v, mu = solved(two_state(), rows, 5000, 0.5)
    return {key: (v[:, i], mu[:, i, 0]) for i, key in enumerate(keys)}


def converged(wrong: torch.Tensor) -> int | None:
    """The iteration from which nothing is wrong; None: something is at the end."""
    late = wrong.nonzero()
    first = int(late[-1]) + 1 if len(late) else 0
    return None if first == len(wrong) else first


def far(v: torch.Tensor) -> torch.Tensor:
    return ((v - 0.5).abs() >= 0.01).any(-1)


# ---------------------------------------------------------------------------- two states (5.2)


@pytest.mark.parametrize(("rate", "iteration"), [(1.0, 73), (0.5, 238), (0.2, 1328)])
def test_the_last_iterate_converges_to_the_paradoxs_optimum_at_this_iteration(rate, iteration):
    v, mu = paradox()["reload", rate]
    assert converged(far(v)) == iteration
    assert v[-1].tolist() == pytest.approx([0.5, 0.5], abs=5e-5)
    assert mu[-1].item() == pytest.approx(1, abs=5e-5)
    assert v[4000:, 1].std() < 1e-4


GDA_ROWS = [
    # eta, last r_0, u and mu, std of u and share infeasible in the last fifth
    (1.0, (0.178, 0.822, 0.00), 0.313, 0.36),
    (0.5, (0.298, 0.702, 2.19), 0.280, 0.41),
    (0.2, (0.203, 0.797, 0.59), 0.256, 0.42),
]


@pytest.mark.parametrize(("rate", "last", "std", "infeasible"), GDA_ROWS)
def test_gradient_descent_ascent_never_converges(rate, last, std, infeasible) -> None:
    v, mu = paradox()["gda", rate]
    assert converged(far(v)) is None
    assert [*v[-1].tolist(), mu[-1].item()] == pytest.approx(last, abs=5e-3)
    assert v[4000:, 1].std().item() == pytest.approx(std, abs=1e-3)
    assert (v[4000:, 1] < 0.49).double().mean().item() == pytest.approx(infeasible, abs=0.006)


@pytest.mark.parametrize(
    ("method", "spreads"), [("policy", (0.27, 0.25, 0.19)), ("multiplier", (0.24, 0.24, 0.20))]
)
def test_with_one_optimistic_player_it_still_oscillates(method, spreads) -> None:
    for rate, spread in zip(RATES, spreads, strict=True):
        v, _ = paradox()[method, rate]
        assert converged(far(v)) is None
        assert v[4000:, 1].std().item() == pytest.approx(spread, abs=6e-3)


def test_a_policy_that_foresees_the_multiplier_alone_converges_as_well() -> None:
    v, _ = solved(two_state(), [(rate, rate, 1, 1) for rate in RATES], 1500, 0.5, True)
    assert [converged(far(v[:, i])) for i in range(3)] == [68, 226, 1329]


def test_the_multiplier_fixed_at_its_optimum_does_not_solve_the_paradox() -> None:
    finals = []
    for multiplier in (1.0, 0.9, 1.1):
        v, mu = solved(two_state(), [(1, 0, 1, 1)], 1000, multiplier)
        assert (mu == multiplier).all()
        finals.append(v[-1, 0].tolist())
    assert finals[0] == pytest.approx([0.319, 0.681], abs=1e-3)
    assert finals[1] == pytest.approx([1, 0], abs=0.02)  # too cheap: the constraint is broken
    assert finals[2] == pytest.approx([0, 1], abs=0.02)


@pytest.mark.parametrize(("discount", "iteration"), [(0.95, 128), (0.99, 729)])
def test_it_converges_at_other_discounts(discount, iteration) -> None:
    v, _ = solved(two_state(discount), [(1, 1, 1, 1)], iteration + 200, 0.5)
    assert converged(far(v[:, 0])) == iteration


def test_ten_starts_converge_and_descent_ascent_oscillates_from_all() -> None:
    cmdp = two_state()
    starts = [np.random.default_rng(seed).standard_normal((2, 2)) for seed in range(10)]
    logits = torch.from_numpy(0.1 * np.stack([*starts, *starts]))
    players = double([(1, 1, *RELOAD)] * 10 + [(1, 1, *GDA)] * 10)
    given = logits, torch.full((20, 1), 0.5).double(), players, 2000
    v, _ = solve(partial(evaluate, cmdp), cmdp.threshold, *given)
    assert (v[-1, :10] - 0.5).abs().max() < 1e-12
    spread = v[-400:, 10:, 1].std(0)
    assert spread.min() > 0.275 and spread.max() < 0.315  # 0.28 to 0.31


def test_with_noise_the_last_iterate_stays_near_and_descent_ascents_does_not() -> None:
    # Mirror descent written out, with noise of 0.02 on the action values
    cmdp, rng, spreads = two_state(), torch.Generator().manual_seed(0), []
    for b in (1, 0):
        logits, mu = start(cmdp, 1), Multiplier.of(double([[0.5]]))
        before, us = torch.full_like(logits, math.nan), []
        for _ in range(1500):
            v, q = evaluate(cmdp, logits.softmax(-1))
            noise = 0.02 * torch.randn(1, 2, 2, generator=rng, dtype=torch.float64)
            mixed = mix(q.movedim(1, -1), mu.value) + noise
            logits = logits + optimistic(mixed, before, b)
            before, mu = mixed, descent(mu, v[:, 1:] - cmdp.threshold, 1.0, b)
            us.append(v[0, 1])
        spreads.append(torch.stack(us)[-500:].std().item())
    assert spreads[0] < 0.06 and spreads[1] > 0.2


# ---------------------------------------------------------------------- the bilinear game (5.1)

BILINEAR = [
    # eta, last norm of descent-ascent and of optimism, first optimistic step below 0.01
    (0.05, 2.64, 0.757, None),
    (0.1, 17.0, 0.113, None),
    (0.2, 2.6e4, 3.5e-5, 234),
    (0.3, 3.2e9, 5.8e-12, 96),
]


@pytest.mark.parametrize(("rate", "gda", "optimism", "first"), BILINEAR)
def test_the_bilinear_game_is_solved_by_optimism_alone(rate, gda, optimism, first) -> None:
    finals = []
    for b in (0, 1):
        x, y, before, norms = 1.0, 1.0, (double(math.nan), double(math.nan)), []
        for _ in range(500):
            slopes = double(y), double(x)
            ahead = [optimistic(g, old, b).item() for g, old in zip(slopes, before, strict=True)]
            x, y, before = x - rate * ahead[0], y + rate * ahead[1], slopes
            norms.append(math.hypot(x, y))
        finals.append(norms[-1])
    assert finals == [pytest.approx(gda, rel=0.02), pytest.approx(optimism, rel=0.03)]
    # sqrt 2 times sqrt(1 + eta^2) at each of 500 steps
    assert finals[0] == pytest.approx(math.sqrt(2) * (1 + rate**2) ** 250)
    below = [i for i, norm in enumerate(norms) if norm < 1e-2]
    assert (below[0] if below else None) == first


# --------------------------------------------------------------------------------- grid (5.3)


def wrong_on_grid(v: torch.Tensor) -> torch.Tensor:
    """Return off by 0.02 or cost by 0.01, of the linear program's optimum."""
    task = grid()
    scale, (best, _, pi) = 1 - task.discount, optimum(task)
    cost = evaluate(task, pi[None])[0][0, 1] / scale
    value, paid = (v / scale).unbind(-1)
    return ((value - best / scale).abs() >= 0.02) | ((paid - cost).abs() >= 0.01)


def test_on_the_grid_the_last_iterate_converges_to_the_linear_programs_optimum() -> None:
    task = grid()
    v, mu = solved(task, [(4, 10, 1, 1), (10, 10, 1, 1)], 2500, 0.0)
    assert [converged(wrong_on_grid(v[:, i])) for i in range(2)] == [1152, 929]
    best, multiplier, _ = optimum(task)
    assert v[-1, :, 0].tolist() == pytest.approx([best] * 2, abs=1e-4)
    assert mu[-1].flatten().tolist() == pytest.approx([multiplier.item()] * 2, abs=0.02)


def test_on_the_grid_foreseeing_the_multiplier_alone_converges_as_well() -> None:
    v, _ = solved(grid(), [(4, 10, 1, 1)], 1300, 0.0, True)
    assert converged(wrong_on_grid(v[:, 0])) == 1026


@pytest.mark.slow
def test_on_the_grid_descent_ascent_and_too_small_a_step_do_not_converge() -> None:
    v, _ = solved(grid(), [(4, 10, 0, 0), (10, 10, 0, 0), (4, 2, 1, 1)], 5000, 0.0)
    assert [converged(wrong_on_grid(v[:, i])) for i in range(3)] == [None] * 3
    value, cost = (v[:, 0] / 0.05).unbind(-1)
    assert [value[-1].item(), -cost[-1].item()] == pytest.approx([-7.819, 0.330], abs=5e-4)
    assert cost[4000:].std().item() == pytest.approx(0.047, abs=5e-4)
    assert (-cost[4000:] > 0.305).double().mean().item() == pytest.approx(0.69, abs=0.005)


# ------------------------------------------------------------------------------- invariants


def test_without_optimism_it_is_descent_ascent_written_by_hand_bit_for_bit() -> None:
    cmdp, rate = grid(), double([4.0, 10.0])
    zero = torch.zeros(2, 1, dtype=torch.float64)
    players = torch.stack((rate, rate, *zero.T, *zero.T), 1)
    given = start(cmdp, 2), zero, players, 50
    v, mu = solve(partial(evaluate, cmdp), cmdp.threshold, *given)
    logits, price = start(cmdp, 2), torch.zeros(2, 1, dtype=torch.float64)
    for k in range(50):
        value, q = evaluate(cmdp, torch.softmax(logits, -1))
        assert torch.equal(value, v[k]) and torch.equal(price, mu[k])
        logits = logits + rate[:, None, None] * (q[:, 0] + price[..., None] * q[:, 1])
        price = torch.clamp(price - rate[:, None] * (value[:, 1:] - cmdp.threshold), min=0)


def test_when_nothing_changes_optimism_changes_nothing() -> None:
    x = double([[1.0, -3.0]])
    assert torch.equal(optimistic(x, x, 1), x)
    # The first step has nothing before it
    assert torch.equal(optimistic(x, torch.full_like(x, math.nan), 1), x)
    # 2 * 3 - 1 = 5
    assert optimistic(double([3.0]), double([1.0]), 1).tolist() == [5]


def test_the_multiplier_is_never_negative_and_falls_to_zero_where_the_constraint_holds() -> None:
    mu = Multiplier.of(double([[0.5]]))
    for _ in range(10):
        mu = descent(mu, double([[0.2]]), 0.5, 1)
        assert mu.value >= 0
    assert mu.value == 0 and predict(mu, 1) == 0


def test_with_a_constraint_that_always_holds_the_policy_is_that_of_the_reward_alone() -> None:
    free = two_state()._replace(threshold=double([-1.0]))
    v, mu = solved(free, [(1, 1, 1, 1)], 300, 0.5)
    assert mu[-1] == 0 and v[-1, 0, 0].item() == pytest.approx(1, abs=0.01)


def test_the_mixture_is_affine_in_the_multiplier() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 5, 3)))
    a, b = double([[0.3, 2.0]]), double([[1.5, 0.1]])
    torch.testing.assert_close(mix(x, (a + b) / 2), (mix(x, a) + mix(x, b)) / 2)
    # 1 + 0.5 * 2 + 2 * (-1) = 0
    assert mix(double([[[1.0, 2.0, -1.0]]]), double([[0.5, 2.0]])).item() == 0


def test_with_an_unchanged_multiplier_what_is_foreseen_is_the_multiplier() -> None:
    mu = Multiplier.of(double([[0.7]]))
    assert torch.equal(predict(mu, 1), mu.value)
    # 2 * 0.7 - 0.2 = 1.2, and max(0, 2 * 0.2 - 0.7) = 0
    assert predict(mu._replace(before=double([[0.2]])), 1).item() == pytest.approx(1.2)
    assert predict(Multiplier(double([[0.2]]), mu.value, mu.slack), 1).item() == 0


def test_the_multiplier_is_a_controller_with_equal_integral_and_proportional_gains() -> None:
    slacks = np.random.default_rng(1).uniform(-1, 0, 20)
    mu, rate = Multiplier.of(double([[5.0]])), 0.3
    for k, slack in enumerate(slacks):
        mu = descent(mu, double([[slack]]), rate, 1)
        # -eta (sum of g_0..g_k) - eta (g_k - g_0)
        expected = 5 - rate * slacks[: k + 1].sum() - rate * (slack - slacks[0])
        assert mu.value.item() == pytest.approx(expected)


@pytest.mark.parametrize("rate", [0.01])
def test_plain_descent_settles_where_the_reward_curves_and_never_where_it_is_linear(rate) -> None:
    # Maximise r with a = cost <= 0.5; r = a - a^2 / 2 has the saddle a = lambda = 0.5
    tails = {}
    for curved in (True, False):
        a, mu, seen = 0.0, Multiplier.of(double([[0.0]])), []
        for _ in range(6000):
            slope = 1 - curved * a - mu.value.item()
            mu = descent(mu, double([[0.5 - a]]), rate, 0)
            a = min(1.0, max(-1.0, a + rate * slope))
            seen.append(a)
            assert mu.value >= 0
        tails[curved] = np.array(seen[-1200:])
    assert tails[True].mean() == pytest.approx(0.5, abs=1e-3) and tails[True].std() < 1e-3
    assert tails[False].std() == pytest.approx(0.354, abs=0.02)


def test_a_multiplier_whose_slack_is_unknown_stays_with_its_memory() -> None:
    mu = Multiplier(double([[0.5], [0.5]]), double([[0.4], [0.4]]), double([[0.1], [0.1]]))
    moved = descent(mu, double([[math.nan], [-0.2]]), 1.0, 1)
    assert [x[0].item() for x in moved] == [0.5, 0.4, 0.1]
    # 0.5 - (2 * (-0.2) - 0.1) = 1
    assert [x[1].item() for x in moved] == pytest.approx([1.0, 0.5, -0.2])
