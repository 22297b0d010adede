"""CSVE: Conservative State Value Estimation for Offline RL (Chen et al. 2023, arXiv 2302.06884).

On a data set of transitions (s, a, r, s', d), for S seeds at once, which share the models alone:

    (1)  fit an ensemble of Gaussian models of (s' - s, r) given (s, a) by Adam; then freeze it
    for steps t = 1..T:
    (2)  draw B transitions; s_m, a member's sample of what follows s and an action of pi
    (3)  gap = w (mean V(s_m) - mean V(s)) - budget; Adam on alpha: alpha rises where gap > 0
    (4)  Adam on V: mean (min_j Q_j,target(s, a~) - V(s))^2 + alpha gap, a~ and s_m anew
    (5)  y = r + gamma (1 - d) V(s'), with the new V
    (6)  Adam on the squared errors of Q_1 and of Q_2 to y
    (7)  w_a = min(exp(beta (min_j Q_j,target(s, a) - V(s))), bound), or 1 if all are equal
    (8)  Adam on pi: -mean w_a log pi(a|s) - lambda mean (r_m + gamma V(s_m)), through a and model
    (9)  Q_target <- Q_target + polyak (Q - Q_target)

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | Gaussian around a tanh mean, not squashed; acts with the mean |
| V | value | [S, P_value] | low at states that the model reaches and the data do not |
| Q_1, Q_2 | critic | [S, 2 P_critic] | no action of pi ever enters their target |
| alpha | dual | [S, 1] | its logarithm: how much the gap weighs |

The defaults are the paper's form, as far as it is known. The preset `released` is the code's: V's
data term at s', the penalty at pi's mean actions, a bonus without reward and gamma, model states
within +-10, the models' errors over sigma (not its square), their mean heads of spectral norm 1.
Departures: a terminal s' is the true one, not zeros; a constant actor_lr; log sigma is no sigmoid.
"""

import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import ReplayBuffer, require_offline
from rlsuite.core.critics import Critics, StateValue, critic_loss
from rlsuite.core.distributions import DiagGaussian
from rlsuite.core.dynamics import Draw, Dynamics, require_models
from rlsuite.core.optim import Metrics, Net, descend, polyak
from rlsuite.core.ranges import Declared, RunFolder, require_positive, require_within
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.weights import EQUAL, regression_loss, regression_weights
from rlsuite.envs.faults import warn_once

LOG_STD, START = (-5.0, 2.0), -1.5  # bounds of pi's log sigma, and where it starts [code]
LARGEST_ALPHA, LARGEST_BONUS = 1e6, 1500.0  # the bonus's if it is without reward [code]

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    budget: float = 10.0  # gap that costs nothing, in V's units [paper; code: class; script -10]
    penalty: float = 1.0  # w, weight of the gap [code: script; class 5]
    alpha: float = 10.0  # where the dual weight starts [paper; code]
    alpha_lr: float = 1e-4  # of Adam on log alpha: a schedule more than a controller [code]
    temperature: float = 3.0  # beta, per unit of reward; see the presets [paper; code: class]
    max_weight: float = 100.0  # bound on w_a [code: class; script 1000]
    bonus: float = 0.0  # lambda [paper: searched in 0, 0.1, 0.5, 1; code: script 0]
    bonus_reward: bool = True  # r + gamma V in the bonus; or V alone, bounded [paper; code off]
    next_states: bool = False  # the gap's data term is V(s'), not V(s) [paper; code on]
    mean_actions: bool = False  # the gap's model term is at pi's mean action [paper; code on]
    clip_states: float | None = None  # model states lie within +- this [paper; code 10]
    actor_lr: float = 3e-4  # of Adam [paper; code: class; script 3e-3]
    critic_lr: float = 1e-4  # of Adam on V and Q [paper; code: 3e-4, script 3e-3]
    discount: float = 0.99  # gamma, per step [paper; code]
    polyak: float = 0.005  # of the targets' moving average [paper; code]
    model_steps: int = 300_000  # of fitting the models [code]
    model_lr: float = 1e-3  # of Adam on them [code]
    model_batch_size: int = 100  # transitions per step [code]
    model_hidden: tuple[int, ...] = (200, 200, 200, 200)  # widths, swish [code]
    members: int = 5  # M [paper; code]
    inverse_std: bool = False  # errors over sigma, not its square [paper: likelihood; code on]
    spectral_norm: bool = False  # the mean head's is one [ours: off; code on]
    dynamics: RunFolder | None = None  # run folder whose models to use instead [code: a file]
    batch_size: int = 256  # B, transitions per step [paper; code]
    gradient_steps: int = 1_000_000  # T, gradient steps of each seed [paper: MuJoCo]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    hidden: tuple[int, ...] = (256, 256)  # widths of pi, V and Q, ReLU [code]

    def __post_init__(self) -> None:
        require_offline(self, "model_steps")
        require_models(self)
        require_positive(self, "actor_lr", "critic_lr", "alpha_lr", "alpha", "max_weight")
        require_within(self, 0, 1, "discount", "polyak")
        require_within(self, 0, math.inf, "penalty", "temperature", "bonus")
        require_within(self, -math.inf, math.inf, "budget")

    @property
    def declared(self) -> Declared:
        steps, rates = self.gradient_steps, ("alpha_lr", "actor_lr", "critic_lr", "model_lr")
        return Declared(self.hidden, self.batch_size, steps, steps, rates, value="value")


