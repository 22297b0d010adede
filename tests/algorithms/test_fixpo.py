"""FixPO's objectives, its two phases and the invariants of the fact sheet, numbered as there."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from fixpo_setting import (
    KINDS,
    PlainFixPO,
    constant,
    displace,
    everything,
    follow,
    made_up,
    reference_kl,
    repair,
    run,
    same,
    setting,
    theta_of,
    whole,
)
from ppo_setting import drift_registered

from rlsuite.algorithms.on_policy import fixpo
from rlsuite.algorithms.on_policy.fixpo import loss, minibatch_step, primal_dual_step, state_kl
from rlsuite.core.optim import AdamState, Net, gradient

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def task():
    with drift_registered():
        yield


def column(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def batch_kl(s) -> torch.Tensor:
    """KL(pi_old || pi) at every state of the last iteration's batch, in float64."""
    old, obs = s.step.calls[-1].old, whole(s).obs
    return reference_kl(s.policy, old.double(), s.policy.theta.double(), obs.double())


def kl_of(m) -> torch.Tensor:
    return reference_kl(m.policy, m.old, m.policy.theta, m.batch.obs)


def step(m, part, lr: torch.Tensor) -> dict[str, torch.Tensor]:
    """A minibatch's step of what was made up; its metrics."""
    nets = m.learner.actor, m.learner.critic
    *nets, metrics = minibatch_step(m.policy, m.config, *nets, lr, m.old, part)
    m.learner.actor, m.learner.critic = nets
    follow(m)
    return metrics


# --------------------------------------------------------------------------------- objectives


def test_surrogate_loss_by_hand():
    # Ratios 2 and 1/2 with A = 3 and -1: -(3 * 2 - 1/2)/2 = -2.75: neither ratio is clipped
    got = fixpo.surrogate_loss(column(math.log(2.0), -math.log(2.0)), column(3.0, -1.0))
    torch.testing.assert_close(got, torch.tensor([-2.75]))
    # The log ratio is cut at 20, so that nothing overflows: e^20 = 4.851652e8
    far = fixpo.surrogate_loss(column(1000.0), column(1.0))
    torch.testing.assert_close(far, torch.tensor([-4.851652e8]))


def test_statistic_by_hand():
    kl = torch.tensor([[0.1, 0.5, 0.3], [0.2, 0.0, 0.1]])
    torch.testing.assert_close(fixpo.statistic(kl, "max"), torch.tensor([0.5, 0.2]))
    torch.testing.assert_close(fixpo.statistic(kl, "mean"), torch.tensor([0.3, 0.1]))


# --------------------------------------------------------------------------------- invariants


@EVERY_KIND
def test_invariant_01_no_state_of_the_batch_is_beyond_the_limit(kind):
    s, free = setting(kind), setting(kind, fixup="off")
    repaired, beyond = 0.0, 0.0
    for k in range(3):
        s.step.calls.clear()
        free.step.calls.clear()
        metrics, metrics_free = run(s, k), run(free, k)
        kl, kl_free = batch_kl(s), batch_kl(free)
        assert kl.max() <= 0.02 + 1e-6  # the float32 KL is good to 1e-6 here
        torch.testing.assert_close(metrics["max_kl"].double(), kl.amax(1), rtol=0, atol=1e-6)
        torch.testing.assert_close(metrics["kl"].double(), kl.mean(1), rtol=0, atol=1e-6)
        assert metrics["states_above_limit"].tolist() == [0, 0]
        near = ((kl_free - 0.02).abs() < 1e-6).sum(1)
        counted = metrics_free["states_above_limit"] - (kl_free > 0.02).sum(1)
        assert (counted.abs() <= near).all()
        repaired += metrics["fixup_share"].sum()
        beyond += metrics_free["states_above_limit"].sum()
    assert repaired > 0
    assert beyond > 0  # so the second phase is what keeps the limit


