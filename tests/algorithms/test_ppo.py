"""PPO's objectives and the invariants of its update, numbered as in the fact sheet."""

import numpy as np
import pytest
import torch
from ppo_setting import Drift, draw, drift_registered, run, setting

from rlsuite.algorithms.on_policy.ppo import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    loss,
    value_loss,
)
from rlsuite.core.normalizers import ObservationNormalizer, RunningStatistics
from rlsuite.core.optim import gradient
from rlsuite.core.rollouts import RolloutBatch, factors, gae, standardise


@pytest.fixture(autouse=True)
def task():
    with drift_registered():
        yield


def first_minibatch(s) -> tuple[torch.Tensor, RolloutBatch]:
    """theta and the standardised batch of the first minibatch of the first epoch."""
    run(s)
    call = s.step.calls[0]
    batch = RolloutBatch(*(x[:, :8] for x in call.part))  # 64 transitions in 8 minibatches
    return call.theta, batch._replace(advantage=standardise(batch.advantage))


def column(*values: float) -> torch.Tensor:
    return torch.tensor([values])


# --------------------------------------------------------------------------------- objectives


def test_clipped_surrogate_by_hand():
    # eps 0.2, ratios 2, 2, 1/2, 1/2 with A = 1, -1, 1, -1:
    # max(-A rho, -A clip rho) = max(-2, -1.2), max(2, 1.2), max(-.5, -.8), max(.5, .8)
    #                          = -1.2, 2, -0.5, 0.8; mean 0.275
    ratio, advantage = column(2.0, 2.0, 0.5, 0.5), column(1.0, -1.0, 1.0, -1.0)
    got = clipped_surrogate(ratio.log(), advantage, clip=0.2)
    torch.testing.assert_close(got, torch.tensor([0.275]))


def test_value_loss_by_hand():
    # V_old 0, R 1, eps 0.2. V = 0.5: 0.25 against the clipped 0.2: 0.64 -> 0.64
    #                        V = 0.1: 0.81 both.  V = 3: 4 against 0.64 -> 4
    # half the mean: (0.64 + 0.81 + 4)/6 = 0.908333; unclipped (0.25 + 0.81 + 4)/6 = 0.843333
    value, zero, one = column(0.5, 0.1, 3.0), torch.zeros(1, 3), torch.ones(1, 3)
    torch.testing.assert_close(value_loss(value, zero, one, 0.2), torch.tensor([0.9083333]))
    torch.testing.assert_close(value_loss(value, zero, one, None), torch.tensor([0.8433333]))


def test_diagnostics_by_hand():
    # log ratios log 2 and 0: k3 = (2 - 1 - log 2 + 0)/2 = 0.153426; one of two left 1 +- 0.2
    log_ratio = column(0.6931472, 0.0)
    torch.testing.assert_close(approximate_kl(log_ratio), torch.tensor([0.1534264]))
    assert clip_fraction(log_ratio, clip=0.2).tolist() == [0.5]
    # The log ratio is cut at 20, so that nothing overflows: e^20 = 4.851652e8
    far = clipped_surrogate(column(1000.0), column(-1.0), clip=0.2)
    torch.testing.assert_close(far, torch.tensor([4.851652e8]))


def test_standardise_by_hand():
    # Mean 2, sample standard deviation 1; each seed by its own: mean 20, deviation 10
    got = standardise(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]))
    torch.testing.assert_close(got, torch.tensor([[-1.0, 0.0, 1.0]] * 2))
    assert standardise(torch.full((1, 4), 7.0)).tolist() == [[0.0] * 4]


def test_the_loss_is_the_weighted_sum_of_its_parts():
    s = setting(entropy_coef=0.3, value_coef=0.7)
    theta, batch = first_minibatch(s)
    total, parts = loss(theta + 0.01, s.policy, s.config, batch)
    expected = parts["policy_loss"] - 0.3 * parts["entropy"] + 0.7 * parts["value_loss"]
    torch.testing.assert_close(total, expected)
    pi = s.policy.distribution(theta + 0.01, batch.obs)
    torch.testing.assert_close(parts["entropy"], pi.entropy().mean(1))
    for name in ("policy_loss", "entropy", "value_loss"):
        assert parts[name].abs().min() > 1e-3, name


# --------------------------------------------------------------------------------- invariants


def test_invariant_01_first_minibatch_ratio_is_one():
    s = setting()
    theta, batch = first_minibatch(s)
    log_prob = s.policy.distribution(theta, batch.obs).log_prob(batch.action)
    assert ((log_prob - batch.old_log_prob).exp() - 1).abs().max() < 1e-5
    assert (batch.old_log_prob - log_prob).mean(1).abs().max() < 1e-6
    _, parts = loss(theta, s.policy, s.config, batch)
    assert parts["kl"].abs().max() < 1e-6
    assert parts["clip_fraction"].tolist() == [0, 0]
    assert parts["policy_loss"].abs().max() < 1e-5
    # ... and no longer at the last one, or all of this would hold of anything
    last = s.step.calls[-1]
    batch = RolloutBatch(*(x[:, -8:] for x in last.part))
    assert loss(last.theta, s.policy, s.config, batch)[1]["kl"].min() > 1e-5


