"""PPO's numbers against the fact sheet's tables, and what its Config refuses."""

import dataclasses
import re

import pytest

from rlsuite.algorithms.on_policy import ppo
from rlsuite.algorithms.on_policy.ppo import PRESETS, Config
from rlsuite.runs.settings import field_comments, preset

# Section 3.1, column CleanRL: 1 x 2048, 10 epochs of 32 minibatches (of 64)
CLEANRL_CONTINUOUS = {
    "objective": "clip", "kl_coef": 3.0,  # the second is of no account with the first
    "env_steps": 1_000_000, "num_envs": 1, "num_steps": 2048, "epochs": 10, "num_minibatches": 32,
    "learning_rate": 3e-4, "anneal_lr": True, "adam_eps": 1e-5, "discount": 0.99,
    "gae_lambda": 0.95, "clip": 0.2, "value_clip": 0.2, "value_coef": 0.5, "entropy_coef": 0.0,
    "max_grad_norm": 0.5, "normalize_advantage": True, "target_kl": None, "normalize_obs": True,
    "normalize_reward": True, "hidden": (64, 64), "activation": "tanh", "orthogonal_init": True,
    "log_std_init": 0.0,
    "bootstrap_on_truncation": True,  # ours; the one departure from that column
}  # fmt: skip

# Section 3.3, row CartPole, Acrobot, MountainCar
CLEANRL_CLASSIC = CLEANRL_CONTINUOUS | {
    "env_steps": 500_000, "num_envs": 4, "num_steps": 128, "epochs": 4, "num_minibatches": 4,
    "learning_rate": 2.5e-4, "entropy_coef": 0.01, "normalize_obs": False,
    "normalize_reward": False,
}  # fmt: skip

# Section 3.2 as printed there; the last column is n_envs * n_steps / batch, worked by hand: SB3
# cuts a batch that exceeds the rollout (512 > 128, 64 > 32) down to one minibatch of all.
COLUMNS = (
    *("num_envs", "num_steps", "batch", "discount", "gae_lambda", "learning_rate"),
    *("entropy_coef", "clip", "epochs", "max_grad_norm", "vf", "num_minibatches"),
)
ZOO = {
    "HalfCheetah": (1, 512, 64, .98, .92, 2.0633e-5, 4.01762e-4, .1, 20, .8, .58096, 8),
    "Hopper": (1, 512, 32, .999, .99, 9.80828e-5, .00229519, .2, 5, .7, .835671, 16),
    "Walker2d": (1, 512, 32, .99, .95, 5.05041e-5, 5.85045e-4, .1, 20, 1, .871923, 16),
    "Humanoid": (1, 512, 256, .95, .9, 3.56987e-5, .00238306, .3, 5, 2, .431892, 2),
    "Swimmer": (4, 1024, 256, .9999, .98, 6e-4, 0, .2, 10, .5, .5, 16),
    "Ant": (1, 2048, 64, .99, .95, 3e-4, 0, .2, 10, .5, .5, 32),
    "InvertedDoublePendulum":
        (1, 128, 512, .98, .8, 1.55454e-4, 1.05057e-6, .4, 10, .5, .695929, 1),
    "InvertedPendulum": (1, 32, 64, .999, .9, 2.22425e-4, 1.37976e-7, .4, 5, .3, .19816, 1),
    "Reacher": (1, 512, 32, .9, 1.0, 1.04019e-4, 7.52585e-8, .3, 5, .9, .950368, 16),
}  # fmt: skip
WIDE = {"hidden": (256, 256), "activation": "relu", "orthogonal_init": False, "log_std_init": -2.0}


def config_of(name: str, task: str) -> dict:
    return dataclasses.asdict(Config(**preset(ppo, name, task)))


@pytest.mark.parametrize("task", ["Hopper-v4", "HalfCheetah-v5", "Own-v0"])
def test_mujoco_is_cleanrls_column(task):
    assert config_of("mujoco", task) == CLEANRL_CONTINUOUS
    assert dataclasses.asdict(Config()) == CLEANRL_CONTINUOUS


