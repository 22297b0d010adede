"""Numbers of SAC and off-policy MDPO against the fact sheets' tables, and what Config refuses."""

import dataclasses

import pytest

from rlsuite.algorithms.off_policy import mdpo_off, sac
from rlsuite.cli import flags
from rlsuite.cli.main import main
from rlsuite.runs.settings import preset

MODULES = pytest.mark.parametrize("module", [sac, mdpo_off])

# SAC, section 3: the same everywhere
COMMON = {
    "discount": 0.99, "polyak": 0.005, "capacity": 1_000_000, "hidden": (256, 256), "num_envs": 1,
    "batch_size": 256, "updates_per_step": 1.0, "env_steps": 1_000_000,
    "steps_per_iteration": 1000,  # ours
}  # fmt: skip
CLEANRL = COMMON | {
    "temperature": 1.0, "temperature_lr": 1e-3, "actor_lr": 3e-4, "critic_lr": 1e-3,
    "policy_delay": 2, "log_std_map": "tanh", "warm_up": 5000,
}  # fmt: skip
SOFTLEARNING = CLEANRL | {
    "temperature_lr": 3e-4, "critic_lr": 3e-4, "policy_delay": 1, "log_std_map": "clip",
    "warm_up": 10_000,
}  # fmt: skip
FIXED = {"temperature": 0.2, "temperature_lr": 0.0}
TIANSHOU = SOFTLEARNING | FIXED | {"actor_lr": 1e-3, "critic_lr": 1e-3}
# MDPO, section 4, off-policy: the column of the official code
MDPO = COMMON | {
    "kl_coef": 1.0, "temperature": 0.2, "tsallis_q": 1.0, "refresh_every": 1000, "actor_lr": 3e-4,
    "critic_lr": 3e-4, "policy_delay": 1, "log_std_map": "clip", "warm_up": 10_000,
}  # fmt: skip


def config_of(module, name: str, task: str = "Hopper-v4") -> dict:
    return dataclasses.asdict(module.Config(**preset(module, name, task)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mujoco", CLEANRL),
        ("original", SOFTLEARNING),
        ("fixed", TIANSHOU),
        ("twin", SOFTLEARNING | FIXED | {"critic_lr": 3e-4}),
    ],
)
def test_sacs_presets_are_the_sheets_columns(name, expected):
    found = config_of(sac, name)
    if name in ("fixed", "twin"):
        assert found.pop("temperature_lr") == 0
        expected = {k: v for k, v in expected.items() if k != "temperature_lr"}
    assert found == expected


def test_the_zoos_preset_is_its_defaults_and_what_three_tasks_change():
    # Its default of 100 warm-up steps is overridden for all MuJoCo tasks
    for family in ("HalfCheetah", "Hopper", "Walker2d", "Ant"):
        assert config_of(sac, "zoo", f"{family}-v4") == SOFTLEARNING
    assert config_of(sac, "zoo", "Humanoid-v4") == SOFTLEARNING | {"env_steps": 2_000_000}
    assert config_of(sac, "zoo", "Swimmer-v4") == SOFTLEARNING | {"discount": 0.999}
    rates = dict.fromkeys(("actor_lr", "critic_lr", "temperature_lr"), 1e-3)
    pendulum = {"env_steps": 20_000, "warm_up": 100, "steps_per_iteration": 100} | rates
    assert config_of(sac, "zoo", "Pendulum-v1") == SOFTLEARNING | pendulum
    with pytest.raises(ValueError, match="zoo"):
        preset(sac, "zoo", "Own-v0")


def test_mdpos_defaults_are_the_official_codes():
    assert config_of(mdpo_off, "mujoco") == MDPO


@pytest.mark.parametrize(
    ("family", "q"),
    [
        ("Hopper", 1.0), ("HalfCheetah", 1.0), ("Humanoid", 1.2), ("HumanoidStandup", 1.4),
        ("Walker2d", 2.0), ("Ant", 2.0),
    ],
)  # fmt: skip
def test_the_tsallis_preset_has_the_papers_best_q(family, q):
    assert config_of(mdpo_off, "tsallis", f"{family}-v4") == MDPO | {"tsallis_q": q}


def test_sacs_twin_has_what_mdpo_has():
    twin, ours = config_of(sac, "twin"), config_of(mdpo_off, "mujoco")
    del twin["temperature_lr"]
    for name in ("kl_coef", "tsallis_q", "refresh_every"):
        del ours[name]
    assert twin == ours


# ------------------------------------------------------------------------------ what is refused

