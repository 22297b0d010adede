"""Does Q hold what it promises? `python -m benchmarks.overestimation RUN... [--out FILE.csv]`

For every seed of finished offline runs: the return, the length and the discounted return of fresh
episodes of its deterministic policy, beside Q at their first states. A Q far above the discounted
return that followed is an overestimate. A policy whose discounted return is the higher one may have
the lower return: discounted by 0.99, a step counts a third after 110 steps.

Rows of "data" are the logged episodes themselves. Rewards that a run rescaled are scaled back.
"settings" are what the preset has for that data, and what else is not the algorithm's default.
FILE.json, beside the rows, says what they were made by and of.
"""

import argparse
import csv
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rlsuite import algorithms, envs
from rlsuite.core.actors import BoundedActor
from rlsuite.core.critics import Critics
from rlsuite.core.saving import load_policy
from rlsuite.core.streams import Streams
from rlsuite.datasets import store
from rlsuite.datasets.transitions import Transitions
from rlsuite.runs import checkpoint, machine
from rlsuite.runs.run import from_json
from rlsuite.runs.settings import preset

ABOUT = ("data", "algorithm", "settings", "steps", "seed")
HEADER = (*ABOUT, "episodes", "return", "length", "discounted_return", "value")
DISCOUNT = 0.99  # of what has none: BC and the logged episodes
SEED = 1_000_003  # keeps these episodes apart from the run's own evaluations


class Episodes(NamedTuple):
    """What `play` saw; [S, E] each, `obs` [S, E, O] and `action` [S, E, A] of the first step."""

    returns: np.ndarray
    lengths: np.ndarray
    discounted: np.ndarray
    obs: np.ndarray  # standardised
    action: np.ndarray


def play(
    policy: BoundedActor, pool: envs.Environments, env_seeds: np.ndarray, discount: float
) -> Episodes:
    """One deterministic episode in each environment of `pool`, from `env_seeds` [S, E]."""
    obs, alive = pool.reset(env_seeds), np.ones(env_seeds.shape, bool)
    behaviour = policy.behaviour(pool.action_low, pool.action_high)
    returns, discounted = np.zeros(env_seeds.shape), np.zeros(env_seeds.shape)
    lengths, first, factor = np.zeros(env_seeds.shape, int), None, 1.0
    while alive.any():
        action = behaviour.act(obs)[1]
        first = first or (policy.normalizer.normalize(obs), action)
        step = pool.step(action)
        behaviour.reset(step.terminated | step.truncated)
        returns += alive * step.reward
        discounted += alive * factor * step.reward
        lengths += alive
        factor *= discount
        alive &= ~(step.terminated | step.truncated)
        obs = step.obs
    return Episodes(returns, lengths, discounted, *first)


def first_values(critics: Critics, theta: torch.Tensor, played: Episodes) -> np.ndarray:
    """Q of the first critic where the episodes began, mean over them: [S]."""
    obs, action = (torch.from_numpy(np.float32(x)) for x in (played.obs, played.action))
    return critics.values(theta[:, : critics.layout.size], obs, action)[:, 0].mean(1).numpy()


def reward_scale(module, config, data: Transitions) -> float | None:
    """What `module` multiplies the rewards of `data` with; None where it also shifts them."""
    if getattr(config, "reward_shift", 0.0):
        return None
    return module.reward_scale(config, data) if hasattr(module, "reward_scale") else 1.0


def described(folder: Path) -> tuple[dict, Transitions]:
    """config.json of a finished run, and what it learned from. ValueError where there is none."""
    if not (folder / "finished").exists():
        raise ValueError(f"{folder} has not finished; name run folders that have")
    manifest = json.loads((folder / "config.json").read_text())
    if not manifest.get("data"):
        raise ValueError(
            f"{folder}: {manifest['algorithm']} learned from no data; name runs that did"
        )
    return manifest, store.load(manifest["settings"]["dataset"], task=manifest["task"])


