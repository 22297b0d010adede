"""A run: one algorithm on one task for S seeds, in one folder, resumable to the bit.

`train(config, run)` of an algorithm is handed a Run. The folder holds

    config.json       settings, config with the source of each number, versions, hardware, commit
    progress.csv      per seed and iteration: training return and metrics; preparation.csv: the
                      same of iterations before step 0, where an algorithm has such
    evaluations.csv   per seed and evaluation; evaluations.npz: every episode of them
    policy/           the policy as of the last checkpoint; loads without any of this
    checkpoint/       the last two checkpoints

A checkpoint is an episode boundary in every run, interrupted or not: environments restart from
seeds drawn from the run's own streams. So a killed and resumed run repeats an unbroken one exactly.
"""

import csv
import dataclasses
import fcntl
import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from rlsuite import algorithms, envs
from rlsuite.core.chance import Chance
from rlsuite.core.saving import save_policy
from rlsuite.core.streams import Streams
from rlsuite.datasets import scores, store
from rlsuite.datasets.transitions import Transitions, check_task
from rlsuite.envs.tasks import choose_engine, costs_of
from rlsuite.experiments import checkpoint, machine
from rlsuite.experiments.display import Display, spread
from rlsuite.experiments.evaluation import (
    Evaluation,
    cost_cells,
    cost_columns,
    evaluate,
    restored,
)
from rlsuite.experiments.rows import COLUMNS
from rlsuite.experiments.settings import (
    Settings,
    config_hash,
    field_comments,
    learning_rates,
    runs_used,
)
from rlsuite.experiments.turns import GraphTurn, HostTurn

RECENT = 100  # episodes in a training return, as CleanRL reports it


class RunError(RuntimeError):
    """A run cannot start or go on; the message says what to do."""


