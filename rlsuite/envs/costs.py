"""Constraints as named vectors, and what transitions cost, whichever engine computes them.

A task has C constraints. Its functions of E transitions say what each of these costs:

| symbol | shape | meaning |
|---|---|---|
| obs, next_obs | [E, O] float64 | s_t and the true s_{t+1}, an episode's last included |
| action | [E, A], or [E] if discrete | as the environment gets it, within its bounds |
| reward | [E] | as the environment pays it |
| signals | {name: [E] float64} | the engine's info arrays that the task asks for |
| cost | [E, C] | 0 or 1 per constraint, or a dense cost |
| margin | [E, K] | signed, of K columns, some for each constraint: above zero is over the limit |

A task that has margins needs no costs: a constraint costs 1 where any of its columns is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlsuite.envs.faults import EnvironmentFault, explained

# What a limit is compared with: an episode's sum, its discounted sum, or the mean over its steps.
KINDS = ("episode", "discounted", "step")
GROUPS = ("soft", "hard", "style")

Signals = Mapping[str, NDArray[np.float64]]
# (obs, action, next_obs, reward, signals) -> cost or margin
Function = Callable[[NDArray, NDArray, NDArray, NDArray, Signals], NDArray]


class Constraint(NamedTuple):
    """One constraint of a task: `kind` of KINDS, `group` of GROUPS; None: no limit is known.

    `columns` of the task's margins are its own. `p_max`: the greatest probability with which it
    ends an episode (CaT).
    """

    name: str
    limit: float | None
    kind: str
    columns: int = 1
    group: str = "soft"
    p_max: float | None = None


# What an environment of the user's own reports as info["cost"]
REPORTED = Constraint("cost", None, "episode")


def reported(obs, action, next_obs, reward, signals: Signals) -> NDArray | None:
    """The cost [E, 1] that the environments report; None where none of them does."""
    return signals["cost"][:, None] if "cost" in signals else None


# ------------------------------------------------------------------------------- locomotion

# Metres per second: half the speed of a converged PPO. Safety-Gymnasium, Safety{Task}Velocity-v1
VELOCITY_THRESHOLDS = {
    "HalfCheetah": 3.2096,
    "Hopper": 0.7402,
    "Walker2d": 2.3415,
    "Ant": 2.6222,
    "Swimmer": 0.2282,
    "Humanoid": 1.4149,
}
VELOCITY_LIMIT = 25.0  # steps of an episode that may be faster. Safety-Gymnasium, OmniSafe
# Limits of the speed's sum, discounted by 0.99: half of PPO's. FOCOPS, environment.py
SPEED_LIMITS = {
    "HalfCheetah": 151.989,
    "Hopper": 82.748,
    "Walker2d": 81.886,
    "Ant": 103.115,
    "Swimmer": 24.516,
    "Humanoid": 20.140,
}
PLANAR = ("Ant", "Humanoid", "Swimmer")  # which move in the plane: they have a y_velocity


def velocity_margin(name: str) -> Function:
    """How much faster than its threshold `name` went, [E, 1].

    Ant and Humanoid in the plane, the others along x: backwards is never too fast.
    """
    threshold = VELOCITY_THRESHOLDS[name]
    if name in ("Ant", "Humanoid"):
        return lambda *transition: speed(*transition) - threshold
    return lambda obs, action, next_obs, reward, signals: signals["x_velocity"][:, None] - threshold


def speed(obs, action, next_obs, reward, signals: Signals) -> NDArray:
    """The dense cost of FOCOPS and CAL, [E, 1]: |x velocity|, or the speed in the plane."""
    x = signals["x_velocity"]
    y = signals.get("y_velocity")
    return (np.abs(x) if y is None else np.sqrt(x**2 + y**2))[:, None]


# ------------------------------------------------------------------------------- dm_control

# Limits half-way between the best policy's cost and the cheapest one's, means per step.
# Walker: from 1.2 m the reward pays in full for height; lying flat, without torque, it is at 0.09
HEIGHT_LIMIT = 0.65
# Reacher: an episode of PPO with a return of 981 costs 0.11 rad/s; standing still costs nothing
JOINT_SPEED_LIMIT = 0.06


def torso_height(obs, action, next_obs, reward, signals: Signals) -> NDArray:
    """The height of the walker's torso in metres, [E, 1]."""
    return next_obs[:, 14:15]


def joint_speed(obs, action, next_obs, reward, signals: Signals) -> NDArray:
    """The norm of the reacher's two joint velocities in radians per second, [E, 1]."""
    return np.linalg.norm(next_obs[:, 4:], axis=1, keepdims=True)


# ------------------------------------------------------------------------------- any task


def check(name: str, constraints: Sequence[Constraint]) -> None:
    """Raise ValueError, in a line that says what to write, for `constraints` that cannot be."""
    names = [constraint.name for constraint in constraints]
    for each in constraints:
        wrong = ""
        if not each.name.isidentifier() or names.count(each.name) > 1:
            wrong = "a name of its own, as a variable has: it becomes a column of results"
        elif each.limit is not None and not (math.isfinite(each.limit) and each.limit >= 0):
            wrong = f"a limit of 0 or more, got {each.limit}"
        elif each.kind not in KINDS:
            wrong = f"a kind, {', '.join(KINDS)}, got {each.kind!r}"
        elif each.columns < 1:
            wrong = f"at least 1 column, got {each.columns}"
        elif each.group not in GROUPS:
            wrong = f"a group, {', '.join(GROUPS)}, got {each.group!r}"
        elif each.p_max is not None and not 0 <= each.p_max <= 1:
            wrong = f"a probability p_max, got {each.p_max}"
        if wrong:
            raise ValueError(f"{name}: constraint {each.name!r} needs {wrong}")


class Costs:
    """What the transitions of `task` cost, from its functions, whose results are checked."""

    def __init__(
        self,
        task: str,
        constraints: Sequence[Constraint],
        cost: Function | None = None,
        margin: Function | None = None,
    ) -> None:
        self.constraints = tuple(constraints)
        self.known = cost is not reported  # or an environment tells by its first cost
        self.has_margin = margin is not None
        self._task, self._cost, self._margin = task, cost, margin
        columns = [constraint.columns for constraint in constraints]
        self._columns = sum(columns)
        self._starts = np.cumsum([0, *columns[:-1]])

    def of(self, *transition) -> tuple[NDArray | None, NDArray | None]:
        """(cost [E, C], margin [E, K]) of obs, action, next_obs, reward, signals; None: has none.

        Raises EnvironmentFault where a function raises or returns something else.
        """
        cost = margin = None
        if self._margin is not None:
            margin = self._result("margin", self._margin, transition, self._columns)
            # 1 where any column of the constraint is over
            cost = np.maximum.reduceat(margin, self._starts, axis=1) > 0
        if self._cost is not None:
            cost = self._result("cost", self._cost, transition, len(self.constraints))
        return cost, margin

    def _result(self, quantity: str, function: Function, transition, columns: int):
        try:
            result = function(*transition)
        except Exception as error:  # of the user's own function
            raise EnvironmentFault(
                f"{self._task}: its {quantity} function failed: {explained(error)}"
            ) from error
        if result is None and function is reported:
            return None
        shape = (len(transition[0]), columns)
        if np.shape(result) != shape:
            raise EnvironmentFault(
                f"{self._task}: its {quantity} function returned shape {np.shape(result)}, not "
                f"{shape}: a row for each transition, {columns} column{'s' * (columns > 1)}"
            )
        return np.asarray(result)
