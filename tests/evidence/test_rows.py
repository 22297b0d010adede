"""Result rows: both kinds of folder, final values, and what is refused."""

import json

import numpy as np
import pytest
from evidence_samples import write_benchmark, write_run
from offline_samples import MEDIUM, write_offline, write_offline_run

from rlsuite.evidence import rows
from rlsuite.evidence.rows import RowsError


def test_benchmark_folder(tmp_path):
    write_benchmark(
        tmp_path, {("ppo", "Hopper-v4"): [100.0, 300.0], ("ppo", "Ant-v4"): [1.0]}, planned=999_424
    )
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "tables.csv").write_text("not result rows\n")
    ant, hopper = rows.read(tmp_path)
    assert (ant.task, hopper.algorithm, hopper.seeds) == ("Ant-v4", "ppo", (0, 1))
    assert hopper.steps.tolist() == [250_000, 500_000, 999_424]
    np.testing.assert_allclose(hopper.final("return"), [100, 300])
    np.testing.assert_allclose(hopper.final("training_return"), [90, 290])
    assert hopper.final("score") is None
    assert hopper.values["return"].shape == (2, 3)
    assert hopper.finished and hopper.wall_seconds == 3600


def test_algorithms_come_in_the_order_of_the_registry(tmp_path):
    names = ("fixpo", "ppo", "zzz", "mdpo", "aaa")
    write_benchmark(tmp_path, {(name, "Hopper-v4"): [1.0] for name in names})
    found = [result.algorithm for result in rows.read(tmp_path)]
    assert found == ["ppo", "mdpo", "fixpo", "aaa", "zzz"]


def test_rows_may_come_in_any_order(tmp_path):
    write_benchmark(tmp_path, {("ppo", "Hopper-v4"): [100.0, 300.0]})
    file = tmp_path / "ppo" / "Hopper-v4.csv"
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(lines)]) + "\n")
    (result,) = rows.read(tmp_path)
    np.testing.assert_allclose(result.final("return"), [100, 300])


def test_run_folder(tmp_path):
    (result,) = rows.read(write_run(tmp_path, [100.0, 300.0]))
    assert (result.algorithm, result.task) == ("ppo", "Hopper-v4")
    assert result.quantities() == ["training_return", "return"]


@pytest.mark.parametrize(
    ("steps", "planned", "finished"),
    [
        ((250_000, 500_000, 999_424), 3_000_000, False),
        ((499_712, 999_424), 1_000_000, True),
        ((499_712,), 1_000_000, False),
        # A short run of 2048-step batches: 9 of them fit into 20 000 steps.
        ((8_192, 18_432), 20_000, True),
        ((2_048, 4_096), 7_000, False),
    ],
)
def test_unfinished_runs_are_told_from_finished_ones(tmp_path, steps, planned, finished):
    write_benchmark(tmp_path, {("ppo", "Hopper-v4"): [1.0, 2.0]}, steps=steps, planned=planned)
    (result,) = rows.read(tmp_path)
    assert result.finished is finished and result.planned_steps == planned


def test_a_run_folder_keeps_its_plan_in_settings_and_config(tmp_path):
    write_run(tmp_path, [100.0, 300.0])
    about = {"algorithm": "ppo", "task": "Hopper-v4", "config": {"env_steps": 4_000_000}}
    about["settings"] = {"env": "Hopper-v4", "seeds": [0, 1], "engine": "auto"}
    (tmp_path / "config.json").write_text(json.dumps(about))
    (result,) = rows.read(tmp_path)
    assert not result.finished and result.planned_steps == 4_000_000
    assert result.manifest["engine"] == "auto"
    about["settings"]["seeds"] = [0, 5]
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(RowsError, match=r"rows of seeds \[0, 1\], but config\.json names \[0, 5\]"):
        rows.read(tmp_path)


def test_cost_and_score_are_quantities_where_there_are_any(tmp_path):
    write_benchmark(tmp_path, {("cal", "Hopper-v4"): [1.0, 2.0]}, cost=3.5, score=80)
    (result,) = rows.read(tmp_path)
    assert result.quantities() == ["training_return", "return", "score", "cost"]


