"""The best policy so far of each seed, kept beside the last one, in policy-best/.

The best is the one with the highest mean return of an evaluation; where there are limits, one
whose mean costs keep to them goes before one whose do not.
"""

import copy
from collections.abc import Sequence

import numpy as np

from rlsuite.envs import Constraint
from rlsuite.runs.evaluation import Evaluation, held

NAME = "best"


class Best:
    """For each seed a copy of the policy that did best, and when that was."""

    def __init__(self, policy, seeds: Sequence[int]) -> None:
        self.policy, self.seeds = copy.deepcopy(policy), seeds
        self.found: list[dict | None] = [None] * len(seeds)

    def take(
        self, policy, step: int, result: Evaluation, constraints: Sequence[Constraint]
    ) -> None:
        """Keep `policy`, evaluated at `step`, for the seeds that it is the best of so far."""
        returns, within = result.returns.mean(1), _within(result, constraints)
        state, kept = policy.state_dict(), self.policy.state_dict()
        for s, seed in enumerate(self.seeds):
            new = {"seed": seed, "step": step, "return": float(returns[s])}
            new |= {"within": bool(within[s])} if constraints else {}
            if not np.isfinite(returns[s]) or _rank(new) <= _rank(self.found[s]):
                continue
            self.found[s] = new
            for name, value in state.items():  # all of them lead with the seeds
                kept[name][s] = value[s]

    def state_dict(self) -> dict:
        """What a checkpoint holds of it: no later training changes it."""
        tensors = {name: value.clone() for name, value in self.policy.state_dict().items()}
        return {"policy": tensors, "found": list(self.found)}

    def load_state_dict(self, state: dict) -> None:
        self.policy.load_state_dict(state["policy"])
        self.found = state["found"]


def _rank(found: dict | None) -> tuple[bool, float]:
    return (False, -np.inf) if found is None else (found.get("within", True), found["return"])


def _within(result: Evaluation, constraints: Sequence[Constraint]) -> np.ndarray:
    """Whether the mean costs of each seed [S] keep to all limits."""
    limits = np.array([np.inf if each.limit is None else each.limit for each in constraints])
    return (held(result.costs, result, constraints).mean(1) <= limits).all(-1)
