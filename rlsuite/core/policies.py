"""Acting, in NumPy: one contract for all that choose actions, and snapshots of networks.

| symbol | shape | meaning |
|---|---|---|
| obs | [S, N, O] float64 | raw observations of N environments per seed |
| raw | [S, N, A] float32, or [S, N] int64 | the policy's own action: what learning records |
| applied | as `raw` | what the environment gets: the same within its bounds |
| noise | [S, N, A, ...] float32 | what a sample is made of |

On a few rows NumPy takes a fifth of the time of tensors, and its products give a seed the same bits
whatever S and the number of threads are.
"""

from collections.abc import Callable, Sequence

import numpy as np

Rngs = Sequence[np.random.Generator]  # one per seed
Layers = Sequence[tuple[np.ndarray, np.ndarray]]  # (weight [..., in, out], bias [..., 1, out])
Bound = np.ndarray | None  # of actions, [A]
Actions = tuple[np.ndarray, np.ndarray]  # (raw, applied)

SQUASH: dict[str, Callable] = {  # activations, squash(x, out)
    "tanh": np.tanh,
    "relu": lambda x, out: np.maximum(x, 0, out=out),
    "elu": lambda x, out: np.copyto(out, np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
}


def hidden_layers(x: np.ndarray, layers: Layers, squash: Callable) -> np.ndarray:
    """[S, N, in] -> [S, N, out] through linear layers, an activation after each of them."""
    for weight, bias in layers:
        x = x @ weight
        x += bias
        squash(x, x)
    return x


def clip(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions [S, N, A] within their bounds [A]; np.clip takes twice as long on a few rows."""
    return np.minimum(np.maximum(action, low), high)


def normal(rngs: Rngs, *shape: int) -> np.ndarray:
    """Standard normal float32 [S, *shape], each seed's from its own generator."""
    return np.stack([rng.standard_normal(shape) for rng in rngs]).astype(np.float32)


class Behaviour:
    """A policy that acts in N environments of each of S seeds.

    It owns all that acting needs, so training goes on without changing it. A policy that has to
    draw random numbers even where it does not explore has a generator of its own.
    `log_prob` [S, N] is the log-density of what `act` drew last, where a behaviour knows it.
    """

    log_prob: np.ndarray | None = None

    def seed(self, env_seeds: np.ndarray) -> None:
        """Draw what is drawn without exploring from streams made of [S, N] seeds. Most do not."""

    def act(self, obs: np.ndarray, rngs: Rngs | None = None) -> Actions:
        """(raw, applied) actions at raw observations [S, N, O].

        Samples are drawn from `rngs`. Without them: the deterministic action.
        """
        raise NotImplementedError

    def reset(self, ended: np.ndarray) -> None:
        """Forget what was kept for the episodes that ended, [S, N] bool. Most keep nothing."""


class Snapshot(Behaviour):
    """The policy of a multi-layer perceptron, as it was when taken or last refreshed.

    `policy` has `theta`, `actor_layout` (of its first columns), `depth`, `activation`,
    `action_size` and `normalizer`. A subclass says what becomes of the network's output.
    """

    contiguous = False  # whether weights are laid out [in, out]: other kernels, with other bits

    def __init__(self, policy, low: Bound = None, high: Bound = None) -> None:
        """`low` and `high` are the environment's bounds; None: it takes any action."""
        self.low, self.high, self.action_size = low, high, policy.action_size
        self.squash = SQUASH[policy.activation]
        layout = policy.actor_layout
        self.theta = policy.theta.detach()[:, : layout.size].cpu().clone()
        self.weights = {name: view.numpy() for name, view in layout.views(self.theta).items()}
        self.depth = policy.depth
        self.refresh(policy)

    def refresh(self, policy) -> None:
        """Copy the numbers of `policy` as they are now: for loops that act after every update."""
        self.theta.copy_(policy.theta.detach()[:, : self.theta.shape[1]])
        self.normalize = policy.normalizer.snapshot()
        layers = []
        for i in range(self.depth):
            weight = self.weights[f"actor.{i}.weight"].swapaxes(1, 2)
            weight = weight.copy() if self.contiguous else weight
            layers.append((weight, self.weights[f"actor.{i}.bias"]))
        self.hidden, (self.head, self.head_bias) = layers[:-1], layers[-1]

    def act(self, obs: np.ndarray, rngs: Rngs | None = None) -> Actions:
        noise = None if rngs is None else self.noise(rngs, obs.shape[1])
        return self.act_normalized(self.normalize(obs), noise)

    def act_normalized(self, obs: np.ndarray, noise: np.ndarray | None = None) -> Actions:
        """`act` where observations are normalised, and noise was drawn, before."""
        output = hidden_layers(obs, self.hidden, self.squash) @ self.head + self.head_bias
        raw = self.choose(output, noise)
        return raw, self.to_env(raw)

    def noise(self, rngs: Rngs, *shape: int) -> np.ndarray:
        """What samples of `shape` are made of, [S, *shape, A]: standard normal."""
        return normal(rngs, *shape, self.action_size)

    def choose(self, output: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """The action at the network's output [S, N, ...]; the mode where there is no noise."""
        raise NotImplementedError

    def to_env(self, raw: np.ndarray) -> np.ndarray:
        """What the environment gets: the action clipped to its bounds."""
        return raw if self.low is None else clip(raw, self.low, self.high)
