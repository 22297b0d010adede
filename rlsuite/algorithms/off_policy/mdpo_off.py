"""MDPO: Mirror Descent Policy Optimization (Tomar et al. 2022, arXiv 2005.09814), off-policy form.

For S seeds at once, each with its own everything. The first W steps of the environments take
actions uniform in the box, and nothing is learned. After that, for every step:

    (1)  y ~ pi(.|s), a = b + k y; store (s, y, r, s', d), where s' is what a truly led to
    for every gradient step, `updates_per_step` of them:
    (2)      draw B transitions of the last C
    (3)      y' ~ pi(.|s'), with its log_q pi(y'|s')
    (4)      Y = r + gamma (1 - d) (min_i Q_i,target(s', y') - lambda log_q pi(y'|s'))
    (5)      Adam on the squared errors of Q_1 and of Q_2 to Y
    (6)      Q_target <- Q_target + tau (Q - Q_target)
    every D of these, D times, on the last transitions, where y~ ~ pi(.|s):
    (7)      Adam on mean c log_q pi(y~|s) + q (lambda - c) log_q pi_k(y~|s) - min_i Q_i(s, y~)
    at step 0 and every m steps:
    (8)      pi_k <- pi

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | tanh of a Gaussian; the state decides mean and sigma |
| pi_k | old | [S, P_actor] | the previous policy, frozen; gradients flow through y~ alone |
| y, b, k | action | [S, B, A] | what pi draws, in (-1, 1); centre and half widths of the box |
| Q_1, Q_2 | critic | [S, 2 P_critic] | two critics in one row; they see y, never a |
| Y | target | [S, B] | no gradient flows into it |
| log_q | log_prob | [S, B] | log for q = 1, else (x^(q-1) - 1)/(q - 1), summed over dimensions |
| c, lambda | kl_coef, temperature | | weight of the Bregman divergence, 1/t_k; of the entropy |
| d | terminated | [S, B] | the task's own end; a time limit or a checkpoint is none |

With c = lambda and q = 1 it is SAC with a fixed temperature. Departures from the official code
(manantomar/Mirror-Descent-Policy-Optimization, mdpo_off), whose settings these are: no V network,
the smaller critic in the actor's loss, no penalty on mean and log sigma, critics first, sampled
actions, an entropy for each state (a shape bug averages theirs over the batch); for q = 1 the
density is exact, for others, as theirs, 1e-6 is added to 1 - y^2, and no density is below 1e-6.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from rlsuite.core.buffers import ReplayBuffer, TransitionBatch, chunks
from rlsuite.core.critics import Critics, critic_loss
from rlsuite.core.off_policy import ReplayCollector, ReplaySettings, replay_of, require_off_policy
from rlsuite.core.optim import Loss, Metrics, Net, descend, polyak
from rlsuite.core.ranges import Declared, require_choice, require_positive, require_within
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.squashed import LOG_STD, SquashedActor

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(ReplaySettings):
    kl_coef: float = 1.0  # c = 1/t_k, of the divergence to pi_k [code; paper: per task, unknown]
    temperature: float = 0.2  # lambda, of the entropy, per unit of reward [paper; code]
    tsallis_q: float = 1.0  # q; 1: KL and Shannon's entropy [paper; code]
    refresh_every: int = 1000  # m, environment steps from one pi_k to the next [paper; code]
    discount: float = 0.99  # gamma, per step [paper; code]
    polyak: float = 0.005  # tau of the targets' moving average, per critic step [paper; code]
    actor_lr: float = 3e-4  # of Adam [code]
    critic_lr: float = 3e-4  # of Adam [code]
    policy_delay: int = 1  # D, critic steps until D actor steps follow [code]
    log_std_map: str = "clip"  # output to log sigma: clip to [-20, 2] [code], tanh to [-5, 2]
    batch_size: int = 256  # B, transitions per gradient step [paper; code]
    updates_per_step: float = 1.0  # gradient steps per environment step [code]
    env_steps: int = 1_000_000  # environment steps of each seed [code; paper recalled]
    warm_up: int = 10_000  # W, steps with uniform actions, without learning [code]
    capacity: int = 1_000_000  # C, transitions kept of each seed [code]
    num_envs: int = 1  # environments per seed [code]
    steps_per_iteration: int = 1000  # environment steps between two rows of the log [ours]
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics, ReLU [paper; code]

    def __post_init__(self) -> None:
        require_off_policy(self, "refresh_every")
        require_choice(self, "log_std_map", LOG_STD)
        require_positive(self, "kl_coef")
        require_within(self, 1, 2, "tsallis_q")

    @property
    def declared(self) -> Declared:
        updates = self.iterations * self.cycles * self.policy_delay
        rates = ("actor_lr", "critic_lr")
        counts = self.batch_size, self.env_steps, updates
        return Declared(self.hidden, *counts, rates, self.num_envs, "value")

    @property
    def floor(self) -> float:
        """Of 1 - y^2."""
        return 0.0 if self.tsallis_q == 1 else 1e-6


# ------------------------------------------------------------------------------------ 3. Presets

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "mujoco": {"*": {}},  # the defaults: KL
    "tsallis": {  # the paper's best q: that of HumanoidStandup is noted, the others are recalled
        "Hopper": {}, "HalfCheetah": {}, "Humanoid": dict(tsallis_q=1.2),
        "HumanoidStandup": dict(tsallis_q=1.4), "Walker2d": dict(tsallis_q=2.0),
        "Ant": dict(tsallis_q=2.0),
    },
    "smoke": {"*": dict(env_steps=512, warm_up=128, capacity=256, steps_per_iteration=64,
                        refresh_every=32, batch_size=32, hidden=(32, 32))},  # ours; the ring wraps
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def actor_loss(new: Tensor, old: Tensor, value: Tensor, c: float, lam: float, q: float) -> Tensor:
    """mean c log_q pi + q (lambda - c) log_q pi_k - Q. [S, B] -> [S]."""
    if c == lam:  # zero times infinity is not a number
        return (c * new - value).mean(1)
    return (c * new + q * (lam - c) * old - value).mean(1)


def tsallis_log(log_density: Tensor, q: float) -> Tensor:
    """Sum of log_q x over dimensions, from log x. [S, B, A] -> [S, B]."""
    if q == 1:
        return log_density.sum(-1)
    power = (q - 1) * log_density.clamp(min=math.log(1e-6))
    return (power.expm1() / (q - 1)).sum(-1)


OBJECTIVES = (critic_loss, actor_loss)

# ------------------------------------------------------------------------------------- 6. Update


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net
    critic: Net  # both critics
    critic_target: Tensor  # [S, 2 P_critic]
    old: Tensor  # [S, P_actor]


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: SquashedActor
    state: State
    buffer: ReplayBuffer
    rng: SeedRandom


def initial_state(policy: SquashedActor, critics: Critics, rngs) -> State:
    """What training begins with: targets are copies."""
    actor = Net.of(policy.theta)
    critic = Net.of(critics.initial(rngs).to(policy.theta))
    return State(actor, critic, critic.theta.clone(), actor.theta.clone())


def iterate(config: Config, learner: Learner, collector, rngs, update) -> Metrics:
    """An iteration of acting and learning; metrics [S] of the last gradient step."""
    for i in range(config.steps_of_each):
        learner.state = refreshed(config, learner)
        collector.step(rngs)  # (1)
        for _ in range(config.cycles_after(i)):
            learner.state, metrics = update(learner.state)
        learner.policy.theta.copy_(learner.state.actor.theta)
    return metrics


def draw(config: Config, learner: Learner) -> tuple[TransitionBatch, Tensor]:
    """Transitions of D gradient steps, and standard normal numbers [S, 2 D, B, A]."""
    count, size = config.policy_delay, config.batch_size
    batch = learner.buffer.sample(count * size)  # (2)
    actions = learner.policy.action_size
    noise = learner.rng.normal(2 * count, size, actions)
    return batch, noise


def soft_target(
    policy: SquashedActor, critics: Critics, config: Config, state: State, batch, noise
) -> Tensor:
    """Y [S, B], from standard normal `noise` [S, B, A]."""
    pi = policy.distribution(state.actor.theta, batch.next_obs)
    pre_tanh, density = pi.draw(noise, config.floor)
    log_prob = tsallis_log(density, config.tsallis_q)  # (3)
    values = critics.values(state.critic_target, batch.next_obs, pre_tanh.tanh())
    future = values.amin(1) - config.temperature * log_prob
    discount = config.discount * (1 - batch.terminated)
    return batch.reward + discount * future  # (4)


def critic_step(
    critics: Critics, config: Config, state: State, batch, target: Tensor
) -> tuple[State, Metrics]:
    """A step of the critics to `target` [S, B], and of their own targets."""
    lr = config.critic_lr
    critic, metrics = descend(state.critic, lr, critics.error, batch, target)  # (5)
    moved = polyak(state.critic_target, critic.theta, config.polyak)  # (6)
    return state._replace(critic=critic, critic_target=moved), metrics


def actor_step(
    policy: SquashedActor, critics: Critics, config: Config, state: State, obs, noise
) -> tuple[State, Metrics]:
    """A step of the actor at `obs` [S, B, O]."""
    weights = config.kl_coef, config.temperature, config.tsallis_q
    pi_k = policy.distribution(state.old, obs)

    def loss(theta: Tensor) -> Loss:
        pi = policy.distribution(theta, obs)
        pre_tanh, density = pi.draw(noise, config.floor)
        log_prob = tsallis_log(density, config.tsallis_q)
        old = tsallis_log(pi_k.log_density(pre_tanh, config.floor), config.tsallis_q)
        value = critics.values(state.critic.theta, obs, pre_tanh.tanh()).amin(1)
        total = actor_loss(log_prob, old, value, *weights)
        kl = (log_prob - old).mean(1)
        return total, {"actor_loss": total, "entropy": -log_prob.mean(1), "kl": kl}

    actor, metrics = descend(state.actor, config.actor_lr, loss)  # (7)
    return state._replace(actor=actor), metrics


def soft_cycle(
    policy: SquashedActor, critics: Critics, config: Config, state: State, batch, noise
) -> tuple[State, Metrics]:
    """D steps of the critics, then D of the actor. Pure."""
    first, second = (x.unbind(1) for x in noise.chunk(2, 1))
    # critics
    for part, draws in zip(chunks(batch, len(first)), first, strict=True):
        y = soft_target(policy, critics, config, state, part, draws)
        state, metrics = critic_step(critics, config, state, part, y)
    # actor
    for draws in second:
        state, more = actor_step(policy, critics, config, state, part.obs, draws)
    return state, metrics | more


def refreshed(config: Config, learner: Learner) -> State:
    """The state with pi as its pi_k at step 0 and every m steps of a seed."""
    state = learner.state
    if learner.buffer.added % config.refresh_every:
        return state
    return state._replace(old=state.actor.theta.clone())  # (8)


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    rngs = run.streams["init"]
    shape = {"hidden": config.hidden, "log_std_map": config.log_std_map}
    policy = SquashedActor.for_envs(envs, run.device, rngs=rngs, **shape)
    critics = Critics(envs.obs_size, envs.action_size, config.hidden)
    state = initial_state(policy, critics, rngs)
    capacity = min(config.capacity, config.env_steps)
    batch_rng, rng = run.random("batch"), run.random("action")
    buffer = replay_of(envs, capacity, batch_rng)
    learner = Learner(policy, state, buffer, rng)
    collector = ReplayCollector(envs, policy, buffer)
    cycle = partial(soft_cycle, policy, critics, config)
    update = run.update(cycle, partial(draw, config, learner))
    acting = run.streams["action"]
    steps = config.steps_per_iteration
    run.begin(learner, train={"train": (config.iterations, steps)})
    for k in run.stage("train"):
        collector.restart_at_boundary(run)
        if k * steps < config.warm_up:
            collector.explore(config.steps_of_each, acting)
            run.log({}, collector.seconds())
            continue
        metrics = iterate(config, learner, collector, acting, update)
        run.log(metrics, collector.seconds())
