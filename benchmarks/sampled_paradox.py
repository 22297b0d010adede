"""ReLOAD's sampled form on the two states of the paradox, with networks and sampled episodes.

Episodes have 10 steps; u is the share of steps in which the constraint is paid, at least one half.
After every iteration u of the policy is computed from its probabilities, so that noise of episodes
moves the learner and not the measure.
"""

from functools import partial

import gymnasium
import numpy as np
import torch

from rlsuite.algorithms.constrained.reload import (
    Config,
    Learner,
    Multiplier,
    critic_step,
    iterate,
    policy_step,
)
from rlsuite.core.constraints import ValueHeads
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.optim import Net
from rlsuite.core.rollouts import Collector
from rlsuite.core.streams import Streams
from rlsuite.envs import Constraint, constrain, make, tasks

TASK, STEPS = "Paradox-v0", 10
ITERATIONS = 500
SHARED = dict(
    num_envs=4, num_steps=64, env_steps=ITERATIONS * 256, hidden=(16,), discount=0.9,
    normalize_obs=False, actor_lr=1e-2, critic_lr=1e-2, critic_epochs=5, critic_minibatches=4,
)  # fmt: skip
FORMS = {  # what differs, at equal step sizes
    "descent-ascent, proximal": dict(optimism=0.0),
    "ReLOAD, proximal": dict(optimism=1.0),
    "descent-ascent, PPO's clip": dict(optimism=0.0, clip=0.2),
    "ReLOAD, PPO's clip": dict(optimism=1.0, clip=0.2),
}


class Paradox(gymnasium.Env):
    """State L pays for staying; going to R, and staying there, is what the constraint asks for."""

    observation_space = gymnasium.spaces.Box(0, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)  # stay, go

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return self._obs(), {}

    def step(self, action):
        reward = float(self.state == 0 and action == 0)
        self.state = self.state ^ int(action)
        return self._obs(), reward, False, False, {}

    def _obs(self) -> np.ndarray:
        return np.eye(2, dtype=np.float32)[self.state]


def missed(obs, action, next_obs, reward, signals) -> np.ndarray:
    """1 for a step that does not end in R, [E, 1]."""
    return next_obs[:, :1]


def share(policy: ActorCritic) -> torch.Tensor:
    """u [S] of the policy: the mean share of an episode's steps that end in R."""
    seeds = len(policy.theta)
    both = torch.eye(2).expand(seeds, 2, 2)  # in L, in R
    staying = torch.zeros(seeds, 2, dtype=torch.int64)
    stay = policy.distribution(policy.theta, both).log_prob(staying).exp()
    left, total = torch.ones(seeds), torch.zeros(seeds)
    for _ in range(STEPS):
        left = left * stay[:, 0] + (1 - left) * (1 - stay[:, 1])
        total += 1 - left
    return total / STEPS


def run(seeds: range, **changes) -> torch.Tensor:
    """u [K, S] after every iteration."""
    config = Config(**SHARED | changes)
    streams, envs = Streams(seeds), make(TASK, seeds, config.num_envs, "gymnasium")
    policy = ActorCritic.of(envs, config, streams["init"])
    heads = ValueHeads(policy).initial(2, streams["init"], config.orthogonal_init)
    actor = Net.of(policy.theta[:, : policy.actor_size])
    mu = Multiplier.of(torch.full((len(seeds), 1), config.multiplier_init))
    learner = Learner(policy, actor, Net.of(heads), mu)
    scaler = RewardScaler(len(seeds), config.num_envs, config.discount, enabled=False)
    collector = Collector(envs, policy, scaler)
    collector.restart(streams.integers("environment", config.num_envs))
    steps = [partial(step, policy, config) for step in (policy_step, critic_step)]
    found = []
    for _ in range(ITERATIONS):
        iterate(config, learner, collector, streams, steps)
        found.append(share(policy))
    envs.close()
    return torch.stack(found)


def sampled_rows(seeds: range = range(10)) -> list[dict]:
    """A row for each form: of the last fifth, the spread of u and how far it is below one half."""
    torch.set_num_threads(1)
    gymnasium.register("ParadoxFree-v0", entry_point=Paradox, max_episode_steps=STEPS)
    constrain(TASK, "ParadoxFree-v0", missed, Constraint("missed", 0.5, "step"))
    rows = []
    try:
        for name, changes in FORMS.items():
            late = run(seeds, **changes)[-ITERATIONS // 5 :]
            std, short = late.std(0), (0.5 - late).clamp(min=0).mean(0)
            rows.append(
                {
                    "form": name,
                    "seeds": len(seeds),
                    "late_std_of_u": f"{std.mean():.3f} ± {std.std():.3f}",
                    "late_mean_of_u": f"{late.mean():.3f} ± {late.mean(0).std():.3f}",
                    "late_infeasibility": f"{short.mean():.3f} ± {short.std():.3f}",
                }
            )
            print(rows[-1], flush=True)
    finally:
        del gymnasium.registry["ParadoxFree-v0"], tasks.ADDED[TASK]
    return rows
