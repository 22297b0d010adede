"""What README.md and results/README.md show: papers, a row per algorithm and task, a picture."""

import csv
import json
import re
import runpy
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from evidence_samples import MAXIMUM, published_line, write_benchmark, write_published

from rlsuite.algorithms import ALGORITHMS
from rlsuite.evidence import aggregates, overview, published, readme, rows
from rlsuite.evidence.tables import benchmark as tables
from rlsuite.evidence.tables.summaries import STATUS_MARKS
from rlsuite.evidence.tables.tabular import NONE, PLUS_MINUS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "readme_results.py"
RUNS = {
    ("ppo", "Hopper-v4"): [2000.0, 2400, 2500, 3100],
    ("ppo", "Swimmer-v4"): [100.0, 100.0],
    ("mdpo", "Hopper-v4"): [2017.4, 2017.4],
    ("mdpo", "Swimmer-v4"): [109.3, 109.3],
    ("mdpo", "Reacher-v4"): [-5.0, -5.0],
}


def script() -> dict:
    return runpy.run_path(str(SCRIPT))


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


def test_a_row_per_task_and_algorithm(results):
    about = readme.benchmark(results / "mujoco-1m", results / "published")
    assert (about.quantity, about.kind) == ("training return", "task")
    assert [(row.task, row.algorithm) for row in about.rows] == [
        ("Hopper-v4", "ppo"),
        ("Hopper-v4", "mdpo"),
        ("Reacher-v4", "mdpo"),
        ("Swimmer-v4", "ppo"),
        ("Swimmer-v4", "mdpo"),
    ]
    ppo, mdpo = about.totals
    # The wall times of two runs of an hour each; training returns lie 10 below the evaluations.
    assert (ppo.algorithm, ppo.trained, ppo.wall_time) == ("ppo", "4, 2 x 999k", "2 h 00 min")
    hopper, other, _, swimmer, _ = about.rows
    assert hopper.mean == f"2490 {PLUS_MINUS} 455" and hopper.iqm.startswith("2440 [")
    assert (hopper.published, hopper.source) == (f"2383 {PLUS_MINUS} 272", "Alike, v4")
    assert hopper.file == results / "mujoco-1m" / "ppo" / "Hopper-v4.csv"
    assert swimmer.source == f"{aggregates.YARDSTICK}, v2"
    # MDPO: Hopper (2007.4 - 17.4) / (2007.4 - 17.4) = 1, Swimmer (99.3 + 0.7) / (99.3 + 0.7) = 1.
    assert mdpo.score == "1.00 [1.00, 1.00]" and ppo.score.startswith("1.")
    assert other.source == "Paper, v4, at 10M"
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
    assert (none.rows[0].published, none.rows[0].source) == (NONE, NONE)


def test_unfinished_scores_say_so(tmp_path):
    bench = write_benchmark(tmp_path / "b", {("ppo", "A-v1"): [5.0]}, planned=9_000_000)
    about = readme.benchmark(bench, write_published(tmp_path / "p"))
    assert about.rows[0].mean == "5.00 (unfinished)" and about.totals[0].score == NONE


def test_diverged_scores_say_so_everywhere(tmp_path):
    bench = write_benchmark(tmp_path / "b", {("ppo", "A-v1"): [5.0], ("ppo", "B-v1"): [6.0]})
    file = bench / "ppo" / "A-v1.json"
    value = {"mean": 9e5, "least": 0, "most": 1.6e6}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"logged": {"value": value}}))
    about = readme.benchmark(bench, write_published(tmp_path / "p"))
    line = "DIVERGED: ppo on A-v1: Q reached 2e+06, more than the rewards can add up to; "
    line += "its values are those of a failure."
    assert [row.mean for row in about.rows] == ["5.00 (diverged)", "6.00"]
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
    text = script()["results_page"](tmp_path / "results")
    assert r"| **[x\](javascript:alert(1))\|\*y\* # z** |" in text
    assert "(b/ppo/a%252F%28b%29%20c.csv)" in text


def test_markdown_of_a_benchmark(results):
    folder = results / "mujoco-1m"
    (folder / "tables").mkdir()
    (folder / "tables" / "tables.md").write_text("a page")
    (folder / "README.md").write_text("another")
    text = script()["benchmark"](folder, results).replace("\N{NO-BREAK SPACE}", " ")
    head, lead, totals, table, notes = text.split("\n\n")
    assert head == "## mujoco-1m" and notes.startswith("- ")
    assert lead == (
        "Training return. [what it shows, and why](mujoco-1m/README.md) · "
        "[all values](mujoco-1m/tables/tables.md)"
    )
    assert totals.splitlines()[0] == "| Algorithm | Seeds x steps | All tasks | Wall time |"
    assert totals.splitlines()[2].startswith("| [ppo](mujoco-1m/ppo) | 4, 2 x 999k | 1.")
    header, rule, task, ppo, mdpo, *_ = (line[2:-2].split(" | ") for line in table.splitlines())
    assert header[:2] == ["Task", "Ours"] and len(header) == len(rule) == len(task) == 5
    assert task[0] == "**Hopper-v4**" and mdpo[0] == "mdpo"
    assert ppo[:2] == ["ppo", f"[2490 {PLUS_MINUS} 455](mujoco-1m/ppo/Hopper-v4.csv)"]
    assert ppo[3:] == [f"2383 {PLUS_MINUS} 272", "Alike, v4"]


