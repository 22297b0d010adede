"""Numbers as tables show them, and what the seeds say together."""

import numpy as np
import pytest

from rlsuite.experiments import summaries, tabular

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
