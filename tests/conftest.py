"""Shared by all tests: short runs, driven in this process or in one that can be killed."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlsuite import algorithms, envs
from rlsuite.envs import faults
from rlsuite.experiments import run as runs
from rlsuite.experiments.settings import Settings, preset

# What a child process executes: a run folder, created or gone on with
CHILD = """
import sys
from pathlib import Path
from rlsuite.experiments import run
run.execute(run.reopen(Path(sys.argv[1])))
"""


@dataclasses.dataclass
class ShortRuns:
    """Creates runs of an algorithm's `smoke` preset in a temporary folder."""

    root: Path

    def create(self, name: str, algorithm: str, env: str, **changes) -> runs.Run:
        module = algorithms.load(algorithm)
        known = {f.name for f in dataclasses.fields(Settings)}
        settings = {"env": env, "seeds": (0, 1), "evaluation_episodes": 2, "engine": "gymnasium"}
        settings |= {k: v for k, v in changes.items() if k in known}
        if algorithms.is_offline(algorithm):
            settings.setdefault("dataset", str(logged(self.root / f"{env}.npz", env)))
        values = preset(module, "smoke", env) | {k: changes[k] for k in changes if k not in known}
        return runs.create(
            self.root / name, algorithm, module.Config(**values), Settings(**settings)
        )

    def train(self, name: str, algorithm: str, env: str, **changes) -> Path:
        run = self.create(name, algorithm, env, **changes)
        runs.execute(run)
        return run.folder

    def start(self, folder: Path) -> subprocess.Popen:
        """A process that goes on with the run in `folder`."""
        command = [sys.executable, "-c", CHILD, str(folder)]
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )


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


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """`warned()`: what was warned of since the last call, in a process that had not warned yet."""
    monkeypatch.setattr(faults, "_said", set())

    def read() -> list[str]:
        messages = [record.getMessage() for record in caplog.records if record.name == "rlsuite"]
        caplog.clear()
        return messages

    return read
