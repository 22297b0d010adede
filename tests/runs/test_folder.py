"""A run folder: whose it is, what it was begun with, and what is refused when that has changed."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import logged

from rlsuite.runs import folder as folders
from rlsuite.runs import machine
from rlsuite.runs import run as runs

PENDULUM = "InvertedPendulum-v4"
SHORT = {"seeds": (0,), "env_steps": 512, "num_steps": 128, "checkpoints": 2, "evaluations": 2}


def about(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def edit(folder: Path, **changes) -> None:
    (folder / "config.json").write_text(json.dumps(about(folder) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(runs.RunError) as refused:
        runs.reopen(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ------------------------------------------------------------------------------- beginning


def test_of_two_starts_at_once_one_gets_a_line_and_writes_nothing(short_runs, monkeypatch) -> None:
    write, refused = folders._write, []

    def second_start(folder: Path, manifest: dict) -> None:
        monkeypatch.setattr(folders, "_write", write)
        with pytest.raises(runs.RunError) as error:
            short_runs.create("run", "trpo", PENDULUM, **SHORT)
        refused.append(str(error.value))
        write(folder, manifest)

    monkeypatch.setattr(folders, "_write", second_start)
    folder = short_runs.create("run", "ppo", PENDULUM, **SHORT).folder
    assert len(refused) == 1 and "another process is training in" in refused[0]
    assert about(folder)["algorithm"] == "ppo"


def test_what_a_start_that_was_killed_at_once_leaves_is_free(short_runs) -> None:
    folder = short_runs.root / "run"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "config.partial").write_text('{"algorithm": "tr')
    short_runs.create("run", "ppo", PENDULUM, **SHORT)
    assert runs.reopen(folder).algorithm == "ppo"
    assert not (folder / "config.partial").exists()


# --------------------------------------------------------------------- settings and versions


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("config", "retired_flag", 1, r"does not know: config\.retired_flag; it was written by"),
        ("settings", "speed", "high", r"does not know: settings\.speed; it was written by"),
        ("config", "gae_lambda", None, r"lacks: config\.gae_lambda; it was written by rlsuite"),
        ("settings", "evaluations", None, r"lacks: settings\.evaluations; it was written by"),
    ],
)
def test_fields_of_another_version_are_named(part, name, value, message, short_runs) -> None:
    folder = short_runs.create("run", "ppo", PENDULUM, **SHORT).folder
    fields = about(folder)[part]
    fields.pop(name, None)
    manifest = about(folder) | {part: fields if value is None else fields | {name: value}}
    folders._write(folder, manifest)  # with a hash that fits
    with pytest.raises(runs.RunError, match=message):
        runs.reopen(folder)


@pytest.mark.parametrize("version", [2, -1, "1", None, True, 1.0])
def test_a_format_that_is_not_known_is_refused(version, short_runs) -> None:
    folder = short_runs.create("run", "ppo", PENDULUM, **SHORT).folder
    edit(folder, format=version)
    assert "knows formats up to 1: it was written by rlsuite" in refusal(folder)


def test_an_edited_setting_is_named_by_the_checkpoint(short_runs) -> None:
    folder = short_runs.train("run", "ppo", PENDULUM, **SHORT)
    edit(folder, config=about(folder)["config"] | {"learning_rate": 0.5, "epochs": 7})
    said = refusal(folder)
    assert "config.learning_rate is 0.5, was 0.0003" in said and "config.epochs is 7, was" in said
    assert "put it back" in said


@pytest.mark.parametrize(
    "changes", [{"task": "Hopper-v4"}, {"commit": "0"}, {"sessions": [{}]}, {"more": 1}]
)
def test_any_other_edit_is_refused_before_there_is_a_checkpoint(changes, short_runs) -> None:
    folder = short_runs.create("run", "ppo", PENDULUM, **SHORT).folder
    edit(folder, **changes)
    assert "is not as the run wrote it" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"algorithm": 3}', "[" * 100_000, "\xff"])
def test_a_damaged_manifest_is_one_line(text, tmp_path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    assert "is not a run folder" in refusal(tmp_path)


def test_the_checkpoint_of_another_run_is_refused(short_runs) -> None:
    folder = short_runs.train("run", "ppo", PENDULUM, **SHORT)
    other = short_runs.create("other", "ppo", PENDULUM, **SHORT | {"epochs": 3}).folder
    os.rename(folder / "checkpoint", other / "checkpoint")
    with pytest.raises(runs.RunError, match=r"of another run \(config.epochs is 3, was "):
        runs.execute(runs.reopen(other))


def format_0(folder: Path) -> None:
    """Make a manifest what versions before formats wrote."""
    new = ("format", "evaluation_engine", "sessions", "manifest_hash", "dataset_path")
    manifest = {key: value for key, value in about(folder).items() if key not in new}
    (folder / "config.json").write_text(json.dumps(manifest, indent=2))


def test_a_folder_from_before_formats_goes_on_unless_a_setting_was_edited(short_runs) -> None:
    folder = short_runs.create("run", "ppo", PENDULUM, **SHORT).folder
    format_0(folder)
    runs.execute(runs.reopen(folder))
    assert (folder / "finished").exists()
    edit(folder, config=about(folder)["config"] | {"learning_rate": 0.5})
    assert "config.learning_rate is 0.5, was 0.0003" in refusal(folder)


def test_sessions_under_other_conditions_are_said_and_recorded(
    short_runs, monkeypatch, capsys
) -> None:
    folder = short_runs.create("run", "ppo", PENDULUM, **SHORT).folder
    begun = about(folder)
    interrupt_at(2, runs.reopen(folder), monkeypatch)  # one checkpoint later, at step 256
    assert about(folder) == begun  # nothing differed
    monkeypatch.setattr(machine, "git_commit", lambda: "c0ffee")
    monkeypatch.setattr(machine, "versions", lambda: begun["versions"] | {"torch": "9.9"})
    runs.execute(runs.reopen(folder))
    versions = f"torch 9.9 (was {begun['versions']['torch']})"
    said = capsys.readouterr().err
    assert f"from step 256 on with {versions}, commit c0ffee (was {begun['commit']})" in said
    (session,) = about(folder)["sessions"]
    assert (session["step"], session["commit"]) == (256, "c0ffee")
    assert session["versions"]["torch"] == "9.9" and session["hardware"] == begun["hardware"]
    runs.reopen(folder)  # the hash fits


def interrupt_at(iteration: int, run: runs.Run, monkeypatch) -> None:
    """Execute `run` until its log is written for the `iteration`-th time after a checkpoint."""
    log, count = run.log, []

    def counted(*args) -> None:
        log(*args)
        count.append(1)
        if len(count) == iteration + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "log", counted)
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run)


# ----------------------------------------------------------------------------- engines, data


def test_a_run_begun_with_envpool_does_not_go_on_without_it(short_runs, monkeypatch) -> None:
    pytest.importorskip("envpool")
    changes = SHORT | {"seeds": (0, 1), "num_envs": 4, "engine": "auto"}
    folder = short_runs.create("run", "ppo", PENDULUM, **changes).folder
    assert about(folder)["engine"] == "envpool"
    monkeypatch.setitem(sys.modules, "envpool", None)  # makes `import envpool` fail
    version = about(folder)["versions"]["envpool"]
    assert f"begun with EnvPool {version}, which is not installed" in refusal(folder)
    assert f"pip install envpool=={version}" in refusal(folder)
    format_0(folder)  # "auto" meant EnvPool then, too
    assert f"pip install envpool=={version}" in refusal(folder)


def test_engines_are_chosen_once_and_each_for_its_own_number(short_runs, monkeypatch) -> None:
    pytest.importorskip("envpool")
    changes = SHORT | {"engine": "auto", "evaluation_episodes": 8}
    run = short_runs.create("both", "ppo", PENDULUM, **changes)
    # 1 environment: a loop is faster; 8: EnvPool is
    manifest = about(run.folder)
    assert (manifest["engine"], manifest["evaluation_engine"]) == ("gymnasium", "envpool")
    changes |= {"num_envs": 8, "env_steps": 1024}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "envpool", None)
        folder = short_runs.create("neither", "ppo", PENDULUM, **changes).folder
    reopened = runs.reopen(folder)
    assert reopened.environments(8).engine == reopened._evaluating.engine == "gymnasium"
    reopened.close()


def test_another_data_set_under_the_same_name_is_refused(short_runs, monkeypatch) -> None:
    folder = short_runs.create("run", "bc", PENDULUM).folder
    path = Path(about(folder)["settings"]["dataset"])
    interrupt_at(2, runs.reopen(folder), monkeypatch)
    rows = (folder / "progress.csv").read_bytes()
    old, sha256 = path.read_bytes(), about(folder)["data"]["sha256"]
    with np.load(path) as arrays:
        changed = dict(arrays) | {"rewards": arrays["rewards"] + 1}
    np.savez(path, **changed)
    with pytest.raises(runs.RunError, match=rf"not the data set .* its SHA-256 .* was {sha256}"):
        runs.execute(runs.reopen(folder))
    assert (folder / "progress.csv").read_bytes() == rows
    path.write_bytes(old)
    runs.execute(runs.reopen(folder))
    assert (folder / "finished").exists()


def test_a_relative_data_path_is_found_from_another_folder(short_runs, monkeypatch, capsys) -> None:
    (short_runs.root / "here").mkdir()
    (short_runs.root / "there").mkdir()
    monkeypatch.chdir(short_runs.root / "here")
    logged(Path("mine.npz"), PENDULUM)
    folder = short_runs.create("run", "bc", PENDULUM, dataset="mine.npz").folder
    monkeypatch.chdir(short_runs.root / "there")
    runs.execute(runs.reopen(folder))
    assert (folder / "finished").exists()
    said = capsys.readouterr().err
    assert f"mine.npz is read from {short_runs.root / 'here' / 'mine.npz'}" in said
