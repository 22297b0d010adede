"""The offline algorithms: numbers against the fact sheets' tables, and what Config refuses."""

import dataclasses
import math
import re

import pytest

from rlsuite.algorithms.offline import a2pr, awac, bc, iql, spot, td3_bc
from rlsuite.runs.settings import field_comments, preset

MODULES = (bc, td3_bc, iql, spot, awac, a2pr)


def short(module) -> str:
    return module.__name__.rsplit(".", 1)[-1]


EVERY = pytest.mark.parametrize("module", MODULES, ids=short)


def config_of(module, name: str, task: str, dataset: str | None = None) -> dict:
    return dataclasses.asdict(module.Config(**preset(module, name, task, dataset)))


# -------------------------------------------------------------------------- the sheets' tables

# What all of them share: batches of 256, a million steps, two hidden layers of 256
COMMON = {"batch_size": 256, "gradient_steps": 1_000_000, "hidden": (256, 256)}
COMMON |= {"steps_per_iteration": 1000}  # ours
# Baselines, sections 1 and 2
BC = COMMON | {"best_fraction": 1.0, "learning_rate": 3e-4, "normalize_obs": True}
TD3_BC = COMMON | {
    "alpha": 2.5, "actor_lr": 3e-4, "critic_lr": 3e-4, "discount": 0.99, "polyak": 0.005,
    "policy_noise": 0.2, "noise_clip": 0.5, "policy_freq": 2, "normalize_obs": True,
}  # fmt: skip
# Baselines, section 4: MuJoCo, and what AntMaze changes
IQL = COMMON | {
    "expectile": 0.7, "temperature": 3.0, "max_weight": 100.0, "scale_rewards": True,
    "reward_shift": 0.0, "discount": 0.99, "polyak": 0.005, "actor_lr": 3e-4, "critic_lr": 3e-4,
    "anneal_lr": True, "log_std_min": -5.0, "log_std_max": 2.0, "action_margin": 1e-5,
    "normalize_obs": False,
}  # fmt: skip
# Whatever is not one of its three locomotion tasks keeps its rewards; Kitchen and Adroit: beta 0.5
IQL_RAW = IQL | {"scale_rewards": False}
IQL_MAZE = {"expectile": 0.9, "temperature": 10.0, "scale_rewards": False, "reward_shift": -1.0}
# SPOT, section 3: the VAE, the common column, MuJoCo; what AntMaze changes
SPOT = COMMON | {
    "density_lr": 1e-3, "density_steps": 100_000, "density_beta": 0.5, "density_hidden": 750,
    "density": None, "discount": 0.99, "polyak": 0.005, "policy_noise": 0.2, "noise_clip": 0.5,
    "policy_freq": 2, "normalize_q": True, "actor_lr": 3e-4, "critic_lr": 3e-4, "dropout": 0.1,
    "actor_last": None, "critic_last": None, "normalize_obs": True, "reward_shift": 0.0,
    "online_steps": 0, "exploration_noise": 0.1, "support_weight_floor": 0.2,
    "cooling_steps": 1_000_000,
}  # fmt: skip
SPOT_MAZE = {
    "actor_lr": 1e-4, "dropout": 0.0, "actor_last": 1e-3, "critic_last": 3e-3,
    "normalize_obs": False, "reward_shift": -1.0,
}  # fmt: skip
# Section 3: CORL's AWAC; the AWAC of MCEP's code, by its configs and by its paper
AWAC = COMMON | {
    "temperature": 0.3333, "max_weight": 100.0, "squashed": False, "scale_rewards": False,
    "reward_factor": 1.0, "reward_shift": 0.0, "discount": 0.99, "polyak": 0.005,
    "actor_lr": 3e-4, "critic_lr": 3e-4, "action_margin": 0.0, "normalize_obs": True,
    "hidden": (256, 256, 256),
}  # fmt: skip
MCEP = AWAC | {
    "temperature": 0.1, "squashed": True, "actor_lr": 3e-5, "normalize_obs": False,
    "action_margin": 1e-5, "hidden": (256, 256),
}  # fmt: skip
# A2PR, section 3: what all sets share, and one setting for all of them
A2PR = COMMON | {
    "alpha": 2.5, "vae_weight": 1.0, "imitation_weight": 1.0, "threshold": 0.0,
    "candidate": "encoder", "kl_weight": 0.5, "discount": 0.99, "polyak": 0.005,
    "policy_noise": 0.2, "noise_clip": 0.5, "policy_freq": 2, "actor_lr": 3e-4, "critic_lr": 3e-4,
    "vae_lr": 1e-3, "normalize_obs": True, "hidden": (256,) * 3, "critic_hidden": (256,) * 4,
    "vae_hidden": 750,
}  # fmt: skip
A2PR_SETS = {  # alpha, w_1, w_2, gamma
    ("HalfCheetah-v4", "medium"): (40, 1.0, 1.0, 0.99),
    ("HalfCheetah-v4", "medium-replay"): (40, 1.5, 0.8, 0.995),
    ("HalfCheetah-v4", "medium-expert"): (40, 1.0, 10.0, 0.99),
    ("Hopper-v4", "random"): (2.5, 1.5, 1.5, 0.995),
    ("Hopper-v4", "medium"): (2.5, 1.0, 0.4, 0.995),
    ("Hopper-v4", "medium-replay"): (2.5, 1.5, 0.5, 0.99),
    ("Hopper-v4", "medium-expert"): (2.5, 1.0, 4.0, 0.99),
    ("Walker2d-v4", "medium"): (2.5, 1.5, 1.0, 0.99),
    ("Walker2d-v4", "medium-replay"): (2.5, 1.5, 1.2, 0.995),
    ("Walker2d-v4", "medium-expert"): (2.5, 1.0, 0.8, 0.99),
}
LAMBDA = {
    ("HalfCheetah-v4", "medium"): 0.05, ("HalfCheetah-v4", "medium-replay"): 0.05,
    ("HalfCheetah-v4", "medium-expert"): 1.0, ("Hopper-v4", "medium"): 0.1,
    ("Hopper-v4", "medium-replay"): 0.1, ("Hopper-v4", "medium-expert"): 0.2,
    ("Walker2d-v4", "medium"): 0.2, ("Walker2d-v4", "medium-replay"): 0.2,
    ("Walker2d-v4", "medium-expert"): 0.5, ("AntMaze-v2", "umaze"): 0.25,
    ("AntMaze-v2", "umaze-diverse"): 0.25, ("AntMaze-v2", "medium-play"): 0.05,
    ("AntMaze-v2", "medium-diverse"): 0.025, ("AntMaze-v2", "large-play"): 0.025,
    ("AntMaze-v2", "large-diverse"): 0.025,
}  # fmt: skip


