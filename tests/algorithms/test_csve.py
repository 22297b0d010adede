"""CSVE: the invariants and traps of the fact sheet by number, V's step on a chain with Q held, and
whole steps against one seed's written with torch.nn and torch.distributions from the sheet."""

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
)
from torch.distributions import Normal
from torch.nn.functional import mse_loss

from rlsuite.algorithms.offline import csve
from rlsuite.algorithms.offline.csve import (
    Config,
    Nets,
    State,
    csve_step,
    distribution,
    train,
    value_gap,
)
from rlsuite.core.actors import BoundedActor
from rlsuite.core.critics import Critics, StateValue
from rlsuite.core.dynamics import Draw, Ensemble
from rlsuite.core.optim import Net, gradient
from rlsuite.core.streams import Streams
from rlsuite.core.weights import EQUAL, regression_weights

STILL = {"actor_lr": 1e-30, "critic_lr": 1e-30, "alpha_lr": 1e-30}  # first moments: 0.1 gradients


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def setting(seeds=(0, 1), rows=32, dtype=torch.float64, **changes) -> SimpleNamespace:
    """Networks and models, a target other than the critics, one step's draws of every seed."""
    small = {"hidden": (16, 8), "model_hidden": (8, 6), "members": 3, "budget": 0.1}
    config = Config(**{"batch_size": rows} | small | changes)
    rngs = Streams(seeds)["init"]
    policy = BoundedActor(OBS, LOW, HIGH, rngs=rngs, hidden=config.hidden, log_std=-0.5).to(dtype)
    critics, values = Critics(OBS, ACTIONS, config.hidden), StateValue(OBS, config.hidden)
    models = Ensemble(OBS, ACTIONS, config.model_hidden, config.members, config.clip_states)
    model = models.initial([np.random.default_rng(9)]).net.theta.to(dtype).repeat(len(seeds), 1)
    value, critic = (x.initial(rngs).to(dtype) for x in (values, critics))
    target = critic + 0.3 * normals(seeds, critic.shape[1], dtype=dtype)
    dual = torch.full((len(seeds), 1), math.log(config.alpha), dtype=dtype)
    state = State(Net.of(policy.theta), Net.of(value), Net.of(critic), target, Net.of(dual))
    batch = batch_of(seeds, rows, dtype)
    draws = [draw_of(seeds, rows, config.members, dtype, k) for k in range(3)]
    nets = Nets(config, policy, critics, values, models)
    step = partial(csve_step, nets, model)
    return SimpleNamespace(**locals())


def draw_of(seeds, rows: int, members: int, dtype, k: int) -> Draw:
    member = [np.random.default_rng(50 * k + s).integers(members, size=rows) for s in seeds]
    own = [1000 * (k + 1) + s for s in seeds]
    noise, action = (normals(own, rows, size, dtype=dtype) for size in (OBS + 1, ACTIONS))
    return Draw(torch.from_numpy(np.stack(member)), noise, action)


