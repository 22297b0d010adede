"""Logged data, batches and runs in memory, and one seed's networks as torch.nn has them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from rlsuite.core.actors import BoundedActor
from rlsuite.core.buffers import TransitionBatch
from rlsuite.core.layers import Layout
from rlsuite.core.optim import Net
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.squashed import SquashedActor
from rlsuite.core.streams import Streams
from rlsuite.datasets.transitions import Transitions
from rlsuite.envs import make
from rlsuite.runs import machine
from rlsuite.runs.stages import Plan
from rlsuite.runs.steps import EagerStep
from rlsuite.runs.stored import StoredRun

OBS, ACTIONS = 3, 2
LOW, HIGH = [-2.0, 0.0], [2.0, 1.0]  # centre (0, 1/2), half widths (2, 1/2)


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def logged(
    lengths: list[int],
    rewards: list[float] | None = None,
    obs_size: int = OBS,
    box: tuple[list[float], list[float]] = (LOW, HIGH),
    **changes,
) -> Transitions:
    """Made-up episodes of these lengths: every second one terminated, the others truncated."""
    count, last = sum(lengths), np.zeros(sum(lengths), bool)
    last[np.cumsum(lengths) - 1] = True
    terminated = last & (np.cumsum(last) % 2 == 0)
    rng = np.random.default_rng(count)
    fields = {
        "obs": 5 + 3 * rng.standard_normal((count, obs_size)),
        "action": rng.uniform(*box, (count, len(box[0]))),
        "reward": rng.standard_normal(count) if rewards is None else np.array(rewards),
        "next_obs": 5 + 3 * rng.standard_normal((count, obs_size)),
    }
    fields = {name: x.astype(np.float32) for name, x in fields.items()}
    about = {"name": "made up", "sha256": "5e7", "action_low": box[0], "action_high": box[1]}
    ends = {"terminated": terminated, "truncated": last & ~terminated, "last": last}
    return Transitions(**fields | ends | {"metadata": about} | changes)


def batch_of(seeds, rows: int, dtype: torch.dtype = torch.float32) -> TransitionBatch:
    """`rows` made-up transitions of each seed, standardised, the same alone and in company."""
    parts = []
    for seed in seeds:
        rng = np.random.default_rng(100 + seed)
        obs, next_obs = rng.standard_normal((2, rows, OBS))
        action, ended = rng.uniform(LOW, HIGH, (rows, ACTIONS)), rng.random(rows) < 0.2
        parts.append((obs, action, rng.standard_normal(rows), next_obs, ended))
    columns = (np.stack(column) for column in zip(*parts, strict=True))
    return TransitionBatch(*(torch.from_numpy(x).to(dtype) for x in columns))


def normals(seeds, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal [S, *shape], the same alone and in company."""
    return torch.stack([draw(200 + seed, *shape) for seed in seeds]).to(dtype)


def thetas(state) -> list[Tensor]:
    """The parameters of a state: of its networks in training, and its targets."""
    return [x.theta if isinstance(x, Net) else x for x in state]


def tensors(state) -> list[Tensor]:
    """All tensors of nested tuples."""
    return [state] if isinstance(state, Tensor) else [x for part in state for x in tensors(part)]


@contextmanager
def as_in_a_run(width: int = 32) -> Iterator[None]:
    """PyTorch computes as in a run with hidden layers of `width`: on one thread."""
    before, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    machine.choose_products(SimpleNamespace(widths=(width, width), rows=256))
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(before)


class MemoryRun:
    """A run for `train`: its data are in memory, nothing is compiled, evaluated or saved.

    `states` holds a copy of the learner from before the first iteration and from after each one.
    """

    def __init__(
        self, data: Transitions, seeds=(0, 1), folder: Path | None = None, task: str = ""
    ) -> None:
        self._data, self.seeds, self.folder, self.task = data, seeds, folder, task
        self.streams, self.at_boundary = Streams(seeds), True
        self.states, self.rows, self.said = [], [], []

    def say(self, text: str) -> None:
        self.said.append(text)

    def data(self) -> Transitions:
        return self._data

    def environments(self, num_envs: int):
        return make(self.task, self.seeds, num_envs, "gymnasium")

    device = "cpu"

    def random(self, purpose: str) -> SeedRandom:
        return SeedRandom(self.streams[purpose])

    def update(self, function, draw=None, _gradient_steps=None) -> EagerStep:
        return EagerStep(function, draw)

    save_artifact, artifact = StoredRun.save_artifact, StoredRun.artifact
    _artifact_of, _writing = StoredRun._artifact_of, StoredRun._writing

    @property
    def manifest(self) -> dict:
        return {"data": self._data.metadata}

    def begin(self, learner, *, train, prepare=None, policies=None) -> None:
        self.policies = policies
        self._learner, self._plan = learner, Plan(prepare or {}, train)
        self.states = [copy.deepcopy(learner)]

    def stage(self, name: str) -> Iterator[int]:
        self.at_boundary = True
        for k in range(self._plan.stages[name].iterations):
            yield k
            self.at_boundary = False
            self.states.append(copy.deepcopy(self._learner))

    def log(self, metrics: dict[str, Tensor], _measured: dict[str, float] | None = None) -> None:
        self.rows.append(metrics)