def own_settings(module, manifest: dict) -> str:
    """What a run's preset sets, and what else is no default, but its steps: "alpha 0.1"."""
    usual = json.loads(json.dumps(asdict(module.Config())))
    name, task, data = manifest["preset"], manifest["task"], manifest["settings"]["dataset"]
    own = set(preset(module, name, task, data) if name else ())
    own |= {key for key, value in manifest["config"].items() if value != usual[key]}
    own -= {"gradient_steps", *(manifest.get("uses") or {})}
    return ", ".join(f"{key} {value}" for key, value in manifest["config"].items() if key in own)


def of_run(folder: Path, manifest: dict, data: Transitions, episodes: int) -> list[tuple]:
    """A row per seed of a run, from so many fresh episodes of each."""
    module, seeds = algorithms.load(manifest["algorithm"]), manifest["settings"]["seeds"]
    config, (policy, _) = from_json(module.Config, manifest["config"]), load_policy(folder)
    pool = envs.make(manifest["task"], seeds, episodes)
    env_seeds = Streams([SEED + seed for seed in seeds]).integers("evaluation", episodes)
    played = play(policy, pool, env_seeds, getattr(config, "discount", DISCOUNT))
    pool.close()
    learner = checkpoint.load(folder / "checkpoint", print)[1]["learner"]
    scale, values = reward_scale(module, config, data), [""] * len(seeds)
    if scale and "critic" in learner.get("state", {}):
        critics = Critics(pool.obs_size, pool.action_size, config.hidden)
        values = first_values(critics, learner["state"]["critic"]["theta"], played) / scale
        values = [f"{value:.1f}" for value in values]
    means = np.stack([played.returns, played.lengths, played.discounted], 1).mean(2)  # [S, 3]
    name = (
        data.metadata["name"],
        manifest["algorithm"],
        own_settings(module, manifest),
        config.gradient_steps,
    )
    return [
        (*name, seed, episodes, *(f"{x:.1f}" for x in each), value)
        for seed, each, value in zip(seeds, means, values, strict=True)
    ]


def of_data(data: Transitions, discount: float = DISCOUNT) -> tuple:
    """The row of logged episodes."""
    bounds, reward = data.bounds(), np.asarray(data.reward, np.float64)
    parts = [reward[start:end] for start, end in bounds]
    discounted = [part @ discount ** np.arange(len(part)) for part in parts]
    means = (np.mean([part.sum() for part in parts]), len(reward) / len(parts), np.mean(discounted))
    figures = (f"{mean:.1f}" for mean in means)
    return (data.metadata["name"], "data", "", "", "", len(parts), *figures, "")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the rows, and write them to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="finished run folders")
    parser.add_argument("--episodes", type=int, default=10, help="of each seed")
    parser.add_argument("--out", type=Path, help="also write a CSV file")
    options = parser.parse_args(argv)
    words = ["python", "-m", "benchmarks.overestimation", *(sys.argv[1:] if argv is None else argv)]
    made = {"command": shlex.join(words), "commit": machine.git_commit()}
    made |= {"versions": machine.versions(), "hardware": machine.hardware(), "runs": []}
    lines = {}  # of every data set: its own row, then those of its runs
    try:
        for folder, (manifest, data) in [(folder, described(folder)) for folder in options.runs]:
            name = data.metadata["name"]
            lines[name] = lines.get(name) or [of_data(data)]
            lines[name] += of_run(folder, manifest, data, options.episodes)
            made["runs"] += [{k: manifest[k] for k in ("command", "commit", "config_hash")}]
    except ValueError as error:
        parser.error(str(error))
    lines = [line for name in sorted(lines) for line in lines[name]]
    csv.writer(sys.stdout).writerows([HEADER, *lines])
    if options.out:
        with options.out.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([HEADER, *lines])
        options.out.with_suffix(".json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
