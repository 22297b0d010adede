"""CSVE: settings against the fact sheet's table, its two forms, and what its Config refuses."""

import dataclasses
import math

import pytest

from rlsuite.algorithms.offline import csve
from rlsuite.algorithms.offline.csve import Config
from rlsuite.runs.settings import preset

# Section 3, the paper's column; what it does not have is the code's, or ours
PAPER = {
    "members": 5, "alpha": 10.0, "budget": 10.0, "penalty": 1.0, "alpha_lr": 1e-4,
    "temperature": 3.0, "max_weight": 100.0, "bonus": 0.0, "actor_lr": 3e-4, "critic_lr": 1e-4,
    "batch_size": 256, "discount": 0.99, "polyak": 0.005, "gradient_steps": 1_000_000,
    "bonus_reward": True, "next_states": False, "mean_actions": False, "clip_states": None,
    "inverse_std": False, "spectral_norm": False, "dynamics": None, "model_steps": 300_000,
    "model_lr": 1e-3, "model_batch_size": 100, "model_hidden": (200, 200, 200, 200),
    "steps_per_iteration": 1000, "hidden": (256, 256),
}  # fmt: skip
# The released script, and section 2c
RELEASED = {
    "budget": -10.0, "temperature": 30.0, "max_weight": 1000.0, "actor_lr": 3e-3,
    "critic_lr": 3e-3, "gradient_steps": 100_000, "bonus_reward": False, "next_states": True,
    "mean_actions": True, "clip_states": 10.0, "inverse_std": True, "spectral_norm": True,
}  # fmt: skip
GYM, HANDS = ("HalfCheetah", "Hopper", "Walker2d"), ("Pen", "Hammer", "Door", "Relocate")


def config_of(name: str, task: str, dataset: str | None = None) -> dict:
    return dataclasses.asdict(Config(**preset(csve, name, task, dataset)))


def test_the_papers_form_is_the_default_and_the_released_one_says_what_differs():
    assert dataclasses.asdict(Config()) == PAPER
    assert config_of("d4rl", "Own-v0") == PAPER
    assert config_of("released", "Hopper-v4", "hopper-medium-v2") == PAPER | RELEASED
    assert set(csve.PRESETS["released"]["*"]) == set(RELEASED)


@pytest.mark.parametrize("task", GYM)
def test_beta_of_every_locomotion_set(task):
    for level in ("random", "medium", "medium-replay", "medium-expert", "expert"):
        beta = 3.0 if level in ("random", "medium") else 0.1
        dataset = f"deep-ope/{task.lower()}/{level}-v0"
        assert config_of("d4rl", f"{task}-v4", dataset) == PAPER | {"temperature": beta}


@pytest.mark.parametrize("hand", HANDS)
def test_beta_and_steps_of_every_hand_set(hand):
    for level, beta in (("human", 30.0), ("cloned", 30.0), ("expert", 0.01)):
        task = f"gymnasium_robotics:AdroitHand{hand}-v1"
        found = config_of("d4rl", task, f"D4RL/{hand.lower()}/{level}-v2")
        assert found == PAPER | {"temperature": beta, "gradient_steps": 100_000}


def test_no_preset_goes_unchecked():
    assert set(csve.PRESETS) == {"d4rl", "released", "smoke"}
    levels = ("medium-replay", "medium-expert", "expert")
    sets = {f"{task}/{level}" for task in GYM for level in levels}
    sets |= {f"AdroitHand{hand}{part}" for hand in HANDS for part in ("", "/expert")}
    assert set(csve.PRESETS["d4rl"]) == {"*"} | sets
    smoke = Config(**preset(csve, "smoke", "Own-v0"))
    assert smoke.bonus > 0 and smoke.gradient_steps < 1000


UNIT = r"it must lie in \[0, 1\]"
REFUSED = [
    ({"alpha": 0.0}, "alpha is 0.0; it must be greater than 0"),
    ({"alpha_lr": 0.0}, "alpha_lr is 0.0; it must be greater than 0"),
    ({"actor_lr": -1.0}, "actor_lr is -1.0; it must be greater than 0"),
    ({"critic_lr": 0.0}, "critic_lr is 0.0; it must be greater than 0"),
    ({"model_lr": 0.0}, "model_lr is 0.0; it must be greater than 0"),
    ({"max_weight": 0.0}, "max_weight is 0.0; it must be greater than 0"),
    ({"clip_states": 0.0}, "clip_states is 0.0; it must be greater than 0"),
    ({"penalty": -1.0}, "penalty is -1.0; it must be 0 or greater"),
    ({"bonus": -0.1}, "bonus is -0.1; it must be 0 or greater"),
    ({"temperature": math.inf}, "temperature is inf; it must be 0 or greater"),
    ({"budget": math.nan}, "budget is nan; it must"),
    ({"budget": math.inf}, "budget is inf; it must"),
    ({"discount": 1.5}, f"discount is 1.5; {UNIT}"),
    ({"polyak": -0.1}, f"polyak is -0.1; {UNIT}"),
    ({"members": 0}, "members is 0; it must be 1 or more"),
    ({"model_hidden": ()}, r"model_hidden is \(\); it must be 1 or more"),
    ({"model_batch_size": 0}, "model_batch_size is 0; it must be 1 or more"),
    ({"model_steps": 1500}, "model_steps is 1500, no multiple .* 1000; use 2000"),
    ({"model_steps": 0}, "model_steps is 0; name a run .* --dynamics FOLDER"),
    ({"batch_size": 0}, "batch_size is 0; it must be 1 or more"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_impossible_settings_are_refused_by_value_with_a_way_out(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_what_is_next_to_the_refused_is_accepted():
    Config(budget=-10.0, penalty=0.0, bonus=0.0, temperature=0.0, clip_states=1e-9)
    Config(model_steps=0, dynamics="runs/other")
