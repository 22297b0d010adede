"""What can go wrong while environments run, and whose fault it is."""

from __future__ import annotations

import logging
import sysconfig
import traceback
from collections.abc import Sequence

_said: set[str] = set()


class EnvironmentFault(RuntimeError):
    """An environment failed, or returned what it must not; `seeds` are those of the run it hit."""

    def __init__(self, message: str, seeds: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.seeds = tuple(seeds)


class PolicyFault(RuntimeError):
    """A policy's action is NaN: training diverged, and the environment is sound."""

    def __init__(self, message: str, seeds: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.seeds = tuple(seeds)


class RowFault(Exception):
    """What went wrong in one row of a batch: an engine knows no seeds, `Environments` adds them."""

    def __init__(self, row: int, text: str) -> None:
        super().__init__(text)
        self.row = row


def explained(error: BaseException) -> str:
    """`error` in one line, with the line of the user's own code that led to it.

    Where no line is the user's, as in an installed package, it is the one that raised.
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first one is our own
    libraries = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib"))
    own = [frame for frame in frames if not frame.filename.startswith((*libraries, "<"))]
    if not frames:
        return text
    frame = (own or frames)[-1]
    return f"{text} (at {frame.filename}:{frame.lineno}: {frame.line})"


def warn_once(text: str) -> None:
    """Log a warning, which is a line on the terminal unless logging is set up; once a process."""
    if text not in _said:
        _said.add(text)
        logging.getLogger("rlsuite").warning(text)
