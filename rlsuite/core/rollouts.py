"""On-policy data: collected with the current policy, then turned into advantages.

| symbol | shape | meaning |
|---|---|---|
| obs, next_obs | [S, T, N, O] | normalised s_t and the true s_{t+1} (an episode's last, too) |
| action | [S, T, N, A] or [S, T, N] | the raw sample; the environment gets it clipped |
| reward | [S, T, N] | scaled for training |
| cost, margin | [S, T, N, C], [S, T, N, K] | raw, of the task's constraints; margin None: no such |
| terminated, truncated | [S, T, N] | how step t ended the episode; no row is fake, none is masked |
| episodes | | those that ended in the rollout: raw returns, costs [C] and lengths |
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.ranges import require_choice, require_whole, require_within

Array = np.ndarray
Rngs = Sequence[np.random.Generator]  # one per seed


class RolloutSettings:
    """What follows from settings that every Config has which collects rollouts."""

    @property
    def rollout_size(self) -> int:
        return self.num_envs * self.num_steps

    @property
    def iterations(self) -> int:
        return self.env_steps // self.rollout_size


REPORTED = ("reward", "cost", "terminated", "truncated")  # by each step of environments


@dataclass
class Rollout:
    obs: Array
    action: Array
    reward: Array
    cost: Array
    terminated: Array
    truncated: Array
    next_obs: Array
    margin: Array | None = None
    episodes: Sequence = ()


class Collector:
    """Steps `envs` (of rlsuite.envs) with a policy's stochastic actions, from where it stopped."""

    def __init__(self, envs, policy: ActorCritic, scaler: RewardScaler | None = None) -> None:
        """Without a `scaler` rewards stay as they are."""
        self.envs, self.policy, self.scaler = envs, policy, scaler
        self.behaviour = policy.behaviour(envs.action_low, envs.action_high)

    def restart(self, env_seeds: Array) -> None:
        """Fresh environments from `env_seeds` [S, N]: an episode boundary for every seed."""
        self.obs = self.policy.normalizer.observe(self.envs.reset(env_seeds, staggered=True))
        self.behaviour.reset(np.ones(env_seeds.shape, bool))
        if self.scaler:
            self.scaler.restart()

    def restart_at_boundary(self, run) -> None:
        """Fresh environments where a stage of `run` begins, and after each checkpoint."""
        if run.at_boundary:
            self.restart(run.streams.integers("environment", self.envs.num_envs))

    def seconds(self) -> dict[str, float]:
        """Wall time of the last rollout, by kind of work."""
        return self._seconds

    def collect(self, steps: int, rngs: Rngs) -> Rollout:
        """`steps` transitions per environment; sampling noise comes from each seed's own stream.

        The policy's parameters stand still meanwhile. The statistics of its normaliser do not: they
        take in each observation before the policy acts on it.
        """
        envs, normalizer, behaviour = self.envs, self.policy.normalizer, self.behaviour
        began, physics, rows = perf_counter(), 0.0, []
        finished = envs.finished
        behaviour.refresh(self.policy)
        noise = behaviour.noise(rngs, steps, self.obs.shape[1])  # of all steps: fewer, larger draws
        for t in range(steps):
            obs = self.obs
            action, applied = behaviour.act_normalized(obs, noise[:, t])
            start = perf_counter()
            step = envs.step(applied)
            physics += perf_counter() - start
            self.obs = next_obs = normalizer.observe(step.obs)
            if step.final_obs is not step.obs:  # somewhere an episode ended
                ended = step.terminated | step.truncated
                behaviour.reset(ended)
                final_obs = normalizer.normalize(step.final_obs)
                next_obs = np.where(ended[..., None], final_obs, self.obs)
            rows.append((obs, action, next_obs, step))
        obs, action, next_obs, reported = zip(*rows, strict=True)
        columns = {"obs": obs, "action": action, "next_obs": next_obs}
        names = REPORTED if step.margin is None else (*REPORTED, "margin")
        columns |= {name: [getattr(each, name) for each in reported] for name in names}
        rollout = Rollout(**{name: np.stack(column, 1) for name, column in columns.items()})
        if self.scaler:
            ended = rollout.terminated | rollout.truncated
            rollout.reward = self.scaler.scale(rollout.reward, ended)
        rollout.reward = rollout.reward.astype(np.float32, copy=False)
        rollout.episodes = envs.episodes(finished)
        self._seconds = {"physics": physics, "inference": perf_counter() - began - physics}
        return rollout


