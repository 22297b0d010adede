"""Saving and loading whole policies: `policy.json` (what it is) and `policy.safetensors` (weights).

Tensors carry their layer's name, with the seed axis in front (`actor.0.weight` [S, out, in]), so
that other programs can read them without this suite.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rlsuite.core.actors import BoundedActor
from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.networks import ActorCritic

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
