"""MCEP's numbers against the fact sheet's table, and what Config refuses."""

import dataclasses

import pytest

from rlsuite.algorithms.offline import mcep
from rlsuite.algorithms.offline.mcep import Config
from rlsuite.runs.settings import preset

# Section 3: on TD3+BC, and what Adroit changes; on AWAC
TD3_BC = {
    "base": "td3_bc", "target_alpha": 2.5, "evaluation_alpha": 10.0, "normalize_error": False,
    "policy_noise": 0.2, "noise_clip": 0.5, "target_lambda": 1.0, "evaluation_lambda": 0.6,
    "max_weight": 1000.0, "max_value": 10_000.0, "policy_freq": 2, "scale_rewards": False,
    "reward_factor": 1.0, "action_margin": 1e-5, "discount": 0.99, "polyak": 0.005,
    "actor_lr": 3e-4, "critic_lr": 3e-4, "batch_size": 256, "gradient_steps": 1_000_000,
    "steps_per_iteration": 1000, "normalize_obs": True, "hidden": (256, 256),
}  # fmt: skip
AWAC = TD3_BC | {"base": "awac", "policy_freq": 1, "actor_lr": 3e-5, "normalize_obs": False}
HANDS = {
    "d4rl": {"target_alpha": 10.0, "evaluation_alpha": 100.0, "normalize_error": True},
    "awac": {"max_weight": 100.0, "max_value": 100.0},
}


@pytest.mark.parametrize(("name", "expected"), [("d4rl", TD3_BC), ("awac", AWAC)])
def test_both_bases_have_the_settings_of_the_sheet(name, expected):
    def config_of(task: str) -> dict:
        return dataclasses.asdict(Config(**preset(mcep, name, task)))

    assert config_of("Own-v0") == expected
    assert config_of("AntMaze-v2") == expected | {"reward_factor": 100.0}
    for task in ("HalfCheetah-v4", "Hopper-v5", "Walker2d-v4"):
        assert config_of(task) == expected | {"scale_rewards": True}
    for kind in ("Pen", "Hammer", "Door", "Relocate"):
        task = f"gymnasium_robotics:AdroitHand{kind}-v1"
        assert config_of(task) == expected | HANDS[name]
    assert set(mcep.PRESETS) == {"d4rl", "awac", "smoke"}
    assert len(mcep.PRESETS[name]) == 9


def test_mcep_on_awac_is_a_variant():
    assert Config().declared.variant == ""
    assert Config(base="awac").declared.variant == "awac"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "iql"}, "base 'iql' is unknown; use one of: td3_bc, awac"),
        (
            {"evaluation_lambda": 0.1},
            "evaluation_lambda does nothing on base td3_bc; type --preset awac",
        ),
        (
            {"base": "awac", "policy_noise": 0.1},
            "policy_noise does nothing on base awac; type --preset d4rl",
        ),
        (
            {"policy_freq": 3},
            "steps_per_iteration is 1000, no multiple of policy_freq 3; use 999",
        ),
        ({"evaluation_alpha": -1.0}, "evaluation_alpha is -1.0; it must be 0 or greater"),
        ({"base": "awac", "target_lambda": 0.0}, "target_lambda is 0.0; it must be greater"),
        (
            {"gradient_steps": 1500},
            "gradient_steps is 1500, no multiple of steps_per_iteration 1000",
        ),
    ],
)
def test_what_cannot_work_or_does_nothing_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
