"""PPO's other two objectives, a KL penalty and a discovered drift; and A2C as a special case."""

import dataclasses
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ppo_setting import draw, drift_registered
from test_ppo_update import Agent
from torch import nn

from rlsuite.algorithms.on_policy.ppo import (
    Config,
    Learner,
    approximate_kl,
    clipped_surrogate,
    drift_surrogate,
    iterate,
    minibatch_steps,
    penalised_surrogate,
)
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.optim import Net
from rlsuite.core.rollouts import Collector, RolloutBatch
from rlsuite.core.streams import Streams
from rlsuite.envs import make


@pytest.fixture(autouse=True)
def task():
    with drift_registered():
        yield


def column(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


# Ratios in (0.2, 5) and advantages in +-3, every pair of them in a slot of its own: [37 * 13, 1]
RATIOS = torch.linspace(math.log(0.2), math.log(5), 37, dtype=torch.float64).exp()
ADVANTAGES = torch.linspace(-3, 3, 13, dtype=torch.float64)
RATIO, ADVANTAGE = (x.reshape(-1, 1) for x in torch.meshgrid(RATIOS, ADVANTAGES, indexing="ij"))


def drift(ratio: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """D(rho, A) [S] of slots of one transition: what the loss adds to -A rho."""
    return drift_surrogate(ratio.log(), advantage) + (advantage * ratio)[:, 0]


# ---------------------------------------------------------------------------------- by hand


def test_penalised_surrogate_by_hand():
    # Ratios 2 and 1/2 with A = 1 and -1: mean -A rho = (-2 + 0.5)/2 = -0.75
    # k3 = (2 - 1 - log 2 + 1/2 - 1 + log 2)/2 = 0.25; weighted with 0.4: -0.75 + 0.1 = -0.65
    log_ratio, advantage = column(2.0, 0.5).log(), column(1.0, -1.0)
    got = penalised_surrogate(log_ratio, advantage, kl_coef=0.4)
    torch.testing.assert_close(got, torch.tensor([-0.65], dtype=torch.float64))
    # Each seed by its own: the second has ratio 1, so neither gain nor penalty beyond -mean A = -2
    two = penalised_surrogate(
        torch.cat([log_ratio, column(0.0, 0.0)]), torch.cat([advantage, column(1.0, 3.0)]), 0.4
    )
    torch.testing.assert_close(two, torch.tensor([-0.65, -2.0], dtype=torch.float64))


def test_drift_surrogate_by_hand():
    # rho = 2, A = 1: x = 1, D = 1 - 2 tanh(1/2) = 0.0757657, loss -2 + D = -1.9242343
    # rho = 1/2, A = -1: x = log 2, tanh(log 2/0.6) = (2^(10/3) - 1)/(2^(10/3) + 1) = 0.8194841,
    #     D = 0.6931472 - 0.6 * 0.8194841 = 0.2014567, loss 1/2 + D = 0.7014567
    # rho = 1/2, A = 1: x = -1/2 < 0, D = 0, loss -1/2;  rho = 2, A = -1: x < 0, D = 0, loss 2
    # mean (-1.9242343 + 0.7014567 - 0.5 + 2)/4 = 0.0693056
    got = drift_surrogate(column(2.0, 0.5, 0.5, 2.0).log(), column(1.0, -1.0, 1.0, -1.0))
    torch.testing.assert_close(
        got, torch.tensor([0.0693056], dtype=torch.float64), atol=1e-6, rtol=0
    )
    # A = 2 at rho = 2: D = 2 - 2 tanh 1 = 0.4768117, not twice that of A = 1
    got = drift(column(2.0), column(2.0)).item()
    assert got == pytest.approx(0.4768117, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "above", "below"),
    [
        # A = -1, e^20 = 4.8516520e8: e^20 + (e^20 - 1 - 20) and e^-20 + (e^-20 - 1 + 20)
        (partial(penalised_surrogate, kl_coef=1.0), 9.7033037e8, 19.0),
        # x = -20: D = 0 and e^20; x = 20: D = 20 - 0.6 = 19.4, and e^-20
        (drift_surrogate, 4.8516520e8, 19.4),
    ],
)
def test_the_log_ratio_is_cut_at_20_so_that_nothing_overflows(objective, above, below):
    for log_ratio, expected in ((1000.0, above), (-1000.0, below)):
        got = objective(torch.tensor([[log_ratio]]), torch.tensor([[-1.0]]))
        torch.testing.assert_close(got, torch.tensor([expected]))


# ---------------------------------------------------------------------------------- the drift


def test_drift_is_nowhere_negative():
    d = drift(RATIO, ADVANTAGE)
    assert d.min() > -1e-12
    # ... and not merely zero: a third of the grid is where a step is too good to be taken whole
    assert (d > 1e-3).float().mean() > 1 / 3


def test_drift_and_its_gradient_are_zero_at_ratio_one():
    log_ratio = torch.zeros(13, 1, dtype=torch.float64, requires_grad=True)
    advantage = ADVANTAGES[:, None]
    loss = drift_surrogate(log_ratio, advantage)
    torch.testing.assert_close(loss, -ADVANTAGES, rtol=0, atol=0)
    (grad,) = torch.autograd.grad(loss.sum(), log_ratio)
    # d(-A rho)/d log rho = -A at rho = 1: what is left is the drift's
    torch.testing.assert_close(grad, -advantage, rtol=0, atol=0)
    # ... which is not zero elsewhere: A = 3 at rho = 2, d(-A rho)/d log rho = -6
    log_ratio = column(math.log(2)).requires_grad_()
    (grad,) = torch.autograd.grad(drift_surrogate(log_ratio, column(3.0)).sum(), log_ratio)
    assert grad.item() > -5


def test_drift_grows_only_where_the_step_goes_on_as_the_advantage_says():
    for a in ADVANTAGES[ADVANTAGES != 0]:
        d = drift(RATIOS[:, None], a.expand(37, 1))
        beyond = RATIOS > 1 + 1e-9 if a > 0 else RATIOS < 1 - 1e-9
        assert d[~beyond].abs().max() < 1e-12
        further = d[beyond] if a > 0 else d[beyond].flip(0)  # from ratio 1 outwards
        assert (further.diff() > 0).all()
        assert further[0] > 0


def test_ppos_drift_in_the_same_place_is_the_clipped_loss():
    for clip in (0.1, 0.2):
        outside = torch.relu((RATIO - RATIO.clamp(1 - clip, 1 + clip)) * ADVANTAGE)
        expected = (-ADVANTAGE * RATIO + outside)[:, 0]
        clipped = clipped_surrogate(RATIO.log(), ADVANTAGE, clip)
        torch.testing.assert_close(clipped, expected, rtol=1e-12, atol=1e-12)
        # The drift that was discovered is another one
        assert (drift_surrogate(RATIO.log(), ADVANTAGE) - clipped).abs().max() > 0.1


# --------------------------------------------------------------------------------- the penalty


def test_gradient_of_the_penalty_is_that_of_the_kl_for_a_categorical():
    # pi_old = (1/8, 1/4, 5/8) and eight samples in just these proportions: the mean over them is
    # the expectation, and E[grad (rho - 1 - log rho)] = grad sum pi_theta - E[grad log pi_theta]
    # = 0 + grad KL(pi_old || pi_theta), to rounding
    old = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64) / 8
    samples = torch.tensor([[0, 1, 1, 2, 2, 2, 2, 2]])
    logits = column(0.3, -0.7, 0.2)[0].requires_grad_()
    new = torch.distributions.Categorical(logits=logits)
    log_ratio = new.log_prob(samples) - old.log()[samples]
    k3 = penalised_surrogate(log_ratio, torch.zeros(1, 8, dtype=torch.float64), kl_coef=3.0)
    closed = torch.distributions.kl_divergence(torch.distributions.Categorical(probs=old), new)
    torch.testing.assert_close(k3, 3 * closed[None])
    ours, theirs = (
        torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (k3, closed)
    )
    torch.testing.assert_close(ours, 3 * theirs)
    # Not the other direction's
    swapped = torch.distributions.kl_divergence(new, torch.distributions.Categorical(probs=old))
    (other,) = torch.autograd.grad(swapped, logits)
    assert (other - theirs).abs().max() > 0.02


