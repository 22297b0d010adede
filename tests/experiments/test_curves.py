"""Figures: what is drawn, checked on the figure itself, and that the files are pictures."""

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

from rlsuite.experiments import curves, published, rows

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
    assert "Other v3: 2609 \N{PLUS-MINUS SIGN} 701 [e,m]" in dashed.get_label()
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
    assert [line.get_color() for line in lines] == list(curves.COLOURS[:2])
    assert drawn["Ant-v4"].lines[0].get_color() == curves.COLOURS[0]
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


def test_aggregates_take_shared_tasks_only(tmp_path):
    runs = {("ppo", "A-v1"): [1.0, 2.0], ("trpo", "A-v1"): [0.0, 5.0], ("ppo", "B-v1"): [1.0, 2.0]}
    results = rows.read(write_benchmark(tmp_path / "b", runs))
    assert curves._shared_tasks(results) == ["A-v1"]
    assert curves._shared_tasks(results[:2]) == []


def test_aggregate_scores_are_scaled_per_task_by_all_algorithms(tmp_path):
    runs = {
        ("ppo", "A-v1"): [0.0, 5.0],
        ("trpo", "A-v1"): [2.0, 10.0],
        ("ppo", "B-v1"): [-300.0, -100.0],
        ("trpo", "B-v1"): [-200.0, -150.0],
    }
    results = rows.read(write_benchmark(tmp_path / "b", runs))
    scores, words = curves._scores(results, ["A-v1", "B-v1"])
    # A runs from 0 to 10, B from -300 to -100.
    np.testing.assert_allclose(scores["ppo"], [[0, 0.5], [0, 1]])
    np.testing.assert_allclose(scores["trpo"], [[0.2, 1], [0.5, 0.75]])
    assert "scaled per task" in words
    alone, words = curves._scores(results, ["A-v1"])
    np.testing.assert_allclose(alone["trpo"], [[2, 10]])
    assert words == "evaluation return"


def test_aggregate_prefers_normalised_scores(tmp_path):
    runs = {(name, task): [1.0, 2.0] for name in ("bc", "iql") for task in ("A-v1", "B-v1")}
    results = rows.read(write_benchmark(tmp_path / "b", runs, score=73))
    scores, words = curves._scores(results, ["A-v1", "B-v1"])
    assert words == "normalised score" and scores["bc"][0].tolist() == [73, 73]
