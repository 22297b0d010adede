"""CaT: Constraints as Terminations for Legged Locomotion (Chane-Sane et al. 2024).

arXiv 2403.18765. A constraint that is broken by c > 0 ends the episode with a probability that
grows with c, in expectation: what follows counts less, and no environment is reset. The rest is
PPO. For iterations k = 0..K-1, for S seeds at once, each with its own everything, K_c columns:

    (1)  run pi_old for T steps in N environments: M = N T transitions with signed margins c
    (2)  p_max <- 1 / (20 + (k/K) (1/p_final - 20)) of soft columns, 1 of hard ones, or their own
    for t = 1..T:
    (3)      C <- tau C + (1 - tau) max(max c_t over N, 1e-6) per column; at first C <- that max
    (4)      p <- clip(c_t / C, 0, 1) p_max;  delta_t <- max of p over all columns
    (5)  r <- max(0, r (1 - delta)): rewards must not be negative, or ending were a relief
    (6)  log pi_old(a|s), V_old(s), and by GAE, with 1 - delta of each future, A and targets R
    (7)  V's mean and std <- running ones of R; R, V_old in that unit
    (8)  lr <- lr_0 (1 - k/K) where it is annealed; A standardised over all M or each minibatch
    for epoch = 1..E, for each minibatch:
    (9)      Adam on L = L_pi - c_H H + c_V L_V, gradient scaled to a joint norm of at most 1
    (10)     lr <- lr / 1.5 if KL > 2 kl_target, 1.5 lr if KL < kl_target / 2, of each seed alone

| symbol | variable | shape | meaning |
|---|---|---|---|
| c | margin | [S, T, N, K_c] | above 0: the column is over its limit |
| C | scale | [S, K_c] | running maximum of each column, outlives episodes |
| p_max | p_max | [K_c] | the greatest probability of each column |
| delta | delta | [S, T, N] | probability that step t ends the episode |
| 1 - delta | survival | [S, T, N] | share of r_t and of all that follows |
| KL | kl | [S] | of a minibatch, to the policy that it saw one epoch before |

Departures from the authors' code (v1.0.0, rl_games): a time limit is bootstrapped, times 1 - delta
(`bootstrap_on_truncation=False` is theirs); KL is estimated from the samples' log-probabilities;
the networks are 128-64. With no constraint active and PPO's settings the update is PPO's, to the
bit. Soft columns are those of groups `soft` and `style` without a `p_max` of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.core.constraints import renewed, require_margins, require_rewards, violations
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler, RunningStatistics
from rlsuite.core.optim import Loss, Metrics, Net, Step, descend
from rlsuite.core.ranges import Declared, require_positive, require_whole, require_within
from rlsuite.core.rollouts import (
    Collector,
    Rollout,
    RolloutBatch,
    RolloutSettings,
    approximate_kl,
    clipped_surrogate,
    make_batch,
    require_on_policy,
    standardise,
    value_loss,
)

FLOOR, FIRST_LIFE = 1e-6, 20  # of a column's maximum; 1 / p_max of soft ones at the start
SLOWEST, FASTEST, LR_FACTOR = 1e-6, 1e-2, 1.5  # of the adaptive learning rate

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(RolloutSettings):
    p_final: float = 0.25  # p_max of soft columns at the end of a run [code]
    scale_decay: float = 0.95  # tau of the running maxima; more for few environments [code]
    reward_shift: float = 0.0  # added to each reward, so that none is below zero [ours]
    normalize_value: bool = True  # V predicts returns in units of a running mean and std [code]
    adaptive_kl: float | None = 0.008  # kl_target, nats; minibatches in order; None: off [code]
    anneal_lr: bool = False  # linearly to lr_0/K [code; main branch: True]
    batch_advantage: bool = True  # A is standardised over all M [code]; else per minibatch [PPO]
    clip: float = 0.2  # eps of the ratio's interval [code]
    epochs: int = 5  # E, passes over the rollout [code]
    num_minibatches: int = 6  # per epoch, of 16,384 transitions with 4096 environments [code]
    learning_rate: float = 3e-4  # lr_0 of Adam [code]
    discount: float = 0.99  # gamma, per step [code]
    gae_lambda: float = 0.95  # lambda of GAE [code]
    value_clip: float | None = 0.2  # V within this of V_old; None: off [code]
    value_coef: float = 2.0  # c_V on half the squared error [code]
    entropy_coef: float = 0.001  # c_H [code]
    max_grad_norm: float = 1.0  # joint norm of actor and critic [code]
    adam_eps: float = 1e-5  # denominator's constant [main branch; PyTorch's default is 1e-8]
    env_steps: int = 24_576_000  # environment steps of each seed, 1000 rollouts [ours; code: 98M]
    num_envs: int = 1024  # N, environments per seed [ours; code: 4096]
    num_steps: int = 24  # T, steps per environment and iteration [code]
    normalize_obs: bool = True  # running mean and std, clipped to +-10 [code]
    normalize_reward: bool = False  # by the std of the discounted return, +-10 [code]
    bootstrap_on_truncation: bool = True  # [ours; code: False]
    hidden: tuple[int, ...] = (128, 64)  # widths of actor and of critic [ours; code: 512-256-128]
    activation: str = "elu"  # elu, tanh or relu [code]
    orthogonal_init: bool = True  # gains sqrt 2, policy head 0.01, value head 1 [main branch]
    log_std_init: float = 0.0  # initial log sigma, state-independent [code]

    def __post_init__(self) -> None:
        require_on_policy(self, "num_minibatches")
        require_whole(self, "epochs")
        require_positive(self, "p_final", "clip", "learning_rate", "max_grad_norm", "adam_eps")
        require_positive(self, "value_clip", "adaptive_kl")
        require_within(self, 0, 1, "p_final", "scale_decay")
        if self.adaptive_kl is not None and self.anneal_lr:
            raise ValueError("anneal_lr and adaptive_kl both set the learning rate; leave one out")
        if self.reward_shift and self.normalize_reward:
            raise ValueError("reward_shift needs unscaled rewards; leave out --normalize-reward")

    @property
    def declared(self) -> Declared:
        rows = self.rollout_size // self.num_minibatches
        counts = self.env_steps, self.gradient_steps
        rates = ("learning_rate",)
        schedules = ("p_max", *(rates if self.anneal_lr else ()))
        return Declared(self.hidden, rows, *counts, rates, self.num_envs, schedules=schedules)

    @property
    def gradient_steps(self) -> int:
        return self.iterations * self.epochs * self.num_minibatches


# ------------------------------------------------------------------------------------ 3. Presets

# Few environments: the maxima follow more slowly, or each step's worst would be the scale
_FEW = dict(num_envs=16, num_steps=128, num_minibatches=8, scale_decay=0.995)

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "solo": {"*": {}},  # the defaults: v1.0.0 of the authors' code
    "velocity": {"*": dict(env_steps=1_000_000, reward_shift=2.0, **_FEW)},  # ours, for Hopper
    "smoke": {"*": dict(env_steps=2048, num_envs=4, num_steps=32, num_minibatches=4, epochs=2,
                        hidden=(16, 16), p_final=0.5)},  # ours
}  # fmt: skip

# -------------------------------------------------------------------------------- 4. Networks


class Maxima(nn.Module):
    """C: the running maximum of each column [S, K_c]; 0 before the first step."""

    def __init__(self, seeds: int, columns: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("scale", torch.zeros(seeds, columns))

    def follow(self, margin: np.ndarray) -> np.ndarray:
        """C at each step of margins [S, T, N, K_c], that step included: [S, T, K_c]."""
        scale, found = self.scale.numpy(), []
        for worst in np.maximum(margin.max(2), FLOOR).swapaxes(0, 1):
            moved = self.decay * scale + (1 - self.decay) * worst
            scale[:] = np.where(scale > 0, moved, worst)
            found.append(scale.copy())
        return np.stack(found, 1)


# --------------------------------------------------------------------------------- 5. Objectives


def curriculum(progress: float, p_final: float) -> float:
    """p_max of soft columns: the expected life in steps falls linearly, from 20 to 1 / p_final."""
    return 1 / (FIRST_LIFE + progress * (1 / p_final - FIRST_LIFE))


def termination(margin: np.ndarray, scale: np.ndarray, p_max: np.ndarray) -> np.ndarray:
    """delta: the greatest clip(c / C, 0, 1) p_max. [S, T, N, K], [S, T, K], [K] -> [S, T, N]."""
    share = np.clip(margin / scale[:, :, None], 0, 1)
    return (share * p_max).max(-1).astype(np.float32)


OBJECTIVES = (clipped_surrogate, value_loss, approximate_kl)

# ------------------------------------------------------------------------------------- 6. Update


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ActorCritic
    net: Net
    scaler: RewardScaler
    maxima: Maxima
    unit: RunningStatistics  # of what V predicts
    lr: Tensor  # [S, 1]


def iterate(
    config: Config, learner: Learner, collector: Collector, streams, k: int, step: Callable
) -> Metrics:
    """Iteration k, from 0: metrics [S]; step: `minibatch_step`."""
    rollout = collector.collect(config.num_steps, streams["action"])  # (1)
    policy = learner.policy
    progress = k / config.iterations
    constraints = collector.envs.constraints
    soft = curriculum(progress, config.p_final)
    p_max = probabilities(constraints, soft)  # (2)
    scale = learner.maxima.follow(rollout.margin)  # (3)
    delta = termination(rollout.margin, scale, p_max)  # (4)
    reward = rollout.reward + np.float32(config.reward_shift)
    metrics = violations(rollout, constraints)
    shares = {"termination": delta, "negative_rewards": reward < 0}
    metrics |= {k: torch.from_numpy(x.mean((1, 2))) for k, x in shares.items()}
    rollout.reward = np.maximum(reward * (1 - delta), 0)  # (5)
    batch = prepared(config, learner, rollout, 1 - delta)  # (6)
    if config.normalize_value:
        batch = renewed(learner.unit, batch)  # (7)
    metrics["explained_variance"] = batch.explained_variance()
    if config.anneal_lr:
        learner.lr = torch.full_like(learner.lr, config.learning_rate * (1 - progress))
    if config.batch_advantage:
        batch = batch._replace(advantage=standardise(batch.advantage))  # (8)
    metrics |= optimise(config, learner, batch, streams["batch"], step)
    policy.theta.copy_(learner.net.theta)
    metrics["learning_rate"] = learner.lr[:, 0]
    return metrics


def probabilities(constraints, soft: float) -> np.ndarray:
    """p_max of each column [K_c]: the constraint's own, 1 of hard ones, `soft` of the others."""
    found = []
    for each in constraints:
        usual = 1.0 if each.group == "hard" else soft
        p_max = usual if each.p_max is None else each.p_max
        found += [p_max] * each.columns
    return np.array(found, np.float32)


