"""CSVE: Conservative State Value Estimation for Offline RL (Chen et al. 2023, arXiv 2302.06884).

On a data set of transitions (s, a, r, s', d), for S seeds at once, each with its own everything
but the model, which all seeds of a data set share:

    (1)  fit an ensemble of Gaussian models of (s' - s, r) given (s, a) by Adam; then freeze it
    for steps t = 1..T:
    (2)  draw B transitions; s_m, a member's sample of what follows s and an action of pi
    (3)  gap = w (mean V(s_m) - mean V(s)) - budget; Adam on alpha: alpha rises where gap > 0
    (4)  Adam on V: mean (min_j Q_j,target(s, a~) - V(s))^2 + alpha gap, a~ and s_m anew
    (5)  y = r + gamma (1 - d) V(s'), with the new V
    (6)  Adam on the squared errors of Q_1 and of Q_2 to y
    (7)  w_a = min(exp(beta (min_j Q_j,target(s, a) - V(s))), bound)
    (8)  Adam on pi: -mean w_a log pi(a|s) - lambda mean (r_m + gamma V(s_m)), through a and model
    (9)  Q_target <- Q_target + polyak (Q - Q_target)

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | Gaussian around a tanh mean, not squashed; acts with the mean |
| V | value | [S, P_value] | low at states that the model reaches and the data do not |
| Q_1, Q_2 | critic | [S, 2 P_critic] | no action of pi ever enters their target |
| alpha | dual | [S, 1] | its logarithm: how much the gap weighs |
| P^ | model | [1, M P_model] | M members, fitted from a stream of its own |
| beta | temperature | | 0: behaviour cloning |
| d | terminated | [S, B] | the task's own end; a time limit is none |

The defaults are the paper's form, as far as it is known. The preset `released` is the released
code's: V's data term at s', the penalty at pi's mean actions, a bonus without reward and gamma,
model states within +-10, errors of the model over sigma (not its square), its mean head of spectral
norm 1, and the Adroit script's numbers. Departures from both: s' of a terminal row is the true one,
where the code's base library has zeros; the actor's learning rate does not fall (the code's
schedule moves it by 0.03%); batches of the model's fit are as large as the others.
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
from rlsuite.core.critics import Critics, StateValue, critic_loss
from rlsuite.core.distributions import DiagGaussian
from rlsuite.core.dynamics import Dynamics, Ensemble, require_models
from rlsuite.core.optim import Metrics, Net, descend, polyak
from rlsuite.core.ranges import require_offline, require_positive, require_within
from rlsuite.core.replay import Minibatch, Sampler

LOG_STD = (-5.0, 2.0)  # log sigma of pi is a sigmoid's between these [code]
LARGEST_ALPHA = 1e6
LARGEST_BONUS = 1500.0  # of V in the bonus without reward

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
    model_decay: float = 2.5e-5  # weight decay of that [code]
    model_batch_size: int = 100  # transitions per step [code]
    model_hidden: tuple[int, ...] = (200, 200, 200, 200)  # widths, swish [code]
    members: int = 5  # M [paper; code]
    inverse_std: bool = False  # errors over sigma, not its square [paper: likelihood; code on]
    spectral_norm: bool = False  # the mean head's is one [ours: off; code on]
    model_seed: int = 0  # of the models' own stream: the same ones for all seeds [ours]
    dynamics: str | None = None  # run folder whose models to use instead [code: a file]
    batch_size: int = 256  # B, transitions per step [paper; code]
    total_steps: int = 1_000_000  # T, gradient steps of each seed [paper: MuJoCo]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    hidden: tuple[int, ...] = (256, 256)  # widths of pi, V and Q, ReLU [code]

    def __post_init__(self) -> None:
        require_offline(self, "model_steps")
        require_models(self)
        require_positive(self, "actor_lr", "critic_lr", "alpha_lr", "alpha", "max_weight")
        require_positive(self, "clip_states")
        require_within(self, 0, 1, "discount", "polyak")
        require_within(self, 0, math.inf, "penalty", "temperature", "bonus")
        require_within(self, -math.inf, math.inf, "budget")

    @property
    def model_iterations(self) -> int:
        return 0 if self.dynamics else self.model_steps // self.steps_per_iteration

    @property
    def iterations(self) -> int:
        """Of both stages."""
        return self.model_iterations + self.total_steps // self.steps_per_iteration


# ------------------------------------------------------------------------------------ 3. Presets

_LOCOMOTION = ("HalfCheetah", "Hopper", "Walker2d")
_HANDS = ("AdroitHandPen", "AdroitHandHammer", "AdroitHandDoor", "AdroitHandRelocate")
_BETA = {f"{task}/{level}": dict(temperature=0.1) for task in _LOCOMOTION
         for level in ("medium-replay", "medium-expert", "full-replay", "expert")}  # fmt: skip
_HAND_BETA = {f"{task}/{level}": dict(temperature=beta) for task in _HANDS
              for level, beta in (("human", 30.0), ("cloned", 30.0), ("expert", 0.01))}  # fmt: skip

_SHORT = {task: dict(total_steps=100_000) for task in _HANDS}

# preset -> task family or family/level of the data ("*": any) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {"*": {}, **_SHORT, **_BETA, **_HAND_BETA},
    "released": {"*": dict(
        budget=-10.0, temperature=30.0, max_weight=1000.0, bonus_reward=False, next_states=True,
        mean_actions=True, clip_states=10.0, actor_lr=3e-3, critic_lr=3e-3, inverse_std=True,
        spectral_norm=True, total_steps=100_000)},
    "smoke": {"*": dict(total_steps=200, steps_per_iteration=50, batch_size=32, hidden=(32, 32),
                        model_steps=100, model_batch_size=32, model_hidden=(32, 32), members=2,
                        bonus=0.1, spectral_norm=True)},  # ours
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def value_gap(model_value: Tensor, data_value: Tensor, penalty, budget) -> Tensor:
    """w (mean V(s_m) - mean V(s)) - budget. [S, B] -> [S]."""
    return penalty * (model_value.mean(1) - data_value.mean(1)) - budget


def value_loss(value: Tensor, q: Tensor, gap, alpha) -> Tensor:
    """mean (Q - V)^2 + alpha gap; gap and alpha [S]. [S, B] -> [S]."""
    return (q - value).square().mean(1) + alpha * gap


def advantage_weight(advantage: Tensor, temperature: float, max_weight: float) -> Tensor:
    """min(exp(beta A), bound), of which no gradient is taken; 1 if all are equal. [S, B]."""
    advantage = advantage.detach()
    same = advantage.amax(1, keepdim=True) == advantage.amin(1, keepdim=True)
    # the exponent is bounded first: exp overflows long before the minimum is taken
    weight = (temperature * advantage).clamp(max=math.log(max_weight)).exp()
    return torch.where(same, torch.ones_like(weight), weight)


def actor_loss(log_prob: Tensor, weight: Tensor) -> Tensor:
    """-mean w_a log pi(a|s). [S, B] -> [S]."""
    return -(weight * log_prob).mean(1)


OBJECTIVES = (value_gap, value_loss, critic_loss, actor_loss)

# ------------------------------------------------------------------------------------- 6. Update


class Networks(NamedTuple):
    """Whose parameters are in the state."""

    policy: BoundedActor
    critics: Critics
    values: StateValue
    models: Ensemble


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net
    value: Net
    critic: Net  # both critics
    critic_target: Tensor  # [S, 2 P_critic]
    dual: Net  # log alpha, [S, 1]


class Noise(NamedTuple):
    """What one of alpha, V and pi draws: a member of the models for each row, and noise."""

    member: Tensor  # [S, B], whole numbers below M
    model: Tensor  # [S, B, O + 1], standard normal
    action: Tensor  # [S, B, A], standard normal


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: BoundedActor
    dynamics: Dynamics
    state: State
    rows: Chance
    noise: Chance


def draw(config: Config, nets: Networks, sampler: Sampler, noise: Chance) -> tuple:
    """Transitions of one step, and the noise of alpha, V and pi."""
    rows, sizes = config.batch_size, (nets.models.obs_size + 1, nets.policy.action_size)
    batch = sampler.draw(rows)  # (2)
    noises = []
    for _ in range(3):
        member = noise.rows(config.members, rows)
        noises.append(Noise(member, *(noise.normal(rows, size) for size in sizes)))
    return batch, noises


def distribution(policy: BoundedActor, actor: Tensor, obs: Tensor) -> DiagGaussian:
    """pi(. | s) at [S, B, O]: Gaussian, not squashed."""
    return DiagGaussian(policy.mean(actor, obs), log_std(policy, actor))


def log_std(policy: BoundedActor, actor: Tensor) -> Tensor:
    """log sigma [S, 1, A] from the actor's parameter."""
    low, high = LOG_STD
    return low + (high - low) * torch.sigmoid(policy.layout.views(actor)["log_std"])


