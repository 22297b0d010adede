"""The registry: an algorithm is a name and the module that holds its paper, imported on demand."""

import difflib
from importlib import import_module
from types import ModuleType

ALGORITHMS = {
    "ppo": "rlsuite.algorithms.on_policy.ppo",
    "trpo": "rlsuite.algorithms.on_policy.trpo",
    "mdpo": "rlsuite.algorithms.on_policy.mdpo",
    "fixpo": "rlsuite.algorithms.on_policy.fixpo",
    "sac": "rlsuite.algorithms.off_policy.sac",
    "mdpo_off": "rlsuite.algorithms.off_policy.mdpo_off",
    "ppo_lag": "rlsuite.algorithms.constrained.ppo_lag",
    "sac_lag": "rlsuite.algorithms.constrained.sac_lag",
    "cal": "rlsuite.algorithms.constrained.cal",
    "reload": "rlsuite.algorithms.constrained.reload",
    "cat": "rlsuite.algorithms.constrained.cat",
    "bc": "rlsuite.algorithms.offline.bc",
    "td3_bc": "rlsuite.algorithms.offline.td3_bc",
    "awac": "rlsuite.algorithms.offline.awac",
    "iql": "rlsuite.algorithms.offline.iql",
    "spot": "rlsuite.algorithms.offline.spot",
    "a2pr": "rlsuite.algorithms.offline.a2pr",
    "mcep": "rlsuite.algorithms.offline.mcep",
    "csve": "rlsuite.algorithms.offline.csve",
    "cfpi": "rlsuite.algorithms.offline.cfpi",
    "dppo": "rlsuite.algorithms.diffusion.dppo",
}
# Off-policy ones of the families that do not say so by themselves
REPLAY = ("sac_lag", "cal")


def load(name: str) -> ModuleType:
    """The module of algorithm `name`. Raises ValueError for an unknown one, with the nearest.

    | of it | is |
    |---|---|
    | Config | a frozen dataclass of all settings, with a property `declared` |
    | PRESETS | preset -> task family ("*": any) -> the settings that differ from Config's own |
    | OBJECTIVES | its pure loss functions, tensors [S, B] -> [S] |
    | train(config, run) | trains; CONTRIBUTING.md has all that `run` offers |

    `declared` is a `core.ranges.Declared`. A setting of type `core.ranges.RunFolder` names another
    run, which the manifest then describes.
    """
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name.lower(), ALGORITHMS) or sorted(ALGORITHMS)
        raise ValueError(f"algorithm {name!r} is unknown; use one of: {', '.join(near)}")
    return import_module(ALGORITHMS[name])


def is_off_policy(name: str) -> bool:
    """Whether an algorithm acts, and learns from a replay buffer."""
    load(name)
    return ".off_policy." in ALGORITHMS[name] or name in REPLAY


def is_offline(name: str) -> bool:
    """Whether an algorithm learns from a data set."""
    load(name)  # a clear error for an unknown one
    return ".offline." in ALGORITHMS[name]


def takes_data(name: str) -> bool:
    """Whether an algorithm may be given a data set: it needs one, or it clones one first."""
    return is_offline(name) or ".diffusion." in ALGORITHMS[name]


def is_constrained(name: str) -> bool:
    """Whether an algorithm needs a task with constraints."""
    load(name)  # a clear error for an unknown one
    return ".constrained." in ALGORITHMS[name]
