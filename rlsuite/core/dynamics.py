"""Ensembles of Gaussian models of a task's dynamics: (s, a) -> s' - s and r.

| symbol | shape | meaning |
|---|---|---|
| theta | [D, M P] | M members of each of D ensembles, P columns each |
| mean, log_std | [D, M, B, O + 1] | of the change of the observation, and the reward last |
| left, right | [D, M, 1, O + 1 or H] | unit vectors of the mean head's largest gain |
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, silu, softplus

from rlsuite.core.actors import dense, initial
from rlsuite.core.buffers import ReplayBuffer
from rlsuite.core.layers import Layout, linear, mlp_shapes
from rlsuite.core.network_files import load_network, save_network
from rlsuite.core.optim import AdamState, Metrics, Net, descend
from rlsuite.core.ranges import require_positive, require_whole
from rlsuite.core.seed_random import SeedRandom
from rlsuite.core.streams import Streams

DYNAMICS_FILE = "dynamics.safetensors"  # in a run's folder, once the models are fitted

HIGHEST, LOWEST = 2.0, -10.0  # where the learned bounds of log sigma start
MODEL_SEED = 0  # of the models' own streams: all runs on a data set fit the same ones
BOUNDS_WEIGHT = 0.01  # of their distance in the loss
WEIGHT_DECAY = 2.5e-5  # of Adam; d3rlpy's


def require_models(config) -> None:
    """What the settings of the models keep to."""
    require_whole(config, "model_batch_size", "model_hidden", "members")
    require_positive(config, "model_lr", "clip_states")
    if not (config.dynamics or config.model_steps):
        raise ValueError("model_steps is 0; name a run that has fitted some: --dynamics FOLDER")


class Fit(NamedTuple):
    """Models in training."""

    net: Net
    left: Tensor
    right: Tensor


class Draw(NamedTuple):
    """Whose prediction is taken of each row, and where in its Gaussian, and in a policy's."""

    member: Tensor  # [D, B], whole numbers below M
    noise: Tensor  # [D, B, O + 1], standard normal
    action: Tensor  # [D, B, A], standard normal


