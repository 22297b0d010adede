"""Sweeps, locally and on Ray: finished jobs are skipped, interrupted resume, failures told."""

import os
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from rlsuite.cli import main
from rlsuite.experiments import sweep
from rlsuite.experiments.run import RunError

FLAGS = ("--preset", "smoke", "--seeds", "2", "--evaluation-episodes", "2")
TASKS = ("CartPole-v1", "InvertedPendulum-v4")


class Forked:
    """What a sweep asks of a `subprocess.Popen`, of a forked process."""

    def __init__(self, process: BaseProcess) -> None:
        self.process = process

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()


def type_in(words: list[str], log: Path) -> None:
    """The command line in this process, its output in `log`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for output in (1, 2):
        os.dup2(descriptor, output)
    sys.stderr = sys.__stderr__
    sys.exit(main(words))


@pytest.fixture
def forked(start_process, monkeypatch) -> None:
    """Jobs do not wait for a new interpreter to import PyTorch: 5 s of CPU less for each."""

    def start(job, cores, log):
        assert job.command()[:3] == [sys.executable, "-m", "rlsuite"]
        return Forked(start_process(type_in, job.command()[3:], job.log))

    monkeypatch.setattr(sweep, "_start", start)


@pytest.mark.slow
def test_sweep_runs_every_job_exports_and_skips_what_is_finished(tmp_path, capsys) -> None:
    words = ["sweep", "ppo", "--envs", *TASKS, "--folder", str(tmp_path / "runs")]
    words += ["--results", str(tmp_path / "results"), *FLAGS]
    assert main(words) == 0
    for task in TASKS:
        assert (tmp_path / "runs" / "ppo" / task / "finished").exists()
        assert (tmp_path / "results" / "ppo" / f"{task}.csv").exists()
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out.count("was finished already") == 2


def test_failed_job_is_reported_with_its_log_and_others_go_on(tmp_path, forked) -> None:
    jobs = sweep.plan(
        tmp_path, ["ppo"], ["CartPole-v1", "Pendulum-v1"], (*FLAGS, "--engine", "envpool")
    )
    said: list[str] = []
    failed = sweep.run_local(jobs, 1, said.append)
    assert [job.task for job in failed] == ["Pendulum-v1"]
    assert any("exit code 2" in text and "use 'gymnasium'" in text for text in said)
    assert jobs[0].finished


def test_interrupted_job_is_resumed(tmp_path, forked) -> None:
    flags = (*FLAGS, "--total-steps", "16384")
    (job,) = sweep.plan(tmp_path, ["ppo"], ["CartPole-v1"], flags)
    job.folder.parent.mkdir(parents=True)
    process = sweep._start(job, None, None).process
    while not list((job.folder / "checkpoint").glob("*.ckpt")):
        assert process.exitcode is None, job.log.read_text()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not job.finished
    assert job.command()[-2:] == ["--resume", str(job.folder)]
    assert sweep.run_local([job], 1, lambda text: None) == []
    assert "resuming at step" in job.log.read_text()


def test_jobs_share_the_cores_without_overlap(tmp_path, monkeypatch) -> None:
    seen = []

    class Done:
        returncode = 0

        def poll(self):
            return 0

    monkeypatch.setattr(sweep.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(sweep, "_start", lambda job, cores, log: seen.append(cores) or Done())
    jobs = sweep.plan(tmp_path, ["ppo"], ["CartPole-v1", "Acrobot-v1"], FLAGS)
    sweep.run_local(jobs, 2, lambda text: None)
    assert seen == [[0, 2], [1, 3]]


@pytest.mark.slow
def test_ray_runs_the_same_jobs_on_two_workers(tmp_path, forked) -> None:
    pytest.importorskip("ray", reason="ray is the optional extra rlsuite[ray]")
    jobs = sweep.plan(tmp_path / "runs", ["ppo"], TASKS, FLAGS)
    said: list[str] = []
    failed = sweep.run_on_ray(jobs, "local", 2, said.append, tmp_path / "results")
    assert failed == []
    assert all(job.finished for job in jobs)
    local = sweep.plan(tmp_path / "local", ["ppo"], TASKS[:1], FLAGS)
    sweep.run_local(local, 1, said.append)
    rows = [
        [line.split(",")[:5] for line in (job.folder / "evaluations.csv").read_text().splitlines()]
        for job in (jobs[0], local[0])
    ]
    assert rows[0] == rows[1]


def test_ray_missing_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(RunError, match=r"pip install 'rlsuite\[ray\]'"):
        sweep.run_on_ray([], "local", 2, print)


def test_unfinished_run_is_not_exported(short_runs) -> None:
    from rlsuite.experiments.results import export

    run = short_runs.create("run", "ppo", "CartPole-v1")
    with pytest.raises(RunError, match=r"has not finished; go on with: rlsuite train --resume"):
        export(run.folder, short_runs.root / "results")


def test_rows_of_another_config_are_not_overwritten(short_runs, finished_run) -> None:
    from rlsuite.experiments.results import export

    benchmark = short_runs.root / "results"
    first = export(finished_run("ppo", "CartPole-v1"), benchmark)
    before = Path(first).read_bytes()
    other = short_runs.train("b", "ppo", "CartPole-v1", clip=0.1)
    with pytest.raises(RunError, match=r"name another --results folder"):
        export(other, benchmark)
    assert Path(first).read_bytes() == before


def test_offline_algorithms_go_through_data_sets(tmp_path) -> None:
    jobs = sweep.plan(tmp_path, ["ppo", "bc"], ["Hopper-v4"], ("--seeds", "2"), ["a/hopper/m-v0"])
    assert [(job.algorithm, job.task) for job in jobs] == [
        ("ppo", "Hopper-v4"),
        ("bc", "a/hopper/m-v0"),
    ]
    assert jobs[0].command()[4:7] == ["ppo", "--env", "Hopper-v4"]
    assert jobs[1].command()[4:7] == ["bc", "--dataset", "a/hopper/m-v0"]
    assert jobs[1].folder == tmp_path / "bc" / "a%2Fhopper%2Fm-v0"
    names = ["a/hopper/m-v0", "a-hopper/m-v0", "a/hopper-m-v0", "/a/hopper/m-v0"]
    folders = {job.folder for job in sweep.plan(tmp_path, ["bc"], [], (), names)}
    assert len(folders) == 4  # no two data sets share one
    with pytest.raises(ValueError, match="bc needs --datasets; type: rlsuite sweep bc --datasets"):
        sweep.plan(tmp_path, ["bc"], ["Hopper-v4"], ())
    with pytest.raises(ValueError, match="ppo needs --envs"):
        sweep.plan(tmp_path, ["ppo"], [], (), ["a/hopper/m-v0"])
