"""Statistics over seeds and tasks: IQM, bootstrap intervals, probability of improvement, profiles.

Scores come as one 1-D array per task (a *stratum*): ``strata[t]`` holds the scores of task t's
seeds. Every task weighs the same: a seed of a task with n_t seeds, among T tasks, carries the mass
1 / (T n_t). A single task is a list with one array.

The point estimates and the stratified bootstrap follow Agarwal et al. 2021, "Deep Reinforcement
Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264), with two differences: the
interquartile mean cuts exactly a quarter of the mass on either side (a seed on the edge counts in
part) where the paper's library drops floor(n / 4) whole seeds, and every random draw comes from
the ``numpy.random.Generator`` that the caller hands in, so that intervals can be recomputed.

An *estimator* maps values [..., N] and their mass [N] (summing to 1) to [...].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Strata = Sequence[np.ndarray]
Estimator = Callable[[np.ndarray, np.ndarray], np.ndarray]

RESAMPLES = 5000
CONFIDENCE = 0.95
_ROUNDING = 1e-9  # cumulated masses are compared with 1/4, 1/2 and 3/4 up to this much


def mean(values: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Mean over the last axis: values [..., N], mass [N] -> [...]."""
    return values @ mass


def iqm(values: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis: values [..., N], mass [N] -> [...].

    Sort the values and lay their masses side by side on [0, 1]; the result is the mean of the part
    within [1/4, 3/4]. With five equal masses the sorted values weigh 0, 0.3, 0.4, 0.3, 0.
    """
    return _central_mean(values, mass, 0.25)


def median(values: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Median over the last axis: values [..., N], mass [N] -> [...].

    Where exactly half of the mass lies on either side, the mean of the two middle values.
    """
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    reached = np.cumsum(mass[order], axis=-1)
    low = np.argmax(reached >= 0.5 - _ROUNDING, axis=-1)[..., None]
    high = np.argmax(reached > 0.5 + _ROUNDING, axis=-1)[..., None]
    middle = np.take_along_axis(ordered, low, -1) + np.take_along_axis(ordered, high, -1)
    return middle[..., 0] / 2


def estimate(strata: Strata, estimator: Estimator) -> float:
    """Point estimate over all tasks and seeds, every task weighing the same.

    Raises ValueError for an empty stratum, a stratum that is not 1-D, or a value not finite.
    """
    strata = _checked(strata)
    return float(estimator(np.concatenate(strata), _mass(strata)))


def bootstrap_interval(
    strata: Strata,
    estimator: Estimator,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Percentile interval of the stratified bootstrap: seeds are redrawn within each task.

    Returns (low, high). Raises ValueError for a stratum with fewer than two seeds, whose spread
    between seeds nobody has seen, and for what `estimate` refuses.
    """
    strata = _checked(strata, least=2)
    draws = np.concatenate([_redraw(scores, rng, resamples) for scores in strata], axis=1)
    return _percentiles(estimator(draws, _mass(strata)), confidence)


def bootstrap_band(
    values: np.ndarray,
    estimator: Estimator,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise interval along a curve: values [S, E] (seed, evaluation) -> low [E], high [E].

    Whole seeds are redrawn, so that one resample is one set of curves. Raises ValueError for fewer
    than two seeds or a value not finite.
    """
    if values.ndim != 2:
        raise ValueError(f"a band needs values [seeds, evaluations], got shape {values.shape}")
    for column in values.T:
        _checked([column], least=2)
    seeds = len(values)
    index = rng.integers(seeds, size=(resamples, seeds))
    mass = np.full(seeds, 1 / seeds)
    ends = [_percentiles(estimator(column[index], mass), confidence) for column in values.T]
    low, high = np.array(ends).reshape(-1, 2).T
    return low, high


def probability_of_improvement(ours: Strata, theirs: Strata) -> float:
    """P(a seed of ours scores above a seed of theirs), averaged over tasks; a tie counts 1/2.

    Per task this is the Mann-Whitney statistic U / (n m). ours[t] and theirs[t] are the same task.
    Raises ValueError when the numbers of tasks differ, and for what `estimate` refuses.
    """
    ours, theirs = _paired(ours, theirs, least=1)
    wins = [_win_share(x, y) for x, y in zip(ours, theirs, strict=True)]
    return float(np.mean(wins))


def improvement_interval(
    ours: Strata,
    theirs: Strata,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Bootstrap interval of `probability_of_improvement`: both sides are redrawn, within tasks.

    Returns (low, high). Raises ValueError as `bootstrap_interval` does.
    """
    ours, theirs = _paired(ours, theirs, least=2)
    wins = np.zeros(resamples)
    for x, y in zip(ours, theirs, strict=True):
        wins += _win_share(_redraw(x, rng, resamples), _redraw(y, rng, resamples))
    return _percentiles(wins / len(ours), confidence)


def performance_profile(strata: Strata, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs scoring above each threshold, averaged over tasks: thresholds [K] -> [K]."""
    strata = _checked(strata)
    return np.mean([_above(scores, thresholds).mean(axis=0) for scores in strata], axis=0)


def profile_band(
    strata: Strata,
    thresholds: np.ndarray,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise bootstrap band of `performance_profile`: thresholds [K] -> low [K], high [K].

    Raises ValueError as `bootstrap_interval` does.
    """
    strata = _checked(strata, least=2)
    profiles = np.zeros((resamples, len(thresholds)))
    for scores in strata:
        # How often each seed is drawn says all about a resample, and keeps the memory at [B, n].
        drawn = rng.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), resamples)
        profiles += drawn / len(scores) @ _above(scores, thresholds)
    tail = (1 - confidence) / 2
    low, high = np.quantile(profiles / len(strata), [tail, 1 - tail], axis=0)
    return low, high


def _central_mean(values: np.ndarray, mass: np.ndarray, cut: float) -> np.ndarray:
    order = np.argsort(values, axis=-1, kind="stable")
    right = np.cumsum(mass[order], axis=-1)
    left = right - mass[order]
    kept = np.clip(np.minimum(right, 1 - cut) - np.maximum(left, cut), 0, None)
    ordered = np.take_along_axis(values, order, axis=-1)
    return (kept * ordered).sum(axis=-1) / kept.sum(axis=-1)


def _mass(strata: Sequence[np.ndarray]) -> np.ndarray:
    """Mass of every score, all tasks in a row: [N], summing to 1."""
    return np.concatenate([np.full(len(x), 1 / (len(strata) * len(x))) for x in strata])


def _redraw(scores: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Draw n scores with replacement, `resamples` times: [n] -> [resamples, n]."""
    return scores[rng.integers(len(scores), size=(resamples, len(scores)))]


def _win_share(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Share of pairs won, ties half: ours [..., n], theirs [..., m] -> [...]."""
    gap = ours[..., :, None] - theirs[..., None, :]
    return ((np.sign(gap) + 1) / 2).mean(axis=(-2, -1))


def _above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """1.0 where a score exceeds a threshold: scores [n], thresholds [K] -> [n, K]."""
    return (scores[:, None] > np.asarray(thresholds)).astype(np.float64)


def _percentiles(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    """Both ends of the central interval of bootstrap estimates [B]."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; use 0.95")
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _checked(strata: Strata, least: int = 1) -> list[np.ndarray]:
    if len(strata) == 0:
        raise ValueError("no task given: pass one 1-D array of scores per task")
    arrays = [np.asarray(scores, dtype=np.float64) for scores in strata]
    for number, scores in enumerate(arrays):
        if scores.ndim != 1:
            raise ValueError(f"task {number}: scores must be 1-D [seeds], got {scores.shape}")
        if len(scores) < least:
            raise ValueError(f"task {number} has {len(scores)} seed(s); at least {least} needed")
        if not np.isfinite(scores).all():
            raise ValueError(f"task {number} has a score that is not finite: {scores.tolist()}")
    return arrays


def _paired(ours: Strata, theirs: Strata, least: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    if len(ours) != len(theirs):
        raise ValueError(f"ours has {len(ours)} tasks, theirs {len(theirs)}; give the same tasks")
    return _checked(ours, least), _checked(theirs, least)
