"""CFPI's closed-form step: the invariants of the fact sheet by number, each operator against a
numerical optimiser of its own problem, and the wrong steps that these tests must notice."""

import math

import numpy as np
import pytest
import torch
from closed_form_setting import (
    chosen,
    climbed,
    components,
    log_density,
    maximiser,
    row,
)

from rlsuite.core import closed_form
from rlsuite.core.closed_form import (
    Components,
    ascend,
    candidates,
    jensen_candidate,
    live_components,
    logsumexp_candidates,
)

SLOPES = [torch.from_numpy(np.random.default_rng(s).standard_normal(3)) for s in range(4)]
EVERY = pytest.mark.parametrize("seed", range(6))
LOG_TAUS = pytest.mark.parametrize("log_tau", [0.1, 0.5, 2.0])


def of(c: Components, i: int) -> Components:
    """Component `i` alone, with a weight of one."""
    return Components(torch.zeros(1, 1, 1, dtype=torch.float64), *(x[:, :, [i]] for x in c[1:]))


# ------------------------------------------------------- invariants of section 7: one Gaussian


@EVERY
@LOG_TAUS
def test_7_1_single_is_two_log_tau_away_and_the_density_falls_by_tau(seed, log_tau):
    c, slope = components(seed, 1), SLOPES[0]
    x, _ = chosen(c, "single", log_tau, slope)
    mean, std = c.mean[0, 0, 0], c.std[0, 0, 0]
    torch.testing.assert_close((((x - mean) / std) ** 2).sum().item(), 2 * log_tau)
    there, peak = (log_density(c, point.numpy())[0] for point in (x, mean))
    assert there == pytest.approx(peak - log_tau, abs=1e-12)
    # No random feasible point is higher: 4000 of them, on the ellipsoid's surface and inside
    rng = np.random.default_rng(seed)
    ball = rng.standard_normal((4000, 3))
    ball *= (rng.random((4000, 1)) ** 0.3) / np.linalg.norm(ball, axis=1, keepdims=True)
    points = mean.numpy() + math.sqrt(2 * log_tau) * std.numpy() * ball
    assert (points @ slope.numpy()).max() <= (x @ slope).item() + 1e-12


def test_7_2_tau_one_is_the_mean_and_the_size_of_the_gradient_does_not_count():
    c, slope = components(0, 1), SLOPES[1]
    assert torch.equal(chosen(c, "single", 0.0, slope)[0], c.mean[0, 0, 0])
    x, _ = chosen(c, "single", 0.5, slope)
    for factor in (1e-30, 1e-3, 1e30):
        torch.testing.assert_close(
            chosen(c, "single", 0.5, factor * slope)[0], x, rtol=1e-12, atol=0
        )
    # A gradient the other way reflects the step through the mean
    other, _ = chosen(c, "single", 0.5, -slope)
    torch.testing.assert_close(x + other, 2 * c.mean[0, 0, 0])


def test_7_3_an_isotropic_gaussian_is_the_deterministic_step():
    # sigma 0.3: delta = 0.09 * 0.5 = 0.045; mu + sqrt(2 * 0.045) g / |g| = mu + 0.3 g / |g|
    mean, slope = row([0.1, -0.2, 0.4], 1, 3), SLOPES[2]
    c = Components(row([0.0], 1), mean, torch.full_like(mean, 0.3))
    x, _ = chosen(c, "single", 0.5, slope)
    torch.testing.assert_close(x, mean[0, 0, 0] + 0.3 * slope / slope.norm())
    ball = Components(row([0.0], 1), mean, torch.ones_like(mean))
    there, _ = chosen(ball, "deterministic", 0.045, slope)
    torch.testing.assert_close(there, x)


@EVERY
def test_7_9_a_linear_q_gains_the_radius_times_the_slopes_norm(seed):
    c, slope = components(seed, 1), SLOPES[seed % 4]
    x, _ = chosen(c, "single", 0.7, slope)
    gain = ((x - c.mean[0, 0, 0]) * slope).sum().item()
    norm = (c.std[0, 0, 0] * slope).norm().item()  # ||g||_S
    assert gain == pytest.approx(math.sqrt(1.4) * norm, rel=1e-12)


