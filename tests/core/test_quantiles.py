"""Quantile critics: the network against torch.nn, the fractions, and the quantile Huber loss."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rlsuite.core.quantiles import (
    ACTING,
    COSINES,
    QuantileCritics,
    draw_fractions,
    quantile_loss,
)
from rlsuite.core.seed_random import SeedRandom

HIDDEN = (8, 6, 5)


def generators(seeds) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


class PlainQuantiles(nn.Module):
    """Section 3 of CFPI's sheet: one network of one seed."""

    def __init__(self, layout, theta: torch.Tensor) -> None:
        super().__init__()
        views = {name: view[0] for name, view in layout.views(theta[None]).items()}

        def layer(name, between=()):
            linear = nn.Linear(*reversed(views[f"{name}.weight"].shape))
            linear.weight.data, linear.bias.data = views[f"{name}.weight"], views[f"{name}.bias"][0]
            if not between:
                return linear
            norm = nn.LayerNorm(linear.out_features)
            norm.weight.data, norm.bias.data = views[f"{name}.scale"][0], views[f"{name}.shift"][0]
            return nn.Sequential(linear, norm, *between)

        self.trunk = nn.Sequential(*(layer(f"q.{i}", [nn.ReLU()]) for i in (0, 1)))
        self.embedding = layer("fraction", [nn.Sigmoid()])
        self.merge, self.last = layer("both", [nn.ReLU()]), layer("last")

    def forward(self, obs, action, tau):
        h = self.trunk(torch.cat([obs, action], 1))
        k = torch.arange(1, COSINES + 1)
        phi = self.embedding(torch.cos(k * math.pi * tau[..., None]))
        return self.last(self.merge(h[:, None] * phi))[..., 0]


def test_each_network_is_that_of_plain_torch():
    critics = QuantileCritics(3, 2, HIDDEN)
    theta = critics.initial(generators((0, 1)))
    theta = theta + 0.1 * normal(*theta.shape)  # so that scales and shifts count
    obs, action, tau = normal(2, 7, 3), normal(2, 7, 2), torch.rand(2, 7, 4)
    z = critics.quantiles(theta, obs, action, tau)
    assert z.shape == (2, 2, 7, 4)
    for seed in (0, 1):
        for i, one in enumerate(theta[seed].chunk(2)):
            plain = PlainQuantiles(critics.layout, one)
            expected = plain(obs[seed], action[seed], tau[seed])
            torch.testing.assert_close(z[seed, i], expected, rtol=1e-4, atol=1e-5)
    # The value is the mean over (i - 0.5)/32
    middle = (torch.arange(ACTING) + 0.5) / ACTING
    z = critics.quantiles(theta, obs, action, middle.expand(2, 7, -1))
    values = critics.values(theta, obs, action)
    torch.testing.assert_close(values, z.mean(-1))


def test_networks_start_as_linear_and_layer_norm_do_and_differ():
    critics = QuantileCritics(3, 2, HIDDEN)
    theta = critics.initial(generators((0, 1)))
    for one in theta.chunk(2, 1):
        views = critics.layout.views(one)
        assert (views["q.1.scale"] == 1).all() and (views["both.shift"] == 0).all()
        assert views["q.0.weight"].abs().max() < 1 / math.sqrt(5)
        assert views["fraction.weight"].abs().max() < 1 / 8
    first, second = theta.chunk(2, 1)
    assert (first != second).float().mean() > 0.7


def test_a_seed_has_the_same_bits_alone_and_in_company():
    critics = QuantileCritics(3, 2, (32, 32, 32))
    theta = critics.initial(generators(range(4)))
    obs, action = normal(4, 9, 3), normal(4, 9, 2)
    whole = critics.values(theta, obs, action)
    assert torch.equal(whole[3:], critics.values(theta[3:], obs[3:], action[3:]))


def test_fractions_are_the_middles_of_intervals_that_fill_the_unit():
    drawn = draw_fractions(SeedRandom(generators((0, 1))), 500, 8)
    assert all(x.shape == (2, 500, 8) for x in drawn)
    torch.testing.assert_close(drawn.width.sum(-1), torch.ones(2, 500))
    ends = drawn.width.cumsum(-1)
    torch.testing.assert_close(drawn.there, ends - drawn.width / 2)
    assert (drawn.asked.diff(dim=-1) > 0).all()
    assert drawn.asked.min() > 0 and drawn.asked.max() < 1
    # Widths are 0.1 to 1.1 over their sum: no more than 11 times apart
    ratio = drawn.width.amax(-1) / drawn.width.amin(-1)
    assert ratio.max() <= 11
    assert not torch.equal(drawn.asked, drawn.there)
    assert draw_fractions(SeedRandom(generators((0,))), 5, 0) == (None, None, None)


def test_7_10_the_loss_is_zero_only_where_every_quantile_is_the_constant_target():
    fraction, width = torch.rand(2, 5, 4), torch.full((2, 5, 3), 1 / 3)
    target = torch.full((2, 5, 3), 1.7)
    same = torch.full((2, 5, 4), 1.7)
    assert (quantile_loss(same, target, fraction, width) == 0).all()
    same[0, 2, 1] += 1e-3
    loss = quantile_loss(same, target, fraction, width)
    assert loss[0] > 0 and loss[1] == 0


def test_the_loss_by_hand():
    # One prediction 0 at fraction 0.25; targets 0.5, -2 of widths 0.75 and 0.25:
    # 0.75 * 0.25 * 0.5 * 0.25 = 0.0234375 and 0.25 * |0.25 - 1| * (2 - 0.5) = 0.28125
    z, target = torch.tensor([[[0.0]]]), torch.tensor([[[0.5, -2.0]]])
    fraction, width = torch.tensor([[[0.25]]]), torch.tensor([[[0.75, 0.25]]])
    loss = quantile_loss(z, target, fraction, width)
    torch.testing.assert_close(loss, torch.tensor([0.3046875]))
    # A mean over predictions, not a sum: twice the same prediction is the same loss
    two = quantile_loss(z.repeat(1, 1, 2), target, fraction.repeat(1, 1, 2), width)
    torch.testing.assert_close(two, loss)


def test_what_minimises_the_loss_is_the_quantile_of_the_targets():
    # Targets 0..100, far apart for the Huber part: the 0.8 quantile is 80
    target = torch.arange(101.0).view(1, 1, -1) * 10
    width, fraction = torch.full_like(target, 1 / 101), torch.tensor([[[0.8]]])
    guesses = torch.arange(700.0, 900.0, 5)
    losses = [quantile_loss(torch.tensor([[[g]]]), target, fraction, width) for g in guesses]
    assert guesses[torch.stack(losses).argmin()].item() == pytest.approx(800, abs=10)
