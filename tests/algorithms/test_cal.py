"""CAL: bound, rectified multiplier and ensemble by hand; without them it is SAC-Lagrangian."""

import math
from functools import partial

import pytest
import torch
from constrained_setting import toll_registered
from off_policy_setting import run_of
from offline_setting import as_in_a_run, draw, tensors
from replay_cost_setting import Fixed, one_number, setting
from torch import tensor

from rlsuite.algorithms.constrained import cal, sac_lag
from rlsuite.algorithms.constrained.cal import (
    Config,
    Networks,
    actor_step,
    conservative_cycle,
    excess,
    fresh,
    multiplier_step,
    rectified,
    targets,
    upper_bound,
)
from rlsuite.core.buffers import chunks
from rlsuite.core.critics import Critics
from rlsuite.core.initializers import truncated_normal, xavier
from rlsuite.core.optim import Net, adam_step
from rlsuite.core.streams import Streams
from rlsuite.runs.settings import preset

PLAIN = {"conservatism": 0.0, "penalty": 0.0, "cost_critics": 1, "target_period": 1}


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def cycle(s, state=None):
    return conservative_cycle(s.nets, s.config, state or s.state, s.batch, s.noise)


# ------------------------------------------------------------------------- as SAC-Lagrangian


def as_sac_lag(dtype=torch.float32):
    """CAL without all that it adds, and SAC-Lagrangian, with the networks and batch of CAL."""
    ours = setting(cal, costs=2, dtype=dtype, **PLAIN)
    theirs = setting(sac_lag, costs=2, dtype=dtype)
    return ours, theirs, sac_lag.State(*ours.state)


def test_without_bound_penalty_and_ensemble_the_actors_loss_is_sac_lags() -> None:
    ours, theirs, state = as_sac_lag()
    given = ours.batch.obs, ours.noise[:, 0]
    over = excess(ours.nets, ours.config, ours.state, ours.batch)
    _, found = actor_step(ours.nets, ours.config, ours.state, *given, over)
    _, expected = sac_lag.actor_step(theirs.nets, theirs.config, state, *given)
    assert torch.equal(found["actor_loss"], expected["actor_loss"])
    bounded = setting(cal, costs=2, dtype=torch.float32, conservatism=0.5, cost_critics=3)
    over = excess(bounded.nets, bounded.config, bounded.state, bounded.batch)
    _, other = actor_step(bounded.nets, bounded.config, bounded.state, *given, over)
    assert not torch.equal(other["actor_loss"], expected["actor_loss"])


def test_without_them_every_update_is_sac_lags_step_for_step() -> None:
    ours, theirs, state = as_sac_lag()
    mine = ours.state
    for _ in range(3):
        mine, _ = cycle(ours, mine)
        state, _ = sac_lag.constrained_cycle(
            theirs.nets, theirs.config, state, ours.batch, ours.noise
        )
    for one, other in zip(tensors(mine), tensors(state), strict=True):
        assert torch.equal(one, other)


# ----------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("over", "penalty", "expected"),
    [
        # lambda 0.5: 0.5 + 10 * 0.1, 0.5 - 10 * 0.02, 0.5 - 10 * 0.05, 0 below that
        (0.1, 10.0, 1.5),
        (-0.02, 10.0, 0.3),
        (-0.05, 10.0, 0.0),
        (-9.0, 10.0, 0.0),
        (7.0, 1000.0, 7000.5),
        (7.0, 0.0, 0.5),
        (-7.0, 0.0, 0.5),
    ],
)
def test_the_rectified_multiplier_by_hand(over, penalty, expected) -> None:
    found = rectified(tensor([[0.5]]), tensor([[over]]), penalty)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_rectified_multiplier_is_the_multiplier_less_what_the_paper_takes_from_it() -> None:
    multiplier, over, penalty = draw(0, 1, 50).exp(), draw(1, 1, 50), 3.0
    taken = torch.minimum(-penalty * over, multiplier)
    found = rectified(multiplier, over, penalty)
    torch.testing.assert_close(found, multiplier - taken)
    rising = rectified(torch.ones(1, 50).double(), over.sort().values, penalty)
    assert (rising.diff() >= 0).all() and (found == 0).any()


