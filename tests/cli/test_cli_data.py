"""`rlsuite data`, end to end: what is typed, what appears, what bad input leaves behind."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlsuite.cli.main import main
from rlsuite.core.networks import ActorCritic
from rlsuite.core.saving import load_policy, save_policy
from rlsuite.datasets import store

RECIPE = """
name = "my/pendulum"
task = "Pendulum-v1"
[random]
steps = 400
parts = { uniform = 1 }
[replay]
steps = 200
snapshots = "pendulum.npz"
parts = { online_0 = 1 }
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    """An empty folder to work in, with Minari's and D4RL's and the cache's beside it."""
    for variable in ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def run() -> Path:
    """The folder of a run on Pendulum-v1 with the seeds 3 and 5."""
    rngs = [np.random.default_rng(seed) for seed in (3, 5)]
    policy = ActorCritic(3, 1, False, rngs=rngs, hidden=(8,))
    about = {"algorithm": "ppo", "task": "Pendulum-v1", "seeds": [3, 5], "step": 2048}
    save_policy(policy, Path("run/policy"), about)
    return Path("run")


@pytest.fixture
def recipe() -> str:
    Path("my.toml").write_text(RECIPE)
    return "my.toml"


def type_in(*words: object) -> int:
    return main(["data", *map(str, words)])


def test_from_a_run_to_a_set_and_what_is_said_of_it(run, capsys) -> None:
    words = ["collect", "--from", run, "--name", "my/pendulum/medium-v0", "--steps", 800]
    assert type_in(*words) == 0
    out, err = capsys.readouterr()
    assert "rlsuite data describe my/pendulum/medium-v0" in out and out.startswith("wrote ")
    assert "my/pendulum/medium-v0 100% " in err

    assert type_in("list") == 0
    shown = capsys.readouterr().out
    assert "my/pendulum/medium-v0" in shown and "800 transitions" in shown
    assert "hopper/medium-expert" in shown and "walker2d/random" in shown  # recipes

    assert type_in("describe", "my/pendulum/medium-v0") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "800 in 4 episodes" in shown and "0 terminated, 4 truncated, 0 open" in shown
    assert "trained by rlsuite: ppo on Pendulum-v1, step 2048" in shown
    assert "none: D4RL has no reference returns" in shown


def test_mode_of_one_seed_and_a_set_to_compare_with(run, capsys) -> None:
    words = ["collect", "--from", run, "--steps", 400, "--policy-seed", 5]
    assert type_in(*words, "--name", "my/mode-v0", "--mode") == 0
    assert type_in(*words, "--name", "my/sampled-v0", "--seed", 1) == 0
    mode, sampled = (store.load(f"my/{name}-v0") for name in ("mode", "sampled"))
    # The untrained policy's mode stays near zero; its samples have a standard deviation of 1
    assert mode.action.std() < 0.2 < 0.6 < sampled.action.std()
    facts = json.loads((Path(mode.metadata["path"]) / "data/metadata.json").read_text())
    assert facts["recipe"]["mode"] and list(facts["parts"]) == ["5"]
    capsys.readouterr()
    assert type_in("describe", "my/mode-v0", "--reference", "my/sampled-v0") == 0
    assert "of my/sampled-v0" in capsys.readouterr().out


def test_a_recipe_of_the_users_own(recipe) -> None:
    assert type_in("collect", f"{recipe}/random") == 0
    assert len(store.load("my/pendulum/random-v0")) == 400
    assert type_in("collect", f"{recipe}/random", "--name", "my/more-v0", "--steps", 600) == 0
    assert len(store.load("my/more-v0")) == 600


def test_there_and_back_again(recipe, capsys) -> None:
    assert type_in("collect", f"{recipe}/random") == 0
    assert type_in("convert", "my/pendulum/random-v0", "--to", "flat.hdf5") == 0
    assert type_in("convert", "flat.hdf5", "--to", "my/again-v0") == 0
    assert "wrote flat.hdf5" in capsys.readouterr().out
    first, again = (store.load(name) for name in ("my/pendulum/random-v0", "my/again-v0"))
    for key in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "last"):
        np.testing.assert_array_equal(getattr(again, key), getattr(first, key))
    assert (
        again.metadata["task"] == "Pendulum-v1"
        and again.metadata["source"] == first.metadata["source"]
    )
    assert type_in("describe", "flat.hdf5") == 0
    assert "400 in 2 episodes" in capsys.readouterr().out


