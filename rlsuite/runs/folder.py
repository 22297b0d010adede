"""What a run folder is: its manifest `config.json`, its lock, and what a resume must find again.

The manifest says what the run was begun with. It carries a version of its format and the SHA-256 of
all else in it, so that neither an edited setting nor another version's settings go on in silence.
Folders of format 0, written before there were formats, have the hash of their settings alone.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from rlsuite import algorithms, envs
from rlsuite.algorithms.renamed import renamed
from rlsuite.datasets import store
from rlsuite.datasets.transitions import Transitions
from rlsuite.envs.tasks import choose_engine, costs_of
from rlsuite.runs import checkpoint, machine, snapshots
from rlsuite.runs.files import write_whole
from rlsuite.runs.logs import EPISODES, TABLES
from rlsuite.runs.settings import (
    Settings,
    config_hash,
    field_comments,
    hash_of,
    runs_used,
)

FORMAT = 1
MANIFEST, LOCK, FINISHED = "config.json", "lock", "finished"
DATA_KEYS = ("name", "source", "sha256", "timeouts", "remarks")
KINDS = {  # what the manifest must have, whatever its format
    **dict.fromkeys(("algorithm", "task", "config_hash", "engine", "commit"), str),
    **dict.fromkeys(("settings", "config", "versions", "hardware"), dict),
}
SINCE_1 = {"evaluation_engine": str, "sessions": list, "manifest_hash": str}


class RunError(RuntimeError):
    """A run cannot start or go on; the message says what to do."""


# ----------------------------------------------------------------------------- the manifest


def describe(
    algorithm: str, config: object, settings: Settings, preset: str | None, command: str
) -> dict:
    """The manifest of a run that begins here and now.

    DatasetError if its data cannot be used, ValueError or ImportError if its task cannot.
    """
    seeds, data = len(settings.seeds), None
    if settings.dataset:
        data = store.load(settings.dataset, task=settings.env)
    declared = config.declared
    counts = {"engine": declared.environments, "evaluation_engine": settings.evaluation_episodes}
    manifest = {
        "format": FORMAT,
        "algorithm": algorithm,
        "task": settings.env,
        "data": _described(data) if data else None,
        "dataset_path": str(Path(data.metadata["path"]).absolute()) if data else None,
        "preset": preset,
        "command": command,
        "settings": dataclasses.asdict(settings),
        "config": dataclasses.asdict(config),
        "sources": field_comments(type(config)),
        "config_hash": config_hash(algorithm, config, settings),
        "uses": runs_used(config),
        "declared": declared._asdict(),
        **{k: choose_engine(settings.env, seeds * n, settings.engine) for k, n in counts.items()},
        "constraints": _constraints(settings.env),
        "physics_mismatch": envs.physics_mismatch(settings.env),
        **envs.facts(settings.env),
        **here(),
        "sessions": [],
    }
    return json.loads(json.dumps(manifest))  # as a later process will read it


def _constraints(task: str) -> list[dict]:
    """What is asked for in `task`; whether the user's own environments have costs shows later."""
    known = costs_of(task)
    return [each._asdict() for each in known.constraints] if known.known else []


def _described(data: Transitions) -> dict:
    """What a data set was."""
    known = {key: data.metadata.get(key) for key in DATA_KEYS}
    returns = data.episode_returns()
    counts = {"transitions": len(data), "episodes": len(returns)}
    return known | counts | {"mean_return": float(returns.mean())}


def here() -> dict:
    """What decides a run's numbers besides its settings: the commit, versions and hardware."""
    return {
        "commit": machine.git_commit(),
        "versions": machine.versions(),
        "hardware": machine.hardware(),
    }


def begin(folder: Path, manifest: dict) -> None:
    """Make `folder` a new run's. RunError if it is another's already, or cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            require_free(folder, manifest["algorithm"])
            _write(folder, manifest)
    except OSError as error:
        why = error.strerror
        raise RunError(f"cannot write to {folder} ({why}); choose another --folder") from None


def require_free(folder: Path, algorithm: str) -> None:
    """RunError if `folder` holds more than a start that was killed at once leaves."""
    left = (LOCK, Path(MANIFEST).with_suffix(".partial").name)
    found = (path.name for path in folder.iterdir()) if folder.is_dir() else [""]
    if folder.exists() and set(found) - set(left):
        command = f"rlsuite train {algorithm} --resume {folder}"
        raise RunError(f"{folder} exists; to go on with it: {command}, or name another --folder")


def require_device(settings: Settings) -> None:
    """RunError where this machine lacks the device that the settings name."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise RunError("this machine has no CUDA device for --device cuda; leave it out")


