"""How many processor cores this process may use."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def usable() -> int:
    """Cores that the scheduler gives this process, and no more than its container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cores, quota())


def quota() -> int:
    """Whole cores that the container's quota allows, at least one; a great many without one.

    Control groups of version 2 keep it in cpu.max, "MICROSECONDS PERIOD" or "max PERIOD". It holds
    for all groups inside, so the least of a group and those above it counts.
    """
    try:
        lines = OWN.read_text().splitlines()
        own = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
    except (OSError, StopIteration):
        own = ""
    folder, least = CGROUPS / own, math.inf
    while folder.is_relative_to(CGROUPS):
        least = min(least, _limit(folder / "cpu.max"))
        folder = folder.parent
    return max(1, math.floor(min(least, 1e6)))


def _limit(file: Path) -> float:
    try:
        allowed, period = file.read_text().split()
        return math.inf if allowed == "max" else int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
