"""Export of finished runs: offline rows are named after their data set, which the manifest has."""

import json

import pytest
from evidence_samples import write_benchmark, write_run
from offline_samples import MEDIUM, data_facts, write_offline_run

from rlsuite.evidence import rows
from rlsuite.evidence.export import export
from rlsuite.evidence.rows import RowsError
from rlsuite.evidence.tables import benchmark as tables
from rlsuite.runs.run import RunError


def test_offline_rows_go_to_their_data_set(tmp_path):
    run = write_offline_run(tmp_path / "run", [50.0, 70.0])
    file = export(run, tmp_path / "results")
    assert file == tmp_path / "results" / "td3_bc" / "hopper-medium-v0.csv"
    assert file.read_text() == (run / "evaluations.csv").read_text()
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["task"] == "Hopper-v4" and about["seeds"] == [0, 1]
    assert about["data"] == {**data_facts(MEDIUM), "origin": "deep-ope"}
    assert about["data"]["timeouts"] == "kept"
    (result,) = rows.read(tmp_path / "results")
    assert result.task == "hopper-medium-v0" and result.data.name == MEDIUM
    assert export(run, tmp_path / "results") == file  # rows of the same config are replaced


def test_the_manifest_sums_up_what_was_logged(tmp_path):
    # kl: (0.25 + 0.5 + 0 + 1.25) / 4 = 0.5; loss: (3 - 1 + 1) / 3 = 1, the empty cell left out.
    # A column without a value does not appear
    file = export(write_offline_run(tmp_path / "run", [50.0, 70.0]), tmp_path / "results")
    assert json.loads(file.with_suffix(".json").read_text())["logged"] == {
        "kl": {"mean": 0.5, "least": 0, "most": 1.25},
        "loss": {"mean": 1, "least": -1, "most": 3},
    }


def test_conditions_that_changed_within_a_run_are_in_its_manifest(tmp_path):
    sessions = [{"step": 256, "commit": "c0ffee", "versions": {}, "hardware": {"cpu": "other"}}]
    run = write_offline_run(tmp_path / "run", [50.0], sessions=sessions)
    more = write_offline_run(tmp_path / "more", [50.0], 1, sessions=[])
    file = export(run, tmp_path / "results")
    assert json.loads(file.with_suffix(".json").read_text())["sessions"] == sessions
    export(more, tmp_path / "results")
    parts = json.loads(file.with_suffix(".json").read_text())["runs"]
    assert [part.get("sessions") for part in parts] == [sessions, None]


def test_rows_of_other_data_are_not_overwritten(tmp_path):
    file = export(write_offline_run(tmp_path / "a", [50.0]), tmp_path / "results")
    before = file.read_bytes()
    again = write_offline_run(tmp_path / "b", [60.0], data=data_facts(MEDIUM, sha256="other"))
    with pytest.raises(RunError, match=r"learned from data sha of .*, this run from other"):
        export(again, tmp_path / "results")
    assert file.read_bytes() == before


def test_variants_with_published_values_of_their_own_have_their_own_folder(tmp_path):
    changes = {"algorithm": "bc", "config": {"best_fraction": 0.1}}
    run = write_offline_run(tmp_path / "run", [50.0], **changes)
    file = export(run, tmp_path / "results")
    assert file.parent.name == "bc-10-percent"
    (result,) = rows.read(tmp_path / "results")
    assert result.algorithm == result.place.algorithm == "bc-10-percent"


def test_runs_without_data_are_exported_as_before(tmp_path):
    run = write_offline_run(tmp_path / "run", [50.0], algorithm="ppo", data=None)
    file = export(run, tmp_path / "results")
    assert file == tmp_path / "results" / "ppo" / "Hopper-v4.csv"
    assert "data" not in json.loads(file.with_suffix(".json").read_text())


def cut(run, name, lines):
    """A file without its last lines, as a power cut may leave it."""
    kept = (run / name).read_text().splitlines(keepends=True)[:-lines]
    (run / name).write_text("".join(kept))


def edit(run, name, old, new):
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new, 1))


def in_config(old, new):
    return lambda run: edit(run, "config.json", old, new)


def cut_both(run):
    cut(run, "evaluations.csv", 20)
    cut(run, "progress.csv", 20)


