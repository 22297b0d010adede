"""FixPO: Guaranteed Trust Region via Two-Phase KL Penalization (Zentner et al., 2312.05405).

For iterations k = 1..K, for S seeds at once, each with its own everything:

    (1)  run pi_old for T steps in N environments: M = N T transitions
    (2)  log pi_old(a|s), V_old(s), and by GAE(discount, lambda) A and R in units of the raw reward
    (3)  R <- R / sigma; then sigma^2 <- running variance of all R so far, for the next iteration
    (4)  lr <- lr_0 (1 - (k-1)/K)
    for epoch = 1..E:
    (5)      shuffle the M transitions; for each minibatch:
    (6)          grad of L = L_pi + c_V L_V + beta mean_s KL
    (7)          grad <- grad min(1, 0.5 / |grad|), over actor and critic jointly
    (8)          theta <- Adam(theta, grad, lr); beta <- max(0, Adam(beta, eps - C max_s KL, lr_b))
    (9)      fix-up, until no state of the M has KL > eps: shuffle; each minibatch in which one has
             takes (7) and (8) on beta mean_s KL alone
    (10)     after `max_sweeps` of (9), bisect for the largest step from pi_old that is allowed

| symbol | variable | shape | meaning |
|---|---|---|---|
| theta | theta | [S, P] | all parameters: the actor's columns first, then the critic's |
| KL | kl | [S, B] | KL(pi_old || pi_theta) of each state, in closed form |
| eps | max_kl | | limit on the KL of every state of the batch, certified after each epoch |
| C | target_coef | | the first phase aims at eps / C, so that few fix-up steps are needed |
| beta | beta | [S, 1] | weight of the penalty: dual ascent, by Adam, never reset |
| A, R | advantage, target | [S, B] | A in raw reward units, not normalised; R in units of sigma |
| sigma | scale | [S, 1] | what V is multiplied with to be in units of the reward |

Departures from the official code (uscresl/stabilized-rl, fixpo_tianshou.py), whose launcher's
settings these are: the loop of sweeps has an end, (10), and uses of it are counted; actions are
clipped to the box itself, not to [-1, 1] and then scaled; evaluation is deterministic; environments
restart at every checkpoint; the log ratio is clamped to +-20; the last layers start orthogonal with
gain 0.01 for the policy and 1 for V, where the code's have 0.01 sqrt 2 and sqrt 2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import EPSILON, RewardScaler, RunningStatistics
from rlsuite.core.optim import AdamState, adam_step, clip_grad_norm, gradient
from rlsuite.core.ranges import require_bounded
from rlsuite.core.rollouts import Batch, Collector, experience, value_loss

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
    value_coef: float = 0.2  # c_V on half the squared error [code: 0.1, without the half]
    value_clip: float | None = 0.2  # V within this of V_old, in units of sigma; None: off [code]
    max_grad_norm: float = 0.5  # joint norm of actor and critic [code]
    discount: float = 0.99  # gamma, per step [code]
    gae_lambda: float = 0.95  # lambda of GAE [code]
    total_steps: int = 1_000_000  # of each seed; lr_0 decays over it [ours; code 10M]
    num_envs: int = 64  # N, environments per seed [code]
    num_steps: int = 128  # T, steps per environment and iteration [code]
    normalize_obs: bool = True  # running mean and std, clipped to +-10 [code]
    bootstrap_on_truncation: bool = True  # [code]
    distribution: str = "gaussian"  # of continuous actions: gaussian, or beta [code]
    hidden: tuple[int, ...] = (64, 64)  # widths of actor and of critic [code]
    activation: str = "tanh"  # tanh or relu [code]
    log_std_init: float = -0.5  # initial log sigma of a Gaussian, state-independent [code]

    def __post_init__(self) -> None:
        m, counts = self.batch_size, (self.num_minibatches, self.fixup_minibatches)
        if min(m, *counts, self.epochs, self.max_sweeps, *self.hidden) < 1:
            raise ValueError(f"{self}: envs, steps, epochs, sweeps, widths must be 1 or more")
        for b in counts:
            if m % b:
                raise ValueError(f"{b} minibatches must split {m} steps; use {math.gcd(m, b)}")
        if self.total_steps < m:
            raise ValueError(f"total_steps {self.total_steps} is less than one rollout; use {m}")
        positive = ("max_kl", "target_coef", "learning_rate", "max_grad_norm")
        for name in (*positive, "value_clip"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
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


CHOICES = {"kl_stat": ("max", "mean"), "fixup": ("epoch", "last", "off")}
CHOICES |= {"distribution": ("gaussian", "beta"), "activation": ("tanh", "relu")}

# ------------------------------------------------------------------------------------ 3. Presets

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "mujoco": {"*": {}},  # mujoco_fixpo_tianshou.py as exps_tianshou.py starts it, over 1M steps
    **{f"mujoco-{n}m": {"*": dict(total_steps=n * 1_000_000)} for n in (3, 10)},  # 10: the code's
    "classic": {"*": dict(total_steps=500_000, num_envs=8, num_minibatches=4, fixup_minibatches=2,
                          learning_rate=1e-3, normalize_obs=False)},  # ours
    "smoke": {"*": dict(total_steps=2048, num_envs=1, num_steps=128, num_minibatches=4, epochs=2,
                        fixup_minibatches=2, learning_rate=3e-3)},  # ours
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def surrogate_loss(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """L_pi = mean -A rho, without a clip. [S, B] -> [S]."""
    return (-advantage * log_ratio.clamp(-20, 20).exp()).mean(1)


def statistic(kl: Tensor, stat: str) -> Tensor:
    """What eps limits and beta heeds: the largest KL of a state, or the mean. [S, B] -> [S]."""
    return kl.amax(1) if stat == "max" else kl.mean(1)


OBJECTIVES = (surrogate_loss, value_loss, statistic)

# ------------------------------------------------------------------------------------- 6. Update


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ActorCritic
    beta: Tensor  # [S, 1]
    adam: AdamState  # of the actor and, in the last column, of beta: they always step together
    critic_adam: AdamState  # which a fix-up step leaves alone
    targets: RunningStatistics  # of all R so far; sigma is their standard deviation
    scaler: RewardScaler  # switched off: rewards stay raw


def iterate(
    config: Config, learner: Learner, collector: Collector, streams, k: int, step: Callable
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Iteration k, from 0: metrics [S], and seconds per kind of work; step: `minibatch_step`."""
    policy, start = learner.policy, perf_counter()
    rollout = collector.collect(config.num_steps, streams["action"])  # (1)
    how = (config.discount, config.gae_lambda, config.bootstrap_on_truncation)
    scale = np.sqrt(learner.targets.var.numpy() + EPSILON)
    batch = experience(policy, rollout, *how, scale[..., None].astype(np.float32))  # (2)
    learner.targets.merge(batch.target[..., None].numpy())
    batch = batch._replace(target=batch.target / torch.from_numpy(scale).float())  # (3)
    lr = torch.tensor(config.learning_rate * (1 - k / config.iterations))  # (4)
    old, repairs = policy.theta[:, : policy.actor_size].clone(), torch.zeros(2, len(scale))
    for epoch in range(config.epochs):
        for minibatch in batch.shuffled(streams["batch"]).chunks(config.num_minibatches):  # (5)
            state = (policy.theta, learner.beta, learner.adam, learner.critic_adam)
            state, metrics = step(state, lr, old, minibatch)
            theta, learner.beta, learner.adam, learner.critic_adam = state
            policy.theta.copy_(theta)
        if config.fixup == "epoch" or (config.fixup == "last" and epoch == config.epochs - 1):
            repairs += fixup(config, learner, batch, old, lr, streams["batch"])
    kl = state_kl(policy, old, policy.theta, batch.obs)
    metrics |= {"kl": kl.mean(1), "max_kl": kl.amax(1), "multiplier": learner.beta[:, 0]}
    metrics |= {"states_above_limit": (kl > config.max_kl).float().sum(1)}
    metrics |= {"fixup_share": repairs[0] / (config.epochs * config.num_minibatches)}
    metrics |= {"bisections": repairs[1], "explained_variance": batch.explained_variance()}
    collecting = sum(rollout.seconds.values())
    return metrics, rollout.seconds | {"learning": perf_counter() - start - collecting}


