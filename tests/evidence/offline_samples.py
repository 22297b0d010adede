"""Small result folders of offline runs: one task has several data sets, and scores are filled."""

import csv
import json
from pathlib import Path

from evidence_samples import HEADER, manifest, published_line

TASKS = {"hopper": "Hopper-v4", "halfcheetah": "HalfCheetah-v4", "walker2d": "Walker2d-v4"}
MEDIUM = "deep-ope/hopper/medium-v0"
END = "deterministic normalised score, end of training"


def data_facts(name: str, **facts: object) -> dict:
    """What config.json and the manifest say of a data set."""
    return {
        "name": name,
        "sha256": f"sha of {name}",
        "source": "collected by rlsuite: online_5",
        "timeouts": "kept",
        "transitions": 1_000_000,
        "episodes": 2186,
        "mean_return": 1607.0137,  # halfway between Hopper's references: a score of 50
        **facts,
    }


def write_offline(
    folder: Path,
    runs: dict[tuple[str, str], list[float]],
    evaluations: int = 20,
    steps: int = 1_000_000,
    peak: float = 0.0,
    **facts: object,
) -> Path:
    """runs: (algorithm, data set) -> final score of every seed.

    A score climbs in a straight line from 0; `peak` is added to all seeds at the tenth evaluation.
    The return is ten times the score. facts: of the data.
    """
    for (algorithm, name), finals in runs.items():
        short = "-".join(name.split("/")[1:])
        file = folder / algorithm / f"{short}.csv"
        write_scores(file, finals, evaluations, steps, peak)
        about = manifest(algorithm, TASKS[short.split("-")[0]], len(finals), steps)
        about["data"] = data_facts(name, **facts)
        file.with_suffix(".json").write_text(json.dumps(about))
    return folder


def write_offline_run(folder: Path, finals: list[float], first: int = 0, **changes: object) -> Path:
    """A finished run folder of TD3+BC on MEDIUM, seeds from `first` on, as training leaves it."""
    write_scores(folder / "evaluations.csv", finals, 20, 1_000_000, 0.0, first)
    about = manifest("td3_bc", "Hopper-v4", len(finals), 1_000_000)
    seeds = [first + seed for seed in about.pop("seeds")]
    about["settings"] = {"seeds": seeds, "evaluations": 20, "evaluation_episodes": 10}
    about["settings"]["dataset"] = MEDIUM
    about |= {"data": data_facts(MEDIUM), **changes}
    (folder / "config.json").write_text(json.dumps(about))
    logged = (("0.25,3,", "0.5,,"), ("0,-1,", "1.25,1,"))  # of two seeds: odd and even iterations
    lines = ["seed,step,kl,loss,empty,wall_seconds"]
    for number in range(20):
        cells = zip(seeds, logged[number % 2] * len(seeds), strict=False)
        lines += [f"{seed},{50_000 * (number + 1)},{cell},1" for seed, cell in cells]
    (folder / "progress.csv").write_text("\n".join(lines) + "\n")
    (folder / "finished").write_text("1.0 seconds\n")
    return folder


def write_scores(
    file: Path, finals: list[float], evaluations: int, steps: int, peak: float, first: int = 0
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER.split(","))
        for number in range(1, evaluations + 1):
            for seed, final in enumerate(finals, first):
                score = final * number / evaluations + peak * (number == 10)
                step = steps * number // evaluations
                row = [seed, step, 10 * score, 0, 1000, score, 3600 * number / evaluations, ""]
                writer.writerow(row)


def offline_line(source: str, **cells: object) -> str:
    """A published score of TD3+BC on hopper-medium of D4RL-v2, unless `cells` say otherwise."""
    values = {
        "algorithm": "td3_bc",
        "task": "hopper-medium",
        "environment": "D4RL-v2",
        "metric": END,
        "mean": "60.37",
        "spread": "3.49",
        "seeds": 4,
    }
    return published_line(source, **values | cells)
