"""Random numbers of the seeds as tensors, on the host; on a device where there is one."""

import numpy as np
import pytest
import torch

from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.streams import Streams

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device"))]  # fmt: skip


def chance_of(seeds, device="cpu") -> SeedRandom:
    return SeedRandom(Streams(seeds)["action"], device)


@pytest.mark.parametrize("device", DEVICES)
def test_a_seed_draws_the_same_alone_and_in_company(device):
    alone, company = chance_of((3,), device), chance_of((1, 3, 5), device)
    for draw in (lambda c: c.integers(10**6, 50), lambda c: c.normal(4, 6), lambda c: c.uniform(9)):
        mine, theirs = draw(alone), draw(company)
        assert torch.equal(mine[0], theirs[1])
        assert not torch.equal(theirs[0], theirs[1])


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_drawn(device):
    rng = chance_of((0, 1), device)
    rows, normal, uniform = rng.integers(7, 7000), rng.normal(100, 100), rng.uniform(10_000)
    assert (rows.shape, normal.shape, uniform.shape) == ((2, 7000), (2, 100, 100), (2, 10_000))
    assert rows.dtype == torch.int64 and normal.dtype == uniform.dtype == torch.float32
    counts = torch.stack([torch.bincount(row, minlength=7) for row in rows.cpu()])
    # 7000 draws of 7 numbers: 1000 each, with standard deviation sqrt(7000 / 7 * 6 / 7) = 29
    assert ((counts - 1000).abs() < 5 * 30).all()
    # Of 10,000: the mean's standard deviation is 0.01; the variance's, sqrt(2 / 10,000) = 0.014
    assert (normal.mean((1, 2)).abs() < 0.05).all() and (
        (normal.var((1, 2)) - 1).abs() < 0.07
    ).all()
    assert uniform.min() >= 0 and uniform.max() < 1
    assert ((uniform.mean(1) - 0.5).abs() < 5 * 0.0029).all()  # 1 / sqrt(12 * 10,000)


def test_on_the_host_the_streams_themselves_draw():
    streams, same = Streams((4,)), Streams((4,))
    rng = SeedRandom(streams["action"])
    drawn = rng.integers(90, 5), rng.normal(3), rng.uniform(2)
    host = same["action"][0]
    expected = (
        host.integers(90, size=5),
        host.standard_normal(3, np.float32),
        host.random(2, np.float32),
    )
    for ours, theirs in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(ours[0].numpy(), theirs)
    assert rng.state_dict() == {"generators": []}
    rng.load_state_dict({"generators": []})


@pytest.mark.parametrize("device", DEVICES[1:])
def test_a_devices_generators_go_on_from_where_they_were(device):
    rng = chance_of((0, 1), device)
    rng.normal(5)
    state = rng.state_dict()
    expected = rng.normal(5)
    rng.load_state_dict(state)
    assert torch.equal(rng.normal(5), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_a_count_that_is_a_tensor_is_read_at_every_draw(device):
    """As a captured graph needs it: the ring of a replay buffer grows after the capture."""
    rng = chance_of((0, 1), device)
    seeds = (7, 8)
    rng.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    count = torch.zeros((), dtype=torch.int64, device=device)
    for number in (1, 7):
        count.fill_(number)
        rows = rng.integers(count, 7000)
        assert rows.dtype == torch.int64 and rows.shape == (2, 7000)
        assert rows.min() == 0 and rows.max() == number - 1
    # 7000 draws of 7 numbers: 1000 each, with standard deviation sqrt(7000 / 7 * 6 / 7) = 29
    counts = torch.stack([torch.bincount(row, minlength=7) for row in rows.cpu()])
    assert ((counts - 1000).abs() < 5 * 30).all()
    assert not torch.equal(rows[0], rows[1])
