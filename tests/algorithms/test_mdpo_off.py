"""Off-policy MDPO: objectives by hand, SAC as its special case, whole steps in plain torch."""

import math
from pathlib import Path

import pytest
import torch
from off_policy_setting import Constant, Plain, run_of, setting, transitions
from offline_setting import as_in_a_run, flat, follow, tensors
from torch.distributions import TanhTransform, TransformedDistribution
from torch.nn.functional import mse_loss

from rlsuite.algorithms.off_policy import mdpo_off, sac
from rlsuite.algorithms.off_policy.mdpo_off import (
    Config,
    State,
    actor_loss,
    refreshed,
    soft_target,
    tsallis_log,
)
from rlsuite.core.optim import Net
from rlsuite.core.squashed import TanhGaussian
from rlsuite.reading.comparison import compare, counts

QS = pytest.mark.parametrize("q", [1.0, 1.4, 2.0])


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


# --------------------------------------------------------------------------------- objectives


def test_the_actors_loss_by_hand():
    # c 1, lambda 0.2, log pi -1, log pi_k -2, Q 3. q 1: -1 + (-0.8)(-2) - 3 = -2.4
    # q 2: -1 + 2 * 1.6 - 3 = -0.8
    new, old, value = (torch.full((1, 1), x) for x in (-1.0, -2.0, 3.0))
    torch.testing.assert_close(actor_loss(new, old, value, 1.0, 0.2, 1.0), torch.tensor([-2.4]))
    torch.testing.assert_close(actor_loss(new, old, value, 1.0, 0.2, 2.0), torch.tensor([-0.8]))


def test_where_c_is_lambda_the_old_policy_is_left_out_and_not_multiplied_by_zero():
    new, value = torch.zeros(1, 2), torch.ones(1, 2)
    old = torch.full((1, 2), -math.inf)
    assert actor_loss(new, old, value, 0.2, 0.2, 1.0).tolist() == [-1.0]


def test_without_entropy_at_the_old_policy_the_loss_is_minus_q_and_the_divergence_is_flat():
    # log pi - log pi_k is 0 for every y, so -Q is left. Its gradient is (z / sigma, z^2 - 1) in
    # mean and log sigma: over the draws z = 1 and z = -1 that is 0
    parameters = torch.tensor([0.3, -0.7], requires_grad=True)
    mean, log_std = (x.view(1, 1, 1).expand(1, 2, 1) for x in parameters)
    noise = torch.tensor([[[1.0], [-1.0]]])
    pre_tanh, density = TanhGaussian(mean, log_std).draw(noise)
    old = TanhGaussian(mean.detach(), log_std.detach()).log_density(pre_tanh)
    value = torch.tensor([[2.0, 4.0]])
    loss = actor_loss(density.sum(-1), old.sum(-1), value, 1.0, 0.0, 1.0)
    assert loss.item() == pytest.approx(-3.0, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), parameters)
    torch.testing.assert_close(gradient, torch.zeros(2), rtol=0, atol=1e-6)
    single = actor_loss(density[:, :1, 0], old[:, :1, 0], value[:, :1], 1.0, 0.0, 1.0)
    assert single.item() == pytest.approx(-2.0, abs=1e-6)


