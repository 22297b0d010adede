"""The data set that an offline run learned from, as its manifest tells.

name in full               short name          origin    version
deep-ope/hopper/medium-v0  hopper-medium-v0    deep-ope  deep-ope-v0
hopper_medium-v2           hopper-medium-v2    D4RL      D4RL-v2       D4RL's own file
mine                       mine                file      file          any other file
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rlsuite.datasets import d4rl, scores

D4RL, FILE = "D4RL", "file"
UNKNOWN = "unknown"  # source of a file that does not name one; D4RL's own files do not
ORIGINS = {
    "deep-ope": "rolled out anew from public policies; not D4RL's files",
    "sac": "kept of one training run of sac, after D4RL's recipe; not D4RL's files",
    D4RL: "D4RL's own files, going by name and size",
    FILE: "a file of one's own",
}
LEAST = 100_000  # transitions; D4RL's smallest set of locomotion has twice as many
_VERSION = re.compile(r"-(v\d+)$")


@dataclass(frozen=True)
class Dataset:
    """What is known of a set. Returns are undiscounted; `mean_return` is over its episodes."""

    name: str
    task: str  # of Gymnasium: where policies are evaluated
    sha256: str | None
    timeouts: str | None  # "kept" or "dropped": the rows that a time limit cut
    source: str
    transitions: int | None
    episodes: int | None
    mean_return: float | None
    remarks: list[str] | None = None  # what is unusual in the set or its use, a line each

    @property
    def short_name(self) -> str:
        """What tables call the set: task, level and version, without its origin."""
        parts = self.name.replace("_", "-").split("/")
        return "-".join(parts[1:] or parts)

    @property
    def origin(self) -> str:
        """Whose set it is: the first part of a Minari id, D4RL, or any file.

        Only name and size tell D4RL's files: nobody else's is to pass for one by accident.
        """
        if "/" in self.name:
            return self.name.split("/")[0]
        own = d4rl.family(self.name) and _VERSION.search(self.name) and self.source == UNKNOWN
        locomotion = self.task.partition("-")[0] in scores.LOCOMOTION
        small = locomotion and (self.transitions or 0) < LEAST
        return D4RL if own and not small else FILE

    @property
    def version(self) -> str:
        """Origin and version, as published values name theirs: "D4RL-v2"."""
        found = _VERSION.search(self.name)
        return f"{self.origin}-{found[1]}" if found else self.origin

    @property
    def level(self) -> str:
        """Task and level, which published values call the task: "hopper-medium"."""
        return _VERSION.sub("", self.short_name)

    def score(self) -> float | None:
        """Normalised score of the mean return of the data, in percent; None without references."""
        if self.mean_return is None:
            return None
        found = scores.normalized(self.task, self.mean_return)
        return None if found is None else float(found)


def of_manifest(manifest: dict) -> Dataset | None:
    """The set that a manifest or a config.json names; None where it names none.

    Raises ValueError for a set without a name.
    """
    facts = manifest.get("data")
    if facts is None:
        return None
    if not isinstance(facts, dict) or not isinstance(facts.get("name"), str):
        raise ValueError(f"'data' is {manifest!r}; it needs 'name', the name of the data set")
    known = {key: facts.get(key) for key in Dataset.__annotations__}
    return Dataset(**known | {"task": manifest["task"], "source": facts.get("source") or UNKNOWN})


def notes(sets: Iterable[Dataset]) -> list[str]:
    """What the data of these runs are, one line per version; the manifests have the rest."""
    known: dict[str, list[Dataset]] = {}
    for each in sets:
        known.setdefault(each.version, []).append(each)
    found = []
    for version, group in known.items():
        words = ORIGINS.get(group[0].origin, "sets of that name on Minari's server, or one's own")
        tasks = ", ".join(dict.fromkeys(each.task for each in group))
        found.append(
            f"Data: {version}: {words}. Evaluated in {tasks}. The manifest of each row names the "
            "set's source, its SHA-256 and whether rows at time limits were kept."
        )
        remarks = (f"{each.name}: {text}." for each in group for text in each.remarks or ())
        found += dict.fromkeys(remarks)
    return found
