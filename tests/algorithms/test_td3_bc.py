"""TD3+BC: objectives, the invariants and traps of the fact sheet by number, and whole cycles
against one seed's written with torch.nn and torch.optim from the sheet."""

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
    tensors,
    thetas,
)
from torch.nn.functional import mse_loss

from rlsuite.algorithms.offline import bc, td3_bc
from rlsuite.algorithms.offline.td3_bc import (
    Config,
    State,
    actor_cycle,
    critic_loss,
    policy_loss,
    target_value,
    train,
)
from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import TransitionBatch, chunks
from rlsuite.core.critics import Critics
from rlsuite.core.optim import Net
from rlsuite.core.streams import Streams


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


STILL = {
    "actor_lr": 1e-30,
    "critic_lr": 1e-30,
}  # moves nothing, so that Adam's first moment is 0.1 gradients


def setting(seeds=(0, 1), rows=32, dtype=torch.float64, **changes) -> SimpleNamespace:
    """Networks, targets other than them, and one cycle's transitions and noise of every seed."""
    config = Config(**{"batch_size": rows, "hidden": (16, 8), **changes})
    rngs = Streams(seeds)["init"]
    policy = BoundedActor(OBS, LOW, HIGH, rngs=rngs, hidden=config.hidden).to(dtype)
    critics = Critics(OBS, ACTIONS, config.hidden)
    online = policy.theta.detach().clone(), critics.initial(rngs).to(dtype)
    targets = [x + 0.05 * normals(seeds, x.shape[1], dtype=dtype) for x in online]
    state = State(*map(Net.of, online), *targets)
    count = rows * config.policy_freq
    batch, noise = batch_of(seeds, count, dtype), normals(seeds, count, ACTIONS, dtype=dtype)
    cycle = partial(actor_cycle, policy, critics, config)
    return SimpleNamespace(**locals())


def scaled(s: SimpleNamespace, theta: torch.Tensor, c: float) -> torch.Tensor:
    """Parameters of two critics whose values are `c` times those of `theta`."""
    theta, last = theta.clone(), f"q.{s.critics.depth - 1}"
    for one in theta.chunk(2, 1):
        views = s.critics.layout.views(one)
        views[f"{last}.weight"] *= c
        views[f"{last}.bias"] *= c
    return theta


class PlainTD3BC:
    """One seed as sections 1 and 2 of the sheet have it."""

    def __init__(self, s: SimpleNamespace, seed: int) -> None:
        actor, critic, actor_target, critic_target = (x[seed] for x in thetas(s.state))
        self.config, self.half_width = s.config, s.policy.half_width
        self.low, self.high = (torch.tensor(x) for x in (LOW, HIGH))
        self.actor, self.actor_target = (PlainActor(s.policy, x) for x in (actor, actor_target))
        parts = (critic, critic_target)
        self.critic, self.critic_target = (PlainCritics(s.critics.layout, x) for x in parts)
        lr = s.config.actor_lr
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr)

    def cycle(self, batch: TransitionBatch, noise: torch.Tensor) -> None:
        for rows in torch.arange(len(noise)).chunk(2):
            obs, action, reward, next_obs, done = (x[rows] for x in batch)
            with torch.no_grad():
                eps = (0.2 * self.half_width * noise[rows]).clamp(
                    -0.5 * self.half_width, 0.5 * self.half_width
                )
                there = (self.actor_target(next_obs) + eps).clamp(self.low, self.high)
                y = reward + 0.99 * (1 - done) * torch.min(*self.critic_target(next_obs, there))
            q1, q2 = self.critic(obs, action)
            self.critic_adam.zero_grad()
            (mse_loss(q1, y) + mse_loss(q2, y)).backward()
            self.critic_adam.step()
        pi = self.actor(obs)
        q = self.critic(obs, pi)[0]
        lam = self.config.alpha / q.abs().mean().detach()
        self.actor_adam.zero_grad()
        (-lam * q.mean() + mse_loss(pi, action)).backward()
        self.actor_adam.step()
        follow(self.actor_target, self.actor, 0.005)
        follow(self.critic_target, self.critic, 0.005)

    def networks(self) -> list[torch.nn.Module]:
        return [self.actor, self.critic, self.actor_target, self.critic_target]


