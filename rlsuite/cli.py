"""The command `rlsuite`. Each command is a function; its flags are made from dataclasses by tyro.

Heavy modules are imported inside the commands, so that `rlsuite --help` answers at once.
"""

import dataclasses
import difflib
import os
import shlex
import shutil
import sys
from pathlib import Path

from rlsuite import flags

HERE = Path(__file__).parent
# In a checkout the published values lie in results/; an installed package carries them along
PUBLISHED = next(
    (p for p in (HERE.parent / "results/published", HERE / "published") if p.is_dir()), HERE
)


def train(argv: list[str]) -> None:
    """Train an algorithm on a task for several seeds at once, or go on with a run."""
    from rlsuite import algorithms
    from rlsuite.experiments import run, settings

    name, rest = _algorithm_first("train", argv)
    if "--resume" in rest:
        _execute(run.reopen(flags.resume_folder(rest), name))
        return
    if name is None:
        raise ValueError(
            f"which algorithm? type: rlsuite train {' | '.join(algorithms.ALGORITHMS)}"
        )
    module = algorithms.load(name)
    env, dataset = _learned_from(name, rest)
    preset = flags.value(rest, "--preset") or settings.default_preset(module, env)
    defaults = module.Config(**settings.preset(module, preset, env, dataset))
    kind = flags.train_flags(settings.Settings(env, dataset), defaults, preset)
    chosen = dataclasses.asdict(flags.parse(f"rlsuite train {name}", kind, rest))
    run_settings = settings.Settings(
        **{f.name: chosen.get(f.name) for f in dataclasses.fields(settings.Settings)}
        | {"seeds": settings.parse_seeds(chosen["seeds"])}
    )
    config = module.Config(**{f.name: chosen[f.name] for f in dataclasses.fields(module.Config)})
    folder = chosen["folder"] or _free_folder(Path("runs"), f"{name}-{env.replace(':', '-')}")
    command = shlex.join(["rlsuite", "train", *argv])
    new = run.create(folder, name, config, run_settings, preset, command)
    new.say(f"preset {preset}; {config.iterations} iterations; everything goes to {folder}")
    try:
        _execute(new)
    except ValueError:
        if not any(folder.glob("*.csv")):  # refused before its first row: nothing is lost
            shutil.rmtree(folder)
        raise


def _learned_from(name: str, argv: list[str]) -> tuple[str, str | None]:
    """Task and data set of `rlsuite train NAME`; the task of a data set need not be given."""
    from rlsuite import algorithms

    env, dataset = flags.value(argv, "--env"), None
    asked = {"-h", "--help"} & set(argv)
    if algorithms.is_offline(name):
        dataset = flags.value(argv, "--dataset")
        if dataset is None and not asked:
            raise ValueError(
                f"which data? type: rlsuite train {name} --dataset NAME; rlsuite data list has them"
            )
        if dataset is not None:
            from rlsuite.datasets import store
            from rlsuite.envs.tasks import require_typed

            said = None if env else store.load(dataset).about["task"]
            require_typed(said or "", dataset)
            env = env or said
        dataset = dataset or "NAME"
    if env is None and not asked:
        known = "Hopper-v4" if dataset is None else f"TASK: {dataset} does not name its own"
        raise ValueError(f"which task? type: rlsuite train {name} --env {known}")
    env = env or "Hopper-v4"
    _require_task(env)
    return env, dataset


def _execute(new) -> None:
    from rlsuite.experiments.run import execute

    try:
        execute(new)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"rlsuite train --resume {new.folder}") from None


@dataclasses.dataclass
class Evaluate:
    """Evaluate a saved policy in environments of its own."""

    episodes: int = 10  # of each seed
    env: str | None = None  # another task of the same shapes, e.g. Hopper-v5
    sampled: bool = False  # sample actions; the default is the policy's mode
    seed: int = 0  # of the evaluation's own random streams
    out: Path | None = None  # also write a CSV: seed, episode, return, cost, length


