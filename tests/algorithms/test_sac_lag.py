"""SAC-Lagrangian: SAC where nothing is paid, costs and multipliers by hand, whose cost counts."""

import math

import numpy as np
import pytest
import torch
from constrained_setting import toll_registered
from off_policy_setting import run_of
from offline_setting import as_in_a_run, tensors
from replay_cost_setting import Fixed, Rows, one_number, setting
from torch import tensor

from rlsuite.algorithms.constrained import sac_lag
from rlsuite.algorithms.constrained.sac_lag import (
    Config,
    Networks,
    State,
    actor_loss,
    actor_step,
    constrained_cycle,
    inverse,
    multiplier_loss,
    multiplier_step,
    targets,
)
from rlsuite.algorithms.off_policy import sac
from rlsuite.core.optim import Net
from rlsuite.runs.settings import preset

TOLL = "TollUnderTest-v0"


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run(), toll_registered():
        yield


def cycle(s, state=None, **named):
    noise = s.noise[:, : s.config.policy_delay + 1]
    return constrained_cycle(s.nets, s.config, state or s.state, s.batch, noise, **named)


def free(s) -> State:
    """The state of `s` with prices of 0."""
    x = inverse(s.config.multiplier_form, 0.0)
    return s.state._replace(multiplier=Net.of(torch.full_like(s.state.multiplier.theta, x)))


# ------------------------------------------------------------------------------------ as SAC


@pytest.mark.parametrize("form", ["log", "softplus", "raw"])
def test_where_nothing_is_paid_the_update_is_sacs_bit_for_bit(form) -> None:
    s = setting(sac_lag, multiplier_form=form, costs=2, dtype=torch.float32)
    plain = sac.Config(**preset(sac, "original", "Hopper-v4") | {"batch_size": 32})
    names = sac.State._fields
    before = sac.State(*(getattr(s.state, name) for name in names))
    batch = sac.TransitionBatch(*s.batch[:5])
    expected, told = sac.soft_cycle(s.policy, s.critics, plain, before, batch, s.noise)
    found, metrics = cycle(s, free(s))
    for name in names:
        for one, other in zip(
            tensors(getattr(found, name)), tensors(getattr(expected, name)), strict=True
        ):
            assert torch.equal(one, other), name
    assert all(torch.equal(metrics[name], told[name]) for name in told)


def test_with_a_great_multiplier_the_policy_follows_the_cost_alone() -> None:
    s = setting(sac_lag, multiplier_form="raw")

    def direction(state) -> torch.Tensor:
        moved, _ = actor_step(s.nets, s.config, state, s.batch.obs, s.noise[:, 0])
        grad = moved.actor.adam.first
        return grad / grad.norm(dim=1, keepdim=True)

    great = s.state._replace(multiplier=Net.of(torch.full((2, 1), 1e9).double()))
    nothing = s.state._replace(
        multiplier=great.multiplier,
        critic=Net.of(torch.zeros_like(s.state.critic.theta)),
        log_temperature=Net.of(torch.full((2, 1), -60.0).double()),
    )
    torch.testing.assert_close(direction(great), direction(nothing), rtol=1e-4, atol=1e-5)
    assert (direction(great) * direction(free(s))).sum(1).abs().max() < 0.999


# ------------------------------------------------------------------------------------- by hand


def test_objectives_by_hand() -> None:
    # 0.5 * -2 - 1 + 3 = 1 and 0.5 * 4 - 3 + 0 = -1: mean 0
    log_prob, value, paid = tensor([[-2.0, 4.0]]), tensor([[1.0, 3.0]]), tensor([[3.0, 0.0]])
    assert actor_loss(log_prob, value, paid, tensor([[0.5]])).tolist() == [0]
    # -(0.5 * 2 + 1 * (-3)) = 2
    assert multiplier_loss(tensor([[0.5, 1.0]]), tensor([[2.0, -3.0]])).tolist() == [2]


@pytest.mark.parametrize("alpha", [0.2, 5.0])
def test_a_cost_is_bootstrapped_without_entropy_and_ends_with_the_episode(alpha) -> None:
    # c = 1, gamma 0.99, a target of 2 at y' = 0.5: 1 + 0.99 * 2 = 2.98; terminated: 1
    s = setting(sac_lag, seeds=(0,), rows=3, dtype=torch.float32)
    batch = s.batch._replace(terminated=tensor([[0.0, 1.0, 0.0]]), cost=torch.ones(1, 3, 1))
    nets, noise = Networks(Fixed(2.0), Fixed(2.0), Fixed(2.0), s.nets.limit), torch.zeros(1, 3, 1)
    state = s.state._replace(log_temperature=one_number(math.log(alpha)))
    _, found = targets(nets, s.config, state, batch, noise)
    torch.testing.assert_close(found, tensor([[[2.98, 1.0, 2.98]]]))
    # OmniSafe's next action is the mode, here -0.5: 1 - 0.99 * 2 = -0.98
    at_mode = Config(cost_action="mean")
    _, found = targets(nets, at_mode, state, batch, noise)
    torch.testing.assert_close(found, tensor([[[-0.98, 1.0, -0.98]]]))


