"""PPO's update against one written seed by seed with torch.nn and torch.optim; what it shuffles,
stops and leaves alone; compiled and not; and two tasks that it must solve."""

import csv
import dataclasses
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from ppo_setting import draw, drift_registered, run, setting
from torch import nn

from rlsuite.algorithms.on_policy.ppo import Config, loss, minibatch_steps
from rlsuite.core.networks import ActorCritic
from rlsuite.core.optim import Net, gradient
from rlsuite.core.rollouts import RolloutBatch, standardise
from rlsuite.runs import machine


@pytest.fixture(autouse=True)
def task():
    with drift_registered():
        yield


CONFIG = Config(
    num_steps=64,
    num_minibatches=4,
    hidden=(32, 16),
    env_steps=64,
    entropy_coef=0.01,
    epochs=1,
    max_grad_norm=0.1,
)


def policy_of(seeds, discrete=False, hidden=CONFIG.hidden) -> ActorCritic:
    rngs = [np.random.default_rng(seed) for seed in seeds]
    return ActorCritic(5, 3, discrete, rngs=rngs, hidden=hidden)


def batch_of(policy: ActorCritic, seeds) -> RolloutBatch:
    """64 made-up transitions per seed, near enough to the policy for ratios around 1."""
    rows = []
    for s, seed in enumerate(seeds):
        obs, noise = draw(100 + seed, 64, 5), draw(200 + seed, 64, 3)
        action = noise.argmax(-1) if policy.discrete else noise
        pi = policy.distribution(policy.theta[s : s + 1], obs[None])
        old_log_prob = pi.log_prob(action[None])[0] + 0.3 * draw(300 + seed, 64)
        others = draw(400 + seed, 3, 64)
        rows.append((obs, action, old_log_prob, *others))
    return RolloutBatch(*map(torch.stack, zip(*rows, strict=True)))


def updated(
    policy: ActorCritic, config: Config, batch: RolloutBatch, calls=1, step=None, active=None
):
    step = step or partial(minibatch_steps, policy, config)
    net = Net.of(policy.theta)
    active = torch.ones(len(net.theta)) if active is None else active
    for _ in range(calls):
        net, metrics = step(net, torch.tensor(1e-2), active, batch)
    return *net, metrics


class Agent(nn.Module):
    """One seed in the style of CleanRL: two nn.Sequential and, if continuous, a log_std."""

    def __init__(self, policy: ActorCritic, seed: int) -> None:
        super().__init__()
        self.order = list(policy.layout.shapes)
        views = policy.layout.views(policy.theta)
        nets = {}
        for name in ("actor", "critic"):
            layers = []
            for i in range(3):
                weight = views[f"{name}.{i}.weight"][seed]
                layers.append(nn.Linear(*reversed(weight.shape)))
                layers[-1].weight.data.copy_(weight)
                layers[-1].bias.data.copy_(views[f"{name}.{i}.bias"][seed, 0])
            nets[name] = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
        self.actor, self.critic = nets["actor"], nets["critic"]
        self.discrete = policy.discrete
        if not self.discrete:
            self.log_std = nn.Parameter(views["log_std"][seed, 0].clone())

    def log_prob_entropy(self, obs, action):
        out = self.actor(obs)
        if self.discrete:
            pi = torch.distributions.Categorical(logits=out)
            return pi.log_prob(action), pi.entropy()
        pi = torch.distributions.Normal(out, self.log_std.exp())
        return pi.log_prob(action).sum(1), pi.entropy().sum(1)

    def flat(self) -> torch.Tensor:
        """Parameters in the order of theta's columns."""
        parts = []
        for name in self.order:
            net, *place = name.split(".")
            module = getattr(self, net)
            parts.append(getattr(module[2 * int(place[0])], place[1]) if place else module)
        return torch.cat([part.detach().flatten() for part in parts])


