"""How a run is going: on a terminal a live line with a bar, elsewhere a line now and then."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from rlsuite.envs import Constraint
from rlsuite.runs.evaluation import Evaluation, held

PLAIN_LINES = 20  # how many lines a run prints where there is no terminal
BAR = (5, 20)  # characters, at least and at most
SEPARATOR = " | "


class Display:
    """Shows progress, time left, return over seeds, speed, and where the time goes."""

    def __init__(self, title: str, total: int, at: int) -> None:
        self.console = Console(stderr=True)
        self.title, self.total, self.at = title, total, at
        self.first, self.started = at, perf_counter()
        self.parts: tuple[str, ...] = ()
        self.live = self.console.is_terminal
        if self.live:
            self.bar = Progress(_Line(self), console=self.console)
            self.row = self.bar.add_task("", total=total, completed=at)
            self.bar.start()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, returns: list[float], speed: float, seconds: Mapping[str, float]) -> None:
        """`returns` of the seeds that have any; `speed` in environment steps/s of all seeds."""
        self.at += 1
        whole = sum(seconds.values()) or 1.0
        share = " ".join(f"{name} {100 * value / whole:.0f}%" for name, value in seconds.items())
        self.parts = (f"return {spread(returns)}", f"{speed:,.0f} steps/s", share)
        if self.live:
            self.bar.update(self.row, completed=self.at)
        elif (self.at * PLAIN_LINES) // self.total > ((self.at - 1) * PLAIN_LINES) // self.total:
            self.say(f"{self.title} {self._progress()}{SEPARATOR}{SEPARATOR.join(self.parts)}")

    def line(self, width: int) -> str:
        """The live line in `width` columns: the parts that matter least go first, then the bar.

        Progress and time left always stay; a name too long for the rest is cut.
        """
        progress, title = self._progress(), self.title
        room = width - len(progress) - 1
        title = title if len(title) <= room else title[: max(0, room - 1)] + "…"
        free = room - len(title)
        kept = []
        for part in self.parts:
            if len(part) + len(SEPARATOR) > free - (BAR[0] + 1) * (len(kept) == 2):
                break
            free -= len(part) + len(SEPARATOR)
            kept.append(part)
        size = min(free - 1, BAR[1])
        if size >= BAR[0]:
            done = size * self.at // max(self.total, 1)
            progress = f"{'━' * done}{'─' * (size - done)} {progress}"
        return SEPARATOR.join([f"{title} {progress}", *kept])

    def close(self) -> None:
        if self.live:
            self.bar.stop()

    def _progress(self) -> str:
        """` 40% 0:12:34 left`: of the iterations, and of the time at the mean rate until now."""
        done, left = self.at - self.first, self.total - self.at
        rest = "-:--:--"
        if done or not left:
            rest = str(
                timedelta(seconds=round((perf_counter() - self.started) / max(done, 1) * left))
            )
        return f"{100 * self.at // max(self.total, 1):3d}% {rest} left"


class _Line(ProgressColumn):
    """All of the live line: columns of its own would be cut where they do not fit."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self.display = display

    def render(self, task: Task) -> Text:
        return Text(self.display.line(self.display.console.width), no_wrap=True)


def spread(values: list[float]) -> str:
    """`mean ± standard deviation`, divided by n - 1 as in every table; a dash where there are none.

    One value has no spread.
    """
    if not values:
        return "-"
    mean = f"{np.mean(values):,.1f}"
    with np.errstate(invalid="ignore"):  # infinite returns have no spread, but are shown
        return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):,.1f}"


def cost_texts(result: Evaluation, constraints: Sequence[Constraint]) -> list[str]:
    """ "velocity: cost 24.0 ± 1.2, limit 25, 92% of episodes within it", for each constraint."""
    costs, texts = held(result.costs, result, constraints), []
    for index, each in enumerate(constraints):
        text = f"{each.name}: cost {spread(costs[..., index].mean(1).tolist())}"
        if each.limit is not None:
            within = (costs[..., index] <= each.limit).mean()
            text += f", limit {each.limit:g}, {within:.0%} of episodes within it"
        texts.append(text)
    return texts
