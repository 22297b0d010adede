"""SAC-Lagrangian: Benchmarking Safe Exploration in Deep Reinforcement Learning (Ray et al. 2019).

SAC that pays a price lambda_i for each of C costs, with d'_i = d_i (1 - gamma^T) / ((1 - gamma) T)
for a limit d_i on the sum of the T steps of an episode. For S seeds at once, each with its own
everything. The first W steps of the environments take actions uniform in the box, and nothing is
learned. After that, for every step:

    (1)  y ~ pi(.|s), a = b + k y; store (s, y, r, s', d, c), where s' is what a truly led to
    for every gradient step, `updates_per_step` of them:
    (2)      draw B transitions of the last `capacity`
    (3)      y' ~ pi(.|s'), with its log pi(y'|s')
    (4)      Y = r + gamma (1 - d) (min_i Q_i,target(s', y') - alpha log pi(y'|s'))
    (5)      Y^c_i = c_i + gamma (1 - d) Q^c_i,target(s', y'): no entropy, no minimum
    (6)      Adam on the squared errors of Q_1 and of Q_2 to Y
    (7)      Adam on the squared errors of every Q^c_i to its Y^c_i
    in every D-th of these, on the same transitions:
    (8)      Adam on mean alpha log pi(y~|s) - min_i Q_i(s, y~) + sum_i lambda_i Q^c_i(s, y~),
             where y~ ~ pi(.|s)
    (9)      Adam on log alpha's loss, log alpha (H - H_target), H = mean -log pi(y~|s)
    (10)     the target of every Q <- target + tau (Q - target)
    in every gradient step, last:
    (11)     U_i = mean Q^c_i(s, y)
    (12)     Adam on x's loss, -sum_i lambda_i (U_i - d'_i), where lambda = exp x

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | tanh of a Gaussian; the state decides mean and sigma |
| y, b, k | action | [S, B, A] | what pi draws, in (-1, 1); centre and half widths of the box |
| Q_1, Q_2 | critic | [S, 2 P_critic] | two critics in one row; they see y, never a |
| Q^c | cost_critic | [S, C P_critic] | one for each cost |
| Y, Y^c | target, cost_target | [S, B], [S, C, B] | no gradient flows into them |
| lambda, x | price, multiplier | [S, C] | a number to pi; what Adam moves |
| U, d' | value, limit | [S, C], [C] | of the actions in the replay; as a discounted sum |
| alpha | temperature | [S, 1] | weight of the entropy; learned where it has a learning rate |
| H, H_target | entropy | [S] | in nats of y; the target is -A |
| d | terminated | [S, B] | the task's own end; a time limit or a checkpoint is none |

Departures from the code of Ray et al. (openai/safety-starter-agents 4151a28): lambda is exp x, as
in CAL; theirs, a softplus, is an option; critics move first, after every step, not after each 100;
the SAC is `sac`'s with preset "original". The preset "omnisafe" (PKU-Alignment/omnisafe 15603dd)
normalises no costs, which would pay for staying alive; lambda moves from the start, as at 3799d6d.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.core.buffers import ReplayBuffer, chunks
from rlsuite.core.critics import Critics, critic_loss
from rlsuite.core.limits import EpisodeCosts, discounted_limits
from rlsuite.core.off_policy import ReplayCollector, ReplaySettings, replay_of, require_off_policy
from rlsuite.core.optim import Loss, Metrics, Net, descend, polyak
from rlsuite.core.ranges import (
    Declared,
    require_choice,
    require_positive,
    require_whole,
    require_within,
)
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.squashed import LOG_STD, SquashedActor

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(ReplaySettings):
    multiplier_lr: float = 3e-4  # of Adam on x: the common rate [CAL; Ray et al.: common, 1e-3]
    multiplier_init: float = 0.6931  # lambda at the start [CAL; Ray et al.: softplus of 0]
    multiplier_form: str = "log"  # of x: log, exp x [CAL]; softplus [Ray et al.]; raw, x [OmniSafe]
    multiplier_floor: float = 0.0  # lambda never falls below it; 0: no floor [ours]
    signal: str = "critic"  # U is the critic's mean [Ray et al.], or of episodes [OmniSafe]
    cost_window: int = 10  # finished episodes whose mean cost is the signal "episodes" [OmniSafe]
    cost_action: str = "sample"  # y' of (5) is that of (3) [Ray et al.], or pi's mean [OmniSafe]
    rescale: bool = False  # the actor's loss is divided by 1 + sum lambda [OmniSafe]
    temperature: float = 1.0  # alpha at the start, per unit of reward [CAL]
    temperature_lr: float = 3e-4  # of Adam on log alpha; 0: alpha is fixed [CAL]
    discount: float = 0.99  # gamma, per step, of rewards and of costs [Ray et al.; CAL; OmniSafe]
    polyak: float = 0.005  # tau of the targets' moving average [Ray et al.; CAL; OmniSafe]
    actor_lr: float = 3e-4  # of Adam [CAL; OmniSafe; Ray et al.: 1e-3]
    critic_lr: float = 3e-4  # of Adam, of all critics [CAL; OmniSafe; Ray et al.: 1e-3]
    policy_delay: int = 1  # D, critic steps per step of pi, alpha and targets [Ray et al.]
    max_grad_norm: float | None = None  # of pi and of critics, each; None: no bound [Ray et al.]
    log_std_map: str = "clip"  # output to log sigma: clip to [-20, 2] [CAL], tanh to [-5, 2]
    batch_size: int = 256  # B, transitions per gradient step [Ray et al.; OmniSafe]
    updates_per_step: float = 1.0  # gradient steps per environment step [Ray et al.; OmniSafe]
    env_steps: int = 1_000_000  # environment steps of each seed [OmniSafe]
    warm_up: int = 10_000  # W, steps with uniform actions, without learning [Ray et al.; OmniSafe]
    capacity: int = 1_000_000  # transitions kept of each seed [Ray et al.; OmniSafe]
    num_envs: int = 1  # environments per seed [Ray et al.; OmniSafe]
    steps_per_iteration: int = 1000  # environment steps between two rows of the log [ours]
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics, ReLU [Ray et al.; OmniSafe]

    def __post_init__(self) -> None:
        require_off_policy(self)
        require_whole(self, "cost_window")
        require_choice(self, "log_std_map", LOG_STD)
        require_choice(self, "multiplier_form", PRICES)
        require_choice(self, "signal", ("critic", "episodes"))
        require_choice(self, "cost_action", ("sample", "mean"))
        require_positive(self, "multiplier_lr", "multiplier_init", "max_grad_norm")
        require_within(self, 0, self.multiplier_init, "multiplier_floor")
        require_within(self, 0, 1, "temperature_lr")

    @property
    def declared(self) -> Declared:
        updates = self.iterations * self.cycles * self.policy_delay
        rates = ("actor_lr", "critic_lr", "multiplier_lr", "temperature_lr")
        counts = self.batch_size, self.env_steps, updates
        return Declared(self.hidden, *counts, rates, self.num_envs, "value")


# ------------------------------------------------------------------------------------ 3. Presets

_OMNISAFE = dict(
    multiplier_lr=1e-5, multiplier_init=0.001, multiplier_form="raw", signal="episodes",
    cost_action="mean", rescale=True, temperature=0.2, temperature_lr=0.0, policy_delay=2,
    max_grad_norm=40.0,
)  # fmt: skip

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "velocity": {"*": {}},  # the defaults: CAL's without what CAL adds, with a batch of 256
    "omnisafe": {"*": _OMNISAFE, "Humanoid": dict(env_steps=3_000_000)},  # SACLag.yaml
    "smoke": {"*": dict(env_steps=512, warm_up=128, capacity=256, steps_per_iteration=64,
                        batch_size=32, hidden=(32, 32))},  # ours; the ring wraps
}  # fmt: skip

# ----------------------------------------------------------------------------------- 4. Networks


PRICES = {"log": torch.exp, "softplus": F.softplus, "raw": torch.clone}  # lambda of x


def inverse(form: str, price: float) -> float:
    """x of a price, the least there is where it is 0."""
    if form == "raw":
        return price
    if price == 0:
        return -math.inf
    return math.log(price if form == "log" else math.expm1(price))


class Networks(NamedTuple):
    """What acts and what judges, and the limits [C]; parameters are in `State`."""

    policy: SquashedActor
    critics: Critics
    cost_critics: Critics
    limit: Tensor


# --------------------------------------------------------------------------------- 5. Objectives


def actor_loss(log_prob: Tensor, value: Tensor, paid: Tensor, temperature: Tensor) -> Tensor:
    """mean alpha log pi - Q + sum_i lambda_i Q^c_i. [S, B], temperature [S, 1] -> [S]."""
    return (temperature * log_prob - value + paid).mean(1)


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target: float) -> Tensor:
    """log alpha (H - H_target): alpha falls where there is more entropy. [S, 1] -> [S]."""
    return (log_temperature * (entropy - target)).mean(1)


def multiplier_loss(price: Tensor, excess: Tensor) -> Tensor:
    """-sum_i lambda_i (U_i - d'_i): its descent raises what is over. [S, C] -> [S]."""
    return -(price * excess).sum(1)


OBJECTIVES = (critic_loss, actor_loss, temperature_loss, multiplier_loss)

# ------------------------------------------------------------------------------------- 6. Update


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net
    critic: Net  # both critics
    critic_target: Tensor  # [S, 2 P_critic]
    cost_critic: Net  # all of them
    cost_target: Tensor  # [S, C P_critic]
    log_temperature: Net  # [S, 1]
    multiplier: Net  # x, [S, C]


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: SquashedActor
    state: State
    buffer: ReplayBuffer
    rng: SeedRandom
    costs: nn.Module  # `EpisodeCosts` where they are the signal; else it holds nothing


def initial_state(config: Config, nets: Networks, rngs) -> State:
    """What training begins with: targets are copies."""
    theta, count = nets.policy.theta, len(nets.limit)
    critic = Net.of(nets.critics.initial(rngs).to(theta))
    cost_critic = Net.of(nets.cost_critics.initial(rngs, count).to(theta))
    log_temperature = Net.of(theta.new_full((len(rngs), 1), math.log(config.temperature)))
    start = inverse(config.multiplier_form, config.multiplier_init)
    multiplier = Net.of(theta.new_full((len(rngs), count), start))
    critics = critic, critic.theta.clone(), cost_critic, cost_critic.theta.clone()
    return State(Net.of(theta), *critics, log_temperature, multiplier)


def iterate(config: Config, learner: Learner, collector, rngs, update) -> Metrics:
    """An iteration of acting and learning; metrics [S] of the last gradient step."""
    envs, known = collector.envs, {}
    for i in range(config.steps_of_each):
        before = envs.finished
        collector.step(rngs)  # (1)
        if config.signal == "episodes":
            learner.costs.add(envs.episodes(before))
            known = {"excess": learner.costs.mean() - learner.costs.limit}
        for _ in range(config.cycles_after(i)):
            learner.state, metrics = update(learner.state, **known)
        learner.policy.theta.copy_(learner.state.actor.theta)
    return metrics


def draw(config: Config, learner: Learner) -> tuple[NamedTuple, Tensor]:
    """Transitions of D gradient steps, and standard normal numbers [S, D + 1, B, A]."""
    count, size = config.policy_delay, config.batch_size
    batch = learner.buffer.sample(count * size)  # (2)
    noise = learner.rng.normal(count + 1, size, learner.policy.action_size)
    return batch, noise


def targets(
    nets: Networks, config: Config, state: State, batch, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Y [S, B] and Y^c [S, C, B], from standard normal `noise` [S, B, A]."""
    pi = nets.policy.distribution(state.actor.theta, batch.next_obs)
    action, log_prob = pi.sample(noise)  # (3)
    alpha = state.log_temperature.theta.exp()
    values = nets.critics.values(state.critic_target, batch.next_obs, action)
    future = values.amin(1) - alpha * log_prob
    discount = config.discount * (1 - batch.terminated)
    target = batch.reward + discount * future  # (4)
    action = pi.mode() if config.cost_action == "mean" else action
    costs = nets.cost_critics.values(state.cost_target, batch.next_obs, action)
    cost_target = batch.cost.mT + discount[:, None] * costs  # (5)
    return target, cost_target


def critics_step(
    nets: Networks, config: Config, state: State, batch, target: Tensor, cost_target: Tensor
) -> tuple[State, Metrics]:
    """A step of all critics to what `targets` gave."""
    lr, bound = config.critic_lr, {"max_norm": config.max_grad_norm}
    critic, metrics = descend(state.critic, lr, nets.critics.error, batch, target, **bound)  # (6)
    given = nets.cost_critics.error, batch, cost_target
    cost_critic, more = descend(state.cost_critic, lr, *given, **bound)  # (7)
    metrics["cost_loss"] = more["critic_loss"]
    return state._replace(critic=critic, cost_critic=cost_critic), metrics


def actor_step(
    nets: Networks, config: Config, state: State, obs: Tensor, noise: Tensor
) -> tuple[State, Metrics]:
    """A step of the actor at `obs` [S, B, O]."""
    alpha = state.log_temperature.theta.exp()
    price = PRICES[config.multiplier_form](state.multiplier.theta)

    def loss(theta: Tensor) -> Loss:
        pi = nets.policy.distribution(theta, obs)
        action, log_prob = pi.sample(noise)
        value = nets.critics.values(state.critic.theta, obs, action).amin(1)
        costs = nets.cost_critics.values(state.cost_critic.theta, obs, action)
        paid = (price[..., None] * costs).sum(1)
        total = actor_loss(log_prob, value, paid, alpha)
        total = total / (1 + price.sum(1)) if config.rescale else total
        return total, {"actor_loss": total, "entropy": -log_prob.mean(1)}

    bound = {"max_norm": config.max_grad_norm}
    actor, metrics = descend(state.actor, config.actor_lr, loss, **bound)  # (8)
    return state._replace(actor=actor), metrics


def temperature_step(config: Config, state: State, entropy, target) -> tuple[State, Metrics]:
    """A step of log alpha, if it is learned, from the actor's `entropy` [S]."""

    def loss(theta: Tensor) -> Loss:
        total = temperature_loss(theta, entropy[:, None], target)
        return total, {"temperature": theta.exp()[:, 0]}

    if config.temperature_lr == 0:
        return state, {}
    new, metrics = descend(state.log_temperature, config.temperature_lr, loss)  # (9)
    return state._replace(log_temperature=new), metrics


def targets_step(config: Config, state: State) -> State:
    """The targets of all critics, nearer to these."""
    tau = config.polyak
    critic = polyak(state.critic_target, state.critic.theta, tau)
    costs = polyak(state.cost_target, state.cost_critic.theta, tau)
    return state._replace(critic_target=critic, cost_target=costs)  # (10)


def multiplier_step(
    nets: Networks, config: Config, state: State, batch, excess: Tensor | None = None
) -> tuple[State, Metrics]:
    """A step of x from the critics' values of `batch`, or `excess` [S, C]; where NaN x stays."""
    form, active = config.multiplier_form, None
    values = nets.cost_critics.values(state.cost_critic.theta, batch.obs, batch.action)
    value = values.mean(2)  # (11)
    if excess is None:
        excess = value - nets.limit
    else:
        active = excess.isfinite().all(1).float()
        excess = excess.nan_to_num()

    def loss(theta: Tensor) -> Loss:
        price = PRICES[form](theta)
        return multiplier_loss(price, excess), {"multiplier": price.sum(1)}

    new, metrics = descend(state.multiplier, config.multiplier_lr, loss, active=active)  # (12)
    new = new._replace(theta=new.theta.clamp(min=inverse(form, config.multiplier_floor)))
    return state._replace(multiplier=new), metrics | {"cost_value": value.sum(1)}


def constrained_cycle(
    nets: Networks, config: Config, state: State, batch, noise, excess: Tensor | None = None
) -> tuple[State, Metrics]:
    """D steps of the critics and of lambda, one of the others. Pure."""
    last = config.policy_delay - 1
    for i, part in enumerate(chunks(batch, config.policy_delay)):
        # critics
        given = targets(nets, config, state, part, noise[:, i])
        state, metrics = critics_step(nets, config, state, part, *given)
        # actor, temperature and targets
        if i == last:
            state, more = actor_step(nets, config, state, part.obs, noise[:, -1])
            entropy, target = more["entropy"], -nets.policy.action_size
            state, most = temperature_step(config, state, entropy, target)
            state = targets_step(config, state)
            metrics |= more | most
        # multiplier
        state, more = multiplier_step(nets, config, state, part, excess)
    return state, metrics | more


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    limit = discounted_limits(envs, config.discount).to(run.device)
    by_episodes = config.signal == "episodes"
    costs = EpisodeCosts(envs, config.cost_window) if by_episodes else nn.Identity()
    rngs = run.streams["init"]
    shape = {"hidden": config.hidden, "log_std_map": config.log_std_map}
    policy = SquashedActor.for_envs(envs, run.device, rngs=rngs, **shape)
    critics = Critics(envs.obs_size, envs.action_size, config.hidden)
    nets = Networks(policy, critics, critics, limit)
    state = initial_state(config, nets, rngs)
    capacity = min(config.capacity, config.env_steps)
    more = {"cost": (len(limit),)}
    buffer = replay_of(envs, capacity, run.random("batch"), more)
    learner = Learner(policy, state, buffer, run.random("action"), costs.to(run.device))
    collector = ReplayCollector(envs, policy, buffer)
    cycle = partial(constrained_cycle, nets, config)
    update = run.update(cycle, partial(draw, config, learner))
    acting, steps = run.streams["action"], config.steps_per_iteration
    run.begin(learner, train={"train": (config.iterations, steps)})
    for k in run.stage("train"):
        collector.restart_at_boundary(run)
        if k * steps < config.warm_up:
            collector.explore(config.steps_of_each, acting)
            run.log({}, collector.seconds())
            continue
        metrics = iterate(config, learner, collector, acting, update)
        run.log(metrics, collector.seconds())
