"""DPPO's chains, its acting in chunks, its two stages, and two tasks that wrong versions fail."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dppo_setting import clone_to, rollout_of, sampled, setting

from rlsuite.algorithms.diffusion import dppo
from rlsuite.core.chunk_rollouts import ChunkCollector
from rlsuite.core.chunks import ChunkPolicy
from rlsuite.core.normalizers import ObservationNormalizer
from rlsuite.core.saving import load_policy, save_policy, select_seed
from rlsuite.datasets.behaviour import NamedBehaviour
from rlsuite.datasets.collect import roll
from rlsuite.envs import make
from rlsuite.runs import run as runs
from rlsuite.runs.evaluation import evaluate

PENDULUM = "InvertedPendulum-v4"  # falls soon


# ------------------------------------------------------------------------------ chains


def test_a_chain_has_its_start_and_each_tuned_step_within_three_stds_of_its_mean() -> None:
    s = setting()
    chain = torch.from_numpy(rollout_of(s).chain).flatten(1, 2)
    obs = torch.from_numpy(rollout_of(s).obs).flatten(1, 2)
    assert chain.shape[2] == s.config.tuned + 1
    weights = s.policy.prepared(s.policy.parts()[1])
    features, table = s.policy.features(weights, obs), s.policy.schedule()
    for i in range(s.config.tuned):
        t = s.config.tuned - 1 - i
        mean, _ = s.policy.transition(weights, features, chain[:, :, i], t, table)
        z = (chain[:, :, i + 1] - mean) / max(ddpm_std(s, t), 0.1)
        assert z.abs().max() < 3.001 and 0.9 < z.std() < 1.1  # noise at t = 0, too


def ddpm_std(s, t: int) -> float:
    return s.policy.schedule(least_std=0.0).std[t].item()


def test_the_last_step_has_clamped_noise_of_the_floor() -> None:
    s = setting((0,), denoising_steps=1, tuned_steps=1, least_std=0.1, actions=1, chunk=1, acting=1,
                batch_size=12)  # fmt: skip
    s.policy.theta.zero_()  # eps = 0, so that the mean is x clamped
    behaviour = s.policy.behaviour()
    behaviour.left = np.zeros((1, 100_000), np.int64)
    draws = behaviour.draws([np.random.default_rng(0)], np.ones(1))
    draws[:, 0] = 0
    z = behaviour.decide(np.zeros((1, 100_000, 3), np.float32), draws, True)[..., -1, 0] / 0.1
    # a standard normal clamped at +-3 has a std of .9973, and 2 (1 - Phi(3)) = .0027 of it at +-3
    assert z.std() == pytest.approx(0.9973, abs=0.01)
    assert abs(z).max() == pytest.approx(3, abs=1e-5)
    assert (abs(z) > 2.9999).mean() == pytest.approx(0.0027, abs=0.0007)


def test_estimates_of_the_clean_chunk_stay_within_1() -> None:
    s = setting(least_std=0.0)
    s.policy.theta *= 30
    chunk = sampled(s, 200, noisy=True)  # without a floor the last step is x0 itself
    assert abs(chunk).max() <= 1


def test_without_exploring_there_is_no_noise_in_the_last_step_only() -> None:
    table = setting().policy.schedule(noisy=False)
    assert table.std[0] == 0 and (table.std[1:] >= 1e-3).all()
    assert (setting().policy.schedule().std >= 0.1).all()


def test_ddim_without_exploring_is_decided_by_its_start() -> None:
    s = setting(denoising_steps=10, ddim_steps=5, tuned_steps=5)
    assert s.policy.schedule().time.tolist() == [0, 2, 4, 6, 8]
    behaviour = s.policy.behaviour()
    behaviour.left = np.zeros((2, 4), np.int64)
    draws = behaviour.draws(s.streams["action"], np.ones(2))
    other = draws.copy()
    other[:, 1:] = 7
    obs = np.zeros((2, 4, 3), np.float32)
    one, same = (behaviour.decide(obs, x, False) for x in (draws, other))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, behaviour.decide(obs, draws, True))


def test_where_all_steps_are_tuned_the_base_acts_nowhere() -> None:
    s = setting(denoising_steps=4, tuned_steps=4)
    before = sampled(s, 3, True)
    s.policy.use(torch.full_like(s.policy.parts()[0], torch.nan), s.policy.parts()[1])
    assert np.array_equal(before, sampled(s, 3, True))


# ------------------------------------------------------------------------------ acting


def behaviour_of(policy, env_seeds=((1, 2, 3),) * 2):
    behaviour = policy.behaviour()
    behaviour.seed(np.array(env_seeds))
    return behaviour


def test_a_chunk_is_decided_when_the_queue_is_empty_or_the_episode_has_ended() -> None:
    s = setting(acting=3)
    behaviour, decided = behaviour_of(s.policy), []
    decide = behaviour.decide
    behaviour.decide = lambda *given: decided.append(behaviour.left.copy()) or decide(*given)
    obs = np.zeros((2, 3, 3))
    for step in range(7):
        behaviour.act(obs)
        if step == 3:
            behaviour.reset(np.array([[True, False, False], [False, False, False]]))
    # decisions at steps 0 and 3; for the one that ended after step 3 at 4; for the others at 6
    assert len(decided) == 4
    assert (decided[2] == [[0, 2, 2], [2, 2, 2]]).all()


def test_actions_of_a_chunk_are_executed_in_order_and_in_the_environments_units() -> None:
    s = setting(acting=3)
    behaviour, same = behaviour_of(s.policy), behaviour_of(s.policy)
    same.left = np.zeros((2, 3), np.int64)
    obs = np.zeros((2, 3, 3))
    draws = same.draws(same.rngs, np.ones(2))
    chunk = same.decide(same.normalize(obs), draws, False)[:, :, -1].reshape(2, 3, 4, 2)
    for step in range(3):
        raw, applied = behaviour.act(obs)
        np.testing.assert_allclose(raw, chunk[:, :, step], atol=1e-5)
        assert np.array_equal(raw, applied)


def test_evaluations_draw_from_their_own_seeds_and_nothing_of_training() -> None:
    s = setting(obs=4, actions=1)
    pool, env_seeds = make(PENDULUM, (0, 1), 3, "gymnasium"), np.arange(6).reshape(2, 3)
    state = str(s.streams.state_dict())
    one, again = (evaluate(s.policy, pool, env_seeds).returns for _ in range(2))
    other = evaluate(s.policy, pool, env_seeds + 6).returns
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert str(s.streams.state_dict()) == state
    alone = select_seed(s.policy, 1)
    pool = make(PENDULUM, (1,), 3, "gymnasium")
    assert np.array_equal(evaluate(alone, pool, env_seeds[1:]).returns[0], one[1])


def test_a_single_environment_acts_as_one_of_a_company_of_seeds() -> None:
    both, alone = setting((3, 8)), setting((8,))
    obs = np.random.default_rng(0).standard_normal((2, 1, 3))
    rngs = [np.random.default_rng(seed) for seed in (3, 8)]
    company = behaviour_of(both.policy).act(obs, rngs)[0]
    single = alone.policy.behaviour().act(obs[1:], [np.random.default_rng(8)])[0]
    assert np.array_equal(company[1:], single)


@pytest.mark.parametrize("changes", [{}, {"policy": "gaussian"}, {"condition": (8, 5)}])
def test_a_saved_policy_is_the_same_policy(changes, tmp_path) -> None:
    policy = setting(**changes, batch_size=12).policy
    save_policy(policy, tmp_path / "policy", {"task": PENDULUM, "seeds": [0, 1]})
    loaded, _ = load_policy(tmp_path)
    assert loaded.spec == policy.spec
    obs = np.random.default_rng(0).standard_normal((2, 3, 3))
    one, other = (behaviour_of(p).act(obs)[0] for p in (policy, loaded))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", [16, 16]), ("tuned", 9), ("steps", 10**9), ("chunk", 40), ("acting", 5),
     ("nonlinearity", "tanh"), ("obs_size", 5), ("std_most", -1)],
)  # fmt: skip
def test_a_description_that_cannot_be_is_refused_before_anything_is_built(
    name, value, tmp_path, monkeypatch
) -> None:
    policy = setting().policy
    policy.spec[name] = value
    save_policy(policy, tmp_path / "policy", {"task": PENDULUM, "seeds": [0, 1]})
    monkeypatch.setattr(ChunkPolicy, "__init__", None)
    with pytest.raises(ValueError, match=rf"{name}|weight"):
        load_policy(tmp_path)


def test_a_set_collected_without_exploring_draws_from_the_sets_own_seed() -> None:
    policy = select_seed(setting(obs=4, actions=1).policy, 0)
    pool, found = make(PENDULUM, (0,), 1, "gymnasium"), []
    for seed in (1, 1, 2):
        actor = NamedBehaviour("clone", policy.behaviour(), mode=True)
        found.append(roll(actor, pool, 20, np.random.default_rng(seed))[0].action)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0][:2], found[2][:2])


# ------------------------------------------------------------------------------ rollouts


def collector_of(task: str, num_envs: int, **changes) -> ChunkCollector:
    pool = make(task, (0, 1), num_envs, "gymnasium")
    s = setting(obs=pool.obs_size, actions=pool.action_size, **changes)
    collector = ChunkCollector(pool, s.policy)
    collector.restart(np.arange(2 * num_envs).reshape(2, num_envs))
    collector.rngs = s.streams["action"]
    return collector


def test_steps_are_counted_as_taken_and_idle_ones_nowhere() -> None:
    collector = collector_of(PENDULUM, 3)
    rollout, envs = collector.collect(30, collector.rngs), collector.envs
    episodes, open_ones = envs.episodes(), envs.unfinished()
    assert {e.length % 4 for e in episodes} == {0, 1, 2, 3}  # ends at all places of a chunk
    for seed in (0, 1):
        lengths = [e.length for e in (*episodes, *open_ones) if e.seed == seed]
        assert rollout.taken[seed] == sum(lengths) < 30 * 3 * 4


def test_the_reward_of_a_chunk_is_the_sum_of_its_steps_until_the_end() -> None:
    collector = collector_of(PENDULUM, 3)
    rollout = collector.collect(30, collector.rngs)
    # a step of this task has a reward of 1, but for the one that ends the episode in some versions
    total = [e.ret for e in (*collector.envs.episodes(), *collector.envs.unfinished())]
    assert rollout.reward.sum() == pytest.approx(sum(total))
    assert ((rollout.reward == 4) | rollout.terminated).all()


def test_an_end_within_a_chunk_leads_to_its_own_observation() -> None:
    collector = collector_of(PENDULUM, 2)
    rollout = collector.collect(30, collector.rngs)
    fallen = rollout.next_obs[rollout.terminated]
    assert (abs(fallen[:, 1]) > 0.2).all()  # the angle at which it has fallen; obs are unscaled
    after = rollout.obs[:, 1:][rollout.terminated[:, :-1]]
    assert (abs(after) < 0.05).all()  # the next decision is of a fresh episode
    assert np.array_equal(rollout.first[:, 1:], (rollout.terminated | rollout.truncated)[:, :-1])


# ------------------------------------------------------------------------------ two stages


def test_the_base_stays_and_the_tuned_copy_moves_from_it(short_runs) -> None:
    folder = short_runs.train("run", "dppo", PENDULUM)
    clone, about = load_policy(folder / "clone")
    policy, _ = load_policy(folder)
    base, tuned = policy.parts()
    for part in clone.parts():
        assert torch.equal(part, base)  # bit-identical before and after
    assert not torch.equal(tuned, base)
    assert (about["algorithm"], about["step"], about["seeds"]) == ("dppo", 0, [0, 1])


def test_a_clone_of_another_run_is_where_fine_tuning_begins(short_runs) -> None:
    first = short_runs.train("first", "dppo", PENDULUM)
    options = {"clone": str(first), "actor_lr": 0.0}
    again = short_runs.train("again", "dppo", PENDULUM, **options)
    assert not (again / "preparation.csv").exists()
    clone, _ = load_policy(first / "clone")
    policy, _ = load_policy(again)
    assert torch.equal(clone.theta, policy.theta)  # a learning rate of 0 moves nothing
    single = short_runs.train("single", "dppo", PENDULUM, seeds=(1,), **options)
    assert torch.equal(load_policy(single)[0].theta[0], clone.theta[1])


def test_while_the_critic_warms_up_the_actor_stays(short_runs) -> None:
    run = short_runs.create("run", "dppo", PENDULUM, critic_warmup=100)
    kept, begin = [], run.begin

    def begun(learner, **stages):
        kept.append((learner, learner.critic.theta.clone()))
        begin(learner, **stages)

    run.begin = begun
    runs.execute(run)
    learner, critic = kept[0]
    base, tuned = learner.policy.parts()
    assert torch.equal(base, tuned) and torch.equal(learner.actor.theta, base)
    assert not torch.equal(learner.critic.theta, critic)


def test_from_scratch_there_is_no_data_and_observations_have_running_statistics(short_runs) -> None:
    options = {"clone_epochs": 0, "tuned_steps": 4, "dataset": None, "env_steps": 256}
    folder = short_runs.train("run", "dppo", PENDULUM, **options)
    policy, _ = load_policy(folder)
    assert (
        isinstance(policy.normalizer, ObservationNormalizer) and policy.normalizer.count.min() > 32
    )
    assert (policy.spec["low"], policy.spec["high"]) == ([-3.0], [3.0])
    assert not (folder / "clone").exists()


def test_the_gaussian_of_the_comparison_clones_and_is_tuned(short_runs) -> None:
    options = {"policy": "gaussian", "env_steps": 256}
    policy, _ = load_policy(short_runs.train("run", "dppo", PENDULUM, **options))
    base, tuned = policy.parts()
    assert not torch.equal(base, tuned)
    moved = policy.network.views(tuned - base)["log_variance"]
    assert (moved != 0).all()  # learned in fine-tuning


# ------------------------------------------------------------------------------ toys

SHAPE = {"num_envs": 500, "num_steps": 1, "hidden": (64, 64, 64), "env_steps": 2000}


@pytest.mark.slow
def test_two_modes_are_both_sampled_where_a_gaussian_clone_has_its_mean_between_them() -> None:
    generator = torch.Generator().manual_seed(1)

    def two_points(rows):
        signs = 2 * torch.randint(2, (1, rows, 1), generator=generator) - 1
        return 0.6 * signs.expand(-1, -1, 2).float()

    changes = SHAPE | {"chunk": 1, "acting": 1, "denoising_steps": 10, "batch_size": 500}
    s = setting((0,), **changes)
    clone_to(s, two_points, 1500)
    assert s.metrics["imitation"].item() < 0.35  # 1 for a network that has learned nothing
    chunk = sampled(s, 500, noisy=False)[0]
    right, left = (chunk > 0.4).all(1).mean(), (chunk < -0.4).all(1).mean()
    assert right > 0.25 and left > 0.25 and right + left > 0.9
    gaussian = setting((0,), **changes | {"policy": "gaussian"})
    clone_to(gaussian, two_points, 300)
    assert abs(sampled(gaussian, 4, noisy=False)).max() < 0.15  # where the data has nothing


def tuned_mean(monkeypatch=None, scale=1.0, last_noise=True, iterations=45, **changes) -> float:
    """The mean action after fine-tuning for -mean (a - .5)^2 of chunks of 4 x 3, cloned at 0."""
    options = SHAPE | {"denoising_steps": 20, "tuned_steps": 10, "batch_size": 2500, "epochs": 5,
                       "denoising_discount": 1.0, "actor_lr": 1e-3, "clip": 0.01,
                       "clip_base": 0.01, "time_dim": 16, "hidden": (32, 32, 32)}  # fmt: skip
    s = setting((0,), obs=1, actions=3, **options | changes)
    generator = torch.Generator().manual_seed(0)
    clone_to(s, lambda rows: 0.02 * torch.randn(1, rows, 12, generator=generator), 400)
    if scale != 1:
        plain = dppo.log_prob
        monkeypatch.setattr(dppo, "log_prob", lambda *given: scale * plain(*given))
    count, seen = iter(range(99)), []

    def collect(steps, rngs):
        rollout = bandit(s, next(count), last_noise)
        seen.append(rollout.chain[..., -1, :].mean())
        return rollout

    ready = partial(dppo.make_batch, s.config, s.learner, s.critic, s.table)
    step = partial(dppo.update, s.policy, s.critic, s.config, s.table)
    for k in range(iterations):
        collector = SimpleNamespace(collect=collect)
        dppo.finetune(s.config, s.learner, collector, s.streams, step, ready, k)
    return float(np.mean(seen[-3:]))


def bandit(s, number: int, last_noise: bool):
    behaviour = s.policy.behaviour()
    behaviour.left = np.zeros((1, 500), np.int64)
    if not last_noise:
        behaviour.schedules[True].std[0] = 0
    obs = np.zeros((1, 500, 1), np.float32)
    draws = behaviour.draws([np.random.default_rng(number)], np.ones(1))
    chain = behaviour.decide(obs, draws, True)[:, None]
    obs, on = obs[:, None], np.ones((1, 1, 500), bool)
    reward = -((chain[..., -1, :] - 0.5) ** 2).mean(-1)
    given = {"terminated": on, "truncated": ~on, "next_obs": obs, "first": on}
    return SimpleNamespace(obs=obs, chain=chain, reward=reward, taken=np.array([2000]), **given)


@pytest.mark.slow
def test_a_bandit_of_twelve_dimensions_is_solved() -> None:
    assert tuned_mean() > 0.4


@pytest.mark.slow
def test_the_bandit_is_not_solved_with_sums_of_log_probs(monkeypatch) -> None:
    assert tuned_mean(monkeypatch, scale=12.0) < 0.25  # nearly everything is clipped


@pytest.mark.slow
def test_the_bandit_is_not_solved_without_noise_in_the_last_step() -> None:
    # Fewer steps, the last of which matters more: of ten tuned ones the others make up for it
    few = {"denoising_steps": 8, "tuned_steps": 4, "batch_size": 500, "hidden": (64, 64, 64)}
    assert tuned_mean(iterations=25, **few) > 0.25
    assert tuned_mean(iterations=25, last_noise=False, **few) < 0.1
