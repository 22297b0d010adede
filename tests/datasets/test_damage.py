"""Damaged sets: episodes are named by number and can be left out; one bad set hides no other."""

import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from samples import d4rl_file, minari_set, transitions

from rlsuite.datasets import minari, store
from rlsuite.datasets.transitions import DatasetError
from rlsuite.envs import tasks

ID = "samples/pendulum-v0"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR", "RLSUITE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "minari_datasets_path"


# ------------------------------------------------------------------------------------- episodes


def no_steps(group):
    for name, values in {name: group[name][:0] for name in group if name != "infos"}.items():
        del group[name]
        group[name] = values
    del group["observations"]
    group["observations"] = np.zeros((1, 3))


def one_observation_less(group):
    replace(group, "observations", group["observations"][:-1])


def an_end_inside(group):
    replace(group, "terminations", [True, False, False, True])


def a_flag_that_is_none(group):
    replace(group, "truncations", [0.0, 0.0, np.nan, 1.0])


def a_number_that_is_none(group):
    replace(group, "rewards", [0.0, np.inf, 0.0, 0.0])


def other_observations(group):
    replace(group, "observations", group["observations"][:, :1])


def no_actions(group):
    del group["actions"]


def replace(group, name, values):
    del group[name]
    group[name] = values


DAMAGE = {
    no_steps: "has no steps",
    one_observation_less: "has 4 observations, 4 actions and 4 rewards",
    an_end_inside: "is terminated at step 0 and goes on to step 3",
    a_flag_that_is_none: "is truncated: nan at step 2, which must be 0 or 1",
    a_number_that_is_none: None,  # its row is named
    other_observations: r"has obs of shape \[1\], and those before it \[3\]",
    no_actions: "cannot be read",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.items())
def test_a_damaged_episode_is_named_and_can_be_left_out(home, damage, message):
    folder = minari_set(home)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        damage(file["episode_2"])
    if damage is no_steps:  # 13 steps less four
        metadata = folder / "data" / "metadata.json"
        metadata.write_text(metadata.read_text().replace('steps": 13', 'steps": 9'))
    message = f"episode 2 {message}" if message else "reward of row 7, in episode 2, is inf"
    advice = f"type: rlsuite data convert {ID} --to NEW-v0 --skip-damaged"
    with pytest.raises(DatasetError, match=f"{message}.* {advice}"):
        store.load(ID)
    said = []
    data = store.load(ID, skip_damaged=True, say=said.append)
    # Rows 6 to 9 of 13 are episode 2
    kept = np.r_[0:6, 10:13]
    np.testing.assert_array_equal(data.reward, transitions().reward[kept])
    np.testing.assert_array_equal(data.obs, transitions().obs[kept])
    assert data.last.nonzero()[0].tolist() == [3, 5, 8]
    assert data.metadata["remarks"] == ["1 of 4 episodes are damaged and left out: 2"]
    assert f"{ID}: 1 of 4 episodes are damaged and left out: 2" in said


def test_a_reward_or_flag_may_be_a_column(home):
    folder = minari_set(home)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for group in file.values():
            for name in ("rewards", "terminations"):
                replace(group, name, group[name][()][:, None])
    np.testing.assert_array_equal(store.load(ID).reward, transitions().reward)


def test_ends_that_follow_one_another_are_remarked():
    terminals = np.zeros(13, bool)
    terminals[[4, 5, 6, 10]] = True
    file = d4rl_file(Path("pendulum.npz"), terminals=terminals, timeouts=np.zeros(13, bool))
    (remark,) = store.load(str(file)).metadata["remarks"]
    # Rows 5 and 6 are episodes of their own: 0-4, 5, 6, 7-10 and 11-12
    assert remark.startswith("2 of 5 episodes have a single row, because terminal rows follow one")
    assert "row 5 first" in remark
    # In a bandit every row is an episode
    bandit = d4rl_file(Path("pendulum_bandit.npz"), terminals=np.ones(13, bool))
    assert store.load(str(bandit), timeouts="kept").metadata["remarks"] == []


# ------------------------------------------------------------------------------------- lists


