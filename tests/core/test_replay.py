"""Draws of logged and collected transitions, and the steps that collect them."""

import copy

import numpy as np
import pytest
import torch

from rlsuite.core.actors import BoundedActor, Standardizer
from rlsuite.core.chance import Chance
from rlsuite.core.replay import Explorer, Minibatch, OnlineRows, Sampler
from rlsuite.core.streams import Streams
from rlsuite.datasets.transitions import Transitions
from rlsuite.envs import Step, make

ROWS = 40


def logged(rows: int = ROWS) -> Transitions:
    """Row i is 10 i, 10 i + 1 and so on in every field; it ended if i is a multiple of 4."""
    first = 10 * np.arange(rows, dtype=np.float32)
    ended = np.arange(rows) % 4 == 0
    obs = np.stack([first, first + 1], 1)
    return Transitions(obs, first[:, None] + 2, first + 3, obs + 4, ended, ~ended, ended)


def collected(seeds=2, rows: int = 10) -> OnlineRows:
    """Row i of seed s is -(100 s + i + 1) in its reward, with the rest counted from there."""
    online = OnlineRows(seeds, 50, 2, 1)
    for i in range(rows):
        reward = -(100.0 * np.arange(seeds) + i + 1)
        obs = np.stack([reward, reward - 0.25], 1)
        online.append(obs, reward[:, None] - 0.5, reward, obs - 0.75, np.full(seeds, i % 2 == 0))
    return online


def sampler_of(data=None, seeds=(0, 1), **options) -> Sampler:
    data = logged() if data is None else data
    return Sampler(data, Standardizer(len(seeds), 2), Chance(Streams(seeds)["batch"]), **options)


def numbers(batch: Minibatch) -> torch.Tensor:
    """Which row of `logged` each drawn transition is, [S, B]."""
    return ((batch.reward - 3) / 10).round().long()


# ---------------------------------------------------------------------------------------- Sampler


def test_what_is_drawn_is_whole_rows_in_float32():
    batch = sampler_of().draw(30)
    rows = numbers(batch)
    data = logged()
    for drawn, field in zip(
        batch, (data.obs, data.action, data.reward, data.next_obs, data.terminated), strict=True
    ):
        assert drawn.dtype == torch.float32
        assert drawn.shape == (2, 30, *field.shape[1:])
        assert torch.equal(drawn, torch.from_numpy(field.astype(np.float32))[rows])
    # A time limit is no end: of the ended rows only those that the task ended have no future
    assert torch.equal(batch.terminated, (rows % 4 == 0).float())


def test_every_row_is_drawn_about_equally_often():
    sampler = sampler_of()
    rows = torch.cat([numbers(sampler.draw(400)) for _ in range(50)], 1)
    for slot in (0, 1):
        counts = rows[slot].bincount(minlength=ROWS)
        # 20000 draws of 40 rows: 500 of each, give or take 5 standard deviations of 22
        assert counts.shape == (ROWS,)
        assert ((counts - 500).abs() < 5 * 22.1).all()
        # Chi squared of 39 degrees of freedom: 39, give or take 5 times 8.8; 0 would be no chance
        assert 5 < ((counts - 500.0) ** 2 / 500).sum() < 39 + 5 * 8.8


def test_no_two_seeds_draw_the_same_stream_and_draws_never_repeat():
    sampler = sampler_of(seeds=tuple(range(10)))
    rows = torch.cat([numbers(sampler.draw(64)) for _ in range(3)], 1).view(30, 64)
    assert len(rows.unique(dim=0)) == 30
    # ... nor any part of another's stream: neighbouring seeds agree as often as chance has it
    agree = (rows[:3] == rows[3:6]).float().mean()
    assert agree < 1 / ROWS + 5 * (1 / ROWS / 192) ** 0.5


def test_a_seed_draws_the_same_alone_and_in_company():
    alone, company = sampler_of(seeds=(3,)), sampler_of(seeds=(1, 2, 3))
    for _ in range(3):
        mine, theirs = alone.draw(16), company.draw(16)
        assert all(torch.equal(a[0], b[2]) for a, b in zip(mine, theirs, strict=True))