class PlainCSVE:
    """One seed as section 2c of the sheet has it, paper's form or the released one."""

    def __init__(self, s: SimpleNamespace, seed: int) -> None:
        self.s, self.seed, self.config = s, seed, s.config
        self.low, self.high = (torch.tensor(x, dtype=torch.float64) for x in (LOW, HIGH))
        self.actor = PlainActor(s.policy, s.state.actor.theta[seed])
        self.value = plain_mlp(s.values.layout, s.state.value.theta[seed], "v")
        thetas = (s.state.critic.theta[seed], s.state.critic_target[seed])
        self.critic, self.target = (PlainCritics(s.critics.layout, x) for x in thetas)
        self.log_alpha = torch.full((1,), math.log(s.config.alpha), dtype=torch.float64)
        self.log_alpha.requires_grad_()
        adam, config = torch.optim.Adam, s.config
        self.dual_adam = adam([self.log_alpha], config.alpha_lr)
        self.actor_adam = adam(self.actor.parameters(), config.actor_lr)
        self.value_adam = adam(self.value.parameters(), config.critic_lr)
        self.critic_adam = adam(self.critic.parameters(), config.critic_lr)

    def minimise(self, adam, loss):
        adam.zero_grad()
        loss.backward()
        adam.step()

    def v(self, obs):
        return self.value(obs)[:, 0]

    def pi(self, obs):
        return Normal(self.actor(obs), self.actor.log_std.clamp(-5, 2).exp())

    def action(self, obs, draw):
        pi = self.pi(obs)
        return (pi.mean + pi.stddev * draw.action[self.seed]).clamp(self.low, self.high)

    def reached(self, obs, action, draw):
        one = slice(self.seed, self.seed + 1)
        part = Draw(*(x[one] for x in draw))
        there, reward = self.s.models.predict(self.s.model[one], obs[None], action[None], part)
        return there[0], reward[0]

    def penalised(self, obs, draw):
        action = self.pi(obs).mean if self.config.mean_actions else self.action(obs, draw)
        return self.reached(obs, action, draw)[0].detach()

    def step(self, batch, draws):
        obs, action, reward, next_obs, done = (x[self.seed] for x in batch)
        config, known = self.config, next_obs if self.config.next_states else obs

        def gap(there):
            return config.penalty * (self.v(there).mean() - self.v(known).mean()) - config.budget

        first, second = (self.penalised(obs, draw) for draw in draws[:2])
        self.minimise(self.dual_adam, -(self.log_alpha.exp() * gap(first).detach()).sum())
        alpha = self.log_alpha.exp().detach()
        sampled = self.action(obs, draws[1]).detach()
        q = torch.min(*self.target(obs, sampled)).detach()
        self.minimise(self.value_adam, mse_loss(self.v(obs), q) + (alpha * gap(second)).sum())
        y = (reward + 0.99 * (1 - done) * self.v(next_obs)).detach()
        q1, q2 = self.critic(obs, action)
        self.minimise(self.critic_adam, mse_loss(q1, y) + mse_loss(q2, y))
        advantage = (torch.min(*self.target(obs, action)) - self.v(obs)).detach()
        weight = (config.temperature * advantage).exp().clamp(max=config.max_weight)
        loss = -(weight * self.pi(obs).log_prob(action).sum(1)).mean()
        if config.bonus:
            there, promised = self.reached(obs, self.action(obs, draws[2]), draws[2])
            v = self.v(there)
            promise = promised + 0.99 * v if config.bonus_reward else v.clamp(-1500, 1500)
            loss = loss - config.bonus * promise.mean()
        self.minimise(self.actor_adam, loss)
        follow(self.target, self.critic, 0.005)


# ---------------------------------------------------------------------------------- the whole step

RELEASED = {"next_states": True, "mean_actions": True, "bonus_reward": False, "clip_states": 0.75}


@pytest.mark.parametrize("form", [{}, RELEASED, {"bonus": 0.25}, RELEASED | {"bonus": 0.25}])
def test_steps_are_those_of_one_seed_in_plain_torch(form):
    rates = {"actor_lr": 2**-8, "critic_lr": 2**-7, "alpha_lr": 2**-9}
    s = setting(**rates | form)
    plain, state = [PlainCSVE(s, seed) for seed in (0, 1)], s.state
    for k in range(4):
        batch = batch_of((10 * k, 10 * k + 1), 32, torch.float64)
        draws = [draw_of((0, 1), 32, 3, torch.float64, 7 * k + i) for i in range(3)]
        state, _ = s.step(state, batch, draws)
        for x in plain:
            x.step(batch, draws)
    for seed, x in enumerate(plain):
        pairs = [(state.actor.theta, flat(x.actor)), (state.value.theta, flat(x.value))]
        pairs += [(state.critic.theta, flat(x.critic)), (state.critic_target, flat(x.target))]
        pairs += [(state.dual.theta, x.log_alpha.detach())]
        for ours, theirs in pairs:
            torch.testing.assert_close(ours[seed], theirs, rtol=0, atol=1e-9)
    for name in ("actor", "value", "critic", "dual"):
        moved = getattr(state, name).theta - getattr(s.state, name).theta
        assert moved.abs().max() > 5e-3


