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
| pi | theta | [S, P] | deterministic: tanh, scaled to the action box |
| s, a | obs, action | [S, B, O], [S, B, A] | of the data, whatever reward they brought |

Departures from CORL's any_percent_bc.py, whose settings these are: episodes are split at their true
ends (CORL splits after 1000 stored transitions, which drift across ends), and ranked by the
undiscounted return.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.actors import BoundedActor
from rlsuite.core.chance import Chance
from rlsuite.core.optim import AdamState, adam_step, gradient
from rlsuite.core.ranges import require_multiple, require_positive, require_whole, require_within
from rlsuite.core.replay import Minibatch, Sampler

# ------------------------------------------------------------------------------------- 2. Config


@dataclass(frozen=True)
class Config:
    best_fraction: float = 1.0  # of the episodes, by return; 1: all [CORL; 10%BC: 0.1]
    learning_rate: float = 3e-4  # of Adam [CORL]
    batch_size: int = 256  # B, transitions per step [CORL]
    total_steps: int = 1_000_000  # T, gradient steps of each seed [CORL]
    steps_per_iteration: int = 1000  # between two rows of the log [ours]
    normalize_obs: bool = True  # (s - mean) / (std + 1e-3) of the data [CORL]
    hidden: tuple[int, ...] = (256, 256)  # widths, ReLU [CORL]

    def __post_init__(self) -> None:
        require_whole(self, "batch_size", "total_steps", "steps_per_iteration", "hidden")
        require_multiple(self, "steps_per_iteration", "total_steps")
        require_positive(self, "best_fraction", "learning_rate")
        require_within(self, 0, 1, "best_fraction")

    @property
    def iterations(self) -> int:
        return self.total_steps // self.steps_per_iteration


# ------------------------------------------------------------------------------------ 3. Presets

# preset -> task family ("*": any task) -> what differs from the defaults
PRESETS: dict[str, dict[str, dict]] = {
    "d4rl": {"*": {}},
    "d4rl-10-percent": {"*": dict(best_fraction=0.1)},  # CORL's 10%BC
    "smoke": {"*": dict(total_steps=200, steps_per_iteration=50, batch_size=32, hidden=(32, 32))},
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
    adam: AdamState
    rows: Chance


def best_episodes(data, fraction: float) -> np.ndarray | None:
    """Rows [n] of the `fraction` of episodes with the highest return, at least one; None: all."""
    if fraction == 1:
        return None
    returns, bounds = data.episode_returns(), data.bounds()
    count = max(1, round(fraction * len(returns)))
    best = np.sort(np.argsort(-returns, kind="stable")[:count])
    return np.concatenate([np.arange(*bounds[episode]) for episode in best])  # (1)


def iterate(
    config: Config, learner: Learner, turn: Callable
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A thousand steps: metrics [S] of the last, and seconds per kind of work."""
    theta, adam = learner.policy.theta.detach().clone(), learner.adam
    for _ in range(config.steps_per_iteration):
        theta, adam, metrics = turn(theta, adam)
    learner.policy.theta.copy_(theta)
    learner.adam = adam
    return metrics, turn.seconds()


def draw(config: Config, sampler: Sampler) -> tuple[Minibatch]:
    return (sampler.draw(config.batch_size),)  # (2)


def clone_step(
    policy: BoundedActor, config: Config, theta: Tensor, adam: AdamState, batch: Minibatch
) -> tuple[Tensor, AdamState, dict[str, Tensor]]:
    """One step. Pure: theta [S, P] in and out."""

    def loss(theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        error = imitation_loss(policy.mean(theta, batch.obs), batch.action)  # (3)
        return error, {"imitation": error}

    grad, metrics = gradient(loss, theta)
    lr, everyone = torch.tensor(config.learning_rate), theta.new_ones(len(theta))
    theta, adam = adam_step(theta, grad, adam, lr, everyone)  # (4)
    return theta, adam, metrics


# -------------------------------------------------------------------------------------- 7. Train


def train(config: Config, run) -> None:
    """Train on `run.data()` for all `run.seeds`; `run` logs, evaluates, saves and resumes."""
    data = run.data()
    rngs = run.streams["init"]
    policy = BoundedActor(data.obs_size, *data.box(), rngs=rngs, hidden=config.hidden)
    policy.to(run.device)
    if config.normalize_obs:
        policy.normalizer.fit(*data.obs_statistics())
    rows = run.chance("batch")
    learner = Learner(policy, AdamState.zeros(policy.theta), rows)
    sampler = Sampler(data, policy.normalizer, rows, best_episodes(data, config.best_fraction))
    step = partial(clone_step, policy, config)
    turn = run.turn(partial(draw, config, sampler), step, config.total_steps, [rows])
    for _ in run.iterations(config.iterations, config.steps_per_iteration, learner):
        run.log(*iterate(config, learner, turn))