def reached(nets: Networks, config: Config, model: Tensor, obs, action, noise: Noise) -> tuple:
    """(s_m [S, B, O], r_m [S, B]) that a member of the models draws for each row."""
    state, reward = nets.models.predict(model, obs, action, noise.member, noise.model)
    if config.clip_states is not None:
        state = state.clamp(-config.clip_states, config.clip_states)
    return state, reward


def bonus(nets: Networks, config: Config, model, value, obs, pi: DiagGaussian, noise) -> Tensor:
    """What the models promise for an action of pi, [S]; the gradient goes through the action."""
    action = nets.policy.inside(pi.sample(noise.action))
    state, reward = reached(nets, config, model, obs, action, noise)
    v = nets.values.values(value, state)
    if config.bonus_reward:
        return (reward + config.discount * v).mean(1)
    return v.clamp(-LARGEST_BONUS, LARGEST_BONUS).mean(1)


def value_steps(
    nets: Networks, config: Config, model: Tensor, state: State, batch: Minibatch, noises
) -> tuple[Net, Net, Metrics]:
    """(dual, value, metrics) after a step of each. Pure."""
    policy, critics, values, _ = nets
    obs, data = batch.obs, batch.next_obs if config.next_states else batch.obs
    pi = distribution(policy, state.actor.theta, obs)
    actions = [policy.inside(pi.sample(noise.action)) for noise in noises]
    asked = [pi.mean] * 2 if config.mean_actions else actions
    pairs = zip(asked, noises, strict=True)
    states = [reached(nets, config, model, obs, action, noise)[0] for action, noise in pairs]

    def gap(theta, there):
        v = (values.values(theta, x) for x in (there, data))
        return value_gap(*v, config.penalty, config.budget)

    # alpha
    over = gap(state.value.theta, states[0])

    def ascent(log_alpha):
        return -over * bounded_exp(log_alpha), {"gap": over}

    dual, metrics = descend(state.dual, config.alpha_lr, ascent)  # (3)
    alpha = bounded_exp(dual.theta)
    # V
    q = critics.values(state.critic_target, obs, actions[1]).amin(1)

    def conservative(theta):
        v = values.values(theta, obs)
        total = value_loss(v, q, gap(theta, states[1]), alpha)
        return total, {"value_loss": total, "value": v.mean(1), "alpha": alpha}

    value, more = descend(state.value, config.critic_lr, conservative)  # (4)
    return dual, value, metrics | more


