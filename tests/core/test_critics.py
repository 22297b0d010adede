"""Action values and state values of several seeds against torch's modules."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from rlsuite.core.critics import Critics, StateValue
from rlsuite.core.optim import gradient


def rngs_of(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rngs_of(seed)[0].standard_normal(shape)).float()


def plain(layout, theta: torch.Tensor, name: str) -> nn.Sequential:
    """One network of three layers from one row [P]."""
    views, layers = layout.views(theta[None]), []
    for i in range(3):
        weight, bias = views[f"{name}.{i}.weight"][0], views[f"{name}.{i}.bias"][0, 0]
        layers.append(nn.Linear(weight.shape[1], weight.shape[0]))
        layers[-1].weight.data.copy_(weight)
        layers[-1].bias.data.copy_(bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_values_are_those_of_each_seeds_own_networks(count):
    critics = Critics(3, 2, (16, 8))
    theta = critics.initial(rngs_of(0, 1, 2), count)
    assert theta.shape == (3, count * critics.layout.size)
    obs, action = draw(1, 3, 20, 3), draw(2, 3, 20, 2)
    values = critics.values(theta, obs, action)
    assert values.shape == (3, count, 20)
    for seed in range(3):
        for i, row in enumerate(theta[seed].chunk(count)):
            net = plain(critics.layout, row, "q")
            expected = net(torch.cat([obs[seed], action[seed]], 1))[:, 0].detach()
            torch.testing.assert_close(values[seed, i], expected, rtol=1e-5, atol=1e-6)
    assert len(values[:, :, 0].unique()) == 3 * count  # no two are alike


def test_the_first_columns_are_the_first_critic():
    critics = Critics(3, 2, (16, 8))
    theta, obs, action = critics.initial(rngs_of(0, 1)), draw(1, 2, 20, 3), draw(2, 2, 20, 2)
    first = critics.values(theta[:, : critics.layout.size], obs, action)
    assert torch.equal(first[:, 0], critics.values(theta, obs, action)[:, 0])


def test_gradients_stay_with_their_seed_and_critic():
    critics = Critics(3, 2, (16, 8))
    theta, obs, action = critics.initial(rngs_of(0, 1)), draw(1, 2, 20, 3), draw(2, 2, 20, 2)
    one = torch.tensor([0.0, 1.0])  # of the second seed, its second critic
    grad, _ = gradient(
        lambda theta: (one * critics.values(theta, obs, action)[:, 1].sum(1), {}), theta
    )
    first, second = grad.chunk(2, 1)
    assert not first.any()
    assert not second[0].any()
    assert second[1].any()


def test_state_values_are_those_of_each_seeds_own_network():
    values = StateValue(3, (16, 8))
    theta, obs = values.initial(rngs_of(0, 1, 2)), draw(1, 3, 20, 3)
    got = values.values(theta, obs)
    assert got.shape == (3, 20)
    for seed in range(3):
        expected = plain(values.layout, theta[seed], "v")(obs[seed])[:, 0].detach()
        torch.testing.assert_close(got[seed], expected, rtol=1e-5, atol=1e-6)


def test_weights_start_as_torchs_linear_does_and_alone_as_in_company():
    critics = Critics(3, 2, (100, 50))
    theta = critics.initial(rngs_of(*range(10)))
    assert torch.equal(theta[4], critics.initial(rngs_of(4))[0])
    rows = theta.view(20, -1)
    assert len({tuple(row.tolist()) for row in rows}) == 20
    views = critics.layout.views(rows)
    for name, fan_in in (("0", 5), ("1", 100), ("2", 50)):
        for kind in ("weight", "bias"):  # uniform within 1/sqrt(fan in)
            scaled = views[f"q.{name}.{kind}"] * fan_in**0.5
            assert 0.75 < scaled.abs().max() <= 1 + 1e-6
            assert abs(scaled.std() - 3**-0.5) < 0.1
    value = StateValue(3, (100, 50))
    assert value.initial(rngs_of(4)).abs().max() <= 3**-0.5 + 1e-6


def test_the_last_layer_of_every_critic_starts_in_a_range_of_its_own_where_given():
    critics = Critics(3, 2, (16, 8))
    plain_theta, theta = (critics.initial(rngs_of(0, 1), last=last) for last in (None, 3e-3))
    for ours, theirs in zip(theta.chunk(2, 1), plain_theta.chunk(2, 1), strict=True):
        others = critics.layout.views(theirs)
        for name, mine in critics.layout.views(ours).items():
            if name.startswith("q.2"):
                torch.testing.assert_close(mine, others[name] * 3e-3 * 8**0.5)
                assert 0 < mine.abs().max() <= 3e-3 * (1 + 1e-6)
            else:
                assert torch.equal(mine, others[name])


def test_critics_may_have_a_target_each():
    critics = Critics(3, 2, (16, 8), "silu")
    theta, obs, action = critics.initial(rngs_of(0, 1), 3), draw(1, 2, 20, 3), draw(2, 2, 20, 2)
    batch, target = SimpleNamespace(obs=obs, action=action), draw(3, 2, 3, 20)
    loss, _ = critics.error(theta, batch, target)
    values = critics.values(theta, obs, action)
    torch.testing.assert_close(loss, (values - target).square().mean(2).sum(1))
    # silu in the hidden layers, x sigmoid(x)
    net = plain(critics.layout, theta[0, : critics.layout.size], "q")
    net[1] = net[3] = nn.SiLU()
    expected = net(torch.cat([obs[0], action[0]], 1))[:, 0].detach()
    torch.testing.assert_close(values[0, 0], expected, rtol=1e-5, atol=1e-6)
