"""A2PR: objectives by hand, the invariants and traps of the fact sheet by number, and whole cycles
against one seed's written with torch.nn and torch.optim from the sheet."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from a2pr_setting import STILL, PlainA2PR, noise_of, setting
from offline_setting import (
    ACTIONS,
    HIGH,
    LOW,
    OBS,
    MemoryRun,
    as_in_a_run,
    batch_of,
    flat,
    logged,
    tensors,
    thetas,
)

from rlsuite.algorithms.offline import a2pr, td3_bc
from rlsuite.algorithms.offline.a2pr import (
    Config,
    actor_step,
    critic_step,
    imitated,
    policy_loss,
    train,
    vae_loss,
    vae_step,
)
from rlsuite.core.buffers import TransitionBatch, chunks
from rlsuite.core.optim import Net, gradient
from rlsuite.core.vae import kl_to_prior


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


class FixedVAE:
    """A decoder that says `k` times the action it is given, whatever the latent."""

    def __init__(self, k: float) -> None:
        self.k = k

    def rebuild(self, theta, obs, action, noise):
        return self.k * action, None, None


def pieces(s: SimpleNamespace) -> tuple:
    """The last transitions of a cycle, their V(s) and A(s, a); the candidate's noise."""
    part = chunks(s.batch, 2)[1]
    value = s.values.values(s.state.value.theta, part.obs)
    q = s.critics.first(s.state.critic.theta, part.obs, part.action)
    return part, value, q - value, s.noise[2]


def actor_gradient(s: SimpleNamespace, part, value, advantage, noise) -> torch.Tensor:
    after, _ = actor_step(s.setup, s.state, part, value, advantage, noise)
    return 10 * after.adam.first


def td3_bc_gradient(s: SimpleNamespace, part: TransitionBatch, weight: float) -> torch.Tensor:
    """Of TD3+BC's loss with a weight before its squared error."""

    def loss(theta):
        action = s.policy.mean(theta, part.obs)
        q = s.critics.first(s.state.critic.theta, part.obs, action)
        imitation = weight * (action - part.action).square().mean(-1)
        return td3_bc.policy_loss(q, imitation, s.config.alpha), {}

    return gradient(loss, s.state.actor.theta)[0]


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert b.abs().max() > 1e-3


# --------------------------------------------------------------------------------- objectives


def test_objectives_by_hand():
    # (2 * 1 + 0 * 3)/2 + 0.5 (4 + 2)/2 = 2.5; the other seed (1 + 1)/2 + 0.5 * 1 = 1.5
    error, weight = torch.tensor([[1.0, 3.0], [1, 1]]), torch.tensor([[2.0, 0.0], [1, 1]])
    divergence = torch.tensor([[4.0, 2.0], [1, 1]])
    torch.testing.assert_close(vae_loss(error, divergence, weight, 0.5), torch.tensor([2.5, 1.5]))
    # mean |Q| is 3 and 1, so lambda is 2/3 and 2; mean Q is 1 and -1; imitation 0.5 and 0.25:
    # 0.5 - 2/3 = -1/6, and 0.25 + 2 = 2.25
    value, imitation = torch.tensor([[4.0, -2.0], [-1, -1]]), torch.tensor([[0, 1], [0.25, 0.25]])
    torch.testing.assert_close(policy_loss(value, imitation, 2.0), torch.tensor([-1 / 6, 2.25]))
    # KL of N(1, 2^2) to N(0, 1): (4 + 1 - 1)/2 - log 2 = 1.306853
    mean, log_std = torch.ones(1, 1, 1), torch.full((1, 1, 1), np.log(2.0))
    torch.testing.assert_close(kl_to_prior(mean, log_std), torch.full((1, 1, 1), 1.306853))


# --------------------------------------------------------------------- invariants of section 6


def test_6_1_where_the_datas_action_wins_the_actor_learns_as_in_td3_bc():
    s = setting(alpha=1.5, **STILL)
    part, value, _, noise = pieces(s)
    value = value - 100  # every advantage is positive ...
    advantage = torch.full_like(value, 1e6)  # ... and no candidate has a greater one
    same(actor_gradient(s, part, value, advantage, noise), td3_bc_gradient(s, part, 1.0))


def test_6_2_without_any_advantage_the_actor_learns_as_in_td3_and_copies_nothing():
    s = setting(alpha=1.5, **STILL)
    part, value, _, noise = pieces(s)
    value, advantage = value + 100, torch.full_like(value, -1.0)
    after, metrics = actor_step(s.setup, s.state, part, value, advantage, noise)
    assert metrics["imitation"].tolist() == metrics["mask_share"].tolist() == [0, 0]
    same(10 * after.adam.first, td3_bc_gradient(s, part, 0.0))


