"""Two files side by side: sections, matched definitions, counts, and what is printed of them."""

import os
import random
from pathlib import Path

import pytest

from rlsuite import algorithms
from rlsuite.cli.main import main
from rlsuite.reading.comparison import (
    aligned,
    compare,
    counts,
    definitions,
    differing_lines,
    sections,
)
from rlsuite.reading.side_by_side import side_by_side

LEFT = '''"""Box.

    (1)  first
"""

import math

# ---------- 2. Config

clip = 0.2

# ---------- 5. Objectives


def loss(x):
    """Squared."""
    y = x * x
    return y


def only_left(x):
    return math.exp(x)


OBJECTIVES = (loss, only_left)

# ---------- 6. Update


def step(x):
    return x - 1


def steps(x):
    return step(step(x))


# ---------- 7. Train


def train(config, run):
    run.log(step(config))
'''

RIGHT = '''"""Box.

    (1)  first
"""

import math

# ---------- 2. Config

clip = 0.1

# ---------- 4. Networks


# What the paper invents
class Net:
    pass


# ---------- 5. Objectives


def only_right(x):
    """Cubed."""
    return x**3


def loss(x):
    """Squared."""
    y = x + x
    return y


OBJECTIVES = (loss, only_right)

# ---------- 6. Update


def steps(x):
    return step(step(x))


def step(x):
    return x - 1


# ---------- 7. Train


def train(config, run):
    run.log(step(config))
'''

# 49 columns: two of (49 - 3) / 2 = 23, and " | " between them. Of section 5, both have `loss` and
# the constant; they stand before the functions that only one file has.
SHOWN = """\
- a, 42 lines           | + b, 51 lines

== 1. Box and imports: equal, 4 lines

== 2. Config: 0 lines in both, 1 only in a, 1
   only in b
- clip = 0.2            | + clip = 0.1

== 4. Networks: only in b, 3 lines
                        | + # What the paper
                        | +     invents
                        | + class Net:
                        | +     pass

== 5. Objectives: 3 lines in both, 4 only in a, 5
   only in b
  def loss(x):          |   def loss(x):
  ...                   |   ...
-     y = x * x         | +     y = x + x
                        |
- OBJECTIVES = (loss,   | + OBJECTIVES = (loss,
-     only_left)        | +     only_right)
                        |
- def only_left(x):     | + def only_right(x):
-     return math.exp(  | +     \"""Cubed.\"""
-         x)            | +     return x**3

== 6. Update: equal, 4 lines

== 7. Train: equal, 2 lines

== Outside sections 1 to 3: 9 lines in both, 4
   only in a, 8 only in b
"""


def printed(left: str, right: str, width: int) -> list[str]:
    return [line.plain for line in side_by_side(("a", "b"), (left, right), width)]


def test_sections_by_number_without_blank_lines_and_rulers() -> None:
    found = sections(LEFT)
    assert list(found) == [1, 2, 5, 6, 7]
    assert found[1] == ['"""Box.', "    (1)  first", '"""', "import math"]
    assert found[2] == ["clip = 0.2"]
    assert found[7] == ["def train(config, run):", "    run.log(step(config))"]


def test_only_the_houses_rulers_divide() -> None:
    other = "x = 1\n# ----- 2. Presets\n# ----- parsing\n# ----- 3. Presets\ny = 2\n"
    assert sections(other) == {1: ["x = 1", "# ----- 2. Presets", "# ----- parsing"], 3: ["y = 2"]}


def test_definitions_take_their_comments_and_decorators_along() -> None:
    lines = "K = 1\n# of f\n@cache\ndef f():\n    def g(): ...\nclass C:\n    x = 1\nZ = 2\n# end"
    assert definitions(lines.splitlines()) == {
        "f": ["# of f", "@cache", "def f():", "    def g(): ..."],
        "C": ["class C:", "    x = 1"],
        "": ["K = 1", "Z = 2", "# end"],
    }


def test_counts_of_each_section() -> None:
    rows = compare(LEFT, RIGHT)
    tallies = {n: counts(row for part in rows[n].values() for row in part) for n in rows}
    # 5: `loss` shares 3 of 4 lines; only_left has 2, only_right 3; OBJECTIVES differs: 1 + 2 + 1
    # against 1 + 3 + 1. 6: the same two functions of 2 lines in another order.
    assert tallies == {
        **{1: (0, 0, 4), 2: (1, 1, 0), 4: (0, 3, 0)},
        **{5: (4, 5, 3), 6: (0, 0, 4), 7: (0, 0, 2)},
    }


def test_differing_lines_leave_prose_and_settings_out_unless_asked() -> None:
    # Sections 4 to 7: 0 + 4 + 0 + 0 against 3 + 5 + 0 + 0
    assert differing_lines(LEFT, RIGHT) == (4, 8)
    assert differing_lines(RIGHT, LEFT) == (8, 4)
    assert differing_lines(LEFT, RIGHT, sections=(2, 4)) == (1, 4)
    assert differing_lines(LEFT, RIGHT, sections=(1, 3, 6)) == (0, 0)


