"""Algorithms x tasks (or data sets) x seeds as jobs: each `rlsuite train`, in its own process.

A sweep can be stopped and started again: finished jobs are skipped, interrupted ones resume.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlsuite import algorithms
from rlsuite.experiments.filenames import escape
from rlsuite.experiments.results import export
from rlsuite.experiments.run import RunError

POLL_SECONDS = 0.5
TAIL = 15  # lines of a failed job's log that are shown


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

    @property
    def name(self) -> str:
        return f"{self.algorithm} {self.task}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def finished(self) -> bool:
        return (self.folder / "finished").exists()

    def command(self) -> list[str]:
        start = [sys.executable, "-m", "rlsuite", "train", self.algorithm]
        if (self.folder / "config.json").exists():
            return [*start, "--resume", str(self.folder)]
        return [*start, self.where, self.task, "--folder", str(self.folder), *self.flags]


def plan(
    folder: Path,
    names: Sequence[str],
    tasks: Sequence[str],
    flags: Sequence[str],
    datasets: Sequence[str] = (),
) -> list[Job]:
    """Jobs in the order in which they will start, each in `folder/<algorithm>/<task>`, escaped.

    Algorithms that learn from data go through `datasets`, the others through `tasks`. ValueError
    if any has nothing to go through.
    """
    jobs = []
    for name in names:
        offline = algorithms.is_offline(name)
        where, places = ("--dataset", datasets) if offline else ("--env", tasks)
        if not places:
            raise ValueError(f"{name} needs {where}s; type: rlsuite sweep {name} {where}s NAME ...")
        for place in places:
            target = folder / name / escape(place)
            jobs.append(Job(name, place, target, tuple(flags), where))
    return jobs


def run_job(job: Job, cores: Sequence[int] | None = None) -> int:
    """Run one job to its end, its output in its log; the exit code."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "a") as log:
        return _start(job, cores, log).wait()


def run_local(
    jobs: Sequence[Job], at_once: int, say: Callable[[str], None], results: Path | None = None
) -> list[Job]:
    """Run jobs as local processes, `at_once` at a time, each pinned to its share of the cores.

    Returns the failed ones. A keyboard interrupt stops all of them; they can be resumed.
    """
    every = sorted(os.sched_getaffinity(0))
    shares = [every[i::at_once] or [every[i % len(every)]] for i in range(at_once)]
    waiting, failed = list(jobs), []
    running: dict[int, tuple[Job, subprocess.Popen]] = {}
    try:
        while waiting or running:
            for place in range(at_once):
                if place not in running and waiting:
                    job = waiting.pop(0)
                    if job.finished:
                        _conclude(job, 0, say, results, "was finished already")
                        continue
                    job.folder.parent.mkdir(parents=True, exist_ok=True)
                    with open(job.log, "a") as log:
                        running[place] = (job, _start(job, shares[place], log))
                    say(f"{job.name}: started, log in {job.log}")
            for place, (job, process) in list(running.items()):
                if process.poll() is not None:
                    del running[place]
                    if not _conclude(job, process.returncode, say, results):
                        failed.append(job)
            time.sleep(POLL_SECONDS if running else 0)
    finally:
        for _, process in running.values():
            process.terminate()
    return failed


def run_on_ray(
    jobs: Sequence[Job],
    address: str,
    at_once: int,
    say: Callable[[str], None],
    results: Path | None = None,
) -> list[Job]:
    """The same jobs as Ray tasks; `local` starts a cluster of `at_once` workers on this machine.

    Returns the failed ones. On a cluster of several machines the folder must be a shared one.
    """
    try:
        import ray
    except ImportError:
        raise RunError("Ray is not installed; type: pip install 'rlsuite[ray]'") from None
    where = {"num_cpus": at_once} if address == "local" else {"address": address}
    ray.init(**where, log_to_driver=False, include_dashboard=False)
    try:
        remote = ray.remote(num_cpus=1, max_retries=1)(run_job)
        pending = {remote.remote(job): job for job in jobs if not job.finished}
        for job in jobs:
            if job.finished:
                _conclude(job, 0, say, results, "was finished already")
        failed = []
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done)
            if not _conclude(job, ray.get(done), say, results):
                failed.append(job)
        return failed
    finally:
        ray.shutdown()


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
    code: int,
    say: Callable[[str], None],
    results: Path | None,
    how: str = "finished",
) -> bool:
    """Report a job that ended, export its rows if it finished; whether it did."""
    if code == 0 and job.finished:
        where = f", rows in {export(job.folder, results)}" if results else ""
        say(f"{job.name}: {how}{where}")
        return True
    tail = "\n".join(job.log.read_text().splitlines()[-TAIL:]) if job.log.exists() else ""
    say(f"{job.name}: failed with exit code {code}; the end of {job.log}:\n{tail}")
    return False