class RolloutBatch(NamedTuple):
    """M = T N transitions of each seed, or a minibatch of B, for tensors: [S, B, ...]."""

    obs: Tensor
    action: Tensor
    old_log_prob: Tensor  # under the policy that acted
    old_value: Tensor  # of the critic at that time
    advantage: Tensor
    target: Tensor

    def shuffled(self, rngs: Rngs) -> "RolloutBatch":
        """Each seed's rows in an order that its own stream draws."""
        order = torch.from_numpy(np.stack([g.permutation(self.obs.shape[1]) for g in rngs]))
        return RolloutBatch(*(x[torch.arange(len(order))[:, None], order] for x in self))

    def minibatches(self, count: int, rngs: Rngs, epochs: int = 1) -> Iterator["RolloutBatch"]:
        """`count` of equal size in each epoch, shuffled anew."""
        for _ in range(epochs):
            yield from self.shuffled(rngs).chunks(count)

    def chunks(self, count: int) -> list["RolloutBatch"]:
        parts = zip(*(x.chunk(count, 1) for x in self), strict=True)
        return [RolloutBatch(*part) for part in parts]

    def explained_variance(self) -> Tensor:
        """1 - var(R - V_old) / var(R): 1 for a perfect critic, 0 for a constant one. [S]."""
        return 1 - (self.target - self.old_value).var(1) / self.target.var(1).clamp(min=1e-8)


def gae(
    reward: Array, value: Array, next_value: Array, future: Array, carry: Array, discount, lam
) -> tuple[Array, Array]:
    """Generalised advantage estimates and TD(lambda) targets (Schulman et al. 2016), [S, T, N].

    `reward` may be a cost. `next_value` is V of the true s_{t+1}, an episode's last included.
    `future` and `carry` in [0, 1] are the shares of V(s_{t+1}) and of A_{t+1} that count.
    PPO's factors are `future = 1 - terminated` and `carry = 1 - (terminated | truncated)`. They may
    be probabilities, too: a constraint that ends an episode with probability delta makes both
    1 - delta (CaT).
    """
    # delta_t = r_t + discount future_t V(s_{t+1}) - V(s_t)
    delta = reward + discount * next_value * future - value
    # A_t = delta_t + discount lam carry_t A_{t+1}
    decay = np.asarray(discount * lam * carry, delta.dtype)
    advantage = np.empty_like(delta)
    running = np.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        running = delta[:, t] + decay[:, t] * running
        advantage[:, t] = running
    return advantage, advantage + value


def factors(terminated: Array, truncated: Array, bootstrap: bool = True) -> tuple[Array, Array]:
    """PPO's (future, carry) for `gae`: no advantage is carried past the end of an episode.

    A termination has no future. A truncation has one, unless `bootstrap` is off: baselines and
    CleanRL treat it as death.
    """
    carry = ~(terminated | truncated)
    return ~terminated if bootstrap else carry, carry


