"""A comparison of two algorithm files as text in two columns."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby, zip_longest

from rich.text import Text

from rlsuite.reading.comparison import CODE, TITLES, Row, compare, counts

NARROWEST = 20  # columns; nothing can be read below that

_DEFINITION = re.compile(r"\s*(async def|def|class)\b")

# Lines that stand left, lines that stand right beside them, and whether they differ
Band = tuple[list[str], list[str], bool]

_DOTS: Band = (["..."], ["..."], False)


def side_by_side(names: tuple[str, str], sources: tuple[str, str], width: int) -> Iterator[Text]:
    """The differences of two sources, as lines of at most `width` columns (20 at least).

    `-` marks a line that only the left file has, `+` one that only the right file has. A line
    without a mark is in both: it tells where the lines below it stand, `...` that some lie between.
    Long lines are folded. The styles are for a terminal; as plain text nothing is missing.
    """
    width = max(width, NARROWEST)
    rows = compare(*sources)
    left, right = (f"{n}, {len(s.splitlines())} lines" for n, s in zip(names, sources, strict=True))
    yield from _columns([left], [right], True, width)
    for number, parts in rows.items():
        yield Text()
        flat = [row for part in parts.values() for row in part]
        yield from _heading(f"{number}. {TITLES[number]}", flat, names, width)
        for band in _section(parts):
            yield from _columns(*band, width)
    yield Text()
    flat = [row for n in CODE for part in rows.get(n, {}).values() for row in part]
    yield from _heading("Outside sections 1 to 3", flat, names, width)


def _heading(title: str, rows: Iterable[Row], names: tuple[str, str], width: int) -> Iterator[Text]:
    left, right, same = counts(rows)
    text = f"{same} lines in both, {left} only in {names[0]}, {right} only in {names[1]}"
    if not left + right:
        text = f"equal, {same} lines"
    elif not same and not (left and right):
        text = f"only in {names[0] if left else names[1]}, {left + right} lines"
    for line in textwrap.wrap(f"== {title}: {text}", width, subsequent_indent="   "):
        yield Text(line, style="bold")


def _section(parts: dict[str, list[Row]]) -> Iterator[Band]:
    """Hunks of the definitions that both files have; then, whole, what only one of them has."""
    blocks: list[list[Band]] = []
    alone: tuple[list[str], list[str]] = ([], [])
    for rows in parts.values():
        left, right, same = counts(rows)
        if same or (left and right):
            blocks.append(list(_hunks(rows)))
        elif left or right:
            column = alone[0 if left else 1]
            column += [""] * bool(column)
            column += [line for row in rows for line in row if line is not None]
    if any(alone):
        blocks.append([(*alone, True)])
    for number, block in enumerate(filter(None, blocks)):
        yield from [([""], [""], False)] * (number > 0)
        yield from block


def _hunks(rows: list[Row]) -> Iterator[Band]:
    """The rows that differ; above each hunk the nearest unchanged `def`, or else one such line."""
    above: list[str] = []
    dots: list[Band] = []  # none at the top
    for same, group in groupby(rows, lambda row: row[0] == row[1]):
        if same:
            above = [line or "" for line, _ in group]
            continue
        if above:
            last = len(above) - 1
            at = max((i for i in range(last) if _DEFINITION.match(above[i])), default=last)
            yield from dots * (at > 0)
            yield ([above[at]], [above[at]], False)
            yield from [_DOTS] * (at < last)
        yield from (([a or ""], [b or ""], True) for a, b in group)
        dots = [_DOTS]


def _columns(left: list[str], right: list[str], differ: bool, width: int) -> Iterator[Text]:
    column = (width - 3) // 2
    folded = [
        [piece for line in side for piece in _fold(line, column - 2)] for side in (left, right)
    ]
    styles = ("red", "green") if differ else ("dim", "dim")
    for a, b in zip_longest(*folded, fillvalue=""):
        minus, plus = ("-" if a and differ else " "), ("+" if b and differ else " ")
        text = Text.assemble((f"{minus} {a}".ljust(column), styles[0]), (" | ", "dim"))
        text.append(f"{plus} {b}", styles[1])
        text.rstrip()
        yield text


def _fold(line: str, width: int) -> list[str]:
    """The line in pieces of at most `width` columns, the second and later ones set in deeper."""
    indent = len(line) - len(line.lstrip())
    lead, later = (" " * min(n, width // 2) for n in (indent, indent + 4))
    text, pieces = line.strip(), []
    while len(lead + text) > width:
        room = width - len(lead)
        space = text.rfind(" ", room // 2, room + 1)
        mark = max(text.rfind(sign, 0, room) for sign in "([{,.=") + 1
        at = space if space > 0 else mark or room  # code may have no space that is near
        pieces.append(lead + text[:at].rstrip())
        text, lead = text[at:].lstrip(), later
    return [*pieces, lead + text]
