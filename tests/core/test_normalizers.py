"""Running statistics against NumPy on all the data, and rewards scaled as baselines does it."""

import math

import numpy as np
import pytest
import torch

from rlsuite.core.normalizers import (
    CLIP,
    EPSILON,
    PRIOR_COUNT,
    ObservationNormalizer,
    RewardScaler,
    RunningStatistics,
)


def data(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def fed(batches: list[np.ndarray]) -> RunningStatistics:
    statistics = RunningStatistics(batches[0].shape[0], batches[0].shape[2])
    for batch in batches:
        statistics.merge(batch)
    return statistics


def test_two_batches_by_hand():
    # The prior weighs 1e-4 with mean 0 and variance 1. After 1 and 3: total 2.0001, mean
    # 4/2.0001 = 1.9999, variance (1e-4 + 1 + 9)/2.0001 - 1.9999^2 = 1.00020.
    # Then 8: total 3.0001, mean 12/3.0001 = 3.99987, variance (1e-4 + 74)/3.0001 - 3.99987^2
    #   = 8.66694
    statistics = fed([np.array([[[1.0], [3.0]]])])
    assert statistics.count.item() == pytest.approx(2.0001)
    assert statistics.mean.item() == pytest.approx(1.99990, abs=1e-5)
    assert statistics.var.item() == pytest.approx(1.00020, abs=1e-5)
    statistics.merge(np.array([[[8.0]]]))
    assert statistics.mean.item() == pytest.approx(3.99987, abs=1e-5)
    assert statistics.var.item() == pytest.approx(8.66694, abs=1e-5)


def test_merged_batches_equal_numpy_on_all_data():
    batches = [3.0 + 2.0 * data(i, 2, n, 4) for i, n in enumerate((1, 7, 1, 64, 3))]
    statistics, everything = fed(batches), np.concatenate(batches, 1)
    n = everything.shape[1]
    np.testing.assert_allclose(statistics.mean, everything.mean(1), atol=1e-4)
    np.testing.assert_allclose(statistics.var, everything.var(1), atol=1e-4)
    # With the prior counted, exactly: sums over all data, divided by n + 1e-4
    total = n + PRIOR_COUNT
    mean = everything.sum(1) / total
    var = (PRIOR_COUNT + (everything**2).sum(1)) / total - mean**2
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(statistics.var, var, rtol=1e-10)
    np.testing.assert_allclose(statistics.count, total)


def test_how_the_data_is_cut_does_not_matter():
    everything = data(0, 1, 60, 3)
    whole = fed([everything])
    for cuts in ([1, 2, 3], [30], list(range(1, 60))):
        parts = fed(np.split(everything, cuts, axis=1))
        np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-10)
        np.testing.assert_allclose(parts.var, whole.var, rtol=1e-10)


def test_a_far_offset_loses_no_precision():
    # Variance 1 at mean 1e6: float32 would see steps of 0.06 there, E[x^2] - E[x]^2 even less.
    # The prior, 1e-4 samples at 0, adds 1e-4/n * 1e12 to the variance: nothing else may.
    batches = [1e6 + data(i, 1, 100, 1) for i in range(100)]
    n = 100 * 100
    expected = np.concatenate(batches, 1).var() + PRIOR_COUNT / n * 1e12
    assert fed(batches).var.item() == pytest.approx(expected, rel=1e-7)


def test_slots_have_their_own_statistics_the_same_bits_alone():
    batches = [data(i, 10, 5, 3) * np.arange(1, 11)[:, None, None] for i in range(4)]
    together = fed(batches)
    assert together.mean.dtype == together.var.dtype == torch.float64
    for s in range(10):
        alone = fed([batch[s : s + 1] for batch in batches])
        assert torch.equal(alone.mean[0], together.mean[s])
        assert torch.equal(alone.var[0], together.var[s])


def test_eval_mode_freezes():
    normalizer = ObservationNormalizer(1, 2)
    normalizer.observe(data(0, 1, 4, 2))
    before = {k: v.clone() for k, v in normalizer.state_dict().items()}
    seen = normalizer.eval().observe(100 + data(1, 1, 4, 2))
    assert all(torch.equal(v, before[k]) for k, v in normalizer.state_dict().items())
    assert np.abs(seen).max() == CLIP
    normalizer.train().observe(data(1, 1, 4, 2))
    assert not torch.equal(normalizer.mean, before["mean"])


def test_observe_updates_before_it_normalises():
    # 1 and 3 have mean 2 and variance 1 (the prior moves both by 1e-4): -1 and 1
    normalizer = ObservationNormalizer(1, 1)
    z = normalizer.observe(np.array([[[1.0], [3.0]]]))
    assert z.dtype == np.float32
    np.testing.assert_allclose(z.ravel(), [-1, 1], atol=2e-4)
    # normalize alone changes nothing: 5 -> 3, and 100 -> 98 is cut at 10
    z = normalizer.normalize(np.array([[[5.0], [100.0], [-100.0]]]))
    np.testing.assert_allclose(z.ravel(), [3, 10, -10], atol=1e-3)
    assert normalizer.count.item() == pytest.approx(2.0001)


def test_a_constant_observation_stays_finite():
    # Variance of the constant 3: the prior's (1e-4 + 9e-4)/n, about 1e-3 at n = 1, then less
    normalizer = ObservationNormalizer(1, 1)
    for _ in range(1000):
        z = normalizer.observe(np.full((1, 1, 1), 3.0))
        assert abs(z.item()) < 1
    assert 0 < normalizer.var.item() < 1e-5


