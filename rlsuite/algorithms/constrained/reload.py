"""ReLOAD: Reinforcement Learning with Optimistic Ascent-Descent (Moskovitz et al. 2023).

arXiv 2302.01275. The policy maximises, multipliers mu >= 0 minimise v_0 + sum_i mu_i (v_i - c_i),
each by its gradient plus the change since the one before, so that the last iterate converges, not
only the average. The sampled form, for iterations k = 0..K-1, S seeds at once, each with its own
everything; costs are negative rewards, and all values are means per step:

    (1)  run pi_k for T steps in N environments: M = N T transitions
    (2)  g_k <- v_i - c_i of the episodes that finished; none finished: mu stays, with its memory
    (3)  mu_hat <- max(0, mu_k + b (mu_k - mu_{k-1})), the multiplier that comes next
    (4)  by GAE(discount, gae_lambda) A_0..A_C and targets R_0..R_C, each with its own critic
    (5)  A <- A_0 + sum_i mu_hat_i A_i, not divided by its std: at the saddle it is all noise
    repeat m times, on all M at once:
    (6)      Adam on -mean rho A + mean KL(pi || pi_k) / eta
    for epoch = 1..E:
    (7)      shuffle the M transitions; for each minibatch:
    (8)          Adam on the squared errors of V_0..V_C to their targets
    (9)  mu_{k+1} <- max(0, mu_k - eta_mu ((1 + b) g_k - b g_{k-1})), plain: Adam would cycle

The exact form, `solve`, for processes that `envs.constrained.tabular` evaluates:

    logits <- logits + eta ((1 + b) q_k - b q_{k-1}), q_k = q_0 + sum_i mu_i q_i of pi_k and mu_k
    mu as in (9), with the exact v; both players move at once

| symbol | variable | shape | meaning |
|---|---|---|---|
| mu, mu_hat | multiplier, predicted | [S, C] | of this iteration, and of the next as foreseen |
| g | slack | [S, C] | v_i - c_i: below 0 the constraint is broken |
| b | optimism | | 1: ReLOAD, 0: gradient descent-ascent |
| A_i | advantage | [S, M, 1 + C] | the task's reward in the first column |
| eta, eta_mu | step_size, multiplier_lr | | of mirror descent, of plain descent |
| rho, KL | log_ratio, kl | [S, M] | against pi_k; the new policy first |

No code was released and the paper's settings are not known: these are ours. The policy foresees the
multiplier alone, (3), not the critics' change: in exact runs that converges as well.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.core.constraints import ValueHeads, cost_per_step, make_batch_of_heads, slack
from rlsuite.core.limits import limits
from rlsuite.core.networks import ActorCritic
from rlsuite.core.optim import Loss, Metrics, Net, Step, descend
from rlsuite.core.ranges import Declared, require_positive, require_whole, require_within
from rlsuite.core.rollouts import (
    Collector,
    RolloutBatch,
    RolloutSettings,
    clipped_surrogate,
    require_on_policy,
    squared_error,
)

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(RolloutSettings):
    optimism: float = 1.0  # b of both players; 0 is gradient descent-ascent [paper]
    multiplier_lr: float = 0.3  # eta_mu of plain descent [ours: 0.1 to 0.3 on means per step]
    multiplier_init: float = 0.0  # mu of the first iteration [ours]
    step_size: float = 1.0  # eta of mirror descent, on advantages per step [ours]
    clip: float | None = None  # PPO's eps in place of the KL; it cycles; None: off [ours]
    policy_steps: int = 20  # m, full-batch steps per iteration [ours; MDPO: 10]
    actor_lr: float = 3e-4  # of Adam, constant [MDPO's code]
    critic_lr: float = 3e-4  # of Adam, constant [MDPO's code]
    critic_epochs: int = 5  # E, passes over the rollout [MDPO's code]
    critic_minibatches: int = 16  # per epoch, of 128 transitions each [MDPO's code]
    max_grad_norm: float = 0.5  # of the actor [MDPO's code]
    discount: float = 0.99  # gamma, per step, of rewards and of costs [ours]
    gae_lambda: float = 0.95  # lambda of GAE, of rewards and of costs [ours]
    env_steps: int = 1_000_000  # environment steps of each seed [ours]
    num_envs: int = 1  # N, environments per seed [ours]
    num_steps: int = 2048  # T, steps per environment and iteration [ours]
    normalize_obs: bool = True  # running mean and std, clipped to +-10 [ours]
    hidden: tuple[int, ...] = (64, 64)  # widths of actor and of each critic [ours]
    activation: str = "tanh"  # tanh, relu or elu [ours]
    orthogonal_init: bool = True  # gains sqrt 2, policy head 0.01, value head 1 [ours]
    log_std_init: float = 0.0  # initial log sigma, state-independent [ours]

    def __post_init__(self) -> None:
        require_on_policy(self, "critic_minibatches")
        require_within(self, 0, 0.999999, "discount")  # its means per step have a horizon
        require_whole(self, "policy_steps", "critic_epochs")
        require_positive(self, "multiplier_lr", "actor_lr", "critic_lr")
        require_positive(self, "step_size", "clip", "max_grad_norm")
        require_within(self, 0, math.inf, "optimism", "multiplier_init")

    @property
    def declared(self) -> Declared:
        rows = self.rollout_size // self.critic_minibatches
        rates = ("multiplier_lr", "actor_lr", "critic_lr")
        counts = self.env_steps, self.gradient_steps
        return Declared(self.hidden, rows, *counts, rates, self.num_envs)

    @property
    def gradient_steps(self) -> int:
        return self.iterations * self.critic_epochs * self.critic_minibatches


# ------------------------------------------------------------------------------------ 3. Presets

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "velocity": {"*": {}},  # the defaults
    "smoke": {"*": dict(env_steps=2048, num_steps=128, policy_steps=3, critic_minibatches=4,
                        critic_epochs=2)},  # ours
}  # fmt: skip

# -------------------------------------------------------------------------------- 4. Networks


class Multiplier(NamedTuple):
    """mu_k, mu_{k-1} and g_{k-1}, each [S, C]; before the first step g is NaN."""

    value: Tensor
    before: Tensor
    slack: Tensor

    @staticmethod
    def of(value: Tensor) -> "Multiplier":
        """One that has taken no step."""
        return Multiplier(value, value, torch.full_like(value, math.nan))


# --------------------------------------------------------------------------------- 5. Objectives


def optimistic(now: Tensor, before: Tensor, optimism) -> Tensor:
    """(1 + b) x_k - b x_{k-1}; x_k where there is no x_{k-1}, which is NaN. Any shape."""
    before = torch.where(before.isnan(), now, before)
    return (1 + optimism) * now - optimism * before


def mix(value: Tensor, multiplier: Tensor) -> Tensor:
    """x_0 + sum_i mu_i x_i. [S, ..., 1 + C], [S, C] -> [S, ...]."""
    price = multiplier.view(len(multiplier), *[1] * (value.dim() - 2), -1)
    return value[..., 0] + (price * value[..., 1:]).sum(-1)


def proximal(log_ratio: Tensor, advantage: Tensor, kl: Tensor, step_size: float) -> Tensor:
    """-mean rho A + mean KL(pi || pi_k) / eta, to minimise. [S, B] -> [S]."""
    gain = log_ratio.clamp(-20, 20).exp() * advantage
    return kl.mean(1) / step_size - gain.mean(1)


OBJECTIVES = (proximal, clipped_surrogate, squared_error)

# ------------------------------------------------------------------------------------- 6. Update


def predict(multiplier: Multiplier, optimism) -> Tensor:
    """mu_hat = max(0, mu_k + b (mu_k - mu_{k-1})), [S, C]."""
    return optimistic(multiplier.value, multiplier.before, optimism).clamp(min=0)


def solve(
    evaluate: Callable, threshold: Tensor, logits: Tensor, multiplier: Tensor, players: Tensor,
    iterations: int, predicted: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The exact form: v [K, S, 1 + C] and mu [K, S, C] of every iterate, the first included.

    evaluate(pi [S, X, A]) gives (v, q) of policies, and threshold [C] is what v is held to.
    logits [S, X, A], multiplier [S, C]; players [S, 4]: eta, eta_mu, b of the policy, b of mu.
    `predicted`: the policy foresees the multiplier alone, (3), as the sampled form does.
    """
    mu, before = Multiplier.of(multiplier), torch.full_like(logits, math.nan)
    step_size, lr, policys, own = players[..., None].unbind(1)
    found = []
    for _ in range(iterations):
        v, q = evaluate(logits.softmax(-1))
        found.append((v, mu.value))
        price = predict(mu, policys) if predicted else mu.value
        ahead = mixed = mix(q.movedim(1, -1), price)
        if not predicted:
            ahead, before = optimistic(mixed, before, policys[..., None]), mixed
        logits = logits + step_size[..., None] * ahead
        mu = descent(mu, v[:, 1:] - threshold, lr, own)
    values, multipliers = zip(*found, strict=True)
    return torch.stack(values), torch.stack(multipliers)


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ActorCritic
    actor: Net
    critics: Net
    multiplier: Multiplier


