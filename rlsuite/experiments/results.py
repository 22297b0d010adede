"""From a finished run folder to rows in results/<benchmark>/<algorithm>/<task>.csv.

The file of an offline run is named after its data set, of which one task has several:
td3_bc/hopper-medium-v0.csv. Its manifest names the data, and `task`, where it was evaluated.

A manifest also sums up what the algorithm logged: each metric's mean and its extremes over all
seeds and all rows of progress.csv. So a claim such as "no state above the limit after any update"
can be checked without the run. `uses` says what made the runs that this one was given by name.
"""

import csv
import json
import os
from pathlib import Path

from rlsuite.experiments import dataset
from rlsuite.experiments.rows import logged, named
from rlsuite.experiments.run import RunError

KEPT = ("algorithm", "task", "preset", "command", "config", "config_hash", "commit", "versions")


def export(run_folder: Path, benchmark: Path) -> Path:
    """Copy the evaluation rows of a finished run, with a manifest beside them; the CSV's path.

    Rows that are there already, of the same config, are replaced. RunError if the run has not
    finished, or if the rows there are of another config or learned from other data.
    """
    if not (run_folder / "finished").exists():
        command = f"rlsuite train --resume {run_folder}"
        raise RunError(f"{run_folder} has not finished; go on with: {command}")
    about = json.loads((run_folder / "config.json").read_text())
    data = dataset.of_manifest(about)
    target = benchmark / named(about) / f"{data.short_name if data else about['task']}.csv"
    manifest_path = target.with_suffix(".json")
    if manifest_path.exists():
        there = json.loads(manifest_path.read_text())
        if there["config_hash"] != about["config_hash"]:
            raise RunError(
                f"{target} holds rows of config {there['config_hash']}, this run is "
                f"{about['config_hash']}; name another --results folder, or remove those rows"
            )
        shas = [(each.get("data") or {}).get("sha256") for each in (there, about)]
        if shas[0] != shas[1]:
            raise RunError(
                f"{target} holds rows that learned from data {shas[0]}, this run from {shas[1]} "
                "(SHA-256); name another --results folder, or remove those rows"
            )
    text = (run_folder / "evaluations.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    manifest = {key: about[key] for key in KEPT}
    manifest |= {
        "hardware": about["hardware"],
        "seeds": about["settings"]["seeds"],
        "engine": about["engine"],
        "evaluation_episodes": about["settings"]["evaluation_episodes"],
        "steps": int(rows[-1]["step"]),
        "wall_seconds": float(rows[-1]["wall_seconds"]),
        "logged": logged(run_folder / "progress.csv"),
    }
    if about.get("uses"):
        manifest["uses"] = about["uses"]
    if data:
        manifest["data"] = about["data"] | {"origin": data.origin}
    target.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((target, text), (manifest_path, json.dumps(manifest, indent=2) + "\n")):
        partial = path.with_suffix(".partial")
        partial.write_text(content)
        os.replace(partial, path)
    return target
