"""A table as plain data, and the same table as Markdown, LaTeX and HTML."""

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
        lines = [[_markdown_text(name) for name in table.header], rule]
        lines += [[_markdown_cell(cell) for cell in row] for row in table.rows]
        grid = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        notes = "\n".join(f"- {_markdown_text(note)}" for note in table.notes)
        blocks.append(f"## {_markdown_text(table.title)}\n\n{grid}\n\n{notes}".rstrip())
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
        notes = "\n".join(rf"\item {_latex_text(note)}" for note in table.notes)
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
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.header)
        body = []
        for row in table.rows:
            first, *rest = [_html_cell(cell) for cell in row]
            cells = "".join(f"<td>{cell}</td>" for cell in rest)
            body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
        blocks.append(
            f"<h2>{html.escape(table.title)}</h2>\n"
            f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>'
            + "\n".join(body)
            + "</tbody>\n</table></div>\n"
            + (f'<ul class="notes">{notes}</ul>' if notes else "")
        )
    return "\n".join(blocks)


def _markdown_text(text: str) -> str:
    return html.escape(text, quote=False).replace("|", r"\|").replace("*", r"\*")


def _markdown_cell(cell: Cell) -> str:
    marks = f" <sup>{','.join(cell.marks)}</sup>" if cell.marks else ""
    return _markdown_text(cell.text) + marks


def _latex_text(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return _NEGATIVE.sub("$-$", escaped)


def _latex_cell(cell: Cell) -> str:
    marks = rf"\textsuperscript{{{','.join(cell.marks)}}}" if cell.marks else ""
    return _latex_text(cell.text) + marks


def _html_cell(cell: Cell) -> str:
    marks = f"<sup>{html.escape(','.join(cell.marks))}</sup>" if cell.marks else ""
    return html.escape(cell.text) + marks
