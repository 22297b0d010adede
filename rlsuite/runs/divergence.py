"""Numbers that are not finite: whose they are, why, and what becomes of the seed."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

LARGEST_REWARD = 1e18  # float32 ends at 3e38, and losses square rewards


def first_of(
    values: Mapping[str, Sequence[float]], dropped: Collection[int]
) -> dict[int, tuple[str, float]]:
    """{index of a seed: the first metric of it that is not finite}, without those `dropped`."""
    found: dict[int, tuple[str, float]] = {}
    for name, per_seed in values.items():
        for index, value in enumerate(per_seed):
            if index not in dropped and not math.isfinite(value):
                found.setdefault(index, (name, value))
    return found


def reason(rewards: Sequence[float], kept: str, rates: str) -> str:
    """Why training diverged where the mean or greatest |rewards| were these, and what helps."""
    largest = max(rewards, default=0.0)
    if largest > LARGEST_REWARD:
        return (
            f"its rewards reach {largest:.3g} a step, whose squares float32 cannot hold; "
            f"{kept}. Scale the rewards down"
        )
    return f"training diverged; {kept}. Lower one of: {rates}"


def without(found: Mapping, dropped: Collection[int]) -> Mapping:
    """Evaluations by label, in which the seeds `dropped` have no numbers."""
    for result in found.values() if dropped else ():
        for part in (result.returns, result.lengths, result.costs, result.discounted):
            if part is not None:
                part[list(dropped)] = np.nan
    return found
