"""TRPO's objectives and the invariants of its policy step, numbered as in the fact sheet."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from ppo_setting import draw, drift_registered
from torch.autograd.functional import hessian, jacobian
from trpo_setting import (
    actor_of,
    batch_of,
    config_of,
    dense,
    gain_of,
    kl_of,
    policy_of,
    run,
    setting,
    taken,
)

from rlsuite.algorithms.on_policy.trpo import fisher_vector_product, surrogate, value_loss
from rlsuite.core.distributions import DiagGaussian
from rlsuite.core.optim import gradient
from rlsuite.core.rollouts import RolloutBatch, standardise

SEEDS = (0, 1, 2)


@pytest.fixture(autouse=True)
def task():
    with drift_registered():
        yield


BOTH = pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])


def column(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def mean_kl(policy, actor, obs, forward=True) -> torch.Tensor:
    """mean KL(pi_old || pi_actor), or the other way round. [S]."""
    old, new = policy.distribution(actor_of(policy), obs), policy.distribution(actor, obs)
    return (old.kl(new) if forward else new.kl(old)).mean(1)


# --------------------------------------------------------------------------------- objectives


def test_surrogate_by_hand():
    # ratios 2, 1/2, 1 with A = 1, -2, 3: (2 - 1 + 3)/3 = 4/3; each seed by its own: ratios 1,
    # A = 1, 0, -1: 0
    log_ratio = torch.tensor([[math.log(2), -math.log(2), 0.0], [0.0, 0.0, 0.0]])
    advantage = torch.tensor([[1.0, -2.0, 3.0], [1.0, 0.0, -1.0]])
    torch.testing.assert_close(surrogate(log_ratio, advantage), torch.tensor([4 / 3, 0.0]))
    # The log ratio is cut at 20, so that nothing overflows: e^20 = 4.851652e8
    torch.testing.assert_close(surrogate(column(999.0), column(-1.0)), column(-4.851652e8)[0])


def test_the_critics_loss_is_the_squared_error_by_hand():
    # V = 1, 3 and R = 0, 1: (1 + 4)/2 = 2.5
    got = value_loss(column(1.0, 3.0), column(0.0, 1.0))
    torch.testing.assert_close(got, torch.tensor([2.5]))


def test_mean_kl_by_hand():
    # sigma_p = 1, sigma_q = 2, means 0 and 1: log 2 + (1 + 1)/(2 * 4) - 1/2 = 0.443147
    p, q = (
        DiagGaussian(column(m)[None], column(s).log()[None]) for m, s in ((0.0, 1.0), (1.0, 2.0))
    )
    torch.testing.assert_close(p.kl(q), column(0.443147))


# --------------------------------------------------------------------------------- invariants


@BOTH
def test_invariant_01_the_kl_is_flat_and_zero_at_the_old_policy(discrete):
    policy = policy_of(SEEDS, discrete)
    batch = batch_of(policy, SEEDS)
    actor = actor_of(policy).requires_grad_()
    kl = mean_kl(policy, actor, batch.obs)
    (grad,) = torch.autograd.grad(kl.sum(), actor)
    assert kl.abs().max() < 1e-12
    assert grad.abs().max() < 1e-6
    # ... and neither of the two a little away
    kl = mean_kl(policy, actor + 0.1, batch.obs)
    assert kl.min() > 1e-3
    assert torch.autograd.grad(kl.sum(), actor)[0].norm(dim=1).min() > 1e-2


@BOTH
@pytest.mark.parametrize("forward", [True, False], ids=["old to new", "new to old"])
def test_invariant_02_fisher_is_the_dense_hessian_of_the_mean_kl(discrete, forward):
    policy = policy_of(SEEDS, discrete)
    obs = batch_of(policy, SEEDS).obs
    ours = dense(policy, config_of(cg_damping=0.0), obs)
    for s in range(3):
        alone = policy_of((SEEDS[s],), discrete)

        def kl(row, alone=alone, s=s):
            return mean_kl(alone, row[None], obs[s : s + 1], forward)[0]

        theirs = hessian(kl, actor_of(alone)[0])
        assert (ours[s] - theirs).norm() / theirs.norm() < 1e-6
        assert theirs.norm() > 0.5


@BOTH
def test_invariant_02_fisher_is_the_mean_of_jacobians_around_the_states_own(discrete):
    policy = policy_of(SEEDS, discrete)
    obs = batch_of(policy, SEEDS).obs
    ours = dense(policy, config_of(cg_damping=0.0), obs)
    for s in range(3):
        alone, mine = policy_of((SEEDS[s],), discrete), obs[s : s + 1]

        def output(row, alone=alone, mine=mine):
            pi = alone.distribution(row[None], mine)
            if discrete:
                return pi.logits[0]
            return torch.cat([pi.mean, pi.log_std.expand_as(pi.mean)], -1)[0]

        j, at = jacobian(output, actor_of(alone)[0]), output(actor_of(alone)[0])  # [B, ., P]
        if discrete:  # diag(p) - p p^T in the logits
            p = at.softmax(-1)
            metric = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        else:  # 1/sigma^2 in the means, 2 in the log standard deviations
            log_std = at[:, 2:]
            metric = torch.diag_embed(torch.cat([(-2 * log_std).exp(), 2 + 0 * log_std], -1))
        theirs = (j.mT @ metric @ j).mean(0)
        assert (ours[s] - theirs).norm() / theirs.norm() < 1e-6


@BOTH
def test_invariant_02_fisher_is_symmetric_and_positive_plus_damping(discrete):
    policy = policy_of(SEEDS, discrete)
    obs = batch_of(policy, SEEDS).obs
    undamped = dense(policy, config_of(cg_damping=0.0), obs)
    torch.testing.assert_close(undamped, undamped.mT)
    eigenvalues = torch.linalg.eigvalsh(undamped)
    assert eigenvalues.min() > -1e-12
    assert eigenvalues.max() > 0.1
    damped, size = dense(policy, config_of(cg_damping=0.3), obs), policy.actor_size
    torch.testing.assert_close(
        damped - undamped, (0.3 * torch.eye(size).double()).expand(3, -1, -1)
    )
    # Every 5th transition only: 0, 5, ... 35
    thinned = dense(policy, config_of(cg_damping=0.0, fisher_every=5), obs)
    torch.testing.assert_close(thinned, dense(policy, config_of(cg_damping=0.0), obs[:, ::5]))
    assert (thinned - undamped).abs().max() > 0.01


@BOTH
def test_invariant_04_the_quadratic_model_of_the_step_is_delta(discrete):
    policy = policy_of(SEEDS, discrete)
    batch = batch_of(policy, SEEDS)
    # c = 0.1, and few iterations: the scale must be right for any direction. 2 for the full step
    config = config_of(max_kl=1e-3, cg_iterations=4, kl_slack=2.0)
    new, metrics = taken(policy, config, batch)
    assert metrics["line_search_tries"].tolist() == [1, 1, 1]
    step = new - actor_of(policy)
    model = 0.5 * torch.einsum("sp,spq,sq->s", step, dense(policy, config, batch.obs), step)
    torch.testing.assert_close(model, torch.full((3,), 1e-3).double(), rtol=1e-6, atol=0)
    # The damping counts: what the true KL can get is what it leaves, so less than delta
    assert (kl_of(policy, new, batch.obs) < 0.95e-3).all()


@BOTH
def test_invariant_04_without_damping_the_true_kl_tends_to_delta(discrete):
    policy = policy_of(SEEDS, discrete)
    batch = batch_of(policy, SEEDS)
    excess = []
    for delta in (1e-4, 1e-6, 1e-8):
        config = config_of(max_kl=delta, cg_damping=0.0, cg_iterations=10, kl_slack=2.0)
        new, metrics = taken(policy, config, batch)
        assert metrics["line_search_tries"].tolist() == [1, 1, 1]
        torch.testing.assert_close(metrics["kl"], kl_of(policy, new, batch.obs))
        excess.append((metrics["kl"] / delta - 1).abs())
    # The next term is the cube of the step: sqrt(delta) of the square
    assert (excess[2] < 5e-3).all()
    assert (excess[2] < 0.2 * excess[1]).all()
    assert (excess[1] < 0.2 * excess[0]).all()


@BOTH
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kl_slack": 1.5, "backtrack": 0.5},
        {"backtrack_tries": 1, "cg_damping": 0.0},
        {"max_kl": 0.2, "backtrack_tries": 2, "cg_damping": 1e-3},
    ],
    ids=["zoo", "baselines", "one try", "far"],
)
def test_invariant_05_every_seed_improves_within_its_kl_or_keeps_its_bits(discrete, changes):
    seeds, outliers = range(60), range(0, 60, 4)
    policy = policy_of(seeds, discrete, dtype=torch.float32)
    batch = batch_of(policy, seeds, outliers)
    assert (batch.advantage.amax(1)[::4] > 6).all()  # nearly all of the variance is one sample's
    config = config_of(**{"cg_iterations": 10, **changes})
    new, metrics = taken(policy, config, batch)
    old, accepted = actor_of(policy), metrics["accepted"] == 1
    assert torch.equal(new[~accepted], old[~accepted])
    assert (new[accepted] != old[accepted]).any(1).all()
    kl, before, after = (
        kl_of(policy, new, batch.obs),
        gain_of(policy, old, batch),
        gain_of(policy, new, batch),
    )
    assert (kl[accepted] <= config.kl_slack * config.max_kl * (1 + 1e-3)).all()
    assert (after >= before - 1e-6).all()
    assert (after > before)[accepted].float().mean() > 0.95
    # The metrics say so, too
    torch.testing.assert_close(metrics["kl"], kl, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(metrics["surrogate"], after, rtol=1e-3, atol=1e-5)
    # One try at the full length is refused to some and granted to others; ten suffice for all
    if changes.get("backtrack_tries", 10) < 10:
        assert 5 < accepted.sum() < 55
    else:
        assert accepted.all()


@BOTH
def test_invariant_06_the_expected_improvement_is_positive_and_comes_true(discrete):
    policy = policy_of(SEEDS, discrete)
    batch = batch_of(policy, SEEDS)
    old, error = actor_of(policy), []

    def gain(actor):
        log_prob = policy.distribution(actor, batch.obs).log_prob(batch.action)
        return (log_prob * batch.advantage).mean(1), {}  # the plain policy gradient's objective

    grad, _ = gradient(gain, old)
    for delta in (1e-4, 1e-8):
        new, metrics = taken(policy, config_of(max_kl=delta), batch)
        torch.testing.assert_close(metrics["expected_improvement"], (grad * (new - old)).sum(1))
        assert (metrics["expected_improvement"] > 0).all()
        actual = gain_of(policy, new, batch) - gain_of(policy, old, batch)
        error.append((actual / metrics["expected_improvement"] - 1).abs())
    assert (error[1] < 1e-3).all()
    assert (error[1] < 0.05 * error[0]).all()


@BOTH
@pytest.mark.parametrize("k", [0.5, 20.0, 1e4])
def test_invariant_07_the_scale_of_advantages_is_of_no_account(discrete, k):
    policy = policy_of(SEEDS, discrete)
    batch = batch_of(policy, SEEDS)
    expected, _ = taken(policy, config_of(cg_iterations=5), batch)
    scaled = batch._replace(advantage=k * batch.advantage)
    got, metrics = taken(policy, config_of(cg_iterations=5), scaled)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(standardise(scaled.advantage), batch.advantage, rtol=1e-6, atol=1e-6)
    # The step is its own; what it promises is not
    _, plain = taken(policy, config_of(cg_iterations=5), batch)
    promised = metrics["expected_improvement"] / plain["expected_improvement"]
    torch.testing.assert_close(promised, torch.full_like(promised, k))


@BOTH
@pytest.mark.parametrize(("damping", "same"), [(0.0, True), (0.1, False)])
def test_invariant_08_a_linear_policy_does_not_depend_on_its_features_units(
    discrete, damping, same
):
    one, other = (policy_of(SEEDS, discrete, hidden=()) for _ in range(2))
    weight = other.layout.views(other.theta)["actor.0.weight"]
    weight[..., 1] /= 2  # its feature is doubled below: the same policy
    # Advantages in the thousands, or conjugate gradients would stop at residuals of 1e-5
    batch = batch_of(one, SEEDS)
    batch = batch._replace(advantage=1e4 * batch.advantage)
    doubled = batch._replace(obs=batch.obs * torch.tensor([1.0, 2.0, 1.0]))
    config = config_of(cg_damping=damping, hidden=())
    new, metrics = taken(one, config, batch)
    new_doubled, _ = taken(other, config, doubled)
    assert (metrics["kl"] > 1e-3).all()
    gap = 0.0
    for before, after in zip(
        vars(one.distribution(new, batch.obs)).values(),
        vars(other.distribution(new_doubled, doubled.obs)).values(),
        strict=True,
    ):
        gap = max(gap, (before - after).abs().max().item())
    assert gap < 1e-8 if same else gap > 1e-3


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_invariant_09_a_single_gaussians_mean_moves_by_sigma_sqrt_2_delta(sign):
    # Observations zero: the mean is the bias. Two actions at z = +1 and -1 with A = +-1: the
    # gradient in log sigma, mean A (z^2 - 1), is zero, so sigma stays; the gradient in the mean is
    # mean A z/sigma = +-1/sigma and the Fisher information 1/sigma^2: x = +-sigma,
    # s = x sqrt(2 delta/(sigma^2/sigma^2)) = +-sigma sqrt(2 * 0.02) = +-0.2 sigma.
    policy = policy_of((0,), hidden=())
    views = policy.layout.views(policy.theta)
    views["log_std"].copy_(torch.tensor([0.5, 2.0]).log())
    mean = views["actor.0.bias"].clone()  # [1, 1, 2]
    z = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]).double()
    zeros = torch.zeros(1, 2).double()
    action = mean + z * torch.tensor([0.5, 2.0])
    obs, advantage = torch.zeros(1, 2, 3).double(), sign * torch.tensor([[1.0, -1.0]]).double()
    old_log_prob = policy.distribution(policy.theta, obs).log_prob(action)
    batch = RolloutBatch(obs, action, old_log_prob, zeros, advantage, zeros)
    config = config_of(cg_damping=0.0, max_kl=0.02, kl_slack=1.01, hidden=())
    new, metrics = taken(policy, config, batch)
    # sigma = 0.5: 0.1. The other action, always at its mean, has z = 0: its mean has no gradient,
    # nor has its sigma, as advantages add up to zero.
    expected = policy.theta.clone()
    policy.layout.views(expected)["actor.0.bias"][0, 0, 0] += sign * 0.1
    torch.testing.assert_close(new, expected[:, : policy.actor_size], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(metrics["kl"], torch.tensor([0.02]).double())


def test_invariant_10_each_phase_moves_its_own_network():
    s, size = setting(), setting().policy.actor_size
    before, critic = s.policy.theta.clone(), s.learner.critic
    assert torch.equal(critic.theta, before[:, size:])
    run(s)
    # What the critic's steps are given begins with the critic as it was, and each goes on from the
    # one before; of the actor they know nothing
    given, after = [call.critic for call in s.step.calls], s.policy.theta
    assert given[0] is critic
    assert all((a.theta != b.theta).any(1).all() for a, b in pairwise(given))
    assert torch.equal(after[:, size:], s.learner.critic.theta)
    assert (after[:, size:] != before[:, size:]).any(1).all()
    assert (after[:, :size] != before[:, :size]).any(1).all()
    assert s.learner.critic.adam.first.shape == after[:, size:].shape


@BOTH
def test_invariant_11_an_impossible_acceptance_returns_the_old_policy(discrete):
    policy = policy_of(SEEDS, discrete)
    new, metrics = taken(policy, config_of(kl_slack=0.0), batch_of(policy, SEEDS))
    assert torch.equal(new, actor_of(policy))
    assert metrics["accepted"].tolist() == [0, 0, 0]
    assert metrics["line_search_tries"].tolist() == [10, 10, 10]
    assert metrics["kl"].tolist() == [0, 0, 0]


def test_fisher_vector_products_of_one_vector_for_all_seeds_differ():
    # One product serves all seeds: each row has its own matrix, and reads no other row of v
    policy = policy_of(SEEDS)
    obs, v = batch_of(policy, SEEDS).obs, draw(9, 1, policy.actor_size).double().expand(3, -1)
    product = partial(fisher_vector_product, policy, config_of(), actor_of(policy), obs)
    together = product(v)
    assert (together[0] - together[1]).abs().max() > 0.01
    other = v.clone()
    other[1] = 5.0
    assert torch.equal(product(other)[[0, 2]], together[[0, 2]])