def test_6_3_two_positive_advantages_count_once():
    s = setting(imitation_weight=0.75, **STILL)
    part, value, _, noise = pieces(s)
    value, advantage = value - 100, torch.full_like(value, 1e6)
    after, metrics = actor_step(s.setup, s.state, part, value, advantage, noise)
    assert metrics["mask_share"].tolist() == [1, 1]
    action = s.policy.mean(s.state.actor.theta, part.obs)
    error = (action - part.action).square().mean((1, 2))
    torch.testing.assert_close(metrics["imitation"], 0.75 * error)
    same(10 * after.adam.first, td3_bc_gradient(s, part, 0.75))


def test_6_4_an_infinite_v_leaves_the_kl_and_minus_infinity_the_plain_vae():
    s = setting(**STILL)
    part, noise = chunks(s.batch, 2)[1], s.noise[1][:, :32]
    u, mean, log_std = s.vae.rebuild(s.state.vae.theta, part.obs, part.action, noise)
    kl = kl_to_prior(mean, log_std).mean((1, 2))

    def only_kl(theta):
        _, mean, log_std = s.vae.rebuild(theta, part.obs, part.action, noise)
        return 0.5 * kl_to_prior(mean, log_std).mean((1, 2)), {}

    vae, metrics = vae_step(s.setup, s.state, part, torch.full((2, 32), -torch.inf), noise)
    torch.testing.assert_close(metrics["vae_loss"], 0.5 * kl)
    torch.testing.assert_close(metrics["kl"], kl)
    assert metrics["data_share"].tolist() == [0, 0]
    same(10 * vae.adam.first, gradient(only_kl, s.state.vae.theta)[0])
    _, metrics = vae_step(s.setup, s.state, part, torch.full((2, 32), torch.inf), noise)
    plain = (u - part.action).square().mean((1, 2)) + 0.5 * kl
    torch.testing.assert_close(metrics["vae_loss"], plain)
    # An advantage of exactly 0 is none
    _, metrics = vae_step(s.setup, s.state, part, torch.zeros(2, 32), noise)
    torch.testing.assert_close(metrics["vae_loss"], 0.5 * kl)


def test_6_5_vs_target_is_at_most_y(monkeypatch):
    s, seen = setting(critic_lr=0.05), []
    descend = a2pr.descend

    def recorded(net, lr, loss, *given):
        seen.append(given[1])  # the target
        return descend(net, lr, loss, *given)

    monkeypatch.setattr(a2pr, "descend", recorded)
    critic_step(s.setup, s.state, chunks(s.batch, 2)[0], s.noise[0][:, :32])
    y, x = seen
    assert (x <= y).all()
    assert (x < y).any() and (x == y).any()


def test_6_6_the_candidate_is_chosen_where_its_q_is_not_smaller():
    # Advantages 1 > 0.5, a tie, 0 < 0.5: candidate, candidate, data
    v, action = torch.full((1, 3, 2), 7.0), torch.zeros(1, 3, 2)
    gain, advantage = torch.tensor([[1.0, 0.5, 0.0]]), torch.full((1, 3), 0.5)
    chosen, worth = imitated(v, action, gain, advantage, 0.0)
    assert chosen[..., 0].tolist() == [[7, 7, 0]]
    assert worth.tolist() == [[True, True, True]]
    # Worth it: A(s, v) >= 0, or A(s, a) > 0
    gain, advantage = torch.tensor([[0.0, -1, -1, 1]]), torch.tensor([[-1.0, 0, 1, -1]])
    _, worth = imitated(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), gain, advantage, 0.0)
    assert worth.tolist() == [[True, False, True, True]]
    _, worth = imitated(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), gain, advantage, 1.0)
    assert worth.tolist() == [[False, False, False, True]]


def test_6_7_the_actors_step_leaves_all_else_alone():
    s = setting(actor_lr=0.1)
    part, value, advantage, noise = pieces(s)
    before = [x.clone() for x in tensors(s.state)]
    after, _ = actor_step(s.setup, s.state, part, value, advantage, noise)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(s.state), strict=True))
    assert (after.theta - s.state.actor.theta).abs().max() > 0.01
    # ... and what the VAE learns next does not depend on it
    moved, _ = s.cycle(s.state, s.batch, s.noise)
    still, _ = setting(actor_lr=1e-30).cycle(s.state, s.batch, s.noise)
    for name in ("critic", "value", "vae"):
        assert all(map(torch.equal, tensors(getattr(moved, name)), tensors(getattr(still, name))))
    assert not torch.equal(moved.actor.theta, still.actor.theta)


