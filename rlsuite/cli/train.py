"""The commands `rlsuite train` and `rlsuite sweep`: from flags to runs."""

import contextlib
import dataclasses
import fcntl
import shlex
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rlsuite import algorithms
from rlsuite.algorithms.renamed import flag_of_today
from rlsuite.cli import flags
from rlsuite.cli.config_file import FLAG, expand
from rlsuite.core import cores
from rlsuite.envs import tasks, variants
from rlsuite.runs import extras, settings


class Choice(NamedTuple):
    """What the flags of `rlsuite train` come to."""

    env: str
    data: dict | None  # what is known of the data set: its name, its SHA-256
    preset: str
    config: object
    settings: settings.Settings
    folder: Path | None


def train(argv: list[str]) -> None:
    """Train an algorithm on a task for several seeds at once, or go on with a run."""
    name, rest = flags.leading(argv, 1)
    if any(word.partition("=")[0] == "--resume" for word in flags.spelled(rest)):
        go_on(name[0] if name else None, rest)
    elif name:
        _train(name[0], rest)
    elif flags.asks_help(rest):
        print("rlsuite train ALGORITHM --help lists the flags of one; these are there:\n")
        print(flags.wrapped(" ", " ".join(algorithms.ALGORITHMS)))
    else:
        names = " | ".join(algorithms.ALGORITHMS)
        raise ValueError(f"which algorithm? type: rlsuite train {names}")


def _train(name: str, argv: list[str]) -> None:
    if flags.asks_help(argv):
        _help(name, argv)
    train_new(name, argv, shlex.join(["rlsuite", "train", name, *argv]))


def train_new(name: str, argv: Sequence[str], command: str) -> Path:
    """Train what these flags ask for, in a new folder, which is returned; `command` asked for it.

    ValueError for what cannot be, before any work.
    """
    from rlsuite.runs import run

    chosen = resolve(name, argv)
    folder = chosen.folder or _free_folder(f"{name}-{_place(chosen)}")
    new = run.create(folder, name, chosen.config, chosen.settings, chosen.preset, command)
    steps = f"{chosen.config.declared.steps:,} steps of each seed"
    new.say(f"preset {chosen.preset}; {steps}; everything goes to {folder}")
    try:
        _execute(new)
    except Exception:
        _discard_unless_begun(folder)
        raise
    return folder


def go_on(name: str | None, argv: Sequence[str]) -> Path:
    """Go on with the run of `--resume FOLDER`, which is returned."""
    found = _resumed(name, argv)
    _execute(found)
    return found.folder


def resolve(name: str, argv: Sequence[str]) -> Choice:
    """What `rlsuite train NAME` would run with these flags. ValueError for what it would refuse."""
    module, offline = algorithms.load(name), algorithms.is_offline(name)
    known = flags_of(name)
    given, rest = flags.known_of(f"rlsuite train {name}", known, expand(name, known, argv))
    refuse_unknown(name, known, rest)
    if given.get("on"):
        given = _of_base(given["on"]) | given
    dataset = given.pop("dataset", None)
    changes = given.pop("env_arg", ()), given.pop("time_limit", None)
    env = _task(name, given.pop("env", None), dataset, offline)
    if changes[0] or changes[1] is not None:
        env = variants.changed(env, *changes)
        require_task(env)
    preset = given.pop("preset", None) or settings.default_preset(module, env)
    values = settings.preset(module, preset, env, dataset)
    config = module.Config(**values | _fields(module.Config, given))
    if "seeds" in given:
        given["seeds"] = settings.parse_seeds(given["seeds"])
    run_settings = settings.Settings(env, dataset, **_fields(settings.Settings, given))
    if run_settings.wandb:
        extras.require("wandb", "wandb")
    data = _load(dataset, env) if dataset else None
    return Choice(env, data, preset, config, run_settings, given.get("folder"))


def refuse_unknown(name: str, known: list[flags.Flag], rest: Sequence[str]) -> None:
    """ValueError for words that belong to no flag; an old flag's has today's."""
    today = flag_of_today(name, rest[0]) if rest else None
    if today:
        old = rest[0].partition("=")[0]
        raise ValueError(f"{old} has another name now; type {today} instead")
    flags.refuse_unknown(f"rlsuite train {name}", known, rest)


