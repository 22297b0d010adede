"""Packages that only some commands need: imported when used, named in one line where missing."""

from importlib import import_module
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """The package `module`. ImportError, with the command that installs it, where it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        missing = error.name or module
        told = f"{missing} is not installed; type: pip install 'rlsuite[{extra}]'"
        raise ImportError(told) from None
