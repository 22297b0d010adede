"""Which environment a Minari set names, as a task of this suite."""

import json

from rlsuite.envs.tasks import TASKS
from rlsuite.envs.variants import LIMIT, join, split

# Settings that change pictures and nothing else
PICTURES = ("render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config")


def task(declared: dict) -> str | None:
    """The task that a set's `metadata.json` names: for evaluation, where it names one for that.

    Settings of the environment that differ from Gymnasium's registry go along, the time limit among
    them: Pendulum-v1,g=1.6. Nothing is imported for it. An environment that is not registered here
    has nothing to compare with: its name stands alone.
    """
    if isinstance(declared.get("task"), str):  # a set of this suite
        return declared["task"]
    spec = _spec(declared, "eval_env_spec") or _spec(declared, "env_spec")
    if not isinstance(spec.get("id"), str):
        return None
    whole = join(spec["id"], _differences(spec))
    split(whole)  # ValueError for settings that no flag can say
    return whole


def wrappers(declared: dict) -> list[str]:
    """Names of the wrappers of one's own that the data were collected through."""
    listed = _spec(declared, "env_spec").get("additional_wrappers") or []
    return [str(each.get("name")) for each in listed]


def unlike(collected: str | None, used: str | None) -> bool:
    """Whether two tasks are different ones; the module that registers them makes no difference."""
    if collected is None or used is None:
        return False
    (one, settings), (other, others) = split(collected), split(used)
    return one.rpartition(":")[2] != other.rpartition(":")[2] or settings != others


def _spec(declared: dict, key: str) -> dict:
    return json.loads(declared.get(key) or "{}")


def _differences(spec: dict) -> dict[str, object]:
    name, limit = spec["id"], spec.get(LIMIT)
    settings = {k: v for k, v in (spec.get("kwargs") or {}).items() if k not in PICTURES}
    if name in TASKS and not settings and limit in (None, TASKS[name].time_limit):
        return {}
    import gymnasium

    registered = gymnasium.registry.get(name.rpartition(":")[2])
    if registered is None:
        return {}
    usual = json.loads(json.dumps(registered.kwargs, default=repr))
    found = {k: v for k, v in settings.items() if k not in usual or usual[k] != v}
    if limit not in (None, registered.max_episode_steps):  # None: collected without the limit
        found[LIMIT] = limit
    return found
