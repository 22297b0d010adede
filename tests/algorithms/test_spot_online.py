"""SPOT's stages within a run: how it starts, what is unlike offline once it goes online."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from offline_setting import MemoryRun, as_in_a_run, logged, thetas

from rlsuite.algorithms.offline import spot
from rlsuite.algorithms.offline.spot import Config, train
from rlsuite.core.replay import Explorer

TASK, OBS, BOX = "InvertedPendulum-v4", 4, ([-3.0], [3.0])
DATA = logged([10] * 4, obs_size=OBS, box=BOX)
# 2 iterations of fitting, 2 offline, 3 online, of 4 steps each
STAGES = {"density_steps": 8, "gradient_steps": 8, "online_steps": 12, "steps_per_iteration": 4}


@pytest.fixture(autouse=True)
def one_thread():
    with as_in_a_run():
        yield


def trained(folder, monkeypatch, seeds=(0, 1), **changes) -> SimpleNamespace:
    """A run of all stages; `cycles` and `steps` are what was given to the update and to Explorer.

    Each step has the actor that acts and the number of cycles before it.
    """
    cycles, steps, restarts = [], [], []
    cycle, step, restart = spot.actor_cycle, Explorer.step, Explorer.restart

    def cycle_recorded(nets, config, fitted, state, batch, noise, weight):
        cycles.append(SimpleNamespace(state=state, batch=batch, noise=noise, weight=weight.item()))
        return cycle(nets, config, fitted, state, batch, noise, weight)

    def step_recorded(self, count, std, rngs):
        theta = self.policy.theta.detach().clone()
        steps.append(SimpleNamespace(theta=theta, cycles=len(cycles), count=count, std=std))
        return step(self, count, std, rngs)

    def restart_recorded(self, env_seeds):
        restarts.append((len(cycles), env_seeds))
        return restart(self, env_seeds)

    monkeypatch.setattr(spot, "actor_cycle", cycle_recorded)
    monkeypatch.setattr(Explorer, "step", step_recorded)
    monkeypatch.setattr(Explorer, "restart", restart_recorded)
    folder.mkdir(exist_ok=True)
    run = MemoryRun(DATA, seeds, folder, TASK)
    small = {"batch_size": 16, "hidden": (16, 8), "density_hidden": 12}
    train(Config(**small | STAGES | changes), run)
    monkeypatch.undo()
    return SimpleNamespace(**locals())


def test_the_stages_follow_one_another(tmp_path, monkeypatch):
    t = trained(tmp_path, monkeypatch)
    assert [state.buffer.added for state in t.run.states] == [0, 0, 0, 0, 0, 4, 8, 12]
    assert len(t.cycles) == 10  # of 20 steps, 2 to a cycle
    assert [step.cycles for step in t.steps] == [4, 5, 6, 7, 8, 9]
    assert {step.count for step in t.steps} == {2}
    assert {step.std for step in t.steps} == {0.1}
    # The environments start where the online stage does, from seeds of their own
    (begun, env_seeds), *more = t.restarts
    assert (begun, env_seeds.shape, more) == (4, (2, 1), [])
    assert env_seeds[0, 0] != env_seeds[1, 0]
    last = t.run.states[-1]
    assert last.state.critic.adam.steps.flatten().tolist() == [20, 20]
    assert last.state.actor.adam.steps.flatten().tolist() == [10, 10]
    assert torch.equal(last.policy.theta, last.state.actor.theta)


def test_6_5_the_density_stands_still_online_too(tmp_path, monkeypatch):
    t = trained(tmp_path, monkeypatch)
    first, *later = (learner.density.theta for learner in t.run.states[2:])
    assert all(torch.equal(first, other) for other in later)


def test_6_10_lambda_cools_online_only(tmp_path, monkeypatch):
    t = trained(tmp_path, monkeypatch, support_weight=0.5, cooling_steps=10)
    # Offline 0.5; after 2, 4, ... 12 of 10 steps its factor is 0.8, 0.6, 0.4, then the floor 0.2
    factors = [cycle.weight / 0.5 for cycle in t.cycles]
    assert factors == pytest.approx([1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_it_explores_with_the_actor_as_it_is_now(tmp_path, monkeypatch):
    t = trained(tmp_path, monkeypatch)
    for step in t.steps:
        assert torch.equal(step.theta, t.cycles[step.cycles].state.actor.theta)
    assert not torch.equal(t.steps[0].theta, t.steps[1].theta)


def test_online_rows_are_the_seeds_own_and_join_the_draws(tmp_path, monkeypatch):
    t = trained(tmp_path, monkeypatch, batch_size=64, exploration_noise=0.3)
    buffer = t.run.states[-1].buffer
    obs, action, reward, next_obs, ended = (x.numpy() for x in buffer.fields.values())
    assert obs.shape == (2, 12, OBS)
    assert not np.array_equal(obs[0], obs[1])
    assert (np.abs(action) <= 3).all()
    alive = ended[:, :-1] == 0
    np.testing.assert_array_equal(obs[:, 1:][alive], next_obs[:, :-1][alive])
    assert set(reward.flatten()) <= {0, 1}
    # 12 of 52 rows are a seed's own at the end: of 128 draws, 29.5 give or take 5 times 4.8
    theirs = set(DATA.reward.tolist())
    for number, cycle in enumerate(t.cycles):
        for seed in (0, 1):
            drawn = [r not in theirs for r in cycle.batch.reward[seed].tolist()]
            assert any(drawn) == (number >= 4)
            raw = cycle.batch.action[seed][torch.tensor(drawn)]
            assert set(raw.flatten().tolist()) <= set(action[seed].flatten().tolist())
    assert abs(sum(drawn) - 128 * 12 / 52) < 5 * 4.8


def test_rewards_are_shifted_offline_and_online(tmp_path, monkeypatch):
    t = trained(tmp_path, monkeypatch, reward_shift=-1.0, batch_size=64)
    given = {float(r) for r in torch.from_numpy(DATA.reward) - 1}
    for number, cycle in enumerate(t.cycles):
        seen = set(cycle.batch.reward.flatten().tolist())
        assert seen - given == (set() if number < 4 else {0.0})  # a step brings 1, shifted 0


def test_dropout_masks_and_noise_are_fresh_in_every_cycle(tmp_path, monkeypatch):
    t = trained(tmp_path, monkeypatch)
    for field in ("target", "latent"):
        drawn = torch.stack([getattr(cycle.noise, field) for cycle in t.cycles])
        assert len(drawn.unique()) > 0.999 * drawn.numel()
    first = [[masks[0] for masks in cycle.noise.dropout] for cycle in t.cycles]
    masks = torch.stack([torch.stack(layer) for layer in first])
    assert masks.shape == (10, 3, 2, 16, 16)
    assert len(masks.flatten(3).flatten(0, 2).unique(dim=0)) == 60


def test_a_seed_runs_to_the_same_bits_alone_and_in_company(tmp_path, monkeypatch):
    alone = trained(tmp_path / "alone", monkeypatch, (3,)).run.states[-1]
    company = trained(tmp_path / "company", monkeypatch, (2, 3)).run.states[-1]
    pair = ((x.density.theta, *thetas(x.state)) for x in (alone, company))
    for mine, theirs in zip(*pair, strict=True):
        assert torch.equal(mine[0], theirs[1])
        assert not torch.equal(mine[0], theirs[0])
    for mine, theirs in zip(*(x.buffer.fields.values() for x in (alone, company)), strict=True):
        np.testing.assert_array_equal(mine[0], theirs[1])


def test_last_layers_start_small_where_asked(tmp_path, monkeypatch):
    t = trained(tmp_path, monkeypatch, actor_last=1e-3, critic_last=3e-3)
    start = t.run.states[0]
    assert torch.equal(start.state.critic.theta, start.state.critic_target)
    assert torch.equal(start.state.actor.theta, start.state.actor_target)
    last = torch.cat(
        [
            view.flatten()
            for name, view in start.policy.layout.views(start.state.actor.theta).items()
            if name.startswith("actor.2")
        ]
    )
    assert 5e-4 < last.abs().max() <= 1e-3
    # The critics' last weights and bias are 8 + 1 columns at the end of each of the two
    for critic in start.state.critic.theta.chunk(2, 1):
        assert 1.5e-3 < critic[:, -9:].abs().max() <= 3e-3
        assert critic[:, :-9].abs().max() > 0.1
