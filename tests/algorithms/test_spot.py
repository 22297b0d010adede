"""SPOT: the invariants and traps of the fact sheet by number, and whole cycles against one seed's
written with torch.nn and torch.optim from the sheet. Its VAE is in test_spot_density."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from offline_setting import (
    OBS,
    MemoryRun,
    PlainActor,
    PlainCritics,
    as_in_a_run,
    batch_of,
    flat,
    logged,
    tensors,
    thetas,
)
from spot_setting import STILL, PlainSPOT, noise_of, setting

from rlsuite.algorithms.offline import spot, td3_bc
from rlsuite.algorithms.offline.spot import (
    Config,
    Networks,
    actor_cycle,
    critic_loss,
    draw_noise,
    explore,
    policy_loss,
    target_value,
)
from rlsuite.core.buffers import chunks
from rlsuite.core.optim import Net
from rlsuite.core.seed_random import SeedRandom


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def actor_gradient(s: SimpleNamespace, fitted=None, **networks) -> torch.Tensor:
    """Gradient [S, P_actor] of the actor's loss, of a setting that stands STILL."""
    state = s.state._replace(**{name: Net.of(theta) for name, theta in networks.items()})
    fitted = s.fitted if fitted is None else fitted
    nets = Networks(s.policy, s.critics, s.density)
    after, _ = actor_cycle(nets, s.config, fitted, state, s.batch, s.noise, s.weight)
    return 10 * after.actor.adam.first


def scaled(s: SimpleNamespace, c: float) -> torch.Tensor:
    """Parameters of two critics whose values are `c` times those of the setting's."""
    theta, last = s.state.critic.theta.clone(), f"q.{s.critics.depth - 1}"
    for one in theta.chunk(2, 1):
        views = s.critics.layout.views(one)
        views[f"{last}.weight"] *= c
        views[f"{last}.bias"] *= c
    return theta


# --------------------------------------------------------------------------------- objectives


def test_objectives_by_hand():
    # Errors 1 and -2: (1 + 4)/2
    error = critic_loss(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(error, torch.tensor([2.5]))
    # Q = 4, -2: mean 1, mean size 3. l = 0.5, 1.5: mean 1. 0.3 * 1 - 1/3; not normalised 0.3 - 1
    value, penalty = torch.tensor([[4.0, -2.0]]), torch.tensor([[0.5, 1.5]])
    loss = policy_loss(value, penalty, torch.tensor(0.3))
    torch.testing.assert_close(loss, torch.tensor([0.3 - 1 / 3]))
    loss = policy_loss(value, penalty, torch.tensor(0.3), normalize=False)
    torch.testing.assert_close(loss, torch.tensor([-0.7]))


# --------------------------------------------------------------------- invariants of section 6


def test_6_3_without_penalty_the_actors_gradient_is_td3s_over_the_size_of_q():
    s = setting(support_weight=0.0, **STILL)
    grad, obs = actor_gradient(s), s.batch.obs[:, 32:]
    for seed in (0, 1):
        actor = PlainActor(s.policy, s.state.actor.theta[seed])
        critics = PlainCritics(s.critics.layout, s.state.critic.theta[seed])
        q = critics(obs[seed], actor(obs[seed]))[0]
        (-q.mean()).backward()
        td3 = torch.cat([p.grad.flatten() for p in actor.parameters()])
        expected = td3 / q.abs().mean().detach()
        torch.testing.assert_close(grad[seed], expected, rtol=0, atol=1e-12)
        assert expected.abs().max() > 1e-2


@pytest.mark.parametrize("c", [1e-3, 1e4])
def test_6_4_the_scale_of_the_critic_is_irrelevant_unless_q_is_not_normalised(c):
    s = setting(support_weight=0.2, **STILL)
    grad, other = actor_gradient(s), actor_gradient(s, critic=scaled(s, c))
    torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-12)
    s = setting(support_weight=0.0, normalize_q=False, **STILL)
    grad, other = actor_gradient(s), actor_gradient(s, critic=scaled(s, c))
    torch.testing.assert_close(c * grad, other, rtol=1e-9, atol=1e-12)
    assert grad.abs().max() > 1e-3


