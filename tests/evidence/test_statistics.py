"""Statistics against hand-worked numbers and exact enumeration of all resamples."""

import itertools

import numpy as np
import pytest

from rlsuite.evidence import statistics
from rlsuite.evidence.statistics import iqm, mean, median


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def every_resample(scores: np.ndarray) -> np.ndarray:
    """All n^n equally likely resamples: [n^n, n]."""
    return np.array(list(itertools.product(scores, repeat=len(scores))))


def test_iqm_weighs_seeds_on_the_edge_in_part():
    # n = 5, each 0.2 wide: [.2, .4] overlaps [.25, .75] by .15, [.4, .6] by .2, [.6, .8] by .15.
    # (0.15 * 2 + 0.2 * 3 + 0.15 * 10) / 0.5 = 2.4 / 0.5 = 4.8
    assert statistics.estimate([np.array([100.0, 3, 2, 10, -50])], iqm) == pytest.approx(4.8)
    # n = 3: a third each, overlaps 1/12, 1/3, 1/12 -> (1 + 4 * 2 + 6) / 6 = 2.5
    assert statistics.estimate([np.array([1.0, 2, 6])], iqm) == pytest.approx(2.5)
    # n = 2 and n = 1 are plain means.
    assert statistics.estimate([np.array([1.0, 4])], iqm) == pytest.approx(2.5)
    assert statistics.estimate([np.array([4.0])], iqm) == pytest.approx(4.0)


