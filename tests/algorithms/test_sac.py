"""SAC: objectives and steps by hand, who moves what, and what seeds and batches leave alone."""

import copy

import numpy as np
import pytest
import torch
from off_policy_setting import Constant, Hill, Point, run_of, setting, transitions
from offline_setting import as_in_a_run, normals, tensors

from rlsuite.algorithms.off_policy import sac
from rlsuite.algorithms.off_policy.sac import (
    Config,
    State,
    actor_loss,
    actor_step,
    critic_step,
    initial_state,
    soft_target,
    temperature_loss,
    temperature_step,
)
from rlsuite.core.buffers import chunks
from rlsuite.core.optim import Net
from rlsuite.core.squashed import SquashedActor


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def log_alpha(*values: float) -> Net:
    return Net.of(torch.tensor(values)[:, None].log())


# --------------------------------------------------------------------------------- objectives


def test_objectives_by_hand():
    # alpha 0.5: 0.5 * -2 - 1 = -2 and 0.5 * 4 - 3 = -1: mean -1.5; alpha 2: -5 and 5: 0
    log_prob, value = torch.tensor([[-2.0, 4.0]] * 2), torch.tensor([[1.0, 3.0]] * 2)
    loss = actor_loss(log_prob, value, torch.tensor([[0.5], [2.0]]))
    assert loss.tolist() == [-1.5, 0.0]
    # log alpha 2, entropy 1.5, target -3: 2 * 4.5 = 9
    assert temperature_loss(torch.tensor([[2.0]]), torch.tensor([[1.5]]), -3.0).tolist() == [9.0]


def test_a_termination_has_no_future_and_whatever_else_has_one():
    # r 1, gamma 0.99, targets (10, 12) at s' = 1, alpha 0.2, log pi -3: the smaller one counts,
    # 1 + 0.99 (10 + 0.6) = 11.494; terminated: 1. In a state of twice the value: 1 + 0.99 * 20.6
    simple, batch = Constant(), transitions((0,), 3, torch.float32)
    batch = batch._replace(reward=torch.ones(1, 3), terminated=torch.tensor([[0.0, 1.0, 0.0]]))
    batch.next_obs[0, :, 0] = torch.tensor([1.0, 1.0, 2.0])
    nothing = Net.of(torch.zeros(1, 1))
    state = State(nothing, nothing, torch.zeros(1, 1), log_alpha(0.2))
    y = soft_target(simple, simple, Config(), state, batch, torch.zeros(1, 3, 1))
    torch.testing.assert_close(y, torch.tensor([[11.494, 1.0, 21.394]]))


def test_without_a_temperature_the_target_is_clipped_double_q_of_a_stochastic_policy():
    s = setting(sac, temperature=1e-30)
    noise = s.noise[:, 0]
    y = soft_target(s.policy, s.critics, s.config, s.state, chunks(s.batch, 2)[0], noise)
    part = chunks(s.batch, 2)[0]
    action, _ = s.policy.distribution(s.state.actor.theta, part.next_obs).sample(noise)
    both = s.critics.values(s.state.critic_target, part.next_obs, action)
    expected = part.reward + 0.99 * (1 - part.terminated) * torch.minimum(*both.unbind(1))
    torch.testing.assert_close(y, expected)


def test_targets_follow_their_rows():
    """A batch in another order, with its noise, has its targets in that order."""
    s = setting(sac, policy_delay=1)
    given = s.policy, s.critics, s.config, s.state
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    shuffled = type(s.batch)(*(x[:, order] for x in s.batch))
    y = soft_target(*given, s.batch, s.noise[:, 0])
    torch.testing.assert_close(soft_target(*given, shuffled, s.noise[:, 0, order]), y[:, order])
    assert y.std(1).min() > 0.1


def test_two_copies_of_a_row_give_the_loss_of_one():
    s = setting(sac, policy_delay=1, rows=1)
    twice = type(s.batch)(*(x.repeat_interleave(2, 1) for x in s.batch))
    _, once = s.cycle(s.state, s.batch, s.noise)
    _, both = s.cycle(s.state, twice, s.noise.repeat_interleave(2, 2))
    for name, value in once.items():
        torch.testing.assert_close(both[name], value)


