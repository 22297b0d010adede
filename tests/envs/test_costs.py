"""Constraints: speeds and thresholds, sums by hand, a user's own, and what is refused."""

import sys

import gymnasium
import numpy as np
import pytest

from rlsuite.envs import Constraint, EnvironmentFault, constrain, costs, make, tasks
from rlsuite.envs.tasks import TASKS, choose_engine, find

ENGINES = ("envpool", "gymnasium")


@pytest.fixture(autouse=True)
def added(monkeypatch):
    """What a test adds is forgotten."""
    monkeypatch.setattr(tasks, "ADDED", {})


def margin_of(task: str, x: float, y: float) -> float:
    signals = {"x_velocity": np.array([x]), "y_velocity": np.array([y])}
    return float(TASKS[task].margin(None, None, None, None, signals)[0, 0])


def test_velocity_is_signed_along_x_and_a_norm_in_the_plane():
    # HalfCheetah's threshold is 3.2096, whatever it does across
    assert margin_of("HalfCheetahVelocity-v4", 4.0, 9.0) == pytest.approx(0.7904)
    assert margin_of("HalfCheetahVelocity-v4", -4.0, 0.0) == pytest.approx(-7.2096)
    # Swimmer, threshold 0.2282, has a y_velocity that does not count
    assert margin_of("SwimmerVelocity-v5", 0.0, 9.0) == pytest.approx(-0.2282)
    # Ant's threshold is 2.6222: |(-3, 4)| = 5
    assert margin_of("AntVelocity-v4", -3.0, 4.0) == pytest.approx(2.3778)
    assert margin_of("HumanoidVelocity-v4", 0.0, -1.4) == pytest.approx(-0.0149)


def test_at_the_threshold_nothing_is_paid():
    priced = costs.Costs(
        "x", [Constraint("v", 25, "episode")], None, TASKS["HopperVelocity-v4"].margin
    )
    signals = {"x_velocity": np.array([0.7402, np.nextafter(0.7402, 1), 0.0])}
    assert priced.of(np.zeros(3), None, None, None, signals)[0].tolist() == [
        [False],
        [True],
        [False],
    ]


def test_the_dense_cost_is_the_absolute_speed():
    def cost(**signals):
        return costs.speed(None, None, None, None, {k: np.array(v) for k, v in signals.items()})

    assert cost(x_velocity=[-3.0, 2.0]).tolist() == [[3.0], [2.0]]
    assert cost(x_velocity=[-3.0], y_velocity=[4.0]).tolist() == [[5.0]]


def test_the_speed_is_displacement_over_time_and_not_the_observed_velocity():
    environments = make("HalfCheetahSpeed-v4", [0], 1, "gymnasium")
    environments.reset(np.array([[3]]))
    env = environments._physics._envs[0].unwrapped
    rng, apart = np.random.default_rng(0), []
    for _ in range(100):
        before = env.data.qpos[0]
        step = environments.step(rng.uniform(-1, 1, (1, 1, 6)).astype(np.float32))
        assert step.cost[0, 0, 0] == pytest.approx(abs(env.data.qpos[0] - before) / 0.05, rel=1e-6)
        apart.append(abs(step.cost[0, 0, 0] - abs(step.final_obs[0, 0, 8])))
    assert np.mean(apart) > 0.05  # metres per second: observation 8 is the velocity of the root


@pytest.mark.parametrize("engine", ENGINES)
def test_an_episode_sums_its_costs_to_its_last_step(engine):
    environments = make("HopperSpeed-v4", [0, 1], 2, engine)
    environments.reset(np.array([[1, 2], [3, 4]]))
    summed, told = np.zeros((2, 2)), []
    rng = np.random.default_rng(0)
    for _ in range(60):
        step = environments.step(rng.uniform(-1, 1, (2, 2, 3)).astype(np.float32))
        assert (step.cost.shape, step.cost.dtype, step.margin) == ((2, 2, 1), np.float32, None)
        summed += step.cost[..., 0]
        for seed, copy in np.argwhere(step.terminated):
            told.append(summed[seed, copy])
            summed[seed, copy] = 0
    assert len(told) > 4
    np.testing.assert_allclose([e.cost[0] for e in environments.episodes()], told, rtol=1e-5)
    assert environments.constraints == (Constraint("speed", 82.748, "discounted"),)


def test_a_task_without_constraints_has_no_cost():
    environments = make("Hopper-v4", [0], 2)
    environments.reset(np.array([[1, 2]]))
    step = environments.step(np.zeros((1, 2, 3), np.float32))
    assert (step.cost.shape, step.margin) == ((1, 2, 0), None)
    assert environments.unfinished()[0].cost == environments.constraints == ()
    assert not environments.reports_cost