def iterate(
    config: Config, learner: Learner, collector: Collector, streams, steps: list[Callable]
) -> Metrics:
    """One iteration: metrics [S]; steps: policy, critics."""
    rollout = collector.collect(config.num_steps, streams["action"])  # (1)
    policy = learner.policy
    known = slack(collector.envs, rollout.episodes, config.discount)  # (2)
    predicted = predict(learner.multiplier, config.optimism)  # (3)
    given = learner.critics.theta, rollout, config.discount, config.gae_lambda
    batch = make_batch_of_heads(policy, *given, 1 - config.discount)  # (4)
    variance = batch.explained_variance()
    advantage = batch.advantage.clone()
    advantage[..., 1:].neg_()  # costs are negative rewards
    batch = batch._replace(advantage=mix(advantage, predicted))  # (5)
    old = learner.actor.theta.clone()
    for _ in range(config.policy_steps):
        learner.actor, metrics = steps[0](learner.actor, old, batch)
    metrics |= fit_critics(config, learner, batch, streams["batch"], steps[1])
    move = config.multiplier_lr, config.optimism
    learner.multiplier = descent(learner.multiplier, known, *move)
    value = learner.critics.theta[:, : policy.critic_layout.size]
    policy.theta.copy_(torch.cat((learner.actor.theta, value), 1))
    metrics["explained_variance"] = variance[:, 0]
    metrics["multiplier"] = learner.multiplier.value.sum(1)
    metrics["cost_per_step"] = cost_per_step(rollout)
    return metrics


