"""Batched environments `[S, N, ...]`: one step semantic, two engines (EnvPool and Gymnasium)."""

from rlsuite.envs.engines import EnvironmentFault, Environments, Episode, Step, make

__all__ = ["EnvironmentFault", "Environments", "Episode", "Step", "make"]
