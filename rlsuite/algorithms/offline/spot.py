"""SPOT: Supported Policy Optimization for Offline RL (Wu et al. 2022, arXiv 2202.06239).

For S seeds at once, each with its own everything, on a data set of transitions (s, a, r, s', d):

    (1)  fit a conditional VAE to the data's (s, a) by Adam on l(s, a), then freeze it; l is a
         scaled and shifted bound of -log pi_beta(a|s), the density of the data's actions
    for steps t = 1..T:
    (2)  draw B transitions of the data; observations are standardised by the data's statistics
    (3)  a' = clip(pi_target(s') + clip(noise, -c, c)), with dropout active in pi_target
    (4)  y = r + gamma (1 - d) min_i Q_i,target(s', a')
    (5)  Adam on the squared errors of Q_1 and of Q_2 to y
    every second step, on the same transitions, with dropout active in pi:
    (6)      L = -mean Q_1(s, pi(s)) / mean |Q_1(s, pi(s))| + lambda mean l(s, pi(s))
    (7)      Adam on L for pi: through Q_1, and through the VAE's encoder and decoder
    (8)      every target <- target + tau (network - target)
    online, if wanted: T' more steps, each after a step in the environment
    (9)  act with pi(s) + noise; the transition joins the data
    (10) lambda <- lambda max(floor, 1 - t / 10^6), so that the constraint cools down

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | deterministic: tanh, scaled to the action box |
| Q_1, Q_2 | critic | [S, 2 P_critic] | two critics in one row; only the first one moves the actor |
| q, p | density | [S, P_density] | encoder q(z|s,a), decoder p(a|s,z); z has 2 A dimensions |
| l | density_error | [S, B] | mean (u - a)^2 + beta mean KL(q || N(0, 1)): means, not sums |
| lambda | weight | | weight of the penalty; by data set in the presets |

Departures from the official code (thuml/SPOT), whose settings these are: the VAE is fitted within
the run unless `density` names another's; online, two environment steps precede two updates; no
IWAE, and no guard that aborts where Q exceeds 10^4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import (
    ReplayBuffer,
    TransitionBatch,
    chunks,
    require_delayed,
    require_offline,
)
from rlsuite.core.critics import Critics, critic_loss
from rlsuite.core.optim import Metrics, Net, Step, descend, polyak
from rlsuite.core.ranges import Declared, RunFolder, require_positive, require_whole, require_within
from rlsuite.core.replay import Explorer
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.td3 import State, mean_size, target_action
from rlsuite.core.vae import ActionVAE, kl_to_prior

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    support_weight: float = 0.1  # lambda; see the presets [code: by data set]
    density_beta: float = 0.5  # beta, weight of the VAE's KL [paper; code]
    density_steps: int = 100_000  # of fitting the VAE [code]
    density_lr: float = 1e-3  # of Adam on the VAE [code]
    density_hidden: int = 750  # width of its two hidden layers [code]
    density: RunFolder | None = None  # run folder whose VAE to use instead [code: a file]
    normalize_q: bool = True  # divide Q by its mean size in the actor's loss [paper; code]
    dropout: float = 0.1  # of the actor's hidden layers [code: MuJoCo; AntMaze 0]
    discount: float = 0.99  # gamma, per step [paper; code]
    polyak: float = 0.005  # of the targets' moving average, per actor step [paper; code]
    policy_noise: float = 0.2  # std of the target's noise, in half widths of the box [code]
    noise_clip: float = 0.5  # c, in half widths of the box [code]
    policy_freq: int = 2  # critic steps per actor step [paper; code]
    actor_lr: float = 3e-4  # of Adam [code: MuJoCo; AntMaze 1e-4]
    critic_lr: float = 3e-4  # of Adam [code]
    actor_last: float | None = None  # last layers start in U(-this, this) [code: AntMaze 1e-3]
    critic_last: float | None = None  # the same of the critics [code: AntMaze 3e-3]
    reward_shift: float = 0.0  # added to every reward [code: AntMaze -1]
    batch_size: int = 256  # B, transitions per step [paper; code]
    gradient_steps: int = 1_000_000  # T, critic steps of each seed [paper; code]
    online_steps: int = 0  # T', after those; 0: offline only [code: 1M on AntMaze]
    exploration_noise: float = 0.1  # std of online actions, in half widths of the box [code]
    support_weight_floor: float = 0.2  # of lambda's cooling online [code; CORL on Adroit 0.5]
    cooling_steps: int = 1_000_000  # in which lambda would reach zero online [code]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = True  # (s - mean) / (std + 1e-3) of the data [code: MuJoCo]
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics, ReLU [paper; code]

    def __post_init__(self) -> None:
        require_offline(self, "density_steps", "online_steps")
        require_delayed(self)
        require_whole(self, "density_hidden", "cooling_steps")
        require_positive(self, "density_beta", "density_lr", "actor_lr", "critic_lr", "noise_clip")
        require_positive(self, "actor_last", "critic_last")
        require_within(self, 0, 1, "discount", "polyak", "support_weight_floor", "dropout")
        require_within(self, 0, math.inf, "support_weight", "policy_noise", "exploration_noise")
        if not (self.density or self.density_steps):
            raise ValueError("density_steps is 0; name a run that has fitted one: --density FOLDER")
        if self.dropout == 1:
            raise ValueError(f"dropout is {self.dropout}; it must be less than 1")

    @property
    def declared(self) -> Declared:
        rates = ("density_lr", "actor_lr", "critic_lr")
        steps = self.gradient_steps + self.online_steps
        online = "online" if self.online_steps else ""
        known = {"value": "value", "variant": online}
        return Declared(self.hidden, self.batch_size, steps, self.gradient_steps, rates, **known)

    def stage(self, steps: int) -> tuple[int, int]:
        """Iterations of a stage of so many steps, and the steps of each."""
        return steps // self.steps_per_iteration, self.steps_per_iteration


# ------------------------------------------------------------------------------------ 3. Presets

_MAZE = dict(dropout=0.0, actor_lr=1e-4, actor_last=1e-3, critic_last=3e-3, normalize_obs=False,
             reward_shift=-1.0)  # fmt: skip

# preset -> task family or family/level of the data ("*": any) -> what differs from the defaults.
# lambda: configs/offline of the official code
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {
        "*": {},
        "HalfCheetah/medium": dict(support_weight=0.05),
        "HalfCheetah/medium-replay": dict(support_weight=0.05),
        "HalfCheetah/medium-expert": dict(support_weight=1.0),
        "Hopper/medium": dict(support_weight=0.1),
        "Hopper/medium-replay": dict(support_weight=0.1),
        "Hopper/medium-expert": dict(support_weight=0.2),
        "Walker2d/medium": dict(support_weight=0.2),
        "Walker2d/medium-replay": dict(support_weight=0.2),
        "Walker2d/medium-expert": dict(support_weight=0.5),
        "AntMaze": _MAZE,
        "AntMaze/umaze": dict(support_weight=0.25),
        "AntMaze/umaze-diverse": dict(support_weight=0.25),
        "AntMaze/medium-play": dict(support_weight=0.05),
        "AntMaze/medium-diverse": dict(support_weight=0.025),
        "AntMaze/large-play": dict(support_weight=0.025),
        "AntMaze/large-diverse": dict(support_weight=0.025),
    },
    "smoke": {"*": dict(gradient_steps=200, steps_per_iteration=50, batch_size=32, hidden=(32, 32),
                        density_steps=100, density_hidden=32, online_steps=50)},  # ours
}  # fmt: skip

# ----------------------------------------------------------------------------------- 4. Networks


class Networks(NamedTuple):
    """What acts, what judges, and what knows the data; a learner has their parameters."""

    policy: BoundedActor
    critics: Critics
    density: ActionVAE


# --------------------------------------------------------------------------------- 5. Objectives


def density_error(action: Tensor, rebuilt: Tensor, mean: Tensor, log_std: Tensor, beta) -> Tensor:
    """l(s, a): a bound of -log pi_beta(a|s), scaled and shifted. [S, B, A or 2 A] -> [S, B]."""
    kl = kl_to_prior(mean, log_std).mean(-1)
    return (rebuilt - action).square().mean(-1) + beta * kl


def policy_loss(value: Tensor, error: Tensor, weight, normalize: bool = True) -> Tensor:
    """-Q + lambda l, with Q in units of its mean size: equation 11. [S, B] -> [S]."""
    scale = mean_size(value) if normalize else 1.0
    return weight * error.mean(1) - value.mean(1) / scale


OBJECTIVES = (critic_loss, policy_loss)

# ------------------------------------------------------------------------------------- 6. Update


class Noise(NamedTuple):
    """What one actor cycle of F critic steps draws."""

    target: Tensor  # [S, F B, A], standard normal
    latent: Tensor  # [S, B, 2 A], standard normal
    dropout: list[tuple[Tensor, ...] | None]  # of F + 1 passes through pi; see `dropout_masks`


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: BoundedActor
    density: Net
    state: State
    buffer: ReplayBuffer  # the data, under what each seed has collected itself
    rng: SeedRandom


def fit_density(config: Config, learner: Learner, fit: Callable) -> Metrics:
    """An iteration of the VAE: metrics [S] of its last step."""
    for _ in range(config.steps_per_iteration):
        learner.density, metrics = fit(learner.density)  # (1)
    return metrics


def draw_pairs(config: Config, learner: Learner) -> tuple[TransitionBatch, Tensor]:
    """What a step of the VAE takes: transitions, and standard normal numbers [S, B, 2 A]."""
    rows, policy = config.batch_size, learner.policy
    batch = learner.buffer.sample(rows)
    batch = batch.standardized(policy.normalizer)
    return batch, learner.rng.normal(rows, 2 * policy.action_size)


def density_step(density: ActionVAE, config: Config, net: Net, batch, noise: Tensor) -> Step:
    """One step of the VAE. Pure."""
    obs, action = batch.obs, batch.action

    def loss(theta):
        rebuilt = density.rebuild(theta, obs, action, noise)
        error = density_error(action, *rebuilt, config.density_beta)
        error = error.mean(1)
        return error, {"density_error": error}

    return descend(net, config.density_lr, loss)


def iterate(config: Config, learner: Learner, update: Callable, explore=None) -> Metrics:
    """An iteration of pi and the critics: metrics [S] of its last cycle.

    `explore`, online, takes a number of environment steps and returns lambda's factor.
    """
    factor = 1.0
    for _ in range(config.steps_per_iteration // config.policy_freq):
        if explore is not None:
            factor = explore(config.policy_freq)
        weight = torch.tensor(config.support_weight * factor)
        fitted = learner.density.theta
        learner.state, metrics = update(fitted, learner.state, weight=weight)
        learner.policy.theta.copy_(learner.state.actor.theta)
    return metrics


def draw(config: Config, learner: Learner) -> tuple[TransitionBatch, Noise]:
    """Transitions of one actor cycle, and all its random numbers."""
    rows = config.batch_size * config.policy_freq
    batch = learner.buffer.sample(rows)  # (2)
    batch = batch.standardized(learner.policy.normalizer)
    batch = batch._replace(reward=batch.reward + config.reward_shift)
    return batch, draw_noise(config, learner.policy, learner.rng)


def draw_noise(config: Config, policy: BoundedActor, rng: SeedRandom) -> Noise:
    rows, actions = config.batch_size, policy.action_size
    masks = dropout_masks(config, rng)
    target = rng.normal(config.policy_freq * rows, actions)
    return Noise(target, rng.normal(rows, 2 * actions), masks)


def dropout_masks(config: Config, rng: SeedRandom) -> list[tuple[Tensor, ...] | None]:
    """A cycle's masks, for each pass through pi: per hidden layer [S, B, H], 0 or 1 / (1 - p)."""
    passes, keep = config.policy_freq + 1, 1 - config.dropout
    if not config.dropout:
        return [None] * passes
    layers = []
    for width in config.hidden:
        drawn = rng.uniform(passes, config.batch_size, width)
        mask = (drawn < keep).float() / keep
        layers.append(mask.transpose(0, 1))
    return list(zip(*layers, strict=True))