def _of_base(folder: str) -> dict[str, str]:
    """Data, task and seeds of the run in `folder`, which another one goes on from."""
    from rlsuite.runs.folder import read

    manifest = read(Path(folder))
    if manifest["settings"]["dataset"] is None:
        raise ValueError(
            f"{folder} is a run of {manifest['algorithm']}, which learned from no data and has no "
            "critic Q(s, a): name one of td3_bc, iql or spot"
        )
    seeds = "".join(f"{seed}," for seed in manifest["settings"]["seeds"])
    return {"dataset": manifest["settings"]["dataset"], "env": manifest["task"], "seeds": seeds}


def _task(name: str, env: str | None, dataset: str | None, offline: bool) -> str:
    """The task, typed or named by the data set."""
    if offline and dataset is None:
        raise ValueError(
            f"which data? type: rlsuite train {name} --dataset NAME; rlsuite data list has them"
        )
    if env is not None:
        require_task(env)
        return env
    if dataset is None:
        raise ValueError(f"which task? type: rlsuite train {name} --env Hopper-v4")
    from rlsuite.datasets import d4rl, minari, store

    path, kind = store.locate(dataset)
    env = (minari if kind == "minari" else d4rl).task(path)
    if env is None:
        raise ValueError(
            f"which task? {dataset} does not name its own; type: rlsuite train {name} "
            f"--dataset {dataset} --env TASK"
        )
    tasks.require_typed(env, dataset)
    tasks.choose_engine(env, 1)
    return env


def _load(dataset: str, env: str) -> dict:
    from rlsuite.datasets import store

    return store.load(dataset, task=env).metadata


def _fields(kind: type, values: dict) -> dict:
    names = {field.name for field in dataclasses.fields(kind)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in names
    }


def flags_of(name: str) -> list[flags.Flag]:
    """All flags of `rlsuite train NAME`."""
    kinds = (algorithms.is_offline, algorithms.is_off_policy, algorithms.takes_data)
    known = flags.of_train(algorithms.load(name).Config, *(kind(name) for kind in kinds))
    return [*known, FLAG]


def _help(name: str, argv: list[str]) -> None:
    """The flags of `rlsuite train NAME`, with the defaults of the preset and task in `argv`."""
    module = algorithms.load(name)
    known = flags_of(name)
    usage = f"rlsuite train {name}"
    words = expand(name, known, [word for word in argv if word not in ("-h", "--help")])
    given, rest = flags.known_of(usage, known, words)
    refuse_unknown(name, known, rest)
    env = given.get("env", "Hopper-v4")
    preset = given.get("preset") or settings.default_preset(module, env)
    config = module.Config(**settings.preset(module, preset, env, given.get("dataset")))
    values = dataclasses.asdict(config) | {"preset": preset}
    shown = [
        dataclasses.replace(flag, default=values.get(flag.name, flag.default)) for flag in known
    ]
    flags.show_help(usage, shown, (module.__doc__ or "").splitlines()[0])


def _place(chosen: Choice) -> str:
    """What a run's folder is called after: its task or, shortened as in tables, its data set."""
    from rlsuite.evidence import dataset

    if chosen.data is None:
        return chosen.env.replace(":", "-").replace("/", "-")
    known = {"name": chosen.data["name"]}
    return dataset.of_manifest({"data": known, "task": chosen.env}).short_name


def _free_folder(name: str) -> Path:
    folders = (Path("runs", f"{name}-{number}") for number in range(1, 1_000_000))
    return next(folder for folder in folders if not folder.exists())


def _resumed(name: str | None, argv: Sequence[str]):
    """The run of `--resume FOLDER`; `--env` beside it confirms a task with a module of its own."""
    from rlsuite.runs import run
    from rlsuite.runs.extension import LENGTHS

    known = [flags.Flag("resume", Path, "run folder"), flags.Flag("env", str, "its task")]
    known += [flags.Flag(name, int, "more than it has taken") for name in LENGTHS]
    given, rest = flags.known_of("rlsuite train", known, argv)
    if rest:
        raise ValueError(
            f"--resume takes a run folder and no other flag (got {shlex.join(rest)}): the settings "
            f"come from the folder. Type: rlsuite train --resume {given.get('resume', 'FOLDER')}, "
            "or add --env-steps or --gradient-steps to go on from its end"
        )
    folder, env = given["resume"], given.get("env")
    longer = {name: given[name] for name in LENGTHS if name in given}
    found = run.reopen(folder, name, longer)
    if env is None:
        tasks.require_typed(found.task, str(folder))
    elif env == found.task:
        tasks.remember_typed(env)
    else:
        raise ValueError(f"{folder} trains on {found.task}, not {env}; leave --env out")
    return found


