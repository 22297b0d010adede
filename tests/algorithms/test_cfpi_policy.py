"""CFPI's policy: where its step is taken, what Q it climbs, and the rules of the released code."""

import math

import numpy as np
import torch
from closed_form_setting import LinearCritics, inputs, policy_of, row, with_critics

from rlsuite.core.closed_form import live_components


def test_the_released_rules_have_their_radius_and_their_normaliser():
    policy = policy_of((0,), operator="logsumexp", rules="released")
    slope = [0.3, -2.0]
    with_critics(policy, LinearCritics(slope, slope))
    given = inputs(policy)
    c = policy.components(given.behaviour, given.obs)
    x = policy_choice(policy, given, slope)
    u = policy.slope(given.critic, given.obs, c.mean)
    # Squared radius 2 R with R = 2 max(0, log tau + peak - highest); the sum over components
    peak = c.log_weight - c.std.log().sum(-1)
    square = 4 * (0.5 + peak - peak.amax(-1, keepdim=True)).clamp(min=0)
    norm = (c.std * u).square().sum(2, keepdim=True).sqrt()
    step = c.mean + square.sqrt()[..., None] * c.std**2 * u / norm
    q = (policy.actions(step) * torch.tensor(slope, dtype=torch.float64)).sum(-1)
    live = live_components(c.log_weight, 0.05)
    best = q.masked_fill(~live, -torch.inf).argmax(-1)
    torch.testing.assert_close(
        x, policy.actions(step.gather(2, best[..., None, None].expand(-1, -1, 1, 2)))[:, :, 0]
    )


def policy_choice(policy, given, slope):
    return policy.improved(given.behaviour, given.critic, given.obs)


# -------------------------------------------------------------------------------------- the policy


def test_the_step_is_taken_before_the_tanh_with_the_gradient_there():
    policy = policy_of((0,), components=1, operator="single")
    given = inputs(policy)
    c = policy.components(given.behaviour, given.obs)
    # d Q(s, centre + reach tanh(x))/dx by central differences of the smaller critic
    x, eps = c.mean.clone(), 1e-6
    for i in range(2):
        ends = []
        for sign in (1, -1):
            moved = x.clone()
            moved[..., i] += sign * eps
            ends.append(policy.value(given.critic, given.obs, moved))
        numeric = (ends[0] - ends[1]) / (2 * eps)
        slope = policy.slope(given.critic, given.obs, x)[..., i]
        torch.testing.assert_close(slope, numeric, rtol=1e-5, atol=1e-8)
    slope = policy.slope(given.critic, given.obs, x)
    step = x + c.std**2 * slope / (c.std * slope).norm(dim=-1, keepdim=True)  # 2 log tau is 1
    action = policy.centre + policy.half_width * torch.tanh(step[:, :, 0])
    torch.testing.assert_close(policy.improved(given.behaviour, given.critic, given.obs), action)
    assert (action.abs() < policy.half_width + policy.centre.abs()).all()


def test_the_value_is_the_smaller_critics_and_the_released_one_lies_lower():
    # Q_1 = a_1, Q_2 = 3: at a = centre + reach x = (2 x_1, .) with x_1 = 1 and 2: 2, 4
    policy = policy_of((0,), base="gaussian", components=1, operator="single")
    with_critics(policy, LinearCritics([1.0, 0.0], [0.0, 0.0], constants=(0.0, 3.0)))
    x, obs = row([1.0, 0, 2, 0], 2, 2), torch.zeros(1, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(policy.value(None, obs, x), row([2.0, 3.0], 2))
    policy.rules = "released"  # means 2.5, 3.5; |d|/sqrt(2) = 1/sqrt(2)
    lower = [2.5 - 1 / math.sqrt(2), 3.5 - 1 / math.sqrt(2)]
    torch.testing.assert_close(policy.value(None, obs, x), row(lower, 2))


def test_around_a_plain_gaussian_the_step_is_in_half_widths_and_stays_in_the_box():
    policy = policy_of((0,), base="gaussian", components=1, operator="single", log_tau=0.5)
    policy.layout.views(policy.theta)["log_std"][:] = math.log(0.1)
    with_critics(policy, LinearCritics([1.0, 4.0], [1.0, 4.0]))
    given = inputs(policy)
    mean = policy.components(given.behaviour, given.obs).mean[:, :, 0]
    # sigma is 0.1 of the environment's units, radius 1: a + 0.1 g / |g|, g = (1, 4)
    g = torch.tensor([1.0, 4.0], dtype=torch.float64)
    action = policy.centre + policy.half_width * mean + 0.1 * g / g.norm()
    expected = torch.minimum(action, torch.tensor([2.0, 1.0], dtype=torch.float64))
    improved = policy.improved(given.behaviour, given.critic, given.obs)
    torch.testing.assert_close(improved, expected)
    policy.layout.views(policy.theta)["log_std"][:] = 5.0
    far = policy.improved(*policy.parts(), given.obs)
    assert torch.equal(far, torch.tensor([2.0, 1.0], dtype=torch.float64).expand_as(far))


def test_a_deterministic_step_is_a_ball_in_half_widths():
    policy = policy_of(
        (0,), base="deterministic", components=1, operator="deterministic", delta=0.02
    )
    with_critics(policy, LinearCritics([3.0, 0.0], [3.0, 0.0]))
    given = inputs(policy)
    mean = policy.components(given.behaviour, given.obs).mean[:, :, 0]
    # sqrt(2 * 0.02) = 0.2 half widths of 2 along the first dimension: 0.4
    expected = policy.actions(mean) + torch.tensor([0.4, 0.0], dtype=torch.float64)
    torch.testing.assert_close(policy.improved(given.behaviour, given.critic, given.obs), expected)
    promise = policy.promise(given.obs)
    torch.testing.assert_close(promise, torch.tensor([1.2], dtype=torch.float64))  # 3 * 0.4


def test_a_seed_improves_to_the_same_bits_alone_and_in_company():
    for changes in ({}, {"distributional": True}, {"operator": "jensen"}):
        company, alone = (policy_of(seeds, torch.float32, **changes) for seeds in (range(4), (3,)))
        obs = inputs(company).obs
        theirs = company.improved(*company.parts(), obs)
        mine = alone.improved(*alone.parts(), obs[3:])
        assert torch.equal(mine[0], theirs[3])
        # One environment alone goes through the same kernel
        behaviour, other = alone.behaviour(), company.behaviour()
        seen = obs[:, :1].numpy().astype(np.float64)
        assert np.array_equal(behaviour.act(seen[3:])[0][0], other.act(seen)[0][3])
