"""On-policy data: collected with the current policy, then turned into advantages.

| symbol | shape | meaning |
|---|---|---|
| obs, next_obs | [S, T, N, O] | normalised s_t and the true s_{t+1} (an episode's last, too) |
| action | [S, T, N, A] or [S, T, N] | the raw sample; the environment gets it clipped |
| reward, cost | [S, T, N] | scaled reward for training; raw cost |
| terminated, truncated | [S, T, N] | how step t ended the episode, if it did |

All rows are real transitions: the environments reset at once, so there is nothing to mask.
"""

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler


@dataclass
class Rollout:
    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray
    seconds: dict[str, float]  # wall time of the collection: physics, inference

    @property
    def ended(self) -> np.ndarray:
        return self.terminated | self.truncated


class Collector:
    """Steps `envs` with a policy's stochastic actions and remembers where it stopped.

    `envs` needs `reset(env_seeds)`, `step(action)`, `action_low`, `action_high`: rlsuite.envs.
    """

    def __init__(self, envs, policy: ActorCritic, scaler: RewardScaler) -> None:
        self.envs, self.policy, self.scaler = envs, policy, scaler

    def restart(self, env_seeds: np.ndarray) -> None:
        """Fresh environments from `env_seeds` [S, N]: an episode boundary for every slot."""
        self.obs = self.policy.normalizer.observe(self.envs.reset(env_seeds))
        self.scaler.restart()

    def collect(self, steps: int, rngs: list[np.random.Generator]) -> Rollout:
        """`steps` transitions per environment; sampling noise comes from each slot's own stream."""
        policy, envs, normalizer = self.policy, self.envs, self.policy.normalizer
        began, physics, rows, act = perf_counter(), 0.0, [], policy.actor()
        shape = (steps, self.obs.shape[1], policy.action_size)
        noise = np.stack([policy.noise(rng, shape) for rng in rngs])
        for t in range(steps):
            obs, action = self.obs, act(self.obs, noise[:, t])
            applied = action  # log-probs need the raw sample, the environment one within its box
            if not policy.discrete:
                applied = np.minimum(np.maximum(action, envs.action_low), envs.action_high)
            start = perf_counter()
            step = envs.step(applied)
            physics += perf_counter() - start
            self.obs = next_obs = normalizer.observe(step.obs)
            if step.final_obs is not step.obs:  # somewhere an episode ended
                ended = (step.terminated | step.truncated)[..., None]
                next_obs = np.where(ended, normalizer.normalize(step.final_obs), self.obs)
            ends = (step.terminated, step.truncated)
            rows.append((obs, action, step.reward, step.cost, *ends, next_obs))
        columns = (np.stack(column, 1) for column in zip(*rows, strict=True))
        rollout = Rollout(*columns, seconds={})
        rollout.reward = self.scaler.scale(rollout.reward, rollout.ended)
        rollout.seconds = {"physics": physics, "inference": perf_counter() - began - physics}
        return rollout


def gae(
    reward: np.ndarray,
    value: np.ndarray,
    next_value: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    discount: float,
    lam: float,
    bootstrap_on_truncation: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimates and value targets (Schulman et al. 2016), all [S, T, N].

    `next_value` is V of the true next observation. A termination has no future; a truncation has
    one, unless `bootstrap_on_truncation` is off (baselines and CleanRL treat it as death).
    """
    no_future = terminated if bootstrap_on_truncation else terminated | truncated
    # delta_t = r_t + discount V(s_{t+1}) - V(s_t)
    delta = reward + discount * next_value * ~no_future - value
    # A_t = delta_t + discount lam A_{t+1}, cut at every end of an episode
    carry = (discount * lam * ~(terminated | truncated)).astype(np.float32)
    advantage = np.empty_like(delta)
    running = np.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        running = delta[:, t] + carry[:, t] * running
        advantage[:, t] = running
    # R_t = A_t + V(s_t), the TD(lam) target
    return advantage, advantage + value
