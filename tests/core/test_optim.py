"""Gradients, clipping and Adam per seed, against torch.optim and torch.nn.utils seed by seed."""

import numpy as np
import pytest
import torch
import torch._dynamo  # whole, before a test stands in for what it traces

from rlsuite.core.optim import (
    AdamState,
    Net,
    adam_step,
    clip_grad_norm,
    descend,
    gradient,
    polyak,
)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def test_gradient_by_hand():
    # loss_s = (s + 1) sum theta^2 over theta = [[1, 2], [3, 4]]: 5 and 2 * 25 = 50;
    # gradient 2 (s + 1) theta = [[2, 4], [12, 16]]
    theta = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), requires_grad=False)

    def loss(theta):
        per_seed = torch.tensor([1.0, 2.0]) * (theta * theta).sum(1)
        return per_seed, {"loss": per_seed}

    grad, metrics = gradient(loss, theta)
    assert grad.tolist() == [[2.0, 4.0], [12.0, 16.0]]
    assert metrics["loss"].tolist() == [5.0, 50.0]
    assert not metrics["loss"].requires_grad
    assert theta.grad is None
    assert not theta.requires_grad


def test_the_gradient_that_a_compiler_traces_is_the_same(monkeypatch):
    target = draw(0, 3, 7)

    def loss(theta):
        per_seed = (torch.tanh(theta) - target).square().sum(1)
        return per_seed, {"loss": per_seed}

    theta = draw(1, 3, 7)
    expected, metrics = gradient(loss, theta)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    traced, traced_metrics = gradient(loss, theta)
    torch.testing.assert_close(traced, expected, rtol=0, atol=0)
    torch.testing.assert_close(traced_metrics["loss"], metrics["loss"], rtol=0, atol=0)


def test_clipping_by_hand():
    # |(3, 4)| = 5 is scaled to 1: (0.6, 0.8). |(0.3, 0.4)| = 0.5 stays. |(0, 0)| = 0 stays.
    grad = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    clipped, norm = clip_grad_norm(grad, 1.0)
    torch.testing.assert_close(clipped[0], torch.tensor([0.6, 0.8]))
    assert torch.equal(clipped[1:], grad[1:])
    torch.testing.assert_close(norm, torch.tensor([5.0, 0.5, 0.0]))


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 100.0])
def test_clipping_equals_torch_per_seed(max_norm):
    grad = draw(2, 4, 11) * torch.tensor([[0.01], [0.3], [1.0], [50.0]])
    clipped, norm = clip_grad_norm(grad, max_norm)
    for s in range(4):
        parameter = torch.nn.Parameter(torch.zeros(11))
        parameter.grad = grad[s].clone()
        theirs = torch.nn.utils.clip_grad_norm_([parameter], max_norm)
        torch.testing.assert_close(clipped[s], parameter.grad)
        torch.testing.assert_close(norm[s], theirs)


def test_the_first_adam_step_by_hand():
    # m = 0.1 g, v = 0.001 g^2; corrected: g and g^2; theta - lr g / (|g| + eps), with g = (4, -1),
    # eps = 1: (1 - 0.1 * 4/5, 1 + 0.1 * 1/2) = (0.92, 1.05)
    theta, grad = torch.ones(1, 2), torch.tensor([[4.0, -1.0]])
    new, state = adam_step(
        theta, grad, AdamState.zeros(theta), torch.tensor(0.1), torch.ones(1), eps=1.0
    )
    torch.testing.assert_close(new, torch.tensor([[0.92, 1.05]]))
    torch.testing.assert_close(state.first, torch.tensor([[0.4, -0.1]]))
    torch.testing.assert_close(state.second, torch.tensor([[0.016, 0.001]]))
    assert state.steps.item() == 1
    assert torch.equal(theta, torch.ones(1, 2))  # pure: nothing changed in place


@pytest.mark.parametrize("eps", [1e-8, 1e-5])
def test_adam_with_a_mask_equals_torch_per_seed(eps):
    # Each seed skips its own steps; torch's Adam of that seed is simply not called there.
    seeds, size, steps = 3, 9, 40
    rng = np.random.default_rng(3)
    on = rng.random((steps, seeds)) < 0.7
    theta = draw(4, seeds, size)
    theirs = [torch.nn.Parameter(row.clone()) for row in theta]
    optimizers = [torch.optim.Adam([p], lr=1.0, eps=eps) for p in theirs]
    state = AdamState.zeros(theta)
    for step in range(steps):
        grad = draw(100 + step, seeds, size) * 10.0 ** rng.integers(-4, 2)
        lr = 0.01 * (1 - step / steps)
        active = torch.from_numpy(on[step]).float()
        theta, state = adam_step(theta, grad, state, torch.tensor(lr), active, eps=eps)
        for s in np.flatnonzero(on[step]):
            optimizers[s].param_groups[0]["lr"] = lr
            theirs[s].grad = grad[s].clone()
            optimizers[s].step()
    assert 0 < on.sum(0).min() < steps
    assert state.steps[:, 0].tolist() == on.sum(0).tolist()
    for s in range(seeds):
        torch.testing.assert_close(theta[s], theirs[s].detach(), rtol=1e-5, atol=1e-6)