def minibatch_step(
    policy: ActorCritic, config: Config, state: tuple, lr: Tensor, old: Tensor, minibatch: Batch
) -> tuple[tuple, dict[str, Tensor]]:
    """One step on L. Pure; state: theta [S, P], beta [S, 1], their Adams; old [S, P_actor]."""
    (theta, beta, adam, critic_adam), everyone = state, torch.ones(len(old))
    grad, metrics = gradient(partial(loss, policy, config, minibatch, old, beta), theta)  # (6)
    grad, metrics["grad_norm"] = clip_grad_norm(grad, config.max_grad_norm)  # (7)
    (actor, critic), grads = (x.tensor_split([policy.actor_size], 1) for x in (theta, grad))
    pair = (grads[0], metrics.pop("kl_stat"))
    actor, beta, adam = descend(config, actor, beta, adam, *pair, lr, everyone)
    critic, critic_adam = adam_step(critic, grads[1], critic_adam, lr, everyone)
    return (torch.cat((actor, critic), 1), beta, adam, critic_adam), metrics


def loss(
    policy: ActorCritic, config: Config, batch: Batch, old: Tensor, beta: Tensor, theta: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = L_pi + c_V L_V + beta mean_s KL [S], and its parts."""
    pi, value = policy.distribution(theta, batch.obs), policy.value(theta, batch.obs)
    log_ratio, advantage = pi.log_prob(batch.action) - batch.old_log_prob, batch.advantage
    kl = policy.distribution(old, batch.obs).kl(pi)
    metrics = {
        "policy_loss": surrogate_loss(log_ratio, advantage),
        "value_loss": value_loss(value, batch.old_value, batch.target, config.value_clip),
        "entropy": pi.entropy().mean(1),
        "kl_stat": statistic(kl, config.kl_stat),
    }
    total = metrics["policy_loss"] + beta[:, 0] * kl.mean(1)
    return total + config.value_coef * metrics["value_loss"], metrics


def descend(
    config: Config, actor, beta, adam: AdamState, grad, kl_stat, lr, active
) -> tuple[Tensor, Tensor, AdamState]:
    """A step of the actor and of beta, for the `active` [S]; `kl_stat` [S] is from before it."""
    both, dual = torch.cat((actor, beta), 1), config.max_kl - config.target_coef * kl_stat
    lrs = torch.cat((lr.expand(actor.shape[1]), torch.tensor([config.multiplier_lr])))
    grads = torch.cat((grad, dual[:, None]), 1)
    both, adam = adam_step(both, grads, adam, lrs, active)  # (8)
    return both[:, :-1], both[:, -1:].clamp(min=0), adam


def state_kl(policy: ActorCritic, old: Tensor, actor: Tensor, obs: Tensor) -> Tensor:
    """KL(pi_old || pi_theta) of each state, [S, B]."""
    return policy.distribution(old, obs).kl(policy.distribution(actor, obs))


def fixup(
    config: Config, learner: Learner, batch: Batch, old: Tensor, lr: Tensor, rngs: list
) -> Tensor:
    """Phase two, for the seeds (`rows`) that need it: [2, S], steps taken and bisections (0, 1)."""
    policy, repairs = learner.policy, torch.zeros(2, len(old))
    actors, rows = policy.theta[:, : policy.actor_size], torch.arange(len(old))

    def penalty(old, obs, beta, actor) -> tuple[Tensor, dict[str, Tensor]]:
        kl = state_kl(policy, old, actor, obs)
        return beta[:, 0] * kl.mean(1), {"kl_stat": statistic(kl, config.kl_stat)}

    def violated(rows: Tensor, actor: Tensor) -> Tensor:  # not <=: a NaN is a violation
        kl = state_kl(policy, old[rows], actor, batch.obs[rows])
        return ~(statistic(kl, config.kl_stat) <= config.max_kl)

    for _ in range(config.max_sweeps):
        rows = rows[violated(rows, actors[rows])]
        if not len(rows):
            return repairs
        shuffled = Batch(*(x[rows] for x in batch)).shuffled([rngs[row] for row in rows])
        actor, beta = actors[rows], learner.beta[rows]
        adam = AdamState(*(x[rows] for x in learner.adam))
        for minibatch in shuffled.chunks(config.fixup_minibatches):
            grad, parts = gradient(partial(penalty, old[rows], minibatch.obs, beta), actor)  # (9)
            active = (parts["kl_stat"] > config.max_kl).float()
            pair = (clip_grad_norm(grad, config.max_grad_norm)[0], parts["kl_stat"])
            actor, beta, adam = descend(config, actor, beta, adam, *pair, lr, active)
            repairs[0, rows] += active
        moved = zip((actors, learner.beta, *learner.adam), (actor, beta, *adam), strict=True)
        for whole, new in moved:
            whole[rows] = new
    rows = rows[violated(rows, actors[rows])]
    low, high, way = torch.zeros(len(rows), 1), torch.ones(len(rows), 1), actors[rows] - old[rows]
    for _ in range(20):
        middle = (low + high) / 2
        outside = violated(rows, old[rows] + middle * way)[:, None]
        low, high = torch.where(outside, low, middle), torch.where(outside, middle, high)
    actors[rows] = torch.where(low > 0, old[rows] + low * way, old[rows])  # (10)
    repairs[1, rows] = 1
    return repairs


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    kind = ActorCritic if envs.discrete or config.distribution == "gaussian" else BetaActorCritic
    if kind is BetaActorCritic:
        require_bounded(envs.action_low, envs.action_high, "use --distribution gaussian")
    policy = kind(
        envs.obs_size, envs.action_size, envs.discrete, rngs=run.streams["init"],
        hidden=config.hidden, activation=config.activation, normalize_obs=config.normalize_obs,
        log_std_init=config.log_std_init,
    )  # fmt: skip
    scaler = RewardScaler(len(run.seeds), config.num_envs, config.discount, enabled=False)
    beta = torch.full((len(run.seeds), 1), config.multiplier_init)
    actor, critic = policy.theta.tensor_split([policy.actor_size], 1)
    adams = AdamState.zeros(torch.cat((actor, beta), 1)), AdamState.zeros(critic)
    learner = Learner(policy, beta, *adams, RunningStatistics(len(run.seeds), 1), scaler)
    collector = Collector(envs, policy, scaler)
    gradient_steps = config.iterations * config.epochs * config.num_minibatches
    step = run.compiled(partial(minibatch_step, policy, config), gradient_steps)
    for k in run.iterations(config.iterations, config.batch_size, learner):
        if run.at_boundary:  # a checkpoint is an episode boundary: fresh environments
            collector.restart(run.streams.integers("environment", config.num_envs))
        run.log(*iterate(config, learner, collector, run.streams, k, step))
