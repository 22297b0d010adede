"""The policy with an unbounded mean: what it draws, what the environment gets, what a copy is."""

import numpy as np
import torch
from torch.distributions import Normal

from rlsuite.core.gaussian import GaussianActor
from rlsuite.core.saving import load_policy, save_policy

LOW, HIGH = [-2.0, 0.0], [2.0, 1.0]  # centre (0, 1/2), half widths (2, 1/2)


def rngs_of(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def policy_of(log_std=-0.5) -> GaussianActor:
    policy = GaussianActor(3, LOW, HIGH, rngs=rngs_of(0, 1), hidden=(16, 8), log_std=log_std)
    for name, view in policy.layout.views(policy.theta).items():
        view += (
            0.0
            if name == "log_std"
            else 0.5 * torch.from_numpy(rngs_of(9)[0].standard_normal(view.shape))
        )
    policy.normalizer.mean += 0.25
    return policy


OBS = 2 * rngs_of(3)[0].standard_normal((2, 5, 3))


def test_a_snapshot_draws_what_the_distribution_says_and_the_box_cuts_it():
    policy = policy_of()
    pi = policy.distribution(policy.theta, torch.from_numpy(policy.normalizer.normalize(OBS)))
    for rngs, noise in (
        (None, 0.0),
        (rngs_of(7, 8), np.stack([r.standard_normal((5, 2)) for r in rngs_of(7, 8)])),
    ):
        expected = (pi.mean + pi.log_std.exp() * torch.as_tensor(noise)).detach().numpy()
        raw, applied = policy.behaviour(np.float32(LOW), np.float32(HIGH)).act(OBS, rngs)
        np.testing.assert_allclose(raw, expected, rtol=1e-5, atol=1e-5)
        scaled = np.clip(np.array([0, 0.5]) + np.array([2, 0.5]) * expected, LOW, HIGH)
        np.testing.assert_allclose(applied, scaled, rtol=1e-5, atol=1e-5)
        assert (np.abs(raw) > 1).any()  # outside the box, where nothing bounds it
        assert (np.abs(raw) < 1).any()


def test_mean_is_the_deterministic_action_in_the_box():
    policy = policy_of()
    obs = torch.from_numpy(policy.normalizer.normalize(OBS))
    _, applied = policy.behaviour(np.float32(LOW), np.float32(HIGH)).act(OBS)
    mean = policy.mean(policy.theta, obs).detach().numpy()
    np.testing.assert_allclose(mean, applied, rtol=1e-5, atol=1e-6)


def test_a_sample_comes_with_its_log_density():
    policy = policy_of()
    obs, noise = torch.from_numpy(OBS).float(), torch.randn(2, 5, 2)
    pi = policy.distribution(policy.theta, obs)
    raw, log_prob = pi.sample(noise)
    plain = Normal(pi.mean, pi.log_std.exp().expand_as(pi.mean))
    torch.testing.assert_close(log_prob, plain.log_prob(raw).sum(-1))


def test_sigma_is_bounded_for_learning_and_for_acting_alike():
    # log sigma within [-20, 2]: e^2 = 7.389056, and practically 0
    obs = torch.from_numpy(OBS).float()
    for given, sigma in ((9.0, np.exp(2.0)), (-90.0, np.exp(-20.0))):
        policy = policy_of(log_std=given)
        std = policy.distribution(policy.theta, obs).log_std.exp()
        torch.testing.assert_close(std, torch.full((2, 1, 2), sigma, dtype=torch.float32))
        np.testing.assert_allclose(policy.behaviour().std, sigma, rtol=1e-6)


def test_a_saved_policy_is_the_same_again(tmp_path):
    policy = policy_of()
    save_policy(policy, tmp_path / "policy", {"seeds": [3, 5], "task": "Own-v0"})
    loaded, about = load_policy(tmp_path)
    assert about["kind"] == "gaussian-actor"
    assert type(loaded) is GaussianActor
    for ours, theirs in zip(policy.behaviour().act(OBS), loaded.behaviour().act(OBS), strict=True):
        np.testing.assert_array_equal(ours, theirs)
