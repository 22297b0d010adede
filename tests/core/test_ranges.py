"""What a Config's numbers must keep to: each refusal names the value and what to type."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from rlsuite.core.buffers import require_offline
from rlsuite.core.ranges import (
    require_between,
    require_bounded,
    require_choice,
    require_multiple,
    require_positive,
    require_whole,
    require_within,
)
from rlsuite.core.rollouts import require_on_policy


def config(**values) -> SimpleNamespace:
    return SimpleNamespace(**values)


@pytest.mark.parametrize("value", [1e-300, 1, 1e300, None])
def test_positive_numbers_and_none_are_positive(value):
    require_positive(config(rate=value), "rate")


@pytest.mark.parametrize("value", [0, 0.0, -0.0, -1e-9, math.nan, math.inf, -math.inf])
def test_what_is_not_positive_is_refused(value):
    with pytest.raises(ValueError, match=f"rate is {value}; it must be greater than 0"):
        require_positive(config(rate=value), "rate")


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_the_ends_of_a_range_are_within_it(value):
    require_within(config(tau=value), 0, 1, "tau")


@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9, math.nan, math.inf])
def test_what_is_outside_a_range_is_refused(value):
    with pytest.raises(ValueError, match=rf"tau is {value}; it must lie in \[0, 1\]"):
        require_within(config(tau=value), 0, 1, "tau")
    with pytest.raises(ValueError, match=rf"tau is {value - 2}; it must lie in \[-2, -1.5\]"):
        require_within(config(tau=value - 2), -2, -1.5, "tau")


def test_a_range_without_an_end():
    require_within(config(weight=1e300), 0, math.inf, "weight")
    for value in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"weight is {value}; it must be 0 or greater"):
            require_within(config(weight=value), 0, math.inf, "weight")


@pytest.mark.parametrize("value", [1, 10**9, (1,), (256, 256)])
def test_counts_and_widths_from_1_up_are_whole(value):
    require_whole(config(size=value), "size")


@pytest.mark.parametrize("value", [0, -3, (), (64, 0), (-1, 64)])
def test_counts_and_widths_below_1_are_refused(value):
    with pytest.raises(ValueError) as caught:
        require_whole(config(size=value), "size")
    assert str(caught.value) == f"size is {value}; it must be 1 or more"


@pytest.mark.parametrize("steps", [0, 50, 1000])
def test_multiples(steps):
    require_multiple(config(each=50, steps=steps), "each", "steps")


@pytest.mark.parametrize(("steps", "near"), [(51, 50), (80, 100), (20, 50), (1, 50), (1024, 1000)])
def test_what_is_no_multiple_is_refused_with_the_nearest_that_is(steps, near):
    message = f"steps is {steps}, no multiple of each 50; use {near}$"
    with pytest.raises(ValueError, match=message):
        require_multiple(config(each=50, steps=steps), "each", "steps")
    require_multiple(config(each=50, steps=near), "each", "steps")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda c: require_positive(c, "good", "bad"), "bad is -1; it must be greater than 0"),
        (lambda c: require_within(c, 0, 3, "good", "bad"), r"bad is -1; it must lie in \[0, 3\]"),
        (lambda c: require_whole(c, "good", "bad"), "bad is -1; it must be 1 or more"),
        (lambda c: require_multiple(c, "good", "good", "bad"), "bad is -1, no multiple of good 2"),
    ],
)
def test_every_name_is_checked(check, message):
    with pytest.raises(ValueError, match=message):
        check(config(good=2, bad=-1))


@pytest.mark.parametrize("box", [(-1.0, math.inf), (-math.inf, 1.0), (-3e38, 3e38)])
def test_a_box_without_ends_is_refused(box):
    low, high = np.float32([-1.0, box[0]]), np.float32([1.0, box[1]])  # 6e38 is no float32
    with pytest.raises(ValueError, match=r"^action 1 lies in \[.*\], .* to the box: use another$"):
        require_bounded(low, high, "use another")
    require_bounded([-1.0, 0.0], [1.0, 5.0], "use another")


def test_between_two_ends_neither_of_which_is_allowed():
    require_between(config(tau=0.5), 0, 1, "tau")
    for value in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"tau is {value}; it must lie between 0 and 1"):
            require_between(config(tau=value), 0, 1, "tau")


def test_a_choice_is_one_of_the_known_words():
    require_choice(config(kind="clip"), "kind", {"clip": 1, "kl": 2})
    with pytest.raises(ValueError, match="kind 'clap' is unknown; use one of: clip, kl"):
        require_choice(config(kind="clap"), "kind", {"clip": 1, "kl": 2})


def rollouts(**changes) -> SimpleNamespace:
    """Three environments of four steps: 12 transitions."""
    values = {"num_envs": 3, "num_steps": 4, "hidden": (8,), "discount": 0.9, "gae_lambda": 1.0}
    return config(**values | {"activation": "relu", "env_steps": 12, "parts": 3} | changes)


def test_what_collects_rollouts():
    require_on_policy(rollouts(), "parts")
    require_on_policy(rollouts(hidden=()), "parts")
    require_on_policy(rollouts(parts=12), "parts", least=1)
    for changes, message in (
        ({"num_envs": 0}, "num_envs is 0; it must be 1 or more"),
        ({"hidden": (8, 0)}, r"hidden is \(8, 0\); it must be 1 or more"),
        ({"activation": "gelu"}, "activation 'gelu' is unknown; use one of: tanh, relu"),
        ({"gae_lambda": 2}, "gae_lambda is 2; it must lie in"),
        ({"env_steps": 11}, "env_steps 11 is less than one rollout; use 12"),
        ({"num_envs": 1, "num_steps": 1}, "num_steps 1 makes a rollout of 1; use 2"),
        # 12 = 6 x 2 = 4 x 3 = 3 x 4 = ...: into 5 parts not at all, into 12 only singly
        ({"parts": 5}, "parts 5 splits 12 transitions badly; use 6"),
        ({"parts": 12}, "parts 12 splits 12 transitions badly; use 6"),
    ):
        with pytest.raises(ValueError, match=message):
            require_on_policy(rollouts(**changes), "parts")


def test_what_learns_from_data():
    values = {"batch_size": 8, "gradient_steps": 20, "steps_per_iteration": 10, "hidden": (4,)}
    require_offline(config(**values, other=0), "other")
    for changes, message in (
        ({"batch_size": 0}, "batch_size is 0; it must be 1 or more"),
        (
            {"gradient_steps": 25},
            "gradient_steps is 25, no multiple of steps_per_iteration 10; use 20",
        ),
        ({"other": 5}, "other is 5, no multiple of steps_per_iteration 10; use 10"),
        ({"other": -10}, "other is -10; it must be 0 or greater"),
    ):
        with pytest.raises(ValueError, match=message):
            require_offline(config(**values | {"other": 0} | changes), "other")
