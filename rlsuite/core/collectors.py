"""Off-policy data: one step of the environments at a time, into a replay buffer."""

from time import perf_counter

import numpy as np

from rlsuite.core.buffers import ReplayBuffer
from rlsuite.core.policies import Rngs
from rlsuite.core.squashed import SquashedActor


class ReplayCollector:
    """Steps `envs` (of rlsuite.envs) and stores each transition in `buffer`.

    The buffer gets what the policy chose, in (-1, 1), and the true next observation, also where an
    episode ended. A time limit is no end, and neither is a restart: such rows have a future.
    """

    def __init__(self, envs, policy: SquashedActor, buffer: ReplayBuffer) -> None:
        self.envs, self.policy, self.buffer = envs, policy, buffer
        self.behaviour = policy.behaviour(envs.action_low, envs.action_high)
        self._seconds = {"physics": 0.0, "inference": 0.0}

    def restart(self, env_seeds: np.ndarray) -> None:
        """Fresh environments from `env_seeds` [S, N]."""
        self.obs = self.envs.reset(env_seeds)
        self.behaviour.reset(np.ones(env_seeds.shape, bool))

    def step(self, rngs: Rngs) -> None:
        """One step of every environment with the policy as it is now, sampled."""
        start = perf_counter()
        self.behaviour.refresh(self.policy)
        raw, applied = self.behaviour.act(self.obs, rngs)
        self._store(raw, applied, start)

    def explore(self, steps: int, rngs: Rngs) -> None:
        """So many steps of every environment with actions uniform in the box."""
        shape = (self.obs.shape[1], self.policy.action_size)
        for _ in range(steps):
            start = perf_counter()
            raw = np.stack([rng.uniform(-1, 1, shape) for rng in rngs]).astype(np.float32)
            self._store(raw, self.behaviour.to_env(raw), start)

    def seconds(self) -> dict[str, float]:
        """Spent since the last call, by kind of work."""
        spent, self._seconds = self._seconds, {"physics": 0.0, "inference": 0.0}
        return spent

    def _store(self, raw: np.ndarray, applied: np.ndarray, start: float) -> None:
        chosen = perf_counter()
        after = self.envs.step(applied)
        stepped = perf_counter()
        self.behaviour.reset(after.terminated | after.truncated)
        self.buffer.add(
            obs=self.obs,
            action=raw,
            reward=after.reward,
            next_obs=after.final_obs,
            terminated=after.terminated,
        )
        self.obs = after.obs
        self._seconds["physics"] += stepped - chosen
        self._seconds["inference"] += chosen - start + perf_counter() - stepped
