"""Settings of an environment in a task's name."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from rlsuite.envs import make
from rlsuite.envs.variants import changed, join, split
from rlsuite.runs.settings import task_family

WORD = "Pendulum-v1,g=1.6,max_episode_steps=12"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"g": 1.6, "max_episode_steps": 12},
        {"maze": [[1, "r", 0], [1, 1, None]], "text": "a=1, 'b': c", "on": True},
    ],
)
def test_there_and_back_again(settings) -> None:
    assert split(join("ns/Task-v0", settings)) == ("ns/Task-v0", settings)


def test_a_task_without_settings_is_its_name() -> None:
    assert split("module:Hopper-v4") == ("module:Hopper-v4", {})
    assert join("Hopper-v4", {}) == "Hopper-v4"
    assert task_family(WORD) == "Pendulum"


@pytest.mark.parametrize(
    "task",
    [
        *("X-v0,", "X-v0,g", "X-v0,1", "X-v0,a=b", "X-v0,a=1)(b=2", "X-v0,a=1,a=2", "X-v0,**{}"),
        *("X-v0,a=__import__('os')", "X-v0,a=" + "[" * 20_000),
    ],
)
def test_what_is_no_setting_is_refused(task) -> None:
    with pytest.raises(
        ValueError, match="settings after the first comma are not understood; write NAME=VALUE"
    ):
        split(task)


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "'9'", "True"])
def test_time_limits_that_are_none_are_refused(limit) -> None:
    with pytest.raises(ValueError, match="must be a whole number above 0"):
        make(f"Pendulum-v1,max_episode_steps={limit}", [0], 1)


def test_an_environment_is_made_with_its_settings() -> None:
    envs = make(WORD, [0], 1)
    # Hanging level at rest, without torque: the speed grows by 3 g / (2 l) sin(90°) dt = 0.12
    envs.reset(np.array([[0]]))
    envs._physics._envs[0].unwrapped.state = np.array([np.pi / 2, 0.0])
    step = envs.step(np.zeros((1, 1, 1), np.float32))
    assert step.final_obs[0, 0, 2] == pytest.approx(1.5 * 1.6 * 0.05)
    for _ in range(11):
        assert not step.truncated.any()
        step = envs.step(np.zeros((1, 1, 1), np.float32))
    assert step.truncated.all() and envs.episodes()[0].length == 12
    assert (envs.task, envs.engine, envs.time_limit) == (WORD, "gymnasium", 12)


def test_a_setting_that_the_task_has_not_is_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"^Pendulum-v1,gg=1 cannot be created.*unexpected keyword argument 'gg'"
    ):
        make("Pendulum-v1,gg=1", [0], 1)
    with pytest.raises(ValueError, match="EnvPool engine does not run"):
        make("Hopper-v4,forward_reward_weight=2.0", [0], 8, "envpool")


class Goal(gymnasium.Env):
    """A goal to reach, as Gymnasium-Robotics' mazes have it; actions -1, 0 and 1."""

    box = Box(-9, 9, (2,), np.float64)
    observation_space = Dict(observation=box, achieved_goal=box, desired_goal=box)
    action_space = Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        parts = {"observation": 1.0, "achieved_goal": 2.0, "desired_goal": 3.0}
        return {key: np.full(2, value) for key, value in parts.items()}, {}


@pytest.fixture
def goal():
    gymnasium.register("Goal-v0", lambda **_: Goal())
    yield "Goal-v0"
    del gymnasium.registry["Goal-v0"]


def test_dicts_of_boxes_are_one_box_in_the_order_of_their_keys(goal) -> None:
    envs = make(goal, [0], 1)
    # achieved_goal, desired_goal, observation
    assert envs.reset(np.array([[0]])).tolist() == [[[2, 2, 3, 3, 1, 1]]]
    assert (envs.obs_size, envs.first_action, envs.action_size) == (6, -1, 3)


def test_settings_that_are_typed_one_by_one_are_the_same_task():
    assert changed("Pendulum-v1", ["g=1.6"], 12) == WORD
    assert changed("Pendulum-v1,g=1.6", [], 12) == WORD
    assert changed("Maze-v0", ["kind=hard", "walls=[1, 2]"]) == "Maze-v0,kind='hard',walls=[1, 2]"


@pytest.mark.parametrize(
    ("task", "words", "limit", "message"),
    [
        ("A-v0", ["gravity"], None, "'gravity' is not NAME=VALUE"),
        ("A-v0", ["g="], None, "'g=' is not NAME=VALUE"),
        ("A-v0,g=2", ["g=1"], None, "g is given twice: 2 and 1"),
        ("A-v0", [], 0, "--time-limit is 0; it must be at least 1"),
        ("A-v0,max_episode_steps=3", [], 4, "max_episode_steps is given twice"),
    ],
)
def test_settings_that_cannot_be_typed_are_refused(task, words, limit, message):
    with pytest.raises(ValueError, match=message):
        changed(task, words, limit)
