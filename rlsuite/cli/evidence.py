"""The commands `rlsuite table`, `plot` and `report`: from rows to tables, figures and pages."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from rlsuite.cli import flags

HERE = Path(__file__).parents[1]  # the package
# In a checkout the published values lie in results/; an installed package carries them along
PUBLISHED = next(
    (p for p in (HERE.parent / "results/published", HERE / "published") if p.is_dir()), HERE
)


@dataclasses.dataclass
class Evidence:
    """Of a run folder or a benchmark's results; of several, or a sweep's folder, side by side.

    Runs side by side are named by the settings that differ, and need not be finished.
    """

    label: tuple[str, ...] = ()  # settings that name the runs, e.g. clip; lr: learning rates
    out: Path | None = None  # where to write; default: beside the source, or in its folder
    published: Path | None = None  # folder with the published values; default: those of rlsuite


@dataclasses.dataclass
class Plot(Evidence):
    __doc__ = Evidence.__doc__

    tuning: bool = False  # what tuning costs, instead: the score of what a bandit picks


def table(argv: list[str]) -> None:
    """Write tables (Markdown, LaTeX, CSV): ours with intervals beside published values."""
    from rlsuite.evidence import published, several
    from rlsuite.evidence.tables import benchmark, runs

    sources, options = _parsed("table", Evidence, argv)
    out = options.out or _beside(sources) / "tables"
    if options.label or several.are_several(sources):
        results = _side_by_side(sources, options.label)
        values = published.read(options.published)
        paths = benchmark.write_tables(runs.build(results), results, values, out)
    else:
        paths = benchmark.write(sources[0], out, options.published)
    markdown = next(path for path in paths if path.suffix == ".md")
    print(markdown, "\n")
    print(markdown.read_text())


def plot(argv: list[str]) -> None:
    """Write learning curves (PNG) with intervals and published values."""
    from rlsuite.evidence import curves, heatmaps, pictures, published, several, tuning

    sources, options = _parsed("plot", Plot, argv)
    out = options.out or _beside(sources) / "curves"
    if options.tuning:
        paths = pictures.write(tuning.figures(_read(sources)), out)
    elif options.label or several.are_several(sources):
        results = _side_by_side(sources, options.label)
        found = curves.figures(results, published.read(options.published), pairs=False)
        paths = pictures.write(found | heatmaps.figures(results), out)
    else:
        paths = curves.write(sources[0], out, options.published)
    for path in paths:
        print(f"wrote {path}")


def report(argv: list[str]) -> None:
    """Write one self-contained HTML page with tables and curves."""
    from rlsuite.evidence import published, several
    from rlsuite.evidence import report as report_module
    from rlsuite.evidence.tables import runs

    sources, options = _parsed("report", Evidence, argv)
    out = options.out or _beside(sources) / "report.html"
    if options.label or several.are_several(sources):
        results = _side_by_side(sources, options.label)
        values, title = published.read(options.published), f"Runs in {_beside(sources)}"
        text = report_module.render(results, values, title, runs.build(results))
        path = report_module.write_page(text, out)
    else:
        path = report_module.write(sources[0], out, options.published)
    print(f"wrote {path}")


def _parsed(command: str, kind: type, argv: list[str]) -> tuple[list[Path], Evidence]:
    """The folders before the flags, which must be there unless help is asked for; the options."""
    words, rest = flags.leading(argv)
    usage = f"rlsuite {command} FOLDER..."
    options = flags.parse(usage, kind, rest)
    if not words:
        raise ValueError(f"which folder? type: {usage}")
    for word in words:
        if not Path(word).is_dir():
            raise ValueError(f"{word} is not a folder; type: {usage}")
    options = dataclasses.replace(options, published=options.published or PUBLISHED)
    return [Path(word) for word in words], options


def _side_by_side(sources: Sequence[Path], label: Sequence[str]) -> list:
    from rlsuite.evidence import several

    return several.named(_read(sources), label)


def _read(sources: Sequence[Path]) -> list:
    from rlsuite.evidence import several

    results, left_out = several.read(sources)
    for each in left_out:
        print(f"left out: {each}")
    return results


def _beside(sources: Sequence[Path]) -> Path:
    """The folder that gets what is written about one source, or about several together."""
    if len(sources) == 1:
        return sources[0]
    common = os.path.commonpath([source.absolute() for source in sources])
    return Path(os.path.relpath(common))
