"""The ring of transitions: what it holds, what it draws, what it writes."""

import numpy as np
import pytest
import torch

from rlsuite.core import buffers
from rlsuite.core.buffers import ReplayBuffer, chunks
from rlsuite.core.seed_random import SeedRandom

FIELDS = {"obs": (2,), "reward": ()}


def ring(capacity: int = 4, seeds: int = 2, base: dict | None = None, seed: int = 0):
    rngs = [np.random.default_rng([seed, s]) for s in range(seeds)]
    return ReplayBuffer(seeds, capacity, FIELDS, SeedRandom(rngs), base)


def step(number: float, seeds: int = 2, envs: int = 1) -> dict[str, np.ndarray]:
    """Seed s, environment n: reward 100 s + 10 n + number, both observations twice that."""
    reward = 100.0 * np.arange(seeds)[:, None] + 10.0 * np.arange(envs) + number
    return {"obs": 2 * np.stack([reward, reward], -1), "reward": reward}


def held(buffer: ReplayBuffer) -> list[list[float]]:
    return buffer.fields["reward"][:, : len(buffer)].tolist()


# ---------------------------------------------------------------------------------- in and out


def test_the_newest_row_takes_the_place_of_the_oldest() -> None:
    buffer = ring(capacity=3)
    for number in range(5):
        buffer.add(**step(number))
    # rows 0 1 2 fill the ring; row 3 lies at 3 mod 3 = 0, row 4 at 4 mod 3 = 1
    assert held(buffer) == [[3, 4, 2], [103, 104, 102]]
    assert len(buffer) == 3 and buffer.added == 5 and buffer.count.item() == 3


def test_environments_of_a_seed_lie_side_by_side_also_across_the_seam() -> None:
    buffer = ring(capacity=3)
    buffer.add(**step(0, envs=2))
    buffer.add(**step(1, envs=2))
    # seed 0: 0 and 10 at 0 and 1, then 1 at 2 and 11 at 3 mod 3 = 0
    assert held(buffer) == [[11, 10, 1], [111, 110, 101]]


def test_fields_of_a_drawn_row_belong_together_and_to_their_seed() -> None:
    buffer = ring(capacity=10)
    for number in range(10):
        buffer.add(**step(number))
    rows = buffer.sample(50)
    assert rows.obs.shape == (2, 50, 2) and rows.reward.shape == (2, 50)
    assert torch.equal(rows.obs, 2 * torch.stack([rows.reward, rows.reward], -1))
    assert rows.reward[0].max() < 100 <= rows.reward[1].min()
    assert len(set(rows.reward[0].tolist())) == 10  # all ten are drawn: (9/10)^50 = 0.5% misses one


def test_rows_that_were_never_added_are_never_drawn() -> None:
    buffer = ring(capacity=1000)
    buffer.add(**step(7))
    assert set(buffer.sample(100).reward[0].tolist()) == {7}
    buffer.add(**step(8))  # the number of rows is read at every draw
    assert set(buffer.sample(100).reward[0].tolist()) == {7, 8}


def test_an_empty_ring_says_so() -> None:
    with pytest.raises(ValueError, match="empty; add rows"):
        ring().sample(1)


def test_logged_rows_and_own_rows_are_drawn_alike() -> None:
    base = {"obs": -np.ones((6, 2), np.float32), "reward": -np.arange(1.0, 7.0)}
    buffer = ring(capacity=10, base=base)
    assert set(buffer.sample(200).reward[0].tolist()) == {-1, -2, -3, -4, -5, -6}
    for number in (1, 2):
        buffer.add(**step(number))
    rows = buffer.sample(4000)
    own = (rows.reward[1] > 0).float().mean().item()
    # 2 own rows of 8: 1/4 of 4000 draws, standard deviation sqrt(4000 * 3/16) / 4000 = 0.0068
    assert abs(own - 0.25) < 5 * 0.0068
    assert set(rows.reward[1].tolist()) == {-1, -2, -3, -4, -5, -6, 101, 102}
    assert set(rows.obs[1, rows.reward[1] < 0].flatten().tolist()) == {-1}


def test_a_seed_draws_the_same_rows_alone_and_in_company() -> None:
    alone, company = ring(seeds=1), ring(seeds=3)
    for number in range(4):
        alone.add(**step(number, seeds=1))
        company.add(**step(number, seeds=3))
    assert torch.equal(alone.sample(20).reward[0], company.sample(20).reward[0])


def test_a_ring_beyond_memory_is_refused_with_its_size_before_it_is_allocated() -> None:
    # 2 seeds x 10^12 rows x 3 numbers of 4 bytes = 24 * 10^12 bytes = 22,351.7 GiB
    with pytest.raises(ValueError, match=r"1,000,000,000,000 rows for 2 seeds needs 22,351.7 GiB"):
        ring(capacity=10**12)


def test_a_ring_larger_than_its_container_is_refused(monkeypatch) -> None:
    # 2 seeds x 4 rows x 3 numbers of 4 bytes = 96 bytes
    monkeypatch.setattr(buffers, "free_memory", lambda: 96)
    assert ring().nbytes == 96
    monkeypatch.setattr(buffers, "free_memory", lambda: 95)
    with pytest.raises(ValueError, match="4 rows for 2 seeds needs"):
        ring()


def test_rows_are_split_in_their_order() -> None:
    buffer = ring(capacity=10)
    for number in range(10):
        buffer.add(**step(number))
    rows = buffer.sample(6)
    first, second = chunks(rows, 2)
    assert type(first) is type(rows)
    assert torch.equal(torch.cat((first.obs, second.obs), 1), rows.obs)
    assert torch.equal(second.reward, rows.reward[:, 3:])
