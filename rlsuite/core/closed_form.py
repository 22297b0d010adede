"""Policies that act by one closed-form step from a behaviour, up the gradient of critics (CFPI).

| symbol | shape | meaning |
|---|---|---|
| x | [S, B, K, A] | where the step is taken: before the tanh, or in half widths of the action box |
| log_weight, mean, std | [S, B, K], [S, B, K, A] | of the behaviour's K components, in x |
| gradient | [S, B, K, A] | of the lower bound of Q in x, at each mean |
| square | [S, B, K] | squared radius of the ellipsoid ||(x - mean) / std|| <= radius |
| live | [S, B, K] | whether a component has weight enough to count |

Each operator maximises a linear Q over ellipsoids, one per candidate, and the candidate with the
highest Q is the action. They stand here, not with the paper, as a saved policy has to act.
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rlsuite.core.actors import Standardizer, dense, initial
from rlsuite.core.critics import Critics
from rlsuite.core.distributions import LOG_SQRT_2PI
from rlsuite.core.layers import Layout, mlp, mlp_shapes
from rlsuite.core.mixtures import MixtureNetwork, TanhMixture
from rlsuite.core.optim import gradient
from rlsuite.core.policies import Actions, Behaviour, Bound, Rngs, clip
from rlsuite.core.quantiles import QuantileCritics
from rlsuite.core.ranges import (
    require_bounded,
    require_choice,
    require_multiple,
    require_positive,
    require_whole,
    require_within,
)

BASES = ("mixture", "gaussian", "deterministic")  # what the step starts from
OPERATORS = ("single", "logsumexp", "jensen", "better", "modes", "deterministic")
RULES = ("mended", "paper", "released")  # of what becomes of a mixture's components
SETTINGS = ("operator", "log_tau", "delta", "min_weight", "rules")  # of the step
TINY = 1e-30


class Components(NamedTuple):
    log_weight: Tensor
    mean: Tensor
    std: Tensor


class Candidates(NamedTuple):
    """Ellipsoids to climb in, and which of them may be chosen."""

    mean: Tensor
    std: Tensor
    square: Tensor
    allowed: Tensor


def require_closed_form(config) -> None:
    """What the settings of a step, of its behaviour and its critics keep to."""
    require_choice(config, "operator", OPERATORS)
    require_choice(config, "rules", RULES)
    require_whole(config, "components")
    require_within(config, 0, math.inf, "log_tau", "delta", "quantiles", "target_noise")
    require_within(config, 0, 1, "min_weight", "discount", "polyak")
    one = config.components == 1 or config.on  # another run's policy has one
    if config.operator in ("single", "deterministic") and not one:
        raise ValueError(
            f"operator {config.operator} starts from one Gaussian, and components is "
            f"{config.components}; use --components 1, or --operator better"
        )
    if config.quantiles and len(config.hidden) < 2:
        raise ValueError(f"hidden is {config.hidden}; quantiles need two layers or --quantiles 0")
    if config.round_steps:
        require_positive(config, "improvement_steps")
        require_multiple(config, "round_steps", "improvement_steps")


# ------------------------------------------------------------------------------------- operators


def ascend(mean: Tensor, std: Tensor, gradient: Tensor, square: Tensor, over: int = -1) -> Tensor:
    """mean + radius S g / ||g||_S: the highest point of a linear Q in the ellipsoid. [..., A].

    Where the gradient is zero, or the squared radius is not positive: the mean. `over` is the axis
    of the norm; the released code's mixtures have that of the components.
    """
    scaled = std * gradient
    # Divided by the largest first: the square of a small number would be zero
    scaled = scaled / scaled.abs().amax(over, keepdim=True).clamp(min=TINY)
    length = scaled.square().sum(over, keepdim=True).sqrt().clamp(min=TINY)
    return mean + square.clamp(min=0).sqrt()[..., None] * std * scaled / length


def live_components(log_weight: Tensor, min_weight: float) -> Tensor:
    """Those of at least `min_weight`, and the heaviest one."""
    heaviest = log_weight == log_weight.amax(-1, keepdim=True)
    return heaviest | (log_weight.exp() >= min_weight)


def logsumexp_candidates(
    c: Components, live: Tensor, log_tau: float, rules: str = "mended"
) -> Candidates:
    """One per component: where lam_i N(x; mu_i, S_i) >= (1 / tau) max_j lam_j N(mu_j; mu_j, S_j).

    "mended": j goes over live components, and where i cannot fulfil it the candidate is its mean.
    "paper": j goes over all, and such a candidate is dropped. "released": as the official code,
    whose squared radius is twice that.
    """
    peak = c.log_weight - (c.std.log() + LOG_SQRT_2PI).sum(-1)
    among = live if rules == "mended" else torch.ones_like(live)
    highest = peak.masked_fill(~among, -math.inf).amax(-1, keepdim=True)
    square = 2 * (log_tau + peak - highest)
    if rules == "released":
        return Candidates(c.mean, c.std, 2 * square, live)
    if rules == "paper":
        live = live & (square >= 0)
    return Candidates(c.mean, c.std, square, live)


def jensen_candidate(c: Components, log_tau: float) -> Candidates:
    """One: where sum_i lam_i (x - mu_i)^T S_i^-1 (x - mu_i) <= 2 log tau; it may be empty."""
    weight = c.log_weight.exp()[..., None]
    precision = (weight / c.std.square()).sum(2, keepdim=True)
    mean = (weight * c.mean / c.std.square()).sum(2, keepdim=True) / precision
    spread = (weight * ((c.mean - mean) / c.std).square()).sum(-1).sum(-1, keepdim=True)
    square = 2 * log_tau - spread
    return Candidates(mean, precision.rsqrt(), square, square >= 0)


def candidates(
    c: Components, operator: str, log_tau: float, min_weight: float, rules: str
) -> Candidates:
    """Those of an operator. At least one of them is allowed."""
    live, everything = live_components(c.log_weight, min_weight), torch.ones_like(c.mean[..., 0])
    if operator in ("single", "deterministic"):
        return Candidates(c.mean, c.std, 2 * log_tau * everything, everything > 0)
    if operator == "modes" or log_tau == 0:
        return Candidates(c.mean, c.std, 0 * everything, live)
    if operator == "jensen":
        found = jensen_candidate(c, log_tau)
        return found._replace(allowed=torch.ones_like(found.allowed))
    found = logsumexp_candidates(c, live, log_tau, rules)
    if operator == "better":
        more = jensen_candidate(c, log_tau)
        found = Candidates(*(torch.cat(pair, 2) for pair in zip(found, more, strict=True)))
    heaviest = torch.zeros_like(found.allowed)
    heaviest.scatter_(2, c.log_weight.argmax(-1, keepdim=True), True)
    some = found.allowed.any(-1, keepdim=True)
    return found._replace(allowed=torch.where(some, found.allowed, heaviest))


# ---------------------------------------------------------------------------------------- policy


class BoundedNetwork:
    """The network of a BoundedActor, as one component: its output before the tanh, its log std."""

    def __init__(self, obs_size: int, actions: int, hidden: Sequence[int], gaussian: bool) -> None:
        self.depth, self.gaussian = len(hidden) + 1, gaussian
        shapes = mlp_shapes("actor", (obs_size, *hidden, actions))
        self.layout = Layout(shapes | ({"log_std": (1, actions)} if gaussian else {}))

    def distribution(self, theta: Tensor, obs: Tensor) -> TanhMixture:
        """At standardised observations [S, B, O]; the log std is of the environment's units."""
        weights = dense(self.layout, theta)
        mean = mlp(weights, "actor", obs, self.depth, "relu")[:, :, None]
        log_std = weights["log_std"][:, None] if self.gaussian else torch.zeros_like(mean)
        return TanhMixture(torch.zeros_like(mean[..., 0]), mean, log_std)


