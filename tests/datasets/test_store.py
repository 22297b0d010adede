"""Sets by name: what is found where, what is checked, what the cache saves, what is fetched."""

import json
import os
import shutil
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box
from samples import (
    LAST,
    columns,
    cut_short,
    d4rl_file,
    discrete,
    episodes,
    minari_set,
    same,
    transitions,
)

from rlsuite.datasets import d4rl, minari, store
from rlsuite.datasets.transitions import DatasetError

ID = "samples/pendulum-v0"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Every folder of ours, and no network. A test that leaves a thread behind fails."""
    before = threading.enumerate()
    for name in ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR", "RLSUITE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("HTTPS_PROXY", "https_proxy", "HF_ENDPOINT", "MINARI_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", _refuse)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert [thread for thread in threading.enumerate() if thread not in before] == []


def _refuse(address, timeout):
    raise ConnectionRefusedError(f"{address} in a test")


def minari_root() -> Path:
    return Path(os.environ["MINARI_DATASETS_PATH"])


def d4rl_root() -> Path:
    return Path(os.environ["D4RL_DATASET_DIR"])


# ------------------------------------------------------------------------------------- names


def test_every_kind_of_name(home):
    folder = minari_set(minari_root())
    file = d4rl_file(d4rl_root() / "pendulum_medium_replay-v2.hdf5")
    other = d4rl_file(home / "pendulum.npz")
    found = {
        ID: (folder, "minari"),
        str(folder): (folder, "minari"),
        "pendulum-medium-replay-v2": (file, "d4rl"),
        "pendulum_medium_replay-v2": (file, "d4rl"),
        "pendulum_medium_replay-v2.hdf5": (file, "d4rl"),
        "pendulum.npz": (Path("pendulum.npz"), "d4rl"),
        str(other): (other, "d4rl"),
    }
    assert {name: store.locate(name) for name in found} == found
    same(store.load(ID), transitions())
    same(store.load("pendulum.npz", timeouts="kept"), transitions())


def test_folders_of_minari_and_d4rl_by_default(home, monkeypatch):
    for name in ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    folder = minari_set(home / ".minari/datasets")
    file = d4rl_file(home / ".d4rl/datasets/pendulum-v2.hdf5")
    assert store.locate(ID)[0] == folder and store.locate("pendulum-v2")[0] == file


def test_unknown_names_are_told_at_once():
    minari_set(minari_root())
    d4rl_file(d4rl_root() / "hopper_medium-v2.hdf5")
    began = time.perf_counter()
    for name, message in {
        "samples/pendullum-v0": "did you mean samples/pendulum-v0?",
        "mujoco/hopper/medium-v0": "may have it: rlsuite data download mujoco/hopper/medium-v0",
        "hopper-medum-v2": "did you mean hopper_medium-v2?",
        "walker2d-medium-v2": r"a file of D4RL goes to .*/walker2d_medium-v2\.hdf5",
        "nothing": "rlsuite data list shows what is here; a path to",
        "gone.npz": "no data set 'gone.npz' on this machine",
    }.items():
        with pytest.raises(DatasetError, match=message):
            store.load(name)
    assert time.perf_counter() - began < 1
    with pytest.raises(DatasetError, match="holds no Minari set"):
        store.load(str(minari_root()))


def test_nothing_is_made_by_looking(home):
    assert store.local() == []
    with pytest.raises(DatasetError, match="no data set 'x'"):
        store.load("x")
    assert list(home.iterdir()) == []


def test_list_of_what_is_here():
    minari_set(minari_root())
    d4rl_file(d4rl_root() / "hopper_medium-v2.hdf5")
    cut_short(d4rl_file(d4rl_root() / "torn.hdf5"))
    (d4rl_root() / "readme.txt").touch()
    one, two, three = store.local()
    assert (one.name, one.format, one.task, one.transitions) == (ID, "minari", "Pendulum-v1", 13)
    assert (two.name, two.format, two.task, two.transitions) == (
        *("hopper_medium-v2", "d4rl", "Hopper-v4", 13),
    )
    assert one.size == sum(f.stat().st_size for f in one.path.rglob("*.*"))
    assert two.size == two.path.stat().st_size and "13 transitions" in str(two)
    assert three.name == "torn" and "torn.hdf5 cannot be read" in str(three)
    assert all(store.locate(each.name)[0] == each.path for each in (one, two, three))


# ------------------------------------------------------------------------------------- content


def test_conventions_for_time_outs():
    minari_set(minari_root())
    d4rl_file(d4rl_root() / "pendulum-v2.hdf5")
    d4rl_file(d4rl_root() / "pendulum-bare.hdf5", "next_observations")
    # 13 rows, two of them time-outs; the last one needs next_observations
    for name, wish, rows, told in (
        (ID, None, 13, "kept"),
        (ID, "dropped", 11, "dropped"),
        ("pendulum-v2", None, 11, "dropped"),
        ("pendulum-v2", "kept", 13, "kept"),
        ("pendulum-bare", None, 10, "dropped"),
    ):
        data = store.load(name, timeouts=wish)
        assert (len(data), data.metadata["timeouts"]) == (rows, told)
    for wish in (None, "dropped"):  # the default is not another set
        data = store.load("pendulum-v2", timeouts=wish)
        assert data.obs.filename == store.load("pendulum-v2").obs.filename
    with pytest.raises(DatasetError, match="cannot be kept"):
        store.load("pendulum-bare", timeouts="kept")
    minari.write(store.load("pendulum-bare"), "test/bare-v0")
    assert store.load("test/bare-v0").metadata["timeouts"] == "dropped"
    with pytest.raises(DatasetError, match="converted without the rows at time limits"):
        store.load("test/bare-v0", timeouts="kept")


def test_about(home):
    folder = minari_set(minari_root())
    about = store.load(ID).metadata
    listed = os.popen(f"cd {folder}/data && sha256sum main_data.hdf5 metadata.json | sha256sum")
    assert about == {
        "name": ID,
        "format": "minari",
        "path": str(folder),
        "sha256": listed.read().split()[0],
        "task": "Pendulum-v1",
        "action_low": [-2.0],
        "action_high": [2.0],
        "action_start": None,
        "action_count": None,
        "timeouts": "kept",
        "source": "SAC by Ada",
        "remarks": [],
        "entropy": None,
    }
    file = d4rl_file(home / "pendulum_x.npz")
    about = store.load("pendulum_x.npz").metadata
    listed = os.popen(f"sha256sum {file}")
    assert (about["name"], about["task"]) == ("pendulum_x", "Pendulum-v1")
    assert about["sha256"] == listed.read().split()[0]
    json.dumps(about)


def test_the_action_box_of_a_file(home):
    box = ("action_low", "action_high")
    # Of the task in the name: Pendulum's is [-2, 2]
    pendulum = store.load(str(d4rl_file(home / "pendulum.npz")))
    assert [pendulum.metadata[key] for key in box] == [[-2], [2]]
    # Of a task of D4RL that is not installed: [-1, 1]
    d4rl_file(home / "door_human.npz")
    door = store.load("door_human.npz")
    assert [door.metadata[key] for key in box] == [[-1], [1]]
    assert door.metadata["task"] == "AdroitHandDoor-v1"
    assert store.load("door_human.npz", task="AdroitHandDoor-v1").metadata == door.metadata
    # Of the task given
    mine = d4rl_file(home / "mine.npz")
    assert store.load("mine.npz", task="Pendulum-v1").metadata["action_high"] == [2]
    with pytest.raises(DatasetError, match=r"They have size 1 and lie in \[-0\.75, 0\.5\]\. Name"):
        store.load(str(mine))
    # Written with its box by this suite
    d4rl.write(transitions(task=None), home / "own.hdf5")
    assert store.load("own.hdf5").metadata["action_low"] == [-2]
    with pytest.raises(DatasetError, match=r"They have size 3 .*, unlike those of Pendulum-v1"):
        store.load(str(d4rl_file(home / "pendulum_3.npz", actions=np.zeros((13, 3)))))
    with pytest.raises(DatasetError, match="whole numbers, unlike those of Pendulum-v1"):
        store.load(str(d4rl_file(home / "pendulum_i.npz", actions=np.arange(13))))
    with pytest.raises(ValueError, match="unknown task 'Pendulum-v7'"):
        store.load("mine.npz", task="Pendulum-v7")


def test_a_minari_set_without_bounds_takes_its_tasks():
    space = Box(-np.inf, np.inf, (1,), np.float32)
    minari_set(minari_root(), action_space=space)
    assert store.load(ID, task="Pendulum-v1").metadata["action_high"] == [2]
    minari_set(minari_root(), action_space=space, task=None)
    with pytest.raises(DatasetError, match=r"of which task .* size 1 and lie in \[-0\.75, 0\.75\]"):
        store.load(ID)


def test_discrete_files_need_no_task(home):
    data = store.load(str(d4rl_file(home / "pole.npz", actions=np.arange(13) % 2)))
    assert (data.discrete, data.metadata["task"], data.metadata["action_low"]) == (True, None, None)
    with pytest.raises(DatasetError, match="pole has discrete actions; leave out --clip-actions"):
        store.load("pole.npz", clip_actions=True)


def test_sets_of_another_task(home):
    """Refused for who asks for the task; the guess of a name may be wrong about observations."""
    four = np.zeros((13, 4))
    file = d4rl_file(home / "pendulum.npz", observations=four, next_observations=four)
    message = "pendulum has 4 observations, Pendulum-v1 has 3"
    for _ in range(2):
        with pytest.raises(DatasetError, match=message):
            store.load(str(file), task="Pendulum-v1")
        assert store.load(str(file)).obs_size == 4
    minari_set(minari_root())
    with pytest.raises(DatasetError, match=f"{ID} has 3 observations, CartPole-v1 has 4"):
        store.load(ID, task="CartPole-v1")
    assert store.load(ID, task="Pendulum-v1").obs.filename == store.load(ID).obs.filename


def test_what_no_set_should_hold(home):
    actions = columns()["actions"]
    actions[[0, 1, 4]] = [[3.0], [-2.5], [2.000001]]
    file = str(d4rl_file(home / "pendulum.npz", actions=actions))
    with pytest.raises(
        DatasetError, match=r"action of row 0 is \[3\.0\], outside \[-2, 2\]; to cut "
    ):
        store.load(file)
    data = store.load(file, clip_actions=True)
    # Rows 3 and 9 of the file are gone; rows 0, 1 and 4 were cut, the last by a rounding error
    assert data.action[:4, 0].tolist() == [2, -2, 0.5, 2]
    assert data.metadata["clipped_rows"] == 3
    obs = columns()["observations"]
    obs[7, 1] = np.nan
    for suffix in ("npz", "hdf5"):
        d4rl_file(home / f"pendulum_nan.{suffix}", observations=obs)
        with pytest.raises(
            DatasetError, match=r"pendulum_nan: obs of row 6, in episode 2, is \[201\.0, nan, 201"
        ):
            store.load(f"pendulum_nan.{suffix}")
    bad = episodes()
    bad[2].reward[1] = np.inf
    minari_set(minari_root(), parts=bad)
    with pytest.raises(
        DatasetError, match="samples/pendulum-v0: reward of row 7, in episode 2, is inf"
    ):
        store.load(ID)
    minari_set(minari_root(), parts=[])
    with pytest.raises(DatasetError, match="pendulum-v0 holds no transition"):
        store.load(ID)
    # No folder of arrays is left of what was refused
    kept = [path.name for path in Path(os.environ["RLSUITE_CACHE"]).iterdir()]
    assert len([name for name in kept if name not in ("locks", "sources")]) == 1


def test_discrete_sets_of_minari():
    parts, space = discrete(episodes(), start=3)
    minari_set(minari_root(), parts=parts, action_space=space, task=None)
    data = store.load(ID)
    assert data.action.max() == 1 and data.metadata["task"] is None
    same(data, replace(transitions(), action=np.array(data.action)))


# ------------------------------------------------------------------------------------- the cache


def test_a_second_load_maps_the_same_file(monkeypatch):
    folder = minari_set(minari_root())
    said = []
    first = store.load(ID, say=said.append)
    monkeypatch.setattr(minari, "read", lambda *_: pytest.fail("the source was read again"))
    second = store.load(ID, say=said.append)
    assert first.obs.filename == second.obs.filename and not first.obs.flags.writeable
    assert first.metadata == second.metadata
    assert len(said) == 1 and f"reading {folder} once" in said[0]


def test_a_changed_source_is_read_again(capsys):
    minari_set(minari_root())
    assert store.load(ID).bounds()[-1].tolist() == [10, 13]
    minari_set(minari_root(), parts=episodes()[:3])
    data = store.load(ID)
    assert (data.last.nonzero()[0].tolist(), data.bounds()[-1].tolist()) == (LAST[:3], [6, 10])
    assert capsys.readouterr().err.count("reading ") == 2


def test_copies_share_their_arrays(home):
    d4rl_file(home / "pendulum-a.npz")
    shutil.copy(home / "pendulum-a.npz", home / "pendulum-b.npz")
    one, other = store.load("pendulum-a.npz"), store.load("pendulum-b.npz")
    assert one.obs.filename == other.obs.filename
    assert [data.metadata["name"] for data in (one, other)] == ["pendulum-a", "pendulum-b"]
    assert other.metadata["path"] == str(home / "pendulum-b.npz")


def test_a_damaged_cache_is_rebuilt_with_a_message(home):
    said = []
    data = store.load(str(d4rl_file(home / "pendulum.npz")), say=said.append)
    cut_short(Path(data.next_obs.filename))
    again = store.load("pendulum.npz", say=said.append)
    assert len(again) == 11 and again.next_obs[-1, 0] == 303
    assert len(said) == 3 and "is damaged" in said[1]


def test_a_source_that_changes_while_it_is_read(home, monkeypatch):
    file, read = d4rl_file(home / "pendulum.npz"), d4rl.read

    def slow(*args):
        data = read(*args)
        d4rl_file(file, rewards=np.zeros(13))
        os.utime(file, ns=(1, 1))
        return data

    monkeypatch.setattr(d4rl, "read", slow)
    with pytest.raises(DatasetError, match=r"pendulum\.npz changed while it was read; try again"):
        store.load("pendulum.npz")


# ------------------------------------------------------------------------------------- download


def test_no_network_is_told_in_time(home, monkeypatch):
    def hang(address, timeout):
        asked.append((address, timeout))
        asking.append(threading.current_thread())
        over.wait(5)
        raise TimeoutError(f"{address} in a test")

    asked, asking, over = [], [], threading.Event()
    monkeypatch.setattr(socket, "create_connection", hang)
    began = time.perf_counter()
    with pytest.raises(DatasetError) as fault:
        store.download("mujoco/hopper/medium-v0")
    assert time.perf_counter() - began < 2
    over.set()
    asking[0].join()
    assert asked == [(("huggingface.co", 443), store.PATIENCE)]
    message = str(fault.value)
    assert message.startswith("huggingface.co does not answer: no network?")
    assert "rlsuite data collect" in message
    assert "rlsuite data convert FILE.hdf5 --to mujoco/hopper/medium-v0" in message
    assert list(home.iterdir()) == []


def test_a_refusal_is_told_at_once_and_the_proxy_is_asked(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    began = time.perf_counter()
    with pytest.raises(DatasetError, match=r"^proxy\.example does not answer"):
        store.download("mujoco/hopper/medium-v0")
    assert time.perf_counter() - began < 0.5


def test_a_download_arrives_whole(monkeypatch):
    import minari as farama

    class Open:
        def close(self):
            pass

    def arrive(name):
        minari_set(minari_root(), name)
        minari_set(minari_root(), "samples/part-v0")

    def break_off(name):
        arrive(name)
        raise ConnectionResetError("in the middle")

    monkeypatch.setattr(socket, "create_connection", lambda *_: Open())
    monkeypatch.setattr(farama, "download_dataset", break_off)
    root = minari_root()
    with pytest.raises(ConnectionResetError):
        store.download(ID)
    assert (list(root.iterdir()), minari_root()) == ([], root)
    monkeypatch.setattr(farama, "download_dataset", arrive)
    assert store.download(ID) == root / ID
    assert minari.local_ids() == ["samples/part-v0", ID] and len(list(root.iterdir())) == 1
    same(store.load(ID), transitions())
    with pytest.raises(DatasetError, match="samples/pendulum-v0 exists"):
        store.download(ID)


def test_d4rls_files_are_not_fetched():
    with pytest.raises(DatasetError, match=r"goes, by hand, to .*/hopper_medium_expert-v2\.hdf5"):
        store.download("hopper-medium-expert-v2")