def test_float32_does_as_float64():
    s, double = setting(dtype=torch.float32), setting()
    state, exact = s.state, double.state
    for _ in range(4):
        state, _ = s.step(state, s.batch, s.draws)
        exact, _ = double.step(exact, double.batch, double.draws)
    for ours, theirs in zip(tensors(state), tensors(exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("bonus", [0.0, 0.1])
def test_a_seed_moves_to_the_same_bits_alone_and_in_company(bonus):
    changes = {"hidden": (32, 32), "dtype": torch.float32, "bonus": bonus}
    alone, company = (setting(seeds, **changes) for seeds in ((3,), range(5)))
    mine, theirs = alone.state, company.state
    for _ in range(3):
        mine, my_metrics = alone.step(mine, alone.batch, alone.draws)
        theirs, metrics = company.step(theirs, company.batch, company.draws)
    for a, b in zip(tensors(mine), tensors(theirs), strict=True):
        assert torch.equal(a[0], b[3])
    assert all(torch.equal(my_metrics[name][0], metrics[name][3]) for name in metrics)


# ---------------------------------------------------------- invariants 3 and 4: penalty and alpha


def test_6_3_the_penaltys_gradient_is_alpha_w_over_b_up_on_data_and_down_on_model_states():
    model, data = torch.zeros(2, 5, requires_grad=True), torch.zeros(2, 5, requires_grad=True)
    for budget in (10.0, -10.0):
        model.grad = data.grad = None
        (2.0 * value_gap(model, data, 3.0, budget)).sum().backward()
        torch.testing.assert_close(model.grad, torch.full((2, 5), 2 * 3 / 5))
        torch.testing.assert_close(data.grad, torch.full((2, 5), -2 * 3 / 5))
    # 3 * ((1 + 3)/2 - (0 + 1)/2) - 4 = 0.5
    by_hand = value_gap(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]]), 3.0, 4.0)
    torch.testing.assert_close(by_hand, torch.tensor([0.5]))


@pytest.mark.parametrize(("budget", "rises"), [(-3.0, True), (3.0, False)])
def test_6_4_alpha_rises_on_its_first_step_where_the_gap_is_over_the_budget(budget, rises):
    s = setting(budget=budget, alpha_lr=0.01)
    after, metrics = s.step(s.state, s.batch, s.draws)
    assert ((metrics["gap"] > 0) == rises).all()
    moved = after.dual.theta - s.state.dual.theta
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01 if rises else -0.01))
    assert (after.dual.theta.exp() > 0).all()  # never negative
    torch.testing.assert_close(metrics["alpha"], torch.full((2,), 10.0, dtype=torch.float64))


def test_alpha_never_exceeds_a_million_and_no_gradient_moves_it_beyond():
    s = setting(budget=-3.0, alpha=2e6, alpha_lr=0.01)
    after, metrics = s.step(s.state, s.batch, s.draws)
    assert (metrics["alpha"] == 1e6).all()
    assert torch.equal(after.dual.theta, s.state.dual.theta)


# ------------------------------------------------------------------- invariants 5 to 7: gradients