def test_the_upper_bound_by_hand() -> None:
    # 1 and 3: mean 2, unbiased std sqrt 2: 2 + 0.5 * 1.41421; two equal ones: no spread
    values = tensor([[[1.0, 5.0], [3.0, 5.0]]])
    assert upper_bound(values, 2, 0.5).tolist()[0][0] == pytest.approx([2.707107, 5.0])
    assert upper_bound(values, 2, 0.0).tolist()[0][0] == [2, 5]
    # Two costs of one critic each: no spread, and no mean over costs
    assert torch.equal(upper_bound(values, 1, 0.5), values)
    # Two costs of two critics each
    both = torch.cat((values, values + 10), 1)
    assert upper_bound(both, 2, 0.0).tolist() == [[[2, 5], [12, 15]]]


def test_the_bound_has_a_gradient_whether_critics_agree_or_not() -> None:
    values = tensor([[[1.0, 5.0], [3.0, 5.0]]], requires_grad=True)
    upper_bound(values, 2, 0.5).sum().backward()
    # d mean 1/2, d std (x - mean) / std: -1 / sqrt 2 and 1 / sqrt 2, times k = 0.5
    expected = [0.5 - 0.353553, 0.5], [0.5 + 0.353553, 0.5]
    torch.testing.assert_close(values.grad[0], tensor(expected))


@pytest.mark.parametrize("alpha", [0.2, 5.0])
def test_each_critic_has_a_target_of_its_own_without_entropy(alpha) -> None:
    # c = 1, gamma 0.99, targets of 2 and of 4: 2.98 and 4.96; terminated: 1
    s = setting(cal, seeds=(0,), rows=2, dtype=torch.float32, target_period=1, cost_critics=2)
    batch = s.batch._replace(terminated=tensor([[0.0, 1.0]]), cost=torch.ones(1, 2, 1))
    nets = Networks(Fixed(2.0), Fixed(2.0), Fixed(2.0, 4.0), s.nets.limit)
    state = s.state._replace(log_temperature=one_number(math.log(alpha)))
    _, found = targets(nets, s.config, state, batch, torch.zeros(1, 2, 1))
    torch.testing.assert_close(found, tensor([[[2.98, 1.0], [4.96, 1.0]]]))


def test_what_a_row_costs_reaches_all_critics_of_that_cost_and_no_others() -> None:
    s = setting(cal, costs=2, cost_critics=3)
    after, _ = cycle(s)
    s.batch = s.batch._replace(cost=s.batch.cost + tensor([0.0, 1.0]).double())
    other, _ = cycle(s)
    size = s.critics.layout.size
    differs = (after.cost_critic.theta != other.cost_critic.theta).view(2, 6, size).any(2)
    assert differs.tolist() == [[False] * 3 + [True] * 3] * 2


def test_members_of_the_ensemble_do_not_touch_each_other() -> None:
    critics = Critics(3, 2, (16, 8), "silu")
    theta = fresh(critics.layout, truncated_normal, Streams((0, 1))["init"], 4)
    obs, action = draw(1, 2, 20, 3).float(), draw(2, 2, 20, 2).float()
    before = critics.values(theta, obs, action)
    theta.view(2, 4, -1)[:, 2] += 1
    after = critics.values(theta, obs, action)
    assert after.shape == (2, 4, 20)
    assert (before == after).all(2).tolist() == [[True, True, False, True]] * 2


def test_the_first_weights_are_the_codes_and_no_two_critics_are_alike() -> None:
    s = setting(cal, dtype=torch.float32, hidden=(64, 64), cost_critics=4)
    state = cal.initial_state(s.config, s.nets, Streams((0, 1))["init"])
    views = s.critics.layout.views(state.cost_critic.theta.view(8, -1))
    weight = views["q.1.weight"]  # of 64 inputs: std 1 / 16 before the cut at 2 std, 0.88 of it
    assert weight.abs().max() <= 2 / 16 and weight.std() == pytest.approx(0.88 / 16, rel=0.02)
    assert all(not view.any() for name, view in views.items() if name.endswith("bias"))
    assert len(weight[:, 0, 0].unique()) == 8
    views = s.critics.layout.views(state.critic.theta.view(4, -1))
    bound = math.sqrt(6 / 128)  # uniform: std bound / sqrt 3
    assert views["q.1.weight"].abs().max() <= bound
    assert views["q.1.weight"].std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert torch.equal(state.cost_target, state.cost_critic.theta)
    assert torch.equal(state.actor.theta, s.policy.theta)
    assert xavier(Streams((0,))["init"][0], (2, 4)).shape == (2, 4)


