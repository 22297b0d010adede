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
    (9)      fix-up: shuffle; for every minibatch that contains a state with KL > eps: (7) and (8)
             on beta mean_s KL only. Again, until no state of the M has KL > eps
    (10)     after `max_sweeps` of (9), bisect for the largest step from pi_old that is allowed

| symbol | variable | shape | meaning |
|---|---|---|---|
| theta | actor, critic | [S, P_actor], [S, P_critic] | the networks of pi and of V |
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

import torch
from torch import Tensor

from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RunningStatistics
from rlsuite.core.optim import Loss, Metrics, Net, adam_step, clip_grad_norm, gradient
from rlsuite.core.ranges import (
    Declared,
    require_bounded,
    require_choice,
    require_positive,
    require_whole,
    require_within,
)
from rlsuite.core.rollouts import (
    Collector,
    RolloutBatch,
    RolloutSettings,
    make_batch,
    require_on_policy,
    value_loss,
)

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(RolloutSettings):
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
    env_steps: int = 1_000_000  # of each seed; lr_0 decays over it [ours; code 10M]
    num_envs: int = 64  # N, environments per seed [code]
    num_steps: int = 128  # T, steps per environment and iteration [code]
    normalize_obs: bool = True  # running mean and std, clipped to +-10 [code]
    bootstrap_on_truncation: bool = True  # [code]
    distribution: str = "gaussian"  # of continuous actions: gaussian, or beta [code]
    hidden: tuple[int, ...] = (64, 64)  # widths of actor and of critic [code]
    activation: str = "tanh"  # tanh or relu [code]
    log_std_init: float = -0.5  # initial log sigma of a Gaussian, state-independent [code]

    def __post_init__(self) -> None:
        require_on_policy(self, "num_minibatches", "fixup_minibatches", least=1)
        require_whole(self, "epochs", "max_sweeps")
        require_positive(self, "max_kl", "target_coef", "learning_rate", "max_grad_norm")
        require_positive(self, "value_clip")
        require_within(self, 0, math.inf, "multiplier_init", "multiplier_lr", "value_coef")
        require_choice(self, "kl_stat", ("max", "mean"))
        require_choice(self, "fixup", ("epoch", "last", "off"))
        require_choice(self, "distribution", ("gaussian", "beta"))

    @property
    def declared(self) -> Declared:
        rows = self.rollout_size // max(self.num_minibatches, self.fixup_minibatches)
        rates = ("multiplier_lr", "learning_rate")
        counts = self.env_steps, self.gradient_steps
        schedules = ("learning_rate",)
        return Declared(self.hidden, rows, *counts, rates, self.num_envs, schedules=schedules)

    @property
    def gradient_steps(self) -> int:
        return self.iterations * self.epochs * self.num_minibatches