def test_similar_lines_share_a_row() -> None:
    left = ["a = 1", "learning_rate = 0.1", "same", "b = 2"]
    right = ["learning_rate = 0.2", "same"]
    assert aligned(left, right) == [
        ("a = 1", None),
        ("learning_rate = 0.1", "learning_rate = 0.2"),
        ("same", "same"),
        ("b = 2", None),
    ]


def test_rows_hold_every_line_once_and_in_order() -> None:
    rng = random.Random(0)
    words = ["alpha", "alphas", "beta", "betas", "x", "y"]
    for _ in range(200):
        left, right = (rng.choices(words, k=rng.randrange(8)) for _ in range(2))
        rows = aligned(left, right)
        assert [a for a, _ in rows if a is not None] == left
        assert [b for _, b in rows if b is not None] == right
        assert (None, None) not in rows


def test_what_is_printed() -> None:
    assert printed(LEFT, RIGHT, 49) == SHOWN.splitlines()


def test_functions_that_one_file_has_stand_apart_beside_those_of_the_other() -> None:
    left = "# --- 6. Update\ndef f(): ...\ndef g(): ...\ndef h(): ..."
    right = "# --- 6. Update\ndef i():\n    return 1\ndef h(): ..."
    shown = printed(left, right, 43)
    start = shown.index("- def f(): ...       | + def i():")
    assert shown[start : start + 4] == [
        "- def f(): ...       | + def i():",
        "                     | +     return 1",
        "- def g(): ...       |",
        "",
    ]


def test_equal_files_say_so_in_a_line_for_each_section() -> None:
    shown = [line for line in printed(LEFT, LEFT, 80) if line]
    # The names, five sections, the total
    assert len(shown) == 1 + 5 + 1
    assert all("equal" in line for line in shown[1:])


def test_later_hunks_stand_under_the_line_before_them_or_under_their_def() -> None:
    # By hand: `one` differs, so nothing stands above it; `two` follows a gap of one line, shown
    # whole; `three` follows b, f and c, of which f is the one that it belongs to.
    left = "# --- 2. Config\none = 1\na = 0\ntwo = 1\nb = 0\ndef f():\n  c = 0\n  three = 1\nd = 0"
    right = left.replace(" = 1", " = 2")
    shown = [line[:17].rstrip() for line in printed(left, right, 40)]
    start = shown.index("- one = 1")
    assert shown[start : start + 8] == [
        "- one = 1",
        "  a = 0",
        "- two = 1",
        "  ...",
        "  def f():",
        "  ...",
        "-   three = 1",
        "",
    ]


@pytest.mark.parametrize("width", [1, 20, 33, 100, 300])
def test_long_lines_are_folded_and_nothing_is_lost(width) -> None:
    words = "clip: float = 0.2  # half-width of the interval [paper; table 3]"
    left = f"# --- 2. Config\n{' ' * 60}{words}\n{'x' * 150} = f({'y' * 30}, {'z' * 30})\n"
    right = f"# --- 2. Config\n    {words.upper()} {'word ' * 40}\n"
    shown = printed(left, right, width)
    width = max(width, 20)
    assert max(map(len, shown)) <= width
    column = (width - 3) // 2
    rows = shown[next(i for i, line in enumerate(shown) if line.startswith("== 2. ")) :]
    rows = [row for row in rows[: rows.index("")] if row[column : column + 2] == " |"]
    for source, start, mark in ((left, 0, "-"), (right, column + 3, "+")):
        cells = [row[start : start + column] for row in rows]
        text = "".join(cell[2:] for cell in cells if cell.startswith(mark))
        assert "".join(text.split()) == "".join(source.split("\n", 1)[1].split())


# ------------------------------------------------------------------------------- the command


@pytest.fixture
def no_terminal(monkeypatch) -> None:
    def refuse(*_) -> None:
        raise OSError("not a terminal")

    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", refuse)


def test_command_compares_two_of_the_registry(no_terminal, monkeypatch, capsys) -> None:
    assert main(["compare", "PPO", "Mdpo"]) == 0
    shown = capsys.readouterr().out
    ppo, mdpo = (Path(algorithms.load(n).__file__).read_text() for n in ("ppo", "mdpo"))
    left, right = differing_lines(ppo, mdpo)
    assert left > 0 and f"{left} only in ppo, {right} only in mdpo" in shown.splitlines()[-1]
    # Lines of up to 100 columns fold at the 200 of a pipe: the longest row is nearly that long
    assert 180 < max(map(len, shown.splitlines())) <= 200
    assert "\x1b" not in shown

    monkeypatch.setenv("COLUMNS", "72")
    assert main(["compare", "ppo", "mdpo"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 72


def test_colour_on_a_terminal(no_terminal, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["compare", "ppo", "mdpo"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[31m- ppo" in shown and "\x1b[32m+ mdpo" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which two algorithms? type: rlsuite compare ppo mdpo"),
        (["ppo"], "which two algorithms?"),
        (["ppo", "mdpo", "trpo"], "which two algorithms?"),
        (["PPO", "mdop"], "algorithm 'mdop' is unknown; use one of: mdpo"),
        (["ppo", "PPO"], "both are ppo; type: rlsuite compare ppo trpo | mdpo"),
    ],
)
def test_bad_input_gets_one_clear_line(words, message, capsys) -> None:
    assert main(["compare", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and len(shown.err.splitlines()) == 1
    assert not shown.out