def prepared(
    config: Config, learner: Learner, rollout: Rollout, survival: np.ndarray
) -> RolloutBatch:
    """The rollout as a batch; V and its old value in their unit, the targets in the rewards'."""
    mean, std = (x[..., None].numpy() for x in learner.unit.unit())
    return make_batch(learner.policy, rollout, config, std, mean, survival)


def optimise(
    config: Config, learner: Learner, batch: RolloutBatch, rngs: list, step: Callable
) -> Metrics:
    """The epochs of an iteration; the last minibatch's metrics."""
    count, target = config.num_minibatches, config.adaptive_kl
    seen = [part.old_log_prob for part in batch.chunks(count)]
    for _ in range(config.epochs):
        rows = batch if target is not None else batch.shuffled(rngs)
        for i, part in enumerate(rows.chunks(count)):
            learner.net, metrics = step(learner.net, learner.lr, part)
            log_prob = metrics.pop("log_prob")
            if target is not None:
                kl = approximate_kl(log_prob - seen[i])
                seen[i] = log_prob
                learner.lr = adapted(learner.lr, kl[:, None], target)
    return metrics


def minibatch_step(
    policy: ActorCritic, config: Config, net: Net, lr: Tensor, batch: RolloutBatch
) -> Step:
    """One minibatch; `log_prob` [S, B] among the metrics is that of the policy before it. Pure."""
    options = {"max_norm": config.max_grad_norm, "eps": config.adam_eps}
    if not config.batch_advantage:
        batch = batch._replace(advantage=standardise(batch.advantage))
    return descend(net, lr, loss, policy, config, batch, **options)  # (9)


