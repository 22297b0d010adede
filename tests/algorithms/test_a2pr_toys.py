"""A2PR where every wrong reading has another answer: a candidate that stands still, and a VAE that
is trained on two kinds of actions, good ones and bad ones."""

from functools import partial

import numpy as np
import pytest
import torch
from a2pr_setting import STILL
from offline_setting import as_in_a_run

from rlsuite.algorithms.offline import a2pr
from rlsuite.algorithms.offline.a2pr import Config, Setup, State, actor_step, vae_step
from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.critics import Critics, StateValue
from rlsuite.core.optim import Net
from rlsuite.core.vae import ActionVAE

ROWS = 100


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def networks(slope: float, intercept: float, **changes) -> tuple[Setup, State]:
    """One state, one action in [-1, 1], Q = intercept + slope a; pi = tanh of a bias."""
    config, rngs = Config(**changes), [np.random.default_rng(0)]
    policy = BoundedActor(1, [-1.0], [1.0], rngs=rngs, hidden=())
    critics, values, vae = Critics(1, 1, ()), StateValue(1, ()), ActionVAE(policy, 1, 32)
    critic = torch.tensor([[0, slope, intercept]]).repeat(1, 2)
    thetas = (policy.theta, critic, values.initial(rngs), vae.initial(rngs))
    nets = [Net.of(theta) for theta in thetas]
    state = State(*nets, policy.theta.clone(), critic)
    return Setup(config, policy, critics, values, vae), state


def rows_of(good: float, bad: float) -> TransitionBatch:
    """30 good actions and 70 bad ones."""
    action = torch.full((1, ROWS, 1), bad)
    action[:, :30] = good
    obs, zeros = torch.zeros(1, ROWS, 1), torch.zeros(1, ROWS)
    return TransitionBatch(obs, action, zeros, obs, zeros)


# ------------------------------------------------------------------- a candidate that stands still


class FixedCandidate:
    """In the VAE's stead: +0.2, whatever the state, the action and the noise."""

    def rebuild(self, theta, obs, action, noise):
        return torch.full_like(action, 0.2), None, None


def settled(**changes) -> float:
    """Where pi comes to rest: Q = 1 + 0.3 a, V = the data's mean Q, data +0.2 and -0.6."""
    rates = STILL | {"actor_lr": 0.01}
    setup, state = networks(0.3, 1.0, **{"alpha": 0.5, **rates, **changes})
    setup = setup._replace(vae=FixedCandidate())
    batch = rows_of(0.2, -0.6)
    q = setup.critics.first(state.critic.theta, batch.obs, batch.action)
    value = q.mean(1, keepdim=True).expand(-1, ROWS)
    assert value[0, 0].item() == pytest.approx(0.892)  # 1 + 0.3 (0.3 * 0.2 - 0.7 * 0.6)
    for _ in range(500):
        actor, _ = actor_step(setup, state, batch, value, q - value, torch.zeros(1, ROWS, 2))
        state = state._replace(actor=actor)
    return setup.policy.mean(state.actor.theta, batch.obs)[0, 0, 0].item()


def test_6_11_pi_rests_beside_the_candidate_where_either_advantage_counts():
    # 2 (p - 0.2) = 0.3 * 0.5/(1 + 0.3 p), so p = 0.2 + 0.075/(1 + 0.3 p) = 0.2694
    assert settled() == pytest.approx(0.2694, abs=0.002)
    assert settled(candidate="detached") == pytest.approx(0.2694, abs=0.002)


def count(v, action, gain, advantage, least):
    chosen, _ = a2pr_imitated(v, action, gain, advantage, least)
    return chosen, (gain >= least).float() + (advantage > least).float()


def both(v, action, gain, advantage, least):
    chosen, _ = a2pr_imitated(v, action, gain, advantage, least)
    return chosen, (gain >= least) & (advantage > least)


def without_vae(v, action, gain, advantage, least):
    return action, advantage > least


def td3_bc(v, action, gain, advantage, least):
    return action, torch.ones_like(gain)


def the_lower_q(v, action, gain, advantage, least):
    _, worth = a2pr_imitated(v, action, gain, advantage, least)
    return torch.where((gain < advantage)[..., None], v, action), worth


a2pr_imitated = a2pr.imitated


@pytest.mark.parametrize(
    ("wrong", "expected"),
    # Weights 2, 2 at 30 % and 1 at 70 %: p = 0.2 + 0.075/1.3/(1 + 0.3 p) = 0.2536.
    # Nothing at 70 %: p = 0.2 + 0.075/0.3/(1 + 0.3 p) = 0.4219.
    # All data alike: p = -0.36 + 0.075/(1 + 0.3 p) = -0.2782
    [(count, 0.2536), (both, 0.4219), (without_vae, 0.4219), (td3_bc, -0.2782),
     (the_lower_q, -0.2782)],
    ids=lambda given: getattr(given, "__name__", ""),
)  # fmt: skip
def test_6_11_the_toy_tells_each_wrong_reading_from_the_right_one(monkeypatch, wrong, expected):
    monkeypatch.setattr(a2pr, "imitated", wrong)
    assert settled() == pytest.approx(expected, abs=0.003)
    assert abs(expected - 0.2694) > 0.015


# ------------------------------------------------------------------------------------ a trained VAE


def decoded(masked: bool) -> float:
    """Mean action of z ~ N(0, 1), after training on +0.6 and -0.6, where Q = a and V = 0."""
    setup, state = networks(1.0, 0.0, vae_lr=3e-3)
    batch, generator = rows_of(0.6, -0.6), torch.Generator().manual_seed(0)
    advantage = setup.critics.first(state.critic.theta, batch.obs, batch.action)
    advantage = advantage if masked else torch.ones_like(advantage)
    normal = partial(torch.randn, 1, ROWS, 2, generator=generator)
    for _ in range(400):
        vae, metrics = vae_step(setup, state, batch, advantage, normal())
        state = state._replace(vae=vae)
    assert metrics["data_share"].item() == pytest.approx(0.3 if masked else 1.0)
    z = torch.randn(1, 2000, 2, generator=generator)
    return setup.vae.decode(state.vae.theta, torch.zeros(1, 2000, 1), z).mean().item()


def test_6_11_the_vae_decodes_the_good_action_from_the_prior():
    assert decoded(masked=True) == pytest.approx(0.6, abs=0.03)


def test_6_11_an_unmasked_vae_decodes_what_most_of_the_data_do():
    assert decoded(masked=False) < -0.15  # the data's mean is -0.24
