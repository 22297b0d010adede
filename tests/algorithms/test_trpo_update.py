"""TRPO's update against one written seed by seed with dense matrices, torch.nn and torch.optim;
what each seed's line search accepts, whatever the others do; and a whole iteration."""

import copy
from functools import partial

import pytest
import torch
from ppo_setting import drift_registered
from torch import nn
from torch.autograd.functional import hessian
from trpo_setting import COUNT, actor_of, batch_of, config_of, policy_of, run, setting, taken

from rlsuite.algorithms.on_policy import trpo
from rlsuite.algorithms.on_policy.trpo import fisher_vector_product, line_search
from rlsuite.core.networks import ActorCritic
from rlsuite.core.rollouts import RolloutBatch, make_batch, standardise

BOTH = pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])


@pytest.fixture(autouse=True)
def task():
    with drift_registered():
        yield


# ------------------------------------------------------------------- one seed, written plainly


def plain_distribution(policy: ActorCritic, theta: torch.Tensor, obs: torch.Tensor):
    """pi_theta of one seed, theta [P]: weights and biases in turn, log_std last."""
    shapes = list(policy.actor_layout.shapes.values())
    columns = theta.split(policy.actor_layout.sizes)
    parts = [x.view(shape) for x, shape in zip(columns, shapes, strict=True)]
    log_std = None if policy.discrete else parts.pop()
    x = obs
    for i in range(0, len(parts), 2):
        x = torch.tanh(x) if i else x
        x = nn.functional.linear(x, parts[i], parts[i + 1][0])
    if policy.discrete:
        return torch.distributions.Categorical(logits=x)
    normal = torch.distributions.Normal(x, log_std.exp().expand_as(x))
    return torch.distributions.Independent(normal, 1)


def plain_conjugate_gradients(matrix, g, iterations):
    x, r, p = torch.zeros_like(g), g.clone(), g.clone()
    for _ in range(iterations):
        z = matrix @ p
        alpha = r @ r / (p @ z)
        x, r_new = x + alpha * p, r - alpha * z
        p, r = r_new + (r_new @ r_new) / (r @ r) * p, r_new
    return x


def plain_step(policy, config, old, batch, exact) -> tuple[torch.Tensor, int]:
    """(new theta [P], tries) of one seed; the batch has no seed axis. tries 0: nothing accepted."""

    def gain(theta):
        log_prob = plain_distribution(policy, theta, batch.obs).log_prob(batch.action)
        return ((log_prob - batch.old_log_prob).exp() * batch.advantage).mean()

    def kl(theta, every=1):
        p, q = (plain_distribution(policy, x, batch.obs[::every]) for x in (old, theta))
        assert q.batch_shape == (COUNT / every,)
        return torch.distributions.kl_divergence(p, q).mean()

    leaf = old.clone().requires_grad_()
    (g,) = torch.autograd.grad(gain(leaf), leaf)
    fisher = hessian(lambda theta: kl(theta, config.fisher_every), old)
    fisher = fisher + config.cg_damping * torch.eye(len(old))
    if exact:
        x = torch.linalg.solve(fisher, g)
    else:
        x = plain_conjugate_gradients(fisher, g, config.cg_iterations)
    s = x * torch.sqrt(2 * config.max_kl / (x @ fisher @ x))
    for j in range(config.backtrack_tries):
        trial = old + config.backtrack**j * s
        if kl(trial) <= config.kl_slack * config.max_kl and gain(trial) >= gain(old):
            return trial, j + 1
    return old, 0


