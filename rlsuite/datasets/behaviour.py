"""Behaviour policies: who acts while data are collected, in one environment or some hundred.

All fulfil the contract of `rlsuite.core.policies`, with S = 1. What is logged is the applied
action, within the environment's bounds: [1, N, A] float32, or [1, N] int64.
"""

import difflib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rlsuite.core.policies import SQUASH, Actions, Behaviour, Layers, Rngs, clip, hidden_layers
from rlsuite.datasets import stored
from rlsuite.datasets.transitions import DatasetError

OUTPUTS = {"tanh_gaussian": np.tanh, "gaussian": lambda x: x}
# Ant's snapshots were made with 111 inputs; 27.. are contact forces, always zero in training
ANT_INPUTS, ANT_INPUTS_USED = 111, 27


class NamedBehaviour(Behaviour):
    """A behaviour with the name that a data set gives it; `mode`: it never samples."""

    def __init__(self, name: str, behaviour: Behaviour, mode: bool = False) -> None:
        self.name, self.behaviour, self.mode = name, behaviour, mode

    def act(self, obs: np.ndarray, rngs: Rngs | None = None) -> Actions:
        return self.behaviour.act(obs, None if self.mode else rngs)

    @property
    def log_prob(self) -> np.ndarray | None:
        return None if self.mode else self.behaviour.log_prob

    def reset(self, ended: np.ndarray) -> None:
        self.behaviour.reset(ended)

    def seed(self, env_seeds: np.ndarray) -> None:
        self.behaviour.seed(env_seeds)


class UniformDiscrete(Behaviour):
    """Every one of `action_size` actions with the same probability, whatever it sees."""

    def __init__(self, action_size: int) -> None:
        self.action_size = action_size

    def act(self, obs: np.ndarray, rngs: Rngs) -> Actions:
        action = np.stack([rng.integers(0, self.action_size, obs.shape[1]) for rng in rngs])
        return action, action


class UniformBox(Behaviour):
    """Uniform between bounds `low` and `high` [A], whatever it sees.

    `log_prob` is that of the box scaled to (-1, 1), as of a policy that is squashed.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.low, self.width = low, high - low

    def act(self, obs: np.ndarray, rngs: Rngs) -> Actions:
        shape = (obs.shape[1], len(self.low))
        action = self.low + self.width * np.stack([rng.random(shape, np.float32) for rng in rngs])
        self.log_prob = np.full(obs.shape[:2], -shape[1] * np.log(2), np.float32)
        return action, action


class DeepOPEBehaviour(Behaviour):
    """A Gaussian whose mean and log std are linear in what comes out of hidden layers."""

    def __init__(
        self,
        layers: Layers,
        squash: Callable,
        output: Callable,
        bounds: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Weights are [out, in] in a file; the last two layers are the heads."""
        layers = [(weight.T.copy(), bias) for weight, bias in layers]
        self.hidden, (self.mean, self.log_std) = layers[:-2], layers[-2:]
        self.squash, self.output, self.bounds = squash, output, bounds

    def act(self, obs: np.ndarray, rngs: Rngs | None = None) -> Actions:
        h = hidden_layers(obs.astype(np.float32), self.hidden, self.squash)
        (weight, bias), (std_weight, std_bias) = self.mean, self.log_std
        action = h @ weight + bias
        if rngs is not None:
            draws = [rng.standard_normal(action.shape[1:], np.float32) for rng in rngs]
            action += np.exp(h @ std_weight + std_bias) * np.stack(draws)
        raw = self.output(action)
        return raw, clip(raw, *self.bounds)


def uniform(envs) -> NamedBehaviour:
    """Uniform between the action bounds of `envs` (an `rlsuite.envs.Environments`)."""
    if envs.discrete:
        return NamedBehaviour("uniform", UniformDiscrete(envs.action_size))
    low, high = envs.action_low, envs.action_high
    if not np.isfinite(high - low).all():
        raise DatasetError(f"{envs.task} has an unbounded action box; let a policy act in it")
    return NamedBehaviour("uniform", UniformBox(low, high))