def read(folder: Path, algorithm: str | None = None) -> dict:
    """The manifest of the run in `folder`; RunError if there is none, or none that can be trusted.

    `algorithm`, if given, is whose run it must be.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError:
        raise RunError(f"{folder} is not a run folder (no readable {MANIFEST})") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{folder} is not a run folder ({MANIFEST} is damaged: {error})") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("algorithm"), str):
        raise RunError(f"{folder} is not a run folder ({MANIFEST} names no algorithm)")
    if algorithm not in (None, manifest["algorithm"]):
        raise RunError(
            f"{folder} belongs to {manifest['algorithm']}, not {algorithm}; "
            f"type: rlsuite train {manifest['algorithm']} --resume {folder}"
        )
    _require_format(path, manifest)
    _require_kinds(path, manifest)
    _require_hash(folder, manifest)
    manifest["config"] = renamed(manifest["algorithm"], manifest["config"])
    _require_fields(path, manifest)
    return manifest


def begun_with(folder: Path, manifest: dict) -> tuple[object, Settings]:
    """Config and settings that a manifest names. RunError if this version does not accept them."""
    try:
        config = from_json(algorithms.load(manifest["algorithm"]).Config, manifest["config"])
        return config, from_json(Settings, manifest["settings"])
    except (TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder / MANIFEST}: {error}; {_versions(manifest)}") from None


def from_json(cls: type, values: dict):
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def replace(folder: Path, manifest: dict) -> None:
    """Make `manifest` that of the run in `folder`."""
    _write(folder, manifest)


def _write(folder: Path, manifest: dict) -> None:
    if manifest.get("format"):
        manifest = manifest | {"manifest_hash": _manifest_hash(manifest)}
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2).encode())


def _manifest_hash(manifest: dict) -> str:
    rest = {key: value for key, value in manifest.items() if key != "manifest_hash"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _versions(manifest: dict) -> str:
    """The version that wrote a manifest, beside the one that reads it."""
    versions = manifest["versions"] if isinstance(manifest.get("versions"), dict) else {}
    wrote = f"rlsuite {versions.get('rlsuite')}, commit {str(manifest.get('commit'))[:12]}"
    own = f"{machine.versions()['rlsuite']}, commit {machine.git_commit()[:12]}"
    return f"it was written by {wrote}; this is {own}"


def _require_format(path: Path, manifest: dict) -> None:
    found = manifest.get("format", 1 if "manifest_hash" in manifest else 0)
    if type(found) is not int or found not in range(FORMAT + 1):
        raise RunError(
            f"{path} has format {found!r}, and this version knows formats up to {FORMAT}: "
            f"{_versions(manifest)}. Go on with that version"
        )


def _require_kinds(path: Path, manifest: dict) -> None:
    """RunError for what every manifest has, where it is missing or of another kind."""
    kinds = KINDS | (SINCE_1 if "format" in manifest or "manifest_hash" in manifest else {})
    wrong = [name for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)]
    if manifest.get("data") is not None and not isinstance(manifest["data"], dict):
        wrong.append("data")
    if wrong:
        raise RunError(f"{path} lacks, or has damaged: {', '.join(wrong)}; {_versions(manifest)}")


def _require_fields(path: Path, manifest: dict) -> None:
    """RunError for settings that are missing, or not known here."""
    module = algorithms.load(manifest["algorithm"])
    missing, unknown = [], []
    for part, cls in (("config", module.Config), ("settings", Settings)):
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown += [f"{part}.{name}" for name in manifest[part].keys() - fields]
        # A setting that may be left out is none of the run if it is not there
        optional = {n for n, f in fields.items() if part == "settings" and f.default is None}
        missing += [f"{part}.{name}" for name in fields.keys() - optional - manifest[part].keys()]
    for names, verb in ((unknown, "has what this version does not know"), (missing, "lacks")):
        if names:
            raise RunError(
                f"{path} {verb}: {', '.join(sorted(names))}; {_versions(manifest)}. "
                "Go on with the version that began the run, or begin a new one"
            )


def _require_hash(folder: Path, manifest: dict) -> None:
    """RunError if a manifest was edited; it names the settings that differ from the checkpoint."""
    if "manifest_hash" in manifest:
        sound = manifest["manifest_hash"] == _manifest_hash(manifest)
    else:
        found = hash_of(manifest["algorithm"], manifest["config"], manifest["settings"])
        sound = manifest["config_hash"] == found and manifest["task"] == manifest["settings"].get(
            "env"
        )
    if sound:
        return
    changes = []
    with contextlib.suppress(OSError, RuntimeError):
        found = checkpoint.load(folder / "checkpoint", lambda text: None, "cpu")
        begun = identity_at_checkpoint(found[1]) if found else {}
        changes = differences(begun, identity(manifest))
    named = f" ({'; '.join(changes)})" if changes else ""
    raise RunError(
        f"{folder / MANIFEST} is not as the run wrote it{named}: put it back, or begin a new run"
    )


def identity(manifest: dict) -> dict:
    """What a checkpoint remembers of the run that it belongs to."""
    config = renamed(manifest["algorithm"], manifest["config"])
    return {key: manifest[key] for key in ("algorithm", "settings")} | {"config": config}


def identity_at_checkpoint(state: dict) -> dict:
    """The same of the run that wrote a checkpoint; empty if it wrote no such thing."""
    return identity(state["begun"]) if "begun" in state else {}


def differences(then: dict, now: dict) -> list[str]:
    """`config.learning_rate is 0.1, was 0.01`, for all that differs in what both know."""
    found = []
    for part in then.keys() & now.keys():
        if not isinstance(then[part], dict):
            found += [f"{part} is {now[part]}, was {then[part]}"] * (then[part] != now[part])
            continue
        for name in sorted(then[part].keys() | now[part].keys()):
            old, new = then[part].get(name), now[part].get(name)
            if old != new:
                found.append(f"{part}.{name} is {json.dumps(new)}, was {json.dumps(old)}")
    return found


# ------------------------------------------------------------------------- going on with it


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, which ends with it. RunError if another one works there."""
    try:
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise RunError(
            f"cannot write to {folder} ({error.strerror}); nothing was changed"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is training in {folder}; wait for it, or end it"
            ) from None
        yield
    finally:
        os.close(descriptor)