def target_value(
    policy: BoundedActor, critics: Critics, config: Config, state: State, batch, noise, dropout
) -> Tensor:
    """y [S, B], from standard normal `noise` [S, B, A] and masks of pi's hidden layers."""
    actor, critic = state.actor_target, state.critic_target
    next_obs = batch.next_obs
    action = target_action(policy, actor, next_obs, noise, config, dropout)  # (3)
    return critics.target(critic, batch, action, config.discount)  # (4)


def actor_cycle(
    nets: Networks, config: Config, fitted: Tensor, state: State, batch, noise: Noise, weight
) -> tuple[State, Metrics]:
    """`policy_freq` critic steps and, on the last one's transitions, an actor step. Pure.

    `fitted` [S, P_density] are the VAE's parameters, `weight` is lambda.
    """
    policy, critics, density = nets
    actor, critic, actor_target, critic_target = state
    parts = chunks(batch, config.policy_freq)
    obs = parts[-1].obs
    draws = noise.target.chunk(len(parts), 1)
    # critics
    passes = zip(parts, draws, noise.dropout[:-1], strict=True)
    for part, normal, masks in passes:
        y = target_value(policy, critics, config, state, part, normal, masks)
        critic, metrics = descend(critic, config.critic_lr, critics.error, part, y)  # (5)

    # actor
    def loss(theta):
        action = policy.mean(theta, obs, noise.dropout[-1])
        value = critics.first(critic.theta, obs, action)
        rebuilt = density.rebuild(fitted, obs, action, noise.latent)
        error = density_error(action, *rebuilt, config.density_beta)
        total = policy_loss(value, error, weight, config.normalize_q)  # (6)
        metrics = {"policy_loss": total, "density_error": error.mean(1)}
        return total, metrics

    actor, more = descend(actor, config.actor_lr, loss)  # (7)
    # targets
    actor_target = polyak(actor_target, actor.theta, config.polyak)
    critic_target = polyak(critic_target, critic.theta, config.polyak)  # (8)
    return State(actor, critic, actor_target, critic_target), metrics | more


