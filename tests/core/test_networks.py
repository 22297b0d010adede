"""Networks of S seeds: layout, layers, initialisation, acting in NumPy, independence of slots."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlsuite.core.distributions import Categorical, DiagGaussian
from rlsuite.core.layers import Layout, linear, mlp, mlp_shapes, tanh
from rlsuite.core.layers import uniform as uniform_init
from rlsuite.core.networks import ActorCritic, orthogonal
from rlsuite.runs.machine import choose_products


@pytest.fixture(autouse=True)
def one_thread():
    """As runs train: with several, long sums are cut where the slots happen to lie."""
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def policy_of(seeds, obs_size=5, action_size=3, discrete=False, **options) -> ActorCritic:
    rngs = [np.random.default_rng(seed) for seed in seeds]
    return ActorCritic(obs_size, action_size, discrete, rngs=rngs, **options)


def test_layout_by_hand():
    # 2 x 3 weights and 2 biases: 8 columns. Slot 1 holds 8..15: weight 8..13, bias 14, 15.
    layout = Layout({"weight": (2, 3), "bias": (1, 2)})
    theta = torch.arange(16.0).view(2, 8)
    views = layout.views(theta)
    assert layout.size == 8
    assert views["weight"][1].tolist() == [[8, 9, 10], [11, 12, 13]]
    assert views["bias"][1].tolist() == [[14, 15]]
    views["bias"][1] = -1.0
    assert theta[1, 6:].tolist() == [-1, -1]
    assert theta[0].tolist() == list(range(8))


def test_shapes_of_an_mlp():
    assert mlp_shapes("f", (3, 4, 2)) == {
        "f.0.weight": (4, 3),
        "f.0.bias": (1, 4),
        "f.1.weight": (2, 4),
        "f.1.bias": (1, 2),
    }


@pytest.mark.parametrize("outputs", [1, 2])
def test_linear_by_hand(outputs):
    # x = (1, 2), rows of W (3, 4) and (5, 6), b = (0.5, -1): 3 + 8 + 0.5 = 11.5, 5 + 12 - 1 = 16
    weight = torch.tensor([[[3.0, 4.0], [5.0, 6.0]]])[:, :outputs]
    bias = torch.tensor([[[0.5, -1.0]]])[..., :outputs]
    y = linear(torch.tensor([[[1.0, 2.0]]]), weight, bias)
    assert y.tolist() == [[[11.5, 16.0][:outputs]]]


@pytest.mark.parametrize(
    ("activation", "module"), [("tanh", torch.nn.Tanh), ("relu", torch.nn.ReLU)]
)
@pytest.mark.parametrize("sizes", [(4, 8, 8, 3), (4, 8, 1), (4, 2)])
def test_mlp_equals_torch_per_seed(activation, module, sizes):
    layout, depth = Layout(mlp_shapes("f", sizes)), len(sizes) - 1
    theta, x = draw(0, 3, layout.size), draw(1, 3, 6, 4)
    weights = layout.views(theta)
    ours = mlp(weights, "f", x, depth, activation)
    for s in range(3):
        y = x[s]
        for i in range(depth):
            w, b = weights[f"f.{i}.weight"][s], weights[f"f.{i}.bias"][s, 0]
            y = torch.nn.functional.linear(y, w, b)
            y = module()(y) if i < depth - 1 else y
        torch.testing.assert_close(ours[s], y, rtol=1e-5, atol=1e-5)


def test_tanh_and_its_slope():
    x = torch.linspace(-12, 12, 100_001, requires_grad=True)
    y = tanh(x)
    assert (y - torch.tanh(x)).abs().max().item() < 2e-7
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope - (1 - torch.tanh(x.double()) ** 2)).abs().max().item() < 1e-6
    assert tanh(torch.tensor([-1e30, 0.0, 1e30])).tolist() == [-1.0, 0.0, 1.0]


@pytest.mark.parametrize("shape", [(64, 11), (11, 64), (64, 64), (1, 64), (64, 1)])
def test_orthogonal(shape):
    # Of the rows or the columns, the fewer are orthogonal: W W^T = 2 I or W^T W = 2 I
    w = orthogonal(np.random.default_rng(0), shape, math.sqrt(2))
    assert w.shape == shape
    gram = w @ w.T if shape[0] <= shape[1] else w.T @ w
    np.testing.assert_allclose(gram, 2 * np.eye(min(shape)), atol=1e-12)


def test_orthogonal_is_uniform():
    # Every entry is as often positive as negative, and half the matrices are reflections. Without
    # the signs of R, LAPACK's Q has a first entry that is never positive. 5 sigma of 1000 draws: 79
    draws = [orthogonal(np.random.default_rng(i), (3, 3), 1.0) for i in range(1000)]
    positive = np.sum([w > 0 for w in draws], axis=0)
    assert np.abs(positive - 500).max() < 79
    assert abs(sum(np.linalg.det(w) > 0 for w in draws) - 500) < 79


def test_uniform_is_what_torch_starts_from():
    # torch.nn.Linear(16, n): U(-1/4, 1/4), standard deviation 1/4/sqrt(3) = 0.144
    ours = uniform_init(np.random.default_rng(0), (4000, 16), 16)
    torch.manual_seed(0)
    theirs = torch.nn.Linear(16, 4000).weight.detach().numpy()
    for w in (ours, theirs):
        assert 0.2499 < np.abs(w).max() <= 0.25
        assert w.std() == pytest.approx(0.25 / math.sqrt(3), rel=0.01)
        assert abs(w.mean()) < 0.003


@pytest.mark.parametrize("discrete", [False, True])
def test_orthogonal_initialisation_of_a_policy(discrete):
    policy = policy_of((0, 1), discrete=discrete, hidden=(16, 12))
    views = {name: view[1].detach() for name, view in policy.layout.views(policy.theta).items()}
    for net, head_gain in (("actor", 0.01), ("critic", 1.0)):
        for i, gain in enumerate((math.sqrt(2), math.sqrt(2), head_gain)):
            singular = torch.linalg.svdvals(views[f"{net}.{i}.weight"])
            torch.testing.assert_close(singular, torch.full_like(singular, gain))
            assert not views[f"{net}.{i}.bias"].any()
    assert ("log_std" in views) is not discrete


def test_torch_initialisation_of_a_policy():
    policy = policy_of((0,), hidden=(256, 64), orthogonal_init=False, log_std_init=-2.0)
    for name, view in policy.layout.views(policy.theta).items():
        if name == "log_std":
            assert view.flatten().tolist() == [-2.0] * 3
            continue
        # weights and biases alike within 1/sqrt(fan in) of their layer
        fan_in = (5, 256, 64)[int(name.split(".")[1])]
        assert 0 < view.abs().max().item() <= 1 / math.sqrt(fan_in)
        if view.numel() > 200:
            assert view.abs().max().item() > 0.95 / math.sqrt(fan_in)


@pytest.mark.parametrize("orthogonal_init", [True, False])
def test_a_seed_starts_the_same_alone_and_in_company(orthogonal_init):
    alone = policy_of((3,), orthogonal_init=orthogonal_init)
    company = policy_of((1, 3), orthogonal_init=orthogonal_init)
    assert torch.equal(alone.theta[0], company.theta[1])
    assert not torch.equal(alone.theta[0], company.theta[0])


def test_actor_and_critic_share_nothing():
    policy, obs = policy_of((0, 1)), draw(2, 2, 4, 5)
    theta = policy.theta.clone().requires_grad_()
    (by_value,) = torch.autograd.grad(policy.value(theta, obs).sum(), theta)
    (by_mean,) = torch.autograd.grad(policy.distribution(theta, obs).mean.sum(), theta)
    for name, grad in policy.layout.views(by_value).items():
        assert grad.any() == name.startswith("critic"), name
    for name, grad in policy.layout.views(by_mean).items():
        assert grad.any() == name.startswith("actor"), name


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [(64, 64), (32,)])
def test_the_numpy_actor_equals_the_distribution(activation, hidden):
    policy = policy_of((0, 1, 2), activation=activation, hidden=hidden)
    policy.theta.copy_(0.3 * draw(3, *policy.theta.shape))
    obs, noise = 3 * draw(4, 3, 50, 5), draw(5, 3, 50, 3)
    pi, behaviour = policy.distribution(policy.theta, obs), policy.behaviour()
    assert isinstance(pi, DiagGaussian)
    sampled, mode = (
        behaviour.act_normalized(obs.numpy(), given)[0] for given in (noise.numpy(), None)
    )
    assert sampled.dtype == mode.dtype == np.float32
    np.testing.assert_allclose(sampled, pi.sample(noise), atol=1e-5)
    np.testing.assert_allclose(mode, pi.mode(), atol=1e-5)
    assert np.abs(mode).max() > 0.1


def test_the_discrete_numpy_actor_equals_the_distribution():
    policy = policy_of((0, 1), discrete=True)
    policy.theta.copy_(0.3 * draw(6, *policy.theta.shape))
    obs = draw(7, 2, 500, 5)
    pi, behaviour = policy.distribution(policy.theta, obs), policy.behaviour()
    assert isinstance(pi, Categorical)
    noise = behaviour.noise([np.random.default_rng(seed) for seed in (8, 9)], 500)
    sampled, mode = (behaviour.act_normalized(obs.numpy(), given)[0] for given in (noise, None))
    np.testing.assert_array_equal(sampled, pi.sample(torch.from_numpy(noise)))
    np.testing.assert_array_equal(mode, pi.mode())
    assert (sampled != mode).any()


@pytest.mark.parametrize("batch", [1, 7, 64, 128, 409, 2048])
@pytest.mark.parametrize("action_size", [1, 2, 3, 6])
@pytest.mark.parametrize(("hidden", "activation"), [((64, 64), "tanh"), ((256, 256), "relu")])
def test_a_slot_gets_the_same_bits_alone_and_in_company(batch, action_size, hidden, activation):
    options = {"action_size": action_size, "hidden": hidden, "activation": activation}
    options["orthogonal_init"] = False  # faster to draw
    choose_products(SimpleNamespace(widths=hidden, rows=batch))
    obs = draw(11, 10, batch, 11)

    def outputs(seeds) -> list[torch.Tensor]:
        policy, x = policy_of(seeds, obs_size=11, **options), obs[list(seeds)]
        found = [torch.from_numpy(policy.behaviour().act_normalized(x.numpy())[0])]
        if batch > 1:  # a batch of one state in tensors: a matrix-vector kernel where S is 1
            theta = policy.theta.clone().requires_grad_()
            mean, value = policy.distribution(theta, x).mean, policy.value(theta, x)
            loss = mean.square().sum() + value.square().sum()
            found += [mean, value, *torch.autograd.grad(loss, theta)]
        return found

    together = outputs(range(10))
    for s in (0, 9):
        for mine, theirs in zip(outputs([s]), together, strict=True):
            assert torch.equal(mine[0], theirs[s])
