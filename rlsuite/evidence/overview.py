"""The picture on the front page: algorithms over all tasks of a benchmark, as they learn.

One panel per benchmark. A line is the IQM (of normalised scores the mean) over all tasks and seeds,
on the scale of `aggregates.py`; its band is the 95% interval. The picture carries a digest of the
rows that it shows, so that a test can tell whether it is behind them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from rlsuite.evidence import aggregates, published, rows
from rlsuite.evidence.curves import STYLE, png, step_unit
from rlsuite.evidence.published import Published
from rlsuite.evidence.rows import Result
from rlsuite.evidence.styles import styles

SIZE = (8.6, 3.3)  # inches
DIGEST = "Description"  # key of the digest in the picture


def picture(folders: Sequence[Path], published_dir: Path) -> bytes:
    """PNG of the benchmarks `folders`. ValueError for one without tasks on a fixed scale."""
    values = published.read(published_dir)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        panels = figure.subplots(1, len(folders), squeeze=False)[0]
        for panel, folder in zip(panels, folders, strict=True):
            _panel(panel, folder, values)
        return png(figure, **{DIGEST: digest(folders)})


def digest(folders: Sequence[Path]) -> str:
    """SHA-256 of all rows of the benchmarks `folders`."""
    found = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.glob("*/*.json")):
            found.update(file.with_suffix(".csv").read_bytes())
    return found.hexdigest()


def digest_of(image: bytes) -> str:
    """The digest that a picture carries; empty if none."""
    return Image.open(io.BytesIO(image)).text.get(DIGEST, "")


def learning_curve(
    results: Sequence[Result], values: Sequence[Published], column: str
) -> np.ndarray:
    """(step, centre, low, high) [E, 4] of one algorithm over all tasks of `results`."""
    common = set.intersection(*(set(result.steps.tolist()) for result in results))
    points = []
    for step in sorted(common):
        cut = [_until(result, step) for result in results]
        scores = aggregates.pool(cut, values, column)
        name = results[0].algorithm
        centre = scores.point(name)
        points.append((step, centre, *(scores.interval(name) or (centre, centre))))
    return np.array(points)


def _until(result: Result, step: int) -> Result:
    """`result` as it stood after `step` steps."""
    count = int(np.searchsorted(result.steps, step, side="right"))
    values = {name: value[:, :count] for name, value in result.values.items()}
    return replace(result, steps=result.steps[:count], values=values)


def _panel(panel: Axes, folder: Path, values: Sequence[Published]) -> None:
    results = rows.read(folder)
    column = aggregates.headline(results)
    whole = aggregates.pool(results, values, column)
    if whole is None or not whole.fixed:
        raise ValueError(f"{folder}: its algorithms share no tasks on a fixed scale")
    unit, word = step_unit(max(result.last_step for result in results))
    for name, style in styles(list(whole.values)).items():
        ours = [r for r in results if r.algorithm == name and r.task in whole.tasks]
        step, centre, low, high = learning_curve(ours, values, column).T
        look = {"color": style.colour, "marker": style.marker, "markevery": 4}
        panel.plot(step / unit, centre, linewidth=1.8, label=name, **look)
        panel.fill_between(step / unit, low, high, color=style.colour, alpha=0.15, linewidth=0)
    panel.set_title(f"{folder.name}\n{whole.centre} over {whole.over}, {whole.seeds} seeds each")
    panel.set_xlabel(f"{results[0].step_unit}{word}")
    panel.set_ylabel(whole.words)
    panel.set_xlim(left=0)
    panel.legend(loc="lower right", ncols=2)