class Run:
    """What an algorithm sees of the world: environments, streams, logs, evaluation, checkpoints."""

    def __init__(self, folder: Path, algorithm: str, config: object, settings: Settings) -> None:
        """The folder must exist: see `create` and `reopen`."""
        self.folder, self.algorithm = folder, algorithm
        self.config, self.settings = config, settings
        self.task, self.seeds = settings.env, settings.seeds
        self.streams = Streams(self.seeds)
        self.at_boundary = True
        self.step = 0
        self._recent = [deque(maxlen=RECENT) for _ in self.seeds]
        self._history: list[tuple[int, Evaluation]] = []
        self._seconds: dict[str, float] = {}
        self._wall_before = 0.0
        self._display: Display | None = None
        self._board: SummaryWriter | None = None
        self._training = self._evaluating = self._data = None
        self._seen = 0  # episodes of the training environments that the log has

    # ------------------------------------------------------------- what an algorithm calls

    def environments(self, copies: int) -> envs.Environments:
        """The run's training environments, `copies` per seed."""
        if self.device != "cpu":
            raise RunError(f"--device {self.device} is for learning from data alone; leave it out")
        self._training = envs.make(self.task, self.seeds, copies, self.settings.engine)
        self._prepare_evaluation()
        return self._training

    def data(self) -> Transitions:
        """The run's data set, which fits its task. Only the evaluations see an environment."""
        self._data = store.load(self.settings.dataset, task=self.task)
        self._prepare_evaluation()
        check_task(self._data, self._evaluating)
        return self._data

    @property
    def device(self) -> str:
        """Where an offline algorithm's tensors lie: "cpu" or "cuda"."""
        return self.settings.device or "cpu"

    def chance(self, purpose: str) -> Chance:
        """Random tensors on the run's device, from the run's own streams."""
        return Chance(self.streams[purpose], self.device)

    def turn(
        self, draw: Callable[[], tuple], step: Callable, gradient_steps: int, chances: list[Chance]
    ) -> HostTurn | GraphTurn:
        """`draw` and `step` as one call: on CUDA one graph, else timed, `step` compiled if it pays.

        `chances` are all that `draw` draws from.
        """
        if self.device == "cpu":
            return HostTurn(draw, self.compiled(step, gradient_steps))
        return GraphTurn(draw, step, chances)

    def compiled(self, function: Callable, gradient_steps: int) -> Callable:
        """A pure update function, compiled where that pays over so many gradient steps."""
        if machine.should_compile(self.settings.compile, gradient_steps):
            return machine.compiled(function, self.say)
        return function

    def iterations(self, total: int, steps_each: int, learner, before: int = 0) -> Iterator[int]:
        """Yield the iterations still to do, evaluating and saving `learner` between them.

        `learner` is a dataclass of modules and named tuples, one of them `policy`: what a
        checkpoint holds. `steps_each` are environment steps of each seed, or gradient steps of an
        offline algorithm. `before` of the iterations prepare: their steps count up to zero, and
        nothing is evaluated.
        """
        first = self._restore(learner)
        name = f"{self.algorithm} {self.task} x{len(self.seeds)}"
        self._display = Display(name, total, first)
        done = (first - before) * steps_each
        self._board = SummaryWriter(str(self.folder), purge_step=done + 1)
        self._started = perf_counter()
        self._speed_base = (perf_counter(), done)
        for k in range(first, total):
            self.step = (k + 1 - before) * steps_each
            yield k
            if k >= before and _due(k - before, total - before, self.settings.evaluations):
                self._evaluate(learner.policy)
            self.at_boundary = _due(k, total, self.settings.checkpoints)
            if self.at_boundary:
                self._save(k + 1, learner)
        self._finish()

    def log(self, metrics: dict[str, torch.Tensor], seconds: dict[str, float]) -> None:
        """Record one iteration: metrics [S], and the seconds spent in each kind of work."""
        table = "progress.csv" if self.step > 0 else "preparation.csv"
        costs = self._cost_columns(table)
        for episode in self._training.episodes(self._seen) if self._training else ():
            self._recent[episode.slot].append((episode.ret, episode.length, *episode.cost))
        self._seen = self._training.finished if self._training else 0
        values = {name: value.tolist() for name, value in metrics.items()}
        self._require_finite(values)
        for name, value in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value
        rows = []
        for slot, seed in enumerate(self.seeds):
            ret, length = (_mean(x[i] for x in self._recent[slot]) for i in (0, 1))
            row = {"seed": seed, "step": self.step, "training_return": ret}
            row |= {"training_length": length}
            row |= {
                name: _mean(x[i] for x in self._recent[slot]) for i, name in enumerate(costs, 2)
            }
            row |= {name: v[slot] for name, v in values.items()}
            rows.append(row | {"wall_seconds": round(self._wall(), 3)})
        self._append(table, rows)
        returns = [row["training_return"] for row in rows if row["training_return"] is not None]
        if self._data and self._history:
            returns = self._history[-1][1].returns.mean(1).tolist()
        self._to_board(rows, values)
        since, steps = self._speed_base
        speed = (self.step - steps) * len(self.seeds) / max(perf_counter() - since, 1e-9)
        self._display.update(returns, speed, self._seconds)

    def _cost_columns(self, table: str) -> list[str]:
        """Columns of the episodes' costs in the log `table`: its first row decides."""
        known = cost_columns(self._training.constraints, "training_") if self._training else []
        path = self.folder / table
        if path.exists() and path.stat().st_size > 0:
            with open(path, newline="") as file:
                header = next(csv.reader(file))
            return [name for name in known if name in header]
        return known if self._training and self._training.reports_cost else []

    def say(self, text: str) -> None:
        """A message to the user, above the progress bar."""
        self._display.say(text) if self._display else print(text, file=sys.stderr)

    def close(self) -> None:
        """Stop the progress bar, the environments and the logs, however the run ended."""
        for part in (self._display, self._board, self._training, self._evaluating):
            if part is not None:
                part.close()

    # ------------------------------------------------------------------ between iterations

    def _prepare_evaluation(self) -> None:
        if self._evaluating is None:
            how = (self.settings.evaluation_episodes, self.settings.engine)
            self._evaluating = envs.make(self.task, self.seeds, *how)

    def _evaluate(self, policy) -> None:
        start = perf_counter()
        policy.eval()
        env_seeds = self.streams.integers("evaluation", self.settings.evaluation_episodes)
        result = evaluate(policy, self._evaluating, env_seeds)
        policy.train()
        self._history.append((self.step, result))
        rows = []
        means = result.returns.mean(1)
        score = scores.normalized(self.task, means) if self._data else None
        for slot, seed in enumerate(self.seeds):
            costs = cost_cells(result.costs[slot].mean(0), self._evaluating.constraints)
            rest = (costs["cost"], float(result.lengths[slot].mean()))
            known = None if score is None else float(score[slot])
            training = _mean(x[0] for x in self._recent[slot])
            times = (round(self._wall(), 3), training)
            row = (seed, self.step, float(means[slot]), *rest, known, *times)
            rows.append(dict(zip(COLUMNS, row, strict=True)) | costs)
        self._append("evaluations.csv", rows)
        self._write_history()
        self._board.add_scalar("evaluation/return", result.returns.mean(), self.step)
        self._seconds["evaluation"] = self._seconds.get("evaluation", 0) + perf_counter() - start

    def _save(self, iterations: int, learner) -> None:
        state = {
            "learner": checkpoint.capture(learner),
            "streams": self.streams.state_dict(),
            "recent": [list(x) for x in self._recent],
            "history": [(s, [x.tolist() for x in vars(e).values()]) for s, e in self._history],
            "seconds": self._seconds,
            "wall_seconds": self._wall(),
            "bytes": {p.name: p.stat().st_size for p in self.folder.glob("*.csv")},
            "step": self.step,
        }
        checkpoint.save(self.folder / "checkpoint", iterations, state)
        about = {"algorithm": self.algorithm, "task": self.task, "seeds": list(self.seeds)}
        save_policy(learner.policy, self.folder / "policy", about | {"step": self.step})

    def _restore(self, learner) -> int:
        """Load the newest sound checkpoint, undo what was logged after it; iterations done."""
        found = checkpoint.load(self.folder / "checkpoint", self.say)
        sizes = found[1]["bytes"] if found else {}
        for path in self.folder.glob("*.csv"):
            os.truncate(path, sizes.get(path.name, 0))
        if not found:
            return 0
        iterations, state = found
        checkpoint.restore(learner, state["learner"])
        self.streams.load_state_dict(state["streams"])
        self._recent = [deque(map(tuple, x), maxlen=RECENT) for x in state["recent"]]
        count = len(self._evaluating.constraints)
        self._history = [(s, restored(*e, count)) for s, e in state["history"]]
        self._seconds, self._wall_before = state["seconds"], state["wall_seconds"]
        self.step = state["step"]
        if self._history:
            self._write_history()
        self.say(f"resuming at step {self.step:,} of each seed")
        return iterations

    def _finish(self) -> None:
        (self.folder / "finished").write_text(f"{self._wall():.3f} seconds\n")
        last = self._history[-1][1].returns.mean(1).tolist()
        self.say(f"evaluation at step {self.step:,}: return {spread(last)} over {len(last)} seeds")
        self.say(f"everything is in {self.folder}")

    # ------------------------------------------------------------------------------- files

    def _append(self, name: str, rows: list[dict]) -> None:
        path = self.folder / name
        new = not path.exists() or path.stat().st_size == 0
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            if new:
                writer.writeheader()
            writer.writerows(rows)

    def _write_history(self) -> None:
        arrays = {
            name: np.stack([getattr(e, name) for _, e in self._history])
            for name in ("returns", "costs", "lengths")  # [evaluations, S, E], costs [..., C]
        }
        partial = self.folder / "evaluations.partial.npz"
        np.savez(partial, steps=np.array([s for s, _ in self._history]), seeds=self.seeds, **arrays)
        os.replace(partial, self.folder / "evaluations.npz")

    def _to_board(self, rows: list[dict], values: dict[str, list[float]]) -> None:
        for row in rows:
            if row["training_return"] is not None:
                tag = f"training_return/seed_{row['seed']}"
                self._board.add_scalar(tag, row["training_return"], self.step)
        for name, value in values.items():
            self._board.add_scalar(f"metrics/{name}", sum(value) / len(value), self.step)

    def _require_finite(self, values: dict[str, list[float]]) -> None:
        for name, per_seed in values.items():
            for seed, value in zip(self.seeds, per_seed, strict=True):
                if not math.isfinite(value):
                    raise RunError(
                        f"{name} of seed {seed} is {value} at step {self.step}: training diverged; "
                        "the last checkpoint is intact. "
                        f"Lower one of: {learning_rates(self.config)}"
                    )

    def _wall(self) -> float:
        return self._wall_before + perf_counter() - self._started


