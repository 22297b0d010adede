"""One step of an update, where its time goes; and the same as one CUDA graph, if there is one."""

import time

import pytest
import torch

from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.streams import Streams
from rlsuite.runs.steps import Clock, CudaGraphStep, EagerStep


def step(theta, noise, *, lr):
    """A made-up update: theta moves against a gradient of a noisy quadratic."""
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad():
        loss = (leaf - noise).square().sum(1)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return theta - lr * grad, loss.detach()


def slow_draw():
    time.sleep(0.02)
    return (torch.tensor([[1.0, 3.0]]),)


def test_a_step_draws_then_computes():
    update = EagerStep(step, slow_draw)
    theta, loss = update(torch.zeros(1, 2), lr=torch.tensor(0.25))
    # gradient 2 (theta - noise) = (-2, -6), a quarter of it away: (0.5, 1.5); loss 1 + 9
    assert theta.tolist() == [[0.5, 1.5]] and loss.tolist() == [10.0]
    assert update.drawing >= 0.02


def test_a_step_that_draws_nothing_takes_all_it_is_given():
    update = EagerStep(step)
    theta, _ = update(torch.zeros(1, 2), *slow_draw(), lr=torch.tensor(0.25))
    assert theta.tolist() == [[0.5, 1.5]] and update.drawing == 0


def test_what_is_neither_measured_nor_drawn_is_learning_and_all_adds_up(monkeypatch):
    clock, now = Clock(), [100.0]
    monkeypatch.setattr("rlsuite.runs.steps.perf_counter", lambda: now[0])
    update = EagerStep(lambda x: now.__setitem__(0, now[0] + 3), lambda: draw())
    clock.updates.append(update)

    def draw():
        now[0] += 2
        return (0,)

    clock.start()
    now[0] += 10  # of which physics takes 4 and inference 1: 5 are shuffling and its like
    update()  # draws for 2, computes for 3
    assert clock.split({"physics": 4.0, "inference": 1.0}) == {
        **{"physics": 4.0, "inference": 1.0, "data": 2.0, "learning": 8.0}
    }
    clock.stop()
    now[0] += 50  # evaluation: belongs to no iteration
    clock.start()
    now[0] += 1
    clock.stop()  # an iteration that logs nothing counts in the next row
    clock.start()
    now[0] += 2
    assert clock.split({}) == {"learning": 3.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graph_does_what_the_same_steps_do_one_by_one():
    found = []
    for graphed in (False, True):
        rng = SeedRandom(Streams((0, 1, 2))["action"], "cuda")

        def draw(rng=rng):
            return (rng.normal(4),)

        update = CudaGraphStep(step, draw, [rng]) if graphed else EagerStep(step, draw)
        theta = torch.zeros(3, 4, device="cuda")
        for k in range(6):
            theta, _ = update(theta, lr=torch.tensor(0.1 / (k + 1)))
        found.append(theta.clone())
    torch.testing.assert_close(*found, rtol=0, atol=0)
