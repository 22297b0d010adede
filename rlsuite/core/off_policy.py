"""Learning from replay: what fills a ring of transitions, and what its settings keep to."""

import math
from collections.abc import Mapping
from time import perf_counter

import numpy as np

from rlsuite.core.buffers import ReplayBuffer, fields_of
from rlsuite.core.policies import Rngs
from rlsuite.core.ranges import require_multiple, require_positive, require_whole, require_within
from rlsuite.core.seed_random import SeedRandom

# What a data set needs beside a TransitionBatch: whether a time limit cut the episode, whether the
# row is the first of its episode, and the log-density of what the policy chose
KEPT = ("truncated", "first", "log_prob")


def replay_of(
    envs, capacity: int, rng: SeedRandom, more: Mapping[str, tuple[int, ...]] | None = None
) -> ReplayBuffer:
    """A ring for what happens in `envs`: it draws a `TransitionBatch` and `more` fields.

    A `ReplayCollector` knows "cost": (C,), of the task's constraints. `KEPT` is kept, too.
    """
    drawn = fields_of((envs.obs_size,), (envs.action_size,)) | (more or {})
    fields = drawn | dict.fromkeys(KEPT, ())
    return ReplayBuffer(len(envs.seeds), capacity, fields, rng, kept=KEPT)


class ReplayCollector:
    """Steps `envs` (of rlsuite.envs) and stores each transition in `buffer`.

    The buffer gets what the policy chose, in (-1, 1), with its log-density there, and the true next
    observation, also where an episode ended. A time limit is no end, and neither is a restart: such
    rows have a future. The row after either is the first of an episode.
    """

    def __init__(self, envs, policy, buffer: ReplayBuffer) -> None:
        self.envs, self.policy, self.buffer = envs, policy, buffer
        self.behaviour = policy.behaviour(envs.action_low, envs.action_high)
        self._seconds = {"physics": 0.0, "inference": 0.0}

    def restart(self, env_seeds: np.ndarray) -> None:
        """Fresh environments from `env_seeds` [S, N]."""
        self.obs = self.envs.reset(env_seeds)
        self.first = np.ones(env_seeds.shape, bool)
        self.behaviour.reset(self.first)

    def restart_at_boundary(self, run) -> None:
        """Fresh environments where a stage of `run` begins, and after each checkpoint."""
        if run.at_boundary:
            self.restart(run.streams.integers("environment", self.envs.num_envs))

    def step(self, rngs: Rngs) -> None:
        """One step of every environment with the policy as it is now, sampled."""
        start = perf_counter()
        self.behaviour.refresh(self.policy)
        raw, applied = self.behaviour.act(self.obs, rngs)
        self._store(raw, applied, self.behaviour.log_prob, start)

    def explore(self, steps: int, rngs: Rngs) -> None:
        """So many steps of every environment with actions uniform in the box."""
        shape = (self.obs.shape[1], self.policy.action_size)
        log_prob = np.full(self.obs.shape[:2], -self.policy.action_size * math.log(2))
        for _ in range(steps):
            start = perf_counter()
            raw = np.stack([rng.uniform(-1, 1, shape) for rng in rngs]).astype(np.float32)
            self._store(raw, self.behaviour.to_env(raw), log_prob, start)

    def seconds(self) -> dict[str, float]:
        """Spent since the last call, by kind of work."""
        spent, self._seconds = self._seconds, {"physics": 0.0, "inference": 0.0}
        return spent

    def _store(
        self, raw: np.ndarray, applied: np.ndarray, log_prob: np.ndarray, start: float
    ) -> None:
        chosen = perf_counter()
        after = self.envs.step(applied)
        stepped = perf_counter()
        ended = after.terminated | after.truncated
        self.behaviour.reset(ended)
        row = dict(
            obs=self.obs,
            action=raw,
            reward=after.reward,
            next_obs=after.final_obs,
            terminated=after.terminated,
            truncated=after.truncated,
            first=self.first,
            log_prob=log_prob,
            cost=after.cost,
        )
        self.buffer.add(**{name: row[name] for name in self.buffer.shapes})
        self.obs, self.first = after.obs, ended
        self._seconds["physics"] += stepped - chosen
        self._seconds["inference"] += chosen - start + perf_counter() - stepped


class ReplaySettings:
    """What follows from settings that every Config has which learns from replay.

    `cycles` are of policy_delay gradient steps, which come in one call.
    """

    @property
    def iterations(self) -> int:
        return self.env_steps // self.steps_per_iteration

    @property
    def steps_of_each(self) -> int:
        """Steps of each environment, per iteration."""
        return self.steps_per_iteration // self.num_envs

    @property
    def cycles(self) -> int:
        """Per iteration."""
        return round(self.updates_per_step * self.steps_per_iteration) // self.policy_delay

    def cycles_after(self, i: int) -> int:
        """How many are due after step i of an iteration, from 0: they spread evenly over it."""
        cycles, steps = self.cycles, self.steps_of_each
        return (i + 1) * cycles // steps - i * cycles // steps


def require_off_policy(config: object, *periods: str, cycle: str = "policy_delay") -> None:
    """What every Config keeps to that fills a replay buffer and learns from it.

    `periods` are further counts of environment steps, after which something happens; `cycle` names
    the gradient steps that come in one call.
    """
    require_whole(config, "num_envs", "capacity", "batch_size", cycle, *periods)
    require_whole(config, "env_steps", "steps_per_iteration", "hidden")
    require_multiple(config, "num_envs", "steps_per_iteration", *periods)
    require_multiple(config, "steps_per_iteration", "env_steps", "warm_up")
    require_positive(config, "updates_per_step", "actor_lr", "critic_lr", "temperature")
    require_within(config, 0, 1, "discount", "polyak")
    last = config.env_steps - config.steps_per_iteration
    if not 0 <= config.warm_up <= last:
        steps = f"warm_up is {config.warm_up} of {config.env_steps} steps"
        raise ValueError(f"{steps}, which leaves none to learn in; use 0 to {last}")
    if config.capacity < config.num_envs:
        envs = f"{config.num_envs} environments"
        raise ValueError(f"capacity is {config.capacity}, less than one step of {envs}")
    updates = round(config.updates_per_step * config.steps_per_iteration, 6)
    length = getattr(config, cycle)
    if updates % length or updates < 1:
        near = max(1, round(updates / length)) * length / config.steps_per_iteration
        use = f"{cycle} 1" if updates >= 1 and updates % 1 == 0 else f"{near:.12g}"
        raise ValueError(
            f"updates_per_step {config.updates_per_step:g} makes {updates:g} gradient steps of "
            f"{config.steps_per_iteration} steps, no multiple of {cycle} {length}; use {use}"
        )
