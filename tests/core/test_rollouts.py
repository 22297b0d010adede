"""Collecting transitions from a scripted environment; advantages against a loop per environment."""

import numpy as np
import pytest
import torch

from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.rollouts import Collector, factors, gae
from rlsuite.envs import Episode, Step


class Counters:
    """S x N counters: obs is 100 episode + step, an episode ends at step 3; rewards count steps.

    Odd copies terminate, even ones are truncated. Costs are half and twice the reward, the margin
    is the reward - 2. Takes what the real engines' `step` takes.
    """

    action_low, action_high = np.full(2, -0.25, np.float32), np.full(2, 0.5, np.float32)

    def __init__(self, seeds: int, num_envs: int) -> None:
        self.shape, self.received, self.ended = (seeds, num_envs), [], []

    def reset(self, env_seeds: np.ndarray, staggered: bool = False) -> np.ndarray:
        # Copies start at different steps (their seeds), so that they end at different times
        self.count, self.episode = env_seeds.astype(float), np.zeros(self.shape)
        return self._obs()

    def _obs(self) -> np.ndarray:
        return np.stack([100 * self.episode + self.count, np.ones(self.shape)], -1)

    def step(self, action: np.ndarray) -> Step:
        self.received.append(action)
        self.count += 1
        ended, reward = self.count == 3, self.count.astype(np.float32)
        obs = final_obs = self._obs()
        if ended.any():
            places = np.argwhere(ended).tolist()
            self.ended += [Episode(*place, 6.0, (3.0, 12.0), 3) for place in places]
            self.count[ended] = 0
            self.episode[ended] += 1
            obs = self._obs()
        odd = np.arange(self.shape[1]) % 2 == 1
        cost, margin = np.stack([reward / 2, 2 * reward], -1), reward[..., None] - 2
        return Step(obs, reward, cost, ended & odd, ended & ~odd, final_obs, margin)

    @property
    def finished(self) -> int:
        return len(self.ended)

    def episodes(self, since: int) -> list[Episode]:
        return self.ended[since:]


def collector_of(seeds=(0, 1), num_envs=2, discrete=False, normalize=False) -> Collector:
    rngs = [np.random.default_rng(seed) for seed in seeds]
    policy = ActorCritic(2, 2, discrete, rngs=rngs, hidden=(8,), normalize_obs=normalize)
    scaler = RewardScaler(len(seeds), num_envs, 0.9, enabled=normalize)
    return Collector(Counters(len(seeds), num_envs), policy, scaler)


def noise_streams(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(100 + seed) for seed in seeds]


def test_a_rollout_by_hand():
    # Copy 0 starts at step 0 and is truncated by the third step, copy 1 starts at 1 and terminates
    # with the second: then episode 1 begins, whose observations are 100, 101, ...
    collector = collector_of(seeds=(0,))
    collector.restart(np.array([[0, 1]]))
    rollout = collector.collect(4, noise_streams(0))
    assert rollout.obs[0, :, 0, 0].tolist() == [0, 1, 2, 100]
    assert rollout.next_obs[0, :, 0, 0].tolist() == [1, 2, 3, 101]
    assert rollout.obs[0, :, 1, 0].tolist() == [1, 2, 100, 101]
    assert rollout.next_obs[0, :, 1, 0].tolist() == [2, 3, 101, 102]
    assert rollout.reward[0].T.tolist() == [[1, 2, 3, 1], [2, 3, 1, 2]]
    assert rollout.cost.shape == (1, 4, 2, 2)
    assert rollout.cost[0, :, :, 0].T.tolist() == [[0.5, 1, 1.5, 0.5], [1, 1.5, 0.5, 1]]
    assert rollout.cost[0, :, :, 1].T.tolist() == [[2, 4, 6, 2], [4, 6, 2, 4]]
    assert rollout.margin[0, :, :, 0].T.tolist() == [[-1, 0, 1, -1], [0, 1, -1, 0]]
    # Copy 1 ends first; the costs are those of its environment, 3 and 12
    assert [(e.copy, e.cost) for e in rollout.episodes] == [(1, (3.0, 12.0)), (0, (3.0, 12.0))]
    assert rollout.truncated[0].T.tolist() == [[False, False, True, False], [False] * 4]
    assert rollout.terminated[0].T.tolist() == [[False] * 4, [False, True, False, False]]
    assert rollout.obs.dtype == rollout.next_obs.dtype == rollout.reward.dtype == np.float32
    assert collector.seconds().keys() == {"physics", "inference"}
    assert min(collector.seconds().values()) > 0
    # The next rollout goes on from there: copy 0 at 101, copy 1 at 102
    rollout = collector.collect(1, noise_streams(0))
    assert rollout.obs[0, 0, :, 0].tolist() == [101, 102]
    assert [e.copy for e in rollout.episodes] == [1]  # none of the rollout before


