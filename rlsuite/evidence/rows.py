"""Result rows: reads what runs left behind, one row per seed and evaluation, with its manifest.

Two sources have the same rows: a benchmark folder, ``<algorithm>/<task>.csv`` beside
``<task>.json`` (the manifest), and a single run folder, ``evaluations.csv`` beside ``config.json``.
The task of an offline run is its data set: several sets have one environment. Everything is checked
here, so that what comes after may rely on it: every seed has a row at every evaluation step, and an
array is either complete or absent. A run of several policies has a column `policy`; the first that
its rows name is the main one, which stands for the algorithm.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rlsuite.algorithms import ALGORITHMS
from rlsuite.algorithms.renamed import renamed
from rlsuite.evidence import cells, dataset, progress, published
from rlsuite.evidence.cells import RowsError
from rlsuite.evidence.dataset import Dataset
from rlsuite.evidence.manifests import check_manifest
from rlsuite.evidence.progress import Progress
from rlsuite.evidence.published import Place
from rlsuite.runs.filenames import unescape
from rlsuite.runs.logs import COLUMNS

OPTIONAL = ("score", "training_return")  # columns whose cells may be empty
# What curves show, in this order, with the words for it.
QUANTITIES = {
    "training_return": "training return",
    "return": "evaluation return",
    "sampled_return": "evaluation return with sampled actions",
    "score": "normalised score",
    "cost": "evaluation cost",
}
LAST = 10  # evaluations that are averaged
# What tables show, one number per seed. `score_best` is optimistic and stands apart.
FINALS = {
    "training_return": "training return",
    "return": "evaluation return",
    "sampled_return": "evaluation return with sampled actions",
    "score": "normalised score, last evaluation",
    "score_last_10": f"normalised score, mean of the last {LAST} evaluations",
    "cost": "evaluation cost",
    "sampled_cost": "evaluation cost with sampled actions",
    "score_best": "normalised score, best evaluation (optimistic)",
}
# A mean Q beyond which SPOT's official code gives a run up. Rewards of MuJoCo's locomotion tasks,
# discounted by 0.99, add up to less than 2000.
DIVERGED = 1e4
COSTS = ("cost_", "sampled_", "total_training_cost", "within")  # how further columns begin
OUTPUT_FOLDERS = ("tables", "curves")  # may lie in a benchmark folder; nothing is read from them


@dataclass(frozen=True)
class Result:
    """Rows of one algorithm on one task (or data set), S seeds and E evaluations.

    `task` is an id, "Hopper-v4", or the short name of `data`, "hopper-medium-v0".
    `values[column]` is float64 [S, E] for every column but seed and step; NaN stands for an empty
    cell and occurs only in OPTIONAL columns. `cost` is the first constraint's, those of further
    constraints have columns of their own, `cost_NAME`.
    """

    # "spot"; "spot@penalty-1", a named variant; "bc-10-percent", one that has published values of
    # its own; "mcep (target)", a further policy of its runs
    algorithm: str
    task: str
    seeds: tuple[int, ...]
    steps: np.ndarray  # int64 [E], increasing
    values: dict[str, np.ndarray]
    manifest: dict = field(repr=False)
    file: Path
    data: Dataset | None = None  # what an offline run learned from
    progress: Progress | None = field(default=None, repr=False)  # of a run folder: every iteration

    def final(self, column: str) -> np.ndarray | None:
        """A key of FINALS for every seed, [S]: its last evaluation, unless the key says otherwise.

        None where a seed has none, or fewer than LAST evaluations to average.
        """
        if column == "score_last_10":
            if len(self.steps) < LAST:
                return None
            found = self.values["score"][:, -LAST:].mean(1)
        elif column == "score_best":
            found = self.values["score"].max(1)
        elif column not in self.values:
            return None
        else:
            found = self.values[column][:, -1]
        return None if np.isnan(found).any() else found

    def quantities(self) -> list[str]:
        """Keys of FINALS worth showing; a cost only if there is one, never the best evaluation.

        An offline run with a score has no return here: the score is the return on another scale.
        """
        known = {name for name in FINALS if self.final(name) is not None} - {"score_best"}
        if not (self.values["cost"].any() or self.manifest.get("constraints")):
            known -= {"cost", "sampled_cost"}
        if self.data is None:
            known.discard("score_last_10")
        elif "score" in known:
            known.discard("return")
        return [name for name in FINALS if name in known]

    @property
    def place(self) -> Place:
        """What published values are compared with."""
        task, version = published.split_task(self.manifest["task"])
        name = self.algorithm.replace(f"@{self.variant}", "", 1)
        if self.data is None:
            return Place(name, task, version, self.last_step)
        return Place(name, self.data.level, version, self.last_step, self.data.version)

    @property
    def variant(self) -> str:
        """Its name if it is a named variant of its algorithm."""
        return self.algorithm.partition("@")[2].partition(" (")[0]

    @property
    def sibling_of(self) -> str:
        """The algorithm whose variant or further policy this is; empty for the algorithm itself."""
        plain = named(self.manifest)
        return plain if self.algorithm != plain else ""

    @property
    def step_unit(self) -> str:
        """What is counted: an offline run takes no steps in an environment before it is done."""
        return "environment steps" if self.data is None else "gradient steps"

    @property
    def last_step(self) -> int:
        """Steps per seed at the last evaluation."""
        return int(self.steps[-1])

    @property
    def planned_steps(self) -> int:
        """Steps per seed that the run was started for, as far as that is recorded."""
        return int(self.manifest.get("steps") or declared(self.manifest)["steps"] or self.last_step)

    @property
    def finished(self) -> bool:
        """Whether the last evaluation is the one at the end of the run.

        A run stops at its last whole batch, so what is left of its steps is less than one batch,
        and batches are no longer than what lies between two evaluations.
        """
        gaps = np.diff(self.steps, prepend=0)
        return bool(self.planned_steps - self.last_step < min(gaps[gaps > 0], default=1))

    @property
    def greatest_value(self) -> float:
        """The greatest size of Q or V that the run logged, of any seed; 0 where it logged none."""
        logged = (self.manifest.get("logged") or {}).get(declared(self.manifest)["value"])
        return max(abs(logged["least"]), abs(logged["most"])) if logged else 0.0

    @property
    def diverged(self) -> bool:
        """Whether a seed's values grew beyond all that its rewards could add up to."""
        return self.greatest_value > DIVERGED

    @property
    def state(self) -> str:
        """One of "finished", "unfinished" and "diverged"."""
        if not self.finished:
            return "unfinished"
        return "diverged" if self.diverged else "finished"

    @property
    def runs(self) -> list[dict]:
        """What each run behind these rows recorded: its seeds, command, commit, machine and so on.

        Rows of several runs have one config; a manifest of one run is its own record.
        """
        return self.manifest.get("runs") or [self.manifest]

    @property
    def wall_seconds(self) -> float:
        """Wall time of all seeds together, as they were trained; of several runs the sum."""
        if len(self.runs) > 1:
            return float(sum(run["wall_seconds"] for run in self.runs))
        return float(self.values["wall_seconds"][:, -1].max())


