"""The policy of off-policy methods: what it draws, what the environment gets, what a copy is."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rlsuite.core.saving import load_policy, save_policy, select_seed
from rlsuite.core.squashed import SquashedActor

LOW, HIGH = [-2.0, 0.0], [2.0, 1.0]  # centre (0, 1/2), half widths (2, 1/2)
MAPS = pytest.mark.parametrize("log_std_map", ["clip", "tanh"])


def rngs_of(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def policy_of(log_std_map="clip", seeds=(0, 1), scale=1.0, **options) -> SquashedActor:
    options = {"hidden": (16, 8), **options}
    policy = SquashedActor(3, LOW, HIGH, rngs=rngs_of(*seeds), log_std_map=log_std_map, **options)
    policy.theta += scale * torch.from_numpy(rngs_of(9)[0].standard_normal(policy.theta.shape))
    return policy


def observations(seeds=2, count=5) -> np.ndarray:
    return 2 * rngs_of(3)[0].standard_normal((seeds, count, 3))


@MAPS
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_the_snapshot_draws_what_the_distribution_does(log_std_map, scale):
    policy, obs = policy_of(log_std_map, scale=scale), observations()
    noise = np.float32(rngs_of(4)[0].standard_normal((2, 5, 2)))
    pi = policy.distribution(policy.theta, torch.from_numpy(obs).float())
    behaviour = policy.behaviour(np.float32(LOW), np.float32(HIGH))
    drawn, _ = behaviour.act_normalized(np.float32(obs), noise)
    assert drawn.dtype == np.float32 and (np.abs(drawn) <= 1).all()
    np.testing.assert_allclose(drawn, pi.sample(torch.from_numpy(noise))[0], rtol=0, atol=2e-5)
    mode, applied = behaviour.act(obs)
    np.testing.assert_allclose(mode, pi.mode(), rtol=0, atol=2e-5)
    mean = policy.mean(policy.theta, torch.from_numpy(obs).float())
    np.testing.assert_allclose(applied, mean, rtol=0, atol=1e-4)


def test_log_sigma_at_an_output_of_0_and_at_the_ends_of_both_maps():
    # clip: 0, and -20 to 2. tanh: -5 + 3.5 (0 + 1) = -1.5, sigma 0.223, and -5 to 2
    for log_std_map, expected in (("clip", (0.0, -20.0, 2.0)), ("tanh", (-1.5, -5.0, 2.0))):
        policy = policy_of(log_std_map, seeds=(0,), hidden=())
        for bias, log_std in zip((0.0, -100.0, 100.0), expected, strict=True):
            theta = torch.zeros_like(policy.theta)
            policy.layout.views(theta)["actor.0.bias"][:] = bias
            found = policy.distribution(theta, torch.zeros(1, 1, 3)).log_std
            assert found.flatten().tolist() == pytest.approx([log_std] * 2, abs=1e-6)


def test_the_environment_gets_centre_plus_half_width_times_the_own_action():
    policy, obs = policy_of(scale=3.0), observations(count=400)
    for bounds in ((), (np.float32(LOW), np.float32(HIGH))):
        raw, applied = policy.behaviour(*bounds).act(obs, rngs_of(5, 6))
        expected = np.array([0, 0.5]) + np.array([2, 0.5]) * raw
        np.testing.assert_allclose(applied, expected, rtol=0, atol=1e-6)
        assert applied.dtype == np.float32
        assert (applied >= LOW).all() and (applied <= HIGH).all()
        assert applied[..., 0].min() < -1.9 and applied[..., 1].max() > 0.95


def test_a_snapshot_stands_still_until_it_is_refreshed_in_place():
    policy, obs = policy_of(), observations()
    behaviour = policy.behaviour()
    weights = behaviour.head
    before = behaviour.act(obs, rngs_of(5, 6))[0]
    policy.theta += 1
    np.testing.assert_array_equal(behaviour.act(obs, rngs_of(5, 6))[0], before)
    behaviour.refresh(policy)
    assert np.shares_memory(behaviour.head, weights)
    now = behaviour.act(obs, rngs_of(5, 6))[0]
    assert (now != before).any()
    np.testing.assert_array_equal(now, policy.behaviour().act(obs, rngs_of(5, 6))[0])


def test_a_seed_acts_the_same_alone_and_in_company():
    company, alone = policy_of(seeds=(0, 1, 2)), policy_of(seeds=(2,))
    alone.theta.copy_(company.theta[2:])
    obs = observations(3)
    for rngs, mine in ((None, None), (rngs_of(5, 6, 7), rngs_of(7))):
        all_of_them = company.behaviour().act(obs, rngs)[1]
        np.testing.assert_array_equal(alone.behaviour().act(obs[2:], mine)[1][0], all_of_them[2])


@MAPS
def test_a_saved_policy_acts_as_before(tmp_path, log_std_map):
    policy, obs = policy_of(log_std_map), observations()
    save_policy(policy, tmp_path / "policy", {"seeds": [3, 5], "task": "Own-v0"})
    loaded, about = load_policy(tmp_path)
    assert about["kind"] == "squashed-actor" and about["spec"]["log_std_map"] == log_std_map
    one = select_seed(loaded, 1)
    for rngs, mine in ((None, None), (rngs_of(5, 6), rngs_of(6))):
        before = policy.behaviour().act(obs, rngs)[1]
        rngs = rngs and rngs_of(5, 6)
        np.testing.assert_array_equal(loaded.behaviour().act(obs, rngs)[1], before)
        np.testing.assert_array_equal(one.behaviour().act(obs[1:], mine)[1][0], before[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_std_map": "softplus"}, "log_std_map is softplus; it must be one of clip, tanh"),
        ({"log_std_map": None}, "log_std_map is None"),
        ({"low": [-2.0], "high": [2.0]}, "actions need 2 outputs, the weights have 4"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, changes, message):
    folder = tmp_path / "policy"
    save_policy(policy_of(), folder, {"seeds": [3, 5], "task": "Own-v0"})
    # without the mark that tells an edit by itself
    save_file(load_file(folder / "policy.safetensors"), folder / "policy.safetensors")
    about = json.loads((folder / "policy.json").read_text())
    about["spec"] |= changes
    (folder / "policy.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message):
        load_policy(folder)


def test_discrete_actions_and_open_boxes_are_refused():
    space = {"task": "Own-v0", "obs_size": 3, "action_size": 1, "discrete": False}
    infinite = space | {"action_low": np.float32([-np.inf]), "action_high": np.float32([1])}
    with pytest.raises(ValueError, match=r"action 0 lies in \[-inf, 1\].*bounded action space"):
        SquashedActor.for_envs(SimpleNamespace(**infinite), "cpu", rngs=rngs_of(0))
    discrete = space | {"discrete": True, "action_low": None, "action_high": None}
    with pytest.raises(ValueError, match=r"Own-v0 has discrete actions.*for instance ppo$"):
        SquashedActor.for_envs(SimpleNamespace(**discrete), "cpu", rngs=rngs_of(0))
