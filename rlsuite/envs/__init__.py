"""Batched environments `[S, N, ...]`: one step semantic, two engines (EnvPool and Gymnasium)."""

from rlsuite.envs.costs import Constraint
from rlsuite.envs.engines import Environments, is_seeded, make
from rlsuite.envs.faults import EnvironmentFault, PolicyFault
from rlsuite.envs.steps import Episode, Step
from rlsuite.envs.tasks import constrain, physics_mismatch

__all__ = [
    "Constraint",
    "EnvironmentFault",
    "Environments",
    "Episode",
    "PolicyFault",
    "Step",
    "constrain",
    "is_seeded",
    "make",
    "physics_mismatch",
]
