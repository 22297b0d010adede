"""Batched environments `[S, N, ...]`: one step semantic, two engines (EnvPool and Gymnasium)."""

from rlsuite.envs.engines import Environments, Episode, Step, is_seeded, make
from rlsuite.envs.faults import EnvironmentFault, PolicyFault
from rlsuite.envs.tasks import physics_mismatch

__all__ = [
    "EnvironmentFault",
    "Environments",
    "Episode",
    "PolicyFault",
    "Step",
    "is_seeded",
    "make",
    "physics_mismatch",
]
