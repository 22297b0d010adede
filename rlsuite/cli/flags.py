"""Flags of the commands, made from dataclasses, whose fields' comments are the help.

`--flag value` and `--flag=value` are the same, and so are `--env-steps` and `--env_steps`. What
cannot be understood is a ValueError of one line that says what to type.
"""

import argparse
import dataclasses
import difflib
import shutil
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from rlsuite.core.ranges import RunFolder
from rlsuite.runs.settings import Settings, field_comments

REQUIRED = dataclasses.MISSING
METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", RunFolder: "FOLDER"}
LARGEST = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag: the name and type of its field, its help, and what it is if not given."""

    name: str
    kind: object
    text: str
    default: object = None

    @property
    def word(self) -> str:
        """As it is typed. A field called `from_` is --from, which is no name in Python."""
        return spelled([f"--{self.name.rstrip('_')}"])[0]

    @property
    def metavar(self) -> str:
        return METAVARS[self._parts()[0]]

    def _parts(self) -> tuple[type, bool, bool]:
        """The type of a value, whether None is one, and whether the flag takes many."""
        parts = typing.get_args(self.kind) or (self.kind,)
        many = typing.get_origin(self.kind) is tuple
        return parts[0], type(None) in parts, many

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        base, optional, many = self._parts()
        named = {"dest": self.name, "default": argparse.SUPPRESS, "help": self._help()}
        if base is bool:
            parser.add_argument(self.word, action=argparse.BooleanOptionalAction, **named)
            return
        named |= {"metavar": self.metavar, "nargs": "*" if many else None}
        named |= {"action": "extend"} if self.name == "env_arg" else {}
        if optional and self.default not in (None, REQUIRED):
            named["metavar"] += "|None"
        parser.add_argument(self.word, type=_reader(base, optional), **named)

    def _help(self) -> str:
        value = self.default
        if value is REQUIRED:
            shown = "(required)"
        elif isinstance(value, tuple):
            shown = f"(default: {' '.join(map(str, value))})" if value else ""
        else:
            shown = "" if value is None else f"(default: {value})"
        return f"{self.text} {shown}".strip().replace("%", "%%")


def of(kind: type) -> list[Flag]:
    """The flags of a dataclass, in its order."""
    kinds, comments = typing.get_type_hints(kind), field_comments(kind)
    return [
        Flag(field.name, kinds[field.name], comments.get(field.name, ""), field.default)
        for field in dataclasses.fields(kind)
    ]


def of_train(
    config: type, offline: bool, off_policy: bool = False, takes_data: bool = False
) -> list[Flag]:
    """All flags of `train`: the run's, then the algorithm's, then what becomes of them.

    `offline`: it needs a data set; `takes_data`: it may be given one.
    """
    takes_data = takes_data or offline
    absent = (() if takes_data else ("dataset",)) + (() if offline or off_policy else ("device",))
    seeds = "5: seeds 0 to 4; 3:7: seeds 3 to 6; 1,4,9: those three; 3,: seed 3 alone"
    changes = {"seeds": {"kind": str, "text": seeds, "default": "5"}}
    if takes_data:
        changes["env"] = {"text": "task to evaluate in; default: the one that the data set names"}
        changes["env"] |= {"default": None}
        changes["dataset"] = {"default": REQUIRED if offline else None}
    run = [
        dataclasses.replace(flag, **changes.get(flag.name, {}))
        for flag in of(Settings)
        if flag.name not in absent
    ]
    folder = f"run folder; default: runs/ALGORITHM-{'DATASET' if offline else 'TASK'}-NUMBER"
    return [
        *run,
        *of(config),
        Flag("env_arg", tuple[str, ...], "settings of the environment, such as gravity=1.6", ()),
        Flag("time_limit", int, "steps after which an episode is cut; default: the task's own"),
        Flag("preset", str, "named set of defaults; other flags come on top"),
        Flag("folder", Path, folder),
        Flag("resume", Path, "go on with this run folder; its settings stay as they are"),
    ]


def parse(usage: str, kind: type, argv: Sequence[str]):
    """An instance of the dataclass `kind`; with -h or --help its flags are shown instead.

    usage: the command and what comes before the flags, e.g. "rlsuite evaluate FOLDER".
    """
    known = of(kind)
    if asks_help(argv):
        show_help(usage, known, kind.__doc__)
    values, rest = known_of(usage, known, argv)
    refuse_unknown(usage, known, rest)
    for flag in known:
        if flag.default is REQUIRED and flag.name not in values:
            example = f"{usage} {flag.word} {flag.metavar}"
            raise ValueError(f"{flag.word} is missing; type: {example}")
    return kind(**values)


def known_of(usage: str, known: Sequence[Flag], argv: Sequence[str]) -> tuple[dict, list[str]]:
    """({field: value} of the flags that are given, the words that belong to none of them)."""
    values, rest = _parser(usage, known).parse_known_args(spelled(argv))
    return vars(values), rest


def refuse_unknown(usage: str, known: Sequence[Flag], rest: Sequence[str]) -> None:
    """ValueError if words are left, with the flag that is most like the first of them."""
    if not rest:
        return
    if not rest[0].startswith("-"):
        raise ValueError(f"{rest[0]!r} belongs to no flag; {_command(usage)} --help lists them")
    word = rest[0].partition("=")[0]
    near = difflib.get_close_matches(word, [flag.word for flag in known], 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"unknown flag {word}; {hint}{_command(usage)} --help lists all")


def leading(argv: Sequence[str], most: int | None = None) -> tuple[list[str], list[str]]:
    """The words before the first flag, at most so many, and the rest."""
    count = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    count = count if most is None else min(count, most)
    return list(argv[:count]), list(argv[count:])


def spelled(argv: Sequence[str]) -> list[str]:
    """Words in one spelling: `--env_steps=9` as `--env-steps 9`.

    A value that begins with a dash stays with its flag, or argparse takes -1e-3 for a flag.
    """
    words: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if word.startswith("--"):
            words.append(flag.replace("_", "-"))
            if not equals:
                continue
        else:
            value = word
        if value.startswith("-") and words and words[-1].startswith("--"):
            words[-1] += "=" + value
        else:
            words.append(value)
    return words


def asks_help(argv: Sequence[str]) -> bool:
    return bool({"-h", "--help"} & set(argv))


def show_help(usage: str, known: Sequence[Flag], text: str | None) -> typing.NoReturn:
    """Print the flags and exit."""
    _parser(usage, known, text).print_help()
    raise SystemExit(0)


def commands(usage: str, functions: Mapping[str, Callable]) -> str:
    """What each of `functions` does, by the first line of its docstring."""
    lines = [f"{usage} COMMAND [...], {usage} COMMAND --help for its flags\n"]
    for name, function in functions.items():
        lines.append(wrapped(f"  {name:11}", (function.__doc__ or "").splitlines()[0]))
    return "\n".join(lines)


def wrapped(heading: str, text: str) -> str:
    """`heading` with `text` beside it, as wide as the terminal."""
    width = shutil.get_terminal_size().columns
    indents = {"initial_indent": f"{heading} ", "subsequent_indent": " " * (len(heading) + 1)}
    return textwrap.fill(text, width, break_on_hyphens=False, **indents)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        message = message.removeprefix("argument ")
        raise ValueError(f"{message}; {_command(self.prog)} --help explains it")


def _parser(usage: str, known: Sequence[Flag], text: str | None = None) -> _Parser:
    shown = " [--FLAG VALUE ...]" if known else ""
    parser = _Parser(usage, usage + shown, text, add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    for flag in known:
        flag.add_to(parser)
    return parser


def _command(usage: str) -> str:
    """`rlsuite evaluate` of "rlsuite evaluate FOLDER"."""
    return " ".join(word for word in usage.split() if word.islower())


def _reader(base: type, optional: bool) -> Callable[[str], object]:
    """What makes a value of type `base` from a word, or None of the word None."""

    def read(word: str) -> object:
        if optional and word == "None":
            return None
        if base is int:
            return _whole(word)
        try:
            return base(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is no number") from None

    return read


def _whole(word: str) -> int:
    """The whole number that `word` is exactly: 1000000, 1_000_000 or 1e6."""
    try:
        number = Decimal(word)
        if number.is_finite() and abs(number) <= LARGEST and number == number.to_integral_value():
            return int(number)
    except ArithmeticError:
        pass
    raise argparse.ArgumentTypeError(f"{word!r} is no whole number such as 1000000 or 1e6")
