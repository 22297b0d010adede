"""Which tasks the suite knows, which engines run each of them, and where each episode is cut.

Time limits are those of Gymnasium's registry; a test compares them. Tasks outside the table run on
Gymnasium if they are registered there, by a package or by the user.
"""

from __future__ import annotations

import difflib
import importlib
import os
from pathlib import Path
from typing import NamedTuple

ENGINES = ("envpool", "gymnasium")
# Below this many environments a loop over plain Gymnasium environments is faster than EnvPool's
# thread hand-over (measured: EnvPool with one environment is slower than Gymnasium).
ENVPOOL_PAYS_FROM = 8


class Task(NamedTuple):
    """A known task: time limit in steps, engines that run it, why not both, EnvPool's options."""

    time_limit: int
    engines: tuple[str, ...] = ENGINES
    note: str = ""
    envpool_options: tuple[tuple[str, bool], ...] = ()


_CLASSIC_LIMITS = {
    "CartPole-v1": 500,
    "Acrobot-v1": 500,
    "Pendulum-v1": 200,
    "MountainCar-v0": 200,
    "MountainCarContinuous-v0": 999,
}
_MUJOCO_LIMITS = {
    "HalfCheetah": 1000,
    "Hopper": 1000,
    "Walker2d": 1000,
    "Ant": 1000,
    "Humanoid": 1000,
    "Swimmer": 1000,
    "Reacher": 50,
    "InvertedPendulum": 1000,
    "InvertedDoublePendulum": 1000,
    "Pusher": 100,
}
TASKS: dict[str, Task] = {
    **{name: Task(limit) for name, limit in _CLASSIC_LIMITS.items()},
    **{
        f"{name}-{version}": Task(limit)
        for name, limit in _MUJOCO_LIMITS.items()
        for version in ("v4", "v5")
    },
    # Humanoid-v4 observes contact forces. Gymnasium computes them; EnvPool does so when asked.
    "Humanoid-v4": Task(1000, envpool_options=(("post_constraint", True),)),
    "Pendulum-v1": Task(
        200,
        engines=("gymnasium",),
        note="EnvPool's Pendulum-v1 is another task: at the speed limit it turns the pole by the "
        "speed before clipping, where Gymnasium clips first.",
    ),
    "Pusher-v4": Task(
        100,
        engines=("envpool",),
        note="Gymnasium refuses Pusher-v4 with MuJoCo 3 or newer; Pusher-v5 runs on both engines.",
    ),
}


def choose_engine(task: str, environments: int, engine: str = "auto") -> str:
    """Return "envpool" or "gymnasium" for `environments` copies of `task`.

    "auto" takes EnvPool where it has the task, is installed and there are at least 8 environments,
    or where no other engine runs the task.

    Raises ValueError for an unknown task or engine and where the engine lacks the task, ImportError
    where the engine is not installed. Each message says what to type instead.
    """
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"unknown engine {engine!r}: choose 'auto', 'envpool' or 'gymnasium'")
    known = TASKS.get(task)
    if known is None:
        _require_registered(task)
        if engine == "envpool":
            raise ValueError(
                f"the EnvPool engine does not run {task!r}: use engine='gymnasium'. "
                f"EnvPool runs {', '.join(n for n, t in TASKS.items() if 'envpool' in t.engines)}"
            )
        return "gymnasium"
    if engine == "auto":
        if known.engines == ENGINES:
            enough = environments >= ENVPOOL_PAYS_FROM
            return "envpool" if enough and _envpool_installed() else "gymnasium"
        engine = known.engines[0]
    if engine not in known.engines:
        other = known.engines[0]
        raise ValueError(f"engine {engine!r} does not run {task}: use {other!r}. {known.note}")
    if engine == "envpool" and not _envpool_installed():
        other = "use engine='gymnasium'" if "gymnasium" in known.engines else known.note
        raise ImportError(
            f"EnvPool is not installed: run `pip install envpool` (Linux); or {other}"
        )
    return engine


def remember_typed(task: str) -> None:
    """Note that the user typed `task`: files may name its module from now on."""
    module, colon, _ = task.rpartition(":")
    if colon and module not in _typed_modules():
        _typed().parent.mkdir(parents=True, exist_ok=True)
        with open(_typed(), "a") as file:
            file.write(f"{module}\n")


def require_typed(task: str, source: str) -> None:
    """ValueError if `task`, which the file or folder `source` names, has a module never typed.

    Importing a module runs it, so a name in a stranger's file does not suffice.
    """
    module, colon, _ = task.rpartition(":")
    if colon and module not in _typed_modules():
        raise ValueError(
            f"{source} names the task {task}, which would import the module {module}; "
            f"if you know it, add --env {task}"
        )


def _typed() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("RLSUITE_CACHE", caches / "rlsuite")) / "typed-modules.txt"


def _typed_modules() -> list[str]:
    return _typed().read_text().splitlines() if _typed().exists() else []


def _envpool_installed() -> bool:
    try:
        import envpool  # noqa: F401
    except ImportError:
        return False
    return True


def _require_registered(task: str) -> None:
    """Raise ValueError unless Gymnasium has `task`, after importing `module` of "module:Id"."""
    import gymnasium

    module, colon, name = task.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"task {task!r}: no module named {error.name!r}; write MODULE:ID, where importing "
                "MODULE registers ID with gymnasium.register"
            ) from error
    # Gymnasium still lists the -v2 and -v3 of these tasks, but refuses to build them.
    retired = {known for known in gymnasium.registry if known.split("-")[0] in _MUJOCO_LIMITS}
    usable = {*TASKS, *gymnasium.registry} - (retired - {*TASKS})
    if name in usable:
        return
    lower = {known.lower(): known for known in sorted(usable)}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(
        f"unknown task {task!r}: {hint}Your own environment: register it with "
        "gymnasium.register and type MODULE:ID (the module that registers it, then its id)"
    )
