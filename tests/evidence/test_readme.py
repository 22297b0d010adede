"""README rows: one per algorithm, one quantity for all, generated from the rows."""

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest
from evidence_samples import MAXIMUM, published_line, write_benchmark, write_published

from rlsuite.evidence import aggregates, readme
from rlsuite.evidence.tables import benchmark as tables
from rlsuite.evidence.tables.tabular import NONE, PLUS_MINUS, Cell

SCRIPT = Path(__file__).parents[2] / "scripts" / "readme_results.py"
RUNS = {
    ("ppo", "Hopper-v4"): [2000.0, 2400, 2500, 3100],
    ("ppo", "Swimmer-v4"): [100.0, 100.0],
    ("mdpo", "Hopper-v4"): [2017.4, 2017.4],
    ("mdpo", "Swimmer-v4"): [109.3, 109.3],
    ("mdpo", "Reacher-v4"): [-5.0, -5.0],
}


@pytest.fixture
def results(tmp_path):
    write_benchmark(tmp_path / "results" / "mujoco-1m", RUNS)
    write_published(
        tmp_path / "results" / "published",
        published_line("Alike"),
        published_line(aggregates.YARDSTICK, environment="v2", mean="2007.4"),
        published_line(aggregates.YARDSTICK, environment="v2", task="Swimmer", mean="99.3"),
        published_line("Paper", algorithm="mdpo", steps=10_000_000),
    )
    return tmp_path / "results"


def test_a_row_per_algorithm(results):
    about = readme.benchmark(results / "mujoco-1m", results / "published")
    assert about.quantity == "training return" and about.tasks == (
        "Hopper-v4",
        "Reacher-v4",
        "Swimmer-v4",
    )
    ppo, mdpo = about.rows
    # The wall times of two runs of an hour each; training returns lie 10 below the evaluations.
    assert (ppo.algorithm, ppo.trained, ppo.wall_time) == ("ppo", "4, 2 x 999k", "2 h 00 min")
    hopper, reacher, swimmer = ppo.scores
    assert reacher is None
    assert hopper.mean == f"2490 {PLUS_MINUS} 455" and hopper.iqm.startswith("2440 [")
    assert hopper.published == Cell(f"2383 {PLUS_MINUS} 272 (Alike, v4)")
    assert hopper.file == results / "mujoco-1m" / "ppo" / "Hopper-v4.csv"
    assert swimmer.published.marks == ("e",)
    # MDPO: Hopper (2007.4 - 17.4) / (2007.4 - 17.4) = 1, Swimmer (99.3 + 0.7) / (99.3 + 0.7) = 1.
    assert mdpo.total == "1.00 [1.00, 1.00]" and ppo.total.startswith("1.")
    assert mdpo.scores[0].published.text == f"2383 {PLUS_MINUS} 272 (Paper, v4, at 10M)"
    assert about.notes[-1] == "All tasks leaves out Reacher-v4 (ppo lacking)."


def test_quantity_is_the_one_most_runs_have_a_published_value_in(tmp_path):
    bench = write_benchmark(tmp_path / "b", RUNS)
    some = [published_line("A", **MAXIMUM), published_line("B", task="Swimmer", **MAXIMUM)]
    first = write_published(tmp_path / "p1", *some)
    assert readme.benchmark(bench, first).quantity == "evaluation return"
    # As many training returns, and these are alike where the maxima are not.
    more = [published_line("C"), published_line("D", task="Swimmer")]
    second = write_published(tmp_path / "p2", *some, *more)
    assert readme.benchmark(bench, second).quantity == "training return"
    none = readme.benchmark(bench, write_published(tmp_path / "p3"))
    assert none.quantity == "evaluation return"
    assert none.rows[0].scores[0].published == Cell(NONE)


def test_unfinished_scores_say_so(tmp_path):
    bench = write_benchmark(tmp_path / "b", {("ppo", "A-v1"): [5.0]}, planned=9_000_000)
    (row,) = readme.benchmark(bench, write_published(tmp_path / "p")).rows
    assert row.scores[0].mean == "5.00 (unfinished)" and row.total == NONE


