"""The command `rlsuite`. Each command is a function; its flags are made from dataclasses.

Heavy modules are imported inside the commands, so that `rlsuite --help` answers at once.
"""

import dataclasses
import difflib
import os
import shlex
import shutil
import sys
from pathlib import Path

from rlsuite import __version__
from rlsuite.cli import flags


def train(argv: list[str]) -> None:
    """Train an algorithm on a task for several seeds at once, or go on with a run."""
    from rlsuite.cli.train import train as run

    run(argv)


def sweep(argv: list[str]) -> None:
    """Run algorithms x tasks x seeds as jobs; started again, it goes on."""
    from rlsuite.cli.train import sweep as run

    run(argv)


def tune(argv: list[str]) -> None:
    """Search settings with Optuna, every trial a run of several seeds; it goes on, too."""
    from rlsuite.cli.tune import tune as run

    run(argv)


@dataclasses.dataclass
class Evaluate:
    """Evaluate a saved policy in environments of its own."""

    episodes: int = 10  # of each seed
    env: str | None = None  # another task of the same shapes, e.g. Hopper-v5
    engine: str = "auto"  # envpool, gymnasium, or auto: EnvPool from 8 environments up
    policy: str | None = None  # its name, where the run has several; default: the main one
    sampled: bool = False  # sample actions, where the default is the policy's mode
    seed: int = 0  # of the evaluation's own random streams
    out: Path | None = None  # also write a CSV: seed, episode, return, cost, length


def evaluate(argv: list[str]) -> None:
    """Evaluate a saved policy in environments of its own."""
    from rlsuite import envs
    from rlsuite.core.saving import load_policy
    from rlsuite.core.streams import Streams
    from rlsuite.runs.display import cost_texts, spread
    from rlsuite.runs.evaluation import evaluate as run_episodes

    folder, rest = _folder_first("evaluate FOLDER", argv)
    options = flags.parse("rlsuite evaluate FOLDER", Evaluate, rest)
    _require_episodes(options.episodes)
    _require_writable(options.out)
    policy, manifest = load_policy(folder, options.policy or "")
    task = _acting_in(folder, manifest, options.env)
    seeds = manifest["seeds"]
    pool = envs.make(task, seeds, options.episodes, options.engine)
    shapes = (pool.obs_size, pool.action_size, pool.discrete)
    if shapes != (policy.spec["obs_size"], policy.action_size, policy.discrete):
        raise ValueError(f"{task} has other observations or actions than {manifest['task']}")
    streams = Streams([options.seed + 1_000_003 * seed for seed in seeds])
    rngs = streams["action"] if options.sampled else None
    env_seeds = streams.integers("evaluation", options.episodes)
    result = run_episodes(policy, pool, env_seeds, rngs)
    pool.close()
    for s, seed in enumerate(seeds):
        print(f"seed {seed}: return {spread(result.returns[s].tolist())} over episodes")
    means = result.returns.mean(1).tolist()
    print(
        f"{task}, {options.episodes} episodes each: return {spread(means)} over {len(seeds)} seeds"
    )
    for text in cost_texts(result, pool.constraints if pool.reports_cost else ()):
        print(text)
    if options.out:
        _write_episodes(options.out, seeds, result, pool.constraints)


def _write_episodes(out: Path, seeds: list[int], result, constraints) -> None:
    import numpy as np

    from rlsuite.runs.evaluation import cost_cells

    rows = []
    for seed, episode in np.ndindex(result.returns.shape):
        cells = {"seed": seeds[seed], "episode": episode, "return": result.returns[seed, episode]}
        costs = cost_cells(result.costs[seed, episode], constraints)
        length = int(result.lengths[seed, episode])
        rows.append(cells | {"cost": costs["cost"], "length": length} | costs)
    lines = [rows[0], *(row.values() for row in rows)]
    out.write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n")


@dataclasses.dataclass
class Record:
    """Write a video of a saved policy; no display is needed."""

    out: Path = Path("policy.mp4")  # the MP4 to write
    env: str | None = None  # another task of the same shapes, e.g. Hopper-v5
    policy: str | None = None  # its name, where the run has several; default: the main one
    seed: int | None = None  # which of the run's seeds; the first if not given
    episodes: int = 1  # one after the other


