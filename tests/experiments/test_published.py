"""Published values: what ships is well formed, what is not is refused with file and line."""

from pathlib import Path

import pytest
from evidence_samples import CURVE, MAXIMUM, PUBLISHED_HEADER, published_line, write_published

from rlsuite.experiments import published
from rlsuite.experiments.published import PublishedError

SHIPPED = Path(__file__).parents[2] / "results" / "published"


@pytest.fixture(scope="module")
def shipped():
    return published.read(SHIPPED)


def test_shipped_values_as_printed_by_their_sources(shipped):
    by_key = {(r.algorithm, r.task, r.source, r.steps): r for r in shipped}
    cleanrl = by_key["ppo", "Hopper", "CleanRL", 1_000_000]
    assert (cleanrl.mean, cleanrl.spread, cleanrl.seeds) == (2382.86, 271.74, 3)
    assert cleanrl.environment == "v4" and cleanrl.status == "verified"
    tianshou = by_key["ppo", "InvertedDoublePendulum", "Tianshou", 3_000_000]
    assert (tianshou.mean, tianshou.spread, tianshou.environment) == (9231.3, 270.4, "v2")
    assert tianshou.metric.startswith("max over training") and tianshou.column == "return"
    assert by_key["trpo", "Swimmer", "sb3-contrib", 1_000_000].mean == 359
    assert by_key["mdpo", "Ant", "MDPO-paper", 10_000_000].spread_kind == "95% CI"
    assert by_key["fixpo", "Walker2d", "FixPO-repo", 9_700_000].status == "digitised"
    assert by_key["ppo", "Acrobot", "CleanRL", 500_000].mean == -86.36
    engstrom = by_key["ppo", "Walker2d", "Engstrom-2020", None]
    assert engstrom.spread == (3157, 3426) and engstrom.status == "recalled"


def test_shipped_files_hold_the_algorithm_they_are_named_after(shipped):
    for row in shipped:
        assert row.algorithm.split("-")[0] == Path(row.place.rsplit(":", 1)[0]).stem


def test_split_task():
    assert published.split_task("Hopper-v4") == ("Hopper", "v4")
    assert published.split_task("hopper-medium-v2") == ("hopper-medium", "v2")
    assert published.split_task("Maze") == ("Maze", "")


def test_differences_name_what_is_unlike(tmp_path):
    folder = write_published(
        tmp_path,
        published_line("Alike"),
        published_line("Other", **MAXIMUM),
        published_line("Wide", spread="10", spread_kind="95% CI"),
        published_line("Longer", steps=1_030_000),
        published_line("Unstated", steps="", environment=""),
    )
    rows = published.read(folder)
    marks = [published.differences(row, "Hopper-v4", 999_424) for row in rows]
    assert marks == ["", "em", "s", "h", "eh"]
    assert published.differences(rows[0], "Hopper-v5", 999_424) == "e"


def test_beside_takes_the_nearest_horizon_of_every_source(tmp_path):
    folder = write_published(
        tmp_path,
        published_line("A", steps=1_000_000, mean="1"),
        published_line("A", steps=3_000_000, mean="3"),
        published_line("B", steps=8_000_000),
        published_line("C", steps=""),
        published_line("D", task="Walker2d"),
        published_line("E", **MAXIMUM),
        published_line("E", metric="deterministic evaluation cost, end of training"),
    )
    rows = published.read(folder)

    def shown(steps, columns=None):
        return [r.source for r in published.beside(rows, "ppo", "Hopper-v4", steps, columns)]

    # A gives one value, B is a factor 8 away, D is another task; E's return and cost both stand.
    assert shown(999_424) == ["A", "C", "E", "E"]
    assert shown(999_424, ["training_return"]) == ["A", "C"]
    assert published.beside(rows, "ppo", "Hopper-v4", 2_900_000)[0].mean == 3
    assert shown(6_000_000, ["training_return"]) == ["B", "C"]
    assert published.beside(rows, "trpo", "Hopper-v4", 999_424) == []


def test_closest_prefers_likeness_then_checking_then_seeds(tmp_path):
    folder = write_published(
        tmp_path,
        published_line("Timeless", steps=""),
        published_line("Unlike", **MAXIMUM),
        published_line("Recalled", status="recalled", seeds=20),
        published_line("Few", seeds=3),
        published_line("Many", seeds=5),
    )
    rows = published.read(folder)
    assert published.closest(rows, "Hopper-v4", 999_424).source == "Many"
    assert published.closest(rows[:3], "Hopper-v4", 999_424).source == "Recalled"
    assert published.closest(rows[:1], "Hopper-v4", 999_424) is None


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"mean": "12x"}, "mean must be a number, got '12x'"),
        ({"mean": "nan"}, "mean must be finite"),
        ({"steps": "1e6"}, "steps must be a positive whole number or empty, got '1e6'"),
        ({"seeds": "0"}, "seeds must be a positive"),
        (
            {"metric": "max over training of 10 test episodes"},
            "did you mean: max over training of the mean",
        ),
        ({"status": "verifed"}, "unknown status 'verifed'; did you mean: verified"),
        ({"spread_kind": "std"}, "unknown spread_kind 'std'"),
        ({"spread": ""}, "give both"),
        ({"spread": "-3"}, "must not be negative"),
        ({"spread": "5 to 4"}, "low to high"),
        ({"citation": ""}, "empty cell in column 'citation'"),
        ({**CURVE, "error": ""}, "digitised needs one"),
    ],
)
def test_bad_cells_are_refused_with_file_and_line(tmp_path, cells, message):
    folder = write_published(tmp_path, published_line("Good"), published_line("Bad", **cells))
    with pytest.raises(PublishedError, match=r"ppo\.csv:3: ") as caught:
        published.read(folder)
    assert message in str(caught.value)


def test_bad_files_are_refused(tmp_path):
    twice = write_published(tmp_path / "twice", published_line("A"), published_line("A"))
    with pytest.raises(PublishedError, match=r"ppo\.csv:3: .*already given at .*ppo\.csv:2"):
        published.read(twice)
    short = write_published(tmp_path / "short", "ppo,Hopper,v4")
    with pytest.raises(PublishedError, match=r"ppo\.csv:2: the line does not have 13 cells"):
        published.read(short)
    (tmp_path / "ppo.csv").write_text(PUBLISHED_HEADER.replace("metric,", "") + "\n")
    with pytest.raises(PublishedError, match=r"ppo\.csv:1: missing column\(s\) metric;"):
        published.read(tmp_path)
    with pytest.raises(PublishedError, match="no such folder"):
        published.read(tmp_path / "absent")
