"""CFPI's training: SARSA against one seed's in plain torch, the later rounds, what stays frozen."""

import copy
import dataclasses
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from closed_form_setting import HIGH, LOW
from offline_setting import (
    ACTIONS,
    OBS,
    MemoryRun,
    PlainCritics,
    as_in_a_run,
    batch_of,
    flat,
    follow,
    logged,
    normals,
    tensors,
)
from torch.nn.functional import mse_loss, smooth_l1_loss

from rlsuite.algorithms.offline import cfpi
from rlsuite.algorithms.offline.cfpi import (
    Config,
    State,
    clone_step,
    cloning_loss,
    critic_step,
    train,
)
from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.closed_form import ClosedFormPolicy
from rlsuite.core.optim import Net
from rlsuite.core.quantiles import draw_fractions
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.streams import Streams
from rlsuite.datasets.transitions import DatasetError
from rlsuite.runs.settings import preset

SMALL = {"hidden": (16, 8), "components": 2, "quantiles": 4, "batch_size": 32}
STILL = 1e-30  # a learning rate that moves nothing: Adam's first moment is 0.1 gradients


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def followed(lengths: list[int], **changes):
    """Made-up episodes in which each next observation is the next row's observation."""
    data = logged(lengths, **changes)
    next_obs = data.next_obs.copy()
    inner = np.flatnonzero(~data.last)
    next_obs[inner] = data.obs[inner + 1]
    return dataclasses.replace(data, next_obs=next_obs)


def setting(seeds=(0, 1), rows=32, dtype=torch.float64, **changes) -> SimpleNamespace:
    """Networks, a target other than the critics, and one step's draws of every seed."""
    config = Config(**{"batch_size": rows} | SMALL | changes)
    streams = Streams(seeds)
    data = logged([10])
    policy = ClosedFormPolicy.of(config, data, streams["init"]).to(dtype)
    behaviour, critic = policy.parts()
    target = critic + 0.05 * normals(seeds, critic.shape[1], dtype=dtype)
    state = State(Net.of(behaviour), Net.of(critic), target, critic.clone())
    batch = batch_of(seeds, rows, dtype)
    low, high = torch.tensor(LOW, dtype=dtype), torch.tensor(HIGH, dtype=dtype)
    next_action = low + (high - low) * torch.rand(len(seeds), rows, 2, dtype=dtype)
    fractions = draw_fractions(SeedRandom(streams["action"]), rows, config.quantiles)
    fractions = type(fractions)(*(x if x is None else x.to(dtype) for x in fractions))
    noise = normals(seeds, rows, ACTIONS, dtype=dtype)
    sarsa, later = (partial(critic_step, policy, config, x) for x in (False, True))
    drawn = (batch, next_action, fractions, noise)
    return SimpleNamespace(**locals())


# ------------------------------------------------------------------------------ the critics' step


def test_plain_critics_step_is_sarsa_with_own_targets_in_plain_torch():
    s = setting(quantiles=0, critic_lr=2**-8)
    state = s.state
    layout, both = s.policy.critics.layout, (state.critic.theta, state.target)
    plain = [[PlainCritics(layout, theta[i]) for theta in both] for i in (0, 1)]
    adams = [torch.optim.Adam(critic.parameters(), 2**-8) for critic, _ in plain]
    for k in range(4):
        batch = batch_of((10 * k, 10 * k + 1), 32, torch.float64)
        state, metrics = s.sarsa(state, batch, *s.drawn[1:])
        for seed, ((critic, target), adam) in enumerate(zip(plain, adams, strict=True)):
            obs, action, reward, next_obs, done = (x[seed] for x in batch)
            with torch.no_grad():
                y = [reward + 0.99 * (1 - done) * q for q in target(next_obs, s.next_action[seed])]
            losses = [mse_loss(q, t) for q, t in zip(critic(obs, action), y, strict=True)]
            adam.zero_grad()
            (sum(losses) / 2).backward()
            adam.step()
            follow(target, critic, 0.005)
    for seed, (critic, target) in enumerate(plain):
        torch.testing.assert_close(state.critic.theta[seed], flat(critic), rtol=0, atol=1e-9)
        torch.testing.assert_close(state.target[seed], flat(target), rtol=0, atol=1e-9)
    assert (state.critic.theta - s.state.critic.theta).abs().max() > 0.01
    assert metrics.keys() == {"critic_loss", "value"}