def record(argv: list[str]) -> None:
    """Write a video of a saved policy; no display is needed."""
    from rlsuite.core.saving import load_policy
    from rlsuite.runs.recording import record as film

    folder, rest = _folder_first("record FOLDER", argv)
    options = flags.parse("rlsuite record FOLDER", Record, rest)
    _require_episodes(options.episodes)
    name = options.policy or ""
    task = _acting_in(folder, load_policy(folder, name)[1], options.env)
    out = film(folder, options.out, options.seed, options.episodes, task, name, print)
    print(f"wrote {out}")


@dataclasses.dataclass
class ExportPolicy:
    """Write a policy as a file for programs without rlsuite; its actions are checked."""

    to: str  # onnx (in onnxruntime; an extra), or torch (torch.export)
    out: Path | None = None  # the file to write; default: policy.onnx or policy.pt2 in FOLDER
    policy: str | None = None  # its name, where the run has several; default: the main one
    seed: int | None = None  # which of the run's seeds; the first if not given


def policy(argv: list[str]) -> None:
    """Write a policy as a file for programs without rlsuite: ONNX, or torch.export."""
    from rlsuite.api import load_policy
    from rlsuite.runs.deploying import CHECKED, SUFFIXES, export

    folder, rest = _folder_first("policy FOLDER --to onnx", argv)
    options = flags.parse("rlsuite policy FOLDER", ExportPolicy, rest)
    _require_writable(options.out)
    found = load_policy(folder, seed=options.seed, policy=options.policy or "")
    out = options.out or folder / f"policy{SUFFIXES.get(options.to, '')}"
    far = export(found, options.to, out)
    shapes = f"obs [N, {found.spaces.obs_size}] float64 -> action {['N', *found.spaces.shape]}"
    print(f"wrote {out}: {shapes.replace(chr(39), '')} {found.spaces.dtype}")
    print(f"its actions are the policy's to {far:.1g} over {CHECKED:,} observations")


def _acting_in(folder: Path, manifest: dict, typed: str | None) -> str:
    """The task to act in: the one that the user typed, or the one of the policy in `folder`."""
    from rlsuite.cli.train import require_task
    from rlsuite.envs.tasks import require_typed

    if typed is None:
        require_typed(manifest["task"], str(folder))
    else:
        require_task(typed)
    return typed or manifest["task"]


@dataclasses.dataclass
class Export:
    """Copy the rows of finished runs to a benchmark's results."""

    results: Path  # the benchmark's folder, e.g. results/mujoco-1m
    variant: str | None = None  # put the rows beside the algorithm's own, as ALGORITHM@NAME
    replace: bool = False  # put a run there instead of rows that it does not agree with


def export(argv: list[str]) -> None:
    """Copy the rows of finished runs, with their manifests, to a benchmark's results."""
    from rlsuite.evidence import export as results

    folders, rest = flags.leading(argv)
    options = flags.parse("rlsuite export FOLDER...", Export, rest)
    if not folders:
        raise ValueError(f"which runs? type: rlsuite export FOLDER --results {options.results}")
    results.require_variant(options.variant or "")
    for folder in folders:
        results.finished(Path(folder))  # before any is written
    for folder in folders:
        given = options.results, options.replace, options.variant or ""
        print(f"wrote {results.export(Path(folder), *given)}")


def table(argv: list[str]) -> None:
    """Write tables (Markdown, LaTeX, CSV) of a run or results, or of several runs side by side."""
    from rlsuite.cli.evidence import table as run

    run(argv)


def plot(argv: list[str]) -> None:
    """Write learning curves (PNG) of a run or results, or of several runs side by side."""
    from rlsuite.cli.evidence import plot as run

    run(argv)


def report(argv: list[str]) -> None:
    """Write one self-contained HTML page with tables and curves."""
    from rlsuite.cli.evidence import report as run

    run(argv)


@dataclasses.dataclass
class Algorithms:
    """List the algorithms: paper, presets, file."""


def algorithms(argv: list[str]) -> None:
    """List the algorithms: paper, presets, file."""
    from rlsuite import algorithms as registry

    flags.parse("rlsuite algorithms", Algorithms, argv)
    for name in registry.ALGORITHMS:
        module = registry.load(name)
        title = (module.__doc__ or "").splitlines()[0]
        length = len(Path(module.__file__).read_text().splitlines())
        print(flags.wrapped(f"{name:10}", title))
        print(flags.wrapped(f"{'':10}", f"presets: {', '.join(module.PRESETS)}"))
        print(f"{'':10} {module.__name__.replace('.', '/')}.py, {length} lines")


@dataclasses.dataclass
class Tasks:
    """List the tasks: sizes, engines, length of an episode, cost limits, reference scores."""


