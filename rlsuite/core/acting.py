"""Policies as your own programs use them: an observation in, what the environment takes out."""

from collections.abc import Mapping, Sequence

import numpy as np

from rlsuite.core.saving import select_seed
from rlsuite.core.spaces import Spaces


class Policy:
    """The policy of one seed of a run, which `rlsuite.load_policy` gives.

    | given or returned | shape | meaning |
    |---|---|---|
    | obs | [*obs_shape], or [N, *obs_shape] | one observation, or those of N environments |
    | | {key: [*shape] or [N, *shape]} | the same of an environment with Dict observations |
    | action | [*action_shape], or [N, *action_shape] | what `env.step` takes, in its dtype |
    | ended | [N] bool | which of the N environments have begun a new episode |

    Raw observations: the normaliser is part of the policy. Actions lie within the environment's
    bounds; of Discrete and MultiDiscrete spaces they are counted as the space counts.

        policy = rlsuite.load_policy("runs/hopper")
        obs, _ = env.reset()
        obs, reward, terminated, truncated, _ = env.step(policy.act(obs))
        if terminated or truncated:
            obs, _ = env.reset()
            policy.reset()

    A policy that acts in chunks has a queue for each environment, so it is told which episodes end;
    `reset` does nothing to the others. What is drawn depends on `reset(seed=...)` alone.
    """

    def __init__(self, policy, about: Mapping, spaces: Spaces, seed: int) -> None:
        """`about` is the saved description, `seed` one of those that it names."""
        self.algorithm, self.task = about.get("algorithm"), about.get("task")
        self.seed, self.spaces = seed, spaces
        self.network = select_seed(policy, about["seeds"].index(seed))
        self._behaviour = self.network.behaviour(*spaces.bounds())
        self._count = 0  # environments that it acts in
        self._draw_from(0)

    def act(self, obs, *, sample: bool = False) -> np.ndarray:
        """The action at one observation, or at N: the policy's mode, or a sample of it.

        ValueError for an observation of another shape, and for one that is not finite.
        """
        flat, batch = self.spaces.flat(obs)
        if not np.isfinite(flat).all():
            raise ValueError("the observation has a number that is not finite")
        self._count = len(flat)
        applied = self._behaviour.act(flat[None], [self._rng] if sample else None)[1]
        action = self.spaces.action(applied[0])
        return action if batch else action[0]

    def reset(self, ended: Sequence[bool] | None = None, *, seed: int | None = None) -> None:
        """Begin new episodes where they have `ended`, by default everywhere.

        `seed` begins the policy's random numbers anew.
        """
        if seed is not None:
            self._draw_from(seed)
        flags = np.ones(self._count, bool) if ended is None else np.array(ended, bool).reshape(-1)
        if len(flags) != self._count > 0:
            raise ValueError(f"ended has {len(flags)} flags, the policy acts in {self._count}")
        self._behaviour.reset(flags[None])

    def _draw_from(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._behaviour.seed(np.array([[seed]]))

    def __repr__(self) -> str:
        shapes = f"obs {self.spaces.obs_size}, action {list(self.spaces.shape)}"
        return f"<policy of {self.algorithm} on {self.task}, seed {self.seed}: {shapes}>"
