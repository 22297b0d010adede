"""Minari sets: read as Minari wrote them, as from a D4RL file, and written so that Minari reads."""

import json
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from samples import (
    LAST,
    cut_short,
    d4rl_file,
    discrete,
    episode,
    episodes,
    minari_set,
    same,
    transitions,
)

from rlsuite.datasets import d4rl, minari
from rlsuite.datasets.transitions import DatasetError

DROPPED = [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12]  # rows of the sample without 3 and 9, the time-outs


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Where new sets go."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


# ------------------------------------------------------------------------------------- reading


def test_kept_time_outs_have_their_true_next_observation(root):
    data = minari.read(minari_set(root))
    same(data, transitions())
    # Rows 3 and 9 were cut by the limit after 4 steps: observation 4 of episodes 0 and 2
    assert data.next_obs[[3, 9], 0].tolist() == [4, 204]
    assert data.terminated.nonzero()[0].tolist() == [5, 9]
    assert data.truncated.nonzero()[0].tolist() == [3, 9]
    # The open tail ends the set without a flag
    assert data.last.nonzero()[0].tolist() == LAST
    about = {"name": "samples/pendulum-v0", "format": "minari", "task": "Pendulum-v1"}
    about |= {"action_low": [-2.0], "action_high": [2.0], "timeouts": "kept"}
    assert data.metadata.items() >= (about | {"source": "SAC by Ada"}).items()


def test_dropped_time_outs_as_from_a_d4rl_file(root, tmp_path):
    """Both conventions, transition by transition."""
    folder = minari_set(root)
    with_next = d4rl_file(tmp_path / "pendulum.hdf5")
    same(minari.read(folder), d4rl.read(with_next, "kept"))
    data = minari.read(folder, "dropped")
    same(data, d4rl.read(with_next))
    # Without rows 3 and 9 of 13, episodes 0 and 2 end at rows 2 and 8
    assert (len(data), data.metadata["timeouts"]) == (11, "dropped")
    assert data.last.nonzero()[0].tolist() == [2, 4, 7, 10]
    # A file without next_observations lacks the last row, too, and what followed the terminal
    bare = d4rl.read(d4rl_file(tmp_path / "bare.npz", "next_observations"))
    assert bare.next_obs[4, 0] == 200 and data.next_obs[4, 0] == 102
    bare.next_obs[4] = data.next_obs[4]
    same(replace(bare, last=data.last[:10]), data, slice(10))


def test_returns_and_lengths(root):
    """Invariant 5: returns are D4RL's; an episode has one observation more than actions."""
    import minari as farama

    folder = minari_set(root)
    returns = minari.read(folder).episode_returns().tolist()
    # 0 + 1 + 2 + 3, 10 + 11, 20 + 21 + 22 + 23, 30 + 31 + 32
    assert returns == [6, 21, 86, 93]
    stored = list(farama.MinariDataset(folder / "data").iterate_episodes())
    assert [len(e.observations) - len(e.actions) for e in stored] == [1, 1, 1, 1]
    assert [float(e.rewards.sum()) for e in stored] == returns


def test_discrete_actions_are_numbered_from_zero(root):
    parts, space = discrete(episodes(), start=2)
    data = minari.read(minari_set(root, parts=parts, action_space=space))
    assert data.discrete and data.action.dtype == np.int64
    assert data.action.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert data.metadata["action_low"] is None
    parts[1].action[0] = 4
    with pytest.raises(DatasetError, match=r"actions outside Discrete\(2, start=2\)"):
        minari.read(minari_set(root, parts=parts, action_space=space))


def test_dict_and_shaped_observations_are_flattened(root):
    parts, flat = episodes(), transitions()
    for part in parts:
        part.obs = {"b": part.obs[:, :1], "a": {"x": part.obs[:, 1:].reshape(-1, 2, 1)}}
    box = Box(-np.inf, np.inf, (1,), np.float64)
    space = Dict({"b": box, "a": Dict({"x": Box(-np.inf, np.inf, (2, 1), np.float64)})})
    data = minari.read(minari_set(root, parts=parts, observation_space=space))
    # Gymnasium sorts the keys: a before b
    sample = {"b": np.array([0.0]), "a": {"x": np.array([[0.25], [0.5]])}}
    assert gymnasium.spaces.flatten(space, sample).tolist() == [0.25, 0.5, 0]
    same(data, replace(flat, obs=flat.obs[:, [1, 2, 0]], next_obs=flat.next_obs[:, [1, 2, 0]]))


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_other_formats_of_minari(root, data_format):
    pytest.importorskip("pyarrow")
    same(minari.read(minari_set(root, data_format=data_format)), transitions())