def train_as_cleanrl(agent: Agent, batch: RolloutBatch, seed: int, config: Config) -> None:
    """The inner loop of ppo_continuous_action.py over consecutive minibatches."""
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-2, eps=config.adam_eps)
    for rows in torch.arange(64).chunk(config.num_minibatches):
        obs, action, old_log_prob, old_value, a, target = (x[seed, rows] for x in batch)
        log_prob, entropy = agent.log_prob_entropy(obs, action)
        ratio = (log_prob - old_log_prob).exp()
        if config.normalize_advantage:
            a = (a - a.mean()) / (a.std() + 1e-8)
        clipped = torch.clamp(ratio, 1 - config.clip, 1 + config.clip)
        policy_loss = torch.max(-a * ratio, -a * clipped).mean()
        value = agent.critic(obs).view(-1)
        value_loss = (value - target) ** 2
        if config.value_clip is not None:
            near = old_value + torch.clamp(value - old_value, -config.value_clip, config.value_clip)
            value_loss = torch.max(value_loss, (near - target) ** 2)
        total = policy_loss - config.entropy_coef * entropy.mean()
        total = total + config.value_coef * 0.5 * value_loss.mean()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), config.max_grad_norm)
        optimizer.step()


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize(
    "changes",
    [{}, {"value_clip": None, "normalize_advantage": False, "max_grad_norm": 100.0, "clip": 0.05}],
    ids=["cleanrl", "other settings"],
)
def test_the_update_equals_cleanrls_seed_by_seed(discrete, changes):
    config = dataclasses.replace(CONFIG, **changes)
    policy = policy_of((0, 1, 2), discrete)
    batch = batch_of(policy, (0, 1, 2))
    theta, _, metrics = updated(policy, config, batch)
    assert config.minibatches_per_call == 4  # all of them in this one call
    for seed in range(3):
        agent = Agent(policy, seed)
        torch.testing.assert_close(agent.flat(), policy.theta[seed])
        train_as_cleanrl(agent, batch, seed, config)
        torch.testing.assert_close(theta[seed], agent.flat(), rtol=1e-4, atol=2e-5)
    assert (theta - policy.theta).abs().max() > 0.02
    assert ((metrics["grad_norm"] > config.max_grad_norm) == (changes == {})).all()


def test_a_slot_gets_the_same_bits_alone_and_in_company():
    seeds = tuple(range(10))
    company = policy_of(seeds)
    batch = batch_of(company, seeds)
    grad, parts = gradient(lambda theta: loss(theta, company, CONFIG, batch), company.theta)
    theta, adam, metrics = updated(company, CONFIG, batch, calls=3)
    for s in seeds:
        alone, mine = policy_of((s,)), RolloutBatch(*(x[s : s + 1] for x in batch))
        own = partial(loss, policy=alone, config=CONFIG, batch=mine)
        my_grad, my_parts = gradient(own, alone.theta)
        my_theta, my_adam, my_metrics = updated(alone, CONFIG, mine, calls=3)
        assert torch.equal(my_grad[0], grad[s])
        assert torch.equal(my_theta[0], theta[s])
        assert all(torch.equal(x[0], y[s]) for x, y in zip(my_adam, adam, strict=True))
        for ours, theirs in ((my_parts, parts), (my_metrics, metrics)):
            assert all(torch.equal(ours[name][0], theirs[name][s]) for name in theirs)


