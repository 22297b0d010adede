"""The command `rlsuite data`: make, fetch, look at and convert sets of logged transitions."""

import difflib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from rlsuite.cli import flags


def main(argv: list[str]) -> None:
    """Run `rlsuite data COMMAND ...`. ValueError for what is not understood."""
    if argv and argv[0] in ("-h", "--help"):
        print(flags.commands("rlsuite data", COMMANDS))
        return
    if not argv or argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS) if argv else []
        what = f"unknown command {argv[0]!r};" if argv else "which command?"
        raise ValueError(f"{what} type: rlsuite data {' | '.join(near or COMMANDS)}")
    COMMANDS[argv[0]](argv[1:])


@dataclass
class List:
    """Show the sets on this machine and the recipes to collect more."""


def list_sets(argv: list[str]) -> None:
    """Show the sets on this machine and the recipes to collect more."""
    from rlsuite.datasets import recipes, store

    flags.parse("rlsuite data list", List, argv)
    for line in store.local():
        print(line)
    print("recipes, for rlsuite data collect RECIPE --policies FOLDER:")
    for name, levels in recipes.known().items():
        print("  " + " ".join(f"{name}/{level}" for level in levels))


@dataclass
class Describe:
    """Show returns, ends, saturation, score, TQ and SACo of a set."""

    reference: str | None = None  # the set that SACo compares with, e.g. the medium-replay one
    task: str | None = None  # of Gymnasium, where the set does not say, e.g. Hopper-v4
    clip_actions: bool = False  # cut actions to the task's box
    skip_damaged: bool = False  # leave out episodes that cannot be used


def describe(argv: list[str]) -> None:
    """Show returns, ends, saturation, score, TQ and SACo of a set."""
    from rlsuite.datasets.describe import describe as manifest
    from rlsuite.datasets.describe import text

    name, rest = _name_first("describe SET", argv)
    options = flags.parse("rlsuite data describe SET", Describe, rest)
    loading = _loading(options)
    reference = _load(options.reference, loading) if options.reference else None
    print(text(manifest(_load(name, loading), reference)))


@dataclass
class Collect:
    """Make a set: by a recipe, e.g. hopper/medium, or from the policies of a run, with --from."""

    policies: Path | None = None  # folder of the recipe's policies, e.g. of hopper.npz
    from_: Path | None = None  # run folder of this suite
    name: str | None = None  # of the set, e.g. my/pendulum/medium-v0; default: the recipe's
    steps: int | None = None  # transitions; default: the recipe's
    seed: int | None = None  # of all randomness; default: the recipe's, or 0
    mode: bool = False  # act by the policies' modes; the default is to sample
    policy_seed: int | None = None  # with --from: which of the run's seeds; default: all, equally
    task: str | None = None  # with --from: another task of the same shapes, e.g. Hopper-v5


def collect(argv: list[str]) -> None:
    """Make a set by a recipe, e.g. hopper/medium, or from the policies of a run."""
    text, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    options = flags.parse("rlsuite data collect RECIPE", Collect, rest)
    recipe = _recipe(text, options)
    from rlsuite.datasets.collect import collect as run
    from rlsuite.envs.tasks import remember_typed, require_typed

    if options.task is not None:
        remember_typed(options.task)
    require_typed(recipe.task, text or str(options.from_))

    progress = Progress(recipe.name, options.steps or recipe.steps)
    try:
        folder = run(recipe, options.from_ or options.policies, progress=progress)
    finally:
        progress.close()
    print(f"wrote {folder}; look at it: rlsuite data describe {recipe.name}")


