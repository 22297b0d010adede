"""From behaviour policies to a Minari data set of whole episodes.

Episodes are numbered as they start, over all parallel environments. A part of a set is its first K
episodes, K the first number at which they hold the steps asked for. So whether an episode is in
depends on those that started before it, never on how soon it ended: short and long episodes are as
frequent as in one environment running alone. Episodes that started later are thrown away, however
complete; those that started earlier are waited for.
"""

import hashlib
import platform
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from rlsuite import __version__
from rlsuite.datasets import behaviour, minari, scores, writing
from rlsuite.datasets.behaviour import NamedBehaviour
from rlsuite.datasets.minari import Episode
from rlsuite.datasets.recipes import UNIFORM, Recipe
from rlsuite.datasets.transitions import DatasetError
from rlsuite.envs.engines import Environments, make

MOST_ENVIRONMENTS = 64  # EnvPool's speed hardly grows with more, and each may waste an episode
STEPS_PER_ENVIRONMENT = 1000  # of a part, at least: for a small set, fewer environments
ENDLESS = 100_000  # steps after which an episode without a time limit is taken to have no end

# progress(steps of the set so far, returns of the latest episodes, seconds of each kind of work)
Progress = Callable[[int, list[float], dict[str, float]], None]


def _silent(steps: int, returns: list[float], seconds: dict[str, float]) -> None:
    pass


def collect(
    recipe: Recipe,
    policies: Path | None = None,
    seed: int | None = None,
    steps: int | None = None,
    progress: Progress = _silent,
) -> Path:
    """Collect the set that `recipe` describes; the folder of the new Minari set.

    `policies` is the folder of the snapshots, or the run folder. `seed` and `steps` replace the
    recipe's. The same recipe, policies, engine and versions give the same set. Where the command
    line is not used, set OPENBLAS_NUM_THREADS=1 first: on 64 rows more threads only cost.

    Raises DatasetError, before any work, for a set that is there already, and for policies that are
    missing or do not fit the task; ValueError for an unknown task.
    """
    given = {"seed": seed, "steps": steps}
    recipe = replace(recipe, **{key: value for key, value in given.items() if value is not None})
    found = roll_parts(recipe, partial(_actor, recipe, policies), progress)
    metadata = _metadata(recipe, policies, found)
    return minari.write_episodes(recipe.name, recipe.task, found.episodes, metadata)


class Rolled(NamedTuple):
    """What the policies of a recipe did, and who they were."""

    names: str
    parts: dict[str, list[Episode]]
    engine: str
    num_envs: int  # environments side by side

    @property
    def episodes(self) -> list[Episode]:
        return [episode for part in self.parts.values() for episode in part]


