"""The policies of on-policy papers: an actor and a critic of S seeds, built from core.layers."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.core.distributions import Categorical, DiagGaussian
from rlsuite.core.layers import Layout, mlp, mlp_shapes, uniform
from rlsuite.core.normalizers import ObservationNormalizer
from rlsuite.core.policies import Bound, Rngs, Snapshot


class ActorCritic(nn.Module):
    """Separate actor and critic of equal width for S seeds, with their observation normaliser.

    A policy is whole: raw observations in, actions out, nothing else needed to evaluate or save it.
    Continuous actions: Gaussian with a state-independent log_std; discrete: categorical.
    The first `actor_size` columns of theta are the actor's parameters, the others the critic's.
    `distribution` and `value` also accept the columns of their own network alone.
    """

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        discrete: bool,
        *,
        rngs: Sequence[np.random.Generator],
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        normalize_obs: bool = True,
        orthogonal_init: bool = True,
        log_std_init: float = 0.0,
    ) -> None:
        super().__init__()
        names = ("obs_size", "action_size", "discrete", "hidden", "activation", "normalize_obs")
        values = (obs_size, action_size, discrete, list(hidden), activation, normalize_obs)
        self.spec = dict(zip(names, values, strict=True))  # what a copy is built from
        self.discrete, self.activation, self.depth = discrete, activation, len(hidden) + 1
        self.action_size = action_size
        actor, critic = self.actor_shapes(obs_size, hidden), (obs_size, *hidden, 1)
        self.actor_layout, self.critic_layout = Layout(actor), Layout(mlp_shapes("critic", critic))
        self.layout = Layout(actor | self.critic_layout.shapes)
        self.actor_size = self.actor_layout.size
        self.normalizer = ObservationNormalizer(len(rngs), obs_size, normalize_obs)
        self.theta = nn.Parameter(torch.empty(len(rngs), self.layout.size), requires_grad=False)
        for row, rng in zip(self.theta, rngs, strict=True):
            initialise(self.layout, self.depth, row[None], rng, orthogonal_init, log_std_init)

    @classmethod
    def of(cls, envs, config, rngs: Sequence[np.random.Generator]) -> "ActorCritic":
        """One for the spaces of `envs`; `config` has the other arguments under their names."""
        return cls(
            envs.obs_size, envs.action_size, envs.discrete, rngs=rngs,
            hidden=config.hidden, activation=config.activation,
            normalize_obs=config.normalize_obs, log_std_init=config.log_std_init,
            orthogonal_init=getattr(config, "orthogonal_init", True),
        )  # fmt: skip

    def actor_shapes(self, obs_size: int, hidden: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Shapes of all that decides the actions."""
        shapes = mlp_shapes("actor", (obs_size, *hidden, self.action_size))
        return shapes | ({} if self.discrete else {"log_std": (1, self.action_size)})

    def distribution(self, theta: Tensor, obs: Tensor) -> DiagGaussian | Categorical:
        """pi_theta(. | s) at normalised observations [S, B, O]."""
        weights = self.actor_layout.views(theta[:, : self.actor_size])
        output = mlp(weights, "actor", obs, self.depth, self.activation)
        if self.discrete:
            return Categorical(output)
        return DiagGaussian(output, weights["log_std"])

    def value(self, theta: Tensor, obs: Tensor) -> Tensor:
        """V_theta(s) [S, B] at normalised observations [S, B, O]."""
        weights = self.critic_layout.views(theta[:, -self.critic_layout.size :])
        return mlp(weights, "critic", obs, self.depth, self.activation)[..., 0]

    def behaviour(self, low: Bound = None, high: Bound = None) -> Snapshot:
        """What acts like the policy as it is now, in an environment with these bounds [A]."""
        snapshot = CategoricalSnapshot if self.discrete else GaussianSnapshot
        return snapshot(self, low, high)


class GaussianSnapshot(Snapshot):
    """Gaussian actions with a state-independent standard deviation."""

    contiguous = True

    def refresh(self, policy) -> None:
        super().refresh(policy)
        self.std = np.exp(self.weights["log_std"])

    def choose(self, output: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        return output if noise is None else output + self.std * noise


class CategoricalSnapshot(Snapshot):
    """Discrete actions; the largest of logits plus Gumbel noise is a sample of their softmax."""

    contiguous = True

    def noise(self, rngs: Rngs, *shape: int) -> np.ndarray:
        """What samples of `shape` are made of, [S, *shape, A]: Gumbel."""
        shape = (*shape, self.action_size)
        return np.stack([rng.gumbel(size=shape) for rng in rngs]).astype(np.float32)

    def choose(self, output: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        return (output if noise is None else output + noise).argmax(-1)

    def to_env(self, raw: np.ndarray) -> np.ndarray:
        return raw


def orthogonal(rng: np.random.Generator, shape: tuple[int, int], gain: float) -> np.ndarray:
    """Orthogonal rows or columns, whichever are fewer, times `gain` (Saxe et al. 2014)."""
    fan_out, fan_in = shape
    normal = rng.standard_normal((max(shape), min(shape)))
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))  # makes the draw uniform over orthogonal matrices
    return gain * (q if fan_out >= fan_in else q.T)


def initialise(
    layout: Layout, depth: int, row: Tensor, rng, orthogonal_init: bool, log_std: float = 0.0
) -> None:
    """Fill `row` [1, P], the parameters of one seed's networks of `depth` layers each."""
    fan_in = 0
    for name, view in layout.views(row).items():
        shape, is_weight = view.shape[1:], name.endswith("weight")
        if name == "log_std":
            view.fill_(log_std)
            continue
        fan_in = shape[-1] if is_weight else fan_in  # a bias follows its weight
        head = name.split(".")[1] == str(depth - 1)
        # sqrt 2 in hidden layers, 0.01 for the policy head, 1 for the value head (ppo2)
        gain = math.sqrt(2) if not head else 0.01 if name.startswith("actor") else 1.0
        if orthogonal_init:
            value = orthogonal(rng, shape, gain) if is_weight else np.zeros(shape)
        else:
            value = uniform(rng, shape, fan_in)
        view.copy_(torch.from_numpy(value))
