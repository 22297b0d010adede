"""On-policy MDPO: objectives, the invariants of its fact sheet by number, and whole iterations
against one seed's written with torch.nn, torch.distributions and torch.optim."""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ppo_setting import draw, drift_registered
from test_ppo_update import Agent
from torch import nn
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from rlsuite.algorithms.on_policy.mdpo import (
    Config,
    Learner,
    critic_steps,
    iterate,
    mirror_descent,
    policy_step,
    step_size,
    surrogate,
)
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import RewardScaler
from rlsuite.core.optim import Net, gradient
from rlsuite.core.rollouts import Collector, RolloutBatch, standardise
from rlsuite.core.streams import Streams
from rlsuite.envs import make


@pytest.fixture(autouse=True)
def task():
    with drift_registered():
        yield


# ---------------------------------------------------------------------- a small task and update


class Recorder:
    """`policy_step` or `critic_steps` that keeps the parameters and the others it was given."""

    def __init__(self, step) -> None:
        self.step, self.calls = step, []

    def __call__(self, net, *rest):
        kept = (x.clone() if isinstance(x, torch.Tensor) else x for x in rest)
        self.calls.append((net.theta.clone(), *kept))
        return self.step(net, *rest)


def setting(seeds=(0, 1), **changes) -> SimpleNamespace:
    """4 iterations of 2 x 32 transitions, 3 policy steps, 2 critic epochs of 8 minibatches."""
    values = dict(num_envs=2, num_steps=32, policy_steps=3, critic_epochs=2, critic_minibatches=8)
    config = Config(**{"env_steps": 256, "hidden": (16, 16), **values, **changes})
    streams, envs = Streams(seeds), make("Drift-v0", seeds, config.num_envs)
    network = {"hidden": config.hidden, "activation": config.activation}
    policy = ActorCritic(3, 2, False, rngs=streams["init"], **network)
    scaler = RewardScaler(len(seeds), config.num_envs, config.discount)
    actor, critic = policy.theta.tensor_split([policy.actor_size], 1)
    learner = Learner(policy, Net.of(actor), Net.of(critic), scaler)
    collector, rollouts = Collector(envs, policy, scaler), []
    collector.restart(streams.integers("environment", config.num_envs))
    collect = collector.collect
    collector.collect = lambda *args: rollouts.append(collect(*args)) or rollouts[-1]
    policy_phase = Recorder(partial(policy_step, policy, config))
    critic_phase = Recorder(partial(critic_steps, policy, config))
    return SimpleNamespace(**locals())


def run(s: SimpleNamespace, k: int = 0) -> dict[str, torch.Tensor]:
    """Iteration k; its metrics. What the phases were given is in their `calls`."""
    phases = s.policy_phase, s.critic_phase
    return iterate(s.config, s.learner, s.collector, s.streams, k, list(phases))


def made_up(discrete=False) -> SimpleNamespace:
    """Two seeds' actors pi_k (float64) and 200 transitions of them, for `policy_step` alone."""
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    policy = ActorCritic(5, 3, discrete, rngs=rngs, hidden=(16, 16), log_std_init=-0.5).double()
    actor = policy.theta[:, : policy.actor_size] + 0.1 * draw(3, 2, policy.actor_size)
    obs = draw(1, 2, 200, 5).double()
    noise = torch.from_numpy(policy.behaviour().noise(rngs[:1], 2, 200)[0])
    pi = policy.distribution(actor, obs)
    action = pi.sample(noise)
    advantage = standardise(draw(2, 2, 200).double() + (noise.argmax(-1) == 0))
    batch = RolloutBatch(obs, action, pi.log_prob(action), None, advantage, None)
    return SimpleNamespace(policy=policy, actor=actor, obs=obs, batch=batch)


def moved(m: SimpleNamespace, penalty: float, steps: int, **changes):
    """`policy_step` taken `steps` times from pi_k: the actor, Adam's state, the last metrics."""
    config, actor = Config(**{"max_grad_norm": 1e9, **changes}), Net.of(m.actor)
    rest = m.actor, torch.tensor(penalty), m.batch
    for _ in range(steps):
        actor, metrics = policy_step(m.policy, config, actor, *rest)
    return *actor, metrics


