"""Which environment a Minari set names, and what differs from the one that is used."""

import json

import gymnasium
import pytest
from samples import minari_set

from rlsuite.datasets import minari, named, store

MOON = "Pendulum-v1,g=1.6,max_episode_steps=12"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR", "RLSUITE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return tmp_path / "minari_datasets_path"


def spec(task: str = "Pendulum-v1", **changes) -> str:
    """A Minari set's env_spec."""
    facts = json.loads(gymnasium.spec(task).to_json()) if task in gymnasium.registry else {}
    return json.dumps(facts | {"id": task} | changes)


def collected(root, **said):
    """A set whose metadata say so."""
    folder = minari_set(root)
    file = folder / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    return folder


@pytest.mark.parametrize(
    ("said", "task"),
    [
        ({}, None),
        ({"env_spec": spec()}, "Pendulum-v1"),
        ({"env_spec": spec(kwargs={"g": 1.6}, max_episode_steps=12)}, MOON),
        # As registered: FrozenLake's map is 4x4, CartPole has 500 steps
        ({"env_spec": spec("FrozenLake-v1")}, "FrozenLake-v1"),
        ({"env_spec": spec("CartPole-v1", max_episode_steps=9)}, "CartPole-v1,max_episode_steps=9"),
        # Pictures are not part of the task; without a limit of its own, the registered one holds
        ({"env_spec": spec(kwargs={"render_mode": "rgb_array"})}, "Pendulum-v1"),
        ({"env_spec": spec(max_episode_steps=None)}, "Pendulum-v1"),
        # For evaluation, where the set names one for that
        ({"env_spec": spec(), "eval_env_spec": spec("CartPole-v1")}, "CartPole-v1"),
        # Not registered here: nothing to compare with
        ({"env_spec": spec("Absent-v0", kwargs={"a": 1}, max_episode_steps=7)}, "Absent-v0"),
        ({"task": "mine:Own-v0", "env_spec": spec()}, "mine:Own-v0"),
    ],
)
def test_the_task_of_a_set(said, task):
    assert named.task(said) == task


def test_a_set_is_of_the_environment_that_it_names(home):
    collected(home, env_spec=spec(kwargs={"g": 1.6}, max_episode_steps=12))
    data = store.load("samples/pendulum-v0")
    assert (data.metadata["task"], data.metadata["remarks"]) == (MOON, [])
    # And stays so when it is converted: Minari makes the same environment again
    folder = minari.write(store.load("samples/pendulum-v0"), "test/moon-v0")
    facts = json.loads(json.loads((folder / "data/metadata.json").read_text())["env_spec"])
    assert (facts["kwargs"], facts["max_episode_steps"]) == ({"g": 1.6}, 12)


def test_another_environment_is_remarked_and_said_once(home):
    collected(home, env_spec=spec(kwargs={"g": 1.6}, max_episode_steps=12))
    said = []
    remark = f"collected in {MOON}, used with Pendulum-v1: other returns, maybe another task"
    for _ in range(2):
        about = store.load("samples/pendulum-v0", task="Pendulum-v1", say=said.append).metadata
        assert about["remarks"] == [remark] and about["task"] == "Pendulum-v1"
    assert [text for text in said if "reading" not in text] == [f"samples/pendulum-v0: {remark}"]
    assert store.load("samples/pendulum-v0", task=MOON, say=said.append).metadata["remarks"] == []


def test_the_module_that_registers_a_task_makes_no_difference():
    assert not named.unlike("Pendulum-v1", "gymnasium:Pendulum-v1")
    assert not named.unlike(None, "Pendulum-v1")
    assert named.unlike("Pendulum-v1", "Pendulum-v0")


def test_wrappers_are_remarked(home):
    around = [{"name": "Doubled", "entry_point": "stranger:Doubled", "kwargs": {}}]
    collected(home, env_spec=spec(additional_wrappers=around))
    (remark,) = store.load("samples/pendulum-v0").metadata["remarks"]
    assert remark.startswith("collected through the wrappers Doubled, which are not around")


def test_settings_that_no_flag_can_say_are_refused(home):
    collected(home, env_spec=spec(kwargs={"g": float("inf")}))
    with pytest.raises(ValueError, match="settings after the first comma are not understood"):
        store.load("samples/pendulum-v0")
