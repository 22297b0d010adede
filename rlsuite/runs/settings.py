"""What a run is besides its algorithm's own config; presets; where each number comes from."""

import dataclasses
import difflib
import hashlib
import inspect
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args, get_type_hints

from rlsuite.algorithms.renamed import original
from rlsuite.core.ranges import RunFolder
from rlsuite.envs.tasks import engine_id

COMPILE_CHOICES = ("auto", "on", "off")
ENGINES = ("auto", "envpool", "gymnasium")
DEVICES = ("cpu", "cuda")
MOST_SEEDS = 10_000  # in one run; they are trained side by side
ON_DIVERGENCE = ("stop", "drop")
# Settings that leave a seed's numbers as they are
NOT_DECISIVE = ("seeds", "snapshots", "keep_best", "checkpoint_on_stop", "on_divergence", "wandb")
CLASSIC = ("CartPole", "Acrobot", "Pendulum", "MountainCar", "MountainCarContinuous")


@dataclass(frozen=True)
class Settings:
    """Task, seeds and bookkeeping of one run."""

    env: str  # task, e.g. Hopper-v4, or MODULE:ID for one of your own
    dataset: str | None = None  # what an offline algorithm learns from: a name of data list, a path
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # trained together
    device: str | None = None  # of what learns from replay or data: cuda, or cpu if not given
    engine: str = "auto"  # envpool, gymnasium, or auto: EnvPool from 8 environments up
    evaluations: int = 10  # evenly over the run, the last one at its end
    evaluation_episodes: int = 10  # of each seed, deterministic policy
    checkpoints: int = 10  # evenly over the run; each is an episode boundary of every environment
    compile: str = "auto"  # on, off, or auto: compile the update where it pays
    torch_threads: int = 1  # fastest for small networks; more for many seeds on an idle machine
    snapshots: int | None = None  # policies to keep, evenly over the run, for `rlsuite data keep`
    keep_best: bool | None = None  # also keep the policy of the best evaluation, of each seed
    checkpoint_on_stop: bool | None = None  # SIGTERM, Ctrl-C: make one, which changes what follows
    on_divergence: str | None = None  # stop (default), or drop the seed that diverged: others go on
    wandb: str | None = None  # project of Weights & Biases; WANDB_MODE=offline sends nothing

    def __post_init__(self) -> None:
        if not all(type(seed) is int for seed in self.seeds):
            raise ValueError(f"seeds {list(self.seeds)}: each must be a whole number")
        repeated = sorted(seed for seed, count in Counter(self.seeds).items() if count > 1)
        if repeated:
            raise ValueError(f"seeds {repeated} are repeated in {list(self.seeds)}; give each once")
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds {list(self.seeds)}: give one or more, each 0 or greater")
        for name in ("evaluations", "evaluation_episodes", "checkpoints", "torch_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.snapshots is not None and self.snapshots < 1:
            raise ValueError(f"snapshots is {self.snapshots}; it must be at least 1")
        if self.snapshots and self.on_divergence == "drop":
            raise ValueError("on_divergence drop does not go with snapshots; leave one of them out")
        choices = {"engine": ENGINES, "compile": COMPILE_CHOICES, "device": (None, *DEVICES)}
        choices |= {"on_divergence": (None, *ON_DIVERGENCE)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; use one of {known}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """`5` is seeds 0..4, `3:7` is 3..6, `1,4,9` are those three, `3,` is seed 3 alone."""
    try:
        if "," in text:
            return tuple(int(part) for part in text.split(",") if part.strip())
        first, end = map(int, text.split(":")) if ":" in text else (0, int(text))
    except ValueError:
        raise ValueError(
            f"seeds {text!r} not understood; write 5 (seeds 0 to 4), 3:7 (3 to 6), 1,4,9, or 3,"
        ) from None
    if end - first > MOST_SEEDS:
        raise ValueError(
            f"seeds {text!r} are {end - first:,}, and a run has at most {MOST_SEEDS:,}; for one "
            f"seed write its number and a comma: {end},"
        )
    return tuple(range(first, end))


def preset(module: ModuleType, name: str, task: str, dataset: str | None = None) -> dict:
    """What preset `name` of an algorithm changes for `task`, or for `dataset` of that task.

    ValueError with the known names.
    """
    if name not in module.PRESETS:
        near = difflib.get_close_matches(name, module.PRESETS) or list(module.PRESETS)
        raise ValueError(f"preset {name!r} is unknown; use one of: {', '.join(near)}")
    table, family = module.PRESETS[name], task_family(engine_id(task))
    # What a family changes holds for its tasks with constraints, too, and those may change more
    keys = ["*", *dict.fromkeys((family, task_family(task)))]
    keys += [f"{family}/{level(dataset, family)}"] if dataset else []
    if not table.keys() & set(keys):
        raise ValueError(f"preset {name!r} has no entry for {task}; it has {', '.join(table)}")
    return {k: v for key in keys for k, v in table.get(key, {}).items()}


def default_preset(module: ModuleType, task: str) -> str:
    """`classic` for the classic-control tasks where the algorithm has it, else its first preset."""
    if task_family(task) in CLASSIC and "classic" in module.PRESETS:
        return "classic"
    return next(iter(module.PRESETS))


def task_family(task: str) -> str:
    """`Hopper-v4` -> `Hopper`, `gymnasium_robotics:AntMaze_UMaze-v4` -> `AntMaze`."""
    return re.sub(r"-v\d+$", "", task.partition(",")[0].rpartition(":")[2]).split("_")[0]


def level(dataset: str, family: str) -> str:
    """`deep-ope/hopper/medium-replay-v0`, `hopper_medium_replay-v2.hdf5` -> `medium-replay`."""
    name = re.sub(r"\.\w+$", "", dataset.rstrip("/").rsplit("/", 1)[-1]).replace("_", "-")
    return re.sub(r"-v\d+$", "", name).removeprefix(f"{family.lower()}-")


def field_comments(config_class: type) -> dict[str, str]:
    """{field: its comment}: meaning and source of every number, read from the classes' lines."""
    comments = {}
    for each in config_class.__mro__[:-1]:  # all but object
        for line in inspect.getsource(each).splitlines():
            match = re.match(r"    (\w+):[^#]*  # (.+)", line)
            if match:
                comments.setdefault(match[1], match[2])
    return comments


def learning_rates(config: object) -> str:
    """The flags that set a learning rate, in the order of `config`: "--actor-lr --critic-lr"."""
    return " ".join(f"--{name.replace('_', '-')}" for name in config.declared.learning_rates)


def config_hash(algorithm: str, config: object, settings: Settings) -> str:
    """First 12 hex digits of the SHA-256 of all that decides a run's numbers, seeds apart."""
    return hash_of(algorithm, dataclasses.asdict(config), dataclasses.asdict(settings))


def hash_of(algorithm: str, config: dict, settings: dict) -> str:
    """The same from what config.json holds."""
    given = {k: v for k, v in settings.items() if v is not None and k not in NOT_DECISIVE}
    decisive = {
        "algorithm": algorithm,
        "config": original(algorithm, config),
        "settings": given,
    }
    text = json.dumps(decisive, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def runs_used(config: object) -> dict[str, dict]:
    """{field: what made the run whose folder it names}, of the fields that are a `RunFolder`.

    ValueError for a run folder whose config.json is damaged.
    """
    found = {}
    for name, kind in get_type_hints(type(config)).items():
        if RunFolder not in (kind, *get_args(kind)):
            continue
        value = getattr(config, name)
        if value is None or not (Path(value) / "config.json").exists():
            continue
        end = Path(value) / "finished"
        try:
            manifest = json.loads((Path(value) / "config.json").read_text())
            made = {key: manifest[key] for key in ("command", "commit", "config_hash")}
            seeds = manifest["settings"]["seeds"]
            seconds = float(end.read_text().split()[0]) if end.exists() else None
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{name} is {value}, whose config.json or finished is damaged ({error}); name "
                "another run"
            ) from None
        found[name] = made | {"seeds": seeds, "wall_seconds": seconds}
    return found