def evaluate(argv: list[str]) -> None:
    """Evaluate a saved policy in environments of its own."""
    from rlsuite import envs
    from rlsuite.core.saving import load_policy
    from rlsuite.core.streams import Streams
    from rlsuite.experiments.display import spread
    from rlsuite.experiments.evaluation import evaluate as run_episodes

    folder, rest = _folder_first("evaluate", argv)
    options = flags.parse("rlsuite evaluate FOLDER", Evaluate, rest)
    policy, about = load_policy(folder)
    task = options.env or about["task"]
    seeds = about["seeds"]
    _require_task(task)
    pool = envs.make(task, seeds, options.episodes)
    if (pool.obs_size, pool.action_size) != (policy.spec["obs_size"], policy.action_size):
        raise ValueError(f"{task} has other observations or actions than {about['task']}")
    streams = Streams([options.seed + 1_000_003 * seed for seed in seeds])
    rngs = streams["action"] if options.sampled else None
    env_seeds = streams.integers("evaluation", options.episodes)
    result = run_episodes(policy, pool, env_seeds, rngs)
    pool.close()
    for slot, seed in enumerate(seeds):
        print(f"seed {seed}: return {spread(result.returns[slot].tolist())} over episodes")
    means = result.returns.mean(1).tolist()
    print(
        f"{task}, {options.episodes} episodes each: return {spread(means)} over {len(seeds)} seeds"
    )
    if options.out:
        lines = ["seed,episode,return,cost,length"]
        for slot, seed in enumerate(seeds):
            columns = (result.returns[slot], result.costs[slot], result.lengths[slot])
            for episode, (ret, cost, length) in enumerate(zip(*columns, strict=True)):
                lines.append(f"{seed},{episode},{ret},{cost},{int(length)}")
        options.out.write_text("\n".join(lines) + "\n")


@dataclasses.dataclass
class Record:
    """Write a video of a saved policy."""

    out: Path = Path("policy.mp4")  # the MP4 to write
    seed: int | None = None  # which of the run's seeds; the first if not given
    episodes: int = 1  # one after the other


def record(argv: list[str]) -> None:
    """Write a video of a saved policy; no display is needed."""
    from rlsuite.experiments.recording import record as film

    folder, rest = _folder_first("record", argv)
    options = flags.parse("rlsuite record FOLDER", Record, rest)
    print(f"wrote {film(folder, options.out, options.seed, options.episodes)}")


@dataclasses.dataclass
class Sweep:
    """Algorithms x tasks x seeds, as local processes or on Ray. Other flags go to every run."""

    envs: tuple[str, ...] = ()  # tasks, e.g. --envs Hopper-v4 Walker2d-v4
    datasets: tuple[str, ...] = ()  # what offline algorithms go through, instead of tasks
    folder: Path = Path("runs/sweep")  # where the run folders go; the same one continues a sweep
    results: Path | None = None  # also export rows, e.g. to results/mujoco-1m
    jobs: int | None = None  # at once; default: one for each core
    ray: str | None = None  # address of a Ray cluster, or local


def sweep(argv: list[str]) -> None:
    """Run algorithms x tasks x seeds as jobs; start it again to resume what was interrupted."""
    import tyro

    from rlsuite import algorithms
    from rlsuite.datasets import store
    from rlsuite.experiments import sweep as jobs_module
    from rlsuite.experiments.run import RunError

    count = next((i for i, x in enumerate(argv) if x.startswith("-")), len(argv))
    names, rest = argv[:count], argv[count:]
    options, flags = tyro.cli(
        Sweep, args=rest, prog="rlsuite sweep ALGORITHM...", return_unknown_args=True
    )
    if not names:
        raise ValueError("which algorithms? type: rlsuite sweep ppo --envs Hopper-v4")
    for name in names:
        algorithms.load(name)
    for task in options.envs:
        _require_task(task)
    for dataset in options.datasets:
        store.locate(dataset)
    jobs = jobs_module.plan(options.folder, names, options.envs, flags, options.datasets)
    at_once = options.jobs or len(os.sched_getaffinity(0))
    if options.ray:
        failed = jobs_module.run_on_ray(jobs, options.ray, at_once, print, options.results)
    else:
        failed = jobs_module.run_local(jobs, at_once, print, options.results)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(j.name for j in failed)}"
        )


@dataclasses.dataclass
class Export:
    """Copy the rows of finished runs to a benchmark's results."""

    results: Path  # the benchmark's folder, e.g. results/mujoco-1m
    replace: bool = False  # put a run there instead of rows that it does not agree with


def export(argv: list[str]) -> None:
    """Copy the rows of finished runs, with their manifests, to a benchmark's results."""
    from rlsuite.experiments import results

    count = next((i for i, x in enumerate(argv) if x.startswith("-")), len(argv))
    options = flags.parse("rlsuite export FOLDER...", Export, argv[count:])
    folders = [Path(folder) for folder in argv[:count]]
    if not folders:
        raise ValueError(f"which runs? type: rlsuite export FOLDER --results {options.results}")
    for folder in folders:
        results.finished(folder)  # before any is written
    for folder in folders:
        print(f"wrote {results.export(folder, options.results, options.replace)}")


@dataclasses.dataclass
class Evidence:
    """From a run folder or a benchmark's results."""

    out: Path | None = None  # where to write; default: beside the source
    published: Path = PUBLISHED  # folder with the published values


def table(argv: list[str]) -> None:
    """Write tables (Markdown, LaTeX, CSV): ours with intervals beside published values."""
    from rlsuite.experiments import tables

    source, options = _evidence("table", argv)
    paths = tables.write(source, options.out or source / "tables", options.published)
    print((options.out or source / "tables") / "tables.md", "\n")
    print(next(p for p in paths if p.suffix == ".md").read_text())


