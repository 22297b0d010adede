"""Algorithms x tasks (or data sets) x seeds as jobs: each `rlsuite train`, in its own process.

A sweep can be stopped and started again: finished jobs are skipped, interrupted ones resume.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rlsuite import algorithms
from rlsuite.algorithms.renamed import renamed
from rlsuite.runs.filenames import escape
from rlsuite.runs.run import RunError
from rlsuite.runs.settings import Settings

POLL_SECONDS = 0.5
Export = Callable[[Path], Path]  # what puts a finished run's rows somewhere, and says where
PATIENCE = 3.0  # seconds for a Ray cluster to answer; Ray itself tries for two minutes


@dataclass(frozen=True)
class Job:
    """One run for all seeds, in `folder`; `flags` go to `rlsuite train`.

    `task` is a data set's name for an algorithm that learns from one: `where` says so.
    """

    algorithm: str
    task: str
    folder: Path
    flags: tuple[str, ...]
    where: str = "--env"
    setting: str = ""  # of a grid: what tells it from other jobs of its algorithm and task

    @property
    def name(self) -> str:
        return f"{self.algorithm} {self.task} {self.setting}".rstrip()

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def finished(self) -> bool:
        return (self.folder / "finished").exists()

    def command(self) -> list[str]:
        start = [sys.executable, "-m", "rlsuite", "train", self.algorithm]
        if (self.folder / "config.json").exists():
            # The user typed the task, so that a machine which has never seen it may import it
            typed = ["--env", self.task] if self.where == "--env" else []
            return [*start, *typed, "--resume", str(self.folder)]
        return [*start, self.where, self.task, "--folder", str(self.folder), *self.flags]


def plan(
    folder: Path,
    names: Sequence[str],
    tasks: Sequence[str],
    flags: Sequence[str],
    datasets: Sequence[str] = (),
) -> list[Job]:
    """Jobs in the order in which they will start, each in `folder/<algorithm>/<task>`, escaped.

    Algorithms that learn from data go through `datasets`, the others through `tasks`; those that
    may be given data, through `datasets` if there are any. ValueError if any has nothing to go
    through, or if two jobs would share a folder.
    """
    jobs: dict[Path, Job] = {}
    for name in names:
        offline = algorithms.is_offline(name) or (algorithms.takes_data(name) and datasets)
        where, places = ("--dataset", datasets) if offline else ("--env", tasks)
        if not places:
            raise ValueError(f"{name} needs {where}s; type: rlsuite sweep {name} {where}s NAME ...")
        for place in places:
            target = folder / name / escape(place)
            if target in jobs:
                raise ValueError(
                    f"{name} {jobs[target].task} and {name} {place} would share {target}; "
                    "leave one out, or give it a sweep with another --folder"
                )
            jobs[target] = Job(name, place, target, tuple(flags), where)
    return list(jobs.values())


def require_same(job: Job, config: object, settings: Settings, sha256: str | None = None) -> None:
    """ValueError, naming what differs, if the job's folder holds a run with other settings.

    sha256: of the data set that the job learns from, if any.
    """
    if not (job.folder / "config.json").exists():
        if any(job.folder.glob("*/config.json")):
            raise ValueError(f"{job.folder} holds the runs of a grid; name another --folder")
        return
    try:
        manifest = json.loads((job.folder / "config.json").read_text())
        there = manifest["settings"] | renamed(job.algorithm, manifest["config"])
        there["data"] = (manifest.get("data") or {}).get("sha256")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(
            f"{job.folder} holds no readable config.json; remove it, or name another --folder"
        ) from None
    here = json.loads(json.dumps(asdict(settings) | asdict(config))) | {"data": sha256}
    different = [
        f"{name} {there.get(name)}, not {here.get(name)}"
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    ]
    if different:
        raise ValueError(
            f"{job.folder} holds a run with {', '.join(different)}; name another --folder"
        )


def run_job(job: Job, cores: Sequence[int] | None = None) -> int:
    """Run one job to its end, its output in its log; the exit code."""
    return begin(job, cores).wait()


def run_local(
    jobs: Sequence[Job], at_once: int, say: Callable[[str], None], export: Export | None = None
) -> list[Job]:
    """Run jobs as local processes, `at_once` at a time, each pinned to its share of the cores.

    Returns the failed ones. A keyboard interrupt stops all of them; they can be resumed.
    """
    shares = share_cores(at_once)
    waiting, failed = list(jobs), []
    running: dict[int, tuple[Job, subprocess.Popen]] = {}

    def conclude(job: Job, end: int | Exception, verb: str = "finished") -> None:
        if not _conclude(job, end, say, export, verb):
            failed.append(job)

    try:
        while waiting or running:
            for place in range(at_once):
                if place not in running and waiting:
                    job = waiting.pop(0)
                    if job.finished:
                        conclude(job, 0, "was finished already")
                        continue
                    try:
                        running[place] = (job, begin(job, shares[place]))
                    except OSError as error:
                        conclude(job, error)
                        continue
                    say(f"{job.name}: started, log in {job.log}")
            for place, (job, process) in list(running.items()):
                if process.poll() is not None:
                    del running[place]
                    conclude(job, process.returncode)
            time.sleep(POLL_SECONDS if running else 0)
    finally:
        for _, process in running.values():
            process.terminate()
    return failed


def share_cores(parts: int) -> list[list[int]]:
    """The cores in so many parts, at least one in each; without overlap as far as they go."""
    every = sorted(os.sched_getaffinity(0))
    return [every[i::parts] or [every[i % len(every)]] for i in range(parts)]


def run_on_ray(
    jobs: Sequence[Job],
    address: str,
    at_once: int,
    say: Callable[[str], None],
    export: Export | None = None,
) -> list[Job]:
    """The same jobs as Ray tasks; `local` starts a cluster of `at_once` workers on this machine.

    Returns the failed ones. On a cluster of several machines the folder must be a shared one.
    """
    try:
        import ray
    except ImportError:
        raise RunError("Ray is not installed; type: pip install 'rlsuite[ray]'") from None
    _join(ray, address, at_once)
    try:
        remote = ray.remote(num_cpus=1, max_retries=1)(run_job)
        pending = {remote.remote(job): job for job in jobs if not job.finished}
        failed = [
            job
            for job in jobs
            if job.finished and not _conclude(job, 0, say, export, "was finished already")
        ]
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done)
            try:
                end = ray.get(done)
            except ray.exceptions.RayError as error:  # the worker died, twice, or could not start
                end = error
            if not _conclude(job, end, say, export):
                failed.append(job)
        return failed
    except ray.exceptions.RayError as error:
        raise RunError(f"Ray stopped ({_first_line(error)}); start the sweep again") from error
    finally:
        ray.shutdown()


def _join(ray, address: str, at_once: int) -> None:
    """Connect to the cluster, or start one. RunError, within seconds, where none answers."""
    where = {"num_cpus": at_once} if address == "local" else {"address": address}
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if address not in ("local", "auto"):
        if not port.isdigit():
            raise ValueError(f"--ray {address} is not understood; type HOST:PORT, auto or local")
        try:
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise RunError(
                f"nothing answers at --ray {address} ({_first_line(error)}); type the HOST:PORT "
                "that ray start --head prints, or --ray local"
            ) from None
    try:
        ray.init(**where, log_to_driver=False, include_dashboard=False)
    except (ValueError, RuntimeError, OSError) as error:
        raise RunError(f"no Ray cluster at --ray {address}: {_first_line(error)}") from error


def begin(job: Job, cores: Sequence[int] | None) -> subprocess.Popen:
    """Start the process of a job, pinned to `cores`, its output in its log."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "a") as log:
        return _start(job, cores, log)


