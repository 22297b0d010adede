"""One's own runs side by side: which settings name them, in tables, figures and messages."""

import json
from pathlib import Path

import numpy as np
import pytest
from evidence_samples import manifest, write_rows

from rlsuite.cli.main import main
from rlsuite.evidence import heatmaps, several
from rlsuite.evidence.cells import RowsError

DECLARED = {"learning_rates": ["learning_rate"], "steps": 1000, "value": "value", "variant": ""}


def run(folder: Path, final: float = 100.0, algorithm: str = "ppo", **changes) -> Path:
    """A run folder of two seeds, both of which end at `final`; `changes` to its settings."""
    about = manifest(algorithm, changes.pop("task", "Hopper-v4"), 2, 1000)
    own = {"env": about["task"], "seeds": changes.pop("seeds", [0, 1])}
    about["seeds"] = own["seeds"]
    about["settings"] = own | {"evaluations": 2, "evaluation_episodes": 10}
    config = {"learning_rate": 3e-4, "clip": 0.2, "hidden": [64, 64]} if algorithm == "ppo" else {}
    about |= {"config": config | changes, "declared": DECLARED}
    write_rows(folder / "evaluations.csv", [final, final], [500, 1000])
    if own["seeds"] != [0, 1]:
        text = (folder / "evaluations.csv").read_text()
        text = text.replace("\n1,", f"\n{own['seeds'][1]},")
        (folder / "evaluations.csv").write_text(text.replace("\n0,", f"\n{own['seeds'][0]},"))
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def names(*folders: Path, fields: tuple[str, ...] = ()) -> list[str]:
    return [result.algorithm for result in several.named(several.read(folders)[0], fields)]


def test_runs_are_named_by_the_settings_that_differ_in_the_order_of_their_values(tmp_path):
    a = run(tmp_path / "a", learning_rate=1e-3)
    b = run(tmp_path / "b", learning_rate=1e-4, clip=0.1)
    c = run(tmp_path / "c", learning_rate=1e-4)
    assert names(a, b, c) == [
        "learning_rate 0.0001, clip 0.1",
        "learning_rate 0.0001, clip 0.2",
        "learning_rate 0.001, clip 0.2",
    ]
    assert names(a, c) == ["learning_rate 0.0001", "learning_rate 0.001"]
    # What one of them lacks is of another version, and no setting of the other
    old = run(tmp_path / "old", learning_rate=1e-3, new_setting=1)
    assert names(old, c) == ["learning_rate 0.0001", "learning_rate 0.001"]
    assert names(a, c, fields=("hidden", "lr")) == [
        "hidden 64 64, learning_rate 0.0001",
        "hidden 64 64, learning_rate 0.001",
    ]


def test_equal_settings_are_told_apart_by_seeds_and_else_by_folder(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b", seeds=[5, 6])
    assert names(a, b) == ["ppo, seeds 0 to 1", "ppo, seeds 5 to 6"]
    assert names(a, run(tmp_path / "c")) == ["ppo, a", "ppo, c"]
    assert names(a, a / ".") == ["ppo"]


def test_other_algorithms_keep_their_name_in_front_and_tasks_are_no_setting(tmp_path):
    a, b = run(tmp_path / "a", clip=0.1), run(tmp_path / "b", clip=0.3)
    trpo = run(tmp_path / "t", algorithm="trpo")
    assert names(trpo, a, b) == ["trpo", "ppo: clip 0.1", "ppo: clip 0.3"]
    walker = run(tmp_path / "w", task="Walker2d-v4", clip=0.5)
    assert names(a, walker) == ["ppo", "ppo"]


def test_a_folder_of_runs_is_read_whole_and_what_has_no_rows_yet_is_left_out(tmp_path):
    run(tmp_path / "sweep/ppo/Hopper-v4/a", clip=0.1)
    run(tmp_path / "sweep/ppo/Hopper-v4/b", clip=0.3)
    new = run(tmp_path / "sweep/ppo/Hopper-v4/c", clip=0.5)
    (new / "evaluations.csv").write_text("seed,step,return\n")
    results, left_out = several.read([tmp_path / "sweep"])
    assert names(tmp_path / "sweep") == ["clip 0.1", "clip 0.3"] and len(results) == 2
    assert left_out == [f"{new}, which has no evaluation yet"]
    with pytest.raises(RowsError, match="c: no rows; the run has not been evaluated yet"):
        several.read([new])


def test_table_ranks_runs_and_plot_draws_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for clip, final in ((0.1, 100.0), (0.2, 300.0), (0.3, 200.0)):
        run(Path(f"runs/{clip}"), final, clip=clip, evaluations=9)
    folders = ["runs/0.1", "runs/0.2", "runs/0.3"]
    assert main(["table", *folders, "--label", "clip"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "runs/tables/tables.md"
    rows = [line.split(" | ")[0] for line in lines if line.startswith("| clip")]
    assert rows == ["| clip 0.2", "| clip 0.3", "| clip 0.1"]
    assert main(["plot", *folders]) == 0
    shown = capsys.readouterr().out.split()
    assert shown[1::2] == [
        f"runs/curves/{name}.png" for name in ("curves_training_return", "curves_return")
    ]


def test_a_label_that_no_run_has_is_one_line_that_says_what_differs(tmp_path, capsys):
    folders = [str(run(tmp_path / str(clip), clip=clip)) for clip in (0.1, 0.2)]
    assert main(["plot", *folders, "--label", "learnin-rate"]) == 2
    shown = capsys.readouterr().err
    assert "--label learnin-rate is no setting of these runs" in shown
    assert "did you mean learning_rate? what differs is: clip" in shown
    assert len(shown.splitlines()) == 1
    assert main(["table", folders[0], "nowhere"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_two_settings_make_a_heat_map_and_settings_that_change_together_do_not(tmp_path):
    grid = [
        run(tmp_path / f"{clip}-{rate}", 100 * clip + rate, clip=clip, learning_rate=rate)
        for clip in (0.1, 0.2)
        for rate in (1e-3, 1e-4)
    ]
    assert list(heatmaps.figures(several.read(grid)[0])) == ["heat_map.png"]
    assert heatmaps.figures(several.read([grid[0], grid[3]])[0]) == {}
    assert heatmaps.figures(several.read(grid[:2])[0]) == {}


def test_a_heat_map_has_each_mean_where_its_settings_meet(tmp_path, monkeypatch):
    grid = [
        run(tmp_path / f"{clip}-{rate}", final, clip=clip, learning_rate=rate)
        for clip, rate, final in ((0.1, 1e-3, 1.0), (0.2, 1e-3, 2.0), (0.2, 1e-4, 3.0))
    ]
    drawn = []
    monkeypatch.setattr(heatmaps, "png", lambda figure: drawn.append(figure) or b"")
    heatmaps.figures(several.read(grid)[0])
    panel = drawn[0].axes[0]
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("learning_rate", "clip")
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0.1", "0.2"]
    # Rows from below: 0.0001 and 0.001. No run has clip 0.1 with the smaller rate
    assert panel.images[0].get_array().filled(np.nan) == pytest.approx(
        np.array([[np.nan, 3.0], [1.0, 2.0]]), nan_ok=True
    )
    assert sorted(text.get_text() for text in panel.texts) == ["1.00", "2.00", "3.00"]
