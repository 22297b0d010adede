"""Advantages against numbers worked out by hand."""

import numpy as np

from rlsuite.core.rollouts import gae


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, -1, 1)


def test_a_probability_of_ending_takes_its_share_of_the_future() -> None:
    # discount = lambda = 1/2; step 0 ends with probability 1/4, step 1 does not
    # t = 1: 1 + 1/2 * 4 * 1 - 2 = 1, A = 1
    # t = 0: 1 + 1/2 * 4 * 3/4 - 2 = 1/2, A = 1/2 + 1/4 * 3/4 * 1 = 11/16
    future = column(0.75, 1.0)
    advantage, target = gae(column(1, 1), column(2, 2), column(4, 4), future, future, 0.5, 0.5)
    np.testing.assert_array_equal(advantage, column(11 / 16, 1))
    np.testing.assert_array_equal(target, column(2 + 11 / 16, 3))


def test_certain_ends_are_those_of_flags() -> None:
    # A termination at t = 0: its advantage is 1 - 2 = -1, whatever follows; a time limit keeps the
    # bootstrap, 1 + 1/2 * 4 - 2 = 1, but nothing of step 1's advantage
    rest = (column(1, 1), column(2, 2), column(4, 4))
    fell, _ = gae(*rest, column(0, 1), column(0, 1), 0.5, 0.5)
    cut, _ = gae(*rest, column(1, 1), column(0, 1), 0.5, 0.5)
    np.testing.assert_array_equal(fell, column(-1, 1))
    np.testing.assert_array_equal(cut, column(1, 1))
