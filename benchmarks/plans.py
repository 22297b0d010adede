"""Who competes in the speed benchmark, and what is asked of whom: data for speed.py.

A contestant is a name and one specification for each of its processes; contestants.py
does what a specification says. A question compares the best of some contestants with the best of
others.
"""

import os
from dataclasses import dataclass

from rlsuite.algorithms import load
from rlsuite.runs.settings import preset

CORES = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else [0, 1]
COPIES = (1, 8)  # environments per seed: 1 x 2048 and 8 x 256 steps make one iteration of PPO

Contestants = dict[str, list[dict]]
Question = tuple[list[str], list[str], float]  # ours, against, target; 0 is no target


@dataclass(frozen=True)
class Plan:
    """What is measured: `many` is how many seeds a sweep has (even)."""

    algorithm: str
    tasks: tuple[str, ...] = ("Hopper-v4", "HalfCheetah-v4")
    counts: tuple[int, ...] = (1, 5, 10)  # PPO's numbers of seeds, `many` among them
    many: int = 10
    rounds: int = 5
    seconds: float = 1.0  # a turn is whole iterations for at least so long


PLANS = {name: Plan(name) for name in ("ppo", "trpo", "mdpo")}
PLANS["fixpo"] = Plan("fixpo", rounds=3)  # an iteration takes seconds
TITLES = {"ppo": "PPO", "trpo": "TRPO", "mdpo": "MDPO", "fixpo": "FixPO"}
# What the peers are in, in pip's words
PEER_PACKAGES = {"ppo": ("stable-baselines3",), "trpo": ("stable-baselines3", "sb3-contrib")}


def quick(algorithm: str) -> Plan:
    return Plan(algorithm, ("HalfCheetah-v4",), (1, 2), 2, 1, 0.1)


def contestants(plan: Plan, task: str, with_peer: bool) -> Contestants:
    """All that are measured on `task`, in turn."""
    if plan.algorithm == "ppo":
        found = ppo_contestants(task, plan.counts, plan.many)
    else:
        found = preset_contestants(plan.algorithm, task, plan.many)
    return found | (PEERS[plan.algorithm](task) if with_peer else {})


def questions(plan: Plan, task: str) -> list[Question]:
    if plan.algorithm == "ppo":
        return ppo_questions(plan.counts, plan.many)
    return preset_questions(plan.algorithm, task, plan.many)


def manifest(plan: Plan, compiled: bool) -> str:
    """What the names of the contestants mean. compiled: whether the update at the preset was."""
    if plan.algorithm == "ppo":
        return PPO_ABOUT
    config = preset_config(plan.algorithm, plan.tasks[0])
    text = (
        f"Preset `mujoco`: {config.num_envs}x{config.num_steps} transitions (environments x steps) "
        "per seed and iteration; whole iterations after warm-up, environment steps of all seeds "
        "together. "
        f"{TWO_PROCESSES}: half of the seeds in each. EnvPool alone: random actions, nothing else. "
        f"Our update is {'compiled' if compiled else 'plain PyTorch'}, as `--compile auto` decides."
    )
    return text + (TRPO_PEER_ABOUT if plan.algorithm == "trpo" else "")


PPO_ABOUT = (
    "64-64 networks, 2048 transitions per seed and iteration, 10 epochs of 32 minibatches; "
    "whole iterations after warm-up, environment steps of all seeds together. 8x256: 8 "
    "environments of 256 steps each. SB3 is Stable-Baselines3's PPO: at these settings with "
    "VecNormalize and the better of 1 and 2 threads, or at its defaults with one core for each "
    "of two runs. "
    "EnvPool alone: random actions, nothing else. Unless eager, our update is compiled."
)
TRPO_PEER_ABOUT = (
    " sb3-contrib is its TRPO with one core for each of two runs, at its defaults or at these "
    "settings with VecNormalize."
)

# ------------------------------------------------------------------------------------- names


def ours_name(seeds: int, copies: int, how: str = "1 thread") -> str:
    return preset_name(seeds, f"{copies}x{2048 // copies}, {how}")


def preset_name(seeds: int, how: str) -> str:
    return f"{seeds} seed{'s'[: seeds > 1]}, {how}"


def peer_name(copies: int, threads: int) -> str:
    return f"SB3, {copies}x{2048 // copies}, {threads} thread{'s'[: threads > 1]}"


def envpool_name(count: int) -> str:
    return f"EnvPool alone, {count} environment{'s'[: count > 1]}"


TWO_PROCESSES, TWO_THREADS, EAGER = "2 processes of 1 core", "2 threads", "eager, 1 thread"
TWO_PEERS = "SB3 defaults, 2 runs at a time"
CONTRIB_DEFAULTS = "sb3-contrib defaults, 2 runs at a time"
CONTRIB_SAME = "sb3-contrib, same settings, 2 runs at a time"

# --------------------------------------------------------------------------------------- PPO


