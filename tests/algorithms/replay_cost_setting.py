"""States, batches and simple parts of what learns from replay with costs: SAC-Lagrangian, CAL."""

from collections import namedtuple
from types import SimpleNamespace

import torch
from off_policy_setting import ACTIONS, HIGH, LOW, OBS, transitions
from offline_setting import draw, normals
from torch import Tensor

from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.critics import Critics
from rlsuite.core.optim import Net
from rlsuite.core.squashed import SquashedActor
from rlsuite.core.streams import Streams

Rows = namedtuple("Rows", (*TransitionBatch._fields, "cost"))


def with_costs(batch: TransitionBatch, seeds, costs: int = 1) -> Rows:
    """`batch` whose rows cost 0 or 1, for each of so many constraints."""
    rows = batch.reward.shape[1]
    paid = torch.stack([draw(300 + seed, rows, costs) > 0.5 for seed in seeds])
    return Rows(*batch, paid.to(batch.reward.dtype))


def setting(module, seeds=(0, 1), rows=32, dtype=torch.float64, costs=1, **changes):
    """A state whose targets are not copies, one cycle's transitions and noise of every seed."""
    config = module.Config(**{"batch_size": rows, "hidden": (16, 8), **changes})
    rngs = Streams(seeds)["init"]
    policy = SquashedActor(OBS, LOW, HIGH, rngs=rngs, hidden=config.hidden).to(dtype)
    critics = Critics(OBS, ACTIONS, config.hidden)
    limit = torch.full((costs,), 0.4, dtype=dtype)
    nets = module.Networks(policy, critics, critics, limit)
    state = module.initial_state(config, nets, rngs)
    moved = {
        name: theta + 0.05 * normals(seeds, theta.shape[1], dtype=dtype)
        for name, theta in state._asdict().items()
        if name in ("critic_target", "cost_target")
    }
    state = state._replace(**moved)
    delay = getattr(config, "policy_delay", 0) or config.target_period
    batch = with_costs(transitions(seeds, rows * delay, dtype), seeds, costs)
    noise = normals(seeds, 2 * delay, rows, ACTIONS, dtype=dtype)
    return SimpleNamespace(**locals())


class Fixed:
    """A policy that draws y = 0.5 with log-densities of -3 and has the mode -0.5; cost critics."""

    def __init__(self, *values: float) -> None:
        self.values_of_all = torch.tensor(values)

    def distribution(self, _theta: Tensor, _obs: Tensor) -> "Fixed":
        return self

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(noise, 0.5), torch.full(noise.shape[:2], -3.0)

    def mode(self) -> Tensor:
        return torch.full((1, 3, 1), -0.5)

    def values(self, _theta: Tensor, _obs: Tensor, action: Tensor) -> Tensor:
        """The given values, twice the action of each row times them."""
        return 2 * action[..., 0][:, None] * self.values_of_all[:, None]


def one_number(theta: float) -> Net:
    return Net.of(torch.tensor([[theta]]))
