"""IQL: Offline RL with Implicit Q-Learning (Kostrikov et al. 2022, arXiv 2110.06169).

For steps t = 1..T on a data set of transitions (s, a, r, s', d), for S seeds at once, each with its
own everything:

    (1)  draw B transitions of the data; rewards are scaled and shifted once for all
    (2)  q = min_i Q_i,target(s, a)
    (3)  Adam on V: mean |tau - 1[u < 0]| u^2, u = q - V(s), an expectile of q over the actions
    (4)  w = min(exp(beta (q - V(s))), 100), with the new V
    (5)  Adam on pi: -mean w log pi(a|s), the learning rate going to zero along a cosine
    (6)  y = r + gamma (1 - d) V(s'), with the new V
    (7)  Adam on the squared errors of Q_1 and of Q_2 to y
    (8)  Q_target <- Q_target + polyak (Q - Q_target)

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | Gaussian around a tanh mean, not squashed; acts with the mean |
| V | value | [S, P_value] | upper expectile of Q under the data's actions |
| Q_1, Q_2 | critic | [S, 2 P_critic] | no action of pi ever enters them |
| tau | expectile | | 0.5: plain regression; towards 1: maximum over the data's actions |
| beta | temperature | | 0: behaviour cloning |
| d | terminated | [S, B] | the task's own end; a time limit is none |

Departures from the official code (ikostrikov/implicit_q_learning), whose settings these are:
weights start as torch.nn.Linear's do, not orthogonal; the actor's dropout of the Adroit and Kitchen
runs is left out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.core.actors import BoundedActor
from rlsuite.core.chance import Chance
from rlsuite.core.critics import Critics, StateValue
from rlsuite.core.distributions import DiagGaussian
from rlsuite.core.optim import AdamState, adam_step, gradient
from rlsuite.core.ranges import require_multiple, require_positive, require_whole, require_within
from rlsuite.core.replay import Minibatch, Sampler

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    expectile: float = 0.7  # tau [paper: MuJoCo; code]
    temperature: float = 3.0  # beta, per unit of reward as scaled [paper: MuJoCo; code]
    max_weight: float = 100.0  # bound on w [paper; code]
    scale_rewards: bool = True  # so that episode returns span 1000 [code: locomotion, as presets]
    reward_shift: float = 0.0  # added to every reward, after scaling [code: AntMaze -1]
    discount: float = 0.99  # gamma, per step [paper; code]
    polyak: float = 0.005  # of the targets' moving average [paper; code]
    learning_rate: float = 3e-4  # of Adam, all networks [paper; code]
    anneal_actor_lr: bool = True  # to zero along a cosine over total_steps [paper; code]
    log_std_min: float = -5.0  # bounds of the actor's log sigma [code]
    log_std_max: float = 2.0  # [code]
    action_margin: float = 1e-5  # the data's actions stay this far inside the box [code]
    batch_size: int = 256  # B, transitions per step [paper; code]
    total_steps: int = 1_000_000  # T, gradient steps of each seed [paper; code]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = False  # (s - mean) / (std + 1e-3) of the data [code: off; CORL: on]
    hidden: tuple[int, ...] = (256, 256)  # widths of all networks, ReLU [paper; code]

    def __post_init__(self) -> None:
        require_whole(self, "batch_size", "total_steps", "steps_per_iteration", "hidden")
        require_multiple(self, "steps_per_iteration", "total_steps")
        require_positive(self, "learning_rate", "max_weight")
        require_within(self, 0, 1, "discount", "polyak", "action_margin")
        require_within(self, 0, math.inf, "temperature")
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile is {self.expectile}; it must lie between 0 and 1")
        if not self.log_std_min < self.log_std_max:
            bounds = f"log_std_min {self.log_std_min}, log_std_max {self.log_std_max}"
            raise ValueError(f"{bounds}: the first must be less than the second")

    @property
    def iterations(self) -> int:
        return self.total_steps // self.steps_per_iteration


# ------------------------------------------------------------------------------------ 3. Presets

# train_offline.py scales the rewards of three tasks alone; kitchen_config.py serves Adroit, too
_SCALED, _HAND = dict(scale_rewards=True), dict(temperature=0.5)

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {
        "*": dict(scale_rewards=False),
        "HalfCheetah": _SCALED, "Hopper": _SCALED, "Walker2d": _SCALED,
        "AntMaze": dict(expectile=0.9, temperature=10.0, reward_shift=-1.0),
        "AdroitHandDoor": _HAND, "AdroitHandHammer": _HAND, "AdroitHandPen": _HAND,
        "AdroitHandRelocate": _HAND, "FrankaKitchen": _HAND,
    },
    "smoke": {"*": dict(total_steps=200, steps_per_iteration=50, batch_size=32, hidden=(32, 32))},
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def expectile_loss(value: Tensor, q: Tensor, expectile: float) -> Tensor:
    """mean |tau - 1[u < 0]| u^2, u = q - V: equation 5. [S, B] -> [S]."""
    u = q - value
    weight = torch.where(u < 0, 1 - expectile, expectile)
    return (weight * u.square()).mean(1)


def advantage_weight(advantage: Tensor, temperature: float, max_weight: float) -> Tensor:
    """min(exp(beta A), bound), of which no gradient is taken. [S, B] -> [S, B]."""
    # the exponent is bounded first: exp overflows long before the minimum is taken
    return (temperature * advantage.detach()).clamp(max=math.log(max_weight)).exp()


def actor_loss(log_prob: Tensor, weight: Tensor) -> Tensor:
    """-mean w log pi(a|s): equation 7. [S, B] -> [S]."""
    return -(weight * log_prob).mean(1)


def critic_loss(value: Tensor, target: Tensor) -> Tensor:
    """Squared error of one critic: equation 6. [S, B] -> [S]."""
    return (value - target).square().mean(1)


OBJECTIVES = (expectile_loss, actor_loss, critic_loss)

# ------------------------------------------------------------------------------------- 6. Update


class Parameters(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Tensor  # [S, P_actor]
    value: Tensor  # [S, P_value]
    critic: Tensor  # [S, 2 P_critic]
    critic_target: Tensor


class Adams(NamedTuple):
    actor: AdamState
    value: AdamState
    critic: AdamState


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: BoundedActor
    parameters: Parameters
    actor_adam: AdamState
    value_adam: AdamState
    critic_adam: AdamState
    rows: Chance


def reward_scale(config: Config, data) -> float:
    """What makes the episode returns of `data` span 1000; 1 where that is not wanted."""
    returns = data.episode_returns()
    if config.scale_rewards and returns.max() == returns.min():
        raise ValueError(f"every episode returns {returns[0]:g}; add --no-scale-rewards")
    return float(1000 / (returns.max() - returns.min())) if config.scale_rewards else 1.0


def iterate(
    config: Config, learner: Learner, turn: Callable, done: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A thousand steps after `done`: metrics [S] of the last, and seconds per kind of work."""
    adams = Adams(learner.actor_adam, learner.value_adam, learner.critic_adam)
    parameters = learner.parameters
    for t in range(done, done + config.steps_per_iteration):
        angle = math.pi * t / config.total_steps if config.anneal_actor_lr else 0.0
        lr = torch.tensor(config.learning_rate * 0.5 * (1 + math.cos(angle)))
        parameters, adams, metrics = turn(parameters, adams, actor_lr=lr)
    learner.parameters = parameters
    learner.actor_adam, learner.value_adam, learner.critic_adam = adams
    learner.policy.theta.copy_(parameters.actor)
    return metrics, turn.seconds()


