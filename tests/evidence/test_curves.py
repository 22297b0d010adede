"""Figures: what is drawn, checked on the figure itself, and that the files are pictures."""

import json

import numpy as np
import pytest
from evidence_samples import (
    MAXIMUM,
    finals,
    published_line,
    write_benchmark,
    write_published,
    write_run,
)

from rlsuite.evidence import aggregates, curves, published, rows
from rlsuite.evidence.styles import BLUE, STYLES, VERMILION
from rlsuite.evidence.tables import benchmark as tables

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def values(tmp_path):
    folder = write_published(
        tmp_path / "published", published_line("Alike"), published_line("Other", **MAXIMUM)
    )
    return published.read(folder)


def learning_curves(folder, values, column="return", statistic="mean", seed_lines=True):
    return curves._learning_curves(rows.read(folder), values, column, statistic, seed_lines)


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}


@pytest.mark.parametrize(("statistic", "height"), [("mean", 2500), ("iqm", 2450)])
def test_one_algorithm_shows_line_band_seeds_and_published_value(
    tmp_path, values, statistic, height
):
    # Finals 2000, 2400, 2500, 3100: mean 2500, IQM (2400 + 2500) / 2.
    write_benchmark(tmp_path / "b", {("ppo", "Hopper-v4"): [2000.0, 2400, 2500, 3100]})
    figure = learning_curves(tmp_path / "b", values, statistic=statistic)
    panel = panels(figure)["Hopper-v4"]
    seeds, line, dashed = panel.lines[:4], panel.lines[4], panel.lines[5]
    assert [seed.get_ydata()[-1] for seed in seeds] == [2000, 2400, 2500, 3100]
    assert line.get_ydata()[-1] == pytest.approx(height)
    assert line.get_xdata()[-1] == pytest.approx(0.999424)
    assert dashed.get_ydata()[0] == 2609.3
    assert "Other v3 1M: 2609 \N{PLUS-MINUS SIGN} 701 [e,m]" in dashed.get_label()
    (band,) = panel.collections
    at_end = band.get_paths()[0].vertices[:, 1][
        np.isclose(band.get_paths()[0].vertices[:, 0], 0.999424)
    ]
    assert at_end.min() < height < at_end.max()


def test_training_curve_starts_where_every_seed_has_an_episode(tmp_path, values):
    folder = write_benchmark(tmp_path / "b", {("ppo", "Hopper-v4"): [100.0, 200.0]})
    file = folder / "ppo" / "Hopper-v4.csv"
    lines = file.read_text().splitlines()
    lines[2] = lines[2].rsplit(",", 1)[0] + ","  # seed 1 has no episode at the first evaluation
    file.write_text("\n".join(lines) + "\n")
    panel = panels(learning_curves(folder, values, "training_return", seed_lines=False))[
        "Hopper-v4"
    ]
    assert len(panel.lines[0].get_xdata()) == 2  # of three evaluations
    assert panel.lines[1].get_ydata()[0] == 2382.86  # like beside like


def test_several_algorithms_have_a_colour_each_and_no_seed_lines(tmp_path, values):
    runs = {
        ("ppo", "Hopper-v4"): [1.0, 2.0],
        ("trpo", "Hopper-v4"): [3.0, 4.0],
        ("ppo", "Ant-v4"): [5.0, 6.0],
    }
    figure = learning_curves(write_benchmark(tmp_path / "b", runs), values)
    drawn = panels(figure)
    assert set(drawn) == {"Hopper-v4", "Ant-v4"}
    lines = [line for line in drawn["Hopper-v4"].lines if len(line.get_xdata()) == 3]
    assert [line.get_color() for line in lines] == [BLUE, VERMILION]
    assert drawn["Ant-v4"].lines[0].get_color() == BLUE
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ppo", "trpo"]


def test_one_seed_and_one_evaluation_still_draw(tmp_path, values):
    folder = write_benchmark(tmp_path / "b", {("ppo", "Ant-v4"): [5.0]}, steps=(999_424,))
    panel = panels(learning_curves(folder, values))["Ant-v4"]
    assert panel.lines[0].get_marker() == "o" and not panel.collections


def test_unknown_statistic_is_refused(tmp_path, values):
    with pytest.raises(ValueError, match="'median'; use one of mean, iqm"):
        curves.figures([], values, statistic="median")