@BOTH
@pytest.mark.parametrize(
    ("changes", "exact"),
    [
        ({}, True),
        ({"cg_iterations": 3}, False),
        ({"cg_iterations": 4, "fisher_every": 5, "kl_slack": 1.5, "backtrack": 0.5}, False),
        ({"max_kl": 0.5, "backtrack": 0.7, "cg_damping": 1e-2, "backtrack_tries": 3}, True),
    ],
    ids=["dense solve", "three CG steps", "baselines", "far"],
)
def test_the_policy_step_equals_a_plain_one_seed_by_seed(discrete, changes, exact):
    seeds, config = range(4), config_of(**changes)
    policy = policy_of(seeds, discrete)
    batch = batch_of(policy, seeds)
    if exact:  # or conjugate gradients would stop at residuals of 1e-5
        batch = batch._replace(advantage=1e4 * batch.advantage)
    new, metrics = taken(policy, config, batch)
    tries = []
    for s in seeds:
        mine = RolloutBatch(*(x[s] for x in batch))
        expected, tried = plain_step(policy, config, actor_of(policy)[s], mine, exact)
        torch.testing.assert_close(new[s], expected, rtol=1e-6, atol=1e-7)
        assert metrics["accepted"][s] == (tried > 0)
        assert metrics["line_search_tries"][s] == (tried or config.backtrack_tries)
        tries.append(tried)
    assert (new - actor_of(policy)).norm(dim=1).max() > 0.05
    if config.max_kl > 0.1:
        assert max(tries) > 1, tries


def test_log_std_is_part_of_the_step():
    policy = policy_of((0, 1, 2))
    new, _ = taken(policy, config_of(), batch_of(policy, (0, 1, 2)))
    moved = (policy.actor_layout.views(new - actor_of(policy))["log_std"]).abs()
    assert moved.shape == (3, 1, 2)
    assert moved.min() > 1e-4


# --------------------------------------------------------------------------------- line search


def searched(config, old, step, gain, mean_kl):
    """(new, metrics) of the line search over these functions [S, P] -> [S]."""

    def measures(x):
        return gain(x), {"surrogate": gain(x), "kl": mean_kl(x)}

    return line_search(config, old, step, measures(old)[1], measures)


def test_line_search_by_hand():
    # From 0, gain x + 1, KL x^2, at most kappa delta = 2 * 0.15 = 0.3; factor 0.5, 4 tries.
    # step 0.5: 0.25 is within, at once. 1: 1 is not, 0.5 is. 4: 16, 4, 1, then 0.5: at the last.
    # 8: 64, 16, 4, 1, never. -0.5: worse, as are all of its fractions. NaN, infinite: never.
    # 0: no worse than before, and accepted
    steps = [0.5, 1.0, 4.0, 8.0, -0.5, float("nan"), float("inf"), 0.0]
    config = config_of(max_kl=0.15, kl_slack=2.0, backtrack=0.5, backtrack_tries=4)
    step = torch.tensor(steps)[:, None]
    new, metrics = searched(
        config, torch.zeros(8, 1), step, lambda x: x[:, 0] + 1, lambda x: x[:, 0] ** 2
    )
    assert new[:, 0].tolist() == [0.5, 0.5, 0.5, 0, 0, 0, 0, 0]
    assert metrics["accepted"].tolist() == [1, 1, 1, 0, 0, 0, 0, 1]
    assert metrics["line_search_tries"].tolist() == [1, 2, 4, 4, 4, 4, 4, 1]
    assert metrics["surrogate"].tolist() == [1.5, 1.5, 1.5, 1, 1, 1, 1, 1]  # where the seed now is
    assert metrics["kl"].tolist() == [0.25, 0.25, 0.25, 0, 0, 0, 0, 0]


def test_line_search_at_the_limit_and_with_what_is_not_finite():
    # KL exactly delta = 0.25 is within; a KL or gain of NaN is not; an infinite parameter is
    # refused even where gain and KL see nothing of it
    config = config_of(max_kl=0.25, backtrack=0.5, backtrack_tries=1)
    old = torch.full((5, 2), 3.0)
    step = torch.tensor([[0.0, 0.5], [0.0, 0.51], [0.0, 0.4], [0.0, 0.4], [float("inf"), 0.4]])
    nan = torch.tensor([0.0, 0.0, float("nan"), 0.0, 0.0])

    def gain(x):
        return x[:, 1] + torch.where(x[:, 1] > 3, nan.roll(1), 0.0)

    new, metrics = searched(config, old, step, gain, lambda x: (x[:, 1] - 3) ** 2 + nan)
    assert metrics["accepted"].tolist() == [1, 0, 0, 0, 0]
    assert torch.equal(new[1:], old[1:])
    assert new[0].tolist() == [3.0, 3.5]
    assert metrics["line_search_tries"].tolist() == [1, 1, 1, 1, 1]


