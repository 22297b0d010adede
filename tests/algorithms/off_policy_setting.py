"""States and batches of SAC and off-policy MDPO, and one seed's networks as torch.nn has them."""

import copy
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from offline_setting import MemoryRun, PlainCritics, batch_of, normals, plain_mlp
from torch import Tensor, nn

from rlsuite.core.critics import Critics
from rlsuite.core.squashed import SquashedActor
from rlsuite.core.streams import Streams
from rlsuite.envs.engines import Step

OBS, ACTIONS = 3, 2
LOW, HIGH = [-2.0, 0.0], [2.0, 1.0]  # centre (0, 1/2), half widths (2, 1/2)
PENDULUM = "InvertedPendulum-v4"  # its episodes end within a few steps of random actions


def transitions(seeds, rows: int, dtype: torch.dtype = torch.float64):
    """`rows` made-up transitions of each seed, actions as the buffer has them, in (-1, 1)."""
    batch = batch_of(seeds, rows, dtype)
    return batch._replace(action=batch.action.tanh())


def setting(module, seeds=(0, 1), rows=32, dtype=torch.float64, **changes) -> SimpleNamespace:
    """A state whose targets are not copies, one cycle's transitions and noise of every seed."""
    config = module.Config(**{"batch_size": rows, "hidden": (16, 8), **changes})
    rngs = Streams(seeds)["init"]
    spec = {"hidden": config.hidden, "log_std_map": config.log_std_map}
    policy = SquashedActor(OBS, LOW, HIGH, rngs=rngs, **spec).to(dtype)
    critics = Critics(OBS, ACTIONS, config.hidden)
    state = module.initial_state(*first_arguments(module, config), policy, critics, rngs)
    size = state.critic_target.shape[1]
    moved = state.critic_target + 0.05 * normals(seeds, size, dtype=dtype)
    state = state._replace(critic_target=moved)
    delay = config.policy_delay
    batch = transitions(seeds, rows * delay, dtype)
    noise = normals(seeds, 2 * delay, rows, ACTIONS, dtype=dtype)
    cycle = partial(module.soft_cycle, policy, critics, config)
    return SimpleNamespace(**locals())


def first_arguments(module, config) -> tuple:
    """What SAC's first state needs besides: where its temperature starts."""
    return (config,) if hasattr(config, "temperature_lr") else ()


def copied(state):
    return copy.deepcopy(state)


def run_of(seeds=(0, 1), task: str = PENDULUM) -> MemoryRun:
    """A run in memory, for `train`."""
    return MemoryRun(None, seeds, task=task)


# ------------------------------------------------------------------------------- simple parts


class Constant:
    """A policy that draws y = 0.5 with log-densities of -3, whatever happens; and two critics."""

    def distribution(self, _theta: Tensor, _obs: Tensor) -> "Constant":
        return self

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(noise, 0.5), torch.full(noise.shape[:2], -3.0)

    def draw(self, noise: Tensor, _floor: float) -> tuple[Tensor, Tensor]:
        return torch.full_like(noise, 0.5).atanh(), torch.full(noise.shape, -3.0)

    def values(self, _theta: Tensor, obs: Tensor, _action: Tensor) -> Tensor:
        """10 and 12 times the observation's first number."""
        return torch.stack((10 * obs[..., 0], 12 * obs[..., 0]), 1)


class Hill:
    """Critics that know no state: both are -(y - 0.3)^2 / 2."""

    def values(self, _theta: Tensor, _obs: Tensor, action: Tensor) -> Tensor:
        value = -0.5 * (action[..., 0] - 0.3).square()
        return torch.stack((value, value), 1)


class Point:
    """Environments of a point in a line that an action pushes, with a box of +-`scale`."""

    task, discrete, obs_size, action_size, finished = "Point", False, 2, 1, 0

    def __init__(self, seeds, scale: float, num_envs: int = 1) -> None:
        self.seeds, self.scale, self.num_envs = seeds, scale, num_envs
        self.action_low, self.action_high = np.float32([-scale]), np.float32([scale])

    def reset(self, env_seeds: np.ndarray) -> np.ndarray:
        self.obs = np.stack([env_seeds / 2**31, 0 * env_seeds], -1)
        return self.obs

    def step(self, action: np.ndarray) -> Step:
        push = action[..., 0].astype(np.float64) / self.scale
        speed = 0.9 * self.obs[..., 1] + 0.1 * push
        self.obs = np.stack([self.obs[..., 0] + 0.1 * speed, speed], -1)
        no = np.zeros(push.shape, bool)
        reward = np.float32(-np.square(self.obs).sum(-1))
        return Step(self.obs, reward, np.zeros_like(reward), no, no, self.obs)


# ----------------------------------------------------------------------- one seed, plain PyTorch


class PlainPolicy(nn.Module):
    """Mean and log sigma from one network, cut to [-20, 2]."""

    def __init__(self, policy: SquashedActor, theta: Tensor) -> None:
        super().__init__()
        self.net = plain_mlp(policy.layout, theta, "actor")

    def forward(self, obs: Tensor) -> torch.distributions.Normal:
        mean, log_std = self.net(obs).chunk(2, 1)
        return torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())


class Plain:
    """One seed's networks and optimisers as `state` has them."""

    def __init__(self, s: SimpleNamespace, seed: int) -> None:
        self.config = s.config
        self.actor = PlainPolicy(s.policy, s.state.actor.theta[seed])
        layout = s.critics.layout
        self.critic = PlainCritics(layout, s.state.critic.theta[seed])
        self.critic_target = PlainCritics(layout, s.state.critic_target[seed])
        lr = s.config.actor_lr, s.config.critic_lr
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr[0])
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr[1])