def test_6_5_without_bonus_the_actors_gradient_is_weighted_regression_and_bc_with_equal_weights():
    s = setting(**STILL)
    after, metrics = s.step(s.state, s.batch, s.draws)
    obs, action = s.batch.obs, s.batch.action
    q = s.critics.values(s.state.critic_target, obs, action).amin(1)
    advantage = q - s.values.values(s.state.value.theta, obs)
    weight = (3 * advantage).exp().clamp(max=100)

    def regression(theta, w):
        pi = distribution(s.policy, theta, obs)
        return -(w * pi.log_prob(action)).mean(1), {}

    expected, _ = gradient(lambda x: regression(x, weight), s.state.actor.theta)
    torch.testing.assert_close(10 * after.actor.adam.first, expected, rtol=1e-9, atol=1e-12)
    size = weight.sum(1).square() / weight.square().sum(1)
    torch.testing.assert_close(metrics["effective_size"], size)
    # No temperature: all weights are 1
    s = setting(temperature=0.0, **STILL)
    after, _ = s.step(s.state, s.batch, s.draws)
    cloning, _ = gradient(lambda x: regression(x, torch.ones_like(weight)), s.state.actor.theta)
    torch.testing.assert_close(10 * after.actor.adam.first, cloning, rtol=1e-9, atol=1e-12)


def test_6_6_the_target_of_q_has_no_action_of_the_policy():
    s = setting(**STILL)
    other = s.state._replace(actor=Net.of(s.state.actor.theta + 3.0))
    a, b = (s.step(x, s.batch, s.draws)[0].critic.adam.first for x in (s.state, other))
    assert torch.equal(a, b)


def test_6_7_the_bonus_moves_the_policy_alone_and_the_penalty_does_not_move_it():
    plain, bonus = setting(**STILL), setting(bonus=0.5, **STILL)
    a, b = (s.step(s.state, s.batch, s.draws)[0] for s in (plain, bonus))
    assert torch.equal(a.value.adam.first, b.value.adam.first)
    assert torch.equal(a.critic.adam.first, b.critic.adam.first)
    assert (a.actor.adam.first - b.actor.adam.first).abs().max() > 1e-4
    heavy = setting(penalty=100.0, **STILL)  # weighs V's loss, and not the actor's
    c, _ = heavy.step(heavy.state, heavy.batch, heavy.draws)
    assert torch.equal(a.actor.adam.first, c.actor.adam.first)
    assert not torch.equal(a.value.adam.first, c.value.adam.first)
    assert torch.equal(bonus.model, plain.model)


def test_a_sample_clamped_to_the_box_gives_no_bonus():
    s = setting(bonus=1.0, **STILL)
    theta = s.state.actor.theta.clone()
    s.policy.layout.views(theta)["log_std"][:] = 2.0
    far = [d._replace(action=torch.full_like(d.action, 9.0)) for d in s.draws]
    state = s.state._replace(actor=Net.of(theta))
    with_bonus, _ = s.step(state, s.batch, far)
    plain = setting(**STILL)
    without, _ = plain.step(state, plain.batch, far)
    assert torch.equal(with_bonus.actor.adam.first, without.actor.adam.first)


# -------------------------------------------------------------------------------- equal advantages


def test_equal_advantages_are_cloned_with_weights_of_one():
    q = torch.tensor([[5.0, 5.0, 5.0], [1.0, 2.0, 3.0]])
    weight, metrics = regression_weights(torch.full((2, 3), -4.0), q, 3.0, 100.0)
    assert weight.tolist() == [[1, 1, 1]] * 2
    assert metrics["equal_advantages"].tolist() == [1, 1]
    # exp(3 * (0.5, 0)) = 4.481689, 1; exp(6) is cut to 100
    weight, metrics = regression_weights(torch.tensor([[0.5, 0.0, 2.0]]), q[:1], 3.0, 100.0)
    torch.testing.assert_close(weight, torch.tensor([[4.481689, 1.0, 100.0]]))
    assert metrics["equal_advantages"].tolist() == [0]


def test_equal_advantages_are_warned_of_once_and_training_goes_on(warned, tmp_path):
    # One state, one action: Q - V is the same for every row
    state = np.zeros((60, OBS), np.float32)
    data = logged([10] * 6, obs=state, next_obs=state, action=np.full((60, 2), 0.5, np.float32))
    run = run_of(tmp_path, (0,), data)
    assert warned() == [EQUAL]
    assert all(row["equal_advantages"].item() == 1 for row in run.rows[2:])
    assert run.rows[-1]["weight"].item() == 1