def test_6_5_the_penalty_moves_the_actor_through_encoder_and_decoder():
    # A critic of zeros has no gradient: what is left is the penalty's
    s = setting(support_weight=1.0, **STILL)
    nothing = torch.zeros_like(s.state.critic.theta)
    grad = actor_gradient(s, critic=nothing)
    obs, xi = s.batch.obs[:, 32:], s.noise.latent
    for seed in (0, 1):
        plain = PlainSPOT(s, seed)
        p = plain.actor(obs[seed])
        plain.density.loss(obs[seed], p, xi[seed], 0.5).mean().backward()
        whole = torch.cat([x.grad.flatten() for x in plain.actor.parameters()])
        torch.testing.assert_close(grad[seed], whole, rtol=0, atol=1e-12)
        assert whole.isfinite().all()
        assert whole.abs().max() > 1e-2
    # An encoder that ignores the action (trap 4.5): another gradient, through (u - a)^2 alone
    blind = s.fitted.clone()
    s.density.layout.views(blind)["encoder.0.weight"][:, :, OBS:] = 0
    part = actor_gradient(s, fitted=blind, critic=nothing)
    assert (part - grad).abs().amax(1).min() > 1e-3
    assert part.abs().amax(1).min() > 1e-3


def test_6_5_the_penaltys_gradient_vanishes_where_it_should():
    # The encoder ignores the action and the decoder says what the policy does, by biases alone
    s = setting(support_weight=1.0, **STILL)
    fitted, actor = torch.zeros_like(s.fitted), torch.zeros_like(s.state.actor.theta)
    bias = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    s.density.layout.views(fitted)["decoder.2.bias"][:] = bias
    s.policy.layout.views(actor)["actor.2.bias"][:] = bias
    nothing = torch.zeros_like(s.state.critic.theta)
    assert not actor_gradient(s, fitted, actor=actor, critic=nothing).any()
    s.policy.layout.views(actor)["actor.2.bias"][:] += 0.01
    assert actor_gradient(s, fitted, actor=actor, critic=nothing).any()


def bandit(module, folder, **config) -> torch.Tensor:
    """Where the actors of two seeds end: actions at -0.8 and 0.8, 60% and 40%, the same reward."""
    count = 500
    mode = np.where(np.arange(count) % 5 < 3, -0.8, 0.8)[:, None]
    action = mode + 0.05 * np.random.default_rng(0).standard_normal((count, 1))
    state = np.zeros((count, 1), np.float32)
    data = logged(
        *([1] * count, [1.0] * count, 1, ([-1.0], [1.0])),
        **{"obs": state, "next_obs": state, "terminated": np.ones(count, bool)},
        action=action.astype(np.float32),
    )
    run = MemoryRun(data, folder=folder)
    size = {"batch_size": 64, "hidden": (32, 32), "steps_per_iteration": 100}
    # Standardising would divide by 1e-3 here, where every observation is the same
    module.train(module.Config(**size, normalize_obs=False, **config), run)
    policy = run.states[-1].policy
    action, _ = policy.behaviour().act(np.zeros((len(run.seeds), 1, 1)))
    return torch.from_numpy(action).flatten()


def test_6_6_of_two_modes_spot_ends_in_one_and_td3_bc_between_them(tmp_path):
    density = {"density_steps": 300, "density_lr": 3e-3, "density_hidden": 32}
    rates = {"actor_lr": 3e-3, "critic_lr": 3e-3}
    ours = bandit(spot, tmp_path, support_weight=1.0, gradient_steps=400, **density, **rates)
    assert (ours.abs() > 0.6).all()
    assert (ours.abs() < 1).all()
    # The mean is -0.16. Between the modes Q is a guess of a net that saw neither: it weighs little
    theirs = bandit(td3_bc, tmp_path, alpha=0.5, gradient_steps=300, actor_lr=3e-3, critic_lr=3e-3)
    assert (theirs.abs() < 0.3).all()