def test_a_constraint_costs_one_where_any_of_its_columns_is_over():
    def margin(obs, action, next_obs, reward, signals):
        return np.array([[1.0, -1, -1], [-1, 0, -1], [-2, 5, 1]])

    two = [Constraint("first", 1, "step"), Constraint("second", 1, "step", columns=2)]
    cost, margins = costs.Costs("x", two, None, margin).of(np.zeros((3, 1)), None, None, None, {})
    assert cost.tolist() == [[True, False], [False, False], [False, True]]
    assert margins.shape == (3, 3)


def test_costs_of_dm_control_are_read_where_envpool_has_them():
    envpool = pytest.importorskip("envpool")
    for task, key in (("WalkerWalkHeight-v1", "height"), ("ReacherEasySpeed-v1", "velocity")):
        environments = make(task, [0], 2)
        pool = envpool.make(find(task).base, "gymnasium", num_envs=2, seed=[3, 4])
        environments.reset(np.array([[3, 4]]))
        pool.reset()
        for _ in range(20):
            action = np.ones((2, environments.action_size))
            value = pool.step(action)[0][key].reshape(2, -1)
            cost = environments.step(action[None].astype(np.float32)).cost
            np.testing.assert_allclose(cost[0, :, 0], np.linalg.norm(value, axis=1), rtol=1e-6)


# ------------------------------------------------------------------------------ the user's own


