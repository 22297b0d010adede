"""Small result folders for the tests of tables, curves and the report."""

import csv
import json
from pathlib import Path

import numpy as np

HEADER = "seed,step,return,cost,length,score,wall_seconds,training_return"
PUBLISHED_HEADER = (
    "algorithm,task,environment,source,citation,steps,metric,mean,spread,spread_kind,seeds,"
    "status,error"
)


def write_rows(file: Path, finals: list[float], steps: list[int], **cells: object) -> None:
    """Seed s climbs in a straight line to finals[s]; it trains 10 below its evaluation."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER.split(","))
        for step in steps:
            for seed, final in enumerate(finals):
                value = final * step / steps[-1]
                row = {
                    "seed": seed,
                    "step": step,
                    "return": value,
                    "cost": 0,
                    "length": 1000,
                    "score": "",
                    "wall_seconds": 3600 * step / steps[-1],
                    "training_return": value - 10,
                    **cells,
                }
                writer.writerow([row[name] for name in HEADER.split(",")])


def manifest(algorithm: str, task: str, seeds: int, steps: int) -> dict:
    return {
        "algorithm": algorithm,
        "task": task,
        "preset": "mujoco",
        "command": f"rlsuite train {algorithm} --env {task}",
        "config": {"gamma": 0.99},
        "config_hash": "ab12",
        "commit": "c0ffee",
        "versions": {"torch": "2.13.0"},
        "hardware": {"cpu": "test", "cores": 2, "memory_gib": 24},
        "seeds": list(range(seeds)),
        "engine": "gymnasium",
        "steps": steps,
        "wall_seconds": 3600.0,
    }


def write_benchmark(
    folder: Path,
    runs: dict[tuple[str, str], list[float]],
    steps: tuple[int, ...] = (250_000, 500_000, 999_424),
    planned: int = 1_000_000,
    **cells: object,
) -> Path:
    """runs: (algorithm, task) -> final evaluation return of every seed."""
    for (algorithm, task), finals in runs.items():
        file = folder / algorithm / f"{task}.csv"
        write_rows(file, finals, list(steps), **cells)
        facts = manifest(algorithm, task, len(finals), planned)
        file.with_suffix(".json").write_text(json.dumps(facts))
    return folder


def write_run(folder: Path, finals: list[float]) -> Path:
    """A run folder, as training leaves it."""
    write_rows(folder / "evaluations.csv", finals, [500_000, 999_424])
    facts = manifest("ppo", "Hopper-v4", len(finals), 1_000_000)
    (folder / "config.json").write_text(json.dumps(facts))
    return folder


def write_published(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ppo.csv").write_text("\n".join([PUBLISHED_HEADER, *lines]) + "\n")
    return folder


def published_line(source: str, **cells: object) -> str:
    """A published PPO value on Hopper, at 1M steps of v4, unless `cells` say otherwise."""
    values = {
        "algorithm": "ppo",
        "task": "Hopper",
        "environment": "v4",
        "source": source,
        "citation": "page 1",
        "steps": 1_000_000,
        "metric": "training return, end of training",
        "mean": "2382.86",
        "spread": "271.74",
        "spread_kind": "std over seeds",
        "seeds": 3,
        "status": "verified",
        "error": "",
        **cells,
    }
    return ",".join(f'"{values[name]}"' for name in PUBLISHED_HEADER.split(","))


MAXIMUM = {
    "environment": "v3",
    "metric": "max over training of the mean of 10 test episodes",
    "mean": "2609.3",
    "spread": "700.8",
    "seeds": 10,
}
CURVE = {
    "environment": "v3",
    "metric": "training return smoothed over 11 epochs, point on a longer curve",
    "mean": "1770",
    "spread": "",
    "spread_kind": "",
    "status": "digitised",
    "error": "2%",
}


def finals(rng_seed: int, seeds: int, centre: float) -> list[float]:
    return list(centre * (1 + 0.1 * np.random.default_rng(rng_seed).standard_normal(seeds)))