def test_spaces_that_are_not_supported(root):
    image = np.zeros((5, 40, 40, 3), np.uint8)
    parts = [replace(episode(0, 4, True, False), obs=image)]
    space = Box(0, 255, (40, 40, 3), np.uint8)
    with pytest.raises(DatasetError, match="no images, no text"):
        minari.read(minari_set(root, parts=parts, observation_space=space))
    parts = [replace(episode(0, 4, True, False), action=np.zeros((4, 2), int))]
    with pytest.raises(DatasetError, match="only Box of floats and Discrete"):
        minari.read(minari_set(root, parts=parts, action_space=MultiDiscrete([2, 2])))


def test_damaged_sets(root):
    folder = minari_set(root)
    cut_short(folder / "data" / "main_data.hdf5")
    with pytest.raises(DatasetError, match=r"pendulum-v0 cannot be read .*collect it again"):
        minari.read(folder)
    folder = minari_set(root)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_2"]
    with pytest.raises(DatasetError, match=r"episode 2 cannot be read .*there is no episode_2"):
        minari.read(folder)
    folder = minari_set(root)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/observations"].resize((2, 3))
    with pytest.raises(DatasetError, match="episode 1 has 2 observations, 2 actions"):
        minari.read(folder)
    folder = minari_set(root)
    file = folder / "data" / "metadata.json"
    for steps in (12, 14):
        file.write_text(file.read_text().replace('"total_steps": 13', f'"total_steps": {steps}'))
        with pytest.raises(DatasetError, match=f"speaks of {steps} steps, its episodes hold 13"):
            minari.read(folder)
        file.write_text(file.read_text().replace(f'"total_steps": {steps}', '"total_steps": 13'))
    cut_short(file)
    for function in (minari.read, minari.task, minari.count):
        with pytest.raises(DatasetError, match=r"cannot be read .JSONDecodeError"):
            function(folder)


def test_sets_of_another_version_and_no_sets(root, tmp_path):
    folder = minari_set(root)
    file = folder / "data" / "metadata.json"
    file.write_text(file.read_text().replace('"minari_version": "0', '"minari_version": "9'))
    with pytest.raises(DatasetError, match=r"another version of Minari"):
        minari.read(folder)
    with pytest.raises(DatasetError, match=r"holds no Minari set \(no data/metadata.json\)"):
        minari.read(tmp_path)
    with pytest.raises(DatasetError, match="'no' is unknown; use one of kept, dropped"):
        minari.read(folder, "no")


def test_sets_without_transitions(root):
    with pytest.raises(DatasetError, match="holds no transition"):
        minari.read(minari_set(root, parts=[]))
    with pytest.raises(DatasetError, match="no transition is left"):  # one step, and cut there
        minari.read(minari_set(root, parts=[episode(0, 1, False, True)]), "dropped")


def test_relative_paths(root, monkeypatch):
    folder = minari_set(root)
    monkeypatch.chdir(folder.parent)
    data = minari.read(folder.relative_to(folder.parent))
    assert (len(data), data.metadata["path"]) == (13, "pendulum-v0")


# ------------------------------------------------------------------------------------- writing