def test_quantile_critics_regress_on_their_own_targets_quantiles():
    s = setting()
    _, metrics = s.sarsa(s.state, *s.drawn)
    asked, there, width = s.fractions
    critics, b = s.policy.critics, s.batch
    for seed in (0, 1):
        total = 0.0
        for i in (0, 1):
            one = slice(seed, seed + 1)
            theta, target = (x[one].chunk(2, 1)[i] for x in (s.state.critic.theta, s.state.target))
            z = critics.quantiles(theta, b.obs[one], b.action[one], asked[one])[0, 0]
            future = critics.quantiles(target, b.next_obs[one], s.next_action[one], there[one])[
                0, 0
            ]
            y = b.reward[seed, :, None] + 0.99 * (1 - b.terminated[seed, :, None]) * future
            # Section 3: sum over i of widths, mean over j and the batch
            delta = y[:, :, None] - z[:, None, :]
            huber = smooth_l1_loss(z[:, None, :].expand_as(delta), y[:, :, None].expand_as(delta),
                                   reduction="none")  # fmt: skip
            side = (asked[seed][:, None, :] - (delta < 0).double()).abs()
            total = total + (width[seed][:, :, None] * side * huber).sum(1).mean() / 2
        torch.testing.assert_close(metrics["critic_loss"][seed], total)


def test_the_iterative_form_takes_the_newest_critic_noise_and_the_smaller_target():
    s = setting(improvement_steps=1000, quantiles=0, operator="logsumexp", critic_lr=STILL)
    after, _ = s.later(s.state, *s.drawn)
    improved = s.policy.improved(s.state.behaviour.theta, s.state.critic.theta, s.batch.next_obs)
    noise = (0.1 * s.noise).clamp(-0.5, 0.5) * s.policy.half_width
    action = torch.maximum(torch.minimum(improved + noise, s.high), s.low)
    future = s.policy.critics.values(s.state.target, s.batch.next_obs, action).amin(1)
    y = s.batch.reward + 0.99 * (1 - s.batch.terminated) * future
    plain = PlainCritics(s.policy.critics.layout, s.state.critic.theta[0])
    (sum(mse_loss(q, y[0]) for q in plain(s.batch.obs[0], s.batch.action[0])) / 2).backward()
    grad = torch.cat([p.grad.flatten() for p in plain.parameters()])
    torch.testing.assert_close(10 * after.critic.adam.first[0], grad, rtol=0, atol=1e-9)
    # Its SARSA steps before take the data's action, and the smaller target, too
    warm, _ = s.sarsa(s.state, *s.drawn)
    assert not torch.equal(warm.critic.adam.first, after.critic.adam.first)


def test_the_multi_step_form_takes_the_rounds_critic_without_noise_and_own_targets():
    s = setting(improvement_steps=1000, round_steps=1000, quantiles=0, critic_lr=STILL)
    anchor = s.state.anchor + 0.1 * normals((7, 8), s.state.anchor.shape[1], dtype=torch.float64)
    state = s.state._replace(anchor=anchor)
    after, _ = s.later(state, *s.drawn)
    action = s.policy.improved(state.behaviour.theta, anchor, s.batch.next_obs)
    same, _ = s.sarsa(state, s.batch, action, s.fractions, s.noise)
    assert torch.equal(after.critic.adam.first, same.critic.adam.first)
    other, _ = s.later(s.state, *s.drawn)
    assert not torch.equal(after.critic.adam.first, other.critic.adam.first)


def test_a_time_limit_is_bootstrapped_and_an_end_is_not():
    s = setting(quantiles=0, critic_lr=STILL)
    base, _ = s.sarsa(s.state, *s.drawn)
    ended = s.batch._replace(terminated=torch.ones_like(s.batch.terminated))
    first, _ = s.sarsa(s.state, ended, *s.drawn[1:])
    second, _ = s.sarsa(s.state, ended, s.next_action + 1, *s.drawn[2:])
    assert torch.equal(first.critic.adam.first, second.critic.adam.first)
    assert not torch.equal(first.critic.adam.first, base.critic.adam.first)


def test_7_11_the_behaviour_is_unchanged_by_critics_and_by_acting():
    s = setting(improvement_steps=1000, dtype=torch.float32)
    before = s.state.behaviour.theta.clone()
    state = s.state
    for step in (s.sarsa, s.later):
        state, _ = step(state, *s.drawn)
    s.policy.behaviour().act(np.zeros((2, 3, OBS)))
    assert torch.equal(state.behaviour.theta, before)
    assert torch.equal(s.policy.parts()[0], before)
    assert (state.behaviour.adam.steps == 0).all()


# ------------------------------------------------------------------------------- the behaviour