def _due(k: int, total: int, times: int) -> bool:
    """Whether one of `times` evenly spaced events falls at the end of iteration k of `total`."""
    return ((k + 1) * times) // total > (k * times) // total


def _mean(values) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


# ----------------------------------------------------------------------- starting and resuming


def create(
    folder: Path,
    algorithm: str,
    config: object,
    settings: Settings,
    preset: str | None = None,
    command: str = "",
) -> Run:
    """A new run in a new `folder`. RunError if it exists or cannot be written."""
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        command = f"rlsuite train {algorithm} --resume {folder}"
        raise RunError(f"{folder} exists; to go on with it: {command}, or name another --folder")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise RunError("this machine has no CUDA device for --device cuda; leave it out")
    module = algorithms.load(algorithm)
    about = {
        "algorithm": algorithm,
        "task": settings.env,
        "data": _describe(settings) if settings.dataset else None,
        "preset": preset,
        "command": command,
        "settings": dataclasses.asdict(settings),
        "config": dataclasses.asdict(config),
        "sources": field_comments(module.Config),
        "config_hash": config_hash(algorithm, config, settings),
        "uses": runs_used(config),
        "engine": choose_engine(
            settings.env, len(settings.seeds) * getattr(config, "num_envs", 1), settings.engine
        ),
        "constraints": [each._asdict() for each in costs_of(settings.env).constraints],
        "physics_mismatch": envs.physics_mismatch(settings.env),
        "seeded": envs.is_seeded(settings.env),
        "commit": machine.git_commit(),
        "versions": machine.versions(),
        "hardware": machine.hardware(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(about, indent=2))
    except OSError as error:
        why = error.strerror
        raise RunError(f"cannot write to {folder} ({why}); choose another --folder") from None
    return Run(folder, algorithm, config, settings)


def _describe(settings: Settings) -> dict:
    """What a run's data set was. DatasetError if it cannot be used."""
    data = store.load(settings.dataset, task=settings.env)
    known = {key: data.about.get(key) for key in ("name", "source", "sha256", "timeouts")}
    returns = data.episode_returns()
    counts = {"transitions": len(data), "episodes": len(returns)}
    return known | counts | {"mean_return": float(returns.mean())}


def reopen(folder: Path, algorithm: str | None = None) -> Run:
    """The run that `folder` holds, to go on with. RunError if it is none or another's."""
    try:
        about = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise RunError(f"{folder} is not a run folder (no readable config.json)") from None
    if algorithm not in (None, about["algorithm"]):
        raise RunError(
            f"{folder} belongs to {about['algorithm']}, not {algorithm}; "
            f"type: rlsuite train {about['algorithm']} --resume {folder}"
        )
    module = algorithms.load(about["algorithm"])
    config = from_json(module.Config, about["config"])
    return Run(folder, about["algorithm"], config, from_json(Settings, about["settings"]))


def execute(run: Run) -> None:
    """Train `run` from wherever it stands to its end."""
    torch.set_num_threads(run.settings.torch_threads)
    machine.choose_products(run.config)
    module = algorithms.load(run.algorithm)
    lock = _lock(run.folder)
    try:
        module.train(run.config, run)
    except envs.EnvironmentFault as fault:
        raise RunError(
            f"{fault}, before step {run.step} of the run. The last checkpoint is intact: mend the "
            f"environment, then add --resume {run.folder}"
        ) from fault
    finally:
        run.close()
        os.close(lock)


def _lock(folder: Path) -> int:
    """Hold `folder` for this process, which ends with it. RunError if another one trains there."""
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunError(f"another process is training in {folder}; wait for it, or end it") from None
    return descriptor


def from_json(cls: type, values: dict):
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
