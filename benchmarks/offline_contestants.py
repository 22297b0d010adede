"""One contestant of the offline speed benchmark, in its own process: see offline.py.

It gets orders and answers them as contestants.py does; its steps are gradient steps.
"""

import json
import os
import sys
from types import SimpleNamespace

from benchmarks.contestants import Channel, StopwatchRun

ROWS, EPISODE = 100_000, 1000
OBS_SIZE, ACTION_SIZE = 17, 6


def synthetic():
    """The `Transitions` that all contestants learn from: noise, in episodes cut by a time limit."""
    import numpy as np

    from rlsuite.datasets.transitions import Transitions

    rng = np.random.default_rng(0)
    obs = rng.standard_normal((ROWS + 1, OBS_SIZE), np.float32)
    last = np.arange(1, ROWS + 1) % EPISODE == 0
    return Transitions(
        obs=obs[:-1],
        action=rng.uniform(-1, 1, (ROWS, ACTION_SIZE)).astype(np.float32),
        reward=rng.standard_normal(ROWS, np.float32),
        next_obs=obs[1:],
        terminated=np.zeros(ROWS, bool),
        truncated=last,
        last=last,
        metadata={"action_low": [-1.0] * ACTION_SIZE, "action_high": [1.0] * ACTION_SIZE},
    )


class OfflineStopwatchRun(StopwatchRun):
    """A stopwatch for an algorithm that learns from data on the CPU: it has no environments."""

    device = "cpu"

    def __init__(self, spec: dict, channel: Channel, config, data) -> None:
        super().__init__(spec, channel, config)
        self._data = data
        self._environments = SimpleNamespace(engine=None, episodes=list)  # none, so no episodes

    def data(self):
        return self._data

    def random(self, purpose: str):
        from rlsuite.core.seed_random import SeedRandom

        return SeedRandom(self.streams[purpose])


def ours(spec: dict, data, channel: Channel) -> None:
    """`rlsuite train td3_bc`, without logs, evaluations and checkpoints."""
    from rlsuite.algorithms.offline import td3_bc
    from rlsuite.runs import machine

    config = td3_bc.Config(steps_per_iteration=spec["steps"])
    machine.choose_products(config.declared)
    td3_bc.train(config, OfflineStopwatchRun(spec, channel, config, data))


def main() -> None:
    spec = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec["cores"])  # before torch counts them
    import torch

    torch.set_num_threads(spec["threads"])
    channel, data = Channel(), synthetic()
    if spec["who"] == "ours":
        ours(spec, data, channel)
        return
    from benchmarks.offline_peers import PEERS

    step = PEERS[spec["who"]](data)

    def iteration() -> None:
        for _ in range(spec["steps"]):
            step()

    iteration()
    channel.tell()
    channel.serve(iteration, spec["steps"])


if __name__ == "__main__":
    main()
