"""What a step of the environments leaves in the replay buffer."""

import numpy as np
import pytest
import torch

from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.off_policy import KEPT, ReplayCollector, replay_of
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.squashed import SquashedActor
from rlsuite.envs.engines import make

LIMITED = "Pendulum-v1,max_episode_steps=4"  # a box of +-2; nothing but the time limit ends it
FALLING = "InvertedPendulum-v4"  # a box of +-3; it falls, and that is an end


def rngs_of(seeds) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def collecting(task: str, seeds=(0, 1), num_envs: int = 1, capacity: int = 100):
    envs = make(task, seeds, num_envs, "gymnasium")
    policy = SquashedActor.for_envs(envs, "cpu", rngs=rngs_of(seeds), hidden=(8,))
    buffer = replay_of(envs, capacity, SeedRandom(rngs_of(seeds)))
    collector = ReplayCollector(envs, policy, buffer)
    collector.restart(10 * np.array(seeds)[:, None] + np.arange(num_envs))
    return collector


def steps_of(collector, monkeypatch) -> list:
    """(action, what came of it) of every step from now on."""
    taken, step = [], collector.envs.step

    def watched(action):
        after = step(action)
        taken.append((action, after))
        return after

    monkeypatch.setattr(collector.envs, "step", watched)
    return taken


def test_rows_hold_the_own_action_and_the_environment_gets_it_scaled(monkeypatch):
    collector = collecting(FALLING)
    taken = steps_of(collector, monkeypatch)
    collector.explore(3, rngs_of((0, 1)))
    for _ in range(3):
        collector.step(rngs_of((5, 6)))
    rows = collector.buffer.fields["action"]
    for row, (action, _) in enumerate(taken):
        np.testing.assert_allclose(action[:, 0], 3 * rows[:, row], rtol=0, atol=1e-6)
    assert len(collector.buffer) == 6 and rows[:, :6].abs().max() <= 1


def test_a_time_limit_is_no_end_and_its_row_has_the_true_next_observation(monkeypatch):
    collector = collecting(LIMITED)
    taken = steps_of(collector, monkeypatch)
    collector.explore(9, rngs_of((0, 1)))
    fields = collector.buffer.fields
    assert not fields["terminated"].any()
    ends = [after.truncated.all() for _, after in taken]
    assert ends == [False, False, False, True] * 2 + [False]
    for row, (_, after) in enumerate(taken):
        expected = torch.from_numpy(after.final_obs[:, 0]).float()
        torch.testing.assert_close(fields["next_obs"][:, row], expected)
    # what follows an end is another episode's first observation
    assert not torch.equal(fields["next_obs"][:, 3], fields["obs"][:, 4])
    assert torch.equal(fields["next_obs"][:, 2], fields["obs"][:, 3])


def test_an_end_of_the_task_is_marked(monkeypatch):
    collector = collecting(FALLING)
    taken = steps_of(collector, monkeypatch)
    collector.explore(60, rngs_of((0, 1)))
    expected = torch.tensor(np.stack([after.terminated[:, 0] for _, after in taken], 1)).float()
    assert expected.sum() > 4
    assert torch.equal(collector.buffer.fields["terminated"][:, :60], expected)


def test_a_restart_within_an_episode_is_no_end_and_the_cut_episode_has_no_return(monkeypatch):
    collector = collecting(LIMITED)
    taken = steps_of(collector, monkeypatch)
    collector.explore(6, rngs_of((0, 1)))
    assert [e.length for e in collector.envs.episodes()] == [4, 4]  # one of each seed
    collector.restart(np.array([[7], [8]]))
    collector.explore(3, rngs_of((2, 3)))
    assert collector.envs.episodes() == []  # two and three steps of an episode count nowhere
    fields = collector.buffer.fields
    last = torch.from_numpy(taken[5][1].final_obs[:, 0]).float()
    assert torch.equal(fields["next_obs"][:, 5], last) and not fields["terminated"].any()
    assert not torch.equal(fields["obs"][:, 6], last)


def test_environments_of_a_seed_and_seeds_in_company_have_rows_of_their_own():
    company, alone = collecting(FALLING, (0, 1, 2), 4), collecting(FALLING, (2,), 4)
    for collector, seeds in ((company, (0, 1, 2)), (alone, (2,))):
        acting = rngs_of(seeds)
        collector.explore(5, acting)
        for _ in range(5):
            collector.step(acting)
    assert len(company.buffer) == 40
    for name, theirs in company.buffer.fields.items():
        assert torch.equal(alone.buffer.fields[name][0], theirs[2]), name
    obs = company.buffer.fields["obs"][0, :40].view(10, 4, -1)
    assert (obs[0].std(0) > 0).all()  # four environments, four beginnings
    assert company.buffer.fields["action"][0, :40].unique().numel() == 40


