"""How a run is going: on a terminal a live bar, elsewhere a line now and then."""

from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

PLAIN_LINES = 20  # how many lines a run prints where there is no terminal


class Display:
    """Shows progress, return over seeds, speed, and where the time goes."""

    def __init__(self, title: str, total: int, at: int) -> None:
        self.console = Console(stderr=True)
        self.title, self.total, self.at = title, total, at
        self.live = self.console.is_terminal
        if self.live:
            columns = (TextColumn("{task.description}"), BarColumn(20), TaskProgressColumn())
            self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console)
            self.row = self.bar.add_task(title, total=total, completed=at)
            self.bar.start()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, returns: list[float], speed: float, seconds: Mapping[str, float]) -> None:
        """`returns` of the seeds that have any; `speed` in environment steps/s of all seeds."""
        self.at += 1
        whole = sum(seconds.values()) or 1.0
        share = " ".join(f"{name} {100 * value / whole:.0f}%" for name, value in seconds.items())
        text = f"return {spread(returns)} | {speed:,.0f} steps/s | {share}"
        if self.live:
            self.bar.update(self.row, completed=self.at, description=f"{self.title} {text}")
        elif (self.at * PLAIN_LINES) // self.total > ((self.at - 1) * PLAIN_LINES) // self.total:
            self.say(f"{self.title} {100 * self.at // self.total:3d}% {text}")

    def close(self) -> None:
        if self.live:
            self.bar.stop()


def spread(values: list[float]) -> str:
    """`mean ± standard deviation`, divided by n - 1 as in every table; a dash where there are none.

    One value has no spread.
    """
    if not values:
        return "-"
    mean = f"{np.mean(values):,.1f}"
    with np.errstate(invalid="ignore"):  # infinite returns have no spread, but are shown
        return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):,.1f}"
