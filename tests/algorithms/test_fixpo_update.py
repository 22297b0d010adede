"""FixPO's update against one written for one seed in plain PyTorch; what it is given, what it
reports; a seed alone and in company; and a run with a Beta policy."""

import copy
import csv
from functools import partial
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from fixpo_setting import KINDS, PlainFixPO, made_up, run, same, setting, theta_of, whole
from ppo_setting import Drift, drift_registered

from rlsuite.algorithms.on_policy import fixpo
from rlsuite.algorithms.on_policy.fixpo import loss, minibatch_step
from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.networks import ActorCritic
from rlsuite.core.optim import gradient
from rlsuite.core.saving import load_policy
from rlsuite.core.streams import Streams

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def task():
    with drift_registered():
        yield


@pytest.mark.parametrize(
    "changes",
    [{}, {"kl_stat": "mean", "value_clip": None, "fixup": "last", "max_kl": 0.01}],
    ids=["as published", "ablated"],
)
@EVERY_KIND
def test_two_iterations_equal_plain_torch_seed_by_seed(kind, changes, monkeypatch):
    """In float64, with learning rates that float32 holds exactly, so that little tolerance is due.

    The shared network of actor and multiplier, and its masks, against three torch.optim.Adam.
    """
    how = {"learning_rate": 2**-7, "multiplier_lr": 2**-6, "max_kl": 0.02, "env_steps": 64}
    m = made_up(kind, seeds=(0, 1, 2), double=True, **how | changes)
    plain = [PlainFixPO(m, seed) for seed in range(3)]
    rngs, given = copy.deepcopy(m.rngs), []

    def make_batch(policy, rollout, config, scale):
        old_log_prob = policy.distribution(policy.theta, m.batch.obs).log_prob(m.batch.action)
        old_value = policy.value(policy.theta, m.batch.obs)
        batch = m.batch._replace(old_log_prob=old_log_prob, old_value=old_value)
        sigma = torch.from_numpy(scale[..., 0]).double()
        given.append(batch._replace(target=batch.target / sigma))
        return batch

    monkeypatch.setattr(fixpo, "make_batch", make_batch)
    collector = SimpleNamespace(collect=lambda *_: None)
    streams, step = {"action": None, "batch": m.rngs}, partial(minibatch_step, m.policy, m.config)
    steps = torch.zeros(3)
    for _ in range(2):
        metrics = fixpo.iterate(m.config, m.learner, collector, streams, 0, step)
        steps += 8 * metrics["fixup_share"]  # 2 epochs of 4 minibatches
        for seed in range(3):
            plain[seed].update([x[seed] for x in given[-1]], rngs[seed])
            theta, multiplier = m.policy.theta[seed], m.learner.actor.theta[seed, -1:]
            torch.testing.assert_close(theta, plain[seed].flat(), rtol=0, atol=1e-9)
            torch.testing.assert_close(multiplier, plain[seed].beta.detach(), rtol=0, atol=1e-9)
    assert steps.tolist() == [x.fixup_steps for x in plain]
    assert steps.min() >= 1
    extra = m.learner.actor.adam.steps - m.learner.critic.adam.steps
    assert extra.flatten().tolist() == steps.tolist()


@EVERY_KIND
def test_a_seed_iterates_to_the_same_bits_alone_and_in_company(kind):
    company, alone = setting(kind, seeds=(3, 4, 5)), setting(kind, seeds=(4,))
    steps = 0
    for k in range(3):
        theirs, mine = run(company, k), run(alone, k)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name][0], theirs[name][1]) for name in theirs)
        steps += mine["fixup_share"] * 8
    assert steps > 0
    for ours, all_of_them in zip(alone.step.calls, company.step.calls, strict=True):
        assert same([x[0] for x in ours.part], [x[1] for x in all_of_them.part])
    assert torch.equal(alone.policy.theta[0], company.policy.theta[1])
    for name in ("actor", "critic"):
        mine, theirs = (getattr(x.learner, name) for x in (alone, company))
        assert torch.equal(mine.theta[0], theirs.theta[1])
        assert all(torch.equal(x[0], y[1]) for x, y in zip(mine.adam, theirs.adam, strict=True))


@pytest.mark.parametrize("bootstrap", [True, False])
def test_advantages_are_raw_and_targets_in_units_of_the_previous_sigma(bootstrap):
    s = setting(bootstrap_on_truncation=bootstrap)
    collect, kept, seen = s.collector.collect, [], np.empty((2, 0))
    s.collector.collect = lambda *args: kept.append(collect(*args)) or kept[-1]
    for k in range(3):
        s.step.calls.clear()
        run(s, k)
        rollout, theta = kept[-1], theta_of(s.step.calls[0].actor, s.step.calls[0].critic)
        # sigma is 1 to begin with, then the deviation of all targets before this iteration's
        sigma = seen.std(1)[:, None, None] if k else np.ones((2, 1, 1))
        obs, next_obs, action = (
            torch.from_numpy(x).flatten(1, 2)
            for x in (rollout.obs, rollout.next_obs, rollout.action)
        )
        bare, following = (
            s.policy.value(theta, x).view(2, 32, 2).numpy().astype(float) for x in (obs, next_obs)
        )
        value, next_value = sigma * bare, sigma * following
        dead = rollout.terminated if bootstrap else rollout.terminated | rollout.truncated
        ended = rollout.terminated | rollout.truncated
        expected, future = np.empty((2, 32, 2)), 0.0
        for t in reversed(range(32)):
            delta = rollout.reward[:, t] + 0.99 * next_value[:, t] * (1 - dead[:, t]) - value[:, t]
            expected[:, t] = future = delta + 0.99 * 0.95 * (1 - ended[:, t]) * future
        target = expected + value
        # The update was given them shuffled: sort both by what no two transitions share
        given, key = whole(s), s.policy.distribution(theta, obs).log_prob(action)
        ours, theirs = given.old_log_prob.argsort(1), key.argsort(1)
        for got, wanted in (
            (given.advantage, expected),
            (given.target, target / sigma),
            (given.old_value, bare),
        ):
            wanted = torch.from_numpy(wanted).flatten(1).float()
            torch.testing.assert_close(
                got.gather(1, ours), wanted.gather(1, theirs), rtol=1e-3, atol=1e-3
            )
        seen = np.concatenate([seen, target.reshape(2, -1)], 1)
    assert sigma.min() > 2  # or a wrong sigma would pass for a right one
    assert any(rollout.truncated.any() for rollout in kept)


