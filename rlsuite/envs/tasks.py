"""Which tasks the suite knows, which engines run each of them, and where each episode is cut.

Time limits are those of Gymnasium's registry; a test compares them. Tasks outside the table run on
Gymnasium if they are registered there, by a package or by the user.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import functools
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from rlsuite.envs import costs, dm_control
from rlsuite.envs.constrained import solo12
from rlsuite.envs.costs import Constraint
from rlsuite.envs.unregistered import require_here
from rlsuite.envs.variants import LIMIT, split

ENGINES = ("envpool", "gymnasium")
MUJOCO = "mujoco"  # steps robots of this suite's own by mujoco.rollout
# Below this many environments a loop over plain Gymnasium environments is faster than EnvPool's
# thread hand-over (measured: EnvPool with one environment is slower than Gymnasium).
ENVPOOL_PAYS_FROM = 8

_typed: set[str] = set()  # modules that the user named to this process


class Task(NamedTuple):
    """A known task: time limit in steps, engines that run it, why not both, EnvPool's options.

    `fillers` are keys of EnvPool's observations that are no part of the task. A task with
    `constraints` may be another one, its `base`, to the engines; what it costs is computed by
    `cost` or `margin` (see `costs`) from `signals`, the engine's info arrays of these names.
    `staggered`: training begins in the midst of episodes, as far as their time limit goes.
    """

    time_limit: int | None
    engines: tuple[str, ...] = ENGINES
    note: str = ""
    envpool_options: tuple[tuple[str, bool], ...] = ()
    fillers: tuple[str, ...] = ()
    base: str | None = None
    constraints: tuple[Constraint, ...] = ()
    cost: costs.Function | None = None
    margin: costs.Function | None = None
    signals: tuple[str, ...] = ()
    staggered: bool = False


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
    **{
        name: Task(
            dm_control.TIME_LIMIT,
            engines=("envpool",),
            note=dm_control.NOTE,
            fillers=dm_control.FILLERS.get(name, ()),
        )
        for name in dm_control.NAMES
    },
}
ADDED: dict[str, Task] = {}  # by modules of the user's, with `constrain`


def _locomotion_under_constraints() -> dict[str, Task]:
    """HalfCheetahVelocity-v4 and its like: thresholds of Safety-Gymnasium, observations uncut.

    HalfCheetahSpeed-v4 and its like have the dense cost of FOCOPS and CAL. CAL cuts Humanoid's
    observations to the first 45; here they stay whole, since no published value is compared there.
    """
    found = {}
    for task in (f"{name}-{number}" for name in costs.SPEED_LIMITS for number in ("v4", "v5")):
        name, number = task.split("-")
        planar = name in costs.PLANAR
        signals = ("x_velocity", "y_velocity") if planar else ("x_velocity",)
        known = TASKS[task]._replace(base=task, signals=signals)
        velocity = Constraint("velocity", costs.VELOCITY_LIMIT, "episode")
        margin = costs.velocity_margin(name)
        found[f"{name}Velocity-{number}"] = known._replace(constraints=(velocity,), margin=margin)
        speed = Constraint("speed", costs.SPEED_LIMITS[name], "discounted")
        found[f"{name}Speed-{number}"] = known._replace(constraints=(speed,), cost=costs.speed)
    return found


def _dm_control_under_constraints() -> dict[str, Task]:
    """Tasks of ReLOAD, in which the best policy breaks the constraint: costs are means per step."""
    height = Constraint("height", costs.HEIGHT_LIMIT, "step")
    speed = Constraint("speed", costs.JOINT_SPEED_LIMIT, "step")
    walker, reacher = (
        TASKS[name]._replace(base=name) for name in ("WalkerWalk-v1", "ReacherEasy-v1")
    )
    return {
        "WalkerWalkHeight-v1": walker._replace(constraints=(height,), cost=costs.torso_height),
        "ReacherEasySpeed-v1": reacher._replace(constraints=(speed,), cost=costs.joint_speed),
    }


SOLO = Task(
    solo12.TIME_LIMIT,
    engines=(MUJOCO,),
    note="It is stepped by mujoco.rollout.",
    constraints=solo12.CONSTRAINTS,
    margin=solo12.margins,
    staggered=True,
)
TASKS |= _locomotion_under_constraints() | _dm_control_under_constraints()
TASKS |= {"Solo12-v0": SOLO, "Solo12Forward-v0": SOLO}


def constrain(
    name: str,
    base: str,
    cost: costs.Function | None,
    *constraints: Constraint,
    margin: costs.Function | None = None,
    signals: Sequence[str] = (),
) -> None:
    """Add the task `name`: `base` under constraints of your own, on the engines of `base`.

    `cost` returns [E, C] for E transitions; see `costs` for its arguments and for `margin`, which
    makes costs of its own where `cost` is None. `signals` are the info arrays that they ask for.
    Called in a module of yours, the task is MODULE:NAME. Raises ValueError for what cannot be.
    """
    if not name or name in TASKS or ":" in name:
        raise ValueError(f"task {name!r}: give it a name of its own, such as HopperGently-v4")
    if not constraints or (cost is None and margin is None):
        raise ValueError(f"{name}: give it a function, and a Constraint(NAME, LIMIT, KIND)")
    costs.check(name, constraints)
    known = TASKS.get(base) or Task(None, engines=("gymnasium",))
    ADDED[name] = known._replace(
        base=known.base or base,
        constraints=constraints,
        cost=cost,
        margin=margin,
        signals=tuple(signals),
    )


def find(task: str) -> Task | None:
    """What is known of `task`: of the table, or added by MODULE of MODULE:NAME, once imported.

    Of a task with settings of its own nothing is known but its constraints, and Gymnasium runs it;
    tasks that Gymnasium lacks may have a time limit of their own, and no other setting.
    """
    name, comma, settings = task.partition(",")
    known = TASKS.get(name) or ADDED.get(name.rpartition(":")[2])
    if known is None or not comma:
        return known
    changes = split(task)[1]
    known = known._replace(time_limit=changes.get(LIMIT, known.time_limit))
    if "gymnasium" not in known.engines and changes.keys() == {LIMIT}:
        return known._replace(base=known.base or name)
    if known.base is None:
        return None
    note = "EnvPool takes no settings after a comma."
    return known._replace(engines=("gymnasium",), note=note, base=f"{known.base},{settings}")


def engine_id(task: str) -> str:
    """The id by which the engines know `task`: its base, if it has one."""
    known = find(task)
    return (known and known.base) or task


def costs_of(task: str) -> costs.Costs:
    """What `task` costs: a task outside the table has the cost that its environments report."""
    known = find(task)
    if known is None:
        return costs.Costs(task, [costs.REPORTED], costs.reported)
    return costs.Costs(task, known.constraints, known.cost, known.margin)


def remember_typed(task: str) -> None:
    """Note that the user typed `task`: its module, if it names one, may be imported from now on.

    Later processes know it from a file in the cache; where that cannot be written, only this one.
    """
    module = task.rpartition(":")[0]
    if not module:
        return
    _typed.add(module)
    if module in _remembered():
        return
    with contextlib.suppress(OSError):
        _memory().parent.mkdir(parents=True, exist_ok=True)
        with open(_memory(), "a", encoding="utf-8") as file:
            file.write(f"{module}\n")


def require_typed(task: str, source: str) -> None:
    """Raise ValueError if `task`, read from the file `source`, names a module never typed here."""
    module = task.rpartition(":")[0]
    if module and module not in _typed | _remembered():
        raise ValueError(
            f"{source} names the module {module!r}, which was never typed here; importing it runs "
            f"its code. If you trust it, type --env {task}"
        )


def find_modules() -> None:
    """Let modules of the current folder be imported, after all that is installed."""
    if "" not in sys.path:
        sys.path.append("")  # last: a file that lies there hides no installed package


def _memory() -> Path:
    from rlsuite.core.caches import root

    return root() / "typed_modules.txt"


def _remembered() -> set[str]:
    try:
        return set(_memory().read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return set()


def choose_engine(task: str, environments: int, engine: str = "auto") -> str:
    """Return "envpool" or "gymnasium" for `environments` copies of `task`.

    "auto" takes EnvPool where it has the task, is installed and there are at least 8 environments,
    or where no other engine runs the task.

    Raises ValueError for an unknown task or engine and where the engine lacks the task, ImportError
    where the engine is not installed. Each message says what to type instead.
    """
    if engine not in ("auto", *ENGINES, MUJOCO):
        raise ValueError(f"unknown engine {engine!r}: choose 'auto', 'envpool' or 'gymnasium'")
    known = find(task)
    if known is None:
        _require_registered(task)
        known = find(task)  # its module may have added it
    if known is None:
        if engine == "envpool":
            raise ValueError(
                f"the EnvPool engine does not run {task!r}: use engine='gymnasium'. "
                f"EnvPool runs {', '.join(_plain_of_both())}, and by names like HopperVelocity-v4 "
                "and WalkerWalk-v1 tasks with constraints and dm_control's"
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


def _plain_of_both() -> list[str]:
    """The tasks that both engines run, those without constraints."""
    return [n for n, t in TASKS.items() if t.engines == ENGINES and t.base is None]


def _envpool_installed() -> bool:
    try:
        import envpool  # noqa: F401
    except ImportError:
        return False
    return True


def physics_mismatch(task: str) -> str | None:
    """Say so if the two engines compute `task` with different versions of MuJoCo."""
    known, name = find(task), engine_id(task).split("-")[0]
    if known is None or known.engines != ENGINES or name not in _MUJOCO_LIMITS:
        return None
    try:
        installed = version("mujoco")
    except PackageNotFoundError:
        return None
    embedded = _embedded_mujoco()
    if embedded in (None, installed):
        return None
    return (
        f"MuJoCo {installed} is installed, but EnvPool computes with {embedded}: the two engines' "
        f"physics differ. Run `pip install mujoco=={embedded}`"
    )


@functools.cache
def _embedded_mujoco() -> str | None:
    """The version of MuJoCo inside EnvPool, which its library tells; None without EnvPool."""
    spec = find_spec("envpool")
    if spec is None or spec.origin is None:
        return None
    library = Path(spec.origin).parent / "mujoco" / "mujoco_gym_envpool.so"
    try:
        tell = ctypes.CDLL(str(library)).mj_versionString
    except (OSError, AttributeError):
        return "3.6.0"  # that of EnvPool 1.2.5
    tell.restype = ctypes.c_char_p
    return tell().decode()


def _require_registered(task: str) -> None:
    """Raise ValueError unless Gymnasium has `task`, after importing `module` of "module:Id"."""
    import gymnasium

    module, colon, name = split(task)[0].rpartition(":")
    require_here(name)
    if colon:
        find_modules()
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"task {task!r}: no module named {error.name!r}; write MODULE:ID, where importing "
                "MODULE registers ID with gymnasium.register"
            ) from error
    # Gymnasium still lists the -v2 and -v3 of these tasks, but refuses to build them.
    retired = {known for known in gymnasium.registry if known.split("-")[0] in _MUJOCO_LIMITS}
    usable = {*TASKS, *ADDED, *gymnasium.registry} - (retired - {*TASKS})
    if name in usable:
        return
    lower = {known.lower(): known for known in sorted(usable)}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower)]
    near = [*_registered_here(name), *near] if not colon else near
    hint = (
        f"did you mean {' or '.join(near)}? " if near else "`rlsuite tasks` lists the known ones. "
    )
    raise ValueError(
        f"unknown task {task!r}: {hint}Your own environment: register it with "
        "gymnasium.register and type MODULE:ID (the module that registers it, then its id)"
    )


def _registered_here(name: str) -> list[str]:
    """`MODULE:name` for the modules of the current folder that mention the id; none is imported."""
    found = []
    for path in sorted(Path().glob("*.py")):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text(encoding="utf-8")
            if f'"{name}"' in text or f"'{name}'" in text:
                found.append(f"{path.stem}:{name}")
    return found
