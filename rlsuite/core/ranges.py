"""What the numbers of a Config must keep to, with messages that say what to type."""

import math
from collections.abc import Sequence

LARGEST = 3.4e38  # that float32 holds


def require_positive(config: object, *names: str) -> None:
    """Each of these is a number greater than 0, or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be greater than 0")


def require_within(config: object, low: float, high: float, *names: str) -> None:
    """Each of these lies in [low, high]; an infinite `high` itself is refused."""
    for name in names:
        value = getattr(config, name)
        if not (low <= value <= high and math.isfinite(value)):
            bound = f"lie in [{low:g}, {high:g}]" if high < math.inf else f"be {low:g} or greater"
            raise ValueError(f"{name} is {value}; it must {bound}")


def require_whole(config: object, *names: str) -> None:
    """Each of these, a count or a tuple of widths, is 1 or more."""
    for name in names:
        value = getattr(config, name)
        least = min(value, default=0) if isinstance(value, tuple) else value
        if least < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")


def require_multiple(config: object, each: str, *names: str) -> None:
    """Each of these step counts is a multiple of the step count `each`; the message has one."""
    size = getattr(config, each)
    for name in names:
        steps = getattr(config, name)
        if steps % size:
            near = max(1, round(steps / size)) * size
            raise ValueError(f"{name} is {steps}, no multiple of {each} {size}; use {near}")


def require_bounded(low: Sequence[float], high: Sequence[float], remedy: str) -> None:
    """An action box has two ends in each dimension, for policies that scale their actions to it."""
    for index, (least, most) in enumerate(zip(low, high, strict=True)):
        if not float(most) - float(least) < LARGEST:
            raise ValueError(
                f"action {index} lies in [{least:g}, {most:g}], and this policy scales its actions "
                f"to the box: {remedy}"
            )