@pytest.mark.parametrize("policy_freq", [2, 3])
def test_6_8_targets_move_only_on_the_actors_steps(monkeypatch, policy_freq):
    sizes = {"steps_per_iteration": 6, "gradient_steps": 6}
    s, seen, step = setting(policy_freq=policy_freq, **sizes), [], a2pr.critic_step

    def recorded(setup, state, batch, noise):
        seen.append(state)
        return step(setup, state, batch, noise)

    monkeypatch.setattr(a2pr, "critic_step", recorded)
    noise = [x.repeat(1, 2, 1)[:, : 32 * policy_freq] for x in s.noise[:2]]
    batch = TransitionBatch(*(torch.cat([x, x], 1)[:, : 32 * policy_freq] for x in s.batch))
    after, _ = s.cycle(s.state, batch, [*noise, s.noise[2]])
    assert len(seen) == policy_freq
    for state in seen:
        assert torch.equal(state.actor_target, s.state.actor_target)
        assert torch.equal(state.critic_target, s.state.critic_target)
    steps = [net.adam.steps[0].item() for net in after[:4]]
    assert steps == [1, policy_freq, policy_freq, policy_freq]
    for name in ("actor", "critic"):
        old, new = getattr(s.state, f"{name}_target"), getattr(after, name).theta
        expected = 0.995 * old + 0.005 * new
        torch.testing.assert_close(getattr(after, f"{name}_target"), expected, rtol=0, atol=1e-12)
        assert (expected - old).abs().max() > 1e-5


@pytest.mark.parametrize("c", [2**-10, 2**12])
def test_6_9_the_scale_of_q_and_v_changes_neither_masks_nor_the_actors_gradient(c):
    s = setting(**STILL)
    part, value, advantage, noise = pieces(s)
    critic = s.state.critic.theta.clone()
    for one in critic.chunk(2, 1):
        views = s.critics.layout.views(one)
        views["q.2.weight"] *= c
        views["q.2.bias"] *= c
    state = s.state._replace(critic=Net.of(critic))
    ours, metrics = actor_step(s.setup, s.state, part, value, advantage, noise)
    theirs, scaled = actor_step(s.setup, state, part, c * value, c * advantage, noise)
    same(theirs.adam.first, ours.adam.first)
    for name in ("mask_share", "candidate_share"):
        assert torch.equal(metrics[name], scaled[name])
    assert (metrics["candidate_share"] > 0).all() and (metrics["candidate_share"] < 1).all()


@pytest.mark.parametrize(("kind", "power"), [("encoder", 2), ("detached", 1)])
def test_6_10_the_gradient_runs_through_the_candidate_unless_detached(kind, power):
    # For v = k p the square (p - v)^2 has the gradient 2 p (1 - k)^2 in p, detached 2 p (1 - k).
    # One action, at its bias: p = tanh(b). alpha 0 leaves the square alone
    k, b = 0.25, torch.tensor(0.5, dtype=torch.float64)
    s = setting(seeds=(0,), candidate=kind, alpha=0.0, hidden=(1,), **STILL)
    setup = s.setup._replace(vae=FixedVAE(k))
    actor = torch.zeros_like(s.state.actor.theta)
    s.policy.layout.views(actor)["actor.1.bias"].fill_(b)
    state = s.state._replace(actor=Net.of(actor))
    part, value, _, noise = pieces(s)
    after, metrics = actor_step(setup, state, part, value - 100, value - 1e6, noise)
    assert metrics["candidate_share"].tolist() == [1]
    first = s.policy.layout.views(10 * after.adam.first)["actor.1.bias"][0, 0]
    # The box: p = centre + reach tanh(b), so dp/db = reach (1 - tanh(b)^2); a mean over 2 actions
    p = s.policy.centre + s.policy.half_width * b.tanh()
    slope = s.policy.half_width * (1 - b.tanh() ** 2)
    torch.testing.assert_close(first, 2 * p * (1 - k) ** power * slope / 2)


# ----------------------------------------------------------------------- traps of section 4