def _recipe(text: str | None, options: Collect):
    """The recipe named on the command line, or made of its flags."""
    from rlsuite.datasets import recipes

    if (text is None) == (options.from_ is None):
        raise ValueError(
            "what to collect? type: rlsuite data collect RECIPE --policies FOLDER, or: "
            "rlsuite data collect --from RUN_FOLDER --name my/pendulum/medium-v0 --steps 20000"
        )
    changes = {key: getattr(options, key) for key in ("name", "steps", "seed", "mode")}
    changes = {k: v for k, v in changes.items() if v is not None and v is not False}
    if text is not None:
        if options.task is not None or options.policy_seed is not None:
            raise ValueError("--task and --policy-seed go with --from; a recipe has its own")
        return replace(recipes.read(text), **changes)
    if options.policies is not None:
        raise ValueError("--policies goes with a recipe; with --from the run folder has them")
    if options.name is None or options.steps is None:
        raise ValueError("add the set's name and size: --name my/set-v0 --steps 20000")
    from rlsuite.core.saving import load_policy

    _, manifest = load_policy(options.from_)
    made = recipes.of_run(manifest, options.name, options.steps, options.policy_seed, options.task)
    return replace(made, **changes)


@dataclass
class Keep:
    """Make a set of a run, after D4RL's recipe: from its snapshots, or its replay as it is."""

    level: str  # random, medium, expert, medium-expert, medium-replay or full-replay
    snapshot: tuple[str, ...] = ("auto",)  # a step, or auto; two of medium-expert may differ
    policy_seed: int | None = None  # which of the run's seeds, where it has several
    name: str | None = None  # of the set; default: e.g. sac/hopper/medium-v0
    steps: int | None = None  # transitions of each part; default: 1,000,000
    seed: int = 0  # of what is rolled out


def keep(argv: list[str]) -> None:
    """Make a set of a run, after D4RL's recipe: from its snapshots, or its replay as it is."""
    run, rest = _name_first("keep RUN --level LEVEL", argv)
    options = flags.parse("rlsuite data keep RUN", Keep, rest)
    from rlsuite.datasets import minari
    from rlsuite.runs import keep as keeping

    parts = max(len(keeping.PARTS.get(options.level, ())), 1)
    progress = Progress(options.level, (options.steps or keeping.ROWS) * parts)
    choices = options.snapshot, options.policy_seed, options.name, options.steps, options.seed
    try:
        folder = keeping.keep(Path(run), options.level, *choices, progress)
    finally:
        progress.close()
    print(f"wrote {folder}; look at it: rlsuite data describe {minari.name(folder)}")


@dataclass
class Pack:
    """Put a set that was kept of a run into a small form, for a repository."""

    to: Path  # folder below which it goes, e.g. data


def pack(argv: list[str]) -> None:
    """Put a set that was kept of a run into a small form, for a repository."""
    from rlsuite.datasets import packed

    name, rest = _name_first("pack SET --to FOLDER", argv)
    folder = packed.pack(name, flags.parse("rlsuite data pack SET", Pack, rest).to)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder}, {size / 1e6:,.1f} MB; for the set again: rlsuite data restore {folder}")


@dataclass
class Restore:
    """Make packed sets again: unpack their rows, or let their policies act."""


def restore(argv: list[str]) -> None:
    """Make packed sets again: unpack their rows, or let their policies act."""
    from rlsuite.datasets import packed
    from rlsuite.datasets.transitions import DatasetError

    place, rest = _name_first("restore FOLDER", argv)
    flags.parse("rlsuite data restore FOLDER", Restore, rest)
    folders, failed = packed.found(Path(place)), []
    for folder in folders:
        try:
            _restore(folder)
        except DatasetError as error:  # the others go on
            if len(folders) == 1:
                raise
            print(f"{folder} was left out: {error}", file=sys.stderr)
            failed.append(str(folder))
    if failed:
        names = ", ".join(failed)
        raise DatasetError(f"{len(failed)} of {len(folders)} sets were left out: {names}")


def _restore(folder: Path) -> None:
    from rlsuite.datasets import packed

    known = packed.local(folder)
    if known is not None:
        print(f"{known} is there already")
        return
    progress = Progress(folder.name, packed.steps(folder))
    try:
        print(f"wrote {packed.restore(folder, progress.display.say, progress)}")
    finally:
        progress.close()


