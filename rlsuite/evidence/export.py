"""From finished run folders to rows in results/<benchmark>/<algorithm>/<task>.csv.

A named variant of an algorithm (another preset, base or critic) has a folder of its own beside it,
<algorithm>@<variant>; its manifests are like any other.

The file of an offline run is named after its data set, of which one task has several:
td3_bc/hopper-medium-v0.csv. Its manifest names the data, and `task`, where it was evaluated.

Runs of one config that differ in seeds share a file. Its manifest then has `runs`: the seeds,
command, commit, machine and log of each. What differs between them stands there alone.

A manifest also sums up what the algorithm logged: each metric's mean and its extremes over all
seeds and all rows of progress.csv. So a claim such as "no state above the limit after any update"
can be checked without the run. `uses` says what made the runs that this one was given by name.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from rlsuite.evidence import cells, rows
from rlsuite.evidence.manifests import RUN
from rlsuite.evidence.progress import pooled
from rlsuite.evidence.rows import OUTPUT_FOLDERS, Result, RowsError
from rlsuite.runs.filenames import escape
from rlsuite.runs.run import RunError

KEPT = ("algorithm", "task", "preset", "command", "config", "config_hash", "commit", "versions")


class Exported(NamedTuple):
    """A CSV file and its manifest: cells by (seed, step, policy), in the file's order."""

    manifest: dict
    table: dict[tuple[int, int, str], dict[str, str]]


def export(run_folder: Path, benchmark: Path, replace: bool = False, variant: str = "") -> Path:
    """Put the evaluation rows of a finished run into a benchmark's results; the CSV's path.

    `variant` is what sets the run apart from the algorithm's own rows. Rows of other seeds of the
    same config stay. RunError if the run has not finished, and, unless `replace`, if the rows there
    are of another config, learned from other data, or have other numbers for one of its seeds.
    RowsError if the run's files contradict one another.
    """
    result = finished(run_folder)
    new = _of_run(result)
    require_variant(variant)
    folder = escape(result.algorithm) + f"@{variant}" * bool(variant)
    target = benchmark / folder / f"{escape(result.task)}.csv"
    if target.parent.name in OUTPUT_FOLDERS:
        raise RunError(f"{run_folder}: no rows are read from a folder named {target.parent.name}")
    if target.exists() or target.with_suffix(".json").exists():
        new = _together(target, new, replace)
    manifest = json.dumps(new.manifest, indent=2) + "\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    texts = {target: _csv(new.table), target.with_suffix(".json"): manifest}
    partials = {path: path.with_name(path.name + ".partial") for path in texts}
    for path, text in texts.items():
        partials[path].write_text(text, encoding="utf-8")
    for path, partial in partials.items():
        os.replace(partial, path)
    return target


def require_variant(name: str) -> None:
    """ValueError for what cannot be the name of a variant."""
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", name):
        raise ValueError(
            f"--variant is {name!r}; use letters, digits, dots and hyphens, as in penalty-0.1"
        )


def finished(folder: Path) -> Result:
    """A run whose files say what its config.json and one another say.

    RunError if it has not finished, RowsError naming what is missing, cut short or damaged.
    """
    _require_run(folder)
    if not (folder / "finished").exists():
        command = f"rlsuite train --resume {folder}"
        raise RunError(f"{folder} has not finished; go on with: {command}")
    result = rows.read_run(folder)
    manifest, log = result.manifest, result.progress
    absent = [key for key in (*KEPT, "hardware", "engine", "settings") if key not in manifest]
    for key in ("seeds", "evaluations", "evaluation_episodes"):
        absent += [f"settings.{key}"] if manifest.get(key) is None else []
    if absent:
        raise RowsError(f"{folder / 'config.json'}: needs {absent[0]!r}")
    if log is None:
        raise RowsError(f"{folder / 'progress.csv'}: no such file; a finished run has one")
    damaged = f"{result.file}: has been cut or edited: "
    planned = min(manifest["evaluations"], len(log.steps) + _explored(folder))
    if len(result.steps) != planned and not manifest.get("extended"):
        raise RowsError(f"{damaged}{len(result.steps)} evaluations where the run made {planned}")
    if result.last_step != log.steps[-1] or not result.finished:
        raise RowsError(
            f"{damaged}it ends at step {result.last_step:,}, progress.csv at {log.steps[-1]:,}, "
            f"and the run was to take {result.planned_steps:,}"
        )
    return result


def _explored(folder: Path) -> int:
    """Iterations that only explored: evaluated like others, but logged in preparation.csv."""
    path = folder / "preparation.csv"
    table = cells.read(path, ("seed", "step")) if path.exists() else []
    return len({step for _, step in (cells.key(row, place) for place, row in table) if step > 0})


def _require_run(folder: Path) -> None:
    """RunError for a folder that is no run, saying what it is and what to name instead."""
    if (folder / "config.json").exists():
        return
    runs = sorted(path.parent for path in folder.glob("**/config.json"))[:3]
    if not folder.is_dir():
        what = "is no folder; name one that rlsuite train has written"
    elif runs:
        named = " ".join(map(str, runs))
        what = f"is no run, it holds some; type: rlsuite export {named} --results FOLDER"
    elif (folder / "policy.json").exists():
        what = f"is a saved policy, no run; name its run, {folder.parent}"
    elif next(folder.glob("*/*.csv"), None):
        what = "is a benchmark's results, whose rows were exported already; name a run's folder"
    else:
        what = "is no run: it has no config.json; name a folder that rlsuite train has written"
    raise RunError(f"{folder} {what}")


