"""Every numbered step of an algorithm box is tagged in the code exactly once, and in order."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from rlsuite import algorithms

SECTIONS = ["Config", "Presets", "Networks", "Objectives", "Update", "Train"]


def box_steps(source: str) -> list[int]:
    """Numbers of the steps in the module docstring: lines that begin with `(n)`."""
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return [int(n) for n in re.findall(r"^\s*\((\d+)\)\s+\S", docstring, re.MULTILINE)]


def tags(source: str) -> list[int]:
    """Numbers in comments that are nothing but a tag, `# (n)`, in the order of the file."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [t.string for t in tokens if t.type == tokenize.COMMENT]
    return [int(m[1]) for c in comments if (m := re.fullmatch(r"# \((\d+)\)", c))]


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_steps_are_tagged_once_and_in_order(name: str) -> None:
    source = Path(algorithms.load(name).__file__).read_text()
    steps = box_steps(source)
    assert len(steps) >= 4, "the docstring holds the paper's algorithm box with numbered steps"
    assert steps == list(range(1, len(steps) + 1))
    assert tags(source) == steps


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_sections_stand_in_the_houses_order(name: str) -> None:
    source = Path(algorithms.load(name).__file__).read_text()
    found = re.findall(r"^# -{10,} (\d)\. (\w+)$", source, re.MULTILINE)
    numbers = [int(n) for n, _ in found]
    assert numbers == sorted(set(numbers)), found
    assert all(SECTIONS[int(n) - 2] == title for n, title in found), found
    assert {2, 3, 5, 6, 7} <= set(numbers), "only section 4, networks, may be missing"


def test_the_readers_of_tags_can_fail() -> None:
    source = (
        '"""Box.\n\n    (1)  first\n    (2)  second\n"""\nx = 1  # (2)\ny = 2  # (1)\n# see (1)\n'
    )
    assert box_steps(source) == [1, 2]
    assert tags(source) == [2, 1]
