"""MCEP: Mildly Constrained Evaluation Policy for Offline RL (Xu et al. 2024, arXiv 2306.03680).

The target policy pi~ is kept close to the data, and values are learned of its actions alone. The
evaluation policy pi^e climbs the same critics, is kept less close, and is the one that acts. For
steps t = 1..T on a data set of transitions (s, a, r, s', d), for S seeds at once:

    (1)  draw B transitions of the data
    (2)  a' = clip(pi~_target(s') + clip(noise, -c, c)); on AWAC a' ~ pi~(.|s')
    (3)  y = r + gamma (1 - d) min_i Q_i,target(s', a')
    (4)  Adam on the squared errors of Q_1 and of Q_2 to y
    (5)  Q_target <- Q_target + polyak (Q - Q_target), on TD3+BC every second step
    on TD3+BC, every second step:
    (6)      Adam on pi~: -alpha~ mean Q_1(s, pi~(s)) / mean |Q_1(s, pi~(s))| + mean (pi~(s) - a)^2
    (7)      n <- 0.95 n + 0.05 mean |pi~_target(s) - a|^2; or n is 1
    (8)      Adam on pi^e: the same with alpha^e, its own mean |Q_1|, and (pi^e(s) - a)^2 / n
    (9)      pi~_target <- pi~_target + polyak (pi~ - pi~_target)
    on AWAC, every step, with b ~ pi~(.|s) and c ~ pi^e(.|s):
    (10)     w = min(exp((min_i Q_i(s, a) - min_i Q_i(s, b)) / lambda~), bound), without gradient
    (11)     Adam on pi~: -mean w log pi~(a|s)
    (12)     Adam on pi^e: -mean min((Q_1 + Q_2)(s, c) / 2, q_max) - lambda^e mean log pi^e(a|s)

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi~ | actor | [S, P_actor] | strongly constrained; the code's "bp" |
| pi^e | evaluation | [S, P_actor] | mildly constrained; enters no target; the code's "tp" |
| Q_1, Q_2 | critic | [S, 2 P_critic] | two critics in one row, of pi~'s returns |
| n | error | [S] | squared distance of pi~ from the data: the unit of pi^e's squared error |

On AWAC nothing stops pi^e inside the box where Q rises by more than lambda^e / (2 s) per unit of
action; s is the standard deviation of the data's actions. Watch `saturated`, the share of its modes
beyond 0.95.

Departures from the official code (egg-west/MCEP): networks start as torch.nn.Linear's do; critic
losses are summed, not averaged; mean |Q_1| is at least 1e-8; densities are of actions in half
widths of the box. What no released config turns on is left out.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import (
    ReplayBuffer,
    chunks,
    require_delayed,
    require_offline,
)
from rlsuite.core.critics import Critics
from rlsuite.core.optim import Loss, Metrics, Net, descend, polyak
from rlsuite.core.ranges import Declared, require_choice, require_positive, require_within
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.squashed import SquashedActor
from rlsuite.core.td3 import mean_size, target_action
from rlsuite.core.weights import EQUAL, regression_loss, regression_weights
from rlsuite.envs.faults import warn_once

# ------------------------------------------------------------------------------------- 2. Config

ONLY = {  # base -> the settings that it alone has
    "td3_bc": ("target_alpha", "evaluation_alpha", "normalize_error", "policy_noise", "noise_clip"),
    "awac": ("target_lambda", "evaluation_lambda", "max_weight", "max_value"),
}


@dataclass(frozen=True)
class Config:
    base: str = "td3_bc"  # what pi~ is trained by: td3_bc or awac, see the presets [paper]
    target_alpha: float = 2.5  # alpha~, weight of Q for pi~ on td3_bc [paper; code]
    evaluation_alpha: float = 10.0  # alpha^e, the same for pi^e [paper; code]
    normalize_error: bool = False  # n is the error of pi~, not 1 [code: on for Adroit]
    policy_noise: float = 0.2  # std of the target's noise, in half widths of the box [code]
    noise_clip: float = 0.5  # c, in half widths of the box [code]
    target_lambda: float = 1.0  # lambda~ on awac, per unit of reward as scaled [paper; code]
    evaluation_lambda: float = 0.6  # lambda^e, weight of log pi^e against Q [paper; code]
    max_weight: float = 1000.0  # bound on w [code: MuJoCo; Adroit 100]
    max_value: float = 10_000.0  # q_max [code: MuJoCo; Adroit 100]
    policy_freq: int = 2  # critic steps per step of the actors [code: td3_bc; awac 1]
    scale_rewards: bool = False  # so that episode returns span 1000 [code: on, as in presets]
    reward_factor: float = 1.0  # multiplies every reward [code: AntMaze 100]
    action_margin: float = 1e-5  # the data's actions stay so far in the box [code]
    discount: float = 0.99  # gamma, per step [paper; code]
    polyak: float = 0.005  # of the targets' moving average [paper; code]
    actor_lr: float = 3e-4  # of Adam, both actors [code: td3_bc; awac 3e-5]
    critic_lr: float = 3e-4  # of Adam [code]
    batch_size: int = 256  # B, transitions per step [code]
    gradient_steps: int = 1_000_000  # T, critic steps of each seed [paper; code]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = True  # (s - mean) / (std + 1e-3) of the data [code: td3_bc; awac off]
    hidden: tuple[int, ...] = (256, 256)  # widths of all networks, ReLU [paper; code]

    def __post_init__(self) -> None:
        require_choice(self, "base", ONLY)
        require_offline(self)
        require_delayed(self)
        require_positive(self, "noise_clip", "target_lambda", "max_weight", "max_value")
        require_positive(self, "reward_factor", "actor_lr", "critic_lr")
        require_within(self, 0, 1, "action_margin", "discount", "polyak")
        weights = ("target_alpha", "evaluation_alpha", "evaluation_lambda")
        require_within(self, 0, math.inf, *weights, "policy_noise")
        (other,) = ONLY.keys() - {self.base}
        preset = "awac" if other == "awac" else "d4rl"  # has other rates, too
        for name in ONLY[other]:
            if getattr(self, name) != getattr(Config, name):
                raise ValueError(f"{name} does nothing on base {self.base}; type --preset {preset}")

    @property
    def declared(self) -> Declared:
        rates, steps = ("actor_lr", "critic_lr"), self.gradient_steps
        variant = "awac" if self.base == "awac" else ""
        return Declared(self.hidden, self.batch_size, steps, steps, rates, 1, "value", variant)


# ------------------------------------------------------------------------------------ 3. Presets

_RETURNS = {task: dict(scale_rewards=True) for task in ("HalfCheetah", "Hopper", "Walker2d")}
_RETURNS["AntMaze"] = dict(reward_factor=100.0)
_HANDS = ("AdroitHandPen", "AdroitHandHammer", "AdroitHandDoor", "AdroitHandRelocate")
_FAR = dict(target_alpha=10.0, evaluation_alpha=100.0, normalize_error=True)
_AWAC = dict(base="awac", policy_freq=1, actor_lr=3e-5, normalize_obs=False)
_LOW = dict(max_weight=100.0, max_value=100.0)

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {  # the configs of egg-west/MCEP
    "d4rl": {"*": {}, **_RETURNS, **dict.fromkeys(_HANDS, _FAR)},
    "awac": {"*": _AWAC, **_RETURNS, **dict.fromkeys(_HANDS, _LOW)},
    "smoke": {"*": dict(gradient_steps=200, steps_per_iteration=50, batch_size=32,
                        hidden=(32, 32))},
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def policy_loss(value: Tensor, error: Tensor, alpha: float) -> Tensor:
    """-alpha Q / mean |Q| + error: steps 6 and 8. value, error [S, B] -> [S]."""
    scale = alpha / mean_size(value)
    return error.mean(1) - scale * value.mean(1)


def ascent_loss(value: Tensor, log_prob: Tensor, weight: float, bound: float) -> Tensor:
    """-min(Q, bound) - weight log pi(a|s): step 12. value, log_prob [S, B] -> [S]."""
    return -value.clamp(max=bound).mean(1) - weight * log_prob.mean(1)


OBJECTIVES = (policy_loss, regression_loss, ascent_loss)

# ------------------------------------------------------------------------------------- 6. Update


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net  # pi~
    evaluation: Net  # pi^e
    critic: Net  # both critics
    actor_target: Tensor  # [S, P_actor], of pi~
    critic_target: Tensor  # [S, 2 P_critic]
    error: Tensor  # [S], n


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: BoundedActor  # pi^e
    target: BoundedActor  # pi~
    state: State
    buffer: ReplayBuffer
    rng: SeedRandom


def draw(config: Config, learner: Learner, scale: float) -> tuple:
    """Transitions of one cycle; normal numbers [S, B, A] for its targets, and for its actors."""
    policy, size = learner.policy, config.batch_size
    batch = learner.buffer.sample(size * config.policy_freq)  # (1)
    batch = batch.standardized(policy.normalizer)
    action = policy.clip_action(batch.action, config.action_margin)
    batch = batch._replace(reward=scale * batch.reward, action=action)
    own = 2 * size if config.base == "awac" else 0
    count = action.shape[1] + own
    noise = learner.rng.normal(count, policy.action_size)
    return batch, noise[:, own:], noise[:, :own]


def next_action(
    policy: BoundedActor, config: Config, actor: Tensor, obs: Tensor, noise: Tensor
) -> Tensor:
    """An action of pi~_target [S, B, A], from standard normal `noise`."""
    if config.base == "awac":
        action, _ = policy.distribution(actor, obs).sample(noise)
        return policy.to_box(action)
    return target_action(policy, actor, obs, noise, config)  # (2)


def mcep_cycle(
    policy: BoundedActor, critics: Critics, config: Config, state: State, batch, noise, own
) -> tuple[State, Metrics]:
    """`policy_freq` critic steps and, on the last one's transitions, the actors' step. Pure."""
    critic, lr = state.critic, config.critic_lr
    slow_actor, slow_critic = state.actor_target, state.critic_target
    parts = chunks(batch, config.policy_freq)
    noises = noise.chunk(len(parts), 1)
    for part, draws in zip(parts, noises, strict=True):
        action = next_action(policy, config, slow_actor, part.next_obs, draws)
        y = critics.target(slow_critic, part, action, config.discount)  # (3)
        critic, metrics = descend(critic, lr, critics.error, part, y)  # (4)
    slow_critic = polyak(slow_critic, critic.theta, config.polyak)  # (5)
    state = state._replace(critic=critic, critic_target=slow_critic)
    actors = awac_actors if config.base == "awac" else td3_bc_actors
    state, more = actors(policy, critics, config, state, parts[-1], own)
    return state, metrics | more


def td3_bc_actors(
    policy: BoundedActor, critics: Critics, config: Config, state: State, batch, _own
) -> tuple[State, Metrics]:
    """A step of both actors with the new critics."""
    obs, logged, lr = batch.obs, batch.action, config.actor_lr

    def loss(theta: Tensor, name: str, alpha: float, unit: Tensor) -> Loss:
        action = policy.mean(theta, obs)
        value = critics.first(state.critic.theta, obs, action)
        error = (action - logged).square().mean(-1)
        total = policy_loss(value, error / unit[:, None], alpha)
        metrics = {f"{name}_loss": total, f"{name}_q": value.mean(1)}
        return total, metrics | {f"{name}_error": error.mean(1)}

    # target policy
    n = state.error
    alpha, one = config.target_alpha, torch.ones_like(n)
    actor, metrics = descend(state.actor, lr, loss, "target", alpha, one)  # (6)
    # evaluation policy
    if config.normalize_error:
        apart = policy.mean(state.actor_target, obs) - logged
        n = 0.95 * n + 0.05 * apart.square().sum(-1).mean(1)  # (7)
    alpha = config.evaluation_alpha
    evaluation, more = descend(state.evaluation, lr, loss, "evaluation", alpha, n)  # (8)
    target = polyak(state.actor_target, actor.theta, config.polyak)  # (9)
    state = state._replace(actor=actor, evaluation=evaluation)
    state = state._replace(actor_target=target, error=n)
    return state, metrics | more


def awac_actors(
    policy: SquashedActor, critics: Critics, config: Config, state: State, batch, own
) -> tuple[State, Metrics]:
    """A step of both actors with the new critics; pi~_target is pi~."""
    critic, obs, lr = state.critic.theta, batch.obs, config.actor_lr
    logged = policy.to_raw(batch.action)
    for_b, for_c = own.chunk(2, 1)
    # target policy
    b = next_action(policy, config, state.actor.theta, obs, for_b)
    q = critics.values(critic, obs, batch.action).amin(1)
    v = critics.values(critic, obs, b).amin(1)
    limits = (1 / config.target_lambda, config.max_weight)
    weight, weights = regression_weights(q - v, q, *limits)  # (10)

    def imitation(theta: Tensor) -> Loss:
        log_prob = policy.distribution(theta, obs).log_prob(logged)
        total = regression_loss(log_prob, weight)
        return total, {"target_loss": total, "target_q": v.mean(1)}

    actor, metrics = descend(state.actor, lr, imitation)  # (11)

    # evaluation policy
    def ascent(theta: Tensor) -> Loss:
        pi = policy.distribution(theta, obs)
        c, _ = pi.sample(for_c)
        value = critics.values(critic, obs, policy.to_box(c)).mean(1)
        log_prob = pi.log_prob(logged)
        factor, bound = config.evaluation_lambda, config.max_value
        total = ascent_loss(value, log_prob, factor, bound)
        saturated = (pi.mode().abs() > 0.95).to(total.dtype)
        metrics = {"evaluation_loss": total, "evaluation_q": value.mean(1)}
        metrics["log_std"] = pi.log_std.mean((1, 2))
        metrics["saturated"] = saturated.mean((1, 2))
        return total, metrics

    evaluation, more = descend(state.evaluation, lr, ascent)  # (12)
    state = state._replace(actor=actor, evaluation=evaluation)
    state = state._replace(actor_target=actor.theta)
    return state, metrics | weights | more


# -------------------------------------------------------------------------------------- 7. Train


def start(config: Config, run, data) -> tuple[Learner, Critics]:
    """All networks, fresh: on AWAC both actors start from the same parameters."""
    rngs, awac = run.streams["init"], config.base == "awac"
    kind = SquashedActor if awac else BoundedActor
    target = kind.for_data(data, config, run.device, rngs)
    policy = kind.for_data(data, config, run.device, rngs)
    if awac:
        policy.theta.copy_(target.theta)
    critics = Critics(data.obs_size, policy.action_size, config.hidden)
    critic = Net.of(critics.initial(rngs).to(run.device))
    actor, evaluation = Net.of(target.theta), Net.of(policy.theta)
    slow_actor, slow_critic = actor.theta.clone(), critic.theta.clone()
    one = actor.theta.new_ones(len(rngs))
    state = State(actor, evaluation, critic, slow_actor, slow_critic, one)
    buffer = ReplayBuffer.of_data(data, run.random("batch"))
    learner = Learner(policy, target, state, buffer, run.random("action"))
    return learner, critics


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data, each = run.data(), config.steps_per_iteration
    span = data.reward_scale(1000) if config.scale_rewards else 1.0
    scale = config.reward_factor * span
    learner, critics = start(config, run, data)
    cycle = partial(mcep_cycle, learner.policy, critics, config)
    update = run.update(cycle, partial(draw, config, learner, scale))
    both = {"evaluation": learner.policy, "target": learner.target}
    stages = {"offline": (config.gradient_steps // each, each)}
    run.begin(learner, train=stages, policies=both)
    for _ in run.stage("offline"):
        for _ in range(each // config.policy_freq):
            learner.state, metrics = update(learner.state)
        learner.policy.theta.copy_(learner.state.evaluation.theta)
        learner.target.theta.copy_(learner.state.actor.theta)
        if config.base == "awac" and metrics["equal_advantages"].any():
            warn_once(EQUAL)
        run.log(metrics)