@pytest.mark.parametrize("task", ["Hopper-v4", "Walker2d-v5", "HalfCheetah-v4", "Own-v0"])
def test_d4rl_is_the_sheets_settings(task):
    assert config_of(bc, "d4rl", task) == BC
    assert config_of(bc, "d4rl-10-percent", task) == BC | {"best_fraction": 0.1}
    assert config_of(td3_bc, "d4rl", task) == TD3_BC
    assert config_of(iql, "d4rl", task) == (IQL_RAW if task == "Own-v0" else IQL)
    assert config_of(spot, "d4rl", task) == SPOT | {"support_weight": 0.1}


@pytest.mark.parametrize(
    "task",
    [f"gymnasium_robotics:AdroitHand{kind}-v1" for kind in ("Pen", "Hammer", "Door", "Relocate")]
    + ["FrankaKitchen-v1"],
)
def test_iql_on_adroit_and_kitchen_has_their_temperature_and_raw_rewards(task):
    assert config_of(iql, "d4rl", task) == IQL_RAW | {"temperature": 0.5}


def test_defaults_are_the_mujoco_settings():
    expected_of = ((bc, BC), (td3_bc, TD3_BC), (iql, IQL), (awac, AWAC), (a2pr, A2PR))
    for module, expected in expected_of:
        assert dataclasses.asdict(module.Config()) == expected
    assert dataclasses.asdict(spot.Config()) == SPOT | {"support_weight": 0.1}


