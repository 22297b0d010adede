"""CFPI: settings against the fact sheet's tables, and what its Config refuses."""

import dataclasses
import math

import pytest

from rlsuite.algorithms.offline import cfpi
from rlsuite.algorithms.offline.cfpi import Config
from rlsuite.runs.settings import preset

# Section 4: Gym-MuJoCo one-step
ONE_STEP = {
    "operator": "better", "log_tau": 0.5, "delta": 0.1, "components": 4, "min_weight": 0.05,
    "rules": "mended", "quantiles": 8, "on": None, "train_critic": False,
    "behaviour_steps": 500_000, "behaviour_lr": 1e-4, "critic_lr": 3e-4, "gradient_steps": 400_000,
    "improvement_steps": 0, "round_steps": 0, "target_noise": 0.1, "noise_clip": 0.5,
    "discount": 0.99, "polyak": 0.005, "reward_shift": 0.0, "batch_size": 256,
    "steps_per_iteration": 1000, "normalize_obs": True, "hidden": (256, 256, 256),
}  # fmt: skip
# AntMaze: 8 components, log tau 1.5, r - 1, raw states, 1M steps of which the first 20k are SARSA
MAZE = {"components": 8, "log_tau": 1.5, "normalize_obs": False, "reward_shift": -1.0}
MAZE |= {"gradient_steps": 20_000, "improvement_steps": 980_000}
# Table 16, thousands
STEPS = {
    ("HalfCheetah", "medium"): 200, ("Hopper", "medium"): 400, ("Walker2d", "medium"): 700,
    ("HalfCheetah", "medium-replay"): 1500, ("Hopper", "medium-replay"): 300,
    ("Walker2d", "medium-replay"): 1100, ("HalfCheetah", "medium-expert"): 400,
    ("Hopper", "medium-expert"): 400, ("Walker2d", "medium-expert"): 400,
}  # fmt: skip


def config_of(name: str, task: str, dataset: str | None = None) -> dict:
    return dataclasses.asdict(Config(**preset(cfpi, name, task, dataset)))


def test_defaults_are_the_one_step_settings():
    assert dataclasses.asdict(Config()) == ONE_STEP
    assert config_of("d4rl", "Own-v0") == ONE_STEP


@pytest.mark.parametrize(("family", "level"), STEPS)
def test_sarsa_steps_of_every_data_set_and_the_one_log_tau_that_differs(family, level):
    steps = {"gradient_steps": 1000 * STEPS[family, level]}
    log_tau = {"log_tau": 0.0 if (family, level) == ("Hopper", "medium-expert") else 0.5}
    for dataset in (
        f"deep-ope/{family.lower()}/{level}-v0",
        f"/data/{family.lower()}_{level}-v2.hdf5",
    ):
        found = config_of("d4rl", f"{family}-v4", dataset)
        assert found == ONE_STEP | steps | log_tau
        single = {"operator": "single", "components": 1}
        assert config_of("single", f"{family}-v4", dataset) == ONE_STEP | steps | single
        released = {"rules": "released"} | log_tau
        assert config_of("released", f"{family}-v4", dataset) == ONE_STEP | steps | released
        rounds = {"components": 12, "improvement_steps": 1_000_000, "round_steps": 200_000}
        assert config_of("multi-step", f"{family}-v4", dataset) == ONE_STEP | steps | rounds


def test_antmaze_is_iterative():
    for task in ("AntMaze-v0", "gymnasium_robotics:AntMaze_Large-v4"):
        assert config_of("d4rl", task) == ONE_STEP | MAZE
    found = Config(**preset(cfpi, "d4rl", "AntMaze-v0"))
    assert [count for count, _ in found.stages.values()] == [500, 20, 980]


def test_no_preset_goes_unchecked():
    assert set(cfpi.PRESETS) == {"d4rl", "single", "multi-step", "released", "smoke"}
    sets = {f"{family}/{level}" for family, level in STEPS}
    for table in cfpi.PRESETS.values():
        assert set(table) <= {"*", "AntMaze", *sets}
    assert Config(**preset(cfpi, "smoke", "Own-v0")).improvement_steps > 0


