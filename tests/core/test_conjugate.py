"""Conjugate gradients against a hand-worked system and dense solves, slot by slot."""

import numpy as np
import torch
from torch import Tensor

from rlsuite.core.conjugate import conjugate_gradients


class Systems:
    """S symmetric positive definite matrices; counts products, and sees only whole batches."""

    def __init__(self, matrices: Tensor) -> None:
        self.matrices, self.products = matrices, 0

    def __call__(self, p: Tensor) -> Tensor:
        self.products += 1
        return (self.matrices * p[:, None]).sum(2)  # the same bits whatever S is


def random_systems(seeds, eigenvalues) -> tuple[Systems, Tensor]:
    """Q diag(eigenvalues) Q^T with Q orthogonal, and a right-hand side, per seed."""
    matrices, sides = [], []
    for seed in seeds:
        rng, n = np.random.default_rng(seed), len(eigenvalues)
        q, _ = np.linalg.qr(rng.standard_normal((n, n)))
        matrices.append(q * np.array(eigenvalues) @ q.T)
        sides.append(rng.standard_normal(n))
    return Systems(torch.from_numpy(np.stack(matrices))), torch.from_numpy(np.stack(sides))


def test_two_steps_by_hand():
    # A = [[4, 1], [1, 3]], b = (1, 2). p = r = b: A p = (6, 7), alpha = 5/(1*6 + 2*7) = 1/4,
    # so x = (1/4, 1/2) after one step; r = (1 - 6/4, 2 - 7/4) = (-1/2, 1/4).
    # beta = (5/16)/5 = 1/16: p = (-7/16, 3/8). A p = (-11/8, 11/16),
    # alpha = (5/16)/(77/128 + 33/128) = 4/11: x = (1/4 - 7/44, 1/2 + 3/22) = (1/11, 7/11).
    systems = Systems(torch.tensor([[[4.0, 1.0], [1.0, 3.0]]]))
    b = torch.tensor([[1.0, 2.0]])
    assert conjugate_gradients(systems, b, 1).tolist() == [[0.25, 0.5]]
    x = conjugate_gradients(systems, b, 2)
    torch.testing.assert_close(x, torch.tensor([[1 / 11, 7 / 11]]))
    assert b.tolist() == [[1.0, 2.0]]


def test_invariant_03_n_iterations_solve_n_equations():
    systems, b = random_systems(range(4), np.linspace(1, 10, 8))
    x = conjugate_gradients(systems, b, 8, tolerance=0.0)
    assert (systems(x) - b).abs().max() < 1e-8
    torch.testing.assert_close(x, torch.linalg.solve(systems.matrices, b), rtol=1e-8, atol=1e-8)
    # ... and not sooner, with eight different eigenvalues
    sooner = conjugate_gradients(systems, b, 7, tolerance=0.0)
    assert ((systems(sooner) - b).norm(dim=1) > 1e-4).all()


def test_as_many_iterations_as_different_eigenvalues():
    systems, b = random_systems(range(4), [1, 1, 1, 4, 4, 9, 9, 9])
    x = conjugate_gradients(systems, b, 3)
    torch.testing.assert_close(x, torch.linalg.solve(systems.matrices, b), rtol=1e-8, atol=1e-8)
    systems.products = 0
    conjugate_gradients(systems, b, 100)
    assert systems.products == 3  # none is spent on what is solved


def test_the_tolerance_is_on_the_squared_residual():
    # A = 2 I: solved in one step, x = b/2, unless |b|^2 is below 1e-4 from the start. 0.25 of it:
    # b = (0.005, 0); 4 of it: b = (0.02, 0)
    systems = Systems(2 * torch.eye(2).expand(2, 2, 2))
    b = torch.tensor([[0.005, 0.0], [0.02, 0.0]])
    x = conjugate_gradients(systems, b, 10, tolerance=1e-4)
    torch.testing.assert_close(x, torch.tensor([[0.0, 0.0], [0.01, 0.0]]))
    assert systems.products == 1
    # The default is 1e-10: 0.81 and 1.21 of it
    b = torch.tensor([[0.9e-5, 0.0], [1.1e-5, 0.0]])
    x = conjugate_gradients(systems, b, 10)
    torch.testing.assert_close(x, torch.tensor([[0.0, 0.0], [0.55e-5, 0.0]]), rtol=1e-5, atol=0)


def test_nothing_to_solve_costs_nothing():
    systems, b = random_systems(range(2), [1, 2, 3])
    assert torch.equal(conjugate_gradients(systems, 0 * b, 5), 0 * b)
    assert systems.products == 0


def test_a_slot_that_is_done_keeps_its_bits():
    # Slots 0 and 2 have one and two different eigenvalues and are done after one and two steps;
    # slot 1 goes on to its eighth
    systems, b = random_systems(range(3), np.geomspace(1, 100, 8))
    systems.matrices[0] = 3 * torch.eye(8)
    systems.matrices[2] = torch.diag(torch.tensor([1.0] * 4 + [5.0] * 4))
    after = [conjugate_gradients(systems, b, k) for k in range(1, 9)]
    for x in after[1:]:
        assert torch.equal(x[0], after[0][0])
        assert torch.equal(x[2], after[1][2])
    assert len({tuple(x[1].tolist()) for x in after}) == 8
    torch.testing.assert_close(after[0][0], b[0] / 3)


def test_a_slot_gets_the_same_bits_alone_and_in_company():
    systems, b = random_systems(range(5), np.geomspace(1, 30, 8))
    systems.matrices[1], systems.matrices[3] = 3 * torch.eye(8), float("nan")
    b[4] = 0
    for iterations in (1, 4, 8):
        together = conjugate_gradients(systems, b, iterations)
        assert together[3].isnan().all()
        for s in (0, 1, 2, 4):
            alone = conjugate_gradients(
                Systems(systems.matrices[s : s + 1]), b[s : s + 1], iterations
            )
            assert torch.equal(alone[0], together[s])
            assert alone.isfinite().all()


def test_an_infinite_side_stays_in_its_slot():
    systems, b = random_systems(range(3), [1, 2, 3, 4])
    expected = conjugate_gradients(systems, b, 4)
    b[0], b[1, 2] = float("nan"), float("inf")
    x = conjugate_gradients(systems, b, 4)
    assert torch.equal(x[2], expected[2])
    assert not x[1].isfinite().all()
