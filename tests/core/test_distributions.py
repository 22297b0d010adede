"""Distributions against hand-worked numbers, torch.distributions and Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from torch import distributions as reference

from rlsuite.core.distributions import Categorical, DiagGaussian

S, B, A = 2, 5, 3
LOG_STD_SHAPES = {"state-independent": (S, 1, A), "per state": (S, B, A)}


def tensors(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal(shape)) for shape in shapes]


def gaussian(mean: float, std: float) -> DiagGaussian:
    """One state, one action dimension."""
    return DiagGaussian(torch.full((1, 1, 1), mean), torch.full((1, 1, 1), math.log(std)))


def test_gaussian_by_hand():
    # log N(0; 0, 1) = -log(2 pi)/2 = -0.918939, log N(3; 1, 2) = that - log 2 - ((3-1)/2)^2/2
    #                                                          = -0.918939 - 0.693147 - 0.5
    assert gaussian(0, 1).log_prob(torch.zeros(1, 1, 1)).item() == pytest.approx(
        -0.918939, abs=2e-6
    )
    three = torch.full((1, 1, 1), 3.0)
    assert gaussian(1, 2).log_prob(three).item() == pytest.approx(-2.112086, abs=2e-6)
    # H = log(2 pi e)/2 + log std = 1.418939 + log 2
    assert gaussian(1, 2).entropy().item() == pytest.approx(2.112086, abs=2e-6)
    # KL(N(0,1) || N(1,2)) = log 2 + (1 + 1)/8 - 1/2 = 0.443147
    # KL(N(1,2) || N(0,1)) = -log 2 + (4 + 1)/2 - 1/2 = 1.306853
    assert gaussian(0, 1).kl(gaussian(1, 2)).item() == pytest.approx(0.443147, abs=2e-6)
    assert gaussian(1, 2).kl(gaussian(0, 1)).item() == pytest.approx(1.306853, abs=2e-6)


@pytest.mark.parametrize("shape", LOG_STD_SHAPES.values(), ids=LOG_STD_SHAPES)
def test_gaussian_equals_torch(shape):
    mean, log_std, action, other_mean, other_log_std = tensors(
        0, (S, B, A), shape, (S, B, A), (S, B, A), shape
    )
    p, q = DiagGaussian(mean, log_std), DiagGaussian(other_mean, other_log_std)
    torch_p = reference.Normal(mean, log_std.exp().expand_as(mean))
    torch_q = reference.Normal(other_mean, other_log_std.exp().expand_as(mean))
    for ours, theirs in (
        (p.log_prob(action), torch_p.log_prob(action)),
        (p.entropy(), torch_p.entropy()),
        (p.kl(q), reference.kl_divergence(torch_p, torch_q)),
        (q.kl(p), reference.kl_divergence(torch_q, torch_p)),
    ):
        assert ours.shape == (S, B)
        torch.testing.assert_close(ours, theirs.sum(-1))
    torch.testing.assert_close(p.kl(p), torch.zeros(S, B, dtype=torch.float64))


def test_gaussian_sample_is_mean_plus_std_times_noise_and_differentiable():
    # 1 + 2 * 0.5 = 2; d/d mean = 1, d/d log_std = std * noise = 1
    mean = torch.full((1, 1, 1), 1.0, requires_grad=True)
    log_std = torch.full((1, 1, 1), math.log(2.0), requires_grad=True)
    p = DiagGaussian(mean, log_std)
    sample = p.sample(torch.full((1, 1, 1), 0.5))
    by_mean, by_log_std = torch.autograd.grad(sample.sum(), (mean, log_std))
    torch.testing.assert_close(
        torch.stack([sample, by_mean, by_log_std]).flatten().tolist(), [2.0, 1.0, 1.0]
    )
    assert p.mode() is mean


def test_gaussian_kl_equals_monte_carlo():
    mean, log_std, other_mean, other_log_std = tensors(
        1, (1, 1, 2), (1, 1, 2), (1, 1, 2), (1, 1, 2)
    )
    p, q = DiagGaussian(mean, 0.3 * log_std), DiagGaussian(other_mean, 0.3 * other_log_std)
    noise = torch.from_numpy(np.random.default_rng(2).standard_normal((1, 400_000, 2)))
    sample = p.sample(noise)
    estimate = (p.log_prob(sample) - q.log_prob(sample)).mean(1)
    assert p.kl(q)[:, 0].item() == pytest.approx(estimate.item(), rel=0.01)
    assert q.kl(p)[:, 0].item() != pytest.approx(estimate.item(), rel=0.05)  # direction matters


def test_categorical_by_hand():
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4), as unnormalised logits
    p = Categorical(torch.tensor([[[math.log(2.0), 0.0, 0.0]]]) + 7)
    q = Categorical(torch.tensor([[[0.0, math.log(2.0), 0.0]]]) - 3)
    # log p(1) = -log 4
    assert p.log_prob(torch.tensor([[1]])).item() == pytest.approx(-1.386294, abs=2e-6)
    # H = 1/2 log 2 + 2/4 log 4 = 1.039721
    assert p.entropy().item() == pytest.approx(1.039721, abs=2e-6)
    # KL = 1/2 log 2 - 1/4 log 2 = 0.173287
    assert p.kl(q).item() == pytest.approx(0.173287, abs=2e-6)
    assert (p.mode().item(), q.mode().item()) == (0, 1)


def test_categorical_equals_torch():
    logits, other = tensors(3, (S, B, A), (S, B, A))
    action = torch.from_numpy(np.random.default_rng(4).integers(A, size=(S, B)))
    p, q = Categorical(logits), Categorical(2 * other)
    torch_p, torch_q = reference.Categorical(logits=logits), reference.Categorical(logits=2 * other)
    for ours, theirs in (
        (p.log_prob(action), torch_p.log_prob(action)),
        (p.log_prob(action.float()), torch_p.log_prob(action)),
        (p.entropy(), torch_p.entropy()),
        (p.kl(q), reference.kl_divergence(torch_p, torch_q)),
    ):
        assert ours.shape == (S, B)
        torch.testing.assert_close(ours, theirs)


def test_gumbel_noise_samples_with_the_softmax_frequencies():
    # p = (0.5, 0.3, 0.15, 0.05). The chi-square statistic of 4 classes exceeds 16.3 once in 1000.
    p, n = np.array([0.5, 0.3, 0.15, 0.05]), 100_000
    logits = torch.from_numpy(np.log(p) + 2.0).expand(1, n, 4)
    noise = torch.from_numpy(np.random.default_rng(5).gumbel(size=(1, n, 4)))
    counts = np.bincount(Categorical(logits).sample(noise)[0].numpy(), minlength=4)
    assert ((counts - n * p) ** 2 / (n * p)).sum() < 16.3
