"""FixPO's numbers against the fact sheet's table, and what its Config refuses."""

import dataclasses
import re

import numpy as np
import pytest

from rlsuite.algorithms.on_policy import fixpo
from rlsuite.algorithms.on_policy.fixpo import PRESETS, Config
from rlsuite.core.networks import ActorCritic
from rlsuite.runs.settings import field_comments, preset

# Section 3, column MuJoCo, in its order and its units: launcher and experiments
CODE = {
    "max_kl": 0.5, "target_coef": 3.0, "multiplier_init": 1.0, "multiplier_lr": 0.01,
    "kl_stat": "max", "fixup": "epoch", "num_envs": 64, "num_steps": 128, "epochs": 10,
    "learning_rate": 3e-4, "discount": 0.99, "gae_lambda": 0.95, "value_clip": 0.2,
    "max_grad_norm": 0.5, "hidden": (64, 64), "activation": "tanh", "log_std_init": -0.5,
    "normalize_obs": True, "bootstrap_on_truncation": True, "distribution": "gaussian",
    # What it counts otherwise: 8192 transitions in minibatches of 512, fix-up ones of 1024; c_V
    # 0.1 on the squared error, which we halve; 10M steps
    "num_minibatches": 8192 // 512, "fixup_minibatches": 8192 // 1024, "value_coef": 2 * 0.1,
    "env_steps": 10_000_000,
}  # fmt: skip
OURS = {"max_sweeps": 50}  # section 4, trap 4: the code has no limit


def config_of(name: str, task: str) -> dict:
    return dataclasses.asdict(Config(**preset(fixpo, name, task)))


@pytest.mark.parametrize("task", ["Walker2d-v4", "HalfCheetah-v5", "Own-v0"])
def test_mujoco_10m_is_the_codes_column(task):
    assert config_of("mujoco-10m", task) == CODE | OURS


@pytest.mark.parametrize(
    ("name", "steps"), [("mujoco", 1_000_000), ("mujoco-3m", 3_000_000)], ids=["1M", "3M"]
)
def test_the_shorter_ones_differ_from_it_in_their_length_alone(name, steps):
    assert config_of(name, "Hopper-v4") == CODE | OURS | {"env_steps": steps}
    assert Config().env_steps == 1_000_000


def test_our_own_presets():
    # 8 x 128 = 1024 transitions in minibatches of 256, and of 512 in the second phase
    assert config_of("classic", "CartPole-v1") == CODE | OURS | {
        "env_steps": 500_000, "num_envs": 8, "num_minibatches": 4, "fixup_minibatches": 2,
        "learning_rate": 1e-3, "normalize_obs": False,
    }  # fmt: skip
    assert config_of("smoke", "Own-v0")["env_steps"] < 10_000


def test_no_preset_goes_unchecked():
    assert set(PRESETS) == {"mujoco", "mujoco-3m", "mujoco-10m", "classic", "smoke"}
    assert all(set(families) == {"*"} for families in PRESETS.values())


def test_derived_sizes():
    # 64 x 128 = 8192 transitions; 10 epochs of 16 minibatches: the sheet's 160 steps. 10M // 8192
    # = 1220 (section 3, K detail: the code's nominal 10M are 1500 updates, 12.3M)
    config = Config(**preset(fixpo, "mujoco-10m", "Walker2d-v4"))
    assert config.epochs * config.num_minibatches == 160
    assert (config.rollout_size, config.iterations) == (8192, 1220)


def test_the_last_layers_start_smaller_than_in_the_code_and_the_file_says_so():
    # The code: gain sqrt 2 = 1.41421 in every layer, the policy's last one times 0.01 = 0.0141421.
    # Here 0.01 and 1: an orthogonal row of gain g has norm g
    policy = ActorCritic(3, 2, False, rngs=[np.random.default_rng(0)], hidden=Config().hidden)
    views = policy.layout.views(policy.theta)
    head, value = views["actor.2.weight"][0], views["critic.2.weight"][0]
    assert head.norm(dim=1).tolist() == pytest.approx([0.01, 0.01])
    assert value.norm(dim=1).tolist() == pytest.approx([1.0])
    text = " ".join(fixpo.__doc__.split())
    assert "gain 0.01 for the policy and 1 for V, where the code's have 0.01 sqrt 2" in text