@pytest.mark.parametrize("task", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_classic_is_cleanrls_row(task):
    assert config_of("classic", task) == CLEANRL_CLASSIC


def test_classic_pendulum_is_the_zoos_without_gsde():
    # 4 x 1024 in batches of 64: 64 minibatches; the coefficient of SB3's whole squared error
    # doubles to 2 * 0.5 for our half; no value clip, constant learning rate, as in SB3
    assert config_of("classic", "Pendulum-v1") == CLEANRL_CLASSIC | {
        "env_steps": 100_000, "num_steps": 1024, "num_minibatches": 64, "epochs": 10,
        "learning_rate": 1e-3, "anneal_lr": False, "discount": 0.9, "entropy_coef": 0.0,
        "value_clip": None, "value_coef": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("family", ZOO)
def test_mujoco_tuned_is_the_zoos_row(family):
    expected = dict(zip(COLUMNS, ZOO[family], strict=True))
    assert expected.pop("batch") > 0
    expected["value_coef"] = 2 * expected.pop("vf")  # SB3 halves no squared error
    expected |= {"value_clip": None, "anneal_lr": False}
    expected["env_steps"] = 10_000_000 if family == "Humanoid" else 1_000_000
    expected |= WIDE if family in ("HalfCheetah", "Hopper", "Humanoid") else {}
    assert config_of("mujoco-tuned", f"{family}-v4") == CLEANRL_CONTINUOUS | expected


def test_no_preset_of_a_family_goes_unchecked():
    assert set(PRESETS["mujoco-tuned"]) == set(ZOO)
    assert set(PRESETS["mujoco"]) == {"*"}
    assert set(PRESETS["classic"]) == {"*", "Pendulum"}
    longer = {"mujoco-3m": 3_000_000, "mujoco-10m": 10_000_000}
    assert set(PRESETS) == {"mujoco", "classic", "mujoco-tuned", "smoke", *longer}
    for name, steps in longer.items():
        assert config_of(name, "Own-v0") == CLEANRL_CONTINUOUS | {"env_steps": steps}
    assert config_of("smoke", "Own-v0")["env_steps"] < 10_000


def test_every_field_names_a_source():
    sources = re.compile(r"\[.*(paper|ppo2|CleanRL|SB3|Spinning Up|zoo|ours).*\]$")
    comments = field_comments(Config)
    for field in dataclasses.fields(Config):
        assert sources.search(comments.get(field.name, "")), field.name


SMALL = {"num_envs": 2, "num_steps": 4, "num_minibatches": 2, "env_steps": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0; it must be 1 or more"),
        ({"num_steps": -4}, "num_steps is -4; it must be 1 or more"),
        ({"epochs": 0}, "epochs is 0; it must be 1 or more"),
        ({"num_minibatches": 0}, "num_minibatches is 0; it must be 1 or more"),
        ({"hidden": (64, 0)}, r"hidden is \(64, 0\); it must be 1 or more"),
        ({"num_minibatches": 3}, "num_minibatches 3 splits 8 transitions badly; use 4"),
        ({"num_minibatches": 7}, "num_minibatches 7 splits 8 transitions badly; use 4"),
        ({"num_minibatches": 8}, "num_minibatches 8 splits 8 transitions badly; use 4"),
        ({"env_steps": 7}, "env_steps 7 is less than one rollout; use 8"),
        ({"target_kl": 0.02, "epochs": 1}, "target_kl 0.02 is inert with epochs 1; use 2 or more"),
        ({"clip": 0.0}, "clip is 0.0; it must be greater than 0"),
        ({"value_clip": 0.0}, "value_clip is 0.0; it must be greater than 0"),
        ({"target_kl": -0.1}, "target_kl is -0.1; it must be greater than 0"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001; it must be greater than 0"),
        ({"max_grad_norm": 0}, "max_grad_norm is 0; it must be greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be greater than 0"),
        ({"adam_eps": 0.0}, "adam_eps is 0.0; it must be greater than 0"),
        ({"discount": 1.01}, r"discount is 1.01; it must lie in \[0, 1\]"),
        ({"discount": float("nan")}, r"discount is nan; it must lie in \[0, 1\]"),
        ({"gae_lambda": -0.5}, r"gae_lambda is -0.5; it must lie in \[0, 1\]"),
        ({"activation": "gelu"}, "activation 'gelu' is unknown; use one of: tanh, relu"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_impossible_settings_are_refused_by_value_with_a_way_out(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**SMALL | changes)


def test_what_is_next_to_the_refused_is_accepted():
    for changes in (
        {"num_minibatches": 4},
        {"num_minibatches": 8, "normalize_advantage": False},
        {"env_steps": 8},
        {"target_kl": 0.02, "epochs": 2},
        {"value_clip": None, "target_kl": None},
        {"discount": 1.0, "gae_lambda": 0.0},
        {"activation": "relu"},
    ):
        config = Config(**SMALL | changes)
        assert config.rollout_size == 8
        assert config.iterations == 1


def test_derived_sizes():
    # 1000 // (2 * 4) = 125 iterations. The largest of 4, 2, 1 that divides the minibatches.
    config = Config(**SMALL | {"env_steps": 1000})
    assert (config.rollout_size, config.iterations) == (8, 125)
    for minibatches, per_call in ((6, 2), (8, 4), (5, 1), (4, 4), (1, 1)):
        config = Config(num_envs=10, num_steps=24, num_minibatches=minibatches)
        assert config.minibatches_per_call == per_call