def draw(config: Config, policy: BoundedActor, sampler: Sampler, scale: float) -> tuple[Minibatch]:
    """Transitions with their rewards scaled, and actions inside the box."""
    batch = sampler.draw(config.batch_size)  # (1)
    inside = policy.reach * (1 - config.action_margin)
    action = batch.action.clamp(policy.centre - inside, policy.centre + inside)
    return (batch._replace(reward=scale * batch.reward + config.reward_shift, action=action),)


def iql_step(
    policy: BoundedActor,
    critics: Critics,
    values: StateValue,
    config: Config,
    parameters: Parameters,
    adams: Adams,
    batch: Minibatch,
    actor_lr: Tensor,
) -> tuple[Parameters, Adams, dict[str, Tensor]]:
    """One step of V, pi and Q, in this order. Pure."""
    actor, value, critic, critic_target = parameters
    lr, everyone = torch.tensor(config.learning_rate), actor.new_ones(len(actor))
    q = critics.values(critic_target, batch.obs, batch.action).amin(1)  # (2)

    def value_error(value: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        v = values.values(value, batch.obs)
        loss = expectile_loss(v, q, config.expectile)
        return loss, {"value_loss": loss, "value": v.mean(1)}

    grad, metrics = gradient(value_error, value)
    value, value_adam = adam_step(value, grad, adams.value, lr, everyone)  # (3)
    advantage = q - values.values(value, batch.obs)
    weight = advantage_weight(advantage, config.temperature, config.max_weight)  # (4)

    def imitation(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        log_prob = distribution(policy, config, actor, batch.obs).log_prob(batch.action)
        loss = actor_loss(log_prob, weight)
        return loss, {"actor_loss": loss, "weight": weight.mean(1)}

    grad, more = gradient(imitation, actor)
    actor, actor_adam = adam_step(actor, grad, adams.actor, actor_lr, everyone)  # (5)
    future = (1 - batch.terminated) * values.values(value, batch.next_obs)
    target = batch.reward + config.discount * future  # (6)

    def errors(critic: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        both = critics.values(critic, batch.obs, batch.action).unbind(1)
        loss = sum(critic_loss(one, target) for one in both)
        return loss, {"critic_loss": loss}

    grad, most = gradient(errors, critic)
    critic, critic_adam = adam_step(critic, grad, adams.critic, lr, everyone)  # (7)
    critic_target = critic_target + config.polyak * (critic - critic_target)  # (8)
    moved = Parameters(actor, value, critic, critic_target)
    return moved, Adams(actor_adam, value_adam, critic_adam), metrics | more | most


def distribution(policy: BoundedActor, config: Config, actor: Tensor, obs: Tensor) -> DiagGaussian:
    """pi(. | s) at [S, B, O]: Gaussian, not squashed."""
    log_std = policy.layout.views(actor)["log_std"].clamp(config.log_std_min, config.log_std_max)
    return DiagGaussian(policy.mean(actor, obs), log_std)


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data, rngs = run.data(), run.streams["init"]
    policy = BoundedActor(data.obs_size, *data.box(), rngs=rngs, hidden=config.hidden, log_std=0.0)
    policy.to(run.device)
    if config.normalize_obs:
        policy.normalizer.fit(*data.obs_statistics())
    critics = Critics(data.obs_size, policy.action_size, config.hidden)
    values = StateValue(data.obs_size, config.hidden)
    actor, rows = policy.theta.detach().clone(), run.chance("batch")
    critic, value = (x.initial(rngs).to(run.device) for x in (critics, values))
    parameters = Parameters(actor, value, critic, critic.clone())
    learner = Learner(policy, parameters, *(AdamState.zeros(x) for x in parameters[:3]), rows)
    sampler = Sampler(data, policy.normalizer, rows)
    drawing = partial(draw, config, policy, sampler, reward_scale(config, data))
    step = partial(iql_step, policy, critics, values, config)
    turn = run.turn(drawing, step, config.total_steps, [rows])
    for k in run.iterations(config.iterations, config.steps_per_iteration, learner):
        run.log(*iterate(config, learner, turn, k * config.steps_per_iteration))
