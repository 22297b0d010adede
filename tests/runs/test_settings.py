"""Settings of a run, seeds, presets, sources of numbers, and the hash of what decides them."""

import dataclasses
import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from rlsuite import algorithms
from rlsuite.core.ranges import RunFolder
from rlsuite.runs.settings import (
    Settings,
    config_hash,
    default_preset,
    field_comments,
    learning_rates,
    parse_seeds,
    preset,
    runs_used,
    task_family,
)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("1", (0,)),
        ("5", (0, 1, 2, 3, 4)),
        ("3:7", (3, 4, 5, 6)),
        ("1,4,9", (1, 4, 9)),
        ("3,", (3,)),
        (" 2, 8 ", (2, 8)),
    ],
)
def test_seeds_as_typed(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "five", "1:2:3", "1;2", "1.5", "a,b", ":"])
def test_seeds_that_make_no_sense_are_refused_with_what_to_type(text):
    with pytest.raises(ValueError, match=f"seeds '{text}' not understood; write 5 .*1,4,9, or 3,"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["0", "7:3", ",", "-1,2", "-4"])
def test_no_seeds_and_negative_ones_are_refused(text):
    with pytest.raises(ValueError, match="give one or more, each 0 or greater"):
        Settings("Hopper-v4", seeds=parse_seeds(text))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (1, 2, 1)}, r"seeds \[1\] are repeated in \[1, 2, 1\]; give each once"),
        ({"evaluations": 0}, "evaluations is 0; it must be at least 1"),
        ({"evaluation_episodes": -2}, "evaluation_episodes is -2; it must be at least 1"),
        ({"checkpoints": 0}, "checkpoints is 0; it must be at least 1"),
        ({"torch_threads": 0}, "torch_threads is 0; it must be at least 1"),
        ({"engine": "mujoco"}, "engine 'mujoco' is unknown; use one of .*envpool"),
        ({"seeds": (0, 1.0)}, r"seeds \[0, 1.0\]: each must be a whole number"),
        ({"compile": "yes"}, "compile 'yes' is unknown; use one of .*off"),
    ],
)
def test_impossible_settings_are_refused_by_value(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings("Hopper-v4", **changes)


@pytest.mark.parametrize("text", ["99999999999999", "1:99999999999999"])
def test_more_seeds_than_a_run_can_have_are_refused(text):
    with pytest.raises(ValueError, match=r"at most 10,000; for one seed .*: 99999999999999,$"):
        parse_seeds(text)


ALGORITHM = SimpleNamespace(
    PRESETS={
        "mujoco": {"*": {"epochs": 10, "clip": 0.2}, "Hopper": {"clip": 0.1}},
        "tuned": {"Ant": {"epochs": 5}},
    }
)


def test_a_preset_is_its_general_part_and_that_of_the_task():
    assert preset(ALGORITHM, "mujoco", "Ant-v4") == {"epochs": 10, "clip": 0.2}
    assert preset(ALGORITHM, "mujoco", "Hopper-v5") == {"epochs": 10, "clip": 0.1}
    assert preset(ALGORITHM, "tuned", "Ant-v4") == {"epochs": 5}


def test_a_task_with_constraints_has_the_preset_of_its_base():
    assert preset(ALGORITHM, "mujoco", "HopperVelocity-v5") == {"epochs": 10, "clip": 0.1}
    limited = {"*": {"epochs": 10}, "Hopper": {"clip": 0.1}, "HopperSpeed": {"clip": 0.3}}
    own = SimpleNamespace(PRESETS={"mujoco": limited})
    assert preset(own, "mujoco", "HopperSpeed-v4") == {"epochs": 10, "clip": 0.3}
    assert preset(own, "mujoco", "HopperVelocity-v4") == {"epochs": 10, "clip": 0.1}


def test_an_unknown_preset_or_task_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"preset 'mujoko' is unknown; use one of: mujoco$"):
        preset(ALGORITHM, "mujoko", "Ant-v4")
    with pytest.raises(ValueError, match="'zzz' is unknown; use one of: mujoco, tuned"):
        preset(ALGORITHM, "zzz", "Ant-v4")
    with pytest.raises(ValueError, match="preset 'tuned' has no entry for Hopper-v4; it has Ant"):
        preset(ALGORITHM, "tuned", "Hopper-v4")


