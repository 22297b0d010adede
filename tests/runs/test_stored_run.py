"""What a resume restores from the checkpoint, what it leaves alone, and what it refuses."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from rlsuite.core.saving import load_policy
from rlsuite.runs import checkpoint, logs
from rlsuite.runs import run as runs

PENDULUM = "InvertedPendulum-v4"
# 4 iterations of 128 steps; checkpoints and evaluations after the second and the fourth
SHORT = {"seeds": (0,), "env_steps": 512, "num_steps": 128, "checkpoints": 2, "evaluations": 2}


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def stop() -> None:
    raise KeyboardInterrupt


def interrupt(run: runs.Run, monkeypatch, iteration: int, how=None) -> None:
    """Execute `run` until `how` happens once its log has so many iterations."""
    log, count = run.log, []

    def counted(*args) -> None:
        log(*args)
        count.append(1)
        if len(count) == iteration:
            how() if how else stop()

    monkeypatch.setattr(run, "log", counted)
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run)


def rows(folder: Path, name: str) -> list[dict]:
    with open(folder / name, newline="") as file:
        found = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "wall_seconds"} for row in found]


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("progress.csv", "evaluations.csv"):
        assert rows(a, name) == rows(b, name)
    for name in ("policy.safetensors", "policy.json"):
        assert (a / "policy" / name).read_bytes() == (b / "policy" / name).read_bytes()
    with np.load(a / "evaluations.npz") as x, np.load(b / "evaluations.npz") as y:
        assert all(np.array_equal(x[key], y[key]) for key in x.files)


# -------------------------------------------------------------------------- a finished run


def test_a_finished_run_is_said_to_be_so_and_nothing_in_it_changes(short_runs, capsys) -> None:
    folder = short_runs.train("run", "ppo", PENDULUM, **SHORT)
    (folder / "my_evaluation.csv").write_text("seed,return\n0,100\n")
    (folder / "notes.partial").write_text("precious")
    before = content(folder)
    capsys.readouterr()
    runs.execute(runs.reopen(folder))
    assert content(folder) == before
    assert capsys.readouterr().err == f"{folder} has finished: there is nothing left to train\n"


def test_a_finished_run_without_its_checkpoint_is_refused_and_kept(short_runs) -> None:
    folder = short_runs.train("run", "ppo", PENDULUM, **SHORT)
    shutil.rmtree(folder / "checkpoint")
    before = content(folder)
    with pytest.raises(runs.RunError, match=r"checkpoint is gone.*nothing was changed.*--folder"):
        runs.execute(runs.reopen(folder))
    assert content(folder) == before


def remove(folder: Path) -> None:
    shutil.rmtree(folder / "policy")


def cut_short(folder: Path) -> None:
    path = folder / "policy" / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def another_step(folder: Path) -> None:
    path = folder / "policy" / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 256}, indent=2))


@pytest.mark.parametrize("damage", [remove, cut_short, another_step])
def test_the_policy_of_a_complete_run_is_restored(damage, short_runs) -> None:
    folder = short_runs.train("run", "ppo", PENDULUM, **SHORT)
    before = content(folder)
    damage(folder)
    runs.execute(runs.reopen(folder))
    after = content(folder)
    assert {k: after[k] for k in before} == before


def test_a_policy_of_an_earlier_step_is_replaced(short_runs, monkeypatch) -> None:
    run = short_runs.create("run", "ppo", PENDULUM, **SHORT)
    folder, early = run.folder, run.folder.with_name("early")
    interrupt(run, monkeypatch, 3)
    shutil.copytree(folder / "policy", early)
    runs.execute(runs.reopen(folder))
    late = content(folder / "policy")
    shutil.rmtree(folder / "policy")
    shutil.copytree(early, folder / "policy")
    assert load_policy(folder)[1]["step"] == 256  # 2 x 128
    runs.execute(runs.reopen(folder))
    assert load_policy(folder)[1]["step"] == 512
    assert content(folder / "policy") == late


# ------------------------------------------------------------------------------------- rows


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [shorten, Path.unlink, lambda path: os.truncate(path, 0)])
def test_rows_that_a_power_cut_lost_come_back(damage, short_runs, monkeypatch, capsys) -> None:
    whole = short_runs.train("whole", "ppo", PENDULUM, **SHORT)
    run = short_runs.create("run", "ppo", PENDULUM, **SHORT)
    interrupt(run, monkeypatch, 3)  # its checkpoint is of the second
    for name in ("progress.csv", "evaluations.csv"):
        damage(run.folder / name)
    (run.folder / "evaluations.npz").write_bytes(b"PK")
    runs.execute(runs.reopen(run.folder))
    assert "progress.csv was not as the run left it: restored" in capsys.readouterr().err
    assert_same_run(whole, run.folder)
    assert not list(run.folder.glob("*.changed.csv"))


def test_rows_that_somebody_edited_are_restored_and_the_edited_ones_kept(
    short_runs, capsys
) -> None:
    folder = short_runs.train("run", "ppo", PENDULUM, **SHORT)
    before, edited = content(folder), b"seed;step\n0;1\n"
    (folder / "evaluations.csv").write_bytes(edited)
    runs.execute(runs.reopen(folder))
    after = content(folder)
    assert "what was there is now evaluations.changed.csv" in capsys.readouterr().err
    assert after == before | {"evaluations.changed.csv": edited}


def test_a_checkpoint_that_only_counts_rows_refuses_where_some_are_gone(tmp_path) -> None:
    """Checkpoints of format 0 have sizes alone."""
    (tmp_path / "progress.csv").write_text("seed,step\r\n0,1\r\n0,2\r\n")
    # 11 bytes of header, 5 a row
    state = {"bytes": {"progress.csv": 16}}
    assert logs.recorded(tmp_path, state)["progress.csv"] == "seed,step\r\n0,1\r\n"
    state = {"bytes": {"progress.csv": 26}}
    with pytest.raises(logs.LogError, match=r"21 bytes of the 26 .* rows are gone"):
        logs.recorded(tmp_path, state)


def test_a_run_that_lost_its_checkpoint_is_refused_and_kept(short_runs, monkeypatch) -> None:
    run = short_runs.create("run", "ppo", PENDULUM, **SHORT)
    interrupt(run, monkeypatch, 3)
    for name in ("checkpoint", "policy"):  # the second one is no longer a sign of the first
        shutil.rmtree(run.folder / name)
        before = content(run.folder)
        with pytest.raises(runs.RunError, match=r"no checkpoint left to go on from; nothing was"):
            runs.execute(runs.reopen(run.folder))
        assert content(run.folder) == before


def test_a_run_stopped_before_its_first_checkpoint_begins_anew_and_says_so(
    short_runs, monkeypatch, capsys
) -> None:
    whole = short_runs.train("whole", "ppo", PENDULUM, **SHORT)
    run = short_runs.create("run", "ppo", PENDULUM, **SHORT)
    interrupt(run, monkeypatch, 2)
    (run.folder / "mine.csv").write_text("a,b\n")
    runs.execute(runs.reopen(run.folder))
    said = capsys.readouterr().err
    assert "there is no checkpoint yet, so a resume begins anew" in said
    assert "no checkpoint was written yet: 2 rows" in said
    assert_same_run(whole, run.folder)
    assert (run.folder / "mine.csv").read_text() == "a,b\n"


# -------------------------------------------------------------------------------- leftovers


def test_what_killed_writers_left_is_removed_and_nothing_else(short_runs, monkeypatch) -> None:
    whole = short_runs.train("whole", "ppo", PENDULUM, **SHORT)
    run = short_runs.create("run", "ppo", PENDULUM, **SHORT)
    interrupt(run, monkeypatch, 3)
    folder = run.folder
    own = [folder / name for name in ("config.partial", "progress.partial", "finished.partial")]
    own.append(folder / "checkpoint" / "000000003.partial")
    others = [folder / "thesis.partial", folder / "checkpoint" / "mine.partial"]
    for path in own + others:
        path.write_text("half")
    for name in ("policy.partial", "policy.old"):
        shutil.copytree(folder / "policy", folder / name)
        own.append(folder / name)
    runs.execute(runs.reopen(folder))
    assert not any(path.exists() for path in own) and all(path.exists() for path in others)
    assert_same_run(whole, folder)


def test_a_folder_named_like_a_checkpoint_is_none(short_runs, monkeypatch) -> None:
    whole = short_runs.train("whole", "ppo", PENDULUM, **SHORT)
    run = short_runs.create("run", "ppo", PENDULUM, **SHORT)
    interrupt(run, monkeypatch, 3)
    strange = [run.folder / "checkpoint" / name for name in ("000000003.ckpt", "latest.ckpt")]
    strange[0].mkdir()
    strange[1].write_text("a note")
    runs.execute(runs.reopen(run.folder))
    assert_same_run(whole, run.folder)
    assert all(path.exists() for path in strange)


def test_the_checkpoint_of_another_version_of_an_algorithm_is_one_line(short_runs) -> None:
    folder = short_runs.train("run", "ppo", PENDULUM, **SHORT)
    (folder / "finished").unlink()
    iterations, state = checkpoint.load(folder / "checkpoint", print)
    state["learner"]["momentum"] = state["learner"].pop("net")
    checkpoint.save(folder / "checkpoint", iterations, state)
    with pytest.raises(checkpoint.CheckpointError, match="lacks or adds momentum, net") as error:
        runs.execute(runs.reopen(folder))
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------- signals


def test_sigterm_loses_nothing_of_a_run_that_learns_from_data(
    short_runs, monkeypatch, capsys
) -> None:
    settings = {"seeds": (0,), "checkpoints": 1, "evaluations": 1}
    whole = short_runs.train("whole", "td3_bc", PENDULUM, **settings)
    run = short_runs.create("run", "td3_bc", PENDULUM, **settings)
    interrupt(run, monkeypatch, 3, lambda: signal.raise_signal(signal.SIGTERM))
    # 4 iterations of 50 steps; the only checkpoint that is due is at the end
    assert "ended at step 150; the checkpoint at step 150 is intact" in capsys.readouterr().err
    runs.execute(runs.reopen(run.folder))
    assert "resuming at step 150" in capsys.readouterr().err
    assert_same_run(whole, run.folder)