def _execute(new) -> None:
    from rlsuite.runs.run import execute

    try:
        execute(new)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"rlsuite train --resume {new.folder}") from None


def _discard_unless_begun(folder: Path) -> None:
    """Remove the folder of a run that was refused before its first row, if nobody trains there."""
    if any(folder.glob("*.csv")):
        return
    with open(folder / "lock", "a") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)


def require_task(task: str) -> None:
    """ValueError unless there is the task, which the user typed."""
    tasks.choose_engine(task, 1)
    tasks.remember_typed(task)


# --------------------------------------------------------------------------------------- sweep


@dataclasses.dataclass
class Sweep:
    """Algorithms x tasks x seeds, as local processes or on Ray.

    All other flags go to rlsuite train.
    """

    envs: tuple[str, ...] = ()  # tasks, e.g. --envs Hopper-v4 Walker2d-v4
    datasets: tuple[str, ...] = ()  # what offline algorithms go through, instead of tasks
    folder: Path = Path("runs/sweep")  # where the run folders go; the same one continues a sweep
    grid: tuple[str, ...] = ()  # a run for each setting: --grid learning-rate=1e-4,3e-4 clip=.1,.2
    results: Path | None = None  # also export rows, e.g. to results/mujoco-1m
    jobs: int | None = None  # at once; default: one for each core
    ray: str | None = None  # HOST:PORT of a Ray cluster, auto (the one that runs here), or local


# What a sweep says itself, job by job: flag of `rlsuite train` -> what to type instead
NOT_FOR_SWEEPS = {
    "--env": "--envs TASK ...",
    "--dataset": "--datasets NAME ...",
    "--resume": "the same command again: a sweep goes on with what is in its --folder",
}


def sweep(argv: list[str]) -> None:
    """Run algorithms x tasks x seeds as jobs; started again, it goes on."""
    from rlsuite.datasets import store
    from rlsuite.evidence.export import export as export_run
    from rlsuite.runs import sweep as jobs_module
    from rlsuite.runs.run import RunError

    names, rest = flags.leading(argv)
    usage, known = "rlsuite sweep ALGORITHM...", flags.of(Sweep)
    if flags.asks_help(rest):
        flags.show_help(usage, known, Sweep.__doc__)
    values, rest = flags.known_of(usage, known, rest)
    options = Sweep(**values)
    for word in rest:
        if word.partition("=")[0] in NOT_FOR_SWEEPS:
            instead = NOT_FOR_SWEEPS[word.partition("=")[0]]
            raise ValueError(f"{word} is not for sweeps; type {instead}")
    if not names:
        raise ValueError("which algorithms? type: rlsuite sweep ppo --envs Hopper-v4")
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs is {options.jobs}; it must be at least 1")
    for task in options.envs:
        require_task(task)
    for dataset in options.datasets:
        store.locate(dataset)
    jobs = jobs_module.plan(options.folder, names, options.envs, rest, options.datasets)
    if "grid" in values:
        jobs = _of_grid(jobs, options, rest)
    for job in jobs:
        chosen = resolve(job.algorithm, [job.where, job.task, *job.flags])
        sha256 = chosen.data and chosen.data["sha256"]
        jobs_module.require_same(job, chosen.config, chosen.settings, sha256)
    export = partial(export_run, benchmark=options.results) if options.results else None
    at_once = min(options.jobs or cores.usable(), len(jobs))
    if options.ray:
        failed = jobs_module.run_on_ray(jobs, options.ray, at_once, print, export)
    else:
        failed = jobs_module.run_local(jobs, at_once, print, export)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(j.name for j in failed)}"
        )
    if options.grid:
        print(f"side by side: rlsuite table {options.folder}, rlsuite plot {options.folder}")


def _of_grid(jobs: Sequence, options: Sweep, rest: Sequence[str]) -> list:
    """Every job once for each setting of the grid."""
    from rlsuite.cli import grid

    if options.results:
        raise ValueError(
            "--results takes one setting of each algorithm; leave it out, and export the run that "
            "you choose: rlsuite export FOLDER --results RESULTS"
        )
    chosen = grid.parse(options.grid, rest)
    found = []
    for job in jobs:
        found += grid.jobs(job, chosen, flags_of(job.algorithm))
    return found
