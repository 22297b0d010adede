"""CaT: probabilities from margins, the curriculum, and PPO's update where nothing is active."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from constrained_setting import toll_registered
from torch import tensor

from rlsuite.algorithms.constrained import cat
from rlsuite.algorithms.constrained.cat import (
    Config,
    Maxima,
    adapted,
    curriculum,
    probabilities,
    termination,
)
from rlsuite.algorithms.on_policy import ppo
from rlsuite.core.constraints import renewed
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler, RunningStatistics
from rlsuite.core.optim import Net
from rlsuite.core.rollouts import Collector, factors, gae
from rlsuite.core.streams import Streams
from rlsuite.envs import Constraint, make


@pytest.fixture(autouse=True)
def task():
    with toll_registered():
        yield


def margins(*columns) -> np.ndarray:
    """[S, T, N, K] of one seed, one step and one environment for each column given."""
    return np.array(columns, np.float32).reshape(1, 1, 1, -1)


# ------------------------------------------------------------------------- the running maxima


def test_the_scale_begins_with_the_first_maximum_and_constant_margins_keep_it() -> None:
    maxima = Maxima(1, 1, 0.95)
    found = maxima.follow(np.full((1, 5, 3, 1), 4.0, np.float32))
    assert found.flatten().tolist() == pytest.approx([4.0] * 5)


def test_without_violations_the_scale_decays_to_its_floor() -> None:
    maxima = Maxima(1, 1, 0.95)
    maxima.follow(np.full((1, 1, 2, 1), 2.0, np.float32))
    found = maxima.follow(np.full((1, 30, 2, 1), -1.0, np.float32))
    # tau^n C_0 + (1 - tau^n) 1e-6
    expected = [0.95**n * 2 + (1 - 0.95**n) * 1e-6 for n in range(1, 31)]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-4)


def test_the_scale_is_of_the_worst_environment_and_of_each_seed_alone() -> None:
    margin = np.zeros((2, 1, 3, 1), np.float32)
    margin[0, 0, :, 0], margin[1, 0, :, 0] = (1, 5, 2), (7, 0, 0)
    maxima = Maxima(2, 1, 0.95)
    assert maxima.follow(margin).flatten().tolist() == [5, 7]


def test_the_scale_takes_in_a_step_before_it_judges_it() -> None:
    maxima = Maxima(1, 1, 0.5)
    margin = np.array([1.0, 3.0], np.float32).reshape(1, 2, 1, 1)
    scale = maxima.follow(margin)
    # 1, then 0.5 * 1 + 0.5 * 3 = 2: the second step is over it
    assert scale.flatten().tolist() == [1, 2]
    assert termination(margin, scale, np.array([0.5])).flatten().tolist() == [0.5, 0.5]


# --------------------------------------------------------------------- probabilities of ending


def test_the_probability_by_hand() -> None:
    scale, p_max = np.array([[[4.0, 2.0]]]), np.array([0.25, 1.0])
    # max(1/4 * 0.25, 0.5/2 * 1) = 0.25; nothing over: 0; 8 over 4 is clipped: 0.25
    for margin, delta in (((1, 0.5), 0.25), ((-1, 0), 0.0), ((8, -3), 0.25)):
        assert termination(margins(*margin), scale, p_max).item() == pytest.approx(delta)


def test_the_probability_lies_below_p_max_is_zero_without_violation_and_grows_with_it() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(-1, 2, (2, 5, 4, 3)).astype(np.float32)
    scale, p_max = rng.uniform(1, 3, (2, 5, 3)), np.array([0.05, 0.25, 1.0])
    delta = termination(margin, scale, p_max)
    assert (delta >= 0).all() and (delta <= 1).all()
    assert np.array_equal(delta == 0, (margin <= 0).all(-1))
    more = termination(margin + 0.1, scale, p_max)
    assert (more >= delta).all() and (more > delta).any()


def test_other_units_of_a_column_leave_the_probability_as_it_is() -> None:
    margin = np.random.default_rng(1).normal(0, 1, (1, 6, 4, 2)).astype(np.float32)
    deltas = []
    for unit in (1, 1000):
        scaled = margin * np.array([unit, 1], np.float32)
        deltas.append(termination(scaled, Maxima(1, 2, 0.95).follow(scaled), np.array([0.3, 0.6])))
    assert deltas[0] == pytest.approx(deltas[1], abs=1e-5)


def test_a_stored_probability_is_not_rounded_to_a_flag() -> None:
    delta = termination(margins(0.3), np.array([[[1.0]]]), np.array([1.0]))
    assert delta.dtype == np.float32 and delta.item() == pytest.approx(0.3)
    one = np.ones((1, 2, 1), np.float32)
    never, half = np.zeros((1, 2, 1), bool), np.full((1, 2, 1), 0.3, np.float32)
    future, carry = ((1 - half) * x for x in factors(never, never))
    advantage, _ = gae(one, 0 * one, one, future, carry, 1.0, 1.0)
    # 1 + 0.7 = 1.7; 1.7 + 0.7 * 1.7 = 2.89
    assert advantage.flatten().tolist() == pytest.approx([2.89, 1.7])


def test_columns_have_the_probability_of_their_group_or_their_own() -> None:
    constraints = (
        Constraint("torque", 0.02, "step", columns=2),
        Constraint("fall", 0, "step", group="hard"),
        Constraint("gait", None, "step", group="style"),
        Constraint("still", None, "step", group="style", p_max=0.1),
    )
    found = probabilities(constraints, 0.05)
    assert found.tolist() == pytest.approx([0.05, 0.05, 1.0, 0.05, 0.1])


def test_the_curriculum_goes_from_a_twentieth_to_a_quarter() -> None:
    # 1/20; 1/(20 + 0.5 (4 - 20)) = 1/12; 1/4
    found = [curriculum(progress, 0.25) for progress in (0, 0.5, 1)]
    assert found == pytest.approx([0.05, 1 / 12, 0.25])
    assert (np.diff([curriculum(x, 0.25) for x in np.linspace(0, 1, 20)]) > 0).all()


# ------------------------------------------------------------------------------------ returns


def test_terminations_in_expectation_are_a_discount_and_a_scaled_reward() -> None:
    rng = np.random.default_rng(2)
    reward, value, next_value = rng.uniform(0, 1, (3, 1, 6, 2))
    delta = rng.uniform(0, 1, (1, 6, 2))
    never = np.zeros((1, 6, 2), bool)
    future, carry = ((1 - delta) * x for x in factors(never, never))
    ours, _ = gae(reward * (1 - delta), value, next_value, future, carry, 0.99, 0.95)
    after = 0.0
    for t in reversed(range(6)):
        discount = 0.99 * (1 - delta[0, t])
        error = reward[0, t] * (1 - delta[0, t]) + discount * next_value[0, t] - value[0, t]
        after = error + discount * 0.95 * after
        assert ours[0, t] == pytest.approx(after)


def test_a_sure_termination_is_a_terminal_state_that_pays_nothing() -> None:
    rng = np.random.default_rng(3)
    reward, value, next_value = rng.uniform(0, 1, (3, 1, 6, 2))
    ends, never = np.zeros((1, 6, 2), bool), np.zeros((1, 6, 2), bool)
    ends[0, 2] = True
    future, carry = ((1 - ends) * x for x in factors(never, never))
    ours, _ = gae(reward * (1 - ends), value, next_value, future, carry, 0.99, 0.95)
    paid = np.where(ends, 0, reward)
    theirs, _ = gae(paid, value, next_value, *factors(ends, never), 0.99, 0.95)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(("p", "value"), [(0.0, 100.0), (0.05, 15.97), (0.25, 2.91)])
def test_the_value_of_a_constant_reward_under_a_constant_probability(p, value) -> None:
    # V = (1 - p) r / (1 - gamma (1 - p)), as a long rollout sums it up
    ones = np.ones((1, 2000, 1))
    never = np.zeros((1, 2000, 1), bool)
    future, carry = ((1 - p) * x for x in factors(never, never))
    found, _ = gae((1 - p) * ones, 0 * ones, 0 * ones, future, carry, 0.99, 1.0)
    assert found[0, 0, 0] == pytest.approx(value, abs=5e-3)


# --------------------------------------------------------------------------------- the update

SHARED = dict(
    clip=0.2, epochs=2, learning_rate=1e-3, discount=0.99, gae_lambda=0.95, value_clip=0.2,
    value_coef=0.5, entropy_coef=0.01, max_grad_norm=0.5, adam_eps=1e-5, env_steps=512,
    num_envs=2, num_steps=32, num_minibatches=4, normalize_reward=True, hidden=(8, 8),
    activation="tanh",
)  # fmt: skip
AS_PPO = dict(
    SHARED, normalize_value=False, adaptive_kl=None, anneal_lr=True, batch_advantage=False
)


def setting(name: str, config, module) -> SimpleNamespace:
    seeds, streams = (0, 1), Streams((0, 1))
    envs = make(name, seeds, config.num_envs, "gymnasium")
    policy = ActorCritic.of(envs, config, streams["init"])
    scaler = RewardScaler(2, config.num_envs, config.discount, config.normalize_reward)
    collector = Collector(envs, policy, scaler)
    collector.restart(streams.integers("environment", config.num_envs))
    learner = [policy, Net.of(policy.theta), scaler]
    if module is cat:
        lr = torch.full((2, 1), config.learning_rate)
        learner += [Maxima(2, 3, config.scale_decay), RunningStatistics(2, 1), lr]
        step = partial(cat.minibatch_step, policy, config)
    else:
        step = partial(ppo.minibatch_steps, policy, config)
    learner = module.Learner(*learner)
    return SimpleNamespace(**locals())


def run(s: SimpleNamespace, k: int = 0) -> dict:
    return s.module.iterate(s.config, s.learner, s.collector, s.streams, k, s.step)


def test_with_no_constraint_active_and_ppos_settings_the_update_is_ppos_bit_for_bit() -> None:
    ours = setting("TollUnharmed-v0", Config(**AS_PPO), cat)
    theirs = setting("TollUnharmed-v0", ppo.Config(**SHARED), ppo)
    for k in range(3):
        mine, other = run(ours, k), run(theirs, k)
        assert torch.equal(ours.policy.theta, theirs.policy.theta)
        for name in ("policy_loss", "value_loss", "kl", "grad_norm", "explained_variance"):
            assert torch.equal(mine[name], other[name]), name
    assert (mine["violated_actions"] > 0.2).all()  # it is over, and nothing follows from it


def test_an_active_constraint_changes_the_update() -> None:
    ours = setting("TollUnderTest-v0", Config(**AS_PPO), cat)
    theirs = setting("TollUnharmed-v0", Config(**AS_PPO), cat)
    mine, other = run(ours), run(theirs)
    assert (mine["termination"] > 0).all() and (other["termination"] == 0).all()
    assert not torch.equal(ours.policy.theta, theirs.policy.theta)


def test_the_learning_rate_follows_the_kl_of_each_seed_within_its_bounds() -> None:
    lr = torch.full((4, 1), 3e-4)
    kl = tensor([[0.017], [0.003], [0.008], [0.016]])
    # over 0.016: / 1.5; under 0.004: x 1.5; between: as it was
    expected = [2e-4, 4.5e-4, 3e-4, 3e-4]
    assert adapted(lr, kl, 0.008).flatten().tolist() == pytest.approx(expected)
    fast, slow = torch.full((1, 1), 9e-3), torch.full((1, 1), 1.2e-6)
    assert adapted(fast, tensor([[0.0]]), 0.008).item() == pytest.approx(1e-2)
    assert adapted(slow, tensor([[1.0]]), 0.008).item() == pytest.approx(1e-6)


def test_the_kl_is_to_the_policy_of_one_epoch_before_and_minibatches_keep_their_order() -> None:
    s = setting("TollUnderTest-v0", Config(**dict(AS_PPO, adaptive_kl=0.008, anneal_lr=False)), cat)
    parts, rates, step = [], [], s.step
    s.step = lambda net, lr, part: (
        parts.append(part.obs), rates.append(lr[0].item()), step(net, lr, part)
    )[-1]  # fmt: skip
    run(s)
    assert len(parts) == 8 and all(torch.equal(parts[i], parts[i + 4]) for i in range(4))
    # Before the first step the policy is the one that acted: KL 0, a faster rate
    assert rates[:2] == pytest.approx([1e-3, 1.5e-3])


def test_targets_and_old_values_are_in_the_unit_that_took_in_the_targets() -> None:
    s = setting("TollUnderTest-v0", Config(**dict(AS_PPO, normalize_value=True)), cat)
    run(s)
    statistics = RunningStatistics(1, 1)
    batch = SimpleNamespace(
        target=tensor([[1.0, 3.0]]), old_value=tensor([[2.0, 0.0]]), _replace=lambda **x: x
    )
    found = renewed(statistics, batch)
    # Targets 1 and 3 have mean 2 and std 1; the old unit was mean 0, std 1
    torch.testing.assert_close(found["target"], tensor([[-1.0, 1.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(found["old_value"], tensor([[0.0, -2.0]]), atol=1e-3, rtol=0)
    assert s.learner.unit.mean.abs().min() > 0


@pytest.mark.parametrize("activation", ["elu", "tanh", "relu"])
def test_a_policy_acts_as_it_learns_with_each_activation(activation) -> None:
    rngs = [np.random.default_rng(0)]
    policy = ActorCritic(3, 2, False, rngs=rngs, hidden=(8,), activation=activation)
    obs = np.random.default_rng(1).normal(0, 3, (1, 20, 3))
    acted, _ = policy.eval().behaviour().act(obs)
    seen = torch.from_numpy(policy.normalizer.normalize(obs))
    learned = policy.distribution(policy.theta, seen).mean.numpy()
    np.testing.assert_allclose(acted, learned, atol=1e-5)


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Pendulum-v1", "has no constraints"),
        ("HalfCheetahSpeed-v4", "has costs but no margins"),
        ("HalfCheetahVelocity-v4", "below zero: add --reward-shift"),
    ],
)
def test_a_task_that_it_cannot_learn_is_refused_in_one_line_before_training(
    name, words, short_runs
) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        short_runs.train("run", "cat", name)
    assert "\n" not in str(refusal.value)
    assert not (short_runs.root / "run" / "progress.csv").exists()


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="both set the learning rate"):
        Config(anneal_lr=True)
    with pytest.raises(ValueError, match="reward_shift needs unscaled rewards"):
        Config(reward_shift=1.0, normalize_reward=True)
    with pytest.raises(ValueError, match=r"p_final is 1\.5"):
        Config(p_final=1.5)


def test_a_shift_makes_negative_rewards_learnable() -> None:
    s = setting("TollUnderTest-v0", Config(**dict(AS_PPO, normalize_reward=False)), cat)
    shifted = setting(
        "TollUnderTest-v0", Config(**dict(AS_PPO, normalize_reward=False, reward_shift=1.0)), cat
    )
    kept = []
    for each in (s, shifted):
        collect = each.collector.collect
        each.collector.collect = lambda *a, c=collect: kept.append(c(*a)) or kept[-1]
        assert (run(each)["negative_rewards"] == 0).all()
    # The rollouts are the same: each reward is (r + shift)(1 - delta)
    share = kept[1].reward - kept[0].reward
    assert (share >= 0).all() and (share < 1.001).all()
    assert (share > 0.999).any() and (share < 0.99).any()