def test_4_6_advantages_know_v_before_its_own_step_and_the_new_critics(monkeypatch):
    s, seen, step = setting(critic_lr=0.05), [], a2pr.vae_step

    def recorded(setup, state, batch, advantage, noise):
        seen.append((state, batch, advantage))
        return step(setup, state, batch, advantage, noise)

    monkeypatch.setattr(a2pr, "vae_step", recorded)
    s.cycle(s.state, s.batch, s.noise)
    state, batch, advantage = seen[0]
    old, new = (s.values.values(x.value.theta, batch.obs) for x in (s.state, state))
    q = s.critics.first(state.critic.theta, batch.obs, batch.action)
    torch.testing.assert_close(advantage, q - old)
    assert (new - old).abs().min() > 1e-6
    assert (q - s.critics.first(s.state.critic.theta, batch.obs, batch.action)).abs().max() > 1e-3


def test_4_7_both_backups_take_the_same_noisy_action(monkeypatch):
    s, asked = setting(**STILL), []
    values = s.critics.values

    def recorded(theta, obs, action):
        asked.append(action)
        return values(theta, obs, action)

    monkeypatch.setattr(s.critics, "values", recorded)
    part, noise = chunks(s.batch, 2)[0], s.noise[0][:, :32]
    critic_step(s.setup, s.state, part, noise)
    target, _, online = asked  # the second is the critics' own loss
    assert torch.equal(target, online)
    shift = (0.2 * noise).clamp(-0.5, 0.5) * s.policy.half_width
    expected = s.policy.clip_action(s.policy.mean(s.state.actor_target, part.next_obs) + shift)
    torch.testing.assert_close(target, expected)


def test_4_11_a_mask_belongs_to_its_own_row():
    s = setting(seeds=(0,), **STILL)
    part, noise = chunks(s.batch, 2)[1], s.noise[1][:, :32]
    advantage = torch.full((1, 32), -1.0)
    advantage[0, 5] = 1.0
    _, metrics = vae_step(s.setup, s.state, part, advantage, noise)
    error, kl = s.vae.errors(s.state.vae.theta, part.obs, part.action, noise)
    torch.testing.assert_close(metrics["vae_loss"], error[:, 5] / 32 + 0.5 * kl.mean(1))


def test_the_weights_of_both_masks_are_their_own():
    s = setting(seeds=(0,), vae_weight=3.0, imitation_weight=0.25, **STILL)
    part, value, _, noise = pieces(s)
    every = torch.ones(1, 32)
    _, metrics = vae_step(s.setup, s.state, part, every, s.noise[1][:, :32])
    error, kl = s.vae.errors(s.state.vae.theta, part.obs, part.action, s.noise[1][:, :32])
    torch.testing.assert_close(metrics["vae_loss"], 3 * error.mean(1) + 0.5 * kl.mean(1))
    same(actor_gradient(s, part, value - 100, 1e6 * every, noise), td3_bc_gradient(s, part, 0.25))


# ---------------------------------------------------------------------------------- the update


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"candidate": "detached", "alpha": 40.0, "imitation_weight": 10.0},
        {"candidate": "prior", "vae_weight": 1.5, "imitation_weight": 0.4, "discount": 0.995},
    ],
    ids=["encoder", "detached", "prior"],
)
def test_cycles_are_those_of_one_seed_in_plain_torch(changes):
    rates = {"actor_lr": 2**-8, "critic_lr": 2**-8, "vae_lr": 2**-7}
    s = setting(**rates, **changes)
    plain, state = [PlainA2PR(s, seed) for seed in (0, 1)], s.state
    shares = []
    for k in range(5):
        batch = batch_of((10 * k, 10 * k + 1), 64, torch.float64)
        noise = noise_of((20 * k, 20 * k + 1), 32)
        state, metrics = s.cycle(state, batch, noise)
        shares.append([metrics[name] for name in ("data_share", "mask_share", "candidate_share")])
        for seed in (0, 1):
            plain[seed].cycle(TransitionBatch(*(x[seed] for x in batch)), [x[seed] for x in noise])
    for seed in (0, 1):
        for ours, network in zip(thetas(state), plain[seed].networks(), strict=True):
            torch.testing.assert_close(ours[seed], flat(network), rtol=0, atol=1e-8)
    for new, old in zip(thetas(state)[:4], thetas(s.state), strict=False):
        assert (new - old).abs().max() > 0.01
    # Neither mask was the same for all rows of all steps
    shares = torch.stack([torch.stack(row) for row in shares])
    lowest, highest = shares.amin((0, 2)), shares.amax((0, 2))
    assert (lowest < 1).all() and (highest > 0).all()


