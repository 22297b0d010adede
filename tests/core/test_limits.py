"""Limits of constraints in the unit of a cost's value, and which of them are refused."""

from types import SimpleNamespace

import pytest

from rlsuite.core.limits import discounted_limits
from rlsuite.envs import Constraint, make


def pool(*constraints: Constraint, time_limit=1000) -> SimpleNamespace:
    return SimpleNamespace(task="Toll-v0", constraints=constraints, time_limit=time_limit)


@pytest.mark.parametrize(
    ("limit", "steps", "discount", "expected"),
    [
        # 25 * (1 - 0.99^1000) / 0.01 / 1000 = 25 * 99.9957 / 1000
        (25, 1000, 0.99, 2.499892),
        # 10 * (1 - 0.99^400) / 0.01 / 400 = 10 * 98.2050 / 400
        (10, 400, 0.99, 2.455124),
        (25, 1000, 1.0, 25),
    ],
)
def test_the_limit_of_an_episode_becomes_one_of_a_discounted_sum(
    limit, steps, discount, expected
) -> None:
    envs = pool(Constraint("cost", limit, "episode"), time_limit=steps)
    assert discounted_limits(envs, discount).tolist() == pytest.approx([expected])


def test_a_discounted_limit_is_taken_as_it_is() -> None:
    envs = make("HalfCheetahSpeed-v4", (0,), 1, "gymnasium")
    assert discounted_limits(envs, 0.99).tolist() == pytest.approx([151.989])


def test_a_limit_per_step_counts_for_as_many_steps_as_an_episode_may_have() -> None:
    envs = pool(Constraint("a", 0.1, "step"), Constraint("b", 6, "episode"), time_limit=3)
    # 1 + 0.5 + 0.25 = 1.75: 0.1 * 1.75, and 6 / 3 * 1.75
    assert discounted_limits(envs, 0.5).tolist() == pytest.approx([0.175, 3.5])
    envs = pool(Constraint("a", 0.1, "step"), time_limit=None)
    assert discounted_limits(envs, 0.5).tolist() == pytest.approx([0.2])


@pytest.mark.parametrize(
    ("kind", "discount", "words"),
    [
        ("episode", 0.99, "has no time limit, and so the limit of 'a' on an episode's sum"),
        ("step", 1.0, "has no time limit: use a discount below 1"),
    ],
)
def test_without_a_time_limit_some_limits_have_no_discounted_form(kind, discount, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        discounted_limits(pool(Constraint("a", 1, kind), time_limit=None), discount)
    assert "\n" not in str(refusal.value)


def test_what_no_multiplier_can_be_held_to_is_refused_here_too() -> None:
    with pytest.raises(ValueError, match="has no constraints"):
        discounted_limits(pool(), 0.99)
    with pytest.raises(ValueError, match="has no limit"):
        discounted_limits(pool(Constraint("a", None, "discounted")), 0.99)
