"""Fills the marked parts of README.md from results/: `python scripts/readme_results.py`.

Between the results markers: one table for every benchmark folder (results/NAME/ALGORITHM/TASK.csv).
Between the speed markers: every results/speed/NAME.csv as it stands, with a link to NAME.md.
"""

import csv
import re
from pathlib import Path

from rlsuite.experiments import tables

ROOT = Path(__file__).parents[1]
HEADER = (
    *("Algorithm", "Task", "Quantity", "Mean ± std over seeds"),
    *("IQM [95% interval]", "Published", "Wall time", "Rows"),
)


def benchmarks(results: Path) -> str:
    """A heading and a table per benchmark, beside the published values most like ours."""
    parts = []
    for folder in sorted({file.parents[1] for file in results.glob("*/*/*.json")}):
        lines = []
        for row in tables.readme_rows(folder, results / "published"):
            link = f"[{row.file.name}]({row.file.relative_to(results.parent).as_posix()})"
            cells = (row.algorithm, row.task, row.quantity, row.mean, row.score)
            lines.append([*cells, row.published, row.wall_time, link])
        parts.append(f"**{folder.name}**\n\n{markdown(HEADER, lines)}")
    return "\n\n".join(parts) or "None yet."


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


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(ROOT), encoding="utf-8")
