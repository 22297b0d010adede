"""One step semantic on toy environments and both engines: limits, resets, seeds, faults, spaces."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from rlsuite.envs import EnvironmentFault, PolicyFault, make

ENGINES = ("envpool", "gymnasium")


class Counter(gymnasium.Env):
    """Counts its steps: observation [[start, steps]], reward = steps, cost = steps / 4."""

    observation_space = Box(-np.inf, np.inf, (1, 2), np.float64)
    action_space = Box(-2.0, 2.0, (1, 1), np.float32)

    def __init__(self, dies_at: int = 10**6, nan_in: str = "", nan_at: int = 0, spaces=None):
        self.dies_at, self.nan_in, self.nan_at = dies_at, nan_in, nan_at
        self.actions = []
        if spaces is not None:
            self.observation_space, self.action_space = spaces

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.steps = float(self.np_random.integers(1000)), 0
        return self._observe(), {}

    def step(self, action):
        self.actions.append(action)
        self.steps += 1
        bad = self.nan_in == "reward" and self.steps == self.nan_at
        reward = np.inf if bad else float(self.steps)
        return self._observe(), reward, self.steps >= self.dies_at, False, {"cost": self.steps / 4}

    def _observe(self):
        bad = self.nan_in == "observation" and self.steps == self.nan_at
        return np.array([[self.start, np.nan if bad else self.steps]])


class Doubled(gymnasium.RewardWrapper):
    """A wrapper of the user's own, which must survive."""

    def reward(self, reward):
        return 2 * reward


@pytest.fixture
def register():
    """Registers Counter under a name of the test's choice, and forgets it afterwards."""
    names = []

    def add(name="Counter-v0", limit=None, wrap=None, **kwargs):
        def entry(**extra):
            env = Counter(**kwargs, **extra)
            return wrap(env) if wrap else env

        gymnasium.register(name, entry_point=entry, max_episode_steps=limit)
        names.append(name)
        return name

    yield add
    for name in names:
        del gymnasium.registry[name]


def zeros(environments):
    shape = (len(environments.seeds), environments.num_envs, environments.action_size)
    return np.zeros(shape, dtype=np.float32)


def test_an_episode_step_by_step(register):
    # Limit 3. Rewards 1, 2, 3: return 6. Costs 1/4, 2/4, 3/4: 1.5. Truncated at the third step.
    environments = make(register(limit=3), seeds=[7], num_envs=2)
    assert (environments.engine, environments.time_limit) == ("gymnasium", 3)
    assert (environments.obs_size, environments.action_size) == (2, 1)
    first = environments.reset(np.array([[1, 2]]))
    assert first.shape == (1, 2, 2)
    assert first.dtype == np.float64
    for count in (1, 2):
        step = environments.step(zeros(environments))
        np.testing.assert_array_equal(step.obs[0, :, 1], [count, count])
        assert step.obs is step.final_obs
        np.testing.assert_array_equal(step.reward, [[count, count]])
        np.testing.assert_array_equal(step.cost, [[[count / 4], [count / 4]]])
        assert not (step.terminated | step.truncated).any()
        assert environments.episodes() == []
    step = environments.step(zeros(environments))
    assert step.reward.dtype == step.cost.dtype == np.float32
    assert step.truncated.all()
    assert not step.terminated.any()
    np.testing.assert_array_equal(step.final_obs[0, :, 1], [3, 3])
    np.testing.assert_array_equal(step.final_obs[0, :, 0], first[0, :, 0])
    np.testing.assert_array_equal(step.obs[0, :, 1], [0, 0])
    assert environments.episodes() == [(0, 0, 6.0, (1.5,), 3), (0, 1, 6.0, (1.5,), 3)]
    # The next step is the first of the new episode: nothing fake in between.
    step = environments.step(zeros(environments))
    np.testing.assert_array_equal(step.reward, [[1, 1]])
    np.testing.assert_array_equal(step.obs[0, :, 1], [1, 1])


