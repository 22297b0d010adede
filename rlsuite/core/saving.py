"""Saving and loading whole policies: `policy.json` (what it is) and `policy.safetensors` (weights).

Tensors carry their layer's name, with the seed axis in front (`actor.0.weight` [S, out, in]), so
that other programs can read them without this suite.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rlsuite.core.actors import BoundedActor
from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.networks import ActorCritic, Layout

KINDS = {
    "actor-critic": ActorCritic,
    "beta-actor-critic": BetaActorCritic,
    "bounded-actor": BoundedActor,
}


def save_policy(policy: ActorCritic, folder: Path, about: dict) -> None:
    """Write `policy` to `folder`, whole or not at all; `about` (JSON) goes with it."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {k: v.clone() for k, v in policy.layout.views(policy.theta.detach()).items()}
    statistics = policy.normalizer.state_dict()
    tensors |= {f"normalizer.{k}": v.clone() for k, v in statistics.items()}
    save_file(tensors, partial / "policy.safetensors")
    kind = next(name for name, cls in KINDS.items() if cls is type(policy))
    description = {"kind": kind, "spec": policy.spec, **about}
    (partial / "policy.json").write_text(json.dumps(description, indent=2))
    if folder.exists():
        # A rename cannot replace a full folder; the old one steps aside for an instant
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
        os.rename(partial, folder)
        shutil.rmtree(old)
    else:
        os.rename(partial, folder)


def load_policy(folder: Path) -> tuple[ActorCritic, dict]:
    """(policy in eval mode, its description) from `folder`; a run folder's `policy/` is found too.

    Raises ValueError naming what is missing or damaged.
    """
    folder = Path(folder)
    folder = folder if (folder / "policy.json").exists() else folder / "policy"
    try:
        about = json.loads((folder / "policy.json").read_text())
        return _assemble(about, load_file(folder / "policy.safetensors")), about
    except (OSError, ValueError, SafetensorError, LookupError, TypeError, RuntimeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder} holds no readable policy ({why}); name a run folder") from None


def _assemble(about: dict, tensors: dict[str, torch.Tensor]) -> ActorCritic:
    if about["kind"] not in KINDS:
        raise ValueError(f"policy kind {about['kind']!r} is not one of {list(KINDS)}")
    seeds = len(tensors["normalizer.mean"])
    rngs = [np.random.default_rng(0) for _ in range(seeds)]  # drawn over by the saved weights
    policy = KINDS[about["kind"]](rngs=rngs, **about["spec"])
    for name, view in policy.layout.views(policy.theta).items():
        if tensors[name].shape != view.shape:  # a copy would broadcast
            raise ValueError(f"{name} is {list(tensors[name].shape)}, not {list(view.shape)}")
        view.copy_(tensors[name])
    statistics = {
        k.removeprefix("normalizer."): v for k, v in tensors.items() if k.startswith("normalizer.")
    }
    policy.normalizer.load_state_dict(statistics)
    return policy.eval()


def select_seed(policy: ActorCritic, slot: int) -> ActorCritic:
    """The policy of one slot alone, as a policy of one seed."""
    alone = type(policy)(rngs=[np.random.default_rng(0)], **policy.spec)
    with torch.no_grad():
        alone.theta.copy_(policy.theta[slot : slot + 1])
    statistics = policy.normalizer.state_dict()
    alone.normalizer.load_state_dict({k: v[slot : slot + 1] for k, v in statistics.items()})
    return alone.eval()


def save_rows(
    path: Path, layout: Layout, theta: torch.Tensor, seeds: Sequence[int], about: dict[str, str]
) -> None:
    """Write a network that is no policy, theta [S, P], by layer; `about` must match at loading."""
    tensors = {name: view.clone() for name, view in layout.views(theta.cpu()).items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"seeds": json.dumps(list(seeds)), **about})
    os.replace(partial, path)


def load_rows(
    path: Path, layout: Layout, seeds: Sequence[int], about: dict[str, str]
) -> torch.Tensor:
    """Theta [S, P] of `seeds` from what `save_rows` wrote; a file of one seed serves every seed.

    Raises ValueError for a file that is missing, damaged, of other data or lacks one of the seeds.
    """
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
            named = [file.get_tensor(name).flatten(1) for name in layout.shapes]
        there = json.loads(found["seeds"])
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); name a run folder that has it"
        ) from None
    for key, value in about.items():
        if found.get(key) != value:
            raise ValueError(f"{path} was fitted with {key} {found.get(key)}, not {value}")
    theta = torch.cat(named, 1)
    if theta.shape[1] != layout.size:
        raise ValueError(f"{path} has {theta.shape[1]} numbers a seed, not {layout.size}")
    if len(there) == 1:
        return theta.repeat(len(seeds), 1)
    absent = sorted(set(seeds) - set(there))
    if absent:
        raise ValueError(f"{path} has seeds {there}, not {absent}; train those, too")
    return theta[[there.index(seed) for seed in seeds]]