def test_6_9_dropout_is_in_training_and_not_in_acting():
    s = setting(dropout=0.1, hidden=(64, 64))
    obs, theta = s.batch.obs[:, :32], s.state.actor.theta
    one, two, last = (s.policy.mean(theta, obs, masks) for masks in s.noise.dropout)
    calm = s.policy.mean(theta, obs)
    pairs = ((one, two), (two, last), (one, last), (one, calm))
    assert all((a - b).abs().amax((1, 2)).min() > 1e-2 for a, b in pairs)
    behaviour = s.policy.behaviour()
    actions = [behaviour.act_normalized(obs.numpy())[0] for _ in range(2)]
    np.testing.assert_array_equal(*actions)
    np.testing.assert_allclose(actions[0], calm.numpy(), rtol=1e-12)


def test_6_9_masks_keep_nine_tenths_and_their_mean():
    s = setting(dropout=0.1, rows=100, hidden=(64, 32), policy_freq=2)
    passes = draw_noise(s.config, s.policy, SeedRandom(s.streams["action"])).dropout
    layers = [torch.stack(masks) for masks in zip(*passes, strict=True)]
    assert [x.shape for x in layers] == [(3, 2, 100, 64), (3, 2, 100, 32)]
    for layer in layers:
        assert layer.unique().tolist() == [0, pytest.approx(1 / 0.9)]
        kept = (layer > 0).float().mean((2, 3))  # of 3200 or more: 5 standard deviations are 0.027
        assert ((kept - 0.9).abs() < 0.027).all()
        # Steps and seeds drop units of their own
        masks = layer.flatten(2).flatten(0, 1)
        assert len(masks.unique(dim=0)) == 6
    assert (
        draw_noise(setting().config, s.policy, SeedRandom(s.streams["action"])).dropout
        == [None] * 3
    )


def test_6_9_the_target_actor_has_dropout_too():
    s = setting(dropout=0.5)
    part, noise = chunks(s.batch, 2)[0], s.noise.target[:, :32]
    passes = [None, *s.noise.dropout[:2]]
    y = [target_value(s.policy, s.critics, s.config, s.state, part, noise, x) for x in passes]
    alive = part.terminated == 0
    assert all((a - b)[alive].abs().max() > 1e-3 for a, b in ((y[0], y[1]), (y[1], y[2])))


