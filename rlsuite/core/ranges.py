"""What a Config declares; what its numbers must keep to, with messages that say what to type."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple, NewType

LARGEST = 3.4e38  # that float32 holds

RunFolder = NewType("RunFolder", str)  # a field of this type names a run whose artifacts are used


class Declared(NamedTuple):
    """What `Config.declared` tells those who run an algorithm, and those who read its rows."""

    widths: tuple[int, ...]  # of the hidden layers that most products are of
    rows: int  # of each seed in one such product: a minibatch
    steps: int  # of each seed until the last evaluation
    gradient_steps: int  # of each seed: over many it pays to compile them
    learning_rates: tuple[str, ...]  # its fields that are one: what to lower if training diverges
    environments: int = 1  # to learn in, per seed
    value: str = ""  # the metric that estimates a return: a huge one means that training diverged
    variant: str = ""  # what it is of the algorithm, if it may not stand beside published values
    schedules: tuple[str, ...] = ()  # what changes from its first step to its last, by their share


def require_choice(config: object, name: str, known: Collection[str]) -> None:
    """It is one of the `known` words."""
    value = getattr(config, name)
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown; use one of: {', '.join(known)}")


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
            bound = "be a finite number" if low == -math.inf else bound
            raise ValueError(f"{name} is {value}; it must {bound}")


def require_between(config: object, low: float, high: float, name: str) -> None:
    """It lies between these, neither of which is allowed itself."""
    value = getattr(config, name)
    if not low < value < high:
        raise ValueError(f"{name} is {value}; it must lie between {low:g} and {high:g}")


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
