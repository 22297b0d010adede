"""PPO-Lagrangian: Benchmarking Safe Exploration in Deep Reinforcement Learning (Ray et al. 2019).

In the form of OmniSafe (PPOLag), whose numbers most papers compare with. For iterations k = 1..K,
for S seeds at once, each with its own everything, C constraints J_i <= d_i, and lambda = 0.001:

    (1)  run pi_old for T steps in N environments: M = N T transitions
    (2)  J <- mean undiscounted cost of the last 100 finished episodes
    (3)  lambda <- max(0, Adam step up sum_i lambda_i (J_i - d_i)); no episode finished: it stays
    (4)  by GAE(discount, gae_lambda) A^r, A^c_i and targets R^r, R^c_i, each with its own critic
    (5)  A^r <- (A^r - mean) / (std + 1e-8), A^c_i <- A^c_i - mean, over all M
    (6)  A <- (A^r - sum_i lambda_i A^c_i) / (1 + sum_i lambda_i)
    for epoch = 1..E:
    (7)      a seed with KL(pi_old || pi) > 0.02 over all M sits out the rest, its critics, too
    (8)      shuffle the M transitions; for each minibatch:
    (9)          Adam on the squared errors of V^r, V^c_i to their targets + 0.001 |parameters|^2
    (10)         Adam on the clipped surrogate of A, with the learning rate lr_0 (1 - (k-1)/K)

| symbol | variable | shape | meaning |
|---|---|---|---|
| lambda | multiplier | [S, C] | prices of the costs, never below 0 |
| J, d | cost, limit | [S, C], [C] | of finished episodes, raw; NaN where none has finished |
| A^r, A^c | advantage | [S, M, 1 + C] | the reward's in the first column |
| R^r, R^c | target | [S, M, 1 + C] | TD(lambda) targets of the critics |
| V^r, V^c | heads, critics | [S, B, 1 + C] | one network each |
| rho | log_ratio | [S, B] | pi(a|s) / pi_old(a|s), as a logarithm |

Departures from OmniSafe (15603dd): the bound on the gradient's norm is over all critics jointly, as
one Adam takes them; rollouts go on where the last one ended, and an episode counts when it
finishes; the log ratio is clamped to +-20, so that no loss overflows; environments restart at every
checkpoint, so that a resumed run repeats exactly. Costs are not normalised, as theirs are not here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rlsuite.core.constraints import ValueHeads, cost_per_step, make_batch_of_heads
from rlsuite.core.limits import EpisodeCosts
from rlsuite.core.networks import ActorCritic
from rlsuite.core.optim import Loss, Metrics, Net, descend
from rlsuite.core.ranges import Declared, require_positive, require_whole, require_within
from rlsuite.core.rollouts import (
    Collector,
    RolloutBatch,
    RolloutSettings,
    clipped_surrogate,
    require_on_policy,
    squared_error,
    standardise,
)

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(RolloutSettings):
    multiplier_lr: float = 0.035  # of Adam on lambda: about its step [OmniSafe]
    multiplier_init: float = 0.001  # lambda of the first iteration, before its step [OmniSafe]
    cost_window: int = 100  # finished episodes whose mean cost moves lambda [OmniSafe]
    clip: float = 0.2  # half-width of the ratio's interval [OmniSafe]
    epochs: int = 40  # E, passes over the rollout at most [OmniSafe]
    num_minibatches: int = 32  # per epoch, of 64 transitions each [OmniSafe]
    target_kl: float = 0.02  # nats over the whole rollout that end a seed's epochs [OmniSafe]
    actor_lr: float = 3e-4  # lr_0 of Adam, decays to 0 over the run [OmniSafe]
    critic_lr: float = 3e-4  # of Adam, constant [OmniSafe]
    critic_decay: float = 1e-3  # on the critics' squared parameters [OmniSafe]
    max_grad_norm: float = 40.0  # of the actor, and of the critics [OmniSafe]
    discount: float = 0.99  # gamma, per step, of rewards and of costs [OmniSafe]
    gae_lambda: float = 0.95  # lambda of GAE, of rewards and of costs [OmniSafe]
    env_steps: int = 1_000_000  # environment steps of each seed [ours; OmniSafe: 10M]
    num_envs: int = 1  # N, environments per seed [OmniSafe]
    num_steps: int = 2048  # T; 500 steps of lambda in 1M [ours; OmniSafe: 20,000, 500 in 10M]
    normalize_obs: bool = True  # running mean and std, clipped to +-10 [OmniSafe]
    hidden: tuple[int, ...] = (64, 64)  # widths of actor and of each critic [OmniSafe]
    activation: str = "tanh"  # tanh, relu or elu [OmniSafe]
    orthogonal_init: bool = False  # else as torch.nn.Linear starts [OmniSafe]
    log_std_init: float = 0.0  # initial log sigma, state-independent [OmniSafe]

    def __post_init__(self) -> None:
        require_on_policy(self, "num_minibatches")
        require_whole(self, "epochs", "cost_window")
        require_positive(self, "multiplier_lr", "clip", "target_kl", "actor_lr", "critic_lr")
        require_positive(self, "max_grad_norm")
        require_within(self, 0, math.inf, "multiplier_init", "critic_decay")

    @property
    def declared(self) -> Declared:
        rows = self.rollout_size // self.num_minibatches
        rates = ("multiplier_lr", "actor_lr", "critic_lr")
        counts = self.env_steps, self.gradient_steps
        schedules = ("actor_lr",)
        return Declared(self.hidden, rows, *counts, rates, self.num_envs, schedules=schedules)

    @property
    def gradient_steps(self) -> int:
        return self.iterations * self.epochs * self.num_minibatches

    @property
    def minibatches_per_call(self) -> int:
        return math.gcd(self.num_minibatches, 4)  # fewer, larger compiled calls


# ------------------------------------------------------------------------------------ 3. Presets

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "velocity": {"*": {}},  # the defaults: OmniSafe's, with a tenth of its steps an iteration
    "omnisafe": {  # OmniSafe PPOLag.yaml; minibatches of 80, since 64 do not divide 20,000
        "*": dict(env_steps=10_000_000, num_steps=20_000, num_minibatches=250),
    },
    "smoke": {"*": dict(env_steps=2048, num_steps=128, num_minibatches=4, epochs=2)},  # ours
}

# --------------------------------------------------------------------------------- 5. Objectives


def multiplier_loss(multiplier: Tensor, excess: Tensor) -> Tensor:
    """-sum_i lambda_i (J_i - d_i): its descent raises what is over. [S, C] -> [S]."""
    return -(multiplier * excess).sum(1)


def mixed_advantage(advantage: Tensor, multiplier: Tensor) -> Tensor:
    """(A^r - sum_i lambda_i A^c_i) / (1 + sum_i lambda_i). [S, M, 1 + C], [S, C] -> [S, M]."""
    reward, cost = advantage[..., 0], advantage[..., 1:]
    price = multiplier[:, None]
    return (reward - (price * cost).sum(-1)) / (1 + price.sum(-1))


def scaled_advantage(advantage: Tensor) -> Tensor:
    """Rewards to mean 0 and std 1, costs to mean 0 alone. [S, M, 1 + C] -> the same."""
    reward = standardise(advantage[..., 0])
    cost = advantage[..., 1:]
    centred = cost - cost.mean(1, keepdim=True)
    return torch.cat((reward[..., None], centred), -1)


OBJECTIVES = (multiplier_loss, clipped_surrogate, squared_error)

# ------------------------------------------------------------------------------------- 6. Update


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ActorCritic
    actor: Net
    critics: Net
    multiplier: Net
    costs: EpisodeCosts


def iterate(
    config: Config, learner: Learner, collector: Collector, streams, k: int, step: Callable
) -> Metrics:
    """Iteration k, from 0: metrics [S]; step: `minibatch_steps`."""
    rollout = collector.collect(config.num_steps, streams["action"])  # (1)
    policy = learner.policy
    learner.costs.add(rollout.episodes)
    cost, limit = learner.costs.mean(), learner.costs.limit  # (2)
    learner.multiplier = ascend(config, learner.multiplier, cost, limit)  # (3)
    multiplier, critics = learner.multiplier.theta, learner.critics.theta
    returns = config.discount, config.gae_lambda
    batch = make_batch_of_heads(policy, critics, rollout, *returns)  # (4)
    variance = batch.explained_variance()
    advantage = scaled_advantage(batch.advantage)  # (5)
    mixed = mixed_advantage(advantage, multiplier)  # (6)
    batch = batch._replace(advantage=mixed)
    metrics = optimise(config, learner, batch, streams["batch"], k, step)
    value = learner.critics.theta[:, : policy.critic_layout.size]
    policy.theta.copy_(torch.cat((learner.actor.theta, value), 1))
    metrics["explained_variance"] = variance[:, 0]
    metrics["multiplier"] = multiplier.sum(1)
    metrics["cost_per_step"] = cost_per_step(rollout)
    return metrics


def ascend(config: Config, multiplier: Net, cost: Tensor, limit: Tensor) -> Net:
    """lambda after one step of Adam; a seed whose cost [S, C] is not known keeps its own."""
    active = cost.isfinite().all(1).float()
    excess = (cost - limit).nan_to_num()
    lr = config.multiplier_lr
    moved, _ = descend(multiplier, lr, priced, excess, active=active)
    return moved._replace(theta=moved.theta.clamp(min=0))


def priced(theta: Tensor, excess: Tensor) -> Loss:
    return multiplier_loss(theta, excess), {}


def optimise(
    config: Config, learner: Learner, batch: RolloutBatch, rngs: list, k: int, step: Callable
) -> Metrics:
    """The epochs of an iteration: moves actor and critics; the last minibatch's metrics."""
    policy = learner.policy
    lr = torch.tensor(config.actor_lr * (1 - k / config.iterations))
    old = policy.distribution(policy.theta, batch.obs)
    active = torch.ones(len(policy.theta))
    kl = torch.zeros(len(active))
    calls = config.num_minibatches // config.minibatches_per_call
    for _ in range(config.epochs):
        active = active * (kl <= config.target_kl)  # (7)
        for part in batch.minibatches(calls, rngs):  # (8)
            nets = learner.actor, learner.critics
            *nets, metrics = step(*nets, lr, active, part)
            learner.actor, learner.critics = nets
        new = policy.distribution(learner.actor.theta, batch.obs)
        kl = old.kl(new).mean(1)
    return metrics | {"kl": kl}


