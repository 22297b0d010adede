"""What an environment shows and takes, as policy.json keeps it, so that a policy acts without one.

| symbol | shape | meaning |
|---|---|---|
| obs | [..., *shape], or a dict of such | as the environment shows it |
| flat | [N, O] float64 | the same as policies take it: parts of a dict in the order of their keys |
| applied | [N, A] float32, or [N] int64 | what a policy chose, within the bounds |
| action | [..., *shape] | what the environment takes; several choices at once are a vector |
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

MOST_COMBINATIONS = 4096  # of several choices at once: the policy has an output for each
GREATEST = 1e38  # bounds beyond are written as null: there are none

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Spaces:
    """Observations by parts (path of keys, shape), actions in a box or counted choices."""

    parts: tuple[tuple[tuple[str, ...], Shape], ...]  # a plain box is one part without a path
    shape: Shape  # of an action
    dtype: str
    low: tuple[float | None, ...] = ()  # of a box, flat; None: no bound
    high: tuple[float | None, ...] = ()
    choices: tuple[int, ...] = ()  # how many there are, for each of the action's dimensions
    start: tuple[int, ...] = ()  # the number of the first of them

    @classmethod
    def box(cls, parts, shape: Shape, low: np.ndarray, high: np.ndarray, dtype) -> "Spaces":
        """Of actions between `low` and `high`, flat arrays [A]."""
        low, high = (tuple(map(_bound, np.ravel(end).tolist())) for end in (low, high))
        return cls(parts, tuple(shape), np.dtype(dtype).name, low, high)

    @classmethod
    def counted(cls, parts, shape: Shape, choices, start, dtype) -> "Spaces":
        """Of one choice or, where `shape` is (K,), of K at once. ValueError where they are many."""
        choices, start = (tuple(np.ravel(x).tolist()) for x in (choices, start))
        if len(choices) > 1 and math.prod(choices) > MOST_COMBINATIONS:
            raise ValueError(
                f"{' x '.join(map(str, choices))} choices at once are {math.prod(choices):,} "
                f"combinations; at most {MOST_COMBINATIONS:,} are supported"
            )
        return cls(parts, tuple(shape), np.dtype(dtype).name, (), (), choices, start)

    @classmethod
    def of_vectors(cls, physics) -> "Spaces":
        """Of an engine whose observations and actions are vectors."""
        parts = (((), (physics.obs_size,)),)
        if physics.discrete:
            return cls.counted(parts, (), physics.action_size, physics.first_action, np.int64)
        given = physics.action_low, physics.action_high, physics.action_dtype
        return cls.box(parts, (physics.action_size,), *given)

    @classmethod
    def from_json(cls, found: object) -> "Spaces":
        """Of what `to_json` made. ValueError for anything else."""
        try:
            parts = tuple((tuple(path), tuple(shape)) for path, shape in found["parts"])
            rest = {name: tuple(found[name]) for name in ("low", "high", "choices", "start")}
            spaces = cls(parts, tuple(found["shape"]), found["dtype"], **rest)
            sizes = [n for _, shape in parts for n in shape]
            sizes += [*spaces.shape, *spaces.choices, *spaces.start]
            words = [word for path, _ in parts for word in path]
            sound = set(found) == set(cls.__dataclass_fields__) and len(parts) > 0
            sound &= all(type(n) is int and abs(n) < 2**31 for n in sizes)
            sound &= all(isinstance(word, str) for word in words)
            sound &= np.dtype(spaces.dtype).kind in "fiu" and bool(spaces._fit())
        except (TypeError, KeyError, ValueError, AttributeError):
            sound = False
        if not sound:
            raise ValueError(f"spaces are {str(found)[:80]}, which no environment has")
        return spaces

    def _fit(self) -> bool:
        size = math.prod(self.shape)
        if self.choices:
            counts = len(self.choices) == len(self.start) == size and not self.low + self.high
            return counts and min(self.choices) > 0 and math.prod(self.choices) < 2**31
        ends = (end for end in self.low + self.high if end is not None)
        return len(self.low) == len(self.high) == size and all(map(math.isfinite, ends))

    def to_json(self) -> dict:
        return asdict(self)

    @property
    def obs_size(self) -> int:
        return sum(math.prod(shape) for _, shape in self.parts)

    @property
    def action_size(self) -> int:
        """Outputs of a policy: numbers of a box, or combinations of choices."""
        return math.prod(self.choices) if self.choices else len(self.low)

    @property
    def names(self) -> list[str]:
        """Of the parts of the observation: "achieved_goal", or "sensors.left"; a box has none."""
        return [".".join(path) for path, _ in self.parts if path]

    def bounds(self) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """Of a box, float32 [A] each; (None, None) of choices."""
        if self.choices:
            return None, None
        ends = zip(self.low, self.high, strict=True)
        low, high = zip(*((-np.inf if a is None else a, np.inf if b is None else b)
                          for a, b in ends), strict=True)  # fmt: skip
        return np.array(low, np.float32), np.array(high, np.float32)

    def flat(self, obs) -> tuple[np.ndarray, bool]:
        """(flat [N, O], whether `obs` is a batch) of one observation or of N.

        Flat ones, [O] and [N, O], are taken, too. ValueError for another shape or another key.
        """
        if isinstance(obs, Mapping):
            found = [_array(_at(obs, path), shape) for path, shape in self.parts]
        else:
            whole = self.parts[0][1] if not self.names else (self.obs_size,)
            found = [_array(obs, whole, (self.obs_size,))]
        if len({(len(rows), batch) for rows, batch in found}) > 1:
            raise ValueError("the parts of the observation are not equally many")
        return np.concatenate([rows for rows, _ in found], 1), found[0][1]

    def action(self, applied: np.ndarray) -> np.ndarray:
        """What the environment takes, [N, *shape], for what a policy chose in N of them."""
        if not self.choices:
            return applied.reshape(-1, *self.shape).astype(self.dtype, copy=False)
        several = np.stack(np.unravel_index(applied.reshape(-1), self.choices), -1)
        return (several + self.start).reshape(-1, *self.shape).astype(self.dtype, copy=False)


def _bound(number: float) -> float | None:
    return number if abs(number) < GREATEST else None


def _at(obs: Mapping, path: tuple[str, ...]):
    for depth, key in enumerate(path):
        if not isinstance(obs, Mapping) or key not in obs:
            raise ValueError(f"the observation has no {'.'.join(path[: depth + 1])!r}")
        obs = obs[key]
    return obs


def _array(values, *shapes: Shape) -> tuple[np.ndarray, bool]:
    """(rows [N, size], whether it is a batch) of `values` of one of `shapes`, or of N such."""
    array = np.asarray(values, np.float64)
    for shape in shapes:
        for batch in (False, True):
            if array.shape[int(batch) :] == shape and array.ndim == len(shape) + batch:
                return array.reshape(len(array) if batch else 1, math.prod(shape)), batch
    wanted = " or ".join(f"{list(shape)}" for shape in dict.fromkeys(shapes))
    raise ValueError(f"an observation has shape {wanted}, or N in front; got {list(array.shape)}")