def test_float32_does_as_float64():
    s, double = setting(dtype=torch.float32), setting()
    state, exact = s.state, double.state
    for _ in range(3):
        state, _ = s.cycle(state, s.batch, s.noise)
        exact, _ = double.cycle(exact, double.batch, double.noise)
    for ours, theirs in zip(thetas(state), thetas(exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize("width", [32, 256])
def test_a_seed_moves_to_the_same_bits_alone_and_in_company(width):
    changes = {"hidden": (width, width), "rows": width, "dtype": torch.float32}
    changes |= {"critic_hidden": (width, width), "vae_hidden": width}
    with as_in_a_run(width):
        alone, company = (setting(seeds, **changes) for seeds in ((3,), range(5)))
        mine, theirs = alone.state, company.state
        for _ in range(3):
            mine, my_metrics = alone.cycle(mine, alone.batch, alone.noise)
            theirs, metrics = company.cycle(theirs, company.batch, company.noise)
    for a, b in zip(tensors(mine), tensors(theirs), strict=True):
        assert torch.equal(a[0], b[3])
    assert all(torch.equal(my_metrics[name][0], metrics[name][3]) for name in metrics)
    assert not torch.equal(theirs.actor.theta[2], theirs.actor.theta[3])


# -------------------------------------------------------------------------------------- train


def trained(seeds=(0, 1), **changes) -> MemoryRun:
    values = {"gradient_steps": 12, "steps_per_iteration": 4, "batch_size": 16, "hidden": (16, 8)}
    values |= {"critic_hidden": (8, 8, 8), "vae_hidden": 12}
    run = MemoryRun(logged([10] * 6), seeds)
    train(Config(**values | changes), run)
    return run


def test_train_starts_with_targets_equal_to_networks_and_counts_steps():
    run = trained()
    start, last = run.states[0], run.states[-1]
    for name in ("actor", "critic"):
        theta = getattr(start.state, name).theta
        assert torch.equal(theta, getattr(start.state, f"{name}_target"))
    assert len(run.rows) == 3
    # 12 steps of critics, V and VAE, an actor step after every second
    assert [net.adam.steps[0].item() for net in last.state[:4]] == [6, 12, 12, 12]
    for learner in run.states:
        assert torch.equal(learner.policy.theta, learner.state.actor.theta)
    shares = {"mask_share", "candidate_share", "data_share", "kl"}
    losses = {"critic_loss", "value", "value_loss", "vae_loss", "policy_loss", "imitation"}
    assert run.rows[0].keys() == shares | losses
    assert all(value.shape == (2,) for value in run.rows[0].values())
    mean = logged([10] * 6).obs.astype(np.float64).mean(0)
    np.testing.assert_allclose(last.policy.normalizer.mean[1], mean, rtol=1e-6)


def test_train_gives_each_step_its_own_transitions_and_noise(monkeypatch):
    calls, cycle = [], a2pr.actor_cycle

    def recorded(setup, state, batch, noise):
        calls.append((batch, noise))
        return cycle(setup, state, batch, noise)

    monkeypatch.setattr(a2pr, "actor_cycle", recorded)
    trained(batch_size=64)
    assert len(calls) == 6
    batch, noise = calls[0]
    assert batch.obs.shape == (2, 128, OBS)
    sizes = [(2, 128, ACTIONS), (2, 128, 2 * ACTIONS), (2, 64, 2 * ACTIONS)]
    assert [tuple(x.shape) for x in noise] == sizes
    everything = torch.cat([x.flatten() for _, noise in calls for x in noise])
    assert len(everything.unique()) > 0.99 * everything.numel()
    assert abs(everything.std() - 1) < 0.05


def test_actions_of_a_box_are_noisy_in_its_half_widths():
    # noise 1 times 0.2 is 0.2 of the half widths 2 and 1/2; 9 is cut to 0.5 of them
    s = setting(seeds=(0,), dtype=torch.float32)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    asked, values = [], s.critics.values
    s.critics.values = lambda *given: asked.append(given[2]) or values(*given)
    part = chunks(s.batch, 2)[0]
    for noise in (1.0, 9.0):
        critic_step(s.setup, s.state, part, torch.full((1, 32, ACTIONS), noise))
    mean = s.policy.mean(s.state.actor_target, part.next_obs)
    for action, shift in ((asked[0], [0.4, 0.1]), (asked[3], [1.0, 0.25])):
        expected = torch.minimum(mean + torch.tensor(shift), high).maximum(low)
        torch.testing.assert_close(action, expected)
