"""Snapshots: policies kept along a run, each with what its sampled actions earn.

Data sets are made of them: `rlsuite data keep`. A snapshot is a whole policy, `snapshots/STEP`; its
returns are rows of snapshots.csv. Its random numbers depend on seed and step alone, so training is
the same with and without snapshots, and a resumed run repeats them.
"""

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlsuite import envs
from rlsuite.core.saving import save_policy
from rlsuite.runs.evaluation import evaluate
from rlsuite.runs.files import flush

FOLDER = "snapshots"
EPISODES = 20  # of each seed


class Snapshots:
    """Takes the snapshots of the run in `folder`, in environments of their own."""

    def __init__(self, folder: Path, task: str, seeds: Sequence[int], engine: str) -> None:
        self.folder, self.task, self.seeds, self.engine = folder / FOLDER, task, seeds, engine
        self._envs: envs.Environments | None = None

    def take(self, policy, manifest: dict) -> list[dict]:
        """Keep `policy`, on disk when this returns; a row for each seed. `manifest` has the `step`.

        OSError if it cannot be written.
        """
        if self._envs is None:
            self._envs = envs.make(self.task, self.seeds, EPISODES, self.engine)
        step = manifest["step"]
        rngs = [_generator(seed, step) for seed in self.seeds]
        env_seeds = np.stack([rng.integers(0, 2**31 - 1, EPISODES) for rng in rngs])
        policy.eval()
        found = evaluate(policy, self._envs, env_seeds, rngs)
        policy.train()
        folder = self.folder / f"{step:012d}"
        save_policy(policy, folder, manifest)
        for path in (*folder.iterdir(), self.folder, self.folder.parent):
            flush(path)
        rows = []
        for seed, returns, lengths in zip(self.seeds, found.returns, found.lengths, strict=True):
            spread = {name: float(getattr(returns, name)()) for name in ("std", "min", "max")}
            row = {"seed": seed, "step": step, "return": float(returns.mean()), **spread}
            rows.append(row | {"length": float(lengths.mean())})
        return rows

    def close(self) -> None:
        """Free the environments."""
        if self._envs is not None:
            self._envs.close()


def clean(folder: Path) -> None:
    """Remove what a writer that was killed has left by halves in the run folder `folder`."""
    for pattern in ("*.partial", "*.old"):
        for path in (folder / FOLDER).glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _generator(seed: int, step: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(b"snapshot"), step]))