@pytest.mark.parametrize("policy_freq", [2, 3])
def test_6_9_targets_do_not_move_until_the_cycle_ends(monkeypatch, policy_freq):
    size = {"steps_per_iteration": 6, "gradient_steps": 6, "density_steps": 6}
    s, seen = setting(policy_freq=policy_freq, dropout=0.1, **size), []

    def recorded(policy, critics, config, state, part, noise, masks):
        seen.append((state, masks))
        return target_value(policy, critics, config, state, part, noise, masks)

    monkeypatch.setattr(spot, "target_value", recorded)
    after, _ = s.cycle(s.state, s.batch, s.noise, s.weight)
    before = s.state
    assert len(seen) == policy_freq
    for (state, masks), drawn in zip(seen, s.noise.dropout, strict=False):
        assert torch.equal(state.actor_target, before.actor_target)
        assert torch.equal(state.critic_target, before.critic_target)
        assert all(torch.equal(*pair) for pair in zip(masks, drawn, strict=True))
    assert after.actor.adam.steps.flatten().tolist() == [1, 1]
    assert after.critic.adam.steps.flatten().tolist() == [policy_freq] * 2
    for name in ("actor", "critic"):
        old, new = getattr(before, f"{name}_target"), getattr(after, name).theta
        expected = 0.995 * old + 0.005 * new
        torch.testing.assert_close(getattr(after, f"{name}_target"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("t", "factor"),
    [(0, 1.0), (200_000, 0.8), (799_999, 0.200001), (800_000, 0.2), (10**6, 0.2), (2 * 10**6, 0.2)],
)
def test_6_10_the_penalty_cools_to_a_fifth(t, factor):
    asked = []
    buffer = SimpleNamespace(added=t)
    explorer = SimpleNamespace(buffer=buffer, step=lambda *how: asked.append(how))
    assert explore(Config(), explorer, ["streams"], 2) == pytest.approx(factor, abs=1e-9)
    assert asked == [(2, 0.1, ["streams"])]


def test_6_10_the_floor_and_the_pace_of_cooling_are_settings():
    explorer = SimpleNamespace(buffer=SimpleNamespace(added=30), step=lambda *_: None)
    assert explore(Config(cooling_steps=100), explorer, [], 2) == pytest.approx(0.7)
    assert explore(Config(cooling_steps=40, support_weight_floor=0.5), explorer, [], 2) == 0.5


# ---------------------------------------------------------------------------------- the update


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("normalize_q", [True, False])
def test_cycles_are_those_of_one_seed_in_plain_torch(dropout, normalize_q):
    rates = {"actor_lr": 2**-8, "critic_lr": 2**-7}
    s = setting(dropout=dropout, normalize_q=normalize_q, support_weight=0.25, **rates)
    plain, state = [PlainSPOT(s, seed) for seed in (0, 1)], s.state
    for k in range(5):
        batch, noise = batch_of((10 * k, 10 * k + 1), 64, torch.float64), noise_of(vars(s))
        state, _ = s.cycle(state, batch, noise, s.weight)
        for seed in (0, 1):
            plain[seed].cycle(batch, noise, 0.25)
    for seed in (0, 1):
        for ours, network in zip(thetas(state), plain[seed].networks(), strict=True):
            torch.testing.assert_close(ours[seed], flat(network), rtol=0, atol=1e-9)
    assert (state.actor.theta - s.state.actor.theta).abs().max() > 0.01
    assert (state.actor_target - s.state.actor_target).abs().max() > 1e-4


def test_float32_does_as_float64():
    s, double = setting(dtype=torch.float32, dropout=0.1), setting(dropout=0.1)
    state, exact = s.state, double.state
    for _ in range(5):
        state, _ = s.cycle(state, s.batch, s.noise, s.weight)
        exact, _ = double.cycle(exact, double.batch, double.noise, double.weight)
    for ours, theirs in zip(thetas(state), thetas(exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-6)


def test_metrics_are_those_of_the_actors_step():
    s = setting(support_weight=0.25, **STILL)
    _, metrics = s.cycle(s.state, s.batch, s.noise, s.weight)
    obs = s.batch.obs[:, 32:]
    for seed in (0, 1):
        plain = PlainSPOT(s, seed)
        loss = plain.actor_loss(obs[seed], s.noise, 0.25)
        torch.testing.assert_close(metrics["policy_loss"][seed], loss.detach())
        error = plain.density.loss(obs[seed], plain.actor(obs[seed]), s.noise.latent[seed], 0.5)
        torch.testing.assert_close(metrics["density_error"][seed], error.mean().detach())


@pytest.mark.parametrize("width", [32, 256])
def test_a_seed_moves_to_the_same_bits_alone_and_in_company(width):
    changes = {"hidden": (width, width), "density_hidden": width, "rows": width, "dropout": 0.1}
    with as_in_a_run(width):
        alone, company = (setting(x, dtype=torch.float32, **changes) for x in ((3,), range(5)))
        mine, theirs = alone.state, company.state
        for _ in range(2):
            mine, my_metrics = alone.cycle(mine, alone.batch, alone.noise, alone.weight)
            theirs, metrics = company.cycle(theirs, company.batch, company.noise, company.weight)
    for a, b in zip(tensors(mine), tensors(theirs), strict=True):
        assert torch.equal(a[0], b[3])
    assert all(torch.equal(my_metrics[name][0], metrics[name][3]) for name in metrics)
    assert not torch.equal(theirs.actor.theta[2], theirs.actor.theta[3])
