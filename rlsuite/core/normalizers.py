"""Running normalisation, per seed, with float64 statistics kept as module buffers.

| symbol | shape | meaning |
|---|---|---|
| mean, var | [S, D] | running mean and population variance of everything seen |
| count | [S, 1] | how much was seen; starts at 1e-4, as in baselines' RunningMeanStd |
| return_ | [S, N] | discounted return so far of each environment, for the reward scale |

The statistics live on the host and are updated in NumPy: environments speak NumPy, and one row is
several times cheaper there than in tensors. In eval mode they are frozen.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

EPSILON = 1e-8  # inside the square root; baselines vec_normalize.py, CleanRL, SB3
CLIP = 10.0  # of normalised observations and scaled rewards; the same three
PRIOR_COUNT = 1e-4  # baselines running_mean_std.py: the first real batch replaces mean 0, var 1


class RunningStatistics(nn.Module):
    """Mean and variance of a stream of batches, merged by Chan's parallel formula."""

    def __init__(self, num_seeds: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_seeds, size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(num_seeds, size, dtype=torch.float64))
        self.register_buffer("count", torch.full((num_seeds, 1), PRIOR_COUNT, dtype=torch.float64))

    def merge(self, batch: np.ndarray) -> None:
        """Take in a batch [S, N, D]; nothing happens in eval mode."""
        if not self.training:
            return
        mean, var, count = self.mean.numpy(), self.var.numpy(), self.count.numpy()
        n = batch.shape[1]
        batch_mean = np.add.reduce(batch, 1) / n
        total = count + n
        delta = batch_mean - mean
        # M2 = M2_old + M2_batch + delta^2 * count * n / total, all divided by total
        var *= count
        if n > 1:  # one row has no spread
            spread = batch - batch_mean[:, None]
            var += np.add.reduce(spread * spread, 1)
        var += delta * delta * (count * n / total)
        var /= total
        mean += delta * (n / total)
        count[:] = total

    def unit(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation, float32 [S, D]."""
        return self.mean.float(), (self.var + EPSILON).sqrt().float()


class ObservationNormalizer(RunningStatistics):
    """(o - mean) / sqrt(var + 1e-8), clipped to +-10. `enabled=False` only casts to float32."""

    def __init__(self, num_seeds: int, size: int, enabled: bool = True) -> None:
        super().__init__(num_seeds, size)
        self.enabled = enabled

    def observe(self, obs: np.ndarray) -> np.ndarray:
        """Update with raw observations [S, N, O], then normalise them (float32)."""
        if self.enabled:
            self.merge(obs)
        return self.normalize(obs)

    def normalize(self, obs: np.ndarray) -> np.ndarray:
        """Raw [S, N, O] to what the networks see, float32."""
        if not self.enabled:
            return obs.astype(np.float32)
        return normalized(obs, self.mean.numpy(), np.sqrt(self.var.numpy() + EPSILON))

    def snapshot(self) -> Callable[[np.ndarray], np.ndarray]:
        """`normalize` with the statistics as they are now."""
        if not self.enabled:
            return lambda obs: obs.astype(np.float32)
        mean, std = self.mean.numpy().copy(), np.sqrt(self.var.numpy() + EPSILON)
        return lambda obs: normalized(obs, mean, std)


def normalized(obs: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Raw observations [S, N, O], from statistics [S, O]: clipped, float32."""
    z = (obs - mean[:, None]) / std[:, None]
    return np.minimum(np.maximum(z, -CLIP, out=z), CLIP, out=z).astype(np.float32)


class RewardScaler(RunningStatistics):
    """r / sqrt(var(G) + 1e-8), clipped, where G <- discount G + r; the mean is not removed.

    For training only: raw returns are recorded by the environments, below this.
    """

    def __init__(self, num_seeds: int, num_envs: int, discount: float, enabled=True) -> None:
        super().__init__(num_seeds, 1)
        self.discount, self.enabled = discount, enabled
        self.register_buffer("return_", torch.zeros(num_seeds, num_envs, dtype=torch.float64))

    @staticmethod
    def of(envs, config) -> "RewardScaler":
        """One for the rewards of `envs`; `config` has discount and normalize_reward."""
        enabled = config.normalize_reward
        return RewardScaler(len(envs.seeds), envs.num_envs, config.discount, enabled)

    def restart(self) -> None:
        """The environments were re-created: no return is under way."""
        self.return_.zero_()

    def scale(self, reward: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Scale rewards [S, T, N] with the statistics as of each step; `ended`: at any end."""
        if not self.enabled:
            return reward.astype(np.float32)
        returns = np.empty(reward.shape)
        running = self.return_.numpy()
        for t in range(reward.shape[1]):
            running *= self.discount
            running += reward[:, t]
            returns[:, t] = running
            running[ended[:, t]] = 0.0
        scaled = reward / np.sqrt(self._var_after_each_step(returns) + EPSILON)[..., None]
        self.merge(returns.reshape(len(returns), -1, 1))
        return np.clip(scaled, -CLIP, CLIP).astype(np.float32)

    def _var_after_each_step(self, returns: np.ndarray) -> np.ndarray:
        """Running variance [S, T] as it would stand after merging step t, for all t at once."""
        shifted = returns - self.mean.numpy()[:, :, None]  # about the old mean, so M2 just adds up
        steps = np.arange(1, returns.shape[1] + 1)
        total = self.count.numpy() + steps * returns.shape[2]
        first = np.cumsum(shifted.sum(2), 1)
        second = np.cumsum((shifted * shifted).sum(2), 1)
        old = self.var.numpy() * self.count.numpy()
        return (old + second - first * first / total) / total
