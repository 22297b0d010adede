"""Kill a run, or fill its disk, at every file operation: `python tests/kill_everywhere.py`.

One warm process forks a short run for each operation, which dies before it (of a write, after half
of it), or in the second mode finds the disk full there. Then it forks a resume, and compares rows,
raw episodes and policy, bit for bit, with a run that nothing stopped. Exits with 1 on a difference.

--algorithm ppo sac td3_bc   which; one learns in the environment, one from replay, one from data
--every 1                    only every so many-th operation
"""

import argparse
import builtins
import csv
import errno
import io
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from conftest import logged
from safetensors import SafetensorError

from rlsuite import algorithms, envs
from rlsuite.core import saving
from rlsuite.core.saving import load_policy  # noqa: F401  (imported before the forks)
from rlsuite.runs import run as runs
from rlsuite.runs.checkpoint import CheckpointError
from rlsuite.runs.settings import Settings, preset

TASK = "InvertedPendulum-v4"
SHORT = {  # four iterations, two checkpoints, two evaluations, two snapshots
    "on-policy": {"env_steps": 512, "num_steps": 128, "epochs": 1},
    "off-policy": {  # the ring wraps before the second checkpoint
        "env_steps": 64, "steps_per_iteration": 16, "warm_up": 16, "capacity": 48,
        "batch_size": 8, "hidden": (8,),
    },
    "offline": {"gradient_steps": 40, "steps_per_iteration": 10},
}  # fmt: skip
OS_CALLS = ("replace", "rename", "fsync", "truncate", "ftruncate", "mkdir", "unlink", "remove")
OS_CALLS += ("rmdir", "open", "link", "symlink")
KILLED, REFUSED, FAILED = 137, 3, 4
LAST = 1000  # characters of what is said that are shown
KEPT = ("policy", "snapshots", "checkpoint/buffer")  # folders that have the same bytes at the end
LEFTOVERS = ("partial", ".old", ".changed")


