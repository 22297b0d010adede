"""`rlsuite sweep --grid NAME=VALUE,VALUE ...`: a job for every combination of settings' values."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from rlsuite.cli import flags
from rlsuite.runs.filenames import escape
from rlsuite.runs.sweep import Job

# What a grid cannot go through -> what to type instead
ELSEWHERE = {
    "env": "--envs TASK ...",
    "dataset": "--datasets NAME ...",
    "seeds": "--seeds 5: every run trains them side by side",
    "folder": "--folder: every setting gets a folder in it",
    "resume": "the same command again",
}
SWITCH = {"true": "--", "false": "--no-"}


def parse(words: Sequence[str], given: Sequence[str]) -> dict[str, list[str]]:
    """{setting: values as they are typed}. ValueError for what is no grid.

    given: the words of the other flags, which may not set the same again.
    """
    if not words:
        raise ValueError("--grid names no setting; type NAME=VALUE,VALUE: clip=.1,.2")
    grid: dict[str, list[str]] = {}
    for word in words:
        typed, equals, text = word.partition("=")
        name = typed.lstrip("-").replace("-", "_")
        values = [value.strip() for value in text.split(",")]
        if not (name and equals and all(values)):
            raise ValueError(f"--grid {word} is not understood; type NAME=VALUE,VALUE: clip=.1,.2")
        if name in ELSEWHERE:
            raise ValueError(f"--grid {word}: no grid goes through {name}; type {ELSEWHERE[name]}")
        if name in grid:
            raise ValueError(f"--grid names {typed} twice; type {typed}=VALUE,VALUE once")
        short = [_short(value) for value in values]
        repeated = [value for value in short if short.count(value) > 1]
        if repeated:
            raise ValueError(f"--grid {word} has {repeated[0]} twice; give each value once")
        flag = f"--{name.replace('_', '-')}"
        if flag in (each.partition("=")[0] for each in flags.spelled(given)):
            raise ValueError(f"both {flag} and --grid {word} are given; leave one out")
        grid[name] = values
    return grid


def jobs(job: Job, grid: Mapping[str, Sequence[str]], known: Sequence[flags.Flag]) -> list[Job]:
    """`job` once for every combination of values, each in a folder of its own.

    known: the flags of the job's algorithm. ValueError where the job's folder is a run's.
    """
    if (job.folder / "config.json").exists():
        raise ValueError(f"{job.folder} holds a run without a grid; name another --folder")
    switches = {flag.name for flag in known if flag.kind is bool}
    found = []
    for values in itertools.product(*grid.values()):
        pairs = list(zip(grid, values, strict=True))
        setting = ",".join(f"{name}={_short(value)}" for name, value in pairs)
        words = [word for name, value in pairs for word in _words(name, value, switches)]
        folder = job.folder / ",".join(f"{name}={escape(_short(value))}" for name, value in pairs)
        more = {"folder": folder, "flags": (*job.flags, *words), "setting": setting}
        found.append(dataclasses.replace(job, **more))
    return found


def _words(name: str, value: str, switches: set[str]) -> list[str]:
    """What `rlsuite train` is told: --clip .1, --no-anneal-lr, --hidden 64 64."""
    flag = name.replace("_", "-")
    if name not in switches:
        return [f"--{flag}", *value.split()]
    if value.lower() not in SWITCH:
        raise ValueError(f"--grid {flag}={value}: {flag} is true or false")
    return [f"{SWITCH[value.lower()]}{flag}"]


def _short(value: str) -> str:
    """One spelling of a value, as a folder's name has it: 0.0001 of 1e-4, 64x64 of "64 64"."""
    try:
        return "x".join(f"{float(part):.12g}" for part in value.split())
    except ValueError:
        return "x".join(value.split())
