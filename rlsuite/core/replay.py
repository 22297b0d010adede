"""Steps in the environment of an algorithm that has learned from data and goes on online."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import ReplayBuffer
from rlsuite.core.policies import clip, normal


class Explorer:
    """Steps one environment per seed with a deterministic policy plus noise; files what happens."""

    def __init__(self, envs, policy: BoundedActor, buffer: ReplayBuffer) -> None:
        self.envs, self.policy, self.buffer = envs, policy, buffer
        self.behaviour = policy.behaviour(envs.action_low, envs.action_high)
        self._seconds = {"physics": 0.0, "inference": 0.0}

    def restart(self, env_seeds: np.ndarray) -> None:
        """Fresh environments from `env_seeds` [S, 1]."""
        self.obs = self.envs.reset(env_seeds)
        self.behaviour.reset(np.ones(env_seeds.shape, bool))

    def step(self, count: int, std: float, rngs: Sequence[np.random.Generator]) -> None:
        """`count` steps of the policy as it is now; noise of `std` half widths of the bounds."""
        began, physics = perf_counter(), 0.0
        envs, low, high = self.envs, self.envs.action_low, self.envs.action_high
        std = std * (high - low) / 2
        self.behaviour.refresh(self.policy)
        for _ in range(count):
            mode, _ = self.behaviour.act(self.obs)
            action = clip(mode + std * normal(rngs, *mode.shape[1:]), low, high)
            start = perf_counter()
            after = envs.step(action)
            physics += perf_counter() - start
            self.behaviour.reset(after.terminated | after.truncated)
            row = {"obs": self.obs, "action": action, "reward": after.reward}
            self.buffer.add(**row, next_obs=after.final_obs, terminated=after.terminated)
            self.obs = after.obs
        self._seconds["physics"] += physics
        self._seconds["inference"] += perf_counter() - began - physics

    def seconds(self) -> dict[str, float]:
        """Spent since the last call, by kind of work."""
        spent, self._seconds = self._seconds, {"physics": 0.0, "inference": 0.0}
        return spent