def moved(start: float, excess: list, steps: int = 1, **changes) -> torch.Tensor:
    """lambda [S] of seeds whose costs are `excess` over the limit, after `steps`."""
    config = Config(**{"multiplier_init": start, **changes})
    nets = Networks(None, None, Fixed(0.0), torch.zeros(1))
    x = inverse(config.multiplier_form, start)
    state = State(
        *[Net.of(torch.zeros(len(excess), 1))] * 6, Net.of(torch.full((len(excess), 1), x))
    )
    one = torch.ones(len(excess), 1, 1)
    batch = Rows(*[one] * 5, one)
    for _ in range(steps):
        state, _ = multiplier_step(nets, config, state, batch, tensor(excess)[:, None])
    return sac_lag.PRICES[config.multiplier_form](state.multiplier.theta)[:, 0]


def test_the_multiplier_rises_above_the_limit_falls_below_and_rests_at_it() -> None:
    # Adam's first step is its rate, 3e-4, in log lambda
    found = moved(0.6931, [0.5, -0.5, 0.0])
    expected = [0.6931 * math.exp(3e-4), 0.6931 * math.exp(-3e-4), 0.6931]
    assert found.tolist() == pytest.approx(expected, rel=1e-6) and (found > 0).all()


def test_a_softplus_multiplier_by_hand() -> None:
    # log(e^1 - 1) = 0.541325; one step of 0.05: log(1 + e^0.591325) = 1.031895
    assert inverse("softplus", 1.0) == pytest.approx(0.541325, abs=1e-6)
    found = moved(1.0, [3.0], multiplier_form="softplus", multiplier_lr=0.05)
    assert found.item() == pytest.approx(1.031895, abs=1e-6)


def test_a_raw_multiplier_is_never_negative() -> None:
    # 0.001 - 0.035 < 0
    found = moved(0.001, [-1.0, 1.0], multiplier_form="raw", multiplier_lr=0.035)
    assert found.tolist() == pytest.approx([0, 0.036])


def test_a_multiplier_winds_down_while_nothing_costs_unless_it_has_a_floor() -> None:
    # 100 steps of 3e-4 in log lambda: e^-0.03 = 0.97; raw 1 - 0.03
    found = moved(1.0, [-1.0], steps=100)
    assert found.item() == pytest.approx(math.exp(-0.03), rel=1e-3)
    for form in ("log", "softplus", "raw"):
        held = moved(1.0, [-1.0], steps=100, multiplier_form=form, multiplier_floor=0.99)
        assert held.item() == pytest.approx(0.99)


def test_a_seed_whose_cost_is_unknown_keeps_its_multiplier_and_its_moments() -> None:
    found = moved(0.5, [math.nan, 2.0])
    assert found[0].item() == pytest.approx(0.5) and found[1] > 0.5
    assert torch.equal(found[1:], moved(0.5, [2.0]))


def test_the_multiplier_sees_the_actions_that_were_taken_as_a_discounted_sum() -> None:
    s = setting(sac_lag, costs=2)
    values = s.critics.values(s.state.cost_critic.theta, s.batch.obs, s.batch.action)
    after, metrics = multiplier_step(s.nets, s.config, s.state, s.batch)
    torch.testing.assert_close(metrics["cost_value"], values.mean(2).sum(1))
    # the gradient of -sum exp(x) (U - d') is -lambda (U - d'); Adam's first moment is 0.1 of it
    gradient = after.multiplier.adam.first / 0.1
    torch.testing.assert_close(gradient, -0.6931 * (values.mean(2) - 0.4))


def test_the_actors_loss_is_divided_by_one_plus_lambda_if_asked() -> None:
    plain = setting(sac_lag, multiplier_init=3.0)
    scaled = setting(sac_lag, multiplier_init=3.0, rescale=True)
    losses = [
        actor_step(s.nets, s.config, s.state, s.batch.obs, s.noise[:, 0])[1]["actor_loss"]
        for s in (plain, scaled)
    ]
    torch.testing.assert_close(losses[1], losses[0] / 4)


# ------------------------------------------------------------------------------ who moves what


def test_an_actor_that_waits_takes_one_step_and_the_multiplier_all() -> None:
    s = setting(sac_lag, policy_delay=4, rows=8)
    after, _ = cycle(s)
    nets = {name: net for name, net in after._asdict().items() if "target" not in name}
    assert {name: net.adam.steps[0].item() for name, net in nets.items()} == {
        "actor": 1, "critic": 4, "cost_critic": 4, "log_temperature": 1, "multiplier": 4
    }  # fmt: skip
    expected = 0.995 * s.state.cost_target + 0.005 * after.cost_critic.theta
    torch.testing.assert_close(after.cost_target, expected)


def test_every_cost_has_a_critic_and_a_price_of_its_own() -> None:
    s = setting(sac_lag, costs=3)
    after, _ = cycle(s)
    dearer = s.batch._replace(cost=s.batch.cost.clone())
    dearer.cost[..., 1] += 1
    s.batch = dearer
    other, _ = cycle(s)
    size = s.critics.layout.size
    differs = (after.cost_critic.theta != other.cost_critic.theta).view(2, 3, size).any(2)
    assert differs.tolist() == [[False, True, False]] * 2
    assert torch.equal(after.critic.theta, other.critic.theta)
    assert after.multiplier.theta.shape == (2, 3)