def bounded_exp(log_alpha: Tensor) -> Tensor:
    """alpha [S] from log alpha [S, 1]."""
    return log_alpha[:, 0].exp().clamp(max=LARGEST_ALPHA)


def csve_step(
    nets: Networks, config: Config, model: Tensor, state: State, batch: Minibatch, noises
) -> tuple[State, Metrics]:
    """One step of alpha, V, Q and pi, in this order. Pure."""
    policy, critics, values, _ = nets
    obs, target = batch.obs, state.critic_target
    dual, value, metrics = value_steps(nets, config, model, state, batch, noises[:2])
    # Q
    future = (1 - batch.terminated) * values.values(value.theta, batch.next_obs)
    y = batch.reward + config.discount * future  # (5)
    critic, more = descend(state.critic, config.critic_lr, critics.error, batch, y)  # (6)
    # pi
    advantage = critics.values(target, obs, batch.action).amin(1) - values.values(value.theta, obs)
    weight = advantage_weight(advantage, config.temperature, config.max_weight)  # (7)
    size = weight.mean(1).square() / weight.square().mean(1).clamp(min=1e-30)

    def improvement(theta):
        pi = distribution(policy, theta, obs)
        total = actor_loss(pi.log_prob(batch.action), weight)
        if config.bonus:
            promised = bonus(nets, config, model, value.theta, obs, pi, noises[2])
            total = total - config.bonus * promised
        return total, {"actor_loss": total, "weight": weight.mean(1), "sample_size": size}

    actor, most = descend(state.actor, config.actor_lr, improvement)  # (8)
    target = polyak(target, critic.theta, config.polyak)  # (9)
    metrics = more | metrics | most  # V's value, not Q's
    return State(actor, value, critic, target, dual), metrics


