"""CFPI on top of finished runs, and its policies in everything that takes a policy."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsuite import envs
from rlsuite.cli.main import main
from rlsuite.core.saving import load_policy
from rlsuite.datasets import behaviour
from rlsuite.datasets.collect import roll
from rlsuite.evidence.export import export
from rlsuite.runs import checkpoint, recording
from rlsuite.runs import run as runs

TASK = "InvertedPendulum-v4"


def improve(folder: Path, base: Path, *words: str) -> int:
    few = ("--preset", "smoke", "--evaluation-episodes", "2", "--engine", "gymnasium")
    return main(["train", "cfpi", "--on", str(base), "--folder", str(folder), *few, *words])


def last_rows(folder: Path) -> list[dict]:
    with open(folder / "evaluations.csv", newline="") as file:
        return list(csv.DictReader(file))


def critic_of(folder: Path) -> torch.Tensor:
    return checkpoint.load(folder / "checkpoint", print)[1]["learner"]["state"]["critic"]["theta"]


@pytest.mark.parametrize("name", ["iql", "td3_bc"])
def test_a_finished_run_is_improved_by_one_step_with_its_own_critics(name, finished_run, tmp_path):
    base, folder = finished_run(name, TASK), tmp_path / "improved"
    assert improve(folder, base) == 0
    rows = last_rows(folder)
    assert [(row["seed"], row["step"]) for row in rows] == [("0", "1"), ("1", "1")]
    about = json.loads((folder / "config.json").read_text())
    assert about["uses"]["on"]["seeds"] == [0, 1]  # what made the base
    assert (
        about["data"]["sha256"] == json.loads((base / "config.json").read_text())["data"]["sha256"]
    )
    # Policy, normaliser and critics are the base's, to the bit
    old, policy = load_policy(base)[0], load_policy(folder)[0]
    own, critic = policy.parts()
    assert torch.equal(own, old.theta) and torch.equal(critic, critic_of(base))
    assert torch.equal(policy.normalizer.mean, old.normalizer.mean)
    # ... and the action is the step from the base's own
    obs = np.random.default_rng(0).standard_normal((2, 5, 4))
    mode, better = old.behaviour().act(obs)[0], policy.behaviour().act(obs)[0]
    seen = torch.from_numpy(policy.normalizer.normalize(obs))
    q = [policy.critics.values(critic, seen, torch.from_numpy(a)).amin(1) for a in (mode, better)]
    assert (q[1] > q[0]).float().mean() > 0.9
    # 2 log tau is 1, and sigma IQL's; sqrt(2 * 0.1) half widths of 3 for TD3+BC
    step = np.abs(better - mode)
    std = old.layout.views(old.theta)["log_std"].exp().numpy() if name == "iql" else 3 * 0.2**0.5
    inside = np.abs(better) < 2.999
    expected = np.broadcast_to(std, step.shape)
    np.testing.assert_allclose(step[inside], expected[inside], rtol=1e-4)


def test_a_run_without_critics_is_refused_in_one_line_unless_they_are_fitted(
    finished_run, tmp_path, capsys
):
    base, folder = finished_run("bc", TASK), tmp_path / "run"
    assert improve(folder, base) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is a run of bc, which has no critic Q(s, a) in its checkpoint" in said
    assert "add --train-critic" in said
    assert not folder.exists()
    assert improve(folder, base, "--train-critic") == 0
    old, policy = load_policy(base)[0], load_policy(folder)[0]
    assert torch.equal(policy.parts()[0], old.theta)  # its policy stays as it was
    assert torch.equal(policy.normalizer.std, old.normalizer.std)
    assert policy.spec["distributional"] is True
    assert [row["step"] for row in last_rows(folder)][::2] == ["50", "100", "150", "200"]


def test_seeds_are_those_of_the_base_or_some_of_them(finished_run, tmp_path, capsys):
    base = finished_run("td3_bc", TASK)
    assert improve(tmp_path / "one", base, "--seeds", "1,") == 0
    policy = load_policy(tmp_path / "one")[0]
    assert torch.equal(policy.parts()[1], critic_of(base)[1:])
    assert improve(tmp_path / "two", base, "--seeds", "1,7") == 1
    assert "has seeds [0, 1], not [7]; train those, too" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(finished_run, tmp_path, capsys):
    base = finished_run("td3_bc", TASK)

    def said(folder: Path, *words: str) -> str:
        assert improve(tmp_path / "run", folder, *words) != 0
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "nowhere is not a run folder" in said(tmp_path / "nowhere")
    ppo = finished_run("ppo", TASK)
    assert "is a run of ppo, which learned from no data" in said(ppo)
    unfinished = shutil.copytree(base, tmp_path / "unfinished")
    (unfinished / "finished").unlink()
    assert "has not finished; type: rlsuite train --resume" in said(unfinished)
    other = said(base, "--env", "InvertedPendulum-v5")
    assert "is a run on InvertedPendulum-v4, not on InvertedPendulum-v5" in other
    assert "starts from one" not in said(unfinished, "--operator", "single")


def test_a_base_with_another_box_is_refused(finished_run, short_runs):
    import dataclasses

    from rlsuite.datasets import store
    from rlsuite.runs.finished import base

    folder = finished_run("td3_bc", TASK)
    about = json.loads((folder / "config.json").read_text())
    data = store.load(about["dataset_path"], task=TASK)
    narrow = dataclasses.replace(data, metadata=data.metadata | {"action_low": [-1.0]})
    with pytest.raises(runs.RunError, match=r"actions in \[\[-3.0\], \[3.0\]\], the data have 4"):
        base(folder, TASK, narrow, (0, 1))


# ------------------------------------------------- a policy that needs critics, like any other


def test_it_is_evaluated_by_the_command_as_its_run_was(finished_run, tmp_path, capsys):
    folder = finished_run("cfpi", TASK)
    words = ["evaluate", str(folder), "--episodes", "3", "--engine", "gymnasium"]
    assert main([*words, "--out", str(tmp_path / "a.csv")]) == 0
    # Sampling changes nothing: it is deterministic
    assert main([*words, "--sampled", "--out", str(tmp_path / "b.csv")]) == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert "3 episodes each: return" in capsys.readouterr().out


def test_its_rows_are_exported(finished_run, tmp_path):
    file = export(finished_run("cfpi", TASK), tmp_path / "results")
    assert file.parent.name == "cfpi"
    assert json.loads(file.with_suffix(".json").read_text())["seeds"] == [0, 1]


def test_it_collects_data(finished_run):
    folder = finished_run("cfpi", TASK)
    pool = envs.make(TASK, [0], 2, "gymnasium")
    actor = behaviour.saved(folder, 1, pool)
    episodes = roll(actor, pool, 20, np.random.default_rng(0))
    pool.close()
    first = episodes[0]
    whole = load_policy(folder)[0].behaviour(pool.action_low, pool.action_high)
    obs = np.stack([first.obs[:1]] * 2)
    np.testing.assert_allclose(first.action[0], whole.act(obs)[1][1, 0], rtol=1e-5)


@pytest.mark.slow
def test_it_is_recorded(finished_run, tmp_path):
    pytest.importorskip("imageio")
    try:
        out = recording.record(finished_run("cfpi", TASK), tmp_path / "x.mp4", seed=1)
    except runs.RunError as error:
        pytest.skip(str(error))
    assert out.stat().st_size > 0
