"""Data sets of a run, made the way D4RL made its own (Fu et al. 2020, arXiv 2004.07219).

| level | rows |
|---|---|
| random | uniform in the box, a million |
| medium | a million, sampled from the snapshot whose sampled return is nearest to D4RL's set |
| expert | a million, sampled from the best snapshot of the run's last fifth |
| medium-expert | those of medium, then those of expert |
| medium-replay | all that the run had seen when the medium snapshot was taken, in that order |
| full-replay | the first million that the run has seen |

Departures from D4RL: roll-outs are whole episodes, not cut after exactly a million rows; also in
replay `truncated` is the task's time limit alone; an episode that a checkpoint or the last row has
cut has neither flag; the first rows have uniform actions, where the run had a warm-up.
"""

import csv
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlsuite import algorithms
from rlsuite.core.saving import load_policy
from rlsuite.core.segments import first_rows
from rlsuite.datasets import collect, kept
from rlsuite.datasets.minari import Episode, require_free
from rlsuite.datasets.recipes import UNIFORM, Recipe
from rlsuite.envs.engines import make
from rlsuite.runs import checkpoint, folder, logs
from rlsuite.runs.settings import task_family
from rlsuite.runs.snapshots import FOLDER

ROWS = 1_000_000
# Mean returns of D4RL's -v2 medium sets
MEDIUM = {"HalfCheetah": 4770.0, "Hopper": 1420.0, "Walker2d": 2850.0}
NEAR = 0.1  # of that return; a set from further away says so
LATE = 0.8  # of the run's steps, from which on a snapshot may be the expert
PARTS = {  # level -> what has to be chosen for it
    "random": (),
    "medium": ("medium",),
    "expert": ("expert",),
    "medium-expert": ("medium", "expert"),
    "medium-replay": ("medium",),
    "full-replay": (),
}
REPLAY = ("medium-replay", "full-replay")


class Snapshot(NamedTuple):
    step: int
    ret: float | None  # mean sampled return; None where none was taken at this step
    remark: str = ""

    @property
    def name(self) -> str:
        return f"{self.step:012d}"

    def __str__(self) -> str:
        known = "" if self.ret is None else f", whose samples return {self.ret:,.0f}"
        return f"step {self.step:,}{known}"


class Source:
    """One seed of the run in `folder`."""

    def __init__(self, path: Path, seed: int | None) -> None:
        self.folder, self.manifest = path, folder.read(path)
        seeds = self.manifest["settings"]["seeds"]
        if seed is None and len(seeds) > 1:
            raise ValueError(f"{path} has the seeds {seeds}; name one: --policy-seed {seeds[0]}")
        self.seed = seeds[0] if seed is None else seed
        if self.seed not in seeds:
            raise ValueError(f"seed {seed} is not in {path}; it has {', '.join(map(str, seeds))}")
        self.index, self.num_seeds = seeds.index(self.seed), len(seeds)
        self.task, self.algorithm = self.manifest["task"], self.manifest["algorithm"]

    def snapshots(self) -> dict[int, Snapshot]:
        """By step. ValueError if there are none."""
        path = self.folder / logs.SNAPSHOTS
        if not path.is_file():
            raise ValueError(f"{self.folder} has no snapshots; train with --snapshots 100")
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["seed"]) == self.seed]
        return {int(row["step"]): Snapshot(int(row["step"]), float(row["return"])) for row in rows}

    def choose(self, part: str, wish: str, replay: bool) -> Snapshot:
        """The snapshot at step `wish`, or by the rule of `part` where it says auto."""
        if wish == "auto":
            return (self._medium if part == "medium" else self._expert)()
        if not wish.isdecimal():
            raise ValueError(f"snapshot {wish!r} is no step; write a whole number, or auto")
        if replay and not (self.folder / logs.SNAPSHOTS).is_file():
            return Snapshot(int(wish), None)
        known = self.snapshots()
        if int(wish) not in known and not replay:
            near = sorted(known, key=lambda step: (abs(step - int(wish)), step))[:3]
            steps = ", ".join(map(str, sorted(near)))
            raise ValueError(f"{self.folder} has no snapshot at step {wish}; near are {steps}")
        return known.get(int(wish), Snapshot(int(wish), None))

    def _medium(self) -> Snapshot:
        family = task_family(self.task)
        if family not in MEDIUM:
            raise ValueError(
                f"D4RL has no medium set of {self.task} to be near to; name a step of "
                f"{self.folder / logs.SNAPSHOTS}: --snapshot STEP"
            )
        target = MEDIUM[family]

        def distance(one: Snapshot) -> tuple[float, int]:
            return abs(one.ret - target) / target, one.step

        best = min(self.snapshots().values(), key=distance)
        if distance(best)[0] <= NEAR:
            return best
        far = f"{best}: more than {NEAR:.0%} from the {target:,.0f} of D4RL's medium set"
        return best._replace(remark=far)

    def _expert(self) -> Snapshot:
        known = self.snapshots()
        late = [one for step, one in known.items() if step >= LATE * max(known)]
        return max(late, key=lambda one: (one.ret, -one.step))

    def replay(self, count: int | None) -> list[Episode]:
        """The first rows that the seed has seen, `count` or all; episodes by their start.

        ValueError where they are not there any more, or not yet.
        """
        place = self.folder / "checkpoint"
        found = checkpoint.load(place, lambda text: None, "cpu")
        state = found[1]["learner"].get("buffer") if found else None
        if not (isinstance(state, dict) and "segments" in state and state["added"]):
            names = ", ".join(filter(algorithms.is_off_policy, algorithms.ALGORITHMS))
            raise ValueError(f"{self.folder} has no rows of its own; these keep some: {names}")
        count = min(ROWS, state["added"]) if count is None else count
        try:
            rows = first_rows(state, place / "buffer", self.index, self.num_seeds, count)
        except ValueError as error:
            raise ValueError(f"{self.folder} cannot give {count:,} rows: {error}") from None
        return episodes(rows, self._applied(rows["action"]), self.manifest["config"]["num_envs"])

    def _applied(self, action: np.ndarray) -> np.ndarray:
        """What the environment got for the policy's own actions [n, A]."""
        policy, _ = load_policy(self.folder)
        sizes = make(self.task, [0], 1)
        behaviour = policy.behaviour(sizes.action_low, sizes.action_high)
        sizes.close()
        return behaviour.to_env(action)