def _of_run(result: Result) -> Exported:
    facts = result.manifest
    table = _table(result)
    last = list(table.values())[-1]
    manifest = {key: facts[key] for key in KEPT}
    manifest |= {
        "hardware": facts["hardware"],
        "seeds": facts["seeds"],
        "engine": facts["engine"],
        "evaluation_episodes": facts["evaluation_episodes"],
        "steps": int(last["step"]),
        "wall_seconds": float(last["wall_seconds"]),
        "logged": facts["logged"],
    }
    optional = ("uses", "sessions", "constraints", "declared")
    optional += ("dropped", "extended", "unscheduled")
    manifest |= {k: facts[k] for k in optional if facts.get(k)}
    if result.data:
        manifest["data"] = facts["data"] | {"origin": result.data.origin}
    return Exported(manifest, table)


def _table(result: Result) -> dict[tuple[int, int, str], dict[str, str]]:
    read = cells.read(result.file, rows.COLUMNS)
    found = {(*cells.key(row, place), row.get("policy", "")): row for place, row in read}
    return {key: row for key, row in found.items() if key[0] in result.seeds}


# ------------------------------------------------------------------- rows that are there already


def _together(target: Path, new: Exported, replace: bool) -> Exported:
    """What is in `target` and a run's rows; the run's alone if `replace` and they do not agree."""
    other = "name a --variant, or add --replace to put this run there instead"
    try:
        there = _there(target)
    except RowsError as fault:
        if replace:
            return new
        raise RunError(f"{fault}; mend it, or {other}") from None
    differing = _difference(there, new)
    if differing:
        if replace:
            return new
        raise RunError(f"{target} holds rows {differing}; {other}")
    changed = _changed_seeds(there, new)
    if changed and not replace:
        raise RunError(
            f"{target} has other numbers for seed(s) {', '.join(map(str, changed))}; name another "
            "--results folder, or add --replace to put this run's there instead"
        )
    return _merged(there, new)


def _there(target: Path) -> Exported:
    result = rows.read_file(target, target.with_suffix(".json"))
    known = {"seeds": list(result.seeds), "wall_seconds": result.wall_seconds}
    return Exported(result.manifest | known, _table(result))


def _difference(there: Exported, new: Exported) -> str:
    """Why the rows of two runs do not belong in one file, in words; empty if they do."""
    old, own = there.manifest, new.manifest
    if old.get("config_hash") != own["config_hash"]:
        return f"of config {old.get('config_hash')}, this run is {own['config_hash']}"
    shas = [(each.get("data") or {}).get("sha256") for each in (old, own)]
    if shas[0] != shas[1]:
        return f"that learned from data {shas[0]}, this run from {shas[1]} (SHA-256)"
    if old.get("uses") != own.get("uses"):
        return "of a run that was given other runs than this one"
    columns = [list(next(iter(each.table.values()))) for each in (there, new)]
    if columns[0] != columns[1]:
        return f"with columns {', '.join(columns[0])}, this run has {', '.join(columns[1])}"
    steps = [sorted({step for _, step, _ in each.table}) for each in (there, new)]
    if steps[0] != steps[1]:
        return f"at {len(steps[0])} other steps than this run's {len(steps[1])}"
    return ""


def _changed_seeds(there: Exported, new: Exported) -> list[int]:
    """Seeds in both whose numbers differ; the seconds that a run took do not count."""
    differing = set()
    for key in there.table.keys() & new.table.keys():
        old, own = ({**each.table[key], "wall_seconds": ""} for each in (there, new))
        if any(old[name] != own[name] and _value(old[name]) != _value(own[name]) for name in own):
            differing.add(key[0])
    return sorted(differing)


def _value(cell: str) -> float | None:
    return float(cell) if cell else None


def _merged(there: Exported, new: Exported) -> Exported:
    """Rows of both, a seed that is in both as the new run has it."""
    own = set(new.manifest["seeds"])
    runs = [_record(run) for run in there.manifest.get("runs") or [there.manifest]]
    runs = [run | {"seeds": [seed for seed in run["seeds"] if seed not in own]} for run in runs]
    runs = [run for run in runs if run["seeds"]]
    if not runs:
        return new
    runs = sorted([*runs, _record(new.manifest)], key=lambda run: min(run["seeds"]))
    manifest = {
        key: value
        for key, value in new.manifest.items()
        if key not in RUN or all(run.get(key) == value for run in runs)
    }
    manifest |= {
        "seeds": sorted(seed for run in runs for seed in run["seeds"]),
        "wall_seconds": round(sum(run["wall_seconds"] for run in runs), 3),
        "logged": pooled([(len(run["seeds"]), run.get("logged") or {}) for run in runs]),
        "runs": runs,
    }
    table = {key: row for key, row in there.table.items() if key[0] not in own} | new.table
    policies = list(dict.fromkeys(policy for _, _, policy in table))
    by_step = sorted(table, key=lambda key: (key[1], policies.index(key[2]), key[0]))
    return Exported(manifest, {key: table[key] for key in by_step})


def _record(manifest: dict) -> dict:
    """What one run has for itself, of the manifest of a file that it has alone or shares."""
    return {key: manifest[key] for key in RUN if key in manifest}


def _csv(table: dict[tuple[int, int, str], dict[str, str]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, next(iter(table.values())), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.values())
    return stream.getvalue()