def minibatch_steps(
    policy: ActorCritic,
    config: Config,
    actor: Net,
    critics: Net,
    lr: Tensor,
    active: Tensor,
    part: RolloutBatch,
) -> tuple[Net, Net, Metrics]:
    """A few minibatches in one call, which a compiler may fuse. Pure."""
    options = {"max_norm": config.max_grad_norm, "active": active}
    critic_lr = config.critic_lr
    for batch in part.chunks(config.minibatches_per_call):
        given = policy, config, batch
        critics, errors = descend(critics, critic_lr, critic_loss, *given, **options)  # (9)
        actor, metrics = descend(actor, lr, actor_loss, *given, **options)  # (10)
    errors["critic_grad_norm"] = errors.pop("grad_norm")
    return actor, critics, metrics | errors


def critic_loss(theta: Tensor, policy: ActorCritic, config: Config, batch: RolloutBatch) -> Loss:
    values = ValueHeads(policy).values(theta, batch.obs)
    error = squared_error(values, values, batch.target, None).sum(1)
    decay = config.critic_decay * theta.square().sum(1)
    return error + decay, {"value_loss": error}


def actor_loss(theta: Tensor, policy: ActorCritic, config: Config, batch: RolloutBatch) -> Loss:
    pi = policy.distribution(theta, batch.obs)
    log_ratio = pi.log_prob(batch.action) - batch.old_log_prob
    surrogate = clipped_surrogate(log_ratio, batch.advantage, config.clip)
    entropy = pi.entropy().mean(1)
    return surrogate, {"policy_loss": surrogate, "entropy": entropy}


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    costs = EpisodeCosts(envs, config.cost_window)
    seeds, count = costs.last.shape[0], len(costs.limit)
    init = run.streams["init"]
    policy = ActorCritic.of(envs, config, init)
    actor = Net.of(policy.theta[:, : policy.actor_size])
    heads = ValueHeads(policy).initial(1 + count, init, config.orthogonal_init)
    multiplier = Net.of(torch.full((seeds, count), config.multiplier_init))
    learner = Learner(policy, actor, Net.of(heads), multiplier, costs)
    collector = Collector(envs, policy)
    pure = partial(minibatch_steps, policy, config)
    step = run.update(pure)
    run.begin(learner, train={"train": (config.iterations, config.rollout_size)})
    for k in run.stage("train"):
        collector.restart_at_boundary(run)
        metrics = iterate(config, learner, collector, run.streams, k, step)
        run.log(metrics, collector.seconds())
