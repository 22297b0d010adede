"""Policies that act in chunks: T_p actions from one observation, the first T_a of which are taken.

| symbol | shape | meaning |
|---|---|---|
| obs | [S, B, O] | normalised |
| x_t | [S, B, D] | noisy chunk, D = T_p A; within +-1 once it is clean |
| t | [S, B] or int | transition x_t -> x_{t-1}, as in core.diffusion; 0 gives what is executed |
| chain | [S, B, K' + 1, D] | what the tuned transitions start from, and what each of them gives |

Two networks of one shape: `base` denoises first, `tuned` the last K' transitions. With `steps` 0
the policy is a Gaussian over chunks: one transition, whose mean the network gives, from nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mish

from rlsuite.core.actors import Standardizer, dense, initial
from rlsuite.core.diffusion import Schedule, ddim, ddpm, denoised_mean
from rlsuite.core.layers import Layout, linear, mlp_shapes
from rlsuite.core.normalizers import ObservationNormalizer
from rlsuite.core.policies import Actions, Behaviour, Bound, Rngs, clip
from rlsuite.core.ranges import require_bounded

UNITS = {"relu": torch.relu, "mish": mish}
SLACK = 1e-6  # added to ranges of the data, as the release does, so that none is zero
EVALUATION_STD = 1e-3  # the floor without exploration (DDPM)
NOISE_CLIP = 3.0  # of the standard normal noise of a transition
CLEAN_CLIP = 1.0  # of the estimate of the clean chunk
STD_LEAST = 0.01  # of a Gaussian
PARTS = ("base", "tuned")
Weights = dict[str, Tensor]  # of one network, by layer; "times" [S, n, time_dim]


class MinMax(Standardizer):
    """Observations scaled to +-1 by the smallest and the greatest of a data set."""

    def fit(self, low: np.ndarray, high: np.ndarray) -> None:
        """Use the limits [O] of a data set for every seed."""
        half = (high.astype(np.float64) - low + SLACK) / 2
        self.mean.copy_(torch.from_numpy(low + half))
        self.std.copy_(torch.from_numpy(half))


@dataclass(frozen=True)
class Form:
    """What a chunk policy is besides its numbers."""

    obs_size: int
    low: list[float]  # actions [A] that -1 and +1 stand for
    high: list[float]
    running: bool  # observations by running statistics, not by the limits of a data set
    chunk: int  # T_p
    acting: int  # T_a
    hidden: list[int]  # a first layer, then blocks of two
    condition: list[int]  # widths of layers for the observation alone
    nonlinearity: str
    residual: bool  # blocks add to their input
    time_dim: int
    steps: int  # K that the network was trained for; 0: Gaussian
    ddim: int  # transitions that are sampled by DDIM; 0: all steps, by DDPM
    tuned: int  # K', the last transitions
    least_std: float  # floor of the exploring transitions' standard deviation
    std_init: float | None  # of a Gaussian; None: it depends on the observation
    std_most: float  # of a Gaussian

    @property
    def width(self) -> int:
        return self.chunk * len(self.low)

    @property
    def transitions(self) -> int:
        return self.ddim or self.steps or 1


def network_shapes(form: Form) -> dict[str, tuple[int, ...]]:
    """Layers of one of the two networks."""
    seen = (form.obs_size, *form.condition)
    inputs, outputs, named = seen[-1], form.width, mlp_shapes("condition", seen)
    if form.steps:
        named |= mlp_shapes("time", (form.time_dim, 2 * form.time_dim, form.time_dim))
        inputs += form.width + form.time_dim
    elif form.std_init is None:
        outputs *= 2
    named |= mlp_shapes("actor", (inputs, *form.hidden, outputs))
    fixed = not form.steps and form.std_init is not None
    return named | ({"log_variance": (1, len(form.low))} if fixed else {})


def policy_shapes(form: Form) -> dict[str, tuple[int, ...]]:
    """Layers of both networks."""
    shapes = network_shapes(form).items()
    return {f"{part}.{name}": shape for part in PARTS for name, shape in shapes}


class ChunkPolicy(nn.Module):
    """A whole policy: raw observations in, chunks of actions in the environment's units out."""

    discrete = False

    def __init__(self, *, rngs: Sequence[np.random.Generator], **spec) -> None:
        """`spec`: the fields of `Form`. Both networks start alike, as torch.nn.Linear does."""
        super().__init__()
        self.form = form = Form(**spec)
        require_bounded(form.low, form.high, "give the environment a bounded action space")
        self.spec, self.action_size = asdict(form), len(form.low)
        self.network, self.layout = Layout(network_shapes(form)), Layout(policy_shapes(form))
        kind = ObservationNormalizer if form.running else MinMax
        self.normalizer = kind(len(rngs), form.obs_size)
        low, high = (torch.tensor(x, dtype=torch.float64) for x in (form.low, form.high))
        slack = 0 if form.running else SLACK
        self.register_buffer("half_width", ((high - low + slack) / 2).float(), persistent=False)
        self.register_buffer("centre", (low + (high - low + slack) / 2).float(), persistent=False)
        theta = initial(self.network, rngs)
        if "log_variance" in self.network.shapes:
            self.network.views(theta)["log_variance"].fill_(2 * math.log(form.std_init))
        self.theta = nn.Parameter(theta.repeat(1, 2), requires_grad=False)

    @staticmethod
    def chosen(config) -> dict:
        """The fields of `Form` that a config decides."""
        names = ("chunk", "acting", "residual", "time_dim", "least_std", "std_init", "std_most")
        diffusion = config.policy == "diffusion"
        return {name: getattr(config, name) for name in (*names, "tuned")} | {
            "hidden": list(config.hidden),
            "condition": list(config.condition),
            "nonlinearity": config.activation,
            "steps": config.denoising_steps if diffusion else 0,
            "ddim": config.ddim_steps if diffusion else 0,
        }

    @classmethod
    def of(cls, config, envs, data, rngs: Sequence[np.random.Generator]) -> "ChunkPolicy":
        """One for `envs`, scaled by the limits of `data`; None: by the box and what it sees."""
        box = (envs.action_low, envs.action_high) if data is None else limits(data.action)
        ends = {name: end.tolist() for name, end in zip(("low", "high"), box, strict=True)}
        spec = cls.chosen(config) | ends | {"obs_size": envs.obs_size, "running": data is None}
        policy = cls(rngs=rngs, **spec)
        if data is not None:
            policy.normalizer.fit(*limits(data.obs))
        return policy

    def parts(self) -> tuple[Tensor, Tensor]:
        """Parameters [S, P] of base and of tuned."""
        return self.theta.detach().chunk(2, 1)

    def use(self, base: Tensor, tuned: Tensor) -> None:
        """Act with these parameters from now on."""
        self.theta.copy_(torch.cat((base, tuned), 1))

    def clean(self, action: Tensor) -> Tensor:
        """Actions [..., A] in the environment's units -> +-1."""
        return (action - self.centre) / self.half_width

    def schedule(self, noisy: bool = True, least_std: float | None = None) -> Schedule:
        """The transitions, with floors of their standard deviation; exploring ones if `noisy`."""
        form = self.form
        if form.ddim:
            table = ddim(form.steps, form.ddim, eta=float(noisy))
        else:
            table = ddpm(form.steps or 1)
        floor = form.least_std if least_std is None else least_std
        if noisy:
            return table._replace(std=table.std.clamp(min=floor))
        if form.ddim:
            return table._replace(std=torch.zeros_like(table.std))
        std = table.std.clamp(min=EVALUATION_STD)
        std[0] = 0
        return table._replace(std=std)

    def prepared(self, theta: Tensor, time: Tensor | None = None) -> Weights:
        """The layers of one network's parameters [S, P], and what it is told about each time.

        `time` [n] replaces those of the transitions.
        """
        weights = dense(self.network, theta)
        if self.form.steps:
            time = self.schedule().time if time is None else time
            rows = time if len(time) > 1 else time.repeat(2)  # one row has a kernel of its own
            wave = sinusoid(rows, self.form.time_dim).expand(len(theta), -1, -1)
            weights["times"] = self._layers(weights, "time", wave, 2, mish)
        return weights

    def features(self, weights: Weights, obs: Tensor) -> Tensor:
        """What the network makes of observations [S, B, O] alone."""
        count = len(self.form.condition)
        return self._layers(weights, "condition", obs, count, UNITS[self.form.nonlinearity])

    def transition(
        self, weights: Weights, features: Tensor, x: Tensor, t: Tensor | int, schedule: Schedule
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_{t-1} given x_t, [S, B, D] each or alike."""
        if not self.form.steps:
            return self._gaussian(weights, features)
        guess = self.guess(weights, features, x, t)
        mean = denoised_mean(schedule, x, guess, t, CLEAN_CLIP)
        return mean, schedule.at("std", t, x)

    def guess(self, weights: Weights, features: Tensor, x: Tensor, t: Tensor | int) -> Tensor:
        """eps(x_t, t, obs): the noise in x_t. [S, B, D]."""
        times = weights["times"]
        if isinstance(t, int):
            time = times[:, t, None].expand(-1, x.shape[1], -1)
        else:
            time = times.gather(1, t[..., None].expand(-1, -1, times.shape[2]))
        return self._blocks(weights, torch.cat((x, time, features), -1))

    def _gaussian(self, weights: Weights, features: Tensor) -> tuple[Tensor, Tensor]:
        output = self._blocks(weights, features)
        low, high = (2 * math.log(x) for x in (STD_LEAST, self.form.std_most))
        if "log_variance" in weights:
            log_variance = weights["log_variance"].clamp(low, high).repeat(1, 1, self.form.chunk)
            return output.tanh(), (log_variance / 2).exp().expand_as(output)
        output, spread = output.chunk(2, -1)
        log_variance = low + (high - low) * (spread.tanh() + 1) / 2
        return output.tanh(), (log_variance / 2).exp()

    def _layers(self, weights: Weights, name: str, x: Tensor, count: int, unit) -> Tensor:
        for i in range(count):
            x = linear(x, weights[f"{name}.{i}.weight"], weights[f"{name}.{i}.bias"])
            x = unit(x) if i < count - 1 else x
        return x

    def _blocks(self, weights: Weights, x: Tensor) -> Tensor:
        form = self.form
        unit = UNITS[form.nonlinearity]
        return blocks(weights, "actor", x, len(form.hidden), unit, form.residual)

    def chain(self, parts: Sequence[Weights], obs: Tensor, draws: Tensor, schedule) -> Tensor:
        """The chain at `obs`, from standard normal `draws` [S, n + 1, B, D]: the start, the noise.

        Its last entry is the chunk to execute.
        """
        form, (base, tuned) = self.form, parts
        noise = draws[:, 1:].clamp(-NOISE_CLIP, NOISE_CLIP)
        x = draws[:, 0]
        kept, last = [x], self.features(tuned, obs)
        first = self.features(base, obs) if form.tuned < form.transitions else last
        for t in reversed(range(form.transitions)):
            net, features = (tuned, last) if t < form.tuned else (base, first)
            mean, std = self.transition(net, features, x, t, schedule)
            x = mean + std * noise[:, t]
            kept = [*kept, x] if t < form.tuned else [x]
        return torch.stack(kept, 2)

    def behaviour(self, low: Bound = None, high: Bound = None) -> "ChunkBehaviour":
        """What acts like the policy as it is now, in an environment with these bounds [A]."""
        return ChunkBehaviour(self, low, high)


class ChunkBehaviour(Behaviour):
    """Each environment has a queue of actions, and decides anew when it is empty.

    Without exploring, the start of the chain and the noise before its last transition are drawn
    all the same, from streams of its own (`seed`). A decision is made for all N environments of all
    seeds even where one needs it, so that no product depends on who else is there.
    """

    def __init__(self, policy: ChunkPolicy, low: Bound = None, high: Bound = None) -> None:
        self.policy, self.low, self.high = policy, low, high
        self.centre, self.half_width = (
            x.cpu().numpy().copy() for x in (policy.centre, policy.half_width)
        )
        self.schedules = {noisy: policy.schedule(noisy) for noisy in (True, False)}
        self.rngs = [np.random.default_rng(0) for _ in policy.theta]
        self.left = np.zeros((len(policy.theta), 0), np.int64)
        self.refresh(policy)

    def seed(self, env_seeds: np.ndarray) -> None:
        self.rngs = [np.random.default_rng(row.tolist()) for row in np.asarray(env_seeds)]

    def refresh(self, policy: ChunkPolicy) -> None:
        """Copy the numbers of `policy` as they are now."""
        self.parts = [policy.prepared(part.clone()) for part in policy.parts()]
        self.normalize = policy.normalizer.snapshot()

    def draws(self, rngs: Rngs, needed: np.ndarray) -> np.ndarray:
        """What a decision is made of, [S, n + 1, N, D]; zeros for a seed that `needed` [S] none."""
        form = self.policy.form
        shape = (form.transitions + 1, self.left.shape[1], form.width)
        pairs = zip(rngs, needed, strict=True)
        rows = [g.standard_normal(shape, np.float32) if on else np.zeros(shape) for g, on in pairs]
        return np.stack(rows).astype(np.float32, copy=False)

    @torch.no_grad()
    def decide(self, obs: np.ndarray, draws: np.ndarray, noisy: bool) -> np.ndarray:
        """Chains [S, N, K' + 1, D] at normalised `obs` [S, N, O]."""
        count = obs.shape[1]
        if count == 1:  # a single row goes through a kernel of its own
            obs, draws = obs.repeat(2, 1), draws.repeat(2, 2)
        if not (noisy or self.policy.form.steps):
            draws = np.zeros_like(draws)  # of a Gaussian: its mean
        tensors = (torch.from_numpy(x) for x in (obs, draws))
        chain = self.policy.chain(self.parts, *tensors, self.schedules[noisy])
        return chain[:, :count].numpy()

    def act(self, obs: np.ndarray, rngs: Rngs | None = None) -> Actions:
        form = self.policy.form
        if self.left.shape != obs.shape[:2]:
            self.left = np.zeros(obs.shape[:2], np.int64)
            self.queue = np.zeros((*obs.shape[:2], form.acting, len(self.centre)), np.float32)
        empty = self.left == 0
        if empty.any():
            draws = self.draws(self.rngs if rngs is None else rngs, empty.any(1))
            chunk = self.decide(self.normalize(obs), draws, rngs is not None)[:, :, -1]
            chunk = chunk.reshape(*obs.shape[:2], form.chunk, -1)[:, :, : form.acting]
            self.queue[empty], self.left[empty] = chunk[empty], form.acting
        index = (form.acting - self.left)[..., None, None]
        self.left -= 1
        return self.to_env(np.take_along_axis(self.queue, index, 2)[:, :, 0])

    def to_env(self, x: np.ndarray) -> Actions:
        """(raw, applied) of actions within +-1, or a little outside. [..., A]."""
        raw = self.centre + self.half_width * x
        return raw, raw if self.low is None else clip(raw, self.low, self.high)

    def reset(self, ended: np.ndarray) -> None:
        if self.left.shape == ended.shape:
            self.left[ended] = 0


class StateCritic:
    """V(obs): residual blocks with Mish; parameters [S, P] live with the caller."""

    def __init__(self, obs_size: int, hidden: Sequence[int]) -> None:
        self.layout, self.depth = Layout(mlp_shapes("critic", (obs_size, *hidden, 1))), len(hidden)

    def initial(self, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Theta [S, P] as torch.nn.Linear starts."""
        return initial(self.layout, rngs)

    def value(self, theta: Tensor, obs: Tensor) -> Tensor:
        """[S, B] at normalised observations [S, B, O]."""
        return blocks(dense(self.layout, theta), "critic", obs, self.depth, mish)[..., 0]


def blocks(weights: Weights, name: str, x: Tensor, depth: int, unit, residual=True) -> Tensor:
    """A linear layer, blocks of two layers with an activation before each, a linear layer.

    `depth` counts hidden layers, an odd number. Without `residual`: a plain perceptron.
    """

    def layer(i: int, x: Tensor) -> Tensor:
        return linear(x, weights[f"{name}.{i}.weight"], weights[f"{name}.{i}.bias"])

    x = layer(0, x)
    for i in range(1, depth, 2):
        change = layer(i + 1, unit(layer(i, unit(x))))
        x = x + change if residual else change
    return layer(depth, x if residual else unit(x))


def log_densities(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log density of each element of `x` under N(mean, std^2). [S, B, D]."""
    return -0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def limits(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and greatest [D] of rows [N, D]."""
    return np.asarray(rows).min(0), np.asarray(rows).max(0)


def require_blocks(config: object, *names: str) -> None:
    """Each of these tuples of widths is a first layer and blocks of two; `time_dim` is even."""
    for name in names:
        widths = getattr(config, name)
        if len(widths) % 2 == 0 or len(set(widths)) > 1:
            given = " ".join(map(str, widths))
            raise ValueError(f"{name} is {given}; use an odd number of equal widths: 512 512 512")
    if config.time_dim < 4 or config.time_dim % 2:
        raise ValueError(f"time_dim is {config.time_dim}; it must be an even number from 4 on")


def sinusoid(time: Tensor, size: int) -> Tensor:
    """Position embedding [n, size] of times [n]: sines, then cosines."""
    rates = torch.exp(-math.log(10_000) * torch.arange(size // 2) / (size // 2 - 1))
    angle = time[:, None] * rates
    return torch.cat((angle.sin(), angle.cos()), -1)
