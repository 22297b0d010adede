"""Tables, curves, report and README rows of offline runs: data sets, scores, and what is unlike."""

import csv

import pytest
from evidence_samples import write_published
from offline_samples import MEDIUM, offline_line, write_offline, write_offline_run

from rlsuite.evidence import aggregates, curves, published, readme, report, rows
from rlsuite.evidence.tables import benchmark as tables
from rlsuite.evidence.tables.tabular import NONE, PLUS_MINUS, Cell

EXPERT = "deep-ope/hopper/expert-v0"
TEN = "normalised score, mean of 10 evaluations 5k steps apart"
BEST = "normalised score, best evaluation"
FOUR = {  # two algorithms on two data sets
    ("bc", MEDIUM): [40.0, 60.0],
    ("bc", EXPERT): [90.0, 110.0],
    ("td3_bc", MEDIUM): [60.0, 80.0],
    ("td3_bc", EXPERT): [100.0, 120.0],
}


@pytest.fixture
def values_dir(tmp_path):
    return write_published(
        tmp_path / "published",
        offline_line("CORL"),
        offline_line("CORL", task="hopper-expert", mean="99.63"),
        offline_line("Searched", mean="90"),
        offline_line("Paper", metric=TEN, mean="59.3", status="verified, spread recalled"),
        offline_line("Lucky", metric=BEST, mean="99"),
    )


@pytest.fixture
def values(values_dir):
    return published.read(values_dir)


def named(built):
    return {table.title: table for table in built}


def cells(table):
    return {row[0].text: row[1:] for row in table.rows}


def test_scores_by_hand(tmp_path, values):
    write_offline(tmp_path / "b", {("td3_bc", MEDIUM): [40.0, 80.0]}, peak=70.0)
    built = named(tables.build(rows.read(tmp_path / "b"), values))
    ours = built["td3_bc: our runs"]
    assert list(ours.header[:3]) == ["Data set", "Seeds", "Gradient steps"]
    assert ours.header[3] == "Normalised score, last evaluation"
    assert ours.header[5] == "Normalised score, mean of the last 10 evaluations"
    texts = [cell.text for cell in cells(ours)["hopper-medium-v0"]]
    # Last: 40 and 80, std sqrt(2 * 20^2) = 28.28.
    assert texts[1:3] == ["1,000,000", f"60.00 {PLUS_MINUS} 28.28"]
    # Evaluations 11 to 20 of a straight line over 20: mean 15.5 / 20 = 0.775 of the end, so 31 and
    # 62: mean 46.5, std 31 / sqrt(2) = 21.92. The peak is at evaluation 10, just before.
    assert texts[4] == f"46.50 {PLUS_MINUS} 21.92"
    assert "The last 10 evaluations begin at step 550k of 1M." in ours.notes
    best = built["td3_bc: the data, and the best evaluation (optimistic)"]
    texts = [cell.text for cell in cells(best)["hopper-medium-v0"]]
    # Best, at evaluation 10: 20 + 70 and 40 + 70, mean 100, std 14.14. The return is ten times the
    # score; the data's is 50 (see offline_samples).
    assert texts[:4] == ["2,186", "1,000,000", "50.00", "Hopper-v4"]
    assert texts[4:7] == [f"600.0 {PLUS_MINUS} 282.8", "20", f"100.0 {PLUS_MINUS} 14.1"]
    assert best.notes[0].startswith("Best evaluation: a seed's highest score over all")


def test_published_values_are_marked_as_of_other_data(tmp_path, values):
    write_offline(tmp_path / "b", {("td3_bc", MEDIUM): [40.0, 80.0]})
    beside = named(tables.build(rows.read(tmp_path / "b"), values))[
        "td3_bc: beside published values"
    ]
    assert list(beside.header[:4]) == ["Source", "Data", "Seeds", "Gradient steps"]
    lines = cells(beside)
    assert lines["ours, normalised score, last evaluation"][0].text == "deep-ope-v0"
    assert lines["CORL"][0].text == "D4RL-v2"
    assert lines["CORL"][-1] == Cell(f"60.37 {PLUS_MINUS} 3.49", ("d", "e"))
    assert lines["Paper"][-1].marks == ("d", "e", "m", "SR")
    assert "Lucky" not in lines  # neither a last evaluation nor a mean of ten is a maximum
    notes = "\n".join(beside.notes)
    assert "d: other data: the value is of D4RL's set" in notes and "Data: deep-ope-v0: " in notes


def test_d4rl_data_carry_no_mark_for_their_own_values(tmp_path, values):
    run = write_offline_run(tmp_path / "run", [40.0, 80.0])
    config = run / "config.json"
    config.write_text(
        config.read_text()
        .replace(MEDIUM, "hopper_medium-v2")
        .replace("collected by rlsuite: online_5", "unknown")
    )
    (result,) = rows.read(run)
    assert (result.task, result.place.data) == ("hopper-medium-v2", "D4RL-v2")
    # Evaluated in Hopper-v4, where D4RL's was -v2.
    assert published.differences(values[0], result.place) == "e"


def test_short_runs_are_marked_and_too_few_evaluations_are_not_averaged(tmp_path, values):
    write_offline(tmp_path / "b", FOUR, evaluations=9, steps=90_000)
    results = rows.read(tmp_path / "b")
    assert all(result.quantities() == ["score"] for result in results)
    built = named(tables.build(results, values))
    assert not any("last 10" in title for title in built)
    near = cells(built["All algorithms: normalised score, last evaluation per data set"])
    far = Cell(f"60.37 {PLUS_MINUS} 3.49 (CORL, D4RL-v2, at 1M)", ("d", "e", "h"))
    assert near["td3_bc, published"][-1] == far and near["bc, published"][-1] == Cell(NONE)
    beside = built["td3_bc: beside published values"]
    assert "CORL" not in cells(beside)
    assert any(
        "published values stand at 1M steps, too far from our 90k" in n for n in beside.notes
    )


