"""Clones of logged behaviour: whole policies that a run leaves for others to begin with."""

from pathlib import Path

import torch

from rlsuite.core.chunks import ChunkPolicy
from rlsuite.core.saving import load_policy, save_policy

CLONE = "clone"  # the clone's folder, in the run's
FREE = ("tuned", "least_std", "acting", "ddim")  # what may differ: another run's own choices


def save_clone(policy: ChunkPolicy, run, data) -> None:
    """Write what `run` has cloned from `data` to its folder, whole: it can be evaluated alone."""
    about = {"algorithm": run.algorithm, "task": run.task, "seeds": list(run.seeds), "step": 0}
    save_policy(policy, run.folder / CLONE, about | {"data": data.about["sha256"]})


def start_policy(config, run, data, envs) -> ChunkPolicy:
    """A fresh policy, scaled by the limits of `data` if there is any; or another run's clone.

    Raises ValueError where the task, the data or the clone do not fit.
    """
    if envs.discrete:
        raise ValueError(
            f"{run.task} has discrete actions; {run.algorithm} needs continuous ones, as in "
            "--env Hopper-v4"
        )
    if config.clone_iterations and data is None:
        raise ValueError(
            f"which data? type: rlsuite train {run.algorithm} --dataset NAME; or name a run that "
            f"has cloned: --clone FOLDER; or from scratch: --env {run.task} --preset scratch"
        )
    if config.clone:
        return load_clone(Path(config.clone) / CLONE, config, run, data)
    return ChunkPolicy.of(config, envs, data, run.streams["init"])


def load_clone(folder: Path, config, run, data) -> ChunkPolicy:
    """The clone of every seed of `run`; that of a run of one seed serves every seed.

    Raises ValueError for one that is missing or damaged, of another task, of other data than `data`
    (None: of any), of other networks, or that lacks a seed.
    """
    saved, about = load_policy(folder)
    if not isinstance(saved, ChunkPolicy):
        raise ValueError(f"{folder} is no clone of {run.algorithm}; name one of its run folders")
    if about.get("task") != run.task:
        raise ValueError(
            f"{folder} was cloned for {about.get('task')}, not {run.task}; name another"
        )
    if data is not None and about.get("data") != data.about["sha256"]:
        raise ValueError(f"{folder} was cloned from other data than --dataset names; leave one out")
    found = saved.spec
    wanted = found | ChunkPolicy.chosen(config)
    for name in wanted.keys() - set(FREE):
        if found[name] != wanted[name]:
            raise ValueError(f"{folder} has {name} {found[name]}, not {wanted[name]}")
    seeds = about["seeds"]
    absent = sorted(set(run.seeds) - set(seeds))
    if absent and len(seeds) > 1:
        raise ValueError(f"{folder} has seeds {seeds}, not {absent}; clone those, too")
    rows = [0 if len(seeds) == 1 else seeds.index(seed) for seed in run.seeds]
    policy = ChunkPolicy(rngs=run.streams["init"], **wanted)
    with torch.no_grad():
        policy.theta.copy_(saved.theta[rows])
    statistics = saved.normalizer.state_dict()
    policy.normalizer.load_state_dict({key: value[rows] for key, value in statistics.items()})
    return policy