def clean(folder: Path) -> None:
    """Remove what writers that were killed have left by halves, under names that are the run's."""
    for name in (MANIFEST, FINISHED, EPISODES, *TABLES):
        with contextlib.suppress(OSError):
            (folder / name).with_suffix(".partial").unlink()
    for rest in ("policy.partial", "policy.old", "policy-*.partial", "policy-*.old"):
        for path in folder.glob(rest):
            shutil.rmtree(path, ignore_errors=True)
    snapshots.clean(folder)
    checkpoint.clean(folder / "checkpoint")


def engines(folder: Path, manifest: dict) -> tuple[str, str]:
    """Engines of training and of evaluation, as they were chosen when the run began.

    RunError where they cannot run: another engine gives other numbers.
    """
    had = manifest["versions"].get("envpool", machine.ABSENT)
    if "evaluation_engine" in manifest:
        chosen = manifest["engine"], manifest["evaluation_engine"]
    else:  # format 0 has not kept the second; "auto" took EnvPool only where it was installed
        asked = manifest["settings"]["engine"]
        chosen = (
            manifest["engine"],
            "gymnasium" if (asked, had) == ("auto", machine.ABSENT) else asked,
        )
    if set(chosen) & {"envpool", "auto"}:
        try:
            import envpool  # noqa: F401
        except ImportError:
            raise RunError(
                f"{folder} was begun with EnvPool {had}, which is not installed here, and another "
                f"engine gives other numbers: pip install envpool=={had}, or begin a new run"
            ) from None
    return chosen


def data(folder: Path, manifest: dict, resumed: bool, say: Callable[[str], None]) -> Transitions:
    """The data set that the run was begun with. RunError if there is another one now."""
    settings = manifest["settings"]
    name, path = settings["dataset"], manifest.get("dataset_path")
    if path and Path(path).exists():
        if resumed and not Path(name).exists():
            say(f"{name} is read from {path}, where it was when the run began")
        name = path
    found = store.load(name, task=settings["env"])
    then, now = (manifest.get("data") or {}).get("sha256"), found.metadata["sha256"]
    if now != then:
        raise RunError(
            f"{name} is not the data set that {folder} was begun with: its SHA-256 is {now}, was "
            f"{then}; put the old one back, or begin a new run"
        )
    return found


def record_session(folder: Path, step: int, say: Callable[[str], None]) -> None:
    """Say and record in the manifest what differs from where the run was before `step`."""
    manifest = read(folder)
    last, now = [manifest, *manifest.get("sessions", [])][-1], here()
    changes = [
        f"{name} {now['versions'][name]} (was {last['versions'].get(name)})"
        for name in now["versions"]
        if now["versions"][name] != last["versions"].get(name)
    ]
    if now["commit"] != last["commit"]:
        changes.append(f"commit {now['commit']} (was {last['commit']})")
    if now["hardware"]["cpu"] != last["hardware"].get("cpu"):
        changes.append(f"processor {now['hardware']['cpu']} (was {last['hardware'].get('cpu')})")
    if not changes:
        return
    say(
        f"from step {step:,} on with {', '.join(changes)}: recorded in {folder / MANIFEST}, as the "
        "numbers may differ from an unbroken run's"
    )
    record(folder, "sessions", {"step": step, **now})


def record(folder: Path, name: str, entry: dict) -> None:
    """Add an entry to one of the manifest's lists: `sessions`, `dropped` seeds, and the like."""
    manifest = read(folder)
    _write(folder, manifest | {name: [*manifest.get(name, []), entry]})
