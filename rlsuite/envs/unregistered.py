"""Environments that a function makes, `lambda: MyEnv()`, without a name of their own.

They get one, `unregistered/MyEnv`, for this process: config.json keeps it, and another process
knows from it that there is nothing to import.
"""

from __future__ import annotations

from collections.abc import Callable

NAMESPACE = "unregistered"


def name_of(function: Callable) -> str:
    """The task that `function` makes, from now on in this process. ValueError where it makes none.

    Each call has to give another environment: a run has several, and steps them side by side.
    """
    import gymnasium

    what = "env must be a task's name or a function that makes a gymnasium.Env, lambda: MyEnv()"
    if not callable(function):
        raise ValueError(f"{what}; got {function!r:.80}")
    first, second = _made(function, what), _made(function, what)
    if first is second:
        raise ValueError(
            "env gives the same environment twice, and a run has several: build it in the "
            "function, lambda: MyEnv()"
        )
    task = f"{NAMESPACE}/{type(first.unwrapped).__name__}"
    first.close()
    second.close()
    gymnasium.registry.pop(task, None)
    gymnasium.register(task, entry_point=lambda **given: function(**given))
    return task


def is_unregistered(task: str) -> bool:
    """Whether `task` is of a function, in this process or in another."""
    return task.startswith(f"{NAMESPACE}/")


def require_here(task: str) -> None:
    """ValueError where the function that makes `task` is another process's."""
    if not is_unregistered(task):
        return
    import gymnasium

    if task not in gymnasium.registry:
        raise ValueError(
            f"{task} was made by a function in Python, which no file holds: go on with "
            "rlsuite.train(resume=FOLDER, env=...) and act with rlsuite.load_policy(FOLDER) there"
        )


def _made(function: Callable, what: str):
    import gymnasium

    from rlsuite.envs.faults import explained

    try:
        env = function()
    except Exception as error:  # of the user's own code
        raise ValueError(f"env cannot be created: {explained(error)}") from error
    if not isinstance(env, gymnasium.Env):
        raise ValueError(f"{what}; it gave {env!r:.80}")
    return env