# -------------------------------------------------------------------- what the policy is given


def test_the_price_comes_from_actions_that_were_taken_and_the_multiplier_before_its_step() -> None:
    s = setting(cal, costs=2, target_period=1, penalty=2.0)
    after, metrics = cycle(s)
    values = s.critics.values(after.cost_critic.theta, s.batch.obs, s.batch.action)
    each = values.view(2, 2, 4, 32)
    over = (each.mean(2) + 0.5 * each.std(2)).mean(2) - 0.4
    price = (0.6931 + 2.0 * over).clamp(min=0)
    torch.testing.assert_close(metrics["price"], price.sum(1))
    torch.testing.assert_close(metrics["cost_value"], (over + 0.4).sum(1))
    # the gradient of -sum exp(x) (U - d') is -lambda (U - d'); Adam's first moment is 0.1 of it
    torch.testing.assert_close(after.log_multiplier.adam.first / 0.1, -0.6931 * over)


def test_where_the_limit_is_far_the_policy_does_not_see_the_cost() -> None:
    s = setting(cal, penalty=10.0, target_period=1)
    given = s.batch.obs, s.noise[:, 0], torch.full((2, 1), -100.0).double()
    one, _ = actor_step(s.nets, s.config, s.state, *given)
    other = s.state._replace(cost_critic=Net.of(2 * s.state.cost_critic.theta))
    same, _ = actor_step(s.nets, s.config, other, *given)
    assert torch.equal(one.actor.theta, same.actor.theta)
    near = *given[:2], torch.zeros(2, 1).double()
    moved, _ = actor_step(s.nets, s.config, s.state, *near)
    assert not torch.equal(one.actor.theta, moved.actor.theta)


@pytest.mark.parametrize(("over", "sign"), [(0.5, 1), (-0.5, -1), (0.0, 0)])
def test_the_multiplier_follows_the_bound_and_stays_above_zero(over, sign) -> None:
    s = setting(cal)
    after, _ = multiplier_step(s.config, s.state, torch.full((2, 1), over).double())
    # Adam's first step is its rate, 3e-4, in log lambda
    step = after.log_multiplier.theta - s.state.log_multiplier.theta
    torch.testing.assert_close(step, torch.full((2, 1), sign * 3e-4).double())


def test_targets_move_in_the_first_gradient_step_of_each_period() -> None:
    s = setting(cal, rows=8)
    first = chunks(s.batch, 2)[0]
    noise = s.noise[:, 0], s.noise[:, 2]
    middle, _ = cal.gradient_step(s.nets, s.config, s.state, first, noise)
    expected = 0.995 * s.state.cost_target + 0.005 * middle.cost_critic.theta
    after, _ = cycle(s)
    torch.testing.assert_close(after.cost_target, expected)
    expected = 0.995 * s.state.critic_target + 0.005 * middle.critic.theta
    torch.testing.assert_close(after.critic_target, expected)
    assert after.actor.adam.steps.flatten().tolist() == [2, 2]
    assert not torch.equal(after.cost_critic.theta, middle.cost_critic.theta)


def test_seeds_do_not_touch_each_other() -> None:
    """Nor at 12 rows, where a tensor of one seed fills no whole number of vectors."""
    company = setting(cal, tuple(range(5)), rows=12, dtype=torch.float32, costs=2)
    together, _ = cycle(company)
    for seed in (0, 3):
        alone, _ = cycle(setting(cal, (seed,), rows=12, dtype=torch.float32, costs=2))
        for one, many in zip(tensors(alone), tensors(together), strict=True):
            assert torch.equal(one[0], many[seed])


# ------------------------------------------------------------------------------------- toys


