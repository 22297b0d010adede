"""BC and 10%BC: the loss, which episodes are kept, and steps against one seed's in plain torch."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from offline_setting import (
    HIGH,
    LOW,
    OBS,
    MemoryRun,
    PlainActor,
    as_in_a_run,
    batch_of,
    flat,
    logged,
    tensors,
)
from torch.nn.functional import mse_loss

from rlsuite.algorithms.offline import bc
from rlsuite.algorithms.offline.bc import (
    Config,
    best_episodes,
    clone_step,
    imitation_loss,
    train,
)
from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import ReplayBuffer
from rlsuite.core.optim import Net
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.streams import Streams


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def setting(seeds=(0, 1), rows=32, dtype=torch.float64, **changes) -> SimpleNamespace:
    config = Config(**{"batch_size": rows, "hidden": (16, 8), **changes})
    policy = BoundedActor(OBS, LOW, HIGH, rngs=Streams(seeds)["init"], hidden=config.hidden).to(
        dtype
    )
    actor, batch = Net.of(policy.theta), batch_of(seeds, rows, dtype)
    step = partial(clone_step, policy, config)
    return SimpleNamespace(**locals())


# ------------------------------------------------------------------------------------ the loss


def test_loss_by_hand():
    # Errors (1, -3) and (0, 2) in two dimensions: (1 + 9 + 0 + 4)/4 = 3.5, a mean over all four
    action, other = torch.tensor([[[1.0, 0], [2, 2]]]), torch.tensor([[[0.0, 3], [2, 0]]])
    torch.testing.assert_close(imitation_loss(action, other), torch.tensor([3.5]))


def test_8_bc_zero_loss_on_its_own_outputs():
    s = setting()
    own = s.batch._replace(action=s.policy.mean(s.actor.theta, s.batch.obs))
    actor, metrics = s.step(s.actor, own)
    assert metrics["imitation"].tolist() == [0, 0]
    assert torch.equal(actor.theta, s.actor.theta)
    assert not actor.adam.first.any()
    assert s.step(s.actor, s.batch)[1]["imitation"].min() > 0.1


def test_steps_are_those_of_one_seed_in_plain_torch():
    s = setting(learning_rate=2**-8)
    plain = [PlainActor(s.policy, s.actor.theta[seed]) for seed in (0, 1)]
    adams = [torch.optim.Adam(actor.parameters(), 2**-8) for actor in plain]
    net = s.actor
    for k in range(5):
        batch = batch_of((10 * k, 10 * k + 1), 32, torch.float64)
        net, metrics = s.step(net, batch)
        for seed in (0, 1):
            error = mse_loss(plain[seed](batch.obs[seed]), batch.action[seed])
            adams[seed].zero_grad()
            error.backward()
            adams[seed].step()
            torch.testing.assert_close(metrics["imitation"][seed], error.detach())
    for seed in (0, 1):
        torch.testing.assert_close(net.theta[seed], flat(plain[seed]), rtol=0, atol=1e-9)
    assert (net.theta - s.actor.theta).abs().max() > 0.01


@pytest.mark.parametrize("width", [32, 256])
def test_a_seed_moves_to_the_same_bits_alone_and_in_company(width):
    changes = {"hidden": (width, width), "rows": width, "dtype": torch.float32}
    with as_in_a_run(width):
        alone, company = (setting(seeds, **changes) for seeds in ((3,), range(5)))
        mine, theirs = alone.actor, company.actor
        for _ in range(3):
            mine, _ = alone.step(mine, alone.batch)
            theirs, _ = company.step(theirs, company.batch)
    for a, b in zip(tensors(mine), tensors(theirs), strict=True):
        assert torch.equal(a[0], b[3])
    assert not torch.equal(theirs.theta[2], theirs.theta[3])


# ----------------------------------------------------------------------------- the best episodes

# Ten episodes; by hand, their returns are 3, 9, 9, -4, 5, 0, 9, 2, 1, 7. The fourth has the largest
# reward and a return of -4: episodes count. Their first rows: 0, 2, 3, 6, 9, 10, 12, 15, 16, 17
LENGTHS = [2, 1, 3, 3, 1, 2, 3, 1, 1, 2]
REWARDS = [1, 2, 9, 3, 3, 3, 50, -50, -4, 5, 0, 0, 2, 3, 4, 2, 1, 3, 4]
# First rows: 0, 2, 3, 6, 9, 10, 12, 15, 16, 17
DATA = logged(LENGTHS, REWARDS)


@pytest.mark.parametrize(
    ("fraction", "rows"),
    [
        (0.1, [2]),  # one of ten: of the three with return 9 the first
        (0.2, [2, 3, 4, 5]),
        (0.3, [2, 3, 4, 5, 12, 13, 14]),
        (0.4, [2, 3, 4, 5, 12, 13, 14, 17, 18]),  # in the order of the data, 7 last
        (0.01, [2]),  # at least one
        (0.99, list(range(19))),  # 9.9 episodes are ten
    ],
)
def test_10_percent_bc_keeps_the_episodes_of_highest_return(fraction, rows):
    assert DATA.episode_returns().tolist() == [3, 9, 9, -4, 5, 0, 9, 2, 1, 7]
    assert best_episodes(DATA, fraction).tolist() == rows


def test_bc_keeps_everything():
    assert best_episodes(DATA, 1.0) is None


def test_draws_are_from_the_kept_rows_only():
    kept = best_episodes(DATA, 0.3)
    buffer = ReplayBuffer.of_data(DATA, SeedRandom(Streams((0, 1))["batch"]), kept)
    drawn = buffer.sample(2000).obs
    for seed in (0, 1):
        rows = (drawn[seed][:, None] == torch.from_numpy(DATA.obs)).all(-1).float().argmax(1)
        counts = torch.bincount(rows, minlength=19)
        assert counts.nonzero().flatten().tolist() == kept.tolist()
        # 2000/7 = 286 of each, give or take 5 standard deviations of 15.6
        assert ((counts[counts > 0] - 2000 / 7).abs() < 5 * 15.7).all()


# -------------------------------------------------------------------------------------- train


def trained(**changes) -> MemoryRun:
    values = {"gradient_steps": 8, "steps_per_iteration": 4, "batch_size": 16, "hidden": (16, 8)}
    run = MemoryRun(DATA)
    train(Config(**values | changes), run)
    return run


def test_train_draws_from_the_best_episodes_and_standardises_by_all(monkeypatch):
    drawn, step = [], bc.clone_step

    def recorded(policy, config, actor, batch):
        drawn.append(batch)
        return step(policy, config, actor, batch)

    monkeypatch.setattr(bc, "clone_step", recorded)
    run = trained(best_fraction=0.3)
    assert len(drawn) == 8
    kept = set(np.array(REWARDS)[best_episodes(DATA, 0.3)].tolist())
    assert set(torch.cat([batch.reward for batch in drawn], 1).unique().tolist()) == kept
    normalizer = run.states[-1].policy.normalizer
    mean, std = DATA.obs_statistics()
    np.testing.assert_allclose(normalizer.mean[1], mean, rtol=1e-6)
    np.testing.assert_allclose(normalizer.std[1], std + 1e-3, rtol=1e-6)
    trained()
    everything = torch.cat([batch.reward for batch in drawn[8:]], 1)
    assert set(everything.unique().tolist()) == set(REWARDS)


def test_train_imitates_and_saves_what_it_learned():
    run = trained(gradient_steps=300, steps_per_iteration=150, learning_rate=1e-2)
    last = run.states[-1]
    assert last.actor.adam.steps.flatten().tolist() == [300, 300]
    obs = last.policy.normalizer.standardize(torch.from_numpy(DATA.obs).expand(2, -1, -1))
    error = imitation_loss(
        last.policy.mean(last.policy.theta, obs), torch.from_numpy(DATA.action).expand(2, -1, -1)
    )
    assert (error < 0.2 * DATA.action.var(0).mean()).all()
    assert not torch.equal(run.states[1].policy.theta, last.policy.theta)
