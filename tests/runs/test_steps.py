"""One turn: draw, then step; and the same as one CUDA graph, where there is a device."""

import time

import pytest
import torch

from rlsuite.core.chance import Chance
from rlsuite.core.streams import Streams
from rlsuite.runs.steps import GraphTurn, HostTurn


def step(theta, noise, *, lr):
    """A made-up update: theta moves against a gradient of a noisy quadratic."""
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad():
        loss = (leaf - noise).square().sum(1)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return theta - lr * grad, loss.detach()


def test_a_turn_draws_then_steps_and_tells_the_seconds():
    def draw():
        time.sleep(0.02)
        return (torch.tensor([[1.0, 3.0]]),)

    turn = HostTurn(draw, step)
    theta, loss = turn(torch.zeros(1, 2), lr=torch.tensor(0.25))
    # gradient 2 (theta - noise) = (-2, -6), a quarter of it away: (0.5, 1.5); loss 1 + 9
    assert theta.tolist() == [[0.5, 1.5]] and loss.tolist() == [10.0]
    seconds = turn.seconds()
    assert seconds.keys() == {"data", "learning"} and seconds["data"] >= 0.02 > seconds["learning"]
    assert turn.seconds() == {"data": 0.0, "learning": 0.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graph_does_what_the_same_turns_do_one_by_one():
    found = []
    for graphed in (False, True):
        chance = Chance(Streams((0, 1, 2))["action"], "cuda")

        def draw(chance=chance):
            return (chance.normal(4),)

        turn = GraphTurn(draw, step, [chance]) if graphed else HostTurn(draw, step)
        theta = torch.zeros(3, 4, device="cuda")
        for k in range(6):
            theta, _ = turn(theta, lr=torch.tensor(0.1 / (k + 1)))
        found.append(theta.clone())
        assert turn.seconds()["learning"] > 0
    torch.testing.assert_close(*found, rtol=0, atol=0)
