"""Beta policies against hand-worked numbers, torch.distributions and the distribution itself."""

import math

import numpy as np
import pytest
import torch
from torch import distributions as reference

from rlsuite.core.beta import EDGE, Beta, BetaActorCritic, gamma
from rlsuite.core.saving import load_policy, save_policy, select_seed

S, B, A = 2, 5, 3
ALARM = 1e-6  # how often a test of randomness may fail though nothing is wrong, over all seeds

# --------------------------------------------------------------------------------- densities


def shapes(seed: int, scale: float = 20.0) -> Beta:
    """Both parameters between 1 and 1 + scale, float64 [S, B, A]."""
    draws = 1 + scale * np.random.default_rng(seed).random((2, S, B, A))
    return Beta(*torch.from_numpy(draws))


def one(alpha: float, beta: float) -> Beta:
    return Beta(torch.full((1, 1, 1), alpha), torch.full((1, 1, 1), beta))


def test_beta_by_hand():
    # Beta(2, 3): p(y) = 12 y (1 - y)^2, at 1/4: 12/4 * 9/16 = 27/16; mode (2 - 1)/(5 - 2) = 1/3
    p = one(2, 3)
    at = torch.full((1, 1, 1), 0.25)
    assert p.log_prob(at).item() == pytest.approx(math.log(27 / 16), abs=2e-6)
    assert p.mode().item() == pytest.approx(1 / 3)
    # H = log B - psi(2) - 2 psi(3) + 3 psi(5) with B = 1/12, and psi(n) = 1 + ... + 1/(n-1) less
    # a constant that cancels: -log 12 - 1 - 3 + 3 * 25/12 = 2.25 - log 12 = -0.234907
    assert p.entropy().item() == pytest.approx(-0.234907, abs=2e-6)
    # KL(Beta(2,2) || Beta(3,2)) = log(B(3,2)/B(2,2)) - psi(2) + psi(4) = -log 2 + 5/6 = 0.140186
    # KL(Beta(3,2) || Beta(2,2)) = log 2 + psi(3) - psi(5) = log 2 - 7/12 = 0.109814
    assert one(2, 2).kl(one(3, 2)).item() == pytest.approx(0.140186, abs=2e-6)
    assert one(3, 2).kl(one(2, 2)).item() == pytest.approx(0.109814, abs=2e-6)


def test_beta_equals_torch():
    p, q = shapes(0), shapes(1)
    action = torch.from_numpy(np.random.default_rng(2).random((S, B, A)))
    torch_p, torch_q = (reference.Beta(x.alpha, x.beta) for x in (p, q))
    for ours, theirs in (
        (p.log_prob(action), torch_p.log_prob(action)),
        (p.entropy(), torch_p.entropy()),
        (p.kl(q), reference.kl_divergence(torch_p, torch_q)),
        (q.kl(p), reference.kl_divergence(torch_q, torch_p)),
    ):
        assert ours.shape == (S, B)
        torch.testing.assert_close(ours, theirs.sum(-1))
    torch.testing.assert_close(p.mode(), torch_p.mode)
    assert p.kl(p).tolist() == torch.zeros(S, B).tolist()
    assert p.kl(q).min() > 0.1


def test_kl_equals_monte_carlo_and_is_positive():
    p, q = one(4.0, 2.5), one(2.0, 3.0)
    torch.manual_seed(0)
    sample = reference.Beta(4.0, 2.5).sample((1, 200_000, 1))
    estimate = (p.log_prob(sample) - q.log_prob(sample)).mean().item()
    assert p.kl(q).item() == pytest.approx(estimate, rel=0.01)
    assert q.kl(p).item() != pytest.approx(estimate, rel=0.05)  # direction matters
    assert shapes(3).kl(shapes(4)).min() > 0


def test_float32_kl_is_good_to_a_ten_thousandth_up_to_shapes_of_20():
    # lgamma(40) is 106, where float32 has steps of 8e-6; three dimensions of six such terms
    p, q = shapes(5), shapes(6)
    single = (Beta(x.alpha.float(), x.beta.float()) for x in (p, q))
    kl = next(single).kl(next(single))
    torch.testing.assert_close(kl.double(), p.kl(q), rtol=0, atol=1e-4)


def test_the_edges_have_finite_densities_and_gradients():
    alpha = torch.full((1, 3, 1), 2.0, requires_grad=True)
    p = Beta(alpha, torch.full((1, 3, 1), 3.0))
    log_prob = p.log_prob(torch.tensor([[[0.0], [1.0], [0.5]]]))
    (grad,) = torch.autograd.grad(log_prob.sum(), alpha)
    assert log_prob.isfinite().all()
    assert grad.isfinite().all()
    # Both ends count as EDGE = 1e-6 from there: log(12 y (1 - y)^2), log 12 + log 1e-6 = -11.330604
    assert log_prob[0, 0].item() == pytest.approx(-11.330604, abs=1e-4)


# ---------------------------------------------------------------------------------- sampling


