"""Networks that are no policies, in files of their own, such as a density that other runs use."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlsuite.core.layers import Layout


def save_network(
    path: Path, layout: Layout, theta: Tensor, seeds: Sequence[int], metadata: dict[str, str]
) -> None:
    """Write a network that is no policy, theta [S, P], by layer; loading checks `metadata`."""
    tensors = {name: view.clone() for name, view in layout.views(theta.cpu()).items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"seeds": json.dumps(list(seeds)), **metadata})
    os.replace(partial, path)


def load_network(
    path: Path, layout: Layout, seeds: Sequence[int], metadata: dict[str, str]
) -> Tensor:
    """Theta [S, P] of `seeds` from what `save_network` wrote; a file of one seed serves every seed.

    Raises ValueError for a file that is missing, damaged, of other data or lacks one of the seeds.
    """
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
            there = json.loads(found["seeds"])
            if not _are_seeds(there):
                raise ValueError(f"its seeds are {str(there)[:60]}")
            named = {name: file.get_tensor(name) for name in layout.shapes}
    except (OSError, SafetensorError, LookupError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); name a run folder that has it"
        ) from None
    for key, value in metadata.items():
        if found.get(key) != value:
            raise ValueError(f"{path} was fitted with {key} {found.get(key)}, not {value}")
    for name, tensor in named.items():
        shape = (len(there), *layout.shapes[name])
        if tensor.shape != shape:
            raise ValueError(f"{path}: {name} is {list(tensor.shape)}, not {list(shape)}")
    theta = torch.cat([tensor.flatten(1) for tensor in named.values()], 1)
    if len(there) == 1:
        return theta.repeat(len(seeds), 1)
    absent = sorted(set(seeds) - set(there))
    if absent:
        raise ValueError(f"{path} has seeds {there}, not {absent}; train those, too")
    return theta[[there.index(seed) for seed in seeds]]


def _are_seeds(value: object) -> bool:
    return isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
