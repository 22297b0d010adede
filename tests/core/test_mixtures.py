"""The squashed mixture against torch.distributions, and the network that says it."""

import numpy as np
import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    TransformedDistribution,
)
from torch.distributions.transforms import TanhTransform

from rlsuite.core.actors import initial
from rlsuite.core.mixtures import MixtureNetwork, TanhMixture


def mixture(seed: int = 0, components: int = 3) -> TanhMixture:
    rng = np.random.default_rng(seed)
    weight, mean, log_std = (
        torch.from_numpy(rng.standard_normal((2, 40, components, *rest)))
        for rest in ((), (2,), (2,))
    )
    return TanhMixture(weight.log_softmax(-1), mean, 0.3 * log_std)


@pytest.mark.parametrize("components", [1, 3])
def test_log_prob_is_that_of_torch_distributions(components):
    pi = mixture(components=components)
    inner = Independent(Normal(pi.mean, pi.log_std.exp()), 1)
    whole = MixtureSameFamily(Categorical(logits=pi.log_weight), inner)
    action = torch.tanh(torch.from_numpy(np.random.default_rng(1).standard_normal((2, 40, 2))))
    expected = TransformedDistribution(whole, TanhTransform()).log_prob(action)
    if expected.dim() == 3:  # older versions sum no slope over the dimensions of a scalar transform
        pytest.skip("this version of torch has no joint density here")
    torch.testing.assert_close(pi.log_prob(action), expected, rtol=1e-9, atol=1e-9)


def test_the_density_is_finite_at_the_edge_and_with_far_means():
    far = TanhMixture(
        torch.zeros(1, 1, 1), torch.full((1, 1, 1, 2), 50.0), torch.full((1, 1, 1, 2), -5.0)
    )
    for value in (1.0, -1.0, 0.0):
        assert far.log_prob(torch.full((1, 1, 2), value)).isfinite().all()
    # A mean beyond 9 counts as 9
    near = TanhMixture(far.log_weight, torch.full((1, 1, 1, 2), 9.0), far.log_std)
    action = torch.full((1, 1, 2), 0.5)
    assert torch.equal(far.log_prob(action), near.log_prob(action))


def test_weights_give_no_gradient_to_the_features():
    network = MixtureNetwork(3, 2, (8, 6), 3)
    theta = initial(network.layout, [np.random.default_rng(0)]).requires_grad_()
    pi = network.distribution(theta, torch.ones(1, 4, 3))
    pi.log_weight[..., 0].sum().backward()
    views = network.layout.views(theta.grad)
    moved = {name for name, view in views.items() if view.abs().max() > 0}
    assert moved == {"mixture.weight", "mixture.bias"}


def test_one_component_has_no_weights_and_log_std_is_bounded():
    network = MixtureNetwork(3, 2, (8,), 1)
    assert "mixture.weight" not in network.layout.shapes
    theta = 100 * initial(network.layout, [np.random.default_rng(0)])
    pi = network.distribution(theta, 10 * torch.ones(1, 4, 3))
    assert (pi.log_weight == 0).all()
    assert pi.log_std.min() >= -5 and pi.log_std.max() <= 2
    assert pi.mean.shape == (1, 4, 1, 2)
