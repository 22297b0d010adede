"""The command line, end to end: what is typed, what appears, what bad input leaves behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlsuite.cli import COMMANDS, main

SMOKE = ["--preset", "smoke", "--seeds", "2", "--evaluation-episodes", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*words: str) -> int:
    return main(["train", "ppo", "--env", "CartPole-v1", *SMOKE, *words])


def test_train_evaluate_export_table_plot_report(capsys) -> None:
    assert train("--folder", "run") == 0
    shown = capsys.readouterr().err
    assert "preset smoke; 16 iterations; everything goes to run" in shown
    assert "evaluation at step 2,048: return" in shown
    about = json.loads(Path("run/config.json").read_text())
    assert about["command"].startswith("rlsuite train ppo --env CartPole-v1 --preset smoke")
    assert about["sources"]["clip"].endswith("[paper; ppo2; CleanRL]")

    assert main(["evaluate", "run", "--episodes", "3", "--out", "episodes.csv"]) == 0
    assert "3 episodes each: return" in capsys.readouterr().out
    rows = list(csv.DictReader(Path("episodes.csv").read_text().splitlines()))
    assert len(rows) == 2 * 3
    # CartPole pays 1 a step
    assert all(float(row["return"]) == float(row["length"]) for row in rows)

    assert main(["export", "run", "--results", "results/smoke"]) == 0
    exported = Path("results/smoke/ppo/CartPole-v1.csv")
    assert exported.read_text() == Path("run/evaluations.csv").read_text()
    manifest = json.loads(exported.with_suffix(".json").read_text())
    assert manifest["seeds"] == [0, 1] and manifest["steps"] == 2048
    assert manifest["engine"] == "gymnasium"

    for source in ("run", "results/smoke"):
        assert main(["table", source]) == 0
        assert "CartPole-v1" in Path(source, "tables/tables.md").read_text()
        assert main(["plot", source]) == 0
        assert Path(source, "curves/curves_return.png").read_bytes().startswith(b"\x89PNG")
        assert main(["report", source]) == 0
        assert "data:image/png;base64" in Path(source, "report.html").read_text()


def test_presets_give_defaults_and_flags_come_on_top() -> None:
    assert train("--folder", "run", "--clip", "0.1", "--seeds", "3,") == 0
    about = json.loads(Path("run/config.json").read_text())
    assert about["config"]["clip"] == 0.1
    assert about["config"]["num_steps"] == 128  # the preset's
    assert about["config"]["gae_lambda"] == 0.95  # the class's
    assert about["settings"]["seeds"] == [3]


def test_default_preset_and_default_folder() -> None:
    words = ["--env", "CartPole-v1", "--seeds", "1", "--total-steps", "512"]
    assert main(["train", "ppo", *words]) == 0
    assert main(["train", "ppo", *words]) == 0
    first, second = (f"runs/ppo-CartPole-v1-{n}/config.json" for n in (1, 2))
    assert json.loads(Path(first).read_text())["preset"] == "classic"
    assert Path(second).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'; use train"),
        (["train"], "which algorithm?"),
        (["train", "ppo"], "which task?"),
        (["train", "pp", "--env", "CartPole-v1"], "algorithm 'pp' is unknown; use one of: ppo"),
        (["train", "ppo", "--env", "Hoper-v4"], "did you mean Hopper-v4"),
        (["train", "ppo", "--env", "Hopper-v4", "--preset", "mujco"], "use one of: mujoco"),
        (["train", "ppo", "--env", "Pusher-v5", "--preset", "mujoco-tuned"], "no entry for Pusher"),
        (
            ["train", "ppo", "--env", "CartPole-v1", "--num-minibatches", "3"],
            "num_minibatches 3 splits 512 transitions badly; use 4",
        ),
        (["train", "ppo", "--env", "CartPole-v1", "--seeds", "1,1"], "seeds [1] are repeated"),
        (["train", "ppo", "--env", "CartPole-v1", "--seeds", "x"], "seeds 'x' not understood"),
        (["train", "ppo", "--env", "CartPole-v1", "--engine", "brax"], "'brax' is unknown"),
        (["train", "ppo", "--env", "Pendulum-v1", "--engine", "envpool"], "use 'gymnasium'"),
        (["train", "ppo", "--env", "CartPole-v1", "--total-steps", "9"], "less than one rollout"),
        (["train", "--resume", "nowhere"], "nowhere is not a run folder"),
        (["train", "--resume", "nowhere", "--clip", "0.1"], "settings come from the folder"),
        (["evaluate", "nowhere"], "nowhere is not a folder"),
        (["sweep", "ppo", "--envs", "Hoper-v4"], "did you mean Hopper-v4"),
    ],
)
def test_bad_input_gets_one_clear_line_and_leaves_nothing(
    words, message, elsewhere, capsys
) -> None:
    assert main(words) != 0
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown and len(shown.strip().splitlines()) == 1
    assert list(elsewhere.iterdir()) == []


def test_unknown_flag_names_the_nearest(elsewhere, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        train("--learnin-rate", "1e-3")
    assert stopped.value.code == 2
    assert "--learning-rate" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_missing_engine_says_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)  # makes `import envpool` fail
    assert train("--engine", "envpool") == 1
    assert "pip install envpool" in capsys.readouterr().err


def test_folder_of_another_algorithm_is_refused(capsys) -> None:
    assert train("--folder", "run") == 0
    about = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps(about | {"algorithm": "sac"}))
    assert main(["train", "ppo", "--resume", "run"]) == 1
    assert "belongs to sac, not ppo" in capsys.readouterr().err


def test_existing_folder_is_refused(capsys) -> None:
    assert train("--folder", "run") == 0
    before = Path("run/progress.csv").read_bytes()
    assert train("--folder", "run") == 1
    assert "run exists; add --resume run" in capsys.readouterr().err
    assert Path("run/progress.csv").read_bytes() == before


@pytest.mark.slow
def test_users_own_environment(capsys) -> None:
    Path("mine.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Mine-v0', CartPoleEnv, max_episode_steps=50)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["train", "ppo", "--env", "mine:Mine-v0", *SMOKE, "--folder", "run"]
    command = [sys.executable, "-m", "rlsuite", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(Path("run/evaluations.csv").read_text().splitlines()))
    assert all(float(row["length"]) <= 50 for row in rows)


@pytest.mark.slow
def test_interrupt_says_how_to_go_on_and_resume_finishes() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["train", "ppo", "--env", "CartPole-v1", *SMOKE, "--total-steps", "16384"]
    command = [sys.executable, "-m", "rlsuite", *words, "--folder", "run"]
    # Started in the background, a shell's child ignores interrupts, and so would its own child
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(Path("run/checkpoint").glob("*.ckpt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate()
    assert process.returncode == 130 and "--resume run" in shown
    assert main(["train", "--resume", "run"]) == 0
    assert Path("run/finished").exists()


def test_algorithms_and_help(capsys) -> None:
    assert main(["algorithms"]) == 0
    assert "arXiv 1707.06347" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert all(name in capsys.readouterr().out for name in ("train",)) and len(COMMANDS) == 11


def test_help_of_train_tells_every_source(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["train", "ppo", "--help"])
    assert "eps of the ratio" in capsys.readouterr().out
