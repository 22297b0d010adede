"""rlsuite: reinforcement-learning papers, one file each, trained on many seeds at once.

import rlsuite

run = rlsuite.train("ppo", env="CartPole-v1", seeds=5)    # help(rlsuite.train)
policy = rlsuite.load_policy(run.folder, seed=0)          # help(policy) has the shapes
action = policy.act(obs)
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["__version__", "load_policy", "train"]


def __getattr__(name: str):
    """`train` and `load_policy`, imported when they are used: they need PyTorch."""
    if name in ("load_policy", "train"):
        return getattr(import_module("rlsuite.api"), name)
    raise AttributeError(f"module 'rlsuite' has no attribute {name!r}")