def test_every_field_names_a_source():
    sources, comments = re.compile(r"\[.*(code|ours).*\]$"), field_comments(Config)
    for field in dataclasses.fields(Config):
        assert sources.search(comments.get(field.name, "")), field.name


SMALL = {"num_envs": 2, "num_steps": 6, "num_minibatches": 2, "fixup_minibatches": 2}
SMALL["env_steps"] = 12
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0; it must be 1 or more"),
        ({"num_steps": -4}, "num_steps is -4; it must be 1 or more"),
        ({"epochs": 0}, "epochs is 0; it must be 1 or more"),
        ({"max_sweeps": 0}, "max_sweeps is 0; it must be 1 or more"),
        ({"num_minibatches": 0}, "num_minibatches is 0; it must be 1 or more"),
        ({"fixup_minibatches": 0}, "fixup_minibatches is 0; it must be 1 or more"),
        ({"hidden": (64, 0)}, r"hidden is \(64, 0\); it must be 1 or more"),
        ({"num_minibatches": 8}, "num_minibatches 8 splits 12 transitions badly; use 6"),
        ({"fixup_minibatches": 9}, "fixup_minibatches 9 splits 12 transitions badly; use 12"),
        ({"env_steps": 11}, "env_steps 11 is less than one rollout; use 12"),
        ({"max_kl": 0.0}, "max_kl is 0.0; it must be greater than 0"),
        ({"max_kl": INF}, "max_kl is inf; it must be"),
        ({"target_coef": -3.0}, "target_coef is -3.0; it must be greater than 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be greater than 0"),
        ({"learning_rate": NAN}, "learning_rate is nan; it must be greater than 0"),
        ({"max_grad_norm": 0}, "max_grad_norm is 0; it must be greater than 0"),
        ({"value_clip": 0.0}, "value_clip is 0.0; it must be greater than 0"),
        ({"multiplier_init": -1.0}, "multiplier_init is -1.0; it must be 0 or greater"),
        ({"multiplier_init": NAN}, "multiplier_init is nan; it must be 0 or greater"),
        ({"multiplier_lr": -0.01}, "multiplier_lr is -0.01; it must be 0 or greater"),
        ({"value_coef": -0.1}, "value_coef is -0.1; it must be 0 or greater"),
        ({"discount": 1.01}, r"discount is 1.01; it must lie in \[0, 1\]"),
        ({"gae_lambda": NAN}, r"gae_lambda is nan; it must lie in \[0, 1\]"),
        ({"kl_stat": "median"}, "kl_stat 'median' is unknown; use one of: max, mean"),
        ({"fixup": "never"}, "fixup 'never' is unknown; use one of: epoch, last, off"),
        ({"distribution": "normal"}, "distribution 'normal' is unknown; use one of: gaussian, "),
        ({"activation": "gelu"}, "activation 'gelu' is unknown; use one of: tanh, relu"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_impossible_settings_are_refused_by_value_with_a_way_out(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**SMALL | changes)


@pytest.mark.parametrize(
    "changes",
    [
        *({"num_minibatches": 4}, {"fixup_minibatches": 3}, {"num_minibatches": 12}),
        *({"multiplier_lr": 0.0, "multiplier_init": 0.0}, {"value_clip": None}, {"max_sweeps": 1}),
        *({"discount": 1.0, "gae_lambda": 0.0}, {"kl_stat": "mean"}, {"value_coef": 0.0}),
        *({"fixup": "last"}, {"fixup": "off"}, {"distribution": "beta"}, {"activation": "relu"}),
    ],
    ids=str,
)
def test_what_is_next_to_the_refused_is_accepted(changes):
    config = Config(**SMALL | changes)
    assert (config.rollout_size, config.iterations) == (12, 1)
    assert Config(**SMALL | changes | {"env_steps": 35}).iterations == 2  # 35 // 12


def test_the_advised_number_is_accepted():
    for name, count in (("num_minibatches", 8), ("fixup_minibatches", 9), ("num_minibatches", 7)):
        with pytest.raises(ValueError, match="use ") as refused:
            Config(**SMALL | {name: count})
        Config(**SMALL | {name: int(str(refused.value).split("use ")[1])})
