"""A sweep over a grid of settings: a folder for each, and what is refused before any run."""

import json
from pathlib import Path

import pytest

from rlsuite.cli.main import main
from rlsuite.runs import sweep

WORDS = ["sweep", "ppo", "--envs", "CartPole-v1", "--preset", "smoke", "--seeds", "2"]


@pytest.fixture
def planned(tmp_path, monkeypatch) -> list[sweep.Job]:
    """The jobs that a sweep would run; nothing is trained."""
    monkeypatch.setenv("RLSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    jobs = []
    monkeypatch.setattr(sweep, "run_local", lambda found, *_rest: jobs.extend(found) or [])
    return jobs


def test_every_combination_has_a_job_and_a_folder_of_its_own(planned, capsys) -> None:
    grid = ["learning-rate=1e-4,3e-4", "clip=.1", "anneal-lr=false", "hidden=64 64,32"]
    assert main([*WORDS, "--grid", *grid]) == 0
    folder = Path("runs/sweep/ppo/CartPole-v1")
    assert [job.folder for job in planned] == [
        folder / f"learning_rate={rate},clip=0.1,anneal_lr=false,hidden={hidden}"
        for rate in ("0.0001", "0.0003")
        for hidden in ("64x64", "32")
    ]
    assert planned[0].name == f"ppo CartPole-v1 {planned[0].folder.name}"
    told = ["--learning-rate", "1e-4", "--clip", ".1", "--no-anneal-lr", "--hidden", "64", "64"]
    assert planned[0].command()[-len(told) :] == told
    assert "side by side: rlsuite table runs/sweep" in capsys.readouterr().out


def test_a_grid_runs_goes_on_and_is_shown_side_by_side(planned, monkeypatch, capsys) -> None:
    def train(jobs, *_rest) -> list:
        assert all(main(["train", *job.command()[4:]]) == 0 for job in jobs if not job.finished)
        return []

    monkeypatch.setattr(sweep, "run_local", train)
    words = [*WORDS, "--evaluation-episodes", "2", "--grid"]
    assert main([*words, "clip=.1,.2"]) == 0
    files = sorted(Path().glob("runs/sweep/ppo/CartPole-v1/*/progress.csv"))
    assert len(files) == 2
    before = [file.read_bytes() for file in files]
    assert main([*words, "clip=0.20,0.1"]) == 0  # finished, in whatever order and spelling
    assert [file.read_bytes() for file in files] == before
    capsys.readouterr()
    assert main(["table", "runs/sweep"]) == 0
    assert capsys.readouterr().out.count("| clip 0.") == 2
    for more, said in (
        ([*words[:-1], "--epochs", "1", "--grid", "clip=.1"], "holds a run with epochs 2, not 1"),
        (words[:-1], "CartPole-v1 holds the runs of a grid; name another --folder"),
    ):
        assert main(more) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ([], "--grid names no setting; type NAME=VALUE,VALUE"),
        (["clip"], "--grid clip is not understood; type NAME=VALUE,VALUE"),
        (["clip=.1,,.2"], "--grid clip=.1,,.2 is not understood"),
        (["clip=.1,0.1"], "has 0.1 twice; give each value once"),
        (["clip=.1", "clip=.2"], "--grid names clip twice"),
        (["clip=.1,x"], "--clip: 'x' is no number"),
        (["clip=.1,-1"], "clip"),
        (["num-minibatches=4,3"], "num_minibatches 3 splits"),
        (["total-steps=9,10"], "--total-steps has another name now; type --env-steps instead"),
        (["cliip=.1,.2"], "unknown flag --cliip; did you mean --clip?"),
        (["anneal-lr=yes"], "anneal-lr is true or false"),
        (["seeds=1,2"], "no grid goes through seeds; type --seeds 5"),
        (["env=Hopper-v4"], "no grid goes through env; type --envs TASK"),
        (["preset=smoke"], "both --preset and --grid preset=smoke are given"),
    ],
)
def test_bad_grids_are_refused_in_one_line_before_anything_is_trained(
    grid, said, planned, capsys
) -> None:
    assert main([*WORDS, "--grid", *grid]) == 2
    shown = capsys.readouterr().err
    assert said in shown and len(shown.splitlines()) == 1
    assert not planned and not Path("runs").exists()


def test_a_grid_goes_neither_into_a_runs_folder_nor_to_results(planned, capsys) -> None:
    folder = Path("runs/sweep/ppo/CartPole-v1")
    assert main([*WORDS, "--grid", "clip=.1", "--results", "r"]) == 2
    assert "--results takes one setting of each algorithm" in capsys.readouterr().err
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({}))
    assert main([*WORDS, "--grid", "clip=.1"]) == 2
    assert "holds a run without a grid; name another --folder" in capsys.readouterr().err
