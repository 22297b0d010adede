"""SAC: Soft Actor-Critic (Haarnoja et al. 2018, arXiv 1812.05905; without the V network of v1).

For S seeds at once, each with its own everything. The first W steps of the environments take
actions uniform in the box, and nothing is learned. After that, for every step:

    (1)  y ~ pi(.|s), a = b + k y; store (s, y, r, s', d), where s' is what a truly led to
    for every gradient step, `updates_per_step` of them:
    (2)      draw B transitions of the last C
    (3)      y' ~ pi(.|s'), with its log pi(y'|s')
    (4)      Y = r + gamma (1 - d) (min_i Q_i,target(s', y') - alpha log pi(y'|s'))
    (5)      Adam on the squared errors of Q_1 and of Q_2 to Y
    (6)      Q_target <- Q_target + tau (Q - Q_target)
    every D of these, D times, on the last transitions:
    (7)      Adam on pi's loss, mean alpha log pi(y~|s) - min_i Q_i(s, y~), where y~ ~ pi(.|s)
    (8)      Adam on log alpha's loss, log alpha (H - H_target), H = mean -log pi(y~|s)

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | tanh of a Gaussian; the state decides mean and sigma |
| y, b, k | action | [S, B, A] | what pi draws, in (-1, 1); centre and half widths of the box |
| Q_1, Q_2 | critic | [S, 2 P_critic] | two critics in one row; they see y, never a |
| Y | target | [S, B] | no gradient flows into it |
| alpha | temperature | [S, 1] | weight of the entropy; learned where it has a learning rate |
| H, H_target | entropy | [S] | in nats of y; the target is -A |
| d | terminated | [S, B] | the task's own end; a time limit or a checkpoint is none |

Departures from CleanRL's sac_continuous_action.py, whose settings these are: log pi is exact where
it adds 1e-6 to 1 - y^2; entropy is that of y, not of a, so that a box's width changes nothing; (8)
uses the sample of (7) and log alpha, as Stable-Baselines3 does, not another sample and alpha; the D
steps that belong together come in one call, after D steps of the environment.
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
from rlsuite.core.ranges import Declared, require_choice, require_within
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.squashed import LOG_STD, SquashedActor

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config(ReplaySettings):
    temperature: float = 1.0  # alpha at the start, per unit of reward [CleanRL; SB3; softlearning]
    temperature_lr: float = 1e-3  # of Adam on log alpha; 0: alpha is fixed [CleanRL]
    discount: float = 0.99  # gamma, per step [paper; CleanRL]
    polyak: float = 0.005  # tau of the targets' moving average, per critic step [paper; CleanRL]
    actor_lr: float = 3e-4  # of Adam [paper; CleanRL]
    critic_lr: float = 1e-3  # of Adam [CleanRL; paper: 3e-4]
    policy_delay: int = 2  # D, critic steps until D actor steps follow [CleanRL; paper: 1]
    log_std_map: str = "tanh"  # output to log sigma: tanh to [-5, 2] [CleanRL], clip to [-20, 2]
    batch_size: int = 256  # B, transitions per gradient step [paper; CleanRL]
    updates_per_step: float = 1.0  # gradient steps per environment step [paper; CleanRL]
    env_steps: int = 1_000_000  # environment steps of each seed [paper; CleanRL]
    warm_up: int = 5000  # W, steps with uniform actions, without learning [CleanRL]
    capacity: int = 1_000_000  # C, transitions kept of each seed [paper; CleanRL]
    num_envs: int = 1  # environments per seed [paper; CleanRL]
    steps_per_iteration: int = 1000  # environment steps between two rows of the log [ours]
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics, ReLU [paper; CleanRL]

    def __post_init__(self) -> None:
        require_off_policy(self)
        require_choice(self, "log_std_map", LOG_STD)
        require_within(self, 0, 1, "temperature_lr")

    @property
    def declared(self) -> Declared:
        updates = self.iterations * self.cycles * self.policy_delay
        rates = ("actor_lr", "critic_lr", "temperature_lr")
        counts = self.batch_size, self.env_steps, updates
        return Declared(self.hidden, *counts, rates, self.num_envs, "value")


# ------------------------------------------------------------------------------------ 3. Presets

_CLIPPED = dict(policy_delay=1, log_std_map="clip", warm_up=10_000)
_3E4 = dict(critic_lr=3e-4, temperature_lr=3e-4, **_CLIPPED)  # softlearning 2018; SB3
_STILL = dict(temperature=0.2, temperature_lr=0.0)

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "mujoco": {"*": {}},  # the defaults: CleanRL
    "original": {"*": _3E4},  # softlearning in the month of the second paper
    "fixed": {"*": {**_CLIPPED, **_STILL, "actor_lr": 1e-3}},  # Tianshou's benchmark
    "twin": {"*": {**_3E4, **_STILL}},  # what mdpo_off differs from in its idea alone
    "zoo": {  # rl-baselines3-zoo's sac.yml
        **dict.fromkeys(("HalfCheetah", "Hopper", "Walker2d", "Ant"), _3E4),
        "Humanoid": dict(env_steps=2_000_000, **_3E4),
        "Swimmer": dict(discount=0.999, **_3E4),  # 0.9999 in v3, of which the figures are
        "Pendulum": {**_3E4, "env_steps": 20_000, "warm_up": 100, "steps_per_iteration": 100,
                     "actor_lr": 1e-3, "critic_lr": 1e-3, "temperature_lr": 1e-3},
    },
    "smoke": {"*": dict(env_steps=512, warm_up=128, capacity=256, steps_per_iteration=64,
                        batch_size=32, hidden=(32, 32))},  # ours; the ring wraps
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def actor_loss(log_prob: Tensor, value: Tensor, temperature: Tensor) -> Tensor:
    """mean alpha log pi - Q. log_prob, value [S, B], temperature [S, 1] -> [S]."""
    return (temperature * log_prob - value).mean(1)


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target: float) -> Tensor:
    """log alpha (H - H_target): alpha falls where there is more entropy. [S, 1] -> [S]."""
    return (log_temperature * (entropy - target)).mean(1)


OBJECTIVES = (critic_loss, actor_loss, temperature_loss)

# ------------------------------------------------------------------------------------- 6. Update


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net
    critic: Net  # both critics
    critic_target: Tensor  # [S, 2 P_critic]
    log_temperature: Net  # [S, 1]


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: SquashedActor
    state: State
    buffer: ReplayBuffer
    rng: SeedRandom


def initial_state(config: Config, policy, critics: Critics, rngs) -> State:
    """What training begins with: targets are copies."""
    actor = Net.of(policy.theta)
    critic = Net.of(critics.initial(rngs).to(policy.theta))
    start = math.log(config.temperature)
    log_temperature = policy.theta.new_full((len(rngs), 1), start)
    return State(actor, critic, critic.theta.clone(), Net.of(log_temperature))


def iterate(config: Config, learner: Learner, collector, rngs, update) -> Metrics:
    """An iteration of acting and learning; metrics [S] of the last gradient step."""
    for i in range(config.steps_of_each):
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
    action, log_prob = pi.sample(noise)  # (3)
    alpha = state.log_temperature.theta.exp()
    values = critics.values(state.critic_target, batch.next_obs, action)
    future = values.amin(1) - alpha * log_prob
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
    alpha = state.log_temperature.theta.exp()

    def loss(theta: Tensor) -> Loss:
        pi = policy.distribution(theta, obs)
        action, log_prob = pi.sample(noise)
        value = critics.values(state.critic.theta, obs, action).amin(1)
        total = actor_loss(log_prob, value, alpha)
        return total, {"actor_loss": total, "entropy": -log_prob.mean(1)}

    actor, metrics = descend(state.actor, config.actor_lr, loss)  # (7)
    return state._replace(actor=actor), metrics


def temperature_step(config: Config, state: State, entropy, target) -> tuple[State, Metrics]:
    """A step of log alpha, if it is learned, from the actor's `entropy` [S]."""

    def loss(theta: Tensor) -> Loss:
        total = temperature_loss(theta, entropy[:, None], target)
        return total, {"temperature": theta.exp()[:, 0]}

    if config.temperature_lr == 0:
        return state, {}
    new, metrics = descend(state.log_temperature, config.temperature_lr, loss)  # (8)
    return state._replace(log_temperature=new), metrics


def soft_cycle(
    policy: SquashedActor, critics: Critics, config: Config, state: State, batch, noise
) -> tuple[State, Metrics]:
    """D steps of the critics, then D of actor and temperature. Pure."""
    first, second = (x.unbind(1) for x in noise.chunk(2, 1))
    # critics
    for part, draws in zip(chunks(batch, len(first)), first, strict=True):
        y = soft_target(policy, critics, config, state, part, draws)
        state, metrics = critic_step(critics, config, state, part, y)
    # actor and temperature
    for draws in second:
        state, more = actor_step(policy, critics, config, state, part.obs, draws)
        entropy, target = more["entropy"], -policy.action_size
        state, most = temperature_step(config, state, entropy, target)
    return state, metrics | more | most


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.task` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    envs = run.environments(config.num_envs)
    rngs = run.streams["init"]
    shape = {"hidden": config.hidden, "log_std_map": config.log_std_map}
    policy = SquashedActor.for_envs(envs, run.device, rngs=rngs, **shape)
    critics = Critics(envs.obs_size, envs.action_size, config.hidden)
    state = initial_state(config, policy, critics, rngs)
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