# -------------------------------------------------------------------------------- temperature


@pytest.mark.parametrize(("surplus", "sign"), [(-1.0, 1), (1.0, -1), (0.0, 0)])
def test_alpha_rises_where_entropy_is_short_and_falls_where_there_is_more(surplus, sign):
    # Adam's first step is the learning rate, 3e-4, whatever the gradient; none for a gradient of 0
    config = Config(temperature_lr=3e-4)
    nothing = Net.of(torch.zeros(2, 1))
    state = State(nothing, nothing, torch.zeros(2, 1), log_alpha(0.5, 2.0))
    entropy = torch.tensor([-3.0 + surplus, -3.0 + 100 * surplus])
    moved, metrics = temperature_step(config, state, entropy, -3.0)
    step = moved.log_temperature.theta - state.log_temperature.theta
    torch.testing.assert_close(step, torch.full((2, 1), sign * 3e-4), rtol=1e-3, atol=0)
    torch.testing.assert_close(metrics["temperature"], torch.tensor([0.5, 2.0]))
    gradient = moved.log_temperature.adam.first / 0.1
    torch.testing.assert_close(gradient[:, 0], entropy + 3)
    assert (moved.log_temperature.theta.exp() > 0).all()


@pytest.mark.parametrize("actions", [1, 3, 17])
def test_the_entropy_that_is_sought_is_minus_the_number_of_action_dimensions(actions):
    policy = SquashedActor(3, [-1.0] * actions, [1.0] * actions, rngs=[np.random.default_rng(0)])
    critics = sac.Critics(3, actions, (8,))
    config = Config(policy_delay=1, hidden=(8,))
    state = initial_state(config, policy, critics, [np.random.default_rng(1)])
    batch = transitions((0,), 8, torch.float32)
    batch = batch._replace(action=normals((0,), 8, actions).tanh())
    moved, metrics = sac.soft_cycle(
        policy, critics, config, state, batch, normals((0,), 2, 8, actions)
    )
    # the gradient of log alpha is H + A, and Adam's first moment 0.1 of it
    gradient = moved.log_temperature.adam.first[0] / 0.1
    torch.testing.assert_close(gradient, metrics["entropy"] + actions, rtol=1e-4, atol=1e-4)


def test_a_temperature_without_a_learning_rate_stays_as_it_is():
    s = setting(sac, temperature=0.2, temperature_lr=0.0)
    moved, metrics = s.cycle(s.state, s.batch, s.noise)
    assert torch.equal(moved.log_temperature.theta, s.state.log_temperature.theta)
    torch.testing.assert_close(moved.log_temperature.theta.exp(), torch.full((2, 1), 0.2).double())
    assert "temperature" not in metrics


# ------------------------------------------------------------------------------ who moves what


def test_each_step_moves_its_own_network_and_the_target_by_tau():
    s = setting(sac)
    before, part = copy.deepcopy(s.state), chunks(s.batch, 2)[0]
    y = soft_target(s.policy, s.critics, s.config, s.state, part, s.noise[:, 0])
    after, _ = critic_step(s.critics, s.config, s.state, part, y)
    assert torch.equal(after.actor.theta, before.actor.theta)
    assert torch.equal(after.log_temperature.theta, before.log_temperature.theta)
    assert not torch.equal(after.critic.theta, before.critic.theta)
    expected = 0.995 * before.critic_target + 0.005 * after.critic.theta
    torch.testing.assert_close(after.critic_target, expected)
    last, metrics = actor_step(s.policy, s.critics, s.config, after, part.obs, s.noise[:, 2])
    last, _ = temperature_step(s.config, last, metrics["entropy"], -2)
    for name in ("critic", "critic_target"):
        now, then = (tensors(getattr(state, name)) for state in (last, after))
        assert all(torch.equal(a, b) for a, b in zip(now, then, strict=True))
    assert not torch.equal(last.actor.theta, after.actor.theta)
    assert not torch.equal(last.log_temperature.theta, after.log_temperature.theta)
    for old, new in zip(tensors(before), tensors(s.state), strict=True):
        assert torch.equal(old, new)  # what was given is as it was