def test_files(tmp_path):
    folder = tmp_path / "published"
    write_published(folder, published_line("Alike"))
    run = write_run(tmp_path / "run", [1.0, 2.0])
    names = [path.name for path in curves.write(run, tmp_path / "out", folder)]
    assert names == ["curves_training_return.png", "curves_return.png"]
    assert all((tmp_path / "out" / name).read_bytes().startswith(PNG) for name in names)
    runs = {(name, "Hopper-v4"): finals(1, 3, 100.0) for name in ("ppo", "trpo")}
    bench = write_benchmark(tmp_path / "b", runs)
    assert (tmp_path / "out2" / "aggregate.png") in curves.write(bench, tmp_path / "out2", folder)


def test_same_rows_give_the_same_picture(tmp_path, values):
    results = rows.read(write_run(tmp_path / "run", [1.0, 2.0, 4.0]))
    assert curves.figures(results, values) == curves.figures(results, values)


def test_values_of_another_horizon_are_named_but_not_drawn(tmp_path):
    folder = write_published(
        tmp_path / "published",
        published_line("Alike"),
        published_line("Paper", algorithm="mdpo", steps=10_000_000, status="recalled"),
    )
    runs = {(name, "Hopper-v4"): [1.0, 2.0] for name in ("ppo", "mdpo")}
    bench = write_benchmark(tmp_path / "b", runs)
    figure = learning_curves(bench, published.read(folder), "training_return")
    panel = panels(figure)["Hopper-v4"]
    texts = [text.get_text() for text in panel.get_legend().get_texts()]
    spread = "2383 \N{PLUS-MINUS SIGN} 272"
    assert texts == [f"ppo, Alike v4 1M: {spread}", f"mdpo, Paper v4 10M: {spread} [h,R]"]
    dashed = [line for line in panel.lines if line.get_linestyle() == "--"]
    assert [line.get_color() for line in dashed] == [BLUE]
    foot = figure._supxlabel.get_text()
    assert "not drawn" in foot and "h: the number of training steps" in foot


def test_curve_legend_and_point_of_an_algorithm_have_its_style(tmp_path):
    runs = {(name, "A-v1"): [1.0, 2.0] for name in ("td3_bc", "spot")}
    results = rows.read(write_benchmark(tmp_path / "b", runs))
    figure = curves._learning_curves(results, [], "return", "mean", False)
    scores = aggregates.pool(results, [], "return")
    left, _, right = curves._aggregate(scores, results, []).axes
    points = [line for line in left.lines if len(line.get_xdata()) == 1]
    drawn = {
        "curve": panels(figure)["A-v1"].lines,
        "legend": figure.legends[0].get_lines(),
        "profile": right.lines,
        "point": points,
    }
    for place, lines in drawn.items():
        for name, line in zip(("td3_bc", "spot"), lines, strict=True):
            assert line.get_color() == STYLES[name].colour
            marker = STYLES[name].point if place == "point" else STYLES[name].marker
            assert line.get_marker() == marker


def test_training_returns_of_a_run_are_drawn_at_every_iteration(tmp_path, values, monkeypatch):
    run = write_run(tmp_path / "run", [300.0, 500.0])
    steps = [25_000 * number for number in range(1, 41)]
    lines = ["seed,step,training_return,kl"]
    for step in steps:  # before its first episode ends, seed 1 has no training return
        lines += [f"0,{step},{step / 1000},0.1", f"1,{step},{'' if step < 60_000 else 3},0.1"]
    (run / "progress.csv").write_text("\n".join(lines) + "\n")
    (result,) = rows.read(run)
    assert len(result.steps) == 2
    panel = panels(learning_curves(run, values, "training_return", seed_lines=False))["Hopper-v4"]
    line = panel.lines[0]
    assert line.get_xdata().tolist() == pytest.approx([step / 1e6 for step in steps[2:]])
    # Means of step / 1000 and 3: (75 + 3) / 2 = 39 and (1000 + 3) / 2 = 501.5
    assert line.get_ydata()[[0, -1]].tolist() == [39, 501.5]
    monkeypatch.setattr(curves, "MOST_POINTS", 14)  # every third, from the last one backwards
    panel = panels(learning_curves(run, values, "training_return", seed_lines=False))["Hopper-v4"]
    # The first two of 25, 100, 175, ... thousand steps: at 25 one seed has no return yet
    assert (panel.lines[0].get_xdata()[[0, 1, -1]] * 1e3).tolist() == pytest.approx(
        [100, 175, 1000]
    )
    evaluated = panels(learning_curves(run, values, "return", seed_lines=False))["Hopper-v4"]
    assert len(evaluated.lines[0].get_xdata()) == 2


