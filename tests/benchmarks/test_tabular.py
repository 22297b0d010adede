"""The tables of ReLOAD: what is measured of a sampled policy, and the page of the rows."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.sampled_paradox import share
from benchmarks.tabular import bilinear, page, write


class Choosing:
    """A policy that stays with these probabilities in L and in R."""

    def __init__(self, left: float, right: float) -> None:
        self.theta, self.stay = torch.zeros(1, 1), torch.tensor([[left, right]])

    def distribution(self, _theta, _obs) -> SimpleNamespace:
        choices = torch.stack((self.stay, 1 - self.stay))
        return SimpleNamespace(log_prob=lambda action: choices[action[0, 0]].log())


@pytest.mark.parametrize(
    ("left", "right", "u"),
    [
        (1.0, 0.0, 0.0),  # never leaves L
        (0.0, 1.0, 1.0),  # goes at once, and stays
        (0.0, 0.0, 0.5),  # goes at each of 10 steps: R, L, R, ...
        # leaves at a half: R after t steps with 1 - 2^-t; 1 - (1 - 2^-10) / 10
        (0.5, 1.0, 0.9000977),
    ],
)
def test_the_share_of_steps_that_end_in_r(left, right, u) -> None:
    assert share(Choosing(left, right)).item() == pytest.approx(u)


def test_the_page_shows_the_rows_that_there_are(tmp_path) -> None:
    rows = bilinear()
    # descent-ascent's norm grows by sqrt(1 + 0.1^2) at each of 500 steps: sqrt 2 * 1.01^250 = 17.0
    assert {r["method"]: r["last_norm"] for r in rows if r["step_size"] == 0.1} == {
        "descent-ascent": "17",
        "optimism": "0.113",
    }
    write(rows, tmp_path / "bilinear.csv")
    text = page(tmp_path)
    assert "| optimism | 0.2 | 3.47e-05 | 234 |" in text and "sampled, with" not in text
