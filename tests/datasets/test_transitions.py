"""The record of transitions: episodes, statistics, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from samples import LAST, ROWS, discrete, episodes, transitions

from rlsuite import envs
from rlsuite.datasets.transitions import DatasetError, Transitions, check, check_task


def changed(name: str, row, value) -> Transitions:
    data = transitions()
    getattr(data, name)[row] = value
    return data


def with_actions(action, **about) -> Transitions:
    return replace(transitions(**about), action=np.asarray(action))


def test_episodes():
    data = transitions()
    assert (len(data), data.obs_size, data.discrete) == (ROWS, 3, False)
    assert data.bounds().tolist() == [[0, 4], [4, 6], [6, 10], [10, 13]]
    assert [end - 1 for _, end in data.bounds().tolist()] == LAST
    # 0 + 1 + 2 + 3, 10 + 11, 20 + 21 + 22 + 23, 30 + 31 + 32
    assert data.episode_returns().tolist() == [6, 21, 86, 93]


def test_the_box_of_actions():
    assert transitions().action_bounds() == ([-2.0], [2.0])
    with pytest.raises(DatasetError, match="sample has discrete actions"):
        with_actions(np.arange(ROWS)).action_bounds()


def test_returns_are_summed_in_float64():
    # In float32 2^24 + 1 is 2^24 again, and the sum would stay there
    data = replace(transitions(), reward=np.array([2.0**24, *[1] * 12], np.float32))
    assert data.episode_returns().tolist() == [2**24 + 3, 2, 4, 3]


def test_statistics_of_observations():
    mean, std = transitions().obs_statistics()
    # First component: (0+1+2+3) + (100+101) + (200+201+202+203) + (300+301+302) = 1916, over 13
    assert mean == pytest.approx([1916 / 13, 1916 / 13 + 0.25, 1916 / 13 + 0.5])
    # Squares: 14 + 20,201 + 162,414 + 271,805 = 454,434; a shift leaves the spread as it is
    assert std == pytest.approx(np.full(3, (454_434 / 13 - (1916 / 13) ** 2) ** 0.5))
    # Invariant 3: normalised with eps = 0.001, mean 0 and standard deviation std / (std + eps)
    normalised = (transitions().obs - mean) / (std + 1e-3)
    assert normalised.mean(0) == pytest.approx(np.zeros(3), abs=1e-9)
    assert normalised.std(0) == pytest.approx(std / (std + 1e-3))


def test_sound_data_is_returned_itself():
    for data in (transitions(), with_actions(np.arange(ROWS))):
        assert check(data) is data


@pytest.mark.parametrize("field", ["obs", "action", "reward", "next_obs"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(field, value):
    row = 11 if field == "reward" else (11, 0)
    with pytest.raises(DatasetError, match=f"{field} of row 11, in episode 3, is .*{value}"):
        check(changed(field, row, value))


def test_actions_outside_the_box():
    with pytest.raises(DatasetError, match=r"action of row 2 is \[2\.5\], outside \[-2, 2\].*--cl"):
        check(changed("action", 2, 2.5))
    with pytest.raises(DatasetError, match="action of row 12"):
        check(changed("action", 12, -2.0001))
    check(changed("action", 2, 2.000005))  # float32 rounding is let through


def test_arrays_that_do_not_fit():
    data = transitions()
    with pytest.raises(DatasetError, match="sample holds no transition"):
        check(Transitions(*[np.empty((0, 3))] * 7, metadata=data.metadata))
    with pytest.raises(DatasetError, match="truncated has 12 rows and reward has 13"):
        check(replace(data, truncated=data.truncated[:-1]))
    with pytest.raises(DatasetError, match=r"obs and next_obs are \[13, 3\] and \[13, 2\]"):
        check(replace(data, next_obs=data.next_obs[:, :2]))
    with pytest.raises(DatasetError, match="the last row does not end an episode"):
        check(changed("last", 12, False))


def test_spaces_of_the_task():
    pendulum, cartpole = (envs.make(task, [0], 1) for task in ("Pendulum-v1", "CartPole-v1"))
    data = transitions()
    check_task(data, pendulum)
    with pytest.raises(
        DatasetError, match=r"sample has 3 observations, CartPole-v1 has 4; .*--env"
    ):
        check_task(data, cartpole)
    with pytest.raises(DatasetError, match="sample has discrete actions, Pendulum-v1 has contin"):
        check_task(with_actions(np.arange(ROWS)), pendulum)
    with pytest.raises(DatasetError, match="sample has 2 action dimensions, Pendulum-v1 has 1"):
        check_task(with_actions(np.zeros((ROWS, 2))), pendulum)
    with pytest.raises(DatasetError, match=r"actions in \[-1, 1\], Pendulum-v1 in \[-2, 2\]"):
        check_task(transitions(action_low=[-1.0], action_high=[1.0]), pendulum)


def test_discrete_actions_of_the_task():
    cartpole = envs.make("CartPole-v1", [0], 1)
    parts, _ = discrete(episodes())
    data = with_actions(np.concatenate([part.action for part in parts]))
    data = replace(data, obs=np.zeros((ROWS, 4)), next_obs=np.zeros((ROWS, 4)))
    check_task(data, cartpole)
    with pytest.raises(DatasetError, match="sample has action 2, CartPole-v1 has 0 to 1"):
        check_task(replace(data, action=data.action + 1), cartpole)