def test_written_sets_are_minaris(root):
    """Minari lists, loads and extends them; nothing of ours is in the way."""
    import minari as farama

    metadata = {"author": ["Ada", "Bob"], "source": "by hand", "recipe": {"steps": 13}}
    folder = minari.write_episodes("test/hand-v0", "Pendulum-v1", episodes(), metadata)
    assert folder == root / "test/hand-v0" and minari.local_ids() == ["test/hand-v0"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (listed,) = farama.list_local_datasets().items()
        dataset = farama.load_dataset("test/hand-v0")
    assert listed[0] == "test/hand-v0" and listed[1].items() >= metadata.items()
    assert (dataset.total_episodes, dataset.total_steps) == (4, 13)
    assert dataset.env_spec.id == "Pendulum-v1"
    assert dataset.recover_environment().unwrapped.spec.id == "Pendulum-v1"
    assert dataset.action_space == Box(-2, 2, (1,), np.float32)
    for stored, part in zip(dataset.iterate_episodes(), episodes(), strict=True):
        np.testing.assert_array_equal(stored.observations, part.obs)
        np.testing.assert_array_equal(stored.actions, part.action)
        np.testing.assert_array_equal(stored.rewards, part.reward)
        assert stored.terminations.tolist()[-1] == part.terminated
        assert stored.truncations.tolist()[-1] == part.truncated
        assert not stored.terminations[:-1].any() and not stored.truncations[:-1].any()
        assert "total_steps" in repr(stored)
    same(minari.read(folder), transitions())
    assert minari.read(folder).metadata["source"] == "by hand"


def test_the_same_episodes_give_the_same_bytes(root, tmp_path, monkeypatch):
    folder = minari.write_episodes("test/hand-v0", "Pendulum-v1", episodes(), {})
    time.sleep(1.1)  # HDF5 counts whole seconds
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    again = minari.write_episodes("test/hand-v0", "Pendulum-v1", iter(episodes()), {})
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*"))
    assert names == ["data/main_data.hdf5", "data/metadata.json"]
    for name in names:
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_discrete_tasks(root):
    parts, _ = discrete(episodes())
    for part in parts:
        part.obs = np.pad(part.obs, ((0, 0), (0, 1)))  # four numbers, as of CartPole
    folder = minari.write_episodes("test/pole-v0", "CartPole-v1", parts, {})
    data = minari.read(folder)
    assert data.action.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
    said = json.loads((folder / "data/metadata.json").read_text())
    assert json.loads(said["action_space"])["n"] == 2 and data.metadata["task"] == "CartPole-v1"


def test_names_that_are_bad_or_taken(root):
    for name in ("hopper", "hopper/medium", "a/b-v0", "up/../b-v0", "/abs-v0", "two words-v0", ""):
        with pytest.raises(DatasetError, match="is no name of a Minari set; write one like"):
            minari.require_free(name)
    assert minari.require_free("test/hand-v0") == root / "test/hand-v0"
    minari.write_episodes("test/hand-v0", "Pendulum-v1", episodes(), {})
    for write in (
        lambda: minari.require_free("test/hand-v0"),
        lambda: minari.write(transitions(), "test/hand-v0"),
        lambda: minari.write_episodes("test/hand-v0", "Pendulum-v1", [], {}),
    ):
        with pytest.raises(DatasetError, match=r"test/hand-v0 exists in .*, or write test/hand-v1"):
            write()
    assert len(minari.read(root / "test/hand-v0")) == 13


def test_what_fails_leaves_nothing(root):
    def until_it_fails():
        yield from episodes()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minari.write_episodes("test/hand-v0", "Pendulum-v1", until_it_fails(), {})
    with pytest.raises(DatasetError, match="test/hand-v0: there are no episodes"):
        minari.write_episodes("test/hand-v0", "Pendulum-v1", [], {})
    short = replace(episode(0, 4, True, False), obs=np.zeros((4, 3)))
    with pytest.raises(DatasetError, match=r"episode 1 has observations \[4, 3\], 4 actions and 4"):
        minari.write_episodes("test/hand-v0", "Pendulum-v1", [*episodes()[:1], short], {})
    with pytest.raises(ValueError, match="unknown task 'Pendulum-v9'"):
        minari.write_episodes("test/hand-v0", "Pendulum-v9", episodes(), {})
    assert list(root.rglob("*")) == []


def test_a_killed_writer_leaves_no_set(root):
    """What it had written is not listed, and the name is free."""
    script = (
        "import os, sys; from samples import episodes; from rlsuite.datasets import minari\n"
        "def parts():\n    yield episodes()[0]\n    os.kill(os.getpid(), 9)\n"
        "minari.write_episodes('test/hand-v0', 'Pendulum-v1', parts(), {})"
    )
    folders = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {folders!r}\n{script}"], check=False
    )
    assert done.returncode == -9
    assert minari.local_ids() == [] and len(list(root.iterdir())) == 1
    minari.write_episodes("test/hand-v0", "Pendulum-v1", episodes(), {})
    assert minari.local_ids() == ["test/hand-v0"]


@pytest.mark.parametrize("timeouts", ["kept", "dropped"])
def test_transitions_written_and_read_again(root, tmp_path, timeouts):
    data = d4rl.read(d4rl_file(tmp_path / "pendulum.npz"), timeouts)
    about = transitions(timeouts=timeouts, name="mine").metadata
    folder = minari.write(replace(data, metadata=about), "test/mine-v0")
    again = minari.read(folder)
    same(again, data)
    assert again.metadata.items() >= (about | {"name": "test/mine-v0"}).items()
    # The rows at time limits are gone for good, and nothing more is dropped
    same(minari.read(folder, "dropped"), d4rl.read(d4rl_file(tmp_path / "pendulum.npz")))


def test_a_task_that_is_not_here(root):
    data = transitions(task="AdroitHandDoor-v1")
    again = minari.read(minari.write(data, "test/door-v0"))
    same(again, data)
    assert again.metadata["task"] == "AdroitHandDoor-v1"


def test_a_cut_without_a_mark_is_refused(root):
    data = transitions()
    data.next_obs[7] += 1  # in the middle of episode 2
    with pytest.raises(DatasetError, match=r"next_obs of row 7 is not the next row's obs.*\.hdf5"):
        minari.write(data, "test/mine-v0")
    assert minari.local_ids() == []
    data.last[7] = True  # once marked, it is an end like any other
    assert len(minari.read(minari.write(data, "test/mine-v0")).bounds()) == 5


def test_a_discrete_set_is_written(root):
    data = replace(transitions(), action=np.arange(13) % 3)
    folder = minari.write(data, "test/mine-v0")
    same(minari.read(folder), data)
    assert gymnasium.spaces.Discrete(3) == Discrete(3) == _action_space(folder)


def _action_space(folder):
    import minari as farama

    return farama.MinariDataset(folder / "data").action_space
