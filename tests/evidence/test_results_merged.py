"""Runs that differ in seeds share a file: nothing that is there is lost unless that was asked."""

import csv
import json

import pytest
from offline_samples import MEDIUM, data_facts, write_offline_run

from rlsuite.cli.main import main
from rlsuite.evidence import report, rows
from rlsuite.evidence.export import export
from rlsuite.runs.run import RunError


def read_manifest(file) -> dict:
    return json.loads(file.with_suffix(".json").read_text())


def content(file) -> tuple[bytes, bytes]:
    return file.read_bytes(), file.with_suffix(".json").read_bytes()


def run_of(tmp_path, name, finals, first=0, **changes):
    return write_offline_run(tmp_path / name, finals, first, command=f"train {name}", **changes)


def test_other_seeds_of_the_same_config_are_added(tmp_path):
    runs = [run_of(tmp_path, "b", [60.0, 80.0], 2), run_of(tmp_path, "a", [50.0, 70.0])]
    for run in runs:
        file = export(run, tmp_path / "results")
    (result,) = rows.read(tmp_path / "results")
    assert result.seeds == (0, 1, 2, 3)
    assert result.final("score").tolist() == [50, 70, 60, 80]
    with file.open(newline="") as stream:
        keys = [(int(row["step"]), int(row["seed"])) for row in csv.DictReader(stream)]
    assert keys == sorted(keys) and len(keys) == 4 * 20
    about = read_manifest(file)
    assert about["seeds"] == [0, 1, 2, 3]
    assert [(run["seeds"], run["command"]) for run in about["runs"]] == [
        ([0, 1], "train a"),
        ([2, 3], "train b"),
    ]
    # What both share stands once, what differs stands with each run
    assert about["commit"] == about["runs"][0]["commit"] and "command" not in about
    assert about["wall_seconds"] == result.wall_seconds == 7200  # an hour each


def test_order_and_repetition_of_exports_do_not_matter(tmp_path):
    a, b = run_of(tmp_path, "a", [50.0, 70.0]), run_of(tmp_path, "b", [60.0, 80.0], 2)
    contents = []
    for number, order in enumerate([(a, b), (b, a), (a, b, a, b)]):
        for run in order:
            file = export(run, tmp_path / f"results-{number}")
        contents.append(content(file))
    assert contents[0] == contents[1] == contents[2]


def test_what_was_logged_is_pooled_over_runs(tmp_path):
    # Seeds 0 and 1 have kl 0.25, 0.5, 0 and 1.25, mean 0.5; seed 2 has 0.25 and 0, mean 0.125.
    # Together (2 x 0.5 + 1 x 0.125) / 3 = 0.375
    for run in (run_of(tmp_path, "a", [50.0, 70.0]), run_of(tmp_path, "b", [60.0], 2)):
        file = export(run, tmp_path / "results")
    assert read_manifest(file)["logged"]["kl"] == {"mean": 0.375, "least": 0, "most": 1.25}


def test_a_diverged_run_marks_the_rows_that_it_shares(tmp_path):
    sound, failed = run_of(tmp_path, "a", [50.0]), run_of(tmp_path, "b", [60.0], 1)
    log = (failed / "progress.csv").read_text().replace("kl", "value")
    (failed / "progress.csv").write_text(log.replace("0.25", "20000", 1))
    for run in (failed, sound):
        export(run, tmp_path / "results")
    (result,) = rows.read(tmp_path / "results")
    assert result.seeds == (0, 1) and result.state == "diverged"


def test_other_numbers_for_a_seed_are_refused_or_replaced_alone(tmp_path):
    file = export(run_of(tmp_path, "a", [50.0, 70.0]), tmp_path / "results")
    before = content(file)
    other = run_of(tmp_path, "b", [90.0, 80.0], 1)  # seeds 1 and 2
    with pytest.raises(RunError, match=r"has other numbers for seed\(s\) 1; .*--replace"):
        export(other, tmp_path / "results")
    assert content(file) == before
    export(other, tmp_path / "results", replace=True)
    (result,) = rows.read(tmp_path / "results")
    assert result.final("score").tolist() == [50, 90, 80]
    assert [run["seeds"] for run in read_manifest(file)["runs"]] == [[0], [1, 2]]


