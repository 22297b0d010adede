"""Reference returns of D4RL and the normalised score: 0 a random policy, 100 an expert.

The score is 100 (R - minimum) / (maximum - minimum), R the undiscounted return of an episode in the
task's own reward scale. It is not clipped. D4RL's own function returns the fraction, without 100.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlsuite.envs.variants import LIMIT, join, split

SOURCE = "d4rl/infos.py, Fu et al. 2020, arXiv 2004.07219"

# Longest name wins: `maze2d-umaze-dense-v1` is not `maze2d-umaze`. A level changes nothing.
D4RL: dict[str, tuple[float, float]] = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "maze2d-open": (0.01, 20.66),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-open-dense": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482),
    "maze2d-medium-dense": (44.264742, 297.4552547777125),
    "maze2d-large-dense": (30.569041, 303.4857382709002),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "door": (-56.512833, 2880.5693087298737),
    "relocate": (-6.425911, 4233.877797728884),
    "minigrid-fourrooms": (0.01442, 2.89685),
    "carla-lane": (-0.8503839912088142, 1023.5784385429523),
    "carla-town": (-114.81579500772153, 2440.1772022247314),
    "flow-ring": (-165.22, 24.42),
    "flow-merge": (118.67993, 330.03179),
    "bullet-halfcheetah": (-1275.766996, 2381.6725),
    "bullet-hopper": (20.058972, 1441.8059623430963),
    "bullet-walker2d": (16.523877, 1623.6476303317536),
    "bullet-ant": (373.705955, 2650.495),
}


class Family(NamedTuple):
    """A task of Gymnasium's with the observations, rewards and ends of D4RL's."""

    name: str  # D4RL's
    horizon: int  # steps of an episode of D4RL's, by which its references were measured
    registered: int  # steps of an episode of Gymnasium's, unless the task says another limit
    versions: tuple[str, ...]  # Gymnasium's, those that are the same task


# AntMaze and PointMaze are not here: Gymnasium-Robotics' pay on after the goal, so their returns
# mean something else. Nor is any -v5 of locomotion: rewards, ends or observations were changed.
_LOCOMOTION, _ADROIT = ("2", "3", "4"), ("0", "1")
FAMILIES = {
    "Hopper": Family("hopper", 1000, 1000, _LOCOMOTION),
    "HalfCheetah": Family("halfcheetah", 1000, 1000, _LOCOMOTION),
    "Walker2d": Family("walker2d", 1000, 1000, _LOCOMOTION),
    "Ant": Family("ant", 1000, 1000, _LOCOMOTION),
    "AdroitHandPen": Family("pen", 100, 200, _ADROIT),
    "AdroitHandHammer": Family("hammer", 200, 200, _ADROIT),
    "AdroitHandDoor": Family("door", 200, 200, _ADROIT),
    "AdroitHandRelocate": Family("relocate", 200, 200, _ADROIT),
}
LOCOMOTION = ("Hopper", "HalfCheetah", "Walker2d", "Ant")  # which D4RL has as -v2


@dataclass(frozen=True)
class Reference:
    """Returns that score 0 and 100, and `text`: whose they are and how far they fit this task.

    Minari's mujoco/* sets have none of their own: the text says that D4RL's stand in for them.
    """

    minimum: float
    maximum: float
    text: str

    def score(self, returns: np.ndarray | float) -> np.ndarray:
        """Returns of episodes, any shape, in percent of the way from minimum to maximum."""
        above = np.asarray(returns, np.float64) - self.minimum
        return 100 * above / (self.maximum - self.minimum)


def reference(task: str) -> Reference | None:
    """References of a Gymnasium task (`Hopper-v4`) or a D4RL name (`hopper-medium-v2`); or None.

    They hold for one version, one horizon and the registered settings of a task.
    """
    name, family, unlike = _looked_up(task)
    if unlike:
        return None
    if family is not None:
        fit = ", made on -v2: on -v4 scores may differ by a few points"
        fit = fit if family.versions == _LOCOMOTION else f", for {family.horizon} steps"
        return Reference(*D4RL[family.name], f"D4RL's {family.name}{fit} ({SOURCE})")
    own = max((key for key in D4RL if re.match(rf"{key}(-|$)", name)), key=len, default=None)
    return None if own is None else Reference(*D4RL[own], f"D4RL's {own} ({SOURCE})")


def normalized(task: str, returns: np.ndarray | float) -> np.ndarray | None:
    """Normalised scores in percent of undiscounted `returns`; None where D4RL has no references."""
    found = reference(task)
    return None if found is None else found.score(returns)


def why_none(task: str) -> str:
    """Why a task has no references, in words that follow "none: "."""
    return _looked_up(task)[2] or "D4RL has no reference returns for this task"


def _looked_up(task: str) -> tuple[str, Family | None, str]:
    """The task's plain name, its family if D4RL has that, and what makes it unlike D4RL's task."""
    try:
        whole, settings = split(task)
    except ValueError:  # the name of a file, with a comma
        whole, settings = task, {}
    name = whole.rpartition(":")[2]  # `gymnasium_robotics:AdroitHandPen-v1`
    word, _, version = name.partition("-v")
    family = FAMILIES.get(word)
    if family is None:
        own = "its settings are not those of D4RL's tasks" if settings else ""
        return name, None, own
    steps = settings.pop(LIMIT, family.registered)
    if version not in family.versions:
        return name, family, f"D4RL's references are not of version {version} of this task"
    if settings:
        return name, family, f"D4RL's references are not of this task with {join('', settings)[1:]}"
    if steps != family.horizon:
        return (
            name,
            family,
            (
                f"D4RL's references are for episodes of {family.horizon} steps, and this task has "
                f"{steps}; type {whole},{LIMIT}={family.horizon}"
            ),
        )
    return name, family, ""
