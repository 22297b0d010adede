"""Logged transitions as flat arrays: what every offline algorithm reads, whatever their source."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

SLACK = 1e-5  # an action may leave its box by this much: float32 rounding of tanh and of scaling


class DatasetError(ValueError):
    """A data set cannot be used; the message says which value is wrong and what to type."""


@dataclass(frozen=True)
class Transitions:
    """N transitions in logged order, whole episodes one after the other. Arrays may be on disk.

    | field | shape, dtype | meaning |
    |---|---|---|
    | obs, next_obs | [N, O] float32 | next_obs is what the step led to, never a reset observation |
    | action | [N, A] float32, or [N] int64 | in the environment's units; integers are discrete |
    | reward | [N] float32 | as logged: raw |
    | terminated | [N] bool | the task ended the episode: bootstrap with zero |
    | truncated | [N] bool | a time limit cut the episode here: bootstrap from next_obs |
    | last | [N] bool | last stored row of its episode, whatever ended it |

    `metadata` describes the set in JSON's types: `name`, `format`, `path`, `sha256`, `task` (of
    Gymnasium, or None), `action_low` and `action_high` [A] (None where discrete), `timeouts`
    ("kept": rows cut by a time limit are here, with their true next observation; "dropped": they
    are not, because the file has no next observation for them), `source` (who made the data),
    `remarks` (what is unusual in the set or its use, a line each); `action_start` and
    `action_count`, the environment's first action and their number (None where continuous).
    """

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    last: np.ndarray
    metadata: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def obs_size(self) -> int:
        return self.obs.shape[1]

    @property
    def discrete(self) -> bool:
        return self.action.ndim == 1

    def action_bounds(self) -> tuple[list[float], list[float]]:
        """Lowest and highest action, [A] each. DatasetError where actions are discrete."""
        if self.discrete:
            name = self.metadata.get("name", "this data set")
            raise DatasetError(f"{name} has discrete actions; this algorithm needs continuous ones")
        return self.metadata["action_low"], self.metadata["action_high"]

    def bounds(self) -> np.ndarray:
        """[episodes, 2]: first row of each episode, and the row after its last."""
        ends = np.flatnonzero(self.last) + 1
        return np.stack([np.concatenate([[0], ends[:-1]]), ends], 1)

    def episode_returns(self) -> np.ndarray:
        """Undiscounted sum of the stored rewards of each episode, float64 [episodes]."""
        return np.add.reduceat(self.reward.astype(np.float64), self.bounds()[:, 0])

    def with_next_actions(self, say: Callable[[str], None]) -> tuple["Transitions", np.ndarray]:
        """(the set with actions [N, 2 A]: what was done, then what was done next; usable rows).

        A row that ends an episode without the task's own end has no next action, and is left out:
        `say` is told of their number. DatasetError for a set not in the order of its episodes.
        """
        name, count = self.metadata.get("name", "this data set"), len(self)
        follows = (self.next_obs[:-1] == self.obs[1:]).all(1)
        broken = np.flatnonzero(~(follows | self.last[:-1]))
        if len(broken) > 0.01 * count:
            raise DatasetError(
                f"{name}: row {broken[0] + 1} does not follow row {broken[0]}, and SARSA needs "
                "what was done next: name a set that is in the order of its episodes"
            )
        known = np.append(follows & ~self.last[:-1], False)
        kept = np.flatnonzero(known | self.terminated)
        if len(kept) < count:
            say(f"{count - len(kept):,} of {count:,} transitions have no next action: left out")
        if not len(kept):
            raise DatasetError(f"{name} has no transition with a next action, which SARSA needs")
        both = np.concatenate([self.action, np.roll(self.action, -1, 0)], 1)
        return replace(self, action=both), kept

    def reward_scale(self, span: float) -> float:
        """The factor of rewards that makes the episode returns span `span`."""
        returns = self.episode_returns()
        if returns.max() == returns.min():
            raise DatasetError(f"every episode returns {returns[0]:g}; add --no-scale-rewards")
        return float(span / (returns.max() - returns.min()))

    def obs_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [O] of `obs`, float64, over all rows."""
        return self.obs.mean(0, dtype=np.float64), self.obs.std(0, dtype=np.float64)


