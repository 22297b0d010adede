"""What a run prints about itself where there is no terminal."""

import math

from rlsuite.experiments.display import Display, spread


def test_spread_divides_by_one_less_than_the_number_and_needs_two_values():
    # mean (1 + 2 + 6) / 3 = 3; squares 4 + 1 + 9 = 14, over 3 - 1: 7; sqrt 7 = 2.646
    assert spread([1.0, 2.0, 6.0]) == "3.0 ± 2.6"
    assert spread([1234.56]) == "1,234.6"
    assert spread([]) == "-"


def test_a_diverged_return_does_not_stop_the_run():
    assert spread([math.nan, 1.0]).startswith("nan")
    assert spread([math.inf, 1.0]).startswith("inf")


def test_twenty_lines_whatever_the_number_of_iterations(capsys):
    for total in (20, 33, 1000):
        display = Display("ppo Hopper-v4 x2", total, 0)
        for _ in range(total):
            display.update([10.0, 20.0], 1234.5, {"physics": 3.0, "learning": 1.0})
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 20
        expected = (
            "ppo Hopper-v4 x2 100% return 15.0 ± 7.1 | 1,234 steps/s | physics 75% learning 25%"
        )
        assert lines[-1] == expected