def _start(job: Job, cores: Sequence[int] | None, log) -> subprocess.Popen:
    # Its own session: an interrupt at the terminal reaches the sweep alone, which then ends it
    return subprocess.Popen(
        job.command(),
        stdout=log,
        stderr=log,
        preexec_fn=lambda: settle(cores),
        start_new_session=True,
    )


def settle(cores: Sequence[int] | None) -> None:
    """In a new process: stay on `cores`, and end with the process that began this one."""
    if cores:
        os.sched_setaffinity(0, cores)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def _conclude(
    job: Job,
    end: int | Exception,
    say: Callable[[str], None],
    export: Export | None,
    verb: str = "finished",
) -> bool:
    """Report in one line a job that ended, and export its rows if it finished; whether it did.

    end: the exit code of its process, or what kept the job from having one.
    """
    if end != 0 or not job.finished:
        say(f"{job.name}: {reason(job, end)}; its log is {job.log}")
        return False
    try:
        where = f", rows in {export(job.folder)}" if export else ""
    except (ValueError, RuntimeError, OSError) as error:
        say(f"{job.name}: {verb}, but its rows are not exported: {_first_line(error)}")
        return False
    say(f"{job.name}: {verb}{where}")
    return True


def reason(job: Job, end: int | Exception) -> str:
    """Why a job has not finished, in a line."""
    if isinstance(end, Exception):
        cause = getattr(end, "cause", None) or end  # what a Ray worker raised, if it did
        return f"failed ({type(cause).__name__}: {_first_line(cause)})"
    if end == -signal.SIGKILL:
        return "killed, perhaps for want of memory: try fewer --jobs, or fewer --seeds at once"
    if end < 0:
        return f"ended by {signal.Signals(-end).name}"
    text = job.log.read_text(errors="replace") if job.log.exists() else ""
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "no output")
    return f"failed with exit code {end}: {last}"


def _first_line(error: object) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
