"""On-policy MDPO's numbers against the fact sheet's table, and what its Config refuses."""

import dataclasses
import math
import re

import pytest

from rlsuite.algorithms.on_policy import mdpo
from rlsuite.algorithms.on_policy.mdpo import PRESETS, Config
from rlsuite.runs.settings import field_comments, preset

# Section 4, column "official code": batches of 2048 from one environment, ten policy steps, five
# passes of the value function over 2048/128 = 16 minibatches. This is the paper's "loaded"
LOADED = {
    "policy_steps": 10, "actor_lr": 3e-4, "max_grad_norm": 0.5, "adam_eps": 1e-5,
    "critic_lr": 3e-4, "critic_epochs": 5, "critic_minibatches": 16, "critic_adam_eps": 1e-8,
    "value_clip": 0.2, "discount": 0.99, "gae_lambda": 0.95, "num_envs": 1, "num_steps": 2048,
    "normalize_obs": True, "normalize_reward": True, "hidden": (64, 64), "activation": "tanh",
    "orthogonal_init": True, "log_std_init": 0.0,
    "env_steps": 1_000_000,  # ours; theirs is mujoco-10m
    "bootstrap_on_truncation": True,  # ours; the one departure from that column
}  # fmt: skip

# "-M": without the code-level tricks (value clip, both normalisations, orthogonal initialisation)
# and without GAE, that is lambda 1
MINIMAL = LOADED | {
    "value_clip": None, "normalize_obs": False, "normalize_reward": False,
    "orthogonal_init": False, "gae_lambda": 1.0,
}  # fmt: skip


def config_of(name: str, task: str) -> dict:
    return dataclasses.asdict(Config(**preset(mdpo, name, task)))


@pytest.mark.parametrize("task", ["Hopper-v4", "Humanoid-v5", "Own-v0"])
@pytest.mark.parametrize(("suffix", "millions"), [("", 1), ("-3m", 3), ("-10m", 10)])
def test_mujoco_is_the_official_codes_column(task, suffix, millions):
    steps = {"env_steps": millions * 1_000_000}
    assert config_of(f"mujoco{suffix}", task) == LOADED | steps
    assert config_of(f"mujoco-minimal{suffix}", task) == MINIMAL | steps


def test_defaults_are_the_loaded_settings():
    assert dataclasses.asdict(Config()) == LOADED
    assert Config().rollout_size // Config().critic_minibatches == 128


def test_the_horizon_sets_the_penalty():
    # 1e6 // 2048 = 488 and 1e7 // 2048 = 4882 iterations: after 300 of them t_k is 1 - 299/488 =
    # 0.387 or 1 - 299/4882 = 0.939, and so a shorter run is another algorithm
    assert (Config().iterations, Config(env_steps=10_000_000).iterations) == (488, 4882)
    assert mdpo.step_size(300, 488) == pytest.approx(0.387295)
    assert mdpo.step_size(300, 4882) == pytest.approx(0.938755)


def test_no_preset_goes_unchecked():
    names = [f"mujoco{kind}{n}" for kind in ("", "-minimal") for n in ("", "-3m", "-10m")]
    assert set(PRESETS) == {*names, "classic", "smoke"}
    assert all(set(table) == {"*"} for table in PRESETS.values())
    classic = Config(**preset(mdpo, "classic", "CartPole-v1"))
    assert (classic.rollout_size, classic.rollout_size // classic.critic_minibatches) == (512, 128)
    assert not classic.normalize_obs
    assert not classic.normalize_reward
    smoke = Config(**preset(mdpo, "smoke", "Own-v0"))
    assert smoke.env_steps < 10_000
    assert smoke.iterations > 1


def test_every_field_names_a_source():
    sources = re.compile(r"\[.*(paper|code|SB3|stable-baselines|ours).*\]$")
    comments = field_comments(Config)
    for field in dataclasses.fields(Config):
        assert sources.search(comments.get(field.name, "")), field.name


SMALL = {"num_envs": 2, "num_steps": 4, "critic_minibatches": 2, "env_steps": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0; it must be 1 or more"),
        ({"num_steps": -4}, "num_steps is -4; it must be 1 or more"),
        ({"policy_steps": 0}, "policy_steps is 0; it must be 1 or more"),
        ({"critic_epochs": 0}, "critic_epochs is 0; it must be 1 or more"),
        ({"critic_minibatches": 0}, "critic_minibatches is 0; it must be 1 or more"),
        ({"hidden": (64, 0)}, r"hidden is \(64, 0\); it must be 1 or more"),
        ({"critic_minibatches": 6}, "critic_minibatches 6 splits 8 transitions badly; use 4"),
        ({"critic_minibatches": 16}, "critic_minibatches 16 splits 8 transitions badly; use 4"),
        ({"env_steps": 7}, "env_steps 7 is less than one rollout; use 8"),
        (
            {"num_envs": 1, "num_steps": 1, "critic_minibatches": 1},
            "num_steps 1 makes a rollout of 1; use 2",
        ),
        ({"actor_lr": 0.0}, "actor_lr is 0.0; it must be greater than 0"),
        ({"critic_lr": -1e-3}, "critic_lr is -0.001; it must be greater than 0"),
        ({"actor_lr": math.nan}, "actor_lr is nan; it must be greater than 0"),
        ({"max_grad_norm": 0}, "max_grad_norm is 0; it must be greater than 0"),
        ({"adam_eps": 0.0}, "adam_eps is 0.0; it must be greater than 0"),
        ({"critic_adam_eps": -1e-8}, "critic_adam_eps is -1e-08; it must be greater than 0"),
        ({"value_clip": 0.0}, "value_clip is 0.0; it must be greater than 0"),
        ({"discount": 1.01}, r"discount is 1.01; it must lie in \[0, 1\]"),
        ({"discount": math.nan}, r"discount is nan; it must lie in \[0, 1\]"),
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
        {"critic_minibatches": 4},
        {"critic_minibatches": 1},
        {"value_clip": None},
        {"policy_steps": 1, "critic_epochs": 1},
        {"discount": 1.0, "gae_lambda": 0.0},
        {"activation": "relu"},
        {"hidden": (1,)},
    ):
        config = Config(**SMALL | changes)
        assert config.rollout_size == 8
        assert config.iterations == 1
    two_transitions = {"num_envs": 1, "num_steps": 2, "critic_minibatches": 1}
    assert Config(**SMALL | two_transitions).iterations == 4


def test_derived_sizes():
    # 1000 // (2 * 4) = 125 iterations. The largest of 4, 2, 1 that divides the minibatches.
    config = Config(**SMALL | {"env_steps": 1000})
    assert (config.rollout_size, config.iterations) == (8, 125)
    for minibatches, per_call in ((6, 2), (8, 4), (5, 1), (4, 4), (1, 1)):
        config = Config(num_envs=10, num_steps=24, critic_minibatches=minibatches)
        assert config.minibatches_per_call == per_call
