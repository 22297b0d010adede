"""Faults in the middle of a run: a clear message, and nothing already saved is lost."""

import errno
import os
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from safetensors import SafetensorError

from rlsuite.algorithms.on_policy import ppo
from rlsuite.runs import checkpoint, logs
from rlsuite.runs import folder as folders
from rlsuite.runs import run as runs


class Faulty(gymnasium.Env):
    """Rewards 1 a step for 10 steps; from the `broken_from`-th step of its life observes NaN."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    broken_from = 1500
    reward = 1.0

    def __init__(self) -> None:
        self.age = self.time = 0

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.age, self.time = self.age + 1, self.time + 1
        obs = np.full(3, np.nan if self.age >= self.broken_from else 0.5, np.float32)
        return obs, self.reward, self.time == 10, False, {}


@pytest.fixture(autouse=True)
def registered():
    gymnasium.register("Faulty-v0", entry_point=Faulty, max_episode_steps=50)
    yield
    del gymnasium.registry["Faulty-v0"]


def test_nan_observation_names_task_seed_and_step_and_keeps_the_checkpoint(
    short_runs, monkeypatch
) -> None:
    # One checkpoint every 1024 of 2048 steps; environments are re-created there, so that an age of
    # 700 is reached at step 1024 + 700 = 1724, in the iteration that ends at 14 x 128 = 1792.
    monkeypatch.setattr(Faulty, "broken_from", 10**9)
    run = short_runs.create("run", "ppo", "Faulty-v0", seeds=(5, 6), checkpoints=2)
    save = checkpoint.save

    def save_then_break(*args) -> None:
        save(*args)
        Faulty.broken_from = 700

    monkeypatch.setattr(checkpoint, "save", save_then_break)
    said = r"Faulty-v0.*observation.*seed 5.*before step 1792.*; the checkpoint at step 1,024 is"
    with pytest.raises(runs.RunError, match=rf"{said} intact: mend the environment"):
        runs.execute(run)
    iterations, _ = checkpoint.load(run.folder / "checkpoint", print)
    assert iterations == 8  # 8 x 128 = 1024 steps
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(Faulty, "broken_from", 10**9)
    runs.execute(runs.reopen(run.folder))
    assert (run.folder / "finished").exists()


def test_an_observation_before_the_first_checkpoint_promises_none(short_runs, monkeypatch) -> None:
    monkeypatch.setattr(Faulty, "broken_from", 200)
    run = short_runs.create("run", "ppo", "Faulty-v0", seeds=(0,), checkpoints=1)
    with pytest.raises(runs.RunError, match="no checkpoint yet, so a resume begins anew: mend the"):
        runs.execute(run)
    monkeypatch.setattr(Faulty, "broken_from", 10**9)
    runs.execute(runs.reopen(run.folder))
    assert (run.folder / "finished").exists()


def test_a_policy_that_diverged_is_not_blamed_on_the_environment(short_runs, monkeypatch) -> None:
    run = short_runs.create("run", "ppo", "Faulty-v0", seeds=(0,))

    def diverge(config, run) -> None:
        pool = run.environments(1)
        pool.reset(np.zeros((1, 1), int))
        pool.step(np.full((1, 1, 1), np.nan, np.float32))

    monkeypatch.setattr(ppo, "train", diverge)
    with pytest.raises(runs.RunError, match=r"action.*diverged.*Lower one of: --lear") as error:
        runs.execute(run)
    assert "mend" not in str(error.value)


def test_rewards_too_large_for_float32_are_named(short_runs, monkeypatch) -> None:
    monkeypatch.setattr(Faulty, "reward", 1e30)
    monkeypatch.setattr(Faulty, "broken_from", 10**9)
    run = short_runs.create("run", "ppo", "Faulty-v0", seeds=(0,), normalize_reward=False)
    # 10 steps of 1e30 are a return of 1e31
    said = r"seed 0 .*: its rewards reach 1e\+30 a step.*; there is no .*\. Scale the rewards down$"
    with pytest.raises(runs.RunError, match=said):
        runs.execute(run)


def full(*_args, **_named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("part", ["append", "write_history", "contents", "Board"])
def test_a_full_disk_while_logging_is_one_line_and_the_run_can_go_on(
    part, short_runs, monkeypatch
) -> None:
    monkeypatch.setattr(Faulty, "broken_from", 10**9)
    run = short_runs.create("run", "ppo", "Faulty-v0", seeds=(0,))
    with monkeypatch.context() as patch:
        patch.setattr(logs, part, full)
        said = r"cannot write .*run \(No space left on device\); there is no checkpoint yet.*: make"
        with pytest.raises(runs.RunError, match=rf"{said} room .* train --resume {run.folder}$"):
            runs.execute(run)
    runs.execute(runs.reopen(run.folder))
    assert (run.folder / "finished").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), SafetensorError("full")])
def test_a_full_disk_where_an_algorithm_writes_is_one_line(error, short_runs, monkeypatch) -> None:
    run = short_runs.create("run", "ppo", "Faulty-v0", seeds=(0,))

    def train(config, run) -> None:
        raise error

    monkeypatch.setattr(ppo, "train", train)
    with pytest.raises(runs.RunError, match=r"cannot write .*run \(full\); there is no checkpoint"):
        runs.execute(run)


def test_full_disk_at_the_first_checkpoint_promises_no_earlier_one(short_runs, monkeypatch) -> None:
    monkeypatch.setattr(Faulty, "broken_from", 10**9)
    run = short_runs.create("run", "ppo", "Faulty-v0", seeds=(0,))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", full)
        with pytest.raises(
            checkpoint.CheckpointError, match=r"no earlier one, .* begin anew: make"
        ):
            runs.execute(run)
    assert not list((run.folder / "checkpoint").iterdir())


def test_full_disk_while_checkpointing_keeps_the_earlier_one_and_the_run_can_go_on(
    short_runs, monkeypatch
) -> None:
    run = short_runs.create("run", "ppo", "Faulty-v0", seeds=(0,), checkpoints=4)
    replace, calls = os.replace, []

    def full_at_the_second(source, target):
        if str(target).endswith(".ckpt"):
            calls.append(target)
            if len(calls) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(source, target)

    monkeypatch.setattr(os, "replace", full_at_the_second)
    with pytest.raises(checkpoint.CheckpointError, match=r"No space left.*--resume"):
        runs.execute(run)
    assert [p.name for p in (run.folder / "checkpoint").iterdir()] == ["000000004.ckpt"]
    monkeypatch.setattr(os, "replace", replace)
    runs.execute(runs.reopen(run.folder))
    assert (run.folder / "finished").exists()


@pytest.mark.parametrize(
    ("algorithm", "rate", "flags"),
    [("ppo", "learning_rate", "--learning-rate"), ("mdpo", "critic_lr", "--actor-lr --critic-lr")],
)
def test_diverging_training_stops_and_names_the_seed_and_what_to_lower(
    algorithm: str, rate: str, flags: str, short_runs
) -> None:
    # A step of 1e30 sends parameters, and with them the loss, to infinity at once
    run = short_runs.create("run", algorithm, "Faulty-v0", seeds=(0, 1), **{rate: 1e30})
    with pytest.raises(runs.RunError, match=rf"seed 0 .*Lower one of: {flags}$"):
        runs.execute(run)


def test_folder_that_exists_is_refused_and_left_alone(short_runs) -> None:
    folder = short_runs.root / "taken"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(runs.RunError, match=r"taken exists; .* rlsuite train ppo --resume"):
        short_runs.create("taken", "ppo", "Faulty-v0")
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]


def test_folder_that_cannot_be_written_is_refused(short_runs) -> None:
    (short_runs.root / "file").write_text("not a folder")
    with pytest.raises(runs.RunError, match=r"cannot write to .*choose another --folder"):
        short_runs.create("file/run", "ppo", "Faulty-v0")


def test_folder_of_another_algorithm_is_refused(short_runs) -> None:
    folder = short_runs.create("run", "ppo", "Faulty-v0").folder
    with pytest.raises(runs.RunError, match=r"belongs to ppo, not sac; type: rlsuite train ppo"):
        runs.reopen(folder, "sac")


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(runs.RunError, match=r"not a run folder"):
        runs.reopen(tmp_path)


def test_all_checkpoints_damaged_is_said_and_nothing_is_truncated(short_runs) -> None:
    folder = short_runs.train("run", "ppo", "Faulty-v0")
    for path in (folder / "checkpoint").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:100])
    before = shutil.copytree(folder, folder.with_name("copy"))
    with pytest.raises(checkpoint.CheckpointError, match=r"every checkpoint .* is damaged"):
        runs.execute(runs.reopen(folder))
    assert (folder / "progress.csv").read_bytes() == (before / "progress.csv").read_bytes()


def test_folder_in_which_another_process_trains_is_refused(short_runs) -> None:
    folder = short_runs.create("run", "ppo", "Faulty-v0").folder
    with folders.locked(folder), pytest.raises(runs.RunError, match="another process is training"):
        runs.execute(runs.reopen(folder))
    runs.execute(runs.reopen(folder))
    assert (folder / "finished").exists()