def test_gradient_of_the_penalty_is_that_of_the_kl_for_a_gaussian():
    # The middles of 200 000 equally likely intervals of N(0, 1) stand for its samples
    middles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    old = torch.distributions.Normal(column(0.0)[0, 0], 1.0)
    x = old.icdf(middles)[None]
    parameters = column(0.3, math.log(0.8))[0].requires_grad_()
    new = torch.distributions.Normal(parameters[0], parameters[1].exp())
    (ours,) = torch.autograd.grad(
        approximate_kl(new.log_prob(x) - old.log_prob(x)).sum(), parameters
    )
    # KL(N(0,1) || N(m,s)) = log s + (1 + m^2)/(2 s^2) - 1/2: d/dm = m/s^2 = 0.3/0.64 = 0.46875,
    # d/dlog s = 1 - (1 + m^2)/s^2 = 1 - 1.09/0.64 = -0.703125
    torch.testing.assert_close(ours, column(0.46875, -0.703125)[0], rtol=1e-3, atol=0)


# --------------------------------------------------------------------------------- the update

CONFIG = Config(
    num_steps=64, num_minibatches=4, hidden=(16, 16), env_steps=64, epochs=1, max_grad_norm=9.0
)


def made_up(seed: int = 0) -> tuple[ActorCritic, RolloutBatch]:
    """One seed and 64 transitions of which the policy is the old one: every ratio is 1."""
    policy = ActorCritic(5, 3, False, rngs=[np.random.default_rng(seed)], hidden=CONFIG.hidden)
    obs, action = draw(1, 1, 64, 5), draw(2, 1, 64, 3)
    old_log_prob = policy.distribution(policy.theta, obs).log_prob(action)
    return policy, RolloutBatch(obs, action, old_log_prob, *draw(3, 3, 1, 64))


