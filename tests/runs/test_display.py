"""What a run prints of itself, on terminals of any width and where there is none."""

import io
import math
import re
from functools import partial

import pytest
from rich.console import Console

from rlsuite.runs import display
from rlsuite.runs.display import Display, spread


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
        plain = Display("ppo Hopper-v4 x2", total, 0)
        for _ in range(total):
            plain.update([10.0, 20.0], 1234.5, {"physics": 3.0, "learning": 1.0})
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 20
        assert lines[-1] == (
            "ppo Hopper-v4 x2 100% 0:00:00 left | return 15.0 ± 7.1 | 1,234 steps/s | "
            "physics 75% learning 25%"
        )


class Terminal(io.StringIO):
    """What a terminal shows."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def live(monkeypatch):
    """A function from a number of columns and a title to a display and what it wrote there.

    40 of 100 iterations are done, 30 of them in the last minute.
    """
    now = [0.0]
    monkeypatch.setattr(display, "perf_counter", lambda: now[0])
    opened = []

    def start(columns, title="ppo Hopper-v4 x5"):
        file = Terminal()
        kind = partial(Console, file=file, width=columns, force_terminal=True, color_system=None)
        monkeypatch.setattr(display, "Console", lambda stderr: kind())
        now[0] = 0.0
        opened.append(Display(title, 100, 10))
        opened[-1].at, now[0] = 39, 60.0
        seconds = {"physics": 45.0, "inference": 20.0, "learning": 30.0, "evaluation": 5.0}
        opened[-1].update([2222.2, 2469.0], 12_345.6, seconds)
        opened[-1].bar.refresh()
        return opened[-1], file

    yield start
    for each in opened:
        each.close()


def shown(file) -> str:
    """The last line on the terminal, without what moves its cursor."""
    return re.split(r"\r|\n|\x1b\[[\d;?]*[A-Za-z]", file.getvalue().rstrip())[-1]


# mean (2222.2 + 2469) / 2 = 2345.6; both 123.4 away, 123.4 sqrt 2 = 174.5. 30 iterations a minute:
# the 60 that are left take two.
LEFT, RETURN, SPEED = "40% 0:02:00 left", "return 2,345.6 ± 174.5", "12,346 steps/s"
SHARES = "physics 45% inference 20% learning 30% evaluation 5%"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (60, f"ppo Hopper-v4 x5  {LEFT} | {RETURN}"),
        (80, f"ppo Hopper-v4 x5  {LEFT} | {RETURN} | {SPEED}"),
        (100, f"ppo Hopper-v4 x5 ━━━━━━━━────────────  {LEFT} | {RETURN} | {SPEED}"),
        (140, f"ppo Hopper-v4 x5 ━━━─────  {LEFT} | {RETURN} | {SPEED} | {SHARES}"),
        (160, f"ppo Hopper-v4 x5 ━━━━━━━━────────────  {LEFT} | {RETURN} | {SPEED} | {SHARES}"),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_what_matters_least_goes_first_on_a_narrow_terminal(live, columns, expected):
    display_, file = live(columns)
    assert display_.line(columns) == expected
    assert shown(file) == expected


def test_progress_and_time_left_are_there_on_every_terminal(live):
    for title in ("ppo Hopper-v4 x5", "td3_bc my_own.tasks.of_mine:AVeryLongName-v0 x12 [bold]"):
        display_, _ = live(80, title)
        for columns in range(60, 250):
            line = display_.line(columns)
            assert len(line) <= columns and LEFT in line
            assert line.startswith(title[:20])
    _, file = live(60, title)
    assert LEFT in shown(file)


def test_before_the_first_iteration_the_time_is_unknown(live):
    display_, _ = live(80)
    display_.at, display_.parts = 10, ()
    assert display_.line(60) == "ppo Hopper-v4 x5 ━━──────────────────  10% -:--:-- left"
