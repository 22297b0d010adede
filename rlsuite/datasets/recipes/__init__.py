"""Recipes: which policies act how many steps on which task. TOML files, one table per level."""

import difflib
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from rlsuite.datasets.transitions import DatasetError

HERE = Path(__file__).parent
UNIFORM = "uniform"  # the part of a recipe that is uniformly random actions
KINDS = {int: ("steps", "seed"), dict: ("parts",), bool: ("mode",)}  # of keys; the others are text
WORDS = {int: "a whole number", dict: "a table of policy = share", bool: "true or false"}


@dataclass(frozen=True)
class Recipe:
    """One set to be. `parts` is policy -> share: steps are divided in proportion, in this order.

    A policy is `uniform`, a name in `snapshots` (a Deep-OPE archive in the folder of policies), or,
    where `snapshots` is None, a seed of the run that the folder is.
    """

    name: str  # Minari's id of the set, e.g. deep-ope/hopper/medium-v0
    task: str
    steps: int  # the set ends with the first episode that reaches them
    parts: dict[str, float]
    seed: int = 0  # of every random number
    snapshots: str | None = None
    source: str = "of unknown origin"  # of the policies
    licence: str = "unknown"  # of the policies
    mode: bool = False  # act by the policies' modes; the default is to sample

    def __post_init__(self) -> None:
        if self.steps < 1 or self.seed < 0:
            what = f"{self.steps} steps from seed {self.seed}"
            raise DatasetError(f"{self.name}: {what}; steps must be at least 1, seed at least 0")
        if not self.parts or min(self.parts.values()) <= 0:
            raise DatasetError(f"{self.name}: parts {self.parts}; give each policy a share above 0")
        if min(self.quotas().values()) < 1:
            parts = len(self.parts)
            raise DatasetError(f"{self.name}: {self.steps} steps are too few for {parts} policies")

    def quotas(self) -> dict[str, int]:
        """policy -> steps; they add up to `steps`."""
        total, at, quotas = sum(self.parts.values()), 0.0, {}
        for policy, share in self.parts.items():
            start, at = at, at + share
            quotas[policy] = round(self.steps * at / total) - round(self.steps * start / total)
        return quotas


def known() -> dict[str, list[str]]:
    """Names of the recipe files that come along -> their levels."""
    return {file.stem: list(_levels(file)[1]) for file in sorted(HERE.glob("*.toml"))}


def read(text: str) -> Recipe:
    """The recipe `hopper/medium` of those that come along, or `FILE.toml/LEVEL` of the user's own.

    Raises DatasetError that says which levels or files there are, or which key is wrong.
    """
    stem, _, level = text.rpartition("/")
    file = Path(stem) if stem.endswith(".toml") else HERE / f"{stem}.toml"
    if not stem or not file.is_file():
        names = [f"{name}/{level}" for name, levels in known().items() for level in levels]
        near = difflib.get_close_matches(text, names) or names
        raise DatasetError(f"there is no recipe {text!r}; use {' | '.join(near)} | FILE.toml/LEVEL")
    common, levels = _levels(file)
    if level not in levels:
        raise DatasetError(f"{file.name} has no level {level!r}; use one of {', '.join(levels)}")
    values = common | levels[level]
    try:
        values["name"] = f"{values['name']}/{level}-v0"
        for key in {field.name for field in fields(Recipe)} & set(values):
            _require_kind(key, values[key])
        return Recipe(**values)
    except (TypeError, KeyError) as error:
        raise DatasetError(f"{file}, level {level}: {_plain(error)}") from None


def of_run(metadata: dict, name: str, steps: int, seed: int | None, task: str | None) -> Recipe:
    """A set of the policies of a run; `metadata` is the description saved with them.

    All its seeds act in equal shares, or `seed` alone; on the run's task unless another is given.
    """
    seeds = metadata["seeds"] if seed is None else [seed]
    made = (
        f"{metadata.get('algorithm', '?')} on {metadata['task']}, step {metadata.get('step', '?')}"
    )
    return Recipe(
        name=name,
        task=task or metadata["task"],
        steps=steps,
        parts={str(one): 1.0 for one in seeds},
        source=f"trained by rlsuite: {made}",
        licence="your own",
    )


def _levels(file: Path) -> tuple[dict, dict]:
    """What holds for every level of a file, and its levels."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} is not TOML: {error}") from None
    levels = {key: value for key, value in content.items() if isinstance(value, dict)}
    return {key: value for key, value in content.items() if key not in levels}, levels


def _require_kind(key: str, value: object) -> None:
    """Raise TypeError for a value that no such key may have."""
    kind = next((kind for kind, keys in KINDS.items() if key in keys), str)
    shares = value.values() if kind is dict and isinstance(value, dict) else ()
    if type(value) is not kind or not all(type(share) in (int, float) for share in shares):
        raise TypeError(f"{key} is {value!r}; it must be {WORDS.get(kind, 'text')}")


def _plain(error: Exception) -> str:
    """Python's message about a missing or unknown argument, as one about a key."""
    if isinstance(error, KeyError):
        return f"the key {error} is missing"
    return re.sub(r"^.*?__init__\(\) ", "", str(error)).replace("keyword argument", "key")
