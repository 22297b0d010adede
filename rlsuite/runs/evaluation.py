"""How good a policy is: whole episodes in environments of their own, raw returns out.

On tasks with constraints a policy is evaluated twice, with its mode and with sampled actions.
Limits are judged on sampled actions: they are what was learned under the constraints.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlsuite.core.networks import ActorCritic
from rlsuite.envs import Constraint, Environments
from rlsuite.envs.faults import warn_once

ENDLESS = 10_000  # steps after which an episode of a task without a time limit is cut
DISCOUNT = 0.99  # of costs that have a limit of the kind "discounted": it is the tasks' own
SAMPLED = "sampled"  # the evaluation with sampled actions; the mode's has no name
# What is held against a limit: kind of the limit -> what its column is called after the cost
HELD = {"episode": "", "step": "_per_step", "discounted": "_discounted"}


@dataclass(frozen=True)
class Evaluation:
    """Raw undiscounted returns and lengths of episodes, [S, E], and their costs, [S, E, C].

    `discounted`: the costs discounted by 0.99, where a limit is of that kind.
    """

    returns: np.ndarray
    costs: np.ndarray
    lengths: np.ndarray
    discounted: np.ndarray | None = None


def of_seeds(result: Evaluation, seeds: Sequence[int]) -> Evaluation:
    """The same of these slots alone."""
    parts = (result.returns, result.costs, result.lengths, result.discounted)
    return Evaluation(*(None if part is None else part[list(seeds)] for part in parts))


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
    discounts = any(each.kind == "discounted" for each in envs.constraints)
    discounted, counts = 0.0, np.ones((*env_seeds.shape, 1))
    for t in range(envs.time_limit or ENDLESS):
        step = envs.step(behaviour.act(obs, noise_rngs)[1])
        ended = step.terminated | step.truncated
        behaviour.reset(ended)
        if discounts:
            discounted = discounted + DISCOUNT**t * counts * step.cost
            counts[ended] = 0
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
    costs = costs.reshape(*env_seeds.shape, len(envs.constraints))
    return Evaluation(returns, costs, lengths, discounted if discounts else None)


def evaluate_all(
    policies: Mapping[str, ActorCritic], envs: Environments, env_seeds: np.ndarray, twice: bool
) -> dict[str, Evaluation]:
    """Every policy's evaluation by its `label`, all from the same first states.

    `twice`: also with sampled actions, from streams that `env_seeds` begin.
    """
    found = {}
    for position, (name, policy) in enumerate(policies.items()):
        policy.eval()
        for sampled in (False, True)[: 1 + twice]:
            rngs = _action_streams(env_seeds) if sampled else None
            result = evaluate(policy, envs, env_seeds, rngs)
            found[label(name if position else "", sampled)] = result
        policy.train()
    return found


def label(further: str = "", sampled: bool = False) -> str:
    """What an evaluation is called: `further` is the policy's name, empty for the main one."""
    return "_".join(filter(None, (further, SAMPLED * sampled)))


def _action_streams(env_seeds: np.ndarray) -> list[np.random.Generator]:
    """A generator for each seed, unlike those of its environments."""
    purpose = zlib.crc32(b"sampled actions")
    return [np.random.default_rng([purpose, *seeds]) for seeds in env_seeds.tolist()]


def cost_columns(constraints: Sequence[Constraint], prefix: str = "") -> list[str]:
    """Columns of tables: `cost` is the first constraint's, others have their names, `cost_NAME`."""
    return [f"{prefix}cost{f'_{each.name}' * bool(i)}" for i, each in enumerate(constraints)]


def cost_cells(costs: np.ndarray, constraints: Sequence[Constraint]) -> dict[str, float]:
    """{column: cost} of costs [C]; a task without constraints has the first column, too: zero."""
    return {"cost": 0.0} | dict(zip(cost_columns(constraints), costs.tolist(), strict=True))


def held(costs: np.ndarray, result: Evaluation, constraints: Sequence[Constraint]) -> np.ndarray:
    """Costs [..., C] of episodes as their limits measure them: sums, means or discounted sums."""
    columns = []
    for index, each in enumerate(constraints):
        kind = each.kind
        known = result.discounted if kind == "discounted" else costs
        columns.append(known[..., index] / (result.lengths if kind == "step" else 1))
    return np.stack(columns, -1) if columns else costs


def constraint_cells(
    result: Evaluation, index: int, constraints: Sequence[Constraint], prefix: str = ""
) -> dict[str, float]:
    """{column: number} of seed number `index`: each cost per step, and the share within limits."""
    cells = {}
    costs, lengths = result.costs[index], result.lengths[index]
    names = cost_columns(constraints, prefix)
    for i, (name, each) in enumerate(zip(names, constraints, strict=True)):
        cells[f"{name}_per_step"] = float((costs[:, i] / lengths).mean())
        if each.kind == "discounted":
            cells[f"{name}_discounted"] = float(result.discounted[index, :, i].mean())
    limited = [i for i, each in enumerate(constraints) if each.limit is not None]
    if limited:
        limits = np.array([constraints[i].limit for i in limited])
        over = held(result.costs, result, constraints)[index][:, limited] > limits
        cells[f"{prefix}within"] = float(1 - over.any(1).mean())
    return cells


def cells_of(
    found: Mapping[str, Evaluation],
    further: str,
    index: int,
    constraints: Sequence[Constraint],
) -> dict[str, float]:
    """{column: number} of a row of seed number `index`: what its policy earned and paid."""
    result = found[label(further)]
    costs = cost_cells(result.costs[index].mean(0), constraints)
    cells = {"return": float(result.returns[index].mean()), "cost": costs["cost"]}
    cells |= {"length": float(result.lengths[index].mean())} | costs
    sampled = found.get(label(further, True))
    if sampled is None:
        return cells
    cells |= constraint_cells(result, index, constraints)
    prefix = f"{SAMPLED}_"
    cells[f"{prefix}return"] = float(sampled.returns[index].mean())
    names = cost_columns(constraints, prefix)
    cells |= dict(zip(names, sampled.costs[index].mean(0).tolist(), strict=True))
    cells[f"{prefix}length"] = float(sampled.lengths[index].mean())
    return cells | constraint_cells(sampled, index, constraints, prefix)
