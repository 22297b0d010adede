"""Checkpoints: whole or not at all, the newest sound one is used, a full disk costs only itself."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from rlsuite.core.buffers import ReplayBuffer
from rlsuite.core.normalizers import RunningStatistics
from rlsuite.core.optim import AdamState, Net
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.streams import Streams
from rlsuite.runs.checkpoint import KEEP, CheckpointError, capture, load, restore, save

# Saves 1.6 MB checkpoints, all equal to their number, until killed
ENDLESS_CHILD = """
import itertools, sys, torch
from pathlib import Path
from rlsuite.runs.checkpoint import save
for i in itertools.count(1):
    save(Path(sys.argv[1]), i, {"x": torch.full((400_000,), i)})
"""

# Saves a small checkpoint, then a larger one than its limit on file size admits
LIMITED_CHILD = """
import resource, sys, torch
from pathlib import Path
from rlsuite.runs.checkpoint import CheckpointError, load, save
folder = Path(sys.argv[1])
save(folder, 1, {"x": torch.ones(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(folder, 2, {"x": torch.ones(400_000)})
except CheckpointError as error:
    print(error)
"""


def said() -> tuple[list[str], Callable[[str], None]]:
    messages: list[str] = []
    return messages, messages.append


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_what_was_saved_comes_back(tmp_path):
    streams = Streams([0, 1])
    state = {
        "theta": torch.randn(3, 5),
        "steps": torch.ones(3, 1, dtype=torch.float64),
        "streams": streams.state_dict(),  # holds integers of 128 bits
        "recent": [[(1.5, 200)], []],
        "seconds": {"physics": 0.25},
    }
    save(tmp_path / "run" / "checkpoint", 12, state)
    messages, say = said()
    iterations, loaded = load(tmp_path / "run" / "checkpoint", say)
    assert iterations == 12
    assert torch.equal(loaded.pop("theta"), state.pop("theta"))
    assert torch.equal(loaded["steps"], state["steps"])
    assert loaded.pop("steps").dtype == state.pop("steps").dtype
    assert loaded == state
    assert messages == []


def test_no_checkpoint_is_none(tmp_path):
    assert load(tmp_path, print) is None
    assert load(tmp_path / "nowhere", print) is None


def test_the_newest_is_used_and_the_last_two_are_kept(tmp_path):
    # 9, 10, 100: in the order of numbers, not of letters
    for i in (8, 9, 10, 100):
        save(tmp_path, i, {"i": i})
    assert KEEP == 2
    assert names(tmp_path) == ["000000010.ckpt", "000000100.ckpt"]
    assert load(tmp_path, print) == (100, {"i": 100})


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, lambda p: p.write_bytes(b"")])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(tmp_path, damage):
    for i in (1, 2):
        save(tmp_path, i, {"i": i, "x": torch.ones(100)})
    damage(tmp_path / "000000002.ckpt")
    messages, say = said()
    iterations, state = load(tmp_path, say)
    assert (iterations, state["i"]) == (1, 1)
    assert len(messages) == 1
    assert "000000002.ckpt is damaged or cut short" in messages[0]
    # Saving over it mends it
    save(tmp_path, 2, {"i": 2})
    assert load(tmp_path, print)[0] == 2


def test_all_damaged_is_an_error_that_says_what_to_do(tmp_path):
    for i in (1, 2):
        save(tmp_path, i, {"i": i})
        cut_short(tmp_path / f"{i:09d}.ckpt")
    messages, say = said()
    with pytest.raises(CheckpointError, match=f"{tmp_path} is damaged; start in another --folder"):
        load(tmp_path, say)
    assert len(messages) == 2


def test_a_partial_file_is_not_a_checkpoint(tmp_path):
    save(tmp_path, 1, {"i": 1})
    (tmp_path / "000000002.partial").write_bytes((tmp_path / "000000001.ckpt").read_bytes())
    assert load(tmp_path, print)[0] == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_earlier_ones(tmp_path, monkeypatch, call):
    for i in (1, 2):
        save(tmp_path, i, {"i": i})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(
            CheckpointError, match=r"000000003.ckpt \(No space left on device\)"
        ) as e:
            save(tmp_path, 3, {"i": 3})
    assert "earlier checkpoints are intact" in str(e.value)
    assert "--resume" in str(e.value)
    assert names(tmp_path) == ["000000001.ckpt", "000000002.ckpt"]
    assert load(tmp_path, print) == (2, {"i": 2})
    save(tmp_path, 3, {"i": 3})
    assert load(tmp_path, print)[0] == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, Linux's full device")
def test_a_device_that_is_really_full(tmp_path):
    save(tmp_path, 1, {"i": 1})
    (tmp_path / "000000002.partial").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(tmp_path, 2, {"i": 2})
    assert names(tmp_path) == ["000000001.ckpt"]


def test_a_limit_on_file_size_enforced_by_the_system(tmp_path):
    child = [sys.executable, "-c", LIMITED_CHILD, str(tmp_path)]
    printed = subprocess.run(child, capture_output=True, text=True, check=True).stdout
    assert "000000002.ckpt (File too large)" in printed
    assert names(tmp_path) == ["000000001.ckpt"]
    assert torch.equal(load(tmp_path, print)[1]["x"], torch.ones(10))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CheckpointError, match="could not write"):
        save(tmp_path / "taken" / "checkpoint", 1, {})


def test_a_kill_at_any_instant_leaves_a_sound_checkpoint(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ENDLESS_CHILD, str(tmp_path)])
    try:
        while not (tmp_path / "000000001.ckpt").exists():
            assert child.poll() is None
            time.sleep(0.01)
        time.sleep(0.2)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    messages, say = said()
    iterations, state = load(tmp_path, say)
    assert messages == []
    assert torch.equal(state["x"], torch.full((400_000,), iterations))
    # At the most one more than KEEP, if it died before removing the oldest, and one partial file
    assert len(names(tmp_path)) <= KEEP + 2


class State(NamedTuple):
    net: Net
    target: torch.Tensor


@dataclasses.dataclass
class Learner:
    statistics: RunningStatistics
    adam: AdamState
    state: State
    weight: torch.Tensor


def test_a_learner_is_captured_and_restored(tmp_path):
    """Named tuples within named tuples come back as what they were, to the bit."""

    def fresh() -> Learner:
        zeros = torch.zeros(2, 4)
        state = State(Net.of(zeros), zeros)
        return Learner(RunningStatistics(2, 3), AdamState.zeros(zeros), state, torch.zeros(2))

    def adam() -> AdamState:
        return AdamState(torch.randn(2, 4), torch.rand(2, 4), torch.full((2, 1), 7.0).double())

    learner = fresh()
    learner.statistics.merge(np.random.default_rng(0).standard_normal((2, 5, 3)))
    learner.adam, learner.weight = adam(), torch.rand(2)
    learner.state = State(Net(torch.randn(2, 4), adam()), torch.randn(2, 4))
    save(tmp_path, 1, capture(learner))
    other = fresh()
    restore(other, load(tmp_path, print)[1])
    assert isinstance(other.adam, AdamState)
    assert isinstance(other.state, State)
    assert isinstance(other.state.net, Net)
    assert isinstance(other.state.net.adam, AdamState)
    pairs = [(other.weight, learner.weight), (other.state.target, learner.state.target)]
    pairs += [(other.state.net.theta, learner.state.net.theta)]
    pairs += zip(other.adam, learner.adam, strict=True)
    pairs += zip(other.state.net.adam, learner.state.net.adam, strict=True)
    for mine, theirs in pairs:
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
    assert torch.equal(other.statistics.mean, learner.statistics.mean)
    assert other.statistics.mean.abs().min() > 0


def test_the_file_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _n=name, _r=real: (calls.append(_n), _r(*a))[1])
    save(tmp_path, 1, {})
    assert calls == ["fsync", "replace", "fsync"]  # content, name, folder


@dataclasses.dataclass
class Collecting:
    buffer: ReplayBuffer


def test_rows_of_a_replay_buffer_are_files_of_their_own_and_damage_costs_one_checkpoint(tmp_path):
    def fresh() -> Collecting:
        return Collecting(
            ReplayBuffer(1, 9, {"reward": ()}, SeedRandom([np.random.default_rng(0)]))
        )

    learner = fresh()
    for iteration in (1, 2):
        learner.buffer.add(reward=np.full((1, 1), iteration))
        save(tmp_path, iteration, {"learner": capture(learner, tmp_path)})
    iteration, state = load(tmp_path, print)
    again = fresh()
    restore(again, state["learner"], tmp_path)
    assert iteration == 2 and again.buffer.fields["reward"][0, :2].tolist() == [1, 2]
    newest = max((tmp_path / "buffer").iterdir())
    cut_short(newest)
    messages, say = said()
    iteration, state = load(tmp_path, say)
    again = fresh()
    restore(again, state["learner"], tmp_path)
    assert iteration == 1 and again.buffer.added == 1
    assert newest.name in messages[0] and "refused" in messages[0]