def test_line_search_stops_when_all_seeds_have_theirs():
    evaluations = []

    def kl(x):
        evaluations.append(x[:, 0].tolist())
        return x[:, 0]

    config = config_of(max_kl=0.5, backtrack=0.5, backtrack_tries=9)
    step = torch.tensor([[0.25], [1.0]])
    new, _ = searched(config, torch.zeros(2, 1), step, lambda x: x[:, 0], kl)
    # The first seed had its point at the first try and keeps it at the second
    assert evaluations == [[0.0, 0.0], [0.25, 1.0], [0.125, 0.5]]
    assert new.tolist() == [[0.25], [0.5]]


@BOTH
def test_seeds_forced_to_fail_keep_their_bits_and_disturb_nobody(discrete):
    # Curvature too small by 1e12 makes the step 1e6 times too long; a negative one turns it round;
    # NaN in the product, and in the advantages. Slots 0, 3 and 6 are left in peace.
    seeds = range(7)
    policy, config = policy_of(seeds, discrete, dtype=torch.float32), config_of(cg_iterations=10)
    batch = batch_of(policy, seeds)
    peaceful, calm = taken(policy, config, batch)
    assert calm["accepted"].tolist() == [1] * 7
    factor = torch.tensor([[1.0], [1e-12], [-1.0], [1.0], [float("nan")], [1.0], [1.0]])
    true_product = partial(fisher_vector_product, policy, config)
    batch.advantage[5, 3] = float("nan")
    new, metrics = taken(policy, config, batch, lambda *args: factor * true_product(*args))
    old = actor_of(policy)
    assert metrics["accepted"].tolist() == [1, 0, 0, 1, 0, 0, 1]
    assert metrics["line_search_tries"][[1, 2, 4, 5]].tolist() == [10] * 4
    assert torch.equal(new[[1, 2, 4, 5]], old[[1, 2, 4, 5]])
    assert (metrics["kl"][[1, 2, 4, 5]].abs() < 1e-6).all()
    assert torch.equal(new[[0, 3, 6]], peaceful[[0, 3, 6]])
    for name, value in calm.items():
        assert torch.equal(metrics[name][[0, 3, 6]], value[[0, 3, 6]]), name


# ------------------------------------------------------------------------- seeds alone, together


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("fisher_every", [1, 5])
def test_a_slot_steps_to_the_same_bits_alone_and_in_company(discrete, dtype, fisher_every):
    # A large radius and little damping, so that seeds need different numbers of tries
    seeds, far = range(6), {"max_kl": 0.1, "cg_damping": 1e-3}
    config = config_of(cg_iterations=10, fisher_every=fisher_every, hidden=(16, 8), **far)
    company = policy_of(seeds, discrete, config.hidden, dtype)
    batch = batch_of(company, seeds)
    new, metrics = taken(company, config, batch)
    assert len(set(metrics["line_search_tries"].tolist())) > 1
    for s in seeds:
        alone = policy_of((s,), discrete, config.hidden, dtype)
        mine, my_metrics = taken(alone, config, RolloutBatch(*(x[s : s + 1] for x in batch)))
        assert torch.equal(mine[0], new[s])
        assert all(torch.equal(my_metrics[name][0], metrics[name][s]) for name in metrics)


def test_a_seed_iterates_to_the_same_bits_alone_and_in_company():
    company, alone = setting(seeds=(3, 4, 5)), setting(seeds=(4,))
    for _ in range(3):
        theirs, mine = run(company), run(alone)
        assert all(torch.equal(mine[name][0], theirs[name][1]) for name in theirs)
    assert torch.equal(alone.policy.theta[0], company.policy.theta[1])
    assert torch.equal(alone.learner.critic.adam.second[0], company.learner.critic.adam.second[1])


# ------------------------------------------------------------------------- the whole iteration


def recorded(monkeypatch, s) -> tuple[list, list]:
    """Rollouts collected and batches given to the policy step, from now on."""
    rollouts, batches = [], []
    collect, step = s.collector.collect, trpo.policy_step

    def policy_step(policy, config, old, batch, product):
        batches.append(batch)
        return step(policy, config, old, batch, product)

    monkeypatch.setattr(trpo, "policy_step", policy_step)
    monkeypatch.setattr(
        s.collector, "collect", lambda *args: rollouts.append(collect(*args)) or rollouts[-1]
    )
    return rollouts, batches


