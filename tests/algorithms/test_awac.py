"""AWAC: objectives by hand, the fact sheet's invariants and traps, and whole steps against one
seed's written with torch.nn, torch.distributions and torch.optim from the sheet."""

import json
import math
from collections.abc import Callable
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
    PlainCritics,
    PlainPolicy,
    as_in_a_run,
    batch_of,
    flat,
    follow,
    logged,
    normals,
    tensors,
    thetas,
)
from torch.distributions import Normal
from torch.nn.functional import mse_loss

from rlsuite.algorithms.offline import awac
from rlsuite.algorithms.offline.awac import (
    Config,
    State,
    awac_step,
    reward_scale,
    train,
)
from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.critics import Critics
from rlsuite.core.gaussian import GaussianActor
from rlsuite.core.optim import Net, gradient
from rlsuite.core.saving import load_policy
from rlsuite.core.squashed import SquashedActor
from rlsuite.core.streams import Streams
from rlsuite.core.weights import EQUAL, effective_size, regression_loss, regression_weights

STILL = 1e-30  # a learning rate that moves nothing: Adam's first moment is 0.1 gradients
KINDS = pytest.mark.parametrize("squashed", [False, True], ids=["gaussian", "squashed"])


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def setting(seeds=(0, 1), rows=32, dtype=torch.float64, **changes) -> SimpleNamespace:
    """Networks, a target other than the critics, a batch and its noise of every seed."""
    config = Config(**{"batch_size": rows, "hidden": (16, 8), "polyak": 0.25, **changes})
    rngs = Streams(seeds)["init"]
    if config.squashed:
        policy = SquashedActor(OBS, LOW, HIGH, rngs=rngs, hidden=config.hidden).to(dtype)
    else:
        network = {"rngs": rngs, "hidden": config.hidden, "log_std": -0.5}
        policy = GaussianActor(OBS, LOW, HIGH, **network).to(dtype)
    critics = Critics(OBS, ACTIONS, config.hidden)
    critic = critics.initial(rngs).to(dtype)
    target = critic + 0.5 * normals(seeds, critic.shape[1], dtype=dtype)
    state = State(Net.of(policy.theta), Net.of(critic), target)
    batch = batch_of(seeds, rows, dtype)
    noise = normals(seeds, 2 * rows, ACTIONS, dtype=dtype)
    step = partial(awac_step, policy, critics, config)
    return SimpleNamespace(**locals())


def constant(s: SimpleNamespace, values: tuple[float, float]) -> torch.Tensor:
    """Parameters of two critics that say `values` wherever they are asked."""
    theta = torch.zeros_like(s.state.critic_target)
    for one, value in zip(theta.chunk(2, 1), values, strict=True):
        s.critics.layout.views(one)["q.2.bias"].fill_(value)
    return theta


class PlainAWAC:
    """One seed as section 3 of the sheet has it: critic, actor with the new critics, targets."""

    def __init__(self, s: SimpleNamespace, seed: int) -> None:
        actor, critic, target = (x[seed] for x in thetas(s.state))
        self.config, self.actor = s.config, PlainPolicy(s.policy, actor.clone())
        self.critic, self.target = (PlainCritics(s.critics.layout, x) for x in (critic, target))
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), s.config.actor_lr)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), s.config.critic_lr)

    def step(self, batch: TransitionBatch, noise: torch.Tensor) -> None:
        obs, action, reward, next_obs, done = batch
        there, here = noise.chunk(2)
        with torch.no_grad():
            q_next = torch.min(*self.target(next_obs, self.actor.sample(next_obs, there)))
            y = reward + 0.99 * (1 - done) * q_next
        q1, q2 = self.critic(obs, action)
        self.critic_adam.zero_grad()
        (mse_loss(q1, y) + mse_loss(q2, y)).backward()
        self.critic_adam.step()
        with torch.no_grad():
            v = torch.min(*self.critic(obs, self.actor.sample(obs, here)))
            advantage = torch.min(*self.critic(obs, action)) - v
            w = (advantage / self.config.temperature).exp().clamp(max=self.config.max_weight)
        self.actor_adam.zero_grad()
        (-w * self.actor.log_prob(obs, action)).mean().backward()
        self.actor_adam.step()
        follow(self.target, self.critic, self.config.polyak)

    def networks(self) -> list[torch.nn.Module]:
        return [self.actor, self.critic, self.target]


