"""One contestant of the speed benchmark, in its own process: started by speed.py.

It gets ready (everything is built, compiled and has run for two iterations), says so, and then
waits. Each line it reads is a number of seconds: it works for at least so long, in whole
iterations, and answers with the environment steps it took and the seconds they took.
"""

import itertools
import json
import os
import sys
from collections.abc import Iterator
from time import perf_counter

WARM_UP = 2  # iterations before the first measured one; the first of them compiles
RANDOM_ACTIONS = 256  # different ones, so that drawing them costs EnvPool nothing


class Channel:
    """JSON lines to speed.py, orders from it."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what libraries print must not be taken for an answer

    def tell(self, **message: object) -> None:
        self._out.write(json.dumps(message) + "\n")

    def orders(self) -> Iterator[float]:
        """Seconds to work for, until there is no more to do."""
        for line in sys.stdin:
            yield float(line)

    def serve(self, iteration, steps: int) -> None:
        """Answer every order by calling `iteration`, which takes `steps` environment steps."""
        for seconds in self.orders():
            start, count = perf_counter(), 0
            while (elapsed := perf_counter() - start) < seconds:
                iteration()
                count += 1
            self.tell(steps=count * steps, seconds=elapsed, iterations=count, profile={})


class StopwatchRun:
    """Stands in for rlsuite.runs.run.Run: no files, no evaluations, but a stopwatch."""

    def __init__(self, spec: dict, channel: Channel, config) -> None:
        from rlsuite.core.streams import Streams
        from rlsuite.runs.steps import Clock

        self._clock, self.config = Clock(), config
        self.task, self.seeds = spec["task"], tuple(range(spec["seeds"]))
        self.streams, self.at_boundary = Streams(self.seeds), True
        self._wish, self._channel = spec["compile"], channel
        self._compiled = False
        self._messages: list[str] = []
        self._profile: dict[str, float] = {}

    def environments(self, copies: int):
        from rlsuite.envs.engines import make

        self._environments = make(self.task, self.seeds, copies)
        return self._environments

    def update(self, function, draw=None):
        from rlsuite.runs import machine
        from rlsuite.runs.steps import EagerStep

        count = self.config.declared.gradient_steps
        self._compiled = machine.should_compile(self._wish, count)
        if self._compiled:
            function = machine.compiled(function, self._messages.append)
        step = EagerStep(function, draw)
        self._clock.updates.append(step)
        return step

    def begin(self, learner, *, train) -> None:
        self._stages = train

    def stage(self, name: str) -> Iterator[int]:
        total, steps_each = self._stages[name]
        iterations = itertools.cycle(range(total))  # of the learning rate's schedule
        seconds = []
        for _ in range(WARM_UP):
            start = perf_counter()
            self._clock.start()
            yield next(iterations)
            self.at_boundary = False
            seconds.append(perf_counter() - start)
        failed = [m for m in self._messages if m.startswith("not compiled")]
        ready = {"first_iteration": seconds[0], "second_iteration": seconds[1]}
        ready |= {"engine": self._environments.engine, "compiled": self._compiled}
        self._channel.tell(**ready, failed=failed)
        for least in self._channel.orders():
            self._profile.clear()
            start, count = perf_counter(), 0
            while (elapsed := perf_counter() - start) < least:
                self._clock.start()
                yield next(iterations)
                count += 1
            steps = count * steps_each * len(self.seeds)
            self._channel.tell(
                steps=steps, seconds=elapsed, iterations=count, profile=self._profile
            )

    def log(self, metrics: dict, measured: dict[str, float] | None = None) -> None:
        self._environments.episodes()
        for name, value in self._clock.split(measured or {}).items():
            self._profile[name] = self._profile.get(name, 0.0) + value


def ours(spec: dict, channel: Channel) -> None:
    """`rlsuite train ALGORITHM --preset mujoco`, without logs, evaluations and checkpoints."""
    import torch

    from rlsuite import algorithms
    from rlsuite.runs import machine
    from rlsuite.runs.settings import preset

    torch.set_num_threads(spec["threads"])
    module = algorithms.load(spec["algorithm"])
    config = module.Config(**preset(module, "mujoco", spec["task"]) | spec["config"])
    machine.choose_products(config.declared)
    module.train(config, StopwatchRun(spec, channel, config))


def envpool_alone(spec: dict, channel: Channel) -> None:
    """EnvPool stepping with random actions and nothing else: the ceiling.

    Through the two calls around which its own `step` builds dictionaries (15 us), with its own
    automatic resets, whose steps count: every choice in its favour.
    """
    import envpool
    import numpy as np

    count = spec["copies"]
    pool = envpool.make(
        spec["task"], env_type="gymnasium", num_envs=count, num_threads=spec["threads"], seed=0
    )
    space = pool.action_space
    shape = (RANDOM_ACTIONS, count, *space.shape)
    draws = np.random.default_rng(0).uniform(space.low, space.high, shape).astype(space.dtype)
    actions = itertools.cycle(draws)
    message = [np.arange(count, dtype=np.int32)] * len(pool._action_keys)
    slot = list(pool._action_keys).index("action")
    pool.reset()

    def hundred_steps() -> None:
        for _ in range(100):
            message[slot] = next(actions)
            pool._send(message)
            pool._recv()

    hundred_steps()
    channel.tell()
    channel.serve(hundred_steps, 100 * count)


def main() -> None:
    spec = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec["cores"])  # before torch and EnvPool count them
    channel = Channel()
    if spec["who"] == "ours":
        ours(spec, channel)
    elif spec["who"] == "envpool":
        envpool_alone(spec, channel)
    else:
        from benchmarks.peer import peer

        peer(spec, channel)


if __name__ == "__main__":
    main()
