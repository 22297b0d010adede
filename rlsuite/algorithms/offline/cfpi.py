"""CFPI: Closed-Form Policy Improvement Operators for Offline RL (Li et al. 2023, arXiv 2211.15956).

For S seeds at once, each with its own everything, on a data set of transitions (s, a, r, s', d):

    (1)  fit pi_b(a|s), tanh of a Gaussian or of a mixture, by Adam on -log pi_b(a|s); freeze it
    for steps t = 1..T, SARSA; then, if wanted, more steps for the improved policy's values:
    (2)  draw B transitions with a', what the data did next
    (3)  if improved: a' = I(pi_b, Q)(s'), plus noise where I has the critic of this very step
    (4)  y_i = r + gamma (1 - d) Z_target(s', a') at fractions i, each critic with its own target
    (5)  Adam on the quantile Huber loss of both critics to y
    (6)  Z_target <- Z_target + polyak (Z - Z_target)
    act, without further training:
    (7)  I(pi_b, Q)(s): for each candidate of the operator x = mu + kappa S g / ||g||_S, with g the
         gradient of Q at mu; the one with the highest Q

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi_b | behaviour | [S, P_b] | components (lambda_i, mu_i, S_i) before the tanh, S_i diagonal |
| Z_1, Z_2 | critic | [S, 2 P_critic] | quantiles of the return; Q is the smaller of two means |
| tau | log_tau | | how far I goes: kappa is sqrt(2 log tau) or less |
| I | improved | [S, B, A] | operators: see `rlsuite.core.closed_form` |
| d | terminated | [S, B] | the task's own end; a time limit is none, and has no a': left out |

With `on` the policy and the critics are those of another run, and (7) is all that happens.

Departures from the official code (cfpi-icml23/cfpi): kappa and norm are the paper's (the code's
mixtures go sqrt(2) times as far, normed over components); only peaks of live components count, and
a candidate that cannot reach them is its mean: see `rules`. log tau is fixed where the code tries
ten; densities have no floor; stds get 1e-3 more. `quantiles 0`, plain twin critics, is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from rlsuite.core.buffers import ReplayBuffer, TransitionBatch, require_offline
from rlsuite.core.closed_form import ClosedFormPolicy, live_components, require_closed_form
from rlsuite.core.critics import critic_loss
from rlsuite.core.optim import Metrics, Net, descend, polyak
from rlsuite.core.quantiles import Fractions, draw_fractions, quantile_loss
from rlsuite.core.ranges import Declared, RunFolder, require_positive
from rlsuite.core.seed_random import SeedRandom

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    operator: str = "better"  # single, logsumexp, jensen, better, modes, deterministic [paper]
    log_tau: float = 0.5  # how far from the behaviour the step goes; 0: modes [paper: MuJoCo]
    delta: float = 0.1  # the same of deterministic, whose radius is sqrt(2 delta) [paper]
    components: int = 4  # of the behaviour; 1: a Gaussian [paper: MuJoCo; AntMaze 8]
    min_weight: float = 0.05  # xi: lighter components do not count [paper; code]
    rules: str = "mended"  # of mixtures: mended, paper or released [ours; paper; code]
    quantiles: int = 8  # fractions per state of a critic; 0: plain twin critics [code; 0: ours]
    on: RunFolder | None = None  # run folder whose policy and critics to act with instead [paper]
    train_critic: bool = False  # with `on`, fit critics here all the same [ours: for BC]
    behaviour_steps: int = 500_000  # of fitting pi_b [paper; code]
    behaviour_lr: float = 1e-4  # of Adam [paper; code]
    critic_lr: float = 3e-4  # of Adam [paper: AntMaze; code]
    gradient_steps: int = 400_000  # T, of SARSA; by data set in the presets [paper: table 16]
    improvement_steps: int = 0  # with the improved policy's actions; 0: one-step [paper]
    round_steps: int = 0  # of these with one critic in I; 0: always the newest [code: 200k]
    target_noise: float = 0.1  # std where I has the newest, in half widths of the box [code]
    noise_clip: float = 0.5  # bound of that noise [code]
    discount: float = 0.99  # gamma, per step [paper; code]
    polyak: float = 0.005  # of the targets' moving average [paper; code]
    reward_shift: float = 0.0  # added to every reward [paper: AntMaze -1]
    batch_size: int = 256  # B, transitions per step [paper; code]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = True  # (s - mean) / (std + 1e-3) of the data [paper: MuJoCo]
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of all networks, ReLU [paper; code]

    def __post_init__(self) -> None:
        require_offline(self, "behaviour_steps", "improvement_steps", "round_steps")
        require_positive(self, "behaviour_lr", "critic_lr", "noise_clip")
        require_closed_form(self)
        if self.train_critic and not self.on:
            raise ValueError("train_critic is for another run's policy; add --on FOLDER")
        if not (self.behaviour_steps or self.on):
            raise ValueError("behaviour_steps is 0; name a run that has a policy: --on FOLDER")

    @property
    def learns(self) -> bool:
        return self.on is None or self.train_critic  # whether critics are fitted here

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """Iterations of each, and the steps of one of them; the behaviour's prepare."""
        steps = {"behaviour": 0 if self.on else self.behaviour_steps}
        steps |= {"sarsa": self.gradient_steps, "improvement": self.improvement_steps}
        each = self.steps_per_iteration
        counts = {name: count // each if self.learns else 0 for name, count in steps.items()}
        return {name: (count, each) for name, count in counts.items()}

    @property
    def declared(self) -> Declared:
        steps = self.gradient_steps + self.improvement_steps if self.learns else 1
        rates, value = ("behaviour_lr", "critic_lr"), "value" if self.learns else ""
        parts = ["on"] * bool(self.on) + [self.operator] * (self.operator != "better")
        variant = "-".join(parts + ["twins"] * (self.learns and not self.quantiles))
        return Declared(self.hidden, self.batch_size, steps, steps, rates, 1, value, variant)


# ------------------------------------------------------------------------------------ 3. Presets

# Table 16: SARSA steps, chosen by held-out errors of the value; and log tau of one set
_STEPS = {"HalfCheetah/medium": 200, "HalfCheetah/medium-replay": 1500, "Walker2d/medium": 700,
          "Hopper/medium-replay": 300, "Walker2d/medium-replay": 1100}  # fmt: skip
_SETS = {name: dict(gradient_steps=1000 * count) for name, count in _STEPS.items()}
_MODES = {"Hopper/medium-expert": dict(log_tau=0.0)}
_MAZE = dict(components=8, log_tau=1.5, normalize_obs=False, reward_shift=-1.0,
             gradient_steps=20_000, improvement_steps=980_000)  # fmt: skip
_ROUNDS = dict(components=12, improvement_steps=1_000_000, round_steps=200_000)

# preset -> task family or family/level of the data ("*": any) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {"*": {}, "AntMaze": _MAZE, **_SETS, **_MODES},
    "single": {"*": dict(operator="single", components=1), **_SETS},  # I_SG, log tau 0.5
    "multi-step": {"*": _ROUNDS, **_SETS},
    "released": {"*": dict(rules="released"), "AntMaze": _MAZE, **_SETS, **_MODES},
    "smoke": {"*": dict(gradient_steps=150, steps_per_iteration=50, batch_size=32, hidden=(32, 32),
                        behaviour_steps=100, components=2, quantiles=4, improvement_steps=50,
                        behaviour_lr=1e-3)},  # ours
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def cloning_loss(log_prob: Tensor) -> Tensor:
    """-mean log pi_b(a|s). [S, B] -> [S]."""
    return -log_prob.mean(1)


OBJECTIVES = (cloning_loss, quantile_loss, critic_loss)

# ------------------------------------------------------------------------------------- 6. Update


class State(NamedTuple):
    """All that a step changes, one row per seed."""

    behaviour: Net
    critic: Net  # both critics
    target: Tensor  # [S, 2 P_critic]
    anchor: Tensor  # [S, 2 P_critic], the critics in I for a whole round


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: ClosedFormPolicy
    state: State
    buffer: ReplayBuffer
    pairs: ReplayBuffer  # the data's rows whose next action is known, with that
    rng: SeedRandom


def clone_step(
    policy: ClosedFormPolicy, config: Config, state: State, batch: TransitionBatch
) -> tuple[State, Metrics]:
    """One step of the behaviour. Pure."""
    action = (batch.action - policy.centre) / policy.half_width

    def loss(theta):
        pi = policy.network.distribution(theta, batch.obs)
        total = cloning_loss(pi.log_prob(action))
        live = live_components(pi.log_weight, config.min_weight)
        count = live.sum(-1).to(total.dtype).mean(1)
        return total, {"cloning_loss": total, "live": count}

    net, metrics = descend(state.behaviour, config.behaviour_lr, loss)  # (1)
    return state._replace(behaviour=net), metrics


def draw_logged(config: Config, learner: Learner) -> tuple[TransitionBatch]:
    batch = learner.buffer.sample(config.batch_size)
    return (batch.standardized(learner.policy.normalizer),)


def draw(config: Config, learner: Learner) -> tuple:
    """Transitions, next actions, fractions, and standard normal numbers [S, B, A]."""
    batch = learner.pairs.sample(config.batch_size)  # (2)
    batch = batch.standardized(learner.policy.normalizer)
    action, next_action = batch.action.chunk(2, -1)
    reward, rng = batch.reward + config.reward_shift, learner.rng
    batch = batch._replace(reward=reward, action=action)
    fractions = draw_fractions(rng, config.batch_size, config.quantiles)
    return batch, next_action, fractions, rng.normal(*action.shape[1:])


def improved_action(
    policy: ClosedFormPolicy, config: Config, state: State, obs: Tensor, noise: Tensor
) -> Tensor:
    """I(pi_b, Q)(s) [S, B, A], from standard normal `noise`, which only the newest critic gets."""
    behaviour, c = state.behaviour.theta, config.noise_clip
    if config.round_steps:
        return policy.improved(behaviour, state.anchor, obs)
    action = policy.improved(behaviour, state.critic.theta, obs)
    noise = (config.target_noise * noise).clamp(-c, c)
    return policy.clip_action(action + policy.half_width * noise)


def critic_step(
    policy: ClosedFormPolicy,
    config: Config,
    improving: bool,
    state: State,
    batch: TransitionBatch,
    next_action: Tensor,
    fractions: Fractions,
    noise: Tensor,
) -> tuple[State, Metrics]:
    """One step of the critics and their targets. Pure."""
    asked, there, width = fractions
    obs, next_obs = batch.obs, batch.next_obs
    # targets
    if improving:
        next_action = improved_action(policy, config, state, next_obs, noise)  # (3)
    future = policy.outcomes(state.target, next_obs, next_action, there)
    if config.improvement_steps and not config.round_steps:  # iterative: the smaller of two
        future = future.amin(1, keepdim=True)
    discount = config.discount * (1 - batch.terminated)
    y = batch.reward[:, None, :, None] + discount[:, None, :, None] * future  # (4)

    # critics
    def loss(theta):
        z = policy.outcomes(theta, obs, batch.action, asked)
        wanted = y.expand_as(z)
        if width is None:
            total = critic_loss(z.flatten(1), wanted.flatten(1))
        else:
            total = quantile_loss(z, wanted, asked[:, None], width[:, None])
        return total, {"critic_loss": total, "value": z.flatten(1).mean(1)}

    critic, metrics = descend(state.critic, config.critic_lr, loss)  # (5)
    target = polyak(state.target, critic.theta, config.polyak)  # (6)
    return state._replace(critic=critic, target=target), metrics


def iterate(config: Config, learner: Learner, update: Callable) -> Metrics:
    """An iteration of any stage: metrics [S] of its last step."""
    for _ in range(config.steps_per_iteration):
        learner.state, metrics = update(learner.state)
    learner.policy.hold(learner.state.behaviour.theta, learner.state.critic.theta)  # (7)
    return metrics


def promised(config: Config, learner: Learner) -> Metrics:
    """How much higher Q is after the step than at the behaviour, at states of the data."""
    (batch,) = draw_logged(config, learner)
    return {"promise": learner.policy.promise(batch.obs)}


def begin_round(config: Config, learner: Learner, k: int) -> None:
    """If one begins with iteration `k` of the improvement, I has the newest critic from now on."""
    if config.round_steps and k * config.steps_per_iteration % config.round_steps == 0:
        newest = learner.state.critic.theta.clone()
        learner.state = learner.state._replace(anchor=newest)


# -------------------------------------------------------------------------------------- 7. Train


def start(config: Config, run, data) -> Learner:
    """All networks, fresh, but for the policy and critics of the run that `config.on` names."""
    base = run.base(config.on, critics=not config.train_critic) if config.on else None
    policy = ClosedFormPolicy.of(config, data, run.streams["init"], base).to(run.device)
    behaviour, critic = map(Net.of, policy.parts())
    state = State(behaviour, critic, critic.theta.clone(), critic.theta.clone())
    batch_rng = run.random("batch")
    buffer = pairs = ReplayBuffer.of_data(data, batch_rng)
    if config.learns:
        doubled, kept = data.with_next_actions(run.say)
        pairs = ReplayBuffer.of_data(doubled, batch_rng, kept)
    return Learner(policy, state, buffer, pairs, run.random("action"))


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    learner, stages = start(config, run, run.data()), config.stages
    clone = partial(clone_step, learner.policy, config)
    fit = run.update(clone, partial(draw_logged, config, learner), config.behaviour_steps)
    step, drawing = partial(critic_step, learner.policy, config), partial(draw, config, learner)
    sarsa, later = (run.update(partial(step, x), drawing) for x in (False, True))
    prepare = {"behaviour": stages.pop("behaviour")}
    run.begin(learner, prepare=prepare, train=stages | {"on": (int(not config.learns), 1)})
    for _ in run.stage("behaviour"):
        run.log(iterate(config, learner, fit))
    for _ in run.stage("sarsa"):
        run.log(iterate(config, learner, sarsa) | promised(config, learner))
    for k in run.stage("improvement"):
        begin_round(config, learner, k)
        run.log(iterate(config, learner, later) | promised(config, learner))
    for _ in run.stage("on"):
        run.log(promised(config, learner))