def flat(path: str, **changes) -> None:
    """Two episodes of three steps, in Pendulum's shapes; the first is cut by a time limit."""
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.standard_normal((6, 3)),
        "actions": rng.uniform(-2, 2, (6, 1)),
        "rewards": np.arange(6.0),
        "terminals": np.array([0, 0, 0, 0, 0, 1], bool),
        "timeouts": np.array([0, 0, 1, 0, 0, 0], bool),
    }
    np.savez(path, **columns | changes)


def test_a_flat_file_without_next_observations(capsys) -> None:
    flat("mine.npz")
    assert type_in("convert", "mine.npz", "--to", "mine-v0", "--task", "Pendulum-v1") == 0
    # The row at the time limit and the last one have no next observation: 6 - 2 rows
    assert len(store.load("mine-v0")) == 4
    capsys.readouterr()
    assert type_in("describe", "mine-v0") == 0
    assert "cut by a time limit" in capsys.readouterr().out


def test_actions_outside_the_box(capsys) -> None:
    flat("mine.npz", actions=np.full((6, 1), 2.5))
    words = ["convert", "mine.npz", "--to", "mine-v0", "--task", "Pendulum-v1"]
    assert type_in(*words) == 2
    assert "--clip-actions" in capsys.readouterr().err
    assert type_in(*words, "--clip-actions") == 0
    assert store.load("mine-v0").action.max() == 2


def test_damaged_episodes_are_left_out_if_asked(capsys) -> None:
    flat("mine.npz", terminals=np.array([0, 0, np.nan, 0, 0, 1]))
    words = ["convert", "mine.npz", "--to", "mine-v0", "--task", "Pendulum-v1"]
    assert type_in(*words) == 2
    shown = capsys.readouterr().err
    assert "terminals of row 2 is nan" in shown and "--skip-damaged" in shown
    assert type_in(*words, "--skip-damaged") == 0
    # The first of the two episodes is left out, and the last row has no next observation: 2 rows
    assert len(store.load("mine-v0")) == 2
    capsys.readouterr()
    assert type_in("describe", "mine.npz", "--task", "Pendulum-v1", "--skip-damaged") == 0
    assert "1 of 2 episodes are damaged and left out: 0" in capsys.readouterr().out


def test_settings_of_an_environment_are_part_of_its_name(capsys) -> None:
    Path("short.toml").write_text(RECIPE.replace("Pendulum-v1", "Pendulum-v1,max_episode_steps=7"))
    assert type_in("collect", "short.toml/random") == 0
    assert type_in("describe", "my/pendulum/random-v0") == 0
    shown = " ".join(capsys.readouterr().out.split())
    # 400 steps in episodes of 7: 58 of them, 406 steps
    assert "406 in 58 episodes" in shown and "task Pendulum-v1,max_episode_steps=7:" in shown


def test_policies_are_evaluated_in_the_environment_of_their_set(capsys) -> None:
    moon = "Pendulum-v1,g=1.6,max_episode_steps=12"
    Path("moon.toml").write_text(RECIPE.replace("Pendulum-v1", moon))
    assert type_in("collect", "moon.toml/random") == 0
    words = ["--preset", "smoke", "--seeds", "1", "--folder", "moon"]
    assert main(["train", "bc", "--dataset", "my/pendulum/random-v0", *words]) == 0
    with open("moon/evaluations.csv") as file:
        assert {row["length"] for row in csv.DictReader(file)} == {"12.0"}
    assert json.loads(Path("moon/config.json").read_text())["task"] == moon