def read(source: Path) -> list[Result]:
    """Read a benchmark folder or a run folder; in the registry's order, then by task.

    Raises RowsError for a folder that is neither, a CSV without its manifest, a manifest that names
    another algorithm or other seeds, missing columns, cells that do not parse, NaN or infinity, a
    seed and step given twice, and seeds that were not evaluated at the same steps.
    """
    if not source.is_dir():
        raise RowsError(f"{source}: no such folder; give a benchmark folder or a run folder")
    if (source / "evaluations.csv").exists():
        return _read_run(source)
    files = [
        file for file in sorted(source.glob("*/*.csv")) if file.parent.name not in OUTPUT_FOLDERS
    ]
    if not files:
        raise RowsError(
            f"{source}: holds neither evaluations.csv (a run folder) nor <algorithm>/<task>.csv "
            f"(a benchmark folder)"
        )
    results = [
        result for file in files for result in read_policies(file, file.with_suffix(".json"))
    ]
    seen: dict[tuple[str, str], Path] = {}
    learned_from: dict[str, Result] = {}
    for result in results:
        folder = unescape(result.file.parent.name.partition("@")[0])
        if named(result.manifest) != folder:
            raise RowsError(
                f"{result.file}: the folder says {folder!r}, the manifest "
                f"{named(result.manifest)!r}; move the file or correct the manifest"
            )
        other = seen.setdefault((result.algorithm, result.task), result.file)
        if other != result.file:
            raise RowsError(f"{result.file}: {result.task} was already read from {other}")
        require_same_data(learned_from.setdefault(result.task, result), result)
    # Names that are not in the registry come last.
    places = {name: place for place, name in enumerate(ALGORITHMS)}
    return sorted(
        results,
        key=lambda r: (places.get(r.manifest["algorithm"], len(places)), r.algorithm, r.task),
    )


def read_run(folder: Path) -> Result:
    """Read a run folder, finished or not, with its progress where it has any. Raises as `read`.

    Of several policies the main one.
    """
    return _read_run(folder)[0]


def _read_run(folder: Path) -> list[Result]:
    file, progress_file = folder / "evaluations.csv", folder / "progress.csv"
    dropped = _dropped(_manifest(folder / "config.json", file))
    log = progress.read(progress_file, dropped) if progress_file.exists() else None
    results = read_policies(file, folder / "config.json", log)
    if log and log.seeds != results[0].seeds:
        raise RowsError(
            f"{progress_file}: rows of seeds {list(log.seeds)}, but {file.name} has "
            f"{list(results[0].seeds)}"
        )
    return results


def read_file(file: Path, manifest_file: Path) -> Result:
    """Read one CSV file with its manifest; of several policies the main one. Raises as `read`."""
    return read_policies(file, manifest_file)[0]


