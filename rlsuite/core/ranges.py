"""What the numbers of a Config must keep to, with messages that say what to type."""

import math
from collections.abc import Collection, Sequence

LARGEST = 3.4e38  # that float32 holds
LOG_STD = {"clip": (-20.0, 2.0), "tanh": (-5.0, 2.0)}  # what maps an output to log sigma: its range


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


def require_choice(config: object, name: str, known: Collection[str]) -> None:
    """It is one of the `known` words."""
    value = getattr(config, name)
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown; use one of: {', '.join(known)}")


def require_off_policy(config: object, *periods: str) -> None:
    """What every Config keeps to that fills a replay buffer and learns from it.

    `periods` are further counts of environment steps, after which something happens.
    """
    require_whole(config, "num_envs", "capacity", "batch_size", "policy_delay", *periods)
    require_whole(config, "total_steps", "steps_per_iteration", "hidden")
    require_multiple(config, "num_envs", "steps_per_iteration", *periods)
    require_multiple(config, "steps_per_iteration", "total_steps", "warm_up")
    require_positive(config, "updates_per_step", "actor_lr", "critic_lr", "temperature")
    require_within(config, 0, 1, "discount", "polyak")
    require_choice(config, "log_std_map", LOG_STD)
    last = config.total_steps - config.steps_per_iteration
    if not 0 <= config.warm_up <= last:
        steps = f"warm_up is {config.warm_up} of {config.total_steps} steps"
        raise ValueError(f"{steps}, which leaves none to learn in; use 0 to {last}")
    if config.capacity < config.num_envs:
        envs = f"{config.num_envs} environments"
        raise ValueError(f"capacity is {config.capacity}, less than one step of {envs}")
    updates = round(config.updates_per_step * config.steps_per_iteration, 6)
    if updates % config.policy_delay or updates < 1:
        raise ValueError(
            f"updates_per_step {config.updates_per_step:g} makes {updates:g} gradient steps of "
            f"{config.steps_per_iteration} steps, no multiple of policy_delay "
            f"{config.policy_delay}; use policy_delay 1, or another updates_per_step"
        )


def require_bounded(low: Sequence[float], high: Sequence[float], remedy: str) -> None:
    """An action box has two ends in each dimension, for policies that scale their actions to it."""
    for index, (least, most) in enumerate(zip(low, high, strict=True)):
        if not float(most) - float(least) < LARGEST:
            raise ValueError(
                f"action {index} lies in [{least:g}, {most:g}], and this policy scales its actions "
                f"to the box: {remedy}"
            )