def test_invariant_02_first_gradient_is_the_policy_gradient():
    s = setting(value_coef=0.0)
    theta, batch = first_minibatch(s)
    ours, _ = gradient(lambda theta: loss(theta, s.policy, s.config, batch), theta)

    def log_prob_form(theta):
        log_prob = s.policy.distribution(theta, batch.obs).log_prob(batch.action)
        return -(batch.advantage * log_prob).mean(1), {}

    theirs, _ = gradient(log_prob_form, theta)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert ours.abs().max() > 0.01


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "moves"),
    [
        (0.5, 1.0, False),
        (-0.5, -1.0, False),
        (0.5, -1.0, True),
        (-0.5, 1.0, True),
        (0.1, 1.0, True),
    ],
)
def test_invariant_03_gradient_is_zero_beyond_the_clip(log_ratio, advantage, moves):
    log_ratios = (log_ratio + 0.05 * draw(0, 2, 6).abs().clamp(max=1)).requires_grad_()
    surrogate = clipped_surrogate(log_ratios, advantage * torch.ones(2, 6), 0.2)
    (grad,) = torch.autograd.grad(surrogate.sum(), log_ratios)
    assert (grad != 0).all() if moves else (grad == 0).all()


def test_invariant_04_maximum_of_negatives_is_minus_the_minimum():
    log_ratio, advantage = 0.5 * draw(1, 1000, 1), draw(2, 1000, 1)  # slots of one transition
    got = clipped_surrogate(log_ratio, advantage, clip=0.2)
    ratio, a = np.exp(log_ratio.numpy()), advantage.numpy()
    expected = -np.minimum(a * ratio, a * ratio.clip(0.8, 1.2))[:, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def sequences(seed: int, shape=(2, 12, 3)) -> tuple[np.ndarray, ...]:
    reward, value = np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float32)
    last = np.random.default_rng(seed + 1).standard_normal((shape[0], 1, shape[2]))
    next_value = np.concatenate([value[:, 1:], last.astype(np.float32)], 1)
    return reward, value, next_value, np.zeros(shape, bool), np.zeros(shape, bool)


def test_invariant_05_gae_at_its_limits():
    reward, value, next_value, never, _ = sequences(3)
    # lambda 1: the discounted return, bootstrapped from the last value, minus V
    advantage, _ = gae(reward, value, next_value, *factors(never, never), discount=0.9, lam=1.0)
    to_go = next_value[:, -1].astype(float)
    for t in reversed(range(12)):
        to_go = reward[:, t] + 0.9 * to_go
        np.testing.assert_allclose(advantage[:, t], to_go - value[:, t], atol=1e-5)
    # lambda 0: the TD error
    advantage, _ = gae(reward, value, next_value, *factors(never, never), discount=0.9, lam=0.0)
    np.testing.assert_allclose(advantage, reward + 0.9 * next_value - value, atol=1e-6)
    # Reward 1 for ever and V = 1/(1 - 0.9) = 10: nothing is better than expected
    one = np.ones((2, 12, 3), np.float32)
    advantage, target = gae(one, 10 * one, 10 * one, *factors(never, never), discount=0.9, lam=0.95)
    np.testing.assert_allclose(advantage, 0, atol=1e-5)
    np.testing.assert_allclose(target, 10, atol=1e-5)
    # Environments side by side equal each alone
    ends = np.random.default_rng(5).random((2, *reward.shape)) < 0.2
    together, _ = gae(reward, value, next_value, *factors(*ends), discount=0.9, lam=0.95)
    for n in range(3):
        columns = (x[..., n : n + 1] for x in (reward, value, next_value, *factors(*ends)))
        np.testing.assert_array_equal(gae(*columns, 0.9, 0.95)[0], together[..., n : n + 1])


@pytest.mark.parametrize("how", ["terminated", "truncated"])
def test_invariant_06_an_end_splits_advantages(how):
    reward, value, next_value, terminated, truncated = sequences(6)
    {"terminated": terminated, "truncated": truncated}[how][:, 5] = True
    before, _ = gae(reward, value, next_value, *factors(terminated, truncated), 0.9, 0.95)
    reward[:, 6:] += 100
    after, _ = gae(reward, value, next_value, *factors(terminated, truncated), 0.9, 0.95)
    np.testing.assert_array_equal(after[:, :6], before[:, :6])
    assert (after[:, 6:] > before[:, 6:] + 99).all()


