"""On-policy data of policies that act in chunks: one row is one decision.

| symbol | shape | meaning |
|---|---|---|
| obs, next_obs | [S, T, N, O] | normalised, at a decision and after its last action |
| chain | [S, T, N, K' + 1, D] | the tuned part of the denoising; its last entry was executed |
| reward | [S, T, N] | sum over the chunk's actions, raw; an episode that ends stops it |
| terminated, truncated | [S, T, N] | whether and by what an episode ended within the chunk |
| first | [S, T, N] | whether the decision was its episode's first |
| taken | [S] | environment steps truly taken |

An environment whose episode ends within a chunk stands idle until the next decision of all, so that
decisions are a rectangle.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.chunks import ChunkPolicy


@dataclass
class ChunkRollout:
    obs: np.ndarray
    chain: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray
    first: np.ndarray
    taken: np.ndarray


class ChunkCollector:
    """Steps `envs` with a policy's exploring chunks, from where it stopped."""

    def __init__(self, envs, policy: ChunkPolicy) -> None:
        self.envs, self.policy = envs, policy
        self.behaviour = policy.behaviour(envs.action_low, envs.action_high)

    def restart(self, env_seeds: np.ndarray) -> None:
        """Fresh environments from `env_seeds` [S, N]: an episode boundary for every seed."""
        self.obs = self._observe(self.envs.reset(env_seeds))
        self.first = np.ones(env_seeds.shape, bool)
        self.behaviour.left = np.zeros(env_seeds.shape, np.int64)

    def restart_at_boundary(self, run) -> None:
        """Fresh environments where a stage of `run` begins, and after each checkpoint."""
        if run.at_boundary:
            self.restart(run.streams.integers("environment", self.envs.num_envs))

    def seconds(self) -> dict[str, float]:
        """Wall time of the last rollout, by kind of work."""
        return self._seconds

    def collect(self, decisions: int, rngs: list[np.random.Generator]) -> ChunkRollout:
        """`decisions` of every environment; the policy's parameters stand still meanwhile."""
        behaviour, every = self.behaviour, np.ones(len(self.first), bool)
        behaviour.refresh(self.policy)
        began, self.physics, rows = perf_counter(), 0.0, []
        self.taken = np.zeros(len(self.first), np.int64)
        for _ in range(decisions):
            obs, first = self.obs, self.first
            chain = behaviour.decide(obs, behaviour.draws(rngs, every), noisy=True)
            rows.append((obs, chain, *self._execute(chain[:, :, -1]), first))
        columns = [np.stack(column, 1) for column in zip(*rows, strict=True)]
        inference = perf_counter() - began - self.physics
        self._seconds = {"physics": self.physics, "inference": inference}
        return ChunkRollout(*columns, self.taken)

    def _execute(self, chunk: np.ndarray) -> tuple[np.ndarray, ...]:
        """Take the first actions of a chunk [S, N, D]: reward, terminated, truncated, next_obs."""
        shape, form = self.first.shape, self.policy.form
        actions = self.behaviour.to_env(chunk.reshape(*shape, form.chunk, -1))[1]
        reward, active = np.zeros(shape), np.ones(shape, bool)
        terminated, truncated = np.zeros(shape, bool), np.zeros(shape, bool)
        final = None
        start = perf_counter()
        for j in range(form.acting):
            self.taken += active.sum(1)
            step = self.envs.step(actions[:, :, j], active)
            reward += step.reward
            ended = active & (step.terminated | step.truncated)
            terminated |= step.terminated
            truncated |= step.truncated
            final = step.final_obs if final is None else final
            final = np.where(active[..., None], step.final_obs, final)
            active &= ~ended
        self.physics += perf_counter() - start
        self.obs, self.first = self._observe(step.obs), terminated | truncated
        last = self.policy.normalizer.snapshot()(final) if self.first.any() else self.obs
        next_obs = np.where(self.first[..., None], last, self.obs)
        return reward, terminated, truncated, next_obs

    def _observe(self, obs: np.ndarray) -> np.ndarray:
        normalizer = self.policy.normalizer
        return normalizer.observe(obs) if self.policy.form.running else normalizer.normalize(obs)


class Experience(NamedTuple):
    """M = T N decisions of each seed."""

    obs: Tensor  # [S, M, O]
    chain: Tensor  # [S, M, K' + 1, D]
    old_log_prob: Tensor  # [S, M, K']
    advantage: Tensor  # [S, M]
    target: Tensor  # [S, M]
    old_value: Tensor  # [S, M]

    def explained_variance(self) -> Tensor:
        """1 - var(R - V_old) / var(R): 1 for a perfect critic, 0 for a constant one. [S]."""
        return 1 - (self.target - self.old_value).var(1) / self.target.var(1).clamp(min=1e-8)


class Pairs(NamedTuple):
    """B pairs of a decision and a tuned step of each seed."""

    obs: Tensor
    x: Tensor
    after: Tensor
    i: Tensor
    old_log_prob: Tensor
    advantage: Tensor
    clip: Tensor | None = None


class States(NamedTuple):
    """What the critic sees of a minibatch: no decision twice, where that is fewer rows."""

    obs: Tensor
    target: Tensor
    weight: Tensor


def minibatches(
    data: Experience, size: int, rngs: list[np.random.Generator]
) -> Iterator[tuple[Pairs, States]]:
    """All pairs of a decision and a tuned step, shuffled per seed, in parts of `size`.

    What is left at the end is dropped. The critic's rows are all decisions, weighted by how often
    the part has them, where those are fewer than the pairs.
    """
    seeds, decisions, steps = data.old_log_prob.shape
    order = torch.from_numpy(np.stack([g.permutation(decisions * steps) for g in rngs]))
    seed = torch.arange(seeds)[:, None]
    for index in order.split(size, 1)[: decisions * steps // size]:
        n, i = index // steps, index % steps
        x, after = data.chain[seed, n, i], data.chain[seed, n, i + 1]
        old, obs = data.old_log_prob[seed, n, i], data.obs[seed, n]
        if size < decisions:
            states = States(obs, data.target[seed, n], torch.full_like(old, 1 / size))
        else:
            weight = torch.zeros_like(data.target).scatter_add_(
                1, n, torch.full_like(old, 1 / size)
            )
            states = States(data.obs, data.target, weight)
        yield Pairs(obs, x, after, i, old, data.advantage[seed, n]), states
