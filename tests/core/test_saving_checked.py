"""A policy's description may be edited or a stranger's: refused, or the same actions as before."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rlsuite.core import saving
from rlsuite.core.actors import BoundedActor
from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.closed_form import ClosedFormPolicy
from rlsuite.core.gaussian import GaussianActor
from rlsuite.core.networks import ActorCritic
from rlsuite.core.saving import load_policy, save_policy
from rlsuite.core.squashed import SquashedActor

SEEDS = [3, 5]
ABOUT = {"algorithm": "ppo", "task": "Hopper-v4", "seeds": SEEDS, "step": 10}


def generators():
    return [np.random.default_rng(seed) for seed in SEEDS]


POLICIES = {
    "continuous": lambda: ActorCritic(3, 2, False, rngs=generators(), hidden=(5, 4)),
    "discrete": lambda: ActorCritic(
        3, 2, True, rngs=generators(), hidden=(4, 4), activation="relu"
    ),
    "beta": lambda: BetaActorCritic(3, 2, False, rngs=generators(), hidden=(4,)),
    "bounded": lambda: BoundedActor(3, [-1.0, -2.0], [1.0, 0.5], rngs=generators(), hidden=(4, 4)),
    "sampling": lambda: BoundedActor(
        3, [-1.0], [1.0], rngs=generators(), hidden=(4,), log_std=-0.5
    ),
    "closed form": lambda: closed_form(True, base="mixture", components=2, operator="better"),
    "closed form around another": lambda: closed_form(
        False, base="gaussian", components=1, operator="single"
    ),
    "unbounded": lambda: GaussianActor(
        3, [-1.0], [1.0], rngs=generators(), hidden=(4,), log_std=0.0
    ),
    "squashed": lambda: SquashedActor(3, [-1.0], [1.0], rngs=generators(), hidden=(4,)),
}


def closed_form(distributional: bool, **spec) -> ClosedFormPolicy:
    shape = {"hidden": (4, 4), "critic_hidden": (4, 3), "distributional": distributional}
    return ClosedFormPolicy(3, [-1.0, -2.0], [1.0, 0.5], rngs=generators(), **shape, **spec)


def actions(policy) -> list[np.ndarray]:
    obs = 5 * np.random.default_rng(0).standard_normal((2, 6, 3))
    bounds = (
        () if policy.discrete else np.float32([[-1] * policy.action_size, [1] * policy.action_size])
    )
    behaviour = policy.behaviour(*bounds)
    rngs = [np.random.default_rng([1, seed]) for seed in range(2)]
    return [behaviour.act(obs, given)[1] for given in (None, rngs)]


def edits_of(value: object) -> list[object]:
    """What a field may be edited to: other types, near and far values, parts of it."""
    others: list[object] = [None, True, False, 0, 1, -1, 2, 10**9, 10**400, 0.5, 4.0, "", "tanh"]
    others += ["relu", "beta-actor-critic", "actor-critic", "bounded-actor", [], {}, [1], [[]]]
    others += [float("nan"), float("inf"), [value], {"a": value}, str(value)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        others += [value + 1, value - 1, 2 * value, -value, float(value)]
    if isinstance(value, list):
        others += [value[:-1], value[::-1], [*value, *value[-1:]], [64] * 100_000]
        others += [[*value[:-1], edit] for edit in (None, True, 10**9, -1, 0, 0.25, "4")]
    return others


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Every field of JSON, by the keys that lead to it."""
    found = [path] if path else []
    for key in value if isinstance(value, dict) else ():
        found += places(value[key], (*path, key))
    return found


def edited(about: dict, path: tuple, change) -> dict:
    about = copy.deepcopy(about)
    inner = about
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return about


def every_edit(about: dict) -> list[dict]:
    found = []
    for path in places(about):
        value = about
        for key in path:
            value = value[key]
        found.append(edited(about, path, lambda inner, key: inner.pop(key)))
        found.append(edited(about, path, lambda inner, key: inner.update({f"{key}x": 1})))
        for edit in edits_of(value):
            found.append(edited(about, path, lambda inner, key, x=edit: inner.update({key: x})))
    return found


@pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES)
def test_an_edit_of_the_description_is_refused_or_changes_no_action(tmp_path, make):
    save_policy(make(), tmp_path / "policy", ABOUT)
    expected = actions(load_policy(tmp_path)[0])
    file = tmp_path / "policy" / "policy.json"
    about = json.loads(file.read_text())
    refused = 0
    for edit in [*every_edit(about), [], None, 3, "policy", {"spec": about["spec"]}]:
        file.write_text(json.dumps(edit))
        try:
            policy, found = load_policy(tmp_path)
        except ValueError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error) and len(str(error)) < 600
            refused += 1
            continue
        for got, want in zip(actions(policy), expected, strict=True):
            np.testing.assert_array_equal(got, want)
        assert found == about  # as JSON understands it
    assert refused > 200