@pytest.mark.parametrize(
    "runs",
    [
        {("ppo", "A-v1"): [1.0, 2.0], ("trpo", "B-v1"): [1.0, 2.0]},  # no task in common
        {("ppo", "A-v1"): [1.0, 2.0], ("ppo", "B-v1"): [1.0, 2.0]},  # no fixed scale for these
    ],
)
def test_no_column_for_all_tasks_without_common_tasks_on_a_fixed_scale(tmp_path, runs):
    bench = write_benchmark(tmp_path / "results" / "b", runs)
    write_published(tmp_path / "results" / "published")
    text = script()["benchmark"](bench, tmp_path / "results")
    assert "| Algorithm | Seeds x steps | Wall time |" in text and "All tasks" not in text


def test_every_mark_has_words_but_those_of_version_data_and_steps():
    marks = {*published.DIFFERENCES, *filter(None, STATUS_MARKS.values())}
    assert set(readme.WORDS) == marks - {"d", "e", "h"}
    assert readme.explained()[-1] == "**recalled**: from memory of the paper, not verified."


def test_a_source_says_what_sets_it_apart(tmp_path):
    bench = write_benchmark(tmp_path / "b", {("ppo", "Hopper-v4"): [5.0], ("ppo", "A-v1"): [6.0]})
    unknown = published_line("Paper", environment="", status="recalled")
    figure = published_line("Curve", task="A", environment="v1", status="digitised", error="2%")
    about = readme.benchmark(bench, write_published(tmp_path / "p", unknown, figure))
    assert [row.source for row in about.rows] == [
        "Curve, v1: read off a figure",
        "Paper, version not recorded: recalled",
    ]


# --------------------------------------------------------------------------- papers and picture


def test_the_papers_are_those_of_the_registry(results):
    found = readme.papers(results)
    assert [paper.name for paper in found] == list(ALGORITHMS)
    assert all((ROOT / paper.file).exists() and paper.title and paper.family for paper in found)
    # Rows of ppo and mdpo lie in one benchmark, of the others in none.
    assert [paper.benchmarks for paper in found[:3]] == [("mujoco-1m",), (), ("mujoco-1m",)]


def test_a_new_algorithm_appears_in_the_table_of_papers(results, monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "ppo2", ALGORITHMS["ppo"])
    text = script()["papers"](results.parent)
    assert "| [ppo2](rlsuite/algorithms/on_policy/ppo.py) | Proximal Policy" in text


def test_a_learning_curve_is_the_centre_over_all_tasks_at_every_evaluation(results):
    ppo = [r for r in rows.read(results / "mujoco-1m") if r.algorithm == "mdpo"]
    values = published.read(results / "published")
    ours = [result for result in ppo if result.task != "Reacher-v4"]
    curve = overview.learning_curve(ours, values, "return")
    assert curve[:, 0].tolist() == [250_000, 500_000, 999_424]
    # Both seeds end at 2017.4 on Hopper and at 109.3 on Swimmer: (2017.4 - 17.4) / 1990 = 1.00503
    # and (109.3 + 0.7) / 100 = 1.1. The IQM is the mean of the middle two of four: 1.05251.
    np.testing.assert_allclose(curve[-1, 1:], 1.05251, atol=1e-5)
    # After 500,000 of 999,424 steps: 1009.30 and 54.68 at the linear growth of these rows.
    halfway = ((1009.2813 - 17.4) / 1990 + (54.6815 + 0.7) / 100) / 2
    np.testing.assert_allclose(curve[1, 1], halfway, atol=1e-5)


def test_the_picture_carries_the_digest_of_its_rows(results):
    folder = results / "mujoco-1m"
    image = overview.picture([folder], results / "published")
    assert overview.digest_of(image) == overview.digest([folder])
    file = folder / "ppo" / "Hopper-v4.csv"
    file.write_text(file.read_text().replace("2500", "2501"))
    assert overview.digest_of(image) != overview.digest([folder])


def test_no_picture_without_a_fixed_scale(tmp_path):
    bench = write_benchmark(tmp_path / "b", {("ppo", "A-v1"): [1.0, 2], ("ppo", "B-v1"): [1.0, 2]})
    with pytest.raises(ValueError, match="share no tasks on a fixed scale"):
        overview.picture([bench], write_published(tmp_path / "p"))


# ------------------------------------------------------------------------- what is committed


def test_readme_says_what_results_hold():
    written = script()
    for file, text in written["pages"](ROOT).items():
        if text != file.read_text(encoding="utf-8"):
            pytest.fail(f"{file.name} is behind results/; type: python scripts/readme_results.py")
    image = (ROOT / "results" / "overview.png").read_bytes()
    if overview.digest_of(image) != overview.digest(written["pictured"](ROOT / "results")):
        pytest.fail("overview.png is behind results/; type: python scripts/readme_results.py")


def test_markers_are_filled_anew_each_time():
    filled = script()["filled"]
    text = "before\n<!-- papers:start -->\nold\n<!-- papers:end -->\nafter\n"
    once = filled(text, "papers", "new")
    # The text around the markers stays; what was between them is gone.
    assert once == "before\n<!-- papers:start -->\nnew\n\n<!-- papers:end -->\nafter\n"
    assert filled(once, "papers", "new") == once
    with pytest.raises(ValueError, match="results:start"):
        filled(text, "results", "new")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "results/README.md"])
def test_links_lead_to_files_and_headings(page):
    file, anchor = ROOT / page, script()["anchor"]
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        name, _, heading = unquote(target).partition("#")
        found = (file.parent / name).resolve() if name else file
        assert found.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert f"#{heading}" in map(anchor, titles), target