def check(data: Transitions) -> Transitions:
    """`data` itself, if its arrays fit one another and hold only what a task could have produced.

    Raises DatasetError that names the set, the field, the row and the value.
    """
    name, n = data.metadata.get("name", "this data set"), len(data)
    if n == 0:
        raise DatasetError(f"{name} holds no transition; collect or convert it again")
    for key in ("obs", "action", "next_obs", "terminated", "truncated", "last"):
        if len(getattr(data, key)) != n:
            rows = len(getattr(data, key))
            raise DatasetError(f"{name}: {key} has {rows} rows and reward has {n}; the file is bad")
    if data.obs.shape != data.next_obs.shape or data.obs.ndim != 2:
        shapes = f"{list(data.obs.shape)} and {list(data.next_obs.shape)}"
        raise DatasetError(f"{name}: obs and next_obs are {shapes}; both must be [N, O]")
    for key in ("obs", "action", "reward", "next_obs"):
        _require_finite(data, name, key)
    if not data.last[-1]:
        raise DatasetError(f"{name}: the last row does not end an episode; the file is bad")
    if not data.discrete:
        _require_inside(name, data)
    return data


def check_task(data: Transitions, envs) -> None:
    """Raise DatasetError unless `envs` (an `rlsuite.envs.Environments`) has the data's spaces."""
    name, task = data.metadata.get("name", "this data set"), envs.task
    if data.obs_size != envs.obs_size:
        raise DatasetError(
            f"{name} has {data.obs_size} observations, {task} has {envs.obs_size}; name its own "
            f"task: --env {data.metadata.get('task') or 'TASK'}"
        )
    if data.discrete != envs.discrete:
        kinds = {True: "discrete", False: "continuous"}
        raise DatasetError(
            f"{name} has {kinds[data.discrete]} actions, {task} has {kinds[envs.discrete]} ones"
        )
    if not data.discrete:
        if data.action.shape[1] != envs.action_size:
            sizes = f"{data.action.shape[1]} action dimensions, {task} has {envs.action_size}"
            raise DatasetError(f"{name} has {sizes}; name its own task with --env")
        low, high = data.metadata["action_low"], data.metadata["action_high"]
        if not (np.allclose(low, envs.action_low) and np.allclose(high, envs.action_high)):
            box = f"[{envs.action_low.min():g}, {envs.action_high.max():g}]"
            raise DatasetError(
                f"{name} has actions in [{min(low):g}, {max(high):g}], {task} in {box}; name its "
                "own task with --env"
            )
    elif int(data.action.max()) >= envs.action_size:
        raise DatasetError(
            f"{name} has action {int(data.action.max())}, {task} has 0 to {envs.action_size - 1}"
        )


def finite_rows(values: np.ndarray) -> np.ndarray:
    """Whether all numbers of a row are finite, [N] of [N, ...]."""
    return np.isfinite(values).reshape(len(values), math.prod(values.shape[1:])).all(1)


def skip_command(name: object) -> str:
    """What to type to be rid of damaged episodes."""
    return f"rlsuite data convert {name} --to NEW-v0 --skip-damaged"


def printable(text: str) -> str:
    """Words from a file, without what would steer a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def skipped(numbers: list[int], total: int) -> str:
    """The remark on episodes that were left out."""
    shown = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    return f"{len(numbers)} of {total} episodes are damaged and left out: {shown}"


def one_row_ends(data: Transitions) -> list[str]:
    """A remark on terminal rows that follow one another, as in files that mark a goal at each step.

    They are transitions like any other, but count as episodes of one row. Where every episode has
    one row, as in a bandit, that is what the task is.
    """
    again = np.flatnonzero(data.terminated[1:] & data.terminated[:-1]) + 1
    if len(again) == 0 or len(again) == len(data) - 1:
        return []
    return [
        f"{len(again):,} of {int(data.last.sum()):,} episodes have a single row, because terminal "
        f"rows follow one another, row {again[0]} first: their returns and lengths are not those "
        "of the task's episodes"
    ]


def _require_finite(data: Transitions, name: str, key: str) -> None:
    def number(row: int) -> int:
        return int(np.count_nonzero(data.last[:row]))

    values = getattr(data, key)
    for start in range(0, len(values), 1_000_000):  # in parts: a set may be larger than memory
        part = values[start : start + 1_000_000]
        bad = ~finite_rows(part)
        if bad.any():
            row = int(bad.argmax())
            raise DatasetError(
                f"{name}: {key} of row {start + row}, in episode {number(start + row)}, is "
                f"{part[row].tolist()}; to leave out such episodes, type: {skip_command(name)}"
            )


def _require_inside(name: str, data: Transitions) -> None:
    low, high = (np.asarray(data.metadata[key]) for key in ("action_low", "action_high"))
    for start in range(0, len(data), 1_000_000):
        part = data.action[start : start + 1_000_000]
        outside = ((part < low - SLACK) | (part > high + SLACK)).any(1)
        if outside.any():
            row = int(outside.argmax())
            raise DatasetError(
                f"{name}: action of row {start + row} is {part[row].tolist()}, outside "
                f"[{low.min():g}, {high.max():g}]; to cut such actions to the box, type: "
                f"rlsuite data convert {name} --to NEW_NAME --clip-actions"
            )
