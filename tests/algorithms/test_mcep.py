"""MCEP: objectives by hand, the fact sheet's invariants by number, and whole cycles of both bases
against one seed's written with torch.nn, torch.distributions and torch.optim from the sheet."""

import csv
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
from torch.nn.functional import mse_loss

from rlsuite.algorithms.offline import bc, mcep
from rlsuite.algorithms.offline.mcep import (
    Config,
    State,
    ascent_loss,
    mcep_cycle,
    policy_loss,
    train,
)
from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import TransitionBatch, chunks
from rlsuite.core.critics import Critics
from rlsuite.core.optim import Net
from rlsuite.core.saving import load_policy
from rlsuite.core.squashed import SquashedActor
from rlsuite.core.streams import Streams

STILL = 1e-30  # a learning rate that moves nothing: Adam's first moment is 0.1 gradients
TD3_BC, AWAC = {}, {"base": "awac", "policy_freq": 1}
NORMALIZED = {"normalize_error": True}
BASES = pytest.mark.parametrize("base", [TD3_BC, NORMALIZED, AWAC], ids=["td3_bc", "n", "awac"])
MILDER = {"td3_bc": {"evaluation_alpha": 40.0}, "awac": {"evaluation_lambda": 0.1}}


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def setting(seeds=(0, 1), rows=32, dtype=torch.float64, **changes) -> SimpleNamespace:
    """Networks, targets other than them, and one cycle's transitions and noise of every seed."""
    config = Config(**{"batch_size": rows, "hidden": (16, 8), "polyak": 0.25, **changes})
    rngs, awac = Streams(seeds)["init"], config.base == "awac"
    kind = SquashedActor if awac else BoundedActor
    made = [kind(OBS, LOW, HIGH, rngs=rngs, hidden=config.hidden).to(dtype) for _ in range(2)]
    policy, critics = made[1], Critics(OBS, ACTIONS, config.hidden)
    online = [*(x.theta.detach() for x in made), critics.initial(rngs).to(dtype)]
    num_envs = [x + 0.05 * normals(seeds, x.shape[1], dtype=dtype) for x in online]
    targets = online[0].clone() if awac else num_envs[0], num_envs[2]
    known = [0.5 + seed if config.normalize_error else 1.0 for seed in seeds]
    error = torch.tensor(known, dtype=dtype)
    state = State(*map(Net.of, online), *targets, error)
    count = rows * config.policy_freq
    drawn = draws(seeds, rows, config, dtype)
    cycle = partial(mcep_cycle, policy, critics, config)
    return SimpleNamespace(**locals())


def draws(seeds, rows: int, config: Config, dtype=torch.float64) -> tuple:
    """Transitions whose actions lie inside the box, and normal numbers."""
    count, own = rows * config.policy_freq, 2 * rows * (config.base == "awac")
    batch = batch_of(seeds, count, dtype)
    low, high = (torch.tensor(x, dtype=dtype) for x in (LOW, HIGH))
    action = 0.99 * (batch.action - (high + low) / 2) + (high + low) / 2
    noise = normals(seeds, count + own, ACTIONS, dtype=dtype)
    return batch._replace(action=action), noise[:, own:], noise[:, :own]