def test_7_12_a_zero_gradient_stays_at_the_mean():
    for operator in ("single", "logsumexp", "jensen", "better", "modes", "deterministic"):
        c = components(1, 1 if operator in ("single", "deterministic") else 3, spread=0.1)
        found = candidates(c, operator, 0.5, 0.05, "mended")
        x = climbed(found, torch.zeros(3, dtype=torch.float64))
        assert torch.equal(x, found.mean), operator


# ------------------------------------------------------------- invariants of section 7: mixtures


@EVERY
@LOG_TAUS
def test_7_4_logsumexp_candidates_share_one_scaled_density(seed, log_tau):
    c = components(seed, 4)
    found = candidates(c, "logsumexp", log_tau, 0.0, "mended")
    x = climbed(found, SLOPES[0])
    peaks = np.array([log_density(c, c.mean[0, 0, i].numpy())[i] for i in range(4)])
    delta = log_tau - peaks.max()
    square = found.square[0, 0].numpy()
    assert square.max() == pytest.approx(2 * log_tau)  # of the highest peak; others less
    for i in np.flatnonzero(square >= 0):
        scaled = log_density(c, x[0, 0, i].numpy())[i]
        assert scaled == pytest.approx(-delta, abs=1e-9)
    for i in np.flatnonzero(square < 0):  # it cannot reach that, and stays at its mean
        assert peaks[i] < -delta
        assert torch.equal(x[0, 0, i], c.mean[0, 0, i])


@EVERY
def test_7_5_jensens_weighted_distance_is_two_log_tau(seed):
    c, slope = components(seed, 3, spread=0.2), SLOPES[1]
    x, found = chosen(c, "jensen", 1.5, slope)
    assert found.square.item() >= 0
    z = ((x - c.mean[0, 0]) / c.std[0, 0]) ** 2
    torch.testing.assert_close((c.log_weight[0, 0].exp() * z.sum(1)).sum().item(), 3.0)


def test_7_5_jensen_of_one_component_three_times_is_single_and_is_empty_for_far_ones():
    one = components(3, 1)
    thrice = Components(row(np.log([0.2, 0.5, 0.3]), 3), *(x.expand(1, 1, 3, 3) for x in one[1:]))
    for slope in SLOPES:
        single = chosen(one, "single", 0.5, slope)[0]
        torch.testing.assert_close(chosen(thrice, "jensen", 0.5, slope)[0], single)
    far = components(3, 3, spread=50.0)
    assert jensen_candidate(far, 0.5).square.item() < 0
    assert not candidates(far, "better", 0.5, 0.0, "mended").allowed[0, 0, 3]
    # Alone it has no other candidate: what is left is its centre
    x, found = chosen(far, "jensen", 0.5, SLOPES[0])
    assert torch.equal(x, found.mean[0, 0, 0])


@LOG_TAUS
def test_7_6_of_one_component_all_operators_are_the_same(log_tau):
    c = components(4, 1)
    for slope in SLOPES:
        single = chosen(c, "single", log_tau, slope)[0]
        for operator in ("logsumexp", "jensen", "better"):
            torch.testing.assert_close(chosen(c, operator, log_tau, slope)[0], single)
        # ... but for the released radius, which is sqrt(2) times as long
        mean = c.mean[0, 0, 0]
        released = chosen(c, "logsumexp", log_tau, slope, "released")[0] - mean
        torch.testing.assert_close(released, math.sqrt(2) * (single - mean))


