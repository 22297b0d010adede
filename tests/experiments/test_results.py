"""Export of finished runs: offline rows are named after their data set, which the manifest has."""

import json

import pytest
from offline_samples import MEDIUM, data_facts, write_offline_run

from rlsuite.experiments import rows
from rlsuite.experiments.results import export
from rlsuite.experiments.run import RunError


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
