"""How many cores a process may use: what the scheduler gives it, within its container's quota."""

import os
from pathlib import Path

import pytest

from rlsuite.core import cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch) -> Path:
    """A tree of control groups of which this process is in /job/step."""
    (tmp_path / "cgroup").write_text("3:cpu:/old\n0::/job/step\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN", tmp_path / "cgroup")
    return tmp_path


def test_a_quota_of_the_group_or_of_one_above_it_counts(groups):
    assert cores.quota() == 1_000_000  # no group says anything
    (groups / "job" / "step" / "cpu.max").write_text("max 100000\n")
    assert cores.quota() == 1_000_000
    (groups / "job" / "cpu.max").write_text("350000 100000\n")
    assert cores.quota() == 3  # 3.5 cores
    (groups / "job" / "step" / "cpu.max").write_text("50000 100000\n")
    assert cores.quota() == 1  # half a core: at least one


def test_a_container_that_sees_itself_as_the_root(groups):
    (groups / "cgroup").write_text("0::/\n")
    (groups / "cpu.max").write_text("200000 100000\n")
    assert cores.quota() == 2


@pytest.mark.parametrize("text", ["", "fast", "1 2 3", "100 0"])
def test_what_is_not_understood_is_no_quota(groups, text):
    (groups / "cpu.max").write_text(text)
    assert cores.quota() == 1_000_000
    (groups / "cgroup").unlink()
    assert cores.quota() == 1_000_000


def test_no_more_than_the_scheduler_gives(groups, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 8}, raising=False)
    assert cores.usable() == 4
    (groups / "cpu.max").write_text("200000 100000")
    assert cores.usable() == 2
