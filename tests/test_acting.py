"""Whatever acts tells the behaviour which episodes ended: queues and recurrence depend on it."""

from pathlib import Path

import numpy as np
import pytest

from rlsuite.core.actors import BoundedActor
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.off_policy import ReplayCollector, replay_of
from rlsuite.core.policies import Snapshot
from rlsuite.core.replay import Explorer
from rlsuite.core.rollouts import Collector
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.squashed import SquashedActor
from rlsuite.envs.engines import Environments, make
from rlsuite.runs.evaluation import evaluate

TASK, SIZES, BOUNDS = "InvertedPendulum-v4", (4, 1), ([-3.0], [3.0])  # the pole falls soon


def rngs() -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in (0, 1)]


def bounded() -> BoundedActor:
    return BoundedActor(4, *BOUNDS, rngs=rngs(), hidden=(8,))


@pytest.fixture
def log(monkeypatch):
    """(what ended, what the behaviour was told), of every step that ended an episode."""
    ended, told = [], []
    step = Environments.step

    def step_recorded(self, action):
        taken = step(self, action)
        ended.append(taken.terminated | taken.truncated)
        return taken

    monkeypatch.setattr(Environments, "step", step_recorded)
    monkeypatch.setattr(Snapshot, "reset", lambda self, flags: told.append(flags.copy()))
    return ended, told


def collecting(num_envs: int) -> int:
    policy = ActorCritic(*SIZES, False, rngs=rngs(), hidden=(8,))
    pool = make(TASK, (0, 1), num_envs, "gymnasium")
    collector = Collector(pool, policy, RewardScaler(2, num_envs, 0.9))
    collector.restart(np.arange(2 * num_envs).reshape(2, num_envs))
    collector.collect(60, rngs())
    return 1  # a restart ends all episodes, too


def exploring(num_envs: int) -> int:
    pool = make(TASK, (0, 1), num_envs, "gymnasium")
    explorer = Explorer(pool, bounded(), replay_of(pool, 60, SeedRandom(rngs())))
    explorer.restart(np.arange(2 * num_envs).reshape(2, num_envs))
    explorer.step(60, 0.5, rngs())
    return 1


def filling_a_replay_buffer(num_envs: int) -> int:
    pool = make(TASK, (0, 1), num_envs, "gymnasium")
    policy = SquashedActor.for_envs(pool, "cpu", rngs=rngs(), hidden=(8,))
    collector = ReplayCollector(pool, policy, replay_of(pool, 200, SeedRandom(rngs())))
    collector.restart(np.arange(2 * num_envs).reshape(2, num_envs))
    collector.explore(30, rngs())
    for _ in range(30):
        collector.step(rngs())
    return 1


def evaluating(num_envs: int) -> int:
    pool = make(TASK, (0, 1), num_envs, "gymnasium")
    evaluate(bounded(), pool, np.arange(2 * num_envs).reshape(2, num_envs))
    return 0


def measuring_overestimation(num_envs: int) -> int:
    from benchmarks import overestimation

    pool = make(TASK, (0, 1), num_envs, "gymnasium")
    overestimation.play(bounded(), pool, np.arange(2 * num_envs).reshape(2, num_envs), 0.9)
    return 0


@pytest.mark.parametrize(
    ("act", "num_envs"),
    [
        (collecting, 2),
        (exploring, 1),
        (filling_a_replay_buffer, 2),
        (evaluating, 3),
        (measuring_overestimation, 3),
    ],
)
def test_the_behaviour_is_told_what_ended(act, num_envs, log, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    ended, told = log
    restarts = act(num_envs)
    assert all(flags.all() and flags.shape == (2, num_envs) for flags in told[:restarts])
    expected = [flags for flags in ended if flags.any()]
    found = [flags for flags in told[restarts:] if flags.any()]
    assert len(expected) > 1
    np.testing.assert_array_equal(found, expected)
