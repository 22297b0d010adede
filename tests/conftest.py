"""Shared by all tests: short runs, driven in this process or in one that can be killed.

short_runs         creates and trains runs of an algorithm's `smoke` preset in the test's own folder
finished_run       the folder of such a run, trained once for all tests: to read, or to copy
start_process      calls a function in a new process, for a quarter of a second of CPU
compiler           lets torch.compile find what earlier tests compiled; skips where there is no g++

A test that takes more than about three seconds of CPU is marked `slow`; `make quick` leaves it out.
"""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsuite import algorithms, envs
from rlsuite.envs import Constraint, constrain, faults
from rlsuite.runs import run as runs
from rlsuite.runs.settings import Settings, preset

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell lets what it starts in the background ignore interrupts, and tests send some
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # as in training; each core has a process of its own
# New processes are forked from one that has imported all of this and has only one thread
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "pytest",
        "envpool",
        "gymnasium.envs.mujoco",
        "rlsuite.cli.main",
        *algorithms.ALGORITHMS.values(),
    ]
)


def tilt_and_speed(obs, action, next_obs, reward, signals) -> np.ndarray:
    """Signed distances of a pole's two speeds, and of its place and angle, to limits: [E, 4]."""
    return np.abs(next_obs[:, [2, 3, 0, 1]]) - 0.05


# What the tests of every algorithm train on, under constraints where one needs some
CONSTRAINED = {
    task: f"{task.partition('-')[0]}UnderTest-{task.partition('-')[2]}"
    for task in ("InvertedPendulum-v4", "CartPole-v1")
}
for _task, _name in CONSTRAINED.items():
    _two = (Constraint("speed", 2, "episode", columns=2), Constraint("place", 1, "episode", 2))
    constrain(_name, _task, None, *_two, margin=tilt_and_speed)


@dataclasses.dataclass
class ShortRuns:
    """Creates runs of an algorithm's `smoke` preset in a temporary folder."""

    root: Path

    def create(self, name: str, algorithm: str, env: str, **changes) -> runs.Run:
        module = algorithms.load(algorithm)
        env = CONSTRAINED.get(env, env) if algorithms.is_constrained(algorithm) else env
        known = {f.name for f in dataclasses.fields(Settings)}
        settings = {"env": env, "seeds": (0, 1), "evaluation_episodes": 2, "engine": "gymnasium"}
        settings |= {k: v for k, v in changes.items() if k in known}
        if algorithms.takes_data(algorithm) and "dataset" not in settings:
            settings["dataset"] = str(logged(self.root / f"{env}.npz", env))
        values = preset(module, "smoke", env) | {k: changes[k] for k in changes if k not in known}
        return runs.create(
            self.root / name, algorithm, module.Config(**values), Settings(**settings)
        )

    def train(self, name: str, algorithm: str, env: str, **changes) -> Path:
        run = self.create(name, algorithm, env, **changes)
        runs.execute(run)
        return run.folder


def needs_a_box(algorithm: str) -> bool:
    """Whether its actions are continuous, whatever the task."""
    return algorithms.takes_data(algorithm) or algorithms.is_off_policy(algorithm)


def start_of(run: runs.Run, count: int, look: Callable = lambda learner: None) -> None:
    """Execute `count` iterations of `run` after its preparation; `look(learner)` first."""
    begin, stage, left = run.begin, run.stage, [count]

    def begun(learner, *, prepare=None, **given):
        look(learner)
        begin(learner, prepare=prepare, **given)
        run.stage = lambda name: stage(name) if name in (prepare or {}) else first_of(name)

    def first_of(name):
        for k in islice(stage(name), left[0]):
            left[0] -= 1
            yield k

    run.begin, run.finish = begun, lambda: None
    runs.execute(run)


def logged(path: Path, task: str) -> Path:
    """300 steps of random actions in `task`, as a D4RL file with next observations."""
    if path.exists():
        return path
    rng, pool = np.random.default_rng(0), envs.make(task, (0,), 1, "gymnasium")
    obs, rows = pool.reset(np.array([[0]])), []
    for _ in range(300):
        action = rng.uniform(pool.action_low, pool.action_high, (1, 1, pool.action_size))
        step = pool.step(action.astype(np.float32))
        ends = (step.terminated, step.truncated)
        rows.append([x[0, 0] for x in (obs, action, step.reward, *ends, step.final_obs)])
        obs = step.obs
    pool.close()
    keys = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    columns = (np.stack(column) for column in zip(*rows, strict=True))
    np.savez(path, **dict(zip(keys, columns, strict=True)))
    return path


@pytest.fixture
def short_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShortRuns:
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    return ShortRuns(tmp_path)


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> ShortRuns:
    return ShortRuns(tmp_path_factory.mktemp("finished_runs"))


@pytest.fixture
def finished_run(finished_runs: ShortRuns, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`finished_run(algorithm, env)`: the folder of a run with the settings of `short_runs`.

    It belongs to all tests of this process, so change a copy (`shutil.copytree`), never the folder.
    """
    monkeypatch.setenv("RLSUITE_CACHE", str(finished_runs.root / "cache"))

    def find(algorithm: str, env: str) -> Path:
        folder = finished_runs.root / f"{algorithm}-{env}"
        return folder if folder.exists() else finished_runs.train(folder.name, algorithm, env)

    return find


@pytest.fixture(scope="session")
def compiled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def compiler(compiled_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile with a cache of this session: its C++ headers alone take seconds."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiled_folder))
    torch._dynamo.reset()  # in one process it compiles a function eight times, and then no more


@pytest.fixture
def start_process(tmp_path: Path):
    """`start_process(function, *arguments)`: the process in which that call has begun.

    It shares nothing with this one but the environment variables. `function` and its arguments are
    pickled, so it has to be one of a module. The process has `exitcode`, `join()` and `kill()`,
    which is SIGKILL; what it wrote to its standard error is `said(process)`. It ends with the test.
    """
    started: list[BaseProcess] = []

    def start(function: Callable, *arguments) -> BaseProcess:
        errors = tmp_path / f"process-{len(started)}.stderr"
        given = (dict(os.environ), errors, function, *arguments)
        process = FORKS.Process(target=begin, args=given, name=str(errors))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def begin(environment: dict, errors: Path, function: Callable, *arguments) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.stderr = open(errors, "w", buffering=1)  # noqa: SIM115 (the process ends with the call)
    function(*arguments)


def said(process: BaseProcess) -> str:
    errors = Path(process.name)
    return errors.read_text() if errors.exists() else ""


def go_on(folder: Path) -> None:
    """Resume the run in `folder`, for `start_process`."""
    runs.execute(runs.reopen(folder))


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """`warned()`: what was warned of since the last call, in a process that had not warned yet."""
    monkeypatch.setattr(faults, "_said", set())

    def read() -> list[str]:
        messages = [record.getMessage() for record in caplog.records if record.name == "rlsuite"]
        caplog.clear()
        return messages

    return read
