"""DPPO's equations, each against numbers worked out by hand or against an independent loop."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dppo_setting import rollout_of, setting
from torch.distributions import Normal

from rlsuite.algorithms.diffusion.dppo import (
    Config,
    average_rate,
    clip_schedule,
    clipped_surrogate,
    clone_lr,
    denoising_discounts,
    denoising_loss,
    log_prob,
    value_loss,
)
from rlsuite.core.chunk_data import RolloutScaler
from rlsuite.core.chunk_rollouts import minibatches
from rlsuite.core.chunks import MinMax, blocks, sinusoid
from rlsuite.core.rollouts import gae, standardise

ROBOMIMIC = {"clip": 0.01, "clip_base": 0.001, "clip_rate": 3.0}


# ------------------------------------------------------------------------------ schedules


def test_the_clip_grows_from_base_to_top_as_published() -> None:
    found = clip_schedule(Config(**ROBOMIMIC))
    # .001 + .009 (exp(3 i / 9) - 1) / (exp 3 - 1)
    expected = [0.001, 0.00119, 0.00145, 0.00181, 0.00232, 0.00303, 0.00401, 0.00539, 0.00732, 0.01]
    assert found.tolist() == pytest.approx(expected, abs=6e-6)
    assert (found.diff() > 0).all()
    assert clip_schedule(Config()).tolist() == pytest.approx([0.01] * 10)  # Gym's is constant


def test_a_single_tuned_step_has_the_top_clip_and_no_nan() -> None:
    assert clip_schedule(
        Config(tuned_steps=1, batch_size=99, **ROBOMIMIC)
    ).tolist() == pytest.approx([0.01])


def test_denoising_discounts_are_the_loop_and_1_at_the_executed_step() -> None:
    found = denoising_discounts(Config(denoising_discount=0.99))
    expected = []
    for i in range(10):
        factor = 1.0
        for _ in range(10 - 1 - i):
            factor *= 0.99
        expected.append(factor)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert (found[-1], round(found[0].item(), 4)) == (1, 0.9135)


def test_the_clones_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    config = Config(clone_epochs=201)
    # the first epoch has the least; then 1e-3 at share 0, (1e-3 + 1e-4) / 2 half-way
    found = [clone_lr(config, epoch) for epoch in (0, 1, 101)]
    assert found == pytest.approx([1e-4, 1e-3, 5.5e-4])
    assert clone_lr(config, 200) == pytest.approx(1e-4, rel=0.01)


def test_weights_are_averaged_at_the_released_cadences() -> None:
    # today's: every 10 batches from epoch 20 on, whichever epoch they are in; epochs of 7 batches
    now = [average_rate(Config(), 20, batch, 7) for batch in range(7)]
    # batch number 20 x 7 + b + 1 is a multiple of 10 at b = 9, which is no batch of this epoch
    assert now == [0] * 7
    assert average_rate(Config(), 21, 2, 7) == pytest.approx(0.005)  # 147 + 3 = 150
    assert average_rate(Config(), 18, 3, 7) == 1  # before: the weights themselves
    former = Config(average_unit="epoch", average_every=5, average_from=10)  # v0.6's
    assert average_rate(former, 14, 6, 7) == pytest.approx(0.005)  # the last batch of epoch 15
    assert average_rate(former, 14, 5, 7) == average_rate(former, 15, 6, 7) == 0


# ------------------------------------------------------------------------------ losses


def test_a_guess_of_nothing_has_a_loss_of_about_1() -> None:
    noise = torch.randn(1, 4000, 6, generator=torch.Generator().manual_seed(0))
    # the mean of 24000 squares of standard normals: 1 +- sqrt(2 / 24000) = 0.009
    assert denoising_loss(torch.zeros_like(noise), noise).item() == pytest.approx(1, abs=0.03)


def test_the_surrogate_has_a_clip_for_each_pair() -> None:
    log_ratio = torch.log(torch.tensor([[1.2, 1.2, 0.5, 0.5]]))
    advantage = torch.tensor([[1.0, 2.0, -1.0, 1.0]])
    clip = torch.tensor([[0.1, 0.3, 0.1, 0.1]])
    # -A rho against -A clipped: max(-1.2, -1.1), max(-2.4, -2.4), max(.5, .9), max(-.5, -.9)
    expected = (-1.1 - 2.4 + 0.9 - 0.5) / 4
    assert clipped_surrogate(log_ratio, advantage, clip).item() == pytest.approx(expected)


def test_the_value_loss_weights_each_decision() -> None:
    value, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]])
    # 0.5 (0.25 x 1 + 0.75 x 9) = 3.5
    assert value_loss(value, target, torch.tensor([[0.25, 0.75]])).item() == pytest.approx(3.5)


def one_pair(s, i: int):
    rollout = rollout_of(s)
    obs, chain = (torch.from_numpy(x).flatten(1, 2) for x in (rollout.obs, rollout.chain))
    index = torch.full(obs.shape[:2], i)
    return obs, chain[:, :, i], chain[:, :, i + 1], index


@pytest.mark.parametrize("i", [0, 3])
def test_log_prob_is_the_mean_of_normals_with_the_floored_std_of_what_is_executed(i) -> None:
    s = setting(acting=2, density_std=0.3)
    obs, x, after, index = one_pair(s, i)
    weights, t = s.policy.prepared(s.learner.actor.theta), s.config.tuned - 1 - i
    mean, _ = s.policy.transition(weights, s.policy.features(weights, obs), x, t, s.table)
    std = max(s.policy.schedule(least_std=0.0).std[t].item(), 0.3)
    # T_a = 2 of T_p = 4 actions of 2 dimensions: the first 4 of 8 columns
    expected = Normal(mean, std).log_prob(after)[..., :4].clamp(-5, 2).mean(-1)
    found = log_prob(s.policy, s.table, s.learner.actor.theta, obs, x, after, index)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    other = after.clone()
    other[..., 4:] += 100  # what is not executed has no influence
    again = log_prob(s.policy, s.table, s.learner.actor.theta, obs, x, other, index)
    assert torch.equal(found, again)


def test_elements_of_a_log_prob_are_clamped_before_their_mean() -> None:
    s = setting()
    obs, x, after, index = one_pair(s, 3)
    after = after.clone()
    after[..., 0] += 1e3  # one of eight elements at -5 instead of -1e7
    found = log_prob(s.policy, s.table, s.learner.actor.theta, obs, x, after, index)
    assert (found > -5).all() and (found < 0.8).all()


def test_a_gaussians_log_prob_is_clamped_after_its_mean() -> None:
    s = setting(policy="gaussian", batch_size=12)
    obs, x, after, index = one_pair(s, 0)
    found = log_prob(s.policy, s.table, s.learner.actor.theta, obs, x, after + 1e3, index)
    assert (found == -5).all()


# ------------------------------------------------------------------------------ the update


def first_minibatch(s):
    data = s.ready(rollout_of(s))
    return next(minibatches(data, s.config.batch_size, s.streams["batch"]))


def test_before_the_first_step_every_ratio_is_1() -> None:
    s = setting()
    pairs, states = first_minibatch(s)
    assert set(pairs.i.unique().tolist()) == {0, 1, 2, 3}
    theta = s.learner.actor.theta
    new = log_prob(s.policy, s.table, theta, pairs.obs, pairs.x, pairs.after, pairs.i)
    torch.testing.assert_close(new, pairs.old_log_prob, atol=2e-6, rtol=0)
    on = torch.ones(2)
    _, _, metrics = s.step(s.learner.actor, s.learner.critic, on, on, pairs, states)
    assert (metrics["clip_fraction"] == 0).all() and (metrics["kl"].abs() < 1e-9).all()


@pytest.mark.parametrize("clip", [0.01, 0.2])
def test_at_ratio_1_the_gradient_is_the_plain_policy_gradient_whatever_the_clip(clip) -> None:
    s = setting(clip=clip, clip_base=clip / 10, denoising_discount=0.8, actor_lr=1e-30)
    pairs, states = first_minibatch(s)
    theta = s.learner.actor.theta.clone().requires_grad_()
    logp = log_prob(s.policy, s.table, theta, pairs.obs, pairs.x, pairs.after, pairs.i)
    factor = 0.8 ** (4 - 1 - pairs.i)
    loss = -(standardise(pairs.advantage) * factor * logp).mean(1)
    expected = torch.autograd.grad(loss.sum(), theta)[0]
    on = torch.ones(2)
    actor, *_ = s.step(s.learner.actor, s.learner.critic, on, on, pairs, states)
    # the first moment after one step is 0.1 gradients
    torch.testing.assert_close(actor.adam.first, 0.1 * expected, atol=1e-7, rtol=1e-3)


def test_without_schedules_it_is_ppo_on_pairs_with_the_advantage_copied() -> None:
    s = setting(denoising_discount=1.0, clip=0.2, clip_base=0.2, actor_lr=1e-30)
    pairs, states = first_minibatch(s)
    moved = s.learner.actor._replace(theta=s.learner.actor.theta * 1.2)
    theta = moved.theta.clone().requires_grad_()
    logp = log_prob(s.policy, s.table, theta, pairs.obs, pairs.x, pairs.after, pairs.i)
    ratio = (logp - pairs.old_log_prob).exp()
    a = pairs.advantage
    a = (a - a.mean(1, keepdim=True)) / (a.std(1, keepdim=True) + 1e-8)
    loss = -torch.minimum(a * ratio, a * ratio.clamp(0.8, 1.2)).mean(1)
    expected = torch.autograd.grad(loss.sum(), theta)[0]
    on = torch.ones(2)
    actor, _, metrics = s.step(moved, s.learner.critic, on, on, pairs, states)
    torch.testing.assert_close(metrics["policy_loss"], loss.detach(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(actor.adam.first, 0.1 * expected, atol=1e-7, rtol=1e-3)


def test_one_step_whose_mean_is_set_directly_is_gaussian_ppo() -> None:
    """K = K' = 1: the Gaussian policy; with sums instead of means it is textbook PPO."""
    s = setting(policy="gaussian", batch_size=24, clip=0.2, clip_base=0.1, actor_lr=1e-30)
    pairs, states = first_minibatch(s)
    theta = (s.learner.actor.theta * 1.2).requires_grad_()
    weights = s.policy.prepared(theta)
    mean = blocks(weights, "actor", pairs.obs, 3, torch.relu).tanh()
    logp = Normal(mean, 0.1).log_prob(pairs.after).mean(-1)
    ratio, a = (logp - pairs.old_log_prob).exp(), standardise(pairs.advantage)
    loss = -torch.minimum(a * ratio, a * ratio.clamp(0.8, 1.2)).mean(1)  # u = 1: the top clip
    moved = s.learner.actor._replace(theta=theta.detach())
    # theta * 1.2 has moved the standard deviation of 0.1, too: put it back
    s.policy.network.views(moved.theta)["log_variance"].fill_(2 * math.log(0.1))
    on = torch.ones(2)
    _, _, metrics = s.step(moved, s.learner.critic, on, on, pairs, states)
    torch.testing.assert_close(metrics["policy_loss"], loss.detach(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("size", [12, 48])
def test_the_critics_rows_weigh_what_the_pairs_weigh(size) -> None:
    s = setting(batch_size=size)  # 24 decisions: fewer than 48 pairs, more than 12
    data = s.ready(rollout_of(s))
    rngs = [np.random.default_rng(5) for _ in range(2)]
    order = np.stack([np.random.default_rng(5).permutation(24 * 4)] * 2)
    states = next(minibatches(data, size, rngs))[1]
    assert states.obs.shape[1] == min(size, 24)
    decision = torch.from_numpy(order[:, :size] // 4)
    value = torch.arange(24.0).expand(2, -1)
    # half the mean over pairs of (V - R)^2, decisions repeated
    plain = 0.5 * (value - data.target).square().gather(1, decision).mean(1)
    mine = value if size == 48 else value.gather(1, decision)
    found = value_loss(mine, states.target, states.weight)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)


def test_every_pair_is_in_one_minibatch_and_the_tail_is_dropped() -> None:
    s = setting(batch_size=40)
    data = s.ready(rollout_of(s))
    parts = [pairs for pairs, _ in minibatches(data, 40, s.streams["batch"])]
    assert len(parts) == 2  # 96 pairs: two parts of 40, 16 left
    seen = torch.cat([part.after for part in parts], 1)
    assert len(seen[0].unique(dim=0)) == 80


# ------------------------------------------------------------------------------ returns, scales


def test_advantages_over_chunks_are_the_sum_over_all_later_errors() -> None:
    rng = np.random.default_rng(0)
    reward, value, after = rng.standard_normal((3, 1, 6, 2)).astype(np.float32)
    ended = rng.random((1, 6, 2)) < 0.3
    found, _ = gae(reward, value, after, ~ended, ~ended, 0.99, 0.95)
    delta = reward + 0.99 * after * ~ended - value
    for t in range(6):
        expected, factor = np.zeros((1, 2)), np.ones((1, 2))
        for later in range(t, 6):
            expected += factor * delta[:, later]
            factor *= 0.99 * 0.95 * ~ended[:, later]
        np.testing.assert_allclose(found[:, t], expected, atol=1e-5)


def test_with_lambda_1_targets_are_discounted_sums_of_chunks_and_the_bootstrap() -> None:
    reward, value = np.array([[[1.0], [2.0], [4.0]]]), np.zeros((1, 3, 1))
    on = np.ones((1, 3, 1))
    _, target = gae(reward, value, np.array([[[0.0], [0.0], [8.0]]]), on, on, 0.5, 1.0)
    # 1 + 2 / 2 + 4 / 4 + 8 / 8 = 4; one discount for each chunk, however many actions it has
    assert target[0, 0, 0] == 4


@pytest.mark.parametrize(("correct", "future"), [(True, 0.5 * 8), (False, 0)])
def test_a_time_limit_has_a_future_or_as_released_none(correct, future) -> None:
    s = setting((0,), num_envs=1, num_steps=2, batch_size=8, bootstrap_on_truncation=correct,
                discount=0.5, normalize_reward=False, gae_lambda=1.0)  # fmt: skip
    rollout = rollout_of(s)
    rollout.reward[:] = 1.0
    rollout.terminated[:] = False
    rollout.truncated[:] = True
    s.critic.value = lambda theta, obs: 8 * torch.ones(obs.shape[:2])
    data = s.ready(rollout)
    # R = 1 + gamma V(final) = 1 + 4, or 1
    assert data.target.flatten().tolist() == [1 + future] * 2


def test_the_reward_scale_is_the_release_s() -> None:
    rng = np.random.default_rng(0)
    scaler = RolloutScaler(1, 3)
    mean, var, count, running = 0.0, 1.0, 1e-4, np.zeros(3)
    for _ in range(3):
        reward, first = rng.standard_normal((1, 5, 3)) * 4, rng.random((1, 5, 3)) < 0.3
        sums = []
        for n in range(5):
            running = reward[0, n] + (1 - first[0, n]) * 0.99 * running
            sums.append(running)
        sums = np.concatenate(sums)
        delta, total = sums.mean() - mean, count + 15
        m2 = var * count + sums.var() * 15 + delta**2 * count * 15 / total
        mean, var, count = mean + delta * 15 / total, m2 / (total - 1), total
        found = scaler.scale(reward, first, 0.99)
        expected = np.clip(reward / np.sqrt(var + 1e-8), -10, 10)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_reward_scale_knows_a_rollout_before_it_scales_it_and_clips_at_10() -> None:
    scaler = RolloutScaler(1, 4)
    first = np.zeros((1, 300, 4), bool)
    first[:, 0] = True
    reward = np.ones((1, 300, 4))
    # G_n = (1 - 0.99^(n + 1)) / 0.01 of rewards of 1
    g = (1 - 0.99 ** np.arange(1, 301)) / 0.01
    assert scaler.scale(reward, first, 0.99)[0, 0, 0] == pytest.approx(1 / g.std(), rel=1e-2)
    # one of 2400 sums at 1e6: a std of 1e6 / sqrt(2400), so that it is 49 of them
    reward[0, -1, 0] = 1e6
    assert scaler.scale(reward, first, 0.99).max() == 10


def test_observations_are_scaled_there_and_back_and_constant_ones_are_finite() -> None:
    rng = np.random.default_rng(0)
    low, high = np.array([-3.0, 0.5, 2.0]), np.array([7.0, 0.6, 2.0])  # the last is constant
    normalizer = MinMax(2, 3)
    normalizer.fit(low, high)
    obs = rng.uniform(low, high, (2, 50, 3))
    scaled = normalizer.normalize(obs)
    assert np.isfinite(scaled).all() and abs(scaled).max() < 1 + 1e-4
    back = scaled * normalizer.std.numpy()[:, None] + normalizer.mean.numpy()[:, None]
    np.testing.assert_allclose(back, obs, atol=1e-5)


def test_the_time_is_told_by_sines_then_cosines() -> None:
    # d = 4: rates 1 and 1e-4
    found = sinusoid(torch.tensor([2]), 4)[0].tolist()
    assert found == pytest.approx([math.sin(2), math.sin(2e-4), math.cos(2), math.cos(2e-4)])


def test_blocks_are_residual_or_a_plain_perceptron() -> None:
    weights = {f"n.{i}.weight": torch.full((1, 1, 1), 2.0) for i in range(4)}
    weights |= {f"n.{i}.bias": torch.zeros(1, 1, 1) for i in range(4)}
    x = torch.full((1, 1, 1), -1.0)
    net = SimpleNamespace(weights=weights, name="n", x=x, depth=3, unit=torch.relu)
    # residual: -2; -2 + 2 relu(2 relu(-2)) = -2; 2 x -2 = -4. plain: relu gives 0 throughout
    assert blocks(**vars(net)).item() == -4
    assert blocks(**vars(net), residual=False).item() == 0