DAMAGE = {
    "the last evaluation": lambda run: cut(run, "evaluations.csv", 2),
    "one seed's last row": lambda run: cut(run, "evaluations.csv", 1),
    "no evaluation": lambda run: (run / "evaluations.csv").write_text(""),
    "no file of evaluations": lambda run: (run / "evaluations.csv").unlink(),
    "the last iteration": lambda run: cut(run, "progress.csv", 2),
    "an iteration of one seed": lambda run: cut(run, "progress.csv", 1),
    "no iteration": lambda run: (run / "progress.csv").write_text(""),
    "no log": lambda run: (run / "progress.csv").unlink(),
    "half of either": cut_both,
    "NaN in the rows": lambda run: edit(run, "evaluations.csv", "1,1000000,700.0", "1,1000000,nan"),
    "NaN in the log": lambda run: edit(run, "progress.csv", "0.25", "nan"),
    "NULs": lambda run: edit(run, "evaluations.csv", "0,50000", "\0" * 7),
    "other seeds": in_config('"seeds": [0, 1]', '"seeds": [0, 2]'),
    "fewer evaluations": in_config('"evaluations": 20', '"evaluations": 9'),
    "no command": in_config('"command"', '"comment"'),
    "a list of settings": in_config('"settings": {', '"settings": [], "x": {'),
    "a rate in words": in_config('"gamma": 0.99', '"best_fraction": "all"'),
    "no JSON": in_config("{", ""),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_run_that_contradicts_its_own_record_is_not_exported(tmp_path, damage):
    config = {"env_steps": 1_000_000, "gamma": 0.99}
    run = write_offline_run(tmp_path / "run", [50.0, 70.0], config=config)
    export(run, tmp_path / "sound")
    damage(run)
    with pytest.raises(RowsError) as refused:
        export(run, tmp_path / "results")
    assert str(run) in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "results").exists()


def test_a_run_of_fewer_iterations_than_evaluations_is_whole(tmp_path):
    run = write_offline_run(tmp_path / "run", [50.0])
    edit(run, "config.json", '"evaluations": 20', '"evaluations": 100')
    assert export(run, tmp_path / "results").exists()


def test_iterations_that_only_explored_count_as_iterations(tmp_path):
    # 20 iterations, each evaluated: 2 of them explored, 18 learned, and one cloned before step 1
    run = write_offline_run(tmp_path / "run", [50.0])
    header, *lines = (run / "progress.csv").read_text().splitlines(keepends=True)
    before = lines[0].replace("0,50000,", "0,-10,", 1)
    (run / "preparation.csv").write_text("".join([header, before, *lines[:2]]))
    (run / "progress.csv").write_text("".join([header, *lines[2:]]))
    assert export(run, tmp_path / "results").exists()
    cut(run, "preparation.csv", 1)
    with pytest.raises(RowsError, match="20 evaluations where the run made 19"):
        export(run, tmp_path / "results")


@pytest.mark.parametrize(
    "task", ["ALE/Pong-v5", "ns/Name-v0", "mine:Task-v0", "../../x", "{tmp}/x"]
)
def test_tasks_with_odd_names_are_read_where_they_were_written(tmp_path, task):
    results, task = tmp_path / "a" / "results", task.format(tmp=tmp_path)
    run = write_offline_run(tmp_path / "run", [50.0], algorithm="ppo", data=None, task=task)
    file = export(run, results)
    assert file.parent == results / "ppo"
    (result,) = rows.read(results)
    assert result.task == task
    tables.write(results, tmp_path / "tables", tmp_path / "a")
    assert f"| {task} |" in (tmp_path / "tables" / "tables.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "run", "tables"]


@pytest.mark.parametrize("name", ["../../outside", "..", "{tmp}/x", "a/b"])
def test_no_name_in_a_file_leads_out_of_the_results(tmp_path, name):
    results, name = tmp_path / "a" / "b" / "results", name.format(tmp=tmp_path)
    changes = {"algorithm": name, "data": data_facts(f"{name}/../../hopper-medium-v0")}
    file = export(write_offline_run(tmp_path / "run", [50.0], **changes), results)
    assert file.parent.parent == results and file.resolve().is_relative_to(results.resolve())
    assert rows.read(results)[0].algorithm == name


def test_an_algorithm_named_like_a_folder_of_outputs_is_refused(tmp_path):
    run = write_offline_run(tmp_path / "run", [50.0], algorithm="tables")
    with pytest.raises(RunError, match="no rows are read from a folder named tables"):
        export(run, tmp_path / "results")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nowhere", "nowhere is no folder; name one that rlsuite train has written"),
        ("sweep", "sweep is no run, it holds some; type: rlsuite export {}/sweep/ppo/Hopper-v4 -"),
        ("sweep/ppo/Hopper-v4/policy", "policy is a saved policy, no run; name its run, {}/sweep"),
        ("results", "results is a benchmark's results, whose rows were exported already; name"),
        ("empty", "empty is no run: it has no config.json; name a folder that rlsuite train"),
    ],
)
def test_a_folder_that_is_no_run_is_called_what_it_is(tmp_path, name, what):
    write_run(tmp_path / "sweep/ppo/Hopper-v4", [1.0, 2.0])
    (tmp_path / "sweep/ppo/Hopper-v4/policy").mkdir()
    (tmp_path / "sweep/ppo/Hopper-v4/policy/policy.json").write_text("{}")
    write_benchmark(tmp_path / "results", {("ppo", "Hopper-v4"): [1.0]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError) as refused:
        export(tmp_path / name, tmp_path / "out")
    assert what.format(tmp_path) in str(refused.value)
