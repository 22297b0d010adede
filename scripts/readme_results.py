"""Fills the marked parts of README.md from results/: `python scripts/readme_results.py`.

Between the results markers: for every benchmark folder (results/NAME/ALGORITHM/TASK.csv) a table
with one row per algorithm. Between the speed markers: every results/speed/NAME.csv as it stands,
with a link to NAME.md.
"""

import argparse
import csv
import re
from pathlib import Path
from urllib.parse import quote

from rlsuite.evidence import readme as generated
from rlsuite.evidence.tables.tabular import NONE, markdown_text

ROOT = Path(__file__).parents[1]
# a report is made, not committed; README.md, where there is one, is written by hand
SHOWN = {"tables": "tables/tables.md", "curves": "curves", "what it shows, and why": "README.md"}


def benchmarks(results: Path) -> str:
    """A heading and a table per benchmark, beside the published values most like ours."""
    folders = sorted({file.parents[1] for file in results.glob("*/*/*.json")})
    return "\n\n".join(benchmark(folder, results) for folder in folders) or "None yet."


def benchmark(folder: Path, results: Path) -> str:
    """One benchmark: what is shown, a row per algorithm, and what the marks say."""
    about = generated.benchmark(folder, results / "published")
    header = ["Algorithm", "Seeds x steps", about.together, "Wall time", "Rows"]
    header += map(markdown_text, about.tasks)
    lines = []
    for row in about.rows:
        cells = [score(one, results.parent) if one else NONE for one in row.scores]
        whole = [unbroken(text) for text in (row.trained, row.total, row.wall_time)]
        lines.append(
            [
                markdown_text(row.algorithm),
                *whole,
                link("files", row.folder, results.parent),
                *cells,
            ]
        )
    if all(row.total == NONE for row in about.rows):
        place = header.index(about.together)
        header, *lines = ([*line[:place], *line[place + 1 :]] for line in (header, *lines))
    links = [
        link(word, folder / name, results.parent)
        for word, name in SHOWN.items()
        if (folder / name).exists()
    ]
    lead = (
        f"**{markdown_text(folder.name)}**: {about.quantity}, mean ± standard deviation over "
        "seeds, under it IQM [95% interval], under that the published value most like ours and its "
        f"source. Wall time: all runs of a row. {' '.join(links)}"
    )
    notes = "\n".join(f"- {markdown_text(note)}" for note in about.notes)
    return f"{lead.rstrip()}\n\n{markdown(header, lines)}\n\n{notes}".rstrip()


def score(one: generated.Score, root: Path) -> str:
    """Lines of a cell: mean with a link to the rows, IQM, published value, its source."""
    value, _, source = markdown_text(one.published.text).partition(" (")
    lines = [link(unbroken(one.mean), one.file, root), unbroken(one.iqm), unbroken(value)]
    marks = f" <sup>{','.join(one.published.marks)}</sup>" if one.published.marks else ""
    return "<br>".join([*lines, *([f"({source}{marks}"] if source else [])])


def unbroken(text: str) -> str:
    """`text` that stays on one line, however narrow its column."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def link(text: str, path: Path, root: Path) -> str:
    return f"[{text}]({quote(path.relative_to(root).as_posix())})"


def speed(results: Path) -> str:
    """A heading and a table per file of results/speed."""
    parts = []
    for file in sorted((results / "speed").glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as stream:
            header, *lines = csv.reader(stream)
        page = file.with_suffix(".md").relative_to(results.parent).as_posix()
        parts.append(
            f"**{file.stem}** ([how it was measured]({page}))\n\n{markdown(header, lines)}"
        )
    return "\n\n".join(parts) or "Not measured yet."


def markdown(header, lines) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def filled(text: str, name: str, content: str) -> str:
    """`text` with `content` between its markers NAME:start and NAME:end.

    Raises ValueError if `text` does not have each marker once, in this order.
    """
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    parts = re.split(f"{start}|{end}", text)
    if len(parts) != 3 or text.find(start) > text.find(end):
        raise ValueError(f"README.md must have {start} and then {end}, once each")
    return f"{parts[0]}{start}\n\n{content}\n\n{end}{parts[2]}"


def readme(root: Path) -> str:
    """README.md of the checkout `root` as its results say it should be."""
    text = (root / "README.md").read_text(encoding="utf-8")
    text = filled(text, "results", benchmarks(root / "results"))
    return filled(text, "speed", speed(root / "results"))


def main(argv: list[str] | None = None) -> None:
    """Write README.md of this checkout."""
    argparse.ArgumentParser(
        description="Fill the marked parts of README.md from results/.",
    ).parse_args(argv)
    (ROOT / "README.md").write_text(readme(ROOT), encoding="utf-8")


if __name__ == "__main__":
    main()
