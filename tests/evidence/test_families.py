"""All algorithms in one table: like beside like, and what is unlike says so."""

import pytest
from evidence_samples import MAXIMUM, published_line, write_benchmark, write_published

from rlsuite.evidence import published, rows
from rlsuite.evidence.tables import benchmark as tables
from rlsuite.evidence.tables import families as all_algorithms
from rlsuite.evidence.tables.tabular import NONE, PLUS_MINUS, Cell

FAR = {"algorithm": "mdpo", "environment": "v2", "steps": 10_000_000, "mean": "2361"}


@pytest.fixture
def values(tmp_path):
    lines = [
        published_line("Alike"),
        published_line("Highest", **MAXIMUM),
        published_line("Paper", spread="518", spread_kind="95% CI", status="recalled", **FAR),
        published_line("Paper-12M", **{**FAR, "steps": 12_000_000, "mean": "9999"}),
    ]
    return published.read(write_published(tmp_path / "published", *lines))


@pytest.fixture
def results(tmp_path):
    runs = {
        ("ppo", "Hopper-v4"): [2000.0, 2400, 2500, 3100],
        ("ppo", "Ant-v4"): [1.0, 2.0],
        ("mdpo", "Hopper-v4"): [2010.0, 2010],
    }
    return rows.read(write_benchmark(tmp_path / "b", runs))


def test_algorithms_stand_under_one_another_each_with_its_published_value(results, values):
    built = {table.title: table for table in all_algorithms.build(results, values)}
    assert list(built) == [
        "All algorithms: training return over 1 task",
        "All algorithms: training return per task",
        "All algorithms: evaluation return over 1 task",
        "All algorithms: evaluation return per task",
    ]
    table = built["All algorithms: training return per task"]
    assert table.header == ["Algorithm", "Seeds", "Steps", "Ant-v4", "Hopper-v4"]
    lines = {row[0].text: row[1:] for row in table.rows}
    # Training returns lie 10 below 2000, 2400, 2500, 3100: mean 2490, IQM 2440.
    assert lines["ppo"][-1].text == f"2490 {PLUS_MINUS} 455"
    assert lines["ppo, IQM [95% interval]"][-1].text.startswith("2440 [")
    assert lines["ppo, published"][-1] == Cell(f"2383 {PLUS_MINUS} 272 (Alike, v4)")
    assert lines["ppo"][0].text == "2, 4" and lines["mdpo"][2].text == NONE
    # Nothing of MDPO stands near 1M: the nearest horizon, named and marked.
    far = Cell(f"2361 {PLUS_MINUS} 518 (Paper, v2, at 10M)", ("e", "h", "s", "R"))
    assert lines["mdpo, published"][-1] == far
    assert any(note.startswith("h: ") for note in table.notes)


def test_a_maximum_never_stands_beside_a_training_return(results, values):
    built = {table.title: table for table in all_algorithms.build(results, values)}
    lines = {row[0].text: row for row in built["All algorithms: evaluation return per task"].rows}
    highest = Cell(f"2609 {PLUS_MINUS} 701 (Highest, v3)", ("e", "m"))
    assert lines["ppo, published"][-1] == highest
    assert lines["mdpo, published"][-1] == Cell(NONE)


def test_unfinished_runs_are_named(tmp_path, values):
    runs = {(name, "Hopper-v4"): [1.0, 2.0] for name in ("ppo", "trpo")}
    results = rows.read(write_benchmark(tmp_path / "b", runs, planned=3_000_000))
    per_task = all_algorithms.build(results, values)[1]
    assert per_task.notes[-1].startswith("UNFINISHED: trpo on Hopper-v4 stands at step 999,424")


def test_one_algorithm_is_not_compared_and_comparisons_come_first(results, values):
    alone = [result for result in results if result.algorithm == "ppo"]
    assert all_algorithms.build(alone, values) == []
    titles = [table.title for table in tables.build(results, values)]
    assert titles[0].startswith("All algorithms") and titles[4] == "ppo: our runs"


def test_parts_keep_the_algorithms_of_a_task_together(tmp_path):
    runs = {(name, f"T{i}-v1"): [1.0, 2.0] for name in ("ppo", "trpo") for i in range(8)}
    results = rows.read(write_benchmark(tmp_path / "b", runs))
    (first, a), (second, b) = all_algorithms.parts("All", results)
    assert (first, second) == ("All (1 of 2)", "All (2 of 2)")
    assert {r.task for r in a} == {"T0-v1", "T1-v1", "T2-v1", "T3-v1"} and len(a) == len(b) == 8
