"""Logged chunks of actions, and the reward scale of the runs that follow."""

import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.core.chunks import ChunkPolicy
from rlsuite.core.seed_random import SeedRandom


class LoggedChunks:
    """Chunks of logged actions: each of them once an epoch, in an order of each seed's own."""

    def __init__(self, data, policy: ChunkPolicy, size: int, rng: SeedRandom) -> None:
        """`data`: an `rlsuite.datasets.transitions.Transitions`; `size`: of a batch, at most."""
        self.data, self.policy, self.rng = data, policy, rng
        length = policy.form.chunk
        spans = [np.arange(a, b - length + 1) for a, b in data.bounds()]
        self.starts = np.concatenate(spans)
        if not len(self.starts):
            longest = np.diff(data.bounds()).max()
            raise ValueError(f"chunk is {length}, and no episode is so long; use at most {longest}")
        self.rows = min(size, len(self.starts))
        self.steps = len(self.starts) // self.rows

    def shuffle(self) -> None:
        self.order = np.stack([g.permutation(len(self.starts)) for g in self.rng.rngs])
        self.at = 0

    def draw(self) -> tuple[Tensor, ...]:
        """(obs [S, B, O], clean [S, B, D], t [S, B], noise [S, B, D])."""
        rows = self.starts[self.order[:, self.at : self.at + self.rows]]
        self.at += self.rows
        obs = np.asarray(self.data.obs)[rows].astype(np.float32)
        action = np.asarray(self.data.action)[rows[..., None] + np.arange(self.policy.form.chunk)]
        clean = self.policy.clean(torch.from_numpy(action.astype(np.float32))).flatten(2)
        t = self.rng.integers(max(self.policy.form.steps, 1), self.rows)
        noise = self.rng.normal(self.rows, clean.shape[-1])
        return self.policy.normalizer.standardize(torch.from_numpy(obs)), clean, t, noise


class RolloutScaler(nn.Module):
    """r / std(G), clipped, with the statistics as of the end of a rollout; one variance per seed.

    G <- r + discount G, from 0 where an episode begins. The variance is the merged sum of squares
    over count - 1.
    """

    def __init__(self, num_seeds: int, num_envs: int) -> None:
        super().__init__()
        start = {"mean": 0.0, "var": 1.0, "count": 1e-4}
        for name, value in start.items():
            self.register_buffer(name, torch.full((num_seeds,), value, dtype=torch.float64))
        self.register_buffer("sum", torch.zeros(num_seeds, num_envs, dtype=torch.float64))

    def scale(self, reward: np.ndarray, first: np.ndarray, discount: float) -> np.ndarray:
        """Rewards [S, T, N]; `first`: where a decision is its episode's first."""
        sums, running = np.empty(reward.shape), self.sum.numpy()
        for n in range(reward.shape[1]):
            running *= discount * ~first[:, n]
            running += reward[:, n]
            sums[:, n] = running
        mean, var, count = self.mean.numpy(), self.var.numpy(), self.count.numpy()
        size = sums[0].size
        total, delta = count + size, sums.mean((1, 2)) - mean
        spread = var * count + sums.var((1, 2)) * size + delta**2 * count * size / total
        mean += delta * size / total
        var[:], count[:] = spread / (total - 1), total
        scaled = reward / np.sqrt(var + 1e-8)[:, None, None]
        return scaled.clip(-10, 10).astype(np.float32)
