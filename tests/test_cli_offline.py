"""`rlsuite train` of what learns from data: which data, of which task, and what is refused."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import logged

from rlsuite.cli import main

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(data, tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    words = ["bc", "--dataset", str(data), "--env", "InvertedPendulum-v4", *SMOKE]
    assert main(["train", *words, "--device", "cuda", "--folder", str(folder)]) == 1
    assert "no CUDA device for --device cuda; leave it out" in capsys.readouterr().err
    assert not folder.exists()


def test_data_and_device_are_no_flags_of_what_learns_in_the_environment(capsys) -> None:
    for flag in ("--dataset", "--device"):
        with pytest.raises(SystemExit):
            main(["train", "ppo", "--env", "CartPole-v1", flag, "cuda"])
        assert flag in capsys.readouterr().err
