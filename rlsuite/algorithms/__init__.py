"""The registry: an algorithm is a name and the module that holds its paper, imported on demand."""

import difflib
from importlib import import_module
from types import ModuleType

ALGORITHMS = {
    "ppo": "rlsuite.algorithms.on_policy.ppo",
    "trpo": "rlsuite.algorithms.on_policy.trpo",
    "mdpo": "rlsuite.algorithms.on_policy.mdpo",
    "fixpo": "rlsuite.algorithms.on_policy.fixpo",
    "bc": "rlsuite.algorithms.offline.bc",
    "td3_bc": "rlsuite.algorithms.offline.td3_bc",
    "iql": "rlsuite.algorithms.offline.iql",
    "spot": "rlsuite.algorithms.offline.spot",
    "csve": "rlsuite.algorithms.offline.csve",
    "cfpi": "rlsuite.algorithms.offline.cfpi",
}


def load(name: str) -> ModuleType:
    """The module of algorithm `name`: its `Config`, `PRESETS`, `OBJECTIVES` and `train`.

    Raises ValueError for an unknown name, with the nearest ones.
    """
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name.lower(), ALGORITHMS) or sorted(ALGORITHMS)
        raise ValueError(f"algorithm {name!r} is unknown; use one of: {', '.join(near)}")
    return import_module(ALGORITHMS[name])


def is_offline(name: str) -> bool:
    """Whether an algorithm learns from a data set."""
    load(name)  # a clear error for an unknown one
    return ".offline." in ALGORITHMS[name]
