"""A run: one algorithm on one task for S seeds, in one folder, resumable to the bit.

`train(config, run)` of an algorithm is handed a Run. The folder holds

    config.json       settings, config with the source of each number, versions, hardware, commit;
                      `sessions`: what of these was different when the run was gone on with
    progress.csv      per seed and iteration: training return and metrics; preparation.csv: the
                      same of iterations that only prepare, before step 0 or in a warm-up
    evaluations.csv   per seed and evaluation; evaluations.npz: every episode of them
    policy/           the policy as of the last checkpoint; loads without any of this. Where a run
                      evaluates several, the others lie beside it, each in policy-NAME/
    snapshots/        policies kept along the run, if asked for; snapshots.csv: their returns
    checkpoint/       the last two checkpoints, which hold the rows so far, too
    finished          once all of that is complete

A checkpoint is an episode boundary in every run, interrupted or not: environments restart from
seeds drawn from the run's own streams. So a killed and resumed run repeats an unbroken one exactly.
Whatever else is lost or stale after a kill, a resume restores from the checkpoint.
"""

import csv
import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter

import torch
from safetensors import SafetensorError

from rlsuite import algorithms, envs
from rlsuite.core.networks import ActorCritic
from rlsuite.core.seed_random import SeedRandom
from rlsuite.datasets.transitions import Transitions, check_task
from rlsuite.runs import divergence, ending, logs, machine
from rlsuite.runs import folder as folders
from rlsuite.runs.best import Best
from rlsuite.runs.boards import Boards
from rlsuite.runs.display import Display, cost_texts, spread
from rlsuite.runs.evaluation import cost_columns, of_seeds
from rlsuite.runs.extension import Extension, extended
from rlsuite.runs.files import write_whole
from rlsuite.runs.finished import Base, base
from rlsuite.runs.folder import FINISHED, RunError, from_json
from rlsuite.runs.judged import JudgedRun
from rlsuite.runs.settings import Settings, learning_rates
from rlsuite.runs.snapshots import Snapshots
from rlsuite.runs.stages import Plan, Stages
from rlsuite.runs.steps import Clock, CudaGraphStep, EagerStep
from rlsuite.runs.stored import _due, _mean

