"""MDPO: Mirror Descent Policy Optimization (Tomar et al. 2022, arXiv 2005.09814), on-policy form.

For iterations k = 0..K-1, for S seeds at once, each with its own everything:

    (1)  run pi_k for T steps in N environments: M = N T transitions
    (2)  log pi_k(a|s), V_k(s), and by GAE(discount, lambda) advantages A and value targets R
    (3)  t_k <- 1 - (k-1)/K, the step size of mirror descent: from 1 + 1/K down to 2/K
    (4)  A <- (A - mean A) / (std A + 1e-8), over all M
    repeat m times, on all M at once:
    (5)      theta <- Adam(theta, grad, lr), grad of -Psi, first scaled by min(1, 0.5 / |grad|) over
             the actor alone; Psi = mean rho A - (1/t_k) mean KL(pi_theta || pi_k)
    for epoch = 1..E:
    (6)      shuffle the M transitions; for each minibatch:
    (7)          Adam on the clipped squared error of V to R, which nothing else clips

| symbol | variable | shape | meaning |
|---|---|---|---|
| theta | actor, critic | [S, P_actor], [S, P_critic] | the networks of pi and of V |
| rho | log_ratio | [S, M] | pi_theta(a|s) / pi_k(a|s), as a logarithm |
| KL | kl | [S, M] | KL(pi_theta || pi_k) in closed form, the new policy first |
| 1/t_k | kl_coef | | grows from about 1 to K/2: a run's length is part of the algorithm |
| m | policy_steps | | gradient steps on the whole batch, never on minibatches |
| A, R | advantage, target | [S, M] | GAE advantage and TD(lambda) value target |

Departures from the official code (manantomar/Mirror-Descent-Policy-Optimization, mdpo_on), whose
settings these are: a time limit is bootstrapped from the true final observation (theirs are not);
1e-8 is added to std A; environments restart at every checkpoint, so that a resumed run repeats
exactly; the log ratio is clamped to +-20, so that no loss overflows. The paper lists a decaying
learning rate among its tricks, the code keeps it constant: as here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.optim import Loss, Metrics, Net, Step, descend
from rlsuite.core.ranges import Declared, require_positive, require_whole
from rlsuite.core.rollouts import (
    Collector,
    RolloutBatch,
    RolloutSettings,
    make_batch,
    require_on_policy,
    squared_error,
    standardise,
)

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(RolloutSettings):
    policy_steps: int = 10  # m, full-batch steps per iteration [paper: best; code's example]
    actor_lr: float = 3e-4  # of Adam, constant [code]
    max_grad_norm: float = 0.5  # of the actor [code]
    adam_eps: float = 1e-5  # denominator's constant, actor [code]
    critic_lr: float = 3e-4  # of Adam, constant [code]
    critic_epochs: int = 5  # E, passes over the rollout [code]
    critic_minibatches: int = 16  # per epoch, of 128 transitions each [code; paper recalled]
    critic_adam_eps: float = 1e-8  # denominator's constant, critic [stable-baselines, recalled]
    value_clip: float | None = 0.2  # V within this of V_k; None: off [code; paper's trick]
    discount: float = 0.99  # gamma, per step [paper; code]
    gae_lambda: float = 0.95  # lambda of GAE [code; the paper's recalled]
    env_steps: int = 1_000_000  # of each seed; t_k ends with it [ours; paper and code: 10M]
    num_envs: int = 1  # N, environments per seed [code]
    num_steps: int = 2048  # T, steps per environment and iteration [paper; code]
    normalize_obs: bool = True  # running mean and std, clipped to +-10 [code; paper's trick]
    normalize_reward: bool = True  # by the std of the discounted return, +-10 [code; paper's trick]
    bootstrap_on_truncation: bool = True  # [ours, as SB3; code: False]
    hidden: tuple[int, ...] = (64, 64)  # widths of actor and of critic [paper; code]
    activation: str = "tanh"  # tanh or relu [code]
    orthogonal_init: bool = True  # gains sqrt 2, policy head 0.01, value head 1 [code]
    log_std_init: float = 0.0  # initial log sigma, state-independent [code, recalled]

    def __post_init__(self) -> None:
        require_on_policy(self, "critic_minibatches")
        require_whole(self, "policy_steps", "critic_epochs")
        require_positive(self, "actor_lr", "critic_lr", "max_grad_norm", "value_clip")
        require_positive(self, "adam_eps", "critic_adam_eps")

    @property
    def declared(self) -> Declared:
        rows = self.rollout_size // self.critic_minibatches
        rates = ("actor_lr", "critic_lr")
        counts = self.env_steps, self.gradient_steps
        schedules = ("step_size",)
        return Declared(self.hidden, rows, *counts, rates, self.num_envs, schedules=schedules)

    @property
    def gradient_steps(self) -> int:
        return self.iterations * self.critic_epochs * self.critic_minibatches

    @property
    def minibatches_per_call(self) -> int:
        return math.gcd(self.critic_minibatches, 4)  # fewer, larger compiled calls


# ------------------------------------------------------------------------------------ 3. Presets

# Section 5.2 of the paper: "-M" has neither the code-level tricks nor GAE
_MINIMAL = dict(value_clip=None, normalize_obs=False, normalize_reward=False,
                orthogonal_init=False, gae_lambda=1.0)  # fmt: skip

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "mujoco": {"*": {}},  # the paper's "loaded" settings over 1M steps
    **{f"mujoco-{n}m": {"*": dict(env_steps=n * 1_000_000)} for n in (3, 10)},  # 10: the paper's
    "mujoco-minimal": {"*": _MINIMAL},
    **{
        f"mujoco-minimal-{n}m": {"*": dict(env_steps=n * 1_000_000, **_MINIMAL)} for n in (3, 10)
    },
    "classic": {  # ours: the rollouts of PPO's preset, minibatches of 128
        "*": dict(env_steps=500_000, num_envs=4, num_steps=128, critic_minibatches=4,
                  normalize_obs=False, normalize_reward=False),
    },
    "smoke": {"*": dict(env_steps=2048, num_steps=128, policy_steps=3, critic_minibatches=4,
                        critic_epochs=2)},  # ours
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def surrogate(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """mean rho A, the linearised return. [S, B] -> [S]."""
    return (log_ratio.clamp(-20, 20).exp() * advantage).mean(1)


def mirror_descent(log_ratio: Tensor, advantage: Tensor, kl: Tensor, kl_coef: float) -> Tensor:
    """Psi = mean rho A - (1/t_k) mean KL(pi_theta || pi_k), to maximise. [S, B] -> [S]."""
    return surrogate(log_ratio, advantage) - kl_coef * kl.mean(1)


def step_size(k: int, iterations: int) -> float:
    """t_k = 1 - (k - 1)/K, greater than 0 for every k = 0..K-1."""
    return 1 - (k - 1) / iterations


def critic_error(theta: Tensor, policy: ActorCritic, config: Config, batch: RolloutBatch) -> Loss:
    """The clipped squared error of V [S], and the same as a metric."""
    value = policy.value(theta, batch.obs)
    clip = config.value_clip
    error = squared_error(value, batch.old_value, batch.target, clip)
    return error, {"value_loss": error}


OBJECTIVES = (surrogate, mirror_descent, squared_error)

# ------------------------------------------------------------------------------------- 6. Update


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ActorCritic
    actor: Net
    critic: Net
    scaler: RewardScaler


def iterate(
    config: Config, learner: Learner, collector: Collector, streams, k: int, steps: list
) -> Metrics:
    """Iteration k, from 0: metrics [S]."""
    ascend, regress = steps  # `policy_step` and `critic_steps`, compiled or not
    rollout = collector.collect(config.num_steps, streams["action"])  # (1)
    policy = learner.policy
    batch = make_batch(policy, rollout, config)  # (2)
    kl_coef = torch.tensor(1 / step_size(k, config.iterations))  # (3)
    batch = batch._replace(advantage=standardise(batch.advantage))  # (4)
    old = learner.actor.theta.clone()
    for _ in range(config.policy_steps):
        learner.actor, metrics = ascend(learner.actor, old, kl_coef, batch)
    errors = fit_critic(config, learner, batch, streams["batch"], regress)
    theta = torch.cat((learner.actor.theta, learner.critic.theta), 1)
    policy.theta.copy_(theta)
    metrics = metrics | errors
    metrics["explained_variance"] = batch.explained_variance()
    metrics["kl_coef"] = kl_coef.expand(len(old))
    return metrics


def policy_step(
    policy: ActorCritic, config: Config, actor: Net, old: Tensor, kl_coef, batch
) -> Step:
    """One ascent step on Psi with all M transitions; `old` [S, P_actor] are pi_k's parameters."""

    def loss(theta):
        pi = policy.distribution(theta, batch.obs)
        log_ratio = pi.log_prob(batch.action) - batch.old_log_prob
        kl = pi.kl(policy.distribution(old, batch.obs))
        psi = mirror_descent(log_ratio, batch.advantage, kl, kl_coef)
        entropy = pi.entropy().mean(1)
        return -psi, {"psi": psi, "kl": kl.mean(1), "entropy": entropy}

    lr, eps, max_norm = config.actor_lr, config.adam_eps, config.max_grad_norm
    return descend(actor, lr, loss, max_norm=max_norm, eps=eps)  # (5)