class Progress:
    """Shows the progress of a collection on stderr."""

    LINES = 20

    def __init__(self, name: str, steps: int) -> None:
        from rlsuite.runs.display import Display

        self.steps, self.began = steps, perf_counter()
        self.display = Display(name, self.LINES, 0)

    def __call__(self, steps: int, returns: list[float], seconds: dict[str, float]) -> None:
        at = min(self.LINES * steps // self.steps, self.LINES)
        if at > self.display.at:
            self.display.at = at - 1  # update adds one
            self.display.update(returns, steps / (perf_counter() - self.began), seconds)

    def close(self) -> None:
        self.display.close()


@dataclass
class Download:
    """Fetch a set from Minari's server."""


def download(argv: list[str]) -> None:
    """Fetch a set from Minari's server, e.g. mujoco/hopper/medium-v0."""
    from rlsuite.datasets import store

    name, rest = _name_first("download SET", argv)
    flags.parse("rlsuite data download SET", Download, rest)
    print(f"wrote {store.download(name)}")


@dataclass
class Convert:
    """Copy a set to another format: flat .npz or .hdf5 to a Minari set, or a set to flat .hdf5."""

    to: str  # NAME-v0 of the new Minari set, or FILE.hdf5
    task: str | None = None  # of Gymnasium, where the source does not say, e.g. Hopper-v4
    clip_actions: bool = False  # cut actions to the task's box
    skip_damaged: bool = False  # leave out episodes that cannot be used


def convert(argv: list[str]) -> None:
    """Copy a set to another format: flat .npz or .hdf5 to a Minari set, or a set to flat .hdf5."""
    from rlsuite.datasets import d4rl, minari

    name, rest = _name_first("convert SET --to NAME_OR_PATH", argv)
    options = flags.parse("rlsuite data convert SET", Convert, rest)
    loading = _loading(options)
    path = Path(options.to)
    if path.suffix not in d4rl.SUFFIXES:
        minari.require_free(options.to)
        print(f"wrote {minari.write(_load(name, loading), options.to)}")
        return
    if path.exists() or not path.parent.is_dir():
        what = "exists" if path.exists() else f"lies in {path.parent}, which is no folder"
        raise ValueError(f"{path} {what}; give --to another FILE.hdf5")
    d4rl.write(_load(name, loading), path)
    print(f"wrote {path}")


def _loading(options: Describe | Convert) -> dict:
    """What the flags say of loading a set."""
    from rlsuite.envs.tasks import remember_typed

    if options.task is not None:
        remember_typed(options.task)
    names = ("task", "clip_actions", "skip_damaged")
    return {name: getattr(options, name) for name in names}


def _load(name: str, loading: dict):
    """A set with all its rows; without those at time limits only where they cannot be had."""
    from rlsuite.datasets import store
    from rlsuite.datasets.transitions import DatasetError

    shown: list[str] = []

    def say(message: str) -> None:
        if message not in shown:
            print(message, file=sys.stderr)
        shown.append(message)

    try:
        return store.load(name, timeouts="kept", say=say, **loading)
    except DatasetError:  # now as it is by default; what is wrong in any case is raised again
        return store.load(name, say=say, **loading)


def _name_first(usage: str, argv: list[str]) -> tuple[str, list[str]]:
    if {"-h", "--help"} & set(argv):
        return "", [word for word in argv if word.startswith("-")]
    if not argv or argv[0].startswith("-"):
        raise ValueError(f"which one? type: rlsuite data {usage}; rlsuite data list shows them")
    return argv[0], argv[1:]


COMMANDS = {
    "list": list_sets,
    "describe": describe,
    "collect": collect,
    "keep": keep,
    "pack": pack,
    "restore": restore,
    "download": download,
    "convert": convert,
}
