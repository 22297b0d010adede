"""Aggregates: which tasks are compared, on which scale, and the table by hand."""

import numpy as np
import pytest
from evidence_samples import published_line, write_benchmark, write_published

from rlsuite import envs
from rlsuite.cli.evidence import PUBLISHED
from rlsuite.evidence import aggregates, published, rows
from rlsuite.evidence.tables.tabular import NONE

PAIR = {
    ("ppo", "Hopper-v4"): [17.4, 1017.4],
    ("trpo", "Hopper-v4"): [517.4, 2017.4],
    ("ppo", "Swimmer-v4"): [-0.7, 99.3],
    ("trpo", "Swimmer-v4"): [24.3, 49.3],
}


@pytest.fixture
def yardstick(tmp_path):
    """A published PPO value 1000 above random actions on Hopper, 100 above on Swimmer."""
    lines = [
        published_line(aggregates.YARDSTICK, mean="1017.4"),
        published_line(aggregates.YARDSTICK, task="Swimmer", mean="99.3"),
        published_line("Other", mean="5000"),
    ]
    return published.read(write_published(tmp_path / "published", *lines))


def test_scale_is_random_actions_and_the_published_yardstick(tmp_path, yardstick):
    results = rows.read(write_benchmark(tmp_path / "b", PAIR))
    scores = aggregates.pool(results, yardstick, "return")
    # Hopper: (1017.4 - 17.4) / 1000 = 1; Swimmer: (24.3 + 0.7) / 100 = 0.25.
    np.testing.assert_allclose(scores.values["ppo"], [[0, 1], [0, 1]], atol=1e-12)
    np.testing.assert_allclose(scores.values["trpo"], [[0.5, 2], [0.25, 0.5]])
    assert "Hopper-v4 17.4 and 1017.4; Swimmer-v4 -0.7 and 99.3" in scores.scale
    assert scores.fixed and "does not move" in scores.scale


def test_scale_stays_when_an_algorithm_is_added(tmp_path, yardstick):
    before = aggregates.pool(
        rows.read(write_benchmark(tmp_path / "b", PAIR)), yardstick, "return"
    ).values["ppo"]
    more = {("mdpo", "Hopper-v4"): [9000.0, -500.0], ("mdpo", "Swimmer-v4"): [300.0, -90.0]}
    after = aggregates.pool(
        rows.read(write_benchmark(tmp_path / "b", more)), yardstick, "return"
    ).values["ppo"]
    np.testing.assert_array_equal(before, after)


def test_without_references_the_seeds_span_the_scale_and_the_words_say_so(tmp_path):
    runs = {
        ("ppo", "A-v1"): [0.0, 5.0],
        ("trpo", "A-v1"): [2.0, 10.0],
        ("ppo", "B-v1"): [-300.0, -100.0],
        ("trpo", "B-v1"): [-200.0, -150.0],
    }
    results = rows.read(write_benchmark(tmp_path / "b", runs))
    scores = aggregates.pool(results, [], "return")
    # A runs from 0 to 10, B from -300 to -100.
    np.testing.assert_allclose(scores.values["ppo"], [[0, 0.5], [0, 1]])
    np.testing.assert_allclose(scores.values["trpo"], [[0.2, 1], [0.5, 0.75]])
    assert not scores.fixed and "The scale moves when an algorithm is added" in scores.scale
    one_task = [result for result in results if result.task == "A-v1"]
    alone = aggregates.pool(one_task, [], "return")
    np.testing.assert_allclose(alone.values["trpo"], [[2, 10]])
    assert alone.words == "evaluation return"


def test_normalised_scores_are_preferred_and_taken_as_they_are(tmp_path):
    runs = {(name, task): [1.0, 2.0] for name in ("bc", "iql") for task in ("A-v1", "B-v1")}
    results = rows.read(write_benchmark(tmp_path / "b", runs, score=73))
    assert aggregates.headline(results) == "score"
    scores = aggregates.pool(results, [], "score")
    assert scores.words == "normalised score" and scores.values["bc"][0].tolist() == [73, 73]