def test_aggregate_is_the_mean_beside_the_published_mean(tmp_path, values):
    results = rows.read(write_offline(tmp_path / "b", FOUR))
    assert aggregates.headline(results) == "score"
    scores = aggregates.pool(results, values, "score")
    assert (scores.centre, scores.over) == ("mean", "2 data sets")
    # bc: (40 + 60 + 90 + 110) / 4; td3_bc: (60 + 80 + 100 + 120) / 4.
    assert [scores.point(name) for name in ("bc", "td3_bc")] == [75, 90]
    table = aggregates.table(results, values, "score")
    assert table.title == "All algorithms: normalised score, last evaluation over 2 data sets"
    assert list(table.header[2:5]) == [
        "Mean [95% interval]",
        "IQM [95% interval]",
        "Published mean",
    ]
    lines = cells(table)
    assert lines["td3_bc"][1].text.startswith("90.0 [") and lines["bc"][3] == Cell(NONE)
    # (60.37 + 99.63) / 2 = 80; "Searched" has only one of the two.
    assert lines["td3_bc"][3] == Cell("80.00 (CORL, D4RL-v2)", ("d", "e"))


def test_csv_has_the_best_evaluation_with_its_name(tmp_path, values_dir):
    write_offline(tmp_path / "b", {("td3_bc", MEDIUM): [40.0, 80.0]}, peak=70.0)
    paths = tables.write(tmp_path / "b", tmp_path / "out", values_dir)
    with paths[2].open(newline="") as stream:
        by_key = {(line["origin"], line["quantity"]): line for line in csv.DictReader(stream)}
    best = by_key["ours", "normalised score, best evaluation (optimistic)"]
    assert float(best["mean"]) == 100 and best["environment"] == "deep-ope-v0"
    assert ("Lucky", BEST) not in by_key


def test_curves_have_gradient_steps_scores_and_the_data(tmp_path, values):
    results = rows.read(write_offline(tmp_path / "b", FOUR))
    assert list(curves.figures(results, values)) == ["curves_score.png", "aggregate.png"]
    figure = curves._learning_curves(results, values, "score", "mean", True)
    panel = {axes.get_title(): axes for axes in figure.axes}["hopper-medium-v0"]
    assert panel.get_xlabel() == "gradient steps (millions)"
    (dotted,) = [line for line in panel.lines if line.get_linestyle() == ":"]
    assert dotted.get_ydata()[0] == pytest.approx(50, abs=1e-3)
    foot = " ".join(figure._supxlabel.get_text().split())
    assert "dotted: mean score of the data" in foot and "Data: deep-ope-v0" in foot
    assert "d: other data" in foot


def test_returns_stand_in_where_a_task_has_no_score(tmp_path, values):
    run = write_offline_run(tmp_path / "run", [40.0, 80.0], task="Mine-v1")
    file = run / "evaluations.csv"
    lines = [line.split(",") for line in file.read_text().splitlines()]
    at = lines[0].index("score")
    rest = [",".join([*line[:at], "", *line[at + 1 :]]) for line in lines[1:]]
    file.write_text("\n".join([",".join(lines[0]), *rest]) + "\n")
    (result,) = rows.read(run)
    assert result.quantities() == ["return"]
    built = named(tables.build([result], values))
    best = cells(built["td3_bc: the data, and the best evaluation (optimistic)"])
    texts = [cell.text for cell in best["hopper-medium-v0"]]
    assert texts[2] == NONE and texts[4].startswith("600.0") and texts[-2:] == [NONE, NONE]
    assert list(curves.figures([result], values)) == ["curves_return.png"]


def test_report_names_the_data(tmp_path, values_dir):
    bench = write_offline(tmp_path / "b", {("td3_bc", MEDIUM): [40.0] * 5})
    text = report.write(bench, tmp_path / "report.html", values_dir).read_text()
    assert "<h1>td3_bc on hopper-medium-v0</h1>" in text
    assert "1 data set; 5 trained agents, 5,000,000 gradient steps" in text
    assert "Offline: deep-ope-v0 is what was learned from" in text
    assert f"<dt>data</dt><dd>name {MEDIUM}, sha256 sha of {MEDIUM}" in text


def test_readme_has_a_row_per_data_set_and_algorithm(tmp_path, values_dir):
    bench = write_offline(tmp_path / "results" / "offline-deep-ope", FOUR)
    about = readme.benchmark(bench, values_dir)
    assert (about.quantity, about.kind) == ("normalised score, last evaluation", "data set")
    assert [(row.task, row.algorithm) for row in about.rows] == [
        ("hopper-expert-v0", "bc"),
        ("hopper-expert-v0", "td3_bc"),
        ("hopper-medium-v0", "bc"),
        ("hopper-medium-v0", "td3_bc"),
    ]
    bc, td3_bc = about.totals
    assert bc.score.startswith("75.0") and td3_bc.trained == "2 x 1M"
    medium = about.rows[-1]
    assert medium.published == f"60.37 {PLUS_MINUS} 3.49"
    assert medium.source == "CORL, D4RL-v2"
    assert medium.file == bench / "td3_bc" / "hopper-medium-v0.csv"
    assert any(
        note.startswith("All data sets: mean over hopper-expert-v0, ") for note in about.notes
    )
