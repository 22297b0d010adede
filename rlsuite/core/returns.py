"""Advantages and value targets from rewards and values, for rewards and costs alike.

| symbol | shape | meaning |
|---|---|---|
| reward | [S, T, N] | of step t, or a cost |
| value, next_value | [S, T, N] | V(s_t) and V of the true s_{t+1}, an episode's last included |
| future | [S, T, N], in [0, 1] | share of V(s_{t+1}) that counts: 0 where the task ended it |
| carry | [S, T, N], in [0, 1] | share of A_{t+1} that counts: 0 wherever the episode ended |
"""

import numpy as np


def gae(
    reward: np.ndarray,
    value: np.ndarray,
    next_value: np.ndarray,
    future: np.ndarray,
    carry: np.ndarray,
    discount: float,
    lam: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimates and TD(lambda) targets (Schulman et al. 2016), [S, T, N].

    PPO's factors are `future = 1 - terminated` and `carry = 1 - (terminated | truncated)`. They may
    be probabilities, too: a constraint that ends an episode with probability delta makes both
    1 - delta (CaT).
    """
    # delta_t = r_t + discount future_t V(s_{t+1}) - V(s_t)
    delta = reward + discount * next_value * future - value
    # A_t = delta_t + discount lam carry_t A_{t+1}
    decay = np.asarray(discount * lam * carry, delta.dtype)
    advantage = np.empty_like(delta)
    running = np.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        running = delta[:, t] + decay[:, t] * running
        advantage[:, t] = running
    return advantage, advantage + value