def make_batch(
    policy: ActorCritic, rollout: Rollout, config, scale=1.0, shift=0.0, survival=None
) -> RolloutBatch:
    """The rollout as a batch of M = T N rows per seed, with log-probabilities, values, advantages.

    `policy` has the parameters that collected it, and `config` the settings discount, gae_lambda
    and bootstrap_on_truncation. The critic predicts (return - shift) / scale (float32 [S, 1, 1], or
    0 and 1): `old_value` is what it predicts, advantages and targets have the rewards' unit.
    `survival` [S, T, N] is the probability that step t does not end the episode by itself (CaT).
    """
    obs, next_obs, action = flat(rollout.obs), flat(rollout.next_obs), flat(rollout.action)
    old_log_prob = policy.distribution(policy.theta, obs).log_prob(action)
    value, next_value = (
        policy.value(policy.theta, x).view(rollout.reward.shape).numpy() for x in (obs, next_obs)
    )
    bootstrap = config.bootstrap_on_truncation
    future, carry = factors(rollout.terminated, rollout.truncated, bootstrap)
    if survival is not None:
        future, carry = survival * future, survival * carry
    now, later = scale * value + shift, scale * next_value + shift
    discount, lam = config.discount, config.gae_lambda
    advantage, target = gae(rollout.reward, now, later, future, carry, discount, lam)
    return RolloutBatch(obs, action, old_log_prob, *map(flat, (value, advantage, target)))


def flat(x: Array) -> Tensor:
    """[S, T, N, ...] -> [S, M, ...]."""
    return torch.from_numpy(x).flatten(1, 2)


def standardise(advantage: Tensor) -> Tensor:
    """Zero mean, unit standard deviation over the B given, per seed. [S, B] -> [S, B]."""
    centred = advantage - advantage.mean(1, keepdim=True)
    variance = (centred * centred).sum(1, keepdim=True) / (advantage.shape[1] - 1)
    return centred / (variance.sqrt() + 1e-8)


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """L_pi = mean max(-A rho, -A clip(rho, 1 - eps, 1 + eps)), PPO's. [S, B] -> [S]."""
    ratio = log_ratio.clamp(-20, 20).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(-advantage * ratio, -advantage * clipped).mean(1)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Schulman's k3 of KL(pi_old || pi_theta): mean((rho - 1) - log rho) >= 0. [S, B] -> [S]."""
    log_ratio = log_ratio.clamp(-20, 20)
    return (log_ratio.expm1() - log_ratio).mean(1)


def value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None) -> Tensor:
    """L_V = mean max((V - R)^2, (V_old + clip(V - V_old) - R)^2) / 2, as ppo2. [S, B] -> [S]."""
    return 0.5 * squared_error(value, old_value, target, clip)


def squared_error(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None) -> Tensor:
    """mean max((V - R)^2, (V_old + clip(V - V_old) - R)^2). [S, B] -> [S]."""
    error = (value - target) ** 2
    if clip is not None:
        clipped = old_value + (value - old_value).clamp(-clip, clip)
        error = torch.maximum(error, (clipped - target) ** 2)
    return error.mean(1)


def require_on_policy(config: object, *minibatches: str, least: int = 2) -> None:
    """What every Config that collects rollouts keeps to.

    Each count of `minibatches` has to split a rollout into parts of `least` transitions or more.
    Two make a standard deviation, and a seed's result on a single one may depend on the number of
    seeds (see `core.layers.linear`).
    """
    require_whole(config, "num_envs", "num_steps", *minibatches)
    if config.hidden:  # a linear policy has none
        require_whole(config, "hidden")
    require_within(config, 0, 1, "discount", "gae_lambda")
    require_choice(config, "activation", ("tanh", "relu", "elu"))
    size = config.num_envs * config.num_steps
    if size < least:
        raise ValueError(f"num_steps {config.num_steps} makes a rollout of {size}; use {least}")
    if config.env_steps < size:
        raise ValueError(f"env_steps {config.env_steps} is less than one rollout; use {size}")
    for name in minibatches:
        count = getattr(config, name)
        if size % count or size // count < least:
            fitting = [n for n in range(size // least, 0, -1) if size % n == 0]
            near = min(fitting, key=lambda n: abs(n - count))
            raise ValueError(f"{name} {count} splits {size} transitions badly; use {near}")