class PlainMCEP:
    """One seed as section 2 of the sheet has it; the evaluation policy first, as in the code."""

    def __init__(self, s: SimpleNamespace, seed: int) -> None:
        *theta, self.n = (x[seed] for x in thetas(s.state))
        self.c, self.half_width = s.config, s.policy.half_width
        self.low, self.high = (torch.tensor(x) for x in (LOW, HIGH))
        kind = PlainPolicy if s.awac else PlainActor
        actor, evaluation, critic, actor_target, critic_target = theta
        self.actor, self.evaluation = (kind(s.policy, x) for x in (actor, evaluation))
        self.actor_target = self.actor if s.awac else kind(s.policy, actor_target)
        layout = s.critics.layout
        self.critic, self.critic_target = (PlainCritics(layout, x) for x in (critic, critic_target))
        rates = ((self.actor, 2**-8), (self.evaluation, 2**-8), (self.critic, 2**-7))
        self.adams = {net: torch.optim.Adam(net.parameters(), lr) for net, lr in rates}

    def descend(self, net: torch.nn.Module, loss: torch.Tensor) -> None:
        self.adams[net].zero_grad()
        loss.backward()
        self.adams[net].step()

    def next_action(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        if self.c.base == "awac":
            return self.actor.sample(obs, noise)
        eps = (0.2 * self.half_width * noise).clamp(-0.5 * self.half_width, 0.5 * self.half_width)
        return (self.actor_target(obs) + eps).clamp(self.low, self.high)

    def cycle(self, batch: TransitionBatch, noise: torch.Tensor, own: torch.Tensor) -> None:
        for rows in torch.arange(len(noise)).chunk(self.c.policy_freq):
            obs, action, reward, next_obs, done = (x[rows] for x in batch)
            with torch.no_grad():
                there = self.next_action(next_obs, noise[rows])
                y = reward + 0.99 * (1 - done) * torch.min(*self.critic_target(next_obs, there))
            self.descend(self.critic, sum(mse_loss(q, y) for q in self.critic(obs, action)))
        (self.awac if self.c.base == "awac" else self.td3_bc)(obs, action, own)
        follow(self.critic_target, self.critic, 0.25)
        if self.c.base != "awac":
            follow(self.actor_target, self.actor, 0.25)

    def td3_bc(self, obs, action, _own) -> None:
        if self.c.normalize_error:
            apart = (self.actor_target(obs) - action).square().sum(1).mean().detach()
            self.n = 0.95 * self.n + 0.05 * apart
        weights = ((self.evaluation, self.c.evaluation_alpha, self.n),
                   (self.actor, self.c.target_alpha, 1.0))  # fmt: skip
        for net, alpha, n in weights:
            pi = net(obs)
            q = self.critic(obs, pi)[0]
            lam = alpha / q.abs().mean().detach()
            self.descend(net, -lam * q.mean() + mse_loss(pi, action) / n)

    def awac(self, obs, action, own) -> None:
        for_b, for_c = own.chunk(2)
        value = sum(self.critic(obs, self.evaluation.sample(obs, for_c))) / 2
        log_prob = self.evaluation.log_prob(obs, action)
        loss = -value.clamp(max=self.c.max_value) - self.c.evaluation_lambda * log_prob
        self.descend(self.evaluation, loss.mean())
        with torch.no_grad():
            v = torch.min(*self.critic(obs, self.actor.sample(obs, for_b)))
            advantage = torch.min(*self.critic(obs, action)) - v
            w = (advantage / self.c.target_lambda).exp().clamp(max=self.c.max_weight)
        self.descend(self.actor, (-w * self.actor.log_prob(obs, action)).mean())

    def networks(self) -> list[torch.nn.Module]:
        targets = [self.actor_target, self.critic_target]
        return [self.actor, self.evaluation, self.critic, *targets]


# --------------------------------------------------------------------------------- objectives


def test_objectives_by_hand():
    # mean |Q| is 3, so lambda is 2/3; mean Q is 1, mean error 0.5: 0.5 - 2/3
    value, error = torch.tensor([[4.0, -2.0]]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(policy_loss(value, error, 2.0), torch.tensor([-1 / 6]))
    # -(1 + 3)/2, as 4 is cut to 3, and -0.6 (-1 + 0.5)/2 = 0.15
    value, log_prob = torch.tensor([[1.0, 4.0]]), torch.tensor([[-1.0, 0.5]])
    torch.testing.assert_close(ascent_loss(value, log_prob, 0.6, 3.0), torch.tensor([-1.85]))


@pytest.mark.parametrize(
    "changes",
    [TD3_BC, NORMALIZED, AWAC, AWAC | {"max_weight": 1.2, "max_value": 0.1, "target_lambda": 0.1}],
    ids=["td3_bc", "n", "awac", "awac, bounded"],
)
def test_cycles_are_those_of_one_seed_in_plain_torch(changes):
    s = setting(actor_lr=2**-8, critic_lr=2**-7, **changes)
    plain, state = [PlainMCEP(s, seed) for seed in (0, 1)], s.state
    for k in range(4):
        drawn = draws((10 * k, 10 * k + 1), 32, s.config)
        state, _ = s.cycle(state, *drawn)
        for seed in (0, 1):
            batch, *noise = drawn
            plain[seed].cycle(TransitionBatch(*(x[seed] for x in batch)), *(x[seed] for x in noise))
    for seed in (0, 1):
        *ours, n = (x[seed] for x in thetas(state))
        for theta, network in zip(ours, plain[seed].networks(), strict=True):
            torch.testing.assert_close(theta, flat(network), rtol=0, atol=1e-8)
        assert n == pytest.approx(float(plain[seed].n), rel=1e-12)
    for new, old in zip(thetas(state)[:5], thetas(s.state)[:5], strict=True):
        assert (new - old).abs().max() > 5e-3


@pytest.mark.parametrize("base", [NORMALIZED, AWAC], ids=["td3_bc", "awac"])
def test_a_seed_moves_to_the_same_bits_alone_and_in_company(base):
    changes = base | {"hidden": (32, 32), "dtype": torch.float32}
    alone, company = (setting(seeds, **changes) for seeds in ((3,), range(5)))
    mine, theirs = alone.state, company.state
    for _ in range(3):
        mine, my_metrics = alone.cycle(mine, *alone.drawn)
        theirs, metrics = company.cycle(theirs, *company.drawn)
    for a, b in zip(tensors(mine), tensors(theirs), strict=True):
        assert torch.equal(a[0], b[3])
    assert all(torch.equal(my_metrics[name][0], metrics[name][3]) for name in metrics)


# --------------------------------------------------------------------- invariants of section 6


def trained(data=None, seeds=(0, 1), **changes) -> MemoryRun:
    values = {"gradient_steps": 12, "steps_per_iteration": 4, "batch_size": 16, "hidden": (16, 8)}
    run = MemoryRun(logged([10] * 6) if data is None else data, seeds)
    train(Config(**values | changes), run)
    return run


@BASES
def test_6_1_a_milder_evaluation_policy_leaves_critics_and_target_policy_to_the_bit(base):
    config = Config(**base)
    strict, mild = trained(**base).states, trained(**base, **MILDER[config.base]).states
    for one, other in zip(strict, mild, strict=True):
        same = one.state._replace(evaluation=other.state.evaluation)
        for x, y in zip(tensors(same), tensors(other.state), strict=True):
            assert torch.equal(x, y)
        assert torch.equal(one.target.theta, other.target.theta)
    assert not torch.equal(strict[-1].policy.theta, mild[-1].policy.theta)
    assert not torch.equal(strict[-1].target.theta, strict[0].target.theta)


def test_6_2_actors_with_one_weight_and_one_start_stay_the_same():
    s = setting(target_alpha=4.0, evaluation_alpha=4.0, actor_lr=0.01)
    state = s.state._replace(evaluation=s.state.actor)
    for _ in range(3):
        state, _ = s.cycle(state, *s.drawn)
    assert torch.equal(state.evaluation.theta, state.actor.theta)
    assert not torch.equal(state.actor.theta, s.state.actor.theta)


@BASES
def test_6_3_the_evaluation_policy_enters_no_target(base):
    s = setting(**base)
    after, metrics = s.cycle(s.state, *s.drawn)
    other = Net.of(3 * s.state.evaluation.theta)
    moved, others = s.cycle(s.state._replace(evaluation=other), *s.drawn)
    assert torch.equal(metrics["critic_loss"], others["critic_loss"])
    assert all(map(torch.equal, tensors(after.critic), tensors(moved.critic)))
    # pi~_target enters it
    _, others = s.cycle(s.state._replace(actor_target=3 * s.state.actor_target), *s.drawn)
    assert not torch.equal(metrics["critic_loss"], others["critic_loss"])


def test_6_4_without_weight_on_q_the_evaluation_policy_is_cloned():
    s = setting(evaluation_alpha=0.0, actor_lr=2**-8)
    after, _ = s.cycle(s.state, *s.drawn)
    config = bc.Config(batch_size=32, learning_rate=2**-8, hidden=(16, 8))
    part = chunks(s.drawn[0], 2)[1]
    cloned = bc.clone_step(s.policy, config, s.state.evaluation, part)[0].theta
    torch.testing.assert_close(after.evaluation.theta, cloned, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "base", [{"evaluation_alpha": 40.0}, AWAC | {"evaluation_lambda": 0.01}], ids=["td3_bc", "awac"]
)
def test_6_4_the_milder_one_climbs_higher_on_critics_that_stay(base):
    s = setting(critic_lr=STILL, actor_lr=0.01, polyak=0.0, **base)
    state = s.state._replace(evaluation=s.state.actor)
    for _ in range(50):
        state, metrics = s.cycle(state, *s.drawn)
    assert (metrics["evaluation_q"] > metrics["target_q"] + 0.01).all()


def test_6_5_awac_weighs_by_1_where_b_is_a_and_by_no_more_than_the_bound():
    # One row: the noise that makes b = a. Another: Q = 1000 a_1 far greater at a
    s = setting(seeds=(0,), rows=2, critic_lr=STILL, hidden=(4,), **AWAC)
    critics = Critics(OBS, ACTIONS, ())
    critic = torch.tensor([[0, 0, 0, 1000, 0, 0.0]], dtype=torch.float64).repeat(1, 2)
    state = s.state._replace(critic=Net.of(critic), critic_target=critic)
    batch, noise, _ = s.drawn
    action = batch.action.clone()
    action[:, 1, 0] = 1.9
    pi = s.policy.distribution(state.actor.theta, batch.obs)
    same = (s.policy.to_raw(action).atanh() - pi.mean) / pi.log_std.exp()
    own = torch.cat([same[:, :1], same[:, 1:] - 9, torch.zeros_like(same)], 1)
    given = (s.policy, critics, s.config, state, batch._replace(action=action), noise, own)
    _, metrics = mcep_cycle(*given)
    assert metrics["weight"].tolist() == pytest.approx([(1 + 1000) / 2])
    # No gradient of the weight: pi~'s own is that of -mean w log pi~, in plain torch above


@pytest.mark.parametrize("base", [TD3_BC, AWAC], ids=["td3_bc", "awac"])
def test_6_6_the_evaluation_policy_is_the_one_that_acts(base):
    run = trained(**base)
    for learner in run.states:
        assert torch.equal(learner.policy.theta, learner.state.evaluation.theta)
        assert torch.equal(learner.target.theta, learner.state.actor.theta)
    assert list(run.policies) == ["evaluation", "target"]
    assert run.policies["evaluation"] is run._learner.policy
    assert run.policies["target"] is run._learner.target
    # Equal at the start on AWAC only; the targets equal their networks on both
    start = run.states[0].state
    assert torch.equal(start.actor.theta, start.evaluation.theta) == (base is AWAC)
    assert torch.equal(start.actor.theta, start.actor_target)
    assert torch.equal(start.critic.theta, start.critic_target)
    counts = [net.adam.steps[0].item() for net in run.states[-1].state[:3]]
    assert counts == ([12, 12, 12] if base is AWAC else [6, 6, 12])


def test_a_run_evaluates_and_keeps_both_policies(finished_run):
    folder = finished_run("mcep", "InvertedPendulum-v4")
    with open(folder / "evaluations.csv", newline="") as file:
        rows = [row["policy"] for row in csv.DictReader(file)]
    assert rows[:4] == ["evaluation", "evaluation", "target", "target"]  # two seeds of each
    main, target = (load_policy(folder / name) for name in ("policy", "policy-target"))
    assert [about["policy"] for _, about in (main, target)] == ["evaluation", "target"]
    assert not torch.equal(main[0].theta, target[0].theta)
    assert torch.equal(load_policy(folder)[0].theta, main[0].theta)


def test_6_7_n_averages_the_target_policys_errors_and_never_moves_that_policy():
    s = setting(actor_lr=STILL, **NORMALIZED)
    after, _ = s.cycle(s.state, *s.drawn)
    part = chunks(s.drawn[0], 2)[1]
    apart = s.policy.mean(s.state.actor_target, part.obs) - part.action
    error = apart.square().sum(2).mean(1)
    torch.testing.assert_close(after.error, 0.95 * s.state.error + 0.05 * error)
    between = torch.stack([s.state.error, error])
    assert ((after.error > between.amin(0)) & (after.error < between.amax(0))).all()
    # Without Q, pi^e's gradient is that of its error over the new n
    plain = setting(actor_lr=STILL, evaluation_alpha=0.0)
    scaled = setting(actor_lr=STILL, evaluation_alpha=0.0, **NORMALIZED)
    one, _ = plain.cycle(plain.state, *plain.drawn)
    other, _ = scaled.cycle(scaled.state, *scaled.drawn)
    over_n = one.evaluation.adam.first / other.error[:, None]
    torch.testing.assert_close(other.evaluation.adam.first, over_n)
    assert torch.equal(one.actor.adam.first, other.actor.adam.first)


# -------------------------------------------------------------------------------------- train


def test_rewards_are_scaled_and_actions_keep_a_margin_to_the_box(monkeypatch):
    # Returns 3, -1, 4 and 2: they span 5, so that rewards are multiplied by 200
    corners = np.where(np.arange(20).reshape(10, 2) % 3 == 0, HIGH, LOW).astype(np.float32)
    rewards = [1, 1, 1, 0, -1, 1, 1, 1, 1, 2]
    data, seen, cycle = logged([3, 2, 4, 1], rewards, action=corners), [], mcep.mcep_cycle

    def recorded(policy, critics, config, state, batch, noise, own):
        seen.append(batch)
        return cycle(policy, critics, config, state, batch, noise, own)

    monkeypatch.setattr(mcep, "mcep_cycle", recorded)
    trained(data, scale_rewards=True, reward_factor=0.5, action_margin=0.25)
    assert set(seen[0].reward.unique().tolist()) == {-100, 0, 100, 200}
    # Half widths 2 and 1/2 around 0 and 1/2: three quarters of them
    assert set(seen[0].action[..., 0].unique().tolist()) == {-1.5, 1.5}
    assert set(seen[0].action[..., 1].unique().tolist()) == {0.125, 0.875}


def test_advantages_that_are_all_equal_are_warned_of_once(monkeypatch, warned):
    weights = mcep.regression_weights

    def equal(advantage, value, *limits):
        return weights(torch.zeros_like(advantage), value, *limits)

    monkeypatch.setattr(mcep, "regression_weights", equal)
    run = trained(**AWAC)
    (message,) = warned()
    assert message == mcep.EQUAL
    assert all(row["weight"].tolist() == [1, 1] for row in run.rows)