# --------------------------------------------------------------------------------- objectives


def test_objectives_by_hand():
    # exp(0.5/0.25) = e^2 = 7.389056, exp(0) = 1, exp(-0.25/0.25) = 0.367879, e^8 is cut to 100
    advantage, q = torch.tensor([[0.5, 0.0, -0.25, 2.0]]), torch.ones(1, 4)
    weight, _ = regression_weights(advantage, q, 1 / 0.25, 100.0)
    torch.testing.assert_close(weight, torch.tensor([[7.389056, 1.0, 0.367879, 100.0]]))
    # -(2 * -1 + 3 * 0.5)/2 = 0.25
    log_prob, weight = torch.tensor([[-1.0, 0.5]]), torch.tensor([[2.0, 3.0]])
    torch.testing.assert_close(regression_loss(log_prob, weight), torch.tensor([0.25]))
    # (3 + 1)^2 / (9 + 1) = 1.6; equal weights count in full, however small; one alone counts 1
    weight = torch.tensor([[3.0, 1.0, 0.0], [1e-25, 1e-25, 1e-25], [100.0, 0.0, 0.0]])
    torch.testing.assert_close(effective_size(weight), torch.tensor([1.6, 3.0, 1.0]))
    assert effective_size(torch.zeros(1, 4)).tolist() == [0]


def test_target_by_hand():
    # No hidden layer, weights 0, biases (0.5, -3) in half widths (2, 1/2) around (0, 1/2), sigma 1:
    # noise (0.25, 0.5): (0.75, -2.5) -> a' = (1.5, 0), clipped from -0.75 to the box
    # noise (-0.5, 4): (0, 1) -> (0, 1)
    config = Config(hidden=(2,), discount=0.5)
    policy = GaussianActor(OBS, LOW, HIGH, rngs=[np.random.default_rng(0)], hidden=(), log_std=0.0)
    actor = torch.zeros(1, policy.layout.size)
    policy.layout.views(actor)["actor.0.bias"][0, 0] = torch.tensor([0.5, -3.0])
    critics = Critics(OBS, ACTIONS, ())
    # Q_1 = a_1 + 10 a_2: 1.5, 10; Q_2 = 5 a_1 + 1: 8.5, 1; the smaller ones are 1.5 and 1
    target = torch.tensor([[0, 0, 0, 1, 10, 0, 0, 0, 0, 5, 0, 1.0]])
    online = torch.full_like(target, 0.5)
    state = State(Net.of(actor), Net.of(online), target)
    obs, zeros = torch.zeros(1, 3, OBS), torch.zeros(1, 3, ACTIONS)
    ended = torch.tensor([[0.0, 0, 1]])
    batch = TransitionBatch(obs, zeros, torch.tensor([[1.0, 2, 3]]), obs, ended)
    noise = torch.tensor([[[0.25, 0.5], [-0.5, 4], [0, 0], [0, 0], [0, 0], [0, 0]]])
    # y = 1 + 0.5 * 1.5 = 1.75, 2 + 0.5 * 1 = 2.5, 3. Both critics say 0.5 at obs = action = 0:
    # 2 * (1.25^2 + 2^2 + 2.5^2)/3 = 7.875
    _, metrics = awac_step(policy, critics, config, state, batch, noise)
    torch.testing.assert_close(metrics["critic_loss"], torch.tensor([7.875]))


# --------------------------------------------------------------------- invariants of section 8