def test_antmaze_is_the_sheets_settings():
    assert config_of(iql, "d4rl", "AntMaze-v2") == IQL | IQL_MAZE
    assert config_of(iql, "d4rl", "AntMaze_UMaze-v5") == IQL | IQL_MAZE  # as Gymnasium has it
    assert config_of(iql, "d4rl", "AntMaze-v2", "antmaze-umaze-v2") == IQL | IQL_MAZE
    typed = "gymnasium_robotics:AntMaze_Large-v4"  # how the task must be named
    assert config_of(iql, "d4rl", typed) == IQL | IQL_MAZE
    found = config_of(spot, "d4rl", typed, "D4RL/antmaze/large-play-v1")
    assert found == SPOT | SPOT_MAZE | {"support_weight": 0.025}
    found = config_of(spot, "d4rl", "AntMaze-v2", "antmaze-umaze-v2")
    assert found == SPOT | SPOT_MAZE | {"support_weight": 0.25}


def test_awac_has_corls_settings_and_mceps_in_code_and_paper():
    sparse = AWAC | {"temperature": 0.1}
    assert config_of(awac, "d4rl", "Hopper-v4") == AWAC
    assert config_of(awac, "d4rl", "AntMaze-v2") == sparse | {"reward_shift": -1.0}
    assert config_of(awac, "d4rl", "PointMaze_UMaze-v3") == sparse
    for kind in ("Pen", "Hammer", "Door", "Relocate"):
        assert config_of(awac, "d4rl", f"AdroitHand{kind}-v1") == sparse
    for name, temperature in (("mcep", 0.1), ("mcep-paper", 1.0)):
        expected = MCEP | {"temperature": temperature}
        assert config_of(awac, name, "Own-v0") == expected
        assert config_of(awac, name, "AntMaze-v2") == expected | {"reward_factor": 100.0}
        for task in ("HalfCheetah-v4", "Hopper-v5", "Walker2d-v4"):
            assert config_of(awac, name, task) == expected | {"scale_rewards": True}


@pytest.mark.parametrize(("task", "level"), A2PR_SETS)
def test_a2pr_of_every_data_set_and_one_setting_for_all(task, level):
    names = ("alpha", "vae_weight", "imitation_weight", "discount")
    published = dict(zip(names, A2PR_SETS[task, level], strict=True))
    family = task.split("-")[0].lower()
    for dataset in (f"deep-ope/{family}/{level}-v0", f"/data/{family}_{level}-v2.hdf5"):
        assert config_of(a2pr, "d4rl", task, dataset) == A2PR | published
        assert config_of(a2pr, "single", task, dataset) == A2PR
    assert all(type(x) is float for x in preset(a2pr, "d4rl", task, f"{level}-v2").values())


def test_a2pr_of_sets_without_published_settings_has_the_defaults():
    for task, level in (("HalfCheetah-v4", "random"), ("Walker2d-v4", "random")):
        assert config_of(a2pr, "d4rl", task, f"x/{level}-v2") == A2PR
    assert config_of(a2pr, "d4rl", "AntMaze-v2", "antmaze-umaze-v2") == A2PR


@pytest.mark.parametrize(("task", "level"), LAMBDA)
def test_lambda_of_every_data_set_whatever_its_name_looks_like(task, level):
    family, underscored = task.split("-")[0].lower(), level.replace("-", "_")
    for dataset in (
        f"deep-ope/{family}/{level}-v0",
        f"{family}-{level}-v2",
        f"/data/{family}_{underscored}-v2.hdf5",
        f"{family}_{underscored}.hdf5",
        f"sets/{level}-v2/",
    ):
        config = config_of(spot, "d4rl", task, dataset)
        maze = SPOT_MAZE if family == "antmaze" else {}
        assert config == SPOT | maze | {"support_weight": LAMBDA[task, level]}, dataset


def test_lambda_by_the_names_of_files():
    for dataset, task, value in (
        ("deep-ope/hopper/medium-replay-v0", "Hopper-v4", 0.1),
        ("deep-ope/hopper/medium-expert-v0", "Hopper-v5", 0.2),
        ("/data/walker2d_medium_expert-v2.hdf5", "Walker2d-v4", 0.5),
        ("/data/halfcheetah_medium_expert-v2.hdf5", "HalfCheetah-v4", 1.0),
    ):
        assert preset(spot, "d4rl", task, dataset)["support_weight"] == value


