"""PPO-Lagrangian: the multiplier's own step, the mixture of advantages, costs of episodes."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from constrained_setting import toll_registered
from torch import tensor

from rlsuite.algorithms.constrained.ppo_lag import (
    Config,
    Learner,
    actor_loss,
    ascend,
    clipped_surrogate,
    critic_loss,
    iterate,
    minibatch_steps,
    mixed_advantage,
    multiplier_loss,
    scaled_advantage,
)
from rlsuite.algorithms.on_policy import ppo
from rlsuite.core.constraints import ValueHeads
from rlsuite.core.limits import EpisodeCosts, limits
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.optim import Net, gradient
from rlsuite.core.rollouts import Collector, RolloutBatch, factors, gae, standardise
from rlsuite.core.streams import Streams
from rlsuite.envs import Constraint, Episode, make

CONFIG = Config(hidden=(8,), num_steps=32, num_minibatches=4, epochs=2, env_steps=128)


@pytest.fixture(autouse=True)
def task():
    with toll_registered():
        yield


def rates(*costs: float, start: float = 0.001, seeds: int = 1) -> list[float]:
    """lambda after each iteration in which the mean episode cost is one of `costs`, limit 25."""
    multiplier, found = Net.of(torch.full((seeds, 1), start)), []
    for cost in costs:
        multiplier = ascend(CONFIG, multiplier, torch.full((seeds, 1), cost), tensor([25.0]))
        found.append(multiplier.theta[0].item())
    return found


# ----------------------------------------------------------------------------- the multiplier


@pytest.mark.parametrize("cost", [26.0, 1000.0])
def test_adam_moves_the_multiplier_by_its_learning_rate_whatever_the_violation(cost) -> None:
    # 0.001 + 0.035 n
    assert rates(cost, cost, cost) == pytest.approx([0.036, 0.071, 0.106], abs=1e-6)


@pytest.mark.parametrize(("cost", "iteration"), [(500.0, 1), (100.0, 3), (50.0, 7)])
def test_after_50_feasible_iterations_adams_memory_holds_the_multiplier_at_zero(
    cost, iteration
) -> None:
    found = rates(*[0.0] * 50, *[cost] * 10)[50:]
    assert [value > 0 for value in found].index(True) + 1 == iteration


def test_at_the_limit_the_multiplier_rests_and_below_it_ends_at_zero() -> None:
    # 0.001 - 0.035 < 0
    assert rates(25.0, 25.0) == pytest.approx([0.001, 0.001]) and rates(24.0, 24.0) == [0, 0]


def test_a_seed_without_a_finished_episode_keeps_its_multiplier_and_its_moments() -> None:
    multiplier = Net.of(torch.full((2, 1), 0.5))
    moved = ascend(CONFIG, multiplier, tensor([[math.nan], [30.0]]), tensor([25.0]))
    torch.testing.assert_close(moved.theta, tensor([[0.5], [0.535]]))
    assert moved.adam.steps.flatten().tolist() == [0, 1] and moved.adam.first[0] == 0
    alone = ascend(CONFIG, Net.of(torch.full((1, 1), 0.5)), tensor([[30.0]]), tensor([25.0]))
    assert torch.equal(alone.theta[0], moved.theta[1])


def test_the_multipliers_loss_by_hand() -> None:
    # -(0.5 * 2 + 1 * (-1)) = 0
    assert multiplier_loss(tensor([[0.5, 1.0]]), tensor([[2.0, -1.0]])).tolist() == [0]


# ---------------------------------------------------------------------------- the advantages


@pytest.mark.parametrize(("price", "mixed"), [(0.5, 0.0), (1.0, -0.5), (3.0, -1.25)])
def test_advantages_are_mixed_with_the_multiplier(price, mixed) -> None:
    # (1 - 2 lambda) / (1 + lambda)
    advantage = tensor([[[1.0, 2.0]]])
    assert mixed_advantage(advantage, tensor([[price]])).item() == pytest.approx(mixed)


def test_rewards_are_standardised_and_costs_are_only_centred() -> None:
    raw = torch.from_numpy(np.random.default_rng(0).normal(2, 3, (2, 200, 3))).float()
    scaled = scaled_advantage(raw)
    torch.testing.assert_close(scaled.mean(1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled[..., 0].std(1), torch.ones(2))
    torch.testing.assert_close(scaled[..., 1:].std(1), raw[..., 1:].std(1))


def test_cost_advantages_by_hand_of_a_fall_and_of_a_time_limit() -> None:
    cost, value = np.array([[[0.0], [1.0]]]), np.array([[[0.2], [0.4]]])
    end, never = np.array([[[False], [True]]]), np.zeros((1, 2, 1), bool)
    # delta = (0 + 0.99 * 0.4 - 0.2, 1 - 0.4) = (0.196, 0.6); 0.196 + 0.99 * 0.95 * 0.6 = 0.7603
    next_value = np.array([[[0.4], [0.5]]])
    fall, _ = gae(cost, value, next_value, *factors(end, never), 0.99, 0.95)
    assert fall.flatten().tolist() == pytest.approx([0.7603, 0.6])
    # 1 + 0.99 * 0.5 - 0.4 = 1.095; 0.196 + 0.99 * 0.95 * 1.095 = 1.225848
    cut, _ = gae(cost, value, next_value, *factors(never, end), 0.99, 0.95)
    assert cut.flatten().tolist() == pytest.approx([1.2258475, 1.095])


# ------------------------------------------------------------------------------- the update


def setting(seeds=(0, 1), name="TollUnderTest-v0", **changes) -> SimpleNamespace:
    config = Config(**{**vars(CONFIG), **changes})
    streams, envs = Streams(seeds), make(name, seeds, config.num_envs, "gymnasium")
    policy = ActorCritic.of(envs, config, streams["init"])
    costs = EpisodeCosts(envs, config.cost_window)
    count = 1 + len(costs.limit)
    heads = ValueHeads(policy).initial(count, streams["init"], config.orthogonal_init)
    multiplier = Net.of(torch.full((len(seeds), count - 1), config.multiplier_init))
    actor = Net.of(policy.theta[:, : policy.actor_size])
    learner = Learner(policy, actor, Net.of(heads), multiplier, costs)
    collector = Collector(envs, policy, RewardScaler(len(seeds), 1, 0.99, enabled=False))
    collector.restart(streams.integers("environment", config.num_envs))
    step = partial(minibatch_steps, policy, config)
    return SimpleNamespace(**locals())


def run(s: SimpleNamespace, k: int = 0) -> dict:
    return iterate(s.config, s.learner, s.collector, s.streams, k, s.step)


def made_up(s: SimpleNamespace) -> tuple[RolloutBatch, torch.Tensor]:
    """A batch of 64 rows and its advantages [S, M, 1 + C]."""
    rng = np.random.default_rng(3)
    obs, action, log_prob, value, advantage, target = (
        torch.from_numpy(rng.standard_normal((2, 64, *shape))).float()
        for shape in ((3,), (2,), (), (3,), (3,), (3,))
    )
    log_prob = s.policy.distribution(s.policy.theta, obs).log_prob(action) + 0.2 * log_prob
    return RolloutBatch(obs, action, log_prob, value, advantage, target), advantage


def test_with_a_multiplier_of_zero_the_policys_loss_and_gradient_are_ppos_bit_for_bit() -> None:
    s = setting()
    batch, advantage = made_up(s)
    mixed = mixed_advantage(advantage, torch.zeros(2, 2))
    assert torch.equal(mixed, advantage[..., 0])
    batch = batch._replace(advantage=mixed)

    def plain(theta):
        log_ratio = s.policy.distribution(theta, batch.obs).log_prob(batch.action)
        log_ratio = log_ratio - batch.old_log_prob
        return ppo.clipped_surrogate(log_ratio, advantage[..., 0], s.config.clip), {}

    theta = s.learner.actor.theta
    ours, parts = gradient(lambda x: actor_loss(x, s.policy, s.config, batch), theta)
    theirs, _ = gradient(plain, theta)
    assert torch.equal(ours, theirs)
    assert torch.equal(parts["policy_loss"], plain(theta)[0])


def test_with_a_great_multiplier_the_policys_gradient_is_that_of_minus_the_cost() -> None:
    s = setting()
    _, advantage = made_up(s)
    price = tensor([[1e6, 0.0], [1e6, 0.0]])
    mixed = mixed_advantage(advantage, price)
    torch.testing.assert_close(mixed, -advantage[..., 1], rtol=1e-4, atol=1e-4)


def test_the_multiplier_is_a_number_to_the_policy() -> None:
    s = setting()
    run(s)
    assert not s.learner.multiplier.theta.requires_grad


def test_the_multiplier_moves_before_the_policy_and_by_its_new_value() -> None:
    s, given = setting(multiplier_init=0.0, multiplier_lr=1e6), []
    step = s.step
    s.step = lambda *args: given.append(args[-1].advantage) or step(*args)
    limit = s.learner.costs.limit
    limit.zero_()  # any cost is over it
    metrics = run(s)
    assert (metrics["multiplier"] >= 1e6).all()
    # Rewards are standardised to 1; of costs alone, which are 0 or 1, nothing has such a spread
    whole = torch.cat(given[:1], 1)
    assert whole.std() != pytest.approx(1, abs=0.02)


def test_every_reward_has_a_critic_of_its_own() -> None:
    s = setting()
    batch, _ = made_up(s)
    size, theta = s.policy.critic_layout.size, s.learner.critics.theta
    for head in range(3):
        target = batch.target.clone()
        target[..., head] += 1
        loss = [
            gradient(lambda x, b=b: critic_loss(x, s.policy, s.config, b), theta)[0]
            for b in (batch, batch._replace(target=target))
        ]
        moved = (loss[0] != loss[1]).view(2, 3, size).any(2)
        assert moved.tolist() == [[head == i for i in range(3)]] * 2
    values = ValueHeads(s.policy).values(theta, batch.obs)
    assert torch.equal(values[..., 0], s.policy.value(theta[:, :size], batch.obs))


def test_a_seed_over_its_kl_sits_out_the_rest_its_critics_too() -> None:
    s = setting(target_kl=1e-9, epochs=3)
    run(s)
    # The first of three epochs is 4 minibatches
    assert s.learner.actor.adam.steps.flatten().tolist() == [4, 4]
    assert s.learner.critics.adam.steps.flatten().tolist() == [4, 4]


def test_the_cost_that_moves_the_multiplier_is_that_of_finished_episodes() -> None:
    s = setting()
    ended = []
    collect = s.collector.collect
    s.collector.collect = lambda *args: ended.append(collect(*args)) or ended[-1]
    run(s)
    for seed in range(2):
        costs = np.array([e.cost for e in ended[0].episodes if e.seed == seed])
        found = s.learner.costs.mean()[seed]
        assert found.tolist() == pytest.approx(costs.mean(0).tolist())
    # An episode that the rollout's end cuts is counted once, when it ends: 32 steps go on
    before = ended[0].cost[0].sum(0)
    assert before.sum() > 0
    run(s, 1)
    whole = np.concatenate([r.cost[0] for r in ended]).sum((0, 1))
    counted = np.sum([e.cost for r in ended for e in r.episodes if e.seed == 0], 0)
    assert (counted <= whole).all()


# ------------------------------------------------------------------------- episodes and limits


def pool(*constraints: Constraint, seeds=(0, 1)) -> SimpleNamespace:
    return SimpleNamespace(task="Toll-v0", constraints=constraints, seeds=seeds)


def test_the_mean_cost_is_of_the_last_episodes_of_each_seed() -> None:
    costs = EpisodeCosts(pool(Constraint("cost", 25, "episode")), window=2)
    assert costs.mean().isnan().all()
    costs.add([Episode(0, 0, 1.0, (cost,), 10) for cost in (100.0, 4.0, 8.0)])
    # Of 100, 4, 8 the last two: 6
    assert costs.mean()[0].item() == 6 and costs.mean()[1].isnan()


def test_a_limit_per_step_is_held_against_the_mean_over_the_steps() -> None:
    costs = EpisodeCosts(pool(Constraint("cost", 0.1, "step"), seeds=(0,)), window=5)
    costs.add([Episode(0, 0, 1.0, (20.0,), 100)])
    assert costs.mean().item() == pytest.approx(0.2)  # 20 over 100 steps


@pytest.mark.parametrize(
    ("constraints", "words"),
    [
        ((), "has no constraints"),
        ((Constraint("cost", None, "episode"),), "has no limit"),
        ((Constraint("cost", -1.0, "episode"),), "has the limit -1.0: it must be 0 or greater"),
        ((Constraint("speed", 5.0, "discounted"),), "limits a discounted cost"),
    ],
)
def test_a_task_that_no_multiplier_can_be_held_to_is_refused(constraints, words) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        limits(pool(*constraints))
    assert "\n" not in str(refusal.value)


def test_a_task_without_costs_is_refused_in_one_line_before_training(short_runs) -> None:
    with pytest.raises(ValueError, match="'cost' has no limit"):
        short_runs.train("run", "ppo_lag", "Toll-v0")
    with pytest.raises(ValueError, match="Hopper-v4 has no constraints"):
        short_runs.train("other", "ppo_lag", "Hopper-v4")
    assert not (short_runs.root / "other" / "progress.csv").exists()


def test_the_surrogate_by_hand() -> None:
    # Ratio 2, clip 0.2: A = 1 pays for 1.2, A = -1 for 2: mean of -1.2 and 2
    log_ratio, advantage = torch.full((1, 2), math.log(2)), tensor([[1.0, -1.0]])
    assert clipped_surrogate(log_ratio, advantage, 0.2).item() == pytest.approx(0.4)
    assert standardise(advantage).std().item() == pytest.approx(1)
