"""Normalised scores: the invariants, and D4RL's table by value."""

import numpy as np
import pytest

from rlsuite.datasets.scores import D4RL, normalized, reference, why_none

# (task, return, score) as the fact sheet computes them, to four digits
TABLE = [
    # hopper: 100 (0 + 20.272305) / 3254.572305 = 0.6229
    ("Hopper-v4", 0, 0.6229),
    ("Hopper-v4", 1000, 31.3489),
    ("Hopper-v4", 3000, 92.8009),
    ("Hopper-v4", 3234.3, 100),
    # 3254.572305 / 2 - 20.272305 = 1607.0138
    ("Hopper-v4", 1607.0138, 50),
    ("HalfCheetah-v4", 0, 2.2567),
    ("HalfCheetah-v4", 1000, 10.3114),
    ("HalfCheetah-v4", 5000, 42.5300),
    ("HalfCheetah-v4", 5927.4105, 50),
    ("Walker2d-v4", 0, -0.0355),
    ("Walker2d-v4", 1000, 21.7478),
    ("Walker2d-v4", 3000, 65.3144),
    ("Walker2d-v4", 2296.9645, 50),
]


@pytest.mark.parametrize(("task", "ret", "score"), TABLE)
def test_values(task: str, ret: float, score: float) -> None:
    assert normalized(task, ret) == pytest.approx(score, abs=5e-5)


@pytest.mark.parametrize("name", D4RL)
def test_minimum_is_0_maximum_is_100_and_the_map_is_affine(name: str) -> None:
    low, high = D4RL[name]
    assert low < high
    returns = low + (high - low) * np.array([0.0, 1.0, 0.5, -0.25, 1.5])
    scores = normalized(name, returns)
    np.testing.assert_allclose(scores, [0, 100, 50, -25, 150], atol=1e-9)
    # Its inverse: R = minimum + score / 100 (maximum - minimum)
    np.testing.assert_allclose(low + scores / 100 * (high - low), returns, rtol=1e-12)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("hopper-medium-expert-v2", "hopper"),
        ("antmaze-large-diverse-v2", "antmaze"),
        ("ant-expert-v2", "ant"),
        ("maze2d-umaze-v1", "maze2d-umaze"),
        ("maze2d-umaze-dense-v1", "maze2d-umaze-dense"),
        ("bullet-hopper-medium-v0", "bullet-hopper"),
        ("pen-human-v1", "pen"),
        ("AdroitHandDoor-v1", "door"),
        ("gymnasium_robotics:AdroitHandRelocate-v1", "relocate"),
        ("AdroitHandPen-v1,max_episode_steps=100", "pen"),
        ("Hopper-v4,max_episode_steps=1000", "hopper"),
        ("halfcheetah", "halfcheetah"),
    ],
)
def test_which_references_a_name_gets(task: str, name: str) -> None:
    found = reference(task)
    assert (found.minimum, found.maximum) == D4RL[name]
    assert found.text.startswith(f"D4RL's {name}") and "d4rl/infos.py" in found.text


@pytest.mark.parametrize(
    "task", ["Pendulum-v1", "hopperish-v0", "AntMaze_UMaze-v4", "PointMaze_UMaze-v3", "maze2d-v1"]
)
def test_other_tasks_have_none(task: str) -> None:
    assert reference(task) is None and normalized(task, 1.0) is None


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("Ant-v5", "are not of version 5 of this task"),
        ("AdroitHandPen-v1", "of 100 steps, and this task has 200; type AdroitHandPen-v1,max_epis"),
        ("Hopper-v4,max_episode_steps=50", "of 1000 steps, and this task has 50"),
        ("gym:Hopper-v4,forward_reward_weight=2", "not of this task with forward_reward_weight=2"),
        ("Pendulum-v1", "D4RL has no reference returns for this task"),
    ],
)
def test_references_hold_for_one_version_horizon_and_setting(task: str, why: str) -> None:
    assert reference(task) is None and normalized(task, 1.0) is None
    assert why in why_none(task)


def test_the_text_says_where_d4rls_references_stand_in() -> None:
    assert "on -v4 scores may differ" in reference("Hopper-v4").text
    assert reference("Hopper-v4").text != reference("hopper-medium-v2").text