def adapted(lr: Tensor, kl: Tensor, target: float) -> Tensor:
    """lr of each seed after a minibatch that moved its policy by `kl`, both [S, 1]."""
    slower = (lr / LR_FACTOR).clamp(min=SLOWEST)
    faster = (lr * LR_FACTOR).clamp(max=FASTEST)
    lr = torch.where(kl > 2 * target, slower, lr)
    return torch.where(kl < target / 2, faster, lr)  # (10)


def loss(theta: Tensor, policy: ActorCritic, config: Config, batch: RolloutBatch) -> Loss:
    """L = L_pi - c_H H + c_V L_V [S], and its parts."""
    pi = policy.distribution(theta, batch.obs)
    value = policy.value(theta, batch.obs)
    log_prob = pi.log_prob(batch.action)
    log_ratio = log_prob - batch.old_log_prob
    surrogate = clipped_surrogate(log_ratio, batch.advantage, config.clip)
    error = value_loss(value, batch.old_value, batch.target, config.value_clip)
    entropy = pi.entropy().mean(1)
    total = surrogate - config.entropy_coef * entropy + config.value_coef * error
    metrics = {"policy_loss": surrogate, "value_loss": error}
    metrics |= {"entropy": entropy, "log_prob": log_prob}
    metrics["kl"] = approximate_kl(log_ratio)
    return total, metrics


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs, seeds = run.environments(config.num_envs), len(run.seeds)
    require_margins(envs)
    policy = ActorCritic.of(envs, config, run.streams["init"])
    require_rewards(envs, policy, config.reward_shift)
    scaler = RewardScaler.of(envs, config)
    columns = sum(each.columns for each in envs.constraints)
    maxima = Maxima(seeds, columns, config.scale_decay)
    lr = torch.full((seeds, 1), config.learning_rate)
    own = maxima, RunningStatistics(seeds, 1), lr
    learner = Learner(policy, Net.of(policy.theta), scaler, *own)
    collector = Collector(envs, policy, scaler)
    pure = partial(minibatch_step, policy, config)
    step = run.update(pure)
    run.begin(learner, train={"train": (config.iterations, config.rollout_size)})
    for k in run.stage("train"):
        collector.restart_at_boundary(run)
        metrics = iterate(config, learner, collector, run.streams, k, step)
        run.log(metrics, collector.seconds())
