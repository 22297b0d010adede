"""Constrained Markov decision processes small enough to be solved exactly.

| symbol | shape | meaning |
|---|---|---|
| X, A, C | | numbers of states, actions, constraints |
| transition | [X, A, X] | P(x' | x, a) |
| reward | [1 + C, X, A] | r_0, the task's, then one for each constraint |
| threshold | [C] | constraint i asks for v_i >= threshold_i; a cost is a negative reward |
| pi | [S, X, A] | a policy of each seed, rows summing to 1 |
| v | [S, 1 + C] | values from the start, times 1 - discount |
| q | [S, 1 + C, X, A] | action values, times 1 - discount |

Times 1 - discount, a value is a mean per step, whatever the discount: so are thresholds here.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class TabularCMDP(NamedTuple):
    """A finite process with a start state distribution [X], float64 throughout."""

    transition: Tensor
    reward: Tensor
    threshold: Tensor
    start: Tensor
    discount: float


def two_state(discount: float = 0.9) -> TabularCMDP:
    """The paradoxical task: in state L one is paid for staying, in R the constraint is.

    States L (the start) and R, actions `stay` and `go` to the other one. r_0 = 1 for staying in L;
    u = 1 for going to R and for staying there; u of at least one half is asked for. The optimum has
    r_0 = u = 1/2 and is stochastic: no fixed multiplier leads to it.
    """
    stay, go = 0, 1
    transition, reward = _zeros(2, 2, 2), _zeros(2, 2, 2)
    for state in (0, 1):
        transition[state, stay, state] = transition[state, go, 1 - state] = 1
    reward[0, 0, stay] = 1
    reward[1, 0, go] = reward[1, 1, stay] = 1
    return _cmdp(transition, reward, [0.5], 0, discount)


GRID = (5, 7)  # rows, columns
GRID_START, GRID_GOAL, GRID_COSTLY = (2, 0), (2, 6), ((2, 2), (2, 3), (2, 4))
SLIP = 0.05  # probability of each direction besides what is left for the intended one
GRID_LIMIT = 0.3  # discounted cost of an episode


def grid(discount: float = 0.95) -> TabularCMDP:
    """A 5 x 7 grid whose straight way to the goal costs, with a limit that forces a detour.

    Actions up, down, left, right; a move slips in each direction with probability 0.05, walls
    block. -1 per step until the absorbing goal; cost 1 in three cells of the middle row, discounted
    cost at most 0.3.
    """
    rows, columns = GRID
    moves = ((-1, 0), (1, 0), (0, -1), (0, 1))
    index = {(i, j): i * columns + j for i in range(rows) for j in range(columns)}
    transition, reward = _zeros(35, 4, 35), _zeros(2, 35, 4)
    for (i, j), x in index.items():
        if (i, j) == GRID_GOAL:
            transition[x, :, x] = 1
            continue
        reward[0, x], reward[1, x] = -1, -float((i, j) in GRID_COSTLY)
        for action in range(4):
            for direction, (di, dj) in enumerate(moves):
                share = SLIP + (1 - 4 * SLIP) * (direction == action)
                transition[x, action, index.get((i + di, j + dj), x)] += share
    threshold = -GRID_LIMIT * (1 - discount)
    return _cmdp(transition, reward, [threshold], index[GRID_START], discount)


def _cmdp(
    transition: Tensor, reward: Tensor, threshold: list[float], start: int, discount: float
) -> TabularCMDP:
    first = _zeros(len(transition))
    first[start] = 1
    limits = torch.tensor(threshold, dtype=torch.float64)
    return TabularCMDP(transition, reward, limits, first, discount)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def evaluate(cmdp: TabularCMDP, pi: Tensor) -> tuple[Tensor, Tensor]:
    """(v, q) of each seed's policy, solved exactly."""
    step = torch.einsum("sxa,xay->sxy", pi, cmdp.transition)
    paid = torch.einsum("sxa,kxa->sxk", pi, cmdp.reward)
    eye = torch.eye(len(cmdp.start), dtype=torch.float64)
    # V = r_pi + discount P_pi V
    value = torch.linalg.solve(eye - cmdp.discount * step, paid)
    ahead = torch.einsum("xay,syk->skxa", cmdp.transition, value)
    q = cmdp.reward + cmdp.discount * ahead
    scale = 1 - cmdp.discount
    return scale * torch.einsum("x,sxk->sk", cmdp.start, value), scale * q


def optimum(cmdp: TabularCMDP) -> tuple[float, Tensor, Tensor]:
    """Best v_0 under the constraints, their multipliers [C], and an optimal policy [X, A].

    A linear program over the discounted occupancy measure d(x, a), which sums to 1.
    """
    from scipy.optimize import linprog

    states, actions, _ = cmdp.transition.shape
    # sum_a d(y, a) - discount sum_xa P(y | x, a) d(x, a) = (1 - discount) start(y)
    leaves = torch.eye(states, dtype=torch.float64).repeat_interleave(actions, 1)
    enters = cmdp.transition.reshape(states * actions, states).T
    found = linprog(
        (-cmdp.reward[0].flatten()).numpy(),
        A_ub=(-cmdp.reward[1:].flatten(1)).numpy(),
        b_ub=(-cmdp.threshold).numpy(),
        A_eq=(leaves - cmdp.discount * enters).numpy(),
        b_eq=((1 - cmdp.discount) * cmdp.start).numpy(),
    )
    if not found.success:
        raise ValueError(
            f"no policy meets the thresholds {cmdp.threshold.tolist()}: {found.message}"
        )
    occupancy = torch.from_numpy(found.x).view(states, actions)
    visits = occupancy.sum(1, keepdim=True)
    pi = torch.where(visits > 0, occupancy / visits.clamp(min=1e-300), 1 / actions)
    multipliers = torch.from_numpy(-found.ineqlin.marginals)
    return -float(found.fun), multipliers, pi
