"""AWAC: Accelerating Online RL with Offline Datasets (Nair et al. 2020, arXiv 2006.09359).

For steps t = 1..T on a data set of transitions (s, a, r, s', d), for S seeds at once, each with its
own everything:

    (1)  draw B transitions of the data; observations are standardised by the data's statistics
    (2)  a' ~ pi(.|s'), clipped to the action box
    (3)  y = r + gamma (1 - d) min_i Q_i,target(s', a')
    (4)  Adam on the squared errors of Q_1 and of Q_2 to y
    (5)  b ~ pi(.|s), clipped to the action box
    (6)  A = min_i Q_i(s, a) - min_i Q_i(s, b), with the new critics
    (7)  w = min(exp(A / lambda), 100), a number, not a function
    (8)  Adam on pi: -mean w log pi(a|s)
    (9)  Q_target <- Q_target + tau (Q - Q_target)

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | Gaussian around an unbounded mean, with which it acts |
| Q_1, Q_2 | critic | [S, 2 P_critic] | two critics in one row |
| A | advantage | [S, B] | of the data's action over one of pi's |
| lambda | temperature | | towards 0: only what beats pi is imitated; large: cloning |
| w | weight | [S, B] | 1 where all advantages of a batch are equal, which is warned of |
| tau | polyak | | |
| d | terminated | [S, B] | the task's own end; a time limit is none |

The settings are those of CORL (tinkoff-ai/CORL), whose scores stand in most tables. The authors'
own code (rlkit) differs: its weights are a softmax over the batch, without a bound, from critics
before this step's update; beta 2, other widths, batches of 1024. Presets `mcep` and `mcep-paper`
are the AWAC in the code of MCEP (egg-west/MCEP): a tanh-Gaussian, whose sigma depends on the state.

Departures from both: densities are of actions in half widths of the box, which moves log pi by a
constant; an action of pi that leaves the box is clipped in the environment, too. From MCEP's:
weights start as torch.nn.Linear's do, not orthogonal; critic losses are summed, not averaged.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from rlsuite.core.buffers import ReplayBuffer, TransitionBatch, require_offline
from rlsuite.core.critics import Critics, critic_loss
from rlsuite.core.gaussian import GaussianActor
from rlsuite.core.optim import Loss, Metrics, Net, descend, polyak
from rlsuite.core.ranges import Declared, require_positive, require_within
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.squashed import SquashedActor
from rlsuite.core.weights import EQUAL, regression_loss, regression_weights
from rlsuite.envs.faults import warn_once

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    temperature: float = 0.3333  # lambda, per unit of reward as scaled [CORL: MuJoCo; its class: 1]
    max_weight: float = 100.0  # bound on w [CORL; MCEP's code]
    squashed: bool = False  # tanh-Gaussian, the state decides sigma [CORL: off; MCEP's code: on]
    scale_rewards: bool = False  # so that episode returns span 1000 [CORL; MCEP's code: on]
    reward_factor: float = 1.0  # multiplies every reward [CORL; MCEP's code on AntMaze: 100]
    reward_shift: float = 0.0  # added to every reward, after scaling [CORL: AntMaze -1]
    discount: float = 0.99  # gamma, per step [CORL]
    polyak: float = 0.005  # tau of the targets' moving average [CORL]
    actor_lr: float = 3e-4  # of Adam [CORL; MCEP's code: 3e-5]
    critic_lr: float = 3e-4  # of Adam [CORL]
    action_margin: float = 0.0  # the data's actions stay so far in the box [MCEP's code: 1e-5]
    batch_size: int = 256  # B, transitions per step [CORL]
    gradient_steps: int = 1_000_000  # T, gradient steps of each seed [CORL]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = True  # (s - mean) / (std + 1e-3) of the data [CORL; MCEP's code: off]
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of all networks, ReLU [CORL]

    def __post_init__(self) -> None:
        require_offline(self)
        require_positive(self, "temperature", "max_weight", "reward_factor")
        require_positive(self, "actor_lr", "critic_lr")
        require_within(self, 0, 1, "discount", "polyak", "action_margin")
        require_within(self, -math.inf, math.inf, "reward_shift")

    @property
    def declared(self) -> Declared:
        rates, steps = ("actor_lr", "critic_lr"), self.gradient_steps
        known = {"value": "value", "variant": "mcep" if self.squashed else ""}
        return Declared(self.hidden, self.batch_size, steps, steps, rates, **known)


# ------------------------------------------------------------------------------------ 3. Presets

_SPARSE = dict(temperature=0.1)  # configs/offline/awac of CORL
_SCALED = dict(scale_rewards=True)  # train_offline_awac.py of MCEP
_MCEP = dict(squashed=True, actor_lr=3e-5, normalize_obs=False, action_margin=1e-5,
             hidden=(256, 256))  # fmt: skip
_MCEP_TASKS = {
    "HalfCheetah": _SCALED, "Hopper": _SCALED, "Walker2d": _SCALED,
    "AntMaze": dict(reward_factor=100.0),
}  # fmt: skip

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {
        "*": {}, "AntMaze": dict(reward_shift=-1.0, **_SPARSE), "PointMaze": _SPARSE,
        "AdroitHandDoor": _SPARSE, "AdroitHandHammer": _SPARSE, "AdroitHandPen": _SPARSE,
        "AdroitHandRelocate": _SPARSE,
    },
    "mcep": {"*": dict(temperature=0.1, **_MCEP), **_MCEP_TASKS},  # its configs
    "mcep-paper": {"*": dict(temperature=1.0, **_MCEP), **_MCEP_TASKS},  # its text
    "smoke": {"*": dict(gradient_steps=200, steps_per_iteration=50, batch_size=32,
                        hidden=(32, 32))},
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives

OBJECTIVES = (critic_loss, regression_loss)

# ------------------------------------------------------------------------------------- 6. Update

Policy = GaussianActor | SquashedActor


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net
    critic: Net  # both critics
    critic_target: Tensor  # [S, 2 P_critic]


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: Policy
    state: State
    buffer: ReplayBuffer
    rng: SeedRandom


def reward_scale(config: Config, data) -> float:
    """What rewards are multiplied by; a warning where they cannot tell actions apart."""
    if np.ptp(data.reward) == 0 and not data.terminated.any():
        warn_once(EQUAL)
    span = data.reward_scale(1000) if config.scale_rewards else 1.0
    return config.reward_factor * span


def draw(config: Config, learner: Learner, scale: float) -> tuple[TransitionBatch, Tensor]:
    """Transitions as the settings have them; standard normal numbers [S, 2 B, A]."""
    policy, size = learner.policy, config.batch_size
    batch = learner.buffer.sample(size)  # (1)
    batch = batch.standardized(policy.normalizer)
    reward = scale * batch.reward + config.reward_shift
    action = policy.clip_action(batch.action, config.action_margin)
    batch = batch._replace(reward=reward, action=action)
    return batch, learner.rng.normal(2 * size, policy.action_size)


def sample(policy: Policy, actor: Tensor, obs: Tensor, noise: Tensor) -> Tensor:
    """An action of pi [S, B, A], inside the box."""
    return policy.to_box(policy.distribution(actor, obs).sample(noise)[0])


def awac_step(
    policy: Policy,
    critics: Critics,
    config: Config,
    state: State,
    batch: TransitionBatch,
    noise: Tensor,
) -> tuple[State, Metrics]:
    """One step of the critics, the actor and the targets. Pure."""
    actor, critic, critic_target = state
    obs, action, next_obs = batch.obs, batch.action, batch.next_obs
    there, here = noise.chunk(2, 1)
    # critics
    next_action = sample(policy, actor.theta, next_obs, there)  # (2)
    y = critics.target(critic_target, batch, next_action, config.discount)  # (3)
    lr = config.critic_lr
    critic, metrics = descend(critic, lr, critics.error, batch, y)  # (4)
    # actor
    own = sample(policy, actor.theta, obs, here)  # (5)
    q = critics.values(critic.theta, obs, action).amin(1)
    v = critics.values(critic.theta, obs, own).amin(1)
    advantage = q - v  # (6)
    limits = (1 / config.temperature, config.max_weight)
    weight, most = regression_weights(advantage, q, *limits)  # (7)

    def imitation(theta: Tensor) -> Loss:
        log_prob = policy.distribution(theta, obs).log_prob(policy.to_raw(action))
        loss = regression_loss(log_prob, weight)
        return loss, {"actor_loss": loss}

    actor, more = descend(actor, config.actor_lr, imitation)  # (8)
    # targets
    critic_target = polyak(critic_target, critic.theta, config.polyak)  # (9)
    state = State(actor, critic, critic_target)
    return state, metrics | more | most


# -------------------------------------------------------------------------------------- 7. Train


def policy_for(config: Config, run, data) -> Policy:
    """A fresh policy of the kind that the settings name."""
    kind = SquashedActor if config.squashed else GaussianActor
    return kind.for_data(data, config, run.device, run.streams["init"])


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data, each = run.data(), config.steps_per_iteration
    scale, policy = reward_scale(config, data), policy_for(config, run, data)
    critics = Critics(data.obs_size, policy.action_size, config.hidden)
    critic = critics.initial(run.streams["init"]).to(run.device)
    state = State(Net.of(policy.theta), Net.of(critic), critic.clone())
    buffer = ReplayBuffer.of_data(data, run.random("batch"))
    learner = Learner(policy, state, buffer, run.random("action"))
    step = partial(awac_step, policy, critics, config)
    update = run.update(step, partial(draw, config, learner, scale))
    run.begin(learner, train={"offline": (config.gradient_steps // each, each)})
    for _ in run.stage("offline"):
        for _ in range(each):
            learner.state, metrics = update(learner.state)
        policy.theta.copy_(learner.state.actor.theta)
        if metrics["equal_advantages"].any():
            warn_once(EQUAL)
        run.log(metrics)
