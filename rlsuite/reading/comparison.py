"""Two algorithm files against each other: what differs, section by section, and how much of it.

Every algorithm file has the same sections in the same order (CONTRIBUTING.md). The code from
section 4 on is matched definition by definition, because functions that stand in another order
are still the same functions. Blank lines and the rulers between sections do not count.
"""

import ast
import difflib
import re
from collections.abc import Iterable
from functools import cache
from itertools import zip_longest

TITLES = {
    **{1: "Box and imports", 2: "Config", 3: "Presets"},
    **{4: "Networks", 5: "Objectives", 6: "Update", 7: "Train"},
}
CODE = (4, 5, 6, 7)  # the sections that are neither prose nor settings
SIMILAR = 0.6  # lines that differ stand on one row if difflib's ratio is at least this

_RULER = re.compile("# -+ (" + "|".join(rf"{n}\. {title}" for n, title in TITLES.items()) + ")")

# A line of the left file and one of the right: the same in both, or different, or None on one side
Row = tuple[str | None, str | None]


def sections(source: str) -> dict[int, list[str]]:
    """The lines of each section that an algorithm file has, by number, without blank ones.

    Section 1 is everything above the first ruler. The rulers belong to no section.
    """
    found: dict[int, list[str]] = {1: []}
    number = 1
    for line in source.expandtabs().splitlines():
        if ruler := _RULER.fullmatch(line.rstrip()):
            number = int(ruler[1][0])
            found.setdefault(number, [])
        elif line.strip():
            found[number].append(line.rstrip())
    return found


def definitions(lines: list[str]) -> dict[str, list[str]]:
    """Code by the name of the top-level function or class, with the comments above it.

    Everything that is neither, such as a constant, comes last, under "".
    """
    found: dict[str, list[str]] = {}
    rest: list[str] = []
    end = 0
    for node in ast.parse("\n".join(lines)).body:
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        part = found.setdefault(node.name, []) if named else rest
        part += lines[end : node.end_lineno]
        end = node.end_lineno or end
    rest += lines[end:]
    return found | ({"": rest} if rest else {})


def compare(left: str, right: str) -> dict[int, dict[str, list[Row]]]:
    """All rows of two sources: by section, and in sections 4 to 7 by definition (else under "").

    Definitions stand in the left file's order; those that only the right file has come last.
    """
    ours, theirs = sections(left), sections(right)
    rows: dict[int, dict[str, list[Row]]] = {}
    for number in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(number, []), theirs.get(number, [])
        parts_a, parts_b = (
            (definitions(a), definitions(b)) if number in CODE else ({"": a}, {"": b})
        )
        names = parts_a | parts_b
        rows[number] = {n: aligned(parts_a.get(n, []), parts_b.get(n, [])) for n in names}
    return rows


def aligned(left: list[str], right: list[str]) -> list[Row]:
    """Rows that hold every line once and in order: equal lines together, then similar ones."""
    rows: list[Row] = []
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        a, b = left[i:i_end], right[j:j_end]
        rows += zip(a, b, strict=True) if tag == "equal" else _similar_together(a, b)
    return rows


def counts(rows: Iterable[Row]) -> tuple[int, int, int]:
    """How many lines are only in the left file, only in the right file, and in both."""
    rows = list(rows)
    same = sum(a == b for a, b in rows)
    left, right = (sum(row[side] is not None for row in rows) for side in (0, 1))
    return left - same, right - same, same


def differing_lines(left: str, right: str, sections: Iterable[int] = CODE) -> tuple[int, int]:
    """How many lines of these sections only the left source has, and only the right one."""
    rows = compare(left, right)
    return counts(row for n in sections for part in rows.get(n, {}).values() for row in part)[:2]


def _similar_together(left: list[str], right: list[str]) -> list[Row]:
    """The two lines most alike share a row, then those above and those below them likewise."""
    pairs = ((_likeness(a, b), i, j) for i, a in enumerate(left) for j, b in enumerate(right))
    likeness, i, j = max(pairs, key=lambda pair: pair[0], default=(0, 0, 0))
    if likeness < SIMILAR:
        return list(zip_longest(left, right))
    above = _similar_together(left[:i], right[:j])
    return [*above, (left[i], right[j]), *_similar_together(left[i + 1 :], right[j + 1 :])]


@cache
def _likeness(a: str, b: str) -> float:
    matcher = difflib.SequenceMatcher(None, a.strip(), b.strip(), autojunk=False)
    # The cheap upper bound settles most pairs
    return matcher.ratio() if matcher.quick_ratio() >= SIMILAR else 0.0