def test_only_kept_rows_are_drawn():
    kept = np.array([3, 4, 17, 39])
    rows = numbers(sampler_of(kept=kept).draw(500))
    for slot in (0, 1):
        counts = rows[slot].bincount(minlength=ROWS)
        assert counts.nonzero().flatten().tolist() == kept.tolist()
        assert ((counts[kept] - 125).abs() < 5 * 9.7).all()  # 500/4, standard deviation 9.7


def test_observations_are_standardised_and_rewards_are_not():
    normalizer, data = Standardizer(2, 2), logged()
    normalizer.fit(*data.obs_statistics())
    sampler = Sampler(data, normalizer, Chance(Streams((0, 1))["batch"]))
    batch = sampler.draw(50)
    rows = numbers(batch)
    mean, std = data.obs_statistics()
    for drawn, field in ((batch.obs, data.obs), (batch.next_obs, data.next_obs)):
        expected = (field[rows.numpy()] - mean) / (std + 1e-3)
        np.testing.assert_allclose(drawn.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(batch.reward, 10 * rows + 3.0)


def test_arrays_may_lie_on_disk(tmp_path):
    data, mapped = logged(), {}
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "last"):
        np.save(tmp_path / f"{name}.npy", getattr(data, name))
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    theirs, ours = sampler_of(data), sampler_of(Transitions(**mapped))
    for _ in range(3):
        a, b = theirs.draw(32), ours.draw(32)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    b.obs.add_(1)  # a copy: what is on disk cannot be written through it
    assert np.array_equal(np.load(tmp_path / "obs.npy"), data.obs)
    for field, name in zip(ours.fields, list(mapped)[:5], strict=True):
        assert np.shares_memory(field, mapped[name])


def test_a_draw_can_be_written_to_without_harm_to_the_data():
    data = logged()
    before = copy.deepcopy(data.reward)
    for online in (None, collected()):
        for part in sampler_of(data, online=online).draw(100):
            part.fill_(-9)
    assert np.array_equal(data.reward, before)


def test_chunks_are_consecutive():
    batch = sampler_of().draw(12)
    parts = batch.chunks(3)
    assert [part.obs.shape for part in parts] == [(2, 4, 2)] * 3
    assert torch.equal(torch.cat([part.reward for part in parts], 1), batch.reward)
    assert torch.equal(parts[1].terminated, batch.terminated[:, 4:8])


# ------------------------------------------------------------------------------------- OnlineRows


def test_online_rows_join_by_their_share_and_belong_to_their_seed():
    sampler = sampler_of(online=collected(rows=10))
    batch = sampler.draw(5000)
    own = batch.reward < 0
    # 10 of 50 rows: 1000 of 5000, give or take 5 standard deviations of 28.3
    assert ((own.sum(1) - 1000).abs() < 5 * 28.3).all()
    for slot in (0, 1):
        seen = {int(-r) for r in batch.reward[slot][own[slot]]}
        assert seen == {100 * slot + i + 1 for i in range(10)}
        assert len(numbers(batch)[slot][~own[slot]].unique()) == ROWS
    # Whole rows: action = reward - 0.5, obs = (reward, reward - 0.25), next_obs = obs - 0.75
    r = batch.reward[own]
    torch.testing.assert_close(batch.obs[own], torch.stack([r, r - 0.25], -1))
    torch.testing.assert_close(batch.action[own], r[:, None] - 0.5)
    torch.testing.assert_close(batch.next_obs[own], torch.stack([r - 0.75, r - 1], -1))
    assert torch.equal(batch.terminated[own], ((-r % 100) % 2 == 1).float())
    torch.testing.assert_close(batch.action[~own][:, 0], batch.reward[~own] - 1)


