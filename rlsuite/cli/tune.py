"""The command `rlsuite tune`: settings searched by Optuna, each trial a run of several seeds.

A trial is judged by the interquartile mean of its seeds' returns in the last evaluation, and ended
early where Optuna's median pruner finds an earlier evaluation poor. The folder holds study.db, a
run folder for each trial, and best.toml, the best settings so far. The same command goes on.
"""

import csv
import dataclasses
import io
import shlex
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from rlsuite import algorithms
from rlsuite.cli import config_file, flags, search
from rlsuite.cli.train import Choice, flags_of, resolve
from rlsuite.core import cores
from rlsuite.evidence import statistics
from rlsuite.runs import extras, sweep
from rlsuite.runs import settings as run_settings
from rlsuite.runs.folder import RunError, locked

BEST, STUDY = "best.toml", "study.db"
UNPRUNED, WARM_UP = 5, 1  # trials that end as they are; evaluations that tell too little


@dataclasses.dataclass
class Tune:
    """Search settings with Optuna: each trial is a run of several seeds, judged by their IQM.

    All other flags go to rlsuite train. Started again, it goes on.
    """

    trials: int = 50  # in all, with those that the folder has already
    search: tuple[str, ...] = ()  # NAME=LOW:HIGH[:log] or NAME=A,B ...; default: learning rates
    folder: Path = Path("runs/tune")  # of the study and its runs; the same one goes on with it
    jobs: int | None = None  # at once; default: one for each core


def tune(argv: list[str]) -> None:
    """Search settings with Optuna; started again, it goes on."""
    names, rest = flags.leading(argv)
    usage, known = "rlsuite tune ALGORITHM", flags.of(Tune)
    if flags.asks_help(rest):
        flags.show_help(usage, known, Tune.__doc__)
    values, rest = flags.known_of(usage, known, rest)
    options = Tune(**values)
    if len(names) != 1:
        raise ValueError("which one algorithm? type: rlsuite tune ppo --env Hopper-v4")
    chosen, space = _checked(names[0], options, rest)
    optuna = extras.require("optuna", "tune")
    extras.require("sqlalchemy", "tune")
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {options.folder} ({error.strerror})") from None
    with locked(options.folder):
        Search(optuna, names[0], options, rest, chosen, space).run()


def _checked(
    name: str, options: Tune, rest: Sequence[str]
) -> tuple[Choice, list[search.Dimension]]:
    """What is searched, and what every trial has. ValueError for what some trial would refuse."""
    for key in ("trials", "jobs"):
        value = getattr(options, key)
        if value is not None and value < 1:
            raise ValueError(f"--{key} is {value}; it must be at least 1")
    if any(word.partition("=")[0] == "--resume" for word in flags.spelled(rest)):
        raise ValueError("--resume is not for tune: the same command goes on with its --folder")
    if algorithms.is_constrained(name):
        raise ValueError(f"{name} is held to limits, and tune looks at returns alone; use sweep")
    chosen = resolve(name, rest)
    if len(chosen.settings.seeds) < 2:
        raise ValueError("a trial of one seed tells little; give --seeds 3 or more")
    if chosen.settings.on_divergence == "drop":
        raise ValueError("a trial that loses seeds has no IQM of all; leave --on-divergence out")
    rates = chosen.config.declared.learning_rates
    config = {field.name for field in dataclasses.fields(chosen.config)}
    known = [flag for flag in flags_of(name) if flag.name in {*config, *search.ELSEWHERE}]
    space = search.parse(options.search, rest, known, rates)
    for dimension in space:
        for words in dimension.ends():
            resolve(name, [*rest, *words])
    return chosen, space


@dataclasses.dataclass
class Trial:
    """A trial that runs: Optuna's, its job and process, and what is known of it."""

    optuna: object
    job: sweep.Job
    process: object
    reported: int = 0  # evaluations
    value: float | None = None  # of the last of them
    pruned: bool = False