def updated(**changes) -> torch.Tensor:
    policy, batch = made_up()
    config = dataclasses.replace(CONFIG, **changes)
    rest = torch.tensor(1e-2), torch.ones(1), batch
    return minibatch_steps(policy, config, Net.of(policy.theta), *rest)[0].theta


def test_objectives_agree_on_the_first_step_and_on_none_after_it():
    # At ratio 1 clip, penalty and drift are all without gradient. One step: -A grad log pi
    first = [updated(objective=name, num_minibatches=1) for name in ("clip", "kl", "drift")]
    for theta in first[1:]:
        torch.testing.assert_close(theta, first[0], rtol=0, atol=1e-5)
    assert (first[0] - made_up()[0].theta).abs().max() > 5e-3
    four = [updated(objective=name) for name in ("clip", "kl", "drift")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (four[one] - four[other]).abs().max() > 1e-3


def test_a_parameter_acts_on_its_own_objective_alone():
    assert (updated(objective="kl") - updated(objective="kl", kl_coef=30.0)).abs().max() > 1e-3
    assert (updated() - updated(clip=0.02)).abs().max() > 1e-3
    assert torch.equal(updated(), updated(kl_coef=30.0))
    for objective in ("kl", "drift"):
        assert torch.equal(updated(objective=objective), updated(objective=objective, clip=0.02))


def test_a_heavier_penalty_keeps_the_policy_nearer():
    policy, batch = made_up()

    def divergence(theta):
        log_prob = policy.distribution(theta, batch.obs).log_prob(batch.action)
        return approximate_kl(log_prob - batch.old_log_prob).item()

    light, heavy = (divergence(updated(objective="kl", kl_coef=c)) for c in (0.1, 100.0))
    assert 0 < heavy < light / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "ppo"}, "objective 'ppo' is unknown; use one of: clip, kl, drift"),
        ({"kl_coef": 0.0}, "kl_coef is 0.0; it must be greater than 0"),
        ({"kl_coef": math.inf}, "kl_coef is inf; it must be greater than 0"),
    ],
)
def test_impossible_objectives_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


# ---------------------------------------------------------------------------------------- A2C

