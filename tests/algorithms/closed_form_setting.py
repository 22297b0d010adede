"""Made-up components and critics for the closed-form step, and numerical optimisers of it."""

from types import SimpleNamespace

import numpy as np
import torch
from scipy.optimize import minimize

from rlsuite.core.closed_form import Candidates, ClosedFormPolicy, Components, ascend, candidates

LOW, HIGH = [-2.0, 0.0], [2.0, 1.0]
OBS, ACTIONS = 3, 2
MIXED = {"base": "mixture", "components": 3, "operator": "better"}


def components(seed: int, count: int, actions: int = 3, spread: float = 1.0) -> Components:
    """One state of one seed, [1, 1, count, actions], float64."""
    rng = np.random.default_rng(seed)
    log_weight = np.log(rng.dirichlet(np.full(count, 2.0)))
    mean = spread * rng.standard_normal((count, actions))
    std = np.exp(0.5 * rng.standard_normal((count, actions)))
    return Components(*(torch.from_numpy(x)[None, None] for x in (log_weight, mean, std)))


def row(values, *shape: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, *shape)


def climbed(found: Candidates, slope: torch.Tensor) -> torch.Tensor:
    """x [1, 1, N, A] of a linear Q with this slope [A]."""
    return ascend(found.mean, found.std, slope.expand_as(found.mean), found.square)


def chosen(c: Components, operator: str, log_tau: float, slope, rules="mended", xi=0.0):
    """x [A] and its candidates: what a linear Q with this slope makes of an operator."""
    found = candidates(c, operator, log_tau, xi, rules)
    x = climbed(found, slope)
    q = (x * slope).sum(-1).masked_fill(~found.allowed, -torch.inf)
    return x[0, 0, q[0, 0].argmax()], found


def log_density(c: Components, x: np.ndarray) -> np.ndarray:
    """log lam_i N(x; mu_i, S_i) of each component."""
    log_weight, mean, std = (part[0, 0].numpy() for part in c)
    z = (x - mean) / std
    return log_weight - (0.5 * z**2 + np.log(std) + 0.5 * np.log(2 * np.pi)).sum(1)


def maximiser(slope: np.ndarray, constraint, start: np.ndarray, gradient=None) -> np.ndarray:
    """The highest point of slope^T x where constraint(x) >= 0, by SLSQP."""
    found = minimize(
        lambda x: -(slope @ x), start, jac=lambda x: -slope, method="SLSQP",
        constraints={"type": "ineq", "fun": constraint, "jac": gradient},
        options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    return found.x


def policy_of(seeds=(0, 1), dtype=torch.float64, **changes) -> ClosedFormPolicy:
    spec = {"hidden": (8, 6), "critic_hidden": (8, 6, 5), "distributional": False} | MIXED | changes
    rngs = [np.random.default_rng(seed) for seed in seeds]
    policy = ClosedFormPolicy(OBS, LOW, HIGH, rngs=rngs, **spec).to(dtype)
    policy.normalizer.fit(np.full(OBS, 0.5), np.full(OBS, 2.0))
    return policy


class LinearCritics:
    """Two critics Q(s, a) = w^T a + constant, [S, 2, B]; `theta` is not looked at."""

    def __init__(self, *slopes: list[float], constants=(0.0, 0.0)) -> None:
        self.slopes = torch.tensor(slopes, dtype=torch.float64)
        self.constants = torch.tensor(constants, dtype=torch.float64)

    def values(self, theta, obs, action):
        q = action.double() @ self.slopes.mT + self.constants
        return q.movedim(-1, 1)


def with_critics(policy: ClosedFormPolicy, critics) -> ClosedFormPolicy:
    policy.critics = critics
    return policy


def inputs(policy: ClosedFormPolicy, rows: int = 7) -> SimpleNamespace:
    rng = np.random.default_rng(5)
    seeds = len(policy.theta)
    obs = torch.from_numpy(rng.standard_normal((seeds, rows, OBS))).to(policy.theta.dtype)
    behaviour, critic = policy.parts()
    return SimpleNamespace(**locals())
