"""Steps in the environment that join logged transitions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import ReplayBuffer
from rlsuite.core.off_policy import replay_of
from rlsuite.core.replay import Explorer
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.streams import Streams
from rlsuite.envs import Step, make


def ring(seeds: int, capacity: int, obs_size: int = 2) -> ReplayBuffer:
    sizes = SimpleNamespace(obs_size=obs_size, action_size=1, seeds=range(seeds))
    return replay_of(sizes, capacity, SeedRandom(Streams(range(seeds))["batch"]))


def drawn(rows: ReplayBuffer) -> list[torch.Tensor]:
    """The fields that minibatches have, in their order."""
    return [rows.fields[name] for name in rows.drawn]


class Counters:
    """One counter per seed: obs is (episode, step); terminated after 2 steps, truncated after 3.

    Which of the two is the turn of the episode. The action box is [-2, 2].
    """

    action_low, action_high = np.array([-2.0], np.float32), np.array([2.0], np.float32)

    def reset(self, env_seeds: np.ndarray) -> np.ndarray:
        self.episode, self.count, self.received = env_seeds.astype(float), 0 * env_seeds, []
        return self._obs()

    def _obs(self) -> np.ndarray:
        return np.stack([self.episode, self.count], -1).astype(float)

    def step(self, action: np.ndarray) -> Step:
        self.received.append(action)
        self.count = self.count + 1
        terminated = (self.episode % 2 == 0) & (self.count == 2)
        truncated = (self.episode % 2 == 1) & (self.count == 3)
        final_obs, reward = self._obs(), (10 * self.episode + self.count).astype(np.float32)
        ended = terminated | truncated
        self.episode, self.count = self.episode + ended, np.where(ended, 0, self.count)
        return Step(self._obs(), reward, 0 * reward, terminated, truncated, final_obs)


def policy_of(obs_size=2, low=(-2.0,), high=(2.0,), seeds=(0, 1)) -> BoundedActor:
    policy = BoundedActor(obs_size, low, high, rngs=Streams(seeds)["init"], hidden=(8, 8))
    policy.normalizer.fit(np.arange(1.0, obs_size + 1), np.full(obs_size, 2.0))
    return policy


def test_explorer_files_true_final_observations_and_ends_by_hand():
    # Seed 0 begins with episode 0: (0,0) (0,1) terminated at (0,2), then (1,0) (1,1) (1,2)
    # truncated at (1,3). Seed 1 begins with episode 1: truncated at (1,3), terminated at (2,2)
    rows = ring(2, 9)
    explorer = Explorer(Counters(), policy_of(), rows)
    explorer.restart(np.array([[0], [1]]))
    explorer.step(2, 0.1, Streams((0, 1))["action"])
    explorer.step(3, 0.1, Streams((0, 1))["action"])
    assert rows.added == 5
    obs, _, reward, next_obs, ended = drawn(rows)
    assert obs[0, :5].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    assert next_obs[0, :5].tolist() == [[0, 1], [0, 2], [1, 1], [1, 2], [1, 3]]
    assert ended[0, :5].tolist() == [0, 1, 0, 0, 0]
    assert reward[0, :5].tolist() == [1, 2, 11, 12, 13]
    assert obs[1, :5].tolist() == [[1, 0], [1, 1], [1, 2], [2, 0], [2, 1]]
    assert next_obs[1, :5].tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2]]
    assert ended[1, :5].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("std", [0.0, 0.1, 2.0])
def test_explorer_acts_with_the_mode_plus_noise_in_half_widths_cut_to_the_box(std):
    policy, rows, envs = policy_of(), ring(2, 50), Counters()
    explorer = Explorer(envs, policy, rows)
    explorer.restart(np.array([[0], [1]]))
    explorer.step(50, std, Streams((0, 1))["action"])
    obs, action = rows.fields["obs"].numpy(), rows.fields["action"].numpy()
    mode, _ = policy.behaviour().act(obs)
    noise = np.stack([g.standard_normal((50, 1)) for g in Streams((0, 1))["action"]])
    expected = np.clip(mode + 2 * std * noise, -2, 2)  # the half width of [-2, 2] is 2
    np.testing.assert_allclose(action, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(envs.received, 1), action)
    assert (np.abs(action) == 2).any() == (std == 2)


def test_the_seconds_of_steps_are_told_once():
    explorer = Explorer(Counters(), policy_of(), ring(2, 9))
    explorer.restart(np.array([[0], [1]]))
    explorer.step(3, 0.1, Streams((0, 1))["action"])
    seconds = explorer.seconds()
    assert seconds.keys() == {"physics", "inference"} and min(seconds.values()) > 0
    assert set(explorer.seconds().values()) == {0.0}


TASK = "InvertedPendulum-v4"


def explored(seeds, steps: int) -> list[np.ndarray]:
    """A real task: the pole falls within some 10 steps of strong noise."""
    policy = policy_of(4, (-3.0,), (3.0,), seeds)
    envs = make(TASK, seeds, 1, "gymnasium")
    rows = ring(len(seeds), steps, envs.obs_size)
    explorer, streams = Explorer(envs, policy, rows), Streams(seeds)
    explorer.restart(streams.integers("environment", 1))
    explorer.step(steps, 0.5, streams["action"])
    envs.close()
    return [values.numpy() for values in drawn(rows)]


def test_in_a_real_task_a_fall_is_an_end_with_its_own_observation():
    obs, action, reward, next_obs, ended = explored((0, 1), 120)
    assert 2 <= ended.sum(1).min() < 40
    for seed in (0, 1):
        falls = ended[seed] == 1
        # The task ends where the pole leans by more than 0.2; a reset lies within 0.01
        assert (np.abs(next_obs[seed, falls, 1]) > 0.2).all()
        assert (np.abs(next_obs[seed, ~falls, 1]) <= 0.2).all()
        np.testing.assert_array_equal(obs[seed, 1:][~falls[:-1]], next_obs[seed, :-1][~falls[:-1]])
        assert (np.abs(obs[seed, 1:][falls[:-1]]) <= 0.01 + 1e-6).all()
    assert set(reward.flatten()) <= {0, 1}
    assert (np.abs(action) <= 3).all()


def test_a_seed_explores_the_same_alone_and_in_company():
    alone, company = explored((3,), 30), explored((2, 3), 30)
    for mine, theirs in zip(alone, company, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[1])
    assert not np.array_equal(company[0][0], company[0][1])