# ------------------------------------------------------------------- one seed, in plain PyTorch


class Dropped(nn.Module):
    """Dropout whose mask is given."""

    mask = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


def plain_mlp(layout: Layout, theta: Tensor, name: str) -> nn.Sequential:
    """Linear, dropout, ReLU, ..., Linear with the parameters `name` of one seed's theta [P]."""
    views, layers = layout.views(theta[None]), []
    while f"{name}.{len(layers)}.weight" in views:
        weight, bias = (views[f"{name}.{len(layers)}.{kind}"][0] for kind in ("weight", "bias"))
        layers.append(nn.Linear(*reversed(weight.shape), dtype=weight.dtype))
        layers[-1].weight.data.copy_(weight)
        layers[-1].bias.data.copy_(bias[0])
    between = [part for layer in layers[:-1] for part in (layer, Dropped(), nn.ReLU())]
    return nn.Sequential(*between, layers[-1])


class PlainActor(nn.Module):
    """A deterministic policy; with `log_std` a Gaussian's mean."""

    def __init__(self, policy: BoundedActor, theta: Tensor) -> None:
        super().__init__()
        self.net = plain_mlp(policy.layout, theta, "actor")
        self.centre, self.half_width = policy.centre, policy.half_width
        if policy.stochastic:
            self.log_std = nn.Parameter(policy.layout.views(theta[None])["log_std"][0, 0].clone())

    def forward(self, obs: Tensor, masks=()) -> Tensor:
        """`masks` [B, H] of the hidden layers' dropout, none if not given."""
        drops = [part for part in self.net if isinstance(part, Dropped)]
        for drop, mask in zip(drops, masks or [1.0] * len(drops), strict=True):
            drop.mask = mask
        return self.centre + self.half_width * torch.tanh(self.net(obs))


class PlainPolicy(nn.Module):
    """AWAC's Gaussian and MCEP's tanh-Gaussian policy; actions in half widths of the box."""

    def __init__(self, policy, theta: Tensor) -> None:
        super().__init__()
        self.net = plain_mlp(policy.layout, theta, "actor")
        self.centre, self.half_width = policy.centre, policy.half_width
        self.squashed = isinstance(policy, SquashedActor)
        if not self.squashed:
            self.log_std = nn.Parameter(policy.layout.views(theta[None])["log_std"][0, 0])

    def forward(self, obs: Tensor) -> Distribution:
        if self.squashed:
            mean, log_std = self.net(obs).chunk(2, 1)
            std = log_std.clamp(-20, 2).exp()
            return TransformedDistribution(Normal(mean, std), [TanhTransform()])
        return Normal(self.net(obs), self.log_std.clamp(-20, 2).exp())

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        pi = self(obs)
        base = pi.base_dist if self.squashed else pi
        raw = base.mean + base.stddev * noise
        raw = torch.tanh(raw) if self.squashed else raw.clamp(-1, 1)
        return self.centre + self.half_width * raw

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return self(obs).log_prob((action - self.centre) / self.half_width).sum(1)


class PlainCritics(nn.Module):
    """Two critics."""

    def __init__(self, layout: Layout, theta: Tensor) -> None:
        super().__init__()
        self.nets = nn.ModuleList(plain_mlp(layout, part, "q") for part in theta.chunk(2))

    def forward(self, obs: Tensor, action: Tensor) -> list[Tensor]:
        return [net(torch.cat([obs, action], 1))[:, 0] for net in self.nets]


def flat(module: nn.Module) -> Tensor:
    """Parameters in the order of theta's columns; a log_std is last."""
    named = sorted(module.named_parameters(), key=lambda item: item[0] == "log_std")
    return torch.cat([value.detach().flatten() for _, value in named])


def follow(target: nn.Module, network: nn.Module, rate: float) -> None:
    """target <- (1 - rate) target + rate network."""
    with torch.no_grad():
        for old, new in zip(target.parameters(), network.parameters(), strict=True):
            old.copy_((1 - rate) * old + rate * new)
