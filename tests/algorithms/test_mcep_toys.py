"""MCEP on tasks of one state, worked out by hand or by quadrature; each wrong answer fails."""

import math

import numpy as np
import pytest
import torch
from offline_setting import as_in_a_run
from torch.distributions import Normal

from rlsuite.algorithms.offline import mcep
from rlsuite.algorithms.offline.mcep import Config, State, mcep_cycle
from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.critics import Critics
from rlsuite.core.optim import Net
from rlsuite.core.squashed import SquashedActor

ROWS, SPREAD = 2048, 0.3  # of the data's actions, which are normal around 0


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def logged() -> torch.Tensor:
    """Actions at even levels [ROWS], in the box."""
    levels = (torch.arange(ROWS) + 0.5) / ROWS
    return (SPREAD * Normal(0.0, 1.0).icdf(levels)).clamp(-1 + 1e-5, 1 - 1e-5)


def tasks(kind, critics_of: list[list], reward=0.0) -> tuple:
    """(policy, critics, state, batch), a seed for each pair of linear critics: linear networks."""
    seeds = len(critics_of)
    policy = kind(1, [-1.0], [1.0], rngs=[np.random.default_rng(0)] * seeds, hidden=())
    theta, critic = 0 * policy.theta.detach(), torch.tensor(critics_of)
    state = State(*map(Net.of, (theta, theta, critic)), theta, critic, torch.ones(seeds))
    obs, zeros = torch.zeros(seeds, ROWS, 1), torch.zeros(seeds, ROWS)
    action = logged()[:, None].expand(seeds, -1, -1)
    batch = TransitionBatch(obs, action, 1 + reward * action[..., 0], obs, zeros)
    return policy, Critics(1, 1, ()), state, batch


# ------------------------------------------------------------------------------------ the chain

# The state leads to itself, r = 1 + a/2, gamma 0.9. Q(a) = 1 + a/2 + 0.9 V of pi~, which is
# V = 10 + 5 pi~. A policy is where alpha/(2 |Q(pi)|) = 2 pi, so that pi~ (10 + 5 pi~) = alpha~/4,
# and pi^e (Q(0) + pi^e/2) = alpha^e/4.
#   alpha~ 2.5: pi~ = (sqrt(112.5) - 10)/10 = 0.06066, V = 10.3033, Q(0) = 10.2730
#   alpha^e 10: pi^e = sqrt(10.2730^2 + 5) - 10.2730 = 0.24051
#   alpha~ 10: pi~ = (sqrt(150) - 10)/10 = 0.22474, V = 11.1237, Q(0) = 11.0114


def chain(swapped: bool = False, **changes) -> tuple[float, float, float, torch.Tensor]:
    """Q(0), pi~ and pi^e at rest, and all parameters but those of pi^e."""
    settings = {"discount": 0.9, "policy_noise": 0.0, "policy_freq": 1, "polyak": 0.2}
    config = Config(**settings, **{"actor_lr": 0.01, "critic_lr": 0.02} | changes)
    policy, critics, state, batch = tasks(BoundedActor, [[0, 0.5, 10.0, 0, 0.4, 10.5]], 0.5)
    noise = torch.zeros_like(batch.action)
    for _ in range(400):
        state, _ = mcep_cycle(policy, critics, config, state, batch, noise, noise[:, :0])
        if swapped:
            state = state._replace(actor_target=state.evaluation.theta)
    obs = batch.obs[:, :1]
    q = critics.values(state.critic.theta, obs, 0 * obs).mean().item()
    pi, mild = (policy.mean(net.theta, obs).item() for net in (state.actor, state.evaluation))
    return q, pi, mild, torch.cat([state.critic.theta, state.critic_target, state.actor.theta], 1)


