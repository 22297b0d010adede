"""ReLOAD's sampled form: what the policy is given, and what the switch to PPO's clip changes."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from constrained_setting import toll_registered
from torch import tensor

from rlsuite.algorithms.constrained.reload import (
    Config,
    Learner,
    Multiplier,
    critic_step,
    iterate,
    policy_step,
    proximal,
)
from rlsuite.core.constraints import ValueHeads, slack
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.optim import Net
from rlsuite.core.rollouts import Collector
from rlsuite.core.streams import Streams
from rlsuite.envs import Constraint, Episode, make


@pytest.fixture(autouse=True)
def task():
    with toll_registered():
        yield


def setting(multiplier=(0.0, 0.0), before=None, **changes) -> SimpleNamespace:
    """Two seeds of 32 steps; `given` are the batches that the policy's steps get."""
    values = dict(hidden=(8,), num_steps=32, critic_minibatches=4, critic_epochs=2, policy_steps=3)
    config = Config(**{"env_steps": 128, **values, **changes})
    streams, envs = Streams((0, 1)), make("TollUnderTest-v0", (0, 1), 1, "gymnasium")
    policy = ActorCritic.of(envs, config, streams["init"])
    heads = ValueHeads(policy).initial(3, streams["init"], config.orthogonal_init)
    actor = Net.of(policy.theta[:, : policy.actor_size])
    mu = Multiplier.of(tensor([multiplier] * 2))
    if before is not None:
        mu = mu._replace(before=tensor([before] * 2))
    learner = Learner(policy, actor, Net.of(heads), mu)
    collector = Collector(envs, policy, RewardScaler(2, 1, config.discount, enabled=False))
    collector.restart(streams.integers("environment", 1))
    given = []
    ascend = partial(policy_step, policy, config)
    steps = [
        lambda actor, old, batch: given.append(batch) or ascend(actor, old, batch),
        partial(critic_step, policy, config),
    ]
    return SimpleNamespace(**locals())


def run(s: SimpleNamespace) -> dict:
    return iterate(s.config, s.learner, s.collector, s.streams, s.steps)


def test_the_mixed_advantage_is_not_divided_by_its_spread() -> None:
    s, dear = setting(), setting(multiplier=(0.5, 0.0))
    run(s)
    run(dear)
    plain, mixed = (each.given[0].advantage for each in (s, dear))
    # Standardised it would have a spread of 1 and a mean of 0, for each seed
    assert (plain.std(1) < 0.5).all() and (plain.mean(1).abs() > 1e-4).all()
    assert not torch.allclose(plain, mixed)


def test_the_mixed_advantage_is_affine_in_the_multiplier_that_is_foreseen() -> None:
    found = []
    for price in (0.0, 0.4, 0.8):
        s = setting(multiplier=(price, 0.0))
        run(s)
        found.append(s.given[0].advantage)
    torch.testing.assert_close(found[1], (found[0] + found[2]) / 2, rtol=1e-4, atol=1e-6)


def test_with_an_unchanged_multiplier_the_first_update_is_that_of_descent_ascent() -> None:
    first, second = setting(multiplier=(0.4, 0.1)), setting(multiplier=(0.4, 0.1), optimism=0.0)
    run(first)
    run(second)
    assert torch.equal(first.policy.theta, second.policy.theta)
    risen = setting(multiplier=(0.4, 0.1), before=(0.2, 0.1))
    run(risen)
    assert not torch.equal(first.policy.theta, risen.policy.theta)
    expected = setting(multiplier=(0.6, 0.1))  # 2 * 0.4 - 0.2
    run(expected)
    torch.testing.assert_close(risen.policy.theta, expected.policy.theta, rtol=1e-4, atol=1e-6)


def test_ppos_clip_is_another_update() -> None:
    ours, clipped = setting(actor_lr=1e-2), setting(actor_lr=1e-2, clip=0.2)
    run(ours)
    run(clipped)
    assert not torch.equal(ours.policy.theta, clipped.policy.theta)


def test_the_proximal_objective_by_hand() -> None:
    # Ratio 2, A = 1, KL 0.5, eta 2: 0.5 / 2 - 2 = -1.75
    log_ratio, one = torch.full((1, 3), np.log(2.0)).float(), torch.ones(1, 3)
    assert proximal(log_ratio, one, 0.5 * one, 2.0).item() == pytest.approx(-1.75)


def test_the_slack_is_a_mean_per_step_of_finished_episodes() -> None:
    constraints = (Constraint("sum", 25, "episode"), Constraint("mean", 0.5, "step"))
    pool = SimpleNamespace(task="T-v0", constraints=constraints, seeds=(0, 1), time_limit=1000)
    found = slack(pool, [Episode(0, 0, 1.0, (75.0, 40.0), 100)], 0.99)
    # (25 - 75) / 1000 of a sum, 0.5 - 40 / 100 of a mean; nothing finished for the other seed
    assert found[0].tolist() == pytest.approx([-0.05, 0.1]) and found[1].isnan().all()
    pool.time_limit = None  # 1 / (1 - 0.99) = 100
    found = slack(pool, [Episode(0, 0, 1.0, (75.0, 40.0), 100)], 0.99)
    assert found[0, 0].item() == pytest.approx(-0.5)


def test_a_broken_constraint_raises_its_multiplier_by_plain_steps() -> None:
    s = setting()
    rollouts, collect = [], s.collector.collect
    s.collector.collect = lambda *args: rollouts.append(collect(*args)) or rollouts[-1]
    run(s)
    known = slack(s.collector.envs, rollouts[0].episodes, s.config.discount)
    expected = (-s.config.multiplier_lr * known).clamp(min=0)  # the first step has no memory
    torch.testing.assert_close(s.learner.multiplier.value, expected)


@pytest.mark.parametrize(("name", "value"), [("discount", 1.0), ("optimism", -1.0), ("clip", 0.0)])
def test_settings_that_cannot_work_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=name):
        Config(**{name: value})