def policy_step(
    policy: ActorCritic, config: Config, actor: Net, old: Tensor, batch: RolloutBatch
) -> Step:
    """One step with all M transitions; `old` [S, P_actor] are pi_k's parameters."""

    def loss(theta):
        pi = policy.distribution(theta, batch.obs)
        log_ratio = pi.log_prob(batch.action) - batch.old_log_prob
        kl = pi.kl(policy.distribution(old, batch.obs))
        if config.clip is None:
            total = proximal(log_ratio, batch.advantage, kl, config.step_size)
        else:
            total = clipped_surrogate(log_ratio, batch.advantage, config.clip)
        entropy = pi.entropy().mean(1)
        return total, {"policy_loss": total, "kl": kl.mean(1), "entropy": entropy}

    return descend(actor, config.actor_lr, loss, max_norm=config.max_grad_norm)  # (6)


def fit_critics(
    config: Config, learner: Learner, batch: RolloutBatch, rngs: list, step: Callable
) -> Metrics:
    """Move V_0..V_C towards their targets; the last minibatch's metrics."""
    count = config.critic_minibatches
    for part in batch.minibatches(count, rngs, config.critic_epochs):  # (7)
        learner.critics, metrics = step(learner.critics, part)
    return metrics


def critic_step(policy: ActorCritic, config: Config, critics: Net, batch: RolloutBatch) -> Step:
    """One minibatch of regression. Pure."""
    return descend(critics, config.critic_lr, critic_loss, policy, batch)  # (8)


def critic_loss(theta: Tensor, policy: ActorCritic, batch: RolloutBatch) -> Loss:
    values = ValueHeads(policy).values(theta, batch.obs)
    error = squared_error(values, values, batch.target, None).sum(1)
    return error, {"value_loss": error}


def descent(multiplier: Multiplier, slack: Tensor, lr, optimism) -> Multiplier:
    """The multipliers after a plain step; where `slack` [S, C] is NaN they stay as they are."""
    step = optimistic(slack, multiplier.slack, optimism)
    value = (multiplier.value - lr * step).clamp(min=0)  # (9)
    moved = Multiplier(value, multiplier.value, slack)
    known = slack.isfinite()
    pairs = zip(moved, multiplier, strict=True)
    return Multiplier(*(torch.where(known, new, old) for new, old in pairs))


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    seeds, count = len(run.seeds), len(limits(envs))
    init = run.streams["init"]
    policy = ActorCritic.of(envs, config, init)
    actor = Net.of(policy.theta[:, : policy.actor_size])
    heads = ValueHeads(policy).initial(1 + count, init, config.orthogonal_init)
    mu = Multiplier.of(torch.full((seeds, count), config.multiplier_init))
    learner = Learner(policy, actor, Net.of(heads), mu)
    collector = Collector(envs, policy)
    functions = policy_step, critic_step
    pure = (partial(each, policy, config) for each in functions)
    steps = list(map(run.update, pure))
    run.begin(learner, train={"train": (config.iterations, config.rollout_size)})
    for _ in run.stage("train"):
        collector.restart_at_boundary(run)
        metrics = iterate(config, learner, collector, run.streams, steps)
        run.log(metrics, collector.seconds())
