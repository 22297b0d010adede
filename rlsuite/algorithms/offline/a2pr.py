"""A2PR: Adaptive Advantage-Guided Policy Regularization (Liu et al. 2024, arXiv 2405.19909).

For steps t = 1..T on a data set of transitions (s, a, r, s', d), for S seeds at once, each with its
own everything:

    (1)  draw B transitions of the data; observations are standardised by the data's statistics
    (2)  a' = clip(pi_target(s') + clip(noise, -c, c)), noise normal, within the action box
    (3)  y = r + gamma (1 - d) min_i Q_i,target(s', a')
    (4)  Adam on the squared errors of Q_1 and of Q_2 to y
    (5)  x = min(y, r + gamma (1 - d) min_i Q_i(s', a')), with the new critics and the same a'
    (6)  Adam on V's squared error to x. Below, A(s, .) = Q_1(s, .) - V(s), with V before this step
    (7)  Adam on the VAE: mean w_1 1[A(s, a) > eps] (u - a)^2 + beta mean KL(q(z|s, a) || N(0, 1))
    every second step, on the same transitions:
    (8)      v = the VAE's action for z ~ q(z|s, pi(s)): the candidate
    (9)      abar = v where A(s, v) >= A(s, a), else a
    (10)     m = w_2 where A(s, v) >= eps or A(s, a) > eps, else 0
    (11)     lambda = alpha / mean |Q_1(s, pi(s))|, a number, not a function
    (12)     Adam on pi's loss, -lambda mean Q_1(s, pi(s)) + mean m (pi(s) - abar)^2
    (13)     every target <- target + polyak (network - target)

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P_actor] | deterministic: tanh, scaled to the action box |
| Q_1, Q_2 | critic | [S, 2 P_critic] | two critics in one row; A and pi know the first one alone |
| V | value | [S, P_value] | of the data's actions, pessimistic: its target x is at most y |
| q, u | vae | [S, P_vae] | encoder and decoder of actions, fitted while the critics change |
| A | gain, advantage | [S, B] | of the candidate; of the data's action |
| abar | chosen | [S, B, A] | what pi is drawn to, where m is not 0; elsewhere Q alone moves it |
| d | terminated | [S, B] | the task's own end; a time limit is none |

Where paper and official code (ltlhuuu/A2PR) differ, the default is the code: v is made of pi(s),
with a gradient to pi (paper: of s alone; see `candidate`), and eps is 0 (paper: to be chosen;
`threshold`). Its m adds two truth values: "or", no count. Departure: mean |Q_1| is at least 1e-8.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import (
    ReplayBuffer,
    TransitionBatch,
    chunks,
    require_delayed,
    require_offline,
)
from rlsuite.core.critics import Critics, StateValue, critic_loss
from rlsuite.core.optim import Loss, Net, descend, polyak
from rlsuite.core.ranges import (
    Declared,
    require_choice,
    require_positive,
    require_whole,
    require_within,
)
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.td3 import mean_size, target_action
from rlsuite.core.vae import ActionVAE

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    alpha: float = 2.5  # weight of Q against the squared error to abar [code; HalfCheetah 40]
    vae_weight: float = 1.0  # w_1, of what the VAE rebuilds [code: by data set]
    imitation_weight: float = 1.0  # w_2, of the squared error to abar [code: by data set]
    threshold: float = 0.0  # eps, least advantage worth imitating [code; paper: to be chosen]
    candidate: str = "encoder"  # v of pi(s); detached: a number; prior: of s alone [code; paper]
    kl_weight: float = 0.5  # beta, of the VAE's KL, which no mask covers [code]
    discount: float = 0.99  # gamma, per step [code: 0.99 or 0.995 by data set]
    polyak: float = 0.005  # of the targets' moving average, per actor step [code]
    policy_noise: float = 0.2  # std of the target's noise, in half widths of the box [code]
    noise_clip: float = 0.5  # c, in half widths of the box [code]
    policy_freq: int = 2  # critic steps per actor step [code]
    actor_lr: float = 3e-4  # of Adam [code]
    critic_lr: float = 3e-4  # of Adam, critics and V [code]
    vae_lr: float = 1e-3  # of Adam on the VAE [code: its library's default]
    batch_size: int = 256  # B, transitions per step [code]
    gradient_steps: int = 1_000_000  # T, critic steps of each seed [code]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = True  # (s - mean) / (std + 1e-3) of the data [code]
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the actor, ReLU [code]
    critic_hidden: tuple[int, ...] = (256, 256, 256, 256)  # of critics and V, ReLU [code]
    vae_hidden: int = 750  # width of the two hidden layers of encoder and of decoder [code]

    def __post_init__(self) -> None:
        require_offline(self)
        require_delayed(self)
        require_whole(self, "critic_hidden", "vae_hidden")
        require_choice(self, "candidate", ("encoder", "detached", "prior"))
        require_positive(self, "noise_clip", "actor_lr", "critic_lr", "vae_lr")
        require_within(self, 0, 1, "discount", "polyak")
        require_within(self, 0, math.inf, "alpha", "policy_noise", "kl_weight")
        require_within(self, 0, math.inf, "vae_weight", "imitation_weight", "threshold")

    @property
    def declared(self) -> Declared:
        rates, steps = ("actor_lr", "critic_lr", "vae_lr"), self.gradient_steps
        return Declared(self.hidden, self.batch_size, steps, steps, rates, value="value")


# ------------------------------------------------------------------------------------ 3. Presets

# data -> alpha, w_1, w_2, gamma [README of the code; all but medium as in May 2024, a90b9d0]
_NAMES = ("alpha", "vae_weight", "imitation_weight", "discount")
_TUNED = {
    "HalfCheetah/medium": (40, 1, 1, 0.99), "HalfCheetah/medium-replay": (40, 1.5, 0.8, 0.995),
    "HalfCheetah/medium-expert": (40, 1, 10, 0.99), "Hopper/random": (2.5, 1.5, 1.5, 0.995),
    "Hopper/medium": (2.5, 1, 0.4, 0.995), "Hopper/medium-replay": (2.5, 1.5, 0.5, 0.99),
    "Hopper/medium-expert": (2.5, 1, 4, 0.99), "Walker2d/medium": (2.5, 1.5, 1, 0.99),
    "Walker2d/medium-replay": (2.5, 1.5, 1.2, 0.995), "Walker2d/medium-expert": (2.5, 1, 0.8, 0.99),
}  # fmt: skip
_TUNED = {data: dict(zip(_NAMES, map(float, row), strict=True)) for data, row in _TUNED.items()}

# preset -> task family/level of the data ("*": any) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {"*": {}} | _TUNED,  # those of other random sets and of AntMaze are not published
    "single": {"*": {}},  # one setting for every set, as a later paper ran it again
    "smoke": {"*": dict(gradient_steps=200, steps_per_iteration=50, batch_size=32, hidden=(32, 32),
                        critic_hidden=(32, 32), vae_hidden=32)},  # ours
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def vae_loss(error: Tensor, kl: Tensor, weight: Tensor, beta: float) -> Tensor:
    """mean w (u - a)^2 + beta KL; only the error is masked. All [S, B] -> [S]."""
    return (weight * error).mean(1) + beta * kl.mean(1)


def policy_loss(value: Tensor, imitation: Tensor, alpha: float) -> Tensor:
    """-lambda Q + m (pi - abar)^2, means over the batch. value, imitation [S, B] -> [S]."""
    scale = alpha / mean_size(value)
    return imitation.mean(1) - scale * value.mean(1)


OBJECTIVES = (critic_loss, vae_loss, policy_loss)

# ------------------------------------------------------------------------------------- 6. Update


class Setup(NamedTuple):
    """What no step changes: the settings, and what the parameters of a state mean."""

    config: Config
    policy: BoundedActor
    critics: Critics
    values: StateValue
    vae: ActionVAE


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    actor: Net
    critic: Net  # both critics
    value: Net
    vae: Net
    actor_target: Tensor  # [S, P_actor]
    critic_target: Tensor  # [S, 2 P_critic]


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: BoundedActor
    buffer: ReplayBuffer
    rng: SeedRandom
    state: State


def draw(config: Config, learner: Learner) -> tuple:
    """Transitions of a cycle, and normal numbers: of a', of the VAE's steps, of the candidate."""
    size = config.batch_size
    batch = learner.buffer.sample(config.policy_freq * size)  # (1)
    rows, actions = batch.action.shape[1:]
    shapes = (rows, actions), (rows, 2 * actions), (size, 2 * actions)
    noise = [learner.rng.normal(*shape) for shape in shapes]
    return batch.standardized(learner.policy.normalizer), noise


def critic_step(setup: Setup, state: State, batch, noise) -> tuple:
    """A step of the critics, then one of V; "values" is V(s) [S, B] as it was before."""
    config, policy, critics, values, _ = setup
    lr, discount = config.critic_lr, config.discount
    action = target_action(policy, state.actor_target, batch.next_obs, noise, config)  # (2)
    y = critics.target(state.critic_target, batch, action, discount)  # (3)
    critic, metrics = descend(state.critic, lr, critics.error, batch, y)  # (4)
    own = critics.target(critic.theta, batch, action, discount)
    x = torch.minimum(y, own)  # (5)
    value, more = descend(state.value, lr, values.error, batch.obs, x)  # (6)
    return state._replace(critic=critic, value=value), metrics | more


def vae_step(setup: Setup, state: State, batch, advantage, noise) -> tuple:
    """A step of the VAE, by A(s, a) [S, B]; the KL covers all rows."""
    config, obs, action = setup.config, batch.obs, batch.action
    worth = (advantage > config.threshold).to(obs.dtype)
    weight = config.vae_weight * worth

    def loss(theta: Tensor) -> Loss:
        error, kl = setup.vae.errors(theta, obs, action, noise)
        total = vae_loss(error, kl, weight, config.kl_weight)
        return total, {"vae_loss": total, "kl": kl.mean(1)}

    vae, metrics = descend(state.vae, config.vae_lr, loss)  # (7)
    return vae, metrics | {"data_share": worth.mean(1)}


def candidate(setup: Setup, theta: Tensor, obs, action, noise) -> Tensor:
    """v [S, B, A], which the VAE makes of pi's action, or of the state alone."""
    kind = setup.config.candidate
    if kind == "prior":  # z bounded as in the code
        return setup.vae.decode(theta, obs, noise.clamp(-0.5, 0.5))
    v, _, _ = setup.vae.rebuild(theta, obs, action, noise)
    return v.detach() if kind == "detached" else v  # (8)