@KINDS
def test_8_equal_advantages_are_cloning_with_weight_1(squashed):
    s = setting(squashed=squashed, actor_lr=STILL, critic_lr=STILL)
    for values in ((3.0, 4.0), (-1e6, 1e6), (0.0, 0.0)):
        state = s.state._replace(critic=Net.of(constant(s, values)))
        after, metrics = s.step(state, s.batch, s.noise)
        assert metrics["weight"].tolist() == metrics["equal_advantages"].tolist() == [1, 1]
        assert metrics["effective_size"].tolist() == pytest.approx([32, 32])
        assert metrics["capped"].tolist() == [0, 0]

        def cloning(actor):
            pi = s.policy.distribution(actor, s.batch.obs)
            return -pi.log_prob(s.policy.to_raw(s.batch.action)).mean(1), {}

        grad, _ = gradient(cloning, s.state.actor.theta)
        first = after.actor.adam.first
        torch.testing.assert_close(10 * first, grad, rtol=1e-9, atol=1e-12)
        assert grad.abs().max() > 0.1


def test_8_weights_are_1_where_pi_draws_the_datas_own_action_and_at_most_the_bound():
    # One row: the noise that makes b = a. Another: Q far greater at a. Q = 1000 a_1
    s = setting(seeds=(0,), rows=2, actor_lr=STILL, critic_lr=STILL, hidden=(4,), polyak=0.0)
    critics = Critics(OBS, ACTIONS, ())
    critic = torch.tensor([[0, 0, 0, 1000, 0, 0.0]], dtype=torch.float64).repeat(1, 2)
    state = s.state._replace(critic=Net.of(critic), critic_target=critic)
    pi = s.policy.distribution(s.state.actor.theta, s.batch.obs)
    raw = (s.batch.action - s.policy.centre) / s.policy.half_width
    same = (raw - pi.mean) / pi.log_std.exp()
    far = torch.cat([same[:, :1], same[:, 1:] - 9], 1)
    given = torch.cat([torch.zeros_like(same), far], 1)
    _, metrics = awac_step(s.policy, critics, s.config, state, s.batch, given)
    assert metrics["weight"].tolist() == pytest.approx([(1 + 100) / 2])
    assert metrics["capped"].tolist() == [0.5]
    # (1 + 100)^2 / (1 + 100^2) = 1.019998
    assert metrics["effective_size"].tolist() == pytest.approx([1.019998], abs=1e-6)


def test_no_gradient_flows_into_the_weight():
    advantage = torch.tensor([[0.5, -1.0]], requires_grad=True)
    weight, _ = regression_weights(advantage, advantage.detach(), 2.0, 100.0)
    assert not weight.requires_grad


@KINDS
def test_the_actor_knows_the_new_critics_and_their_smaller_value(squashed):
    s = setting(squashed=squashed, critic_lr=0.05, temperature=0.5)
    after, metrics = s.step(s.state, s.batch, s.noise)
    obs, action = s.batch.obs, s.batch.action
    raw, _ = s.policy.distribution(s.state.actor.theta, obs).sample(s.noise[:, 32:])
    own = s.policy.clip_action(s.policy.centre + s.policy.half_width * raw)
    found = {}
    for name, critic in (("old", s.state.critic), ("new", after.critic)):
        q, v = (s.critics.values(critic.theta, obs, a) for a in (action, own))
        found[name] = (2 * (q.amin(1) - v.amin(1))).exp().clamp(max=100).mean(1)
        found[f"{name}, first"] = (2 * (q[:, 0] - v[:, 0])).exp().clamp(max=100).mean(1)
    torch.testing.assert_close(metrics["weight"], found.pop("new"))
    assert all(((x - metrics["weight"]).abs() > 1e-4).all() for x in found.values())


# ------------------------------------------------------------------------------------ the toy

SLOPE, SPREAD, LAMBDA = 1.0, 0.3, 0.45  # Q = c a, data N(0, s): c s^2/lambda = 0.09/0.45 = 0.2


