"""Settings files: what `rlsuite tune` found, and `rlsuite train ppo --config FILE` reads.

A TOML file of an algorithm and its flags. They are read as if they were typed, before the others.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from rlsuite.cli import flags

FLAG = flags.Flag("config", Path, "file of settings, of rlsuite tune; other flags come on top")
NOT_IN_FILES = ("config", "folder", "resume")


def expand(algorithm: str, known: Sequence[flags.Flag], argv: Sequence[str]) -> list[str]:
    """`argv` with the flags that its `--config FILE` has, in front of the others."""
    given, rest = flags.known_of(f"rlsuite train {algorithm}", [FLAG], argv)
    if "config" not in given:
        return list(argv)
    return [*_words(given["config"], algorithm, known), *rest]


def write(path: Path, algorithm: str, values: Mapping[str, object], about: Sequence[str]) -> None:
    """A file of these flags, named as the settings are, with comments `about` them."""
    lines = [*(f"# {line}" for line in about), f'algorithm = "{algorithm}"', "", "[flags]"]
    for name, value in values.items():
        lines.append(f"{name} = {json.dumps('None' if value is None else value)}")
    path.write_text("\n".join(lines) + "\n")


def _words(path: Path, algorithm: str, known: Sequence[flags.Flag]) -> list[str]:
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"--config {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--config {path} is no TOML file: {error}") from None
    if found.get("algorithm") != algorithm:
        raise ValueError(f"--config {path} is of {found.get('algorithm')}, not of {algorithm}")
    if not isinstance(found.get("flags"), dict):
        raise ValueError(f"--config {path} has no table [flags]")
    fields = {flag.name: flag for flag in known if flag.name not in NOT_IN_FILES}
    words = []
    for name, value in found["flags"].items():
        field = fields.get(name.replace("-", "_"))
        if field is None:
            raise ValueError(f"--config {path}: {algorithm} has no setting {name}")
        words += words_of(field, value)
    return words


def words_of(field: flags.Flag, value: object) -> list[str]:
    """What is typed for it: --clip 0.1, --no-anneal-lr, --hidden 64 64."""
    switch = bool in (field.kind, *get_args(field.kind))
    if switch != isinstance(value, bool):
        wanted = "true or false" if switch else "a number or a text"
        raise ValueError(f"{field.word[2:]} is {value!r}; it must be {wanted}")
    if switch:
        return [field.word if value else f"--no-{field.word[2:]}"]
    values = value if isinstance(value, list | tuple) else [value]
    return [field.word, *map(str, values)]