def test_data_without_a_published_lambda_have_the_default():
    # No config exists for random or expert sets, nor for other tasks
    for dataset, task in (
        ("deep-ope/hopper/random-v0", "Hopper-v4"),
        ("/data/hopper_expert-v2.hdf5", "Hopper-v4"),
        ("deep-ope/ant/medium-v0", "Ant-v4"),
        (None, "HalfCheetah-v4"),
    ):
        assert config_of(spot, "d4rl", task, dataset) == SPOT | {"support_weight": 0.1}


def test_no_preset_goes_unchecked():
    assert [set(module.PRESETS) for module in MODULES] == [
        {"d4rl", "d4rl-10-percent", "smoke"},
        *({"d4rl", "smoke"} for _ in MODULES[1:4]),
        {"d4rl", "mcep", "mcep-paper", "smoke"},
        {"d4rl", "single", "smoke"},
    ]
    lambdas = {f"{task.split('-')[0]}/{level}" for task, level in LAMBDA}
    assert set(spot.PRESETS["d4rl"]) == {"*", "AntMaze", *lambdas}
    locomotion = {"HalfCheetah", "Hopper", "Walker2d"}
    hands = {f"AdroitHand{kind}" for kind in ("Pen", "Hammer", "Door", "Relocate")}
    others = {"*", "AntMaze", "FrankaKitchen"}
    assert set(iql.PRESETS["d4rl"]) == others | locomotion | hands
    assert set(awac.PRESETS["d4rl"]) == {"*", "AntMaze", "PointMaze"} | hands
    for name in ("mcep", "mcep-paper"):
        assert set(awac.PRESETS[name]) == {"*", "AntMaze"} | locomotion
    tuned = {f"{task.split('-')[0]}/{level}" for task, level in A2PR_SETS}
    assert set(a2pr.PRESETS["d4rl"]) == {"*"} | tuned
    for module in MODULES:
        smoke = module.Config(**preset(module, "smoke", "Own-v0"))
        assert smoke.gradient_steps < 1000
        assert smoke.gradient_steps > smoke.steps_per_iteration
    assert spot.Config(**preset(spot, "smoke", "Own-v0")).online_steps > 0


@EVERY
def test_every_field_names_a_source(module):
    sources = re.compile(r"\[.*(paper|code|CORL|ours).*\]$")
    comments = field_comments(module.Config)
    for field in dataclasses.fields(module.Config):
        assert sources.search(comments.get(field.name, "")), field.name


# -------------------------------------------------------------------------------------- refusals


@EVERY
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be 1 or more"),
        ({"gradient_steps": 0}, "gradient_steps is 0; it must be 1 or more"),
        ({"steps_per_iteration": -2}, "steps_per_iteration is -2; it must be 1 or more"),
        ({"hidden": (64, 0)}, r"hidden is \(64, 0\); it must be 1 or more"),
        ({"hidden": ()}, r"hidden is \(\); it must be 1 or more"),
        (
            {"gradient_steps": 2900, "steps_per_iteration": 1000},
            "gradient_steps is 2900, no multiple of steps_per_iteration 1000; use 3000",
        ),
        (
            {"gradient_steps": 300, "steps_per_iteration": 1000},
            "gradient_steps is 300, no multiple of steps_per_iteration 1000; use 1000",
        ),
    ],
)
def test_what_every_algorithm_refuses(module, changes, message):
    with pytest.raises(ValueError, match=message):
        module.Config(**changes)


