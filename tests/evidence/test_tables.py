"""Tables: the numbers, their marks, and the same content in every format."""

import csv
import json
import re
import shutil
import subprocess
from itertools import filterfalse

import pytest
from evidence_samples import (
    CURVE,
    MAXIMUM,
    finals,
    published_line,
    write_benchmark,
    write_published,
    write_run,
)

from rlsuite.evidence import published, rows
from rlsuite.evidence.rows import RowsError
from rlsuite.evidence.tables import benchmark as tables
from rlsuite.evidence.tables import tabular
from rlsuite.evidence.tables.tabular import Cell, Table

PM = tabular.PLUS_MINUS


@pytest.fixture
def published_dir(tmp_path):
    return write_published(
        tmp_path / "published",
        published_line("Alike"),
        published_line("Other_1", citation="page_2 & 50% more", **MAXIMUM),
        published_line("Curve", **CURVE),
        published_line("Long", steps=8_000_000),
    )


@pytest.fixture
def hopper(tmp_path):
    return write_benchmark(tmp_path / "bench", {("ppo", "Hopper-v4"): [2000.0, 2400, 2500, 3100]})


def cells_by_row(table):
    return {row[0].text: row[1:] for row in table.rows}


def test_our_numbers_by_hand(hopper, published_dir):
    ours, beside = tables.build(rows.read(hopper), published.read(published_dir))
    (line,) = ours.rows
    # mean 10000 / 4 = 2500; std sqrt((500^2 + 100^2 + 0 + 600^2) / 3) = sqrt(620000 / 3) = 454.6;
    # IQM of four: the middle two, (2400 + 2500) / 2 = 2450. Training returns are 10 lower.
    texts = [cell.text for cell in line]
    assert texts[:4] == ["Hopper-v4", "4", "999,424", f"2490 {PM} 455"]
    assert texts[5] == f"2500 {PM} 455"
    assert texts[6].startswith("2450 [") and texts[4].startswith("2440 [")
    assert texts[7] == "1 h 00 min"
    lines = cells_by_row(beside)
    assert lines["ours, training return"][-1].text == f"2490 {PM} 455"
    assert lines["ours, evaluation return"][0].text == "v4"


def test_unlike_values_carry_marks_and_the_notes_say_why(hopper, published_dir):
    _, beside = tables.build(rows.read(hopper), published.read(published_dir))
    lines = cells_by_row(beside)
    assert lines["Alike"][-1] == Cell(f"2383 {PM} 272")
    assert lines["Other_1"][-1] == Cell(f"2609 {PM} 701", ("e", "m"))
    assert lines["Curve"][-1] == Cell("1770", ("e", "m", "D"))
    assert "Long" not in lines  # 8M steps are no use beside 1M
    notes = "\n".join(beside.notes)
    for mark in "emD":
        assert f"\n{mark}: " in f"\n{notes}"
    assert "\ns: " not in notes and "\nR: " not in notes
    assert "Curve: training return smoothed over 11 epochs" in notes
    assert "reading error 2%" in notes
    # The most alike comes first, whatever the file order.
    assert [row[0].text for row in beside.rows][2:] == ["Alike", "Other_1", "Curve"]


def test_horizons_without_a_published_value_are_named(tmp_path, published_dir):
    bench = write_benchmark(
        tmp_path / "short",
        {("ppo", "Hopper-v4"): [1.0, 2.0], ("ppo", "Ant-v4"): [1.0, 2.0]},
        steps=(50_000, 100_000),
        planned=200_000,
    )
    ours, beside = tables.build(rows.read(bench), published.read(published_dir))
    notes = "\n".join(beside.notes)
    assert "Hopper-v4: published values stand at 1M, 8M steps, too far from our 100k" in notes
    assert "Ant-v4: no published value of ppo on record" in notes
    assert "UNFINISHED: ppo on Hopper-v4 stands at step 100,000 of 200,000" in ours.notes[-1]


def test_one_seed_has_neither_spread_nor_interval(tmp_path, published_dir):
    run = write_run(tmp_path / "run", [2000.0])
    ours, _ = tables.build(rows.read(run), published.read(published_dir))
    texts = [cell.text for cell in ours.rows[0]]
    assert texts[3:7] == ["1990", "1990", "2000", "2000"]


def test_many_tasks_are_split_evenly(tmp_path, published_dir):
    runs = {("ppo", f"Task{letter}-v1"): [1.0, 2.0] for letter in "ABCDEFGH"}
    built = tables.build(
        rows.read(write_benchmark(tmp_path / "b", runs)), published.read(published_dir)
    )
    assert [len(table.header) - 4 for table in built[1:]] == [4, 4]
    assert built[1].title.endswith("(1 of 2)")


def test_same_source_with_return_and_cost_gets_two_lines(tmp_path):
    values = write_published(
        tmp_path / "published",
        published_line("Paper", metric="deterministic evaluation, end of training"),
        published_line("Paper", metric="deterministic evaluation cost, end of training", mean="9"),
    )
    bench = write_benchmark(tmp_path / "b", {("ppo", "Hopper-v4"): [1.0, 2.0]}, cost=25)
    _, beside = tables.build(rows.read(bench), published.read(values))
    lines = cells_by_row(beside)
    assert lines["Paper, evaluation return"][-1].text == f"2383 {PM} 272"
    assert lines["Paper, evaluation cost"][-1].text == f"9 {PM} 272"
    assert lines["ours, evaluation cost"][-1].text == f"25.00 {PM} 0.00"