def test_the_cost_of_a_task_with_constraints_is_shown_where_it_is_zero_too(tmp_path):
    write_benchmark(tmp_path, {("ppo", "HopperVelocity-v4"): [1.0, 2.0]})
    (result,) = rows.read(tmp_path)
    assert "cost" not in result.quantities()
    file = result.file.with_suffix(".json")
    velocity = {"name": "velocity", "limit": 25.0, "kind": "episode"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"constraints": [velocity]}))
    (result,) = rows.read(tmp_path)
    assert result.final("cost").tolist() == [0, 0] and "cost" in result.quantities()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"constraints": ["velocity"]}))
    with pytest.raises(
        RowsError, match="constraints: item 'velocity' is 'velocity'; it must be an"
    ):
        rows.read(tmp_path)


def test_training_return_of_a_seed_without_an_episode_is_no_final_value(tmp_path):
    write_benchmark(tmp_path, {("ppo", "Hopper-v4"): [1.0, 2.0]}, training_return="")
    (result,) = rows.read(tmp_path)
    assert result.final("training_return") is None and result.quantities() == ["return"]


def test_offline_runs_are_named_after_their_data(tmp_path):
    write_offline(tmp_path, {("iql", MEDIUM): [40.0], ("iql", "deep-ope/hopper/expert-v0"): [9.0]})
    expert, medium = rows.read(tmp_path)
    assert (expert.task, medium.task) == ("hopper-expert-v0", "hopper-medium-v0")
    assert medium.place == ("iql", "hopper-medium", "v4", 1_000_000, "deep-ope-v0")
    assert medium.step_unit == "gradient steps" and medium.manifest["task"] == "Hopper-v4"
    # The return is the score on another scale, and a maximum is for a table of its own.
    assert medium.quantities() == ["score", "score_last_10"]
    assert medium.final("return").tolist() == [400]


def test_algorithms_compared_on_a_data_set_learned_from_the_same(tmp_path):
    write_offline(tmp_path, {("bc", MEDIUM): [40.0]})
    write_offline(tmp_path, {("iql", MEDIUM): [40.0]})
    assert len(rows.read(tmp_path)) == 2
    for facts in ({"sha256": "other"}, {"timeouts": "dropped"}):
        write_offline(tmp_path, {("iql", MEDIUM): [40.0]}, **facts)
        with pytest.raises(RowsError, match=r"hopper-medium-v0 is not the data of .*bc/hopper"):
            rows.read(tmp_path)


def test_data_without_a_name_are_refused(tmp_path):
    run = write_offline_run(tmp_path, [40.0], data={"sha256": "ab"})
    with pytest.raises(RowsError, match=r"config\.json: 'data' is .*it needs 'name'"):
        rows.read(run)


def test_a_run_whose_values_outgrow_its_rewards_has_diverged(tmp_path):
    file = write_offline(tmp_path / "b", {("td3_bc", MEDIUM): [40.0]}) / "td3_bc"
    file /= "hopper-medium-v0.json"
    about = json.loads(file.read_text())
    for least, most, diverged in ((-5, 9_999, False), (0, 10_001, True), (-2e4, 3, True)):
        value = {"mean": 1.0, "least": least, "most": most}
        file.write_text(json.dumps(about | {"logged": {"value": value}}))
        (result,) = rows.read(tmp_path / "b")
        assert result.diverged is diverged and result.greatest_value == max(-least, most)
        assert result.finished
    file.write_text(json.dumps(about | {"logged": {"value_loss": value}}))
    assert not rows.read(tmp_path / "b")[0].diverged
    # A run folder has its log beside it
    run = write_offline_run(tmp_path / "run", [40.0, 50.0])
    assert rows.read(run)[0].manifest["logged"]["kl"]["most"] == 1.25
    (run / "progress.csv").write_text("seed,step,value\n0,10,3\n1,10,-40000\n")
    assert rows.read(run)[0].diverged
    for text in ("", "seed,step,value\n"):  # the word is not lost with the log
        (run / "progress.csv").write_text(text)
        with pytest.raises(RowsError, match=r"progress\.csv:(1: missing column\(s\)| no rows)"):
            rows.read(run)


