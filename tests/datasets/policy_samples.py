"""Small policies in both formats that data are collected from."""

from pathlib import Path

import numpy as np

from rlsuite.core.networks import ActorCritic
from rlsuite.core.saving import save_policy


def archive(path: Path, obs_size: int, action_size: int, **strings: str) -> Path:
    """Two random policies, online_2 and online_10, in the published format of Deep-OPE."""
    rng = np.random.default_rng(0)
    strings = {"nonlinearity": "relu", "output_distribution": "tanh_gaussian"} | strings
    layers = {"fc0": (8, obs_size), "fc1": (8, 8)}
    layers |= {"last_fc": (action_size, 8), "last_fc_log_std": (action_size, 8)}
    arrays = {}
    for name in ("online_10", "online_2"):
        for layer, shape in layers.items():
            arrays[f"{name}/{layer}/weight"] = rng.standard_normal(shape).astype(np.float32)
            arrays[f"{name}/{layer}/bias"] = rng.standard_normal(shape[0]).astype(np.float32)
        arrays |= {f"{name}/{key}": np.array(value) for key, value in strings.items()}
    np.savez(path, **arrays)
    return path


def run_folder(folder: Path, task: str, discrete: bool, sizes: tuple[int, int]) -> Path:
    """A run folder with the policies of seeds 3 and 5; `sizes` are observations and actions."""
    rngs = [np.random.default_rng(seed) for seed in (3, 5)]
    policy = ActorCritic(*sizes, discrete, rngs=rngs, hidden=(8,))
    policy.normalizer.observe(1 + rngs[0].standard_normal((2, 50, sizes[0])))
    about = {"algorithm": "ppo", "task": task, "seeds": [3, 5], "step": 2048}
    save_policy(policy, folder / "policy", about)
    return folder