def bound(n: int) -> float:
    """P(sup |F_n - F| > x) <= 2 exp(-2 n x^2) (Dvoretzky, Kiefer, Wolfowitz; Massart): ALARM."""
    return math.sqrt(math.log(2 / ALARM) / (2 * n))


def distance(sample: np.ndarray, cdf) -> float:
    """Kolmogorov and Smirnov's: the largest |F_n - F|, which lies at a step of F_n."""
    x = np.sort(sample.astype(np.float64))
    f, n = cdf(x), len(x)
    return max((np.arange(1, n + 1) / n - f).max(), (f - np.arange(n) / n).max())


def policy_with(alpha: float, beta: float, seeds: int = 1) -> BetaActorCritic:
    """One action dimension; whatever it sees, it draws from Beta(alpha, beta)."""
    rngs = [np.random.default_rng(seed) for seed in range(seeds)]
    policy = BetaActorCritic(2, 1, False, rngs=rngs, hidden=(4,), normalize_obs=False)
    policy.theta.zero_()
    # alpha = 1 + softplus(x), so x = log(exp(alpha - 1) - 1)
    bias = torch.tensor([math.log(math.expm1(x - 1)) for x in (alpha, beta)])
    policy.layout.views(policy.theta)["actor.1.bias"][:] = bias
    return policy


# P(X < x) of Gamma(1), Gamma(3), Gamma(9): 1 - exp(-x) sum_{k < shape} x^k / k!
@pytest.mark.parametrize("shape", [1, 3, 9])
def test_gamma_variates_are_gamma_distributed(shape):
    n, rng = 50_000, np.random.default_rng(shape)
    normal, uniform = rng.standard_normal((n, 8)), rng.random((n, 8))
    x = gamma(np.full(n, float(shape)), np.stack([normal, uniform], 1))

    def cdf(x):
        return 1 - np.exp(-x) * sum(x**k / math.factorial(k) for k in range(shape))

    assert x.shape == (n,)
    assert distance(x, cdf) < bound(n)
    # Mean `shape` with variance shape / n: 4.9 deviations are left once in ALARM
    assert abs(x.mean() - shape) < 4.9 * math.sqrt(shape / n)
    assert x.var() == pytest.approx(shape, rel=0.1)
    # The bound is sharp enough to tell a neighbouring distribution
    assert distance(1.1 * x, cdf) > bound(n)


def test_gamma_by_hand():
    # shape 4/3: d = 1, sqrt(9 d) = 3. Normal 0: v = 1, accepted whenever log u < 0 + 1 - 1 + 0.
    # Normal 3: v = 8, log u < 4.5 + 1 - 8 + log 8 = -0.420558, u < 0.6567; the draw is d v = 8.
    # Normal -3: v = 0, never accepted
    def draw(normal, uniform):
        return gamma(np.array(4 / 3), np.array([normal, uniform])).item()

    assert draw([0.0, 3.0], [0.9, 0.1]) == pytest.approx(1)
    assert draw([3.0, 0.0], [0.65, 0.1]) == pytest.approx(8)
    assert draw([3.0, 0.0], [0.66, 0.1]) == pytest.approx(1)
    assert draw([-3.0, 0.0], [0.001, 0.1]) == pytest.approx(1)
    assert draw([3.0, 0.0], [0.0, 0.1]) == pytest.approx(8)  # log 0 warns of nothing


# I_y(2, 3) = 6 y^2 - 8 y^3 + 3 y^4; I_y(3, 2) = 4 y^3 - 3 y^4; I_y(3, 3) = 10 y^3 - 15 y^4 + 6 y^5
CDF = {
    (2, 3): lambda y: 6 * y**2 - 8 * y**3 + 3 * y**4,
    (3, 2): lambda y: 4 * y**3 - 3 * y**4,
    (3, 3): lambda y: 10 * y**3 - 15 * y**4 + 6 * y**5,
}


@pytest.mark.parametrize(("alpha", "beta"), CDF)
def test_actions_are_beta_distributed(alpha, beta):
    n, policy = 50_000, policy_with(alpha, beta)
    action, _ = policy.behaviour().act(np.zeros((1, n, 2)), [np.random.default_rng(7)])
    assert action.shape == (1, n, 1)
    y, total = action.ravel(), alpha + beta
    # Mean a/(a+b), variance a b/((a+b)^2 (a+b+1))
    variance = alpha * beta / (total**2 * (total + 1))
    assert abs(y.mean() - alpha / total) < 4.9 * math.sqrt(variance / n)
    assert y.var() == pytest.approx(variance, rel=0.05)
    assert distance(y, CDF[alpha, beta]) < bound(n)
    for other in CDF.keys() - {(alpha, beta)}:
        assert distance(y, CDF[other]) > 10 * bound(n)
    # One draw says nothing of the next
    assert abs(np.corrcoef(y[1:], y[:-1])[0, 1]) < 4.9 / math.sqrt(n)


