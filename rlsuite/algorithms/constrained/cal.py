"""CAL: Off-Policy Primal-Dual Safe Reinforcement Learning (Wu et al. 2024, arXiv 2401.14758).

A Conservative Augmented Lagrangian: SAC-Lagrangian with two changes. Actor and multiplier see an
upper bound of each of C costs, the mean of E critics plus k of their standard deviations. The actor
pays lambda_i and at once c more for each unit over d'_i = d_i (1 - gamma^T) / ((1 - gamma) T), for
a limit d_i on the sum of the T steps of an episode. For S seeds at once, each with its own
everything. The first W steps only fill the replay buffer. For every step:

    (1)  y ~ pi(.|s), a = b + k y; store (s, y, r, s', d, c), where s' is what a truly led to
    for every gradient step, `updates_per_step` of them:
    (2)      draw B transitions of the last `capacity`
    (3)      y' ~ pi(.|s'), with its log pi(y'|s')
    (4)      Y = r + gamma (1 - d) (min_i Q_i,target(s', y') - alpha log pi(y'|s'))
    (5)      Y^c_ie = c_i + gamma (1 - d) Q^c_ie,target(s', y'), of each critic its own
    (6)      Adam on the squared errors of Q_1 and of Q_2 to Y
    (7)      Adam on the squared errors of every Q^c_ie to its Y^c_ie
    (8)      U_i = mean of u_i(s, y) over the batch, u_i = mean_e Q^c_ie + k std_e Q^c_ie
    (9)      p_i = max(0, lambda_i + c (U_i - d'_i)): the gradient of the augmented Lagrangian
    (10)     Adam on mean alpha log pi(y~|s) - min_i Q_i(s, y~) + sum_i p_i u_i(s, y~),
             where y~ ~ pi(.|s)
    (11)     Adam on log alpha's loss, log alpha (H - H_target), H = mean -log pi(y~|s)
    (12)     Adam on log lambda's loss, -sum_i lambda_i (U_i - d'_i)
    (13)     in the first of every D: the target of every Q <- target + tau (Q - target)

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | tanh of a Gaussian; the state decides mean and sigma |
| y, b, k of (1) | action | [S, B, A] | what pi draws, in (-1, 1); centre and half widths |
| Q_1, Q_2 | critic | [S, 2 P_critic] | two critics in one row; they see y, never a |
| Q^c | cost_critic | [S, C E P_critic] | E of the first cost, then E of the next; SiLU |
| Y, Y^c | target, cost_target | [S, B], [S, C E, B] | no gradient flows into them |
| u, U | upper_bound, excess | [S, C, B], [S, C] | of fresh actions; of the replay's, less d' |
| lambda, p | multiplier, price | [S, C] | its logarithm is what Adam moves; a number to pi |
| k, c | conservatism, penalty | | weight of the standard deviation; of U - d' in p |
| alpha | temperature | [S, 1] | weight of the entropy |
| H, H_target | entropy | [S] | in nats of y; the target is -A |
| d | terminated | [S, B] | the task's own end; a time limit or a checkpoint is none |

With k = 0, c = 0, E = 1 and D = 1 the update is that of `sac_lag`. Departures from the code
(ZifanWu/CAL e4087cc): a time limit is no end, as theirs is on MuJoCo; (11) uses log alpha, not
alpha; losses of critics are summed, not averaged; batches are drawn with replacement; their slower
first epochs, of 5, 10, 15, ... gradient steps per step, and Humanoid's maximum over targets are
left out; observations are not cut.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from rlsuite.core.buffers import ReplayBuffer, chunks
from rlsuite.core.critics import Critics, critic_loss
from rlsuite.core.initializers import fresh, truncated_normal, xavier
from rlsuite.core.limits import discounted_limits
from rlsuite.core.off_policy import ReplayCollector, ReplaySettings, replay_of, require_off_policy
from rlsuite.core.optim import Loss, Metrics, Net, descend, polyak
from rlsuite.core.ranges import Declared, require_positive, require_whole, require_within
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.squashed import SquashedActor

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(ReplaySettings):
    conservatism: float = 0.5  # k, standard deviations over the mean cost [code]
    penalty: float = 10.0  # c, price of each unit over the limit, by the scale of costs [code]
    cost_critics: int = 4  # E, of each cost [code of January 2024; of March: 8 on MuJoCo]
    multiplier_lr: float = 3e-4  # of Adam on log lambda [code]
    multiplier_init: float = 0.6931  # lambda at the start [code]
    temperature: float = 1.0  # alpha at the start, per unit of reward [code]
    temperature_lr: float = 3e-4  # of Adam on log alpha; 0: alpha is fixed [code]
    discount: float = 0.99  # gamma, per step, of rewards and of costs [code]
    polyak: float = 0.005  # tau of the targets' moving average [code]
    actor_lr: float = 3e-4  # of Adam [code]
    critic_lr: float = 3e-4  # of Adam [code]
    cost_lr: float = 3e-4  # of Adam on the costs' critics [code; of January 2024: 5e-4]
    target_period: int = 2  # D, gradient steps per step of the targets [code]
    batch_size: int = 12  # B, transitions per gradient step [code]
    updates_per_step: float = 20.0  # gradient steps per environment step [code of January 2024]
    env_steps: int = 300_000  # environment steps of each seed [code]
    warm_up: int = 5000  # W, steps of the first policy, without learning [code]
    capacity: int = 1_000_000  # transitions kept of each seed [code]
    num_envs: int = 1  # environments per seed [code]
    steps_per_iteration: int = 1000  # environment steps between two rows of the log [ours]
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics [code]

    def __post_init__(self) -> None:
        require_off_policy(self, cycle="target_period")
        require_whole(self, "cost_critics")
        require_positive(self, "multiplier_lr", "multiplier_init", "cost_lr")
        require_within(self, 0, math.inf, "conservatism", "penalty")
        require_within(self, 0, 1, "temperature_lr")

    @property
    def declared(self) -> Declared:
        updates = self.iterations * self.cycles * self.target_period
        rates = ("actor_lr", "critic_lr", "cost_lr", "multiplier_lr", "temperature_lr")
        counts = self.batch_size, self.env_steps, updates
        return Declared(self.hidden, *counts, rates, self.num_envs, "value")

    @property
    def cycles(self) -> int:
        """Of target_period gradient steps each, per iteration."""
        return round(self.updates_per_step * self.steps_per_iteration) // self.target_period


# ------------------------------------------------------------------------------------ 3. Presets

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "velocity": {"*": {}},  # the defaults: Safety-Gym's c, for costs of 0 and 1
    "ratio-10": {"*": dict(updates_per_step=10.0)},  # half the time; Safety-Gym's ratio in March
    "speed": {  # README of March 2024: discounted limits on the speed itself
        "HalfCheetahSpeed": dict(penalty=1000.0, cost_critics=8),
        "HopperSpeed": dict(penalty=10.0, cost_critics=8, updates_per_step=10.0),
        "AntSpeed": dict(penalty=100.0, cost_critics=8, updates_per_step=10.0),
    },
    "smoke": {"*": dict(env_steps=256, warm_up=64, capacity=128, steps_per_iteration=64,
                        updates_per_step=1.0, cost_critics=2, hidden=(32, 32))},  # ours
}  # fmt: skip

# ----------------------------------------------------------------------------------- 4. Networks


class Networks(NamedTuple):
    """What acts and what judges, and the limits [C]; parameters are in `State`."""

    policy: SquashedActor
    critics: Critics
    cost_critics: Critics
    limit: Tensor


# --------------------------------------------------------------------------------- 5. Objectives


def actor_loss(log_prob: Tensor, value: Tensor, paid: Tensor, temperature: Tensor) -> Tensor:
    """mean alpha log pi - Q + sum_i p_i u_i. [S, B], temperature [S, 1] -> [S]."""
    return (temperature * log_prob - value + paid).mean(1)


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target: float) -> Tensor:
    """log alpha (H - H_target): alpha falls where there is more entropy. [S, 1] -> [S]."""
    return (log_temperature * (entropy - target)).mean(1)


def multiplier_loss(price: Tensor, excess: Tensor) -> Tensor:
    """-sum_i lambda_i (U_i - d'_i): its descent raises what is over. [S, C] -> [S]."""
    return -(price * excess).sum(1)


def upper_bound(values: Tensor, count: int, conservatism: float) -> Tensor:
    """mean_e Q^c_ie + k std_e Q^c_ie of E = `count`; 1 has no std. [S, C E, B] -> [S, C, B]."""
    each = values.unflatten(1, (-1, count))
    if count == 1:
        return each.mean(2)
    return each.mean(2) + conservatism * each.std(2)


def rectified(multiplier: Tensor, excess: Tensor, penalty: float) -> Tensor:
    """max(0, lambda_i + c (U_i - d'_i)). [S, C] -> [S, C]."""
    return (multiplier + penalty * excess).clamp(min=0)


OBJECTIVES = (critic_loss, actor_loss, temperature_loss, multiplier_loss)

# ------------------------------------------------------------------------------------- 6. Update


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net
    critic: Net  # both critics
    critic_target: Tensor  # [S, 2 P_critic]
    cost_critic: Net  # all of them
    cost_target: Tensor  # [S, C E P_critic]
    log_temperature: Net  # [S, 1]
    log_multiplier: Net  # [S, C]


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: SquashedActor
    state: State
    buffer: ReplayBuffer
    rng: SeedRandom


def initial_state(config: Config, nets: Networks, rngs) -> State:
    """What training begins with: targets are copies."""
    theta, seeds, count = nets.policy.theta, len(rngs), len(nets.limit)
    theta.copy_(fresh(nets.policy.layout, xavier, rngs))
    pair = fresh(nets.critics.layout, xavier, rngs, 2)
    critic = Net.of(pair.to(theta))
    members = count * config.cost_critics
    layout = nets.cost_critics.layout
    ensemble = fresh(layout, truncated_normal, rngs, members)
    cost_critic = Net.of(ensemble.to(theta))
    start = math.log(config.temperature)
    log_temperature = Net.of(theta.new_full((seeds, 1), start))
    start = theta.new_full((seeds, count), config.multiplier_init)
    slow, slow_cost = critic.theta.clone(), cost_critic.theta.clone()
    critics = critic, slow, cost_critic, slow_cost
    return State(Net.of(theta), *critics, log_temperature, Net.of(start.log()))


def iterate(config: Config, learner: Learner, collector, rngs, update) -> Metrics:
    """An iteration of acting and learning; metrics [S] of the last gradient step."""
    for i in range(config.steps_of_each):
        collector.step(rngs)  # (1)
        for _ in range(config.cycles_after(i)):
            learner.state, metrics = update(learner.state)
        learner.policy.theta.copy_(learner.state.actor.theta)
    return metrics


def draw(config: Config, learner: Learner) -> tuple[NamedTuple, Tensor]:
    """Transitions of D gradient steps, and standard normal numbers [S, 2 D, B, A]."""
    count, size = config.target_period, config.batch_size
    batch = learner.buffer.sample(count * size)  # (2)
    noise = learner.rng.normal(2 * count, size, learner.policy.action_size)
    return batch, noise


def targets(
    nets: Networks, config: Config, state: State, batch, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Y [S, B] and Y^c [S, C E, B], from standard normal `noise` [S, B, A]."""
    pi = nets.policy.distribution(state.actor.theta, batch.next_obs)
    action, log_prob = pi.sample(noise)  # (3)
    alpha = state.log_temperature.theta.exp()
    obs = batch.next_obs
    values = nets.critics.values(state.critic_target, obs, action)
    future = values.amin(1) - alpha * log_prob
    discount = config.discount * (1 - batch.terminated)
    target = batch.reward + discount * future  # (4)
    costs = nets.cost_critics.values(state.cost_target, obs, action)
    cost = batch.cost.mT.repeat_interleave(config.cost_critics, 1)
    cost_target = cost + discount[:, None] * costs  # (5)
    return target, cost_target


def critics_step(
    nets: Networks, config: Config, state: State, batch, target: Tensor, cost_target: Tensor
) -> tuple[State, Metrics]:
    """A step of all critics to what `targets` gave."""
    given = nets.critics.error, batch, target
    critic, metrics = descend(state.critic, config.critic_lr, *given)  # (6)
    given = nets.cost_critics.error, batch, cost_target
    lr = config.cost_lr
    cost_critic, more = descend(state.cost_critic, lr, *given)  # (7)
    metrics["cost_loss"] = more["critic_loss"]
    return state._replace(critic=critic, cost_critic=cost_critic), metrics


def excess(nets: Networks, config: Config, state: State, batch) -> Tensor:
    """U - d' [S, C], of the actions that were taken."""
    theta = state.cost_critic.theta
    values = nets.cost_critics.values(theta, batch.obs, batch.action)
    bound = upper_bound(values, config.cost_critics, config.conservatism)
    return bound.mean(2) - nets.limit  # (8)


def actor_step(
    nets: Networks, config: Config, state: State, obs: Tensor, noise: Tensor, over: Tensor
) -> tuple[State, Metrics]:
    """A step of the actor at `obs` [S, B, O], where costs are `over` [S, C] their limits."""
    alpha = state.log_temperature.theta.exp()
    multiplier = state.log_multiplier.theta.exp()
    price = rectified(multiplier, over, config.penalty)  # (9)

    def loss(theta: Tensor) -> Loss:
        pi = nets.policy.distribution(theta, obs)
        action, log_prob = pi.sample(noise)
        value = nets.critics.values(state.critic.theta, obs, action).amin(1)
        costs = nets.cost_critics.values(state.cost_critic.theta, obs, action)
        bound = upper_bound(costs, config.cost_critics, config.conservatism)
        paid = (price[..., None] * bound).sum(1)
        total = actor_loss(log_prob, value, paid, alpha)
        return total, {"actor_loss": total, "entropy": -log_prob.mean(1)}

    actor, metrics = descend(state.actor, config.actor_lr, loss)  # (10)
    metrics["price"] = price.sum(1)
    return state._replace(actor=actor), metrics


def temperature_step(config: Config, state: State, entropy, target) -> tuple[State, Metrics]:
    """A step of log alpha, if it is learned, from the actor's `entropy` [S]."""

    def loss(theta: Tensor) -> Loss:
        total = temperature_loss(theta, entropy[:, None], target)
        return total, {"temperature": theta.exp()[:, 0]}

    if config.temperature_lr == 0:
        return state, {}
    lr = config.temperature_lr
    new, metrics = descend(state.log_temperature, lr, loss)  # (11)
    return state._replace(log_temperature=new), metrics


def multiplier_step(config: Config, state: State, over: Tensor) -> tuple[State, Metrics]:
    """A step of log lambda, where costs are `over` [S, C] their limits."""

    def loss(theta: Tensor) -> Loss:
        multiplier = theta.exp()
        total = multiplier_loss(multiplier, over)
        return total, {"multiplier": multiplier.sum(1)}

    lr = config.multiplier_lr
    new, metrics = descend(state.log_multiplier, lr, loss)  # (12)
    return state._replace(log_multiplier=new), metrics


def targets_step(config: Config, state: State) -> State:
    """The targets of all critics, nearer to these."""
    tau = config.polyak
    critic = polyak(state.critic_target, state.critic.theta, tau)
    costs = polyak(state.cost_target, state.cost_critic.theta, tau)
    return state._replace(critic_target=critic, cost_target=costs)  # (13)


def gradient_step(
    nets: Networks, config: Config, state: State, batch, noise: Sequence[Tensor]
) -> tuple[State, Metrics]:
    """One gradient step of all but the targets, with `noise` of (3) and of (10)."""
    # critics
    given = targets(nets, config, state, batch, noise[0])
    state, metrics = critics_step(nets, config, state, batch, *given)
    # actor and temperature
    over = excess(nets, config, state, batch)
    state, more = actor_step(nets, config, state, batch.obs, noise[1], over)
    entropy, target = more["entropy"], -nets.policy.action_size
    state, most = temperature_step(config, state, entropy, target)
    # multiplier
    state, last = multiplier_step(config, state, over)
    value = (over + nets.limit).sum(1)
    return state, metrics | more | most | last | {"cost_value": value}


def conservative_cycle(
    nets: Networks, config: Config, state: State, batch, noise: Tensor
) -> tuple[State, Metrics]:
    """D gradient steps, and one of the targets. Pure."""
    parts = chunks(batch, config.target_period)
    for i, part in enumerate(parts):
        draws = noise[:, i], noise[:, i - len(parts)]
        state, metrics = gradient_step(nets, config, state, part, draws)
        state = targets_step(config, state) if i == 0 else state
    return state, metrics


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    limit = discounted_limits(envs, config.discount).to(run.device)
    rngs = run.streams["init"]
    shape = {"hidden": config.hidden}
    policy = SquashedActor.for_envs(envs, run.device, rngs=rngs, **shape)
    sizes = envs.obs_size, envs.action_size, config.hidden
    critics, cost_critics = Critics(*sizes), Critics(*sizes, "silu")
    nets = Networks(policy, critics, cost_critics, limit)
    state = initial_state(config, nets, rngs)
    capacity = min(config.capacity, config.env_steps)
    more = {"cost": (len(limit),)}
    buffer = replay_of(envs, capacity, run.random("batch"), more)
    learner = Learner(policy, state, buffer, run.random("action"))
    collector = ReplayCollector(envs, policy, buffer)
    cycle = partial(conservative_cycle, nets, config)
    update = run.update(cycle, partial(draw, config, learner))
    acting, steps = run.streams["action"], config.steps_per_iteration
    run.begin(learner, train={"train": (config.iterations, steps)})
    for k in run.stage("train"):
        collector.restart_at_boundary(run)
        if k * steps < config.warm_up:
            for _ in range(config.steps_of_each):
                collector.step(acting)
            run.log({}, collector.seconds())
            continue
        metrics = iterate(config, learner, collector, acting, update)
        run.log(metrics, collector.seconds())
