"""Flat arrays on disk: mapped, not copied; whole or not there; built once by many processes."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import FIELDS, ROWS, cut_short, same, transitions

from rlsuite.datasets import cache
from rlsuite.datasets.transitions import DatasetError

WISH = {"sha256": "0123456789abcdef" * 4, "timeouts": "kept", "clip_actions": False}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once."""
    monkeypatch.setattr(cache, "SETTLED", 0)


class Builder:
    """Gives the sample, and counts how often."""

    def __init__(self) -> None:
        self.calls, self.said = 0, []

    def __call__(self):
        self.calls += 1
        return transitions()

    def fetch(self, **changes):
        return cache.fetch(WISH | changes, self, self.said.append)


def folder_of(data) -> Path:
    return Path(data.obs.filename).parent


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache.root() == tmp_path / "cache"
    monkeypatch.delenv("RLSUITE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg/rlsuite/datasets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.root() == tmp_path / ".cache/rlsuite/datasets"


def test_built_once_and_mapped_read_only():
    build = Builder()
    first, second = build.fetch(), build.fetch()
    assert (build.calls, build.said) == (1, [])
    for data in (first, second):
        same(data, transitions())
        assert data.metadata == transitions().metadata
        for name in FIELDS:
            values = getattr(data, name)
            assert isinstance(values, np.memmap)
            assert Path(values.filename) == folder_of(first) / f"{name}.npy"
    with pytest.raises(ValueError, match="read-only"):
        first.reward[0] = 7
    kept = json.loads((folder_of(first) / "about.json").read_text())
    assert kept["wish"] == WISH and kept["arrays"]["obs"] == [[ROWS, 3], "<f4"]


def test_every_wish_has_its_own_folder():
    build = Builder()
    wishes = [{}, {"timeouts": "dropped"}, {"clip_actions": True}, {"sha256": "f" * 64}]
    assert len({folder_of(build.fetch(**wish)) for wish in wishes}) == build.calls == 4


def swap(file: Path) -> None:
    with open(file, "wb") as opened:
        np.save(opened, np.zeros(ROWS + 1))


def garble(file: Path) -> None:
    file.write_bytes(b"nonsense" + file.read_bytes()[8:])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("name", ["about.json", *(f"{field}.npy" for field in FIELDS)])
def test_damaged_folders_are_built_again(name):
    build = Builder()
    for calls, damage in enumerate((Path.unlink, cut_short, garble, empty, swap), start=1):
        damage(folder_of(build.fetch()) / name)
        assert build.calls == calls
        same(build.fetch(), transitions())
        assert build.calls == calls + 1 == len(build.said) + 1
    assert all("is damaged" in text and "building it again" in text for text in build.said)


def test_a_mapped_set_survives_a_rebuild():
    build = Builder()
    data = build.fetch()
    (folder_of(data) / "reward.npy").unlink()
    again = build.fetch()
    assert build.calls == 2
    same(data, again)


def test_what_fails_leaves_no_folder(root):
    def fail():
        raise DatasetError("row 3 is bad")

    with pytest.raises(DatasetError, match="row 3 is bad"):
        cache.fetch(WISH, fail, print)
    assert [path.name for path in root.iterdir()] == ["locks"]


def test_the_rest_of_a_killed_build_is_cleared(root):
    build = Builder()
    folder = folder_of(build.fetch())
    folder.rename(folder.with_name(f"{folder.name}.partial"))
    (folder.with_name(f"{folder.name}.partial") / "obs.npy").write_text("half")
    same(build.fetch(), transitions())
    assert sorted(path.name for path in root.iterdir()) == [folder.name, "locks"]


def test_a_cache_that_cannot_be_written(root, monkeypatch):
    root.write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match=r"cannot write .*RLSUITE_CACHE=FOLDER"):
        Builder().fetch()
    root.unlink()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    # 13 rows of 3 + 1 + 1 + 3 float32 and three flags are 455 bytes: 0.00 GB
    with pytest.raises(DatasetError, match=r"No space left on device\).* room for 0\.00 GB"):
        Builder().fetch()


CHILD = """
import sys, time
from pathlib import Path
from samples import transitions
from rlsuite.datasets import cache
Path(sys.argv[1]).touch()
while len(list(Path(sys.argv[1]).parent.iterdir())) < 3:
    time.sleep(0.01)
def build():
    print("built", flush=True)
    time.sleep(0.3)
    return transitions()
wish = {"sha256": "0" * 64}
print("returns", cache.fetch(wish, build, print).episode_returns().tolist())
"""


def test_processes_that_start_together_build_once(root, tmp_path):
    (tmp_path / "ready").mkdir()
    folders = os.pathsep.join(entry for entry in sys.path if entry)
    environment = os.environ | {"PYTHONPATH": folders, "RLSUITE_CACHE": str(root)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "ready" / str(number))],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    outputs = [child.communicate(timeout=60)[0].splitlines() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert sorted(line for lines in outputs for line in lines) == [
        "built",
        *["returns [6.0, 21.0, 86.0, 93.0]"] * 3,
    ]


# ------------------------------------------------------------------------------------- digests


def test_digest_of_a_file_and_of_a_folder(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/b").write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    assert cache.digest(tmp_path / "set/b") == abc
    (tmp_path / "set/a").write_bytes(b"abc")
    summed = subprocess.run(
        "sha256sum a b | sha256sum",
        shell=True,
        cwd=tmp_path / "set",
        capture_output=True,
        text=True,
    )
    assert cache.digest(tmp_path / "set") == summed.stdout.split()[0]


def test_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch, settled):
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    first, read = cache.digest(file), []
    real = cache._file_sha256
    monkeypatch.setattr(cache, "_file_sha256", lambda path: read.append(path) or real(path))
    assert cache.digest(file) == first and read == []
    os.utime(file, ns=(1, 1))  # another time, the same content
    assert cache.digest(file) == first and len(read) == 1
    file.write_bytes(b"abcd")  # another size
    assert cache.digest(file) != first and len(read) == 2
    file.write_bytes(b"dcba")
    os.utime(file, ns=(2, 2))
    assert len({cache.digest(file), first}) == 2 and len(read) == 3


def test_a_file_changed_under_its_old_size_and_time(tmp_path, settled):
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    before, state = cache.digest(file), file.stat()
    file.write_bytes(b"abd")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert cache.digest(file) == hashlib.sha256(b"abd").hexdigest() != before


def test_a_file_is_read_again_until_it_has_settled(root, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    cache.digest(file)
    # A change within one tick of the file system's clock would leave no trace
    assert not (root / "sources").exists()


def test_a_note_that_is_garbage_is_written_anew(root, tmp_path, settled):
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    first = cache.digest(file)
    (note,) = (root / "sources").iterdir()
    for text in ("", "[]", "{}", '{"files": 3}'):
        note.write_text(text)
        assert cache.digest(file) == first
        assert json.loads(note.read_text())["sha256"] == first


def test_arrays_of_other_dtypes_are_kept(tmp_path):
    data = replace(transitions(), action=np.arange(ROWS))
    same(cache.fetch(WISH, lambda: data, print), data)
