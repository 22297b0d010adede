"""Sweeps, locally and on Ray: finished jobs are skipped, interrupted resume, failures told."""

import dataclasses
import json
import os
import socket
import sys
import time
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from rlsuite import algorithms
from rlsuite.cli.main import main
from rlsuite.evidence.export import export
from rlsuite.runs import sweep
from rlsuite.runs.run import RunError
from rlsuite.runs.settings import Settings

FLAGS = ("--preset", "smoke", "--seeds", "2", "--evaluation-episodes", "2")
TASKS = ("CartPole-v1", "InvertedPendulum-v4")


def export_to(folder: Path) -> sweep.Export:
    return partial(export, benchmark=folder / "results")


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
    flags = (*FLAGS, "--env-steps", "16384")
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
    failed = sweep.run_on_ray(
        jobs, "local", 2, said.append, partial(export, benchmark=tmp_path / "results")
    )
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
    from rlsuite.evidence.export import export

    run = short_runs.create("run", "ppo", "CartPole-v1")
    with pytest.raises(RunError, match=r"has not finished; go on with: rlsuite train --resume"):
        export(run.folder, short_runs.root / "results")


def test_rows_of_another_config_are_not_overwritten(short_runs, finished_run) -> None:
    from rlsuite.evidence.export import export

    benchmark = short_runs.root / "results"
    first = export(finished_run("ppo", "CartPole-v1"), benchmark)
    before = Path(first).read_bytes()
    other = short_runs.train("b", "ppo", "CartPole-v1", clip=0.1)
    with pytest.raises(RunError, match=r"name a --variant, or add --replace"):
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


# ------------------------------------------------------------------------ how a job can end


def ended(tmp_path: Path, *flags: str) -> sweep.Job:
    """A job in whose folder a process has begun."""
    (job,) = sweep.plan(tmp_path, ["ppo"], ["CartPole-v1"], flags)
    job.folder.mkdir(parents=True)
    return job


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (2, "failed with exit code 2: rlsuite train: no"),
        (-9, "killed, perhaps for want of memory: try fewer --jobs, or fewer --seeds at once"),
        (-15, "ended by SIGTERM"),
        (OSError(28, "No space left on device"), "failed (OSError: [Errno 28] No space left"),
        (0, "failed with exit code 0: rlsuite train: no"),  # but there is no `finished`
    ],
)
def test_a_failed_job_is_one_line_with_its_cause(end, reason, tmp_path) -> None:
    job = ended(tmp_path)
    job.log.write_bytes(b"first\n\xff\nrlsuite train: no\n\n")
    said: list[str] = []
    assert not sweep._conclude(job, end, said.append, None)
    (line,) = said
    assert line.startswith(f"ppo CartPole-v1: {reason}") and "\n" not in line
    assert line.endswith(f"; its log is {job.log}")


def test_rows_that_cannot_be_exported_and_logs_that_cannot_be_opened_end_one_job(tmp_path) -> None:
    jobs = sweep.plan(tmp_path, ["ppo"], ["CartPole-v1", "Acrobot-v1", "Pendulum-v1"], ())
    jobs[0].folder.mkdir(parents=True)
    (jobs[0].folder / "finished").touch()  # and no config.json
    jobs[1].log.mkdir()
    jobs[2].folder.mkdir()
    (jobs[2].folder / "finished").touch()
    said: list[str] = []
    assert sweep.run_local(jobs, 1, said.append, export_to(tmp_path)) == jobs
    assert len(said) == 3 and all("\n" not in line for line in said)
    assert "was finished already, but its rows are not exported: " in said[0]
    assert "Acrobot-v1: failed (IsADirectoryError: " in said[1]