@pytest.mark.parametrize("seeds", [4, 8, 12, 20])
def test_iqm_is_the_trimmed_mean_where_a_quarter_is_whole(seeds):
    scores = rng().normal(size=(6, seeds))
    kept = np.sort(scores, axis=1)[:, seeds // 4 : -(seeds // 4)]
    np.testing.assert_allclose(iqm(scores, np.full(seeds, 1 / seeds)), kept.mean(axis=1))


def test_iqm_of_several_tasks_is_pooled_where_seed_counts_agree():
    tasks = [rng().normal(size=10), rng().normal(size=10) + 1]
    pooled = np.concatenate(tasks)
    assert statistics.estimate(tasks, iqm) == pytest.approx(np.sort(pooled)[5:15].mean())


def test_every_task_weighs_the_same_whatever_its_seeds():
    # Task 1 has four seeds at 0, task 2 one seed at 8: mean 4, not 8 / 5.
    uneven = [np.zeros(4), np.array([8.0])]
    assert statistics.estimate(uneven, mean) == pytest.approx(4)
    # Half of the mass is 0, half is 8: the middle half is a quarter of each, 4; the median too.
    assert statistics.estimate(uneven, iqm) == pytest.approx(4)
    assert statistics.estimate(uneven, median) == pytest.approx(4)


def test_median_equals_numpy_for_equal_masses():
    for seeds in (1, 2, 5, 8):
        scores = rng().normal(size=(3, seeds))
        expected = np.median(scores, axis=1)
        np.testing.assert_allclose(median(scores, np.full(seeds, 1 / seeds)), expected)


@pytest.mark.parametrize("estimator", [mean, iqm, median])
def test_bootstrap_interval_is_that_of_all_resamples(estimator):
    scores = np.array([1.0, 2.0, 4.0, 9.0])
    exact = estimator(every_resample(scores), np.full(4, 0.25))  # 4^4 = 256 resamples
    got = statistics.bootstrap_interval([scores], estimator, rng(), 100_000, confidence=0.8)
    # The ends are atoms of the exact distribution (4 scores, so few distinct values).
    want = np.quantile(exact, [0.1, 0.9], method="inverted_cdf")
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_stratified_bootstrap_redraws_within_tasks_only():
    tasks = [np.array([0.0, 3.0, 4.0]), np.array([100.0, 108.0])]
    # All 3^3 * 2^2 = 108 combinations; the mean is the mean of the two task means.
    first, second = (every_resample(task).mean(axis=1) for task in tasks)
    exact = (first[:, None] + second[None, :]).ravel() / 2
    got = statistics.bootstrap_interval(tasks, mean, rng(), 200_000, confidence=0.9)
    want = np.quantile(exact, [0.05, 0.95], method="inverted_cdf")
    np.testing.assert_allclose(got, want, atol=1e-9)
    # Redrawn across tasks, a mean near 0 or 108 would turn up; within tasks it cannot.
    low, high = statistics.bootstrap_interval(tasks, mean, rng(), 5000, confidence=0.999)
    assert low >= 50 and high <= 56


def test_band_is_the_interval_at_every_step_of_whole_curves():
    curve = np.array([[0.0, 10.0], [1.0, 20.0], [5.0, 60.0]])  # [3 seeds, 2 evaluations]
    low, high = statistics.bootstrap_band(curve, mean, rng(), 50_000)
    for step in range(2):
        exact = every_resample(curve[:, step]).mean(axis=1)
        ends = np.quantile(exact, [0.025, 0.975], method="inverted_cdf")
        np.testing.assert_allclose([low[step], high[step]], ends, atol=1e-9)


def test_band_redraws_seeds_jointly():
    # The second step is the first one mirrored. One draw of seeds serves both steps, so the two
    # intervals mirror each other exactly; with a draw per step they would only nearly do so.
    first = np.array([0.0, 2.0, 7.0, 11.0])
    low, high = statistics.bootstrap_band(np.stack([first, -first], axis=1), mean, rng(), 501)
    assert low[0] == pytest.approx(-high[1]) and high[0] == pytest.approx(-low[1])


def test_same_generator_same_interval():
    scores = [rng().normal(size=7)]
    a = statistics.bootstrap_interval(scores, iqm, np.random.default_rng(3))
    b = statistics.bootstrap_interval(scores, iqm, np.random.default_rng(3))
    c = statistics.bootstrap_interval(scores, iqm, np.random.default_rng(4))
    assert a == b and a != c


def test_probability_of_improvement_by_hand():
    # 3 beats 1 and 2; 2 beats 1 and ties 2: (1 + 1 + 1 + 1/2) / 4 = 0.875
    one = statistics.probability_of_improvement([np.array([3.0, 2])], [np.array([1.0, 2])])
    assert one == pytest.approx(0.875)
    # A second task, lost outright, halves it.
    ours, theirs = [np.array([3.0, 2]), np.zeros(3)], [np.array([1.0, 2]), np.ones(2)]
    assert statistics.probability_of_improvement(ours, theirs) == pytest.approx(0.4375)
    swapped = statistics.probability_of_improvement(theirs, ours)
    assert swapped == pytest.approx(1 - 0.4375)


def test_improvement_interval_is_that_of_all_resamples():
    ours, theirs = np.array([1.0, 4.0, 6.0]), np.array([2.0, 4.0])
    exact = [
        np.mean([(x > y) + 0.5 * (x == y) for x in xs for y in ys])
        for xs in every_resample(ours)
        for ys in every_resample(theirs)
    ]
    got = statistics.improvement_interval([ours], [theirs], rng(), 200_000, confidence=0.7)
    want = np.quantile(exact, [0.15, 0.85], method="inverted_cdf")
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_performance_profile_by_hand_and_band_by_enumeration():
    tasks = [np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])]
    thresholds = np.array([-1.0, 0.5, 1.0, 3.0])
    # Above: task 1: 3/3, 2/3, 1/3, 0; task 2: 2/2, 2/2, 1/2, 0 (strictly above); then averaged.
    expected = [1, (2 / 3 + 1) / 2, (1 / 3 + 1 / 2) / 2, 0]
    np.testing.assert_allclose(statistics.performance_profile(tasks, thresholds), expected)
    shares = [(every_resample(task)[..., None] > thresholds).mean(axis=1) for task in tasks]
    exact = ((shares[0][:, None] + shares[1][None]) / 2).reshape(-1, len(thresholds))
    low, high = statistics.profile_band(tasks, thresholds, rng(), 200_000, confidence=0.8)
    want = np.quantile(exact, [0.1, 0.9], axis=0, method="inverted_cdf")
    np.testing.assert_allclose([low, high], want, atol=1e-9)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    # 30 normal seeds, 300 experiments: coverage of a 90% interval of the mean within 84..95%.
    generator = rng()
    hits = 0
    for _ in range(300):
        low, high = statistics.bootstrap_interval(
            [generator.normal(size=30)], mean, generator, 400, confidence=0.9
        )
        hits += low <= 0 <= high
    assert 0.84 <= hits / 300 <= 0.95


@pytest.mark.parametrize(
    ("strata", "message"),
    [
        ([], "no task"),
        ([np.array([1.0, np.nan])], "not finite"),
        ([np.zeros((2, 2))], "1-D"),
        ([np.array([])], "0 seed"),
    ],
)
def test_bad_scores_are_refused(strata, message):
    with pytest.raises(ValueError, match=message):
        statistics.estimate(strata, mean)


def test_what_cannot_be_bootstrapped_is_refused():
    with pytest.raises(ValueError, match="1 seed"):
        statistics.bootstrap_interval([np.array([1.0])], mean, rng())
    with pytest.raises(ValueError, match="1 seed"):
        statistics.bootstrap_band(np.ones((1, 3)), mean, rng())
    with pytest.raises(ValueError, match="same tasks"):
        statistics.probability_of_improvement([np.ones(2)], [np.ones(2), np.ones(2)])
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        statistics.bootstrap_interval([np.ones(2)], mean, rng(), confidence=95)
