"""Seeds: who ignores them, and that no two environments of the suite share theirs."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from rlsuite.core.streams import Streams
from rlsuite.envs import is_seeded, make


class Start(gymnasium.Env):
    """Observes its first number for ever."""

    observation_space = Box(0, 1, (1,), np.float64)
    action_space = Box(-1, 1, (1,), np.float32)
    follows = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets = getattr(self, "resets", 0) + 1
        rng = self.np_random if self.follows else np.random.default_rng()
        return rng.random(1), {}


class Deaf(Start):
    follows = False


@pytest.fixture
def register():
    for name, kind in (("Start-v0", Start), ("Deaf-v0", Deaf)):
        gymnasium.register(name, entry_point=lambda kind=kind: kind(), max_episode_steps=5)
    yield
    del gymnasium.registry["Start-v0"], gymnasium.registry["Deaf-v0"]


def test_an_environment_that_ignores_its_seed_is_told_once(register, warned):
    assert not make("Deaf-v0", [0], 1).seeded
    (once,) = warned()
    assert once.startswith("Deaf-v0 ignores its seed: two resets with seed 0 differ")
    assert not make("Deaf-v0", [0], 1).seeded
    assert not is_seeded("Deaf-v0")
    assert make("Start-v0", [0], 1).seeded
    assert is_seeded("Start-v0")
    assert is_seeded("Hopper-v4")
    assert warned() == []


def test_asking_leaves_no_trace_in_the_environments_that_train(register):
    environments = make("Start-v0", [0], 2)
    environments.reset(np.array([[1, 2]]))
    assert [env.resets for env in environments._physics._envs] == [1, 1]


def test_runs_of_neighbouring_seeds_share_no_episode():
    # EnvPool by itself would give environment i the seed + i, and two such runs 63 of 64 episodes.
    drawn = [Streams((seed,)).integers("environment", 64) for seed in (0, 1)]
    assert len({*drawn[0].flat, *drawn[1].flat}) == 128
    pytest.importorskip("envpool")
    first = [make("Hopper-v4", [0], 64, "envpool").reset(seeds)[0] for seeds in drawn]
    assert len({row.tobytes() for rows in first for row in rows}) == 128