def test_a_seed_that_sits_out_is_left_alone_bit_for_bit():
    policy, seeds = policy_of((0, 1, 2)), (0, 1, 2)
    batch = batch_of(policy, seeds)
    theta, _, _ = updated(policy, CONFIG, batch)
    other, other_adam, _ = updated(policy, CONFIG, batch, active=torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(other[1], policy.theta[1])
    assert [x[1].abs().sum().item() for x in other_adam] == [0, 0, 0]
    assert torch.equal(other[[0, 2]], theta[[0, 2]])
    assert other_adam.steps.flatten().tolist() == [4, 0, 4]


def test_every_epoch_shuffles_all_transitions_anew_for_every_seed():
    s = setting(epochs=3)
    run(s)
    assert len(s.step.calls) == 3 * 2  # 8 minibatches in calls of 4
    epochs = [
        torch.cat([call.part.old_log_prob for call in s.step.calls[2 * e : 2 * e + 2]], 1)
        for e in range(3)
    ]
    ranks = [epoch.argsort(1).argsort(1) for epoch in epochs]
    for epoch in epochs[1:]:
        assert torch.equal(epoch.sort(1).values, epochs[0].sort(1).values)
    # Rows move together: an observation keeps the log-probability of its action
    for call in s.step.calls[:1]:
        pi = s.policy.distribution(call.theta, call.part.obs)
        torch.testing.assert_close(pi.log_prob(call.part.action), call.part.old_log_prob)
    orders = [tuple(rank[seed].tolist()) for rank in ranks for seed in range(2)]
    assert len(set(orders)) == 6


def test_a_seed_over_its_kl_sits_out_the_rest_of_the_iteration_only():
    # 2 calls an epoch; the KL after an epoch decides. Seed 0 leaves after the first and stays out,
    # though its KL then falls; a KL within the first epoch decides nothing; seed 1 is at the limit.
    kl = [[9.0, 9.0], [0.02, 0.01], [0.0, 9.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    s = setting(kl=kl, epochs=3, target_kl=0.01)
    run(s)
    active = [call.active.tolist() for call in s.step.calls]
    assert active == [[1, 1]] * 2 + [[0, 1]] * 4
    assert s.learner.net.adam.steps.flatten().tolist() == [8, 24]  # 1 and 3 epochs of 8
    run(s, 1)
    assert s.step.calls[6].active.tolist() == [1, 1]


def test_without_a_target_every_seed_takes_every_step():
    s = setting(kl=[[9.0, 9.0]] * 4)
    run(s)
    assert s.learner.net.adam.steps.flatten().tolist() == [16, 16]  # 2 epochs of 8


def test_metrics_of_an_iteration():
    s = setting(num_minibatches=1, max_grad_norm=0.01)
    metrics = run(s)
    # Those of the last minibatch, here the whole batch, before its step and before clipping
    last = s.step.calls[-1]
    batch = last.part._replace(advantage=standardise(last.part.advantage))
    grad, parts = gradient(lambda theta: loss(theta, s.policy, s.config, batch), last.theta)
    for name, value in {**parts, "grad_norm": grad.norm(dim=1)}.items():
        torch.testing.assert_close(metrics[name], value)
    assert (metrics["grad_norm"] > 0.01).all()
    # 1 - Var(R - V_old)/Var(R)
    explained = 1 - (batch.target - batch.old_value).var(1) / batch.target.var(1)
    torch.testing.assert_close(metrics["explained_variance"], explained)
    assert metrics.keys() == parts.keys() | {"grad_norm", "explained_variance"}


@pytest.mark.parametrize("bootstrap", [True, False])
def test_advantages_are_those_of_the_rollout(bootstrap):
    s = setting(bootstrap_on_truncation=bootstrap, num_steps=64, env_steps=128)
    collect, kept = s.collector.collect, []
    s.collector.collect = lambda *args: kept.append(collect(*args)) or kept[0]
    run(s)
    (rollout,), theta = kept, s.step.calls[0].theta
    obs, next_obs, action = (
        torch.from_numpy(x).flatten(1, 2) for x in (rollout.obs, rollout.next_obs, rollout.action)
    )
    value, next_value = (s.policy.value(theta, x).view(2, 64, 2).numpy() for x in (obs, next_obs))
    dead = rollout.terminated if bootstrap else rollout.terminated | rollout.truncated
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    ended = rollout.terminated | rollout.truncated
    expected, future = np.empty((2, 64, 2)), 0.0
    for t in reversed(range(64)):
        delta = rollout.reward[:, t] + 0.99 * next_value[:, t] * (1 - dead[:, t]) - value[:, t]
        expected[:, t] = future = delta + 0.99 * 0.95 * (1 - ended[:, t]) * future
    # The update was given them shuffled: sort both by what no two transitions share
    given = RolloutBatch(
        *(torch.cat(x, 1) for x in zip(*(c.part for c in s.step.calls[:2]), strict=True))
    )
    key = s.policy.distribution(theta, obs).log_prob(action)
    for ours, theirs in (
        (given.advantage, torch.from_numpy(expected).flatten(1)),
        (given.target, torch.from_numpy(expected + value).flatten(1)),
        (given.old_value, torch.from_numpy(value).flatten(1)),
        (given.old_log_prob, key),
    ):
        ours = ours.gather(1, given.old_log_prob.argsort(1))
        theirs = theirs.gather(1, key.argsort(1))
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5)


def test_a_seed_iterates_to_the_same_bits_alone_and_in_company():
    company, alone = setting(seeds=(3, 4, 5)), setting(seeds=(4,))
    for k in range(3):
        theirs, mine = run(company, k), run(alone, k)
        assert all(torch.equal(mine[name][0], theirs[name][1]) for name in theirs)
    assert len(alone.step.calls) == len(company.step.calls)
    for ours, all_of_them in zip(alone.step.calls, company.step.calls, strict=True):
        assert torch.equal(ours.theta[0], all_of_them.theta[1])
        for x, y in zip(ours.part, all_of_them.part, strict=True):
            assert torch.equal(x[0], y[1])
    assert torch.equal(alone.policy.theta[0], company.policy.theta[1])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_compiled_update_equals_the_plain_one(compiler):
    config = dataclasses.replace(CONFIG, hidden=(8,), num_minibatches=2)  # compiles faster
    policy, messages = policy_of((0, 1, 2), hidden=config.hidden), []
    batch = batch_of(policy, (0, 1, 2))
    step = machine.compiled(partial(minibatch_steps, policy, config), messages.append)
    theta, adam, metrics = updated(policy, config, batch, calls=3, step=step)
    assert len(messages) == 1, messages  # announced, and nothing failed
    plain_theta, plain_adam, plain_metrics = updated(policy, config, batch, calls=3)
    torch.testing.assert_close(theta, plain_theta, rtol=0, atol=1e-6)
    for name, value in plain_metrics.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-4, atol=1e-5)
    assert torch.equal(adam.steps, plain_adam.steps)
    # A seed may sit out without another compilation
    active = torch.tensor([1.0, 0.0, 1.0])
    theta, _, _ = updated(policy, config, batch, step=step, active=active)
    assert torch.equal(theta[1], policy.theta[1])
    assert len(messages) == 1


class Aim(gymnasium.Env):
    """One step: sees x in {-1, 0, 1}, is paid 1 - |action - 0.8 x|. A blind action gets 0.47."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.np_random.integers(-1, 2))
        return np.array([self.x], np.float32), {}

    def step(self, action):
        reward = 1 - abs(float(action[0]) - 0.8 * self.x)
        return np.array([self.x], np.float32), reward, True, False, {}


class Patience(gymnasium.Env):
    """At each of 5 places: take 0.1 and be gone (action 0), or go on; at the end awaits 1.

    A random walker gets there once in 32 times: credit has to travel back along the chain.
    """

    observation_space = gymnasium.spaces.Box(0, 1, (5,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.place = 0
        return np.eye(5, dtype=np.float32)[0], {}

    def step(self, action):
        self.place += 1
        ended = action == 0 or self.place == 5
        reward = 0.1 if action == 0 else float(self.place == 5)
        return np.eye(5, dtype=np.float32)[self.place % 5], reward, ended, False, {}


@pytest.mark.parametrize(("task_class", "enough"), [(Aim, 0.93), (Patience, 1.0)])
def test_toy_tasks_are_solved_by_all_seeds(short_runs, task_class, enough):
    gymnasium.register("Toy-v0", entry_point=task_class, max_episode_steps=10)
    try:
        folder = short_runs.train(
            *("toy", "ppo", "Toy-v0"), seeds=(0, 1, 2, 3, 4), env_steps=8192, num_envs=4,
            num_steps=64, epochs=4, hidden=(16,), learning_rate=1e-2, log_std_init=-1.0,
            evaluations=1, checkpoints=1, evaluation_episodes=20, compile="off",
        )  # fmt: skip
    finally:
        del gymnasium.registry["Toy-v0"]
    with open(folder / "evaluations.csv", newline="") as file:
        returns = [float(row["return"]) for row in csv.DictReader(file)]
    assert len(returns) == 5
    assert min(returns) >= enough, returns
