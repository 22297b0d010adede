"""Where a run ends that is asked to, by SIGTERM or Ctrl-C: at its next checkpoint, if that is near.

Only there nothing is lost, and what follows stays as it is in an unbroken run. A run that learns
from data has no episode to cut, so each of its iterations will do. One with `--checkpoint-on-stop`
makes a checkpoint of its own, and config.json says that it is no longer equal to an unbroken one.
"""

import math
from collections import deque
from time import perf_counter

NEAR = 20.0  # seconds: batch systems kill from 30 seconds after SIGTERM on
LAPS = 20  # iterations whose mean duration counts


class Laps:
    """When the last iterations ended, with all that lay between them."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=LAPS)

    def end(self) -> None:
        """An iteration has ended."""
        self._ends.append(perf_counter())

    def seconds(self, iterations: int) -> float:
        """About how long so many more take, the one under way included; infinite if unknown."""
        if len(self._ends) < 2:
            return math.inf
        mean = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return max(0.0, iterations * mean - (perf_counter() - self._ends[-1]))


def announced(seconds: float) -> str:
    """What the user is told where a run goes on for so long."""
    return f"ending at the next checkpoint, in about {seconds:.0f} seconds; Ctrl-C ends at once"
