"""What stands in a manifest: the JSON beside exported rows, and the config.json of a run folder.

Both may have been edited or come from somebody else, so every field that is read has its type
checked here, once. A field that is missing or null is not recorded.
"""

from __future__ import annotations

from pathlib import Path

from rlsuite.evidence.cells import RowsError

NUMBER = (int, float)
GREATEST = 1e300  # no number that is read is greater, infinite or NaN
NAMES = ("algorithm", "task")  # which none can do without
# Field -> what it is; a dict describes the fields of an object, a list the items of a list.
RUN = {
    "seeds": [int],
    "preset": str,
    "command": str,
    "commit": str,
    "engine": str,
    "wall_seconds": NUMBER,
    "versions": {},
    "hardware": {},
    "logged": {"*": {"mean": NUMBER, "least": NUMBER, "most": NUMBER}},
    # Conditions other than these, under which a resumed run went on from a step
    # Seeds that diverged and were dropped; runs that went on from their end; extra checkpoints
    "dropped": [{"seed": int, "step": int, "reason": str}],
    "extended": [{"config_hash": str, "step": int, "to": int}],
    "unscheduled": [{"step": int}],
    "sessions": [{"step": int, "commit": str, "versions": {}, "hardware": {}}],
}
FIELDS = {
    **RUN,
    "algorithm": str,
    "task": str,
    "config": {
        "best_fraction": NUMBER,
        **dict.fromkeys(("online_steps", "env_steps", "gradient_steps"), int),
        "total_steps": int,  # what those two were called
    },
    "declared": {"steps": int, "value": str, "variant": str},
    "config_hash": str,
    "settings": {"seeds": [int], "evaluations": int, "evaluation_episodes": int},
    "evaluation_episodes": int,
    "steps": int,
    "data": {
        **dict.fromkeys(("name", "sha256", "timeouts", "source"), str),
        **dict.fromkeys(("transitions", "episodes"), int),
        "mean_return": NUMBER,
    },
    "constraints": [{"name": str, "limit": NUMBER, "kind": str}],
    "uses": {"*": {"seeds": [int], "wall_seconds": NUMBER}},
    "runs": [RUN],
}
_WORDS = {int: "a whole number", NUMBER: "a number", str: "text"}


def check_manifest(manifest: object, file: Path) -> None:
    """RowsError, naming the field, if a manifest is not as tables need it."""
    _check(manifest, FIELDS, str(file))
    for key in NAMES:
        if manifest.get(key) is None:
            raise RowsError(f"{file}: needs {key!r}, the name of the {key}")
    data = manifest.get("data")
    if data is not None and data.get("name") is None:
        raise RowsError(f"{file}: 'data' is {data!r}; it needs 'name', the name of the data set")
    for name, figures in (manifest.get("logged") or {}).items():
        if set(figures or ()) != {"mean", "least", "most"}:
            raise RowsError(f"{file}: logged.{name} is {figures!r}; it needs mean, least and most")
    _check_histories(manifest, file)
    _check_runs(manifest, file)


def _check_histories(manifest: dict, file: Path) -> None:
    """Nothing is missing of what happened to a run, which notes below tables tell."""
    for run in (manifest, *(manifest.get("runs") or ())):
        for name in ("dropped", "extended", "unscheduled"):
            for each in run.get(name) or ():
                absent = [key for key in RUN[name][0] if each.get(key) is None]
                if absent:
                    raise RowsError(f"{file}: {name} is without {absent[0]!r}")


def _check_runs(manifest: dict, file: Path) -> None:
    """Every seed of the rows belongs to exactly one of the runs."""
    runs = manifest.get("runs")
    if runs is None:
        return
    for run in runs:
        absent = [key for key in ("seeds", "wall_seconds") if (run or {}).get(key) is None]
        if absent:
            raise RowsError(f"{file}: one of its runs has no {absent[0]!r}")
    seeds = sorted(seed for run in runs for seed in run["seeds"])
    if seeds != sorted(manifest.get("seeds") or ()):
        raise RowsError(f"{file}: its runs have seeds {seeds}, its rows {manifest.get('seeds')}")


def _check(value: object, kind: object, where: str) -> None:
    if value is None:
        return
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            raise RowsError(f"{where} is {_short(value)}; it must be an object")
        for name, item in value.items():
            _check(item, kind.get(name, kind.get("*", object)), f"{where}: {name}")
    elif isinstance(kind, list):
        if not isinstance(value, list) or None in value:
            raise RowsError(f"{where} is {_short(value)}; it must be a list")
        for item in value:
            _check(item, kind[0], f"{where}: item {_short(item)}")
    elif kind is not object and (not isinstance(value, kind) or isinstance(value, bool)):
        raise RowsError(f"{where} is {_short(value)}; it must be {_WORDS[kind]}")
    elif kind in (int, NUMBER) and not abs(value) < GREATEST:
        raise RowsError(f"{where} is {_short(value)}; it must be finite")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
