"""The colour and the marker of each algorithm: the same in every figure, whoever else is in it.

Seven colours that are told apart with every common kind of colour blindness (Okabe and Ito's
palette, its yellow left out: it is too pale on white), with three markers: none, a disc and a
triangle. Algorithms that stand in one figure, such as those that learn from data, differ in colour
as far as the colours go. Solid lines are ours; dashes and dots are for published values and data.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

BLUE, VERMILION, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
COLOURS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK)
PLAIN, DISC, TRIANGLE, SQUARE = "", "o", "^", "s"


class Style(NamedTuple):
    """How an algorithm is drawn."""

    colour: str
    marker: str  # one of matplotlib's; empty for none

    @property
    def point(self) -> str:
        """The marker of a single point, which cannot go without."""
        return self.marker or DISC


STYLES = {
    "ppo": Style(BLUE, PLAIN),
    "trpo": Style(VERMILION, PLAIN),
    "mdpo": Style(GREEN, PLAIN),
    "fixpo": Style(PINK, PLAIN),
    "sac": Style(ORANGE, DISC),
    "mdpo_off": Style(SKY, DISC),
    "ppo_lag": Style(BLUE, TRIANGLE),
    "sac_lag": Style(ORANGE, TRIANGLE),
    "cal": Style(VERMILION, TRIANGLE),
    "reload": Style(PINK, TRIANGLE),
    "cat": Style(BLACK, TRIANGLE),
    "bc": Style(ORANGE, PLAIN),
    "td3_bc": Style(SKY, PLAIN),
    "awac": Style(VERMILION, DISC),
    "iql": Style(BLACK, PLAIN),
    "spot": Style(BLUE, DISC),
    "a2pr": Style(GREEN, DISC),
    "mcep": Style(PINK, DISC),
    "csve": Style(GREEN, TRIANGLE),
    "cfpi": Style(SKY, TRIANGLE),
    "dppo": Style(BLACK, DISC),
}
OF_VARIANTS = ("D", "v", "P", "X", "*", "<")
OTHERS = tuple(Style(colour, SQUARE) for colour in COLOURS)  # for names that are not in the table
# For more of them in one figure, such as many settings of one algorithm
FURTHER = tuple(Style(colour, marker) for marker in OF_VARIANTS for colour in COLOURS)


def styles(names: Sequence[str]) -> dict[str, Style]:
    """The style of every name. A name that is not in the table has the style that its letters give.

    Where that is taken by another such name of the same figure, it gets the next free one. Variants
    and further policies ("spot@penalty-1", "mcep (target)") have their algorithm's colour.
    """
    chosen = {name: STYLES[name] for name in names if name in STYLES}
    for name in sorted(set(names) - set(STYLES)):
        own = STYLES.get(re.split(r"@| \(", name)[0])
        if own:
            taken = {style.marker for style in chosen.values() if style.colour == own.colour}
            marker = next((each for each in OF_VARIANTS if each not in taken), OF_VARIANTS[0])
            chosen[name] = Style(own.colour, marker)
            continue
        first = zlib.crc32(name.encode("utf-8", "replace")) % len(OTHERS)
        ring = OTHERS[first:] + OTHERS[:first] + FURTHER
        free = [style for style in ring if style not in chosen.values()]
        chosen[name] = (free or ring)[0]
    return {name: chosen[name] for name in names}
