"""Environments that stand idle: where an episode ends within a chunk of actions, none is wasted."""

import gymnasium
import numpy as np
import pytest

from rlsuite.envs import make

ENGINES = ("envpool", "gymnasium")
CHUNK = 4


def played(environments, actions, steps):
    """Everything that each row played, [rows][step] of (action, obs, reward, cost, ends, final).

    Chunks of four actions; an environment whose episode ends stands idle until the next chunk.
    """
    rows = [[] for _ in range(environments.num_envs)]
    for start in range(0, steps, CHUNK):
        active = np.ones((1, environments.num_envs), bool)
        for action in actions[start : start + CHUNK]:
            step = environments.step(action[None], active)
            for copy, row in enumerate(rows):
                found = [x[0, copy] for x in step[:6]]
                if active[0, copy]:
                    row.append((action[copy], found))
                else:
                    obs, reward, cost, terminated, truncated, final_obs = found
                    np.testing.assert_array_equal(obs, row[-1][1][0])
                    np.testing.assert_array_equal(obs, final_obs)
                    assert not (reward or cost.any() or terminated or truncated)
            active &= ~(step.terminated | step.truncated)
    return rows


def assert_as_alone(environments, task, engine, env_seeds, rows, limit):
    """Each row is what an environment gives that never waits, and so are its episodes."""
    for copy, row in enumerate(rows):
        alone = make(task, [0], 1, engine)
        alone._limit = limit
        alone.reset(env_seeds[:, copy : copy + 1])
        for action, found in row:
            step = alone.step(action[None, None])
            for mine, theirs in zip(found, step[:6], strict=True):
                np.testing.assert_array_equal(mine, theirs[0, 0])
        mine = [e for e in environments.episodes() if e.copy == copy]
        assert [e[2:] for e in mine] == [e[2:] for e in alone.episodes()]
        assert environments.unfinished()[copy][2:] == alone.unfinished()[0][2:]
        alone.close()


# The second chunk has steps 5 to 8: the episode is cut at each of its four places.
@pytest.mark.parametrize("limit", [5, 6, 7, 8])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_episode_that_ends_within_a_chunk_is_as_one_stepped_alone(engine, limit):
    task, env_seeds = "HopperVelocity-v4", np.array([[1, 2, 3]])
    environments = make(task, [0], 3, engine)
    environments._limit = limit
    environments.reset(env_seeds)
    # With little torque Hopper does not fall so early
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (40, 3, 3)).astype(np.float32)
    rows = played(environments, actions, 40)
    assert environments.episodes()[0].length == limit
    # 40 steps are 10 chunks: five episodes of two chunks each
    assert [len(row) for row in rows] == [5 * limit] * 3
    assert_as_alone(environments, task, engine, env_seeds, rows, limit)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_fall_at_their_own_times_wait_for_nobody(engine):
    task, env_seeds = "HopperVelocity-v4", np.array([[1, 2, 3, 4]])
    environments = make(task, [0], 4, engine)
    environments._limit = 30
    environments.reset(env_seeds)
    # At full torque Hopper falls within 20 steps
    actions = np.random.default_rng(1).choice([-1.0, 1.0], (200, 4, 3)).astype(np.float32)
    rows = played(environments, actions, 200)
    places = {e.length % CHUNK for e in environments.episodes()}
    assert places == {0, 1, 2, 3}
    assert len({len(row) for row in rows}) > 1
    assert_as_alone(environments, task, engine, env_seeds, rows, 30)


class Fading(gymnasium.Env):
    """Terminates in as many steps as its seed says."""

    observation_space = gymnasium.spaces.Box(0, 99, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        self.steps, self.life = 0, self.life if seed is None else seed
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs = np.full(1, self.steps, np.float32)
        return obs, float(self.steps), self.steps == self.life, False, {"cost": 0.5}


def test_terminations_and_truncations_at_each_place_of_a_chunk():
    # Limit 7; they live for 5, 6, 7 and 8 steps: the third ends both ways, the fourth is cut.
    # Returns 1 + ... + n: 15, 21, 28 and, cut at 7, 28. Costs n / 2.
    gymnasium.register("Fading-v0", entry_point=Fading, max_episode_steps=7)
    environments = make("Fading-v0", [0], 4)
    environments.reset(np.array([[5, 6, 7, 8]]))
    rows = played(environments, np.zeros((8, 4, 1), np.float32), 8)
    del gymnasium.registry["Fading-v0"]
    found = sorted(environments.episodes(), key=lambda e: e.copy)
    assert [(e.ret, e.cost[0], e.length) for e in found] == [
        (15.0, 2.5, 5), (21.0, 3.0, 6), (28.0, 3.5, 7), (28.0, 3.5, 7),
    ]  # fmt: skip
    assert [row[-1][1][3:5] for row in rows] == [[True, False]] * 2 + [[True, True], [False, True]]


@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_active_and_everybody_active(engine):
    environments = make("Hopper-v4", [0, 1], 2, engine)
    first = environments.reset(np.array([[1, 2], [3, 4]]))
    action = np.ones((2, 2, 3), np.float32)
    step = environments.step(action, np.zeros((2, 2), bool))
    np.testing.assert_array_equal(step.obs, first)
    assert [e.length for e in environments.unfinished()] == [0] * 4
    step = environments.step(action, np.ones((2, 2), bool))
    other = make("Hopper-v4", [0, 1], 2, engine)
    other.reset(np.array([[1, 2], [3, 4]]))
    np.testing.assert_array_equal(step.obs, other.step(action).obs)
    assert [e.length for e in environments.unfinished()] == [1] * 4
    with pytest.raises(ValueError, match=r"active must be bool of shape \(2, 2\) .*, got int64"):
        environments.step(action, np.ones((2, 2), int))