def roll_parts(
    recipe: Recipe,
    actor: Callable[[str, Environments], NamedBehaviour],
    progress: Progress = _silent,
    densities: bool = False,
) -> Rolled:
    """Let `actor(part, envs)` act for each part of `recipe`; `densities`: episodes have log_prob.

    Raises as `collect`.
    """
    minari.require_free(recipe.name)
    quotas = recipe.quotas()
    count = min(max(min(quotas.values()) // STEPS_PER_ENVIRONMENT, 1), MOST_ENVIRONMENTS)
    envs = make(recipe.task, [recipe.seed], count)
    row = 4 * (envs.obs_size + (2 if envs.discrete else envs.action_size) + 1) + 2  # and two flags
    writing.require_disk(minari.root(), row * recipe.steps, minari.ADVICE)
    try:
        actors = {part: actor(part, envs) for part in quotas}
        parts: dict[str, list[Episode]] = {}
        for part, quota in quotas.items():
            before = sum(len(e.reward) for episodes in parts.values() for e in episodes)

            def ahead(steps: int, *rest, before=before) -> None:
                progress(before + steps, *rest)

            rng = _generator(recipe.seed, part)
            parts[part] = roll(actors[part], envs, quota, rng, ahead, densities)
        names = " + ".join(each.name for each in actors.values())
        return Rolled(names, parts, envs.engine, envs.num_envs)
    finally:
        envs.close()


def roll(
    policy: NamedBehaviour,
    envs: Environments,
    steps: int,
    rng: np.random.Generator,
    progress: Progress = _silent,
    densities: bool = False,
) -> list[Episode]:
    """The first episodes, in the order of their starts, that hold `steps` transitions or more.

    `envs` has one slot. `densities`: they have the log_prob of actions, where `policy` knows it.
    `rng` gives everything random: the environments' seeds, then the noise.
    Raises DatasetError for a task whose episodes do not end.
    """
    n = envs.num_envs
    env_seeds = environment_seeds(rng, n)
    policy.seed(env_seeds)
    obs = envs.reset(env_seeds)
    number, start, started = list(range(n)), np.zeros(n, np.int64), n
    rows, ends, returns, seen = [], {}, [], envs.finished
    kept = held = 0  # episodes 0 .. kept - 1 have ended, and hold `held` steps
    seconds = {"physics": 0.0, "inference": 0.0}
    while held < steps:
        began = perf_counter()
        action = policy.act(obs, [rng])[1]
        acted = perf_counter()
        step = envs.step(action)
        policy.reset(step.terminated | step.truncated)
        seconds["inference"] += acted - began
        seconds["physics"] += perf_counter() - acted
        row = (obs[0].astype(np.float32), action[0], step.reward[0])
        known = densities and policy.log_prob is not None
        rows.append((*row, policy.log_prob[0]) if known else row)
        obs, now = step.obs, len(rows)
        for episode in envs.episodes(seen):
            copy = episode.copy
            flags = bool(step.terminated[0, copy]), bool(step.truncated[0, copy])
            final_obs = step.final_obs[0, copy].astype(np.float32)
            ends[number[copy]] = (copy, int(start[copy]), now, final_obs, *flags)
            number[copy], start[copy], started = started, now, started + 1
            returns = [*returns[-99:], episode.ret]
        seen = envs.finished
        before = held
        while held < steps and kept in ends:
            _, first, end, *_ = ends[kept]
            held, kept = held + end - first, kept + 1
        if held > before:
            progress(held, returns, seconds)
        if now - start.min() > ENDLESS:
            raise DatasetError(f"{envs.task}: an episode had no end after {ENDLESS} steps")
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    return [_cut(columns, *ends[k]) for k in range(kept)]


def environment_seeds(rng: np.random.Generator, count: int) -> np.ndarray:
    """[1, count]: what `Environments.reset` takes."""
    return rng.integers(0, 2**31 - 1, (1, count))


def _cut(columns, copy, first, end, final_obs, terminated: bool, truncated: bool) -> Episode:
    """Steps first .. end - 1 of one environment, out of columns [T, n, ...]."""
    obs, *rest = (column[first:end, copy].copy() for column in columns)
    action, reward, *log_prob = rest
    whole = np.concatenate([obs, final_obs[None]])
    return Episode(whole, action, reward, terminated, truncated, *log_prob)


def _actor(recipe: Recipe, policies: Path | None, part: str, envs: Environments) -> NamedBehaviour:
    if part == UNIFORM:
        return behaviour.uniform(envs)
    if policies is None:
        raise DatasetError(f"where are the policies of {recipe.name}? type: --policies FOLDER")
    if recipe.snapshots is not None:
        return behaviour.snapshot(policies / recipe.snapshots, part, envs, recipe.mode)
    if not part.isdecimal():
        raise DatasetError(f"{recipe.name}: part {part!r} is no seed of a run; add `snapshots`")
    return behaviour.saved(policies, int(part), envs, recipe.mode)


def _generator(seed: int, part: str) -> np.random.Generator:
    # By the policy's name: the first half of a medium-expert set is the medium set itself
    return np.random.default_rng([seed, zlib.crc32(part.encode())])


def _metadata(recipe: Recipe, policies: Path | None, found: Rolled) -> dict:
    """What the set says of itself, in JSON's types; no path and no date, so that it is repeatable.

    `algorithm_name`, `description`, `ref_min_score` and `ref_max_score` are Minari's own keys.
    """
    sha256 = _sha256(recipe, policies)
    made_by = f"policies {recipe.source}" if sha256 else "uniform actions"
    return {
        "algorithm_name": found.names,
        "description": f"Collected on {recipe.task} by rlsuite. Not a set of D4RL.",
        "source": f"collected by rlsuite: {found.names}; {made_by}",
        "policies_sha256": sha256,
        "recipe": asdict(recipe),
        **described(recipe, found),
        **references(recipe.task),
    }


def described(recipe: Recipe, found: Rolled) -> dict:
    """What was collected, part by part, and with what."""
    parts = {}
    for part, episodes in found.parts.items():
        # What `roll` drew first
        seeds = environment_seeds(_generator(recipe.seed, part), found.num_envs)[0].tolist()
        parts[part] = summary(episodes) | {"environment_seeds": seeds}
    whole = {"parts": parts, "whole": summary(found.episodes)}
    return whole | {"engine": found.engine, "versions": versions()}


def references(task: str) -> dict:
    """The returns that score 0 and 100, under Minari's keys, and whose they are."""
    known = scores.reference(task)
    if known is None:
        return {}
    scale = {"ref_min_score": known.minimum, "ref_max_score": known.maximum}
    return scale | {"ref_source": known.text}


def summary(episodes: list[Episode]) -> dict:
    returns = np.array([episode.reward.sum(dtype=np.float64) for episode in episodes])
    lengths = np.array([len(episode.reward) for episode in episodes])
    return {
        "episodes": len(episodes),
        "steps": int(lengths.sum()),
        "mean_length": float(lengths.mean()),
        "return": {name: float(getattr(returns, name)()) for name in ("mean", "std", "min", "max")},
    }


def _sha256(recipe: Recipe, policies: Path | None) -> str | None:
    """Of the file that holds the policies; None where all is uniform."""
    if policies is None or set(recipe.parts) == {UNIFORM}:
        return None
    whole = (policies / "policy.json").exists()  # else it lies in the run's folder `policy`
    name = recipe.snapshots or ("policy.safetensors" if whole else "policy/policy.safetensors")
    return hashlib.sha256((policies / name).read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Of everything that has a part in the numbers."""
    found = {"rlsuite": __version__, "python": platform.python_version()}
    for package in ("numpy", "gymnasium", "mujoco", "envpool"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