# -------------------------------------------------------------------------------------- train

SIZES = {"model_steps": 4, "gradient_steps": 6, "steps_per_iteration": 2, "batch_size": 16}
SIZES |= {"hidden": (16, 8), "model_hidden": (8, 6), "members": 2, "model_batch_size": 20}
DATA = logged([10] * 6)


def run_of(folder, seeds=(0, 1), data=DATA, **changes) -> MemoryRun:
    folder.mkdir(exist_ok=True)
    run = MemoryRun(data, seeds, folder)
    train(Config(**SIZES | changes), run)
    return run


def test_6_7_models_are_fitted_first_and_never_move_afterwards(tmp_path):
    run = run_of(tmp_path)
    fitted = [learner.dynamics.fit.net.theta for learner in run.states]
    assert len(fitted) == 6  # before the run, after 2 iterations of fitting and 3 of learning
    moved = [not torch.equal(a, b) for a, b in zip(fitted, fitted[1:], strict=False)]
    assert moved == [True, True, False, False, False]
    values = [learner.state.value.theta for learner in run.states]
    moved = [not torch.equal(a, b) for a, b in zip(values, values[1:], strict=False)]
    assert moved == [False, False, True, True, True]
    assert [set(row) for row in run.rows[:2]] == [{"model_loss", "model_error"}] * 2
    logged_then = {"alpha", "gap", "value_loss", "value", "critic_loss", "actor_loss", "weight"}
    assert set(run.rows[2]) == logged_then | {"effective_size", "capped", "equal_advantages"}
    assert (tmp_path / "dynamics.safetensors").exists()
    # What acts has the actor's parameters
    last = run.states[-1]
    assert torch.equal(last.policy.theta, last.state.actor.theta)


def test_all_seeds_and_runs_of_a_data_set_share_the_models(tmp_path):
    runs = [run_of(tmp_path / str(k), seeds) for k, seeds in enumerate([(0, 1), (7,)])]
    one, other = (run.states[-1].dynamics.fitted() for run in runs)
    assert torch.equal(one, other)


def test_another_runs_models_are_used_by_name_and_nothing_is_fitted(tmp_path):
    first = run_of(tmp_path / "first", spectral_norm=True)
    source = {"dynamics": str(tmp_path / "first"), "spectral_norm": True}
    again = run_of(tmp_path / "again", (3, 4, 5), **source)
    assert len(again.rows) == 3
    used = again.states[-1].dynamics.theta()
    assert torch.equal(used, first.states[-1].dynamics.fitted().repeat(3, 1))
    assert not (tmp_path / "again" / "dynamics.safetensors").exists()


def test_train_starts_with_equal_targets_and_alpha_ten(tmp_path):
    start = run_of(tmp_path).states[0]
    assert torch.equal(start.state.critic.theta, start.state.critic_target)
    torch.testing.assert_close(start.state.dual.theta, torch.full((2, 1), math.log(10)))
    assert start.policy.layout.views(start.policy.theta)["log_std"].unique().item() == -1.5
    assert torch.equal(start.policy.normalizer.std, torch.ones(2, OBS))  # nothing is standardised


def test_train_gives_each_step_its_own_draws(tmp_path, monkeypatch):
    calls, step = [], csve.csve_step

    def recorded(nets, model, state, batch, draws):
        calls.append((batch, draws))
        return step(nets, model, state, batch, draws)

    monkeypatch.setattr(csve, "csve_step", recorded)
    run_of(tmp_path, batch_size=64)
    assert len(calls) == 6
    batch, draws = calls[0]
    assert batch.obs.shape == (2, 64, OBS) and len(draws) == 3
    assert {x.item() for x in batch.reward.flatten()} <= set(DATA.reward.tolist())  # raw
    numbers = torch.cat([d.noise.flatten() for _, draws in calls for d in draws])
    assert len(numbers.unique()) > 0.999 * len(numbers)
    assert set(draws[0].member.unique().tolist()) == {0, 1}