def tasks(argv: list[str]) -> None:
    """List the tasks: sizes, engines, length of an episode, cost limits, reference scores."""
    from rlsuite.datasets.scores import reference
    from rlsuite.envs.sizes import DISCRETE, SIZES
    from rlsuite.envs.tasks import TASKS

    flags.parse("rlsuite tasks", Tasks, argv)
    columns = "{:25} {:9} {:>3} {:>3} {:>5}  {}"
    print(columns.format("task", "engine", "obs", "act", "steps", "cost limit, or scores"))
    for name, task in TASKS.items():
        obs, action = SIZES[task.base or name]
        shown = f"1/{action}" if (task.base or name) in DISCRETE else action
        engine = "both" if len(task.engines) == 2 else task.engines[0]
        known = reference(name)
        facts = [_limit_text(each) for each in task.constraints]
        facts += [f"0: {known.minimum:.0f}, 100: {known.maximum:.0f}"] if known else []
        print(
            columns.format(name, engine, obs, shown, task.time_limit, *facts[:1] or [""]).rstrip()
        )
        for fact in facts[1:]:
            print(columns.format("", "", "", "", "", fact))
    print(
        "\nobs, act: numbers in an observation and an action; 1/3: one of 3 actions. Limits\n"
        "are of an episode's sum (episode), of that sum discounted by 0.99 (disc.), or of\n"
        "the mean over steps (step). Scores: the returns that D4RL's references call 0\n"
        "and 100. Your own task: MODULE:ID."
    )


def _limit_text(constraint) -> str:
    """A constraint in short: "speed 103.115 disc."."""
    limit = "none" if constraint.limit is None else f"{constraint.limit:g}"
    kind = {"discounted": "disc."}.get(constraint.kind, constraint.kind)
    return f"{constraint.name} {limit} {kind}"


@dataclasses.dataclass
class Compare:
    """Show two algorithms' files side by side: what differs, section by section."""


def compare(argv: list[str]) -> None:
    """Show two algorithms' files side by side: what differs, section by section."""
    from rich.console import Console

    from rlsuite import algorithms as registry
    from rlsuite.reading.side_by_side import side_by_side

    words, rest = flags.leading(argv)
    flags.parse("rlsuite compare NAME NAME", Compare, rest)
    names = [word.lower() for word in words]
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


def new(argv: list[str]) -> None:
    """Begin a paper of your own, from the file of one that it resembles."""
    from rlsuite.cli.new import new as run

    run(argv)


def data(argv: list[str]) -> None:
    """Offline data sets: list, describe, collect, download, convert."""
    from rlsuite.cli.data import main as run

    run(argv)


# ------------------------------------------------------------------------------------- parsing


def _folder_first(usage: str, argv: list[str]) -> tuple[Path, list[str]]:
    """The folder before the flags, which must be there unless help is asked for."""
    folders, rest = flags.leading(argv, 1)
    if flags.asks_help(rest):
        return Path(), rest
    if not folders:
        raise ValueError(f"which folder? type: rlsuite {usage}")
    if not Path(folders[0]).is_dir():
        raise ValueError(f"{folders[0]} is not a folder; type: rlsuite {usage}")
    return Path(folders[0]), rest


def _require_episodes(number: int) -> None:
    if number < 1:
        raise ValueError(f"--episodes is {number}; it must be at least 1")


def _require_writable(out: Path | None) -> None:
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        what = "is a folder" if out.is_dir() else f"lies in {out.parent}, which is no folder"
        raise ValueError(f"{out} {what}; give --out another file")


COMMANDS = {
    function.__name__: function
    for function in (
        *(train, evaluate, record, policy, sweep, tune, export),
        *(table, plot, report, algorithms, tasks, compare, data, new),
    )
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code. 2: not understood, 1: failed, 130: interrupted."""
    # Before NumPy is imported: in a product of few rows, more threads only wait for one another
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A user's own environment lies where they are. Last: a file here hides no installed package
    if "" not in sys.path:
        sys.path.append("")
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(flags.commands("rlsuite", COMMANDS))
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"rlsuite {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS) or list(COMMANDS)
        print(f"rlsuite: unknown command {argv[0]!r}; use {' or '.join(near)}", file=sys.stderr)
        return 2
    return _run(argv)


def _run(argv: list[str]) -> int:
    try:
        COMMANDS[argv[0]](argv[1:])
    except KeyboardInterrupt as interrupt:
        again = str(interrupt) or shlex.join(["rlsuite", *argv])
        print(f"\ninterrupted; go on with: {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 0
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        print(f"rlsuite {argv[0]}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0