def test_tsallis_logarithms_by_hand():
    x = torch.tensor([0.25, 1.0, 3.0, 50.0], dtype=torch.float64)

    def log_q(q: float) -> torch.Tensor:
        return tsallis_log(x.log()[None, :, None], q)[0]

    torch.testing.assert_close(log_q(1.0), x.log())
    torch.testing.assert_close(log_q(1 + 1e-6), x.log(), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(log_q(2.0), x - 1)
    torch.testing.assert_close(log_q(1.5), 2 * (x.sqrt() - 1))
    for q in (1.0, 1.2, 2.0):
        assert log_q(q)[1] == 0 and (log_q(q).diff() > 0).all()
    # the sum over dimensions, each of them no less than 1e-6: -1 + 1e-6 for q = 2, twice
    density = torch.tensor([[[-50.0, -60.0]]])
    torch.testing.assert_close(tsallis_log(density, 2.0), torch.tensor([[-2 + 2e-6]]))
    assert tsallis_log(density, 1.0).tolist() == [[-110.0]]  # the exact one has no floor


@pytest.mark.parametrize("mean", [0.0, 10.0, 100.0])
@QS
def test_densities_are_finite_with_their_gradients_where_the_tanh_saturates(q, mean):
    leaf = torch.full((1, 1, 1), mean, requires_grad=True)
    floor = Config(tsallis_q=q).floor
    assert floor == (0 if q == 1 else 1e-6)
    pi = TanhGaussian(leaf, torch.zeros(1, 1, 1))
    _, density = pi.draw(torch.zeros(1, 1, 1), floor)
    value = tsallis_log(density, q)
    value.sum().backward()
    assert value.isfinite().all() and leaf.grad.isfinite().all()


def test_the_floor_changes_no_density_where_the_tanh_is_not_saturated():
    noise = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64).view(1, -1, 1)
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    pre_tanh, density = TanhGaussian(zero, zero).draw(noise, 1e-6)
    normal = TransformedDistribution(torch.distributions.Normal(0.0, 1.0), TanhTransform())
    expected = normal.log_prob(torch.tanh(pre_tanh))
    torch.testing.assert_close(density, expected, rtol=0, atol=1e-4)


def test_a_termination_has_no_future():
    # r 1, gamma 0.99, targets (10, 12), lambda 0.2, log pi -3: 1 + 0.99 (10 + 0.6) = 11.494
    simple, batch = Constant(), transitions((0,), 2, torch.float32)
    batch = batch._replace(reward=torch.ones(1, 2), terminated=torch.tensor([[0.0, 1.0]]))
    batch.next_obs[0, :, 0] = 1.0
    nothing = Net.of(torch.zeros(1, 1))
    state = State(nothing, nothing, torch.zeros(1, 1), torch.zeros(1, 1))
    y = soft_target(simple, simple, Config(), state, batch, torch.zeros(1, 2, 1))
    torch.testing.assert_close(y, torch.tensor([[11.494, 1.0]]))


@QS
def test_targets_follow_their_rows(q):
    """A batch in another order, with its noise, has its targets in that order."""
    s = setting(mdpo_off, tsallis_q=q)
    given = s.policy, s.critics, s.config, s.state
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    shuffled = type(s.batch)(*(x[:, order] for x in s.batch))
    y = soft_target(*given, s.batch, s.noise[:, 0])
    torch.testing.assert_close(soft_target(*given, shuffled, s.noise[:, 0, order]), y[:, order])