REFUSED = [
    ({"updates_per_step": 0.0}, "updates_per_step is 0.0; it must be greater than 0"),
    ({"updates_per_step": -1.0}, "updates_per_step is -1.0; it must be greater than 0"),
    (
        {"updates_per_step": 0.0001},
        "updates_per_step 0.0001 makes 0.1 gradient steps of 1000 steps, no multiple of "
        "policy_delay 1; use 0.001$",
    ),
    (
        {"policy_delay": 3},
        "makes 1000 gradient steps of 1000 steps, no multiple of policy_delay 3; use policy_delay",
    ),
    (
        {"env_steps": 5000, "warm_up": 5000},
        "warm_up is 5000 of 5000 steps, which leaves none to learn in; use 0 to 4000",
    ),
    ({"env_steps": 5000, "warm_up": 9000}, "warm_up is 9000 of 5000 steps.*use 0 to 4000"),
    ({"warm_up": -1000}, "warm_up is -1000 of"),
    ({"warm_up": 1500}, "warm_up is 1500, no multiple of steps_per_iteration 1000; use 2000"),
    ({"env_steps": 20_500}, "env_steps is 20500, no multiple of steps_per_iteration 1000"),
    ({"num_envs": 3}, "steps_per_iteration is 1000, no multiple of num_envs 3; use 999"),
    ({"capacity": 4, "num_envs": 8}, "capacity is 4, less than one step of 8 environments"),
    ({"capacity": 0}, "capacity is 0; it must be 1 or more"),
    ({"temperature": 0.0}, "temperature is 0.0; it must be greater than 0"),
    ({"actor_lr": float("inf")}, "actor_lr is inf"),
    ({"discount": 1.1}, r"discount is 1.1; it must lie in \[0, 1\]"),
    ({"polyak": float("nan")}, "polyak is nan"),
    ({"log_std_map": "exp"}, "log_std_map 'exp' is unknown; use one of: clip, tanh"),
    ({"hidden": (256, 0)}, r"hidden is \(256, 0\)"),
]


@MODULES
@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_work_is_refused_in_one_line(module, changes, message):
    with pytest.raises(ValueError, match=message) as refusal:
        module.Config(**{"policy_delay": 1} | changes)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tsallis_q": 0.9}, r"tsallis_q is 0.9; it must lie in \[1, 2\]"),
        ({"kl_coef": 0.0}, "kl_coef is 0.0; it must be greater than 0"),
        ({"refresh_every": 0}, "refresh_every is 0; it must be 1 or more"),
        ({"refresh_every": 10, "num_envs": 8}, "refresh_every is 10, no multiple of num_envs 8"),
    ],
)
def test_what_mdpo_cannot_do_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mdpo_off.Config(**changes)


def test_a_negative_rate_of_the_temperature_is_refused():
    with pytest.raises(ValueError, match=r"temperature_lr is -0\.1"):
        sac.Config(temperature_lr=-0.1)


def test_gradient_steps_per_environment_step():
    # 1000 steps of 4 environments are 250 of each; 0.2 a step are 200, in cycles of 2
    config = sac.Config(num_envs=4, updates_per_step=0.2)
    assert (config.steps_of_each, config.cycles) == (250, 100)
    assert sac.Config(updates_per_step=20.0, policy_delay=1).cycles == 20_000


# -------------------------------------------------------------------------- at the command line


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("name", ["sac", "mdpo_off"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--env CartPole-v1", "CartPole-v1 has discrete actions"),
        (
            # 4 + 1 + 1 + 4 + 1 + 3 = 14 numbers of 4 bytes in 10^13 rows: 5.6 * 10^14 / 2^30 GiB
            "--env InvertedPendulum-v4 --seeds 1 --capacity 10000000000000 "
            "--env-steps 10000000000000",
            "a replay buffer of 10,000,000,000,000 rows for 1 seed needs 521,540.6 GiB",
        ),
        ("--env InvertedPendulum-v4 --env-steps 10000 --warm-up 10000", "leaves none to learn"),
        ("--env InvertedPendulum-v4 --updates-per-step 0", "updates_per_step is 0.0"),
        ("--env InvertedPendulum-v4 --dataset here.npz", "unknown flag --dataset"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(name, words, message, elsewhere, capsys):
    assert main(["train", name, *words.split()]) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1] and not any("Traceback" in line for line in said)
    assert not list(elsewhere.rglob("*.json"))


def test_the_device_can_be_chosen_where_there_is_replay():
    def names(offline: bool, off_policy: bool) -> set[str]:
        return {flag.name for flag in flags.of_train(sac.Config, offline, off_policy)}

    assert "device" in names(False, True) and "dataset" not in names(False, True)
    assert "device" not in names(False, False)
    assert {"device", "dataset"} <= names(True, False)
