"""Batched environments `[S, N, ...]`: one step semantic, two engines (EnvPool and Gymnasium)."""

from rlsuite.envs.costs import Constraint
from rlsuite.envs.engines import Environments, make
from rlsuite.envs.facts import facts, is_seeded
from rlsuite.envs.faults import EnvironmentFault, PolicyFault
from rlsuite.envs.steps import Episode, Step
from rlsuite.envs.tasks import constrain, physics_mismatch
from rlsuite.envs.unregistered import require_here

__all__ = [
    "Constraint",
    "EnvironmentFault",
    "Environments",
    "Episode",
    "PolicyFault",
    "Step",
    "constrain",
    "facts",
    "is_seeded",
    "make",
    "physics_mismatch",
    "require_here",
]
