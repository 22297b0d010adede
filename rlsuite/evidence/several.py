"""Several runs side by side: finds run folders, and names each run by the settings that differ.

A run that stands beside others of its algorithm is told from them by its settings. So its rows get
those in the stead of the algorithm's name, and every figure and table shows them as they show
algorithms. Runs of several algorithms keep that name in front.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlsuite.evidence import rows
from rlsuite.evidence.cells import RowsError
from rlsuite.evidence.rows import Result, declared, require_same_data
from rlsuite.runs.folder import LOCK, MANIFEST
from rlsuite.runs.logs import EVALUATIONS, PROGRESS

RATES = "lr"  # stands for the settings that are learning rates, whatever their names
NOT_SETTINGS = ("env", "dataset", "seeds", "wandb")  # of a run: tasks and data are told anyway
RECORDED = ("seeds", "preset", "commit", "engine")  # in a manifest, which may name a run, too


def are_several(sources: Sequence[Path]) -> bool:
    """Whether these are more than one run folder or one benchmark's results."""
    return len(sources) > 1 or any(_run_folders(each) not in ([], [each]) for each in sources)


def read(sources: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """All runs of these sources, and in words those that are left out.

    A source is a run folder, a folder with run folders in it, or a benchmark's results. A run that
    has not been evaluated yet is left out. Raises RowsError for rows that do not hold, and where no
    run is left.
    """
    found = [folder for source in sources for folder in _run_folders(source)]
    folders = list({folder.resolve(): folder for folder in found}.values())
    waiting = [folder for folder in folders if not _evaluated(folder)]
    benchmarks = [source for source in sources if not _run_folders(source)]
    results = []
    for folder in (*(each for each in folders if each not in waiting), *benchmarks):
        results += rows.read(folder)
    if not results:
        raise RowsError(f"{waiting[0]}: no rows; the run has not been evaluated yet")
    learned_from: dict[str, Result] = {}
    for result in results:
        require_same_data(learned_from.setdefault(result.task, result), result)
    return results, [f"{each}, which has no evaluation yet" for each in waiting]


def named(results: Sequence[Result], fields: Sequence[str] = ()) -> list[Result]:
    """The same results in the order of their settings, each with those for its name.

    fields: which settings; without any, all that differ. ValueError for one that no run has.
    """
    algorithms = list(dict.fromkeys(result.algorithm for result in results))
    _require_known(fields, results)
    found = []
    for algorithm in algorithms:
        ours = [result for result in results if result.algorithm == algorithm]
        chosen = _chosen(fields, ours) if fields else differing(ours)
        for result in sorted(ours, key=lambda result: place(result, chosen)):
            known = facts(result)
            parts = [f"{name} {text(known[name])}" for name in chosen if name in known]
            words = ", ".join(parts)
            if len(algorithms) > 1:
                words = f"{algorithm}: {words}" if words else algorithm
            found.append(replace(result, algorithm=words or algorithm))
    return _unique(found)


def differing(results: Sequence[Result]) -> list[str]:
    """Settings in which results of one algorithm differ on any task, in the order of its config."""
    found: dict[str, None] = {}
    for task in dict.fromkeys(result.task for result in results):
        found |= dict.fromkeys(changing([each for each in results if each.task == task]))
    return list(found)


def changing(results: Sequence[Result]) -> list[str]:
    """Settings that are not the same in all results, on whatever tasks.

    What only some of them have is of another version, and what names another run is no setting.
    """
    known = [settings(result) for result in results]
    return [
        name
        for name in dict.fromkeys(name for each in known for name in each)
        if len({text(each[name]) for each in known if name in each}) > 1
    ]


def settings(result: Result) -> dict[str, object]:
    """What a run was told: its algorithm's settings, then its own; not what names another run."""
    config = result.manifest.get("config") or {}
    own = result.manifest.get("settings") or {}
    used = result.manifest.get("uses") or {}
    told = config | {name: value for name, value in own.items() if name not in NOT_SETTINGS}
    return {name: value for name, value in told.items() if name not in used}


def facts(result: Result) -> dict[str, object]:
    """All that may name a run: its settings, runs that it was given, and what was recorded."""
    recorded = {name: result.manifest.get(name) for name in RECORDED}
    recorded |= {"folder": str(_folder(result)), "seeds": list(result.seeds)}
    return recorded | (result.manifest.get("config") or {}) | settings(result)


def text(value: object) -> str:
    """A setting's value in short: 0.0003, 256 256, None."""
    if isinstance(value, list | tuple):
        return " ".join(map(text, value))
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value)


