"""TD3+BC: A Minimalist Approach to Offline RL (Fujimoto and Gu 2021, arXiv 2106.06860).

For steps t = 1..T on a data set of transitions (s, a, r, s', d), for S seeds at once, each with its
own everything:

    (1)  draw B transitions of the data; observations are standardised by the data's statistics
    (2)  a' = clip(pi_target(s') + clip(noise, -c, c)), noise normal, within the action box
    (3)  y = r + gamma (1 - d) min_i Q_i,target(s', a')
    (4)  Adam on the squared errors of Q_1 and of Q_2 to y
    every second step, on the same transitions:
    (5)      lambda = alpha / mean |Q_1(s, pi(s))|, a number, not a function
    (6)      Adam on pi's loss, -lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2
    (7)      every target <- target + tau (network - target)

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | deterministic: tanh, scaled to the action box |
| Q_1, Q_2 | critic | [S, 2 P_critic] | two critics in one row; only the first one moves the actor |
| y | target | [S, B] | no gradient flows into it |
| lambda | | [S] | makes the scale of Q irrelevant |
| d | terminated | [S, B] | the task's own end; a time limit is none |

Departures from the official code (sfujim/TD3_BC), whose settings these are: none in the arithmetic,
except that mean |Q_1| is at least 1e-8. Critics and targets are not part of the saved policy.
"""

import math
from dataclasses import dataclass
from functools import partial

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
from rlsuite.core.optim import Metrics, descend, polyak
from rlsuite.core.ranges import Declared, require_positive, require_within
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.td3 import State, mean_size, target_action

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    alpha: float = 2.5  # weight of Q against the squared error to the data's actions [paper; code]
    discount: float = 0.99  # gamma, per step [paper; code]
    polyak: float = 0.005  # of the targets' moving average, per actor step [paper; code]
    policy_noise: float = 0.2  # std of the target's noise, in half widths of the box [paper; code]
    noise_clip: float = 0.5  # c, in half widths of the box [paper; code]
    policy_freq: int = 2  # critic steps per actor step [paper; code]
    actor_lr: float = 3e-4  # of Adam [paper; code]
    critic_lr: float = 3e-4  # of Adam [paper; code]
    batch_size: int = 256  # B, transitions per step [paper; code]
    gradient_steps: int = 1_000_000  # T, critic steps of each seed [paper; code]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = True  # (s - mean) / (std + 1e-3) of the data [paper; code]
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics, ReLU [paper; code]

    def __post_init__(self) -> None:
        require_offline(self)
        require_delayed(self)
        require_positive(self, "noise_clip", "actor_lr", "critic_lr")
        require_within(self, 0, 1, "discount", "polyak")
        require_within(self, 0, math.inf, "alpha", "policy_noise")

    @property
    def declared(self) -> Declared:
        rates = ("actor_lr", "critic_lr")
        steps = self.gradient_steps
        return Declared(self.hidden, self.batch_size, steps, steps, rates, value="value")


# ------------------------------------------------------------------------------------ 3. Presets

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {"*": {}},
    "smoke": {"*": dict(gradient_steps=200, steps_per_iteration=50, batch_size=32,
                        hidden=(32, 32))},
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def policy_loss(value: Tensor, imitation: Tensor, alpha: float) -> Tensor:
    """-lambda Q + (pi - a)^2: equation 5. value, imitation [S, B] -> [S]."""
    scale = alpha / mean_size(value)
    return imitation.mean(1) - scale * value.mean(1)


OBJECTIVES = (critic_loss, policy_loss)

# ------------------------------------------------------------------------------------- 6. Update


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: BoundedActor
    state: State
    buffer: ReplayBuffer
    rng: SeedRandom


def draw(config: Config, learner: Learner) -> tuple[TransitionBatch, Tensor]:
    """Transitions of one cycle, and standard normal numbers [S, F B, A] for its targets."""
    rows = config.batch_size * config.policy_freq
    batch = learner.buffer.sample(rows)  # (1)
    batch = batch.standardized(learner.policy.normalizer)
    return batch, learner.rng.normal(*batch.action.shape[1:])


def target_value(
    policy: BoundedActor, critics: Critics, config: Config, state: State, batch, noise
) -> Tensor:
    """y [S, B], from standard normal `noise` [S, B, A]."""
    actor, critic = state.actor_target, state.critic_target
    action = target_action(policy, actor, batch.next_obs, noise, config)  # (2)
    return critics.target(critic, batch, action, config.discount)  # (3)


def actor_cycle(
    policy: BoundedActor, critics: Critics, config: Config, state: State, batch, noise
) -> tuple[State, Metrics]:
    """`policy_freq` critic steps and, on the last one's transitions, an actor step. Pure."""
    actor, critic, actor_target, critic_target = state
    parts = chunks(batch, config.policy_freq)
    last = parts[-1]
    # critics
    noises = noise.chunk(len(parts), 1)
    for part, draws in zip(parts, noises, strict=True):
        y = target_value(policy, critics, config, state, part, draws)
        critic, metrics = descend(critic, config.critic_lr, critics.error, part, y)  # (4)

    # actor
    def loss(theta):
        action = policy.mean(theta, last.obs)
        value = critics.first(critic.theta, last.obs, action)
        imitation = (action - last.action).square().mean(-1)
        total = policy_loss(value, imitation, config.alpha)  # (5)
        return total, {"policy_loss": total, "imitation": imitation.mean(1)}

    actor, more = descend(actor, config.actor_lr, loss)  # (6)
    # targets
    actor_target = polyak(actor_target, actor.theta, config.polyak)
    critic_target = polyak(critic_target, critic.theta, config.polyak)  # (7)
    return State(actor, critic, actor_target, critic_target), metrics | more


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data, rngs = run.data(), run.streams["init"]
    policy = BoundedActor.for_data(data, config, run.device, rngs)
    critics = Critics(data.obs_size, policy.action_size, config.hidden)
    state = State.of(policy.theta, critics.initial(rngs).to(run.device))
    buffer = ReplayBuffer.of_data(data, run.random("batch"))
    learner = Learner(policy, state, buffer, run.random("action"))
    cycle = partial(actor_cycle, policy, critics, config)
    update = run.update(cycle, partial(draw, config, learner))
    each = config.steps_per_iteration
    stages = {"offline": (config.gradient_steps // each, each)}
    run.begin(learner, train=stages)
    for _ in run.stage("offline"):
        for _ in range(each // config.policy_freq):
            learner.state, metrics = update(learner.state)
        policy.theta.copy_(learner.state.actor.theta)
        run.log(metrics)