def test_the_raw_action_is_kept_and_the_clipped_one_sent():
    collector = collector_of()
    collector.restart(np.zeros((2, 2), int))
    # The same draws as the collector's own
    noise = np.stack([rng.standard_normal((50, 2, 2)) for rng in noise_streams(0, 1)])
    rollout = collector.collect(50, noise_streams(0, 1))
    # log_std is 0 and the means are near 0, so the raw actions are the noise to 0.1
    np.testing.assert_allclose(rollout.action, noise, atol=0.1)
    sent = np.stack(collector.envs.received, 1)
    np.testing.assert_array_equal(sent, rollout.action.clip(-0.25, 0.5))
    assert (rollout.action > 0.5).any()
    assert (rollout.action < -0.25).any()
    assert sent.dtype == rollout.action.dtype == np.float32


def test_discrete_actions_are_sent_as_they_are():
    collector = collector_of(discrete=True)
    collector.restart(np.zeros((2, 2), int))
    rollout = collector.collect(20, noise_streams(0, 1))
    assert rollout.action.dtype == np.int64
    assert set(rollout.action.ravel().tolist()) == {0, 1}
    np.testing.assert_array_equal(np.stack(collector.envs.received, 1), rollout.action)


def test_the_normaliser_sees_once_what_is_acted_on_and_no_final_observation():
    collector = collector_of(seeds=(0,), normalize=True)
    collector.restart(np.array([[0, 1]]))
    rollout = collector.collect(4, noise_streams(0))
    # Copy 0 acts on 0 1 2 100 and next on 101; copy 1 on 1 2 100 101 and next on 102
    seen = np.array([0, 1, 2, 100, 101, 1, 2, 100, 101, 102.0])
    normalizer = collector.policy.normalizer
    assert normalizer.count.item() == pytest.approx(10, abs=1e-3)
    assert normalizer.mean[0, 0].item() == pytest.approx(seen.mean(), rel=1e-4)
    assert normalizer.var[0, 0].item() == pytest.approx(seen.var(), rel=1e-4)
    # Stored as the networks saw them then: the first one with the statistics of 0 and 1 alone
    np.testing.assert_allclose(rollout.obs[0, 0, :, 0], [-1, 1], atol=1e-3)
    assert np.abs(rollout.obs).max() <= 10
    # Where nothing ended, the next row acts on exactly what this row led to
    goes_on = ~(rollout.terminated | rollout.truncated)[:, :-1]
    np.testing.assert_array_equal(rollout.next_obs[:, :-1][goes_on], rollout.obs[:, 1:][goes_on])


def test_rewards_are_scaled_and_a_restart_forgets_unfinished_returns():
    collector = collector_of(seeds=(0,), num_envs=1, normalize=True)
    collector.restart(np.array([[0]]))
    rollout = collector.collect(5, noise_streams(0))
    oracle = RewardScaler(1, 1, 0.9)
    expected = oracle.scale(
        np.array([[[1], [2], [3], [1], [2]]], np.float32), (rollout.terminated | rollout.truncated)
    )
    np.testing.assert_array_equal(rollout.reward, expected)
    # Of the unfinished second episode: 0.9 * 1 + 2 = 2.9
    assert collector.scaler.return_.item() == pytest.approx(2.9)
    collector.restart(np.array([[0]]))
    assert collector.scaler.return_.item() == 0


def test_a_slot_collects_the_same_bits_alone_and_in_company():
    company = collector_of(seeds=(4, 5, 6), num_envs=1, normalize=True)
    company.restart(np.array([[0], [1], [2]]))
    together = company.collect(30, noise_streams(4, 5, 6))
    alone = collector_of(seeds=(5,), num_envs=1, normalize=True)
    alone.restart(np.array([[1]]))
    mine = alone.collect(30, noise_streams(5))
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(mine, name)[0], getattr(together, name)[1])