# -------------------------------------------------------------------------------------- 7. Train


def start(config: Config, run, data) -> tuple[Learner, Networks]:
    """All networks, fresh, but for the models of another run where `config.dynamics` names one."""
    rngs, size, hidden = run.streams["init"], data.obs_size, config.hidden
    network = {"rngs": rngs, "hidden": hidden, "log_std": 0.0}
    policy = BoundedActor.for_data(data, False, run.device, **network)
    critics, values = Critics(size, policy.action_size, hidden), StateValue(size, hidden)
    dynamics = Dynamics(data, policy.action_size, config)
    if config.dynamics:
        dynamics.load(config.dynamics)
    value, critic = (Net.of(x.initial(rngs).to(run.device)) for x in (values, critics))
    dual = Net.of(torch.full((len(rngs), 1), math.log(config.alpha), device=run.device))
    state = State(Net.of(policy.theta), value, critic, critic.theta.clone(), dual)
    rows, noise = run.chance("batch"), run.chance("action")
    learner = Learner(policy, dynamics, state, rows, noise)
    return learner, Networks(policy, critics, values, dynamics.ensemble)


def fit_models(config: Config, learner: Learner) -> Metrics:
    """An iteration of the models: metrics of its last step, the same for all seeds."""
    metrics = learner.dynamics.train(config.steps_per_iteration)  # (1)
    seeds = len(learner.policy.theta)
    return {name: x.expand(seeds) for name, x in metrics.items()}


def iterate(config: Config, learner: Learner, turn: Callable) -> Metrics:
    """An iteration of all but the models: metrics [S] of its last step."""
    policy = learner.policy
    model = learner.dynamics.theta().to(policy.theta.device)
    model = model.repeat(len(policy.theta), 1)
    for _ in range(config.steps_per_iteration):
        learner.state, metrics = turn(model, learner.state)
    actor = learner.state.actor.theta
    policy.theta.copy_(actor)
    # as other policies have it: not the parameter, but log sigma
    policy.layout.views(policy.theta)["log_std"].copy_(log_std(policy, actor))
    return metrics


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data, warned = run.data(), False
    learner, nets = start(config, run, data)
    draws = [learner.rows, learner.noise]
    sampler = Sampler(data, learner.policy.normalizer, learner.rows)
    drawing = partial(draw, config, nets, sampler, learner.noise)
    turn = run.turn(drawing, partial(csve_step, nets, config), config.total_steps, draws)
    before, each = config.model_iterations, config.steps_per_iteration
    for k in run.iterations(config.iterations, each, learner, before):
        if k < before:
            run.log(fit_models(config, learner), {})
            if k == before - 1:
                learner.dynamics.save(run.folder)
            continue
        metrics = iterate(config, learner, turn)
        if not warned and (metrics["sample_size"] == 1).any():
            run.say("all advantages of a batch are equal: it is cloned, with weights of 1")
            warned = True
        run.log(metrics, turn.seconds())
