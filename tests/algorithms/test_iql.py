"""IQL: objectives, the invariants and traps of the fact sheet by number, and whole steps against
one seed's written with torch.nn, torch.distributions and torch.optim from the sheet."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from offline_setting import (
    ACTIONS,
    HIGH,
    LOW,
    OBS,
    MemoryRun,
    PlainActor,
    PlainCritics,
    as_in_a_run,
    batch_of,
    flat,
    follow,
    logged,
    normals,
    plain_mlp,
    tensors,
    thetas,
)
from torch.distributions import Normal
from torch.nn.functional import mse_loss

from rlsuite.algorithms.offline import iql
from rlsuite.algorithms.offline.iql import (
    Config,
    Networks,
    State,
    actor_loss,
    advantage_weight,
    critic_loss,
    distribution,
    expectile_loss,
    iql_step,
    reward_scale,
    train,
)
from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.critics import Critics, StateValue
from rlsuite.core.optim import Net, gradient
from rlsuite.core.streams import Streams

# Where tests are in float64, tau has few binary digits: the update weighs with a float32 copy of it
STILL = 1e-30  # a learning rate that moves nothing: Adam's first moment is 0.1 gradients


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def setting(seeds=(0, 1), rows=32, dtype=torch.float64, **changes) -> SimpleNamespace:
    """Networks, a target other than the critics, and a batch of every seed."""
    config = Config(**{"batch_size": rows, "hidden": (16, 8), **changes})
    rngs = Streams(seeds)["init"]
    policy = BoundedActor(OBS, LOW, HIGH, rngs=rngs, hidden=config.hidden, log_std=-0.5).to(dtype)
    critics, values = Critics(OBS, ACTIONS, config.hidden), StateValue(OBS, config.hidden)
    value, critic = (x.initial(rngs).to(dtype) for x in (values, critics))
    target = critic + 0.5 * normals(seeds, critic.shape[1], dtype=dtype)
    state = State(Net.of(policy.theta), Net.of(value), Net.of(critic), target)
    batch, lr = batch_of(seeds, rows, dtype), torch.tensor(config.actor_lr)
    step = partial(iql_step, Networks(policy, critics, values), config)
    return SimpleNamespace(**locals())


class PlainIQL:
    """One seed as section 4 of the sheet has it."""

    def __init__(self, s: SimpleNamespace, seed: int) -> None:
        actor, value, critic, target = (x[seed] for x in thetas(s.state))
        self.config, self.actor = s.config, PlainActor(s.policy, actor)
        self.value = plain_mlp(s.values.layout, value, "v")
        self.critic, self.target = (PlainCritics(s.critics.layout, x) for x in (critic, target))
        networks = (self.actor, self.value, self.critic)
        adams = (torch.optim.Adam(x.parameters(), s.config.actor_lr) for x in networks)
        self.actor_adam, self.value_adam, self.critic_adam = adams

    def minimise(self, adam: torch.optim.Adam, loss: torch.Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()

    def step(self, batch: TransitionBatch, actor_lr: float) -> None:
        obs, action, reward, next_obs, done = batch
        with torch.no_grad():
            q = torch.min(*self.target(obs, action))
        u = q - self.value(obs)[:, 0]
        below = (u < 0).to(u.dtype)
        self.minimise(self.value_adam, ((self.config.expectile - below).abs() * u**2).mean())
        with torch.no_grad():
            w = (self.config.temperature * (q - self.value(obs)[:, 0])).exp().clamp(max=100)
        std = self.actor.log_std.clamp(-5, 2).exp()
        log_prob = Normal(self.actor(obs), std).log_prob(action).sum(1)
        self.actor_adam.param_groups[0]["lr"] = actor_lr
        self.minimise(self.actor_adam, -(w * log_prob).mean())
        with torch.no_grad():
            y = reward + 0.99 * (1 - done) * self.value(next_obs)[:, 0]
        q1, q2 = self.critic(obs, action)
        self.minimise(self.critic_adam, mse_loss(q1, y) + mse_loss(q2, y))
        follow(self.target, self.critic, 0.005)

    def networks(self) -> list[torch.nn.Module]:
        return [self.actor, self.value, self.critic, self.target]


# --------------------------------------------------------------------------------- objectives


def test_objectives_by_hand():
    # u = q - V = 1, -2: (0.7 * 1 + 0.3 * 4)/2 = 0.95; the other seed -1, 3: (0.3 + 6.3)/2 = 3.3
    value, q = torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    torch.testing.assert_close(expectile_loss(value, q, 0.7), torch.tensor([0.95, 3.3]))
    # exp(3 * 0.5) = 4.481689, exp(0) = 1, exp(3 * 2) = 403.4 is cut to 100
    weight = advantage_weight(torch.tensor([[0.5, 0.0, 2.0]]), 3.0, 100.0)
    torch.testing.assert_close(weight, torch.tensor([[4.481689, 1.0, 100.0]]))
    # -(2 * -1 + 3 * 0.5)/2 = 0.25
    log_prob, weight = torch.tensor([[-1.0, 0.5]]), torch.tensor([[2.0, 3.0]])
    torch.testing.assert_close(actor_loss(log_prob, weight), torch.tensor([0.25]))
    torch.testing.assert_close(critic_loss(value, q), torch.tensor([2.5, 5.0]))


# --------------------------------------------------------------------- invariants of section 8


def test_8_iql_expectile_half_is_regression():
    s = setting(expectile=0.5, actor_lr=STILL, critic_lr=STILL)
    after, _ = s.step(s.state, s.batch, s.lr)
    for seed in (0, 1):
        plain = PlainIQL(s, seed)
        obs, action = s.batch.obs[seed], s.batch.action[seed]
        q = torch.min(*plain.target(obs, action)).detach()
        (0.5 * mse_loss(plain.value(obs)[:, 0], q)).backward()
        grad = torch.cat([p.grad.flatten() for p in plain.value.parameters()])
        torch.testing.assert_close(10 * after.value.adam.first[seed], grad, rtol=0, atol=1e-12)
        assert grad.abs().max() > 1e-3


@pytest.mark.parametrize("tau", [0.125, 0.5, 0.75, 0.875])
def test_8_iql_the_expectile_of_two_values_is_tau(tau):
    # Of q = 0 and 1 alike, tau (1 - v)^2 + (1 - tau) v^2 is least at v = tau
    value = torch.full((1, 2), tau, dtype=torch.float64, requires_grad=True)
    expectile_loss(value, torch.tensor([[0.0, 1.0]], dtype=torch.float64), tau).sum().backward()
    assert value.grad.sum().abs() < 1e-12
    assert value.grad.abs().max() > 0.01


def test_8_iql_v_increases_with_tau():
    # The target critics stand still; V is fitted to them at one state, where actions differ
    batch = batch_of((0, 1), 64)
    batch = batch._replace(obs=batch.obs[:, :1].expand(-1, 64, -1))
    means, q = [], None
    for tau in (0.5, 0.75, 0.95):
        s = setting(expectile=tau, polyak=0.0, actor_lr=0.02, critic_lr=0.02, dtype=torch.float32)
        state = s.state
        for _ in range(80):
            state, metrics = s.step(state, batch, s.lr)
        means.append(metrics["value"])
        q = s.critics.values(s.state.critic_target, batch.obs, batch.action).amin(1)
    means = torch.stack(means)
    assert (means.diff(dim=0) > 0.1 * q.std(1)).all()
    torch.testing.assert_close(means[0], q.mean(1), rtol=0, atol=0.05 * q.std(1).min().item())
    assert (means[-1] < q.amax(1)).all()


def test_8_iql_no_policy_action_enters_a_target():
    s = setting()
    actor, after = s.state.actor.theta, []
    for theta in (actor, actor + 3 * normals((5, 6), actor.shape[1])):
        state = s.state._replace(actor=Net.of(theta))
        for _ in range(3):
            state, _ = s.step(state, s.batch, s.lr)
        after.append(thetas(state))
    (first, *others), (second, *same) = after
    assert not torch.equal(first, second)
    assert all(torch.equal(*pair) for pair in zip(others, same, strict=True))


def equal_advantages(s: SimpleNamespace, advantage: float) -> State:
    """V = 0 everywhere and, by its biases alone, min Q_target = `advantage`."""
    critic = torch.zeros_like(s.state.critic_target)
    for one, more in zip(critic.chunk(2, 1), (0.0, 1.0), strict=True):
        s.critics.layout.views(one)["q.2.bias"].fill_(advantage + more)
    value = Net.of(torch.zeros_like(s.state.value.theta))
    return s.state._replace(critic_target=critic, value=value)


@pytest.mark.parametrize(
    ("advantage", "weight"),
    [(0.4, math.exp(1.2)), (-0.4, math.exp(-1.2)), (2.0, 100.0), (1e6, 100.0), (-1e6, 0.0)],
)
def test_8_iql_equal_advantages_are_cloning_with_one_weight_of_at_most_100(advantage, weight):
    s = setting(actor_lr=STILL, critic_lr=STILL)  # exp(3 * 0.4) = exp(1.2)
    after, metrics = s.step(equal_advantages(s, advantage), s.batch, s.lr)
    torch.testing.assert_close(metrics["weight"], torch.full((2,), weight, dtype=torch.float64))

    def cloning(actor):
        pi = distribution(s.policy, s.config, actor, s.batch.obs)
        return -pi.log_prob(s.batch.action).mean(1), {}

    grad, _ = gradient(cloning, s.state.actor.theta)
    first = after.actor.adam.first
    torch.testing.assert_close(10 * first, weight * grad, rtol=1e-9, atol=1e-12)
    assert grad.abs().max() > 0.1


def test_without_temperature_every_action_weighs_the_same():
    s = setting(temperature=0.0)
    _, metrics = s.step(s.state, s.batch, s.lr)
    assert metrics["weight"].tolist() == [1, 1]


# ----------------------------------------------------------------------- traps of section 6


def test_6_4_v_and_actor_take_the_smaller_target_and_the_actor_the_new_v():
    s = setting(actor_lr=0.05, critic_lr=0.05)
    moved, metrics = s.step(s.state, s.batch, torch.tensor(STILL))
    obs, action = s.batch.obs, s.batch.action
    both = s.critics.values(s.state.critic_target, obs, action)
    q = both.amin(1)
    assert (q < both[:, 0]).any()
    assert (q < both[:, 1]).any()
    old, new = (s.values.values(x.value.theta, obs) for x in (s.state, moved))
    torch.testing.assert_close(metrics["value_loss"], expectile_loss(old, q, 0.7))
    weight = (3 * (q - new)).exp().clamp(max=100)
    torch.testing.assert_close(metrics["weight"], weight.mean(1))
    log_prob = distribution(s.policy, s.config, s.state.actor.theta, obs).log_prob(action)
    torch.testing.assert_close(metrics["actor_loss"], -(weight * log_prob).mean(1))
    # ... and Q is fitted to the new V
    future = (1 - s.batch.terminated) * s.values.values(moved.value.theta, s.batch.next_obs)
    y = s.batch.reward + 0.99 * future
    values = s.critics.values(s.state.critic.theta, obs, action)
    error = (values - y[:, None]).square().mean(2).sum(1)
    torch.testing.assert_close(metrics["critic_loss"], error)
    assert (new - old).abs().min() > 1e-6


# ---------------------------------------------------------------------------------- the update


@pytest.mark.parametrize(("tau", "beta"), [(0.75, 3.0), (0.875, 10.0)])
def test_steps_are_those_of_one_seed_in_plain_torch(tau, beta):
    s = setting(expectile=tau, temperature=beta, actor_lr=2**-8, critic_lr=2**-8)
    plain, state = [PlainIQL(s, seed) for seed in (0, 1)], s.state
    for k in range(6):
        batch, lr = batch_of((10 * k, 10 * k + 1), 32, torch.float64), 2.0 ** (-8 - k)
        state, _ = s.step(state, batch, torch.tensor(lr))
        for seed in (0, 1):
            plain[seed].step(TransitionBatch(*(x[seed] for x in batch)), lr)
    for seed in (0, 1):
        for ours, network in zip(thetas(state), plain[seed].networks(), strict=True):
            torch.testing.assert_close(ours[seed], flat(network), rtol=0, atol=1e-9)
    for name in ("actor", "value", "critic"):
        new, old = (getattr(x, name).theta for x in (state, s.state))
        assert (new - old).abs().max() > 5e-3
    log_std = (s.policy.layout.views(x.actor.theta)["log_std"] for x in (state, s.state))
    assert (next(log_std) != next(log_std)).all()


def test_float32_does_as_float64():
    s, double = setting(dtype=torch.float32), setting()
    state, exact = s.state, double.state
    for _ in range(5):
        state, _ = s.step(state, s.batch, s.lr)
        exact, _ = double.step(exact, double.batch, double.lr)
    for ours, theirs in zip(thetas(state), thetas(exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-6)


def test_log_sigma_is_bounded_and_the_mean_is_inside_the_box():
    s = setting()
    for given, used in ((-9.0, -5.0), (-0.5, -0.5), (7.0, 2.0)):
        actor = 9 * s.state.actor.theta
        s.policy.layout.views(actor)["log_std"].fill_(given)
        pi = distribution(s.policy, s.config, actor, s.batch.obs)
        assert pi.log_std.unique().tolist() == [used]
        low, high = (torch.tensor(x, dtype=torch.float64) for x in (LOW, HIGH))
        assert ((pi.mean >= low) & (pi.mean <= high)).all()


@pytest.mark.parametrize("width", [32, 256])
def test_a_seed_moves_to_the_same_bits_alone_and_in_company(width):
    changes = {"hidden": (width, width), "rows": width, "dtype": torch.float32}
    with as_in_a_run(width):
        alone, company = (setting(seeds, **changes) for seeds in ((3,), range(5)))
        mine, theirs = alone.state, company.state
        for _ in range(3):
            mine, my_metrics = alone.step(mine, alone.batch, alone.lr)
            theirs, metrics = company.step(theirs, company.batch, company.lr)
    for a, b in zip(tensors(mine), tensors(theirs), strict=True):
        assert torch.equal(a[0], b[3])
    assert all(torch.equal(my_metrics[name][0], metrics[name][3]) for name in metrics)
    assert not torch.equal(theirs.actor.theta[2], theirs.actor.theta[3])


# -------------------------------------------------------------------------------------- train

# Returns 3, -1, 4 and 2: they span 5, so that rewards are multiplied by 200
DATA = logged([3, 2, 4, 1], rewards=[1, 1, 1, 0, -1, 1, 1, 1, 1, 2])


def trained(monkeypatch, data=DATA, **changes) -> tuple[MemoryRun, list]:
    """The run, and (batch, actor's learning rate) of every step."""
    calls, step = [], iql.iql_step

    def recorded(nets, config, state, batch, actor_lr):
        calls.append((batch, actor_lr.item()))
        return step(nets, config, state, batch, actor_lr)

    monkeypatch.setattr(iql, "iql_step", recorded)
    values = {"gradient_steps": 4, "steps_per_iteration": 2, "batch_size": 16, "hidden": (16, 8)}
    run = MemoryRun(data)
    train(Config(**values | changes), run)
    return run, calls


def test_7_4_scaled_episode_returns_span_1000(monkeypatch):
    assert reward_scale(Config(), DATA) == pytest.approx(200)
    assert reward_scale(Config(scale_rewards=False), DATA) == 1
    data = logged([7, 9, 30, 1])
    scaled = reward_scale(Config(), data) * data.episode_returns()
    assert scaled.max() - scaled.min() == pytest.approx(1000)
    _, calls = trained(monkeypatch, reward_shift=0.5)
    assert set(calls[0][0].reward.unique().tolist()) == {-199.5, 0.5, 200.5, 400.5}


def test_6_7_in_a_maze_rewards_are_shifted_and_not_scaled(monkeypatch):
    _, calls = trained(monkeypatch, scale_rewards=False, reward_shift=-1.0)
    assert set(calls[0][0].reward.unique().tolist()) == {-2, -1, 0, 1}


def test_returns_that_are_all_the_same_cannot_be_scaled():
    same = logged([2, 1, 2], rewards=[1, 2, 3, 2, 1])
    with pytest.raises(ValueError, match="every episode returns 3; add --no-scale-rewards"):
        reward_scale(Config(), same)
    assert reward_scale(Config(scale_rewards=False), same) == 1


def test_actions_stay_a_margin_inside_the_box(monkeypatch):
    ends = np.array([LOW, HIGH, [0, 0.5], [1.999, 0.25], HIGH], np.float32).repeat(2, 0)
    data = logged([3, 2, 4, 1], DATA.reward, action=ends)
    _, calls = trained(monkeypatch, data, action_margin=1e-2)
    action = calls[0][0].action
    # Half widths (2, 1/2), of which a hundredth is kept away: +-1.98 and 0.5 +- 0.495
    assert set(action[..., 0].unique().tolist()) == {np.float32(x) for x in (-1.98, 0, 1.98)}
    allowed = torch.tensor([0.005, 0.25, 0.5, 0.995])
    torch.testing.assert_close(action[..., 1].unique(), allowed)


def test_the_actors_learning_rate_falls_along_a_cosine(monkeypatch):
    # (1 + cos(pi t/4))/2 for t = 0..3: 1, 0.853553, 0.5, 0.146447
    _, calls = trained(monkeypatch)
    assert [lr / 3e-4 for _, lr in calls] == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
    _, calls = trained(monkeypatch, anneal_lr=False)
    assert [lr for _, lr in calls] == pytest.approx([3e-4] * 4)


def test_train_begins_with_equal_targets_and_saves_the_actor_alone(monkeypatch):
    run, calls = trained(monkeypatch)
    start, last = run.states[0], run.states[-1]
    assert torch.equal(start.state.critic.theta, start.state.critic_target)
    assert torch.equal(start.state.actor.theta, start.policy.theta)
    assert start.policy.layout.views(start.policy.theta)["log_std"].unique().tolist() == [0]
    assert torch.equal(last.policy.theta, last.state.actor.theta)
    for net in (last.state.actor, last.state.value, last.state.critic):
        assert net.adam.steps.flatten().tolist() == [4, 4]
    assert torch.equal(last.policy.normalizer.mean, torch.zeros(2, OBS))
    run, _ = trained(monkeypatch, normalize_obs=True)
    mean = run.states[-1].policy.normalizer.mean[1]
    np.testing.assert_allclose(mean, DATA.obs.mean(0, dtype=np.float64), rtol=1e-6)
    assert calls[0][0].obs.shape == (2, 16, OBS)
