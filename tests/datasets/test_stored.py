"""Files that lie of what they hold, or point elsewhere: refused before anything is allocated."""

import fcntl
import io
import zipfile

import h5py
import numpy as np
import pytest
from samples import ROWS, columns, d4rl_file, minari_set

from rlsuite.datasets import behaviour, d4rl, minari, stored
from rlsuite.datasets.transitions import DatasetError

FIELD = "observations"


def swapped(tmp_path, put):
    """A D4RL file whose observations `put(file)` has made anew."""
    path = d4rl_file(tmp_path / "pendulum.hdf5", FIELD)
    with h5py.File(path, "a") as file:
        put(file)
    return path


def elsewhere(tmp_path) -> str:
    path = tmp_path / "elsewhere.hdf5"
    with h5py.File(path, "w") as file:
        file[FIELD] = columns()[FIELD]
    return str(path)


def external_link(file, tmp_path):
    file[FIELD] = h5py.ExternalLink(elsewhere(tmp_path), f"/{FIELD}")


def soft_link_through_an_external_one(file, tmp_path):
    file["other"] = h5py.ExternalLink(elsewhere(tmp_path), "/")
    file[FIELD] = h5py.SoftLink(f"/other/{FIELD}")


def external_storage(file, tmp_path):
    (tmp_path / "raw").write_bytes(columns()[FIELD].astype("<f8").tobytes())
    size = ROWS * 3 * 8
    file.create_dataset(FIELD, (ROWS, 3), "<f8", external=[(str(tmp_path / "raw"), 0, size)])


def virtual_dataset(file, tmp_path):
    layout = h5py.VirtualLayout((ROWS, 3), "<f8")
    layout[:] = h5py.VirtualSource(elsewhere(tmp_path), FIELD, (ROWS, 3))
    file.create_virtual_dataset(FIELD, layout)


ELSEWHERE = pytest.mark.parametrize(
    "put",
    [external_link, soft_link_through_an_external_one, external_storage, virtual_dataset],
)


@ELSEWHERE
def test_what_lies_in_other_files_is_refused(tmp_path, put):
    path = swapped(tmp_path, lambda file: put(file, tmp_path))
    with pytest.raises(DatasetError, match=r"pendulum.hdf5: observations .* not followed; put the"):
        d4rl.read(path)


@ELSEWHERE
def test_what_lies_in_other_files_is_refused_in_minari_sets(tmp_path, put):
    folder = minari_set(tmp_path)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_2"][FIELD]
        put(file["episode_2"], tmp_path)
    with pytest.raises(DatasetError, match=r"episode 2: observations .* not followed"):
        minari.read(folder)


def test_a_linked_episode_is_refused(tmp_path):
    folder = minari_set(tmp_path)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_2"]
        file["episode_2"] = h5py.SoftLink("/episode_1")
    with pytest.raises(DatasetError, match="episode_2 is a link to another file or name"):
        minari.read(folder)


@pytest.mark.parametrize("chunks", [None, (1000, 3)])
def test_declared_rows_that_nobody_wrote(tmp_path, chunks):
    rows = 10**9

    def put(file):
        file.create_dataset(FIELD, (rows, 3), np.float32, chunks=chunks)
        if chunks:
            file[FIELD][:10] = 1.0

    # 1e9 rows of 3 float32 are 12,000 MB
    with pytest.raises(DatasetError, match=r"declares \[1000000000, 3\], 12,000.0 MB, and holds"):
        d4rl.read(swapped(tmp_path, put))
    with pytest.raises(DatasetError, match="rewards declares"):
        path = d4rl_file(tmp_path / "other.hdf5", "rewards")
        with h5py.File(path, "a") as file:
            file.create_dataset("rewards", (rows,), np.float32)
        d4rl.count(path)


def test_a_small_file_that_unpacks_to_much(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "SMALL", 10_000)
    monkeypatch.setattr(stored, "SHRINKS", 20)
    zeros = {key: np.zeros((200_000, *v.shape[1:]), v.dtype) for key, v in columns().items()}
    for suffix in (".hdf5", ".npz"):
        path = tmp_path / f"pendulum{suffix}"
        if suffix == ".npz":
            np.savez_compressed(path, **zeros)
        else:
            d4rl_file(path, **zeros)
        with pytest.raises(DatasetError, match=r"declares arrays of 0.0 GB in 0.* MB; no logged"):
            d4rl.read(path)


def test_a_set_larger_than_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "SMALL", 100)
    monkeypatch.setattr(stored, "free_memory", lambda: 400)
    # 13 rows of 6 float64, 2 float32 and 2 flags: 754 bytes; of 8 float32 and 3 flags: 455
    with pytest.raises(DatasetError, match=r"unpacks to .* of memory are free"):
        d4rl.read(d4rl_file(tmp_path / "pendulum.npz"))
    with pytest.raises(DatasetError, match="of memory are free"):
        minari.read(minari_set(tmp_path))


def test_free_memory_is_a_number_of_this_machine():
    assert 1 << 20 < stored.free_memory() < 1 << 50


def test_an_npz_whose_header_lies(tmp_path):
    path = d4rl_file(tmp_path / "pendulum.npz", "rewards")
    header = io.BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": (10**9,)}
    np.lib.format.write_array_header_1_0(header, facts)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards.npy", header.getvalue() + bytes(4 * ROWS))
    for function in (d4rl.read, d4rl.count, behaviour.snapshots):
        with pytest.raises(DatasetError, match=r"rewards declares \[1000000000\], 4,000.0 MB"):
            function(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("total_steps", 10**9), ("total_episodes", 10**12), ("total_steps", -1)],
)
def test_counts_that_the_files_cannot_hold(tmp_path, key, value):
    folder = minari_set(tmp_path)
    file = folder / "data" / "metadata.json"
    before = {"total_steps": 13, "total_episodes": 4}[key]
    file.write_text(file.read_text().replace(f'"{key}": {before}', f'"{key}": {value}'))
    with pytest.raises(DatasetError, match=r"speaks of|declares arrays of [\d,.]+ GB in 0.0"):
        minari.read(folder)


def test_an_episode_longer_than_its_set(tmp_path):
    folder = minari_set(tmp_path)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_2/rewards"]
        file["episode_2/rewards"] = np.zeros(100)
    with pytest.raises(DatasetError, match=r"episode 2 .*rewards has 100 rows, the set 13 steps"):
        minari.read(folder)


def test_numbers_alone_are_read(tmp_path):
    path = swapped(tmp_path, lambda file: file.create_dataset(FIELD, data=[b"x"] * ROWS))
    with pytest.raises(DatasetError, match="only numbers can be read"):
        d4rl.read(path)


def test_a_file_that_another_program_has_open(tmp_path):
    path, folder = d4rl_file(tmp_path / "pendulum.hdf5"), minari_set(tmp_path)
    inside = folder / "data" / "main_data.hdf5"
    for file, function, name in ((path, d4rl.read, path), (inside, minari.read, folder)):
        with open(file, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # as HDF5 does while it writes
            with pytest.raises(DatasetError, match="is open for writing in another program"):
                function(name)
        function(name)
