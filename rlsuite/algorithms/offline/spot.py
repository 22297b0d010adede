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
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.core.actors import BoundedActor, dense, initial
from rlsuite.core.chance import Chance
from rlsuite.core.critics import Critics
from rlsuite.core.networks import Layout, mlp, mlp_shapes
from rlsuite.core.optim import AdamState, adam_step, gradient
from rlsuite.core.ranges import require_multiple, require_positive, require_whole, require_within
from rlsuite.core.replay import Explorer, Minibatch, OnlineRows, Sampler
from rlsuite.core.saving import load_rows, save_rows

DENSITY_FILE = "density.safetensors"  # in the run's folder, once the VAE is fitted

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    penalty: float = 0.1  # lambda; see the presets [code: by data set]
    density_beta: float = 0.5  # beta, weight of the VAE's KL [paper; code]
    density_steps: int = 100_000  # of fitting the VAE [code]
    density_lr: float = 1e-3  # of Adam on the VAE [code]
    density_hidden: int = 750  # width of its two hidden layers [code]
    density: str | None = None  # run folder whose VAE to use instead [code: a file]
    normalize_q: bool = True  # divide Q by its mean size in the actor's loss [paper; code]
    dropout: float = 0.1  # of the actor's hidden layers [code: MuJoCo; AntMaze 0]
    discount: float = 0.99  # gamma, per step [paper; code]
    tau: float = 0.005  # of the targets' moving average, per actor step [paper; code]
    policy_noise: float = 0.2  # std of the target's noise, in half widths of the box [code]
    noise_clip: float = 0.5  # c, in half widths of the box [code]
    policy_freq: int = 2  # critic steps per actor step [paper; code]
    actor_lr: float = 3e-4  # of Adam [code: MuJoCo; AntMaze 1e-4]
    critic_lr: float = 3e-4  # of Adam [code]
    actor_last: float | None = None  # last layers start in U(-this, this) [code: AntMaze 1e-3]
    critic_last: float | None = None  # the same of the critics [code: AntMaze 3e-3]
    reward_shift: float = 0.0  # added to every reward [code: AntMaze -1]
    batch_size: int = 256  # B, transitions per step [paper; code]
    total_steps: int = 1_000_000  # T, critic steps of each seed [paper; code]
    online_steps: int = 0  # T', after those; 0: offline only [code: 1M on AntMaze]
    exploration_noise: float = 0.1  # std of online actions, in half widths of the box [code]
    penalty_floor: float = 0.2  # of lambda's cooling online [code; CORL on Adroit 0.5]
    cooling_steps: int = 1_000_000  # in which lambda would reach zero online [code]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = True  # (s - mean) / (std + 1e-3) of the data [code: MuJoCo]
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics, ReLU [paper; code]

    def __post_init__(self) -> None:
        counts = ("policy_freq", "batch_size", "total_steps", "steps_per_iteration", "hidden")
        require_whole(self, *counts, "density_hidden", "cooling_steps")
        require_multiple(self, "policy_freq", "steps_per_iteration")
        stages = ("density_steps", "total_steps", "online_steps")
        require_multiple(self, "steps_per_iteration", *stages)
        require_positive(self, "density_beta", "density_lr", "actor_lr", "critic_lr", "noise_clip")
        require_positive(self, "actor_last", "critic_last")
        require_within(self, 0, 1, "discount", "tau", "penalty_floor")
        nonnegative = ("penalty", "policy_noise", "exploration_noise", *stages)
        require_within(self, 0, math.inf, *nonnegative)
        if not (self.density or self.density_steps):
            raise ValueError("density_steps is 0; name a run that has fitted one: --density FOLDER")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be 0 or more and less than 1")

    @property
    def density_iterations(self) -> int:
        return 0 if self.density else self.density_steps // self.steps_per_iteration

    @property
    def iterations(self) -> int:
        """Of all three stages."""
        later = (self.total_steps + self.online_steps) // self.steps_per_iteration
        return self.density_iterations + later


# ------------------------------------------------------------------------------------ 3. Presets

_MAZE = dict(dropout=0.0, actor_lr=1e-4, actor_last=1e-3, critic_last=3e-3, normalize_obs=False,
             reward_shift=-1.0)  # fmt: skip

