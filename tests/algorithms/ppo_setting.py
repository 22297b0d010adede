"""A small task and a PPO update of it, held still for tests to look at."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import gymnasium
import numpy as np
import torch

from rlsuite.algorithms.on_policy.ppo import Config, Learner, iterate, minibatch_steps
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.optim import Net
from rlsuite.core.rollouts import Collector
from rlsuite.core.streams import Streams
from rlsuite.envs import make


class Drift(gymnasium.Env):
    """Three numbers that walk at random and are pushed by the action; dies one step in 20."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gymnasium.spaces.Box(-0.5, 0.5, (2,), np.float32)
    received: ClassVar[list[np.ndarray]] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.standard_normal(3)
        return self.x.astype(np.float32), {}

    def step(self, action):
        self.received.append(action)
        self.x = self.x + 0.3 * self.np_random.standard_normal(3)
        self.x[:2] += action
        dies = self.np_random.random() < 0.05
        return self.x.astype(np.float32), -float(np.sum(self.x**2)), dies, False, {}


@contextmanager
def drift_registered() -> Iterator[None]:
    """Drift-v0 exists, and PyTorch works with one thread, as it does in runs."""
    gymnasium.register("Drift-v0", entry_point=Drift, max_episode_steps=15)
    Drift.received = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    del gymnasium.registry["Drift-v0"]


class Recorder:
    """`minibatch_steps` that keeps its arguments; `kl`, if given, overrides that metric."""

    def __init__(self, step, kl=()) -> None:
        self.step, self.kl, self.calls = step, list(kl), []

    def __call__(self, net, lr, active, part):
        theta = net.theta.clone()
        kept = SimpleNamespace(theta=theta, lr=lr.item(), active=active.clone(), part=part)
        self.calls.append(kept)
        net, metrics = self.step(net, lr, active, part)
        if self.kl:
            metrics = metrics | {"kl": torch.tensor(self.kl.pop(0))}
        return net, metrics


def setting(seeds=(0, 1), kl=(), **changes) -> SimpleNamespace:
    """4 iterations of 2 x 32 transitions, 2 epochs of 8 minibatches, and all they need."""
    values = {"num_envs": 2, "num_steps": 32, "num_minibatches": 8, "epochs": 2, "hidden": (16, 16)}
    config = Config(**{"env_steps": 256, **values, **changes})
    streams = Streams(seeds)
    envs = make("Drift-v0", seeds, config.num_envs)
    network = {"hidden": config.hidden, "activation": config.activation}
    policy = ActorCritic(3, 2, False, rngs=streams["init"], **network)
    scaler = RewardScaler(len(seeds), config.num_envs, config.discount)
    learner = Learner(policy, Net.of(policy.theta), scaler)
    collector = Collector(envs, policy, scaler)
    collector.restart(streams.integers("environment", config.num_envs))
    step = Recorder(partial(minibatch_steps, policy, config), kl)
    return SimpleNamespace(**locals())


def run(s: SimpleNamespace, k: int = 0) -> dict[str, torch.Tensor]:
    """Iteration k; its metrics. What the update was given is in `s.step.calls`."""
    return iterate(s.config, s.learner, s.collector, s.streams, k, s.step)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()
