"""Clones of logged behaviour: whole policies that a run leaves for others to begin with."""

import torch

from rlsuite.core.chunks import ChunkPolicy

FREE = ("tuned", "least_std", "acting", "ddim")  # what may differ: another run's own choices


def start_policy(config, run, data, envs) -> ChunkPolicy:
    """A fresh policy, scaled by the limits of `data` if there is any; or another run's clone.

    Raises ValueError where the task, the data or the clone do not fit.
    """
    if envs.discrete:
        raise ValueError(
            f"{run.task} has discrete actions; {run.algorithm} needs continuous ones, as in "
            "--env Hopper-v4"
        )
    if config.clone_epochs and not config.clone and data is None:
        raise ValueError(
            f"which data? type: rlsuite train {run.algorithm} --dataset NAME; or name a run that "
            f"has cloned: --clone FOLDER; or from scratch: --env {run.task} --preset scratch"
        )
    if config.clone:
        return load_clone(config, run)
    return ChunkPolicy.of(config, envs, data, run.streams["init"])


def load_clone(config, run) -> ChunkPolicy:
    """The clone of every seed of `run` in the run folder `config.clone`.

    Raises ValueError for one that is missing or damaged, of another task or other data, of other
    networks, or that lacks a seed.
    """
    saved, rows = run.saved_policy(config.clone, "clone")
    if not isinstance(saved, ChunkPolicy):
        raise ValueError(f"{config.clone} has no clone of {run.algorithm}; name one of its runs")
    wanted = saved.spec | ChunkPolicy.chosen(config)
    for name in sorted(wanted.keys() - set(FREE)):
        if saved.spec[name] != wanted[name]:
            known = f"{name} {saved.spec[name]}, not {wanted[name]}"
            raise ValueError(f"the clone in {config.clone} has {known}")
    policy = ChunkPolicy(rngs=run.streams["init"], **wanted)
    with torch.no_grad():
        policy.theta.copy_(saved.theta[rows])
    statistics = saved.normalizer.state_dict()
    policy.normalizer.load_state_dict({key: value[rows] for key, value in statistics.items()})
    return policy