class ClosedFormPolicy(nn.Module):
    """A whole policy: behaviour, its normaliser, critics, and the operator that joins them.

    Columns of theta: those of the behaviour, then those of two critics. `base`: the behaviour is a
    "mixture", or another algorithm's BoundedActor, "gaussian" or "deterministic". `log_tau` is how
    far the step goes, `delta` the same of a deterministic one.
    """

    discrete = False

    def __init__(
        self,
        obs_size: int,
        low: Sequence[float],
        high: Sequence[float],
        *,
        rngs: Sequence[np.random.Generator],
        hidden: Sequence[int],
        base: str,
        components: int,
        critic_hidden: Sequence[int],
        distributional: bool,
        operator: str,
        log_tau: float = 0.5,
        delta: float = 0.1,
        min_weight: float = 0.05,
        rules: str = "mended",
    ) -> None:
        super().__init__()
        low, high = ([float(x) for x in end] for end in (low, high))
        require_bounded(low, high, "give the environment a bounded action space")
        self.spec = {
            "obs_size": obs_size, "low": low, "high": high, "hidden": list(hidden), "base": base,
            "components": components, "critic_hidden": list(critic_hidden),
            "distributional": distributional, "operator": operator, "log_tau": log_tau,
            "delta": delta, "min_weight": min_weight, "rules": rules,
        }  # fmt: skip
        self.action_size, self.base, self.operator = len(low), base, operator
        self.far = delta if operator == "deterministic" else log_tau
        self.min_weight, self.rules = min_weight, rules
        self.squashed = base == "mixture" and operator != "deterministic"
        self.network = behaviour_network(self.spec)
        self.critics = critic_networks(self.spec)
        self.layout = Layout(closed_form_shapes(self.spec))
        self.normalizer = Standardizer(len(rngs), obs_size)
        bounds = torch.tensor([low, high])
        self.register_buffer("centre", (bounds[1] + bounds[0]) / 2, persistent=False)
        self.register_buffer("half_width", (bounds[1] - bounds[0]) / 2, persistent=False)
        parts = initial(self.network.layout, rngs), self.critics.initial(rngs)
        self.theta = nn.Parameter(torch.cat(parts, 1), requires_grad=False)

    @classmethod
    def of(cls, config, data, rngs, base=None) -> "ClosedFormPolicy":
        """One for `data`; `config` has the settings of the step and of the networks by name.

        Where there is a `base`, with another algorithm's `policy`, that is the behaviour as it is,
        normaliser included; its critics, if it has them, are the critics.
        """
        spec = {name: getattr(config, name) for name in SETTINGS}
        spec |= {"critic_hidden": config.hidden, "distributional": config.quantiles > 0}
        if base is None:
            spec |= {"base": "mixture", "hidden": config.hidden, "components": config.components}
            policy = cls(data.obs_size, *data.action_bounds(), rngs=rngs, **spec)
            if config.normalize_obs:
                policy.normalizer.fit(*data.obs_statistics())
            return policy
        actor = base.policy
        spec |= {"base": "gaussian", "hidden": actor.spec["hidden"], "components": 1}
        if not actor.stochastic:
            spec |= {"base": "deterministic", "operator": "deterministic"}
        if base.critic is not None:
            spec |= {"critic_hidden": base.critic_hidden, "distributional": False}
        policy = cls(data.obs_size, *data.action_bounds(), rngs=rngs, **spec)
        policy.normalizer.load_state_dict(actor.normalizer.state_dict())
        critic = policy.parts()[1] if base.critic is None else base.critic
        policy.hold(actor.theta, critic)
        return policy

    def parts(self) -> tuple[Tensor, Tensor]:
        """Parameters of the behaviour and of the critics, as they are now."""
        size = self.network.layout.size
        return self.theta[:, :size], self.theta[:, size:]

    def hold(self, behaviour: Tensor, critic: Tensor) -> None:
        """Act with these parameters."""
        self.theta.copy_(torch.cat((behaviour, critic), 1))

    def components(self, behaviour: Tensor, obs: Tensor) -> Components:
        """The behaviour at standardised observations [S, B, O]."""
        pi = self.network.distribution(behaviour, obs)
        std = pi.log_std.exp() if self.base == "mixture" else pi.log_std.exp() / self.half_width
        if self.squashed:
            return Components(pi.log_weight, pi.mean, std)
        mean = torch.tanh(pi.mean)
        std = torch.ones_like(mean) if self.operator == "deterministic" else std.expand_as(mean)
        return Components(pi.log_weight, mean, std)

    def actions(self, x: Tensor) -> Tensor:
        """What the environment gets at x [..., A]."""
        return self.centre + self.half_width * (torch.tanh(x) if self.squashed else x.clamp(-1, 1))

    def clip_action(self, action: Tensor) -> Tensor:
        """Actions [S, B, A] clipped to their bounds."""
        low, high = self.centre - self.half_width, self.centre + self.half_width
        return torch.maximum(torch.minimum(action, high), low)

    def value(self, critic: Tensor, obs: Tensor, x: Tensor) -> Tensor:
        """The lower bound of Q, [S, B, M] at [S, B, O] and x [S, B, M, A]: the smaller of two.

        "released" takes mean - std with n - 1 below the squares, which lies lower.
        """
        count = x.shape[2]
        rows = obs.repeat_interleave(count, 1)
        u = torch.tanh(x) if self.squashed else x  # unclipped: the gradient at the edge counts
        action = (self.centre + self.half_width * u).flatten(1, 2)
        q = self.critics.values(critic, rows, action).unflatten(2, (-1, count))
        if self.rules == "released":
            return q.mean(1) - (q.amax(1) - q.amin(1)) / math.sqrt(2)
        return q.amin(1)

    def outcomes(
        self, critic: Tensor, obs: Tensor, action: Tensor, fraction: Tensor | None
    ) -> Tensor:
        """Quantiles of the return, [S, 2, B, Q] at fractions [S, B, Q]; values, Q = 1, without."""
        if fraction is None:
            return self.critics.values(critic, obs, action)[..., None]
        return self.critics.quantiles(critic, obs, action, fraction)

    def slope(self, critic: Tensor, obs: Tensor, x: Tensor) -> Tensor:
        """The gradient of `value` in x."""
        return gradient(lambda x: (self.value(critic, obs, x).sum((1, 2)), {}), x)[0]

    def improved(self, behaviour: Tensor, critic: Tensor, obs: Tensor) -> Tensor:
        """The action [S, B, A] at standardised observations [S, B, O]."""
        c = self.components(behaviour, obs)
        found = candidates(c, self.operator, self.far, self.min_weight, self.rules)
        slope = self.slope(critic, obs, found.mean)
        x = ascend(found.mean, found.std, slope, found.square)
        if self.rules == "released" and self.operator in ("logsumexp", "better"):
            count = c.mean.shape[2]
            mean, std, square, _ = (part[:, :, :count] for part in found)
            across = ascend(mean, std, slope[:, :, :count], square, over=2)
            x = torch.cat((across, x[:, :, count:]), 2)
        inside = x if self.squashed else x.clamp(-1, 1)
        q = self.value(critic, obs, inside).masked_fill(~found.allowed, -math.inf)
        best = q.argmax(-1)[..., None, None].expand(-1, -1, 1, self.action_size)
        return self.actions(x.gather(2, best)[:, :, 0])

    def promise(self, obs: Tensor) -> Tensor:
        """Mean [S] of what `value` gains by the step, at standardised observations [S, B, O]."""
        behaviour, critic = self.parts()
        c = self.components(behaviour, obs)
        heaviest = c.log_weight.argmax(-1)[..., None, None].expand(-1, -1, 1, self.action_size)
        before = self.actions(c.mean.gather(2, heaviest)[:, :, 0])
        after = self.improved(behaviour, critic, obs)
        q = [self.critics.values(critic, obs, action).amin(1) for action in (after, before)]
        return (q[0] - q[1]).mean(1)

    def behaviour(self, low: Bound = None, high: Bound = None) -> "ClosedFormBehaviour":
        """What acts like the policy as it is now, in an environment with these bounds [A]."""
        return ClosedFormBehaviour(self, low, high)


