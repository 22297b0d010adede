"""A table as plain data, and the same table as Markdown, LaTeX and HTML.

Names of tasks, data sets and sources may come from somebody else's files. Here they become part of
a page, so here they are kept from being anything but text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
NONE = "\N{EN DASH}"  # what an empty cell shows

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    PLUS_MINUS: r"$\pm$",
    NONE: "--",
}
# Characters that break a line, move the cursor or turn the direction of writing.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
# What Markdown takes for more than text: marks of emphasis, code, formulas and table columns; an
# underline or a tilde that is not inside a word; a bracket that would end the text of a link.
_MARKDOWN = re.compile(r"[\\|*`$]|(?<![A-Za-z0-9])[_~]|[_~](?![A-Za-z0-9])|\](?=[(\[:])")
_FORMULA = ("=", "+", "-", "@")  # with which spreadsheets begin a formula
_NEGATIVE = re.compile(r"(?<![\w.\-])-(?=\d)")


@dataclass(frozen=True)
class Cell:
    """Text, and marks that refer to the notes below the table."""

    text: str
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows as wide as the header; the first column is text, the others are numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"table {self.title!r}: a row of {len(row)} cells under "
                    f"{len(self.header)} columns: {[cell.text for cell in row]}"
                )


def markdown(tables: Sequence[Table]) -> str:
    """All tables as one GitHub-flavoured Markdown text, each under a heading."""
    blocks = []
    for table in tables:
        rule = ["---", *["---:"] * (len(table.header) - 1)]
        lines = [[markdown_text(name) for name in table.header], rule]
        lines += [[_markdown_cell(cell) for cell in row] for row in table.rows]
        grid = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        notes = "\n".join(f"- {markdown_text(note)}" for note in table.notes)
        blocks.append(f"## {markdown_text(table.title)}\n\n{grid}\n\n{notes}".rstrip())
    return "\n\n".join(blocks) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """All tables as LaTeX floats, to be read with ``\\input``; wide ones shrink to the line."""
    blocks = ["% Needs \\usepackage{booktabs} and \\usepackage{graphicx}."]
    for table in tables:
        body = [" & ".join(_latex_text(name) for name in table.header) + r" \\", r"\midrule"]
        # A row must not begin with a bracket, which the row end before it would swallow.
        body += [
            "{}" + " & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows
        ]
        # A bracket after \item would be its label.
        items = [_latex_text(note) for note in table.notes]
        notes = "\n".join(r"\item " + "{}" * item.startswith("[") + item for item in items)
        blocks.append(
            "\\begin{table}[htbp]\n\\centering\\footnotesize\n"
            f"\\caption{{{_latex_text(table.title)}}}\n"
            "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
            f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}\n\\toprule\n"
            + "\n".join(body)
            + "\n\\bottomrule\n\\end{tabular}}\n"
            + (f"\\begin{{itemize}}\\scriptsize\n{notes}\n\\end{{itemize}}\n" if notes else "")
            + "\\end{table}"
        )
    return "\n\n".join(blocks) + "\n"


def html_tables(tables: Sequence[Table]) -> str:
    """All tables as HTML, each in a block that scrolls sideways where it is too wide."""
    blocks = []
    for table in tables:
        head = "".join(f'<th scope="col">{_html_text(name)}</th>' for name in table.header)
        body = []
        for row in table.rows:
            first, *rest = [_html_cell(cell) for cell in row]
            cells = "".join(f"<td>{cell}</td>" for cell in rest)
            body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
        notes = "".join(f"<li>{_html_text(note)}</li>" for note in table.notes)
        blocks.append(
            f"<h2>{_html_text(table.title)}</h2>\n"
            f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>'
            + "\n".join(body)
            + "</tbody>\n</table></div>\n"
            + (f'<ul class="notes">{notes}</ul>' if notes else "")
        )
    return "\n".join(blocks)


def one_line(text: str) -> str:
    """`text` without line breaks and other characters that cannot be seen."""
    return _UNSEEN.sub(" ", text)


def csv_cell(value: object) -> object:
    """A cell of a CSV file; text that a spreadsheet would take for a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) and not _is_number(text) else text


def markdown_text(text: str) -> str:
    """`text` as Markdown shows it, whatever is in it."""
    return _MARKDOWN.sub(r"\\\g<0>", html.escape(one_line(text), quote=False))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _markdown_cell(cell: Cell) -> str:
    marks = f" <sup>{','.join(cell.marks)}</sup>" if cell.marks else ""
    return markdown_text(cell.text) + marks


def _latex_text(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in one_line(text))
    return _NEGATIVE.sub("$-$", escaped)


def _latex_cell(cell: Cell) -> str:
    marks = rf"\textsuperscript{{{','.join(cell.marks)}}}" if cell.marks else ""
    return _latex_text(cell.text) + marks


def _html_text(text: str) -> str:
    return html.escape(one_line(text))


def _html_cell(cell: Cell) -> str:
    marks = f"<sup>{_html_text(','.join(cell.marks))}</sup>" if cell.marks else ""
    return _html_text(cell.text) + marks