def test_every_reader_sees_every_episode(register):
    # Limit 2: both copies end at steps 2 and 4, which makes 2 and then 4 finished episodes.
    environments = make(register(limit=2), [7], 2)
    environments.reset(np.array([[1, 2]]))
    seen, read = 0, []
    for _ in range(4):
        environments.step(zeros(environments))
        read.append(len(environments.episodes(seen)))
        seen = environments.finished
    assert (read, seen) == ([0, 2, 0, 2], 4)
    # Whoever reads once, later, finds the same, as often as they like. Rewards 1 + 2, costs 3/4.
    assert environments.episodes() == environments.episodes()
    assert environments.episodes() == [(0, 0, 3.0, (0.75,), 2), (0, 1, 3.0, (0.75,), 2)] * 2
    environments.step(zeros(environments))
    assert environments.unfinished() == [(0, 0, 1.0, (0.25,), 1), (0, 1, 1.0, (0.25,), 1)]
    environments.reset(np.array([[1, 2]]))
    assert (environments.episodes(), environments.finished) == ([], 4)
    for _ in range(2):
        environments.step(zeros(environments))
    assert environments.episodes(4) == environments.episodes(0)
    assert len(environments.episodes(4)) == 2


def test_terminated_and_truncated_are_independent(register):
    # As Gymnasium's TimeLimit: an episode that terminates at its limit carries both flags.
    for dies_at, limit, flags in (
        (2, 3, (True, False)),
        (3, 3, (True, True)),
        (4, 3, (False, True)),
    ):
        name = register(f"Dies{dies_at}-v0", limit=limit, dies_at=dies_at)
        environments = make(name, [0], 1)
        environments.reset(np.array([[0]]))
        reference = gymnasium.make(name)
        reference.reset(seed=0)
        for _ in range(min(dies_at, limit)):
            step = environments.step(zeros(environments))
            _, _, terminated, truncated, _ = reference.step(np.zeros((1, 1), dtype=np.float32))
        assert (bool(step.terminated[0, 0]), bool(step.truncated[0, 0])) == flags
        assert (terminated, truncated) == flags


def test_time_limit_counts_each_copy_from_its_own_start(register):
    # Copies die at 2 and never; limit 3. Copy 0 ends at steps 2, 4, 6 and copy 1 at 3 and 6.
    environments = make(register(limit=3), [0], 2)
    environments.reset(np.array([[0, 1]]))
    environments._physics._envs[0].dies_at = 2
    ends = []
    for count in range(1, 7):
        step = environments.step(zeros(environments))
        for copy in range(2):
            if step.terminated[0, copy] or step.truncated[0, copy]:
                ends.append((count, copy, bool(step.terminated[0, copy])))
    assert ends == [(2, 0, True), (3, 1, False), (4, 0, True), (6, 0, True), (6, 1, False)]
    assert [(e.copy, e.length) for e in environments.episodes()] == [
        (0, 2), (1, 3), (0, 2), (0, 2), (1, 3),
    ]  # fmt: skip


def test_actions_are_clipped_and_keep_the_shape_of_the_box(register):
    environments = make(register(), [0], 1)
    environments.reset(np.array([[0]]))
    for value in (5.0, -5.0, 0.5):
        environments.step(np.full((1, 1, 1), value, dtype=np.float32))
    seen = environments._physics._envs[0].actions
    assert [action.shape for action in seen] == [(1, 1)] * 3
    np.testing.assert_array_equal(np.ravel(seen), [2.0, -2.0, 0.5])


def test_wrappers_of_the_user_stay_and_standard_ones_go(register):
    environments = make(register(limit=5, wrap=Doubled), [0], 1)
    assert environments.time_limit == 5
    environments.reset(np.array([[0]]))
    assert isinstance(environments._physics._envs[0], Doubled)
    assert environments.step(zeros(environments)).reward[0, 0] == 2.0