def read_policies(file: Path, manifest_file: Path, log: Progress | None = None) -> list[Result]:
    """Read one CSV file with its manifest, and the log of its run if it has one; as `read`.

    A result for each policy, the main one first.
    """
    manifest = _manifest(manifest_file, file)
    if log:
        manifest["logged"] = log.logged
    name = named(manifest)
    if manifest_file.stem == file.stem:  # of a benchmark, whose folders name the variants
        name += "".join(file.parent.name.partition("@")[1:])
    found = _cells(file, _dropped(manifest))
    return [
        _result(
            f"{name} ({policy})" if position else name, rows, manifest, manifest_file, file, log
        )
        for position, (policy, rows) in enumerate(found.items())
    ]


def _result(
    algorithm: str,
    found: dict[tuple[int, int], dict[str, float]],
    manifest: dict,
    manifest_file: Path,
    file: Path,
    log: Progress | None,
) -> Result:
    """The rows of one policy as arrays."""
    seeds, steps = cells.grid(file, list(found))
    values = {
        name: np.array([[found[seed, step][name] for step in steps] for seed in seeds])
        for name in found[seeds[0], steps[0]]
    }
    if "seeds" in manifest and sorted(manifest["seeds"]) != seeds:
        raise RowsError(
            f"{file}: rows of seeds {seeds}, but {manifest_file.name} names "
            f"{sorted(manifest['seeds'])}"
        )
    data = dataset.of_manifest(manifest)
    return Result(
        algorithm=algorithm,
        task=data.short_name if data else manifest["task"],
        seeds=tuple(seeds),
        steps=np.array(steps, dtype=np.int64),
        values=values,
        manifest=manifest,
        file=file,
        data=data,
        progress=log,
    )


def named(manifest: dict) -> str:
    """The algorithm of a run, or the variant of it that must not stand beside its values.

    10%BC is "bc-10-percent" as in the published values; what was tuned online is no offline run.
    """
    variant = declared(manifest)["variant"]
    return manifest["algorithm"] + (f"-{variant}" if variant else "")


def declared(manifest: dict) -> dict:
    """`steps`, `value` and `variant`, as `core.ranges.Declared` has them.

    Runs from before there was such a declaration are known by their settings.
    """
    config = manifest.get("config") or {}
    share = config.get("best_fraction")
    steps = config.get("env_steps") or config.get("gradient_steps") or 0
    online = config.get("online_steps") or 0
    variant = f"{100 * share:g}-percent" if share is not None and share < 1 else ""
    known = {"steps": steps + online, "value": "value", "variant": "online" if online else variant}
    return known | (manifest.get("declared") or {})


def require_same_data(first: Result, result: Result) -> None:
    """Two algorithms are compared on a data set only if it is the same one, read the same way."""
    ours, theirs = (
        r.data and (r.data.name, r.data.sha256, r.data.timeouts) for r in (result, first)
    )
    if ours != theirs:
        raise RowsError(
            f"{result.file}: {result.task} is not the data of {first.file}: {ours} and {theirs} "
            "(name, SHA-256, rows at time limits); show them apart"
        )


def _manifest(manifest_file: Path, file: Path) -> dict:
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RowsError(f"{file}: its manifest {manifest_file.name} is missing") from None
    except json.JSONDecodeError as fault:
        raise RowsError(f"{manifest_file}:{fault.lineno}: not JSON: {fault.msg}") from None
    except (OSError, UnicodeDecodeError, RecursionError) as fault:
        raise RowsError(f"{manifest_file}: cannot be read: {fault}") from None
    check_manifest(manifest, manifest_file)
    # A run folder keeps seeds and engine among its settings
    manifest = {**(manifest.get("settings") or {}), **manifest}
    if manifest.get("seeds"):
        manifest["seeds"] = [seed for seed in manifest["seeds"] if seed not in _dropped(manifest)]
    if manifest.get("config"):
        manifest["config"] = renamed(manifest["algorithm"], manifest["config"])
    check_manifest(manifest, manifest_file)
    return manifest


def _dropped(manifest: dict) -> set[int]:
    """Seeds that diverged in a run whose others went on: their rows end where that was."""
    return {each["seed"] for each in manifest.get("dropped") or ()}


def _cells(
    file: Path, dropped: Collection[int]
) -> dict[str, dict[tuple[int, int], dict[str, float]]]:
    """{policy: every row's numbers by (seed, step)}; "" where the rows name none."""
    found: dict[str, dict[tuple[int, int], dict[str, float]]] = {}
    for place, row in cells.read(file, COLUMNS):
        key, of_policy = cells.key(row, place), found.setdefault(row.get("policy", ""), {})
        if key[0] in dropped:
            continue
        if key in of_policy:
            raise RowsError(f"{place}: seed {key[0]} already has a row at step {key[1]}")
        names = (*COLUMNS[2:], *(name for name in row if name.startswith(COSTS)))
        of_policy[key] = {
            name: cells.number(row[name], name, place, name in OPTIONAL) for name in names
        }
    if not found:
        raise RowsError(f"{file}: no rows; the run has not been evaluated yet")
    return found