# ------------------------------------------------------------------------------------ 3. Presets

_BETA = {f"{task}/{level}": dict(temperature=0.1) for task in ("HalfCheetah", "Hopper", "Walker2d")
         for level in ("medium-replay", "medium-expert", "expert")}  # fmt: skip
for _hand in ("AdroitHandPen", "AdroitHandHammer", "AdroitHandDoor", "AdroitHandRelocate"):
    _BETA[_hand] = dict(temperature=30.0, gradient_steps=100_000)
    _BETA[f"{_hand}/expert"] = dict(temperature=0.01)
# preset -> task family or family/level of the data ("*": any) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {"*": {}, **_BETA},
    "released": {"*": dict(
        budget=-10.0, temperature=30.0, max_weight=1000.0, bonus_reward=False, next_states=True,
        mean_actions=True, clip_states=10.0, actor_lr=3e-3, critic_lr=3e-3, inverse_std=True,
        spectral_norm=True, gradient_steps=100_000)},
    "smoke": {"*": dict(gradient_steps=200, steps_per_iteration=50, batch_size=32, hidden=(32, 32),
                        model_steps=100, model_hidden=(32, 32), members=2, bonus=0.1)},
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def value_gap(reached: Tensor, known: Tensor, penalty, budget) -> Tensor:
    """w (mean V(s_m) - mean V(s)) - budget. [S, B] -> [S]."""
    return penalty * (reached.mean(1) - known.mean(1)) - budget


OBJECTIVES = (value_gap, critic_loss, regression_loss)

# ------------------------------------------------------------------------------------- 6. Update

Nets = namedtuple("Nets", "config policy critics values models")  # whose parameters are elsewhere


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net
    value: Net
    critic: Net  # both critics
    critic_target: Tensor  # [S, 2 P_critic]
    dual: Net  # log alpha, [S, 1]


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: BoundedActor
    dynamics: Dynamics
    state: State
    buffer: ReplayBuffer
    rng: SeedRandom


def fit_models(config: Config, learner: Learner) -> Metrics:
    """An iteration of the models: metrics [S] of its last step."""
    return learner.dynamics.train(config.steps_per_iteration)  # (1)


def draw(nets: Nets, learner: Learner) -> tuple:
    """Transitions of one step, and what is random for alpha, for V and for pi."""
    rows = nets.config.batch_size
    batch = learner.buffer.sample(rows)  # (2)
    return batch, [nets.models.draw(learner.rng, rows) for _ in range(3)]


def distribution(policy: BoundedActor, actor, obs) -> DiagGaussian:
    """pi(. | s) at [S, B, O]: Gaussian, not squashed."""
    log_std = policy.layout.views(actor)["log_std"]
    return DiagGaussian(policy.mean(actor, obs), log_std.clamp(*LOG_STD))


def value_steps(nets: Nets, model, state: State, batch, draws) -> tuple:
    """(dual, value, metrics) after a step of alpha and of V. Pure."""
    config, policy, critics, values, models = nets
    obs, data = batch.obs, batch.next_obs if config.next_states else batch.obs
    pi = distribution(policy, state.actor.theta, obs)

    def action(draw):
        return policy.clip_action(pi.sample(draw.action))

    def gap(theta, draw):
        asked = pi.mean if config.mean_actions else action(draw)
        there, _ = models.predict(model, obs, asked, draw)
        both = (values.values(theta, x) for x in (there, data))
        return value_gap(*both, config.penalty, config.budget)

    # alpha
    over = gap(state.value.theta, draws[0])

    def weight(log_alpha):
        return log_alpha[:, 0].exp().clamp(max=LARGEST_ALPHA)

    def ascent(log_alpha):
        alpha = weight(log_alpha)
        return -alpha * over, {"gap": over, "alpha": alpha}

    dual, metrics = descend(state.dual, config.alpha_lr, ascent)  # (3)
    alpha = weight(dual.theta)
    # V
    q = critics.values(state.critic_target, obs, action(draws[1]))

    def conservative(theta):
        v = values.values(theta, obs)
        total = critic_loss(v, q.amin(1)) + alpha * gap(theta, draws[1])
        return total, {"value_loss": total, "value": v.mean(1)}

    value, more = descend(state.value, config.critic_lr, conservative)  # (4)
    return dual, value, metrics | more