@EVERY_KIND
@pytest.mark.parametrize("how", ["noise", "huge steps"])
def test_invariant_02_a_violation_is_repaired_in_finitely_many_steps(kind, how):
    m = made_up(kind, max_kl=0.02, learning_rate=3e-3, max_sweeps=1000)
    if how == "noise":
        displace(m, 0)
        displace(m, 1)
    else:
        for part in m.batch.chunks(4):
            step(m, part, torch.tensor(0.1))
    assert kl_of(m).amax(1).min() > 0.04
    steps, bisections = repair(m)
    assert kl_of(m).amax(1).max() <= 0.02 + 1e-6
    assert bisections.tolist() == [0, 0]
    assert 1 <= steps.min() <= steps.max() < 2 * 1000


@EVERY_KIND
def test_invariant_03_without_a_violation_nothing_moves(kind):
    m = made_up(kind, seeds=(0, 1), max_kl=0.02)
    actor = m.learner.actor
    moving = AdamState(*(x + 1 for x in actor.adam))  # momentum that could move it
    m.learner.actor = actor._replace(adam=moving)
    displace(m, 1)
    before, streams = [everything(m, seed) for seed in (0, 1)], copy.deepcopy(m.rngs)
    steps, _ = repair(m)
    assert steps[0] == 0
    assert same(everything(m, 0), before[0])
    assert m.rngs[0].bit_generator.state == streams[0].bit_generator.state
    # ... while another seed was repaired; and once it is, it is left alone, too
    assert steps[1] > 0
    after = everything(m, 1)
    assert not any(torch.equal(x, y) for x, y in zip(after[:5], before[1][:5], strict=True))
    assert repair(m).tolist() == [[0, 0], [0, 0]]
    assert same(everything(m, 1), after)


def test_invariant_04_the_multiplier_follows_its_sign():
    # eps 0.5, C 2: d L_beta / d beta = 0.5 - 2 max KL = 0.5, -0.5, 0 at KL 0, 2 eps/C, eps/C; the
    # first Adam steps of lr 0.01 in an unchanging direction are 0.01 each, whatever its length
    config = made_up(max_kl=0.5, target_coef=2.0).config
    actor = Net.of(torch.tensor([[0.0, 0, 0, 0, 0.025]] * 3))
    kl, seen = torch.tensor([0.0, 0.5, 0.25]), []
    for _ in range(5):
        actor = primal_dual_step(config, actor, torch.zeros(3, 4), kl, torch.tensor(0.1))
        seen.append(actor.theta[:, -1])
    falling, rising, still = torch.stack(seen, 1)
    torch.testing.assert_close(falling, torch.tensor([0.015, 0.005, 0.0, 0.0, 0.0]))
    assert falling[2:].tolist() == [0, 0, 0]
    torch.testing.assert_close(rising, torch.tensor([0.035, 0.045, 0.055, 0.065, 0.075]))
    assert torch.equal(still, torch.full((5,), 0.025))
    assert not actor.theta[:, :-1].any()


@EVERY_KIND
def test_invariant_05_fixup_leaves_the_critic_and_its_adam_alone(kind):
    m = made_up(kind, max_kl=0.02)
    step(m, m.batch, m.lr)  # some momentum
    displace(m, 0)
    before, theta = copy.deepcopy(m.learner.critic), m.learner.actor.theta.clone()
    assert repair(m)[0, 0] > 0
    assert (theta[0] != m.learner.actor.theta[0]).any()
    assert torch.equal(m.learner.critic.theta, before.theta)
    assert same(list(m.learner.critic.adam), list(before.adam))
    assert before.adam.first.abs().max() > 0


def test_invariant_05_log_sigma_is_repaired_and_beta_never_negative():
    # Only log sigma moved, by 1 in each of 3 dimensions: KL = 3 (1 + e^-2/2 - 1/2) = 1.7030
    m = made_up(seeds=(0,), max_kl=0.5, multiplier_init=0.0)
    log_std = m.policy.actor_layout.views(m.learner.actor.theta[:, :-1])["log_std"]
    log_std += 1
    follow(m)
    torch.testing.assert_close(kl_of(m), torch.full((1, 64), 1.70300292))
    repair(m)
    assert (log_std < 0.5).all()
    assert kl_of(m).max() <= 0.5 + 1e-6
    # A limit that is never met drives beta to 0, step by step, and no further
    s = setting(max_kl=100.0, multiplier_init=0.05, multiplier_lr=0.02)
    run(s)
    seen = torch.stack([call.actor.theta[:, -1] for call in s.step.calls])
    torch.testing.assert_close(seen[:3, 0], torch.tensor([0.05, 0.03, 0.01]))
    assert seen[3:].tolist() == [[0, 0]] * 5


