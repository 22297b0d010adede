"""Runs on tasks with limits: who is above, who is within by falling early, and how it is shown."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from rlsuite.evidence import aggregates, curves, limits, readme, report, rows
from rlsuite.evidence.tables import benchmark, constraints
from rlsuite.evidence.tables.tabular import markdown

CHEETAH, HOPPER = "HalfCheetahVelocity-v4", "HopperVelocity-v4"
VELOCITY = {"name": "velocity", "limit": 25.0, "kind": "episode"}
# (algorithm, task): return and cost with sampled actions, length
RUNS = {
    ("ppo_lag", CHEETAH): (2000, 24, 1000),
    ("ppo", CHEETAH): (4000, 700, 1000),
    ("ppo_lag", HOPPER): (1500, 22, 900),
    ("ppo", HOPPER): (1800, 20, 120),
}


def write(
    folder: Path,
    algorithm: str,
    task: str,
    costs: list[float],
    ret: float,
    length: float,
    asked: tuple[dict, ...] = (VELOCITY,),
) -> None:
    """Two seeds: the second costs and earns 2 less; `costs` at steps 100, 200, ..."""
    file = folder / algorithm / f"{task}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, cost in enumerate(costs, 1):
        for seed in (0, 1):
            paid = cost - 2 * seed
            lines.append(
                {
                    **{"seed": seed, "step": 100 * number, "return": ret + 500, "cost": 1},
                    **{"length": length, "score": "", "wall_seconds": 1, "training_return": ret},
                    **{"cost_per_step": 1 / length, "within": 1, "sampled_return": ret - 2 * seed},
                    **{"sampled_cost": paid, "sampled_length": length},
                    **{"sampled_cost_per_step": paid / length, "sampled_within": 0.75},
                    "total_training_cost": 10 * number,
                }
            )
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    about = {"algorithm": algorithm, "task": task, "seeds": [0, 1], "constraints": list(asked)}
    file.with_suffix(".json").write_text(json.dumps(about))


@pytest.fixture
def folder(tmp_path) -> Path:
    for (algorithm, task), (ret, cost, length) in RUNS.items():
        write(tmp_path, algorithm, task, [cost] * 12, ret, length)
    return tmp_path


def by_name(folder: Path) -> dict[tuple[str, str], rows.Result]:
    return {(result.algorithm, result.task): result for result in rows.read(folder)}


def test_a_limit_is_judged_on_the_last_ten_evaluations_with_sampled_actions(tmp_path):
    # The first two of 12 evaluations are at 900; the ten after them at 30 for the first seed and 28
    # for the second: a mean of 29. The mode's cost, 1, does not count
    write(tmp_path, "ppo", CHEETAH, [900, 900, *[30] * 10], 100, 1000)
    (result,) = rows.read(tmp_path)
    (limit,) = limits.limits(result)
    assert limits.last(result, limit.column).tolist() == [30, 28]
    assert limits.verdict(result) == "above"
    write(tmp_path, "ppo", CHEETAH, [900, 900, *[26] * 10], 100, 1000)
    (result,) = rows.read(tmp_path)
    assert limits.verdict(result) == "within"  # 26 and 24: at the limit of 25, not above


def test_within_a_limit_by_falling_early_is_told_from_within(folder):
    found = {key: limits.verdict(result) for key, result in by_name(folder).items()}
    # On Hopper ppo_lag costs 21 in 900 steps, which is 23.3 in 1000; ppo 19 in 120, which is 158
    assert found == {
        ("ppo_lag", CHEETAH): "within",
        ("ppo", CHEETAH): "above",
        ("ppo_lag", HOPPER): "within",
        ("ppo", HOPPER): "early",
    }


def test_what_is_above_or_falls_early_is_ranked_below_whatever_it_earns(folder):
    first, second = constraints.build(rows.read(folder))
    for table, mark in ((first, "L"), (second, "F")):
        ranks = [(row[0].text, row[1].text, row[1].marks) for row in table.rows]
        assert ranks == [("ppo_lag", "1", ()), ("ppo", "2", (mark,))]
    line = dict(zip(first.header, first.rows[0], strict=True))
    # 24 and 22: a mean of 23, a deviation of sqrt(2); 0.023 a step
    assert line["Cost"].text == "23.00 ± 1.41"
    assert (line["Seeds within"].text, line["Episodes within"].text) == ("2 of 2", "75%")
    assert (line["Length"].text, line["Cost per step"].text) == ("1000 ± 0", "0.023")
    assert (line["Return"].text, line["Return of the mode"].text) == ("1999 ± 1", "2500 ± 0")
    assert line["Paid in training"].text == "120.0"  # 10 at each of 12 evaluations
    assert dict(zip(first.header, first.rows[1], strict=True))["Seeds within"].text == "0 of 2"


def test_no_aggregate_lets_a_return_above_a_limit_win(folder):
    tasks, left_out = aggregates.comparable(rows.read(folder), "return")
    assert (tasks, left_out) == ([HOPPER], [f"{CHEETAH} (ppo above its limit)"])
    text = markdown(benchmark.build(rows.read(folder), []))
    assert "4500 ± 0 <sup>L</sup>" in text and "2300 ± 0 <sup>F</sup>" in text
    assert "ABOVE ITS LIMIT: ppo on HalfCheetahVelocity-v4: velocity costs 699 an episode" in text
    assert "FALLS EARLY: ppo on HopperVelocity-v4: velocity costs 19 an episode" in text


def test_the_overview_and_the_page_say_it_too(folder, tmp_path):
    (tmp_path / "published").mkdir()
    shown = readme.benchmark(folder, tmp_path / "published")
    told = [(row.task, row.algorithm, row.mean.partition(" (")[2]) for row in shown.rows]
    assert told == [
        (CHEETAH, "ppo_lag", "within its limit)"),
        (CHEETAH, "ppo", "above its limit)"),
        (HOPPER, "ppo", "within its limit by falling early)"),
        (HOPPER, "ppo_lag", "within its limit)"),
    ]
    assert any("ABOVE ITS LIMIT: ppo" in text for text in report.caveats(rows.read(folder)))


def test_curves_have_the_limit_as_a_line_and_faint_returns_above_it(folder, monkeypatch):
    drawn, draw = {}, curves._legend
    monkeypatch.setattr(
        curves,
        "_legend",
        lambda figure, styles, title, foot: (
            drawn.update({title: figure.axes}),
            draw(figure, styles, title, foot),
        ),
    )
    pictures = curves.figures(rows.read(folder), [])
    assert {"curves_sampled_cost.png", "curves_sampled_return.png"} <= {*pictures}
    panel = drawn["Velocity cost of an episode with sampled actions"][0]
    (line,) = [line for line in panel.lines if line.get_linestyle() == "-."]
    assert list(line.get_ydata()) == [25, 25]
    opacity = [
        line.get_alpha() for line in drawn["Evaluation return with sampled actions"][0].lines
    ]
    assert opacity == [curves.FAINT, 1]  # ppo, ppo_lag: in the registry's order


@pytest.mark.parametrize(
    ("kind", "column"),
    [("step", "sampled_cost_per_step"), ("discounted", "sampled_cost_discounted")],
)
def test_each_kind_of_limit_has_its_column(tmp_path, kind, column):
    write(tmp_path, "ppo", CHEETAH, [30], 1, 10, ({**VELOCITY, "kind": kind, "limit": 2.9},))
    file = tmp_path / "ppo" / f"{CHEETAH}.csv"
    if kind == "discounted":
        head, *lines = file.read_text().splitlines()
        both = [f"{head},sampled_cost_discounted", *(f"{line},3.5" for line in lines)]
        file.write_text("\n".join(both) + "\n")
    (result,) = rows.read(tmp_path)
    (limit,) = limits.limits(result)
    assert limit.column == column
    # 3 and 2.8 a step: a mean of 2.9, not above; discounted 3.5
    assert limits.verdict(result) == {"step": "within", "discounted": "above"}[kind]
    assert "cost" not in limit.columns  # the sum of an episode is not what is limited


def test_rows_from_before_sampled_evaluations_are_judged_on_the_mode(tmp_path):
    write(tmp_path, "ppo", CHEETAH, [30] * 3, 1, 1000)
    file = tmp_path / "ppo" / f"{CHEETAH}.csv"
    with open(file, newline="") as stream:
        lines = [{k: row[k] for k in rows.COLUMNS} for row in csv.DictReader(stream)]
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows.COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    (result,) = rows.read(tmp_path)
    assert [each.column for each in limits.limits(result)] == ["cost"]
    assert limits.verdict(result) == "within"
    (table,) = constraints.build([result])
    assert "or the mode where none were" in table.notes[0]
    assert np.isnan(limits.per_step(result, limits.limits(result)[0]))