def test_action_dimensions_and_seeds_are_independent():
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    policy, n = BetaActorCritic(2, 2, False, rngs=rngs, hidden=(4,)), 20_000
    action, _ = policy.behaviour().act(np.zeros((2, n, 2)), rngs)
    y = action.swapaxes(1, 2).reshape(4, n)
    correlations = np.corrcoef(y)[np.triu_indices(4, 1)]
    assert (abs(correlations) < 5.3 / math.sqrt(n)).all()  # of six, one leaves once in ALARM


def test_the_actor_is_the_distribution_that_the_update_sees():
    policy = saved_policy()
    obs = np.random.default_rng(3).standard_normal((2, 4, 3)).astype(np.float32)
    pi = policy.distribution(policy.theta, torch.from_numpy(obs))
    assert pi.alpha.shape == pi.beta.shape == (2, 4, 2)
    assert min(pi.alpha.min(), pi.beta.min()) > 1
    # Without noise: the mode
    behaviour = policy.behaviour()
    np.testing.assert_allclose(behaviour.act_normalized(obs)[0], pi.mode(), atol=1e-5)
    assert pi.mode().std() > 0.05
    # With noise: means of 20000 draws at each of 8 states; 6 deviations of the mean
    n = 20_000
    many = np.broadcast_to(obs[:, :, None], (2, 4, n, 3)).reshape(2, 4 * n, 3)
    noise = behaviour.noise([np.random.default_rng(x) for x in (4, 5)], 4 * n)
    assert (noise.shape, noise.dtype) == ((2, 4 * n, 2, 2, 2, 8), np.float32)
    means = behaviour.act_normalized(many, noise)[0].reshape(2, 4, n, 2).mean(2)
    law = reference.Beta(pi.alpha, pi.beta)
    assert (abs(means - law.mean.numpy()) < 6 * law.stddev.numpy() / math.sqrt(n)).all()


def test_actions_lie_in_the_box_and_fill_it():
    policy = policy_with(1.0001, 1.0001)  # all but uniform: extreme draws are common
    low, high = np.array([-2.0], np.float32), np.array([0.5], np.float32)
    behaviour = policy.behaviour(low, high)
    action, sent = behaviour.act(np.zeros((1, 100_000, 2)), [np.random.default_rng(8)])
    assert EDGE <= action.min() < action.max() <= 1 - EDGE / 2  # the float32 next to 1 - EDGE
    assert low <= sent.min() < -1.999
    assert 0.499 < sent.max() <= high
    # low + (high - low) y: -2, -2 + 2.5/4, 1/2
    by_hand = behaviour.to_env(np.array([0.0, 0.25, 1.0]))
    assert by_hand.tolist() == [-2, -1.375, 0.5]


def test_an_extreme_draw_is_kept_off_the_edge():
    # alpha = beta = 1 + 1e-4, so d = 2/3 and sqrt(9 d) = 2.45: normal -2.447 gives v = (0.001)^3,
    # accepted at uniform 0, against v = 1 of normal 0: a share of 1e-9 or less, or all but that
    policy, noise = policy_with(1.0001, 1.0001), np.zeros((2, 1, 2, 2, 8), np.float32)
    noise[0, 0, 0, 0] = noise[1, 0, 1, 0] = -2.447
    action, _ = policy.behaviour().act_normalized(np.zeros((1, 2, 2), np.float32), noise[None])
    assert action.ravel().tolist() == [np.float32(EDGE), np.float32(1 - EDGE)]


# ------------------------------------------------------------------------------------ saving


def saved_policy() -> BetaActorCritic:
    """Two seeds whose every number differs from what a fresh policy has."""
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    policy = BetaActorCritic(3, 2, False, rngs=rngs, hidden=(16, 8))
    policy.theta += 0.5 * torch.from_numpy(rngs[0].standard_normal(policy.theta.shape)).float()
    policy.normalizer.observe(5 + 2 * rngs[1].standard_normal((2, 50, 3)))
    return policy


def actions(policy: BetaActorCritic, index=slice(None), noisy: bool = True) -> np.ndarray:
    obs = 5 + np.random.default_rng(0).standard_normal((2, 4, 3))[index]
    rngs = [np.random.default_rng(x) for x in (1, 2)][index]
    return policy.behaviour().act(obs, rngs if noisy else None)[0]


@pytest.mark.parametrize("noisy", [True, False])
def test_a_saved_policy_acts_the_same(tmp_path, noisy):
    policy = saved_policy()
    save_policy(policy, tmp_path / "policy", {})
    loaded, about = load_policy(tmp_path / "policy")
    assert type(loaded) is BetaActorCritic
    assert about["kind"] == "beta-actor-critic"
    assert np.array_equal(actions(loaded, noisy=noisy), actions(policy, noisy=noisy))
    assert actions(policy, noisy=noisy).std() > 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_a_selected_seed_acts_as_it_does_in_company(seed):
    policy = saved_policy()
    alone = select_seed(policy, seed)
    assert type(alone) is BetaActorCritic
    for noisy in (True, False):
        mine, theirs = actions(alone, slice(seed, seed + 1), noisy), actions(policy, noisy=noisy)
        np.testing.assert_allclose(mine[0], theirs[seed], rtol=1e-5)
        assert abs(theirs[seed] - theirs[1 - seed]).max() > 0.05
