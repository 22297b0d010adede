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
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import ReplayBuffer, TransitionBatch, require_offline
from rlsuite.core.critics import Critics, StateValue, critic_loss
from rlsuite.core.distributions import DiagGaussian
from rlsuite.core.optim import Metrics, Net, descend, polyak
from rlsuite.core.ranges import Declared, require_between, require_positive, require_within

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
    actor_lr: float = 3e-4  # of Adam [paper; code]
    critic_lr: float = 3e-4  # of Adam, V and Q [paper; code]
    anneal_lr: bool = True  # to zero along a cosine over gradient_steps [paper; code]
    log_std_min: float = -5.0  # bounds of the actor's log sigma [code]
    log_std_max: float = 2.0  # [code]
    action_margin: float = 1e-5  # the data's actions stay this far inside the box [code]
    batch_size: int = 256  # B, transitions per step [paper; code]
    gradient_steps: int = 1_000_000  # T, gradient steps of each seed [paper; code]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = False  # (s - mean) / (std + 1e-3) of the data [code: off; CORL: on]
    hidden: tuple[int, ...] = (256, 256)  # widths of all networks, ReLU [paper; code]

    def __post_init__(self) -> None:
        require_offline(self)
        require_positive(self, "actor_lr", "critic_lr", "max_weight")
        require_within(self, 0, 1, "discount", "polyak", "action_margin")
        require_within(self, 0, math.inf, "temperature")
        require_between(self, 0, 1, "expectile")
        require_between(self, -math.inf, self.log_std_max, "log_std_min")

    @property
    def declared(self) -> Declared:
        rates = ("actor_lr", "critic_lr")
        steps = self.gradient_steps
        known = {"value": "value", "schedules": rates[:1] if self.anneal_lr else ()}
        return Declared(self.hidden, self.batch_size, steps, steps, rates, **known)


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
    "smoke": {"*": dict(gradient_steps=200, steps_per_iteration=50, batch_size=32,
                        hidden=(32, 32))},
}  # fmt: skip

# ----------------------------------------------------------------------------------- 4. Networks


class Networks(NamedTuple):
    """What acts and what judges; parameters are in `State`."""

    policy: BoundedActor
    critics: Critics
    values: StateValue


def distribution(policy: BoundedActor, config: Config, actor: Tensor, obs: Tensor) -> DiagGaussian:
    """pi(. | s) at [S, B, O]: Gaussian, not squashed."""
    log_std = policy.layout.views(actor)["log_std"]
    log_std = log_std.clamp(config.log_std_min, config.log_std_max)
    return DiagGaussian(policy.mean(actor, obs), log_std)


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


OBJECTIVES = (expectile_loss, actor_loss, critic_loss)

# ------------------------------------------------------------------------------------- 6. Update


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net
    value: Net
    critic: Net  # both critics
    critic_target: Tensor  # [S, 2 P_critic]


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: BoundedActor
    state: State
    buffer: ReplayBuffer


def reward_scale(config: Config, data) -> float:
    """What makes the episode returns of `data` span 1000; 1 where that is not wanted."""
    return data.reward_scale(1000) if config.scale_rewards else 1.0


def actor_rate(config: Config, t: int) -> float:
    """The learning rate of pi after `t` steps."""
    angle = math.pi * t / config.gradient_steps if config.anneal_lr else 0.0
    return config.actor_lr * 0.5 * (1 + math.cos(angle))


def draw(config: Config, learner: Learner, scale: float) -> tuple[TransitionBatch]:
    """Transitions with their rewards scaled, and actions inside the box."""
    policy = learner.policy
    batch = learner.buffer.sample(config.batch_size)  # (1)
    batch = batch.standardized(policy.normalizer)
    reward = scale * batch.reward + config.reward_shift
    inside = policy.half_width * (1 - config.action_margin)
    action = batch.action.clamp(policy.centre - inside, policy.centre + inside)
    return (batch._replace(reward=reward, action=action),)


def iql_step(
    nets: Networks, config: Config, state: State, batch: TransitionBatch, actor_lr: Tensor
) -> tuple[State, Metrics]:
    """One step of V, pi and Q, in this order. Pure."""
    policy, critics, values = nets
    actor, value, critic, critic_target = state
    lr, obs = config.critic_lr, batch.obs
    q = critics.values(critic_target, obs, batch.action).amin(1)  # (2)

    # value
    def asymmetric(theta):
        v = values.values(theta, obs)
        loss = expectile_loss(v, q, config.expectile)
        return loss, {"value_loss": loss, "value": v.mean(1)}

    value, metrics = descend(value, lr, asymmetric)  # (3)

    # actor
    advantage = q - values.values(value.theta, obs)
    weight = advantage_weight(advantage, config.temperature, config.max_weight)  # (4)

    def imitation(theta):
        pi = distribution(policy, config, theta, obs)
        loss = actor_loss(pi.log_prob(batch.action), weight)
        return loss, {"actor_loss": loss, "weight": weight.mean(1)}

    actor, more = descend(actor, actor_lr, imitation)  # (5)

    # critics
    future = values.values(value.theta, batch.next_obs)
    future = (1 - batch.terminated) * future
    y = batch.reward + config.discount * future  # (6)
    critic, most = descend(critic, lr, critics.error, batch, y)  # (7)
    critic_target = polyak(critic_target, critic.theta, config.polyak)  # (8)
    state = State(actor, value, critic, critic_target)
    return state, most | metrics | more


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data, rngs = run.data(), run.streams["init"]
    policy = BoundedActor.for_data(data, config, run.device, rngs, log_std=0.0)
    critics = Critics(data.obs_size, policy.action_size, config.hidden)
    values = StateValue(data.obs_size, config.hidden)
    actor = Net.of(policy.theta)
    critic = Net.of(critics.initial(rngs).to(run.device))
    value = Net.of(values.initial(rngs).to(run.device))
    state = State(actor, value, critic, critic.theta.clone())
    learner = Learner(policy, state, ReplayBuffer.of_data(data, run.random("batch")))
    step = partial(iql_step, Networks(policy, critics, values), config)
    drawing = partial(draw, config, learner, reward_scale(config, data))
    update = run.update(step, drawing)
    each = config.steps_per_iteration
    run.begin(learner, train={"offline": (config.gradient_steps // each, each)})
    for k in run.stage("offline"):
        for t in range(k * each, (k + 1) * each):
            lr = torch.tensor(actor_rate(config, t))
            learner.state, metrics = update(learner.state, actor_lr=lr)
        policy.theta.copy_(learner.state.actor.theta)
        run.log(metrics)
