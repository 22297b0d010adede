"""A policy as one function of tensors, for programs without rlsuite: ONNX and torch.export.

| symbol | shape | meaning |
|---|---|---|
| obs | [N, O] float64 | raw observations, flat |
| action | [N, *action_shape] | what the environment takes at the policy's mode, in its dtype |

The normaliser, the squashing and the clipping are inside.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import elu, linear, softplus

from rlsuite.core.acting import Policy
from rlsuite.core.actors import BoundedActor, Standardizer
from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.chunks import ChunkPolicy
from rlsuite.core.closed_form import ClosedFormPolicy
from rlsuite.core.gaussian import GaussianActor
from rlsuite.core.networks import ActorCritic
from rlsuite.core.normalizers import CLIP, EPSILON
from rlsuite.core.squashed import SquashedActor

UNITS = {"tanh": torch.tanh, "relu": torch.relu, "elu": elu}
CANNOT = {
    ChunkPolicy: "a chunk policy keeps a queue of actions and draws random numbers",
    ClosedFormPolicy: "CFPI's policy takes the gradient of its critics at every step",
}


class Deployed(nn.Module):
    """obs [N, O] float64 -> the action that `Policy.act` gives. ValueError for what has no such."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        network = policy.network
        for kind, why in CANNOT.items():
            if isinstance(network, kind):
                raise ValueError(f"{why}, which no exported file can: use rlsuite.load_policy")
        self.kind, self.spaces = type(network), policy.spaces
        self.depth, self.unit = network.depth, UNITS[network.activation]
        views = network.actor_layout.views(network.theta[:, : network.actor_layout.size])
        for name, view in views.items():
            self.register_buffer(name.replace(".", "_"), view[0].detach().clone())
        self._keep_normalizer(network.normalizer)
        if not policy.spaces.choices:
            for name, end in zip(("low", "high"), policy.spaces.bounds(), strict=True):
                self.register_buffer(name, torch.from_numpy(end))
        if isinstance(network, BoundedActor):
            self.register_buffer("centre", network.centre.cpu().clone())
            self.register_buffer("half_width", network.half_width.cpu().clone())

    def _keep_normalizer(self, normalizer: nn.Module) -> None:
        self.normalized = isinstance(normalizer, Standardizer) or normalizer.enabled
        self.limit = math.inf if isinstance(normalizer, Standardizer) else CLIP
        found = normalizer.state_dict()
        std = found["std"] if "std" in found else (found["var"] + EPSILON).sqrt()
        self.register_buffer("mean", found["mean"][0].double())
        self.register_buffer("std", std[0].double())

    def forward(self, obs: Tensor) -> Tensor:
        output = self.output(obs)
        if self.spaces.choices:
            return self._counted(output.argmax(-1))
        action = torch.maximum(torch.minimum(self._continuous(output), self.high), self.low)
        dtype = getattr(torch, self.spaces.dtype)
        return action.unflatten(-1, self.spaces.shape).to(dtype)

    def output(self, obs: Tensor) -> Tensor:
        """What the network says [N, outputs]."""
        x = (obs - self.mean) / self.std if self.normalized else obs
        x = x.clamp(-self.limit, self.limit) if self.normalized and self.limit < math.inf else x
        x = x.float()
        for i in range(self.depth):
            weight, bias = (getattr(self, f"actor_{i}_{name}") for name in ("weight", "bias"))
            x = linear(x, weight, bias[0])
            x = self.unit(x) if i < self.depth - 1 else x
        return x

    def _continuous(self, output: Tensor) -> Tensor:
        """The mode [N, A] in the environment's units, not yet clipped."""
        if issubclass(self.kind, BetaActorCritic):
            alpha, beta = (1 + softplus(output)).chunk(2, -1)
            return self.low + (self.high - self.low) * (alpha - 1) / (alpha + beta - 2)
        if issubclass(self.kind, ActorCritic):
            return output
        if issubclass(self.kind, SquashedActor):
            output = output.chunk(2, -1)[0]
        unbounded = issubclass(self.kind, GaussianActor)
        return self.centre + self.half_width * (output if unbounded else torch.tanh(output))

    def _counted(self, index: Tensor) -> Tensor:
        """Choices [N, *shape], counted as the space counts, of combinations [N]."""
        found = []
        for count in reversed(self.spaces.choices):
            found.append(index % count)
            index = index // count
        several = torch.stack(found[::-1], -1) + torch.tensor(self.spaces.start)
        action = several.reshape(-1, *self.spaces.shape)
        return action.to(getattr(torch, self.spaces.dtype))


def observations(policy: Policy, count: int) -> np.ndarray:
    """[N, O] float64 as the policy saw them in training, some far outside."""
    state, rng = policy.network.normalizer.state_dict(), np.random.default_rng(0)
    std = state["std"] if "std" in state else state["var"].sqrt()
    mean, std = (x[0].double().cpu().numpy() for x in (state["mean"], std))
    return mean + 2 * std * rng.standard_t(3, (count, len(mean)))


def require_same(
    policy: Policy, deployed: Deployed, obs: np.ndarray, found: np.ndarray, tolerance: float
) -> float:
    """The largest difference of `found`, what a file gives at `obs`, from what the policy gives.

    Actions that are counted may differ where two of the policy's outputs are that close.
    RuntimeError where it is more than `tolerance`, times the largest action where that is above 1.
    """
    expected = policy.act(obs)
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise RuntimeError(
            f"the file gives {found.dtype} {list(found.shape)}, the policy {expected.dtype} "
            f"{list(expected.shape)}"
        )
    if policy.spaces.choices:
        far = float(_preference_lost(policy, deployed, obs, found).max())
        scale = 1.0
    else:
        far = float(np.abs(found.astype(float) - expected).max())
        scale = max(1.0, float(np.abs(expected).max()))
    if not far <= tolerance * scale:
        raise RuntimeError(f"the file's actions differ from the policy's by {far:.2g}")
    return far


def _preference_lost(policy: Policy, deployed: Deployed, obs: np.ndarray, found) -> np.ndarray:
    """By how much the output of each chosen combination [N] falls short of the greatest."""
    spaces = policy.spaces
    several = (found.reshape(len(found), -1) - np.array(spaces.start)).T
    index = np.ravel_multi_index(several.astype(int), spaces.choices)
    output = deployed.output(torch.from_numpy(obs)).numpy()
    return output.max(-1) - np.take_along_axis(output, index[:, None], -1)[:, 0]