@EVERY
def test_7_7_the_better_one_is_not_lower_than_either_and_dead_components_are_not_chosen(seed):
    for spread in (0.1, 1.0):
        c, slope = components(seed, 4, spread=spread), SLOPES[seed % 4]
        q = {
            name: (chosen(c, name, 1.0, slope)[0] @ slope).item()
            for name in ("better", "logsumexp")
        }
        assert q["better"] >= q["logsumexp"]
        jensen = jensen_candidate(c, 1.0)
        if jensen.square.item() >= 0:
            assert q["better"] >= (climbed(jensen, slope)[0, 0, 0] @ slope).item() - 1e-12
    # The component that Q likes most weighs 0.04
    weight = row(np.log([0.04, 0.9, 0.06]), 3)
    mean = row([9.0, 0, 0, 0, 0, 0, 1, 0, 0], 3, 3)
    c = Components(weight, mean, torch.full_like(mean, 0.1))
    slope = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    for operator in ("logsumexp", "modes"):
        alive, _ = chosen(c, operator, 0.5, slope, xi=0.05)
        assert 0.9 < alive[0] < 1.5
        assert chosen(c, operator, 0.5, slope, xi=0.03)[0][0] >= 9


@EVERY
@pytest.mark.parametrize("operator", ["logsumexp", "jensen", "better", "modes"])
def test_7_8_the_order_of_components_is_irrelevant(seed, operator):
    c, slope = components(seed, 4, spread=0.4), SLOPES[seed % 4]
    order = torch.from_numpy(np.random.default_rng(seed).permutation(4))
    mixed = Components(*(part[:, :, order] for part in c))
    torch.testing.assert_close(*(chosen(x, operator, 0.5, slope)[0] for x in (c, mixed)))


@EVERY
def test_without_log_tau_operators_of_a_mixture_select_a_mode(seed):
    c, slope = components(seed, 4), SLOPES[0]
    modes, _ = chosen(c, "modes", 0.5, slope)
    best = (c.mean[0, 0] @ slope).argmax()
    assert torch.equal(modes, c.mean[0, 0, best])
    for operator in ("logsumexp", "better", "jensen"):
        for rules in closed_form.RULES:
            assert torch.equal(chosen(c, operator, 0.0, slope, rules)[0], modes)


# ------------------------------------------------ each operator against its own problem, solved


@EVERY
@LOG_TAUS
def test_7_9_single_solves_its_problem(seed, log_tau):
    c, slope = components(seed, 1), SLOPES[seed % 4].numpy()
    mean, std = (part[0, 0, 0].numpy() for part in c[1:])
    start = mean + 0.1 * std

    def inside(x):
        return 2 * log_tau - (((x - mean) / std) ** 2).sum()

    best = maximiser(slope, inside, start, lambda x: -2 * (x - mean) / std**2)
    x, _ = chosen(c, "single", log_tau, torch.from_numpy(slope))
    np.testing.assert_allclose(x.numpy(), best, rtol=0, atol=1e-6 * max(1, np.abs(best).max()))


@EVERY
@LOG_TAUS
def test_7_9_logsumexp_solves_its_problem(seed, log_tau):
    # The union over i of lam_i N(x; mu_i, S_i) >= exp(-delta): the best of the best of each
    c, slope = components(seed, 4), SLOPES[seed % 4].numpy()
    means, stds = (part[0, 0].numpy() for part in c[1:])
    peaks = [log_density(c, means[i])[i] for i in range(4)]
    delta, found = log_tau - max(peaks), []
    for i in (i for i in range(4) if peaks[i] >= -delta):
        best = maximiser(
            slope, lambda x, i=i: log_density(c, x)[i] + delta, means[i],
            lambda x, i=i: -(x - means[i]) / stds[i] ** 2,
        )  # fmt: skip
        found.append((slope @ best, best))
    best = max(found, key=lambda pair: pair[0])[1]
    x, _ = chosen(c, "logsumexp", log_tau, torch.from_numpy(slope), rules="paper")
    np.testing.assert_allclose(x.numpy(), best, rtol=0, atol=1e-6 * max(1, np.abs(best).max()))
    # ... and it keeps to the mixture's own constraint, -log pi_b <= delta
    assert -np.logaddexp.reduce(log_density(c, x.numpy())) <= delta + 1e-9