def saved(folder: Path, seed: int, envs, mode: bool = False) -> NamedBehaviour:
    """One seed's policy of a run folder of this suite: sampled, or its mode.

    Raises DatasetError for a seed that was not trained or shapes that are not those of `envs`,
    ValueError where there is no readable policy.
    """
    from rlsuite.core.saving import load_policy, select_seed

    whole, metadata = load_policy(folder)
    seeds = metadata["seeds"]
    if seed not in seeds:
        raise DatasetError(f"seed {seed} is not in {folder}; it has {', '.join(map(str, seeds))}")
    policy = select_seed(whole, seeds.index(seed))
    sizes = (policy.spec["obs_size"], policy.action_size, policy.discrete)
    _require_shapes(f"{folder}", sizes, envs)
    behaviour = policy.behaviour(envs.action_low, envs.action_high)
    return NamedBehaviour(f"seed {seed}", behaviour, mode)


def snapshots(path: Path) -> list[str]:
    """Names of the policies in a Deep-OPE archive, in the order of training."""
    with archive(path) as arrays:
        names = {key.split("/")[0] for key in arrays.files if "/" in key}
    return sorted(names, key=lambda name: (len(name), name))  # online_2 before online_10


def snapshot(path: Path, name: str, envs, mode: bool = False) -> NamedBehaviour:
    """Policy `name` of a Deep-OPE archive (Fu et al. 2021, arXiv 2103.16596); published: sampled.

    Arrays `NAME/LAYER/weight` (out, in) and `NAME/LAYER/bias` for the layers fc0, fc1, last_fc
    (mean) and last_fc_log_std; strings `NAME/nonlinearity` and `NAME/output_distribution`.
    Raises DatasetError that names the policies there are, the key that is missing, or the shapes.
    """
    known = snapshots(path)
    if name not in known:
        near = difflib.get_close_matches(name, known) or known
        raise DatasetError(f"{path.name} has no policy {name!r}; use one of {', '.join(near)}")
    with archive(path) as arrays:
        try:
            layers = [
                (arrays[f"{name}/{layer}/weight"], arrays[f"{name}/{layer}/bias"])
                for layer in ("fc0", "fc1", "last_fc", "last_fc_log_std")
            ]
            squash = SQUASH[str(arrays[f"{name}/nonlinearity"])]
            output = OUTPUTS[str(arrays[f"{name}/output_distribution"])]
        except (KeyError, ValueError) as error:
            raise DatasetError(f"policy {name} of {path} is not whole: {error}") from None
    first, bias = layers[0]
    if (first.shape[1], envs.obs_size) == (ANT_INPUTS, ANT_INPUTS_USED):
        layers[0] = first[:, :ANT_INPUTS_USED], bias  # the same as 84 zeros behind the 27 values
    sizes = (layers[0][0].shape[1], layers[2][0].shape[0], False)
    _require_shapes(f"{path.name}", sizes, envs)
    bounds = envs.action_low, envs.action_high
    return NamedBehaviour(name, DeepOPEBehaviour(layers, squash, output, bounds), mode)


def archive(path: Path):
    if not path.is_file():
        raise DatasetError(f"{path} is not there; name the folder that holds it: --policies FOLDER")
    try:
        arrays = np.load(path, allow_pickle=False)
        words = stored.NUMBERS + "U"
        declared = [stored.npz_declared(path, arrays.zip, key, words) for key in arrays.files]
        stored.require_room(path, sum(each.nbytes for each in declared), path.stat().st_size)
        return arrays
    except DatasetError:
        raise
    except (OSError, ValueError, LookupError, AttributeError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path} is not a readable .npz archive: {error}") from None


def _require_shapes(source: str, sizes: tuple[int, int, bool], envs) -> None:
    """`sizes`: observations, actions, whether they are discrete."""
    if sizes != (envs.obs_size, envs.action_size, envs.discrete):
        raise DatasetError(
            f"the policies of {source} have {sizes[0]} observations and {sizes[1]} "
            f"{'discrete actions' if sizes[2] else 'action dimensions'}, {envs.task} has "
            f"{envs.obs_size} and {envs.action_size}; name the task they were trained on"
        )
