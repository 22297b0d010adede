"""`make reproduce`: PPO on Hopper-v4, 5 seeds of a million steps, beside the published value.

Each part of the seeds is one public `rlsuite train` command in a process of its own. Called again,
it goes on with what is unfinished and trains nothing that is finished.
"""

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rlsuite.cli import main as cli
from rlsuite.runs.sweep import settle

# How the work is divided. The batch of an iteration is NUM_ENVS x NUM_STEPS = 2048 transitions.
SEEDS = (0, 1, 2, 3, 4)
# 8 x 256 where the preset has 1 x 2048: EnvPool then steps 40 environments at a time, and it takes
# five minutes instead of nine. results/mujoco-1m has the preset's own division.
PROCESSES = 1
NUM_ENVS, NUM_STEPS = 8, 256
ENGINE = "auto"

FOLDER = Path("runs", "reproduce")
PUBLISHED = Path(__file__).parents[1] / "results" / "published"


def commands(folder: Path, more: Sequence[str] = ()) -> dict[Path, list[str]]:
    """Run folder -> the arguments of `rlsuite` that begin it or go on with it; none if finished.

    more: further flags of `rlsuite train`.
    """
    found = {}
    for part in range(PROCESSES):
        seeds = SEEDS[part::PROCESSES]
        # A name for every way of dividing the work, so that none goes on with another's run.
        name = f"seeds-{'-'.join(map(str, seeds))}-{ENGINE}-{NUM_ENVS}x{NUM_STEPS}"
        run = folder / name
        if (run / "finished").exists():
            found[run] = []
        elif (run / "config.json").exists():
            found[run] = ["train", "--resume", str(run)]
        else:
            flags = {"env": "Hopper-v4", "preset": "mujoco", "folder": run, "engine": ENGINE}
            flags |= {"seeds": ",".join(map(str, seeds)) + ",", "num-envs": NUM_ENVS}
            flags |= {"num-steps": NUM_STEPS}
            words = [str(word) for flag in flags.items() for word in (f"--{flag[0]}", flag[1])]
            found[run] = ["train", "ppo", *words, *more]
    return found


def train(folder: Path, more: Sequence[str] = ()) -> list[Path]:
    """Train what is left to train: the first part here, with its bar, the others beside it.

    Returns every run folder. Exits with the command's code if one fails or is interrupted.
    """
    todo = {run: argv for run, argv in commands(folder, more).items() if argv}
    cores = sorted(os.sched_getaffinity(0))
    shares = {run: cores[n :: len(todo)] or cores for n, run in enumerate(todo)}
    here, beside = list(todo)[:1], {}
    folder.mkdir(parents=True, exist_ok=True)
    for run, argv in todo.items():
        print("$", shlex.join(["rlsuite", *argv]), flush=True)
        if run not in here:
            with open(f"{run}.log", "a") as log:
                beside[run] = subprocess.Popen(
                    [sys.executable, "-m", "rlsuite", *argv],
                    stdout=log,
                    stderr=log,
                    preexec_fn=lambda run=run: settle(shares[run]),
                )
    code = 0
    for run in here:
        os.sched_setaffinity(0, shares[run])
        code = cli.main(todo[run])
    for run, process in beside.items():
        if code == 0 and process.poll() is None:
            print(f"waiting for {run}", flush=True)
        code = code or process.wait()
    if code:
        sys.exit(code)
    return list(commands(folder, more))


def merge(runs: Sequence[Path], folder: Path) -> Path:
    """Write the rows and logs of all `runs`, and a manifest, as one run: what tables read."""
    seeds, lines = [], []
    for run in runs:
        manifest = json.loads((run / "config.json").read_text())
        seeds += manifest["settings"]["seeds"]
        lines.append(manifest["command"])
    manifest["settings"]["seeds"], manifest["command"] = sorted(seeds), " & ".join(lines)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(manifest, indent=2))
    for name in ("evaluations.csv", "progress.csv"):
        rows = []
        for run in runs:
            with (run / name).open(newline="") as stream:
                header, *part = csv.reader(stream)
            rows += part
        with (folder / name).open("w", newline="") as stream:
            csv.writer(stream).writerows([header, *rows])
    return folder


def main(folder: Path = FOLDER, more: Sequence[str] = ()) -> None:
    """Train, then print the table and write it, its curves and a report; paths come last."""
    runs = train(folder, more)
    source = merge(runs, folder / "all-seeds")
    for command in ("table", "plot", "report"):
        if code := cli.main([command, str(source), "--published", str(PUBLISHED)]):
            sys.exit(code)


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=f"Train PPO on Hopper-v4, {len(SEEDS)} seeds of a million steps, in {FOLDER}, "
        "and show it beside the published value. Called again, it goes on where it stopped."
    ).parse_args()
    main()
