"""What SIGTERM and Ctrl-C do to a run: it ends where nothing is lost, if that is near."""

import json
import math
import signal
from pathlib import Path

import pytest

from rlsuite.runs import ending
from rlsuite.runs import run as runs

PENDULUM = "InvertedPendulum-v4"
# 8 iterations of 64 steps, a checkpoint after each fourth
SHORT = {"seeds": (0,), "env_steps": 512, "num_steps": 64, "checkpoints": 2, "evaluations": 1}
STOPS = (signal.SIGTERM, signal.SIGINT)


def asked(run: runs.Run, monkeypatch, *signals: int, at: int = 2) -> None:
    """Execute `run`, to which `signals` are sent once its log has `at` iterations."""
    log, count = run.log, []

    def counted(*args) -> None:
        log(*args)
        count.append(1)
        for number in signals if len(count) == at else ():
            signal.raise_signal(number)

    monkeypatch.setattr(run, "log", counted)
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run)


def numbers(folder: Path) -> list[str]:
    lines = (folder / "progress.csv").read_text().splitlines()
    return [line.rpartition(",")[0] for line in lines]  # without the seconds


def laps(monkeypatch, seconds: float) -> None:
    monkeypatch.setattr(ending.Laps, "seconds", lambda self, count: count * seconds)


@pytest.mark.parametrize("number", STOPS)
def test_a_run_ends_at_its_next_checkpoint_and_repeats_an_unbroken_one(
    number, short_runs, monkeypatch, capsys
) -> None:
    before = [signal.getsignal(each) for each in STOPS]
    run = short_runs.create("run", "ppo", PENDULUM, **SHORT)
    laps(monkeypatch, 3.0)
    asked(run, monkeypatch, number)
    said = capsys.readouterr().err
    # In the second of 8 iterations; the checkpoint comes after the fourth: 3 of 3 seconds each
    assert "ending at the next checkpoint, in about 9 seconds; Ctrl-C ends at once" in said
    assert "ended at step 256; the checkpoint at step 256 is intact" in said
    assert [signal.getsignal(each) for each in STOPS] == before
    runs.execute(runs.reopen(run.folder))
    assert numbers(run.folder) == numbers(short_runs.train("whole", "ppo", PENDULUM, **SHORT))
    assert "unscheduled" not in json.loads((run.folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("seconds", "signals"), [(7.0, STOPS[:1]), (7.0, STOPS[1:]), (1.0, (STOPS[0], STOPS[1]))]
)
def test_it_ends_at_once_where_the_next_is_far_or_it_is_asked_again(
    seconds, signals, short_runs, monkeypatch, capsys
) -> None:
    """3 iterations of 7 seconds are more than 20 seconds."""
    run = short_runs.create("run", "ppo", PENDULUM, **SHORT)
    laps(monkeypatch, seconds)
    asked(run, monkeypatch, *signals)
    said = capsys.readouterr().err
    assert "ended at step 128; there is no checkpoint yet" in said
    assert ("in about 3 seconds" in said) == (len(signals) == 2)


def test_a_checkpoint_that_was_not_due_is_made_on_request_and_recorded(
    short_runs, monkeypatch, capsys
) -> None:
    asked_for = SHORT | {"checkpoint_on_stop": True}
    run = short_runs.create("run", "ppo", PENDULUM, **asked_for)
    laps(monkeypatch, math.inf)
    asked(run, monkeypatch, signal.SIGTERM)
    said = capsys.readouterr().err
    assert "a checkpoint at step 128, where none was due" in said
    assert "ended at step 128; the checkpoint at step 128 is intact" in said
    runs.execute(runs.reopen(run.folder))
    about = json.loads((run.folder / "config.json").read_text())
    assert about["unscheduled"] == [{"step": 128}]
    whole = short_runs.train("whole", "ppo", PENDULUM, **SHORT)
    assert json.loads((whole / "config.json").read_text())["config_hash"] == about["config_hash"]
    mine, theirs = numbers(run.folder), numbers(whole)
    assert mine[:3] == theirs[:3] and mine[3:] != theirs[3:]  # an episode was cut


def test_laps_are_as_long_as_the_last_ones_were(monkeypatch) -> None:
    """Ends at 10, 12 and 14 seconds: 2 each. At 15, one of three is half done: 3 x 2 - 1 = 5."""
    clock = iter([10.0, 12.0, 14.0, 15.0])
    monkeypatch.setattr(ending, "perf_counter", lambda: next(clock))
    known = ending.Laps()
    assert known.seconds(3) == math.inf
    for _ in range(3):
        known.end()
    assert known.seconds(3) == 5.0