def test_online_rows_that_are_still_empty_change_nothing():
    with_none, with_empty = sampler_of(), sampler_of(online=OnlineRows(2, 50, 2, 1))
    pairs = zip(with_none.draw(20), with_empty.draw(20), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_online_rows_added_later_are_drawn():
    online = collected(rows=1)
    sampler = sampler_of(online=online)
    sampler.draw(10)
    online.append(*(np.full((2, *shape), -77.0) for shape in ((2,), (1,), (), (2,), ())))
    assert online.count == 2
    assert (sampler.draw(1000).reward == -77).any(1).all()


def test_online_rows_survive_a_checkpoint():
    full, again = collected(rows=10), OnlineRows(2, 50, 2, 1)
    state = copy.deepcopy(full.state_dict())
    assert {len(x[0]) for x in state["fields"]} == {10}  # what is not filled is not saved
    full.append(*(np.zeros((2, *shape)) for shape in ((2,), (1,), (), (2,), ())))
    again.load_state_dict(state)
    assert again.count == 10
    for mine, theirs in zip(again.fields, collected(rows=10).fields, strict=True):
        assert np.array_equal(mine, theirs)
    again.append(*(np.ones((2, *shape)) for shape in ((2,), (1,), (), (2,), ())))
    assert again.fields[2][:, 10].tolist() == [1, 1]


# --------------------------------------------------------------------------------------- Explorer


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
    rows = OnlineRows(2, 9, 2, 1)
    explorer = Explorer(Counters(), policy_of(), rows)
    explorer.restart(np.array([[0], [1]]))
    explorer.step(2, 0.1, Streams((0, 1))["action"])
    explorer.step(3, 0.1, Streams((0, 1))["action"])
    assert rows.count == 5
    obs, _, reward, next_obs, ended = rows.fields
    assert obs[0, :5].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    assert next_obs[0, :5].tolist() == [[0, 1], [0, 2], [1, 1], [1, 2], [1, 3]]
    assert ended[0, :5].tolist() == [0, 1, 0, 0, 0]
    assert reward[0, :5].tolist() == [1, 2, 11, 12, 13]
    assert obs[1, :5].tolist() == [[1, 0], [1, 1], [1, 2], [2, 0], [2, 1]]
    assert next_obs[1, :5].tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2]]
    assert ended[1, :5].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("std", [0.0, 0.1, 2.0])
def test_explorer_acts_with_the_mode_plus_noise_in_half_widths_cut_to_the_box(std):
    policy, rows, envs = policy_of(), OnlineRows(2, 50, 2, 1), Counters()
    explorer = Explorer(envs, policy, rows)
    explorer.restart(np.array([[0], [1]]))
    explorer.step(50, std, Streams((0, 1))["action"])
    obs, action = rows.fields[:2]
    mode, _ = policy.behaviour().act(obs)
    noise = np.stack([g.standard_normal((50, 1)) for g in Streams((0, 1))["action"]])
    expected = np.clip(mode + 2 * std * noise, -2, 2)  # the half width of [-2, 2] is 2
    np.testing.assert_allclose(action, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(envs.received, 1), action)
    assert (np.abs(action) == 2).any() == (std == 2)


TASK = "InvertedPendulum-v4"


def explored(seeds, steps: int) -> OnlineRows:
    """A real task: the pole falls within some 10 steps of strong noise."""
    policy = policy_of(4, (-3.0,), (3.0,), seeds)
    rows, envs = OnlineRows(len(seeds), steps, 4, 1), make(TASK, seeds, 1, "gymnasium")
    explorer, streams = Explorer(envs, policy, rows), Streams(seeds)
    explorer.restart(streams.integers("environment", 1))
    explorer.step(steps, 0.5, streams["action"])
    envs.close()
    return rows


def test_in_a_real_task_a_fall_is_an_end_with_its_own_observation():
    obs, action, reward, next_obs, ended = explored((0, 1), 120).fields
    assert 2 <= ended.sum(1).min() < 40
    for slot in (0, 1):
        falls = ended[slot] == 1
        # The task ends where the pole leans by more than 0.2; a reset lies within 0.01
        assert (np.abs(next_obs[slot, falls, 1]) > 0.2).all()
        assert (np.abs(next_obs[slot, ~falls, 1]) <= 0.2).all()
        np.testing.assert_array_equal(obs[slot, 1:][~falls[:-1]], next_obs[slot, :-1][~falls[:-1]])
        assert (np.abs(obs[slot, 1:][falls[:-1]]) <= 0.01 + 1e-6).all()
    assert set(reward.flatten()) <= {0, 1}
    assert (np.abs(action) <= 3).all()


def test_a_seed_explores_the_same_alone_and_in_company():
    alone, company = explored((3,), 30), explored((2, 3), 30)
    for mine, theirs in zip(alone.fields, company.fields, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[1])
    assert not np.array_equal(company.fields[0][0], company.fields[0][1])
