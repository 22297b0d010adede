"""Going on from the planned end of a run: what it becomes, and what it says of itself."""

import json
import re

import pytest

from rlsuite.cli.main import main
from rlsuite.evidence import rows
from rlsuite.evidence.export import export
from rlsuite.evidence.tables.summaries import failings
from rlsuite.runs import checkpoint
from rlsuite.runs import run as runs

PENDULUM = "InvertedPendulum-v4"
SHORT = {"seeds": (0,), "env_steps": 256, "num_steps": 128, "checkpoints": 1, "evaluations": 1}


def about(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_a_finished_run_goes_on_and_is_no_run_of_that_length(short_runs, capsys) -> None:
    folder = short_runs.train("run", "ppo", PENDULUM, **SHORT)
    old, first = (folder / "config.json").read_text(), (folder / "progress.csv").read_text()
    assert main(["train", "--resume", str(folder), "--env-steps", "512"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    # 256 of 512 steps are behind it: half of the longer schedule
    assert "learning_rate follows a schedule over the whole run: at step 256 it was at" in said
    assert "and goes on at 50% of one of 512" in said
    assert "does not equal a run that was begun at the length to which it was extended" in said
    was, now = json.loads(old), about(folder)
    honest = short_runs.create("other", "ppo", PENDULUM, **SHORT | {"env_steps": 512})
    hashes = {was["config_hash"], now["config_hash"], honest.manifest["config_hash"]}
    assert len(hashes) == 3
    assert now["config"]["env_steps"] == 512 and now["declared"]["steps"] == 512
    (entry,) = now["extended"]
    assert (entry["step"], entry["to"], entry["config_hash"]) == (256, 512, was["config_hash"])
    assert (folder / f"config-{was['config_hash']}.json").read_text() == old
    logged = (folder / "progress.csv").read_text()
    assert logged.startswith(first) and len(logged.splitlines()) == 1 + 4
    assert (folder / "finished").exists()
    exported = rows.read_file(path := export(folder, folder / "results"), path.with_suffix(".json"))
    (line,) = failings([exported])
    assert line.startswith("EXTENDED: ppo on InvertedPendulum-v4 was planned for 256 steps")
    runs.execute(runs.reopen(folder))  # and it is a run like any other
    assert "has finished: there is nothing left to train" in capsys.readouterr().err


@pytest.mark.parametrize(("killed_at", "left_from"), [(384, 256), (640, 512)])
def test_a_longer_run_that_is_killed_goes_on_from_its_newest_checkpoint(
    killed_at, left_from, short_runs, monkeypatch, capsys
) -> None:
    """The shorter run's, at its end, or its own first, after half of 8 iterations."""
    folder = short_runs.train("run", "ppo", PENDULUM, **SHORT | {"checkpoints": 2})
    run = runs.reopen(folder, longer={"env_steps": 1024})
    log = run.log

    def killed(*args) -> None:
        log(*args)
        if run.step == killed_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "log", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run)
    assert not (folder / "finished").exists()
    capsys.readouterr()
    runs.execute(runs.reopen(folder))
    assert f"resuming at step {left_from}" in capsys.readouterr().err
    assert about(folder)["config"]["env_steps"] == 1024
    assert checkpoint.load(folder / "checkpoint", print)[1]["step"] == 1024


def test_a_ring_grows_with_its_run(short_runs) -> None:
    """A replay buffer as long as the run was has room for what is added now."""
    given = {"seeds": (0,), "checkpoints": 1, "evaluations": 1, "capacity": 9999}
    folder = short_runs.train("run", "sac", PENDULUM, **given)
    steps = about(folder)["config"]["env_steps"]
    runs.execute(runs.reopen(folder, longer={"env_steps": steps + 64}))
    state = checkpoint.load(folder / "checkpoint", print)[1]["learner"]["buffer"]
    assert state["added"] == state["capacity"] == steps + 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env-steps", "256"], r"has taken 256 steps; --env-steps is 256"),
        (["--env-steps", "500", "--gradient-steps", "9"], "goes on by one of its lengths"),
        (["--gradient-steps", "900"], "is no setting of ppo; type: --env-steps NUMBER"),
        (["--env-steps", "512", "--clip", "0.1"], r"no other flag \(got --clip 0.1\)"),
    ],
)
def test_what_cannot_go_on_is_one_line_and_changes_nothing(
    words, message, finished, capsys
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["train", "--resume", str(finished), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.fixture
def finished(short_runs):
    return short_runs.train("run", "ppo", PENDULUM, **SHORT)


def test_only_the_last_stage_of_a_run_goes_on(short_runs) -> None:
    """SPOT learns online after it has learned from data: those steps cannot come later."""
    steps = {"steps_per_iteration": 50, "density_steps": 50, "gradient_steps": 50}
    given = steps | {"online_steps": 50, "seeds": (0,), "evaluations": 1}
    folder = short_runs.train("run", "spot", PENDULUM, **given)
    before = (folder / "config.json").read_bytes()
    with pytest.raises(runs.RunError, match="lengthens a stage that others follow"):
        runs.execute(runs.reopen(folder, longer={"gradient_steps": 100}))
    assert (folder / "config.json").read_bytes() == before and (folder / "finished").exists()


def test_a_run_that_has_not_finished_does_so_first(short_runs, finished) -> None:
    (finished / "finished").unlink()
    with pytest.raises(runs.RunError, match="has not finished; first type: rlsuite train --resume"):
        runs.reopen(finished, longer={"env_steps": 512})