def explore(config: Config, explorer: Explorer, rngs: list, count: int) -> float:
    """`count` steps of pi plus noise in every environment; lambda's factor after them."""
    explorer.step(count, config.exploration_noise, rngs)  # (9)
    factor = 1 - explorer.buffer.added / config.cooling_steps
    return max(config.support_weight_floor, factor)  # (10)


# -------------------------------------------------------------------------------------- 7. Train


def start(config: Config, run, data) -> tuple[Learner, Networks]:
    """All networks, fresh, but for the VAE of another run where `config.density` names one."""
    rngs, device = run.streams["init"], run.device
    last = config.actor_last
    policy = BoundedActor.for_data(data, config, device, rngs, last=last)
    critics = Critics(data.obs_size, policy.action_size, config.hidden)
    critic = critics.initial(rngs, last=config.critic_last)
    density = ActionVAE(policy, data.obs_size, config.density_hidden)
    if config.density:
        made = fitted_with(config)
        fitted = run.artifact(config.density, "density", density.layout, **made)
    else:
        fitted = density.initial(rngs)
    state = State.of(policy.theta, critic.to(device))
    fitted, capacity = Net.of(fitted.to(device)), config.online_steps
    buffer = ReplayBuffer.of_data(data, run.random("batch"), capacity=capacity)
    learner = Learner(policy, fitted, state, buffer, run.random("action"))
    return learner, Networks(policy, critics, density)