def settled(**changes) -> float:
    """Where pi's mean comes to rest on one state, with critics that stay at Q = c a."""
    rows = 1024
    config = Config(**{"temperature": LAMBDA, "critic_lr": STILL, "actor_lr": 0.02, **changes})
    rngs = [np.random.default_rng(0)]
    policy = GaussianActor(1, [-2.0], [2.0], rngs=rngs, hidden=(), log_std=-1.0)
    critics = Critics(1, 1, ())
    critic = torch.tensor([[0, SLOPE, 0.0]]).repeat(1, 2)
    state = State(Net.of(policy.theta), Net.of(critic), critic)
    levels = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    action = (SPREAD * Normal(0.0, 1.0).icdf(levels)).float()[None, :, None]
    obs, zeros = torch.zeros(1, rows, 1), torch.zeros(1, rows)
    batch, means = TransitionBatch(obs, action, zeros, obs, zeros), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        noise = torch.randn(1, 2 * rows, 1, generator=generator)
        state, _ = awac_step(policy, critics, config, state, batch, noise)
        means.append(2 * policy.output(state.actor.theta, obs[:, :1]).item())
    return float(np.mean(means[150:]))


def weighted_by(wrong) -> Callable:
    """In the stead of `regression_weights`, by `wrong(advantage, 1 / lambda, bound)`."""
    return lambda advantage, value, beta, bound: (wrong(advantage, beta, bound), {})


def test_the_weighted_mean_of_the_datas_actions_is_slope_times_variance_over_lambda():
    assert settled() == pytest.approx(0.2, abs=0.01)
    assert settled(temperature=0.9) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda a, beta, bound: (-a * beta).clamp(max=math.log(bound)).exp(), -0.2),
        (lambda a, beta, bound: (a / beta).clamp(max=math.log(bound)).exp(), 0.0405),
    ],
    ids=["the sign", "lambda times the advantage"],
)
def test_the_toy_tells_the_wrong_weight_from_the_right_one(monkeypatch, wrong, expected):
    monkeypatch.setattr(awac, "regression_weights", weighted_by(wrong))
    assert settled() == pytest.approx(expected, abs=0.01)


def test_the_toy_tells_whether_weights_are_bounded(monkeypatch):
    # exp(A / 0.45), bounded by 1.25: weights of b ~ N(m, d) against a ~ N(0, 0.3), with m and d
    # the weighted mean and deviation, by quadrature
    x = np.linspace(-5, 5, 401)
    density = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    a, m, d = SPREAD * x, 0.0, SPREAD
    for _ in range(50):
        w = np.minimum(np.exp((a[:, None] - (m + d * x)) / LAMBDA), 1.25) @ density * density
        m = (w * a).sum() / w.sum()
        d = math.sqrt((w * (a - m) ** 2).sum() / w.sum())
    assert m < 0.12
    assert settled(max_weight=1.25) == pytest.approx(m, abs=0.01)
    unbounded = weighted_by(lambda a, beta, bound: (a * beta).exp())
    monkeypatch.setattr(awac, "regression_weights", unbounded)
    assert settled(max_weight=1.25) == pytest.approx(0.2, abs=0.01)


def test_the_toy_with_equal_advantages_clones(monkeypatch):
    monkeypatch.setitem(globals(), "SLOPE", 0.0)
    assert settled() == pytest.approx(0.0, abs=0.005)


# ---------------------------------------------------------------------------------- the update