def keep(
    path: Path,
    level: str,
    chosen: Sequence[str] = ("auto",),
    policy_seed: int | None = None,
    name: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    progress: collect.Progress = collect._silent,
) -> Path:
    """Make the set `level` of the run in folder `path`; its folder among the local sets.

    `chosen` are steps of snapshots, or auto, one for all of the level or one for each; `steps` the
    rows of each part, `seed` that of roll-outs. The same run gives the same bytes.

    RunError for a folder that is no run's, ValueError for what the run cannot give.
    """
    if level not in PARTS:
        near = difflib.get_close_matches(level, PARTS) or list(PARTS)
        raise ValueError(f"level {level!r} is unknown; use one of: {', '.join(near)}")
    source, parts = Source(path, policy_seed), PARTS[level]
    if steps is not None and steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1")
    if steps is not None and level == "medium-replay":
        raise ValueError("medium-replay ends with its snapshot; leave --steps out")
    wishes = ["auto"] * len(parts) if tuple(chosen) == ("auto",) else chosen
    if len(wishes) != len(parts):
        raise ValueError(f"{level} is made of {len(parts)} snapshots; --snapshot has {len(wishes)}")
    replay = level in REPLAY
    snapshots = [source.choose(*each, replay) for each in zip(parts, wishes, strict=True)]
    family = task_family(source.task).lower()
    name = name or f"{source.algorithm}/{family}/{level}-v0"
    require_free(name)
    origin = _origin(source, level, snapshots)
    if replay:
        count = snapshots[0].step if snapshots else steps
        found = source.replay(count)
        rows = {"whole": collect.summary(found), "versions": collect.versions()}
        return kept.write(name, source.task, found, origin | rows)
    names = [one.name for one in snapshots] or [UNIFORM]
    recipe = Recipe(
        name,
        source.task,
        (steps or ROWS) * len(names),
        dict.fromkeys(names, 1.0),
        seed,
        source="uniform actions" if level == "random" else origin["source"],
        licence="your own",
    )
    return kept.roll_out(recipe, path / FOLDER, source.seed, origin, progress)


def _origin(source: Source, level: str, snapshots: list[Snapshot]) -> dict:
    """What a set says of where it comes from; no path and no date, so that it is repeatable."""
    manifest = source.manifest
    whose = f"{source.algorithm} on {source.task}, seed {source.seed}"
    at = "; ".join(map(str, snapshots))
    done = {"random": "uniform actions", "full-replay": "all that it saw"}.get(level, at)
    if level == "medium-replay":
        done = f"all that it saw until {at}"
    run = {key: manifest[key] for key in ("algorithm", "task", "preset", "config_hash", "commit")}
    run |= {"seed": source.seed, "snapshots": {one.step: one.ret for one in snapshots}}
    remarks = [one.remark for one in snapshots if one.remark]
    warm_up = manifest["config"].get("warm_up", 0)
    if level in REPLAY and warm_up:
        remarks.append(f"the first {warm_up:,} rows have uniform actions: the run's warm-up")
    return {
        "algorithm_name": source.algorithm,
        "description": f"{level} of a run of rlsuite, after D4RL's recipe. Not a set of D4RL.",
        "source": f"trained by rlsuite: {whose}; {done}",
        "level": level,
        "run": run,
        "remarks": remarks,
    }


def episodes(rows: dict[str, np.ndarray], action: np.ndarray, num_envs: int) -> list[Episode]:
    """Replay rows [n, ...] as episodes, in the order of their starts; `action` in the box [n, A].

    Row i is of environment i mod `num_envs`.
    """
    count, found = len(action), []
    for env in range(num_envs):
        own = np.arange(env, count, num_envs)
        starts = np.flatnonzero(rows["first"][own])
        for part in np.split(own, starts[1:]):
            last = part[-1]
            obs = np.concatenate([rows["obs"][part], rows["next_obs"][last, None]])
            ends = bool(rows["terminated"][last]), bool(rows["truncated"][last])
            numbers = action[part], rows["reward"][part]
            found.append((part[0], Episode(obs, *numbers, *ends, rows["log_prob"][part])))
    return [episode for _, episode in sorted(found, key=lambda each: each[0])]