def test_the_learning_rate_falls_linearly_and_fixup_steps_do_not_count():
    # K = 256/64 = 4 iterations: 1e-2 times 1, 3/4, 2/4, 1/4; beta's own is constant
    s = setting()
    for k in range(4):
        s.step.calls.clear()
        run(s, k)
        rates = [call.lr for call in s.step.calls]
        np.testing.assert_allclose(rates, [1e-2 * (1 - k / 4)] * 8, rtol=1e-6)


def test_beta_and_the_adams_persist_and_pi_old_is_kept_for_an_iteration():
    s = setting()
    run(s)
    end = [copy.deepcopy(x) for x in (s.learner.actor, s.learner.critic)]
    assert torch.equal(theta_of(*end), s.policy.theta)
    s.step.calls.clear()
    run(s, 1)
    first = s.step.calls[0]
    for net, before in zip((first.actor, first.critic), end, strict=True):
        assert same([net.theta, *net.adam], [before.theta, *before.adam])
    for call in s.step.calls:
        assert torch.equal(call.old, first.actor.theta[:, :-1])
    assert not torch.equal(s.step.calls[4].actor.theta, first.actor.theta)  # in the second epoch


def test_metrics_of_an_iteration():
    s = setting(num_minibatches=1, fixup_minibatches=1, epochs=1, max_grad_norm=0.01)
    metrics, call = run(s), s.step.calls[0]
    args = (s.policy, s.config, call.part, call.old, call.actor.theta[:, -1])
    grad, parts = gradient(lambda x: loss(x, *args), theta_of(call.actor, call.critic))
    for name in ("policy_loss", "value_loss", "entropy"):
        torch.testing.assert_close(metrics[name], parts[name])
    torch.testing.assert_close(metrics["grad_norm"], grad.norm(dim=1))  # before clipping
    assert (metrics["grad_norm"] > 0.01).all()
    # 1 - Var(R - V_old)/Var(R), whatever their common unit
    batch = call.part
    explained = 1 - (batch.target - batch.old_value).var(1) / batch.target.var(1)
    torch.testing.assert_close(metrics["explained_variance"], explained)
    torch.testing.assert_close(metrics["multiplier"], s.learner.actor.theta[:, -1])
    assert metrics.keys() == {
        *("policy_loss", "value_loss", "entropy", "grad_norm", "kl", "max_kl", "multiplier"),
        *("states_above_limit", "fixup_share", "bisections", "explained_variance"),
    }


def rows(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_beta_policy_needs_a_bounded_box(short_runs, monkeypatch):
    monkeypatch.setattr(Drift, "action_space", gymnasium.spaces.Box(-np.inf, np.inf, (2,)))
    run = short_runs.create("beta", "fixpo", "Drift-v0", distribution="beta")
    with pytest.raises(ValueError, match=r"action 0 lies in .*: use --distribution gaussian"):
        fixpo.train(run.config, run)


def test_a_run_with_a_beta_policy(short_runs):
    folder = short_runs.train(
        *("beta", "fixpo", "Drift-v0"), distribution="beta", env_steps=1024, max_kl=0.02,
        evaluations=1, checkpoints=1, compile="off",
    )  # fmt: skip
    assert type(load_policy(folder)[0]) is BetaActorCritic
    progress = rows(folder / "progress.csv")
    assert len(progress) == 2 * 8  # 2 seeds, 8 iterations of 128
    assert {row["states_above_limit"] for row in progress} == {"0.0"}
    assert max(float(row["fixup_share"]) for row in progress) > 0
    assert len(rows(folder / "evaluations.csv")) == 2
    # No action had to be cut to the box [-0.5, 0.5], and they fill it
    sent = np.array(Drift.received)
    assert len(sent) > 2 * 1024  # training, and evaluation episodes
    assert -0.5 < sent.min() < -0.45
    assert 0.45 < sent.max() < 0.5
    assert np.quantile(sent, [0.25, 0.75]).round(1).tolist() == [-0.2, 0.2]


@pytest.mark.parametrize(
    ("env", "distribution", "sizes"),
    [("Drift-v0", "gaussian", (3, 2, False)), ("CartPole-v1", "beta", (4, 2, True))],
)
def test_a_run_starts_from_the_policy_that_its_config_describes(
    short_runs, env, distribution, sizes
):
    """`distribution` is of continuous actions; discrete ones are categorical whatever it says."""
    start = {"hidden": (8,), "activation": "relu", "normalize_obs": False, "log_std_init": -0.7}
    folder = short_runs.train(
        *("start", "fixpo", env), distribution=distribution, learning_rate=1e-12, env_steps=128,
        evaluations=1, checkpoints=1, compile="off", **start,
    )  # fmt: skip
    trained, about = load_policy(folder)
    fresh = ActorCritic(*sizes, rngs=Streams((0, 1))["init"], **start)
    assert about["kind"] == "actor-critic"
    assert about["spec"] == fresh.spec
    torch.testing.assert_close(trained.theta.data, fresh.theta.data, rtol=0, atol=1e-9)