def test_a_run_that_goes_on_online_is_a_variant_and_finished_at_its_end(tmp_path):
    config = {"gradient_steps": 1_000_000, "online_steps": 1_000_000}
    write_offline_run(tmp_path, [40.0], algorithm="spot", config=config, steps=None)
    (result,) = rows.read(tmp_path)
    assert result.algorithm == "spot-online"
    assert result.planned_steps == 2_000_000 and not result.finished


def test_what_a_run_declared_counts_more_than_names_of_its_settings(tmp_path):
    config = {"gradient_steps": 10, "online_steps": 5, "best_fraction": 0.1}
    known = {"steps": 70, "value": "kl", "variant": "cloned"}
    write_offline_run(tmp_path, [40.0, 50.0], config=config, steps=None, declared=known)
    (result,) = rows.read(tmp_path)
    assert result.algorithm == "td3_bc-cloned" and result.planned_steps == 70
    assert result.greatest_value == 1.25  # the greatest kl of its log
    about = {"algorithm": "iql", "config": config, "declared": known, "task": "Hopper-v4"}
    assert rows.named(about) == "iql-cloned"
    assert rows.named(about | {"declared": known | {"variant": ""}}) == "iql"


def edited(tmp_path, old, new):
    write_benchmark(tmp_path, {("ppo", "Hopper-v4"): [100.0, 300.0]})
    file = tmp_path / "ppo" / "Hopper-v4.csv"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return,cost", "return,price", r"Hopper-v4\.csv:1: missing column\(s\) cost"),
        ("1,250000", "0,250000", r"Hopper-v4\.csv:3: seed 0 already has a row at step 250000"),
        ("0,250000", "0,260000", "seed 0 has no row at step 250000"),
        ("0,999424,100.0", "0,999424,nan", r":6: return is nan; only finite"),
        ("1,999424,300.0", "1,999424,inf", r":7: return is inf"),
        ("0,250000", "0,2.5e5", r":2: step must be a whole number, got '2.5e5'"),
        ("0,999424,100.0", "0,999424,", r":6: return must be a number, got ''"),
    ],
)
def test_bad_rows_are_refused_with_file_and_line(tmp_path, old, new, message):
    with pytest.raises(RowsError, match=message):
        rows.read(edited(tmp_path, old, new))


def test_bad_manifests_are_refused(tmp_path):
    write_benchmark(tmp_path, {("ppo", "Hopper-v4"): [1.0, 2.0]})
    manifest = tmp_path / "ppo" / "Hopper-v4.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**facts, "seeds": [0, 1, 2]}))
    with pytest.raises(RowsError, match=r"rows of seeds \[0, 1\].*names \[0, 1, 2\]"):
        rows.read(tmp_path)
    manifest.write_text(json.dumps({**facts, "algorithm": "trpo"}))
    with pytest.raises(RowsError, match="the folder says 'ppo', the manifest 'trpo'"):
        rows.read(tmp_path)
    manifest.write_text(json.dumps({"algorithm": "ppo"}))
    with pytest.raises(RowsError, match="needs 'task'"):
        rows.read(tmp_path)
    manifest.write_text("{")
    with pytest.raises(RowsError, match=r"Hopper-v4\.json:1: not JSON"):
        rows.read(tmp_path)
    manifest.unlink()
    with pytest.raises(RowsError, match=r"manifest Hopper-v4\.json is missing"):
        rows.read(tmp_path)


def test_folders_without_rows_are_refused(tmp_path):
    with pytest.raises(RowsError, match="holds neither"):
        rows.read(tmp_path)
    with pytest.raises(RowsError, match="no such folder"):
        rows.read(tmp_path / "absent")
    run = write_run(tmp_path / "run", [1.0])
    lines = (run / "evaluations.csv").read_text().splitlines()
    (run / "evaluations.csv").write_text(lines[0] + "\n")
    with pytest.raises(RowsError, match="not been evaluated yet"):
        rows.read(run)
