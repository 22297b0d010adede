"""CSV files of numbers: what is not as it should be is refused with the file and the line."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path


class RowsError(ValueError):
    """Result rows are not as they should be; the message names the file, and the line if any."""


def read(file: Path, needed: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Every row as ("file:line", cells by column). RowsError if it is no table with `needed`."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise RowsError(f"{file}:1: missing column(s) {', '.join(missing)}")
            rows = [(f"{file}:{reader.line_num}", row) for row in reader]
    except FileNotFoundError:
        raise RowsError(f"{file}: no such file; the run has not written it yet") from None
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise RowsError(f"{file}: cannot be read as CSV: {fault}") from None
    for place, row in rows:
        if None in row or None in row.values():
            raise RowsError(f"{place}: the line does not have {len(reader.fieldnames)} cells")
    return rows


def whole(cell: str, name: str, place: str) -> int:
    """The whole number in a cell."""
    try:
        return int(cell)
    except ValueError:
        raise RowsError(f"{place}: {name} must be a whole number, got {cell!r}") from None


def number(cell: str, name: str, place: str, optional: bool = False) -> float:
    """The finite number in a cell; NaN for an empty one that is `optional`."""
    if cell == "" and optional:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        raise RowsError(f"{place}: {name} must be a number, got {cell!r}") from None
    if not math.isfinite(value):
        raise RowsError(f"{place}: {name} is {cell}; only finite numbers can be summarised")
    return value


def key(row: dict[str, str], place: str) -> tuple[int, int]:
    """Seed and step of a row."""
    return whole(row["seed"], "seed", place), whole(row["step"], "step", place)


def grid(file: Path, keys: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Seeds and steps of rows by (seed, step). RowsError unless every seed is at every step."""
    seeds, steps = (sorted(set(column)) for column in zip(*keys, strict=True))
    known = set(keys)
    for seed in seeds:
        absent = [step for step in steps if (seed, step) not in known]
        if absent:
            raise RowsError(
                f"{file}: seed {seed} has no row at step {absent[0]}, other seeds have; all seeds "
                f"need rows at the same steps (resume the run, or take the seed out)"
            )
    return seeds, steps
