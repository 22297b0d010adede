"""rlsuite from Python: `train` gives a run, `load_policy` what it has learned.

Both are what the commands are: the same settings, the same checks, the same run folder.
"""

import csv
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlsuite import envs
from rlsuite.cli import train as command
from rlsuite.core import saving
from rlsuite.core.acting import Policy
from rlsuite.core.spaces import Spaces
from rlsuite.envs.tasks import require_typed
from rlsuite.envs.unregistered import name_of
from rlsuite.runs.logs import EVALUATIONS, PROGRESS


def load_policy(folder: str | Path, *, seed: int | None = None, policy: str = "") -> Policy:
    """The policy of a run in `folder`, or of a copy of its `policy/`, for one seed.

    `seed` is one of those that were trained, by default the first; `policy` is a name where the run
    has several, such as "best". What it returns has `act(obs)`: see `rlsuite.core.acting.Policy`,
    or `help(policy)`, for its shapes. ValueError, in one line, for what is not there.
    """
    network, about = saving.load_policy(Path(folder), policy)
    seeds = about["seeds"]
    if seed is not None and seed not in seeds:
        raise ValueError(f"seed {seed} is not in {folder}; it has {', '.join(map(str, seeds))}")
    if "spaces" in about:
        spaces = Spaces.from_json(about["spaces"])
    else:  # saved by a version that kept none
        require_typed(about["task"], str(folder))
        pool = envs.make(about["task"], [0], 1)
        spaces = pool.spaces
        pool.close()
    return Policy(network, about, spaces, seeds[0] if seed is None else seed)


@dataclass(frozen=True)
class TrainedRun:
    """A run that has finished; all that there is to know of it lies in its `folder`."""

    folder: Path

    @property
    def rows(self) -> list[dict]:
        """A row of each evaluation and seed, as in evaluations.csv: numbers, None where none is."""
        return _rows(self.folder / EVALUATIONS)

    @property
    def progress(self) -> list[dict]:
        """A row of each iteration and seed, as in progress.csv."""
        return _rows(self.folder / PROGRESS)

    def load_policy(self, *, seed: int | None = None, policy: str = "") -> Policy:
        """As `rlsuite.load_policy` of the run's folder."""
        return load_policy(self.folder, seed=seed, policy=policy)


def train(
    algorithm: str | None = None,
    *,
    env: str | Callable | None = None,
    resume: str | Path | None = None,
    **settings,
) -> TrainedRun:
    """Train `algorithm`, or go on with the run in the folder `resume`; returns when it has ended.

        run = rlsuite.train("ppo", env="CartPole-v1", seeds=5, env_steps=100_000)
        run.folder, run.rows[-1]["return"], run.load_policy().act(obs)

    `env` is a task's name, or a function that makes a Gymnasium environment of your own,
    `lambda: MyEnv()`, which needs no registration. Such a run is gone on with from Python alone:
    `rlsuite.train(resume=folder, env=lambda: MyEnv())`. A run that has finished goes on from
    its end by `rlsuite.train(resume=folder, env_steps=...)`, or `gradient_steps=...`.

    `settings` are the flags of `rlsuite train ALGORITHM`, with underscores: `seeds=5` or (1, 4),
    `preset=`, `folder=`, `dataset=`, `env_arg={"g": 1.6}`, `time_limit=`, and every number of the
    algorithm. ValueError, in one line and before any work, for what cannot be.
    """
    task = env if env is None or isinstance(env, str) else name_of(env)
    if resume is None and algorithm is None:
        raise ValueError('which algorithm? write rlsuite.train("ppo", env="Hopper-v4")')
    given = {"resume": resume, "env": task, **settings}
    argv = [word for name, value in given.items() for word in _words(name, value)]
    try:
        if resume is not None:
            return TrainedRun(command.go_on(algorithm, argv))
        typed = ["rlsuite", "train", algorithm, *argv]
        said = _call(algorithm, env, settings) if callable(env) else shlex.join(typed)
        return TrainedRun(command.train_new(algorithm, argv, said))
    except KeyboardInterrupt as interrupt:
        folder = str(interrupt).removeprefix("rlsuite train --resume ")
        again = ", env=..." if callable(env) else ""
        raise KeyboardInterrupt(f"rlsuite.train(resume={folder!r}{again})") from None


def _words(name: str, value: object) -> list[str]:
    """A setting as it is typed: `hidden=(64, 64)` is `--hidden 64 64`."""
    flag = f"--{name.rstrip('_').replace('_', '-')}"
    if value is None and name in ("resume", "env"):
        return []
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, Mapping):
        return [flag, *(f"{key}={each!r}" for key, each in value.items())]
    if isinstance(value, list | tuple | range):
        words = list(map(_word, value))
        return [flag, "".join(f"{word}," for word in words)] if name == "seeds" else [flag, *words]
    return [flag, _word(value)]


def _word(value: object) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)


def _call(algorithm: str, env: Callable, settings: Mapping) -> str:
    name = getattr(env, "__qualname__", type(env).__name__)
    given = "".join(f", {key}={value!r}" for key, value in settings.items())
    return f"rlsuite.train({algorithm!r}, env={name}{given})"


def _rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return [{key: _number(cell) for key, cell in row.items()} for row in csv.DictReader(file)]


def _number(cell: str) -> int | float | str | None:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None
