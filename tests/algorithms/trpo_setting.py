"""Policies and batches small enough for dense matrices, and a TRPO iteration of a small task."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from ppo_setting import draw
from torch import Tensor, nn

from rlsuite.algorithms.on_policy.trpo import (
    Config,
    Learner,
    critic_steps,
    fisher_vector_product,
    iterate,
    policy_step,
)
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.optim import Net
from rlsuite.core.rollouts import Collector, RolloutBatch, standardise
from rlsuite.core.streams import Streams
from rlsuite.envs import make

OBS, ACTIONS, COUNT = 3, 2, 40


def config_of(**changes) -> Config:
    """One iteration of 40 transitions. 60 CG steps exceed every network's 10 to 28 parameters."""
    values = {"num_envs": 1, "num_steps": COUNT, "env_steps": COUNT, "critic_minibatches": 4}
    return Config(**{**values, "cg_iterations": 60, "hidden": (4,), **changes})


def policy_of(seeds, discrete=False, hidden=(4,), dtype=torch.float64) -> ActorCritic:
    """Away from the initialisation, whose means hardly depend on the observation."""
    rngs = [np.random.default_rng(seed) for seed in seeds]
    actions = 3 if discrete else ACTIONS
    policy = ActorCritic(OBS, actions, discrete, rngs=rngs, hidden=hidden)
    moved = torch.stack([0.3 * draw(50 + seed, policy.layout.size) for seed in seeds])
    policy.theta = nn.Parameter((policy.theta + moved).to(dtype), requires_grad=False)
    return policy


def actor_of(policy: ActorCritic) -> Tensor:
    return policy.theta[:, : policy.actor_size].clone()


def batch_of(policy: ActorCritic, seeds, outliers=()) -> RolloutBatch:
    """40 made-up transitions per seed, acted by the policy; `outliers` have one huge advantage."""
    rows = []
    for s, seed in enumerate(seeds):
        rng = np.random.default_rng(100 + seed)
        obs = torch.from_numpy(rng.standard_normal((1, COUNT, OBS))).to(policy.theta.dtype)
        pi = policy.distribution(policy.theta[s : s + 1], obs)
        noise = policy.behaviour().noise([rng], COUNT)
        action = pi.sample(torch.from_numpy(noise).to(obs.dtype))
        others = torch.from_numpy(rng.standard_normal((3, COUNT))).to(obs.dtype)
        others[1, 7] += 1e4 * (s in outliers)
        rows.append((obs[0], action[0], pi.log_prob(action)[0], *others))
    batch = RolloutBatch(*map(torch.stack, zip(*rows, strict=True)))
    return batch._replace(advantage=standardise(batch.advantage))


def taken(policy: ActorCritic, config: Config, batch: RolloutBatch, product=None):
    """(new actor [S, P], metrics) of one policy step; `product` stands in for Fisher's."""
    product = product or partial(fisher_vector_product, policy, config)
    return policy_step(policy, config, actor_of(policy), batch, product)


def dense(policy: ActorCritic, config: Config, obs: Tensor) -> Tensor:
    """The matrices [S, P, P] that the Fisher-vector product stands for, column by column."""
    actor = actor_of(policy)
    columns = torch.eye(policy.actor_size, dtype=actor.dtype)
    product = partial(fisher_vector_product, policy, config, actor, obs)
    return torch.stack([product(v.expand_as(actor)) for v in columns], 2)


def kl_of(policy: ActorCritic, new: Tensor, obs: Tensor) -> Tensor:
    """Mean KL(pi_old || pi_new) [S] by torch.distributions."""
    p, q = (torch_distribution(policy, actor, obs) for actor in (policy.theta, new))
    kl = torch.distributions.kl_divergence(p, q)
    return (kl if policy.discrete else kl.sum(-1)).mean(1)


def torch_distribution(policy: ActorCritic, actor: Tensor, obs: Tensor):
    pi = policy.distribution(actor, obs)
    if policy.discrete:
        return torch.distributions.Categorical(logits=pi.logits)
    return torch.distributions.Normal(pi.mean, pi.log_std.exp().expand_as(pi.mean))


def gain_of(policy: ActorCritic, new: Tensor, batch: RolloutBatch) -> Tensor:
    """L(new) [S]: mean of ratio times advantage."""
    log_prob = torch_distribution(policy, new, batch.obs).log_prob(batch.action)
    log_prob = log_prob if policy.discrete else log_prob.sum(-1)
    return ((log_prob - batch.old_log_prob).exp() * batch.advantage).mean(1)


class Recorder:
    """`critic_steps` that keeps its arguments."""

    def __init__(self, step) -> None:
        self.step, self.calls = step, []

    def __call__(self, critic, part):
        self.calls.append(SimpleNamespace(critic=critic, part=part))
        return self.step(critic, part)


def setting(seeds=(0, 1), **changes) -> SimpleNamespace:
    """Iterations of 2 x 32 transitions of Drift, 2 critic epochs of 8 minibatches."""
    values = {"num_envs": 2, "num_steps": 32, "env_steps": 256, "hidden": (16, 16)}
    values |= {"critic_minibatches": 8, "critic_epochs": 2, "cg_iterations": 10}
    config, streams = Config(**{**values, **changes}), Streams(seeds)
    envs = make("Drift-v0", seeds, config.num_envs)
    network = {"hidden": config.hidden, "activation": config.activation}
    policy = ActorCritic(3, 2, False, rngs=streams["init"], **network)
    scaler = RewardScaler(len(seeds), config.num_envs, config.discount)
    critic = Net.of(policy.theta[:, policy.actor_size :])
    learner, collector = Learner(policy, critic, scaler), Collector(envs, policy, scaler)
    collector.restart(streams.integers("environment", config.num_envs))
    product = partial(fisher_vector_product, policy, config)
    step = Recorder(partial(critic_steps, policy, config))
    return SimpleNamespace(**locals())


def run(s: SimpleNamespace) -> dict[str, Tensor]:
    """One iteration; its metrics. What the critic was given is in `s.step.calls`."""
    return iterate(s.config, s.learner, s.collector, s.streams, s.product, s.step)