def test_the_preset_that_is_taken_if_none_is_named():
    both = SimpleNamespace(PRESETS={"mujoco": {}, "classic": {}})
    assert default_preset(both, "CartPole-v1") == default_preset(both, "Pendulum-v1") == "classic"
    assert default_preset(both, "gymnasium.envs:CartPole-v1") == "classic"
    assert default_preset(both, "Hopper-v4") == default_preset(both, "Own-v0") == "mujoco"
    assert default_preset(ALGORITHM, "CartPole-v1") == "mujoco"


@pytest.mark.parametrize(
    ("task", "family"),
    [
        *(("Hopper-v4", "Hopper"), ("CartPole-v1", "CartPole"), ("Solo-v12", "Solo")),
        *(("Own", "Own"), ("AntMaze_UMaze-v5", "AntMaze"), ("my_tasks:Hopper-v4", "Hopper")),
        ("gymnasium_robotics:AntMaze_Large_Diverse_GR-v4", "AntMaze"),
    ],
)
def test_task_family(task, family):
    assert task_family(task) == family


@dataclass(frozen=True)
class Sample:
    clip: float = 0.2  # eps [paper]
    hidden: tuple[int, ...] = (64, 64)  # widths; 2 of them [ours: # is no trouble]
    silent: int = 3

    def method(self):
        local: int = 1  # not a field
        return local


def test_comments_of_fields():
    assert field_comments(Sample) == {
        "clip": "eps [paper]",
        "hidden": "widths; 2 of them [ours: # is no trouble]",
    }


def test_the_hash_covers_what_decides_the_numbers_of_a_seed():
    base, settings = Sample(), Settings("Hopper-v4")
    reference = config_hash("ppo", base, settings)
    assert len(reference) == 12
    assert int(reference, 16) >= 0
    more_seeds = dataclasses.replace(settings, seeds=(7, 8))
    assert config_hash("ppo", Sample(), more_seeds) == reference
    kept = {"snapshots": 100, "keep_best": True, "checkpoint_on_stop": True, "wandb": "mine"}
    for given in (kept, {"on_divergence": "drop"}):
        also = dataclasses.replace(settings, **given)
        assert config_hash("ppo", Sample(), also) == reference
    others = [config_hash("trpo", base, settings)]
    others += [config_hash("ppo", dataclasses.replace(base, silent=4), settings)]
    changes = {"env": "Ant-v4", "engine": "envpool", "evaluations": 11, "evaluation_episodes": 11}
    changes |= {"checkpoints": 11, "compile": "on", "torch_threads": 2, "dataset": "hopper/medium"}
    changes |= {"device": "cuda"}
    names = {field.name for field in dataclasses.fields(Settings)}
    assert names == changes.keys() | {"seeds", "on_divergence"} | kept.keys()
    for name, value in changes.items():
        others.append(config_hash("ppo", base, dataclasses.replace(settings, **{name: value})))
    assert len({reference, *others}) == len(others) + 1


@dataclass(frozen=True)
class Uses:
    density: RunFolder | None = None
    kind: str = "relu"
    hidden: tuple[int, ...] = (2,)


def test_the_runs_that_a_config_names_are_described(tmp_path):
    made = {"command": "rlsuite train spot", "commit": "c0ffee", "config_hash": "0123"}
    about = made | {"settings": {"seeds": [3], "env": "Hopper-v4"}, "hardware": {}}
    assert runs_used(Uses()) == runs_used(Uses(str(tmp_path))) == {}  # no run there
    (tmp_path / "config.json").write_text(json.dumps(about))
    found = {"density": made | {"seeds": [3], "wall_seconds": None}}
    assert runs_used(Uses(str(tmp_path))) == found  # it has not finished
    assert runs_used(Uses(kind=str(tmp_path))) == {}  # a text that happens to be a path
    (tmp_path / "finished").write_text("12.500 seconds\n")
    found["density"]["wall_seconds"] = 12.5
    assert runs_used(Uses(str(tmp_path))) == found
    (tmp_path / "finished").write_text("")
    with pytest.raises(ValueError, match=r"density is .* is damaged .*; name another run"):
        runs_used(Uses(str(tmp_path)))
    (tmp_path / "finished").unlink()
    for damaged in ("{", "[]", json.dumps(about | {"settings": None}), '{"command": ""}'):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"density is .* is damaged .*; name another run"):
            runs_used(Uses(str(tmp_path)))


def test_learning_rates_are_flags_and_every_algorithm_has_one():
    flags = {n: learning_rates(algorithms.load(n).Config()) for n in algorithms.ALGORITHMS}
    assert all(flags.values())
    assert flags["spot"] == "--density-lr --actor-lr --critic-lr"
    assert flags["ppo"] == "--learning-rate"  # anneal_lr is a choice, not a rate
