"""TRPO's numbers against the fact sheet's table, and what its Config refuses."""

import dataclasses
import re

import pytest

from rlsuite.algorithms.on_policy import trpo
from rlsuite.algorithms.on_policy.trpo import PRESETS, Config
from rlsuite.runs.settings import field_comments, preset

# Section 3, column SB3-zoo MuJoCo, the KL in the unit of the other columns, PyTorch's epsilon:
# 2 x 1024, 20 epochs of 2048/128 = 16 minibatches; section 2.2, column sb3-contrib: 25 CG
# iterations in the zoo, damping 0.1, backtracking 0.8 at most 10 times
ZOO = {
    "env_steps": 1_000_000, "num_envs": 2, "num_steps": 1024, "max_kl": 0.01, "kl_slack": 1.0,
    "cg_iterations": 25, "cg_damping": 0.1, "fisher_every": 1, "backtrack": 0.8,
    "backtrack_tries": 10, "discount": 0.99, "gae_lambda": 0.95, "critic_lr": 1e-3,
    "critic_epochs": 20, "critic_minibatches": 16, "adam_eps": 1e-8, "hidden": (64, 64),
    "activation": "tanh", "orthogonal_init": True, "log_std_init": 0.0, "normalize_obs": True,
    "normalize_reward": True, "bootstrap_on_truncation": True,
}  # fmt: skip

# Column baselines mujoco(): 1024, 5 passes of minibatches of 64, so 16; 10 CG iterations on every
# 5th sample, KL up to 1.5 delta, backtracking 0.5
BASELINES = ZOO | {
    "num_envs": 1, "num_steps": 1024, "gae_lambda": 0.98, "critic_epochs": 5, "hidden": (32, 32),
    "cg_iterations": 10, "fisher_every": 5, "kl_slack": 1.5, "backtrack": 0.5,
    "bootstrap_on_truncation": False,  # a time limit is a death there
}  # fmt: skip


def config_of(name: str, task: str) -> dict:
    return dataclasses.asdict(Config(**preset(trpo, name, task)))


@pytest.mark.parametrize("task", ["Hopper-v4", "Walker2d-v5", "Ant-v4", "Own-v0"])
def test_mujoco_has_the_numbers_of_the_zoos_column(task):
    assert config_of("mujoco", task) == ZOO
    assert dataclasses.asdict(Config()) == ZOO


@pytest.mark.parametrize("version", ["v4", "v5"])
@pytest.mark.parametrize(
    ("name", "steps"),
    [("mujoco", 1_000_000), ("mujoco-3m", 3_000_000), ("mujoco-10m", 10_000_000)],
)
def test_the_zoos_two_exceptions_hold_at_every_length(name, steps, version):
    longer = ZOO | {"env_steps": steps}
    assert config_of(name, f"HalfCheetah-{version}") == longer | {"max_kl": 0.04}
    assert config_of(name, f"Swimmer-{version}") == longer | {"discount": 0.9999}
    assert config_of(name, f"Hopper-{version}") == longer


@pytest.mark.parametrize("task", ["HalfCheetah-v4", "Swimmer-v4", "Own-v0"])
def test_mujoco_baselines_is_the_column_of_baselines(task):
    assert config_of("mujoco-baselines", task) == BASELINES


def test_classic_cartpole_is_the_zoos():
    # 100k steps of 2 x 512, damping 1e-3, lambda 0.98, critic rate 1e-3, 20 epochs; not normalised;
    # sb3-contrib's 15 CG iterations
    expected = ZOO | {
        "env_steps": 100_000, "num_steps": 512, "cg_iterations": 15, "cg_damping": 1e-3,
        "gae_lambda": 0.98, "normalize_obs": False, "normalize_reward": False,
        "critic_minibatches": 2,  # 1024/512
        "adam_eps": 1e-5,
    }  # fmt: skip
    assert config_of("classic", "CartPole-v1") == expected