def test_seeds_do_not_touch_each_other() -> None:
    company = setting(sac_lag, (0, 1, 2), dtype=torch.float32, costs=2)
    together, _ = cycle(company)
    for seed in (0, 2):
        alone, _ = cycle(setting(sac_lag, (seed,), dtype=torch.float32, costs=2))
        for one, many in zip(tensors(alone), tensors(together), strict=True):
            assert torch.equal(one[0], many[seed])


def test_rows_in_another_order_make_the_same_update() -> None:
    s = setting(sac_lag, costs=2)
    first, _ = cycle(s)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    s.batch, s.noise = Rows(*(x[:, order] for x in s.batch)), s.noise[:, :, order]
    second, _ = cycle(s)
    for one, other in zip(tensors(first), tensors(second), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


# -------------------------------------------------------------------------------------- runs


def trained(module, **changes):
    run = run_of(task=TOLL)
    sizes = {"hidden": (8,), "batch_size": 8, "steps_per_iteration": 16}
    module.train(module.Config(**sizes | {"env_steps": 64, "warm_up": 16} | changes), run)
    return run


def test_the_buffer_holds_what_each_step_cost(monkeypatch) -> None:
    steps, step = [], sac_lag.ReplayCollector._store

    def watched(collector, *given):
        before = collector.envs.step
        collector.envs.step = lambda action: steps.append(before(action)) or steps[-1]
        step(collector, *given)
        collector.envs.step = before

    monkeypatch.setattr(sac_lag.ReplayCollector, "_store", watched)
    run = trained(sac_lag)
    buffer = run.states[-1].buffer
    assert buffer.shapes["cost"] == (2,)
    expected = np.stack([each.cost[:, 0] for each in steps], 1)
    assert 0 < expected.mean() < 1 and torch.equal(buffer.fields["cost"], tensor(expected))


def test_costs_of_finished_episodes_move_omnisafes_multiplier() -> None:
    omnisafe = preset(sac_lag, "omnisafe", "Hopper-v4")
    run = trained(sac_lag, **omnisafe | {"multiplier_lr": 0.5, "warm_up": 0})
    costs = run.states[-1].costs
    known = costs.mean()
    assert known.isfinite().all() and costs.limit.tolist() == [3, 2]
    # Adam's steps of 0.5 dwarf the start of 0.001, and what is below its limit is held at 0
    price = run.states[-1].state.multiplier.theta
    assert ((price > 0) == (known > costs.limit)).float().mean() >= 0.75
    assert run.states[-1].state.critic.adam.steps.max() == 64
    assert run.states[-1].state.actor.adam.steps.max() == 32


@pytest.mark.parametrize("name", ["sac_lag", "cal"])
def test_a_task_without_costs_is_refused_in_one_line_before_training(name, short_runs) -> None:
    with pytest.raises(ValueError, match="'cost' has no limit"):
        short_runs.train("run", name, "Toll-v0")
    with pytest.raises(ValueError, match="Hopper-v4 has no constraints"):
        short_runs.train("other", name, "Hopper-v4")
    assert not (short_runs.root / "other" / "progress.csv").exists()


# ------------------------------------------------------------------------------------ settings


def test_the_preset_omnisafe_is_the_sheets_column() -> None:
    found = vars(Config(**preset(sac_lag, "omnisafe", "HalfCheetahVelocity-v4")))
    expected = {
        "multiplier_lr": 1e-5, "multiplier_init": 0.001, "multiplier_form": "raw",
        "signal": "episodes", "cost_window": 10, "cost_action": "mean", "rescale": True,
        "temperature": 0.2, "temperature_lr": 0.0, "policy_delay": 2, "max_grad_norm": 40.0,
        "batch_size": 256, "actor_lr": 3e-4, "critic_lr": 3e-4, "polyak": 0.005,
        "warm_up": 10_000, "env_steps": 1_000_000, "discount": 0.99,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    humanoid = preset(sac_lag, "omnisafe", "HumanoidVelocity-v4")
    assert humanoid["env_steps"] == 3_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multiplier_form": "exp"}, "multiplier_form 'exp' is unknown"),
        ({"signal": "episode"}, "signal 'episode' is unknown; use one of: critic, episodes"),
        ({"cost_action": "mode"}, "cost_action 'mode' is unknown; use one of: sample, mean"),
        ({"multiplier_floor": 2.0}, r"multiplier_floor is 2.0; it must lie in \[0, 0.6931\]"),
        ({"multiplier_init": 0.0}, "multiplier_init is 0.0; it must be greater than 0"),
        ({"multiplier_lr": -1.0}, "multiplier_lr is -1.0; it must be greater than 0"),
        ({"cost_window": 0}, "cost_window is 0; it must be 1 or more"),
        ({"policy_delay": 3}, "no multiple of policy_delay 3; use policy_delay 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)