@EVERY_KIND
def test_invariant_06_the_first_gradient_is_the_policy_gradient(kind):
    s = setting(kind, value_coef=0.0)
    run(s)
    first, last = s.step.calls[0], s.step.calls[-1]
    theta, beta, part = theta_of(first.actor, first.critic), first.actor.theta[:, -1], first.part
    pi = s.policy.distribution(theta, part.obs)
    assert ((pi.log_prob(part.action) - part.old_log_prob).exp() - 1).abs().max() < 1e-5
    assert state_kl(s.policy, first.old, theta, part.obs).abs().max() < 1e-6
    assert state_kl(s.policy, last.old, last.actor.theta, last.part.obs).amax(1).min() > 1e-4
    ours, parts = gradient(lambda x: loss(x, s.policy, s.config, part, first.old, beta), theta)
    torch.testing.assert_close(parts["policy_loss"], -part.advantage.mean(1))

    def log_prob_form(theta):
        log_prob = s.policy.distribution(theta, part.obs).log_prob(part.action)
        return -(part.advantage * log_prob).mean(1), {}

    theirs, _ = gradient(log_prob_form, theta)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())
    assert ours.abs().max() > 0.01


def test_invariant_07_without_limit_and_multiplier_it_is_an_importance_weighted_gradient():
    free = {"max_kl": 1e9, "multiplier_init": 0.0, "multiplier_lr": 0.0}
    m = made_up(double=True, learning_rate=2**-7, **free)
    start, plain = m.policy.theta.clone(), [PlainFixPO(m, seed) for seed in (0, 1)]
    for part in 2 * m.batch.chunks(4):
        metrics = step(m, part, m.lr)
        for seed in (0, 1):
            rows = [x[seed] for x in part]
            plain[seed].step(plain[seed].loss(rows), torch.zeros(1))
    for seed in (0, 1):
        torch.testing.assert_close(m.policy.theta[seed], plain[seed].flat(), rtol=0, atol=1e-9)
    assert (m.policy.theta - start).abs().max() > 0.02
    assert metrics["value_loss"].min() > 0.1
    # Through whole iterations the second phase is never entered
    s, off = setting(**free), setting(**free, fixup="off")
    for k in range(2):
        metrics, _ = run(s, k), run(off, k)
        assert metrics["fixup_share"].tolist() == metrics["multiplier"].tolist() == [0, 0]
    assert metrics["max_kl"].min() > 0.05
    assert torch.equal(s.policy.theta, off.policy.theta)


