"""The ring of transitions: what it holds, what it draws, what it writes."""

import numpy as np
import pytest
import torch

from rlsuite.core import buffers
from rlsuite.core.buffers import ReplayBuffer, SegmentError
from rlsuite.core.chance import Chance

FIELDS = {"obs": (2,), "reward": ()}


def ring(capacity: int = 4, seeds: int = 2, base: dict | None = None, seed: int = 0):
    rngs = [np.random.default_rng([seed, s]) for s in range(seeds)]
    return ReplayBuffer(seeds, capacity, FIELDS, Chance(rngs), base)


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


# ------------------------------------------------------------------------------------- on disk


def filled(folder, saves: int, per_save: int = 3, capacity: int = 4) -> tuple[ReplayBuffer, list]:
    buffer, states = ring(capacity), []
    for number in range(saves * per_save):
        buffer.add(**step(number))
        if (number + 1) % per_save == 0:
            states.append(buffer.save(folder))
    return buffer, states


def test_a_ring_that_has_wrapped_comes_back_bit_for_bit(tmp_path) -> None:
    buffer, states = filled(tmp_path, saves=5)
    other = ring()
    other.load(states[-1], tmp_path)
    assert torch.equal(other.fields["obs"], buffer.fields["obs"])
    assert held(other) == held(buffer) and other.added == 15 and other.count.item() == 4


def test_the_state_before_the_last_can_be_loaded_too_and_goes_on_to_the_same_files(
    tmp_path,
) -> None:
    buffer, states = filled(tmp_path, saves=5)
    newest = sorted(path.name for path in tmp_path.iterdir())
    other = ring()
    other.load(states[-2], tmp_path)
    assert other.added == 12
    for number in range(12, 15):
        other.add(**step(number))
    assert other.save(tmp_path) == states[-1] and held(other) == held(buffer)
    assert sorted(path.name for path in tmp_path.iterdir()) == newest


def test_a_segment_is_written_once_and_deleted_when_no_kept_state_needs_it(tmp_path) -> None:
    _, states = filled(tmp_path, saves=2)
    first = tmp_path / "000000000000.rows"
    written = first.stat().st_mtime_ns
    buffer = ring()
    buffer.load(states[-1], tmp_path)
    for number in range(6, 9):
        buffer.add(**step(number))
    buffer.save(tmp_path)
    # Rows 0 to 2. The states kept then had 3 and 6 rows, and a ring of 4 at 6 rows holds 2 to 5
    assert first.stat().st_mtime_ns == written
    for number in range(9, 15):
        buffer.add(**step(number))
        if number % 3 == 2:
            buffer.save(tmp_path)
    # The states before the last save had 9 and 12 rows: rows up to 4 can go, segments end at 3, 6
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{start:012d}.rows" for start in (3, 6, 9, 12)]


def test_more_rows_than_the_ring_between_two_saves_write_only_what_it_holds(tmp_path) -> None:
    _, states = filled(tmp_path, saves=1, per_save=11)
    assert [segment[:2] for segment in states[0]["segments"]] == [(7, 11)]
    other = ring()
    other.load(states[0], tmp_path)
    # row i lies at i mod 4: 8, 9, 10 at 0, 1, 2 and 7 at 3
    assert held(other)[0] == [8, 9, 10, 7]


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_segment_is_refused_by_name(damage, tmp_path) -> None:
    _, states = filled(tmp_path, saves=1)
    path = tmp_path / "000000000000.rows"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else b"\1" + content[1:])
    with pytest.raises(SegmentError, match=r"000000000000\.rows"):
        ring().load(states[0], tmp_path)


def test_the_state_of_another_capacity_is_refused(tmp_path) -> None:
    _, states = filled(tmp_path, saves=1)
    with pytest.raises(ValueError, match="capacity is 5, it was 4"):
        ring(capacity=5).load(states[0], tmp_path)


def test_the_name_of_a_segment_is_on_disk_before_a_state_counts_it(tmp_path, monkeypatch) -> None:
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(buffers.os, name)
        record = lambda *a, _n=name, _r=real: (calls.append(_n), _r(*a))[1]  # noqa: E731
        monkeypatch.setattr(buffers.os, name, record)
    filled(tmp_path, saves=1)
    assert calls == ["fsync", "replace", "fsync"]  # content, name, folder


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch) -> None:
    buffer, states = filled(tmp_path, saves=2)
    buffer.add(**step(6))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(buffers.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        buffer.save(tmp_path)
    other = ring()
    other.load(states[-1], tmp_path)
    assert other.added == 6
    monkeypatch.undo()
    assert buffer.save(tmp_path)["added"] == 7  # and the same call succeeds once there is room
