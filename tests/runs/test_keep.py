"""Sets of a run after D4RL's recipe, and their small form."""

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ShortRuns

from rlsuite.cli.main import main
from rlsuite.core.saving import load_policy
from rlsuite.datasets import cache, collect, minari, packed, store
from rlsuite.datasets.describe import describe, text
from rlsuite.datasets.recipes import Recipe
from rlsuite.datasets.transitions import DatasetError
from rlsuite.runs import checkpoint
from rlsuite.runs import keep as keeping

TASK = "Pendulum-v1,max_episode_steps=30"
# 8 iterations of 64 steps of 2 environments; a checkpoint cuts episodes after 256
SHORT = {"seeds": (0, 3), "checkpoints": 2, "evaluations": 1, "evaluation_episodes": 1}
SHORT |= {"capacity": 512, "num_envs": 2, "snapshots": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with all its rows; copies of it are changed, never itself."""
    return ShortRuns(tmp_path_factory.mktemp("kept")).train("run", "sac", TASK, **SHORT)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    for variable in ("MINARI_DATASETS_PATH", "RLSUITE_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.chdir(tmp_path)


def loaded(name: str):
    return store.load(name, timeouts="kept", say=lambda text: None)


def densities(name: str) -> np.ndarray:
    with h5py.File(minari.root() / name / "data/main_data.hdf5") as file:
        parts = [file[f"episode_{i}/infos/log_prob"][:] for i in range(len(file))]
    return np.concatenate(parts)


def type_in(*words: object) -> int:
    return main(["data", *map(str, words)])


# --------------------------------------------------------------------------------------- replay


def test_a_replay_set_holds_all_that_the_seed_saw_until_the_snapshot(trained) -> None:
    keeping.keep(trained, "medium-replay", ("384",), policy_seed=3)
    data = loaded("sac/pendulum/medium-replay-v0")
    assert len(data) == 384
    # 2 environments, 128 steps of each until the restart after 256 rows, then 64: of both, four
    # episodes of 30 and one of 8 that a checkpoint cut, then two of 30 and one of 4 that is open
    lengths = np.diff(data.bounds()).ravel().tolist()
    assert lengths == [30, 30] * 4 + [8, 8] + [30, 30] * 2 + [4, 4]
    ends = data.bounds()[:, 1] - 1
    assert data.truncated[ends].tolist() == [True] * 8 + [False] * 2 + [True] * 4 + [False] * 2
    assert not data.terminated.any()
    # The rows are those of the ring, each with its own next observation
    state = checkpoint.load(trained / "checkpoint", print)[1]["learner"]["buffer"]
    rows = keeping.first_rows(state, trained / "checkpoint/buffer", 1, 2, 384)
    ours = np.argsort(data.obs.sum(1), kind="stable")
    theirs = np.argsort(rows["obs"].sum(1), kind="stable")
    for name in ("obs", "next_obs", "reward"):
        np.testing.assert_array_equal(getattr(data, name)[ours], rows[name][theirs])
    # The box is +-2
    np.testing.assert_array_equal(data.action[ours], 2 * rows["action"][theirs])
    log_prob = densities("sac/pendulum/medium-replay-v0")[ours]
    np.testing.assert_array_equal(log_prob, rows["log_prob"][theirs])
    # Two iterations of warm-up are uniform on (-1, 1)
    assert np.isclose(log_prob, -np.log(2)).sum() == 128
    assert data.metadata["entropy"] == pytest.approx(-log_prob.mean(dtype=float))
    assert any("the first 128 rows have uniform actions" in x for x in data.metadata["remarks"])


def test_the_same_run_gives_the_same_bytes(trained, monkeypatch, tmp_path) -> None:
    sums = []
    for number in range(2):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / str(number)))
        made = [
            keeping.keep(trained, "full-replay", policy_seed=0),
            keeping.keep(trained, "medium", ("256",), policy_seed=0, steps=60),
        ]
        sums.append([cache.digest(folder) for folder in made])
    assert sums[0] == sums[1]


def test_rows_that_the_run_has_not_seen_are_refused(trained) -> None:
    with pytest.raises(ValueError, match="has 512 rows, not 1,000"):
        keeping.keep(trained, "medium-replay", ("1000",), policy_seed=0)
    assert not minari.root().exists()


# ------------------------------------------------------------------------------------ roll-outs


def test_a_rolled_out_set_has_samples_of_its_snapshot_and_carries_it(trained) -> None:
    folder = keeping.keep(trained, "medium", ("256",), policy_seed=3, steps=90)
    data = loaded("sac/pendulum/medium-v0")
    assert len(data) == 90 and data.truncated.sum() == 3  # whole episodes of 30
    policy, about = load_policy(folder / "policies/000000000256")
    assert about["seeds"] == [3] and about["step"] == 256
    whole, _ = load_policy(trained / "snapshots/000000000256")
    assert policy.theta.equal(whole.theta[1:])
    log_prob = densities("sac/pendulum/medium-v0")
    obs, action = (np.float64(x) for x in (data.obs, data.action / 2))
    pi = policy.distribution(policy.theta, torch.from_numpy(np.float32(obs))[None])
    z = (np.arctanh(action) - pi.mean[0].numpy()) / pi.log_std[0].exp().numpy()
    # of 90 standard normals: mean 0 +- 0.11, variance 1 +- 0.15
    assert abs(z.mean()) < 5 * 0.11 and abs(z.var() - 1) < 5 * 0.15
    density = -0.5 * z**2 - pi.log_std[0].numpy() - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_prob, (density - np.log(1 - action**2))[:, 0], atol=1e-3)


def test_levels_made_of_other_levels(trained) -> None:
    keeping.keep(trained, "medium", ("128",), policy_seed=0, steps=60)
    keeping.keep(trained, "medium-expert", ("128", "512"), policy_seed=0, steps=60)
    keeping.keep(trained, "random", policy_seed=0, steps=60)
    medium, both, random = (
        loaded(f"sac/pendulum/{level}-v0") for level in ("medium", "medium-expert", "random")
    )
    assert len(both) == 120
    np.testing.assert_array_equal(both.obs[:60], medium.obs)
    assert random.metadata["entropy"] == pytest.approx(np.log(2))
    shown = " ".join(text(describe(random)).split())
    assert "entropy 0.693 nats per dimension" in shown and "beyond 0.9, " in shown
    assert "uniform actions" in random.metadata["source"]


def choosing(folder: Path, task: str, returns: dict[int, float]) -> keeping.Source:
    """The run as if on `task`, with these returns of its snapshots."""
    with open(folder / "snapshots.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("seed", "step", "return"), *((0, s, r) for s, r in returns.items())])
    source = keeping.Source(folder, 0)
    source.task = task
    return source


@pytest.mark.parametrize(
    ("returns", "medium", "expert", "remark"),
    [
        # Relative distances to Hopper's 1420: 0.30, 0.01, 0.04, 1.1; late are steps from 8 on
        ({1: 1000.0, 4: 1434.0, 9: 1363.0, 10: 3000.0}, 4, 10, ""),
        ({1: 1410.0, 2: 1430.0, 7: 3500.0, 9: 3100.0, 10: 2000.0}, 1, 9, ""),  # the earlier one
        ({1: 1000.0, 10: 2000.0}, 1, 10, "more than 10% from the 1,420"),
    ],
)
def test_snapshots_are_chosen_by_their_sampled_returns(
    returns, medium, expert, remark, trained, tmp_path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    source = choosing(folder, "Hopper-v4", returns)
    found = source.choose("medium", "auto", False)
    assert found.step == medium and (remark in found.remark) and bool(remark) == bool(found.remark)
    assert source.choose("expert", "auto", False).step == expert


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--level mediocre", "level 'mediocre' is unknown; use one of: "),
        ("--level medium", "has the seeds [0, 3]; name one: --policy-seed 0"),
        ("--level medium --policy-seed 1", "seed 1 is not in "),
        ("--level medium --policy-seed 0", "D4RL has no medium set of Pendulum-v1"),
        (
            "--level medium --policy-seed 0 --snapshot 200",
            "no snapshot at step 200; near are 128, 256, 384",
        ),
        ("--level medium --policy-seed 0 --snapshot half", "snapshot 'half' is no step"),
        ("--level random --policy-seed 0 --snapshot 128", "is made of 0 snapshots"),
        ("--level medium-replay --policy-seed 0 --snapshot 128 --steps 9", "leave --steps out"),
        ("--level random --policy-seed 0 --steps 0", "steps is 0; it must be at least 1"),
        ("--level random --policy-seed 0 --name random", "no name of a Minari set"),
    ],
)
def test_what_cannot_be_kept_is_one_line(words, message, trained, capsys) -> None:
    assert type_in("keep", trained, *words.split()) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0]
    assert not minari.root().exists()


# ----------------------------------------------------------------------------------- small form


def test_packed_sets_come_back_number_for_number(trained, tmp_path, capsys) -> None:
    words = ["--policy-seed", 0, "--snapshot"]
    assert type_in("keep", trained, "--level", "medium-replay", *words, 256) == 0
    assert type_in("keep", trained, "--level", "expert", *words, 512, "--steps", 60) == 0
    names = ["sac/pendulum/expert-v0", "sac/pendulum/medium-replay-v0"]
    sums = [cache.digest(minari.root() / name) for name in names]
    for name in names:
        assert type_in("pack", name, "--to", "data") == 0
    small = tmp_path / "data/sac/pendulum"
    assert not list((small / "expert-v0").rglob("*.npz"))
    assert type_in("restore", "data") == 0
    assert capsys.readouterr().out.count("is there already") == 2
    shutil.rmtree(minari.root())
    assert type_in("restore", "data") == 0
    said = capsys.readouterr()
    assert said.out.count("wrote") == 2 and "other numbers" not in said.err
    assert [cache.digest(minari.root() / name) for name in names] == sums


def test_a_damaged_set_among_others_is_left_out_and_they_come_back(trained, capsys) -> None:
    keeping.keep(trained, "medium-replay", ("128",), policy_seed=0)
    good = packed.pack("sac/pendulum/medium-replay-v0", Path("data"))
    bad = shutil.copytree(good, Path("data/damaged"))
    (bad / "metadata.json").write_text("[]")
    shutil.rmtree(minari.root())
    assert type_in("restore", "data") == 2
    said = capsys.readouterr()
    assert "wrote" in said.out and "data/damaged was left out: " in said.err
    assert "1 of 2 sets were left out: data/damaged" in said.err


def test_a_run_that_learned_from_data_alone_has_no_rows_of_its_own(trained, monkeypatch) -> None:
    state = {"added": 0, "capacity": 9, "segments": []}
    found = None, {"learner": {"buffer": state}}
    monkeypatch.setattr(keeping.checkpoint, "load", lambda *args: found)
    with pytest.raises(ValueError, match="has no rows of its own; these keep some: sac, "):
        keeping.keep(trained, "full-replay", policy_seed=0)


def test_a_damaged_small_form_is_refused(trained, tmp_path) -> None:
    keeping.keep(trained, "medium-replay", ("128",), policy_seed=0)
    folder = packed.pack("sac/pendulum/medium-replay-v0", tmp_path)
    with pytest.raises(DatasetError, match="exists; remove it"):
        packed.pack("sac/pendulum/medium-replay-v0", tmp_path)
    shutil.rmtree(minari.root())
    content = (folder / "rows.npz").read_bytes()
    said = json.loads((folder / "metadata.json").read_text())
    for damage in (content[:-9], b"", content[: len(content) // 2] + b"\1" + content[1:]):
        (folder / "rows.npz").write_bytes(damage)
        with pytest.raises(DatasetError):
            packed.restore(folder, print)
    (folder / "rows.npz").write_bytes(content)
    (folder / "metadata.json").write_text(json.dumps(said | {"checksum": "0" * 64}))
    with pytest.raises(DatasetError, match="wrong checksum"):
        packed.restore(folder, print)
    assert not minari.root().exists()


def test_policies_that_act_otherwise_than_when_they_were_packed_are_said(trained, tmp_path) -> None:
    keeping.keep(trained, "expert", ("512",), policy_seed=0, steps=30)
    folder = packed.pack("sac/pendulum/expert-v0", tmp_path)
    shutil.rmtree(minari.root())
    about = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(about | {"checksum": "0" * 64}))
    said = []
    assert packed.restore(folder, said.append).is_dir()
    assert len(said) == 1 and "other numbers than where it was packed" in said[0]
    shutil.rmtree(minari.root())
    shutil.rmtree(folder / "policies")
    with pytest.raises(DatasetError, match="no readable policy"):
        packed.restore(folder, said.append)


def test_only_sets_that_were_kept_can_be_packed(trained, tmp_path) -> None:
    collect.collect(Recipe("test/random-v0", "Pendulum-v1", 200, {"uniform": 1}))
    with pytest.raises(DatasetError, match="was not kept of a run"):
        packed.pack("test/random-v0", tmp_path)
    with pytest.raises(DatasetError, match="holds no packed set"):
        packed.found(tmp_path / "nothing")
