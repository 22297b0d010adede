"""scripts/reproduce.py divides the work, skips what is done, goes on with the rest, and merges."""

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest

from rlsuite.evidence import rows

SCRIPT = Path(__file__).parents[1] / "scripts" / "reproduce.py"
SHORT = ("--env-steps", "512", "--evaluations", "2", "--evaluation-episodes", "1")


@pytest.fixture
def reproduce(monkeypatch):
    """The script as a module, with an iteration of 128 steps."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import reproduce

    monkeypatch.setattr(reproduce, "NUM_STEPS", 128)
    monkeypatch.setattr(reproduce, "NUM_ENVS", 1)
    return reproduce


def test_five_seeds_in_two_processes_train_once_and_become_one_table(
    reproduce, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(reproduce, "PROCESSES", 2)
    monkeypatch.setattr(reproduce.os, "sched_setaffinity", lambda *args: None)
    reproduce.main(tmp_path, SHORT)
    first = capsys.readouterr().out
    assert first.count("$ rlsuite train ppo --env Hopper-v4") == 2
    assert "| ours, evaluation return | v4 | 5 |" in first
    (result,) = rows.read(tmp_path / "all-seeds")
    assert result.seeds == (0, 1, 2, 3, 4)
    assert result.last_step == 512 and result.finished
    assert len(list((tmp_path / "all-seeds" / "curves").glob("*.png"))) >= 1
    assert first.splitlines()[-1] == f"wrote {tmp_path}/all-seeds/report.html"

    reproduce.main(tmp_path, SHORT)
    assert "$ rlsuite train" not in capsys.readouterr().out


def test_each_part_begins_goes_on_or_is_done(reproduce, monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce, "PROCESSES", 3)
    runs = list(reproduce.commands(tmp_path))
    # Seeds 0..4 dealt to three processes in turn: 0 and 3, 1 and 4, 2.
    assert [run.name.split("-auto")[0] for run in runs] == ["seeds-0-3", "seeds-1-4", "seeds-2"]
    for run in runs[:2]:
        run.mkdir()
        (run / "config.json").touch()
    (runs[0] / "finished").touch()
    done, going, fresh = reproduce.commands(tmp_path, ["--evaluations", "2"]).values()
    assert done == []
    assert going == ["train", "--resume", str(runs[1])]
    assert fresh[:2] == ["train", "ppo"] and fresh[-2:] == ["--evaluations", "2"]
    assert fresh[fresh.index("--seeds") + 1] == "2,"


def test_merging_keeps_every_row_and_every_command(reproduce, tmp_path):
    for name, seeds in (("a", [0, 2]), ("b", [1])):
        run = tmp_path / name
        run.mkdir()
        about = {"task": "T", "command": f"train {name}", "settings": {"seeds": seeds}}
        (run / "config.json").write_text(json.dumps(about))
        for table in ("evaluations.csv", "progress.csv"):
            (run / table).write_text("seed,step\n" + "".join(f"{s},9\n" for s in seeds))
    folder = reproduce.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    about = json.loads((folder / "config.json").read_text())
    assert about["settings"]["seeds"] == [0, 1, 2]
    assert about["command"] == "train a & train b"
    for table in ("evaluations.csv", "progress.csv"):
        with (folder / table).open(newline="") as stream:
            lines = list(csv.reader(stream))
        assert lines == [["seed", "step"], ["0", "9"], ["2", "9"], ["1", "9"]]


@pytest.mark.parametrize("word", ["--help", "--seeds"])
def test_a_question_or_an_unknown_flag_starts_nothing(monkeypatch, capsys, word):
    monkeypatch.setattr("rlsuite.cli.main", lambda argv: pytest.fail(f"started {argv}"))
    monkeypatch.setattr(Path, "mkdir", lambda *args, **options: pytest.fail("made a folder"))
    monkeypatch.setattr(sys, "argv", ["reproduce.py", word])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == (0 if word == "--help" else 2)
    assert "usage: reproduce.py" in "".join(capsys.readouterr())


def test_a_failing_command_ends_the_script_with_its_code(reproduce, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reproduce, "PROCESSES", 1)
    with pytest.raises(SystemExit) as ended:
        reproduce.main(tmp_path, ["--env-steps", "100"])  # less than an iteration of 128
    assert ended.value.code == 2
    assert "env_steps 100" in capsys.readouterr().err