A2C = Config(
    num_envs=4, num_steps=5, epochs=1, num_minibatches=1, normalize_advantage=False,
    value_clip=None, entropy_coef=0.0, gae_lambda=1.0, anneal_lr=False, learning_rate=7e-4,
    env_steps=40 * 20, hidden=(16, 16), normalize_obs=False, normalize_reward=False,
)  # fmt: skip


def training(name: str, config: Config) -> SimpleNamespace:
    """40 iterations of PPO from a fixed start, and the rollouts that it met on the way."""
    streams, envs = Streams((7,)), make(name, (7,), config.num_envs, "gymnasium")
    sizes = (envs.obs_size, envs.action_size, envs.discrete)
    network = {"hidden": config.hidden, "normalize_obs": config.normalize_obs}
    policy = ActorCritic(*sizes, rngs=streams["init"], **network)
    scaler = RewardScaler(1, config.num_envs, config.discount, config.normalize_reward)
    learner = Learner(policy, Net.of(policy.theta), scaler)
    collector = Collector(envs, policy, scaler)
    collector.restart(streams.integers("environment", config.num_envs))
    agent, rollouts, collect = Agent(policy, 0), [], collector.collect
    collector.collect = lambda *args: rollouts.append(collect(*args)) or rollouts[-1]
    for k in range(config.iterations):
        step = partial(minibatch_steps, policy, config)
        iterate(config, learner, collector, streams, k, step)
    envs.close()
    return SimpleNamespace(theta=policy.theta[0], agent=agent, rollouts=rollouts)


def a2c_update(agent: Agent, optimizer, rollout, config: Config) -> None:
    """Advantage actor-critic: one step on -mean(A log pi) + c/2 mean (V - R)^2, and no ratio."""
    obs, action, reward, next_obs = (
        torch.from_numpy(x[0])
        for x in (rollout.obs, rollout.action, rollout.reward, rollout.next_obs)
    )
    with torch.no_grad():
        value, next_value = agent.critic(obs)[..., 0], agent.critic(next_obs)[..., 0]
    # n-step return: bootstrapped where the rollout or the time ran out, not where the agent died
    to_go, returns = next_value[-1], torch.empty_like(reward)
    for t in reversed(range(config.num_steps)):
        terminated, truncated = (
            torch.from_numpy(x[0, t]) for x in (rollout.terminated, rollout.truncated)
        )
        future = torch.where(truncated, next_value[t], to_go)
        to_go = returns[t] = reward[t] + config.discount * torch.where(terminated, 0.0, future)
    advantage = (returns - value).flatten()
    log_prob, _ = agent.log_prob_entropy(obs.flatten(0, 1), action.flatten(0, 1))
    error = agent.critic(obs)[..., 0] - returns
    loss = -(advantage * log_prob).mean() + 0.5 * config.value_coef * (error**2).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(agent.parameters(), config.max_grad_norm)
    optimizer.step()


@pytest.mark.parametrize(("name", "truncates"), [("Drift-v0", True), ("CartPole-v1", False)])
def test_a2c_is_ppo_with_one_epoch_of_one_minibatch(name, truncates):
    ppo = training(name, A2C)
    more = training(name, dataclasses.replace(A2C, epochs=2))
    start, agent = ppo.agent.flat(), ppo.agent
    optimizer = torch.optim.Adam(agent.parameters(), lr=A2C.learning_rate, eps=A2C.adam_eps)
    for rollout in ppo.rollouts:
        a2c_update(agent, optimizer, rollout, A2C)
    assert len(ppo.rollouts) == 40
    # Not bit for bit: the transitions come in another order, rho = exp(log pi - log pi_old) is 1
    # only to rounding, and seeds that are computed together sum in another order than one alone
    torch.testing.assert_close(ppo.theta, agent.flat(), rtol=0, atol=1e-6)
    assert (ppo.theta - start).abs().max() > 0.01
    assert (more.theta - ppo.theta).abs().max() > 1e-3  # a second epoch is no longer A2C
    # Episodes ended on the way, in both ways where the task has both within so few steps
    assert any(rollout.terminated.any() for rollout in ppo.rollouts)
    assert any(rollout.truncated.any() for rollout in ppo.rollouts) == truncates