# preset -> task family or family/level of the data ("*": any) -> what differs from the defaults.
# lambda: configs/offline of the official code
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {
        "*": {},
        "HalfCheetah/medium": dict(penalty=0.05), "HalfCheetah/medium-replay": dict(penalty=0.05),
        "HalfCheetah/medium-expert": dict(penalty=1.0),
        "Hopper/medium": dict(penalty=0.1), "Hopper/medium-replay": dict(penalty=0.1),
        "Hopper/medium-expert": dict(penalty=0.2),
        "Walker2d/medium": dict(penalty=0.2), "Walker2d/medium-replay": dict(penalty=0.2),
        "Walker2d/medium-expert": dict(penalty=0.5),
        "AntMaze": _MAZE,
        "AntMaze/umaze": dict(penalty=0.25), "AntMaze/umaze-diverse": dict(penalty=0.25),
        "AntMaze/medium-play": dict(penalty=0.05), "AntMaze/medium-diverse": dict(penalty=0.025),
        "AntMaze/large-play": dict(penalty=0.025), "AntMaze/large-diverse": dict(penalty=0.025),
    },
    "smoke": {"*": dict(total_steps=200, steps_per_iteration=50, batch_size=32, hidden=(32, 32),
                        density_steps=100, density_hidden=32, online_steps=50)},  # ours
}  # fmt: skip

# ----------------------------------------------------------------------------------- 4. Networks


class Density:
    """The conditional VAE of actions; parameters [S, P] live with the caller."""

    def __init__(self, policy: BoundedActor, obs_size: int, hidden: int) -> None:
        actions, self.latent = policy.action_size, 2 * policy.action_size
        self.policy = policy  # for the action box
        encoder = mlp_shapes("encoder", (obs_size + actions, hidden, hidden, 2 * self.latent))
        decoder = mlp_shapes("decoder", (obs_size + self.latent, hidden, hidden, actions))
        self.layout = Layout(encoder | decoder)

    def rebuild(self, theta: Tensor, obs, action, noise) -> tuple[Tensor, Tensor, Tensor]:
        """(u [S, B, A], mean, log_std [S, B, 2 A]) from standard normal `noise` [S, B, 2 A]."""
        weights = dense(self.layout, theta)
        heads = mlp(weights, "encoder", torch.cat((obs, action), -1), 3, "relu")
        mean, log_std = heads.chunk(2, -1)
        log_std = log_std.clamp(-4, 15)
        latent = mean + log_std.exp() * noise
        output = mlp(weights, "decoder", torch.cat((obs, latent), -1), 3, "relu")
        return self.policy.centre + self.policy.reach * torch.tanh(output), mean, log_std


# --------------------------------------------------------------------------------- 5. Objectives


def density_error(action: Tensor, rebuilt: Tensor, mean: Tensor, log_std: Tensor, beta) -> Tensor:
    """l(s, a): a bound of -log pi_beta(a|s), scaled and shifted. [S, B, A or 2 A] -> [S, B]."""
    kl = -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp())
    return (rebuilt - action).square().mean(-1) + beta * kl.mean(-1)


def critic_loss(value: Tensor, target: Tensor) -> Tensor:
    """Squared error of one critic. [S, B] -> [S]."""
    return (value - target).square().mean(1)


def policy_loss(value: Tensor, error: Tensor, weight, normalize: bool = True) -> Tensor:
    """-Q + lambda l, with Q in units of its mean size: equation 11. [S, B] -> [S]."""
    scale = value.abs().mean(1).detach().clamp(min=1e-8) if normalize else 1.0
    return weight * error.mean(1) - value.mean(1) / scale


OBJECTIVES = (critic_loss, policy_loss)

# ------------------------------------------------------------------------------------- 6. Update


class Parameters(NamedTuple):
    """All that a step changes after the VAE is fitted, one row per seed."""

    actor: Tensor  # [S, P_actor]
    critic: Tensor  # [S, 2 P_critic]
    actor_target: Tensor
    critic_target: Tensor


class Noise(NamedTuple):
    """What one actor cycle of F critic steps draws."""

    target: Tensor  # [S, F B, A], standard normal
    latent: Tensor  # [S, B, 2 A], standard normal
    dropout: tuple[Tensor, ...] | None  # per hidden layer [F + 1, S, B, H]: 0 or 1 / (1 - p)


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: BoundedActor
    density: Tensor
    density_adam: AdamState
    parameters: Parameters
    actor_adam: AdamState
    critic_adam: AdamState
    online: OnlineRows
    rows: Chance
    noise: Chance