def fitted_with(config: Config) -> dict:
    """The settings that a density depends on."""
    return {"normalize_obs": config.normalize_obs}


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    learner, nets = start(config, run, run.data())
    policy, _, density = nets
    step = partial(density_step, density, config)
    pairs = partial(draw_pairs, config, learner)
    fit = run.update(step, pairs, config.density_steps)
    cycle = partial(actor_cycle, nets, config)
    update = run.update(cycle, partial(draw, config, learner))
    fitting = config.stage(0 if config.density else config.density_steps)
    offline = config.stage(config.gradient_steps)
    online = config.stage(config.online_steps)
    if config.online_steps:
        explorer = Explorer(run.environments(1), policy, learner.buffer)
        exploring = partial(explore, config, explorer, run.streams["action"])
    stages = {"offline": offline, "online": online}
    run.begin(learner, prepare={"density": fitting}, train=stages)
    for _ in run.stage("density"):
        run.log(fit_density(config, learner, fit))
    if not config.density:
        theta = learner.density.theta
        run.save_artifact("density", density.layout, theta, **fitted_with(config))
    for _ in run.stage("offline"):
        run.log(iterate(config, learner, update))
    for _ in run.stage("online"):
        if run.at_boundary:
            explorer.restart(run.streams.integers("environment", 1))
        metrics = iterate(config, learner, update, exploring)
        run.log(metrics, explorer.seconds())