@pytest.fixture
def gentle(tmp_path, monkeypatch):
    """A module with a function and a line: at most so much torque, summed over the joints."""
    (tmp_path / "gentle_hopper.py").write_text(
        "import numpy as np\n"
        "from rlsuite.envs import Constraint, constrain\n"
        "def torque(obs, action, next_obs, reward, signals):\n"
        "    return np.abs(action).sum(1, keepdims=True)\n"
        "constrain('HopperGently-v4', 'Hopper-v4', torque, Constraint('torque', 100, 'episode'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield "gentle_hopper:HopperGently-v4"
    sys.modules.pop("gentle_hopper", None)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_constraint_of_ones_own_is_a_function_and_a_line(gentle, engine):
    environments = make(gentle, [0], 2, engine)
    assert (environments.engine, environments.time_limit) == (engine, 1000)
    environments.reset(np.array([[1, 2]]))
    # Actions beyond the box are clipped to 1 before they cost: 1 + 0.5 + 0.25 = 1.75
    step = environments.step(np.array([[[7, -0.5, 0.25], [0, 0, 0]]], np.float32))
    assert step.cost.tolist() == [[[1.75], [0.0]]]
    assert environments.constraints == (Constraint("torque", 100, "episode"),)


def test_a_task_with_settings_keeps_its_constraints(gentle):
    environments = make("HalfCheetahVelocity-v5,max_episode_steps=3", [0], 1)
    assert (environments.engine, environments.time_limit) == ("gymnasium", 3)
    environments.reset(np.array([[1]]))
    for _ in range(3):
        step = environments.step(np.zeros((1, 1, 6), np.float32))
    assert (step.truncated.all(), step.margin.shape) == (True, (1, 1, 1))
    assert make(f"{gentle},max_episode_steps=3", [0], 8).constraints[0].name == "torque"
    with pytest.raises(
        ValueError, match=r"use 'gymnasium'\. EnvPool takes no settings after a comma"
    ):
        make("HopperSpeed-v4,max_episode_steps=3", [0], 8, "envpool")
    assert find("Hopper-v4,max_episode_steps=3") is None


def test_ones_own_constraints_choose_their_engine_as_their_base_does(gentle):
    assert choose_engine(gentle, 8) == "envpool"
    assert find(gentle).base == "Hopper-v4"
    del sys.modules["gentle_hopper"]
    tasks.ADDED.clear()
    with pytest.raises(ValueError, match="did you mean gentle_hopper:HopperGently-v4"):
        choose_engine("HopperGently-v4", 1)


class Toll(gymnasium.Env):
    """Passes in 3 steps, each with a toll of 2 in its info."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(1, self.steps / 4, np.float32), 1.0, self.steps == 3, False, {"toll": 2.0}


@pytest.fixture
def toll():
    gymnasium.register("Toll-v0", entry_point=Toll)
    yield
    del gymnasium.registry["Toll-v0"]


def test_constraints_on_an_environment_of_ones_own(toll):
    # The toll, 2 a step, and the change of the observation, 1/4 a step: 6 and 0.75 in an episode
    def cost(obs, action, next_obs, reward, signals):
        return np.stack([signals["toll"], (next_obs - obs)[:, 0]], 1)

    two = [Constraint("toll", 5, "episode"), Constraint("change", None, "step")]
    constrain("CheapToll-v0", "Toll-v0", cost, *two, signals=["toll"])
    environments = make("any:CheapToll-v0", [0], 2)
    environments.reset(np.array([[1, 2]]))
    for _ in range(4):
        step = environments.step(np.array([[0, 1]]))
    assert [e.cost for e in environments.episodes()] == [(6.0, 0.75)] * 2
    np.testing.assert_array_equal(step.cost, [[[2, 0.25]] * 2])  # from the reset observation on


def failing(obs, action, next_obs, reward, signals):
    return {}["speed"]


def flat(obs, action, next_obs, reward, signals):
    return np.zeros(len(obs))


def endless(obs, action, next_obs, reward, signals):
    return np.array([[0.0], [np.nan]])


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (
            failing,
            r"FaultyToll-v0: its cost function failed: KeyError: 'speed' \(at .*test_costs.py",
        ),
        (flat, r"its cost function returned shape \(2,\), not \(2, 1\): a row for each transition"),
        (endless, r"the cost is not finite \(nan\) for seed 0, copy 1, in step 1 of its episode"),
    ],
)
def test_a_function_of_costs_that_is_faulty(toll, cost, message):
    constrain("FaultyToll-v0", "Toll-v0", cost, Constraint("toll", 5, "episode"))
    environments = make("FaultyToll-v0", [0], 2)
    environments.reset(np.array([[1, 2]]))
    with pytest.raises(EnvironmentFault, match=message):
        environments.step(np.zeros((1, 2), int))


def test_a_signal_that_the_engine_does_not_have(toll):
    for name, base in (("HalfToll-v0", "Toll-v0"), ("HopperMass-v4", "Hopper-v4")):
        constrain(name, base, costs.speed, Constraint("v", 5, "episode"), signals=["mass"])
    environments = make("HalfToll-v0", [0], 1)
    environments.reset(np.array([[1]]))
    with pytest.raises(
        EnvironmentFault, match="an info without 'mass', which the task's costs ask"
    ):
        environments.step(np.zeros((1, 1), int))
    pytest.importorskip("envpool")
    with pytest.raises(ValueError, match="HopperMass-v4: EnvPool's Hopper-v4 tells no 'mass'"):
        make("HopperMass-v4", [0], 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("a:X-v0", "Hopper-v4", costs.speed, Constraint("v", 1, "step")),
            "'a:X-v0': give it a name",
        ),
        (
            ("Ant-v4", "Hopper-v4", costs.speed, Constraint("v", 1, "step")),
            "'Ant-v4': give it a name",
        ),
        (("X-v0", "Hopper-v4", costs.speed), "X-v0: give it a function, and a Constraint"),
        (("X-v0", "Hopper-v4", None, Constraint("v", 1, "step")), "give it a function, and a"),
        (
            ("X-v0", "Hopper-v4", costs.speed, Constraint("a b", 1, "step")),
            "'a b' needs a name of its",
        ),
        (
            ("X-v0", "Hopper-v4", costs.speed, *[Constraint("v", 1, "step")] * 2),
            "'v' needs a name of",
        ),
        (
            ("X-v0", "Hopper-v4", costs.speed, Constraint("v", -1, "step")),
            "a limit of 0 or more, got -1",
        ),
        (("X-v0", "Hopper-v4", costs.speed, Constraint("v", np.inf, "step")), "0 or more, got inf"),
        (
            ("X-v0", "Hopper-v4", costs.speed, Constraint("v", 1, "mean")),
            "a kind, episode, .* 'mean'",
        ),
        (
            ("X-v0", "Hopper-v4", costs.speed, Constraint("v", 1, "step", 0)),
            "at least 1 column, got 0",
        ),
        (
            ("X-v0", "Hopper-v4", costs.speed, Constraint("v", 1, "step", 1, "x")),
            "a group, soft, hard",
        ),
        (
            ("X-v0", "Hopper-v4", costs.speed, Constraint("v", 1, "step", 1, "soft", 2.0)),
            "a probability p_max, got 2.0",
        ),
    ],
)
def test_constraints_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        constrain(*arguments)
    assert tasks.ADDED == {}


def test_constraints_of_the_table_are_sound_and_their_bases_there():
    for name, task in TASKS.items():
        costs.check(name, task.constraints)
        base = TASKS[task.base or name]
        assert (task.engines, task.time_limit) == (base.engines, base.time_limit)
        assert task.envpool_options == base.envpool_options