def test_invariant_06_truncation_is_worth_the_value_of_the_final_observation():
    reward, value, next_value, never, _ = sequences(7)
    end = never.copy()
    end[:, 5] = True
    died, _ = gae(reward, value, next_value, *factors(end, never), 0.9, 0.95)
    cut, _ = gae(reward, value, next_value, *factors(never, end), 0.9, 0.95)
    np.testing.assert_allclose((cut - died)[:, 5], 0.9 * next_value[:, 5], atol=1e-5)
    np.testing.assert_array_equal(cut[:, 6:], died[:, 6:])
    as_death, _ = gae(reward, value, next_value, *factors(never, end, False), 0.9, 0.95)
    np.testing.assert_array_equal(as_death, died)


def test_invariant_07_value_clip():
    old, target = draw(8, 2, 500), draw(9, 2, 500)
    near, far = old + draw(10, 2, 500).clamp(-0.2, 0.2), old + 2 * draw(11, 2, 500)
    plain, clipped = (value_loss(near, old, target, clip) for clip in (None, 0.2))
    torch.testing.assert_close(clipped, plain)
    # Sample by sample, each in a slot of its own
    columns = [x.view(-1, 1) for x in (far, old, target)]
    plain, clipped = (value_loss(*columns, clip) for clip in (None, 0.2))
    assert (clipped >= plain).all()
    assert (clipped > plain).any()


def test_invariant_08_k3_is_the_kl_in_expectation():
    # KL(N(0,1) || N(0.5,1.2)) = log 1.2 + (1 + 0.25)/(2 * 1.44) - 1/2 = 0.116349
    x = torch.from_numpy(np.random.default_rng(12).standard_normal((1, 1_000_000)))
    old = torch.distributions.Normal(0.0, 1.0).log_prob(x)
    new = torch.distributions.Normal(0.5, 1.2).log_prob(x)
    assert approximate_kl(new - old).item() == pytest.approx(0.116349, rel=0.01)
    each = approximate_kl((new - old).view(-1, 1).float())
    assert (each >= 0).all()


def test_invariant_09_statistics_are_those_of_all_observations(monkeypatch):
    seen = []

    def recording(normalizer, batch):
        seen.append(batch.copy())
        RunningStatistics.merge(normalizer, batch)

    monkeypatch.setattr(ObservationNormalizer, "merge", recording)
    s = setting()
    for k in range(3):
        run(s, k)
    everything = np.concatenate(seen, 1)
    assert everything.shape == (2, 2 * (1 + 3 * 32), 3)  # the first ones, then 3 x 32 steps
    np.testing.assert_allclose(s.policy.normalizer.mean, everything.mean(1), atol=1e-4)
    np.testing.assert_allclose(s.policy.normalizer.var, everything.var(1), atol=1e-4)
    obs = torch.cat([call.part.obs for call in s.step.calls], 1)
    assert 1 < obs.abs().max() <= 10


def test_invariant_10_learning_rate_and_initialisation():
    s = setting(learning_rate=1e-3)  # K = 256/64 = 4 iterations
    views = s.policy.layout.views(s.policy.theta)
    for i, width in ((0, 3), (1, 16)):
        w = views[f"actor.{i}.weight"][0]
        gram = w.T @ w if i == 0 else w @ w.T
        torch.testing.assert_close(gram, 2 * torch.eye(width), atol=1e-5, rtol=0)
    head = torch.linalg.svdvals(views["actor.2.weight"][0])
    torch.testing.assert_close(head, torch.full((2,), 0.01))
    rates = []
    for k in range(4):
        run(s, k)
        rates.append({call.lr for call in s.step.calls})
        s.step.calls.clear()
    assert [len(rate) for rate in rates] == [1] * 4
    np.testing.assert_allclose([rate.pop() for rate in rates], [1e-3, 7.5e-4, 5e-4, 2.5e-4])
    constant = setting(learning_rate=1e-3, anneal_lr=False)
    run(constant, 3)
    assert constant.step.calls[0].lr == pytest.approx(1e-3)


def test_invariant_11_same_seed_same_bits():
    one, same, other = (setting(seeds=seeds) for seeds in ((0, 1), (0, 1), (0, 2)))
    a, b, c = run(one), run(same), run(other)
    assert a.keys() == b.keys() >= {"policy_loss", "value_loss", "kl", "grad_norm"}
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert torch.equal(one.policy.theta, same.policy.theta)
    assert torch.equal(one.policy.theta[0], other.policy.theta[0])
    assert a["value_loss"][1] != c["value_loss"][1]


def test_invariant_12_stored_actions_leave_the_box_sent_ones_never_do():
    s = setting()
    run(s)
    stored = torch.cat([call.part.action for call in s.step.calls], 1)
    assert stored.min() < -0.5
    assert stored.max() > 0.5
    sent = np.array(Drift.received)
    assert len(sent) == 2 * 2 * 32
    assert (sent.min(), sent.max()) == (-0.5, 0.5)