def test_modules_that_files_name_are_not_imported(elsewhere, run, capsys, monkeypatch) -> None:
    monkeypatch.setattr("rlsuite.envs.tasks._typed", set())
    Path("stranger.py").write_text("open('imported', 'w')\n")
    policy, about = load_policy(run)
    save_policy(policy, run / "policy", about | {"task": "stranger:Own-v0"})
    Path("my.toml").write_text(RECIPE.replace("Pendulum-v1", "stranger:Own-v0"))
    for words in (
        ["collect", "--from", run, "--name", "my/x-v0", "--steps", 9],
        ["collect", "my.toml/random"],
    ):
        assert type_in(*words) == 2
        assert "names the module 'stranger', which was never typed" in capsys.readouterr().err
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which command? type: rlsuite data list | describe | collect | keep | pack"),
        (["colect"], "unknown command 'colect'; type: rlsuite data collect"),
        (["describe"], "which one? type: rlsuite data describe SET"),
        (["describe", "nowhere-v0"], "nowhere-v0"),
        (["collect"], "what to collect? type: rlsuite data collect RECIPE --policies FOLDER"),
        (["collect", "hoper/medium"], "no recipe 'hoper/medium'; use hopper/medium"),
        (["collect", "hopper/best"], "no level 'best'; use one of random, medium"),
        (["collect", "hopper/medium"], "--policies FOLDER"),
        (["collect", "hopper/medium", "--policies", "nowhere"], "hopper.npz is not there"),
        (["collect", "hopper/random", "--steps", "0"], "steps must be at least 1"),
        (["collect", "hopper/random", "--task", "Hopper-v5"], "--task and --policy-seed go with"),
        (["collect", "hopper/random", "--name", "no name"], "'no name' is no name"),
        (["collect", "--from", "nowhere", "--steps", "9"], "add the set's name and size: --name"),
        (["collect", "--from", "nowhere", "--steps", "9", "--name", "a-v0"], "no readable policy"),
        (["collect", "hopper/random", "--from", "nowhere"], "what to collect?"),
        (["collect", "--from", "x", "--policies", "y"], "--policies goes with a recipe"),
        (["convert"], "which one? type: rlsuite data convert SET --to NAME_OR_PATH"),
        (["convert", "nowhere-v0", "--to", "other-v0"], "nowhere-v0"),
        (["convert", "nowhere-v0", "--to", "no/folder/x.hdf5"], "which is no folder"),
        (["convert", "nowhere-v0", "--to", "no name"], "'no name' is no name"),
        (["download"], "which one? type: rlsuite data download SET"),
        (["download", "hopper-medium-v2"], "not on Minari's server"),
    ],
)
def test_bad_input_gets_one_clear_line_and_leaves_nothing(
    words, message, elsewhere, capsys
) -> None:
    assert type_in(*words) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.startswith("rlsuite data: ")
    assert "Traceback" not in shown and len(shown.strip().splitlines()) == 1
    assert [path for path in elsewhere.parent.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--policy-seed", "4"], "seed 4 is not in run; it has 3, 5"),
        (["--task", "Hopper-v4"], "3 observations and 1 action dimensions, Hopper-v4 has 11 and 3"),
        (["--task", "Pendulum-v2"], "unknown task 'Pendulum-v2'"),
        (["--steps", "1"], "1 steps are too few for 2 policies"),
    ],
)
def test_runs_that_do_not_fit(run, flags, message, elsewhere, capsys) -> None:
    words = ["collect", "--from", run, "--name", "my/x-v0", "--steps", 800, *flags]
    assert type_in(*words) == 2
    assert message in capsys.readouterr().err
    assert not (elsewhere.parent / "minari_datasets_path/my").exists()


def test_what_is_there_is_refused(recipe, capsys) -> None:
    assert type_in("collect", f"{recipe}/random") == 0
    before = store.load("my/pendulum/random-v0").metadata["sha256"]
    capsys.readouterr()
    assert type_in("collect", f"{recipe}/random") == 2
    assert "my/pendulum/random-v0 exists in" in capsys.readouterr().err
    Path("flat.hdf5").write_text("mine")
    assert type_in("convert", "my/pendulum/random-v0", "--to", "flat.hdf5") == 2
    assert "flat.hdf5 exists; give --to another" in capsys.readouterr().err
    assert Path("flat.hdf5").read_text() == "mine"
    assert store.load("my/pendulum/random-v0").metadata["sha256"] == before


def test_an_interrupt_leaves_nothing(recipe, elsewhere) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["data", "collect", f"{recipe}/random", "--steps", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlsuite", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert " 5% " in process.stderr.readline()  # it is under way
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate()
    assert process.returncode == 130 and "interrupted" in shown
    kept = [path for path in elsewhere.parent.rglob("*") if path.is_file()]
    assert [path.name for path in kept] == ["my.toml"]


def test_help(capsys) -> None:
    assert type_in("--help") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("list", "describe", "collect", "download", "convert"))
    for command, flag in (("collect", "--from"), ("describe", "--reference"), ("convert", "--to")):
        with pytest.raises(SystemExit) as stopped:
            type_in(command, "--help")
        assert stopped.value.code == 0 and flag in capsys.readouterr().out
