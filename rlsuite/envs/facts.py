"""What a run's manifest keeps of its environments: what nobody can look up later."""

from rlsuite.envs.engines import make
from rlsuite.envs.tasks import TASKS, engine_id
from rlsuite.envs.unregistered import is_unregistered


def facts(task: str) -> dict[str, object]:
    """Whether `task` follows its seeds; outside the table also its spaces and what makes it.

    Known tasks are not asked. Raises as `make`.
    """
    if engine_id(task) in TASKS:
        return {"seeded": True}
    environments = make(task, [0], 1)
    environments.close()
    found = {"seeded": environments.seeded, "spaces": environments.spaces.to_json()}
    return found | ({"unregistered": True} if is_unregistered(task) else {})


def is_seeded(task: str) -> bool:
    """Whether equal seeds give equal first observations in `task`. Raises as `make`."""
    return bool(facts(task)["seeded"])