def test_gae_by_hand():
    # discount = lambda = 1/2, carry 1/4. r = 1 1 1, V = 2 2 2, V(next) = 2 2 4.
    # delta = 1 + V(next)/2 - 2 = 0, 0, 1. A = 1/16, 1/4, 1. R = A + V = 2 1/16, 2 1/4, 3.
    advantage, target = one_environment([1, 1, 1], [2, 2, 2], [2, 2, 4])
    assert advantage == [0.0625, 0.25, 1.0]
    assert target == [2.0625, 2.25, 3.0]
    # Terminated at step 1: delta_1 = 1 - 2 = -1, nothing carried into it; A_0 = 0 - 1/4.
    advantage, _ = one_environment([1, 1, 1], [2, 2, 2], [2, 2, 4], terminated=[0, 1, 0])
    assert advantage == [-0.25, -1.0, 1.0]
    # Truncated there, with V(final) = 6: delta_1 = 1 + 3 - 2 = 2, A_0 = 0 + 2/4.
    truncated = {"truncated": [0, 1, 0]}
    assert one_environment([1, 1, 1], [2, 2, 2], [2, 6, 4], **truncated)[0] == [0.5, 2.0, 1.0]
    # ... and as death, where truncation is not bootstrapped
    advantage, _ = one_environment([1, 1, 1], [2, 2, 2], [2, 6, 4], **truncated, bootstrap=False)
    assert advantage == [-0.25, -1.0, 1.0]
    # Terminated and truncated at once is a termination
    both = {"terminated": [0, 1, 0], "truncated": [0, 1, 0]}
    assert one_environment([1, 1, 1], [2, 2, 2], [2, 6, 4], **both)[0] == [-0.25, -1.0, 1.0]


def one_environment(reward, value, next_value, terminated=(0, 0, 0), truncated=(0, 0, 0), **how):
    columns = [np.array(x, np.float32)[None, :, None] for x in (reward, value, next_value)]
    ends = [np.array(x, bool)[None, :, None] for x in (terminated, truncated)]
    advantage, target = gae(*columns, *factors(*ends, **how), discount=0.5, lam=0.5)
    assert advantage.dtype == target.dtype == np.float32
    return advantage.ravel().tolist(), target.ravel().tolist()


@pytest.mark.parametrize("bootstrap", [True, False])
def test_gae_equals_a_loop_per_environment(bootstrap):
    rng = np.random.default_rng(0)
    shape, discount, lam = (3, 50, 2), 0.97, 0.9
    reward, value, next_value = rng.standard_normal((3, *shape)).astype(np.float32)
    terminated, truncated = rng.random((2, *shape)) < 0.1
    ends = factors(terminated, truncated, bootstrap)
    advantage, target = gae(reward, value, next_value, *ends, discount, lam)
    assert (terminated & truncated).any()
    for s in range(3):
        for n in range(2):
            future = 0.0
            for t in reversed(range(50)):
                ended = terminated[s, t, n] or truncated[s, t, n]
                dead = terminated[s, t, n] or (ended and not bootstrap)
                delta = reward[s, t, n] - value[s, t, n]
                delta += 0.0 if dead else discount * next_value[s, t, n]
                future = delta + (0.0 if ended else discount * lam * future)
                assert advantage[s, t, n] == pytest.approx(future, abs=1e-5)
                assert target[s, t, n] == pytest.approx(future + value[s, t, n], abs=1e-5)


def test_old_log_probs_of_the_stored_actions_need_no_clipping():
    # What PPO computes from the rollout: finite, and of the density that drew the action
    collector = collector_of(seeds=(0,))
    collector.restart(np.zeros((1, 2), int))
    rollout, policy = collector.collect(10, noise_streams(0)), collector.policy
    obs, action = (torch.from_numpy(x).flatten(1, 2) for x in (rollout.obs, rollout.action))
    noise = action - policy.distribution(policy.theta, obs).mean
    expected = -0.5 * (noise**2).sum(-1) - np.log(2 * np.pi)
    torch.testing.assert_close(policy.distribution(policy.theta, obs).log_prob(action), expected)