def imitated(v, action, gain, advantage, least: float) -> tuple:
    """abar [S, B, A], and whether it is worth imitating [S, B]."""
    chosen = torch.where((gain >= advantage)[..., None], v, action)  # (9)
    worth = (gain >= least) | (advantage > least)  # (10)
    return chosen, worth


def actor_step(setup: Setup, state: State, batch, value, advantage, noise) -> tuple:
    """A step of the actor, by V(s) and A(s, a) [S, B]."""
    config, policy, critics, _, _ = setup
    obs, critic = batch.obs, state.critic.theta

    def loss(theta: Tensor) -> Loss:
        action = policy.mean(theta, obs)
        v = candidate(setup, state.vae.theta, obs, action, noise)
        gain = critics.first(critic, obs, v.detach()) - value
        chosen, worth = imitated(v, batch.action, gain, advantage, config.threshold)
        error = (action - chosen).square().mean(-1)
        imitation = config.imitation_weight * worth * error
        q = critics.first(critic, obs, action)
        total = policy_loss(q, imitation, config.alpha)  # (11)
        metrics = {"policy_loss": total, "imitation": imitation.mean(1)}
        metrics["mask_share"] = worth.float().mean(1)
        metrics["candidate_share"] = (gain >= advantage).float().mean(1)
        return total, metrics

    return descend(state.actor, config.actor_lr, loss)  # (12)