UNIT = r"it must lie in \[0, 1\]"
ODD = "steps_per_iteration is 1000, no multiple of policy_freq 3; use 999"
REFUSED = [
    (bc, {"best_fraction": 0.0}, "best_fraction is 0.0; it must be greater than 0"),
    (bc, {"best_fraction": 1.5}, f"best_fraction is 1.5; {UNIT}"),
    (bc, {"learning_rate": 0.0}, "learning_rate is 0.0; it must be greater than 0"),
    (td3_bc, {"policy_freq": 0}, "policy_freq is 0; it must be 1 or more"),
    (
        td3_bc,
        {"policy_freq": 3},
        ODD,
    ),
    (td3_bc, {"noise_clip": 0.0}, "noise_clip is 0.0; it must be greater than 0"),
    (td3_bc, {"critic_lr": math.inf}, "critic_lr is inf; it must be greater than 0"),
    (td3_bc, {"discount": 1.01}, f"discount is 1.01; {UNIT}"),
    (td3_bc, {"polyak": -0.1}, f"polyak is -0.1; {UNIT}"),
    (td3_bc, {"alpha": -1.0}, "alpha is -1.0; it must be 0 or greater"),
    (td3_bc, {"alpha": math.inf}, "alpha is inf; it must be 0 or greater"),
    (td3_bc, {"policy_noise": math.nan}, "policy_noise is nan; it must be 0 or greater"),
    (iql, {"expectile": 0.0}, "expectile is 0.0; it must lie between 0 and 1"),
    (iql, {"expectile": 1.0}, "expectile is 1.0; it must lie between 0 and 1"),
    (iql, {"expectile": math.nan}, "expectile is nan; it must lie between 0 and 1"),
    (iql, {"temperature": -1.0}, "temperature is -1.0; it must be 0 or greater"),
    (iql, {"max_weight": 0.0}, "max_weight is 0.0; it must be greater than 0"),
    (iql, {"actor_lr": -1e-3}, "actor_lr is -0.001; it must be greater than 0"),
    (iql, {"discount": 1.5}, f"discount is 1.5; {UNIT}"),
    (iql, {"polyak": 2.0}, f"polyak is 2.0; {UNIT}"),
    (iql, {"action_margin": -1e-5}, f"action_margin is -1e-05; {UNIT}"),
    (iql, {"action_margin": 1.5}, f"action_margin is 1.5; {UNIT}"),
    (
        iql,
        {"log_std_min": 2.0},
        "log_std_min is 2.0; it must lie between -inf and 2",
    ),
    (awac, {"temperature": 0.0}, "temperature is 0.0; it must be greater than 0"),
    (awac, {"max_weight": -1.0}, "max_weight is -1.0; it must be greater than 0"),
    (awac, {"reward_factor": 0.0}, "reward_factor is 0.0; it must be greater than 0"),
    (awac, {"actor_lr": 0.0}, "actor_lr is 0.0; it must be greater than 0"),
    (awac, {"critic_lr": math.nan}, "critic_lr is nan; it must be greater than 0"),
    (awac, {"discount": 1.5}, f"discount is 1.5; {UNIT}"),
    (awac, {"polyak": -0.1}, f"polyak is -0.1; {UNIT}"),
    (awac, {"action_margin": 1.5}, f"action_margin is 1.5; {UNIT}"),
    (awac, {"reward_shift": math.inf}, "reward_shift is inf; it must be a finite number"),
    (a2pr, {"policy_freq": 3}, ODD),
    (a2pr, {"critic_hidden": ()}, r"critic_hidden is \(\); it must be 1 or more"),
    (a2pr, {"vae_hidden": 0}, "vae_hidden is 0; it must be 1 or more"),
    (
        a2pr,
        {"candidate": "policy"},
        "candidate 'policy' is unknown; use one of: encoder, detached, prior",
    ),
    (a2pr, {"noise_clip": 0.0}, "noise_clip is 0.0; it must be greater than 0"),
    (a2pr, {"actor_lr": 0.0}, "actor_lr is 0.0; it must be greater than 0"),
    (a2pr, {"critic_lr": 0.0}, "critic_lr is 0.0; it must be greater than 0"),
    (a2pr, {"vae_lr": -1.0}, "vae_lr is -1.0; it must be greater than 0"),
    (a2pr, {"discount": 1.01}, f"discount is 1.01; {UNIT}"),
    (a2pr, {"polyak": -0.1}, f"polyak is -0.1; {UNIT}"),
    (a2pr, {"alpha": -1.0}, "alpha is -1.0; it must be 0 or greater"),
    (a2pr, {"policy_noise": -0.1}, "policy_noise is -0.1; it must be 0 or greater"),
    (a2pr, {"kl_weight": -0.1}, "kl_weight is -0.1; it must be 0 or greater"),
    (a2pr, {"vae_weight": math.inf}, "vae_weight is inf; it must be 0 or greater"),
    (a2pr, {"imitation_weight": -1.0}, "imitation_weight is -1.0; it must be 0 or greater"),
    (a2pr, {"threshold": math.nan}, "threshold is nan; it must be 0 or greater"),
    (spot, {"density_hidden": 0}, "density_hidden is 0; it must be 1 or more"),
    (spot, {"cooling_steps": 0}, "cooling_steps is 0; it must be 1 or more"),
    (
        spot,
        {"policy_freq": 3},
        ODD,
    ),
    (spot, {"density_steps": 1500}, "density_steps is 1500, no multiple .* 1000; use 2000"),
    (spot, {"online_steps": 400}, "online_steps is 400, no multiple .* 1000; use 1000"),
    (spot, {"online_steps": -1000}, "online_steps is -1000; it must be 0 or greater"),
    (spot, {"density_steps": 0}, "density_steps is 0; name a run .* --density FOLDER"),
    (spot, {"density_beta": 0.0}, "density_beta is 0.0; it must be greater than 0"),
    (spot, {"density_lr": 0.0}, "density_lr is 0.0; it must be greater than 0"),
    (spot, {"actor_lr": 0.0}, "actor_lr is 0.0; it must be greater than 0"),
    (spot, {"critic_lr": -1.0}, "critic_lr is -1.0; it must be greater than 0"),
    (spot, {"noise_clip": 0.0}, "noise_clip is 0.0; it must be greater than 0"),
    (spot, {"actor_last": 0.0}, "actor_last is 0.0; it must be greater than 0"),
    (spot, {"critic_last": -1e-3}, "critic_last is -0.001; it must be greater than 0"),
    (spot, {"discount": -0.1}, f"discount is -0.1; {UNIT}"),
    (spot, {"polyak": 1.1}, f"polyak is 1.1; {UNIT}"),
    (spot, {"support_weight_floor": 1.1}, f"support_weight_floor is 1.1; {UNIT}"),
    (spot, {"support_weight": -0.1}, "support_weight is -0.1; it must be 0 or greater"),
    (spot, {"policy_noise": -0.1}, "policy_noise is -0.1; it must be 0 or greater"),
    (spot, {"exploration_noise": math.inf}, "exploration_noise is inf; it must be 0 or greater"),
    (spot, {"dropout": 1.0}, "dropout is 1.0; it must be less than 1"),
    (spot, {"dropout": -0.1}, f"dropout is -0.1; {UNIT}"),
]


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    REFUSED,
    ids=[f"{short(module)}-{next(iter(changes))}" for module, changes, _ in REFUSED],
)
def test_impossible_settings_are_refused_by_value_with_a_way_out(module, changes, message):
    with pytest.raises(ValueError, match=message):
        module.Config(**changes)


def test_what_is_next_to_the_refused_is_accepted():
    bc.Config(best_fraction=1e-3, hidden=(1,))
    td3_bc.Config(alpha=0.0, policy_noise=0.0, discount=1.0, polyak=1.0, policy_freq=1)
    td3_bc.Config(policy_freq=3, steps_per_iteration=999, gradient_steps=999)
    iql.Config(expectile=0.01, temperature=0.0, polyak=0.0, action_margin=0.0, discount=0.0)
    awac.Config(action_margin=0.0, polyak=1.0, discount=0.0, reward_shift=-1.0, max_weight=1e-3)
    a2pr.Config(alpha=0.0, vae_weight=0.0, imitation_weight=0.0, threshold=1.0, policy_freq=1)
    a2pr.Config(kl_weight=0.0, policy_noise=0.0, candidate="prior")
    spot.Config(support_weight=0.0, dropout=0.0, exploration_noise=0.0, support_weight_floor=0.0)
    spot.Config(actor_last=1e-9, critic_last=None, online_steps=1000)


def test_a_stage_of_spot_is_whole_iterations():
    config = spot.Config(steps_per_iteration=500)
    assert config.stage(config.density_steps) == (200, 500)  # 100,000 / 500
