"""Environments that break their contract: the message says which one, when, and in which line."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from rlsuite.envs import EnvironmentFault, make


class Faulty(gymnasium.Env):
    """Sound but for what `step_result` or `fault` of the test does, from the third step on."""

    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)
    fault = None
    first = (np.zeros(3, np.float32), {})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.first() if callable(self.first) else self.first

    def step(self, action):
        self.steps += 1
        if self.steps > 2 and callable(self.fault):
            return self.fault()
        return np.zeros(3, np.float32), 1.0, False, False, {}


def weigh():
    raise ValueError("negative mass\nin link 4")  # the user's own line


@pytest.fixture
def task():
    gymnasium.register("Faulty-v0", entry_point=lambda **given: Faulty(**given))
    yield "Faulty-v0"
    del gymnasium.registry["Faulty-v0"]


OBS = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((np.float32(7), 1.0, False, False, {}), r"an observation of shape \(\), but .* \(3,\)"),
        ((np.zeros(1), 1.0, False, False, {}), r"an observation of shape \(1,\), but .* \(3,\)"),
        ((np.zeros((3, 1)), 1.0, False, False, {}), r"an observation of shape \(3, 1\), but"),
        ((OBS, np.zeros(3), False, False, {}), r"a reward of shape \(3,\), not a single value"),
        (
            (OBS, 1.0, False, np.ones(2, bool), {}),
            r"a truncated of shape \(2,\), not a single",
        ),
        ((OBS, 1.0, 0.5, False, False, {}), "6 values, not 5 values: observation, reward, te"),
        ((OBS, 1.0, False, {}), "4 values, not 5 values: observation"),
        (None, "returned one NoneType, not 5 values: observation"),
        (7, "returned one int, not 5 values"),
        ((OBS, 1.0, False, False, None), "that cannot be used: TypeError"),
        ((OBS, "much", False, False, {}), "that cannot be used: ValueError"),
    ],
)
def test_what_step_must_not_return(task, result, message):
    environments = make(task, [4, 5], 2)
    environments.reset(np.zeros((2, 2), int))
    environments._physics._envs[3].fault = lambda: result
    action = np.zeros((2, 2, 1), np.float32)
    for _ in range(2):
        environments.step(action)
    place = "for seed 5, copy 1, in step 3 of its episode, after 3 steps since the last reset$"
    with pytest.raises(EnvironmentFault, match=rf"^Faulty-v0: step .*{message}.* {place}"):
        environments.step(action)


def test_the_users_own_error_comes_with_its_line(task):
    environments = make(task, [4], 1)
    environments.reset(np.array([[0]]))
    environments._physics._envs[0].fault = weigh
    for _ in range(2):
        environments.step(np.zeros((1, 1, 1), np.float32))
    with pytest.raises(EnvironmentFault) as caught:
        environments.step(np.zeros((1, 1, 1), np.float32))
    line = weigh.__code__.co_firstlineno + 1
    assert str(caught.value) == (
        "Faulty-v0: step failed: ValueError: negative mass in link 4 "
        f'(at {__file__}:{line}: raise ValueError("negative mass\\nin link 4")  # the user\'s own '
        "line) for seed 4, copy 0, in step 3 of its episode, after 3 steps since the last reset"
    )
    assert caught.value.seeds == (4,)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_library_called_by_the_user_is_not_the_line_to_mend(task):
    environments = make(task, [4], 1)
    environments.reset(np.array([[0]]))
    environments._physics._envs[0].fault = lambda: np.linalg.inv(np.zeros((2, 2)))
    environments._physics._envs[0].steps = 5
    with pytest.raises(EnvironmentFault, match=r"LinAlgError: .*_faults.*linalg\.inv"):
        environments.step(np.zeros((1, 1, 1), np.float32))


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (OBS, "reset returned one ndarray, not 2 values: observation, info"),
        ((np.zeros(2), {}), r"reset returned an observation of shape \(2,\), but"),
        (
            weigh,
            r"reset failed: ValueError: negative mass in link 4 \(at .*_faults\.py:",
        ),
    ],
)
def test_a_reset_that_fails_is_told_before_any_work(task, monkeypatch, first, message):
    monkeypatch.setattr(Faulty, "first", staticmethod(first) if callable(first) else first)
    with pytest.raises(ValueError, match=rf"^Faulty-v0: {message}"):
        make(task, [0], 1)


def test_a_reset_that_fails_later(task):
    environments = make(task, [8], 2)
    environments.reset(np.array([[0, 1]]))
    environments._physics._envs[1].fault = lambda: (OBS, 1.0, True, False, {})
    environments._physics._envs[1].first = weigh
    for _ in range(2):
        environments.step(np.zeros((1, 2, 1), np.float32))
    place = "for seed 8, copy 1, after 3 steps since the last reset"
    with pytest.raises(EnvironmentFault, match=rf"reset failed: ValueError: .* {place}"):
        environments.step(np.zeros((1, 2, 1), np.float32))


def test_a_constructor_that_fails():
    gymnasium.register("Unbuilt-v0", entry_point=lambda: weigh())
    with pytest.raises(ValueError, match=r"^Unbuilt-v0 cannot be created: ValueError: negative m"):
        make("Unbuilt-v0", [0], 1)
    del gymnasium.registry["Unbuilt-v0"]
