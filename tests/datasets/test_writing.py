"""A disk that is full: one line, nothing half-written, and no crash of HDF5."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples import episodes, transitions

from rlsuite.datasets import d4rl, minari, writing
from rlsuite.datasets.collect import collect
from rlsuite.datasets.recipes import Recipe
from rlsuite.datasets.transitions import DatasetError

# A limit on the size of a file stands for the disk; the system's signal about it is not wanted
CHILD = """
import resource, signal, sys
from pathlib import Path
from samples import episodes, transitions
from rlsuite.datasets import d4rl, minari
from rlsuite.datasets.transitions import DatasetError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for room in (0, 3000, 30_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    for write in (
        lambda: minari.write_episodes("test/full-v0", "Pendulum-v1", 100 * episodes(), {}),
        lambda: d4rl.write(transitions(), Path("full.hdf5")),
    ):
        try:
            write()
            print("wrote")
        except DatasetError as fault:
            print(fault)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    folders = [entry for entry in sys.path if entry]
    environment = os.environ | {"MINARI_DATASETS_PATH": str(tmp_path / "minari")}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {folders!r}\n{CHILD}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    # Of 13 rows, in 30 kB, there is room; of 1300 in 400 episodes there is not
    assert last == "wrote" and len(lines) == 5
    for line in lines:
        assert "cannot write" in line and "File too large" in line
        assert "nothing of it was kept: make room" in line
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["full.hdf5"]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "sets"))
    with pytest.raises(DatasetError, match=r"cannot write .* elsewhere: MINARI_DATASETS_PATH="):
        minari.write_episodes("test/x-v0", "Pendulum-v1", episodes(), {})
    with pytest.raises(DatasetError, match=r"cannot write .*make room for 0 MB, or name a file"):
        d4rl.write(transitions(), tmp_path / "file" / "x.hdf5")


def test_room_is_asked_for_before_anything_is_collected(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr("rlsuite.datasets.collect.roll", None)  # nothing may be collected
    # (3 observations + 1 action + 1 reward) of 4 bytes and 2 flags: 22 TB in 1e12 steps
    recipe = Recipe("test/random-v0", "Pendulum-v1", 10**12, {"uniform": 1})
    with pytest.raises(DatasetError, match=r"room for [\d,]+ MB, and the set needs about 22,000,0"):
        collect(recipe)
    assert list(tmp_path.iterdir()) == []


def test_the_first_fault_is_kept_and_the_rest_goes_nowhere(tmp_path):
    file = writing.PatientFile(tmp_path / "x", "w+")
    assert file.write(b"abc") == 3
    file.fault = OSError(28, "No space left on device")
    assert file.write(b"def") == 3 and file.seek(0) == 0
    part = bytearray(b"xxxxxx")
    assert file.readinto(part) == 6 and part == b"abc\0\0\0"
    with pytest.raises(OSError, match="No space left"):
        file.check()
    file.close()
    assert Path(tmp_path / "x").read_bytes() == b"abc"
