"""The test that `rlsuite new` writes: it fails where the author of a paper has to think."""

TEST = '''"""@name@: what only its author can write. Each failure says what.

Delete what passes, as far as the tests of every algorithm ask for the same; what you write stays.
"""

import re
from pathlib import Path

import pytest

from rlsuite.algorithms import load

MODULE, MODEL = load("@name@"), load("@like@")
FILE = Path(MODULE.__file__)
ROOT = Path(__file__).parents[2]
OWN = [each.__name__ for each in MODULE.OBJECTIVES if each.__module__ == MODULE.__name__]


def section(source: str, number: int) -> str:
    """The text of a section; 1 is the docstring, with the imports."""
    parts = re.split(r"^# -{10,} (\\d)\\.", "1" + source, flags=re.MULTILINE)
    numbered = {"1": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))
    return numbered.get(str(number), "")


def is_the_models(number: int) -> bool:
    return section(FILE.read_text(), number) == section(Path(MODEL.__file__).read_text(), number)


def box(module) -> list[str]:
    return re.findall(r"^ *\\(\\d+\\) .*", module.__doc__, re.MULTILINE)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_nothing_is_left_to_do_in_section(number: int) -> None:
    lines = [line for line in section(FILE.read_text(), number).splitlines() if "TODO" in line]
    assert not lines, "write instead of each TODO what it names:\\n" + "\\n".join(lines)


def test_the_box_is_this_papers() -> None:
    assert box(MODULE) != box(MODEL), "write the steps of your paper's box, (1), (2), ..."


def test_the_update_is_this_papers() -> None:
    same = is_the_models(5) and is_the_models(6)
    assert not same, "sections 5 and 6 are @like@'s: write your paper's objectives and update"


@pytest.mark.parametrize("objective", OWN)
def test_there_is_a_test_by_hand_of(objective: str) -> None:
    told = "numbers worked out by hand in a comment, and below it the assertion"
    assert f"test_{objective}" in globals(), f"write test_{objective} in this file: {told}"


def test_its_trace_is_recorded() -> None:
    told = "once test_learning.py passes and a broken update fails it: python tests/test_golden.py"
    assert (ROOT / "tests/golden/@name@.json").exists(), f"{told} @name@"


def test_its_published_values_are_written_down() -> None:
    told = "write a row for each, with the columns of rlsuite/evidence/published.py; none: delete"
    assert (ROOT / "results/published/@name@.csv").exists(), f"{told} this test"
'''
