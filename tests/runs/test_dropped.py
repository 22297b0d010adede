"""A seed that diverges is dropped and named, and the others train as if it had never been there."""

import csv
import json

import numpy as np
import pytest

import rlsuite
from rlsuite.cli.main import main
from rlsuite.envs import PolicyFault, make
from rlsuite.evidence import export, rows
from rlsuite.evidence.tables.summaries import failings
from rlsuite.runs import run as runs
from rlsuite.runs.settings import Settings

PENDULUM = "InvertedPendulum-v4"
# 4 iterations of 128 steps; checkpoints and evaluations after the second and the fourth
SHORT = {"env_steps": 512, "num_steps": 128, "checkpoints": 2, "evaluations": 2}
SHORT |= {"seeds": (3, 5, 8)}


def breaking(run: runs.Run, seed: int, at: int, also=None) -> runs.Run:
    """Once `run` has logged so many iterations, the parameters of one seed are NaN."""
    begin, log, slot = run.begin, run.log, run.seeds.index(seed)

    def begun(learner, **given):
        run.learner = learner
        begin(learner, **given)

    def logged(*args):
        log(*args)
        if run.step == 128 * at:
            for theta in (run.learner.policy.theta, run.learner.net.theta):
                theta[slot] = np.nan
        if also and run.step == also:
            raise KeyboardInterrupt

    run.begin, run.log = begun, logged
    return run


def table(folder, name: str) -> dict[tuple[str, str], list]:
    with open(folder / name, newline="") as file:
        found = {(row["seed"], row["step"]): row for row in csv.DictReader(file)}
    return {key: [v for k, v in row.items() if k != "wall_seconds"] for key, row in found.items()}


@pytest.fixture
def dropped(short_runs):
    run = short_runs.create("run", "ppo", PENDULUM, on_divergence="drop", **SHORT)
    runs.execute(breaking(run, seed=5, at=2))
    return run.folder


def test_the_others_go_on_as_if_they_had_been_alone(capsys, dropped, short_runs) -> None:
    said = capsys.readouterr().err
    assert "seed 5 is dropped" in said and "the others go on" in said
    alone = short_runs.train("alone", "ppo", PENDULUM, **SHORT | {"seeds": (3, 8)})
    for name in ("progress.csv", "evaluations.csv"):
        found, expected = table(dropped, name), table(alone, name)
        assert {key: row for key, row in found.items() if key[0] != "5"} == expected
        assert {step for seed, step in found if seed == "5"} <= {"128", "256"}
    about = json.loads((dropped / "config.json").read_text())
    (entry,) = about["dropped"]
    assert entry["seed"] == 5 and entry["step"] in (256, 384) and "of seed 5 is" in entry["reason"]
    # Nothing but the numbers of the others is left to act with
    last = [rlsuite.load_policy(folder, seed=8) for folder in (dropped, alone)]
    np.testing.assert_array_equal(*(policy.act(np.zeros(4)) for policy in last))
    with pytest.raises(ValueError, match=r"seed 5 is not in .*; it has 3, 8"):
        rlsuite.load_policy(dropped, seed=5)
    assert main(["evaluate", str(dropped), "--episodes", "1"]) == 0
    runs.execute(runs.reopen(dropped))
    assert "has finished: there is nothing left to train" in capsys.readouterr().err


def test_tables_name_the_seed_that_was_dropped(dropped, tmp_path) -> None:
    results = rows.read(dropped)
    assert results[0].seeds == (3, 8)
    export.export(dropped, tmp_path / "results")
    for result in (results[0], rows.read(tmp_path / "results")[0]):
        assert result.seeds == (3, 8)
        (line,) = failings([result])
        assert line.startswith("DROPPED: seed 5 of ppo on InvertedPendulum-v4 diverged at step")


def test_a_loss_that_is_not_finite_drops_its_seed_too(short_runs, capsys) -> None:
    """Discrete actions are numbers whatever the policy says, so the first loss tells."""
    run = short_runs.create("run", "ppo", "CartPole-v1", on_divergence="drop", **SHORT)
    runs.execute(breaking(run, seed=3, at=1))
    assert "_loss of seed 3 is nan at step 256, training diverged" in capsys.readouterr().err
    last = [row for (_, step), row in table(run.folder, "progress.csv").items() if step == "512"]
    assert len(last) == 2


def test_a_killed_run_drops_the_seed_again_and_says_it_once(dropped, short_runs) -> None:
    run = short_runs.create("killed", "ppo", PENDULUM, on_divergence="drop", **SHORT)
    with pytest.raises(KeyboardInterrupt):
        runs.execute(breaking(run, seed=5, at=2, also=384))
    again = runs.reopen(run.folder)
    assert [again.seeds[slot] for slot in again.alive] == [3, 5, 8]  # until it looks
    runs.execute(again)
    assert table(run.folder, "progress.csv") == table(dropped, "progress.csv")
    assert len(json.loads((run.folder / "config.json").read_text())["dropped"]) == 1


def test_without_the_setting_the_run_stops_and_so_does_one_without_another_seed(short_runs) -> None:
    run = short_runs.create("stops", "ppo", PENDULUM, **SHORT)
    with pytest.raises(runs.RunError, match="seed 5"):
        runs.execute(breaking(run, seed=5, at=2))
    alone = SHORT | {"seeds": (5,), "on_divergence": "drop"}
    run = short_runs.create("alone", "ppo", PENDULUM, **alone)
    with pytest.raises(runs.RunError, match=r"of seed 5 is not finite at step .* Lower one of"):
        runs.execute(breaking(run, seed=5, at=2))


def test_environments_without_a_policy_get_zeros(monkeypatch) -> None:
    pool = make(PENDULUM, (3, 5), 2, "gymnasium")
    pool.reset(np.zeros((2, 2), int))
    action = np.zeros((2, 2, 1), np.float32)
    action[1, 0] = np.nan
    with pytest.raises(PolicyFault, match="seed 5"):
        pool.step(action)
    asked = []
    pool.diverged = lambda slot: (asked.append(slot), pool.drop(slot))
    assert np.isfinite(pool.step(action).obs).all() and asked == [1]
    assert np.isfinite(pool.step(action).obs).all() and asked == [1]  # it is known
    action[0, 1] = np.nan
    pool.diverged = None
    with pytest.raises(PolicyFault, match="seed 3"):
        pool.step(action)


def test_settings_that_say_nothing_of_divergence_or_too_much_are_refused() -> None:
    with pytest.raises(ValueError, match="on_divergence 'skip' is unknown"):
        Settings(PENDULUM, on_divergence="skip")
    with pytest.raises(ValueError, match="does not go with snapshots"):
        Settings(PENDULUM, on_divergence="drop", snapshots=3)
