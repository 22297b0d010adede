"""Shared by all tests: short runs, driven in this process or in one that can be killed."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from rlsuite import algorithms
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


@pytest.fixture
def short_runs(tmp_path: Path) -> ShortRuns:
    return ShortRuns(tmp_path)
