"""How good a policy is: whole episodes in environments of their own, raw returns out."""

from dataclasses import dataclass

import numpy as np

from rlsuite.core.networks import ActorCritic
from rlsuite.envs import Environments

ENDLESS = 100_000  # steps after which a task without a time limit is taken to have no end


@dataclass(frozen=True)
class Evaluation:
    """Raw undiscounted episode returns, episode costs and lengths, each [S, E]."""

    returns: np.ndarray
    costs: np.ndarray
    lengths: np.ndarray


def evaluate(
    policy: ActorCritic,
    envs: Environments,
    env_seeds: np.ndarray,
    noise_rngs: list[np.random.Generator] | None = None,
) -> Evaluation:
    """One episode in each of the S x E environments, started from `env_seeds` [S, E].

    Deterministic (the mode of the policy) unless `noise_rngs`, one generator per seed, are given.
    Normaliser statistics are read, never updated. Raises RuntimeError if an episode never ends.
    """
    obs = envs.reset(env_seeds)
    behaviour = policy.behaviour(envs.action_low, envs.action_high)
    result = {name: np.full(env_seeds.shape, np.nan) for name in ("ret", "cost", "length")}
    missing = env_seeds.size
    for _ in range((envs.time_limit or ENDLESS) + 1):
        step = envs.step(behaviour.act(obs, noise_rngs)[1])
        behaviour.reset(step.terminated | step.truncated)
        obs = step.obs
        for episode in envs.episodes():  # the first one of each environment counts
            place = (episode.slot, episode.copy)
            if np.isnan(result["ret"][place]):
                missing -= 1
                for name, values in result.items():
                    values[place] = getattr(episode, name)
        if missing == 0:
            return Evaluation(result["ret"], result["cost"], result["length"])
    raise RuntimeError(f"{envs.task}: {missing} episodes had no end after {ENDLESS} steps")
