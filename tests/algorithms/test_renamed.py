"""Settings that had other names: what was trained under those is read, joined and told apart."""

import dataclasses
import json
from pathlib import Path

import pytest

from rlsuite import algorithms
from rlsuite.algorithms.renamed import flag_of_today, original, renamed, table
from rlsuite.runs.settings import Settings, config_hash, hash_of

RESULTS = Path(__file__).parents[2] / "results"
MANIFESTS = sorted(
    path
    for path in RESULTS.glob("*/*/*.json")
    if path.parent.name in algorithms.ALGORITHMS and "config" in json.loads(path.read_text())
)


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_old_names_are_none_of_todays(name):
    config = dataclasses.asdict(algorithms.load(name).Config())
    assert renamed(name, config) == config
    assert renamed(name, original(name, config)) == config


def test_one_rate_for_two_optimisers_is_one_setting_while_they_are_equal():
    old = {"learning_rate": 0.1, "tau": 0.005, "total_steps": 9}
    new = {"actor_lr": 0.1, "critic_lr": 0.1, "polyak": 0.005, "gradient_steps": 9}
    assert renamed("td3_bc", old) == new
    assert original("td3_bc", new) == old
    apart = new | {"actor_lr": 0.2}
    assert original("td3_bc", apart) == {
        "actor_lr": 0.2, "critic_lr": 0.1, "tau": 0.005, "total_steps": 9
    }  # fmt: skip


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: "-".join(path.parts[-3:]))
def test_rows_exported_before_have_todays_names_and_keep_their_hash(path):
    """A further seed of the same settings joins them: both have one hash."""
    manifest = json.loads(path.read_text())
    name = manifest["algorithm"]
    config = renamed(name, manifest["config"])
    assert not config.keys() & table(name).keys()
    assert hash_of(name, config, {}) == hash_of(name, manifest["config"], {})


def test_a_hash_is_that_of_the_settings_under_their_first_names():
    config = algorithms.load("mdpo").Config()
    first = dataclasses.asdict(config)
    first |= {"total_steps": first.pop("env_steps"), "policy_lr": first.pop("actor_lr")}
    settings = Settings("Hopper-v4")
    assert config_hash("mdpo", config, settings) == hash_of(
        "mdpo", first, dataclasses.asdict(settings)
    )


@pytest.mark.parametrize(
    ("name", "word", "flag"),
    [
        ("ppo", "--total-steps", "--env-steps"),
        ("bc", "--total_steps=9", "--gradient-steps"),
        ("iql", "--no-anneal-actor-lr", "--no-anneal-lr"),
        ("td3_bc", "--learning-rate=1", "--actor-lr and --critic-lr"),
        ("ppo", "--learning-rate", None),
        ("ppo", "total-steps", None),
    ],
)
def test_old_flags_have_todays(name, word, flag):
    assert flag_of_today(name, word) == flag
