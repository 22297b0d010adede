"""The tanh-Gaussian: a density on (-1, 1), exact where it saturates."""

import math

import numpy as np
import pytest
import torch
from torch import distributions as reference

from rlsuite.core.squashed import TanhGaussian, log_slope

S, B, A = 2, 5, 3


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_log_prob_by_hand():
    # pre-tanh 0: log N(0; 0, 1) - log(1 - 0) = -0.918939
    unit = TanhGaussian(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    action, log_prob = unit.sample(torch.zeros(1, 1, 1))
    assert action.item() == 0
    assert log_prob.item() == pytest.approx(-0.918939, abs=2e-6)
    # pre-tanh 1: -0.918939 - 0.5 + 0.867562; mean 0.5, sigma 0.5 and pre-tanh -2, so z = -5:
    # -12.5 - log 0.5 - 0.918939 = -12.725791, and log(1 - tanh^2) = -2.650005
    assert unit.sample(torch.ones(1, 1, 1))[1].item() == pytest.approx(-0.551377, abs=2e-6)
    half = TanhGaussian(torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.5).log())
    for log_prob in (
        half.sample(torch.full((1, 1, 1), -5.0))[1],
        half.log_density(torch.full((1, 1, 1), -2.0)).sum(-1),
    ):
        assert log_prob.item() == pytest.approx(-10.075786, abs=2e-6)
    # pre-tanh 20, where tanh is 1 in float32: log(1 - tanh^2) = 2 log 2 - 40 = -38.613706, so
    # log_prob = -0.918939 - 200 + 38.613706 = -162.305233
    action, log_prob = unit.sample(torch.full((1, 1, 1), 20.0))
    assert action.item() == 1
    assert log_prob.item() == pytest.approx(-162.305233, abs=1e-4)


@pytest.mark.parametrize("log_std_shape", [(S, 1, A), (S, B, A)])
def test_log_prob_equals_torch(log_std_shape):
    mean, log_std, noise = draw(0, S, B, A), 0.3 * draw(1, *log_std_shape), draw(2, S, B, A)
    p = TanhGaussian(mean, log_std)
    action, log_prob = p.sample(noise)
    normal = reference.Normal(mean, log_std.exp().expand_as(mean))
    squashed = reference.TransformedDistribution(normal, reference.TanhTransform())
    assert log_prob.shape == (S, B)
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
    torch.testing.assert_close(log_prob, squashed.log_prob(action).sum(-1))
    torch.testing.assert_close(p.log_prob(action), log_prob)
    torch.testing.assert_close(p.mode(), torch.tanh(mean))


def test_the_density_integrates_to_one():
    grid = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[1:-1].view(1, -1, 1)
    p = TanhGaussian(torch.full_like(grid, 0.4), torch.full((1, 1, 1), -0.5, dtype=torch.float64))
    assert torch.trapezoid(p.log_prob(grid).exp(), grid[..., 0]).item() == pytest.approx(
        1, abs=1e-4
    )


def test_the_log_prob_of_an_action_at_the_edge_is_finite_with_its_gradient():
    mean = torch.zeros(1, 2, 1, requires_grad=True)
    log_prob = TanhGaussian(mean, torch.zeros(1, 1, 1)).log_prob(torch.tensor([[[1.0], [-1.0]]]))
    (slope,) = torch.autograd.grad(log_prob.sum(), mean)
    # The pre-image is cut at atanh(1 - 1e-6) = 7.25: slope (x - mean)/var = +-7.25, to float32
    assert torch.isfinite(log_prob).all()
    torch.testing.assert_close(slope.flatten(), torch.tensor([7.25, -7.25]), atol=0.05, rtol=0)


def test_a_saturated_sample_has_a_finite_gradient():
    # pre-tanh 20: d/d mean of -log(1 - tanh^2) is 2 tanh = 2
    mean = torch.full((1, 1, 1), 20.0, requires_grad=True)
    TanhGaussian(mean, torch.zeros(1, 1, 1)).sample(torch.zeros(1, 1, 1))[1].sum().backward()
    assert mean.grad.item() == pytest.approx(2.0, abs=1e-6)


def entropy(mean: float, std: float) -> float:
    """E[-log pi] of one dimension, over a fine grid of the noise."""
    noise = torch.linspace(-9, 9, 20_001, dtype=torch.float64).view(1, -1, 1)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    _, log_prob = TanhGaussian(mean * one, math.log(std) * one).sample(noise)
    weight = torch.exp(-0.5 * noise[..., 0] ** 2) / math.sqrt(2 * math.pi)
    return -torch.trapezoid(weight * log_prob, noise[..., 0]).item()


def test_entropy_of_a_squashed_dimension_stays_below_that_of_uniform_actions():
    # Uniform on (-1, 1): log 2 = 0.6931. At mean 0 the most is 0.6837, at sigma 0.87; sigma 1 has
    # 0.6698, and -1 takes sigma 0.0897
    found = {std: entropy(0.0, std) for std in (0.8, 0.87, 0.95, 1.0, 0.0897)}
    assert max(found, key=found.get) == 0.87
    assert found[0.87] == pytest.approx(0.6837, abs=1e-4)
    assert found[1.0] == pytest.approx(0.6698, abs=1e-4)
    assert found[0.0897] == pytest.approx(-1.0, abs=2e-3)
    assert all(entropy(mean, std) < math.log(2) for mean in (0.5, 2.0) for std in (0.2, 1.0, 3.0))


def test_a_density_has_the_same_bits_wherever_it_lies_in_a_tensor():
    """Vectors of 8 or 16 numbers and the rest that fills none are rounded alike."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((10, 12, 2))).float()
    whole = log_slope(x)
    assert all(torch.equal(log_slope(x[i : i + 1])[0], whole[i]) for i in range(10))
    # at zero it is flat, and far out it falls by 2 for each unit: log 4 - 2 |x|
    ends = torch.tensor([0.0, -40.0, 40.0], requires_grad=True)
    log_slope(ends).sum().backward()
    assert ends.grad.tolist() == [0, 2, -2]
    assert log_slope(ends)[1:].tolist() == pytest.approx([math.log(4) - 80] * 2)