def test_a_module_that_registers_its_own_environment(tmp_path, monkeypatch):
    entry_point = "gymnasium.envs.classic_control:PendulumEnv"
    source = f"import gymnasium\ngymnasium.register('Mine-v3', {entry_point!r})\n"
    (tmp_path / "my_own_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    environments = make("my_own_module:Mine-v3", [0], 1)
    assert environments.time_limit is None
    assert environments.reset(np.array([[0]])).shape == (1, 1, 3)
    del gymnasium.registry["Mine-v3"]


@pytest.mark.parametrize("quantity", ["observation", "reward"])
def test_a_nan_names_its_place(register, quantity):
    environments = make(register(nan_in=quantity, nan_at=3, limit=100), [40, 41], 2)
    environments.reset(np.zeros((2, 2), dtype=int))
    for env in environments._physics._envs[:3]:
        env.nan_in = ""
    environments.step(zeros(environments))
    environments.step(zeros(environments))
    value = r"\(inf\)" if quantity == "reward" else r"\(nan at index 1\)"
    place = (
        f"Counter-v0: the {quantity} is not finite {value} for seed 41, copy 1, in step 3 of its "
        r"episode, after 3 steps since the last reset \(without seed 41: --seeds 40,\)$"
    )
    with pytest.raises(EnvironmentFault, match=place) as caught:
        environments.step(zeros(environments))
    assert caught.value.seeds == (41,)


def test_all_seeds_that_break_at_once_are_to_be_left_out(register):
    environments = make(register(nan_in="reward", nan_at=2), [3, 4, 5, 6], 1)
    environments.reset(np.zeros((4, 1), dtype=int))
    for seed in (0, 2):
        environments._physics._envs[seed].nan_in = ""
    environments.step(zeros(environments))
    with pytest.raises(EnvironmentFault, match=r"\(without seed 4, 6: --seeds 3,5\)"):
        environments.step(zeros(environments))


def test_a_nan_at_reset_and_a_nan_action(register):
    bad = make(register("Bad-v0", nan_in="observation", nan_at=0), [5], 1)
    with pytest.raises(
        EnvironmentFault, match=r"reset observation .* seed 5, copy 0, after 0 steps"
    ):
        bad.reset(np.array([[0]]))
    # InvertedPendulum rewards do not depend on the action, and MuJoCo replaces a NaN by zero.
    pendulum = make("InvertedPendulum-v5", [6], 2, engine="gymnasium")
    pendulum.reset(np.array([[0, 1]]))
    with pytest.raises(
        PolicyFault, match=r"the policy's action is not finite .* seed 6, copy 1, after 0 steps"
    ) as caught:
        pendulum.step(np.array([[[0.0], [np.nan]]], dtype=np.float32))
    assert not isinstance(caught.value, EnvironmentFault)  # which there is nothing to mend in


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", ["CartPole-v1", "Hopper-v5"])
def test_seeds_decide_and_slots_are_independent(engine, task):
    def trajectory(env_seeds, seed):
        environments = make(task, list(range(len(env_seeds))), 2, engine=engine)
        rows = [environments.reset(np.array(env_seeds))[seed]]
        rng = np.random.default_rng(0)
        for _ in range(60):
            shape = (2,) if environments.discrete else (2, environments.action_size)
            action = rng.integers(0, 2, shape) if environments.discrete else rng.normal(size=shape)
            action = np.stack([action] * len(env_seeds))
            step = environments.step(action if environments.discrete else action.astype(np.float32))
            rows.append(step.obs[seed])
        assert any(episode.seed == seed for episode in environments.episodes())
        environments.close()
        return np.array(rows)

    alone = trajectory([[3, 4]], 0)
    np.testing.assert_array_equal(alone, trajectory([[3, 4]], 0))
    np.testing.assert_array_equal(alone, trajectory([[9, 8], [7, 6], [3, 4]], 2))
    assert not np.array_equal(alone, trajectory([[3, 5]], 0))
    assert not np.array_equal(alone[:, 0], alone[:, 1])


@pytest.mark.parametrize("engine", ENGINES)
def test_reset_forgets_the_past(engine):
    environments = make("Hopper-v4", [0, 1], 2, engine=engine)
    rng = np.random.default_rng(1)
    actions = rng.normal(size=(60, 2, 2, 3)).astype(np.float32)
    runs = []
    for _ in range(2):
        rows = [environments.reset(np.array([[1, 2], [3, 4]]))]
        steps = [environments.step(action) for action in actions]
        runs.append((np.array(rows + [step.obs for step in steps]), environments.episodes()))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert len(runs[0][1]) > 0
    environments.step(actions[0])
    environments.reset(np.array([[1, 2], [3, 4]]))
    assert environments.episodes() == []


@pytest.mark.parametrize("engine", ENGINES)
def test_returned_arrays_are_not_overwritten(engine):
    environments = make("HopperVelocity-v4", [0], 8, engine=engine)
    environments.reset(np.arange(8).reshape(1, 8))
    kept, num_envs = [], []
    for _ in range(30):
        step = environments.step(np.ones((1, 8, 3), dtype=np.float32))
        kept.append(step)
        num_envs.append([array.copy() for array in step])
    for step, copied in zip(kept, num_envs, strict=True):
        for array, copy in zip(step, copied, strict=True):
            np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("engine", ENGINES)
def test_discrete_tasks_and_wrong_actions(engine):
    environments = make("CartPole-v1", [0, 1], 4, engine=engine)
    assert environments.discrete
    assert environments.action_size == 2
    assert environments.action_low is environments.action_high is None
    with pytest.raises(RuntimeError, match=r"call reset\(env_seeds\) before step"):
        environments.step(np.zeros((2, 4), dtype=np.int64))
    environments.reset(np.arange(8).reshape(2, 4))
    assert environments.step(np.ones((2, 4), dtype=np.int64)).obs.shape == (2, 4, 4)
    with pytest.raises(ValueError, match=r"must lie in 0 .. 1, got 0 .. 2"):
        environments.step(np.array([[0, 0, 0, 0], [0, 0, 0, 2]]))
    with pytest.raises(ValueError, match=r"shape \(2, 4\), got int64 of shape \(8,\)"):
        environments.step(np.zeros(8, dtype=np.int64))
    with pytest.raises(ValueError, match="must be integers"):
        environments.step(np.zeros((2, 4)))
    environments.close()


def test_an_unbounded_box_takes_what_a_gaussian_draws(register):
    low, high = np.array([[0.0, -np.inf]]), np.array([[np.inf, 1.0]])
    spaces = (Counter.observation_space, Box(np.float32(low), np.float32(high)))
    environments = make(register("Half-v0", spaces=spaces), [0], 1)
    environments.reset(np.array([[0]]))
    sent = environments.applied(np.array([[[-9.0, -9.0]]], np.float32))
    np.testing.assert_array_equal(sent, [[[0.0, -9.0]]])


def test_discrete_actions_that_do_not_start_at_zero(register):
    spaces = (Counter.observation_space, Discrete(3, start=-1))
    environments = make(register("Shifted-v0", spaces=spaces), [0], 1)
    environments.reset(np.array([[0]]))
    for action in (0, 2):
        environments.step(np.array([[action]]))
    assert environments._physics._envs[0].actions == [-1, 1]
    assert environments.first_action == -1
    np.testing.assert_array_equal(environments.applied(np.array([[2]])), [[1]])


@pytest.mark.parametrize("engine", ENGINES)
def test_what_environments_get_for_an_action(engine):
    environments = make("Hopper-v4", [0, 1], 1, engine=engine)
    environments.reset(np.array([[0], [1]]))
    action = np.array([[[-3.0, 0.25, 1.5]], [[1.0, -1.0, 0.0]]], np.float32)
    np.testing.assert_array_equal(
        environments.applied(action), [[[-1.0, 0.25, 1.0]], [[1.0, -1.0, 0.0]]]
    )


def test_spaces_that_are_refused(register):
    box, action = Counter.observation_space, Counter.action_space
    cases = (
        ("Dict-v0", (Dict(a=Discrete(3)), action), "only Box observations are supported"),
        ("Multi-v0", (box, MultiDiscrete([99, 99])), "99 x 99 choices at once are 9,801 combi"),
        ("Pixels-v0", (Box(0, 255, (84, 84, 3), np.uint8), action), "as images have; the networks"),
        ("Frames-v0", (Box(0, 1, (4, 84, 84)), action), "as images have"),
        ("Grey-v0", (Box(0, 255, (84, 84), np.uint8), action), "as images have"),
        (
            "Bytes-v0",
            (box, Box(0, 255, (2,), np.uint8)),
            "only Discrete, MultiDiscrete and",
        ),
    )
    for name, spaces, message in cases:
        with pytest.raises(ValueError, match=message):
            make(register(name, spaces=spaces), [0], 1)


def test_several_choices_at_once_are_one_of_their_combinations(register):
    """Choices (2, 3) that count from (5, 0): combination 3 b + c is the action (5 + b, c)."""
    choices = MultiDiscrete([2, 3], start=[5, 0])
    environments = make(register(spaces=(Counter.observation_space, choices)), [0], 3)
    assert (environments.discrete, environments.action_size) == (True, 6)
    environments.reset(np.array([[0, 1, 2]]))
    environments.step(np.array([[0, 4, 5]]))
    taken = [env.unwrapped.actions[0].tolist() for env in environments._physics._envs]
    assert taken == [[5, 0], [6, 1], [6, 2]]  # 4 = 3 * 1 + 1, 5 = 3 * 1 + 2
    assert all(choices.contains(env.unwrapped.actions[0]) for env in environments._physics._envs)


class Goal(Counter):
    """Counter with a dict of observations, in an order that is not that of its keys."""

    def __init__(self):
        parts = {"observation": Box(-9, 9, (2,)), "desired": Dict(x=Box(0, 1, ())), "a": Box(0, 1)}
        super().__init__(spaces=(Dict(parts), Counter.action_space))

    def _observe(self):
        return {"observation": [4, 5], "desired": {"x": 0.25}, "a": np.array([0.5])}


def test_a_dict_of_observations_is_flat_in_the_order_of_its_keys_and_keeps_their_names():
    gymnasium.register("Goal-v0", entry_point=Goal)
    try:
        environments = make("Goal-v0", [0], 1)
        first = environments.reset(np.array([[0]]))
    finally:
        del gymnasium.registry["Goal-v0"]
    np.testing.assert_array_equal(first[0, 0], [0.5, 0.25, 4, 5])
    assert environments.spaces.names == ["a", "desired.x", "observation"]


def test_a_task_that_gymnasium_lacks_has_a_time_limit_of_its_own():
    environments = make("WalkerWalk-v1,max_episode_steps=3", [0], 1)
    assert (environments.engine, environments.time_limit) == ("envpool", 3)
    environments.reset(np.array([[0]]))
    steps = [environments.step(np.zeros((1, 1, 6), np.float32)) for _ in range(3)]
    assert [bool(step.truncated[0, 0]) for step in steps] == [False, False, True]
    environments.close()


def test_an_observation_of_the_wrong_shape_is_refused(register):
    spaces = (Box(-1, 1, (3,)), Counter.action_space)
    with pytest.raises(ValueError, match=r"shape \(1, 2\), but observation_space has shape \(3,\)"):
        make(register("Wrong-v0", spaces=spaces), [0], 1)


@pytest.mark.parametrize(
    ("env_seeds", "message"),
    [
        (np.zeros((1, 3), dtype=int), r"shape \(1, 2\) .* got int64 of shape \(1, 3\)"),
        (np.zeros((1, 2)), "got float64"),
        (np.array([[0, -1]]), r"got -1 \.\. 0"),
        (np.array([[0, 2**31]]), r"0 \.\. 2147483647, got 0 \.\. 2147483648"),
    ],
)
def test_wrong_seeds_are_refused(env_seeds, message):
    with pytest.raises(ValueError, match=message):
        make("CartPole-v1", [0], 2).reset(env_seeds)