def test_only_tasks_that_all_ran_for_as_long_are_compared(tmp_path):
    runs = {("ppo", task): [1.0, 2.0] for task in ("A-v1", "B-v1", "C-v1")}
    folder = write_benchmark(tmp_path, runs)
    write_benchmark(folder, {("trpo", "A-v1"): [1.0, 2.0]}, steps=(500_000, 1_000_000))
    write_benchmark(folder, {("trpo", "B-v1"): [1.0, 2.0]}, steps=(250_000, 500_000))
    results = rows.read(folder)
    tasks, left_out = aggregates.comparable(results, "return")
    # 1,000,000 is within 2% of 999,424 steps; 500,000 is not.
    assert tasks == ["A-v1"]
    assert left_out == [
        "B-v1 (ppo stands at 999k steps, trpo stands at 500k steps)",
        "C-v1 (trpo lacking)",
    ]
    (notes,) = [aggregates.table(results, [], "return").notes]
    assert notes[-1].startswith("Left out: B-v1 (ppo") and notes[-1].endswith("lacking).")
    assert aggregates.pool([r for r in results if r.task == "B-v1"], [], "return") is None


def test_table_by_hand(tmp_path, yardstick):
    results = rows.read(write_benchmark(tmp_path / "b", PAIR))
    ppo, trpo = aggregates.table(results, yardstick, "return").rows
    # All masses are 1/4, so the IQM is the mean of the middle two of four:
    # ppo 0, 0, 1, 1 -> 0.5; trpo 0.25, 0.5, 0.5, 2 -> 0.5.
    assert ppo[2].text.startswith("0.50 [") and trpo[2].text.startswith("0.50 [")
    # trpo wins on Hopper (0.5 > 0, 2 > 0, 2 > 1: 3 of 4) and on Swimmer (both above 0: 2 of 4):
    # (3/4 + 2/4) / 2 = 0.625.
    assert trpo[3].text.startswith("0.62 [") and ppo[4].text.startswith("0.38 [")
    assert ppo[3].text == trpo[4].text == NONE and ppo[1].text == "2"


def test_one_seed_costs_only_its_own_algorithm_the_interval(tmp_path):
    runs = {("ppo", "A-v1"): [1.0, 2.0], ("trpo", "A-v1"): [3.0], ("mdpo", "A-v1"): [1.0, 4.0]}
    results = rows.read(write_benchmark(tmp_path, runs))
    by_name = {row[0].text: row for row in aggregates.table(results, [], "return").rows}
    assert by_name["trpo"][2].text == "3.00" and by_name["trpo"][1].text == "1"
    assert by_name["ppo"][2].text.startswith("1.50 [")
    assert by_name["ppo"][4].text == "0.00"  # P(above trpo), without interval
    assert "[" in by_name["ppo"][5].text  # P(above mdpo)


def test_every_random_return_has_its_yardstick():
    values = published.read(PUBLISHED)
    ends = aggregates.references(values, [f"{family}-v4" for family in aggregates.RANDOM])
    assert len(ends) == 7 and all(high > low for low, high in ends.values())
    assert ends["Hopper-v4"] == (17.4, 2316.16)
    assert aggregates.references(values, ["Hopper-v4", "Ant-v4"]) is None


@pytest.mark.parametrize("family", ["Hopper", "Reacher"])
def test_random_returns_can_be_measured_again(family):
    pool = envs.make(f"{family}-v4", [0], 10)
    pool.reset(np.arange(100, 110)[None])
    rng = np.random.default_rng(1)
    while pool.finished < 100:
        action = rng.uniform(pool.action_low, pool.action_high, (1, 10, pool.action_size))
        pool.step(action.astype(np.float32))
    returns = [episode.ret for episode in pool.episodes()]
    pool.close()
    # Five standard errors: the published constant and this sample are both random.
    error = np.std(returns) / np.sqrt(len(returns))
    assert abs(np.mean(returns) - aggregates.RANDOM[family]) < 5 * error
