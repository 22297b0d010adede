"""FixPO: Guaranteed Trust Region via Two-Phase KL Penalization (Zentner et al. 2023,
arXiv 2312.05405).

For iterations k = 1..K, for S seeds at once, each with its own everything:

    (1)  run pi_old for T steps in N environments: M = N T transitions
    (2)  log pi_old(a|s), V_old(s), and by GAE(discount, lambda) A and R in units of the raw reward
    (3)  R <- R / sigma; then sigma^2 <- running variance of all R so far, for the next iteration
    (4)  lr <- lr_0 (1 - (k-1)/K)
    for epoch = 1..E:
         shuffle the M transitions; for each minibatch:
    (5)      grad of L = L_pi + c_V L_V + beta mean_s KL
    (6)      grad <- grad min(1, 0.5 / |grad|), over actor and critic jointly
    (7)      theta <- Adam(theta, grad, lr)
    (8)      beta <- max(0, Adam(beta, eps - C max_s KL, lr_beta)), KL as it was in (5)
         fix-up, until a sweep over all M changes nothing:
    (9)      shuffle; each minibatch with KL > eps in any state takes (6)-(8) on beta mean_s KL
    (10)     after `max_sweeps`, the largest step from pi_old towards pi_theta that bisection allows

| symbol | variable | shape | meaning |
|---|---|---|---|
| theta | theta | [S, P] | all parameters: the actor's columns first, then the critic's |
| KL | kl | [S, B] | KL(pi_old || pi_theta) of each state, in closed form |
| eps | max_kl | | limit on the KL of every state of the batch, certified after each epoch |
| C | target_coef | | the first phase aims at eps / C, so that few fix-up steps are needed |
| beta | multiplier | [S, 1] | weight of the penalty: dual ascent, by Adam, never reset |
| A, R | advantage, target | [S, B] | A in raw reward units, not normalised |
| sigma | value_scale | [S, 1, 1] | what V is multiplied with to be in units of the reward |

Departures from the official code (uscresl/stabilized-rl, fixpo_tianshou.py), whose launcher's
settings these are: the loop of sweeps has an end, (10), and uses of it are counted; actions are
clipped to the box itself, not to [-1, 1] and then scaled; evaluation is deterministic; environments
restart at every checkpoint; the log ratio is clamped to +-20. A whole pass without a violation
stands for the sweep that changes nothing: the same test, without its minibatches.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import EPSILON, RewardScaler, RunningStatistics
from rlsuite.core.optim import AdamState, adam_step, clip_grad_norm, gradient
from rlsuite.core.rollouts import Batch, Collector, experience

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    max_kl: float = 0.5  # eps, nats, of every state [code]
    target_coef: float = 3.0  # C [code's experiments; its default 2]
    multiplier_init: float = 1.0  # beta before the first step [code]
    multiplier_lr: float = 0.01  # of Adam on beta; 0 fixes it [code]
    kl_stat: str = "max"  # over states, limited by eps: max, or mean (an ablation) [code]
    fixup: str = "epoch"  # after each epoch, the last one, or off (ablations) [code]
    fixup_minibatches: int = 8  # per sweep, of 1024 transitions each [code]
    max_sweeps: int = 50  # before bisection [ours; the code has no limit]
    epochs: int = 10  # E, passes over the rollout [code]
    num_minibatches: int = 16  # per epoch, of 512 transitions each [code]
    learning_rate: float = 3e-4  # lr_0 of Adam; linearly to lr_0/K [code]
    value_coef: float = 0.1  # c_V, no half [code]
    value_clip: float | None = 0.2  # V within this of V_old, in units of sigma; None: off [code]
    max_grad_norm: float = 0.5  # joint norm of actor and critic [code]
    adam_eps: float = 1e-8  # denominator's constant, theta and beta [PyTorch's default, as code]
    discount: float = 0.99  # gamma, per step [code]
    gae_lambda: float = 0.95  # lambda of GAE [code]
    total_steps: int = 1_000_000  # of each seed; lr_0 decays over it [ours; code 10M]
    num_envs: int = 64  # N, environments per seed [code]
    num_steps: int = 128  # T, steps per environment and iteration [code]
    normalize_obs: bool = True  # running mean and std, clipped to +-10 [code]
    normalize_value: bool = True  # sigma; off: 1 [code]
    bootstrap_on_truncation: bool = True  # [code]
    distribution: str = "gaussian"  # of continuous actions: gaussian, or beta [code]
    hidden: tuple[int, ...] = (64, 64)  # widths of actor and of critic [code]
    activation: str = "tanh"  # tanh or relu [code]
    orthogonal_init: bool = True  # gains sqrt 2, policy head 0.01, value head 1 [code]
    log_std_init: float = -0.5  # initial log sigma of a Gaussian, state-independent [code]

    def __post_init__(self) -> None:
        m, counts = self.batch_size, (self.num_minibatches, self.fixup_minibatches)
        if min(m, *counts, self.epochs, self.max_sweeps, *self.hidden) < 1:
            raise ValueError(f"{self}: envs, steps, epochs, sweeps, widths must be 1 or more")
        for name, b in zip(("num_minibatches", "fixup_minibatches"), counts, strict=True):
            if m % b:
                near = min((d for d in range(1, m + 1) if m % d == 0), key=lambda d: abs(d - b))
                raise ValueError(f"{name} {b} does not divide {m} transitions; use {near}")
        if self.total_steps < m:
            raise ValueError(f"total_steps {self.total_steps} is less than one rollout; use {m}")
        for name in ("max_kl", "target_coef", "learning_rate", "max_grad_norm", "adam_eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")
        for name in ("multiplier_init", "multiplier_lr", "value_coef"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or greater")
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; use one of {known}")

    @property
    def batch_size(self) -> int:
        return self.num_envs * self.num_steps

    @property
    def iterations(self) -> int:
        return self.total_steps // self.batch_size

    @property
    def minibatches_per_call(self) -> int:
        return math.gcd(self.num_minibatches, 4)  # fewer, larger compiled calls


CHOICES = {
    "kl_stat": ("max", "mean"),
    "fixup": ("epoch", "last", "off"),
    "distribution": ("gaussian", "beta"),
    "activation": ("tanh", "relu"),
}

# ------------------------------------------------------------------------------------ 3. Presets

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "mujoco": {"*": {}},  # mujoco_fixpo_tianshou.py as exps_tianshou.py starts it, over 1M steps
    **{f"mujoco-{n}m": {"*": dict(total_steps=n * 1_000_000)} for n in (3, 10)},  # 10: the code's
    "classic": {  # ours: the rollouts of PPO's preset, in fewer and larger minibatches
        "*": dict(total_steps=500_000, num_envs=8, num_steps=128, num_minibatches=4,
                  fixup_minibatches=2, learning_rate=1e-3, normalize_obs=False),
    },
    "smoke": {"*": dict(total_steps=2048, num_envs=1, num_steps=128, num_minibatches=4, epochs=2,
                        fixup_minibatches=2, learning_rate=3e-3)},  # ours
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def surrogate_loss(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """L_pi = -mean rho A, without a clip. [S, B] -> [S]."""
    return (-log_ratio.clamp(-20, 20).exp() * advantage).mean(1)


def value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None) -> Tensor:
    """L_V = mean max((V - R)^2, (V_old + clip(V - V_old) - R)^2). [S, B] -> [S]."""
    error = (value - target) ** 2
    if clip is not None:
        clipped = old_value + (value - old_value).clamp(-clip, clip)
        error = torch.maximum(error, (clipped - target) ** 2)
    return error.mean(1)


def statistic(kl: Tensor, stat: str) -> Tensor:
    """What eps limits and beta heeds: the largest KL of a state, or the mean. [S, B] -> [S]."""
    return kl.amax(1) if stat == "max" else kl.mean(1)


def dual_gradient(kl_stat: Tensor, max_kl: float, target_coef: float) -> Tensor:
    """dL_beta / d beta = eps - C max_s KL, so that beta falls where it is positive. [S] -> [S]."""
    return max_kl - target_coef * kl_stat


OBJECTIVES = (surrogate_loss, value_loss, statistic)

# ------------------------------------------------------------------------------------- 6. Update


class Multiplier(NamedTuple):
    """beta [S, 1]."""

    beta: Tensor


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ActorCritic
    actor_adam: AdamState
    critic_adam: AdamState  # apart: a fix-up step is none of the critic's
    multiplier: Multiplier
    multiplier_adam: AdamState
    target_statistics: RunningStatistics  # of all R so far; sigma is their standard deviation
    scaler: RewardScaler  # switched off: rewards stay raw


def iterate(
    config: Config, learner: Learner, collector: Collector, streams, k: int, step: Callable
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Iteration k, from 0: metrics [S], and seconds per kind of work; step: `minibatch_steps`."""
    policy, start = learner.policy, perf_counter()
    rollout = collector.collect(config.num_steps, streams["action"])  # (1)
    how = (config.discount, config.gae_lambda, config.bootstrap_on_truncation)
    scale = np.ones((len(policy.theta), 1, 1), np.float32)
    if config.normalize_value:
        scale[:, 0] = (learner.target_statistics.var.numpy() + EPSILON) ** 0.5
    batch = experience(policy, rollout, *how, scale)  # (2)
    learner.target_statistics.merge(batch.target[..., None].numpy())
    batch = batch._replace(target=batch.target / torch.from_numpy(scale[..., 0]))  # (3)
    lr = torch.tensor(config.learning_rate * (1 - k / config.iterations))  # (4)
    old, repairs = policy.theta[:, : policy.actor_size].clone(), torch.zeros(2, len(scale))
    for epoch in range(config.epochs):
        order = np.stack([rng.permutation(config.batch_size) for rng in streams["batch"]])
        shuffled = batch.take(torch.from_numpy(order))
        for part in shuffled.chunks(config.num_minibatches // config.minibatches_per_call):
            adams = (learner.actor_adam, learner.critic_adam, learner.multiplier_adam)
            theta, adams, beta, metrics = step(
                policy.theta, adams, learner.multiplier.beta, lr, old, part
            )
            learner.actor_adam, learner.critic_adam, learner.multiplier_adam = adams
            learner.multiplier = Multiplier(beta)
            policy.theta.copy_(theta)
        if config.fixup == "epoch" or (config.fixup == "last" and epoch == config.epochs - 1):
            repairs += fixup(config, learner, batch, old, lr, streams["batch"])
    kl = state_kl(policy, old, policy.theta, batch.obs)
    metrics |= {
        "kl": kl.mean(1),
        "max_kl": kl.amax(1),
        "states_above_limit": (kl > config.max_kl).float().sum(1),
        "multiplier": learner.multiplier.beta[:, 0],
        "fixup_share": repairs[0] / (config.epochs * config.num_minibatches),
        "bisections": repairs[1],
        "explained_variance": batch.explained_variance(),
    }
    collecting = sum(rollout.seconds.values())
    return metrics, rollout.seconds | {"learning": perf_counter() - start - collecting}


def minibatch_steps(
    policy: ActorCritic,
    config: Config,
    theta: Tensor,
    adams: tuple[AdamState, AdamState, AdamState],
    beta: Tensor,
    lr: Tensor,
    old: Tensor,
    part: Batch,
) -> tuple[Tensor, tuple[AdamState, AdamState, AdamState], Tensor, dict[str, Tensor]]:
    """A few minibatches in one call, which a compiler may fuse. Pure: [S, P] in, [S, P] out."""
    (actor_adam, critic_adam, beta_adam), everyone = adams, torch.ones(len(theta))
    for minibatch in part.chunks(config.minibatches_per_call):
        grad, metrics = gradient(partial(loss, policy, config, minibatch, old, beta), theta)  # (5)
        grad, metrics["grad_norm"] = clip_grad_norm(grad, config.max_grad_norm)  # (6)
        actor, critic = theta.tensor_split([policy.actor_size], 1)
        actor_grad, critic_grad = grad.tensor_split([policy.actor_size], 1)
        how = (lr, everyone, config.adam_eps)
        actor, actor_adam = adam_step(actor, actor_grad, actor_adam, *how)
        critic, critic_adam = adam_step(critic, critic_grad, critic_adam, *how)
        theta = torch.cat((actor, critic), 1)  # (7)
        kl_stat = metrics.pop("kl_stat")
        beta, beta_adam = dual_step(config, beta, beta_adam, kl_stat, everyone)  # (8)
    return theta, (actor_adam, critic_adam, beta_adam), beta, metrics


def loss(
    policy: ActorCritic, config: Config, batch: Batch, old: Tensor, beta: Tensor, theta: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = L_pi + c_V L_V + beta mean_s KL [S], and its parts."""
    pi, value = policy.distribution(theta, batch.obs), policy.value(theta, batch.obs)
    log_ratio = pi.log_prob(batch.action) - batch.old_log_prob
    kl = policy.distribution(old, batch.obs).kl(pi)
    metrics = {
        "policy_loss": surrogate_loss(log_ratio, batch.advantage),
        "value_loss": value_loss(value, batch.old_value, batch.target, config.value_clip),
        "entropy": pi.entropy().mean(1),
        "kl_stat": statistic(kl, config.kl_stat),
    }
    total = metrics["policy_loss"] + beta[:, 0] * kl.mean(1)
    return total + config.value_coef * metrics["value_loss"], metrics


def dual_step(
    config: Config, beta: Tensor, adam: AdamState, kl_stat: Tensor, active: Tensor
) -> tuple[Tensor, AdamState]:
    """beta [S, 1] after one step of Adam on L_beta, never negative, for the `active` rows."""
    grad = dual_gradient(kl_stat, config.max_kl, config.target_coef)[:, None]
    lr = torch.tensor(config.multiplier_lr)
    beta, adam = adam_step(beta, grad, adam, lr, active, config.adam_eps)
    return beta.clamp(min=0), adam


def state_kl(policy: ActorCritic, old: Tensor, actor: Tensor, obs: Tensor) -> Tensor:
    """KL(pi_old || pi_theta) of each state, [S, B]."""
    return policy.distribution(old, obs).kl(policy.distribution(actor, obs))


def sweep(
    config: Config, learner: Learner, batch: Batch, rows: Tensor, old: Tensor, lr: Tensor
) -> Tensor:
    """One pass of fix-up steps for the seeds in `rows` [R], which `batch` is of; their number."""
    policy, n = learner.policy, learner.policy.actor_size
    actor, beta = policy.theta[rows, :n], learner.multiplier.beta[rows]
    adam = AdamState(*(x[rows] for x in learner.actor_adam))
    beta_adam = AdamState(*(x[rows] for x in learner.multiplier_adam))
    steps = torch.zeros(len(rows))
    for minibatch in batch.chunks(config.fixup_minibatches):

        def penalty(actor: Tensor, obs=minibatch.obs, beta=beta) -> tuple[Tensor, dict]:
            kl = state_kl(policy, old, actor, obs)
            return beta[:, 0] * kl.mean(1), {"kl_stat": statistic(kl, config.kl_stat)}

        grad, metrics = gradient(penalty, actor)
        active = (metrics["kl_stat"] > config.max_kl).float()
        grad, _ = clip_grad_norm(grad, config.max_grad_norm)
        actor, adam = adam_step(actor, grad, adam, lr, active, config.adam_eps)  # (9)
        beta, beta_adam = dual_step(config, beta, beta_adam, metrics["kl_stat"], active)
        steps += active
    policy.theta[rows, :n], learner.multiplier.beta[rows] = actor, beta
    for whole, part in ((learner.actor_adam, adam), (learner.multiplier_adam, beta_adam)):
        for target, values in zip(whole, part, strict=True):
            target[rows] = values
    return steps


def fixup(
    config: Config,
    learner: Learner,
    batch: Batch,
    old: Tensor,
    lr: Tensor,
    rngs: list[np.random.Generator],
) -> Tensor:
    """Phase two on the whole batch: [2, S], gradient steps taken and bisections needed (0 or 1).

    Only seeds with a violation are worked on, so the others keep everything bit for bit.
    """
    policy, repairs = learner.policy, torch.zeros(2, len(old))

    def violators(rows: Tensor, actor: Tensor) -> Tensor:  # not <=: a NaN is a violation
        kl = state_kl(policy, old[rows], actor, batch.obs[rows])
        return ~(statistic(kl, config.kl_stat) <= config.max_kl)

    actors = policy.theta[:, : policy.actor_size]
    rows = torch.arange(len(old))
    rows = rows[violators(rows, actors)]
    for _ in range(config.max_sweeps):
        if not len(rows):
            return repairs
        order = np.stack([rngs[row].permutation(config.batch_size) for row in rows])
        shuffled = Batch(*(x[rows] for x in batch)).take(torch.from_numpy(order))
        repairs[0, rows] += sweep(config, learner, shuffled, rows, old[rows], lr)
        rows = rows[violators(rows, actors[rows])]
    low, high = torch.zeros(len(rows), 1), torch.ones(len(rows), 1)
    way = actors[rows] - old[rows]
    for _ in range(20):  # (10)
        middle = (low + high) / 2
        outside = violators(rows, old[rows] + middle * way)[:, None]
        low, high = torch.where(outside, low, middle), torch.where(outside, middle, high)
    actors[rows] = torch.where(low > 0, old[rows] + low * way, old[rows])
    repairs[1, rows] = 1
    return repairs


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    kind = ActorCritic if envs.discrete or config.distribution == "gaussian" else BetaActorCritic
    policy = kind(
        *(envs.obs_size, envs.action_size, envs.discrete, run.streams["init"]),
        *(config.hidden, config.activation, config.normalize_obs),
        *(config.orthogonal_init, config.log_std_init),
    )
    seeds, (actor, critic) = len(run.seeds), policy.theta.tensor_split([policy.actor_size], 1)
    beta = torch.full((seeds, 1), config.multiplier_init)
    scaler = RewardScaler(seeds, config.num_envs, config.discount, enabled=False)
    adams = [AdamState.zeros(x) for x in (actor, critic, beta)]
    learner = Learner(
        *(policy, *adams[:2], Multiplier(beta), adams[2], RunningStatistics(seeds, 1), scaler)
    )
    collector = Collector(envs, policy, scaler)
    gradient_steps = config.iterations * config.epochs * config.num_minibatches
    step = run.compiled(partial(minibatch_steps, policy, config), gradient_steps)
    for k in run.iterations(config.iterations, config.batch_size, learner):
        if run.at_boundary:  # a checkpoint is an episode boundary: fresh environments
            collector.restart(run.streams.integers("environment", config.num_envs))
        run.log(*iterate(config, learner, collector, run.streams, k, step))
