"""PPO: Proximal Policy Optimization Algorithms (Schulman et al. 2017, arXiv 1707.06347).

For iterations k = 1..K, for S seeds at once, each with its own everything:

    (1)  run pi_old for T steps in N environments: M = N T transitions
    (2)  log pi_old(a|s), V_old(s), and by GAE(discount, lambda) advantages A and value targets R
    (3)  lr <- lr_0 (1 - (k-1)/K)
    for epoch = 1..E:
    (4)      a seed whose last minibatch had KL > target_kl sits out the rest
    (5)      shuffle the M transitions; for each minibatch:
    (6)          A <- (A - mean A) / (std A + 1e-8)
    (7)          theta <- Adam(theta, grad, lr), grad of L = L_pi - c_H H + c_V L_V, first scaled by
                 min(1, 0.5 / |grad|), over actor and critic jointly;
                 L_pi = mean max(-A rho, -A clip(rho, 1 - eps, 1 + eps))

| symbol | variable | shape | meaning |
|---|---|---|---|
| theta | net.theta | [S, P] | all parameters of actor and critic, a row per seed |
| s, a | obs, action | [S, B, O], [S, B, A] or [S, B] | normalised observation, raw action |
| log pi_old | old_log_prob | [S, B] | summed over action dimensions |
| rho | ratio | [S, B] | pi_theta(a|s) / pi_old(a|s) |
| A, R | advantage, target | [S, B] | GAE advantage and TD(lambda) value target |
| V, V_old | value, old_value | [S, B] | in units of the scaled reward |
| eps | clip | | half-width of the ratio's interval |
| H | entropy | [S] | mean over the minibatch, nats |
| c_H, c_V | entropy_coef, value_coef | | weights of entropy and of the value loss |
| beta | kl_coef | | weight of the penalty where `objective` is "kl" |

Departures from CleanRL's ppo_continuous_action.py and baselines' ppo2, whose settings these are:
a time limit is bootstrapped from the true final observation (`bootstrap_on_truncation=False` is
theirs); environments restart at every checkpoint, so that a resumed run repeats exactly; the log
ratio is clamped to +-20, so that no loss overflows; the observation statistics see what the policy
acts on, not final observations. The penalty of `objective="kl"` has a fixed weight (the paper's
third variant) and estimates the KL from the samples, without bias, where the paper integrates it.
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
from rlsuite.core.ranges import Declared, require_choice, require_positive, require_whole
from rlsuite.core.rollouts import (
    Collector,
    RolloutBatch,
    RolloutSettings,
    approximate_kl,
    clipped_surrogate,
    make_batch,
    require_on_policy,
    standardise,
    value_loss,
)

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(RolloutSettings):
    objective: str = "clip"  # clip [paper; ppo2; CleanRL], kl [paper] or drift [arXiv 2210.05639]
    clip: float = 0.2  # eps of the ratio's interval [paper; ppo2; CleanRL]
    kl_coef: float = 3.0  # weight of objective="kl"'s penalty [paper: best of 0.3, 1, 3 and 10]
    epochs: int = 10  # E, passes over the rollout [paper; ppo2; CleanRL]
    num_minibatches: int = 32  # per epoch, of 64 transitions each [paper; ppo2; CleanRL]
    learning_rate: float = 3e-4  # lr_0 of Adam [paper; ppo2; CleanRL]
    anneal_lr: bool = True  # linearly to lr_0/K [ppo2; CleanRL; constant in the paper]
    discount: float = 0.99  # gamma, per step [paper; ppo2; CleanRL]
    gae_lambda: float = 0.95  # lambda of GAE [paper; ppo2; CleanRL]
    value_clip: float | None = 0.2  # V within this of V_old; None: off [ppo2; CleanRL; paper: off]
    value_coef: float = 0.5  # c_V on half the squared error [ppo2; CleanRL; SB3 has no half]
    entropy_coef: float = 0.0  # c_H [paper and ppo2 on MuJoCo; CleanRL]
    max_grad_norm: float = 0.5  # joint norm of actor and critic [ppo2; CleanRL]
    adam_eps: float = 1e-5  # denominator's constant [ppo2; CleanRL; PyTorch's default is 1e-8]
    normalize_advantage: bool = True  # per minibatch [ppo2; CleanRL; SB3]
    target_kl: float | None = None  # KL estimate, nats, that ends a seed's epochs [CleanRL: off]
    env_steps: int = 1_000_000  # environment steps of each seed [paper; CleanRL]
    num_envs: int = 1  # N, environments per seed [ppo2 on MuJoCo; CleanRL]
    num_steps: int = 2048  # T, steps per environment and iteration [paper; ppo2; CleanRL]
    normalize_obs: bool = True  # running mean and std, clipped to +-10 [ppo2; CleanRL]
    normalize_reward: bool = True  # by the std of the discounted return, +-10 [ppo2; CleanRL]
    bootstrap_on_truncation: bool = True  # [SB3; Spinning Up; ppo2 and CleanRL: False]
    hidden: tuple[int, ...] = (64, 64)  # widths of actor and of critic [paper; ppo2; CleanRL]
    activation: str = "tanh"  # tanh or relu [paper; ppo2; CleanRL]
    orthogonal_init: bool = True  # gains sqrt 2, policy head 0.01, value head 1 [ppo2; CleanRL]
    log_std_init: float = 0.0  # initial log sigma, state-independent [ppo2; CleanRL]

    def __post_init__(self) -> None:
        least = 2 if self.normalize_advantage else 1  # transitions: a std needs two
        require_on_policy(self, "num_minibatches", least=least)
        require_whole(self, "epochs")
        require_positive(self, "clip", "kl_coef", "learning_rate", "max_grad_norm", "adam_eps")
        require_positive(self, "value_clip", "target_kl")
        require_choice(self, "objective", SURROGATES)
        if self.target_kl is not None and self.epochs == 1:
            raise ValueError(f"target_kl {self.target_kl} is inert with epochs 1; use 2 or more")

    @property
    def declared(self) -> Declared:
        rows = self.rollout_size // self.num_minibatches
        counts = self.env_steps, self.gradient_steps
        rates = ("learning_rate",)
        annealed = rates if self.anneal_lr else ()
        return Declared(self.hidden, rows, *counts, rates, self.num_envs, schedules=annealed)

    @property
    def gradient_steps(self) -> int:
        return self.iterations * self.epochs * self.num_minibatches

    @property
    def minibatches_per_call(self) -> int:
        return math.gcd(self.num_minibatches, 4)  # fewer, larger compiled calls


# ------------------------------------------------------------------------------------ 3. Presets

_RAW = dict(normalize_obs=False, normalize_reward=False)
_W = dict(hidden=(256, 256), activation="relu", orthogonal_init=False, log_std_init=-2.0)


def _zoo(n, t, batch, gamma, lam, lr, c_h, clip, epochs, norm, c_v, million=1, **more) -> dict:
    """A row of rl-baselines3-zoo's ppo.yml: SB3 halves no squared error and cuts large batches."""
    return dict(num_envs=n, num_steps=t, num_minibatches=max(1, n * t // batch), discount=gamma,
                gae_lambda=lam, learning_rate=lr, entropy_coef=c_h, clip=clip, epochs=epochs,
                max_grad_norm=norm, value_coef=2 * c_v, value_clip=None, anneal_lr=False,
                env_steps=round(million * 1e6), **more)  # fmt: skip


# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "mujoco": {"*": {}},  # the defaults: baselines ppo2, CleanRL ppo_continuous_action.py
    **{f"mujoco-{n}m": {"*": dict(env_steps=n * 1_000_000)} for n in (3, 10)},  # lr decays over n
    "classic": {
        "*": dict(env_steps=500_000, num_envs=4, num_steps=128, epochs=4, num_minibatches=4,
                  learning_rate=2.5e-4, entropy_coef=0.01, **_RAW),  # CleanRL ppo.py
        "Pendulum": _zoo(4, 1024, 64, .9, .95, 1e-3, 0, .2, 10, .5, .5, .1, **_RAW),  # not gSDE
    },
    "mujoco-tuned": {
        "HalfCheetah": _zoo(1, 512, 64, .98, .92, 2.0633e-5, 4.01762e-4, .1, 20, .8, .58096, **_W),
        "Hopper": _zoo(1, 512, 32, .999, .99, 9.80828e-5, .00229519, .2, 5, .7, .835671, **_W),
        "Walker2d": _zoo(1, 512, 32, .99, .95, 5.05041e-5, 5.85045e-4, .1, 20, 1, .871923),
        "Humanoid": _zoo(1, 512, 256, .95, .9, 3.56987e-5, .00238306, .3, 5, 2, .431892, 10, **_W),
        "Swimmer": _zoo(4, 1024, 256, .9999, .98, 6e-4, 0, .2, 10, .5, .5),
        "Ant": _zoo(1, 2048, 64, .99, .95, 3e-4, 0, .2, 10, .5, .5),
        "InvertedDoublePendulum":
            _zoo(1, 128, 512, .98, .8, 1.55454e-4, 1.05057e-6, .4, 10, .5, .695929),
        "InvertedPendulum": _zoo(1, 32, 64, .999, .9, 2.22425e-4, 1.37976e-7, .4, 5, .3, .19816),
        "Reacher": _zoo(1, 512, 32, .9, 1.0, 1.04019e-4, 7.52585e-8, .3, 5, .9, .950368),
    },
    "smoke": {"*": dict(env_steps=2048, num_steps=128, num_minibatches=4, epochs=2)},  # ours
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def penalised_surrogate(log_ratio: Tensor, advantage: Tensor, kl_coef: float) -> Tensor:
    """L_pi = mean -A rho + beta KL(pi_old || pi_theta), -(equation 8). [S, B] -> [S]."""
    ratio = log_ratio.clamp(-20, 20).exp()
    return (-advantage * ratio).mean(1) + kl_coef * approximate_kl(log_ratio)


def drift_surrogate(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """L_pi = mean -A rho + D: the drift of Discovered Policy Optimisation. [S, B] -> [S].

    D = relu(x - c tanh(x/c)): x = A (rho - 1), c = 2 for A >= 0; x = A log rho, c = 0.6 for A < 0.
    """
    log_ratio = log_ratio.clamp(-20, 20)
    good = advantage >= 0
    x = torch.where(good, log_ratio.exp() - 1, log_ratio) * advantage
    c = torch.where(good, 2, 0.6)
    drift = torch.relu(x - c * torch.tanh(x / c))
    return (drift - advantage * log_ratio.exp()).mean(1)


def clip_fraction(log_ratio: Tensor, clip: float) -> Tensor:
    """Share of samples whose ratio left 1 +- eps. [S, B] -> [S]."""
    ratio = log_ratio.clamp(-20, 20).exp()
    return ((ratio - 1).abs() > clip).float().mean(1)


def policy_loss(config: Config, log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """L_pi of `config.objective`. [S, B] -> [S]."""
    if config.objective == "clip":
        return clipped_surrogate(log_ratio, advantage, config.clip)
    if config.objective == "kl":
        return penalised_surrogate(log_ratio, advantage, config.kl_coef)
    return drift_surrogate(log_ratio, advantage)


def loss(theta: Tensor, policy: ActorCritic, config: Config, batch: RolloutBatch) -> Loss:
    """L = L_pi - c_H H + c_V L_V, equation 9 to minimise: [S], and its parts."""
    pi = policy.distribution(theta, batch.obs)
    value = policy.value(theta, batch.obs)
    log_ratio = pi.log_prob(batch.action) - batch.old_log_prob
    surrogate = policy_loss(config, log_ratio, batch.advantage)
    error = value_loss(value, batch.old_value, batch.target, config.value_clip)
    entropy = pi.entropy().mean(1)
    total = surrogate - config.entropy_coef * entropy + config.value_coef * error
    metrics = {"policy_loss": surrogate, "value_loss": error, "entropy": entropy}
    metrics["kl"] = approximate_kl(log_ratio)
    metrics["clip_fraction"] = clip_fraction(log_ratio, config.clip)
    return total, metrics


SURROGATES = {
    "clip": clipped_surrogate,
    "kl": penalised_surrogate,
    "drift": drift_surrogate,
}
OBJECTIVES = (*SURROGATES.values(), value_loss, approximate_kl, clip_fraction)

# ------------------------------------------------------------------------------------- 6. Update


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ActorCritic
    net: Net
    scaler: RewardScaler


def iterate(
    config: Config, learner: Learner, collector: Collector, streams, k: int, step: Callable
) -> Metrics:
    """Iteration k, from 0: metrics [S]; step: `minibatch_steps`."""
    rollout = collector.collect(config.num_steps, streams["action"])  # (1)
    batch = make_batch(learner.policy, rollout, config)  # (2)
    decay = 1 - k / config.iterations if config.anneal_lr else 1.0
    lr = torch.tensor(config.learning_rate * decay)  # (3)
    # epochs: a seed that sits out keeps its parameters and its optimiser's state
    active = torch.ones(len(learner.net.theta))
    metrics = {"kl": torch.zeros(len(active))}
    calls = config.num_minibatches // config.minibatches_per_call
    for _ in range(config.epochs):
        if config.target_kl is not None:
            active = active * (metrics["kl"] <= config.target_kl)  # (4)
        for part in batch.minibatches(calls, streams["batch"]):  # (5)
            learner.net, metrics = step(learner.net, lr, active, part)
    learner.policy.theta.copy_(learner.net.theta)
    metrics["explained_variance"] = batch.explained_variance()
    return metrics


def minibatch_steps(
    policy: ActorCritic, config: Config, net: Net, lr: Tensor, active: Tensor, part: RolloutBatch
) -> Step:
    """A few minibatches in one call, which a compiler may fuse. Pure."""
    options = {"max_norm": config.max_grad_norm, "eps": config.adam_eps, "active": active}
    for batch in part.chunks(config.minibatches_per_call):
        if config.normalize_advantage:
            batch = batch._replace(advantage=standardise(batch.advantage))  # (6)
        net, metrics = descend(net, lr, loss, policy, config, batch, **options)  # (7)
    return net, metrics


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    policy = ActorCritic.of(envs, config, run.streams["init"])
    scaler = RewardScaler.of(envs, config)
    learner = Learner(policy, Net.of(policy.theta), scaler)
    collector = Collector(envs, policy, scaler)
    step = run.update(partial(minibatch_steps, policy, config))
    stages = {"train": (config.iterations, config.rollout_size)}
    run.begin(learner, train=stages)
    for k in run.stage("train"):
        collector.restart_at_boundary(run)
        metrics = iterate(config, learner, collector, run.streams, k, step)
        run.log(metrics, collector.seconds())