def counts(**changes) -> tuple[list[int], int, str]:
    """Iterations of behaviour, SARSA and improvement; steps and variant as declared."""
    config = Config(**changes)
    assert all(each == 1000 for _, each in config.stages.values())
    stages = [count for count, _ in config.stages.values()]
    return stages, config.declared.steps, config.declared.variant


def test_stages_and_variants():
    assert counts() == ([500, 400, 0], 400_000, "")
    assert counts(improvement_steps=3000) == ([500, 400, 3], 403_000, "")
    # On a finished run: one step, of nothing that is trained
    assert counts(on="runs/other") == ([0, 0, 0], 1, "on")
    assert counts(on="runs/other", train_critic=True) == ([0, 400, 0], 400_000, "on")
    assert counts(quantiles=0)[2] == "twins"  # no published value is of plain critics
    assert counts(operator="single", components=1)[2] == "single"
    assert counts(operator="modes", quantiles=0)[2] == "modes-twins"
    assert counts(on="runs/other", operator="single", quantiles=0)[2] == "on-single"


UNIT = r"it must lie in \[0, 1\]"
REFUSED = [
    ({"operator": "best"}, "operator 'best' is unknown; use one of: single"),
    ({"rules": "other"}, "rules 'other' is unknown; use one of: mended, paper, released"),
    ({"operator": "single"}, "operator single starts from one Gaussian, and components is 4; use"),
    ({"operator": "deterministic"}, "use --components 1, or --operator better"),
    ({"components": 0}, "components is 0; it must be 1 or more"),
    ({"log_tau": -0.1}, "log_tau is -0.1; it must be 0 or greater"),
    ({"log_tau": math.inf}, "log_tau is inf; it must be 0 or greater"),
    ({"delta": -1.0}, "delta is -1.0; it must be 0 or greater"),
    ({"min_weight": 1.5}, f"min_weight is 1.5; {UNIT}"),
    ({"quantiles": -1}, "quantiles is -1; it must be 0 or greater"),
    ({"hidden": (256,)}, r"hidden is \(256,\); quantiles need two layers or --quantiles 0"),
    ({"train_critic": True}, "train_critic is for another run's policy; add --on FOLDER"),
    ({"behaviour_steps": 0}, "behaviour_steps is 0; name a run that has a policy: --on FOLDER"),
    ({"behaviour_steps": 1500}, "behaviour_steps is 1500, no multiple .* 1000; use 2000"),
    ({"improvement_steps": 500}, "improvement_steps is 500, no multiple .* 1000; use 1000"),
    ({"round_steps": 2000}, "improvement_steps is 0; it must be greater than 0"),
    (
        {"round_steps": 2000, "improvement_steps": 5000},
        "improvement_steps is 5000, no multiple of round_steps 2000; use 4000",
    ),
    ({"behaviour_lr": 0.0}, "behaviour_lr is 0.0; it must be greater than 0"),
    ({"critic_lr": -1.0}, "critic_lr is -1.0; it must be greater than 0"),
    ({"noise_clip": 0.0}, "noise_clip is 0.0; it must be greater than 0"),
    ({"target_noise": -0.1}, "target_noise is -0.1; it must be 0 or greater"),
    ({"discount": 1.01}, f"discount is 1.01; {UNIT}"),
    ({"polyak": 2.0}, f"polyak is 2.0; {UNIT}"),
    ({"batch_size": 0}, "batch_size is 0; it must be 1 or more"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_impossible_settings_are_refused_by_value_with_a_way_out(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_what_is_next_to_the_refused_is_accepted():
    Config(operator="single", components=1, min_weight=0.0, log_tau=0.0, target_noise=0.0)
    Config(operator="single", on="runs/iql")  # its policy has one component whatever is typed
    Config(quantiles=0, hidden=(8,), round_steps=1000, improvement_steps=2000)
    Config(behaviour_steps=0, on="runs/iql", train_critic=True)