class ClosedFormBehaviour(Behaviour):
    """A copy of a ClosedFormPolicy that acts; it is deterministic, with random numbers or not."""

    def __init__(self, policy: ClosedFormPolicy, low: Bound = None, high: Bound = None) -> None:
        self.low, self.high = low, high
        self.policy = copy.deepcopy(policy).cpu()
        self.refresh(policy)

    def refresh(self, policy: ClosedFormPolicy) -> None:
        """Copy the numbers of `policy` as they are now."""
        self.policy.theta.copy_(policy.theta)
        self.normalize = policy.normalizer.snapshot()

    def act(self, obs: np.ndarray, rngs: Rngs | None = None) -> Actions:
        seen, rows = self.normalize(obs), obs.shape[1]
        if rows == 1:  # a single row would go through another kernel
            seen = seen.repeat(2, 1)
        # Not under inference_mode, where nothing has a gradient
        with torch.inference_mode(False), torch.no_grad():
            raw = self.policy.improved(*self.policy.parts(), torch.from_numpy(seen))
        raw = raw.numpy()[:, :rows]
        return raw, raw if self.low is None else clip(raw, self.low, self.high)


def closed_form_shapes(spec: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all that a policy of this description holds, without building it."""
    critic = critic_networks(spec).layout.shapes
    both = {f"critic.{i}.{name}": shape for i in (0, 1) for name, shape in critic.items()}
    return behaviour_network(spec).layout.shapes | both


def behaviour_network(spec: dict) -> "MixtureNetwork | BoundedNetwork":
    shape = (spec["obs_size"], len(spec["low"]), spec["hidden"])
    if spec["base"] == "mixture":
        return MixtureNetwork(*shape, spec["components"])
    return BoundedNetwork(*shape, spec["base"] == "gaussian")


def critic_networks(spec: dict) -> QuantileCritics | Critics:
    kind = QuantileCritics if spec["distributional"] else Critics
    return kind(spec["obs_size"], len(spec["low"]), spec["critic_hidden"])
