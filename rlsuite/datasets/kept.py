"""Sets that are kept of a training run; `rlsuite.runs.keep` says of which of its parts.

A set that snapshots have rolled out carries them along, one seed of each, in `policies/STEP`. So it
can be rolled out again, by anyone who has these 0.3 MB instead of the rows.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from rlsuite.core.saving import load_policy, save_policy, select_seed
from rlsuite.datasets import behaviour, collect, minari
from rlsuite.datasets.behaviour import NamedBehaviour
from rlsuite.datasets.minari import Episode
from rlsuite.datasets.recipes import UNIFORM, Recipe
from rlsuite.envs.engines import Environments

POLICIES = "policies"


def roll_out(
    recipe: Recipe, policies: Path, seed: int, origin: dict, progress: collect.Progress
) -> Path:
    """Let snapshots act, or uniform actions, and write the set; its folder.

    Parts of `recipe` are names of snapshots in the folder `policies`, of which `seed` acts.
    `origin` goes into its metadata: who these are, and what is unusual in them.

    Raises DatasetError for a set that is there already, ValueError for policies that are not.
    """

    def actor(part: str, envs: Environments) -> NamedBehaviour:
        if part == UNIFORM:
            return behaviour.uniform(envs)
        found = behaviour.saved(policies / part, seed, envs)
        return NamedBehaviour(f"step {int(part)}", found.behaviour)

    found = collect.roll_parts(recipe, actor, progress, densities=True)
    metadata = origin | {"recipe": asdict(recipe)} | collect.described(recipe, found)
    names = [part for part in recipe.parts if part != UNIFORM]
    carry = partial(_carry, policies, names, seed)
    return write(recipe.name, recipe.task, found.episodes, metadata, carry)


def write(
    name: str,
    task: str,
    episodes: list[Episode],
    origin: dict,
    add: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write the set `name` of `episodes`; its folder. `checksum` in its metadata is of its numbers.

    Raises DatasetError as `minari.write_episodes`.
    """
    ends = {
        "terminated": sum(e.terminated for e in episodes),
        "truncated": sum(e.truncated and not e.terminated for e in episodes),
        "open": sum(not (e.terminated or e.truncated) for e in episodes),
    }
    facts = {"ends": ends, "entropy": entropy(episodes), "checksum": checksum(episodes)}
    metadata = origin | facts | collect.references(task)
    return minari.write_episodes(name, task, episodes, metadata, add)


def entropy(episodes: list[Episode]) -> float | None:
    """Mean -log-density of actions scaled to (-1, 1), in nats per dimension; None if not known."""
    if any(episode.log_prob is None for episode in episodes):
        return None
    total = sum(float(episode.log_prob.sum(dtype=np.float64)) for episode in episodes)
    rows = sum(len(episode.reward) for episode in episodes)
    return -total / rows / episodes[0].action.shape[1]


def checksum(episodes: list[Episode]) -> str:
    """SHA-256 of all numbers and flags, in order, whatever file they lie in."""
    digest = hashlib.sha256()
    for episode in episodes:
        arrays = [episode.obs, episode.action, episode.reward]
        arrays += [] if episode.log_prob is None else [episode.log_prob]
        for values in arrays:
            digest.update(np.ascontiguousarray(values).tobytes())
        digest.update(bytes([episode.terminated, episode.truncated]))
    return digest.hexdigest()


def _carry(policies: Path, names: list[str], seed: int, folder: Path) -> None:
    """Put `seed` of each of the snapshots into a set's folder."""
    for name in names:
        policy, metadata = load_policy(policies / name)
        alone = select_seed(policy, metadata["seeds"].index(seed))
        rest = {key: metadata[key] for key in metadata if key not in ("kind", "spec")}
        save_policy(alone, folder / POLICIES / name, rest | {"seeds": [seed]})