def test_the_behaviour_fits_the_density_of_actions_in_half_widths():
    s = setting(behaviour_lr=STILL)
    after, metrics = clone_step(s.policy, s.config, s.state, s.batch)
    action = (s.batch.action - s.policy.centre) / s.policy.half_width
    pi = s.policy.network.distribution(s.state.behaviour.theta, s.batch.obs)
    torch.testing.assert_close(metrics["cloning_loss"], -pi.log_prob(action).mean(1))
    assert torch.equal(after.critic.theta, s.state.critic.theta)
    assert (metrics["live"] == 2).all()
    # -(0.5 - 2)/2
    torch.testing.assert_close(cloning_loss(torch.tensor([[0.5, -2.0]])), torch.tensor([0.75]))


def test_dead_components_are_counted_and_not_chosen():
    s = setting(components=4)
    theta = s.state.behaviour.theta.clone()
    bias = s.policy.network.layout.views(theta)["mixture.bias"]
    bias[:] = torch.tensor([9.0, 9.0, -9.0, -9.0], dtype=torch.float64)
    state = s.state._replace(behaviour=Net.of(theta))
    _, metrics = clone_step(s.policy, s.config, state, s.batch)
    assert (metrics["live"] == 2).all()


@pytest.mark.parametrize("quantiles", [0, 4])
def test_a_seed_moves_to_the_same_bits_alone_and_in_company(quantiles):
    changes = {"dtype": torch.float32, "quantiles": quantiles, "improvement_steps": 1000}
    alone, company = (setting(seeds, hidden=(32, 32), **changes) for seeds in ((3,), range(4)))
    company.drawn[1][3], mine, theirs = alone.next_action[0], alone.state, company.state
    for step in ("sarsa", "later"):
        mine, _ = getattr(alone, step)(mine, *alone.drawn)
        theirs, _ = getattr(company, step)(theirs, *company.drawn)
    for a, b in zip(tensors(mine), tensors(theirs), strict=True):
        assert torch.equal(a[0], b[3])


# ------------------------------------------------------------------------------ what was done next


def test_next_actions_are_the_following_rows_and_cut_episodes_are_left_out():
    data, said = followed([3, 2, 4]), []  # cut, terminated, cut
    doubled, kept = data.with_next_actions(said.append)
    assert kept.tolist() == [0, 1, 3, 4, 5, 6, 7]  # the last rows of the cut ones are 2 and 8
    np.testing.assert_array_equal(doubled.action[:, :2], data.action)
    for row in (0, 1, 3, 5, 6, 7):
        np.testing.assert_array_equal(doubled.action[row, 2:], data.action[row + 1])
    assert said == ["2 of 9 transitions have no next action: left out"]


def test_a_set_that_is_not_in_the_order_of_its_episodes_is_refused():
    data = followed([20, 20, 20])
    order = np.random.default_rng(0).permutation(60)
    order = np.append(order[order != 59], 59)
    fields = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "last")
    mixed = dataclasses.replace(data, **{name: getattr(data, name)[order] for name in fields})
    with pytest.raises(DatasetError, match=r"made up: row \d+ does not follow row \d+, and SARSA"):
        mixed.with_next_actions(print)
    alone = logged([1], truncated=np.array([True]), terminated=np.array([False]))
    with pytest.raises(DatasetError, match="has no transition with a next action"):
        alone.with_next_actions(lambda _: None)


# -------------------------------------------------------------------------------------- train

SIZES = {"gradient_steps": 4, "behaviour_steps": 4, "steps_per_iteration": 2, "hidden": (16, 8)}
SIZES |= {"components": 2, "batch_size": 16, "quantiles": 4, "behaviour_lr": 1e-2}


def trained(seeds=(0, 1), **changes) -> MemoryRun:
    run = MemoryRun(followed([10] * 6), seeds)
    train(Config(**SIZES | changes), run)
    return run


def test_the_behaviour_is_fitted_first_and_then_critics_alone():
    run = trained(improvement_steps=2)
    states = [learner.state for learner in run.states]
    assert len(states) == 6  # before the run; 2 of the behaviour, 2 of SARSA, 1 of improvement
    pairs = list(zip(states, states[1:], strict=False))
    moved = [not torch.equal(a.behaviour.theta, b.behaviour.theta) for a, b in pairs]
    assert moved == [True, True, False, False, False]
    moved = [not torch.equal(a.critic.theta, b.critic.theta) for a, b in pairs]
    assert moved == [False, False, True, True, True]
    for learner in run.states:
        both = torch.cat((learner.state.behaviour.theta, learner.state.critic.theta), 1)
        assert torch.equal(learner.policy.theta, both)
    assert [set(row) for row in run.rows[:2]] == [{"cloning_loss", "live"}] * 2
    assert all(set(row) == {"critic_loss", "value", "promise"} for row in run.rows[2:])
    assert run.said == ["3 of 60 transitions have no next action: left out"]