def ppo_contestants(task: str, counts: tuple[int, ...], many: int) -> Contestants:
    """PPO with 1 and 8 environments per seed, EnvPool with as many in all."""

    def spec(seeds: int, copies: int, threads: int = 1, compile: str = "on", cores=CORES) -> dict:
        shape = {"num_envs": copies, "num_steps": 2048 // copies}
        manifest = {
            "who": "ours",
            "algorithm": "ppo",
            "task": task,
            "seeds": seeds,
            "config": shape,
        }
        return manifest | {"threads": threads, "compile": compile, "cores": cores}

    found = {}
    for copies in COPIES:
        found[ours_name(1, copies, EAGER)] = [spec(1, copies, compile="off")]
        found |= {ours_name(s, copies): [spec(s, copies)] for s in counts}
        found[ours_name(many, copies, TWO_THREADS)] = [spec(many, copies, threads=2)]
        halves = [spec(many // 2, copies, cores=[core]) for core in CORES]
        found[ours_name(many, copies, TWO_PROCESSES)] = halves
    for count in sorted({s * n for s in counts for n in COPIES}):
        found |= envpool_alone(task, count)
    return found


def envpool_alone(task: str, count: int) -> Contestants:
    threads = max(1, min(len(CORES), count // 2))  # what the suite gives EnvPool
    manifest = {"who": "envpool", "task": task, "copies": count}
    return {envpool_name(count): [manifest | {"threads": threads, "cores": CORES}]}


def ppo_peers(task: str) -> Contestants:
    """Stable-Baselines3: at our settings with 1 and 2 threads, and two runs at its defaults."""
    config = load("ppo").Config()
    same = {
        "batch_size": 2048 // config.num_minibatches,
        "n_epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "gamma": config.discount,
        "gae_lambda": config.gae_lambda,
        "clip_range": config.clip,
        "clip_range_vf": config.value_clip,
        "max_grad_norm": config.max_grad_norm,
        "policy_kwargs": {"net_arch": list(config.hidden)},
    }
    manifest, found = {"who": "peer", "algorithm": "ppo", "task": task}, {}
    for copies in COPIES:
        settings = {"settings": same | {"n_steps": 2048 // copies}, "normalize": True}
        for threads in (1, 2):
            process = manifest | settings | {"copies": copies, "threads": threads, "cores": CORES}
            found[peer_name(copies, threads)] = [process]
    return found | {TWO_PEERS: two_runs(manifest, {}, copies=1, normalize=False)}


def two_runs(manifest: dict, settings: dict, copies: int, normalize: bool) -> list[dict]:
    """A peer at `settings`, in a process of its own on each core."""
    each = manifest | {"settings": settings, "normalize": normalize, "copies": copies, "threads": 1}
    return [each | {"cores": [core]} for core in CORES]


def ppo_questions(counts: tuple[int, ...], many: int) -> list[Question]:
    asked = []
    for copies, target in zip(COPIES, (3.0, 2.5), strict=True):
        peers = [peer_name(copies, threads) for threads in (1, 2)]
        asked.append(([ours_name(1, copies)], peers, target))
        asked.append(([ours_name(1, copies, EAGER)], peers, 0.0))
    hows = ("1 thread", TWO_THREADS, TWO_PROCESSES)
    for copies in COPIES:
        for seeds in counts:
            every = [ours_name(seeds, copies, how) for how in hows]
            ours = every if seeds == many else every[:1]
            asked.append((ours, [envpool_name(seeds * copies)], 0.6 if seeds == many else 0.0))
    asked += [([ours_name(many, 1, how)], [TWO_PEERS], 0.0) for how in hows]
    asked.append(([ours_name(many, 1, how) for how in hows], [TWO_PEERS], 4.0))
    return asked


# -------------------------------------------------------------- any other paper, at its preset


def preset_config(algorithm: str, task: str):
    module = load(algorithm)
    return module.Config(**preset(module, "mujoco", task))


def preset_contestants(algorithm: str, task: str, many: int) -> Contestants:
    """`rlsuite train ALGORITHM --preset mujoco` twice on a core each and once, and EnvPool."""

    def spec(seeds: int, cores: list[int]) -> dict:
        manifest = {
            "who": "ours",
            "algorithm": algorithm,
            "task": task,
            "seeds": seeds,
            "config": {},
        }
        return manifest | {"threads": 1, "compile": "auto", "cores": cores}

    found = {
        preset_name(many, TWO_PROCESSES): [spec(many // 2, [core]) for core in CORES],
        preset_name(many, "1 thread"): [spec(many, CORES)],
    }
    return found | envpool_alone(task, many * preset_config(algorithm, task).num_envs)


def trpo_peers(task: str) -> Contestants:
    """sb3-contrib, two runs: at its defaults, and at our settings."""
    config = preset_config("trpo", task)
    same = {
        "n_steps": config.num_steps,
        "batch_size": config.rollout_size // config.critic_minibatches,
        "learning_rate": config.critic_lr,
        "n_critic_updates": config.critic_epochs,
        "gamma": config.discount,
        "gae_lambda": config.gae_lambda,
        "target_kl": config.max_kl,
        "cg_max_steps": config.cg_iterations,
        "cg_damping": config.cg_damping,
        "sub_sampling_factor": config.fisher_every,
        "line_search_shrinking_factor": config.backtrack,
        "line_search_max_iter": config.backtrack_tries,
        "policy_kwargs": {"net_arch": list(config.hidden)},
    }
    manifest = {"who": "peer", "algorithm": "trpo", "task": task}
    return {
        CONTRIB_DEFAULTS: two_runs(manifest, {}, copies=1, normalize=False),
        CONTRIB_SAME: two_runs(manifest, same, config.num_envs, normalize=config.normalize_obs),
    }


PEERS = {"ppo": ppo_peers, "trpo": trpo_peers}


def preset_questions(algorithm: str, task: str, many: int) -> list[Question]:
    ours = [preset_name(many, how) for how in (TWO_PROCESSES, "1 thread")]
    count = many * preset_config(algorithm, task).num_envs
    asked = [([name], [envpool_name(count)], 0.0) for name in ours]
    if algorithm == "trpo":
        for peer in (CONTRIB_DEFAULTS, CONTRIB_SAME):
            asked += [([name], [peer], 0.0) for name in ours]
            asked.append((ours, [peer], 4.0))
    return asked
