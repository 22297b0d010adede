"""The stages of a run, one after the other: whose an iteration is, and what steps it counts."""

from collections.abc import Mapping
from typing import NamedTuple

Stages = Mapping[str, tuple[int, int]]  # name -> iterations, and steps of each seed in one of them


class Stage(NamedTuple):
    first: int  # its first iteration, counted in the whole run
    iterations: int
    start: int  # steps before it: below zero where it prepares
    steps_each: int


class Plan:
    """All stages in order, those that prepare first: their steps count up to zero."""

    def __init__(self, prepare: Stages, train: Stages) -> None:
        self.stages: dict[str, Stage] = {}
        first, start = 0, -sum(iterations * each for iterations, each in prepare.values())
        for name, (iterations, each) in (*prepare.items(), *train.items()):
            self.stages[name] = Stage(first, iterations, start, each)
            first, start = first + iterations, start + iterations * each
        self.total = first
        self.prepared = sum(iterations for iterations, _ in prepare.values())

    def lengths(self) -> dict[str, int]:
        """Iterations of each stage, in their order."""
        return {name: stage.iterations for name, stage in self.stages.items()}

    def step(self, done: int) -> int:
        """Steps of each seed after `done` iterations."""
        stage = [stage for stage in self.stages.values() if stage.first <= done][-1]
        return stage.start + (done - stage.first) * stage.steps_each

    def remaining(self, name: str, done: int) -> range:
        """The iterations of a stage, counted in the whole run, that are not among the `done` ones.

        RuntimeError if a stage before it is not done.
        """
        stage = self.stages[name]
        if done < stage.first:
            raise RuntimeError(
                f"stage {name} begins after {stage.first} iterations, and {done} are done"
            )
        return range(max(done, stage.first), stage.first + stage.iterations)