def test_a_round_begins_with_the_newest_critic_and_keeps_it(monkeypatch):
    run = trained(improvement_steps=8, round_steps=4)
    states = [learner.state for learner in run.states][-5:]  # before, and after 4 iterations
    assert torch.equal(states[1].anchor, states[0].critic.theta)
    assert torch.equal(states[2].anchor, states[0].critic.theta)
    assert torch.equal(states[3].anchor, states[2].critic.theta)
    assert torch.equal(states[4].anchor, states[2].critic.theta)


@pytest.mark.parametrize(
    ("name", "task", "rounds"),
    [("multi-step", "Hopper-v4", 2), ("d4rl", "AntMaze-v2", 0)],
    ids=["multi-step", "iterative"],
)
def test_presets_of_several_improvements_run(name, task, rounds):
    settings = preset(cfpi, name, task)
    components = settings["components"]
    assert settings["improvement_steps"] and bool(settings.get("round_steps")) == bool(rounds)
    small = {"improvement_steps": 4, "round_steps": rounds, "components": components}
    run = trained(**settings | SIZES | small)
    before, *_, last = (learner.state for learner in run.states[-3:])
    assert not torch.equal(before.critic.theta, last.critic.theta)
    assert all(row["promise"].isfinite().all() for row in run.rows[2:])


def test_each_step_has_its_own_transitions_and_random_numbers(monkeypatch):
    calls, step = [], cfpi.critic_step

    def recorded(policy, config, improving, state, *drawn):
        calls.append((improving, *drawn))
        return step(policy, config, improving, state, *drawn)

    monkeypatch.setattr(cfpi, "critic_step", recorded)
    run = trained(improvement_steps=2)
    data = run.data()
    assert [improving for improving, *_ in calls] == [False] * 4 + [True] * 2
    batch, next_action, fractions, noise = calls[0][1:]
    assert batch.action.shape == next_action.shape == noise.shape == (2, 16, ACTIONS)
    assert fractions.asked.shape == (2, 16, 4)
    # Rows are pairs that follow one another in the data, of whichever seed
    rows = {tuple(row) for row in np.concatenate([data.action[:-1], data.action[1:]], 1)}
    pairs = torch.cat((batch.action, next_action), -1).flatten(0, 1)[
        batch.terminated.flatten() == 0
    ]
    assert all(tuple(pair.numpy()) in rows for pair in pairs)
    everything = torch.cat([call[4].flatten() for call in calls])
    assert len(everything.unique()) == len(everything)


def test_a_gaussian_learns_where_the_data_act():
    # The logged action is (sin of the first standardised observation, 1/2)
    data = followed([20] * 10)
    x = np.sin((data.obs[:, :1] - 5) / 3)
    data = dataclasses.replace(data, action=np.concatenate([x, np.full_like(x, 0.5)], 1))
    run = MemoryRun(data)
    changes = {"behaviour_steps": 300, "gradient_steps": 300, "steps_per_iteration": 300}
    train(Config(**SIZES | changes | {"hidden": (32, 32), "components": 1, "operator": "single",
                                      "batch_size": 64, "log_tau": 0.0}), run)  # fmt: skip
    policy = run.states[-1].policy
    action, _ = policy.behaviour().act(data.obs[None, :50].astype(np.float64).repeat(2, 0))
    assert (np.abs(action - data.action[:50]).mean((1, 2)) < 0.15).all()


def test_a_policy_is_a_true_snapshot_until_it_is_refreshed():
    s = setting(dtype=torch.float32)
    behaviour, obs = s.policy.behaviour(), np.zeros((2, 3, OBS))
    before = behaviour.act(obs)[0]
    other = copy.deepcopy(s.policy)
    s.policy.theta += 0.3
    assert np.array_equal(behaviour.act(obs)[0], before)
    behaviour.refresh(s.policy)
    assert not np.array_equal(behaviour.act(obs)[0], before)
    # It is deterministic with random numbers, too, and acts under inference mode
    rngs = [np.random.default_rng(0)] * 2
    acting = other.behaviour(np.float32(LOW), np.float32(HIGH))
    with torch.inference_mode():
        mine = acting.act(obs, rngs)
    assert np.array_equal(mine[0], before)


def test_minibatches_are_standardised_and_rewards_are_shifted(monkeypatch):
    calls, step = [], cfpi.critic_step
    monkeypatch.setattr(
        cfpi, "critic_step", lambda *given: (calls.append(given[4]), step(*given))[1]
    )
    run = trained(reward_shift=-1.0, batch_size=64)
    rewards = set((run.data().reward - 1).tolist())
    batch: TransitionBatch = calls[0]
    assert {x.item() for x in batch.reward.flatten()} <= rewards
    assert batch.obs.mean().abs() < 0.3