__all__ = ["Run", "RunError", "create", "execute", "from_json", "reopen"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # what a disk may say


class Run(JudgedRun):
    """What an algorithm sees of the world: environments, streams, logs, evaluation, checkpoints."""

    def __init__(
        self,
        folder: Path,
        manifest: dict,
        config: object,
        settings: Settings,
        resumed: bool = False,
    ) -> None:
        """The folder must exist, `manifest` is its manifest: see `create` and `reopen`."""
        super().__init__(folder, manifest, config, settings)
        self.resumed = resumed
        self.at_boundary = True  # environments begin anew: a stage begins, or a checkpoint was made
        self._ending, self._laps = False, ending.Laps()
        self._display: Display | None = None
        self._snapshots = Snapshots(folder, self.task, self.seeds, self._evaluation_engine)
        self._clock, self._randoms = Clock(), []
        self._learner = self._plan = None  # until it has begun
        self.extension: Extension | None = None  # where it goes on from its planned end
        self._done = 0  # iterations
        self._seen = 0  # episodes of the training environments that the log has

    # ------------------------------------------------------------- what an algorithm calls

    def environments(self, num_envs: int) -> envs.Environments:
        """The run's training environments, `num_envs` per seed."""
        if self.device != "cpu" and not algorithms.is_off_policy(self.algorithm):
            raise RunError(f"--device {self.device} is for learning from replay; leave it out")
        self._training = self._made(num_envs, self._engine)
        self._prepare_evaluation()
        return self._training

    def data(self) -> Transitions:
        """The run's data set, which fits its task. Only the evaluations see an environment."""
        self._data = folders.data(self.folder, self.manifest, self.resumed, self.say)
        self._prepare_evaluation()
        check_task(self._data, self._evaluating)
        return self._data

    def base(self, folder: str, critics: bool = True) -> Base:
        """Policy and critics of the finished run in `folder`, for this run's task and seeds."""
        return base(Path(folder), self.task, self._data or self.data(), self.seeds, critics)

    @property
    def device(self) -> str:
        """Where the tensors of an algorithm with replay or data lie: "cpu" or "cuda"."""
        return self.settings.device or "cpu"

    def random(self, purpose: str) -> SeedRandom:
        """Random tensors on the run's device, from the run's own streams."""
        rng = SeedRandom(self.streams[purpose], self.device)
        self._randoms.append(rng)
        return rng

    def update(
        self,
        function: Callable,
        draw: Callable[[], tuple] | None = None,
        gradient_steps: int | None = None,
    ) -> EagerStep | CudaGraphStep:
        """`function(*given, *draw(), **named)`, a pure update, as one call that takes the rest.

        On CUDA it is one graph, with all that `draw` draws from the run's `rng`; else
        `function` is compiled where that pays over so many gradient steps; None: those that the
        config declares. Drawing is timed.
        """
        if self.device != "cpu":
            step = CudaGraphStep(function, draw, self._randoms)
        else:
            count = gradient_steps or self.config.declared.gradient_steps
            if machine.should_compile(self.settings.compile, count):
                function = machine.compiled(function, self.say)
            step = EagerStep(function, draw)
        self._clock.updates.append(step)
        return step

    def begin(
        self,
        learner,
        *,
        train: Stages,
        prepare: Stages | None = None,
        policies: Mapping[str, ActorCritic] | None = None,
    ) -> None:
        """Fix the stages, {name: (iterations, steps of each)}, and restore what a checkpoint holds.

        `learner` is a dataclass of modules, named tuples and replay buffers, one of them `policy`:
        what a checkpoint holds. Steps are environment steps of each seed, or gradient steps where
        it learns from data. Those of `prepare` count up to zero, and nothing is evaluated there.
        `policies`, fields of the learner by name, are all evaluated and saved, the first as the
        run's main one; None: its `policy` alone.
        """
        self._learner, self._plan = learner, Plan(prepare or {}, train)
        self._set_policies(learner, policies)
        if self.settings.keep_best:
            self._best = Best(next(iter(self._policies.values())), self.seeds)
        self._done = first = self._restore(learner, self._plan.total)
        for slot in self.dropped:
            self._let_go(slot)
        if self.extension:
            self.extension.begin(self._plan, self._stages_then, self.say)
        if self._training:
            self._training.take_paid()  # of steps before the first stage
        name = f"{self.algorithm} {self.task} x{len(self.seeds)}"
        self._display = Display(name, self._plan.total, first)
        self._started = perf_counter()
        done = self._plan.step(first)
        self._speed_base = (perf_counter(), done)
        if first < self._plan.total:
            with self._writing():
                if self.resumed:
                    folders.record_session(self.folder, self.step, self.say)
                self._board = Boards(self.folder, self.manifest, done + 1, self.say)

    def stage(self, name: str) -> Iterator[int]:
        """The numbers, from 0, of the iterations of a stage that are still to do.

        Between them the run evaluates and saves; `at_boundary` says in which of them environments
        have to begin anew. A stage that a resumed run has behind it yields nothing.
        """
        for k in self._plan.remaining(name, self._done):
            self.at_boundary |= k == self._plan.stages[name].first
            self.step = self._plan.step(k + 1)
            self._clock.start()
            yield k - self._plan.stages[name].first
            self._clock.stop()
            self._done = k + 1
            self._between(k)

    def log(
        self, metrics: dict[str, torch.Tensor], measured: dict[str, float] | None = None
    ) -> None:
        """Record one iteration: metrics [S], and the seconds that were `measured` on its way.

        These are of work in the environments; what `update` drew is known here, and the rest of the
        iteration was learning.
        """
        table = logs.PROGRESS if metrics and self.step > 0 else logs.PREPARATION
        costs = self._cost_columns(table)
        for episode in self._training.episodes(self._seen) if self._training else ():
            self._recent[episode.seed].append((episode.ret, episode.length, *episode.cost))
        self._seen = self._training.finished if self._training else 0
        values = {name: value.tolist() for name, value in metrics.items()}
        for slot, (name, value) in divergence.first_of(values, self.dropped).items():
            self._diverge(slot, f"{name} of seed {self.seeds[slot]} is {value}")
        for name, value in self._clock.split(measured or {}).items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value
        rows = []
        for s in self.alive:
            ret, length = (_mean(x[i] for x in self._recent[s]) for i in (0, 1))
            row = {"seed": self.seeds[s], "step": self.step, "training_return": ret}
            row |= {"training_length": length}
            row |= {name: _mean(x[i] for x in self._recent[s]) for i, name in enumerate(costs, 2)}
            row |= {name: v[s] for name, v in values.items()}
            rows.append(row | {"wall_seconds": round(self._wall(), 3)})
        self._append(table, rows)
        returns = [row["training_return"] for row in rows if row["training_return"] is not None]
        if self._data and self._history:
            returns = of_seeds(self._history[-1][1][""], self.alive).returns.mean(1).tolist()
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
        self._display.say(text) if self._display else super().say(text)

    def close(self) -> None:
        """Stop the progress bar, the environments and the logs, however the run ended."""
        environments = self._training, self._evaluating, self._snapshots
        for part in (self._display, self._board, *environments):
            if part is not None:
                part.close()

    def finish(self) -> None:
        """Mark the run as finished. RuntimeError if stages of its plan were never run."""
        if self._done < self._plan.total:
            left = self._plan.total - self._done
            raise RuntimeError(f"{self.algorithm} ends with {left} iterations of its stages undone")
        if not (self.folder / FINISHED).exists():
            with self._writing():
                write_whole(self.folder / FINISHED, f"{self._wall():.3f} seconds\n".encode())
        constraints = self._evaluating.constraints if self.manifest.get("constraints") else ()
        for name, result in self._history[-1][1].items():
            result = of_seeds(result, self.alive)
            last = result.returns.mean(1).tolist()
            what = f"{name.replace('_', ', ')}: " * bool(name) + f"return {spread(last)}"
            self.say(f"evaluation at step {self.step:,}: {what} over {len(last)} seeds")
            for text in cost_texts(result, constraints):
                self.say(text)
        self.say(f"everything is in {self.folder}")

    # ------------------------------------------------------------------ between iterations

    def _between(self, k: int) -> None:
        """What is due after iteration `k` of the whole run."""
        if self._training and self.manifest.get("constraints"):
            self._paid += self._training.take_paid()
        total, prepared = self._plan.total, self._plan.prepared
        if k >= prepared and _due(k - prepared, total - prepared, self.settings.evaluations):
            self._evaluate()
        if k >= prepared and _due(k - prepared, total - prepared, self.settings.snapshots or 0):
            self._keep_snapshot(self._learner.policy)
        self.at_boundary = self._due_checkpoint(k)
        here = self._ending and (self._training is None or bool(self.settings.checkpoint_on_stop))
        if here and self._training and not self.at_boundary:
            self._record_unscheduled()
        if self.at_boundary or here:
            self._save(k + 1, self._plan, self._learner)
            if self._ending and k + 1 < total:
                raise KeyboardInterrupt
        self._laps.end()

    # ---------------------------------------------------------------------------- ending early

    def end(self) -> None:
        """End soon, as SIGTERM and Ctrl-C ask: see `ending`. At once where it is asked again."""
        if self._display is None or self._ending:
            raise KeyboardInterrupt
        if self._training is not None and not self.settings.checkpoint_on_stop:
            total = self._plan.total
            due = next(k for k in range(total) if k >= self._done and self._due_checkpoint(k))
            wait = self._laps.seconds(due - self._done + 1)
            if wait > ending.NEAR:
                raise KeyboardInterrupt
            self.say(ending.announced(wait))
        self._ending = True

    def _due_checkpoint(self, k: int) -> bool:
        return _due(k, self._plan.total, self.settings.checkpoints)

    def _record_unscheduled(self) -> None:
        """Note that what follows a checkpoint of this iteration is not an unbroken run's."""
        with self._writing():
            folders.record(self.folder, "unscheduled", {"step": self.step})
        self.say(
            f"a checkpoint at step {self.step:,}, where none was due: from here on the run is not "
            "bit-equal to an unbroken one, which config.json records"
        )


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
    folders.require_free(folder, algorithm)
    folders.require_device(settings)
    manifest = folders.describe(algorithm, config, settings, preset, command)
    folders.begin(folder, manifest)
    return Run(folder, manifest, config, settings)


def reopen(
    folder: Path, algorithm: str | None = None, longer: Mapping[str, int] | None = None
) -> Run:
    """The run that `folder` holds, to go on with. RunError if it is none or another's.

    `longer`, {"env_steps": 2_000_000} or {"gradient_steps": ...}, goes on from its planned end.
    """
    manifest = folders.read(folder, algorithm)
    envs.require_here(manifest["task"])
    config, settings = folders.begun_with(folder, manifest)
    extension = None
    if longer:
        config, extension = extended(folder, manifest, config, settings, longer)
        manifest = extension.manifest
    run = Run(folder, manifest, config, settings, resumed=True)
    run.extension = extension
    return run


def execute(run: Run) -> None:
    """Train `run` from wherever it stands to its end; SIGTERM ends it like an interrupt."""
    module = algorithms.load(run.algorithm)
    with folders.locked(run.folder):
        if run.extension is None and run.complete():
            run.say(f"{run.folder} has finished: there is nothing left to train")
            return
        folders.require_device(run.settings)
        torch.set_num_threads(run.settings.torch_threads)
        machine.choose_products(run.config.declared)
        folders.clean(run.folder)
        try:
            with machine.asked_to_end(run.end):
                module.train(run.config, run)
                run.finish()
        except (envs.EnvironmentFault, envs.PolicyFault) as fault:
            raise RunError(_fault(run, fault)) from fault
        except (OSError, SafetensorError) as error:  # of a file that the algorithm writes
            if isinstance(error, OSError) and error.errno not in FULL:
                raise
            raise run.unwritable(error) from error
        except KeyboardInterrupt:
            run.say(f"ended at step {run.step:,}; {run.kept()}")
            raise
        finally:
            run.close()


def _fault(run: Run, fault: envs.EnvironmentFault | envs.PolicyFault) -> str:
    where = f"{fault}, before step {run.step} of the run"
    if isinstance(fault, envs.PolicyFault):
        rates = learning_rates(run.config)
        return f"{where}: training diverged; {run.kept()}. Lower one of: {rates}"
    return f"{where}; {run.kept()}: mend the environment, then add --resume {run.folder}"
