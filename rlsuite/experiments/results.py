"""From a finished run folder to rows in results/<benchmark>/<algorithm>/<task>.csv."""

import csv
import json
import os
from pathlib import Path

from rlsuite.experiments.run import RunError

KEPT = ("algorithm", "task", "preset", "command", "config", "config_hash", "commit", "versions")


def export(run_folder: Path, benchmark: Path) -> Path:
    """Copy the evaluation rows of a finished run, with a manifest beside them; the CSV's path.

    Rows that are there already, of the same config, are replaced. RunError if the run has not
    finished, or if the rows there are of another config.
    """
    if not (run_folder / "finished").exists():
        command = f"rlsuite train --resume {run_folder}"
        raise RunError(f"{run_folder} has not finished; go on with: {command}")
    about = json.loads((run_folder / "config.json").read_text())
    target = benchmark / about["algorithm"] / f"{about['task']}.csv"
    manifest_path = target.with_suffix(".json")
    if manifest_path.exists():
        there = json.loads(manifest_path.read_text())["config_hash"]
        if there != about["config_hash"]:
            raise RunError(
                f"{target} holds rows of config {there}, this run is {about['config_hash']}; "
                "name another --results folder, or remove those rows"
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
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((target, text), (manifest_path, json.dumps(manifest, indent=2) + "\n")):
        partial = path.with_suffix(".partial")
        partial.write_text(content)
        os.replace(partial, path)
    return target
