"""Flags of the commands, made from dataclasses by tyro, whose fields' comments are the help."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated


def train_flags(settings: object, config: object, preset: str) -> type:
    """A dataclass of all flags of `train`: the run's, then the algorithm's, with their comments."""
    import tyro

    from rlsuite.experiments.settings import field_comments

    fields = []
    for source in (settings, config):
        helps = field_comments(type(source))
        for field in dataclasses.fields(source):
            kind, value = field.type, getattr(source, field.name)
            if field.name in ("dataset", "device") and settings.dataset is None:
                continue  # learns in the environment
            if field.name == "seeds":  # one word says which: see settings.parse_seeds
                kind, value = str, "5"
            elif field.name == "env":
                helps["env"] = "task, e.g. Hopper-v4, or MODULE:ID for one of your own"
            kind = Annotated[kind, tyro.conf.arg(help=helps.get(field.name, ""))]
            fields.append((field.name, kind, dataclasses.field(default=value)))
    extra = {
        "preset": (str, preset, "named set of defaults; explicit flags come on top"),
        "folder": (Path | None, None, "run folder; default: runs/ALGORITHM-TASK-NUMBER"),
        "resume": (Path | None, None, "go on with this run folder; no other flag goes with it"),
    }
    for name, (kind, value, text) in extra.items():
        annotated = Annotated[kind, tyro.conf.arg(help=text)]
        fields.append((name, annotated, dataclasses.field(default=value)))
    return dataclasses.make_dataclass("Train", fields)


def parse(prog: str, flags: type, argv: list[str]):
    """An instance of `flags` from the words of a command line."""
    import tyro

    return tyro.cli(flags, args=argv, prog=prog)


def resume_folder(argv: list[str]) -> Path:
    """The folder of `--resume FOLDER`, which must stand alone."""
    if len(argv) != 2 or argv[0] != "--resume":
        raise ValueError(
            f"--resume takes a run folder and nothing else (got {shlex.join(argv)}): the settings "
            "come from the folder. Type: rlsuite train --resume FOLDER"
        )
    return Path(argv[1])


def value(argv: list[str], flag: str) -> str | None:
    """The value of `flag` in `--flag value` or `--flag=value`, before tyro parses the rest."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.removeprefix(flag + "=")
    return None
