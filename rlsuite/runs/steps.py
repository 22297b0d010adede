"""One step of an update: draw, then compute, on CUDA as one graph; and where the time goes."""

from collections.abc import Callable
from time import perf_counter

import torch
from torch.utils._pytree import tree_leaves, tree_map

from rlsuite.core.seed_random import SeedRandom

WARM_UP = 3  # steps on a side stream before a capture, as PyTorch asks for


class EagerStep:
    """`function(*given, *draw(), **named)`, whose drawing is timed."""

    def __init__(self, function: Callable, draw: Callable[[], tuple] | None = None) -> None:
        self.function, self.draw = function, draw
        self.drawing = 0.0  # seconds since somebody set it to zero

    def __call__(self, *given, **named):
        if self.draw is None:
            return self.function(*given, **named)
        start = perf_counter()
        drawn = self.draw()
        self.drawing += perf_counter() - start
        return self.function(*given, *drawn, **named)


class CudaGraphStep:
    """The same as one CUDA graph: all kernels of all seeds, random draws too, in one launch.

    Every call must give tensors of the same shapes; numbers that change come as tensors. What it
    returns is overwritten by the next call. `chances` are all that `draw` draws from.
    """

    drawing = 0.0  # it is part of the graph

    def __init__(
        self, function: Callable, draw: Callable[[], tuple] | None, randoms: list[SeedRandom]
    ) -> None:
        self.function, self.draw, self.randoms = function, draw or tuple, randoms
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *given, **named):
        if self.graph is None:
            self._capture(given, named)
        for held, new in zip(tree_leaves(self.inputs), tree_leaves((given, named)), strict=True):
            held.copy_(new)
        self.graph.replay()
        return self.outputs

    def _capture(self, given: tuple, named: dict) -> None:
        device = self.randoms[0].device
        self.inputs = tree_map(lambda x: x.to(device, copy=True), (given, named))
        before = [rng.state_dict() for rng in self.randoms]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        for rng, state in zip(self.randoms, before, strict=True):
            rng.load_state_dict(state)
        self.graph = torch.cuda.CUDAGraph()
        for rng in self.randoms:
            for generator in rng.generators:
                self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.outputs = self._step()

    def _step(self):
        (given, named) = self.inputs
        return self.function(*given, *self.draw(), **named)


class Clock:
    """Divides the time of iterations by kind of work."""

    def __init__(self) -> None:
        self.updates: list[EagerStep | CudaGraphStep] = []
        self._running: float | None = None  # since when
        self._before = 0.0  # seconds that are not divided yet

    def start(self) -> None:
        """An iteration begins."""
        self._running = perf_counter()

    def stop(self) -> None:
        """It ends: what follows belongs to none."""
        self._before += perf_counter() - self._running

    def split(self, measured: dict[str, float]) -> dict[str, float]:
        """Seconds since the last split: as `measured`, of drawing ("data"), the rest "learning"."""
        now = perf_counter()
        whole, self._before, self._running = self._before + now - self._running, 0.0, now
        drawing = sum(update.drawing for update in self.updates)
        for update in self.updates:
            update.drawing = 0.0
        parts = dict(measured) | ({"data": drawing} if drawing else {})
        return parts | {"learning": max(0.0, whole - sum(parts.values()))}
