"""Going on from the planned end of a run: more steps of its last stage.

The run is then no longer what its settings alone say: schedules over the whole run were at their
end, and stand somewhere in the middle of a longer one. So config.json gets a new hash and says from
what it was extended, `config-HASH.json` beside it is the old one, and no table takes the run for
one that was begun at that length.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from rlsuite.runs import folder as folders
from rlsuite.runs.folder import FINISHED, MANIFEST, RunError
from rlsuite.runs.settings import Settings, config_hash
from rlsuite.runs.stages import Plan

LENGTHS = ("env_steps", "gradient_steps")  # settings that say how long a run is
REMARK = "does not equal a run that was begun at the length to which it was extended"


class Extension(NamedTuple):
    """A finished run that goes on: nothing is written before its stages were found to allow it."""

    folder: Path
    name: str  # the setting that is changed
    manifest: dict
    schedules: tuple[str, ...]
    steps: tuple[int, int]  # of each seed, then and now

    def begin(self, plan: Plan, then: Mapping[str, int] | None, say: Callable) -> None:
        """Make the folder that of the longer run. RunError if not its last stage alone is longer.

        `then`: the iterations of its stages before; None where an older version kept none.
        """
        now = {name: count for name, count in plan.lengths().items() if count}
        last = next(reversed(now))
        if then is None:
            then = now if len(now) == 1 else {}
        before = {name: count for name, count in then.items() if count and name != last}
        if before != {name: count for name, count in now.items() if name != last}:
            raise RunError(
                f"--{flag(self.name)} lengthens a stage that others follow ({', '.join(now)}), and "
                f"only the last one of a run can go on: begin a new run"
            )
        old = self.manifest["extended"][-1]
        beside = self.folder / f"config-{old['config_hash']}.json"
        try:
            shutil.copyfile(self.folder / MANIFEST, beside)
            folders.replace(self.folder, self.manifest)
            (self.folder / FINISHED).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to {self.folder} ({error.strerror})") from error
        done, whole = self.steps
        for schedule in self.schedules:
            say(
                f"{schedule} follows a schedule over the whole run: at step {done:,} it was at the "
                f"end of one of {done:,} steps, and goes on at {done / whole:.0%} of one of "
                f"{whole:,}"
            )
        say(
            f"this run {REMARK}: {MANIFEST} says so, with the hash "
            f"{self.manifest['config_hash']}, and {beside.name} is as it was"
        )


def extended(
    folder: Path, manifest: dict, config, settings: Settings, changes: Mapping[str, int]
) -> tuple[object, Extension]:
    """The config of the longer run, and what makes the folder its own.

    ValueError for a length that cannot be, RunError for a run that has not finished.
    """
    (name, value), *more = changes.items()
    if more or not hasattr(config, name):
        known = [each for each in LENGTHS if hasattr(type(config), each) or hasattr(config, each)]
        raise ValueError(f"{folder} goes on by one of its lengths: --{flag(known[0])} NUMBER")
    if name not in {field.name for field in dataclasses.fields(config)}:
        raise ValueError(
            f"--{flag(name)} is no setting of {manifest['algorithm']}; type: --env-steps NUMBER"
        )
    if value <= getattr(config, name):
        raise ValueError(
            f"{folder} has taken {getattr(config, name):,} steps; --{flag(name)} is {value:,}, and "
            "it has to be more"
        )
    if not (folder / FINISHED).exists():
        raise RunError(f"{folder} has not finished; first type: rlsuite train --resume {folder}")
    longer = dataclasses.replace(config, **{name: value})
    algorithm, was = manifest["algorithm"], manifest["config_hash"]
    # A run begun at that length has the hash of the settings alone
    text = f"{config_hash(algorithm, longer, settings)} extended from {was}"
    entry = {"config": manifest["config"], "config_hash": was, "remark": REMARK}
    steps = config.declared.steps, longer.declared.steps
    entry |= {"step": steps[0], "to": steps[1]}
    new = manifest | {
        "config": dataclasses.asdict(longer),
        "config_hash": hashlib.sha256(text.encode()).hexdigest()[:12],
        "declared": longer.declared._asdict(),
        "extended": [*manifest.get("extended", ()), entry],
    }
    new = json.loads(json.dumps(new))  # as a later process will read it
    return longer, Extension(folder, name, new, longer.declared.schedules, steps)


def flag(name: str) -> str:
    return name.replace("_", "-")
