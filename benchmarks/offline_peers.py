"""The peers of the offline speed benchmark: a plain PyTorch loop, CORL's single file, d3rlpy.

Each is a function from the data to another function, which draws a batch of 256 and takes one
gradient step on it. Of CORL and d3rlpy nothing is part of the suite: CORL's file lies where the
environment variable CORL_FILE says, d3rlpy is whatever is installed.
"""

import copy
import importlib.util
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlsuite.datasets.transitions import Transitions

BATCH, LEARNING_RATE, STD_FLOOR = 256, 3e-4, 1e-3
CORL_IMPORTS = ("d4rl", "gym", "pyrallis", "wandb")  # its file wants them; its trainer does not

# ---------------------------------------------------------------------------------- a plain loop


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them; `sizes` from input to output."""
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PlainTD3BC:
    """TD3+BC of one seed as one would write it down; the action box is -1 to 1."""

    discount, tau, alpha, policy_noise, noise_clip, policy_freq = 0.99, 0.005, 2.5, 0.2, 0.5, 2

    def __init__(self, obs_size: int, action_size: int) -> None:
        self.actor = nn.Sequential(mlp(obs_size, 256, 256, action_size), nn.Tanh())
        self.critic_1 = mlp(obs_size + action_size, 256, 256, 1)
        self.critic_2 = mlp(obs_size + action_size, 256, 256, 1)
        self.networks = nn.ModuleList([self.actor, self.critic_1, self.critic_2])
        self.targets = copy.deepcopy(self.networks)
        critics = [*self.critic_1.parameters(), *self.critic_2.parameters()]
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=LEARNING_RATE)
        self.critic_adam = torch.optim.Adam(critics, lr=LEARNING_RATE)
        self.steps = 0

    def train(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        next_obs: Tensor,
        terminated: Tensor,
        noise: Tensor,
    ) -> None:
        """One step on [B, ...] transitions; reward, terminated [B, 1], noise standard normal."""
        self.steps += 1
        actor_target, *critic_targets = self.targets
        with torch.no_grad():
            noise = (self.policy_noise * noise).clamp(-self.noise_clip, self.noise_clip)
            next_action = (actor_target(next_obs) + noise).clamp(-1, 1)
            pair = torch.cat([next_obs, next_action], 1)
            value = torch.min(*(critic(pair) for critic in critic_targets))
            target = reward + self.discount * (1 - terminated) * value
        pair = torch.cat([obs, action], 1)
        critic_loss = functional.mse_loss(self.critic_1(pair), target)
        critic_loss = critic_loss + functional.mse_loss(self.critic_2(pair), target)
        self.critic_adam.zero_grad()
        critic_loss.backward()
        self.critic_adam.step()
        if self.steps % self.policy_freq == 0:
            self.train_actor(obs, action)

    def train_actor(self, obs: Tensor, action: Tensor) -> None:
        """The actor's step, and the targets'."""
        chosen = self.actor(obs)
        value = self.critic_1(torch.cat([obs, chosen], 1))
        scale = self.alpha / value.abs().mean().detach()
        actor_loss = functional.mse_loss(chosen, action) - scale * value.mean()
        self.actor_adam.zero_grad()
        actor_loss.backward()
        self.actor_adam.step()
        with torch.no_grad():
            moved = zip(self.targets.parameters(), self.networks.parameters(), strict=True)
            for old, new in moved:
                old.lerp_(new, self.tau)


def plain(data: Transitions) -> Callable[[], None]:
    """The plain loop, its data standardised once, in tensors."""
    mean, std = data.obs_statistics()
    obs, next_obs = ((x - mean) / (std + STD_FLOOR) for x in (data.obs, data.next_obs))
    columns = (obs, data.action, data.reward[:, None], next_obs, data.terminated[:, None])
    tensors = [torch.tensor(column, dtype=torch.float32) for column in columns]
    learner = PlainTD3BC(data.obs_size, data.action.shape[1])

    def step() -> None:
        rows = torch.randint(len(data), (BATCH,))
        batch = [x[rows] for x in tensors]
        learner.train(*batch, torch.randn_like(batch[1]))

    return step


# ------------------------------------------------------------------------------------------ CORL


def load_corl(file: str) -> ModuleType:
    """CORL's td3_bc.py as a module, without the packages that it imports for other purposes."""
    sys.modules.update({name: MagicMock() for name in CORL_IMPORTS})
    spec = importlib.util.spec_from_file_location("corl_td3_bc", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for the module they are made in
    spec.loader.exec_module(module)
    return module


def corl(data: Transitions) -> Callable[[], None]:
    """CORL's loop: its replay buffer, its trainer, its settings; its wandb.log left out."""
    module, sizes = load_corl(os.environ["CORL_FILE"]), (data.obs_size, data.action.shape[1])
    mean, std = module.compute_mean_std(data.obs, eps=STD_FLOOR)
    columns = {
        "observations": module.normalize_states(data.obs, mean, std),
        "actions": data.action,
        "rewards": data.reward,
        "next_observations": module.normalize_states(data.next_obs, mean, std),
        "terminals": data.terminated,
    }
    buffer = module.ReplayBuffer(*sizes, len(data))
    buffer.load_d4rl_dataset(columns)
    networks = {"actor": module.Actor(*sizes, max_action=1.0)}
    networks |= {name: module.Critic(*sizes) for name in ("critic_1", "critic_2")}
    optimizers = {
        f"{name}_optimizer": torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        for name, network in networks.items()
    }
    trainer = module.TD3_BC(max_action=1.0, **networks, **optimizers)
    return lambda: trainer.train(buffer.sample(BATCH))


# ---------------------------------------------------------------------------------------- d3rlpy


def d3rlpy(data: Transitions) -> Callable[[], None]:
    """d3rlpy's TD3+BC at its defaults; what its `fit` does at each step, without its logger."""
    import d3rlpy as package

    arrays = (data.obs, data.action, data.reward, data.terminated, data.truncated)
    dataset = package.dataset.MDPDataset(*(x.astype(np.float32) for x in arrays))
    scaler = package.preprocessing.StandardObservationScaler(*data.obs_statistics())
    config = package.algos.TD3PlusBCConfig(batch_size=BATCH, observation_scaler=scaler)
    algorithm = config.create(device="cpu")
    algorithm.build_with_dataset(dataset)
    return lambda: algorithm.update(dataset.sample_transition_batch(BATCH))


PEERS = {"plain": plain, "corl": corl, "d3rlpy": d3rlpy}