class LostWorkers:
    """Stands in for Ray where the worker of every first job dies."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self) -> None:
        self.addresses: list[dict] = []

    def init(self, **where) -> None:
        self.addresses.append(where)

    def remote(self, **options):
        return lambda function: type("Remote", (), {"remote": staticmethod(lambda job: job)})

    def wait(self, pending, num_returns):
        return pending[:1], pending[1:]

    def get(self, job):
        if job.task == "CartPole-v1":
            raise self.exceptions.RayError("The worker died unexpectedly.\nCheck its log.")
        (job.folder / "finished").touch()
        return 0

    def shutdown(self) -> None:
        pass


def test_a_ray_worker_that_died_is_one_line_and_the_others_go_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", LostWorkers())
    jobs = sweep.plan(tmp_path, ["ppo"], ["CartPole-v1", "Acrobot-v1"], ())
    for job in jobs:
        job.folder.mkdir(parents=True)
    said: list[str] = []
    assert sweep.run_on_ray(jobs, "local", 1, said.append) == jobs[:1]
    assert said[0].startswith(
        "ppo CartPole-v1: failed (RayError: The worker died unexpectedly.); its log is "
    )
    assert said[1] == "ppo Acrobot-v1: finished"


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_a_ray_address_where_nothing_answers_is_refused_at_once(prefix, monkeypatch) -> None:
    ray = LostWorkers()
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.socket() as taken:  # bound, but nobody listens: connections are refused
        taken.bind(("127.0.0.1", 0))
        address = f"{prefix}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RunError, match=f"nothing answers at --ray {address} .*--ray local"):
            sweep.run_on_ray([], address, 1, print)
    with pytest.raises(ValueError, match="--ray nowhere is not understood; type HOST:PORT"):
        sweep.run_on_ray([], "nowhere", 1, print)
    assert ray.addresses == []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{prefix}127.0.0.1:{server.getsockname()[1]}"
        assert sweep.run_on_ray([], address, 1, print) == []
    assert [where["address"] for where in ray.addresses] == [address]


# ---------------------------------------------------------------------- a job is its settings


@pytest.fixture
def swept(tmp_path, monkeypatch) -> list[str]:
    """A sweep of PPO on CartPole-v1 whose one job has finished; its words."""
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlsuite.runs.run.execute", lambda run: None)
    folder = "runs/sweep/ppo/CartPole-v1"
    assert main(["train", "ppo", "--env", "CartPole-v1", "--folder", folder, *FLAGS]) == 0
    Path(folder, "finished").touch()
    return ["sweep", "ppo", "--envs", "CartPole-v1", *FLAGS]


def test_the_same_settings_go_on_in_whatever_way_they_are_typed(swept, capsys) -> None:
    assert main(swept) == 0
    words = [*swept[:4], "--seeds=0,1", "--evaluation_episodes=2", "--preset=smoke"]
    assert main(words) == 0
    assert capsys.readouterr().out.count("was finished already") == 2


def test_other_settings_in_the_same_folder_are_refused_by_name(swept, capsys) -> None:
    for more, said in (
        (["--clip", "0.1"], "CartPole-v1 holds a run with clip 0.2, not 0.1; name another"),
        (["--seeds", "3"], "holds a run with seeds [0, 1], not [0, 1, 2]; name another --folder"),
        (["--checkpoints", "3", "--epochs", "9"], "checkpoints 10, not 3, epochs 2, not 9"),
    ):
        assert main([*swept, *more]) == 2
        shown = capsys.readouterr()
        assert said in shown.err and "finished already" not in shown.out
        assert len(shown.err.splitlines()) == 1
    Path("runs/sweep/ppo/CartPole-v1/config.json").write_text("{")
    assert main(swept) == 2
    assert "CartPole-v1 holds no readable config.json" in capsys.readouterr().err


def test_other_data_of_the_same_name_is_refused(tmp_path) -> None:
    (job,) = sweep.plan(tmp_path, ["bc"], [], (), ["mine.npz"])
    settings = Settings("Hopper-v4", "mine.npz")
    config = algorithms.load("bc").Config()
    about = {"settings": dataclasses.asdict(settings), "config": dataclasses.asdict(config)}
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(json.dumps(about | {"data": {"sha256": "12ab"}}))
    sweep.require_same(job, config, settings, "12ab")
    with pytest.raises(ValueError, match="holds a run with data 12ab, not 34cd; name another"):
        sweep.require_same(job, config, settings, "34cd")


def test_jobs_that_would_share_a_folder_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"bc a/b-v0 and bc a/b-v0 would share .*bc/a%2Fb-v0"):
        sweep.plan(tmp_path, ["bc"], [], (), ["a/b-v0", "a/b-v0"])
    # Names that differ in a slash alone have a folder each
    jobs = sweep.plan(tmp_path, ["bc"], [], (), ["a/b-c-v0", "a-b/c-v0"])
    assert len({job.folder for job in jobs}) == 2


def test_flags_that_no_run_would_take_are_refused_before_any_job_starts(swept, capsys) -> None:
    assert main([*swept, "--folder", "new", "--num-minibatches", "3"]) == 2
    assert "num_minibatches 3 splits" in capsys.readouterr().err
    assert not Path("new").exists()
