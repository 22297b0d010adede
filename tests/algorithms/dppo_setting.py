"""Small networks of DPPO, a rollout without an environment, and a one-step task on chunks."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import torch

from rlsuite.algorithms.diffusion import dppo
from rlsuite.algorithms.diffusion.dppo import Config, Learner, make_batch, update
from rlsuite.core.chunk_data import RolloutScaler
from rlsuite.core.chunk_rollouts import ChunkRollout
from rlsuite.core.chunks import ChunkPolicy, StateCritic
from rlsuite.core.diffusion import ddpm
from rlsuite.core.optim import Net
from rlsuite.core.streams import Streams

SMALL = {
    "num_envs": 3, "num_steps": 8, "batch_size": 48, "epochs": 2, "denoising_steps": 6,
    "tuned_steps": 4, "hidden": (16, 16, 16), "critic_hidden": (16, 16, 16), "env_steps": 960,
    "chunk": 4, "acting": 4, "time_dim": 8,
}  # fmt: skip


def setting(seeds=(0, 1), obs=3, actions=2, **changes) -> SimpleNamespace:
    """All that an update needs; actions within +-1, observations as they are."""
    config, streams = Config(**SMALL | changes), Streams(seeds)
    ends = {"low": [-1.0] * actions, "high": [1.0] * actions}
    spec = ChunkPolicy.chosen(config) | ends | {"obs_size": obs, "running": False}
    policy = ChunkPolicy(rngs=streams["init"], **spec)
    policy.normalizer.fit(-np.ones(obs), np.ones(obs))
    critic = StateCritic(obs, config.critic_hidden)
    nets = [Net.of(policy.parts()[1]) for _ in range(2)]
    values = Net.of(critic.initial(streams["init"]))
    scaler = RolloutScaler(len(seeds), config.num_envs)
    taken = torch.zeros(len(seeds), dtype=torch.float64)
    learner = Learner(policy, nets[0], nets[0].theta.clone(), nets[1], values, scaler, taken)
    table = policy.schedule(least_std=config.density_std)
    ready = partial(make_batch, config, learner, critic, table)
    step = partial(update, policy, critic, config, table)
    return SimpleNamespace(**locals())


def rollout_of(s, reward=None, seed=0) -> ChunkRollout:
    """Chains of the policy at random observations, with ends and rewards at random."""
    shape = (len(s.seeds), s.config.num_steps, s.config.num_envs)
    rngs = [np.random.default_rng([seed, each]) for each in s.seeds]
    behaviour = s.policy.behaviour()
    behaviour.left = np.zeros((shape[0], shape[2]), np.int64)
    obs = np.stack([g.uniform(-1, 1, (*shape[1:], s.obs)) for g in rngs]).astype(np.float32)
    chains = [
        behaviour.decide(obs[:, n], behaviour.draws(rngs, np.ones(shape[0])), True)
        for n in range(shape[1])
    ]
    chain = np.stack(chains, 1)
    given = np.stack([g.standard_normal(shape[1:]) for g in rngs])
    ends = np.stack([g.random(shape[1:]) < 0.2 for g in rngs])
    reward = given if reward is None else reward(chain[:, :, :, -1])
    taken = np.full(shape[0], shape[1] * shape[2] * s.config.acting)
    first = np.concatenate([np.ones_like(ends[:, :1]), ends[:, :-1]], 1)
    return ChunkRollout(obs, chain, reward, ends, ends & False, obs, first, taken)


def clone_to(s, draw, steps: int, lr: float = 1e-3) -> None:
    """Clone chunks `draw(B)` [B, D] at observation 0 for so many steps."""
    table = ddpm(s.config.denoising_steps)
    generator = torch.Generator().manual_seed(0)
    seeds, rows = len(s.seeds), 128
    net, obs = s.learner.clone, torch.zeros(len(s.seeds), rows, s.obs)
    for _ in range(steps):
        clean = draw(rows).expand(seeds, -1, -1)
        t = torch.randint(len(table.time), (seeds, rows), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        given = (torch.tensor(lr), torch.tensor(1.0), obs, clean, t, noise)
        net, average, s.metrics = dppo.clone_step(
            s.policy, s.config, table, net, s.learner.average, *given
        )
    s.policy.use(average, average)
    s.learner.actor = Net.of(average)


def sampled(s, count: int, noisy: bool) -> np.ndarray:
    """Chunks [S, count, D] at observation 0."""
    behaviour = s.policy.behaviour()
    behaviour.left = np.zeros((len(s.seeds), count), np.int64)
    rngs = [np.random.default_rng([9, each]) for each in s.seeds]
    draws = behaviour.draws(rngs, np.ones(len(s.seeds)))
    obs = np.zeros((len(s.seeds), count, s.obs), np.float32)
    return behaviour.decide(obs, draws, noisy)[:, :, -1]
