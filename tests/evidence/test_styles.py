"""Every algorithm has a style of its own, which nothing else moves."""

import numpy as np
import pytest

from rlsuite.algorithms import ALGORITHMS
from rlsuite.evidence import styles
from rlsuite.evidence.styles import OTHERS, STYLES

# What is left of linear red, green and blue for who lacks one kind of cone (Machado et al. 2009)
LACKING = {
    "none": np.eye(3),
    "red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


def test_every_algorithm_has_a_style():
    assert set(ALGORITHMS) == set(STYLES)


def test_no_two_names_share_a_style():
    assert len({*STYLES.values(), *OTHERS}) == len(STYLES) + 7


@pytest.mark.parametrize(
    "together",
    [
        ["ppo", "trpo", "mdpo", "fixpo", "sac", "mdpo_off"],  # a benchmark of tasks
        ["ppo_lag", "sac_lag", "cal", "reload", "cat"],  # one with constraints
        ["bc", "td3_bc", "awac", "iql", "spot", "a2pr", "mcep"],  # one of data sets
    ],
)
def test_algorithms_of_one_figure_differ_in_colour(together):
    assert len({STYLES[name].colour for name in together}) == len(together)


@pytest.mark.parametrize("lacking", LACKING)
def test_colours_are_told_apart_without_red_or_green(lacking):
    shades = [[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in styles.COLOURS]
    seen = (np.array(shades) ** 2.2 @ np.array(LACKING[lacking]).T).clip(0, 1) ** (1 / 2.2)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    # Where 1 is a whole channel; two of matplotlib's ten colours come as close as 0.05
    assert apart[~np.eye(len(seen), dtype=bool)].min() > 0.15


def test_a_style_stays_in_other_company_and_with_other_registries(monkeypatch):
    alone = {name: styles.styles([name])[name] for name in [*STYLES, "mine", "bc-10-percent"]}
    monkeypatch.setitem(ALGORITHMS, "aaa", "somewhere")
    assert styles.styles([*STYLES, "bc-10-percent"]) | {"mine": alone["mine"]} == alone
    assert styles.styles(["mine", "ppo"])["mine"] == alone["mine"]


def test_unknown_names_differ_as_long_as_there_are_styles_whatever_their_order():
    names = ["a", "b", "c", "d", "e", "f", "g"]
    given = styles.styles(names)
    assert set(given.values()) == set(OTHERS)
    assert styles.styles(names[::-1]) == given
    assert len(styles.styles([*names, "h"])) == 8