def fit_density(config: Config, learner: Learner, turn: Callable) -> tuple[dict, dict]:
    """A thousand steps of the VAE: metrics [S] of the last, and seconds per kind of work."""
    theta, adam = learner.density, learner.density_adam
    for _ in range(config.steps_per_iteration):
        theta, adam, error = turn(theta, adam)  # (1)
    learner.density, learner.density_adam = theta, adam
    return {"density_error": error}, turn.seconds()


def draw_pairs(config: Config, policy: BoundedActor, sampler: Sampler, noise: Chance) -> tuple:
    """What a step of the VAE takes: transitions, and standard normal numbers [S, B, 2 A]."""
    rows = config.batch_size
    return sampler.draw(rows), noise.normal(rows, 2 * policy.action_size)


def density_step(
    density: Density, config: Config, theta: Tensor, adam: AdamState, batch: Minibatch, noise
) -> tuple[Tensor, AdamState, Tensor]:
    """One step of the VAE. Pure; the last is its loss [S]."""

    def loss(theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rebuilt = density.rebuild(theta, batch.obs, batch.action, noise)
        error = density_error(batch.action, *rebuilt, config.density_beta).mean(1)
        return error, {"error": error}

    grad, metrics = gradient(loss, theta)
    lr, everyone = torch.tensor(config.density_lr), theta.new_ones(len(theta))
    theta, adam = adam_step(theta, grad, adam, lr, everyone)
    return theta, adam, metrics["error"]


def iterate(config: Config, learner: Learner, turn: Callable, explore=None) -> tuple[dict, dict]:
    """A thousand steps: metrics [S] of the last, and seconds per kind of work.

    `explore`, online, takes a number of environment steps and returns lambda's factor.
    """
    factor, state = 1.0, (learner.parameters, learner.actor_adam, learner.critic_adam)
    for _ in range(config.steps_per_iteration // config.policy_freq):
        if explore is not None:
            learner.policy.theta.copy_(state[0].actor)
            factor = explore(config.policy_freq)
        weight = torch.tensor(config.penalty * factor)
        state, metrics = turn(learner.density, state, weight=weight)
    learner.parameters, learner.actor_adam, learner.critic_adam = state
    learner.policy.theta.copy_(learner.parameters.actor)
    return metrics, turn.seconds()


def draw(config: Config, policy: BoundedActor, sampler: Sampler, noise: Chance) -> tuple:
    """Transitions of one actor cycle, and all its random numbers."""
    batch = sampler.draw(config.batch_size * config.policy_freq)  # (2)
    shifted = batch._replace(reward=batch.reward + config.reward_shift)
    return shifted, draw_noise(config, policy, noise)


def draw_noise(config: Config, policy: BoundedActor, noise: Chance) -> Noise:
    rows, cycle, actions = config.batch_size, config.policy_freq, policy.action_size
    dropout, keep = None, 1 - config.dropout
    if config.dropout:
        draws = [noise.uniform(cycle + 1, rows, width) for width in config.hidden]
        dropout = tuple((x < keep).float().transpose(0, 1) / keep for x in draws)
    return Noise(noise.normal(cycle * rows, actions), noise.normal(rows, 2 * actions), dropout)


def target_value(
    policy: BoundedActor, critics: Critics, config: Config, state: Parameters, part, noise, keep
) -> Tensor:
    """y [S, B], from standard normal `noise` [S, B, A] and dropout `keep`."""
    noise = (config.policy_noise * noise).clamp(-config.noise_clip, config.noise_clip)
    action = policy.mean(state.actor_target, part.next_obs, keep)
    action = policy.inside(action + policy.reach * noise)  # (3)
    values = critics.values(state.critic_target, part.next_obs, action)
    return part.reward + config.discount * (1 - part.terminated) * values.amin(1)  # (4)


def actor_cycle(
    policy: BoundedActor,
    critics: Critics,
    density: Density,
    config: Config,
    density_theta: Tensor,
    state: tuple,
    batch: Minibatch,
    noise: Noise,
    weight: Tensor,
) -> tuple[tuple, dict[str, Tensor]]:
    """`policy_freq` critic steps and, on the last one's transitions, an actor step. Pure."""
    parameters, actor_adam, critic_adam = state
    actor, critic, actor_target, critic_target = parameters
    everyone, count = actor.new_ones(len(actor)), config.policy_freq
    keeps = [noise.dropout and [layer[i] for layer in noise.dropout] for i in range(count + 1)]
    for part, perturbation, keep in zip(
        batch.chunks(count), noise.target.chunk(count, 1), keeps[:-1], strict=True
    ):
        target = target_value(policy, critics, config, parameters, part, perturbation, keep)

        def errors(critic: Tensor, part=part, target=target) -> tuple[Tensor, dict[str, Tensor]]:
            values = critics.values(critic, part.obs, part.action).unbind(1)
            total = sum(critic_loss(value, target) for value in values)
            return total, {"critic_loss": total, "value": values[0].mean(1)}

        grad, metrics = gradient(errors, critic)
        lr = torch.tensor(config.critic_lr)
        critic, critic_adam = adam_step(critic, grad, critic_adam, lr, everyone)  # (5)

    def loss(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        action = policy.mean(actor, part.obs, keeps[-1])
        value = critics.values(critic[:, : critics.layout.size], part.obs, action)[:, 0]
        rebuilt = density.rebuild(density_theta, part.obs, action, noise.latent)
        error = density_error(action, *rebuilt, config.density_beta)
        total = policy_loss(value, error, weight, config.normalize_q)  # (6)
        return total, {"policy_loss": total, "penalty": error.mean(1)}

    grad, more = gradient(loss, actor)
    lr = torch.tensor(config.actor_lr)
    actor, actor_adam = adam_step(actor, grad, actor_adam, lr, everyone)  # (7)
    moved = zip((actor, critic), (actor_target, critic_target), strict=True)
    targets = [old + config.tau * (new - old) for new, old in moved]  # (8)
    return (Parameters(actor, critic, *targets), actor_adam, critic_adam), metrics | more


def explore(config: Config, explorer: Explorer, rngs: list, count: int) -> float:
    """`count` steps of pi plus noise in every environment; lambda's factor after them."""
    explorer.step(count, config.exploration_noise, rngs)  # (9)
    return max(config.penalty_floor, 1 - explorer.rows.count / config.cooling_steps)  # (10)


# -------------------------------------------------------------------------------------- 7. Train


def start(config: Config, run, data, about: dict) -> tuple[Learner, Critics, Density]:
    """All networks, fresh, but for the VAE of another run where `config.density` names one."""
    rngs = run.streams["init"]
    policy = BoundedActor(
        data.obs_size, *data.box(), rngs=rngs, hidden=config.hidden, last=config.actor_last
    ).to(run.device)
    if config.normalize_obs:
        policy.normalizer.fit(*data.obs_statistics())
    critics = Critics(data.obs_size, policy.action_size, config.hidden)
    critic = critics.initial(rngs, last=config.critic_last).to(run.device)
    density = Density(policy, data.obs_size, config.density_hidden)
    if config.density:
        fitted = load_rows(Path(config.density) / DENSITY_FILE, density.layout, run.seeds, about)
    else:
        fitted = initial(density.layout, rngs)
    actor, fitted = policy.theta.detach().clone(), fitted.to(run.device)
    parameters = Parameters(actor, critic, actor.clone(), critic.clone())
    adams = [AdamState.zeros(x) for x in (fitted, actor, critic)]
    online = OnlineRows(len(run.seeds), config.online_steps, data.obs_size, policy.action_size)
    draws = run.chance("batch"), run.chance("action")
    learner = Learner(policy, fitted, adams[0], parameters, *adams[1:], online, *draws)
    return learner, critics, density


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data = run.data()
    about = {"data": data.about["sha256"], "normalize_obs": str(config.normalize_obs)}
    learner, critics, density = start(config, run, data, about)
    policy, draws = learner.policy, [learner.rows, learner.noise]
    sampler = Sampler(data, policy.normalizer, learner.rows, online=learner.online)
    source = (config, policy, sampler, learner.noise)
    step = partial(density_step, density, config)
    fit = run.turn(partial(draw_pairs, *source), step, config.density_steps, draws)
    step = partial(actor_cycle, policy, critics, density, config)
    turn = run.turn(partial(draw, *source), step, config.total_steps, draws)
    before = config.density_iterations
    online_from = before + config.total_steps // config.steps_per_iteration
    if config.online_steps:
        explorer = Explorer(run.environments(1), policy, learner.online)
        wander = partial(explore, config, explorer, run.streams["action"])
    for k in run.iterations(config.iterations, config.steps_per_iteration, learner, before):
        if k < before:
            run.log(*fit_density(config, learner, fit))
            if k == before - 1:
                theta = learner.density
                save_rows(run.folder / DENSITY_FILE, density.layout, theta, run.seeds, about)
            continue
        if k == online_from or (k > online_from and run.at_boundary):
            explorer.restart(run.streams.integers("environment", 1))
        run.log(*iterate(config, learner, turn, wander if k >= online_from else None))
