"""One turn of an offline algorithm: draw transitions and noise, then step; on CUDA as one graph."""

from collections.abc import Callable
from time import perf_counter

import torch
from torch.utils._pytree import tree_leaves, tree_map

from rlsuite.core.chance import Chance

WARM_UP = 3  # turns on a side stream before a capture, as PyTorch asks for


class HostTurn:
    """`step(*given, *draw(), **named)`, timed."""

    def __init__(self, draw: Callable[[], tuple], step: Callable) -> None:
        self.draw, self.step = draw, step
        self._seconds = {"data": 0.0, "learning": 0.0}

    def __call__(self, *given, **named):
        start = perf_counter()
        drawn = self.draw()
        ready = perf_counter()
        result = self.step(*given, *drawn, **named)
        self._seconds["data"] += ready - start
        self._seconds["learning"] += perf_counter() - ready
        return result

    def seconds(self) -> dict[str, float]:
        """Spent since the last call, by kind of work."""
        spent, self._seconds = self._seconds, {"data": 0.0, "learning": 0.0}
        return spent


class GraphTurn:
    """The same as one CUDA graph: all kernels of all seeds, random draws too, in one launch.

    Every call must give tensors of the same shapes; numbers that change come as tensors. What it
    returns is overwritten by the next call.
    """

    def __init__(self, draw: Callable[[], tuple], step: Callable, chances: list[Chance]) -> None:
        self.draw, self.step, self.chances = draw, step, chances
        self.graph: torch.cuda.CUDAGraph | None = None
        self._start: float | None = None

    def __call__(self, *given, **named):
        self._start = self._start or perf_counter()
        if self.graph is None:
            self._capture(given, named)
        for held, new in zip(tree_leaves(self.inputs), tree_leaves((given, named)), strict=True):
            held.copy_(new)
        self.graph.replay()
        return self.outputs

    def seconds(self) -> dict[str, float]:
        """Spent since the last call; waits for the device."""
        torch.cuda.synchronize()
        spent, self._start = perf_counter() - self._start, None
        return {"learning": spent}

    def _capture(self, given: tuple, named: dict) -> None:
        device = self.chances[0].device
        self.inputs = tree_map(lambda x: x.to(device, copy=True), (given, named))
        before = [chance.state_dict() for chance in self.chances]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._turn()
        torch.cuda.current_stream().wait_stream(side)
        for chance, state in zip(self.chances, before, strict=True):
            chance.load_state_dict(state)
        self.graph = torch.cuda.CUDAGraph()
        for chance in self.chances:
            for generator in chance.generators:
                self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.outputs = self._turn()

    def _turn(self):
        (given, named) = self.inputs
        return self.step(*given, *self.draw(), **named)