def fit_critic(
    config: Config, learner: Learner, batch: RolloutBatch, rngs: list, step: Callable
) -> Metrics:
    """Move V towards the targets of the whole batch; the last minibatch's metrics."""
    calls = config.critic_minibatches // config.minibatches_per_call
    for part in batch.minibatches(calls, rngs, config.critic_epochs):  # (6)
        learner.critic, metrics = step(learner.critic, part)
    return metrics


def critic_steps(policy: ActorCritic, config: Config, critic: Net, part: RolloutBatch) -> Step:
    """A few minibatches of regression in one call. Pure."""
    lr, eps = config.critic_lr, config.critic_adam_eps
    for batch in part.chunks(config.minibatches_per_call):
        critic, metrics = descend(critic, lr, critic_error, policy, config, batch, eps=eps)  # (7)
    return critic, metrics


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    policy = ActorCritic.of(envs, config, run.streams["init"])
    scaler = RewardScaler.of(envs, config)
    actor, critic = policy.theta.tensor_split([policy.actor_size], 1)
    learner = Learner(policy, Net.of(actor), Net.of(critic), scaler)
    collector = Collector(envs, policy, scaler)
    ascend = run.update(partial(policy_step, policy, config))
    regress = run.update(partial(critic_steps, policy, config))
    stages = {"train": (config.iterations, config.rollout_size)}
    run.begin(learner, train=stages)
    for k in run.stage("train"):
        collector.restart_at_boundary(run)
        metrics = iterate(config, learner, collector, run.streams, k, [ascend, regress])
        run.log(metrics, collector.seconds())
