"""Two small constrained processes: values by hand and by simulation, optima by linear programs."""

import math

import pytest
import torch

from rlsuite.envs.constrained.tabular import evaluate, grid, optimum, two_state


def policy(stay_left: float, stay_right: float) -> torch.Tensor:
    rows = [[stay_left, 1 - stay_left], [stay_right, 1 - stay_right]]
    return torch.tensor([rows], dtype=torch.float64)


def test_values_of_deterministic_policies_by_hand() -> None:
    # always stay in L: r_0 = 1 at every step, u = 0
    v, _ = evaluate(two_state(), policy(1, 0))
    torch.testing.assert_close(v[0], torch.tensor([1.0, 0.0], dtype=torch.float64))
    # go, then stay in R: u = 1 at every step
    v, q = evaluate(two_state(), policy(0, 1))
    torch.testing.assert_close(v[0], torch.tensor([0.0, 1.0], dtype=torch.float64))
    # q_0(L, stay): 1 now, nothing later: (1 - 0.9) * 1 = 0.1; q_u(L, stay): 0.9 of what follows
    assert q[0, 0, 0, 0].item() == pytest.approx(0.1)
    assert q[0, 1, 0, 0].item() == pytest.approx(0.9)


def test_the_stochastic_optimum_of_the_paradox() -> None:
    # Staying in L with p: v_0 = p (1 - g) / (1 - g p), which is 1/2 at p = 0.5 / (1 - 0.5 g)
    p = 0.5 / (1 - 0.5 * 0.9)
    assert p == pytest.approx(0.9091, abs=1e-4)
    v, _ = evaluate(two_state(), policy(p, 1))
    torch.testing.assert_close(v[0], torch.tensor([0.5, 0.5], dtype=torch.float64))
    best, multiplier, _ = optimum(two_state())
    assert best == pytest.approx(0.5) and multiplier.tolist() == pytest.approx([1.0])


def test_the_grid_has_the_known_optimum_and_randomises_in_one_state() -> None:
    task = grid()
    best, multiplier, pi = optimum(task)
    scale = 1 - task.discount
    assert best / scale == pytest.approx(-7.848, abs=5e-4)
    assert multiplier.item() == pytest.approx(0.962, abs=5e-4)
    v, _ = evaluate(task, pi[None])
    assert (v[0] / scale).tolist() == pytest.approx([-7.848, -0.3], abs=5e-4)
    visited = evaluate_visits(task, pi) > 1e-9
    mixed = ((pi > 1e-6) & (pi < 1 - 1e-6)).any(1) & visited
    assert mixed.sum() == 1


def evaluate_visits(task, pi: torch.Tensor) -> torch.Tensor:
    step = torch.einsum("xa,xay->xy", pi, task.transition)
    eye = torch.eye(len(pi), dtype=torch.float64)
    return torch.linalg.solve((eye - task.discount * step).T, task.start)


@pytest.mark.parametrize("task", [two_state(), grid()])
def test_rows_are_probabilities_and_seeds_are_evaluated_alone(task) -> None:
    torch.testing.assert_close(task.transition.sum(-1), torch.ones_like(task.reward[0]))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, *task.reward.shape[1:], generator=generator, dtype=torch.float64)
    v, q = evaluate(task, logits.softmax(-1))
    alone, alone_q = evaluate(task, logits[1:2].softmax(-1))
    torch.testing.assert_close(v[1], alone[0])
    torch.testing.assert_close(q[1], alone_q[0])


def test_values_are_those_of_a_long_simulation_of_the_chain() -> None:
    task, pi = grid(), torch.full((1, 35, 4), 0.25, dtype=torch.float64)
    v, _ = evaluate(task, pi)
    at, total = task.start.clone(), torch.zeros(2, dtype=torch.float64)
    step = torch.einsum("xa,xay->xy", pi[0], task.transition)
    paid = torch.einsum("xa,kxa->xk", pi[0], task.reward)
    for t in range(600):  # 0.95^600 = 4e-14
        total += task.discount**t * at @ paid
        at = at @ step
    torch.testing.assert_close(v[0] / (1 - task.discount), total)
    assert math.isclose(at.sum().item(), 1)


def test_thresholds_that_no_policy_meets_are_refused() -> None:
    task = two_state()._replace(threshold=torch.tensor([1.5], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"no policy meets the thresholds \[1.5\]"):
        optimum(task)