def test_files_hold_the_same_content(hopper, published_dir, tmp_path):
    paths = tables.write(hopper, tmp_path / "out", published_dir)
    assert [path.name for path in paths] == ["tables.md", "tables.tex", "tables.csv"]
    markdown, latex, _ = (path.read_text() for path in paths)
    assert f"| Other_1 | v3 | 10 | 1M | 2609 {PM} 701 <sup>e,m</sup> |" in markdown
    assert r"Other\_1 & v3 & 10 & 1M & 2609 $\pm$ 701\textsuperscript{e,m} \\" in latex
    assert r"page\_2 \& 50\% more" in latex
    with paths[2].open(newline="") as stream:
        by_key = {(line["origin"], line["quantity"]): line for line in csv.DictReader(stream)}
    ours = by_key["ours", "evaluation return"]
    assert float(ours["mean"]) == 2500 and float(ours["iqm"]) == 2450 and ours["seeds"] == "4"
    other = by_key["Other_1", "max over training of the mean of 10 test episodes"]
    assert (other["mean"], other["differences"], other["status"]) == ("2609.3", "em", "verified")


def test_nothing_is_written_for_bad_input(tmp_path, published_dir):
    with pytest.raises(RowsError):
        tables.write(tmp_path / "absent", tmp_path / "out", published_dir)
    assert not (tmp_path / "out").exists()


AWKWARD = Table("a_b & c", ["x|y", "50%"], [[Cell("<b>"), Cell("-1.5 [-2, 3]", ("e",))]], ["5 < 6"])


def test_every_format_escapes():
    markdown = tabular.markdown([AWKWARD])
    assert r"| x\|y | 50% |" in markdown
    assert "| &lt;b&gt; | -1.5 [-2, 3] <sup>e</sup> |" in markdown and "- 5 &lt; 6" in markdown
    latex = tabular.latex([AWKWARD])
    assert r"\caption{a\_b \& c}" in latex and r"x|y & 50\% \\" in latex
    assert r"{}\textless{}b\textgreater{} & $-$1.5 [$-$2, 3]\textsuperscript{e} \\" in latex
    page = tabular.html_tables([AWKWARD])
    assert '<th scope="row">&lt;b&gt;</th><td>-1.5 [-2, 3]<sup>e</sup></td>' in page
    assert "<h2>a_b &amp; c</h2>" in page and "<b>" not in page


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        Table("t", ["a", "b"], [[Cell("x")]])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path, published_dir):
    bench = write_benchmark(tmp_path / "b", {("ppo", "Hopper-v4"): finals(0, 5, 2000.0)})
    tables.write(bench, tmp_path, published_dir)
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\usepackage{graphicx}\n"
        "\\begin{document}\\input{tables.tex}\\end{document}\n"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


HOSTILE = (
    '=HYPERLINK("http://x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    " =1+1",
    "[x](javascript:alert(1))",
    "![x](http://x/y.png)",
    "[x]: javascript:alert(1)",
    "<script>alert(1)</script>",
    "two\nlines\r\n\n# three",
    "a | b \\| c",
    "$\\input{/etc/passwd}$ `code` _b_ __c__ ~~d~~ **e**",
    "\u202ereversed\x1b[31m\x00",
)


def hostile_tables():
    """Every text where text can be."""
    return [Table(x, ["Task", x], [[Cell(x), Cell(x)]], [x]) for x in HOSTILE]


def test_markdown_takes_no_text_for_more_than_text():
    for text, block in zip(HOSTILE, hostile_tables(), strict=True):
        lines = tabular.markdown([block]).splitlines()
        assert len(lines) == 7, text  # heading, table of three lines, note, and what parts them
        for line in lines[2:5]:
            assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3, text
        page = "\n".join(lines)
        assert not re.search(r"(?<!\\)\](\(|:)|<(?!sup|/sup)|(?<![\\\w])_|(?<!\\)[*`$]", page), text
        assert page.isprintable() or set(filterfalse(str.isprintable, page)) == {"\n"}


def test_latex_takes_no_text_for_a_command():
    for text, block in zip(HOSTILE, hostile_tables(), strict=True):
        page = tabular.latex([block])
        assert r"\input{" not in page and len(page.splitlines()) == 17, text
        assert not re.search(r"\\item \[", page)
        dollars = page.replace("$-$", "").replace(r"\$", "")
        assert "$" not in dollars, text


def test_csv_keeps_no_text_that_a_spreadsheet_would_run():
    for text in HOSTILE:
        cell = tabular.csv_cell(text)
        assert not cell.lstrip().startswith(("=", "+", "-", "@")) and cell.isprintable(), text
        assert cell.removeprefix("'") == tabular.one_line(text)
    for value in (-1.5, 3, "", "-1.5", "+3", "-1e-5", "ours", "Hopper-v4", None):
        assert tabular.csv_cell(value) == value


def test_every_cell_of_the_csv_file_is_kept_so(tmp_path, published_dir):
    bench = write_benchmark(tmp_path / "bench", {("ppo", "x"): [-2.0, -1.0]})
    file = bench / "ppo" / "x.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task": "=1+1"}))
    tables.write(bench, tmp_path / "t", published_dir)
    with (tmp_path / "t" / "tables.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert {line["task"] for line in lines} == {"'=1+1"}
    assert lines[-1]["mean"] == "-1.5"
