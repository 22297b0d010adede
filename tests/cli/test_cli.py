"""The command line, end to end: what is typed, what appears, what bad input leaves behind."""

import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import pytest

import rlsuite
from rlsuite.cli.main import COMMANDS, main
from rlsuite.envs import tasks

SMOKE = ["--preset", "smoke", "--seeds", "2", "--evaluation-episodes", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    """An empty folder to work in, with the user's cache beside it."""
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def resumed(monkeypatch) -> list[Path]:
    """The folders of the runs that `rlsuite train` trains, or goes on with; nothing is trained."""
    folders: list[Path] = []
    monkeypatch.setattr("rlsuite.runs.run.execute", lambda run: folders.append(run.folder))
    return folders


def train(*words: str) -> int:
    return main(["train", "ppo", "--env", "CartPole-v1", *SMOKE, *words])


def test_train_evaluate_export_table_plot_report(capsys) -> None:
    assert train("--folder", "run") == 0
    shown = capsys.readouterr().err
    assert "preset smoke; 2,048 steps of each seed; everything goes to run" in shown
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
    words = ["--env", "CartPole-v1", "--seeds", "1", "--env-steps", "512"]
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
        (["train", "ppo", "--env", "CartPole-v1", "--env-steps", "9"], "less than one rollout"),
        (["train", "--resume", "nowhere"], "nowhere is not a run folder"),
        (["train", "--resume=nowhere"], "nowhere is not a run folder"),
        (["train", "ppo", "--resume"], "--resume: expected one argument"),
        (["train", "--resume", "nowhere", "--clip", "0.1"], "settings come from the folder"),
        (["train", "ppo", "--seeds", "1", "--resume=x"], "Type: rlsuite train --resume x"),
        (["train", "ppo", "--learnin-rate", "1"], "did you mean --learning-rate?"),
        (
            ["train", "spot", "--penalty", "1"],
            "--penalty has another name now; type --support-weight instead",
        ),
        (["train", "ppo", "--total-steps", "9"], "type --env-steps instead"),
        (["train", "ppo", "--env_stps=9"], "did you mean --env-steps?"),
        (["train", "ppo", "Hopper-v4"], "'Hopper-v4' belongs to no flag"),
        (["train", "ppo", "--clip", "x"], "--clip: 'x' is no number"),
        (["train", "ppo", "--env-steps", "1.5"], "--env-steps: '1.5' is no whole number"),
        (["train", "ppo", "--env-steps", "1e-1"], "--env-steps: '1e-1' is no whole number"),
        (["train", "ppo", "--env-steps", "1e999999999"], "is no whole number"),
        (["train", "ppo", "--clip"], "--clip: expected one argument"),
        (["evaluate", "nowhere"], "nowhere is not a folder"),
        (["evaluate", ".", "--episods", "3"], "unknown flag --episods; did you mean --episodes?"),
        (["evaluate", ".", "--episodes", "0"], "--episodes is 0; it must be at least 1"),
        (["evaluate", ".", "--out", "no/x.csv"], "no/x.csv lies in no, which is no folder"),
        (["record", ".", "--episodes=-1"], "--episodes is -1; it must be at least 1"),
        (["export", "nowhere"], "--results is missing; type: rlsuite export FOLDER... --results"),
        (["export", "--results", "r"], "which runs? type: rlsuite export FOLDER"),
        (["algorithms", "--all"], "unknown flag --all"),
        (["data", "collect", "--steps=1.5"], "--steps: '1.5' is no whole number"),
        (["sweep", "ppo", "--envs", "Hoper-v4"], "did you mean Hopper-v4"),
        (["sweep", "ppo", "--envs", "Hopper-v4", "--jobs", "-1"], "--jobs is -1; it must be"),
        (["sweep", "ppo", "--envs", "Hopper-v4", "--jobs=0"], "--jobs is 0; it must be"),
        (["sweep", "ppo", "--envs", "Hopper-v4", "--env=Ant-v4"], "type --envs TASK ..."),
        (["sweep", "ppo", "--envs", "Hopper-v4", "--resume", "x"], "the same command again"),
        (["sweep", "ppo", "--envs", "Hopper-v4", "--cliip", "1"], "did you mean --clip?"),
        (["sweep", "ppo", "--envs", "Hopper-v4", "Hopper-v4"], "would share runs/sweep/ppo/Hopp"),
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


def test_every_flag_has_two_spellings(resumed) -> None:
    words = ["--env=CartPole-v1", "--preset=smoke", "--seeds=3,", "--folder=a", "--env_steps=1e6"]
    assert main(["train", "ppo", *words, "--hidden=8", "16", "--adam_eps", "1e-3"]) == 0
    about = json.loads(Path("a/config.json").read_text())
    assert (about["task"], about["preset"]) == ("CartPole-v1", "smoke")
    assert about["settings"]["seeds"] == [3]
    assert about["config"]["env_steps"] == 1_000_000  # 1e6, a whole number
    assert about["config"]["hidden"] == [8, 16] and about["config"]["adam_eps"] == 0.001
    assert main(["train", "ppo", "--resume=a"]) == 0
    assert main(["train", "--resume", "a"]) == 0
    assert resumed == [Path("a")] * 3


def test_a_value_may_begin_with_a_dash(capsys) -> None:
    for words in (["--clip", "-1e-3"], ["--clip=-1e-3"]):
        assert main(["train", "ppo", "--env", "CartPole-v1", *words]) == 2
        assert "clip is -0.001" in capsys.readouterr().err


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
    said = capsys.readouterr().err
    hint = "rlsuite train ppo --resume run"
    assert f"run exists; to go on with it: {hint}, or" in said
    assert Path("run/progress.csv").read_bytes() == before
    assert main(hint.split()[1:]) == 0


def test_a_refused_task_leaves_no_folder(monkeypatch, elsewhere) -> None:
    def refuse(run) -> None:
        raise RuntimeError("the simulator does not start")

    monkeypatch.setattr("rlsuite.runs.run.execute", refuse)
    assert train("--folder", "run") == 1
    assert list(elsewhere.iterdir()) == []


def test_a_folder_where_another_process_trains_stays(monkeypatch) -> None:
    def refuse(run) -> None:
        held.append(os.open(run.folder / "lock", os.O_CREAT | os.O_RDWR))
        fcntl.flock(held[0], fcntl.LOCK_EX)
        raise RuntimeError("another process is training in run")

    held: list[int] = []
    monkeypatch.setattr("rlsuite.runs.run.execute", refuse)
    assert train("--folder", "run") == 1
    assert Path("run/config.json").exists()
    os.close(held[0])


MINE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
gymnasium.register("Mine-v0", CartPoleEnv, max_episode_steps=50)
"""


@pytest.fixture
def mine(elsewhere, monkeypatch) -> str:
    """A task of the user's own, whose module lies where the user is, and on no other path."""
    name = f"mine_{os.getpid()}_{elsewhere.parent.name}"
    Path(f"{name}.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    yield f"{name}:Mine-v0"
    forget(f"{name}:Mine-v0")


def forget(task: str) -> None:
    """As in a new process, where nothing has imported the user's module."""
    sys.modules.pop(task.split(":")[0], None)
    tasks._typed.clear()
    gymnasium.registry.pop("Mine-v0", None)
    sys.path[:] = [path for path in sys.path if path]


def test_every_command_finds_the_users_own_environment(mine, capsys, monkeypatch) -> None:
    assert main(["train", "ppo", "--env", mine, *SMOKE, "--folder", "run"]) == 0
    rows = list(csv.DictReader(Path("run/evaluations.csv").read_text().splitlines()))
    assert all(float(row["length"]) <= 50 for row in rows)
    monkeypatch.setattr("rlsuite.runs.recording.record", film)
    collect = ["data", "collect", "--from=run", "--name=my/set-v0", "--steps=60"]
    monkeypatch.setenv("MINARI_DATASETS_PATH", "minari")
    (Path("run") / "finished").unlink()
    for words in (["evaluate", "run"], ["record", "run"], collect, ["train", "--resume", "run"]):
        forget(mine)
        assert main(words) == 0, capsys.readouterr().err


def film(folder: Path, out: Path, seed, episodes, task: str, *_rest) -> Path:
    from rlsuite import envs

    envs.make(task, [0], 1).close()
    return out


def test_a_strangers_module_is_imported_only_when_it_was_typed(mine, capsys, monkeypatch) -> None:
    monkeypatch.setattr("rlsuite.runs.recording.record", film)
    assert main(["train", "ppo", "--env", mine, *SMOKE, "--folder", "run"]) == 0
    module = mine.split(":")[0]
    for words in (["evaluate", "run"], ["record", "run"], ["train", "ppo", "--resume", "run"]):
        monkeypatch.setenv("RLSUITE_CACHE", f"{words[0]}-of-somebody-else")
        forget(mine)
        capsys.readouterr()
        assert main(words) == 2
        said = capsys.readouterr().err
        assert mine in said and f"--env {mine}" in said and len(said.splitlines()) == 1
        assert module not in sys.modules
        assert main([*words, "--env", mine]) == 0  # as the message says
        assert (module in sys.modules) == (words[0] != "train")  # a finished run needs it no more
        forget(mine)
        assert main(words) == 0  # it was typed before


def test_resume_with_another_task_is_refused(resumed, capsys) -> None:
    assert train("--folder", "run") == 0
    assert main(["train", "--resume", "run", "--env", "Acrobot-v1"]) == 2
    assert "run trains on CartPole-v1, not Acrobot-v1; leave --env out" in capsys.readouterr().err
    assert len(resumed) == 1


def test_evaluate_in_another_task_on_either_engine(capsys) -> None:
    assert train("--folder", "run") == 0
    for engine in ("envpool", "gymnasium"):
        words = ["evaluate", "run", "--episodes=2", f"--engine={engine}"]
        assert main([*words, "--env", "CartPole-v1"]) == 0
    assert "CartPole-v1, 2 episodes each" in capsys.readouterr().out
    assert main(["evaluate", "run", "--engine", "brax"]) == 2
    assert "unknown engine 'brax'" in capsys.readouterr().err
    assert main(["record", "run", "--env", "Acrobot-v1"]) == 2
    assert (
        "Acrobot-v1 has other observations or actions than CartPole-v1" in capsys.readouterr().err
    )
    assert not Path("policy.mp4").exists()


@pytest.mark.slow
def test_interrupt_says_how_to_go_on_and_resume_finishes() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["train", "ppo", "--env", "CartPole-v1", *SMOKE, "--env-steps", "16384"]
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
    assert "arXiv 1707.06347" in " ".join(capsys.readouterr().out.split())
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_tasks_are_listed_with_sizes_limits_and_scores_80_columns_wide(capsys) -> None:
    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    found = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert found["Hopper-v4"] == ["both", "11", "3", "1000", "0:", "-20,", "100:", "3234"]
    assert found["CartPole-v1"] == ["both", "4", "1/2", "500"]
    assert found["WalkerWalk-v1"] == ["envpool", "24", "6", "1000"]
    assert found["HopperVelocity-v5"] == ["both", "11", "3", "1000", "velocity", "25", "episode"]
    assert found["AntSpeed-v4"] == ["both", "27", "8", "1000", "speed", "103.115", "disc."]


def test_evaluate_tells_costs_where_there_are_some(capsys, finished_run) -> None:
    folder = str(finished_run("ppo", "HopperVelocity-v4"))
    assert main(["evaluate", folder, "--episodes=2", "--out=e.csv"]) == 0
    assert re.search(
        r"^velocity: cost .*, limit 25, \d+% of episodes within it$", capsys.readouterr().out, re.M
    )
    header, *rows = (line.split(",") for line in Path("e.csv").read_text().splitlines())
    assert (header, len(rows)) == (["seed", "episode", "return", "cost", "length"], 4)
    assert main(["evaluate", folder, "--episodes=2", "--env=Hopper-v4", "--out=e.csv"]) == 0
    assert "cost" not in capsys.readouterr().out
    _, *rows = Path("e.csv").read_text().splitlines()
    assert [row.split(",")[3] for row in rows] == ["0.0"] * 4


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch, capsys) -> None:
    def cut(argv: list[str]) -> None:
        raise BrokenPipeError

    replaced = []
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1, raising=False)
    monkeypatch.setattr(os, "dup2", lambda new, old: replaced.append(old))
    monkeypatch.setitem(COMMANDS, "algorithms", cut)
    assert main(["algorithms"]) == 0
    assert capsys.readouterr().err == "" and replaced == [1]


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlsuite {rlsuite.__version__}\n"


def shown(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_of_train_tells_every_source_and_the_presets_defaults(capsys) -> None:
    text = " ".join(shown(capsys, "train", "ppo", "--env=CartPole-v1").split())
    assert "eps of the ratio" in text and "or MODULE:ID for one of your own (required)" in text
    assert "per epoch, of 64 transitions each [paper; ppo2; CleanRL] (default: 4)" in text
    assert "(default: classic)" in text
    text = " ".join(shown(capsys, "train", "bc").split())
    assert "default: the one that the data set names" in text
    assert main(["train", "--help"]) == 0 and "td3_bc" in capsys.readouterr().out


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("train", "data")])
def test_help_fits_a_narrow_terminal_and_hides_what_means_nothing(
    command, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, command)
    assert max(map(len, text.splitlines())) <= 80
    assert "None" not in text and "(default: )" not in text and str(Path.home()) not in text
