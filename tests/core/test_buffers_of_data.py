"""The ring over logged data: what is drawn of data that all seeds share, and of each seed's own."""

import copy

import numpy as np
import torch

from rlsuite.core.actors import Standardizer
from rlsuite.core.buffers import ReplayBuffer, TransitionBatch
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.streams import Streams
from rlsuite.datasets.transitions import Transitions

ROWS = 40


def logged(rows: int = ROWS) -> Transitions:
    """Row i is 10 i, 10 i + 1 and so on in every field; it ended if i is a multiple of 4."""
    first = 10 * np.arange(rows, dtype=np.float32)
    ended = np.arange(rows) % 4 == 0
    obs = np.stack([first, first + 1], 1)
    return Transitions(obs, first[:, None] + 2, first + 3, obs + 4, ended, ~ended, ended)


def buffer_of(data=None, seeds=(0, 1), rows=None, capacity=0) -> ReplayBuffer:
    rng, data = SeedRandom(Streams(seeds)["batch"]), logged() if data is None else data
    return ReplayBuffer.of_data(data, rng, rows, capacity)


def collected(seeds=2, rows: int = 10) -> ReplayBuffer:
    """Over `logged`: row i of seed s is -(100 s + i + 1) in its reward, the rest goes by it."""
    buffer = buffer_of(seeds=range(seeds), capacity=50)
    for i in range(rows):
        reward = -(100.0 * np.arange(seeds) + i + 1)[:, None]
        obs = np.stack([reward, reward - 0.25], -1)
        ended = np.full((seeds, 1), i % 2 == 0)
        row = {"obs": obs, "action": reward[..., None] - 0.5, "reward": reward}
        buffer.add(**row, next_obs=obs - 0.75, terminated=ended)
    return buffer


def numbers(batch: TransitionBatch) -> torch.Tensor:
    """Which row of `logged` each drawn transition is, [S, B]."""
    return ((batch.reward - 3) / 10).round().long()


def test_what_is_drawn_is_whole_rows_in_float32():
    batch = buffer_of().sample(30)
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
    buffer = buffer_of()
    rows = torch.cat([numbers(buffer.sample(400)) for _ in range(50)], 1)
    for seed in (0, 1):
        counts = rows[seed].bincount(minlength=ROWS)
        # 20000 draws of 40 rows: 500 of each, give or take 5 standard deviations of 22
        assert counts.shape == (ROWS,)
        assert ((counts - 500).abs() < 5 * 22.1).all()
        # Chi squared of 39 degrees of freedom: 39, give or take 5 times 8.8; 0 would be no chance
        assert 5 < ((counts - 500.0) ** 2 / 500).sum() < 39 + 5 * 8.8


def test_no_two_seeds_draw_the_same_stream_and_draws_never_repeat():
    buffer = buffer_of(seeds=tuple(range(10)))
    rows = torch.cat([numbers(buffer.sample(64)) for _ in range(3)], 1).view(30, 64)
    assert len(rows.unique(dim=0)) == 30
    # ... nor any part of another's stream: neighbouring seeds agree as often as chance has it
    agree = (rows[:3] == rows[3:6]).float().mean()
    assert agree < 1 / ROWS + 5 * (1 / ROWS / 192) ** 0.5


def test_a_seed_draws_the_same_alone_and_in_company():
    alone, company = buffer_of(seeds=(3,)), buffer_of(seeds=(1, 2, 3))
    for _ in range(3):
        mine, theirs = alone.sample(16), company.sample(16)
        assert all(torch.equal(a[0], b[2]) for a, b in zip(mine, theirs, strict=True))


def test_only_kept_rows_are_drawn():
    kept = np.array([3, 4, 17, 39])
    rows = numbers(buffer_of(rows=kept).sample(500))
    for seed in (0, 1):
        counts = rows[seed].bincount(minlength=ROWS)
        assert counts.nonzero().flatten().tolist() == kept.tolist()
        assert ((counts[kept] - 125).abs() < 5 * 9.7).all()  # 500/4, standard deviation 9.7


def test_observations_are_standardised_and_rewards_are_not():
    normalizer, data = Standardizer(2, 2), logged()
    normalizer.fit(*data.obs_statistics())
    batch = buffer_of(data).sample(50).standardized(normalizer)
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
    theirs, ours = buffer_of(data), buffer_of(Transitions(**mapped))
    for _ in range(3):
        a, b = theirs.sample(32), ours.sample(32)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    b.obs.add_(1)  # a copy: what is on disk cannot be written through it
    assert np.array_equal(np.load(tmp_path / "obs.npy"), data.obs)
    for name, field in ours.base.items():
        assert np.shares_memory(field, mapped[name])


def test_a_draw_can_be_written_to_without_harm_to_the_data():
    data = logged()
    before = copy.deepcopy(data.reward)
    rows = np.arange(ROWS)
    for buffer in (buffer_of(data), buffer_of(data, rows=rows), collected()):
        for part in buffer.sample(100):
            part.fill_(-9)
    assert np.array_equal(data.reward, before)


def test_own_rows_join_by_their_share_and_belong_to_their_seed():
    batch = collected(rows=10).sample(5000)
    own = batch.reward < 0
    # 10 of 50 rows: 1000 of 5000, give or take 5 standard deviations of 28.3
    assert ((own.sum(1) - 1000).abs() < 5 * 28.3).all()
    for seed in (0, 1):
        seen = {int(-r) for r in batch.reward[seed][own[seed]]}
        assert seen == {100 * seed + i + 1 for i in range(10)}
        assert len(numbers(batch)[seed][~own[seed]].unique()) == ROWS
    # Whole rows: action = reward - 0.5, obs = (reward, reward - 0.25), next_obs = obs - 0.75
    r = batch.reward[own]
    torch.testing.assert_close(batch.obs[own], torch.stack([r, r - 0.25], -1))
    torch.testing.assert_close(batch.action[own], r[:, None] - 0.5)
    torch.testing.assert_close(batch.next_obs[own], torch.stack([r - 0.75, r - 1], -1))
    assert torch.equal(batch.terminated[own], ((-r % 100) % 2 == 1).float())
    torch.testing.assert_close(batch.action[~own][:, 0], batch.reward[~own] - 1)


def test_a_ring_that_is_still_empty_changes_nothing():
    pairs = zip(buffer_of().sample(20), buffer_of(capacity=50).sample(20), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_rows_added_later_are_drawn():
    buffer = collected(rows=1)
    buffer.sample(10)
    shapes = {"obs": (2,), "action": (1,), "reward": (), "next_obs": (2,), "terminated": ()}
    buffer.add(**{name: np.full((2, 1, *shape), -77.0) for name, shape in shapes.items()})
    assert buffer.added == 2
    assert (buffer.sample(1000).reward == -77).any(1).all()