def test_one_algorithm_says_of_values_too_far_away_what_its_table_says(tmp_path, values):
    folder = write_benchmark(
        tmp_path / "b", {("ppo", "Hopper-v4"): [1.0, 2.0]}, steps=(256, 512), planned=512
    )
    results = rows.read(folder)
    figure = learning_curves(folder, values)
    assert panels(figure)["Hopper-v4"].get_legend() is None
    said = "Hopper-v4: published values stand at 1M steps, too far from our 512 to be shown."
    assert said in figure._supxlabel.get_text().replace("\n", " ")
    assert said in tables.build(results, values)[-1].notes


@pytest.mark.parametrize("task", ["$Hopper-v4", r"$\\nosuch{$-v4", "a$b$c_{d}^-v4", "new\nline-v4"])
def test_names_are_drawn_as_they_are(tmp_path, task):
    runs = {(name, "x"): [1.0, 2.0] for name in ("ppo", "trpo")}
    folder = write_benchmark(tmp_path / "b", runs)
    for name in ("ppo", "trpo"):
        file = folder / name / "x.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"task": task}))
    line = published_line("$a_$b$", task=task.removesuffix("-v4"))
    values = published.read(write_published(tmp_path / "published", line))
    pictures = curves.figures(rows.read(folder), values)
    assert all(picture.startswith(PNG) for picture in pictures.values())


def test_a_panel_is_cut_only_where_the_first_steps_would_fill_it(tmp_path):
    # 100, 600 and 2000 at the three evaluations: nothing is cut.
    steps = (50_000, 300_000, 1_000_000)
    folder = write_benchmark(tmp_path / "b", {("ppo", "A-v1"): [2000.0, 2000.0]}, steps=steps)
    assert panels(learning_curves(folder, []))["A-v1"].get_ylim()[0] < 100
    file = folder / "ppo" / "A-v1.csv"
    text = file.read_text().replace("0,50000,100.0", "0,50000,-9000")
    assert "-9000" in text
    file.write_text(text)
    figure = learning_curves(folder, [])
    # After the first tenth values run from 600 to 2000; the margin is 5% of that, 70.
    assert panels(figure)["A-v1"].get_ylim() == pytest.approx((530, 2070))
    assert "some heights are cut" in figure._supxlabel.get_text()


def test_aggregate_figure_says_what_it_leaves_out(tmp_path):
    runs = {("ppo", "A-v1"): [1.0, 2.0], ("trpo", "A-v1"): [0.0, 5.0], ("ppo", "B-v1"): [1.0, 2.0]}
    results = rows.read(write_benchmark(tmp_path / "b", runs))
    scores = aggregates.pool(results, [], "return")
    figure = curves._aggregate(scores, results, aggregates.comparable(results, "return")[1])
    assert figure.get_suptitle() == "Final evaluation over 1 task, 2 seeds each"
    assert "Left out: B-v1 (trpo lacking)." in figure._supxlabel.get_text()
    left, middle, _ = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["ppo", "trpo"]
    # IQM of two is their mean: trpo 2.5 is above ppo 1.5.
    assert [label.get_text() for label in middle.get_yticklabels()] == ["trpo > ppo"]


def test_figures_say_in_which_settings_tasks_differ(tmp_path, values):
    runs = {(name, task): [1.0, 2.0] for name in ("ppo", "trpo") for task in ("A-v1", "B-v1")}
    folder = write_benchmark(tmp_path / "b", runs)
    file = folder / "trpo" / "B-v1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"config": {"gamma": 0.9999}}))
    results = rows.read(folder)
    scores = aggregates.pool(results, [], "return")
    for figure in (learning_curves(folder, values), curves._aggregate(scores, results, [])):
        foot = figure._supxlabel.get_text().replace("\n", " ")
        assert "Settings of trpo that differ: gamma 0.9999 on B-v1, elsewhere 0.99." in foot


def test_no_aggregate_without_a_common_task(tmp_path):
    runs = {("ppo", "A-v1"): [1.0, 2.0], ("trpo", "B-v1"): [0.0, 5.0]}
    results = rows.read(write_benchmark(tmp_path / "b", runs))
    assert list(curves.figures(results, [])) == ["curves_training_return.png", "curves_return.png"]