def test_exploration_is_uniform_in_the_box():
    collector = collecting(LIMITED, (0,), capacity=4000)
    collector.explore(4000, rngs_of((3,)))
    action = collector.buffer.fields["action"].flatten()
    # mean 0 with deviation sqrt(1/3 / 4000) = 0.009; variance 1/3 with sqrt(4/45 / 4000) = 0.005
    assert abs(action.mean()) < 5 * 0.009 and abs(action.var() - 1 / 3) < 5 * 0.005
    counts = torch.histc(action, 10, -1, 1)
    assert (counts - 400).abs().max() < 5 * 19  # sqrt(4000 * 0.1 * 0.9) = 19


def test_time_is_told_by_kind_of_work():
    collector = collecting(FALLING)
    collector.explore(5, rngs_of((0, 1)))
    spent = collector.seconds()
    assert spent.keys() == {"physics", "inference"} and min(spent.values()) > 0
    assert collector.seconds() == {"physics": 0.0, "inference": 0.0}


def test_steps_see_the_policy_as_it_is_now():
    collector = collecting(FALLING)
    collector.step(rngs_of((0, 1)))
    # all weights 0: mean 0; all biases -1e9: log sigma at its floor, so tanh(-1e9) = -1
    collector.policy.theta.zero_()
    collector.policy.layout.views(collector.policy.theta)["actor.1.bias"][:] = -1e9
    collector.step(rngs_of((0, 1)))
    assert collector.buffer.fields["action"][:, 1].flatten().tolist() == [-1, -1]
    assert collector.buffer.fields["action"][:, 0].abs().max() < 1


@pytest.mark.parametrize("name", ["obs", "next_obs"])
def test_the_fields_of_a_row(name):
    buffer = collecting(LIMITED).buffer
    drawn, kept = ["obs", "action", "reward", "next_obs", "terminated"], list(KEPT)
    assert list(buffer.shapes) == drawn + kept and list(buffer.drawn) == drawn
    assert buffer.shapes[name] == (3,) and buffer.shapes["action"] == (1,)


def test_what_only_data_sets_need_is_kept_and_not_drawn():
    collector = collecting(LIMITED)
    collector.explore(5, rngs_of((0, 1)))
    collector.restart(np.array([[7], [8]]))
    for _ in range(6):
        collector.step(rngs_of((2, 3)))
    fields = collector.buffer.fields
    # episodes of 4 steps; a restart after the fifth; then 4 and 2 of the next ones
    assert fields["first"][0, :11].tolist() == [1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0]
    assert fields["truncated"][0, :11].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert collector.buffer.sample(3)._fields == TransitionBatch._fields
    log_prob = fields["log_prob"]
    # uniform on (-1, 1): density 1/2
    assert log_prob[:, :5].numpy() == pytest.approx(-np.log(2))
    # of what the policy drew: the same by change of variables, in float64
    policy = collector.policy
    pi = policy.distribution(policy.theta, fields["obs"][:, 5:11])
    mean, log_std = pi.mean.double(), pi.log_std.double()
    action = fields["action"][:, 5:11].double()
    density = torch.distributions.Normal(mean, log_std.exp()).log_prob(action.atanh())
    expected = (density - (1 - action.square()).log())[..., 0]
    torch.testing.assert_close(log_prob[:, 5:11].double(), expected, rtol=1e-3, atol=1e-3)


def test_costs_are_stored_where_the_ring_has_a_field_for_them(monkeypatch):
    envs = make("HopperSpeed-v4", (0, 1), 1, "gymnasium")
    policy = SquashedActor.for_envs(envs, "cpu", rngs=rngs_of((0, 1)), hidden=(8,))
    rng = SeedRandom(rngs_of((0, 1)))
    collector = ReplayCollector(envs, policy, replay_of(envs, 30, rng, {"cost": (1,)}))
    collector.restart(np.array([[3], [4]]))
    taken = steps_of(collector, monkeypatch)
    collector.explore(30, rngs_of((0, 1)))
    expected = np.stack([after.cost[:, 0] for _, after in taken], 1)
    stored = collector.buffer.fields["cost"]
    assert expected.min() > 0 and torch.equal(stored, torch.from_numpy(expected))
    assert collector.buffer.sample(7).cost.shape == (2, 7, 1)
