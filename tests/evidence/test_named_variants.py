"""Named variants of an algorithm: rows, curves and notes of their own beside its own."""

import json
from pathlib import Path

import pytest
from evidence_samples import published_line, write_benchmark, write_published
from offline_samples import write_offline_run

from rlsuite.cli.main import main
from rlsuite.evidence import aggregates, published, readme, rows
from rlsuite.evidence.export import export
from rlsuite.evidence.styles import STYLES, styles
from rlsuite.evidence.tables import benchmark
from rlsuite.evidence.tables.tabular import markdown
from rlsuite.runs.run import RunError

TWO = ("Hopper-v4", "Walker2d-v4")


def run_of(folder: Path, alpha: float) -> Path:
    config = {"env_steps": 1_000_000, "alpha": alpha}
    run = write_offline_run(folder, [50.0, 70.0], config=config)
    file = run / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"config_hash": f"of {alpha}"}))
    return run


def test_a_variant_has_a_folder_beside_its_algorithm(tmp_path, capsys) -> None:
    plain, other = run_of(tmp_path / "a", 2.5), run_of(tmp_path / "b", 10.0)
    results = ["--results", str(tmp_path / "results")]
    assert main(["export", str(plain), *results]) == 0
    assert main(["export", str(other), *results]) == 1  # not among the rows of another config
    assert "name a --variant, or add --replace" in capsys.readouterr().err
    assert main(["export", str(other), *results, "--variant", "alpha-10"]) == 0
    file = tmp_path / "results/td3_bc@alpha-10/hopper-medium-v0.csv"
    assert file.read_text() == (other / "evaluations.csv").read_text()
    # Its manifest is like any other: the folder alone names the variant
    alone = export(other, tmp_path / "alone").with_suffix(".json")
    assert file.with_suffix(".json").read_text() == alone.read_text()
    names = [(r.algorithm, r.variant, r.sibling_of) for r in rows.read(tmp_path / "results")]
    assert names == [("td3_bc", "", ""), ("td3_bc@alpha-10", "alpha-10", "td3_bc")]
    with pytest.raises(RunError, match="name a --variant"):
        export(plain, tmp_path / "results", variant="alpha-10")


@pytest.mark.parametrize("name", ["a/b", "../x", "@", "a b", "-x"])
def test_a_name_that_is_no_folder_is_refused(tmp_path, name, capsys) -> None:
    run = run_of(tmp_path / "a", 2.5)
    results = str(tmp_path / "results")
    assert main(["export", str(run), "--results", results, f"--variant={name}"]) == 2
    assert "use letters, digits, dots and hyphens" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.fixture
def folder(tmp_path) -> Path:
    """ppo and trpo on two tasks, ppo@small on one, ppo@large on both."""
    finals = {(name, task): [100.0, 200.0] for name in ("ppo", "trpo") for task in TWO}
    finals |= {("ppo@large", task): [300.0, 400.0] for task in TWO}
    finals[("ppo@small", TWO[0])] = [500.0, 600.0]
    write_benchmark(tmp_path / "results", finals)
    for file in tmp_path.glob("results/ppo*/*.json"):
        about = json.loads(file.read_text()) | {"algorithm": "ppo"}
        clip = {"ppo@large": 0.4, "ppo@small": 0.1}.get(file.parent.name, 0.2)
        about["config"] = {"gamma": 0.99, "clip": clip}
        file.write_text(json.dumps(about))
    return tmp_path / "results"


def test_a_variant_of_fewer_tasks_takes_none_from_the_others(folder) -> None:
    results = rows.read(folder)
    scores = aggregates.pool(results, [], "return")
    assert scores.tasks == TWO
    assert list(scores.values) == ["ppo", "ppo@large", "trpo"]
    assert aggregates.comparable(results, "return")[1] == ["ppo@small (only 1 of 2 tasks)"]
    shown = readme.benchmark(folder, write_published(folder.parent / "published"))
    assert [total.folder.name for total in shown.totals] == [
        "ppo",
        "ppo@large",
        "ppo@small",
        "trpo",
    ]


def test_the_settings_that_differ_stand_under_the_tables(folder) -> None:
    text = markdown(benchmark.build(rows.read(folder), []))
    assert "ppo@large is ppo with clip 0.4 instead of 0.2." in text
    own = text.partition("## ppo@small: our runs")[2].partition("\n## ")[0]
    assert "ppo@small is ppo with clip 0.1 instead of 0.2." in own
    assert "\n| ppo@small | " in text.partition("evaluation return per task")[2]


def test_published_values_of_the_algorithm_stand_beside_a_variant(folder, tmp_path) -> None:
    values = published.read(write_published(tmp_path / "published", published_line("Ours")))
    results = {r.algorithm: r for r in rows.read(folder) if r.task == TWO[0]}
    assert results["ppo@small"].place == results["ppo"].place
    assert published.beside(values, results["ppo@small"].place, ["training_return"])


def test_a_variant_has_its_algorithms_colour_and_a_marker_of_its_own() -> None:
    found = styles(["spot", "spot@penalty-1", "spot@penalty-2", "mcep", "mcep (target)"])
    assert {found[name].colour for name in found if name.startswith("spot")} == {
        STYLES["spot"].colour
    }
    assert found["mcep (target)"].colour == STYLES["mcep"].colour
    assert len({*found.values()}) == 5
