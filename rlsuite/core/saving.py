"""Saving and loading whole policies: `policy.json` (what it is) and `policy.safetensors` (weights).

Tensors carry their layer's name, with the seed axis in front (`actor.0.weight` [S, out, in]), so
that other programs can read them without this suite. The metadata of their file repeat the
description, so that one that was edited, or belongs to other weights, is refused.

A policy may come from a stranger: every field of the description is checked against its type, its
range and the sizes of the tensors before anything is built, and nothing that it names is imported.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rlsuite.core.actors import BoundedActor
from rlsuite.core.beta import BetaActorCritic
from rlsuite.core.chunks import UNITS, ChunkPolicy, Form, policy_shapes
from rlsuite.core.closed_form import (
    BASES,
    OPERATORS,
    RULES,
    ClosedFormPolicy,
    closed_form_shapes,
)
from rlsuite.core.gaussian import GaussianActor
from rlsuite.core.networks import ActorCritic
from rlsuite.core.policies import SQUASH
from rlsuite.core.spaces import Spaces
from rlsuite.core.squashed import LOG_STD, SquashedActor

KINDS = {
    "actor-critic": ActorCritic,
    "beta-actor-critic": BetaActorCritic,
    "bounded-actor": BoundedActor,
    "gaussian-actor": GaussianActor,
    "squashed-actor": SquashedActor,
    "closed-form": ClosedFormPolicy,
    "chunk-policy": ChunkPolicy,
}
_OF_A_BOX = ("obs_size", "low", "high", "hidden", "activation")
_OF_A_CRITIC = ("obs_size", "action_size", "discrete", "hidden", "activation", "normalize_obs")
SPECS = {  # the fields of each kind's spec, all of them needed
    "actor-critic": _OF_A_CRITIC,
    "beta-actor-critic": _OF_A_CRITIC,
    "bounded-actor": (*_OF_A_BOX, "log_std"),
    "gaussian-actor": (*_OF_A_BOX, "log_std"),
    "squashed-actor": (*_OF_A_BOX, "log_std_map"),
    "closed-form": (
        *("obs_size", "low", "high", "hidden", "base", "components", "critic_hidden"),
        *("distributional", "operator", "log_tau", "delta", "min_weight", "rules"),
    ),
    "chunk-policy": tuple(Form.__dataclass_fields__),
}
GREATEST = 1e38  # no number of a description is greater, infinite or NaN
LONGEST = 1_000_000  # bytes of a description
MARK = "policy"  # key of the description in the metadata of the weights


def save_policy(policy: ActorCritic, folder: Path, metadata: dict) -> None:
    """Write `policy` to `folder`, whole or not at all; `metadata` (JSON) goes with it."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {k: v.clone() for k, v in policy.layout.views(policy.theta.detach()).items()}
    statistics = policy.normalizer.state_dict()
    tensors |= {f"normalizer.{k}": v.clone() for k, v in statistics.items()}
    kind = next(name for name, cls in KINDS.items() if cls is type(policy))
    description = {"kind": kind, "spec": policy.spec, **metadata}
    mark = {MARK: json.dumps(description, sort_keys=True)}
    save_file(tensors, partial / "policy.safetensors", mark)
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