def bonus(nets: Nets, model, value, obs, action, draw: Draw) -> Tensor:
    """What the models promise [S] for actions of pi, through which the gradient goes."""
    there, reward = nets.models.predict(model, obs, action, draw)
    v = nets.values.values(value, there)
    if nets.config.bonus_reward:
        return (reward + nets.config.discount * v).mean(1)
    return v.clamp(-LARGEST_BONUS, LARGEST_BONUS).mean(1)


def csve_step(nets: Nets, model, state: State, batch, draws) -> tuple:
    """(state, metrics) after a step of alpha, V, Q and pi, in this order. Pure."""
    config, policy, critics, values, _ = nets
    obs, target, lr = batch.obs, state.critic_target, config.critic_lr
    dual, value, metrics = value_steps(nets, model, state, batch, draws)
    # Q
    future = (1 - batch.terminated) * values.values(value.theta, batch.next_obs)
    y = batch.reward + config.discount * future  # (5)
    critic, more = descend(state.critic, lr, critics.error, batch, y)  # (6)
    # pi
    q = critics.values(target, obs, batch.action).amin(1)
    advantage = q - values.values(value.theta, obs)
    limits = (config.temperature, config.max_weight)
    weight, most = regression_weights(advantage, q, *limits)  # (7)

    def improvement(theta):
        pi = distribution(policy, theta, obs)
        total = regression_loss(pi.log_prob(batch.action), weight)
        if config.bonus:
            action = policy.clip_action(pi.sample(draws[2].action))
            promise = bonus(nets, model, value.theta, obs, action, draws[2])
            total = total - config.bonus * promise
        return total, {"actor_loss": total}

    actor, last = descend(state.actor, config.actor_lr, improvement)  # (8)
    target = polyak(target, critic.theta, config.polyak)  # (9)
    state = State(actor, value, critic, target, dual)
    return state, more | metrics | most | last  # V's value, not Q's


# -------------------------------------------------------------------------------------- 7. Train


def start(config: Config, run, data) -> tuple[Learner, Nets]:
    """All networks, fresh, but for the models of another run where `config.dynamics` names one."""
    rngs, size, hidden = run.streams["init"], data.obs_size, config.hidden
    network = {"rngs": rngs, "hidden": hidden, "log_std": START}
    policy = BoundedActor(size, *data.action_bounds(), **network).to(run.device)
    actions, values = policy.action_size, StateValue(size, hidden)
    critics = Critics(size, actions, hidden)
    dynamics = Dynamics(data, actions, config, len(rngs))
    value = Net.of(values.initial(rngs).to(run.device))
    critic = Net.of(critics.initial(rngs).to(run.device))
    dual = Net.of(policy.theta.new_full((len(rngs), 1), math.log(config.alpha)))
    state = State(Net.of(policy.theta), value, critic, critic.theta.clone(), dual)
    buffer = ReplayBuffer.of_data(data, run.random("batch"))
    learner = Learner(policy, dynamics, state, buffer, run.random("action"))
    return learner, Nets(config, policy, critics, values, dynamics.ensemble)


def iterate(config: Config, learner: Learner, update: Callable) -> Metrics:
    """An iteration of all but the models: metrics [S] of its last step."""
    theta = learner.policy.theta
    model = learner.dynamics.theta().to(theta.device)
    for _ in range(config.steps_per_iteration):
        learner.state, metrics = update(model, learner.state)
    theta.copy_(learner.state.actor.theta)
    if metrics["equal_advantages"].any():
        warn_once(EQUAL)
    return metrics


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    learner, nets = start(config, run, run.data())
    update = run.update(partial(csve_step, nets), partial(draw, nets, learner))
    each = config.steps_per_iteration
    fitting = 0 if config.dynamics else config.model_steps // each
    stages = {"models": (fitting, each)}, {"offline": (config.gradient_steps // each, each)}
    run.begin(learner, prepare=stages[0], train=stages[1])
    for _ in run.stage("models"):
        run.log(fit_models(config, learner))
    if fitting:
        learner.dynamics.save(run.folder)
    for _ in run.stage("offline"):
        run.log(iterate(config, learner, update))