# --------------------------------------------------------------------------------- objectives


def test_objectives_by_hand():
    # Errors 1 and -2: (1 + 4)/2 = 2.5; the other seed 3 and 0: 9/2 = 4.5
    value, target = torch.tensor([[2.0, 1.0], [3.0, 1.0]]), torch.tensor([[1.0, 3.0], [0.0, 1.0]])
    torch.testing.assert_close(critic_loss(value, target), torch.tensor([2.5, 4.5]))
    # mean |Q| is 3 and 1, so lambda is 2/3 and 2; mean Q is 1 and -1; imitation 0.5 and 0.25:
    # 0.5 - 2/3 = -1/6, and 0.25 + 2 = 2.25
    value, imitation = torch.tensor([[4.0, -2.0], [-1, -1]]), torch.tensor([[0, 1], [0.25, 0.25]])
    torch.testing.assert_close(policy_loss(value, imitation, 2.0), torch.tensor([-1 / 6, 2.25]))


def test_lambda_is_a_number_not_a_function():
    # d/dQ_i of -lambda mean Q with lambda = 2/3 held fixed: -2/3 * 1/2 = -1/3 for both
    value = torch.tensor([[4.0, -2.0]], requires_grad=True)
    policy_loss(value, torch.zeros(1, 2), 2.0).sum().backward()
    torch.testing.assert_close(value.grad, torch.full((1, 2), -1 / 3))


def test_target_value_by_hand():
    # No hidden layer, all weights 0: pi_target = centre + half width tanh(bias), centre (0, 1/2),
    # half widths (2, 1/2). bias (atanh 0.5, 0): (1, 0.5). Noise (1, -5) times 0.2 is (0.2, -1),
    # clipped to (0.2, -0.5), in half widths: (0.4, -0.25). a' = (1.4, 0.25)
    # Second row: noise (9, 0) is clipped to 0.5, times 2 is 1: a' = (2, 0.5), just the box's end
    # Third: bias as before, noise (9, 9): (1 + 1, 0.5 + 0.25): (2, 0.75)
    config, rngs = Config(), [np.random.default_rng(0)]
    policy = BoundedActor(OBS, LOW, HIGH, rngs=rngs, hidden=())
    critics = Critics(OBS, ACTIONS, ())
    actor = torch.zeros(1, policy.layout.size)
    policy.layout.views(actor)["actor.0.bias"][0, 0] = torch.tensor([0.5, 0.0]).atanh()
    # Q_1 = a_1 + 10 a_2, Q_2 = 5 a_1: (3.9, 7), (7, 10), (9.5, 10): the smaller one counts
    critic = torch.tensor([[0, 0, 0, 1, 10, 0, 0, 0, 0, 5, 0, 0.0]])
    others = (torch.full_like(x, 9.0) for x in (actor, critic))
    state = State(*map(Net.of, others), actor, critic)
    obs, zeros = torch.ones(1, 3, OBS), torch.zeros(1, 3, ACTIONS)
    part = TransitionBatch(
        obs, zeros, torch.tensor([[1.0, 2, 3]]), obs, torch.tensor([[0.0, 1, 0]])
    )
    noise = torch.tensor([[[1.0, -5], [9, 0], [9, 9]]])
    y = target_value(policy, critics, config, state, part, noise)
    # 1 + 0.99 * 3.9 = 4.861; 2, as the task ended; 3 + 0.99 * 9.5 = 12.405
    torch.testing.assert_close(y, torch.tensor([[4.861, 2, 12.405]]))