@pytest.mark.parametrize(("task", "epochs"), [("Acrobot-v1", 10), ("MountainCar-v0", 20)])
def test_classic_acrobot_and_mountain_car_are_the_zoos(task, epochs):
    # 100k steps of 2 x 1024, normalised; the rest is sb3-contrib's: 15 CG iterations, damping 0.1,
    # lambda 0.95, minibatches of 128, 10 critic epochs
    assert config_of("classic", task) == ZOO | {
        "env_steps": 100_000, "cg_iterations": 15, "critic_epochs": epochs, "adam_eps": 1e-5,
    }  # fmt: skip


def test_classic_continuous_tasks_are_the_zoos():
    # Pendulum: 100k steps of 2 x 1024, discount 0.9, 15 critic epochs, neither damping nor lambda
    # nor minibatches given: 0.1, 0.95 and 2 x 1024/128 = 16
    shared = {"cg_iterations": 15, "adam_eps": 1e-5}
    assert config_of("classic", "Pendulum-v1") == ZOO | shared | {
        "env_steps": 100_000, "discount": 0.9, "critic_epochs": 15, "normalize_obs": False,
        "normalize_reward": False,
    }  # fmt: skip
    # MountainCarContinuous: 50k steps, normalised; the rest is sb3-contrib's: 2 x 2048 steps in
    # minibatches of 128, so 32, and 10 critic epochs
    assert config_of("classic", "MountainCarContinuous-v0") == ZOO | shared | {
        "env_steps": 50_000, "num_steps": 2048, "critic_minibatches": 32, "critic_epochs": 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "kl", "damping", "others"),
    [  # target times and damping times the number of action dimensions
        ("Hopper-v4", 0.03, 0.3, {}),  # 0.01 x 3
        ("Walker2d-v4", 0.06, 0.6, {}),  # 0.01 x 6
        ("HalfCheetah-v5", 0.24, 0.6, {}),  # 0.04 x 6
        ("Ant-v4", 0.08, 0.8, {}),  # 0.01 x 8
        ("Swimmer-v4", 0.02, 0.2, {"discount": 0.9999}),  # 0.01 x 2
        ("Humanoid-v4", 0.17, 1.7, {"env_steps": 2_000_000}),  # 0.01 x 17
        ("Reacher-v4", 0.02, 0.2, {}),  # 0.01 x 2
        ("InvertedPendulum-v4", 0.01, 0.1, {}),
        ("InvertedDoublePendulum-v4", 0.01, 0.1, {}),
    ],
)
def test_sb3_is_the_zoos_column_with_the_kl_summed_over_actions(task, kl, damping, others):
    found = config_of("sb3", task)
    assert (found.pop("max_kl"), found.pop("cg_damping")) == pytest.approx((kl, damping))
    expected = ZOO | {"adam_eps": 1e-5} | others
    assert found == {k: v for k, v in expected.items() if k not in ("max_kl", "cg_damping")}


def test_sb3_does_not_guess_how_many_actions_a_task_has():
    with pytest.raises(ValueError, match="preset 'sb3' has no entry for Own-v0; it has Ant,"):
        preset(trpo, "sb3", "Own-v0")


def test_no_preset_of_a_family_goes_unchecked():
    longer = {f"mujoco-{n}m" for n in (3, 10)}
    assert set(PRESETS) == {"mujoco", "mujoco-baselines", "sb3", "classic", "smoke"} | longer
    for name in {"mujoco"} | longer:
        assert set(PRESETS[name]) == {"*", "HalfCheetah", "Swimmer"}
    assert set(PRESETS["mujoco-baselines"]) == set(PRESETS["smoke"]) == {"*"}
    own = {"Acrobot", "MountainCar", "Pendulum", "MountainCarContinuous"}
    assert set(PRESETS["classic"]) == {"*"} | own
    assert len(PRESETS["sb3"]) == 9
    assert config_of("smoke", "Own-v0")["env_steps"] < 10_000


def test_every_field_names_a_source():
    sources = re.compile(r"\[.*(paper|baselines|sb3-contrib|zoo|PyTorch|ours).*\]$")
    comments = field_comments(Config)
    for field in dataclasses.fields(Config):
        assert sources.search(comments.get(field.name, "")), field.name