# --------------------------------------------------------------------------------------- SAC


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_c_equal_to_lambda_its_steps_are_those_of_sac_with_a_fixed_temperature(dtype):
    twin = sac.PRESETS["twin"]["*"]
    theirs = setting(sac, dtype=dtype, **twin)
    ours = setting(mdpo_off, dtype=dtype, kl_coef=0.2, temperature=0.2)
    # Another policy of the past does not matter then
    mine, other = ours.state._replace(old=0 * ours.state.old), theirs.state
    for _ in range(3):
        mine, metrics = ours.cycle(mine, ours.batch, ours.noise)
        other, expected = theirs.cycle(other, theirs.batch, theirs.noise)
        for name, value in expected.items():
            torch.testing.assert_close(metrics[name], value, rtol=1e-6, atol=1e-6)
    for name in ("actor", "critic", "critic_target"):
        pairs = zip(tensors(getattr(mine, name)), tensors(getattr(other, name)), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_with_another_c_they_are_not():
    s = setting(mdpo_off)
    s.state = s.state._replace(old=s.state.old + 0.1)
    same = setting(mdpo_off, kl_coef=0.2)
    gradients = []
    for each in (s, same):
        moved, _ = each.cycle(s.state, s.batch, s.noise)
        gradients.append(moved.actor.adam.first)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_it_is_sac_but_for_its_idea():
    """Rows of `rlsuite compare sac mdpo_off` in sections 4 to 7 that differ, at most 60."""
    sources = (Path(module.__file__).read_text() for module in (sac, mdpo_off))
    sections = compare(*sources)
    rows = [row for n in (4, 5, 6, 7) for part in sections.get(n, {}).values() for row in part]
    assert sum(a != b for a, b in rows) <= 60
    assert counts(rows)[2] > 60  # and that they have in common


# ------------------------------------------------------------------------- whole steps, plain


class PlainMDPO(Plain):
    """One seed as section 3 of the sheet has it, with two critics."""

    def __init__(self, s, seed: int) -> None:
        super().__init__(s, seed)
        self.old = type(self.actor)(s.policy, s.state.old[seed]).requires_grad_(False)

    def log_q(self, normal, pre_tanh: torch.Tensor) -> torch.Tensor:
        density, q = normal.log_prob(pre_tanh), self.config.tsallis_q
        slope = 1 - torch.tanh(pre_tanh) ** 2
        if q == 1:
            return (density - slope.log()).sum(1)
        x = (density - (slope + 1e-6).log()).exp().clamp(min=1e-6)
        return ((x ** (q - 1) - 1) / (q - 1)).sum(1)

    def step(self, batch, noise: torch.Tensor) -> None:
        obs, y, reward, next_obs, done = batch
        c, lam, q = self.config.kl_coef, self.config.temperature, self.config.tsallis_q
        with torch.no_grad():
            pi = self.actor(next_obs)
            u = pi.mean + pi.stddev * noise[0]
            future = torch.min(*self.critic_target(next_obs, u.tanh())) - lam * self.log_q(pi, u)
            target = reward + 0.99 * (1 - done) * future
        loss = sum(mse_loss(value, target) for value in self.critic(obs, y))
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        pi = self.actor(obs)
        u = pi.mean + pi.stddev * noise[1]
        past = self.log_q(self.old(obs), u)
        value = torch.min(*self.critic(obs, u.tanh()))
        loss = (c * self.log_q(pi, u) + q * (lam - c) * past - value).mean()
        self.actor_adam.zero_grad()
        loss.backward()
        self.actor_adam.step()
        follow(self.critic_target, self.critic, 0.005)


@QS
def test_whole_steps_are_those_of_plain_torch(q):
    s = setting(mdpo_off, tsallis_q=q)
    s.state = s.state._replace(old=s.state.old + 0.05)
    state, plain = s.state, [PlainMDPO(s, seed) for seed in (0, 1)]
    for _ in range(3):
        state, _ = s.cycle(state, s.batch, s.noise)
        for seed, theirs in enumerate(plain):
            theirs.step([x[seed] for x in s.batch], s.noise[seed])
    assert torch.equal(state.old, s.state.old)
    for seed, theirs in enumerate(plain):
        pairs = [
            (state.actor.theta, flat(theirs.actor)),
            (state.critic.theta, flat(theirs.critic)),
            (state.critic_target, flat(theirs.critic_target)),
        ]
        for ours, expected in pairs:
            torch.testing.assert_close(ours[seed], expected, rtol=1e-5, atol=1e-8)


# -------------------------------------------------------------------------- the previous policy


def test_the_previous_policy_is_renewed_at_step_0_and_every_m_steps_and_at_no_other(monkeypatch):
    seen = []

    def watched(config, learner):
        before = learner.state
        after = refreshed(config, learner)
        renewed = after is not before
        assert torch.equal(after.old, before.actor.theta if renewed else before.old)
        seen.append((learner.buffer.added, renewed))
        return after

    monkeypatch.setattr(mdpo_off, "refreshed", watched)
    sizes = {"env_steps": 96, "steps_per_iteration": 32, "batch_size": 8, "hidden": (8,)}
    run = run_of()
    mdpo_off.train(Config(**sizes, warm_up=0, refresh_every=24, num_envs=2), run)
    assert [step for step, _ in seen] == list(range(0, 96, 2))
    assert [step for step, renewed in seen if renewed] == [0, 24, 48, 72]
    start = run.states[0].state
    assert torch.equal(start.old, start.actor.theta)
    assert torch.equal(run.states[0].policy.theta, start.actor.theta)