def test_q_on_the_chain_is_the_target_policys_and_the_evaluation_policy_earns_more():
    q, pi, mild, rest = chain()
    assert q == pytest.approx(10.2730, abs=0.02)
    assert pi == pytest.approx(0.06066, abs=0.002)
    assert mild == pytest.approx(0.24051, abs=0.004)
    # It earns 1 + 0.24/2 = 1.12 a step, pi~ 1.03; all else keeps every bit whatever alpha^e is
    *_, milder, others = chain(evaluation_alpha=20.0)
    assert torch.equal(rest, others)
    assert milder > mild + 0.1


@pytest.mark.parametrize(
    "wrong", [{"swapped": True}, {"target_alpha": 10.0}], ids=["swapped", "TD3+BC with alpha 10"]
)
def test_the_chain_tells_the_evaluation_policy_in_the_target_from_the_right_one(wrong):
    q, *_ = chain(**wrong)
    assert q == pytest.approx(11.0114, abs=0.02)


# ------------------------------------------------------------------------------------ the cliff


def mode_of(slope: float, weight: float = 0.6, bound: float = math.inf) -> float:
    """Where pi^e comes to rest, by quadrature: the mode of the best tanh-Gaussian reached uphill.

    max over mu, sigma of E min(slope tanh(mu + sigma x), bound) + weight E log pi(a), data's a.
    """
    x = np.linspace(-6, 6, 241)
    p = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    second = logged().atanh().square().mean().item()  # the data's, before the tanh
    mu, log_std = 0.0, 0.5 * math.log(second)
    for _ in range(4000):
        sigma = math.exp(log_std)
        tanh = np.tanh(mu + sigma * x)
        steep = slope * (1 - tanh**2) * (slope * tanh < bound)
        far = (second + mu**2) / sigma**2
        mu += 0.02 * (p @ steep - weight * mu / sigma**2)
        log_std += 0.02 * (sigma * (p @ (steep * x)) + weight * (far - 1))
    return math.tanh(mu)


def settled(*slopes: float, **changes) -> list[float]:
    """The mode of pi^e at rest on Q = slope a, the mean of two critics of other slopes."""
    settings = {"base": "awac", "policy_freq": 1, "actor_lr": 0.02, "critic_lr": 1e-30}
    config = Config(**settings | changes)
    pairs = [[0, 0.5 * slope, 0, 0, 1.5 * slope, 0.0] for slope in slopes]
    policy, critics, state, batch = tasks(SquashedActor, pairs)
    generator, modes, split = torch.Generator().manual_seed(0), [], [ROWS, 2 * ROWS]
    for _ in range(250):
        noise = torch.randn(len(slopes), 3 * ROWS, 1, generator=generator)
        state, _ = mcep_cycle(policy, critics, config, state, batch, *noise.split(split, 1))
        modes.append(policy.mean(state.evaluation.theta, batch.obs[:, :1]).flatten())
    return torch.stack(modes[150:]).mean(0).tolist()


def test_the_evaluation_policy_stays_near_the_data_below_the_cliff_and_not_beyond():
    # lambda^e/(2 s) = 1 without the tanh: 0.5 lies below it and 2 beyond
    expected = [mode_of(0.5), mode_of(2.0)]
    assert expected == pytest.approx([0.12, 0.77], abs=0.005)
    assert settled(0.5, 2.0) == pytest.approx(expected, abs=0.015)


def test_q_counts_up_to_its_bound():
    low = mode_of(0.5, bound=0.05)
    assert low < 0.09
    assert settled(0.5, max_value=0.05) == [pytest.approx(low, abs=0.015)]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda value, log_prob, weight, bound: value.mean(1) - weight * log_prob.mean(1),
        lambda value, log_prob, weight, bound: (-(value / 0.3).exp().detach() * log_prob).mean(1),
        lambda value, log_prob, weight, bound: (
            -value.mean(1) / value.abs().mean(1).detach() - weight * log_prob.mean(1)
        ),
    ],
    ids=["the sign", "a weighted regression", "Q normalised"],
)
def test_the_toy_tells_the_wrong_objective_from_the_right_one(monkeypatch, wrong):
    monkeypatch.setattr(mcep, "ascent_loss", wrong)
    assert abs(settled(0.5)[0] - 0.12) > 0.03
