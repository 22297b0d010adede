"""How good a policy is: whole episodes in environments of their own, raw returns out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlsuite.core.networks import ActorCritic
from rlsuite.envs import Constraint, Environments
from rlsuite.envs.faults import warn_once

ENDLESS = 10_000  # steps after which an episode of a task without a time limit is cut


@dataclass(frozen=True)
class Evaluation:
    """Raw undiscounted returns and lengths of episodes, [S, E], and their costs, [S, E, C]."""

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
    Normaliser statistics are read, never updated. Where the task has no time limit, episodes are
    cut after 10,000 steps, and a warning says so once.
    """
    obs = envs.reset(env_seeds)
    behaviour = policy.behaviour(envs.action_low, envs.action_high)
    behaviour.seed(env_seeds)
    seen = envs.finished
    first = {}  # (slot, copy) -> the first episode there: the only one that counts
    for _ in range(envs.time_limit or ENDLESS):
        step = envs.step(behaviour.act(obs, noise_rngs)[1])
        behaviour.reset(step.terminated | step.truncated)
        obs = step.obs
        for episode in envs.episodes(seen):
            first.setdefault((episode.seed, episode.copy), episode)
        seen = envs.finished
        if len(first) == env_seeds.size:
            break
    else:
        warn_once(
            f"{envs.task} has no time limit, and some episodes had no end: evaluations cut them "
            f"after {ENDLESS:,} steps (gymnasium.register takes max_episode_steps)"
        )
        for episode in envs.unfinished():
            first.setdefault((episode.seed, episode.copy), episode)
    order = [first[place] for place in np.ndindex(env_seeds.shape)]
    returns, lengths = (
        np.array([getattr(e, name) for e in order], float).reshape(env_seeds.shape)
        for name in ("ret", "length")
    )
    costs = np.array([e.cost for e in order], float)
    return Evaluation(returns, costs.reshape(*env_seeds.shape, len(envs.constraints)), lengths)


def cost_columns(constraints: Sequence[Constraint], prefix: str = "") -> list[str]:
    """Columns of tables: `cost` is the first constraint's, others have their names, `cost_NAME`."""
    return [f"{prefix}cost{f'_{each.name}' * bool(i)}" for i, each in enumerate(constraints)]


def cost_cells(costs: np.ndarray, constraints: Sequence[Constraint]) -> dict[str, float]:
    """{column: cost} of costs [C]; a task without constraints has the first column, too: zero."""
    return {"cost": 0.0} | dict(zip(cost_columns(constraints), costs.tolist(), strict=True))
