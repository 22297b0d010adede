"""`rlsuite train` of what learns from data: which data, of which task, and what is refused."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import logged

from rlsuite.cli.main import main
from rlsuite.evidence.export import export

SMOKE = ("--preset", "smoke", "--seeds", "2", "--evaluation-episodes", "2")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return logged(tmp_path / "mine.npz", "InvertedPendulum-v4")


def refused(capsys, folder: Path, *words: str) -> str:
    """What is said of a command that is not understood and leaves nothing behind."""
    assert main(["train", *words, "--folder", str(folder)]) == 2
    assert not folder.exists()
    return capsys.readouterr().err


def test_from_a_file_to_a_finished_run(data, tmp_path) -> None:
    folder = tmp_path / "run"
    words = ["bc", "--dataset", str(data), "--env", "InvertedPendulum-v4", *SMOKE]
    assert main(["train", *words, "--folder", str(folder)]) == 0
    about = json.loads((folder / "config.json").read_text())
    assert (about["task"], about["data"]["name"]) == ("InvertedPendulum-v4", "mine")
    assert about["data"]["timeouts"] == "dropped" and len(about["data"]["sha256"]) == 64
    with open(folder / "evaluations.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["step"] == "200" and float(last["return"]) > 0
    assert last["score"] == ""  # D4RL has no references for this task


def test_a_set_that_names_its_task_needs_no_env(data, tmp_path) -> None:
    words = ["data", "convert", str(data), "--to", "my/pendulum/random-v0"]
    assert main([*words, "--task", "InvertedPendulum-v4"]) == 0
    folder = tmp_path / "run"
    words = ["td3_bc", "--dataset", "my/pendulum/random-v0", *SMOKE, "--folder", str(folder)]
    assert main(["train", *words]) == 0
    assert json.loads((folder / "config.json").read_text())["task"] == "InvertedPendulum-v4"


def test_what_is_refused_says_what_to_type(data, tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    said = refused(capsys, folder, "bc")
    assert "which data? type: rlsuite train bc --dataset NAME" in said
    said = refused(capsys, folder, "bc", "--dataset", "mujoco/hopper/medium-v0")
    assert "rlsuite data download mujoco/hopper/medium-v0" in said
    said = refused(capsys, folder, "bc", "--dataset", str(data), "--env", "Hopper-v4", *SMOKE)
    assert "unlike those of Hopper-v4" in said
    said = refused(capsys, folder, "spot", "--dataset", str(data), *SMOKE)
    assert "--env" in said
    task = ("--dataset", str(data), "--env", "InvertedPendulum-v4")
    said = refused(capsys, folder, "spot", *task, *SMOKE, "--density", str(tmp_path / "nowhere"))
    assert "nowhere" in said and "name a run folder that has it" in said


def test_a_run_that_fails_after_its_first_row_keeps_its_folder(data, tmp_path, monkeypatch) -> None:
    def fail(new) -> None:
        (new.folder / "preparation.csv").write_text("seed,step\n0,-100\n")
        raise ValueError("too late to be a refusal")

    monkeypatch.setattr("rlsuite.runs.run.execute", fail)
    words = ["bc", "--dataset", str(data), "--env", "InvertedPendulum-v4", *SMOKE]
    assert main(["train", *words, "--folder", str(tmp_path / "run")]) == 2
    assert (tmp_path / "run" / "preparation.csv").exists()


def test_rows_say_what_made_the_run_they_were_given(data, tmp_path) -> None:
    """SPOT with the VAE of another run: its command and its time reach manifest and table."""
    first, folder, results = (tmp_path / name for name in ("first", "second", "results"))
    task = ["--dataset", str(data), "--env", "InvertedPendulum-v4", *SMOKE, "--online-steps", "0"]
    for words in (["--folder", str(first)], ["--density", str(first), "--folder", str(folder)]):
        assert main(["train", "spot", *task, *words]) == 0
    assert main(["export", str(folder), "--results", str(results)]) == 0
    made = json.loads((results / "spot" / "mine.json").read_text())["uses"]["density"]
    about = json.loads((first / "config.json").read_text())
    assert made["command"] == about["command"] and str(first) in made["command"]
    assert (made["commit"], made["seeds"]) == (about["commit"], [0, 1])
    assert (first / "finished").read_text() == f"{made['wall_seconds']:.3f} seconds\n"
    alone = export(first, tmp_path / "alone").with_suffix(".json")
    assert "uses" not in json.loads(alone.read_text())
    assert main(["table", str(results)]) == 0
    said = "Wall time of spot leaves out the runs that its density names: 0 min"
    assert said in (results / "tables" / "tables.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(data, tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    words = ["bc", "--dataset", str(data), "--env", "InvertedPendulum-v4", *SMOKE]
    assert main(["train", *words, "--device", "cuda", "--folder", str(folder)]) == 1
    assert "no CUDA device for --device cuda; leave it out" in capsys.readouterr().err
    assert not folder.exists()


def test_data_and_device_are_no_flags_of_what_learns_in_the_environment(capsys) -> None:
    for flag in ("--dataset", "--device"):
        assert main(["train", "ppo", "--env", "CartPole-v1", flag, "cuda"]) == 2
        assert f"unknown flag {flag}" in capsys.readouterr().err


def test_a_run_folder_is_called_after_its_data_set(data, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlsuite.runs.run.execute", lambda run: None)
    for words in (["data", "convert", str(data), "--to", "my/pendulum/random-v0"], ["train", "bc"]):
        task = "--task" if words[0] == "data" else "--env"
        more = [] if words[0] == "data" else ["--dataset", "mine.npz"]
        assert main([*words, *more, task, "InvertedPendulum-v4"]) == 0
    assert main(["train", "bc", "--dataset=my/pendulum/random-v0"]) == 0
    folders = sorted(path.name for path in Path("runs").iterdir())
    assert folders == ["bc-mine-1", "bc-pendulum-random-v0-1"]


def test_a_module_that_only_the_data_set_names_is_not_imported(
    data, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("strangers_module.py").write_text("open('imported', 'w').close()\n")
    monkeypatch.setattr(
        "rlsuite.datasets.d4rl.task", lambda path: "strangers_module:InvertedPendulum-v4"
    )
    words = ["train", "bc", "--dataset", "mine.npz", *SMOKE]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "--env strangers_module:InvertedPendulum-v4" in said and len(said.splitlines()) == 1
    assert not Path("imported").exists() and not Path("runs").exists()