def test_one_bad_set_hides_no_other(home):
    minari_set(home)
    for number, (key, value) in enumerate(
        [("total_steps", "many"), ("env_spec", "[]"), ("author", 3), ("task", ["x"])]
    ):
        folder = minari_set(home, f"bad/number{number}-v0")
        file = folder / "data" / "metadata.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    (home / "bad/empty-v0/data").mkdir(parents=True)
    (home / "bad/list-v0/data").mkdir(parents=True)
    (home / "bad/list-v0/data/metadata.json").write_text("[1]")
    d4rl_file(Path(os.environ["D4RL_DATASET_DIR"]) / "scalar.npz", rewards=np.float32(3))
    shown = [str(each) for each in store.local()]
    names = ["empty", "list", "number0", "number1", "number2", "number3"]
    assert [line.split()[0] for line in shown] == [
        *(f"bad/{name}-v0" for name in names),
        ID,
        "scalar",
    ]
    assert sum("cannot be read" in line for line in shown) == 5
    assert all(len(line.splitlines()) == 1 for line in shown)


def test_a_part_of_a_name_may_be_data(home):
    for name in ("data/x-v0", "data/data/y-v0", "mine/z-v0"):
        minari_set(home, name)
    assert minari.local_ids() == ["data/data/y-v0", "data/x-v0", "mine/z-v0"]
    assert len(store.load("data/x-v0")) == 13


def test_words_of_a_file_do_not_steer_the_terminal(home):
    folder = minari_set(home)
    file = folder / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task": "\x1b[2Jx\nHopper-v4"}))
    (line,) = (str(each) for each in store.local())
    assert line.isprintable() and line.endswith("?[2Jx?Hopper-v4")


def test_a_name_that_is_a_path_is_refused(home):
    folder = minari_set(home)
    file = folder / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset_id": "../../x-v0"}))
    with pytest.raises(DatasetError, match=r"says the name '\.\./\.\./x-v0'"):
        store.load(ID)


def test_the_exact_name_of_a_file_wins():
    folder = Path(os.environ["D4RL_DATASET_DIR"])
    one, other = (d4rl_file(folder / f"pendulum{x}mine-v2.npz") for x in "-_")
    assert store.locate("pendulum-mine-v2") == (one, "d4rl")
    assert store.locate("pendulum_mine-v2") == (other, "d4rl")


def test_a_set_is_described_by_its_whole_path(home):
    Path("link.npz").symlink_to(d4rl_file(Path("pendulum.npz")).absolute())
    for name in ("pendulum", "link"):
        about = store.load(f"{name}.npz", task="Pendulum-v1").metadata
        assert (about["path"], about["name"]) == (str(Path(f"{name}.npz").absolute()), name)


# ------------------------------------------------------------------------------------- modules


@pytest.fixture
def stranger(monkeypatch):
    """A module in the current folder that says if it is imported."""
    Path("stranger.py").write_text("open('imported', 'w')\n")
    monkeypatch.syspath_prepend("")
    yield lambda: Path("imported").exists()
    sys.modules.pop("stranger", None)


def test_no_module_is_imported_because_a_set_names_it(home, stranger, monkeypatch):
    monkeypatch.setattr(tasks, "_typed", set())
    folder = minari_set(home)
    file = folder / "data" / "metadata.json"
    facts = json.loads(file.read_text())
    spec = json.loads(facts["env_spec"]) | {"entry_point": "stranger:Env"}
    for said in (
        {"task": "stranger:Own-v0"},
        {"env_spec": json.dumps(spec | {"id": "stranger:Own-v0"})},
        {"env_spec": json.dumps(spec)},
        {"env_spec": json.dumps(spec), "observation_space": None},
    ):
        file.write_text(json.dumps({k: v for k, v in (facts | said).items() if v is not None}))
        store.local()
        if "observation_space" in said:  # Minari would make the environment to ask it
            with pytest.raises(DatasetError, match="observation_space"):
                store.load(ID)
        else:
            tasks.remember_typed("stranger:Own-v0")  # neither though it was typed once
            store.load(ID)
        assert not stranger()
    with pytest.raises(ValueError, match="'other', which was never typed here"):
        tasks.require_typed("other:Own-v0", ID)