def test_the_targets_action_stays_in_the_box():
    # tanh is nearly 1: the action is at (2, 1), the noise would push it out by (1, 0.25)
    policy = BoundedActor(OBS, LOW, HIGH, rngs=[np.random.default_rng(0)], hidden=())
    critics, actor = Critics(OBS, ACTIONS, ()), torch.zeros(1, policy.layout.size)
    policy.layout.views(actor)["actor.0.bias"][0, 0] = 20.0
    critic = torch.tensor([[0, 0, 0, 1, 10, 0.0]])  # a_1 + 10 a_2
    part = TransitionBatch(*(torch.zeros(1, 2, *x) for x in ((OBS,), (ACTIONS,), (), (OBS,), ())))
    noise = torch.tensor([[[9.0, 9], [-9, -9]]])
    state = State(Net.of(actor), Net.of(critic), actor, critic)
    y = target_value(policy, critics, Config(discount=1.0), state, part, noise)
    # (2, 1): 12; (2 - 1, 1 - 0.25): 8.5
    torch.testing.assert_close(y, torch.tensor([[12.0, 8.5]]))


# --------------------------------------------------------------------- invariants of section 8


def test_8_td3_bc_alpha_zero_is_bc():
    s = setting(alpha=0.0, actor_lr=2**-8, critic_lr=2**-8)
    after, _ = s.cycle(s.state, s.batch, s.noise)
    # BC on the transitions of the second critic step
    part = chunks(s.batch, 2)[1]
    config = bc.Config(batch_size=32, learning_rate=2**-8, hidden=(16, 8))
    cloned = bc.clone_step(s.policy, config, s.state.actor, part)[0].theta
    torch.testing.assert_close(after.actor.theta, cloned, rtol=0, atol=1e-12)
    assert (cloned - s.state.actor.theta).abs().max() > 1e-3
    other, _ = setting(alpha=0.1, actor_lr=2**-8, critic_lr=2**-8).cycle(s.state, s.batch, s.noise)
    assert (other.actor.theta - cloned).abs().max() > 1e-6


@pytest.mark.parametrize("c", [1e-3, 1e4])
def test_8_td3_bc_scale_of_q_is_irrelevant(c):
    s = setting(**STILL)
    after, _ = s.cycle(s.state, s.batch, s.noise)
    changed = s.state._replace(critic=Net.of(scaled(s, s.state.critic.theta, c)))
    other, _ = s.cycle(changed, s.batch, s.noise)
    first, theirs = after.actor.adam.first, other.actor.adam.first
    torch.testing.assert_close(first, theirs, rtol=1e-9, atol=1e-12)
    assert first.abs().max() > 1e-3


@pytest.mark.parametrize("policy_freq", [2, 3])
def test_8_td3_bc_targets_move_only_on_even_steps(monkeypatch, policy_freq):
    s, seen = setting(policy_freq=policy_freq, steps_per_iteration=6, gradient_steps=6), []

    def recorded(policy, critics, config, state, part, noise):
        seen.append(state)
        return target_value(policy, critics, config, state, part, noise)

    monkeypatch.setattr(td3_bc, "target_value", recorded)
    after, _ = s.cycle(s.state, s.batch, s.noise)
    before = s.state
    assert len(seen) == policy_freq  # of "every second step", two steps
    for state in seen:
        assert torch.equal(state.actor_target, before.actor_target)
        assert torch.equal(state.critic_target, before.critic_target)
    assert after.actor.adam.steps.flatten().tolist() == [1, 1]
    assert after.critic.adam.steps.flatten().tolist() == [policy_freq] * 2
    for name in ("actor", "critic"):
        old, new = getattr(before, f"{name}_target"), getattr(after, name).theta
        expected = 0.995 * old + 0.005 * new
        torch.testing.assert_close(getattr(after, f"{name}_target"), expected, rtol=0, atol=1e-12)
        assert (expected - old).abs().max() > 1e-5


# ----------------------------------------------------------------------- traps of section 6


