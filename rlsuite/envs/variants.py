"""A task with settings of its own, in one word: `Pendulum-v1,g=1.6,max_episode_steps=12`.

The word goes wherever a task's name goes: flags, run folders, tables, manifests. So a run in a
changed environment never passes for one in the registered environment. The settings are Python's
literals; `gymnasium.make` takes them as arguments, the time limit among them.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

LIMIT = "max_episode_steps"  # Gymnasium's word for the time limit
LONGEST = 10_000  # characters: literals that nest very deep would exhaust Python's parser


def split(task: str) -> tuple[str, dict[str, object]]:
    """The task's name, and its settings. ValueError for settings that cannot be read."""
    name, comma, text = task.partition(",")
    if not comma:
        return name, {}
    settings = _literals(text) if len(text) <= LONGEST else None
    if settings is None:
        raise ValueError(
            f"task {task[:200]!r}: the settings after the first comma are not understood; write "
            "NAME=VALUE, as in Pendulum-v1,g=1.6,max_episode_steps=12, and text in quotes"
        )
    limit = settings.get(LIMIT, 1)
    if type(limit) is not int or limit < 1:
        raise ValueError(f"task {task!r}: {LIMIT} is {limit!r}; it must be a whole number above 0")
    return name, settings


def join(name: str, settings: dict[str, object]) -> str:
    """The word that `split` takes apart."""
    return ",".join([name, *(f"{key}={value!r}" for key, value in sorted(settings.items()))])


def changed(task: str, words: Sequence[str], time_limit: int | None = None) -> str:
    """`task` with settings that were typed as NAME=VALUE, and a time limit of its own.

    A value that is no literal of Python is text. ValueError for what cannot be, or is there twice.
    """
    name, settings = split(task)
    for word in words:
        key, equals, value = word.partition("=")
        if not (equals and key.isidentifier() and value):
            raise ValueError(f"--env-arg {word!r} is not NAME=VALUE, as in --env-arg gravity=1.6")
        _add(settings, key, _literal(value))
    if time_limit is not None:
        if time_limit < 1:
            raise ValueError(f"--time-limit is {time_limit}; it must be at least 1")
        _add(settings, LIMIT, time_limit)
    return join(name, settings) if settings else name


def _add(settings: dict[str, object], key: str, value: object) -> None:
    if key in settings:
        raise ValueError(f"{key} is given twice: {settings[key]!r} and {value!r}; leave one out")
    settings[key] = value


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return text


def _literals(text: str) -> dict[str, object] | None:
    try:
        call = ast.parse(f"settings({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            return None
        found = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return found if None not in found and 0 < len(found) == len(call.keywords) else None