@EVERY
@pytest.mark.parametrize("log_tau", [1.0, 2.0])
def test_7_9_jensen_solves_its_problem(seed, log_tau):
    c, slope = components(seed, 3, spread=0.2), SLOPES[seed % 4].numpy()
    weight, mean, std = c.log_weight[0, 0].exp().numpy(), c.mean[0, 0].numpy(), c.std[0, 0].numpy()

    def inside(x):
        return 2 * log_tau - (weight * (((x - mean) / std) ** 2).sum(1)).sum()

    def gradient(x):
        return -2 * (weight[:, None] * (x - mean) / std**2).sum(0)

    x, found = chosen(c, "jensen", log_tau, torch.from_numpy(slope))
    best = maximiser(slope, inside, found.mean[0, 0, 0].numpy(), gradient)
    np.testing.assert_allclose(x.numpy(), best, rtol=0, atol=1e-6 * max(1, np.abs(best).max()))
    log_density_there = log_density(c, x.numpy())
    constants = (weight * np.log(2 * np.pi * std**2).sum(1)).sum() / 2
    assert -np.logaddexp.reduce(log_density_there) <= log_tau + constants + 1e-9


# --------------------------------------------------- wrong steps that must not pass as right ones


def flipped(mean, std, gradient, square, over=-1):
    return ascend(mean, std, -gradient, square, over)


def too_far(mean, std, gradient, square, over=-1):
    return ascend(mean, std, gradient, 2 * square, over)


def across(mean, std, gradient, square, over=-1):
    return ascend(mean, std, gradient, square, 2)


@pytest.mark.parametrize("wrong", [flipped, too_far, across])
@pytest.mark.parametrize(
    "test", [test_7_9_single_solves_its_problem, test_7_9_logsumexp_solves_its_problem,
             test_7_9_jensen_solves_its_problem],
)  # fmt: skip
def test_a_flipped_gradient_a_radius_off_by_root_two_and_a_sum_over_components_fail(
    test, wrong, monkeypatch
):
    import closed_form_setting

    test(0, 1.0)
    monkeypatch.setattr(closed_form_setting, "ascend", wrong)
    with pytest.raises(AssertionError):
        test(0, 1.0)


# ---------------------------------------------------------------------- rules, and infeasible ones


def narrow() -> Components:
    """Component 0 is narrow, so that its peak is high, and weighs 0.03; the others are wide."""
    weight = row(np.log([0.03, 0.57, 0.4]), 3)
    mean = row([0, 0, 0, 1, 1, 1, -1, -1, -1], 3, 3)
    std = row([0.05] * 3 + [0.5] * 6, 3, 3)
    return Components(weight, mean, std)


def test_a_masked_narrow_component_drops_all_others_by_the_papers_rule_and_not_by_ours():
    c, slope = narrow(), torch.ones(3, dtype=torch.float64)
    live = live_components(c.log_weight, 0.05)
    assert live[0, 0].tolist() == [False, True, True]
    paper = logsumexp_candidates(c, live, 0.5, "paper")
    assert not paper.allowed.any()
    # The paper's rule has nothing left: what is chosen is the heaviest component's mean
    assert torch.equal(chosen(c, "logsumexp", 0.5, slope, "paper", 0.05)[0], c.mean[0, 0, 1])
    mended = logsumexp_candidates(c, live, 0.5)
    assert mended.allowed[0, 0].tolist() == [False, True, True]
    # log(0.57/0.4) = 0.35417: radii 1 and sqrt(1 - 0.70834) = 0.54004, squared 1 and 0.29166
    torch.testing.assert_close(mended.square[0, 0, 1:], row([1.0, 0.29165635], 2)[0, 0])
    x, _ = chosen(c, "logsumexp", 0.5, slope, xi=0.05)
    torch.testing.assert_close(x, 1 + 0.5 * slope / math.sqrt(3))
