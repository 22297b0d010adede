"""TRPO: Trust Region Policy Optimization (Schulman et al. 2015, arXiv 1502.05477).

For iterations k = 1..K, for S seeds at once, each with its own everything:

    (1)  run pi_old for T steps in N environments: M = N T transitions
    (2)  log pi_old(a|s), V(s), and by GAE(discount, lambda) advantages A and value targets R
    (3)  A <- (A - mean A) / (std A + 1e-8), over all M
    (4)  g = grad of L at theta_old, the surrogate to maximise
    (5)  x = F^-1 g by conjugate gradients, F the Hessian of the mean KL(pi_old || pi) plus damping
    (6)  s = x sqrt(2 delta / x^T F x): the quadratic model of the KL is delta
    (7)  for j = 0..J-1: theta = theta_old + b^j s, until KL <= kappa delta and L >= L_old;
         a seed that never gets there keeps theta_old, bit for bit
    for epoch = 1..E:
    (8)      shuffle the M transitions; for each minibatch:
    (9)          Adam on the squared error of V to R

| symbol | variable | shape | meaning |
|---|---|---|---|
| theta | actor, critic | [S, P_actor], [S, P_critic] | (4)-(7) know the actor alone |
| L | surrogate | [S] | mean rho A, zero at theta_old |
| KL | kl | [S] | mean over states of KL(pi_old || pi_theta), closed form |
| F v | fisher(v) | [S, P_actor] | Fisher-vector product, damping included |
| g, x, s | grad, direction, step | [S, P_actor] | as above |
| delta, kappa | max_kl, kl_slack | | size of the trust region; how far the line search lets it be |

One Fisher-vector product serves all seeds: the Hessian of a sum of independent terms is block
diagonal. Two conventions of the KL are in use: here, in the paper and in baselines it is summed
over the A action dimensions, in sb3-contrib it is their mean. So sb3-contrib's target 0.01 and
damping 0.1 are 0.01 A and 0.1 A here. Preset `sb3` has them, and its critic's Adam epsilon of 1e-5;
`mujoco` has the other numbers of sb3-contrib's benchmark, but 0.01 and 0.1 of the sum, and 1e-8.

Departures from sb3-contrib's TRPO, with preset `sb3`: the KL is the paper's KL(old || new) where
sb3-contrib measures KL(new || old), with the same Hessian at theta_old; conjugate gradients start
at zero, not at random numbers of 1e-4; a KL of exactly max_kl and an improvement of exactly zero
are accepted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rlsuite.core.conjugate import conjugate_gradients
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.optim import Loss, Metrics, Net, Step, descend, gradient
from rlsuite.core.ranges import Declared, require_positive, require_whole, require_within
from rlsuite.core.rollouts import (
    Collector,
    RolloutBatch,
    RolloutSettings,
    make_batch,
    require_on_policy,
    standardise,
)

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(RolloutSettings):
    max_kl: float = 0.01  # delta, nats, summed over actions, mean over states [paper; baselines]
    cg_iterations: int = 25  # conjugate-gradient steps [zoo MuJoCo; sb3-contrib 15; baselines 10]
    cg_damping: float = 0.1  # added to F's diagonal [baselines; sb3-contrib: 0.1 per action]
    fisher_every: int = 1  # every so many transitions in F [sb3-contrib; baselines 5]
    kl_slack: float = 1.0  # kappa, of the line search [sb3-contrib; baselines 1.5]
    backtrack: float = 0.8  # b, factor between tries [sb3-contrib; baselines 0.5]
    backtrack_tries: int = 10  # J [sb3-contrib; baselines]
    critic_lr: float = 1e-3  # Adam, constant [sb3-contrib; baselines]
    critic_epochs: int = 20  # E, passes over the rollout [zoo MuJoCo; sb3-contrib 10; baselines 5]
    critic_minibatches: int = 16  # per epoch, of 128 transitions each [sb3-contrib]
    adam_eps: float = 1e-8  # denominator's constant [baselines; PyTorch; sb3-contrib 1e-5]
    discount: float = 0.99  # gamma, per step [sb3-contrib; baselines]
    gae_lambda: float = 0.95  # lambda of GAE [sb3-contrib; baselines 0.98]
    env_steps: int = 1_000_000  # environment steps of each seed [sb3-contrib's benchmark]
    num_envs: int = 2  # N, environments per seed [zoo MuJoCo]
    num_steps: int = 1024  # T, steps per environment and iteration [zoo MuJoCo]
    normalize_obs: bool = True  # running mean and std, clipped to +-10 [zoo MuJoCo]
    normalize_reward: bool = True  # by the std of the discounted return, +-10 [zoo MuJoCo]
    bootstrap_on_truncation: bool = True  # [sb3-contrib; baselines: False]
    hidden: tuple[int, ...] = (64, 64)  # widths of actor and of critic [sb3-contrib; baselines 32]
    activation: str = "tanh"  # tanh or relu [sb3-contrib; baselines]
    orthogonal_init: bool = True  # gains sqrt 2, policy head 0.01, value head 1 [sb3-contrib]
    log_std_init: float = 0.0  # initial log sigma, state-independent [sb3-contrib; baselines]

    def __post_init__(self) -> None:
        require_on_policy(self, "critic_minibatches")
        require_whole(self, "cg_iterations", "backtrack_tries", "critic_epochs", "fisher_every")
        require_positive(self, "max_kl", "critic_lr", "adam_eps", "backtrack")
        require_within(self, 0, 1, "backtrack")
        require_within(self, 0, math.inf, "cg_damping", "kl_slack")
        if self.rollout_size < 2 * self.fisher_every:
            few = f"too few of {self.rollout_size} transitions"
            raise ValueError(f"fisher_every {self.fisher_every} leaves {few}; use 1")

    @property
    def declared(self) -> Declared:
        rows = self.rollout_size // self.critic_minibatches
        counts = self.env_steps, self.gradient_steps
        return Declared(self.hidden, rows, *counts, ("critic_lr",), self.num_envs)

    @property
    def gradient_steps(self) -> int:
        return self.iterations * self.critic_epochs * self.critic_minibatches

    @property
    def minibatches_per_call(self) -> int:
        return math.gcd(self.critic_minibatches, 4)  # fewer, larger compiled calls


# ------------------------------------------------------------------------------------ 3. Presets

# The numbers of rl-baselines3-zoo's trpo.yml, which sb3-contrib's table was made with
_TUNED = {"HalfCheetah": {"max_kl": 0.04}, "Swimmer": {"discount": 0.9999}}

# sb3-contrib's own defaults: what its zoo leaves out for classic control
_SB3 = dict(num_steps=1024, critic_minibatches=16, cg_damping=0.1, gae_lambda=0.95)
_NORMALISED = _SB3 | dict(normalize_obs=True, normalize_reward=True)


def _sb3(actions: int, kl: float = 0.01, **more) -> dict:
    """sb3-contrib's target `kl` and damping 0.1, means over `actions` dimensions, as sums."""
    return dict(max_kl=kl * actions, cg_damping=actions / 10, adam_eps=1e-5, **more)


# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "mujoco": {"*": {}, **_TUNED},  # the zoo's, but for the unit of the KL: see above
    **{f"mujoco-{n}m": {"*": dict(env_steps=n * 1_000_000), **_TUNED} for n in (3, 10)},
    "mujoco-baselines": {  # openai/baselines trpo_mpi, defaults.mujoco()
        "*": dict(num_envs=1, num_steps=1024, cg_iterations=10, gae_lambda=0.98, fisher_every=5,
                  kl_slack=1.5, backtrack=0.5, critic_epochs=5, hidden=(32, 32),
                  bootstrap_on_truncation=False),
    },
    "sb3": {  # trpo.yml in sb3-contrib's own unit; the last row is not in it: ours
        "Ant": _sb3(8), "HalfCheetah": _sb3(6, kl=0.04), "Hopper": _sb3(3), "Walker2d": _sb3(6),
        "Swimmer": _sb3(2, discount=0.9999), "Humanoid": _sb3(17, env_steps=2_000_000),
        "InvertedPendulum": _sb3(1), "InvertedDoublePendulum": _sb3(1), "Reacher": _sb3(2),
    },
    "classic": {  # trpo.yml, with CartPole's for what it lacks; one action: one convention
        "*": dict(env_steps=100_000, num_steps=512, critic_minibatches=2, cg_iterations=15,
                  cg_damping=1e-3, gae_lambda=0.98, adam_eps=1e-5, normalize_obs=False,
                  normalize_reward=False),
        "Acrobot": dict(critic_epochs=10, **_NORMALISED), "MountainCar": _NORMALISED,
        "Pendulum": dict(discount=0.9, critic_epochs=15, **_SB3),  # not gSDE
        "MountainCarContinuous": {**_NORMALISED, "env_steps": 50_000, "num_steps": 2048,
                                  "critic_minibatches": 32, "critic_epochs": 10},  # not gSDE
    },
    "smoke": {"*": dict(env_steps=2048, num_envs=1, num_steps=128, critic_minibatches=4,
                        critic_epochs=2, cg_iterations=5)},  # ours
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def surrogate(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """L = mean rho A, equation 14, to maximise. [S, B] -> [S]."""
    return (log_ratio.clamp(-20, 20).exp() * advantage).mean(1)


def value_loss(value: Tensor, target: Tensor) -> Tensor:
    """Squared error of V. [S, B] -> [S]."""
    return (value - target).square().mean(1)


def critic_error(theta: Tensor, policy: ActorCritic, batch: RolloutBatch) -> Loss:
    """The squared error of V [S], and the same as a metric."""
    error = value_loss(policy.value(theta, batch.obs), batch.target)
    return error, {"value_loss": error}


OBJECTIVES = (surrogate, value_loss)

# ------------------------------------------------------------------------------------- 6. Update


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ActorCritic
    critic: Net  # the actor needs no optimiser
    scaler: RewardScaler


def iterate(
    config: Config, learner: Learner, collector: Collector, streams, product, step
) -> Metrics:
    """One iteration: metrics [S].

    `product` and `step` are `fisher_vector_product` and `critic_steps`, compiled or not.
    """
    rollout = collector.collect(config.num_steps, streams["action"])  # (1)
    policy = learner.policy
    batch = make_batch(policy, rollout, config)  # (2)
    batch = batch._replace(advantage=standardise(batch.advantage))  # (3)
    actor = policy.theta[:, : policy.actor_size].clone()
    actor, metrics = policy_step(policy, config, actor, batch, product)
    errors = fit_critic(config, learner, batch, streams["batch"], step)
    policy.theta.copy_(torch.cat((actor, learner.critic.theta), 1))
    metrics = metrics | errors
    metrics["explained_variance"] = batch.explained_variance()
    return metrics


def policy_step(
    policy: ActorCritic, config: Config, old: Tensor, batch: RolloutBatch, product: Callable
) -> tuple[Tensor, Metrics]:
    """The natural gradient step from `old` [S, P_actor] on the whole batch, and metrics [S]."""
    pi_old = policy.distribution(old, batch.obs)

    def measures(actor):
        pi = policy.distribution(actor, batch.obs)
        log_ratio = pi.log_prob(batch.action) - batch.old_log_prob
        gain = surrogate(log_ratio, batch.advantage)
        return gain, {"surrogate": gain, "kl": pi_old.kl(pi).mean(1)}

    grad, before = gradient(measures, old)  # (4)
    fisher = partial(product, old, batch.obs)
    direction = conjugate_gradients(fisher, grad, config.cg_iterations)  # (5)
    curvature = (direction * fisher(direction)).sum(1, keepdim=True)
    length = (2 * config.max_kl / curvature.clamp(min=1e-20)).sqrt()
    step = direction * length  # (6)
    new, metrics = line_search(config, old, step, before, measures)  # (7)
    metrics["entropy"] = pi_old.entropy().mean(1)
    metrics["expected_improvement"] = (grad * step).sum(1)
    return new, metrics


def fisher_vector_product(
    policy: ActorCritic, config: Config, old: Tensor, obs: Tensor, v: Tensor
) -> Tensor:
    """(F + damping I) v, [S, P_actor] -> [S, P_actor]; F is the Hessian of mean KL(pi_old || pi).

    F = J^T H J: J the Jacobian of the distribution's parameters, H the Hessian of the KL in them.
    Seeds share nothing, so the Hessian of their sum is block diagonal: one product serves them all.
    The vector-Jacobian product (vjp) of a vjp is J v, so that one pass through the network gives
    both J v and J^T u.
    """
    obs = obs[:, :: config.fisher_every]
    family = type(policy.distribution(old, obs[:, :2]))  # of distributions; two rows tell it

    def parameters(actor):
        return tuple(vars(policy.distribution(actor, obs)).values())

    def kl(new):
        return family(*at_old).kl(family(*new)).mean(1).sum()

    at_old, vjp = torch.func.vjp(parameters, old)
    _, vjp_of_vjp = torch.func.vjp(vjp, at_old)
    jvp = vjp_of_vjp((v,))
    _, hessian_times = torch.func.jvp(torch.func.grad(kl), (at_old,), jvp)
    return vjp(hessian_times)[0] + config.cg_damping * v


def line_search(
    config: Config, old: Tensor, step: Tensor, before: Metrics, measures: Callable
) -> tuple[Tensor, Metrics]:
    """Each row's first acceptable point, or `old`, and `measures` there; `before`: at `old`."""
    new, found, tries = old.clone(), dict(before), torch.zeros(len(old))
    accepted = tries > 0
    for j in range(config.backtrack_tries):
        trial = old + config.backtrack**j * step
        _, now = measures(trial)
        tries = tries + ~accepted
        within = now["kl"] <= config.kl_slack * config.max_kl  # false for NaN, too
        better = now["surrogate"] >= before["surrogate"]
        first = within & better & trial.isfinite().all(1) & ~accepted
        new = torch.where(first[:, None], trial, new)
        found = {name: torch.where(first, now[name], found[name]) for name in found}
        accepted = accepted | first
        if accepted.all():
            break
    return new, found | {"accepted": accepted.float(), "line_search_tries": tries}


def fit_critic(
    config: Config, learner: Learner, batch: RolloutBatch, rngs: list, step: Callable
) -> Metrics:
    """Move V towards the targets of the whole batch; the last minibatch's metrics."""
    calls = config.critic_minibatches // config.minibatches_per_call
    for part in batch.minibatches(calls, rngs, config.critic_epochs):  # (8)
        learner.critic, metrics = step(learner.critic, part)
    return metrics


def critic_steps(policy: ActorCritic, config: Config, critic: Net, part: RolloutBatch) -> Step:
    """A few minibatches of regression in one call. Pure."""
    lr, eps = config.critic_lr, config.adam_eps
    for batch in part.chunks(config.minibatches_per_call):
        critic, metrics = descend(critic, lr, critic_error, policy, batch, eps=eps)  # (9)
    return critic, metrics


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    policy = ActorCritic.of(envs, config, run.streams["init"])
    scaler = RewardScaler.of(envs, config)
    learner = Learner(policy, Net.of(policy.theta[:, policy.actor_size :]), scaler)
    collector = Collector(envs, policy, scaler)
    product = run.update(partial(fisher_vector_product, policy, config))
    step = run.update(partial(critic_steps, policy, config))
    run.begin(learner, train={"train": (config.iterations, config.rollout_size)})
    for _ in run.stage("train"):
        collector.restart_at_boundary(run)
        metrics = iterate(config, learner, collector, run.streams, product, step)
        run.log(metrics, collector.seconds())