def test_6_1_a_time_limit_is_bootstrapped_and_an_end_is_not():
    s = setting()
    part = chunks(s.batch, 2)[0]
    truncated = part._replace(terminated=torch.zeros_like(part.terminated))
    noise = s.noise[:, :32]
    y, free = (
        target_value(s.policy, s.critics, s.config, s.state, x, noise) for x in (part, truncated)
    )
    ended = part.terminated == 1
    assert torch.equal(y[ended], part.reward[ended])
    assert torch.equal(y[~ended], free[~ended])
    assert ((free - part.reward)[ended].abs() > 1e-3).all()


def test_6_3_the_squared_error_is_a_mean_over_dimensions():
    s = setting(alpha=0.0, **STILL)
    after, metrics = s.cycle(s.state, s.batch, s.noise)
    part = chunks(s.batch, 2)[1]
    for seed in (0, 1):
        actor = PlainActor(s.policy, s.state.actor.theta[seed])
        error = mse_loss(actor(part.obs[seed]), part.action[seed])  # torch's mean over everything
        error.backward()
        grad = torch.cat([p.grad.flatten() for p in actor.parameters()])
        torch.testing.assert_close(10 * after.actor.adam.first[seed], grad, rtol=0, atol=1e-12)
        torch.testing.assert_close(metrics["imitation"][seed], error.detach())


# ---------------------------------------------------------------------------------- the update


@pytest.mark.parametrize("alpha", [2.5, 0.4])
def test_cycles_are_those_of_one_seed_in_plain_torch(alpha):
    s = setting(alpha=alpha, actor_lr=2**-8, critic_lr=2**-8)
    plain, state = [PlainTD3BC(s, seed) for seed in (0, 1)], s.state
    for k in range(5):
        batch = batch_of((10 * k, 10 * k + 1), 64, torch.float64)
        noise = 2 * normals((20 * k, 20 * k + 1), 64, ACTIONS, dtype=torch.float64)
        state, _ = s.cycle(state, batch, noise)
        for seed in (0, 1):
            plain[seed].cycle(TransitionBatch(*(x[seed] for x in batch)), noise[seed])
    for seed in (0, 1):
        for ours, network in zip(thetas(state), plain[seed].networks(), strict=True):
            torch.testing.assert_close(ours[seed], flat(network), rtol=0, atol=1e-9)
    assert (state.actor.theta - s.state.actor.theta).abs().max() > 0.01
    assert (state.critic_target - s.state.critic_target).abs().max() > 1e-4


