"""Named random streams, one per seed and purpose.

A seed draws from its own generators only, so it sees the same numbers whether it trains alone
or in company, and a purpose sees the same numbers whatever the other purposes consume.
"""

import zlib
from collections.abc import Sequence

import numpy as np

PURPOSES = ("init", "action", "batch", "environment", "evaluation")


class Streams:
    """`streams["action"]` is a list of S `numpy.random.Generator`, one per seed."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)
        self._generators = {
            purpose: [_generator(seed, purpose) for seed in self.seeds] for purpose in PURPOSES
        }

    def __getitem__(self, purpose: str) -> list[np.random.Generator]:
        return self._generators[purpose]

    def integers(self, purpose: str, num_envs: int) -> np.ndarray:
        """Fresh seeds [S, N] for environments, drawn from each seed's own stream."""
        draws = [g.integers(0, 2**31 - 1, size=num_envs) for g in self[purpose]]
        return np.stack(draws)

    def state_dict(self) -> dict:
        return {
            purpose: [g.bit_generator.state for g in generators]
            for purpose, generators in self._generators.items()
        }

    def load_state_dict(self, state: dict) -> None:
        for purpose, states in state.items():
            for generator, saved in zip(self._generators[purpose], states, strict=True):
                generator.bit_generator.state = saved


def _generator(seed: int, purpose: str) -> np.random.Generator:
    # The checksum of the name, not its position: adding a purpose leaves the others as they were.
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(purpose.encode())]))
