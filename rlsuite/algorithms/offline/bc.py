"""BC: behaviour cloning with a deterministic policy, and 10%BC, on the best episodes alone.

As baseline of TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860) and of CORL (Tarasov et al. 2023,
arXiv 2210.07105). For S seeds at once, each with its own everything:

    (1)  keep the episodes of highest return: a fraction of them, 1 for BC, 0.1 for 10%BC
    for steps t = 1..T:
    (2)      draw B transitions of them; observations are standardised by the data's statistics
    (3)      L = mean (pi(s) - a)^2, over transitions and over action dimensions
    (4)      Adam on L

| symbol | variable | shape | meaning |
|---|---|---|---|
| pi | actor | [S, P] | deterministic: tanh, scaled to the action box |
| s, a | obs, action | [S, B, O], [S, B, A] | of the data, whatever reward they brought |

Departures from CORL's any_percent_bc.py, whose settings these are: episodes are split at their true
ends (CORL splits after 1000 stored transitions, which drift across ends), and ranked by the
undiscounted return.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import ReplayBuffer, TransitionBatch, require_offline
from rlsuite.core.optim import Net, Step, descend
from rlsuite.core.ranges import Declared, require_positive, require_within

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    best_fraction: float = 1.0  # of the episodes, by return; 1: all [CORL; 10%BC: 0.1]
    learning_rate: float = 3e-4  # of Adam [CORL]
    batch_size: int = 256  # B, transitions per step [CORL]
    gradient_steps: int = 1_000_000  # T, gradient steps of each seed [CORL]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = True  # (s - mean) / (std + 1e-3) of the data [CORL]
    hidden: tuple[int, ...] = (256, 256)  # widths, ReLU [CORL]

    def __post_init__(self) -> None:
        require_offline(self)
        require_positive(self, "best_fraction", "learning_rate")
        require_within(self, 0, 1, "best_fraction")

    @property
    def declared(self) -> Declared:
        share = f"{100 * self.best_fraction:g}-percent" if self.best_fraction < 1 else ""
        rates = ("learning_rate",)
        steps = self.gradient_steps
        return Declared(self.hidden, self.batch_size, steps, steps, rates, variant=share)


# ------------------------------------------------------------------------------------ 3. Presets

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {"*": {}},
    "d4rl-10-percent": {"*": dict(best_fraction=0.1)},  # CORL's 10%BC
    "smoke": {"*": dict(gradient_steps=200, steps_per_iteration=50, batch_size=32,
                        hidden=(32, 32))},
}  # fmt: skip

# --------------------------------------------------------------------------------- 5. Objectives


def imitation_loss(action: Tensor, logged: Tensor) -> Tensor:
    """Squared error, mean over transitions and dimensions. [S, B, A] (or [S, B]) -> [S]."""
    return (action - logged).square().flatten(1).mean(1)


OBJECTIVES = (imitation_loss,)

# ------------------------------------------------------------------------------------- 6. Update


@dataclass
class Learner:
    """Everything that training changes, and so everything that a checkpoint holds."""

    policy: BoundedActor
    actor: Net
    buffer: ReplayBuffer


def best_episodes(data, fraction: float) -> np.ndarray | None:
    """Rows [n] of the `fraction` of episodes with the highest return, at least one; None: all."""
    if fraction == 1:
        return None
    returns, bounds = data.episode_returns(), data.bounds()
    count = max(1, round(fraction * len(returns)))
    best = np.sort(np.argsort(-returns, kind="stable")[:count])
    return np.concatenate([np.arange(*bounds[i]) for i in best])  # (1)


def draw(config: Config, learner: Learner) -> tuple[TransitionBatch]:
    batch = learner.buffer.sample(config.batch_size)  # (2)
    return (batch.standardized(learner.policy.normalizer),)


def clone_step(policy: BoundedActor, config: Config, actor: Net, batch: TransitionBatch) -> Step:
    """One step. Pure."""

    def loss(theta):
        error = imitation_loss(policy.mean(theta, batch.obs), batch.action)  # (3)
        return error, {"imitation": error}

    return descend(actor, config.learning_rate, loss)  # (4)


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data, rngs = run.data(), run.streams["init"]
    policy = BoundedActor.for_data(data, config, run.device, rngs)
    kept = best_episodes(data, config.best_fraction)
    buffer = ReplayBuffer.of_data(data, run.random("batch"), kept)
    learner = Learner(policy, Net.of(policy.theta), buffer)
    update = run.update(partial(clone_step, policy, config), partial(draw, config, learner))
    each = config.steps_per_iteration
    run.begin(learner, train={"offline": (config.gradient_steps // each, each)})
    for _ in run.stage("offline"):
        for _ in range(each):
            learner.actor, metrics = update(learner.actor)
        policy.theta.copy_(learner.actor.theta)
        run.log(metrics)