def test_float32_does_as_float64():
    s, double = setting(dtype=torch.float32), setting()
    state, exact = s.state, double.state
    for _ in range(5):
        state, _ = s.cycle(state, s.batch, s.noise)
        exact, _ = double.cycle(exact, double.batch, double.noise)
    for ours, theirs in zip(thetas(state), thetas(exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-6)


def test_only_the_first_critic_moves_the_actor():
    s = setting(**STILL)
    after, _ = s.cycle(s.state, s.batch, s.noise)
    first, second = s.state.critic.theta.chunk(2, 1)
    for critic, same in ((torch.cat([first, -3 * second], 1), True), (second.repeat(1, 2), False)):
        other, _ = s.cycle(s.state._replace(critic=Net.of(critic)), s.batch, s.noise)
        assert torch.equal(after.actor.adam.first, other.actor.adam.first) == same


def test_metrics_are_those_of_the_last_steps():
    s = setting(**STILL)
    _, metrics = s.cycle(s.state, s.batch, s.noise)
    part, noise = chunks(s.batch, 2)[1], s.noise[:, 32:]
    y = target_value(s.policy, s.critics, s.config, s.state, part, noise)
    values = s.critics.values(s.state.critic.theta, part.obs, part.action)
    error = (values - y[:, None]).square().mean(2).sum(1)
    torch.testing.assert_close(metrics["critic_loss"], error)
    torch.testing.assert_close(metrics["value"], values[:, 0].mean(1))
    assert metrics.keys() == {"critic_loss", "value", "policy_loss", "imitation"}


@pytest.mark.parametrize("width", [32, 256])
def test_a_seed_moves_to_the_same_bits_alone_and_in_company(width):
    changes = {"hidden": (width, width), "rows": width, "dtype": torch.float32}
    with as_in_a_run(width):
        alone, company = (setting(seeds, **changes) for seeds in ((3,), range(5)))
        mine, theirs = alone.state, company.state
        for _ in range(3):
            mine, my_metrics = alone.cycle(mine, alone.batch, alone.noise)
            theirs, metrics = company.cycle(theirs, company.batch, company.noise)
    for a, b in zip(tensors(mine), tensors(theirs), strict=True):
        assert torch.equal(a[0], b[3])
    assert all(torch.equal(my_metrics[name][0], metrics[name][3]) for name in metrics)
    assert not torch.equal(theirs.actor.theta[2], theirs.actor.theta[3])


# -------------------------------------------------------------------------------------- train


def trained(seeds=(0, 1), **changes) -> MemoryRun:
    values = {"gradient_steps": 12, "steps_per_iteration": 4, "batch_size": 16, "hidden": (16, 8)}
    run = MemoryRun(logged([10] * 6), seeds)
    train(Config(**values | changes), run)
    return run


def test_train_starts_with_targets_equal_to_networks_and_counts_steps():
    run = trained()
    start, last = run.states[0], run.states[-1]
    for name in ("actor", "critic"):
        theta = getattr(start.state, name).theta
        assert torch.equal(theta, getattr(start.state, f"{name}_target"))
        assert not torch.equal(theta, getattr(last.state, name).theta)
    assert torch.equal(start.policy.theta, start.state.actor.theta)
    assert len(run.rows) == 3
    # 12 critic steps, an actor step after every second
    assert last.state.critic.adam.steps.flatten().tolist() == [12, 12]
    assert last.state.actor.adam.steps.flatten().tolist() == [6, 6]
    for learner in run.states:
        assert torch.equal(learner.policy.theta, learner.state.actor.theta)


def test_train_standardises_by_the_data_unless_told_not_to():
    data = logged([10] * 6)
    on, off = (trained(normalize_obs=x).states[-1].policy.normalizer for x in (True, False))
    mean, std = data.obs.astype(np.float64).mean(0), data.obs.astype(np.float64).std(0)
    for seed in (0, 1):
        np.testing.assert_allclose(on.mean[seed], mean, rtol=1e-6)
        np.testing.assert_allclose(on.std[seed], std + 1e-3, rtol=1e-6)
    assert torch.equal(off.mean, torch.zeros(2, OBS))
    assert torch.equal(off.std, torch.ones(2, OBS))


def test_train_gives_each_step_its_own_transitions_and_noise(monkeypatch):
    calls, cycle = [], td3_bc.actor_cycle

    def recorded(policy, critics, config, state, batch, noise):
        calls.append((batch, noise))
        return cycle(policy, critics, config, state, batch, noise)

    monkeypatch.setattr(td3_bc, "actor_cycle", recorded)
    trained(batch_size=64)
    assert len(calls) == 6
    batch, noise = calls[0]
    assert batch.obs.shape == (2, 128, OBS)
    assert noise.shape == (2, 128, ACTIONS)
    everything = torch.cat([noise for _, noise in calls], 1)
    assert len(everything.unique()) == everything.numel()
    assert abs(everything.std() - 1) < 0.05
    firsts = [batch.reward[seed] for batch, _ in calls for seed in (0, 1)]
    assert len({tuple(x.tolist()) for x in firsts}) == 12


def test_train_learns_to_imitate():
    # The logged action is (sin of the first standardised observation, 1/2)
    data = logged([20] * 10)
    x = np.sin((data.obs[:, :1] - 5) / 3)
    data = logged([20] * 10, action=np.concatenate([x, np.full_like(x, 0.5)], 1))
    run = MemoryRun(data)
    sizes = {
        "gradient_steps": 200,
        "steps_per_iteration": 200,
        "batch_size": 64,
        "hidden": (32, 32),
    }
    train(Config(alpha=0.1, actor_lr=1e-2, critic_lr=1e-2, **sizes), run)
    assert (run.rows[-1]["imitation"] < 0.1 * data.action.var(0).mean()).all()
