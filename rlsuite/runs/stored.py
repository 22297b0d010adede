"""A run as its folder holds it: what a checkpoint keeps, and what a resume restores from it."""

import contextlib
import dataclasses
import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from safetensors import SafetensorError

from rlsuite.core.layers import Layout
from rlsuite.core.network_files import load_network, save_network
from rlsuite.core.networks import ActorCritic
from rlsuite.core.ranges import RunFolder
from rlsuite.core.saving import load_policy, save_policy, select_seeds
from rlsuite.core.spaces import Spaces
from rlsuite.core.streams import Streams
from rlsuite.runs import checkpoint, logs
from rlsuite.runs import folder as folders
from rlsuite.runs.best import NAME, Best
from rlsuite.runs.evaluation import Evaluation
from rlsuite.runs.files import flush
from rlsuite.runs.folder import FINISHED, RunError
from rlsuite.runs.settings import Settings
from rlsuite.runs.snapshots import Snapshots
from rlsuite.runs.stages import Plan

RECENT = 100  # episodes in a training return, as CleanRL reports it


class StoredRun:
    """The state of a run besides its learner, and the one order in which it is written.

    At a checkpoint: rows reach the disk, then the checkpoint, then the policy; `finished` comes
    last of all. So whatever a kill leaves missing or stale, the newest checkpoint knows.
    """

    def __init__(self, folder: Path, manifest: dict, config: object, settings: Settings) -> None:
        self.folder, self.manifest, self.algorithm = folder, manifest, manifest["algorithm"]
        self.config, self.settings = config, settings
        self.task, self.seeds = settings.env, settings.seeds
        self.streams = Streams(self.seeds)
        self.step = 0
        self.spaces: Spaces | None = None  # what its environments show and take, once there are any
        self._policies: dict[str, ActorCritic] = {}  # what is evaluated and saved, the main first
        self.dropped: dict[int, dict] = {}  # slots of seeds that diverged: what config.json says
        self._best: Best | None = None
        self._stages_then: dict | None = None  # of the checkpoint that was restored
        self._paid = np.zeros((len(self.seeds), len(manifest.get("constraints") or ())))
        self._recent = [deque(maxlen=RECENT) for _ in self.seeds]
        self._history: logs.History = []
        self._seconds: dict[str, float] = {}
        self._wall_before = 0.0
        self._snapshots: Snapshots | None = None
        self._saved: int | None = None  # step of the newest checkpoint
        self._started = perf_counter()

    def say(self, text: str) -> None:
        """A message to the user."""
        print(text, file=sys.stderr)

    def kept(self) -> str:
        """What there is to go on from."""
        if self._saved is None:
            return "there is no checkpoint yet, so a resume begins anew"
        return f"the checkpoint at step {self._saved:,} is intact"

    def complete(self) -> bool:
        """Whether the run has finished and all that its last checkpoint knows is there.

        RunError if it has finished, and has no checkpoint.
        """
        if not (self.folder / FINISHED).exists():
            return False
        found = checkpoint.load(self.folder / "checkpoint", self.say, "cpu")
        if found is None:
            raise RunError(
                f"{self.folder} has finished, and its checkpoint is gone: there is nothing to go "
                "on from, and nothing was changed. To train anew, name another --folder"
            )
        iterations, state = found
        if iterations < state.get("total", iterations):
            return True  # its last checkpoint was damaged later: said above
        manifest = state.get("policy") or self._about_policy() | {"step": state["step"]}
        policies = state.get("policies") or {"policy": ("policy", manifest)}
        self.dropped = state.get("dropped", {})
        tables = logs.recorded(self.folder, state)
        return logs.same(self.folder, tables, _history(state), self.seeds) and all(
            self._has_policy(folder, manifest, state["learner"][field])
            for folder, (field, manifest) in policies.items()
        )

    @property
    def alive(self) -> list[int]:
        """Slots of the seeds that train."""
        return [slot for slot in range(len(self.seeds)) if slot not in self.dropped]

    def _save(self, iterations: int, plan: Plan, learner) -> None:
        """The checkpoint after so many of the iterations that the run plans."""
        with self._writing():
            tables = logs.contents(self.folder)
            parts = checkpoint.capture(learner, self.folder / "checkpoint")
        state = {
            "begun": folders.identity(self.manifest),
            "learner": parts,
            "streams": self.streams.state_dict(),
            "recent": [list(x) for x in self._recent],
            "history": [(step, _lists(found)) for step, found in self._history],
            "paid": self._paid.tolist(),
            "seconds": self._seconds,
            "wall_seconds": self._wall(),
            "tables": tables,
            "policies": self._described(learner),
            "step": self.step,
            "total": plan.total,
            "stages": plan.lengths(),
            "dropped": self.dropped,
        }
        state |= {"best": self._best.state_dict()} if self._best else {}
        checkpoint.save(self.folder / "checkpoint", iterations, state)
        self._saved = self.step
        self._save_policies()

    def _restore(self, learner, total: int) -> int:
        """Make learner and folder what the newest sound checkpoint holds; iterations done."""
        found = checkpoint.load(self.folder / "checkpoint", self.say)
        if found is None:
            self._begin_anew(total)
            return 0
        iterations, state = found
        self._require_own(state)
        with self._writing():
            tables = logs.recorded(self.folder, state)
        checkpoint.restore(learner, state["learner"], self.folder / "checkpoint")
        self.streams.load_state_dict(state["streams"])
        self._recent = [deque(map(tuple, x), maxlen=RECENT) for x in state["recent"]]
        self._history = _history(state)
        self._paid = np.array(state.get("paid", self._paid))
        self._seconds, self._wall_before = state["seconds"], state["wall_seconds"]
        self.step = self._saved = state["step"]
        self.dropped = state.get("dropped", {})
        self._stages_then = state.get("stages")
        if self._best and "best" in state:
            self._best.load_state_dict(state["best"])
        with self._writing():
            logs.restore(self.folder, tables, self._history, self.seeds, self.say)
        for folder, (field, manifest) in self._described(learner).items():
            if not self._has_policy(folder, manifest, getattr(learner, field).state_dict()):
                self._save_policies()
        if self._best and not (self.folder / f"policy-{NAME}").exists():
            self._save_policies()
        self.say(f"resuming at step {self.step:,} of each seed")
        return iterations

    def _begin_anew(self, total: int) -> None:
        """Forget rows from before the first checkpoint. RunError if there has been one."""
        first = next(k for k in range(total) if _due(k, total, self.settings.checkpoints)) + 1
        rows = logs.lines(self.folder)
        kept = (self.folder / FINISHED, self.folder / "policy")
        if rows > first * len(self.seeds) or any(path.exists() for path in kept):
            raise RunError(
                f"{self.folder} has no checkpoint left to go on from; nothing was changed. Put its "
                "checkpoint/ back, or begin a new run in another --folder"
            )
        if rows:
            self.say(f"no checkpoint was written yet: {rows} rows of {self.folder} begin anew")
        with self._writing():
            logs.restore(self.folder, {}, [], self.seeds, self.say)

    def _require_own(self, state: dict) -> None:
        then = folders.identity_at_checkpoint(state)
        changes = folders.differences(then, folders.identity(self.manifest))
        shorter = (
            self.manifest | {"config": x["config"]} for x in self.manifest.get("extended", ())
        )
        if changes and all(folders.differences(then, folders.identity(x)) for x in shorter):
            raise RunError(
                f"the checkpoint in {self.folder} is of another run ({'; '.join(changes)}): put "
                "this run's own back, or begin a new run"
            )

    # ---------------------------------------------------------- networks that other runs can use

    def save_artifact(self, name: str, layout: Layout, theta: torch.Tensor, **made) -> None:
        """Keep theta [S, P], a network that is no policy, for other runs; `made`: by what rules."""
        with self._writing():
            path = self.folder / f"{name}.safetensors"
            save_network(path, layout, theta, self.seeds, self._artifact_of(made))

    def artifact(self, source: RunFolder, name: str, layout: Layout, **made) -> torch.Tensor:
        """What the run in folder `source` has kept as `name`, [S, P], for this run's seeds.

        ValueError if it is not there, or was made of other data or by other rules.
        """
        path = Path(source) / f"{name}.safetensors"
        return load_network(path, layout, self.seeds, self._artifact_of(made))

    def _artifact_of(self, made: dict) -> dict[str, str]:
        data = self.manifest.get("data")
        known = {"data": data["sha256"]} if data else {}
        return known | {name: str(value) for name, value in made.items()}

    def save_policy(self, name: str, policy) -> None:
        """Keep `policy` as it is now under `name`, whole: for other runs, or to be evaluated."""
        with self._writing():
            manifest = self._about_policy() | self._artifact_of({})
            save_policy(self._of_alive(policy), self.folder / name, manifest)

    def saved_policy(self, source: RunFolder, name: str) -> tuple:
        """What the run in folder `source` has kept as `name`, and the row of each of our seeds.

        ValueError if it is not there, was made in another task or of other data, or lacks a seed;
        what a run of one seed kept serves every seed.
        """
        folder = Path(source) / name
        policy, manifest = load_policy(folder)
        if manifest["task"] != self.task:
            raise ValueError(
                f"{folder} is of {manifest['task']}, not {self.task}; name another run"
            )
        for key, value in self._artifact_of({}).items():
            if manifest.get(key) != value:
                raise ValueError(
                    f"{folder} was made of other data; leave --dataset out, or --clone"
                )
        seeds = manifest["seeds"]
        absent = sorted(set(self.seeds) - set(seeds))
        if absent and len(seeds) > 1:
            raise ValueError(f"{folder} has seeds {seeds}, not {absent}; train those, too")
        return policy, [0 if len(seeds) == 1 else seeds.index(seed) for seed in self.seeds]

    # ---------------------------------------------------------------------------- the policies

    def _set_policies(self, learner, policies: Mapping[str, ActorCritic] | None) -> None:
        """What is evaluated and saved. ValueError for what is no part of the learner."""
        self._policies = dict(policies or {"": learner.policy})
        absent = set(self._policies) - {name for name, _ in self._fields(learner)}
        if absent or (policies and not all(name.isidentifier() for name in policies)):
            raise ValueError(f"policies {list(self._policies)}: name fields of the learner")

    def _fields(self, learner) -> list[tuple[str, str]]:
        """(name, field of the learner) of every policy, the main one first."""
        fields = [field.name for field in dataclasses.fields(learner)]
        return [
            (name, field)
            for name, policy in self._policies.items()
            for field in fields
            if getattr(learner, field) is policy
        ]

    def _described(self, learner) -> dict[str, tuple[str, dict]]:
        """{folder: (field of the learner, description)} of every policy."""
        return {
            self._folder_of(name): (field, self._about_policy(getattr(learner, field), name))
            for name, field in self._fields(learner)
        }

    def _folder_of(self, name: str) -> str:
        """Where a policy is saved: the main one in policy/, a further one in policy-NAME/."""
        return "policy" if name == next(iter(self._policies)) else f"policy-{name}"

    def _about_policy(self, policy=None, name: str = "") -> dict:
        seeds = [self.seeds[slot] for slot in self.alive]
        manifest = {"algorithm": self.algorithm, "task": self.task, "seeds": seeds}
        manifest |= {"step": self.step} | ({} if policy is None else {"spec": policy.spec})
        manifest |= {"spaces": self.spaces.to_json()} if self.spaces else {}
        return json.loads(json.dumps(manifest | ({"policy": name} if name else {})))

    def _has_policy(self, folder: str, manifest: dict, tensors: dict[str, torch.Tensor]) -> bool:
        """Whether `folder` holds these tensors, described like this."""
        try:
            policy, said = load_policy(self.folder / folder)
        except ValueError:
            return False
        found = policy.state_dict()
        if found.keys() != tensors.keys() or not manifest.items() <= said.items():
            return False
        alive = {name: value[self.alive].cpu() for name, value in tensors.items()}
        return all(torch.equal(found[name], value) for name, value in alive.items())

    def _of_alive(self, policy):
        """The policy of the seeds that train."""
        return select_seeds(policy, self.alive) if self.dropped else policy

    def _save_policies(self) -> None:
        with self._writing():
            saved = {self._folder_of(name): (name, x, {}) for name, x in self._policies.items()}
            if self._best and any(self._best.found):
                about = {"best": [self._best.found[slot] for slot in self.alive]}
                saved[f"policy-{NAME}"] = (NAME, self._best.policy, about)
            for name, (said, policy, about) in saved.items():
                folder = self.folder / name
                save_policy(self._of_alive(policy), folder, self._about_policy(name=said) | about)
                for path in folder.iterdir():
                    flush(path)
            flush(self.folder)

    def _keep_snapshot(self, policy) -> None:
        start = perf_counter()
        with self._writing():
            rows = self._snapshots.take(policy, self._about_policy())
        self._append(logs.SNAPSHOTS, rows)
        self._seconds["evaluation"] = self._seconds.get("evaluation", 0) + perf_counter() - start

    def _append(self, name: str, rows: list[dict]) -> None:
        with self._writing():
            logs.append(self.folder, name, rows)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One line for a full disk and its like."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise self.unwritable(error) from error

    def unwritable(self, error: Exception) -> RunError:
        """What to do where a file of the run could not be written."""
        why = error.strerror if isinstance(error, OSError) else error
        path = getattr(error, "filename", None) or self.folder
        return RunError(
            f"cannot write {path} ({why}); {self.kept()}: make room or fix the permissions, "
            f"then type: rlsuite train --resume {self.folder}"
        )

    def _shared(self, paid: Sequence[str]) -> list[dict]:
        """What the rows of all policies have in common, of each seed; `paid`: columns of costs."""
        wall = round(self._wall(), 3)
        return [
            {
                "seed": seed,
                "step": self.step,
                "wall_seconds": wall,
                "training_return": _mean(x[0] for x in self._recent[s]),
                **dict(zip(paid, self._paid[s].tolist(), strict=False)),
            }
            for s, seed in enumerate(self.seeds)
        ]

    def _wall(self) -> float:
        return self._wall_before + perf_counter() - self._started


def _lists(found: Mapping[str, Evaluation]) -> dict[str, list]:
    """Evaluations by label, as a checkpoint holds them."""
    arrays = {label: vars(result).values() for label, result in found.items()}
    return {label: [x.tolist() for x in each if x is not None] for label, each in arrays.items()}


def _history(state: dict) -> logs.History:
    """The evaluations of a checkpoint; those of older versions have one each, without a label."""
    history = []
    for step, found in state["history"]:
        found = found if isinstance(found, dict) else {"": found}
        results = {label: Evaluation(*map(np.array, each)) for label, each in found.items()}
        history.append((step, results))
    return history


def _mean(values) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def _due(k: int, total: int, times: int) -> bool:
    """Whether one of `times` evenly spaced events falls at the end of iteration k of `total`."""
    return ((k + 1) * times) // total > (k * times) // total