def _chosen(fields: Sequence[str], results: Sequence[Result]) -> list[str]:
    """The names that the user's words mean, of those that results of one algorithm have."""
    known = {name for result in results for name in facts(result)}
    rates = declared(results[0].manifest).get("learning_rates") or ["learning_rate"]
    found = []
    for field in fields:
        name = field.replace("-", "_")
        found += rates if name == RATES and name not in known else [name]
    return [name for name in dict.fromkeys(found) if name in known]


def _require_known(fields: Sequence[str], results: Sequence[Result]) -> None:
    """ValueError for a field that none of the results has."""
    known = {name for result in results for name in facts(result)}
    for field in fields:
        if any(_chosen([field], [result]) for result in results):
            continue
        near = difflib.get_close_matches(field.replace("-", "_"), known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        other = ", ".join(differing(results)) or "nothing"
        raise ValueError(
            f"--label {field} is no setting of these runs; {hint}what differs is: {other}"
        )


def place(result: Result, names: Sequence[str]) -> tuple[tuple[bool, float, str], ...]:
    """The values of settings, so that they sort: numbers first, by size; last the text of each.

    Of several numbers, such as widths, the first tells the size.
    """
    values = [facts(result).get(name) for name in names]
    sizes = [value[0] if isinstance(value, list) and value else value for value in values]
    words = [isinstance(size, bool) or not isinstance(size, int | float) for size in sizes]
    return tuple(
        (word, 0.0 if word else float(size), text(value))
        for value, size, word in zip(values, sizes, words, strict=True)
    )


def _unique(results: Sequence[Result]) -> list[Result]:
    """The results with seeds, or else folders, behind those names that two share on one task."""
    by_seeds = _told_apart(results, list(map(_seeds, results)))
    return _told_apart(by_seeds, _short_folders(results))


def _told_apart(results: Sequence[Result], words: Sequence[str]) -> list[Result]:
    """The results, of which those that share a name on a task have their words behind it.

    Only where these tell them apart.
    """
    by_name: dict[tuple[str, str], list[str]] = {}
    for result, word in zip(results, words, strict=True):
        by_name.setdefault((result.algorithm, result.task), []).append(word)
    shared = {name for (name, _), group in by_name.items() if len(set(group)) == len(group) > 1}
    return [
        replace(result, algorithm=f"{result.algorithm}, {word}")
        if result.algorithm in shared
        else result
        for result, word in zip(results, words, strict=True)
    ]


def _seeds(result: Result) -> str:
    first, last = min(result.seeds), max(result.seeds)
    whole = len(result.seeds) == last - first + 1 > 1
    numbers = f"{first} to {last}" if whole else " ".join(map(str, result.seeds))
    return f"seed{'s' * (len(result.seeds) > 1)} {numbers}"


def _short_folders(results: Sequence[Result]) -> list[str]:
    """Where each run lies, as far as that tells it from the others."""
    folders = [_folder(result).absolute() for result in results]
    common = os.path.commonpath(folders)
    return [os.path.relpath(folder, common) for folder in folders]


def _folder(result: Result) -> Path:
    """The run folder, or the file of exported rows without its ending."""
    file = result.file
    return file.parent if file.name == EVALUATIONS else file.with_suffix("")


def _run_folders(source: Path) -> list[Path]:
    """The run folder itself, or all that lie in it; [] of a benchmark's results."""
    if _is_run(source):
        return [source]
    return sorted(file.parent for file in source.rglob(MANIFEST) if _is_run(file.parent))


def _is_run(folder: Path) -> bool:
    """Other programs have a config.json, too; a run that is at its beginning has no rows yet."""
    begun = any((folder / name).exists() for name in (PROGRESS, LOCK))
    return (folder / EVALUATIONS).exists() or (begun and (folder / MANIFEST).exists())


def _evaluated(folder: Path) -> bool:
    """Whether a run has a row beneath the header of its evaluations."""
    file = folder / EVALUATIONS
    if not file.exists():
        return False
    with file.open("rb") as stream:
        return len([line for line, _ in zip(stream, range(2), strict=False)]) == 2