@pytest.mark.parametrize("bootstrap", [True, False])
def test_advantages_are_the_rollouts_standardised_once_over_all_of_it(monkeypatch, bootstrap):
    s = setting(bootstrap_on_truncation=bootstrap, discount=0.9, gae_lambda=0.8)
    rollouts, batches = recorded(monkeypatch, s)
    before = copy.deepcopy(s.policy)
    run(s)
    (rollout,), (batch,) = rollouts, batches
    assert rollout.truncated.any()
    expected = make_batch(before, rollout, s.config)
    for name in ("obs", "action", "old_log_prob", "old_value", "target"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name
    assert torch.equal(batch.advantage, standardise(expected.advantage))
    assert batch.advantage.shape == (2, 64)
    assert batch.advantage.mean(1).abs().max() < 1e-6
    torch.testing.assert_close(batch.advantage.std(1), torch.ones(2))


def test_the_critic_is_trained_as_by_torch_seed_by_seed(monkeypatch):
    s = setting(critic_epochs=3, critic_lr=3e-3)
    _, batches = recorded(monkeypatch, s)
    policy, rngs = copy.deepcopy(s.policy), copy.deepcopy(s.streams["batch"])
    metrics = run(s)
    (batch,) = batches
    views = policy.critic_layout.views(policy.theta[:, policy.actor_size :])
    for seed in range(2):
        layers = [nn.Linear(*sizes) for sizes in ((3, 16), (16, 16), (16, 1))]
        for i, layer in enumerate(layers):
            layer.weight.data.copy_(views[f"critic.{i}.weight"][seed])
            layer.bias.data.copy_(views[f"critic.{i}.bias"][seed, 0])
        net = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(3):
            order = torch.from_numpy(rngs[seed].permutation(64))
            for rows in order.view(8, 8):
                error = nn.functional.mse_loss(
                    net(batch.obs[seed, rows])[:, 0], batch.target[seed, rows]
                )
                optimizer.zero_grad()
                error.backward()
                optimizer.step()
        flat = torch.cat([p.detach().flatten() for p in net.parameters()])
        ours = s.policy.theta[seed, policy.actor_size :]
        torch.testing.assert_close(ours, flat, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(metrics["value_loss"][seed], error.detach(), rtol=1e-3, atol=0)
        assert (ours - policy.theta[seed, policy.actor_size :]).abs().max() > 0.02
    assert len(s.step.calls) == 3 * 2  # 8 minibatches in calls of 4
    assert s.learner.critic.adam.steps.flatten().tolist() == [24, 24]
    run(s)
    assert s.learner.critic.adam.steps.flatten().tolist() == [48, 48]


def test_metrics_of_an_iteration(monkeypatch):
    s = setting()
    _, batches = recorded(monkeypatch, s)
    before = s.policy.theta.clone()
    metrics = run(s)
    (batch,) = batches
    assert metrics.keys() == {
        *("kl", "surrogate", "accepted", "line_search_tries", "entropy", "expected_improvement"),
        *("value_loss", "explained_variance"),
    }
    old, new = (s.policy.distribution(theta, batch.obs) for theta in (before, s.policy.theta))
    torch.testing.assert_close(metrics["kl"], old.kl(new).mean(1))
    torch.testing.assert_close(metrics["entropy"], old.entropy().mean(1))
    ratio = (new.log_prob(batch.action) - batch.old_log_prob).exp()
    torch.testing.assert_close(metrics["surrogate"], (ratio * batch.advantage).mean(1))
    # 1 - Var(R - V_old)/Var(R)
    explained = 1 - (batch.target - batch.old_value).var(1) / batch.target.var(1)
    torch.testing.assert_close(metrics["explained_variance"], explained)
    assert metrics["accepted"].tolist() == [1, 1]
    assert (metrics["kl"] > 1e-3).all()
    assert (metrics["surrogate"] > 0.01).all()