def test_the_same_numbers_in_another_time_are_no_other_numbers(tmp_path):
    export(run_of(tmp_path, "a", [50.0, 70.0]), tmp_path / "results")
    again = run_of(tmp_path, "b", [70.0], 1)
    table = (again / "evaluations.csv").read_text()
    (again / "evaluations.csv").write_text(table.replace(",3600.0,", ",1800.0,"))
    file = export(again, tmp_path / "results")
    assert [run["command"] for run in read_manifest(file)["runs"]] == ["train a", "train b"]


def test_rows_of_another_config_are_refused_or_replaced_whole(tmp_path):
    file = export(run_of(tmp_path, "a", [50.0, 70.0]), tmp_path / "results")
    before = content(file)
    for changes in (
        {"config_hash": "cd34"},
        {"data": data_facts(MEDIUM, sha256="other")},
        {"uses": {"density": {"command": "train spot", "seeds": [0], "wall_seconds": 1.0}}},
    ):
        other = run_of(tmp_path, "b", [60.0], 5, **changes)
        with pytest.raises(RunError, match="--replace"):
            export(other, tmp_path / "results")
        assert content(file) == before
    export(other, tmp_path / "results", replace=True)
    assert rows.read(tmp_path / "results")[0].seeds == (5,)
    assert "runs" not in read_manifest(file)


def test_the_command_asks_and_replaces(tmp_path, capsys):
    a, b = (str(run_of(tmp_path, name, [60.0], config_hash=name)) for name in "ab")
    results = ["--results", str(tmp_path / "results")]
    assert main(["export", a, *results]) == 0
    assert main(["export", b, *results]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "of config a, this run is b" in said and "--replace" in said
    assert main(["export", b, *results, "--replace"]) == 0
    assert main(["export", *results]) == 2
    assert "which runs? type: rlsuite export FOLDER" in capsys.readouterr().err


def test_nothing_is_exported_if_one_of_the_runs_is_damaged(tmp_path):
    good, bad = (run_of(tmp_path, name, [60.0], first) for first, name in enumerate("ab"))
    (bad / "progress.csv").write_text("")
    command = ["export", str(good), str(bad), "--results", str(tmp_path / "results")]
    assert main(command) == 2
    assert not (tmp_path / "results").exists()


def test_a_half_written_pair_is_named_and_can_be_replaced(tmp_path):
    run = run_of(tmp_path, "a", [50.0])
    file = export(run, tmp_path / "results")
    before = content(file)
    file.with_suffix(".json").write_text("{")
    with pytest.raises(RunError, match=r"hopper-medium-v0\.json:1: not JSON.*--replace"):
        export(run, tmp_path / "results")
    export(run, tmp_path / "results", replace=True)
    assert content(file) == before


def test_manifests_whose_runs_do_not_fit_are_refused(tmp_path):
    for run in (run_of(tmp_path, "a", [50.0]), run_of(tmp_path, "b", [60.0], 1)):
        file = export(run, tmp_path / "results")
    about = read_manifest(file)
    first, second = about["runs"]
    for runs, message in (
        ([first], r"its runs have seeds \[0\], its rows \[0, 1\]"),
        ([first, {**second, "seeds": ["1"]}], "must be a whole number"),
        ([first, {"seeds": [1]}], "one of its runs has no 'wall_seconds'"),
        ([first, None], "must be a list"),
        ("many", "must be a list"),
    ):
        file.with_suffix(".json").write_text(json.dumps({**about, "runs": runs}))
        with pytest.raises(rows.RowsError, match=message):
            rows.read(tmp_path / "results")


def test_the_page_shows_what_each_run_recorded(tmp_path):
    changes = {"commit": "beef", "versions": {"torch": "2.14.0"}}
    for run in (run_of(tmp_path, "a", [50.0]), run_of(tmp_path, "b", [60.0], 1, **changes)):
        export(run, tmp_path / "results")
    page = report.render(rows.read(tmp_path / "results"), [], "results")
    assert "seeds 0: train a; seeds 1: train b" in page
    assert "seeds 0: torch 2.13.0; seeds 1: torch 2.14.0" in page
    assert "<dd>mujoco</dd>" in page  # what they share, once
    said = report.caveats(rows.read(tmp_path / "results"))
    assert any("2 different commits" in text for text in said)
    assert any("differ in versions" in text for text in said)
