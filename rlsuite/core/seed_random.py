"""Random numbers of S seeds as tensors [S, ...]: each seed draws from its own stream alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class SeedRandom:
    """Draws from `rngs`, one generator per seed, for tensors on `device`.

    On the CPU the generators draw themselves. For another device each of them seeds one generator
    there, so that nothing crosses over, and a captured graph can hold the draws.
    """

    def __init__(self, rngs: Sequence[np.random.Generator], device: str = "cpu") -> None:
        self.rngs, self.device = rngs, torch.device(device)
        self.generators: list[torch.Generator] = []
        if self.device.type != "cpu":
            seeds = [int(rng.integers(2**62)) for rng in rngs]
            self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def integers(self, count: int | Tensor, size: int) -> Tensor:
        """Uniform whole numbers below `count`, [S, size]. A 0-d tensor stays on the device."""
        if not self.generators:
            return torch.from_numpy(np.stack([g.integers(count, size=size) for g in self.rngs]))
        device = self.device
        if isinstance(count, Tensor):  # randint would need it as a number, once for all
            real = {"dtype": torch.float64, "device": device}
            drawn = [torch.rand(size, generator=g, **real) for g in self.generators]
            return (torch.stack(drawn) * count).long()
        drawn = [torch.randint(count, (size,), generator=g, device=device) for g in self.generators]
        return torch.stack(drawn)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, [S, *shape]."""
        if not self.generators:
            drawn = [g.standard_normal(shape, np.float32) for g in self.rngs]
            return torch.from_numpy(np.stack(drawn))
        drawn = [torch.randn(shape, generator=g, device=self.device) for g in self.generators]
        return torch.stack(drawn)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), [S, *shape]."""
        if not self.generators:
            return torch.from_numpy(np.stack([g.random(shape, np.float32) for g in self.rngs]))
        drawn = [torch.rand(shape, generator=g, device=self.device) for g in self.generators]
        return torch.stack(drawn)

    def state_dict(self) -> dict:
        """States of the device's generators; `rngs` are saved by those who gave them."""
        return {"generators": [generator.get_state() for generator in self.generators]}

    def load_state_dict(self, state: dict) -> None:
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.cpu())