def test_inactive_rows_keep_everything_bit_for_bit():
    theta, state = draw(5, 3, 8), AdamState.zeros(draw(5, 3, 8))
    lr = torch.tensor(0.1)
    theta, state = adam_step(theta, draw(6, 3, 8), state, lr, torch.ones(3))
    new, after = adam_step(theta, draw(7, 3, 8), state, lr, torch.tensor([1.0, 0.0, 1.0]))
    for before, now in zip((theta, *state), (new, *after), strict=True):
        assert torch.equal(now[1], before[1])
        for row in (0, 2):
            assert (now[row] != before[row]).all()


def test_an_infinite_gradient_does_not_reach_an_inactive_row():
    theta = draw(8, 2, 4)
    grad = torch.stack([torch.full((4,), torch.inf), torch.ones(4)])
    new, state = adam_step(
        theta, grad, AdamState.zeros(theta), torch.tensor(0.1), torch.tensor([0.0, 1.0])
    )
    assert torch.equal(new[0], theta[0])
    assert state.first[0].abs().sum() == 0
    assert torch.isfinite(new).all()


def test_a_learning_rate_per_seed():
    # The first step moves by lr, whatever the gradient (eps aside).
    theta = torch.zeros(2, 1)
    new, _ = adam_step(
        theta,
        torch.tensor([[5.0], [-7.0]]),
        AdamState.zeros(theta),
        torch.tensor([[0.1], [0.2]]),
        torch.ones(2),
    )
    torch.testing.assert_close(new, torch.tensor([[-0.1], [0.2]]))


def test_a_slot_gets_the_same_bits_alone_and_in_company():
    theta, target = draw(9, 10, 333), draw(10, 10, 333)

    def trained(rows: slice) -> torch.Tensor:
        mine, state = theta[rows], AdamState.zeros(theta[rows])

        def loss(x):
            per_seed = (x.sigmoid() - target[rows]).square().mean(1)
            return per_seed, {}

        for _ in range(5):
            grad, norm = clip_grad_norm(gradient(loss, mine)[0], 1e-3)
            assert (norm > 1e-3).all()
            mine, state = adam_step(mine, grad, state, torch.tensor(0.01), torch.ones(len(mine)))
        return mine

    together = trained(slice(0, 10))
    for s in range(10):
        assert torch.equal(trained(slice(s, s + 1))[0], together[s])


def test_the_moving_average_by_hand():
    # 1 + 0.1 (3 - 1) = 1.2 and -2 + 0.1 (0 + 2) = -1.8
    target, theta = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 0.0]])
    torch.testing.assert_close(polyak(target, theta, 0.1), torch.tensor([[1.2, -1.8]]))


def pull(theta, centre, weight):
    """A loss of two arguments besides theta: weight |theta - centre|^2 / 2."""
    loss = 0.5 * weight * (theta - centre).square().sum(1)
    return loss, {"loss": loss}


def test_descend_is_a_gradient_its_bound_and_adam():
    net, centre = Net.of(draw(8, 3, 5)), draw(9, 3, 5)
    options = {"active": torch.tensor([1.0, 0.0, 1.0]), "eps": 1e-5}
    for _ in range(2):
        grad, _ = gradient(lambda theta: pull(theta, centre, 30.0), net.theta)
        bounded, norm = clip_grad_norm(grad, 0.5)
        theta, adam = adam_step(net.theta, bounded, net.adam, 0.1, **options)
        net, metrics = descend(net, 0.1, pull, centre, 30.0, max_norm=0.5, **options)
        assert torch.equal(net.theta, theta)
        assert all(torch.equal(a, b) for a, b in zip(net.adam, adam, strict=True))
        assert torch.equal(metrics["grad_norm"], norm)
        assert metrics.keys() == {"loss", "grad_norm"}
    assert descend(net, 0.1, pull, centre, 30.0)[1].keys() == {"loss"}  # nothing bounded


def test_no_mask_is_a_mask_of_ones():
    net, centre = Net.of(draw(10, 2, 4)), draw(11, 2, 4)
    bare, masked = net, net
    for _ in range(3):
        bare, _ = descend(bare, 0.01, pull, centre, 1.0)
        masked, _ = descend(masked, torch.tensor(0.01), pull, centre, 1.0, active=torch.ones(2))
    assert torch.equal(bare.theta, masked.theta)
    assert all(torch.equal(a, b) for a, b in zip(bare.adam, masked.adam, strict=True))


def test_a_network_starts_from_a_copy():
    theta = torch.nn.Parameter(torch.ones(1, 2), requires_grad=False)
    net = Net.of(theta)
    theta.zero_()
    assert net.theta.tolist() == [[1.0, 1.0]]
    assert type(net.theta) is torch.Tensor
