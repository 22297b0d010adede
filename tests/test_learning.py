"""Every algorithm learns: on a task of two steps (`patience.py`) it finds what pays in the end.

An algorithm joins by being registered. Where its `smoke` preset is too short to learn anything, a
line of SETTINGS says what it needs. What fails here does not do what its paper says, whatever
other tests it passes. With the sign of its advantage or value turned, or with a discount of 0, each
of the first algorithms ended below 0 (bc: of all episodes, or of the worst), as the last two tests
show of one that acts and of one that learns from data.
"""

import csv

import pytest
from patience import TASK, UNDER_CONSTRAINT, registered, write_log

from rlsuite import algorithms

ENOUGH = 0.45  # the best is 0.75; an imitation of the logged actions that are right brings 0.58
ACTING = {"env_steps": 16_384, "num_envs": 8, "num_steps": 64, "hidden": (32, 32)}
OFFLINE = {
    "gradient_steps": 1500,
    "steps_per_iteration": 500,
    "batch_size": 128,
    "hidden": (64, 64),
}
QUICK = {"learning_rate": 3e-3}
BOTH = {"actor_lr": 3e-3, "critic_lr": 3e-3}
REPLAY = {
    "env_steps": 4096,
    "warm_up": 512,
    "steps_per_iteration": 512,
    "num_envs": 8,
    "updates_per_step": 0.25,
    "batch_size": 128,
    "hidden": (32, 32),
    "capacity": 4096,
    "policy_delay": 1,
    "actor_lr": 3e-3,
    "critic_lr": 3e-3,
    "polyak": 0.05,
    "temperature": 0.02,
}
SETTINGS = {  # what differs from the preset `smoke`
    "ppo": ACTING | QUICK | {"epochs": 8},
    "trpo": ACTING | {"critic_lr": 3e-3},
    "mdpo": ACTING | {"actor_lr": 1e-2, "critic_lr": 3e-3},
    "fixpo": ACTING | QUICK,
    "ppo_lag": ACTING | {"actor_lr": 3e-3, "critic_lr": 3e-3, "epochs": 8, "target_kl": 0.1},
    "sac_lag": REPLAY | {"temperature_lr": 0.0},
    "cal": {name: value for name, value in REPLAY.items() if name != "policy_delay"}
    | {"temperature_lr": 0.0, "target_period": 1, "cost_lr": 3e-3},
    "reload": ACTING
    | {"actor_lr": 3e-3, "critic_lr": 3e-3, "critic_epochs": 8}
    | {"step_size": 100.0, "policy_steps": 10, "log_std_init": -1.0},
    "cat": ACTING | QUICK | {"epochs": 8, "reward_shift": 6.0, "adaptive_kl": None},
    "sac": REPLAY | {"temperature_lr": 0.0},
    "mdpo_off": REPLAY | {"kl_coef": 0.1, "refresh_every": 512},
    "bc": OFFLINE | QUICK | {"best_fraction": 0.1},  # of all episodes it would learn the mean
    "td3_bc": OFFLINE | BOTH | {"polyak": 0.05, "alpha": 5.0},
    "awac": OFFLINE | BOTH | {"polyak": 0.05},
    "iql": OFFLINE | BOTH | {"polyak": 0.05, "scale_rewards": False},
    "spot": OFFLINE | BOTH | {"polyak": 0.05, "density_steps": 500, "online_steps": 0},
    "a2pr": OFFLINE | BOTH | {"polyak": 0.05, "critic_hidden": (64, 64), "vae_hidden": 64},
    "mcep": OFFLINE | BOTH | {"polyak": 0.05, "target_alpha": 5.0},
    # Its penalty and its budget are in units of V, which is small here
    "csve": OFFLINE
    | BOTH
    | {"polyak": 0.05, "alpha": 0.1, "temperature": 10.0, "bonus": 0.0}
    | {"model_steps": 500},
    "cfpi": OFFLINE
    | {"behaviour_lr": 3e-3, "critic_lr": 3e-3, "polyak": 0.05}
    | {"behaviour_steps": 500, "improvement_steps": 0, "hidden": (32, 32)},
    "dppo": {"env_steps": 15_360, "num_envs": 8, "num_steps": 64, "chunk": 1, "acting": 1}
    | {"batch_size": 256, "epochs": 5, "actor_lr": 3e-3, "critic_lr": 3e-3}
    | {"clip": 0.1, "clip_base": 0.1, "clone_epochs": 60, "average_from": 99}
    | {"clone_last_lr": 1e-3},
}


@pytest.fixture(autouse=True)
def task():
    with registered():
        yield


def returns(name: str, short_runs) -> list[float]:
    """Of each seed after training, without exploration."""
    settings = dict(SETTINGS.get(name, {}))
    if algorithms.takes_data(name):
        settings["dataset"] = str(write_log(short_runs.root / "log.npz"))
    task = UNDER_CONSTRAINT if algorithms.is_constrained(name) else TASK
    folder = short_runs.train("run", name, task, evaluations=1, checkpoints=1, **settings)
    with open(folder / "evaluations.csv", newline="") as file:
        return [float(row["return"]) for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_it_learns_what_pays_in_the_end(name, short_runs) -> None:
    assert min(returns(name, short_runs)) > ENOUGH


def test_ppo_that_follows_the_opposite_advantage_does_not(short_runs, monkeypatch) -> None:
    module = algorithms.load("ppo")
    loss = module.policy_loss
    monkeypatch.setattr(module, "policy_loss", lambda config, ratio, a: loss(config, ratio, -a))
    assert max(returns("ppo", short_runs)) < 0


@pytest.mark.slow
def test_td3_bc_that_lowers_its_critic_does_not(short_runs, monkeypatch) -> None:
    module = algorithms.load("td3_bc")
    loss = module.policy_loss
    monkeypatch.setattr(module, "policy_loss", lambda q, error, alpha: loss(-q, error, alpha))
    assert max(returns("td3_bc", short_runs)) < 0