def plot(argv: list[str]) -> None:
    """Write learning curves (PNG) with intervals and published values."""
    from rlsuite.experiments import curves

    source, options = _evidence("plot", argv)
    for path in curves.write(source, options.out or source / "curves", options.published):
        print(f"wrote {path}")


def report(argv: list[str]) -> None:
    """Write one self-contained HTML page with tables and curves."""
    from rlsuite.experiments import report as report_module

    source, options = _evidence("report", argv)
    out = options.out or source / "report.html"
    print(f"wrote {report_module.write(source, out, options.published)}")


def algorithms(argv: list[str]) -> None:
    """List the algorithms: paper, presets, file."""
    from rlsuite import algorithms as registry

    for name in registry.ALGORITHMS:
        module = registry.load(name)
        title = (module.__doc__ or "").splitlines()[0]
        length = len(Path(module.__file__).read_text().splitlines())
        print(f"{name:10} {title}\n{'':10} presets: {', '.join(module.PRESETS)}")
        print(f"{'':10} {module.__name__.replace('.', '/')}.py, {length} lines")


@dataclasses.dataclass
class Compare:
    """Show two algorithms' files side by side: what differs, section by section."""


def compare(argv: list[str]) -> None:
    """Show two algorithms' files side by side: what differs, section by section."""
    import shutil

    from rich.console import Console

    from rlsuite import algorithms as registry
    from rlsuite.experiments.side_by_side import side_by_side

    names = [word.lower() for word in argv if not word.startswith("-")]
    flags.parse(
        "rlsuite compare NAME NAME", Compare, [word for word in argv if word.startswith("-")]
    )
    if len(names) != 2:
        raise ValueError("which two algorithms? type: rlsuite compare ppo mdpo")
    left, right = (Path(registry.load(name).__file__).read_text() for name in names)
    if names[0] == names[1]:
        others = " | ".join(name for name in registry.ALGORITHMS if name != names[0])
        raise ValueError(f"both are {names[0]}; type: rlsuite compare {names[0]} {others}")
    width = shutil.get_terminal_size((200, 24)).columns  # 200: where there is no terminal
    console = Console()
    for line in side_by_side((names[0], names[1]), (left, right), width):
        console.print(line, soft_wrap=True)


def data(argv: list[str]) -> None:
    """Offline data sets: list, describe, collect, download, convert."""
    from rlsuite.cli_data import main as run

    run(argv)


# ------------------------------------------------------------------------------------- parsing


def _evidence(command: str, argv: list[str]) -> tuple[Path, Evidence]:
    source, rest = _folder_first(command, argv)
    return source, flags.parse(f"rlsuite {command} SOURCE", Evidence, rest)


def _algorithm_first(command: str, argv: list[str]) -> tuple[str | None, list[str]]:
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    return None, argv


def _folder_first(command: str, argv: list[str]) -> tuple[Path, list[str]]:
    if {"-h", "--help"} & set(argv):
        return Path(), [x for x in argv if x.startswith("-")]
    if not argv or argv[0].startswith("-"):
        raise ValueError(f"which folder? type: rlsuite {command} FOLDER")
    if not Path(argv[0]).is_dir():
        raise ValueError(f"{argv[0]} is not a folder; type: rlsuite {command} FOLDER")
    return Path(argv[0]), argv[1:]


def _require_task(task: str) -> None:
    from rlsuite.envs.tasks import choose_engine

    if ":" in task and "" not in sys.path:
        sys.path.insert(0, "")  # a user's own module lies where they are
    choose_engine(task, 1)


def _free_folder(parent: Path, name: str) -> Path:
    return next(
        parent / f"{name}-{number}"
        for number in range(1, 1_000_000)
        if not (parent / f"{name}-{number}").exists()
    )


COMMANDS = {
    function.__name__: function
    for function in (
        *(train, evaluate, record, sweep, export),
        *(table, plot, report, algorithms, compare, data),
    )
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code. 2: not understood, 1: failed, 130: interrupted."""
    # Before NumPy is imported: in a product of few rows, more threads only wait for one another
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("rlsuite COMMAND [...], rlsuite COMMAND --help for its flags\n")
        for name, function in COMMANDS.items():
            print(f"  {name:11} {(function.__doc__ or '').splitlines()[0]}")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS) or list(COMMANDS)
        print(f"rlsuite: unknown command {argv[0]!r}; use {' or '.join(near)}", file=sys.stderr)
        return 2
    try:
        COMMANDS[argv[0]](argv[1:])
    except KeyboardInterrupt as interrupt:
        again = str(interrupt) or shlex.join(["rlsuite", *argv])
        print(f"\ninterrupted; go on with: {again}", file=sys.stderr)
        return 130
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        print(f"rlsuite {argv[0]}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0