def test_a_delayed_actor_takes_as_many_steps_as_the_critics():
    s = setting(sac, policy_delay=4)
    moved, _ = s.cycle(s.state, s.batch, s.noise)
    for net in (moved.actor, moved.critic, moved.log_temperature):
        assert net.adam.steps.flatten().tolist() == [4, 4]


def test_the_target_starts_as_a_copy():
    s = setting(sac)
    state = initial_state(s.config, s.policy, s.critics, [np.random.default_rng(0)] * 2)
    assert torch.equal(state.critic_target, state.critic.theta)
    assert torch.equal(state.log_temperature.theta, torch.zeros(2, 1).double())
    assert state.critic_target.data_ptr() != state.critic.theta.data_ptr()


def test_seeds_do_not_touch_each_other():
    company, alone = setting(sac, (0, 1, 2), dtype=torch.float32), None
    for seed in (0, 2):
        alone = setting(sac, (seed,), dtype=torch.float32)
        mine, _ = alone.cycle(alone.state, alone.batch, alone.noise)
        all_of_them, _ = company.cycle(company.state, company.batch, company.noise)
        for one, many in zip(tensors(mine), tensors(all_of_them), strict=True):
            assert torch.equal(one[0], many[seed])


# ------------------------------------------------------------------------------------- toys


def test_on_a_quadratic_the_mean_finds_the_top_and_temperature_widens():
    """Q = -(y - 0.3)^2 / 2 with alpha 1e-4, 0.01 and 0.1, one of each seed."""
    rngs = [np.random.default_rng(0) for _ in range(3)]
    policy = SquashedActor(2, [-1.0], [1.0], rngs=rngs, hidden=(8,))
    config = Config(actor_lr=1e-2, hidden=(8,), log_std_map="clip")
    state = initial_state(config, policy, sac.Critics(2, 1, (8,)), rngs)
    state = state._replace(log_temperature=log_alpha(1e-4, 1e-2, 1e-1))
    obs = torch.ones(3, 64, 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        noise = torch.randn(1, 64, 1, generator=generator).expand(3, -1, -1)
        state, _ = actor_step(policy, Hill(), config, state, obs, noise)
    pi = policy.distribution(state.actor.theta, obs[:, :1])
    assert abs(pi.mode()[0].item() - 0.3) < 0.02
    small, middle, large = pi.log_std.exp().flatten().tolist()
    # Near the top the density is proportional to exp(Q / alpha): sigma of y is sqrt(alpha), and
    # that before the tanh, whose slope there is 1 - 0.3^2 = 0.91, 0.01 / 0.91 and 0.1 / 0.91
    assert small == pytest.approx(0.011, rel=0.3) and middle == pytest.approx(0.11, rel=0.2)
    assert large > 2 * middle


def learned(scale: float) -> list:
    run = run_of()
    run.environments = lambda num_envs: Point(run.seeds, scale, num_envs)
    sizes = {"env_steps": 48, "warm_up": 16, "steps_per_iteration": 16}
    sac.train(Config(**sizes, batch_size=16, hidden=(8,)), run)
    return run.states


def test_the_width_of_the_box_changes_nothing():
    """Boxes of +-1 and +-0.4, the same pushes: actions y, Q and alpha stay the same."""
    wide, narrow = learned(1.0), learned(0.4)
    for one, other in zip(wide, narrow, strict=True):
        for name in ("obs", "action", "reward"):
            theirs = other.buffer.fields[name]
            torch.testing.assert_close(one.buffer.fields[name], theirs, rtol=0, atol=1e-6)
        for a, b in zip(tensors(one.state), tensors(other.state), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert not torch.equal(wide[0].state.critic.theta, wide[-1].state.critic.theta)