def test_diverged_scores_say_so_everywhere(tmp_path):
    bench = write_benchmark(tmp_path / "b", {("ppo", "A-v1"): [5.0], ("ppo", "B-v1"): [6.0]})
    file = bench / "ppo" / "A-v1.json"
    value = {"mean": 9e5, "least": 0, "most": 1.6e6}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"logged": {"value": value}}))
    about = readme.benchmark(bench, write_published(tmp_path / "p"))
    line = "DIVERGED: ppo on A-v1: Q reached 2e+06, more than the rewards can add up to; "
    line += "its values are those of a failure."
    assert [score.mean for score in about.rows[0].scores] == ["5.00 (diverged)", "6.00"]
    assert line in about.notes
    files = tables.write(bench, tmp_path / "t", tmp_path / "p")
    text = {file.suffix: file.read_text() for file in files}
    assert line in text[".md"]
    with next(file for file in files if file.suffix == ".csv").open(newline="") as stream:
        states = {(row["task"], row["status"]) for row in csv.DictReader(stream)}
    assert states == {("A-v1", "diverged"), ("B-v1", "finished")}


@pytest.mark.parametrize("word", ["--help", "results"])
def test_a_question_or_an_unknown_word_writes_nothing(monkeypatch, capsys, word):
    monkeypatch.setattr(Path, "write_text", lambda *args, **options: pytest.fail("wrote"))
    monkeypatch.setattr(sys, "argv", ["readme_results.py", word])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == (0 if word == "--help" else 2)
    assert "usage: readme_results.py" in "".join(capsys.readouterr())


def test_names_in_files_are_only_text_in_the_readme(tmp_path):
    task = "[x](javascript:alert(1))|*y*\n# z"
    bench = write_benchmark(tmp_path / "results" / "b", {("ppo", "x"): [1.0, 2.0]})
    write_published(tmp_path / "results" / "published")
    for name in ("x.json", "x.csv"):
        (bench / "ppo" / name).rename(bench / "ppo" / f"a%2F(b) c{name[1:]}")
    file = bench / "ppo" / "a%2F(b) c.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task": task}))
    text = runpy.run_path(str(SCRIPT))["benchmarks"](tmp_path / "results")
    assert r"| [x\](javascript:alert(1))\|\*y\* # z |" in text
    assert "(results/b/ppo/a%252F%28b%29%20c.csv)" in text


def test_markdown_of_a_benchmark(results):
    script = runpy.run_path(str(SCRIPT))
    (results / "mujoco-1m" / "tables").mkdir()
    (results / "mujoco-1m" / "tables" / "tables.md").write_text("a page")
    (results / "mujoco-1m" / "README.md").write_text("another")
    lines = script["benchmarks"](results).splitlines()
    assert lines[0].startswith("**mujoco-1m**: training return, mean")
    assert lines[0].endswith(
        "Wall time: all runs of a row. [tables](results/mujoco-1m/tables/tables.md) "
        "[what it shows, and why](results/mujoco-1m/README.md)"
    )
    header, rule, ppo, mdpo = (line[2:-2].split(" | ") for line in lines[2:6])
    assert header[2:5] == ["All tasks", "Wall time", "Rows"]
    assert header[5:] == ["Hopper-v4", "Reacher-v4", "Swimmer-v4"]
    assert len(ppo) == len(mdpo) == len(rule) == 8
    mean, iqm, value, source = ppo[5].replace("\N{NO-BREAK SPACE}", " ").split("<br>")
    assert mean == f"[2490 {PLUS_MINUS} 455](results/mujoco-1m/ppo/Hopper-v4.csv)"
    assert iqm.startswith("2440 [")
    assert (value, source) == (f"2383 {PLUS_MINUS} 272", "(Alike, v4)")
    assert ppo[4] == "[files](results/mujoco-1m/ppo)" and ppo[6] == NONE
    assert mdpo[5].endswith("<br>(Paper, v4, at 10M) <sup>h</sup>")
    assert mdpo[6].endswith(f"<br>{NONE}")


@pytest.mark.parametrize(
    "runs",
    [
        {("ppo", "A-v1"): [1.0, 2.0], ("trpo", "B-v1"): [1.0, 2.0]},  # no task in common
        {("ppo", "A-v1"): [1.0, 2.0], ("ppo", "B-v1"): [1.0, 2.0]},  # no fixed scale for these
    ],
)
def test_no_column_for_all_tasks_without_common_tasks_on_a_fixed_scale(tmp_path, runs):
    write_benchmark(tmp_path / "results" / "b", runs)
    write_published(tmp_path / "results" / "published")
    script = runpy.run_path(str(SCRIPT))
    text = script["benchmarks"](tmp_path / "results")
    assert "| Wall time | Rows | A-v1 | B-v1 |" in text and "All tasks" not in text