class Fault:
    """Counts this process's file operations in `folder`; at the `at`-th it kills it or fails."""

    def __init__(self, folder: Path, at: int | None = None, mode: str = "kill") -> None:
        self.folder, self.at, self.mode, self.count = str(folder), at, mode, 0

    def strike(self, error: Exception) -> None:
        if self.mode == "kill":
            os._exit(KILLED)
        raise error

    def met(self) -> bool:
        self.count += 1
        return self.count == self.at

    def clip_action(self, file) -> bool:
        """Whether a call's first argument is in the folder: descriptors are, and relative names."""
        if isinstance(file, int):
            return True
        return not os.path.isabs(file) or os.fspath(file).startswith(self.folder)

    def wrapped(self, function: Callable, path_at: int, error: Exception) -> Callable:
        def call(*args, **named):
            if self.clip_action(args[path_at]) and self.met():
                self.strike(error)
            return function(*args, **named)

        return call

    def opened(self, function: Callable, error: Exception) -> Callable:
        """`open`, whose files count as they are opened for writing and at every write."""

        def call(file, mode="r", *args, **named):
            known = not isinstance(file, int) and self.clip_action(file)
            if not known or not set(mode) & set("wax+"):
                return function(file, mode, *args, **named)
            if self.met():
                self.strike(error)
            opened = function(file, mode, *args, **named)
            write = opened.write

            def half(data):
                if self.met():
                    write(data[: len(data) // 2])
                    opened.flush()
                    self.strike(error)
                return write(data)

            opened.write = half
            return opened

        return call

    def install(self) -> None:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for name in OS_CALLS:
            setattr(os, name, self.wrapped(getattr(os, name), 0, full))
        builtins.open = io.open = self.opened(io.open, full)
        full = SafetensorError("I/O error: No space left on device (os error 28)")
        saving.save_file = self.wrapped(saving.save_file, 1, full)


class Subject:
    """A short run of one algorithm, in folders of `root`."""

    def __init__(self, algorithm: str, root: Path) -> None:
        self.algorithm, self.module = algorithm, algorithms.load(algorithm)
        offline = algorithms.is_offline(algorithm)
        more = {"dataset": str(logged(root / "data.npz", TASK))} if offline else {}
        off_policy = algorithms.is_off_policy(algorithm)
        more |= {"snapshots": 2} if off_policy else {}
        self.settings = Settings(
            TASK, seeds=(0,), evaluations=2, evaluation_episodes=1, checkpoints=2,
            engine="gymnasium", **more,
        )  # fmt: skip
        values = preset(self.module, "smoke", TASK)
        fields = {field for field in self.module.Config.__dataclass_fields__}
        kind = "offline" if offline else "off-policy" if off_policy else "on-policy"
        short = SHORT[kind].items()
        self.config = self.module.Config(**values | {k: v for k, v in short if k in fields})

    def train(self, folder: Path) -> None:
        """Begin, or go on with, the run in `folder`, as the user would."""
        if (folder / "config.json").exists():
            runs.execute(runs.reopen(folder))
        else:
            runs.execute(runs.create(folder, self.algorithm, self.config, self.settings))


def forked(work: Callable[[], None], fault: Fault, said: Path) -> tuple[int, int]:
    """(exit code, operations) of `work` in a child that meets `fault`; `said` holds its words."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = FAILED
        os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        try:
            fault.install()
            work()
            code = 0
        except (runs.RunError, CheckpointError) as error:
            code = REFUSED if "\n" not in str(error) else FAILED
            print(error, file=sys.stderr)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os.write(writer, str(fault.count).encode())
            os._exit(code)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    count = os.read(reader, 100)
    os.close(reader)
    return os.waitstatus_to_exitcode(status), int(count or 0)


def differences(whole: Path, broken: Path) -> list[str]:
    """What is not the same in two folders of the same run, wall times apart."""
    found = []
    for name in ("progress.csv", "preparation.csv", "evaluations.csv", "snapshots.csv"):
        if _rows(whole / name) != _rows(broken / name):
            found.append(name)
    with np.load(whole / "evaluations.npz") as a, np.load(broken / "evaluations.npz") as b:
        if a.files != b.files or not all(np.array_equal(a[key], b[key]) for key in a.files):
            found.append("evaluations.npz")
    for part in KEPT:
        one, other = (_contents(folder / part) for folder in (whole, broken))
        names = one.keys() | other.keys()
        found += sorted(f"{part}/{name}" for name in names if one.get(name) != other.get(name))
    if not (broken / "finished").read_text().endswith(" seconds\n"):
        found.append("finished")
    names = [str(path.relative_to(broken)) for path in broken.rglob("*")]
    return found + [name for name in names if any(word in name for word in LEFTOVERS)]


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _rows(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "wall_seconds"} for row in rows]


def break_at(subject: Subject, whole: Path, at: int, mode: str, root: Path) -> str | None:
    """What went wrong when the fault came at operation `at`; None if all was well."""
    folder, said = root / "broken", root / "said"
    shutil.rmtree(folder, ignore_errors=True)
    code, _ = forked(partial(subject.train, folder), Fault(folder, at, mode), said)
    words = said.read_text()
    if code not in ((KILLED,) if mode == "kill" else (0, REFUSED)) or "Traceback" in words:
        return f"ended with {code}: {words[-LAST:]}"
    code, _ = forked(partial(subject.train, folder), Fault(folder), said)
    words = said.read_text()
    if code or "Traceback" in words:
        return f"the resume ended with {code}: {words[-LAST:]}"
    try:
        found = differences(whole, folder)
    except (OSError, ValueError, KeyError) as error:
        return f"the resumed run cannot be read: {error!r}"
    return f"differs in {', '.join(found)}" if found else None


def break_everywhere(algorithm: str, every: int, root: Path) -> int:
    """Print what went wrong at each operation of a run of `algorithm`; how often it did."""
    subject, whole = Subject(algorithm, root), root / f"{algorithm}-whole"
    for folder in (whole, root / "broken"):  # the first one fills the cache of data, too
        shutil.rmtree(folder, ignore_errors=True)
        code, operations = forked(partial(subject.train, folder), Fault(folder), root / "said")
        assert code == 0, (root / "said").read_text()
    failures = 0
    for mode in ("kill", "full"):
        start, points = time.time(), range(1, operations + 1, every)
        wrong = [(at, break_at(subject, whole, at, mode, root)) for at in points]
        wrong = [(at, what) for at, what in wrong if what]
        for at, what in wrong:
            print(f"{algorithm}, {mode} at operation {at}: {what}")
        failures += len(wrong)
        print(
            f"{algorithm}, {mode}: {len(points)} of {operations} operations, {len(wrong)} wrong, "
            f"{time.time() - start:.0f} s",
            flush=True,
        )
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--algorithm", nargs="+", default=["ppo", "sac", "td3_bc"])
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    envs.make(TASK, (0,), 1, "gymnasium").close()  # imports what the forks then share
    with tempfile.TemporaryDirectory() as root:
        os.environ["RLSUITE_CACHE"] = f"{root}/cache"
        parts = [break_everywhere(name, options.every, Path(root)) for name in options.algorithm]
    return 1 if sum(parts) else 0


if __name__ == "__main__":
    sys.exit(main())