def test_a_disabled_normaliser_only_casts():
    normalizer = ObservationNormalizer(1, 2, enabled=False)
    obs = np.array([[[123.0, -5.5]]])
    z = normalizer.observe(obs)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, obs)
    assert normalizer.count.item() == PRIOR_COUNT


class BaselinesRewards:
    """vec_normalize.py of baselines, one seed: update with every step's returns, one by one."""

    def __init__(self, num_envs: int, discount: float) -> None:
        self.discount, self.returns = discount, np.zeros(num_envs)
        self.mean, self.var, self.count = 0.0, 1.0, 1e-4

    def step(self, reward: np.ndarray, ended: np.ndarray) -> np.ndarray:
        self.returns = self.returns * self.discount + reward
        batch_mean, batch_var, n = self.returns.mean(), self.returns.var(), len(self.returns)
        delta, total = batch_mean - self.mean, self.count + n
        moments = self.var * self.count + batch_var * n + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.var, self.count = moments / total, total
        scaled = np.clip(reward / np.sqrt(self.var + 1e-8), -10, 10)
        self.returns[ended] = 0.0
        return scaled


@pytest.mark.parametrize("num_envs", [1, 3])
def test_rewards_are_scaled_as_baselines_does_step_by_step(num_envs):
    seeds, steps, discount = 3, 40, 0.9
    rng = np.random.default_rng(6)
    scaler = RewardScaler(seeds, num_envs, discount)
    oracles = [BaselinesRewards(num_envs, discount) for _ in range(seeds)]
    for call in range(4):  # statistics and unfinished returns carry over from rollout to rollout
        if call == 2:  # environments re-created: no return is under way
            scaler.restart()
            for oracle in oracles:
                oracle.returns[:] = 0.0
        reward = rng.normal(1.0, 5.0, (seeds, steps, num_envs)).astype(np.float32)
        ended = rng.random((seeds, steps, num_envs)) < 0.1
        expected = np.array(
            [
                [oracle.step(reward[s, t], ended[s, t]) for t in range(steps)]
                for s, oracle in enumerate(oracles)
            ]
        )
        scaled = scaler.scale(reward, ended)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, expected, rtol=1e-6)
        np.testing.assert_allclose(scaler.return_, [oracle.returns for oracle in oracles])
        np.testing.assert_allclose(scaler.var[:, 0], [oracle.var for oracle in oracles])


def test_the_first_scaled_reward_by_hand():
    # G = 2: total 1.0001, M2 = 1e-4 * 1 + 2^2 * 1e-4 * 1/1.0001 = 4.99960e-4, variance 4.99910e-4
    # 2/sqrt(4.99910e-4 + 1e-8) = 89.4 is cut at 10. A reward of 0.01 beside it, in another slot:
    # M2 = 1e-4 + 1e-4 * 1e-4, variance 1.0000e-4, 0.01/0.0100000 = 0.99995
    scaler = RewardScaler(2, 1, 0.99)
    scaled = scaler.scale(np.array([[[2.0]], [[0.01]]]), np.zeros((2, 1, 1), bool))
    variance = (PRIOR_COUNT + 1e-4 * PRIOR_COUNT / (1 + PRIOR_COUNT)) / (1 + PRIOR_COUNT)
    assert scaled[0].item() == CLIP
    assert scaled[1].item() == pytest.approx(0.01 / math.sqrt(variance + EPSILON), rel=1e-6)
    assert scaled[1].item() == pytest.approx(0.99995, abs=1e-5)


def test_the_mean_of_rewards_is_not_removed():
    # Rewards around 50 with little spread would turn negative half the time if it were.
    reward = (50 + data(7, 1, 200, 2)).astype(np.float32)
    assert (RewardScaler(1, 2, 0.99).scale(reward, np.zeros(reward.shape, bool)) > 0).all()


def test_reward_slots_get_the_same_bits_alone_and_in_company():
    reward, ended = data(8, 10, 30, 4).astype(np.float32), data(9, 10, 30, 4) > 1
    together, alone = RewardScaler(10, 4, 0.95), [RewardScaler(1, 4, 0.95) for _ in range(10)]
    for _ in range(2):
        scaled = together.scale(reward, ended)
        for s in range(10):
            mine = alone[s].scale(reward[s : s + 1], ended[s : s + 1])
            np.testing.assert_array_equal(mine[0], scaled[s])


def test_a_disabled_scaler_only_casts():
    scaler = RewardScaler(1, 2, 0.99, enabled=False)
    reward = 1e3 * data(10, 1, 3, 2)
    scaled = scaler.scale(reward, np.ones(reward.shape, bool))
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, reward.astype(np.float32))
    assert scaler.count.item() == PRIOR_COUNT


def test_the_saved_state_holds_unfinished_returns():
    reward, ended = data(11, 1, 5, 2), np.zeros((1, 5, 2), bool)
    one, other = RewardScaler(1, 2, 0.9), RewardScaler(1, 2, 0.9)
    one.scale(reward, ended)
    other.load_state_dict(one.state_dict())
    assert other.return_.abs().min() > 0
    np.testing.assert_array_equal(one.scale(reward, ended), other.scale(reward, ended))
