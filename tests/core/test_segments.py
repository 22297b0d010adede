"""Rings on disk: segments are written once, kept while a state needs them, refused if damaged."""

import numpy as np
import pytest
import torch

from rlsuite.core import segments
from rlsuite.core.buffers import ReplayBuffer
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.segments import SegmentError, first_rows, load_buffer, save_buffer

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


def filled(folder, saves: int, per_save: int = 3, capacity: int = 4) -> tuple[ReplayBuffer, list]:
    buffer, states = ring(capacity), []
    for number in range(saves * per_save):
        buffer.add(**step(number))
        if (number + 1) % per_save == 0:
            states.append(save_buffer(buffer, folder))
    return buffer, states


def test_a_ring_that_has_wrapped_comes_back_bit_for_bit(tmp_path) -> None:
    buffer, states = filled(tmp_path, saves=5)
    other = ring()
    load_buffer(other, states[-1], tmp_path)
    assert torch.equal(other.fields["obs"], buffer.fields["obs"])
    assert held(other) == held(buffer) and other.added == 15 and other.count.item() == 4


def test_the_state_before_the_last_can_be_loaded_too_and_goes_on_to_the_same_files(
    tmp_path,
) -> None:
    buffer, states = filled(tmp_path, saves=5)
    newest = sorted(path.name for path in tmp_path.iterdir())
    other = ring()
    load_buffer(other, states[-2], tmp_path)
    assert other.added == 12
    for number in range(12, 15):
        other.add(**step(number))
    assert save_buffer(other, tmp_path) == states[-1] and held(other) == held(buffer)
    assert sorted(path.name for path in tmp_path.iterdir()) == newest


def test_a_segment_is_written_once_and_deleted_when_no_kept_state_needs_it(tmp_path) -> None:
    _, states = filled(tmp_path, saves=2)
    first = tmp_path / "000000000000.rows"
    written = first.stat().st_mtime_ns
    buffer = ring()
    load_buffer(buffer, states[-1], tmp_path)
    for number in range(6, 9):
        buffer.add(**step(number))
    save_buffer(buffer, tmp_path)
    # Rows 0 to 2. The states kept then had 3 and 6 rows, and a ring of 4 at 6 rows holds 2 to 5
    assert first.stat().st_mtime_ns == written
    for number in range(9, 15):
        buffer.add(**step(number))
        if number % 3 == 2:
            save_buffer(buffer, tmp_path)
    # The states before the last save had 9 and 12 rows: rows up to 4 can go, segments end at 3, 6
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{start:012d}.rows" for start in (3, 6, 9, 12)]


def test_more_rows_than_the_ring_between_two_saves_write_only_what_it_holds(tmp_path) -> None:
    _, states = filled(tmp_path, saves=1, per_save=11)
    assert [segment[:2] for segment in states[0]["segments"]] == [(7, 11)]
    other = ring()
    load_buffer(other, states[0], tmp_path)
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
        load_buffer(ring(), states[0], tmp_path)


def test_the_state_of_another_capacity_is_refused(tmp_path) -> None:
    _, states = filled(tmp_path, saves=1)
    with pytest.raises(ValueError, match="capacity is 3, it was 4"):
        load_buffer(ring(capacity=3), states[0], tmp_path)


def test_a_ring_that_has_not_wrapped_goes_on_in_a_longer_one(tmp_path) -> None:
    """Row i of 3 lies at i in a ring of 4 and of 5; of 11 rows, row 8 lies at 0, and at 3."""
    _, states = filled(tmp_path / "whole", saves=1)
    longer = ring(capacity=5)
    load_buffer(longer, states[0], tmp_path / "whole")
    assert held(longer)[0][:3] == [0, 1, 2]
    _, states = filled(tmp_path / "wrapped", saves=1, per_save=11)
    with pytest.raises(ValueError, match="capacity is 5, it was 4"):
        load_buffer(ring(capacity=5), states[0], tmp_path / "wrapped")


def test_the_name_of_a_segment_is_on_disk_before_a_state_counts_it(tmp_path, monkeypatch) -> None:
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(segments.os, name)
        record = lambda *a, _n=name, _r=real: (calls.append(_n), _r(*a))[1]  # noqa: E731
        monkeypatch.setattr(segments.os, name, record)
    filled(tmp_path, saves=1)
    assert calls == ["fsync", "replace", "fsync"]  # content, name, folder


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch) -> None:
    buffer, states = filled(tmp_path, saves=2)
    buffer.add(**step(6))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_buffer(buffer, tmp_path)
    other = ring()
    load_buffer(other, states[-1], tmp_path)
    assert other.added == 6
    monkeypatch.undo()
    assert (
        save_buffer(buffer, tmp_path)["added"] == 7
    )  # and the same call succeeds once there is room


def test_the_first_rows_of_a_seed_are_read_without_a_ring(tmp_path) -> None:
    _, states = filled(tmp_path, saves=3, per_save=3, capacity=20)
    # rows 0 to 2, 3 to 5 and 6 to 8 lie in three files
    rows = first_rows(states[-1], tmp_path, 1, 2, 7)
    assert rows["reward"].tolist() == [100, 101, 102, 103, 104, 105, 106]
    assert rows["obs"].shape == (7, 2) and rows["obs"][6].tolist() == [212, 212]


@pytest.mark.parametrize(
    ("capacity", "count", "message"),
    [(8, 3, "overwritten the first 1 rows"), (20, 10, "has 9 rows, not 10")],
)
def test_rows_that_are_gone_or_were_never_added_are_refused(
    capacity, count, message, tmp_path
) -> None:
    _, states = filled(tmp_path, saves=3, per_save=3, capacity=capacity)
    with pytest.raises(ValueError, match=message):
        first_rows(states[-1], tmp_path, 0, 2, count)
