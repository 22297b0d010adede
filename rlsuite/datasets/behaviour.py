"""Behaviour policies: who acts while data are collected. NumPy, float32, made for 1 to 256 rows.

| symbol | shape | meaning |
|---|---|---|
| obs | [1, n, O] | raw observations of n environments |
| noise | [1, n, ...] | what `noise(rng, n)` drew; 0.0 for a policy that acts by its mode |
| action | [1, n, A] float32, or [1, n] int64 | inside the environment's box; what is logged |
"""

import difflib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlsuite.datasets import stored
from rlsuite.datasets.transitions import DatasetError

NONLINEARITIES = {"relu": lambda x: np.maximum(x, 0, out=x), "tanh": lambda x: np.tanh(x, out=x)}
OUTPUTS = {"tanh_gaussian": np.tanh, "gaussian": lambda x: x}
# Ant's snapshots were made with 111 inputs; 27.. are contact forces, always zero in training
ANT_INPUTS, ANT_INPUTS_USED = 111, 27


@dataclass(frozen=True)
class Behaviour:
    """A policy: `act(obs, noise(rng, n))` is an action for each of n environments."""

    name: str
    act: Callable[[np.ndarray, np.ndarray | float], np.ndarray]
    noise: Callable[[np.random.Generator, int], np.ndarray | float]


def uniform(envs) -> Behaviour:
    """Uniform over the action box of `envs` (an `rlsuite.envs.Environments`), or its actions."""
    if envs.discrete:
        return Behaviour(
            "uniform",
            lambda obs, noise: noise,
            lambda rng, n: rng.integers(0, envs.action_size, (1, n)),
        )
    low, width = envs.action_low, envs.action_high - envs.action_low
    if not np.isfinite(width).all():
        raise DatasetError(f"{envs.task} has an unbounded action box; let a policy act in it")
    return Behaviour(
        "uniform",
        lambda obs, noise: low + width * noise,
        lambda rng, n: rng.random((1, n, envs.action_size), dtype=np.float32),
    )


def saved(folder: Path, seed: int, envs, mode: bool = False) -> Behaviour:
    """One seed's policy of a run folder of this suite: sampled, or its mode.

    Raises DatasetError for a seed that was not trained or shapes that are not those of `envs`,
    ValueError where there is no readable policy.
    """
    from rlsuite.core.saving import load_policy, select_seed

    whole, about = load_policy(folder)
    seeds = about["seeds"]
    if seed not in seeds:
        raise DatasetError(f"seed {seed} is not in {folder}; it has {', '.join(map(str, seeds))}")
    policy = select_seed(whole, seeds.index(seed))
    sizes = (policy.spec["obs_size"], policy.action_size, policy.discrete)
    _require_shapes(f"{folder}", sizes, envs)
    actor, normalize = policy.actor(), policy.normalizer.normalize

    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        action = policy.applied(actor(normalize(obs), noise), envs.action_low, envs.action_high)
        return action if policy.discrete else action.astype(np.float32, copy=False)

    def noise(rng: np.random.Generator, n: int) -> np.ndarray:
        return policy.noise(rng, (n, policy.action_size))[None]

    return Behaviour(f"seed {seed}", act, _no_noise if mode else noise)


def snapshots(path: Path) -> list[str]:
    """Names of the policies in a Deep-OPE archive, in the order of training."""
    with _archive(path) as arrays:
        names = {key.split("/")[0] for key in arrays.files if "/" in key}
    return sorted(names, key=lambda name: (len(name), name))  # online_2 before online_10


def snapshot(path: Path, name: str, envs, mode: bool = False) -> Behaviour:
    """Policy `name` of a Deep-OPE archive (Fu et al. 2021, arXiv 2103.16596); published: sampled.

    Arrays `NAME/LAYER/weight` (out, in) and `NAME/LAYER/bias` for the layers fc0, fc1, last_fc
    (mean) and last_fc_log_std; strings `NAME/nonlinearity` and `NAME/output_distribution`.
    Raises DatasetError that names the policies there are, the key that is missing, or the shapes.
    """
    known = snapshots(path)
    if name not in known:
        near = difflib.get_close_matches(name, known) or known
        raise DatasetError(f"{path.name} has no policy {name!r}; use one of {', '.join(near)}")
    with _archive(path) as arrays:
        try:
            layers = [
                (arrays[f"{name}/{layer}/weight"], arrays[f"{name}/{layer}/bias"])
                for layer in ("fc0", "fc1", "last_fc", "last_fc_log_std")
            ]
            squash = NONLINEARITIES[str(arrays[f"{name}/nonlinearity"])]
            output = OUTPUTS[str(arrays[f"{name}/output_distribution"])]
        except (KeyError, ValueError) as error:
            raise DatasetError(f"policy {name} of {path} is not whole: {error}") from None
    first, bias = layers[0]
    if (first.shape[1], envs.obs_size) == (ANT_INPUTS, ANT_INPUTS_USED):
        layers[0] = first[:, :ANT_INPUTS_USED], bias  # the same as 84 zeros behind the 27 values
    sizes = (layers[0][0].shape[1], layers[2][0].shape[0], False)
    _require_shapes(f"{path.name}", sizes, envs)
    trunk = [(weight.T.copy(), bias) for weight, bias in layers[:2]]
    (mean, mean_bias), (log_std, log_std_bias) = [(w.T.copy(), b) for w, b in layers[2:]]

    def act(obs: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
        h = obs.astype(np.float32)
        for weight, bias in trunk:
            h = squash(h @ weight + bias)
        action = h @ mean + mean_bias + np.exp(h @ log_std + log_std_bias) * noise
        return np.clip(output(action), envs.action_low, envs.action_high)

    def noise(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.standard_normal((1, n, envs.action_size), dtype=np.float32)

    return Behaviour(name, act, _no_noise if mode else noise)


def _no_noise(rng: np.random.Generator, n: int) -> float:
    return 0.0


def _archive(path: Path):
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