# ------------------------------------------------------------------------------------ 3. Presets

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "mujoco": {"*": {}},  # mujoco_fixpo_tianshou.py as exps_tianshou.py starts it, over 1M steps
    **{f"mujoco-{n}m": {"*": dict(env_steps=n * 1_000_000)} for n in (3, 10)},  # 10: the code's
    "classic": {"*": dict(env_steps=500_000, num_envs=8, num_minibatches=4, fixup_minibatches=2,
                          learning_rate=1e-3, normalize_obs=False)},  # ours
    "smoke": {"*": dict(env_steps=2048, num_envs=1, num_steps=128, num_minibatches=4, epochs=2,
                        fixup_minibatches=2, learning_rate=3e-3)},  # ours
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def surrogate_loss(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """L_pi = mean -A rho, without a clip. [S, B] -> [S]."""
    ratio = log_ratio.clamp(-20, 20).exp()
    return (-advantage * ratio).mean(1)


def statistic(kl: Tensor, stat: str) -> Tensor:
    """The KL that is compared with eps and drives beta: of one state, or mean. [S, B] -> [S]."""
    return kl.amax(1) if stat == "max" else kl.mean(1)


def state_kl(policy: ActorCritic, old: Tensor, actor: Tensor, obs: Tensor) -> Tensor:
    """KL(pi_old || pi_theta) of each state, [S, B]."""
    pi_old = policy.distribution(old, obs)
    return pi_old.kl(policy.distribution(actor, obs))


def exceeds(config: Config, kl: Tensor) -> Tensor:
    """Whether eps is exceeded: [S, B] -> [S] bool. Not >, since a NaN exceeds it, too."""
    return ~(statistic(kl, config.kl_stat) <= config.max_kl)


def loss(
    theta: Tensor, policy: ActorCritic, config: Config, batch: RolloutBatch, old: Tensor, beta
) -> Loss:
    """L = L_pi + c_V L_V + beta mean_s KL [S], and its parts."""
    pi = policy.distribution(theta, batch.obs)
    value = policy.value(theta, batch.obs)
    log_ratio = pi.log_prob(batch.action) - batch.old_log_prob
    kl = policy.distribution(old, batch.obs).kl(pi)
    surrogate = surrogate_loss(log_ratio, batch.advantage)
    error = value_loss(value, batch.old_value, batch.target, config.value_clip)
    total = surrogate + beta * kl.mean(1) + config.value_coef * error
    metrics = {"policy_loss": surrogate, "value_loss": error}
    metrics["entropy"] = pi.entropy().mean(1)
    metrics["kl_stat"] = statistic(kl, config.kl_stat)
    return total, metrics


OBJECTIVES = (surrogate_loss, value_loss, statistic)

# ------------------------------------------------------------------------------------- 6. Update


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ActorCritic
    actor: Net  # beta is its last column: the two always step together
    critic: Net  # which a fix-up step leaves alone
    targets: RunningStatistics  # of all R so far; sigma is their standard deviation


def iterate(
    config: Config, learner: Learner, collector: Collector, streams, k: int, step: Callable
) -> Metrics:
    """Iteration k, from 0: metrics [S]; step: `minibatch_step`."""
    rollout = collector.collect(config.num_steps, streams["action"])  # (1)
    policy, rngs = learner.policy, streams["batch"]
    _, sigma = learner.targets.unit()
    batch = make_batch(policy, rollout, config, sigma[..., None].numpy())  # (2)
    learner.targets.merge(batch.target[..., None].numpy())
    batch = batch._replace(target=batch.target / sigma)  # (3)
    lr = torch.tensor(config.learning_rate * (1 - k / config.iterations))  # (4)
    old = learner.actor.theta[:, :-1].clone()
    repairs = torch.zeros(2, len(old))
    for epoch in range(config.epochs):
        for part in batch.minibatches(config.num_minibatches, rngs):  # (5)
            nets = step(learner.actor, learner.critic, lr, old, part)
            learner.actor, learner.critic, metrics = nets
        last = epoch == config.epochs - 1
        if config.fixup == "epoch" or (config.fixup == "last" and last):
            repairs += fixup(config, learner, batch, old, lr, rngs)
    actor, beta = learner.actor.theta.tensor_split([-1], 1)
    policy.theta.copy_(torch.cat((actor, learner.critic.theta), 1))
    kl = state_kl(policy, old, actor, batch.obs)
    metrics |= {"kl": kl.mean(1), "max_kl": kl.amax(1), "multiplier": beta[:, 0]}
    metrics["states_above_limit"] = (kl > config.max_kl).float().sum(1)
    metrics["fixup_share"] = repairs[0] / (config.epochs * config.num_minibatches)
    metrics["bisections"] = repairs[1]
    metrics["explained_variance"] = batch.explained_variance()
    return metrics


def minibatch_step(
    policy: ActorCritic, config: Config, actor: Net, critic: Net, lr: Tensor, old: Tensor, batch
) -> tuple[Net, Net, Metrics]:
    """One step on L. Pure; old [S, P_actor]."""
    beta = actor.theta[:, -1]
    theta = torch.cat((actor.theta[:, :-1], critic.theta), 1)

    def objective(theta):
        return loss(theta, policy, config, batch, old, beta)

    grad, metrics = gradient(objective, theta)  # (6)
    grad, metrics["grad_norm"] = clip_grad_norm(grad, config.max_grad_norm)  # (7)
    of_actor, of_critic = grad.tensor_split([policy.actor_size], 1)
    kl_stat = metrics.pop("kl_stat")
    actor = primal_dual_step(config, actor, of_actor, kl_stat, lr)
    critic = Net(*adam_step(critic.theta, of_critic, critic.adam, lr))
    return actor, critic, metrics


def primal_dual_step(
    config: Config, actor: Net, grad: Tensor, kl_stat: Tensor, lr: Tensor, active=None
) -> Net:
    """A step of the actor and of beta, for the `active` [S]; `kl_stat` [S] is from before it."""
    dual = config.max_kl - config.target_coef * kl_stat
    beta_lr = torch.tensor([config.multiplier_lr])
    lrs = torch.cat((lr.expand(grad.shape[1]), beta_lr))
    grad = torch.cat((grad, dual[:, None]), 1)
    theta, adam = adam_step(actor.theta, grad, actor.adam, lrs, active)  # (8)
    theta, beta = theta.tensor_split([-1], 1)
    return Net(torch.cat((theta, beta.clamp(min=0)), 1), adam)


def fixup(
    config: Config, learner: Learner, batch: RolloutBatch, old: Tensor, lr: Tensor, rngs: list
) -> Tensor:
    """Phase two, for the seeds that need it: [2, S], steps taken and bisections (0, 1)."""
    policy, whole = learner.policy, learner.actor
    repairs, seeds = torch.zeros(2, len(old)), torch.arange(len(old))

    def exceeding(seeds):
        theta, obs = whole.theta[seeds], batch.obs[seeds]
        return seeds[exceeds(config, state_kl(policy, old[seeds], theta, obs))]

    for _ in range(config.max_sweeps):
        seeds = exceeding(seeds)
        if not len(seeds):
            return repairs
        own = rows(batch, seeds)
        actor = Net(whole.theta[seeds], rows(whole.adam, seeds))
        streams = [rngs[s] for s in seeds]
        for part in own.minibatches(config.fixup_minibatches, streams):
            actor, active = fixup_step(policy, config, actor, part.obs, old[seeds], lr)
            repairs[0, seeds] += active
        whole.theta[seeds] = actor.theta
        for moments, moved in zip(whole.adam, actor.adam, strict=True):
            moments[seeds] = moved
    seeds = exceeding(seeds)
    reached = whole.theta[seeds, :-1]
    allowed = bisect(policy, config, old[seeds], reached, batch.obs[seeds])
    whole.theta[seeds, :-1] = allowed
    repairs[1, seeds] = 1
    return repairs


def rows(parts: tuple, seeds: Tensor) -> tuple:
    """A named tuple of the rows of some seeds."""
    return type(parts)(*(x[seeds] for x in parts))


def fixup_step(
    policy: ActorCritic, config: Config, actor: Net, obs: Tensor, old: Tensor, lr: Tensor
) -> tuple[Net, Tensor]:
    """A step for the seeds with a state of `obs` above eps; which they are, [S]."""
    beta = actor.theta[:, -1]

    def penalty(theta):
        kl = state_kl(policy, old, theta, obs)
        return beta * kl.mean(1), {"kl_stat": statistic(kl, config.kl_stat)}

    grad, metrics = gradient(penalty, actor.theta[:, :-1])  # (9)
    grad, _ = clip_grad_norm(grad, config.max_grad_norm)
    kl_stat = metrics["kl_stat"]
    active = (kl_stat > config.max_kl).float()
    actor = primal_dual_step(config, actor, grad, kl_stat, lr, active)
    return actor, active


def bisect(policy: ActorCritic, config: Config, old: Tensor, actor: Tensor, obs: Tensor) -> Tensor:
    """The point furthest from `old` on the way to `actor` whose KL at `obs` is within eps."""
    low, high = torch.zeros(len(old), 1), torch.ones(len(old), 1)
    for _ in range(20):
        middle = (low + high) / 2
        kl = state_kl(policy, old, old + middle * (actor - old), obs)
        outside = exceeds(config, kl)[:, None]
        low = torch.where(outside, low, middle)
        high = torch.where(outside, middle, high)
    return torch.where(low > 0, old + low * (actor - old), old)  # (10)


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    kind = ActorCritic
    if config.distribution == "beta" and not envs.discrete:
        require_bounded(envs.action_low, envs.action_high, "use --distribution gaussian")
        kind = BetaActorCritic
    policy = kind.of(envs, config, run.streams["init"])
    beta = torch.full((len(run.seeds), 1), config.multiplier_init)
    actor, critic = policy.theta.tensor_split([policy.actor_size], 1)
    actor = Net.of(torch.cat((actor, beta), 1))
    targets = RunningStatistics(len(run.seeds), 1)
    learner = Learner(policy, actor, Net.of(critic), targets)
    collector = Collector(envs, policy)
    step = run.update(partial(minibatch_step, policy, config))
    run.begin(learner, train={"train": (config.iterations, config.rollout_size)})
    for k in run.stage("train"):
        collector.restart_at_boundary(run)
        metrics = iterate(config, learner, collector, run.streams, k, step)
        run.log(metrics, collector.seconds())