@KINDS
@pytest.mark.parametrize("temperature", [0.3333, 0.05])
def test_steps_are_those_of_one_seed_in_plain_torch(squashed, temperature):
    rates = {"actor_lr": 2**-8, "critic_lr": 2**-7}
    s = setting(squashed=squashed, temperature=temperature, **rates)
    plain, state = [PlainAWAC(s, seed) for seed in (0, 1)], s.state
    for k in range(5):
        batch = batch_of((10 * k, 10 * k + 1), 32, torch.float64)
        noise = normals((20 * k, 20 * k + 1), 64, ACTIONS, dtype=torch.float64)
        inside = 0.99 * (batch.action - s.policy.centre) + s.policy.centre
        batch = batch._replace(action=inside)
        state, _ = s.step(state, batch, noise)
        for seed in (0, 1):
            plain[seed].step(TransitionBatch(*(x[seed] for x in batch)), noise[seed])
    for seed in (0, 1):
        for ours, network in zip(thetas(state), plain[seed].networks(), strict=True):
            torch.testing.assert_close(ours[seed], flat(network), rtol=0, atol=1e-8)
    for new, old in zip(thetas(state), thetas(s.state), strict=True):
        assert (new - old).abs().max() > 5e-3


@KINDS
def test_float32_does_as_float64(squashed):
    s, double = setting(squashed=squashed, dtype=torch.float32), setting(squashed=squashed)
    state, exact = s.state, double.state
    for _ in range(5):
        state, _ = s.step(state, s.batch, s.noise)
        exact, _ = double.step(exact, double.batch, double.noise)
    for ours, theirs in zip(thetas(state), thetas(exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=5e-6)


@KINDS
@pytest.mark.parametrize("width", [32, 256])
def test_a_seed_moves_to_the_same_bits_alone_and_in_company(squashed, width):
    changes = {"hidden": (width, width), "rows": width, "dtype": torch.float32}
    with as_in_a_run(width):
        alone, company = (
            setting(seeds, squashed=squashed, **changes) for seeds in ((3,), range(5))
        )
        mine, theirs = alone.state, company.state
        for _ in range(3):
            mine, my_metrics = alone.step(mine, alone.batch, alone.noise)
            theirs, metrics = company.step(theirs, company.batch, company.noise)
    for a, b in zip(tensors(mine), tensors(theirs), strict=True):
        assert torch.equal(a[0], b[3])
    assert all(torch.equal(my_metrics[name][0], metrics[name][3]) for name in metrics)
    assert not torch.equal(theirs.actor.theta[2], theirs.actor.theta[3])


def test_a_flat_box_is_no_division_by_zero():
    rngs = [np.random.default_rng(0)]
    policy = GaussianActor(OBS, [-1.0, 3.0], [1.0, 3.0], rngs=rngs, hidden=(4,), log_std=0.0)
    action = torch.tensor([[[0.5, 3.0]]])
    assert policy.to_raw(action).tolist() == [[[0.5, 0.0]]]
    assert policy.to_box(torch.tensor([[[0.5, 2.0]]])).tolist() == [[[0.5, 3.0]]]


# -------------------------------------------------------------------------------------- train

# Returns 3, -1, 4 and 2: they span 5, so that rewards are multiplied by 200
DATA = logged([3, 2, 4, 1], rewards=[1, 1, 1, 0, -1, 1, 1, 1, 1, 2])


def trained(monkeypatch, data=DATA, **changes) -> tuple[MemoryRun, list[TransitionBatch]]:
    """The run, and the batch of every step."""
    calls, step = [], awac.awac_step

    def recorded(policy, critics, config, state, batch, noise):
        calls.append(batch)
        assert noise.shape == (2, 32, ACTIONS)
        return step(policy, critics, config, state, batch, noise)

    monkeypatch.setattr(awac, "awac_step", recorded)
    values = {"gradient_steps": 4, "steps_per_iteration": 2, "batch_size": 16, "hidden": (16, 8)}
    run = MemoryRun(data)
    train(Config(**values | changes), run)
    return run, calls


def test_rewards_are_scaled_then_shifted(monkeypatch):
    assert reward_scale(Config(), DATA) == 1
    assert reward_scale(Config(scale_rewards=True), DATA) == pytest.approx(200)
    assert reward_scale(Config(reward_factor=100.0), DATA) == 100
    _, calls = trained(monkeypatch, reward_shift=-1.0)
    assert set(calls[0].reward.unique().tolist()) == {-2, -1, 0, 1}
    _, calls = trained(monkeypatch, scale_rewards=True, reward_shift=0.5)
    assert set(calls[0].reward.unique().tolist()) == {-199.5, 0.5, 200.5, 400.5}


def test_the_datas_actions_keep_a_margin_to_the_box(monkeypatch):
    corners = np.where(np.arange(20).reshape(10, 2) % 3 == 0, HIGH, LOW).astype(np.float32)
    data = logged([3, 2, 4, 1], action=corners)
    _, calls = trained(monkeypatch, data, action_margin=0.25, squashed=True)
    # Half widths 2 and 1/2 around 0 and 1/2: three quarters of them
    assert set(calls[0].action[..., 0].unique().tolist()) == {-1.5, 1.5}
    assert set(calls[0].action[..., 1].unique().tolist()) == {0.125, 0.875}


@KINDS
def test_train_begins_with_equal_targets_and_logs_what_the_actor_learns_from(monkeypatch, squashed):
    run, calls = trained(monkeypatch, squashed=squashed)
    start, last = run.states[0], run.states[-1]
    assert isinstance(last.policy, SquashedActor if squashed else GaussianActor)
    assert torch.equal(start.state.critic.theta, start.state.critic_target)
    assert torch.equal(start.state.actor.theta, start.policy.theta)
    assert torch.equal(last.policy.theta, last.state.actor.theta)
    for net in (last.state.actor, last.state.critic):
        assert net.adam.steps.flatten().tolist() == [4, 4]
    assert len({tuple(x.reward[0].tolist()) for x in calls}) > 1
    weights = {"weight", "effective_size", "capped", "equal_advantages"}
    assert run.rows[0].keys() == weights | {"critic_loss", "value", "actor_loss"}
    assert ((run.rows[0]["effective_size"] > 1) & (run.rows[0]["effective_size"] <= 16)).all()


def test_equal_advantages_are_warned_of_once_and_before_work_where_rewards_tell(
    monkeypatch, warned
):
    trained(monkeypatch)
    assert warned() == []
    # In training: critics that know no action, though rewards differ
    with monkeypatch.context() as patch:
        nothing = weighted_by(lambda a, *_: torch.ones_like(a))
        flags = {"equal_advantages": torch.ones(2), "weight": torch.ones(2)}
        patch.setattr(awac, "regression_weights", lambda *x: (nothing(*x)[0], flags))
        run, _ = trained(patch)
    (message,) = warned()
    assert message == EQUAL
    assert all(row["weight"].tolist() == [1, 1] for row in run.rows)


def test_rewards_that_are_all_the_same_are_warned_of_before_training(warned):
    same = logged([3, 4], rewards=[2.0] * 7)
    same = logged([3], rewards=[2.0] * 3) if same.terminated.any() else same
    assert not same.terminated.any()
    assert reward_scale(Config(), same) == 1
    (message,) = warned()
    assert "do the rewards of the data differ?" in message
    # An end makes returns differ, as where every step costs 1
    assert reward_scale(Config(), logged([3, 4], rewards=[-1.0] * 7)) == 1
    assert warned() == []


def test_returns_that_are_all_the_same_cannot_be_scaled():
    same = logged([2, 1, 2], rewards=[1, 2, 3, 2, 1])
    with pytest.raises(ValueError, match="every episode returns 3; add --no-scale-rewards"):
        reward_scale(Config(scale_rewards=True), same)


def test_mceps_awac_is_a_variant_whose_policy_is_saved_like_any_other(short_runs):
    changes = {"squashed": True, "normalize_obs": False, "action_margin": 1e-5}
    folder = short_runs.train("run", "awac", "InvertedPendulum-v4", **changes)
    policy, about = load_policy(folder)
    assert type(policy) is SquashedActor and about["kind"] == "squashed-actor"
    assert json.loads((folder / "config.json").read_text())["declared"]["variant"] == "mcep"
    assert Config().declared.variant == ""