class Ensemble:
    """M networks with swish; parameters [D, M P] live with the caller."""

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        hidden: Sequence[int],
        members: int,
        bound: float | None = None,
    ) -> None:
        """What they predict as an observation lies within +- `bound`, if that is given."""
        self.obs_size, self.action_size = obs_size, action_size
        self.depth, self.members, self.bound = len(hidden), members, bound
        shapes, width, out = {}, hidden[-1], obs_size + 1
        shapes |= mlp_shapes("model", (obs_size + action_size, *hidden))
        for head in ("mean", "log_std"):
            shapes |= {f"{head}.weight": (out, width), f"{head}.bias": (1, out)}
        self.layout = Layout(shapes | {"highest": (1, out), "lowest": (1, out)})
        each = [(i, name, shape) for i in range(members) for name, shape in shapes_of(self.layout)]
        self.whole = Layout({f"member.{i}.{name}": shape for i, name, shape in each})

    def initial(self, rngs: Sequence[np.random.Generator]) -> Fit:
        """Fresh models, one ensemble for each generator."""
        theta = initial(self.layout, [rng for rng in rngs for _ in range(self.members)])
        views = self.layout.views(theta)
        views["highest"].fill_(HIGHEST)
        views["lowest"].fill_(LOWEST)
        shape = (self.members, 1, self.obs_size + 1)
        left = np.stack([rng.standard_normal(shape) for rng in rngs])
        theta, left = theta.view(len(rngs), -1), normalize(torch.from_numpy(left).float(), dim=-1)
        return Fit(Net.of(theta), *self.turned(theta, left))

    def weights(self, theta: Tensor, norm: tuple[Tensor, Tensor] | None = None) -> dict:
        """Layers of all members, [D M, ...]; with `norm`, left and right, the mean head over that.

        The gradient goes through the norm, but not through the two vectors, as in PyTorch.
        """
        weights = dense(self.layout, theta.reshape(-1, self.layout.size))
        if norm is not None:
            left, right = (x.flatten(0, 1) for x in norm)
            head = weights["mean.weight"]
            weights["mean.weight"] = head / (left @ head @ right.mT)
        return weights

    def turned(self, theta: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """(left, right) after one step of power iteration."""
        head = self.weights(theta)["mean.weight"]
        right = normalize(left.flatten(0, 1) @ head, dim=-1)
        left = normalize(right @ head.mT, dim=-1)
        count = (-1, self.members)
        return left.unflatten(0, count), right.unflatten(0, count)

    def statistics(
        self, theta: Tensor, obs: Tensor, action: Tensor, norm: tuple | None = None
    ) -> tuple[Tensor, Tensor]:
        """mean and log_std at [D, B, O], [D, B, A]."""
        weights, count = self.weights(theta, norm), len(obs)
        x = torch.cat((obs, action), -1)[:, None].expand(-1, self.members, -1, -1)
        x = x.reshape(count * self.members, *x.shape[2:])
        for i in range(self.depth):
            x = silu(linear(x, weights[f"model.{i}.weight"], weights[f"model.{i}.bias"]))
        mean, log_std = (
            linear(x, weights[f"{head}.weight"], weights[f"{head}.bias"])
            for head in ("mean", "log_std")
        )
        log_std = weights["highest"] - softplus(weights["highest"] - log_std)
        log_std = weights["lowest"] + softplus(log_std - weights["lowest"])
        split = (count, self.members)
        return mean.unflatten(0, split), log_std.unflatten(0, split)

    def draw(self, rng: SeedRandom, rows: int) -> Draw:
        """What one prediction of `rows` rows takes."""
        members = rng.integers(self.members, rows)
        sizes = (self.obs_size + 1, self.action_size)
        return Draw(members, *(rng.normal(rows, size) for size in sizes))

    def predict(
        self, theta: Tensor, obs: Tensor, action: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """(next observation [D, B, O], reward [D, B]) that one member draws for each row."""
        mean, log_std = self.statistics(theta, obs, action)
        index = draw.member[:, None, :, None].expand(-1, 1, -1, mean.shape[-1])
        mean, log_std = (x.gather(1, index)[:, 0] for x in (mean, log_std))
        sample = mean + log_std.exp() * draw.noise
        there = obs + sample[..., :-1]
        if self.bound is not None:
            there = there.clamp(-self.bound, self.bound)
        return there, sample[..., -1]


def shapes_of(layout: Layout) -> list[tuple[str, tuple[int, ...]]]:
    return list(layout.shapes.items())


def model_error(error: Tensor, log_std: Tensor, inverse_std: bool) -> Tensor:
    """Per row [..., B], of errors and log sigma [..., B, O + 1].

    -log of the density, less a constant. `inverse_std`: errors are divided by sigma where the
    density has its square, and are a mean over the observation's dimensions where it has a sum.
    """
    if not inverse_std:
        return (0.5 * (error * (-log_std).exp()).square() + log_std).sum(-1)
    weighed = error.square() * (-log_std).exp()
    return weighed[..., :-1].mean(-1) + weighed[..., -1] + log_std.sum(-1)


def model_step(
    ensemble: Ensemble,
    fit: Fit,
    batch,
    mask: Tensor,
    *,
    lr: float,
    inverse_std: bool,
    spectral: bool,
) -> tuple[Fit, Metrics]:
    """One step of all members, each on the rows that its `mask` [D, M, B] leaves. Pure."""
    net, *norm = fit
    if spectral:
        norm = ensemble.turned(net.theta, fit.left)
    change = torch.cat((batch.next_obs - batch.obs, batch.reward[..., None]), -1)[:, None]

    def loss(theta):
        given = norm if spectral else None
        mean, log_std = ensemble.statistics(theta, batch.obs, batch.action, given)
        bounds = ensemble.layout.views(theta.reshape(-1, ensemble.layout.size))
        spread = (bounds["highest"] - bounds["lowest"]).sum((1, 2)).view(len(theta), -1, 1)
        rows = model_error(mean - change, log_std, inverse_std) + BOUNDS_WEIGHT * spread
        total = (rows * mask).mean(-1).sum(-1)
        decay = 0.5 * WEIGHT_DECAY * theta.square().sum(1)  # as torch.optim.Adam decays weights
        error = (mean - change).square().mean((1, 2, 3))
        return total + decay, {"model_loss": total, "model_error": error}

    net, metrics = descend(net, lr, loss)
    return Fit(net, *norm), metrics


class Dynamics:
    """Models of one data set, in training or fitted: one ensemble (D = 1) for all seeds of a run.

    All that is random comes from streams of their own, the same in every run. `config` has
    the settings by name: see `rlsuite.algorithms.offline.csve`.
    """

    def __init__(self, data, action_size: int, config, seeds: int = 1) -> None:
        self.config, self.seeds, self.streams = config, seeds, Streams((MODEL_SEED,))
        shape = (config.model_hidden, config.members)
        self.ensemble = Ensemble(data.obs_size, action_size, *shape, config.clip_states)
        self.fit = self.ensemble.initial(self.streams["init"])
        self.rng = SeedRandom(self.streams["action"])
        self.buffer = ReplayBuffer.of_data(data, SeedRandom(self.streams["batch"]))
        self.metadata = {"data": data.metadata["sha256"], "inverse_std": str(config.inverse_std)}
        self.metadata["spectral_norm"] = str(config.spectral_norm)
        if len(data) < config.model_batch_size:
            raise ValueError(
                f"{data.metadata.get('name')} has {len(data)} transitions, too few for models that "
                f"take {config.model_batch_size} a step: name a larger set, or lower "
                "--model-batch-size"
            )
        if config.dynamics:
            self.load(config.dynamics)

    def train(self, count: int) -> Metrics:
        """`count` steps: metrics [S] of the last, the same for each of the run's seeds."""
        config = self.config
        shape = (config.members, config.model_batch_size)
        for _ in range(count):
            batch = self.buffer.sample(config.model_batch_size)
            mask = (self.rng.uniform(*shape) < 0.5).float()
            self.fit, metrics = model_step(
                self.ensemble, self.fit, batch, mask,
                lr=config.model_lr, inverse_std=config.inverse_std, spectral=config.spectral_norm,
            )  # fmt: skip
        return {name: value.expand(self.seeds) for name, value in metrics.items()}

    def theta(self) -> Tensor:
        """Parameters [S, M P] to predict with, the same ones for each of the run's seeds."""
        return self.fitted().repeat(self.seeds, 1)

    def fitted(self) -> Tensor:
        """Parameters [1, M P]: the spectral norm is part of them."""
        theta = self.fit.net.theta.clone()
        if self.config.spectral_norm and not self.config.dynamics:
            views = self.ensemble.layout.views(theta.view(-1, self.ensemble.layout.size))
            head = self.ensemble.weights(theta, self.fit[1:])["mean.weight"]
            views["mean.weight"].copy_(head)
        return theta

    def save(self, folder: Path) -> None:
        """Keep them in a run's folder, for other runs."""
        seeds, path = (MODEL_SEED,), folder / DYNAMICS_FILE
        save_network(path, self.ensemble.whole, self.fitted(), seeds, self.metadata)

    def load(self, folder: Path) -> None:
        """What another run has kept. ValueError if that is missing, damaged or of other data."""
        path, seeds = Path(folder) / DYNAMICS_FILE, (MODEL_SEED,)
        theta = load_network(path, self.ensemble.whole, seeds, self.metadata)
        self.fit = self.fit._replace(net=Net.of(theta))

    def state_dict(self) -> dict:
        net, left, right = self.fit
        parts = {"theta": net.theta, **net.adam._asdict(), "left": left, "right": right}
        return parts | {"streams": self.streams.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        adam = AdamState(*(state[name] for name in AdamState._fields))
        self.fit = Fit(Net(state["theta"], adam), state["left"], state["right"])
        self.streams.load_state_dict(state["streams"])
