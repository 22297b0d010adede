"""`rlsuite tune`: what it searches, how it judges and prunes, goes on, and leaves for `train`."""

import sys
from pathlib import Path

import pytest

from rlsuite.cli.main import main
from rlsuite.cli.train import resolve
from rlsuite.cli.tune import iqms
from rlsuite.runs import sweep

WORDS = ["tune", "ppo", "--env", "CartPole-v1", "--preset", "smoke", "--seeds", "4"]


class Ended:
    def poll(self) -> int:
        return 0

    def terminate(self) -> None:
        pass


class Endless(Ended):
    code = None

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.code = 130


def write_returns(folder: Path, *evaluations: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{s},{t},{x}" for t, returns in enumerate(evaluations) for s, x in enumerate(returns)]
    (folder / "evaluations.csv").write_text("\n".join(["seed,step,return", *rows]) + "\n")


def test_a_trial_is_worth_the_interquartile_mean_of_its_seeds(tmp_path) -> None:
    # Of 0, 1, 3 and 100 the middle half is 1 and 3, whose mean is 2; of 4, 4, 4, 4 it is 4
    write_returns(tmp_path, [100, 0, 3, 1], [4, 4, 4, 4])
    assert iqms(tmp_path / "evaluations.csv", 4) == pytest.approx([2, 4])
    with open(tmp_path / "evaluations.csv", "a") as file:  # an evaluation that is half written
        file.write("0,2,9\n1,2,9\n2,2,9\n3,2,9")
    assert iqms(tmp_path / "evaluations.csv", 4) == pytest.approx([2, 4])
    assert iqms(tmp_path / "nosuch.csv", 4) == []


def test_a_study_prunes_goes_on_and_its_best_settings_are_trained_with(
    tmp_path, monkeypatch, capsys
) -> None:
    pytest.importorskip("optuna", reason="optuna is the optional extra rlsuite[tune]")
    jobs = []

    def begin(job, share):
        jobs.append(job)
        if len(jobs) == 3:
            raise KeyboardInterrupt
        if len(jobs) == 4:
            return Endless()  # it writes nothing, until it is ended as if it had failed
        poor = len(jobs) == 8
        write_returns(job.folder, *[[-1.0 if poor else len(jobs)] * 4] * 3)
        return Endless() if poor else Ended()

    monkeypatch.setattr(sweep, "begin", begin)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0)
    words = [*WORDS, "--folder", str(tmp_path), "--jobs", "1", "--search"]
    words += ["learning-rate=1e-4:1e-2:log", "epochs=1:3", "anneal-lr=true,false"]
    assert main([*words, "--trials", "7"]) == 130  # in the third
    assert "trial 1: IQM 2, the best is 2" in capsys.readouterr().out

    monkeypatch.setattr(Endless, "code", 1)
    assert main([*words, "--trials", "4"]) == 0  # the third once more, which fails; and a fourth
    assert jobs[3] == jobs[2] and "trial 2: failed" in capsys.readouterr().out
    monkeypatch.setattr(Endless, "code", None)
    assert main([*words, "--trials", "7"]) == 0
    out = capsys.readouterr().out
    assert "trial 6: pruned at IQM -1" in out
    assert "5 complete, 1 fail, 1 pruned; the best is trial 5, IQM 7: " in out
    assert len({job.flags for job in jobs}) == 7
    assert "--seeds 4:8" in out

    best = tmp_path / "best.toml"
    chosen = resolve("ppo", ["--config", str(best), "--clip", "0.3"])
    assert chosen.config.clip == 0.3 and chosen.preset == "smoke" and chosen.env == "CartPole-v1"
    found = resolve("ppo", [*WORDS[2:], *jobs[6].flags[-5:]]).config  # of trial 5
    assert chosen.config == type(found)(**{**vars(found), "clip": 0.3})
    assert main([*WORDS, "--folder", str(tmp_path)]) == 2
    assert "holds the search of: rlsuite tune ppo --env" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--search", "nosuch"], "nosuch is no setting to search"),
        (["--search", "seeds=2,3"], "every run trains them side by side"),
        (["--search", "activation"], "no range is known for it"),
        (["--search", "clip=0.2:0.1"], "is not understood"),
        (["--search", "clip=0:1:log"], "begins above 0"),
        (["--search", "epochs=1:2.5"], "no such range goes with it"),
        (["--search", "hidden=16:64"], "no such range goes with it"),
        (["--search", "clip=-1:1"], "clip is -1.0; it must be greater than 0"),
        (["--search", "activation=tanh,nosuch"], "activation 'nosuch' is unknown"),
        (["--search", "anneal-lr=true,maybe"], "'maybe' is not true or false"),
        (["--search", "clip", "clip=.1,.2"], "names clip twice"),
        (["--search", "clip", "--clip", "0.1"], "both --clip and --search clip are given"),
        (["--seeds", "1"], "a trial of one seed tells little"),
        (["--trials", "0"], "--trials is 0"),
        (["--resume", "x"], "--resume is not for tune"),
        (["--clap", "1"], "unknown flag --clap; did you mean --clip"),
    ],
)
def test_what_no_trial_could_run_is_refused_before_any(words, said, tmp_path, capsys) -> None:
    assert main([*WORDS, "--folder", str(tmp_path / "new"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_without_optuna_one_line_says_what_to_type(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([*WORDS, "--folder", str(tmp_path / "new")]) == 1
    told = "rlsuite tune: optuna is not installed; type: pip install 'rlsuite[tune]'\n"
    assert capsys.readouterr().err == told
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('algorithm = "sac"', "is of sac, not of ppo"),
        ('algorithm = "ppo"', "has no table [flags]"),
        ('algorithm = "ppo"\n[flags]\nclap = 1', "ppo has no setting clap"),
        ('algorithm = "ppo"\n[flags]\nfolder = "x"', "ppo has no setting folder"),
        ('algorithm = "ppo"\n[flags]\nclip = true', "clip is True; it must be a number"),
        ('algorithm = "ppo"\n[flags]\nclip = "a"', "'a' is no number"),
        ("algorithm", "is no TOML file"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_of_settings_that_is_none_is_refused_in_one_line(
    text, said, tmp_path, capsys
) -> None:
    if text is not None:
        (tmp_path / "best.toml").write_text(text)
    words = ["train", "ppo", "--env", "CartPole-v1", "--config", str(tmp_path / "best.toml")]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_a_file_of_settings_is_read_as_if_it_were_typed(tmp_path) -> None:
    file = tmp_path / "mine.toml"
    flags = 'preset = "smoke"\nanneal-lr = false\nhidden = [8, 8]\ntarget_kl = "None"\nclip = 0.1'
    file.write_text(f'algorithm = "ppo"\n[flags]\n{flags}\nseeds = "3"\n')
    words = ["--env", "CartPole-v1", "--config", str(file)]
    chosen = resolve("ppo", [*words, "--clip=0.4"])
    config = chosen.config
    assert (config.anneal_lr, config.hidden, config.target_kl) == (False, (8, 8), None)
    assert config.clip == 0.4 and config.env_steps == 2048 and chosen.settings.seeds == (0, 1, 2)
