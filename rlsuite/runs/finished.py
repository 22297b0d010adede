"""What a finished run has learned, for an algorithm that goes on from it: its policy, its critics.

The critics are no part of a policy, so they come from the run's last checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from rlsuite.core.actors import BoundedActor
from rlsuite.core.critics import Critics
from rlsuite.core.saving import load_policy
from rlsuite.datasets.transitions import Transitions
from rlsuite.runs import checkpoint
from rlsuite.runs import folder as folders
from rlsuite.runs.folder import FINISHED, RunError


class Base(NamedTuple):
    """Policy and critics of a finished run, for the seeds of another."""

    policy: BoundedActor
    critic: Tensor | None  # [S, 2 P], the parameters of two `core.critics.Critics`
    critic_hidden: tuple[int, ...]


def base(
    folder: Path, task: str, data: Transitions, seeds: Sequence[int], critics: bool = True
) -> Base:
    """What the run in `folder` has learned. RunError if it does not fit; `critics`: those, too."""
    manifest = folders.read(folder)
    name = manifest["algorithm"]
    if manifest["task"] != task:
        raise RunError(f"{folder} is a run on {manifest['task']}, not on {task}; name another run")
    if not (folder / FINISHED).exists():
        raise RunError(f"{folder} has not finished; type: rlsuite train --resume {folder}")
    policy, described = load_policy(folder)
    if type(policy) is not BoundedActor or policy.activation != "relu":
        raise RunError(
            f"{folder} is a run of {name}, whose policy is no {BoundedActor.__name__} with ReLU; "
            "name one of bc, td3_bc, iql or spot"
        )
    box = [policy.spec["low"], policy.spec["high"]]
    if policy.spec["obs_size"] != data.obs_size or not np.allclose(box, data.action_bounds()):
        raise RunError(
            f"{folder} has {policy.spec['obs_size']} observations and actions in {box}, the data "
            f"have {data.obs_size} and {[list(end) for end in data.action_bounds()]}; name "
            "another run"
        )
    absent = sorted(set(seeds) - set(described["seeds"]))
    if absent:
        raise RunError(f"{folder} has seeds {described['seeds']}, not {absent}; train those, too")
    index, config = [described["seeds"].index(seed) for seed in seeds], manifest["config"]
    chosen = BoundedActor(rngs=[np.random.default_rng(0) for _ in seeds], **policy.spec)
    chosen.theta.copy_(policy.theta[index])
    statistics = policy.normalizer.state_dict().items()
    chosen.normalizer.load_state_dict({key: value[index] for key, value in statistics})
    if "log_std_min" in config:  # what acts is bounded by its algorithm, not by its parameters
        log_std = chosen.layout.views(chosen.theta)["log_std"]
        log_std.clamp_(config["log_std_min"], config["log_std_max"])
    if not critics:
        return Base(chosen.eval(), None, ())
    hidden = tuple(config["hidden"])
    return Base(chosen.eval(), _critic(folder, name, chosen, hidden)[index], hidden)


def _critic(folder: Path, name: str, policy: BoundedActor, hidden: tuple[int, ...]) -> Tensor:
    found = checkpoint.load(folder / "checkpoint", lambda _: None, "cpu")
    learner = found[1]["learner"] if found else {}
    critic = learner.get("state", {}).get("critic") if found else None
    if critic is None:
        raise RunError(
            f"{folder} is a run of {name}, which has no critic Q(s, a) in its checkpoint: name a "
            "run of td3_bc, iql or spot, or add --train-critic to fit one to the data"
        )
    size = Critics(policy.spec["obs_size"], policy.action_size, hidden).layout.size
    if critic["theta"].shape[1] != 2 * size:
        wrong = critic["theta"].shape[1]
        raise RunError(f"{folder} has critics of {wrong:,} parameters, not of {2 * size:,}")
    return critic["theta"]