WRONG = {
    "obs_size": [0, -3, 4, 3.0, True, "3", None, 10**12],
    "action_size": [0, 1, 3, 10**12, [2], False],
    "discrete": [True, 0, None, "no"],
    "hidden": [[5], [5, 4, 4], [4, 5], [5, 4.0], [5, True], [64] * 100_000, [10**9, 10**9], 5, {}],
    "activation": ["gelu", "", 3, None, ["tanh"]],
    "normalize_obs": [1, None, "yes"],
    "seeds": [[3], [3, 3], [3, -1], [3, 5, 7], "35", [3, "5"], {"3": 5}, None],
    "kind": ["beta-actor-critic", "bounded-actor", "mixture", None, 3, ["actor-critic"]],
    "task": [3, None, ["Hopper-v4"]],
}


MESSAGES = {  # where it is the sizes that do not fit
    "action_size": "(action_size|actions need)",
    "discrete": "(discrete is|log_std is no part)",
    "kind": "(kind|spec is|actions need)",
}


@pytest.mark.parametrize("field", WRONG)
def test_fields_are_checked_where_the_weights_bear_no_mark(tmp_path, field):
    """Such as those of policies that were saved before there was one, or of a forger."""
    folder = tmp_path / "policy"
    save_policy(POLICIES["continuous"](), folder, ABOUT)
    save_file(load_file(folder / "policy.safetensors"), folder / "policy.safetensors")
    load_policy(folder)
    about = json.loads((folder / "policy.json").read_text())
    for value in WRONG[field]:
        changed = copy.deepcopy(about)
        (changed if field in about else changed["spec"])[field] = value
        (folder / "policy.json").write_text(json.dumps(changed))
        with pytest.raises(
            ValueError, match=rf"policy \(ValueError: .*{MESSAGES.get(field, field)}"
        ):
            load_policy(folder)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([-1.0, -2.0], [1.0], "low has 2 numbers, high 1"),
        ([-1.0, 0.75], [1.0, 0.5], r"low \[-1.0, 0.75\] is above high"),
        ([-1.0, float("-inf")], [1.0, 0.5], "low is .*a list of finite numbers"),
        ([-1.0, -2.0], [1.0, float("nan")], "high is .*a list of finite numbers"),
        ([-1.0, "-2"], [1.0, 0.5], "low is .*a list of finite numbers"),
        ([], [], "low is .*a list of finite numbers"),
        ([-1.0] * 3, [1.0] * 3, "actions need 3 outputs, the weights have 2"),
    ],
)
def test_a_box_is_finite_ordered_and_as_wide_as_the_weights(tmp_path, low, high, message):
    folder = tmp_path / "policy"
    save_policy(POLICIES["bounded"](), folder, ABOUT)
    save_file(load_file(folder / "policy.safetensors"), folder / "policy.safetensors")
    about = json.loads((folder / "policy.json").read_text())
    about["spec"] |= {"low": low, "high": high}
    (folder / "policy.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message):
        load_policy(folder)


def test_sizes_are_compared_before_anything_is_built(tmp_path, monkeypatch):
    """Two biases of a million numbers are a small file; the weights between them would be 4 TB."""
    folder = tmp_path / "policy"
    save_policy(POLICIES["continuous"](), folder, ABOUT)
    tensors = load_file(folder / "policy.safetensors")
    wide = {f"actor.{layer}.bias": torch.zeros(2, 1, 1_000_000) for layer in (0, 1)}
    save_file(tensors | wide, folder / "policy.safetensors")
    about = json.loads((folder / "policy.json").read_text())
    about["spec"]["hidden"] = [1_000_000, 1_000_000]
    (folder / "policy.json").write_text(json.dumps(about))
    monkeypatch.setattr(saving, "_assemble", lambda *_: pytest.fail("built before it was checked"))
    with pytest.raises(ValueError, match=r"hidden is \[1000000, 1000000\]"):
        load_policy(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"kind": ' * 50_000, '"' + "x" * 2_000_000 + '"', "\0", "9" * 5000]
)
def test_a_description_that_is_no_description_is_refused_in_one_line(tmp_path, text):
    save_policy(POLICIES["continuous"](), tmp_path / "policy", ABOUT)
    (tmp_path / "policy" / "policy.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as refused:
        load_policy(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_description_beside_the_weights_of_another_policy_is_refused(tmp_path):
    for name, activation in (("a", "tanh"), ("b", "relu")):
        policy = ActorCritic(3, 2, False, rngs=generators(), hidden=(4,), activation=activation)
        save_policy(policy, tmp_path / name, ABOUT)
    text = (tmp_path / "a" / "policy.json").read_text()
    (tmp_path / "b" / "policy.json").write_text(text)
    with pytest.raises(ValueError, match="belongs to other weights than these"):
        load_policy(tmp_path / "b")


def test_tensors_that_the_description_does_not_know_are_refused(tmp_path):
    folder = tmp_path / "policy"
    save_policy(POLICIES["discrete"](), folder, ABOUT)
    with safe_open(folder / "policy.safetensors", "pt") as file:
        mark = file.metadata()
    tensors = load_file(folder / "policy.safetensors") | {"log_std": torch.zeros(2, 1, 2)}
    save_file(tensors, folder / "policy.safetensors", mark)
    with pytest.raises(ValueError, match="log_std is no part of a policy"):
        load_policy(folder)
