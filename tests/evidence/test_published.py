"""Published values: what ships is well formed, what is not is refused with file and line."""

from pathlib import Path

import pytest
from evidence_samples import CURVE, MAXIMUM, PUBLISHED_HEADER, published_line, write_published

from rlsuite.evidence import published
from rlsuite.evidence.published import Place, PublishedError

SHIPPED = Path(__file__).parents[2] / "results" / "published"
HOPPER = Place("ppo", "Hopper", "v4", 999_424)


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


FAMILIES = ("halfcheetah", "hopper", "walker2d")
NINE = [f"{f}-{level}" for f in FAMILIES for level in ("medium", "medium-replay", "medium-expert")]
MORE = [f"{f}-{level}" for f in FAMILIES for level in ("random", "expert", "full-replay")]
MAZES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")
MEANS = {
    "locomotion-9-mean": NINE,
    "locomotion-12-mean": NINE + [f"{f}-random" for f in FAMILIES],
    "locomotion-18-mean": NINE + MORE,
    "antmaze-6-mean": [f"antmaze-{maze}" for maze in MAZES],
}


def test_shipped_offline_values_add_up_to_the_printed_means(shipped):
    checked = 0
    for mean in shipped:
        if mean.task not in MEANS or mean.column == "score_best":
            continue
        key = (mean.algorithm, mean.source, mean.metric, mean.environment)
        parts = {
            row.task: row.mean
            for row in shipped
            if (row.algorithm, row.source, row.metric, row.environment) == key
        }
        values = [parts[task] for task in MEANS[mean.task]]
        # Printed to 0.1 or 0.01, half of which rounding may move it.
        off = abs(sum(values) / len(values) - mean.mean)
        assert off <= 0.5 * 10**-mean.decimals + 1e-9, key
        checked += 1
    # CORL: 5 columns twice, and SPOT on AntMaze; ReBRAC's TD3+BC and IQL; the papers of SPOT, of
    # A2PR, which was run again on both, of MCEP, CSVE and CFPI.
    # MCEP's own are two, one for each base.
    assert checked == 10 + 1 + 2 + 1 + 3 + 3 + 2
    quoted = [row for row in shipped if row.source == "IQL-paper" and row.task in NINE]
    sums = {
        name: sum(row.mean for row in quoted if row.algorithm == name)
        for name in ("bc", "bc-10-percent", "td3_bc", "awac", "iql")
    }
    # The printed totals; IQL's own entries add to 692.6 where it prints 692.4.
    printed = {"bc": 466.7, "bc-10-percent": 666.2, "td3_bc": 677.4, "awac": 450.7, "iql": 692.6}
    assert sums == pytest.approx(printed)


def test_shipped_offline_values_say_how_far_they_were_checked(shipped):
    by_key = {(r.algorithm, r.task, r.source): r for r in shipped if "mean" not in r.task}
    corl = by_key["td3_bc", "hopper-medium-replay", "CORL"]
    assert (corl.mean, corl.spread, corl.seeds, corl.environment) == (64.42, 21.52, 4, "D4RL-v2")
    assert corl.status == "verified" and corl.column == "score" and corl.steps == 1_000_000
    paper = by_key["td3_bc", "hopper-medium-replay", "TD3+BC-paper"]
    assert (paper.mean, paper.spread, paper.status) == (60.9, 18.8, "verified, spread recalled")
    assert paper.column == "score_last_10"
    assert by_key["td3_bc", "hopper-expert", "TD3+BC-paper"].status == "recalled"
    assert by_key["iql", "antmaze-umaze", "IQL-paper"].environment == "D4RL-v0"
    spot = [row for row in shipped if row.algorithm == "spot" and row.task in NINE]
    mcep = by_key["awac-mcep", "hopper-medium-expert", "MCEP-paper"]
    assert (mcep.mean, mcep.spread, mcep.spread_kind) == (52.4, 8.7, "standard error over seeds")
    on_awac = by_key["mcep-awac", "hopper-medium-expert", "MCEP-paper"]
    assert (on_awac.mean, on_awac.spread, on_awac.seeds) == (92.5, 8.3, 5)
    assert by_key["mcep", "pen-human", "MCEP-paper"].environment == "D4RL-v0"
    a2pr = by_key["a2pr", "hopper-medium", "A2PR-paper"]
    assert (a2pr.mean, a2pr.status) == (100.79, "verified, spread recalled")
    again = by_key["a2pr", "hopper-medium", "A2PR-rerun"]
    assert (again.mean, again.spread, again.seeds, again.status) == (83.4, 2.5, 4, "verified")
    assert len(spot) == 9 and sum(row.status.startswith("noted") for row in spot) == 5


def test_offline_values_differ_in_their_data(shipped):
    key = ("iql", "hopper-medium", "CORL")
    (corl,) = (row for row in shipped if (row.algorithm, row.task, row.source) == key)
    place = Place("iql", "hopper-medium", "v4", 1_000_000, "deep-ope-v0")
    assert published.differences(corl, place) == "de"
    assert published.differences(corl, place._replace(steps=100_000)) == "deh"
    assert published.differences(corl, place._replace(data="D4RL-v2")) == "e"
    assert published.differences(corl, place._replace(data="D4RL-v2", version="v2")) == ""
    # Most like ours is CORL's: of the last evaluation, with the paper's settings.
    assert published.closest(published.beside(shipped, place, ["score"]), place) == corl


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
    marks = [published.differences(row, HOPPER) for row in rows]
    assert marks == ["", "em", "s", "h", "eh"]
    assert published.differences(rows[0], HOPPER._replace(version="v5")) == "e"


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
        return [r.source for r in published.beside(rows, HOPPER._replace(steps=steps), columns)]

    # A gives one value, B is a factor 8 away, D is another task; E's return and cost both stand.
    assert shown(999_424) == ["A", "C", "E", "E"]
    assert shown(999_424, ["training_return"]) == ["A", "C"]
    assert published.beside(rows, HOPPER._replace(steps=2_900_000))[0].mean == 3
    assert shown(6_000_000, ["training_return"]) == ["B", "C"]
    assert published.beside(rows, HOPPER._replace(algorithm="trpo")) == []


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
    assert published.closest(rows, HOPPER).source == "Many"
    assert published.closest(rows[:3], HOPPER).source == "Recalled"
    assert published.closest(rows[:1], HOPPER) is None


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