def actor_cycle(setup: Setup, state: State, batch: TransitionBatch, noise) -> tuple:
    """`policy_freq` steps of all but the actor, which learns from the last ones' rows. Pure."""
    count, tau = setup.config.policy_freq, setup.config.polyak
    normal, latent = (x.chunk(count, 1) for x in noise[:2])
    for k, part in enumerate(chunks(batch, count)):  # critics, V, VAE
        state, metrics = critic_step(setup, state, part, normal[k])
        value = metrics.pop("values")
        critic = state.critic.theta
        q = setup.critics.first(critic, part.obs, part.action)
        vae, more = vae_step(setup, state, part, q - value, latent[k])
        state = state._replace(vae=vae)
    # actor
    actor, most = actor_step(setup, state, part, value, q - value, noise[2])
    # targets
    slow = polyak(state.actor_target, actor.theta, tau)
    state = state._replace(actor=actor, actor_target=slow)
    slow = polyak(state.critic_target, critic, tau)  # (13)
    return state._replace(critic_target=slow), metrics | more | most


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data, rngs = run.data(), run.streams["init"]
    size, wide = data.obs_size, config.critic_hidden
    policy = BoundedActor.for_data(data, config, run.device, rngs)
    critics = Critics(size, policy.action_size, wide)
    values = StateValue(size, wide)
    vae = ActionVAE(policy, size, config.vae_hidden)
    fresh = [x.initial(rngs).to(run.device) for x in (critics, values, vae)]
    nets = [Net.of(theta) for theta in (policy.theta, *fresh)]
    targets = [net.theta.clone() for net in nets[:2]]
    buffer = ReplayBuffer.of_data(data, run.random("batch"))
    learner = Learner(policy, buffer, run.random("action"), State(*nets, *targets))
    cycle = partial(actor_cycle, Setup(config, policy, critics, values, vae))
    update = run.update(cycle, partial(draw, config, learner))
    each, count = config.steps_per_iteration, config.policy_freq
    whole = config.gradient_steps // each
    run.begin(learner, train={"offline": (whole, each)})
    for _ in run.stage("offline"):
        for _ in range(each // count):
            learner.state, metrics = update(learner.state)
        policy.theta.copy_(learner.state.actor.theta)
        run.log(metrics)