SMALL = {"num_envs": 2, "num_steps": 4, "critic_minibatches": 2, "env_steps": 8}
NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0; it must be 1 or more"),
        ({"num_steps": -4}, "num_steps is -4; it must be 1 or more"),
        ({"cg_iterations": 0}, "cg_iterations is 0; it must be 1 or more"),
        ({"backtrack_tries": 0}, "backtrack_tries is 0; it must be 1 or more"),
        ({"critic_epochs": 0}, "critic_epochs is 0; it must be 1 or more"),
        ({"critic_minibatches": 0}, "critic_minibatches is 0; it must be 1 or more"),
        ({"fisher_every": 0}, "fisher_every is 0; it must be 1 or more"),
        ({"hidden": (64, 0)}, r"hidden is \(64, 0\); it must be 1 or more"),
        ({"critic_minibatches": 3}, "critic_minibatches 3 splits 8 transitions badly; use 4"),
        ({"critic_minibatches": 6}, "critic_minibatches 6 splits 8 transitions badly; use 4"),
        ({"env_steps": 7}, "env_steps 7 is less than one rollout; use 8"),
        (
            {"num_envs": 1, "num_steps": 1, "critic_minibatches": 1},
            "num_steps 1 makes a rollout of 1; use 2",
        ),
        ({"max_kl": 0.0}, "max_kl is 0.0; it must be greater than 0"),
        ({"max_kl": -0.01}, "max_kl is -0.01; it must be greater than 0"),
        ({"max_kl": INFINITY}, "max_kl is inf; it must be greater than 0"),
        ({"critic_lr": NAN}, "critic_lr is nan; it must be greater than 0"),
        ({"adam_eps": 0.0}, "adam_eps is 0.0; it must be greater than 0"),
        ({"discount": 1.01}, r"discount is 1.01; it must lie in \[0, 1\]"),
        ({"discount": NAN}, r"discount is nan; it must lie in \[0, 1\]"),
        ({"gae_lambda": -0.5}, r"gae_lambda is -0.5; it must lie in \[0, 1\]"),
        ({"backtrack": 1.5}, r"backtrack is 1.5; it must lie in \[0, 1\]"),
        ({"cg_damping": -0.1}, "cg_damping is -0.1; it must be 0 or greater"),
        ({"kl_slack": -1.0}, "kl_slack is -1.0; it must be 0 or greater"),
        ({"kl_slack": NAN}, "kl_slack is nan; it must be 0 or greater"),
        ({"activation": "gelu"}, "activation 'gelu' is unknown; use one of: tanh, relu"),
    ],
    ids=lambda x: "-".join(f"{k}={v}" for k, v in x.items()) if isinstance(x, dict) else "",
)
def test_impossible_settings_are_refused_by_value_with_a_way_out(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**SMALL | changes)


def test_what_is_next_to_the_refused_is_accepted():
    for changes in (
        {"critic_minibatches": 4},
        {"critic_minibatches": 1},
        {"cg_iterations": 1, "backtrack_tries": 1, "critic_epochs": 1},
        {"cg_damping": 0.0, "kl_slack": 0.0},
        {"discount": 1.0, "gae_lambda": 0.0, "backtrack": 1.0},
        {"activation": "relu", "hidden": ()},
    ):
        config = Config(**SMALL | changes)
        assert config.rollout_size == 8
        assert config.iterations == 1
    assert Config(num_envs=1, num_steps=2, critic_minibatches=1, env_steps=2).rollout_size == 2


def test_derived_sizes():
    # 1000 // (2 * 4) = 125 iterations. The largest of 4, 2, 1 that divides the minibatches.
    config = Config(**SMALL | {"env_steps": 1000})
    assert (config.rollout_size, config.iterations) == (8, 125)
    for minibatches, per_call in ((6, 2), (8, 4), (5, 1), (4, 4), (1, 1)):
        config = Config(num_envs=10, num_steps=24, critic_minibatches=minibatches)
        assert config.minibatches_per_call == per_call