def load_policy(folder: Path, name: str = "") -> tuple[ActorCritic, dict]:
    """(policy in eval mode, its description) from `folder`; a run folder's `policy/` is found too.

    `name`: of one of the policies of a run that has several. Raises ValueError naming what is
    missing, damaged or does not fit.
    """
    folder = _of_name(Path(folder), name) if name else Path(folder)
    folder = folder if (folder / "policy.json").exists() else folder / "policy"
    try:
        metadata = json.loads(_text(folder / "policy.json"))
        _check_description(metadata)
        with safe_open(folder / "policy.safetensors", "pt") as file:
            _check_sizes(metadata, file)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _assemble(metadata, tensors), metadata
    except (OSError, ValueError, SafetensorError, LookupError, TypeError, RuntimeError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{folder} holds no readable policy ({why}); name a run folder") from None


def _of_name(folder: Path, name: str) -> Path:
    """The folder of the policy that a run in `folder` calls `name`."""
    known = {}
    for path in (folder / "policy", *sorted(folder.glob("policy-*/"))):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            known[json.loads(_text(path / "policy.json")).get("policy")] = path
    if name not in known:
        names = [f"--policy {each}" for each in known if isinstance(each, str)]
        hint = f"type {' or '.join(names)}" if names else "leave --policy out"
        raise ValueError(f"{folder} has no policy {name!r}; {hint}")
    return known[name]


def _text(file: Path) -> str:
    if file.stat().st_size > LONGEST:
        raise ValueError(f"{file.name} has {file.stat().st_size} bytes, more than any policy needs")
    return file.read_text()


def _check_description(metadata: object) -> None:
    """ValueError unless the kind, every field of the spec and the seeds are of their types."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get("kind"), str):
        raise ValueError("policy.json does not name the kind of the policy")
    kind, spec = metadata["kind"], metadata.get("spec")
    if kind not in KINDS:
        raise ValueError(f"policy kind {_short(kind)} is not one of {list(KINDS)}")
    if not isinstance(spec, dict) or set(spec) != set(SPECS[kind]):
        raise ValueError(f"spec is {_short(spec)}; {kind} needs {', '.join(SPECS[kind])}")
    for name, value in spec.items():
        possible, words = _FIELDS[name]
        if not possible(value):
            raise ValueError(f"{name} is {_short(value)}; it must be {words}")
    if kind == "beta-actor-critic" and spec["discrete"]:
        raise ValueError("discrete is True; a Beta policy has continuous actions")
    if kind == "closed-form" and spec["distributional"] and len(spec["critic_hidden"]) < 2:
        raise ValueError(f"critic_hidden is {spec['critic_hidden']}; quantiles need two layers")
    if "low" in spec and len(spec["low"]) != len(spec["high"]):
        raise ValueError(f"low has {len(spec['low'])} numbers, high {len(spec['high'])}")
    if "low" in spec and any(a > b for a, b in zip(spec["low"], spec["high"], strict=True)):
        raise ValueError(f"low {_short(spec['low'])} is above high {_short(spec['high'])}")
    seeds = metadata.get("seeds", [])
    if not (_are(seeds, lambda seed: _is_count(seed, 0)) and len(set(seeds)) == len(seeds)):
        raise ValueError(f"seeds are {_short(seeds)}; they must be different whole numbers")
    if "spaces" in metadata:
        _check_spaces(metadata)
    for name, types in (("task", str), ("algorithm", str), ("policy", str), ("step", int)):
        if not isinstance(metadata.get(name, types()), types) or metadata.get(name) is True:
            raise ValueError(f"{name} is {_short(metadata[name])}")


def _check_spaces(metadata: dict) -> None:
    """ValueError unless the policy is one for its spaces."""
    spaces, spec = Spaces.from_json(metadata["spaces"]), metadata["spec"]
    actions = spec["action_size"] if "action_size" in spec else len(spec["low"])
    discrete = spec.get("discrete", False)
    given = (spec["obs_size"], actions, discrete)
    if given != (spaces.obs_size, spaces.action_size, bool(spaces.choices)):
        raise ValueError(f"spaces are {_short(metadata['spaces'])}, not those of the policy")


def _check_sizes(metadata: dict, file: safe_open) -> None:
    """ValueError unless the description is that of the weights, word for word and in its sizes.

    Afterwards building the policy takes no more memory than the file has.
    """
    spec, mark = metadata["spec"], (file.metadata() or {}).get(MARK)
    if mark is None:  # saved by a version that left none
        absent = [key for key in ("task", "seeds") if key not in metadata]
        if absent:
            raise ValueError(f"policy.json does not name the {absent[0]}")
    elif mark != json.dumps(metadata, sort_keys=True):
        raise ValueError("policy.json was edited, or it belongs to other weights than these")
    shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    seeds, width = shapes["normalizer.mean"]
    if seeds < 1:
        raise ValueError("the weights are of no seed")
    if spec["obs_size"] != width:
        raise ValueError(f"obs_size is {spec['obs_size']}, the weights have {width}")
    if "seeds" in metadata and len(metadata["seeds"]) != seeds:
        raise ValueError(f"seeds are {metadata['seeds']}, the weights have {seeds}")
    if metadata["kind"] == "chunk-policy":
        _check_chunks(spec, seeds, shapes)
        return
    widths: list[int] = []
    while (weight := f"actor.{len(widths)}.weight") in shapes:
        before, width = width, shapes[weight][1]
        if shapes[weight] != [seeds, width, before]:
            raise ValueError(f"{weight} is {shapes[weight]}, not {[seeds, width, before]}")
        widths.append(width)
    if spec["hidden"] != widths[:-1]:
        raise ValueError(f"hidden is {_short(spec['hidden'])}, the weights have {widths[:-1]}")
    actions = spec["action_size"] if "action_size" in spec else len(spec["low"])
    actions *= 2 if metadata["kind"] in ("beta-actor-critic", "squashed-actor") else 1
    actions *= 2 * spec["components"] if spec.get("base") == "mixture" else 1
    if actions != width:
        raise ValueError(f"actions need {actions} outputs, the weights have {width}")
    if metadata["kind"] == "closed-form":
        for name, shape in closed_form_shapes(spec).items():
            if shapes.get(name) != [seeds, *shape]:
                raise ValueError(f"{name} is {shapes.get(name)}, not {[seeds, *shape]}")


def _check_chunks(spec: dict, seeds: int, shapes: dict[str, list[int]]) -> None:
    """ValueError unless the numbers of a chunk policy fit one another and its weights."""
    form = Form(**spec)
    if not (form.acting <= form.chunk and form.ddim <= form.steps):
        raise ValueError(
            f"acting is {form.acting} of {form.chunk}, ddim {form.ddim} of {form.steps}"
        )
    if form.tuned > form.transitions:
        raise ValueError(f"tuned is {form.tuned}, and there are {form.transitions} transitions")
    if len(form.hidden) % 2 == 0 or len(set(form.hidden)) > 1:
        raise ValueError(
            f"hidden is {_short(form.hidden)}; it must be an odd number of equal widths"
        )
    for name, shape in policy_shapes(form).items():
        if shapes[name] != [seeds, *shape]:
            raise ValueError(f"{name} is {shapes[name]}, not {[seeds, *shape]}")


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < GREATEST


def _one_of(known: tuple[str, ...]) -> tuple[Callable[[object], bool], str]:
    return lambda value: isinstance(value, str) and value in known, f"one of {', '.join(known)}"


def _are(values: object, possible: Callable[[object], bool]) -> bool:
    return isinstance(values, list) and all(map(possible, values))


_BOX = (lambda value: _are(value, _is_number) and value, "a list of finite numbers")
_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {  # of a spec: what it must be
    "obs_size": (_is_count, "a whole number of at least 1"),
    "action_size": (_is_count, "a whole number of at least 1"),
    "hidden": (lambda value: _are(value, _is_count), "a list of whole numbers of at least 1"),
    "discrete": (lambda value: isinstance(value, bool), "true or false"),
    "normalize_obs": (lambda value: isinstance(value, bool), "true or false"),
    "activation": _one_of(tuple(SQUASH)),
    "log_std_map": _one_of(tuple(LOG_STD)),
    "low": _BOX,
    "high": _BOX,
    **dict.fromkeys(("running", "residual"), (lambda x: isinstance(x, bool), "true or false")),
    **dict.fromkeys(("chunk", "acting", "tuned"), (_is_count, "a whole number of at least 1")),
    **dict.fromkeys(("steps", "ddim"), (lambda x: _is_count(x, 0) and x <= 10_000, "0 to 10,000")),
    "condition": (lambda value: _are(value, _is_count), "a list of whole numbers of at least 1"),
    "nonlinearity": (lambda x: isinstance(x, str) and x in UNITS, f"one of {', '.join(UNITS)}"),
    "time_dim": (lambda x: _is_count(x, 4) and x % 2 == 0, "an even number of at least 4"),
    "least_std": (lambda value: _is_number(value) and value >= 0, "a number of at least 0"),
    "std_most": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "std_init": (
        lambda value: value is None or (_is_number(value) and value > 0),
        "null or a number above 0",
    ),
    "log_std": (lambda value: value is None or _is_number(value), "null or a finite number"),
    "base": _one_of(BASES),
    "operator": _one_of(OPERATORS),
    "rules": _one_of(RULES),
    "components": (_is_count, "a whole number of at least 1"),
    "critic_hidden": (
        lambda value: _are(value, _is_count) and len(value) > 0,
        "a list of whole numbers of at least 1",
    ),
    "distributional": (lambda value: isinstance(value, bool), "true or false"),
    "log_tau": (lambda value: _is_number(value) and value >= 0, "0 or greater"),
    "delta": (lambda value: _is_number(value) and value >= 0, "0 or greater"),
    "min_weight": (lambda value: _is_number(value) and 0 <= value <= 1, "a number in [0, 1]"),
}


def _short(value: object) -> str:
    """`value` in at most 80 characters."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _assemble(metadata: dict, tensors: dict[str, torch.Tensor]) -> ActorCritic:
    seeds = len(tensors["normalizer.mean"])
    rngs = [np.random.default_rng(0) for _ in range(seeds)]  # drawn over by the saved weights
    policy = KINDS[metadata["kind"]](rngs=rngs, **metadata["spec"])
    statistics = {
        k.removeprefix("normalizer."): v for k, v in tensors.items() if k.startswith("normalizer.")
    }
    views = policy.layout.views(policy.theta)
    surplus = sorted(tensors.keys() - views.keys() - {f"normalizer.{k}" for k in statistics})
    if surplus:
        raise ValueError(f"{surplus[0]} is no part of a policy that policy.json describes")
    for name, view in views.items():
        if tensors[name].shape != view.shape:  # a copy would broadcast
            raise ValueError(f"{name} is {list(tensors[name].shape)}, not {list(view.shape)}")
        view.copy_(tensors[name])
    policy.normalizer.load_state_dict(statistics)
    return policy.eval()


def select_seed(policy: ActorCritic, seed: int) -> ActorCritic:
    """The policy of one slot alone, as a policy of one seed."""
    return select_seeds(policy, [seed])


def select_seeds(policy: ActorCritic, seeds: Sequence[int]) -> ActorCritic:
    """The policy of these slots alone."""
    rngs = [np.random.default_rng(0) for _ in seeds]
    some = type(policy)(rngs=rngs, **policy.spec)
    with torch.no_grad():
        some.theta.copy_(policy.theta[seeds])
    statistics = policy.normalizer.state_dict()
    some.normalizer.load_state_dict({k: v[seeds] for k, v in statistics.items()})
    return some.eval()