@pytest.mark.slow
def test_on_a_line_the_penalty_damps_what_a_plain_multiplier_keeps_swinging() -> None:
    """r = a, cost a + 1, limit 1.2, Q exact: a seed for each c of 0, 1 and 10."""
    penalty, a, seen, prices = tensor([[0.0], [1.0], [10.0]]), torch.full((3, 1), -0.5), [], []
    log_multiplier, adam = Net.of(torch.full((3, 1), 0.6931).log())
    for _ in range(20_000):
        multiplier, over = log_multiplier.exp(), a + 1 - 1.2
        price = rectified(multiplier, over, penalty)
        # the gradient of `multiplier_loss` in log lambda is -lambda (U - d')
        log_multiplier, adam = adam_step(log_multiplier, -multiplier * over, adam, 3e-3)
        a = (a + 3e-3 * (1 - price)).clamp(-1, 1)
        seen.append(a)
        prices.append(multiplier)
    late, peak = torch.stack(seen[-4000:]).std(0), torch.stack(prices).amax(0)
    assert late[0].item() == pytest.approx(0.59, abs=0.03)
    assert late[1].item() == pytest.approx(0.028, abs=0.01)
    assert late[2].item() < 1e-4
    assert peak[:2].flatten().tolist() == pytest.approx([3.5, 1.67], abs=0.1)
    assert a[2].item() == pytest.approx(0.2, abs=1e-3)
    assert prices[-1][2].item() == pytest.approx(1, abs=1e-3)


# ------------------------------------------------------------------------------------- runs


def test_the_first_steps_are_the_policys_own_and_nothing_is_learned_meanwhile(monkeypatch) -> None:
    monkeypatch.setattr(cal.ReplayCollector, "explore", None)
    sizes = {"hidden": (8,), "batch_size": 8, "steps_per_iteration": 16}
    run = run_of(task="TollUnderTest-v0")
    with toll_registered():
        cal.train(Config(**sizes, env_steps=32, warm_up=16, updates_per_step=4.0), run)
    start, before, after = run.states
    for old, new in zip(tensors(start.state), tensors(before.state), strict=True):
        assert torch.equal(old, new)
    assert after.buffer.added == 32 and after.buffer.shapes["cost"] == (2,)
    # 16 steps of 4 gradient steps
    assert after.state.critic.adam.steps.flatten().tolist() == [64, 64]
    assert after.state.cost_critic.theta.shape[1] == 2 * 4 * after.state.critic.theta.shape[1] // 2


@pytest.mark.slow
def test_the_compiler_traces_the_whole_update_as_one_graph(compiler) -> None:
    s = setting(cal, dtype=torch.float32, hidden=(8,), rows=8, target_period=1)
    expected, _ = cycle(s)
    whole = partial(conservative_cycle, s.nets, s.config)
    traced = torch.compile(whole, backend="eager", fullgraph=True, dynamic=False)
    found, _ = traced(s.state, s.batch, s.noise)
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------ settings


def test_the_defaults_are_the_released_codes() -> None:
    expected = {
        "conservatism": 0.5, "penalty": 10.0, "cost_critics": 4, "batch_size": 12,
        "updates_per_step": 20.0, "target_period": 2, "warm_up": 5000, "multiplier_init": 0.6931,
        "discount": 0.99, "polyak": 0.005, "hidden": (256, 256), "temperature": 1.0,
        "env_steps": 300_000, "capacity": 1_000_000,
    }  # fmt: skip
    found = vars(Config())
    assert {name: found[name] for name in expected} == expected
    rates = ("actor_lr", "critic_lr", "cost_lr", "temperature_lr", "multiplier_lr")
    assert [found[rate] for rate in rates] == [3e-4] * 5
    assert preset(cal, "ratio-10", "HopperVelocity-v4") == {"updates_per_step": 10.0}


@pytest.mark.parametrize(
    ("family", "penalty", "ratio"),
    [("HalfCheetah", 1000, 20), ("Hopper", 10, 10), ("Ant", 100, 10)],
)
def test_the_speed_tasks_have_the_penalties_of_the_final_readme(family, penalty, ratio) -> None:
    config = Config(**preset(cal, "speed", f"{family}Speed-v4"))
    assert (config.penalty, config.updates_per_step) == (penalty, ratio)
    assert (config.cost_critics, config.conservatism) == (8, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conservatism": -0.5}, "conservatism is -0.5; it must be 0 or greater"),
        ({"penalty": math.inf}, "penalty is inf"),
        ({"cost_critics": 0}, "cost_critics is 0; it must be 1 or more"),
        ({"cost_lr": 0.0}, "cost_lr is 0.0; it must be greater than 0"),
        (
            {"updates_per_step": 0.5, "target_period": 3},
            "no multiple of target_period 3; use target_period 1",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)