class Search:
    """A study, and the processes of its trials."""

    def __init__(self, optuna, name: str, options: Tune, rest, chosen: Choice, space) -> None:
        """The study in the folder, or a new one. ValueError where it is another search's."""
        self.optuna, self.name, self.options, self.rest = optuna, name, options, list(rest)
        self.chosen, self.space = chosen, space
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = f"sqlite:///{options.folder.absolute() / STUDY}"
        pruner = optuna.pruners.MedianPruner(UNPRUNED, WARM_UP)
        self.study = optuna.create_study(
            storage=storage, pruner=pruner, study_name="tune", direction="maximize",
            load_if_exists=True,
        )  # fmt: skip
        # Another seed for each start, or it would draw its first trials again
        self.study.sampler = optuna.samplers.TPESampler(seed=len(self.study.trials))
        asked = [name, *flags.spelled(rest), "--search", *map(_shown, space)]
        begun = self.study.user_attrs.setdefault("asked", asked)
        if begun != asked:
            raise ValueError(
                f"{options.folder} holds the search of: rlsuite tune {shlex.join(begun)}; "
                "name another --folder"
            )
        self.study.set_user_attr("asked", asked)

    def run(self) -> None:
        """Run trials until there are as many as asked for. RunError if none has a result."""
        state = self.optuna.trial.TrialState
        left = self.study.get_trials(states=[state.RUNNING])
        waiting = [self.optuna.trial.Trial(self.study, each._trial_id) for each in left]
        shares = sweep.share_cores(min(self.options.jobs or cores.usable(), self.options.trials))
        running: dict[int, Trial] = {}
        try:
            while True:
                for place, share in enumerate(shares):
                    asked = len(self.study.trials)
                    if place not in running and (waiting or asked < self.options.trials):
                        running[place] = self._start(waiting, share)
                for place in [at for at, trial in running.items() if self._ended(trial)]:
                    del running[place]
                if not running and len(self.study.trials) >= self.options.trials and not waiting:
                    break
                time.sleep(sweep.POLL_SECONDS if running else 0)
        finally:
            for trial in running.values():
                trial.process.terminate()
        self._conclude()

    def _start(self, waiting: list, share: Sequence[int]) -> Trial:
        trial = waiting.pop(0) if waiting else self.study.ask()
        words = [word for dimension in self.space for word in dimension.suggest(trial)]
        trial.set_user_attr("words", words)
        folder = self.options.folder / f"trial-{trial.number}"
        job = sweep.Job(self.name, self.chosen.env, folder, (*self.rest, *words))
        print(f"trial {trial.number}: {shlex.join(words)}, log in {job.log}")
        reported = len(self.study.trials[trial.number].intermediate_values)
        return Trial(trial, job, sweep.begin(job, share), reported)

    def _ended(self, trial: Trial) -> bool:
        """Report what the trial has evaluated since, prune it if it is poor; whether it ended."""
        code = trial.process.poll()
        self._report(trial)
        if code is None and not trial.pruned and trial.reported and trial.optuna.should_prune():
            trial.pruned = True
            trial.process.terminate()
        if code is None:
            return False
        state, number = self.optuna.trial.TrialState, trial.optuna.number
        if code == 0 and trial.value is not None:
            self.study.tell(number, trial.value)
            print(f"trial {number}: IQM {trial.value:.4g}, the best is {self.study.best_value:.4g}")
            self._write_best()
        elif trial.pruned:
            self.study.tell(number, state=state.PRUNED)
            print(f"trial {number}: pruned at IQM {trial.value:.4g}")
        else:
            self.study.tell(number, state=state.FAIL)
            print(f"trial {number}: {sweep.reason(trial.job, code)}; its log is {trial.job.log}")
        return True

    def _report(self, trial: Trial) -> None:
        found = iqms(trial.job.folder / "evaluations.csv", len(self.chosen.settings.seeds))
        for index in range(trial.reported, len(found)):
            trial.optuna.report(found[index], index)
        trial.reported = max(trial.reported, len(found))  # a resumed run may have fewer at first
        trial.value = found[-1] if found else None

    def _write_best(self) -> None:
        best, seeds = self.study.best_trial, self.chosen.settings.seeds
        chosen = resolve(self.name, [*self.rest, *best.user_attrs["words"]])
        usual = run_settings.preset(
            algorithms.load(self.name), chosen.preset, chosen.env, chosen.settings.dataset
        )
        usual = dataclasses.asdict(type(chosen.config)(**usual))
        values = {"env": chosen.env, "preset": chosen.preset}
        if chosen.settings.dataset:
            values["dataset"] = chosen.settings.dataset
        config = dataclasses.asdict(chosen.config)
        values |= {key: value for key, value in config.items() if value != usual[key]}
        about = [
            f"trial {best.number} of {len(self.study.trials)}, the best by its IQM {best.value:.6g}"
            f" over {len(seeds)} seeds, of",
            f"rlsuite tune {shlex.join(self.study.user_attrs['asked'])}",
        ]
        config_file.write(self.options.folder / BEST, self.name, values, about)

    def _conclude(self) -> None:
        states = [trial.state.name.lower() for trial in self.study.trials]
        counts = ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states)))
        if "complete" not in states:
            raise RunError(f"no trial has a result ({counts}); see {self.options.folder}/*.log")
        self._write_best()
        best, first = self.study.best_trial, max(self.chosen.settings.seeds) + 1
        fresh = f"{first}:{first + len(self.chosen.settings.seeds)}"
        path = self.options.folder / BEST
        print(f"{counts}; the best is trial {best.number}, IQM {best.value:.6g}: {path}")
        print("On the seeds that chose it this is too good; on fresh ones:")
        print(f"rlsuite train {self.name} --config {path} --seeds {fresh}")


def iqms(path: Path, seeds: int) -> list[float]:
    """The IQM over all seeds of each evaluation in a run's evaluations.csv, of its main policy."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a row that is still being written has no end
    rows = list(csv.DictReader(io.StringIO(whole)))
    main = [row for row in rows if row.get("policy") == rows[0].get("policy")]
    found = []
    for _, group in groupby(main, lambda row: row["step"]):
        returns = np.array([float(row["return"]) for row in group])
        if len(returns) == seeds:
            found.append(statistics.estimate([returns], statistics.iqm))
    return found


def _shown(dimension: search.Dimension) -> str:
    text = ",".join(dimension.values) or f"{dimension.low:g}:{dimension.high:g}"
    return f"{dimension.field.name}={text}{':log' * dimension.log}"