@EVERY_KIND
def test_invariant_08_the_penalty_is_the_mean_of_torchs_kl(kind):
    m = made_up(kind, value_coef=0.7)
    displace(m, 0)
    displace(m, 1)
    kl, beta = state_kl(m.policy, m.old, m.policy.theta, m.batch.obs), torch.tensor([2.0, 3.0])
    assert kl.shape == (2, 64)
    torch.testing.assert_close(kl, kl_of(m), rtol=1e-3, atol=1e-5)
    total, parts = loss(m.policy.theta, m.policy, m.config, m.batch, m.old, beta)
    penalty = total - parts["policy_loss"] - 0.7 * parts["value_loss"]
    torch.testing.assert_close(penalty, beta * kl.mean(1), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(parts["kl_stat"], kl.amax(1))
    assert kl.mean(1).min() > 0.01


@pytest.mark.slow
def test_invariant_09_fixup_is_cheap_after_warm_up_and_cheaper_the_larger_c_is():
    # Of 32 gradient steps an iteration; recorded over all 10: 0.39, 0.13 and 0.06 more of them
    size = {"num_envs": 4, "num_steps": 64, "num_minibatches": 8, "epochs": 4}
    how = {"env_steps": 10 * 256, "learning_rate": 3e-3, "multiplier_lr": 0.1, "max_kl": 0.05}
    share = {}
    for c in (1.0, 3.0, 10.0):
        s = setting("categorical", seeds=(0, 1, 2, 3), **size, **how, target_coef=c)
        share[c] = torch.stack([run(s, k)["fixup_share"] for k in range(10)]).mean(1)
    assert share[3.0][5:].mean() < 0.1
    assert share[1.0].mean() > 1.5 * share[3.0].mean()
    assert share[3.0].mean() > 1.5 * share[10.0].mean()


# A drift `d` of a Gaussian's mean at sigma 1 has KL d^2/2: 8 at d = 4, and eps = 1/2 at d = 1
def drifted(**changes) -> SimpleNamespace:
    m = constant("gaussian", [0.0], [0.0], max_kl=0.5, max_sweeps=3, **changes)
    m.policy.actor_layout.views(m.learner.actor.theta[:, :-1])["actor.2.bias"][0, 0, 1] = 4.0
    follow(m)
    m.lr = torch.tensor(0.0)
    return m


def test_invariant_10_the_guard_returns_the_largest_step_that_is_allowed():
    m = drifted()
    torch.testing.assert_close(kl_of(m), torch.full((1, 64), 8.0))
    # Every minibatch is beyond: 3 sweeps of 2 steps. Bisection stops within 4/2^20 of 1.
    assert repair(m).tolist() == [[6], [1]]
    d = m.policy.layout.views(m.policy.theta)["actor.2.bias"][0, 0]
    assert d[[0, 2]].tolist() == [0, 0]
    assert 1 - 5e-6 < d[1] <= 1
    assert (state_kl(m.policy, m.old, m.policy.theta, m.batch.obs) <= 0.5).all()
    # beta and its Adam keep what six steps made of them: 1 + 6 * 0.01
    torch.testing.assert_close(m.learner.actor.theta[:, -1], torch.tensor([1.06]))
    assert m.learner.actor.adam.steps.item() == 6


@EVERY_KIND
def test_invariant_10_the_guard_leaves_other_seeds_alone_bit_for_bit(kind):
    m, alone = (made_up(kind, x, max_kl=0.02, learning_rate=3e-3) for x in ((0, 1, 2), (1,)))
    displace(m, 1)
    alone.learner.actor.theta.copy_(m.learner.actor.theta[1:2])
    m.learner.actor.theta[0, :-1] = math.nan
    third = everything(m, 2)
    (steps, bisections), alone_steps = repair(m), repair(alone)[0]
    assert bisections.tolist() == [1, 0, 0]
    assert torch.equal(m.policy.theta[0, : m.policy.actor_size], m.old[0])  # the NaN: pi_old
    assert steps.tolist() == [0, alone_steps.item(), 0]
    assert steps[1] > 0
    assert same(everything(m, 1), everything(alone, 0))
    assert same(everything(m, 2), third)
    # A single NaN at one end of the network is no less one
    m.learner.actor.theta[0, -2] = math.nan
    assert repair(m).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert torch.equal(m.policy.theta[0, : m.policy.actor_size], m.old[0])


def test_invariant_10_bisections_are_counted_over_an_iteration():
    s = setting(max_sweeps=1, max_kl=1e-4, multiplier_init=0.0)
    metrics = run(s)
    assert metrics["bisections"].tolist() == [2, 2]  # after each of the 2 epochs
    assert metrics["states_above_limit"].tolist() == [0, 0]
    assert batch_kl(s).max() <= 1e-4 + 1e-6


# old, new, KL(old || new), KL(new || old), worked by hand:
# log sigma 1 -> 0: -1 + e^2/2 - 1/2 = 2.194528; back: 1 + e^-2/2 - 1/2 = 0.567668
# (1/2, 1/4, 1/4) -> thirds: (log(3/2) + log(3/4))/2 = 0.058892; back: (log(2/3) + 2 log(4/3))/3
#                                                               = 0.056633
# Beta(2, 2) -> Beta(3, 2): log(B(3,2)/B(2,2)) + psi(4) - psi(2) = -log 2 + 5/6 = 0.140186
#                           back: log 2 + psi(3) - psi(5) = log 2 - 7/12 = 0.109814
# alpha = 1 + softplus(x): 2 at x = log(e - 1) = 0.541325, 3 at log(e^2 - 1) = 1.854587
TWO = [0.541325] * 6
BY_HAND = {
    "gaussian": ([1.0], [0.0], 2.194528, 0.567668),
    "categorical": ([math.log(2.0)], [0.0], 0.058892, 0.056633),
    "beta": (TWO, [1.854587, *TWO[1:]], 0.140186, 0.109814),
}


@EVERY_KIND
def test_invariant_11_every_kind_of_policy_is_limited_in_the_right_direction(kind):
    old, new, there, back = BY_HAND[kind]
    limit = (there + back) / 2
    m = constant(kind, old, new, max_kl=limit)
    torch.testing.assert_close(kl_of(m), torch.full((1, 64), there), rtol=1e-4, atol=1e-5)
    assert repair(m)[0] > 0
    assert (state_kl(m.policy, m.old, m.policy.theta, m.batch.obs) <= limit).all()
    m = constant(kind, new, old, max_kl=limit)
    torch.testing.assert_close(kl_of(m), torch.full((1, 64), back), rtol=1e-4, atol=1e-5)
    assert repair(m)[0] == 0


@pytest.mark.parametrize(
    "change",
    [
        *({"fixup": "off"}, {"fixup": "last"}, {"kl_stat": "mean"}, {"multiplier_lr": 0.0}),
        *({"target_coef": 1.0}, {"multiplier_init": 10.0}, {"value_clip": None}),
        *({"fixup_minibatches": 4}, {"max_kl": 0.015}),
    ],
    ids=str,
)
def test_invariant_12_every_switch_changes_what_is_learnt(change):
    as_published, changed = setting(), setting(**change)
    for k in range(2):
        run(as_published, k)
        run(changed, k)
    assert (as_published.policy.theta != changed.policy.theta).any(1).all()


@pytest.mark.parametrize(
    ("fixup", "order"), [("epoch", "1111F1111F"), ("last", "11111111F"), ("off", "11111111")]
)
def test_invariant_12_the_second_phase_comes_when_it_is_asked_for(fixup, order, monkeypatch):
    s, seen = setting(fixup=fixup), []
    original, taken = fixpo.fixup, s.step
    monkeypatch.setattr(fixpo, "fixup", lambda *args: seen.append("F") or original(*args))
    s.step = lambda *args: seen.append("1") or taken(*args)
    metrics = run(s)
    assert "".join(seen) == order  # 2 epochs of 4 minibatches
    extra = (s.learner.actor.adam.steps - s.learner.critic.adam.steps)[:, 0]
    assert extra.tolist() == (8 * metrics["fixup_share"]).tolist()
    assert (extra > 0).all() == (fixup != "off")


def test_invariant_12_the_mean_is_limited_where_it_is_the_statistic():
    worst = []
    for kl_stat in ("mean", "max"):
        s = setting(kl_stat=kl_stat)
        for k in range(3):
            s.step.calls.clear()
            metrics = run(s, k)
            worst.append((metrics["kl"].max(), metrics["max_kl"].max()))
    mean, largest = torch.tensor(worst).split(3)
    assert mean[:, 0].max() <= 0.02 < mean[:, 1].max()
    assert largest[:, 1].max() <= 0.02


def test_invariant_12_a_multiplier_without_a_learning_rate_is_constant():
    fixed, free = setting(multiplier_lr=0.0, multiplier_init=10.0), setting(multiplier_init=10.0)
    for k in range(2):
        assert run(fixed, k)["multiplier"].tolist() == [10, 10]
        assert (run(free, k)["multiplier"] - 10).abs().min() > 0.01
