"""Numbers as tables show them, and what the seeds say together."""

import json

import numpy as np
import pytest
from evidence_samples import write_benchmark

from rlsuite.evidence import rows
from rlsuite.evidence.tables import benchmark as tables
from rlsuite.evidence.tables import summaries, tabular

PM = tabular.PLUS_MINUS


def test_intervals_are_those_of_the_bootstrap_from_seed_0():
    scores = np.array([2000.0, 2400, 2500, 3100])
    summary = summaries.summarise(scores)
    again = summaries.summarise(scores)
    assert (summary.low, summary.high) == (again.low, again.high)
    # IQM of a resample of four averages its middle two; the extremes are far out in the tails:
    # all-but-one at 2000 has probability 4 * 3 * (1/4)^4 + (1/4)^4 = 13/256 = 5%, above 2.5%.
    assert summary.low == 2000 and summary.high == 3100


@pytest.mark.parametrize(
    ("mean", "spread", "most", "text"),
    [
        (1442.64, 46.03, 2, f"1443 {PM} 46"),
        (-4.65, 0.96, 2, f"-4.65 {PM} 0.96"),
        (111.19, None, 2, "111.2"),
        (34.0, None, 0, "34"),
        (-0.001, None, 2, "0.00"),
        (3292.0, (3157.0, 3426.0), 0, "3292 [3157, 3426]"),
    ],
)
def test_value_text(mean, spread, most, text):
    assert summaries.value_text(mean, spread, most) == text


def test_short_texts():
    steps = [None, 500, 20_000, 999_424, 1_000_000, 9_700_000]
    texts = [tabular.NONE, "500", "20k", "999k", "1M", "9.7M"]
    assert [summaries.steps_text(number) for number in steps] == texts
    assert summaries.duration_text(3725) == "1 h 02 min"
    assert summaries.duration_text(190) == "3 min 10 s"
    assert summaries.joined(["v3", "", "v2", "v3"]) == "v3, v2"


def test_settings_that_differ_between_tasks_are_named(tmp_path):
    runs = {("trpo", task): [1.0, 2.0] for task in ("Hopper-v4", "Swimmer-v4", "Walker2d-v4")}
    write_benchmark(tmp_path, {**runs, ("ppo", "Hopper-v4"): [1.0]})
    others = (("Swimmer", 0.9999, [64, 64], "relu"), ("Walker2d", 0.99, [32], "elu"))
    for task, discount, hidden, activation in others:
        file = tmp_path / "trpo" / f"{task}-v4.json"
        config = {"discount": discount, "max_kl": 0.01, "hidden": hidden}
        config |= {"activation": activation, "density": f"runs/{task}"}
        new = {"config": config, "uses": {"density": {"wall_seconds": 1800.0}}}
        file.write_text(json.dumps(json.loads(file.read_text()) | new))
    file = tmp_path / "trpo" / "Hopper-v4.json"
    config = {"discount": 0.99, "max_kl": 0.01, "hidden": [64, 64]}
    config |= {"activation": "tanh", "density": "runs/Hopper"}
    new = {"config": config, "uses": {"density": {"wall_seconds": 60.0}}}
    file.write_text(json.dumps(json.loads(file.read_text()) | new))
    line = (
        "Settings of trpo that differ: discount 0.9999 on Swimmer-v4, elsewhere 0.99; "
        "hidden [32] on Walker2d-v4, elsewhere [64, 64]; "
        'activation "relu" on Swimmer-v4, "elu" on Walker2d-v4, elsewhere "tanh".'
    )
    results = rows.read(tmp_path)
    assert summaries.settings_notes(results) == [line]  # of ppo there is one task: nothing
    own = next(t for t in tables.build(results, []) if t.title == "trpo: our runs")
    together = next(t for t in tables.build(results, []) if "per task" in t.title)
    assert line in own.notes and line in together.notes
    # 30 + 30 + 1 minutes
    time = "Wall time of trpo leaves out the runs that its density names: 1 h 01 min in all; "
    time += "the manifests have their commands."
    assert summaries.wall_time_notes(results) == [time] and time in own.notes
    new["uses"]["density"]["wall_seconds"] = None
    file.write_text(json.dumps(json.loads(file.read_text()) | new))
    assert "names: unknown in all" in summaries.wall_time_notes(rows.read(tmp_path))[0]