def divergences(m: SimpleNamespace, actor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean KL(new || old) and KL(old || new) [S], by torch.distributions."""

    def distribution(actor):
        pi = m.policy.distribution(actor, m.obs)
        if m.policy.discrete:
            return Categorical(logits=pi.logits)
        return Independent(Normal(pi.mean, pi.log_std.exp().expand_as(pi.mean)), 1)

    new, old = distribution(actor), distribution(m.actor)
    return kl_divergence(new, old).mean(1), kl_divergence(old, new).mean(1)


# --------------------------------------------------------------------------------- objectives


def test_objectives_by_hand():
    # Ratios 2 and 1/2 with A = 1 and -2: mean rho A = (2 - 1)/2 = 0.5
    # KL 0.1 and 0.3 with 1/t_k = 4: 0.5 - 4 * 0.2 = -0.3. The second seed: ratio 1, (3 + 1)/2 = 2,
    # KL 0 and 0.5: 2 - 4 * 0.25 = 1
    log_ratio = torch.tensor([[2.0, 0.5], [1.0, 1.0]]).log()
    advantage, kl = torch.tensor([[1.0, -2.0], [3.0, 1.0]]), torch.tensor([[0.1, 0.3], [0, 0.5]])
    torch.testing.assert_close(surrogate(log_ratio, advantage), torch.tensor([0.5, 2.0]))
    psi = mirror_descent(log_ratio, advantage, kl, 4.0)
    torch.testing.assert_close(psi, torch.tensor([-0.3, 1.0]))
    # No clip: a ratio of 10 counts as 10. Cut at e^20 = 4.851652e8 alone, so that nothing overflows
    ten, far = (surrogate(torch.tensor([[x]]), torch.ones(1, 1)).item() for x in (2.302585, 999.0))
    assert (ten, far) == (pytest.approx(10), pytest.approx(4.851652e8))


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("step", [1e-3, 1.0, 1e3])
def test_invariant_01_the_first_gradient_is_the_policy_gradient(step, discrete):
    m = made_up(discrete)
    _, adam, metrics = moved(m, penalty=1 / step, steps=1)
    assert metrics["psi"].abs().max() < 1e-6  # mean rho A = mean A = 0, KL = 0
    assert metrics["kl"].abs().max() < 1e-12

    def log_prob_form(actor):
        log_prob = m.policy.distribution(actor, m.obs).log_prob(m.batch.action)
        return (m.batch.advantage * log_prob).mean(1), {}

    expected, _ = gradient(log_prob_form, m.actor)
    # The first moment is 0.1 times the gradient of -Psi
    torch.testing.assert_close(-10 * adam.first, expected, rtol=0, atol=1e-6)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("discrete", [False, True])
def test_invariant_02_a_single_step_does_not_depend_on_t_k(discrete):
    m = made_up(discrete)
    penalties = (1e3, 1.0, 1e-3)
    one = [moved(m, penalty, steps=1)[0] for penalty in penalties]
    two = [moved(m, penalty, steps=2)[0] for penalty in penalties]
    assert (one[0] - m.actor).abs().max() > 2e-4  # Adam's first step is near lr = 3e-4
    for a, b in ((0, 1), (1, 2), (0, 2)):
        torch.testing.assert_close(one[a], one[b], rtol=0, atol=1e-9)
        assert (two[a] - two[b]).abs().max() > 1e-7


def test_invariant_02_whole_iterations_of_one_step_do_not_depend_on_t_k():
    # 1/t_0 is 1/(1 + 1/4) or 1/(1 + 1/4000): m = 1 gives the same policy, m = 3 another one
    for policy_steps, low, high in ((1, 0, 1e-7), (3, 1e-6, 1)):
        short, long = (setting(env_steps=n, policy_steps=policy_steps) for n in (256, 256_000))
        assert (run(long)["kl_coef"] - run(short)["kl_coef"]).min() > 0.19
        assert low <= (short.policy.theta - long.policy.theta).abs().max() <= high


@pytest.mark.parametrize("discrete", [False, True])
def test_invariant_03_the_kl_is_exact_and_of_the_new_policy_first(discrete):
    m = made_up(discrete)
    actor = m.actor + 0.5 * draw(5, *m.actor.shape)
    new, old = (m.policy.distribution(x, m.obs) for x in (actor, m.actor))
    rest = m.actor, torch.tensor(1.0), m.batch
    kl = policy_step(m.policy, Config(), Net.of(actor), *rest)[1]["kl"]
    forward, backward = divergences(m, actor)
    torch.testing.assert_close(kl, forward)
    assert ((forward - backward).abs() > 0.1 * forward).all()  # the swapped one is another
    # Monte Carlo, 500 actions at each of 200 states: E_new[log new - log old]
    rng, total = np.random.default_rng(6), 0.0
    for _ in range(500):
        action = new.sample(torch.from_numpy(m.policy.behaviour().noise([rng], 2, 200)[0]))
        total = total + (new.log_prob(action) - old.log_prob(action)).mean(1) / 500
    torch.testing.assert_close(total, kl, rtol=0.02, atol=0)


def test_invariant_04_a_heavy_penalty_holds_the_policy_back():
    m = made_up()
    far, near = (
        divergences(m, moved(m, penalty, steps=10, actor_lr=1e-2)[0])[0] for penalty in (0.1, 100.0)
    )
    assert (near < far / 5).all()
    assert (near > 0).all()


def test_invariant_04_without_a_penalty_it_is_importance_weighted_policy_gradient():
    m = made_up()
    ours = moved(m, 0.0, steps=10, actor_lr=1e-2)[0]
    actor = m.actor.clone().requires_grad_()
    optimizer = torch.optim.Adam([actor], lr=1e-2, eps=1e-5)
    for _ in range(10):
        log_prob = m.policy.distribution(actor, m.obs).log_prob(m.batch.action)
        ratio = (log_prob - m.batch.old_log_prob).exp()
        optimizer.zero_grad()
        (-ratio * m.batch.advantage).mean(1).sum().backward()
        optimizer.step()
    torch.testing.assert_close(ours, actor.detach(), rtol=0, atol=1e-7)
    assert ((ratio - 1).abs() > 0.3).any()  # where PPO would have clipped
    assert (ours - moved(m, 1.0, steps=10, actor_lr=1e-2)[0]).abs().max() > 1e-3


def test_invariant_05_a_table_converges_to_the_mirror_descent_optimum():
    # A linear layer on one-hot states is a table. pi_k is (1/4, 1/4, 1/2) in state 0 and
    # (1/8, 5/8, 1/4) in state 1; 8 transitions of each in just these proportions make the mean
    # over the batch the expectation: of KL and of rho A, half of what each state has
    p = torch.tensor([[2, 2, 4], [1, 5, 2]], dtype=torch.float64) / 8
    state = torch.tensor([0] * 8 + [1] * 8)
    action = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2, 0, 1, 1, 1, 1, 1, 2, 2])
    table = torch.tensor([[[1.0, -1, 0], [2, 0.5, -1]], [[-2, 0, 1], [0, 0, 1]]])  # A[seed, s, a]
    policy = ActorCritic(2, 3, True, rngs=[np.random.default_rng(i) for i in (0, 1)], hidden=())
    policy = policy.double()
    actor = policy.theta[:, : policy.actor_size].clone()
    weights = policy.actor_layout.views(actor)
    weights["actor.0.weight"].copy_(p.log().T)
    weights["actor.0.bias"].zero_()
    obs = torch.eye(2, dtype=torch.float64)[state].expand(2, 16, 2)
    action, old_log_prob = action.expand(2, 16), p.log()[state, action].expand(2, 16)
    batch = RolloutBatch(obs, action, old_log_prob, None, table[:, state, action[0]].double(), None)
    m = SimpleNamespace(policy=policy, actor=actor, batch=batch)
    for step in (0.5, 2.0):
        new = moved(m, 1 / step, steps=1000, actor_lr=0.02)[0]
        got = policy.distribution(new, torch.eye(2).double().expand(2, 2, 2)).logits.softmax(-1)
        expected = p * (step * table.double()).exp()
        expected /= expected.sum(-1, keepdim=True)
        assert 0.5 * (got - expected).abs().sum(-1).max() < 1e-3  # total variation
        assert 0.5 * (expected - p).abs().sum(-1).min() > 0.05  # far from where it began


def test_invariant_06_t_k_falls_from_one_towards_zero():
    # K = 4: 1 - (-1)/4 = 1.25, 1, 0.75, 0.5 = 2/K
    assert [step_size(k, 4) for k in range(4)] == [1.25, 1.0, 0.75, 0.5]
    for count in (1, 7, 488):
        steps = [step_size(k, count) for k in range(count)]
        assert steps[0] == pytest.approx(1 + 1 / count)
        assert steps[-1] == pytest.approx(2 / count)
        assert all(a > b > 0 for a, b in zip(steps, steps[1:], strict=False))
    s = setting(policy_steps=2)  # K = 256/64 = 4; 1/t_k is what the policy steps are given
    for k, expected in enumerate((0.8, 1.0, 1.333333, 2.0)):
        assert run(s, k)["kl_coef"].tolist() == [pytest.approx(expected, abs=1e-6)] * 2
        given = [call[2].item() for call in s.policy_phase.calls[2 * k :]]
        assert given == [pytest.approx(expected, abs=1e-6)] * 2


def test_invariant_07_the_old_policy_stays_until_the_iteration_ends():
    s, noise = setting(), Streams((0, 1))["action"]
    for k in range(3):
        before = s.policy.theta.detach().clone()
        run(s, k)
        calls = s.policy_phase.calls[3 * k :]
        actors = [call[0] for call in calls] + [s.policy.theta[:, : s.policy.actor_size]]
        for _, old, _, batch in calls:
            assert torch.equal(old, before[:, : s.policy.actor_size])
            log_prob = s.policy.distribution(before, batch.obs).log_prob(batch.action)
            torch.testing.assert_close(log_prob, batch.old_log_prob)
        # ... while the new one moves at every step, from the old one on
        assert torch.equal(actors[0], calls[0][1])
        assert all((a - b).abs().max() > 1e-4 for a, b in zip(actors, actors[1:], strict=False))
        # and the next rollout is the new one's: action = mean + std noise
        z = torch.from_numpy(s.policy.behaviour().noise(noise, 32, 2))
        rollout = s.rollouts[k]
        pi = s.policy.distribution(before, torch.from_numpy(rollout.obs).flatten(1, 2))
        action = torch.from_numpy(rollout.action).flatten(1, 2)
        torch.testing.assert_close(action, pi.sample(z.flatten(1, 2)), rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------- the update


def test_every_policy_step_sees_all_transitions_standardised():
    s = setting()
    run(s)
    assert len(s.policy_phase.calls) == 3
    for *_, batch in s.policy_phase.calls:
        assert batch.obs.shape == (2, 64, 3)
        assert batch.advantage.mean(1).abs().max() < 1e-6
        torch.testing.assert_close(batch.advantage.std(1), torch.ones(2))
    # The critic's: shuffled anew in both epochs, 2 calls each of 4 minibatches, the same rows
    parts = [call[1] for call in s.critic_phase.calls]
    assert [part.obs.shape[1] for part in parts] == [32] * 4
    rows = s.policy_phase.calls[0][3].old_log_prob
    epochs = [torch.cat([p.old_log_prob for p in parts[i : i + 2]], 1) for i in (0, 2)]
    for epoch in epochs:
        assert torch.equal(epoch.sort(1).values, rows.sort(1).values)
    orders = {tuple(x[seed].argsort().tolist()) for x in (rows, *epochs) for seed in (0, 1)}
    assert len(orders) == 6


def test_each_phase_moves_its_own_network_only():
    s = setting()
    size, start = s.policy.actor_size, s.policy.theta.detach().clone()
    run(s)
    for phase, net, columns in (
        (s.policy_phase, s.learner.actor, slice(0, size)),
        (s.critic_phase, s.learner.critic, slice(size, None)),
    ):
        passed = [call[0] for call in phase.calls] + [net.theta]
        assert torch.equal(passed[0], start[:, columns])
        assert all(((a - b).abs().amax(1) > 1e-5).all() for a, b in pairwise(passed))
        assert torch.equal(passed[-1], s.policy.theta[:, columns])
    steps = s.learner.actor.adam.steps, s.learner.critic.adam.steps
    assert [x.flatten().tolist() for x in steps] == [[3, 3], [16, 16]]


def test_a_seed_iterates_to_the_same_bits_alone_and_in_company():
    company, alone = setting(seeds=(3, 4, 5)), setting(seeds=(4,))
    for k in range(3):
        theirs, mine = run(company, k), run(alone, k)
        assert all(torch.equal(mine[name][0], theirs[name][1]) for name in theirs)
    assert torch.equal(alone.policy.theta[0], company.policy.theta[1])
    assert not torch.equal(company.policy.theta[0], company.policy.theta[1])
    states = zip(
        (*alone.learner.actor.adam, *alone.learner.critic.adam),
        (*company.learner.actor.adam, *company.learner.critic.adam),
        strict=True,
    )
    assert all(torch.equal(mine[0], theirs[1]) for mine, theirs in states)


def advantages(agent: Agent, rollout, seed: int) -> tuple[torch.Tensor, ...]:
    """Observations, actions, V, A and R [64, ...] of one seed, backwards over a rollout."""
    obs, action, reward, next_obs, terminated, truncated = (
        torch.from_numpy(x[seed])
        for x in (rollout.obs, rollout.action, rollout.reward, rollout.next_obs,
                  rollout.terminated, rollout.truncated)
    )  # fmt: skip
    value, next_value = (agent.critic(x)[..., 0].detach() for x in (obs, next_obs))
    advantage, future = torch.empty_like(reward), torch.zeros(2)
    for t in reversed(range(32)):
        delta = reward[t] + 0.99 * next_value[t] * ~terminated[t] - value[t]
        advantage[t] = future = delta + 0.99 * 0.95 * future * ~(terminated | truncated)[t]
    columns = (obs, action, value, advantage, advantage + value)
    return tuple(x.flatten(0, 1) for x in columns)


def train_plainly(s: SimpleNamespace, agent: Agent, optimizers, seed: int, k: int, rng) -> dict:
    """Iteration k (K = 4) as the sheet has it, for one seed; what its metrics should be."""
    obs, action, old_value, advantage, target = advantages(agent, s.rollouts[k], seed)
    advantage = (advantage - advantage.mean()) / advantage.std()
    old = Independent(Normal(agent.actor(obs).detach(), agent.log_std.detach().exp()), 1)
    for _ in range(s.config.policy_steps):
        new = Independent(Normal(agent.actor(obs), agent.log_std.exp()), 1)
        ratio = (new.log_prob(action) - old.log_prob(action)).exp()
        psi = (ratio * advantage).mean() - kl_divergence(new, old).mean() / (1 - (k - 1) / 4)
        optimizers[0].zero_grad()
        (-psi).backward()
        norm = nn.utils.clip_grad_norm_([*agent.actor.parameters(), agent.log_std], 0.5)
        optimizers[0].step()
    for _ in range(s.config.critic_epochs):
        for rows in torch.from_numpy(rng.permutation(64)).chunk(8):
            value = agent.critic(obs[rows])[:, 0]
            near = old_value[rows] + (value - old_value[rows]).clamp(-0.2, 0.2)
            error = torch.maximum((value - target[rows]) ** 2, (near - target[rows]) ** 2).mean()
            optimizers[1].zero_grad()
            error.backward()
            optimizers[1].step()
    grads = [p.grad for p in agent.critic.parameters()]
    assert nn.utils.get_total_norm(grads) > 0.5  # which nothing clips, where the actor's is
    explained = 1 - (target - old_value).var() / target.var()
    kl, entropy = kl_divergence(new, old).mean(), new.entropy().mean()
    return dict(psi=psi, kl=kl, entropy=entropy, grad_norm=norm, value_loss=error,
                explained_variance=explained, kl_coef=torch.tensor(4 / (5 - k)))  # fmt: skip


def test_iterations_equal_plain_ones_seed_by_seed():
    # Rates that let the value leave its clip, and a penalty that counts
    s = setting(policy_steps=10, actor_lr=3e-3, critic_lr=2e-3)
    agents, rngs = [Agent(s.policy, seed) for seed in (0, 1)], Streams((0, 1))["batch"]
    optimizers = [
        (
            torch.optim.Adam([*agent.actor.parameters(), agent.log_std], lr=3e-3, eps=1e-5),
            torch.optim.Adam(agent.critic.parameters(), lr=2e-3, eps=1e-8),
        )
        for agent in agents
    ]
    for k in range(4):
        start, metrics = s.policy.theta.detach().clone(), run(s, k)
        for seed in (0, 1):
            plain = train_plainly(s, agents[seed], optimizers[seed], seed, k, rngs[seed])
            assert metrics.keys() == plain.keys()
            for name, value in plain.items():
                torch.testing.assert_close(metrics[name][seed], value, rtol=1e-3, atol=1e-4)
            theta = s.policy.theta[seed]
            torch.testing.assert_close(theta, agents[seed].flat(), rtol=0, atol=5e-6)
        assert (s.policy.theta - start).abs().max() > 5e-3
    assert metrics["kl"].min() > 1e-3
    assert any(rollout.terminated.any() for rollout in s.rollouts)
    assert any(rollout.truncated.any() for rollout in s.rollouts)
