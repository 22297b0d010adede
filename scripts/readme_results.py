"""Writes what README.md and results/ show of the rows: `python scripts/readme_results.py`.

README.md        the table of papers, from the registry, between its markers
results/README.md  all of it: for every benchmark folder (results/NAME/ALGORITHM/TASK.csv) a row per
                 algorithm and task, and every results/speed/NAME.csv as it stands
results/overview.png  the picture on the front page
"""

import argparse
import csv
import re
from pathlib import Path
from urllib.parse import quote

from rlsuite.evidence import overview
from rlsuite.evidence import readme as generated
from rlsuite.evidence.tables.tabular import NONE, markdown_text

ROOT = Path(__file__).parents[1]
PICTURED = ("mujoco-1m", "offline-deep-ope")  # benchmarks on the front page
# a report is made, not committed; README.md, where there is one, is written by hand
SHOWN = {
    "what it shows, and why": "README.md",
    "all values": "tables/tables.md",
    "curves": "curves",
}

HEAD = """# Results

Generated from the rows in these folders: `python scripts/readme_results.py`. Under the name of each
task, or data set, stands a row per algorithm. `rlsuite report results/mujoco-1m` makes one HTML
page of a benchmark: curves, comparison, tables, manifests."""

WORDS = """## The columns

- **Ours**: mean ± standard deviation over seeds, with a link to the rows; the manifest with the
  command, the versions and the commit lies beside them.
- **IQM**: the mean of the middle half of the seeds, and its 95% bootstrap interval.
- **Published**: the value most like ours, not the highest. All others, with page, table and
  revision, stand in the benchmark's tables and in [published](published).
- **Wall time**: of all runs of a line together.
- **Source**: after its name stand the version of its environment or of its data, which the task
  names of ours, and its steps where they are not ours. D4RL's sets are not those that our runs
  learned from, even where the level is the same. What else is unlike follows in words:
"""

TAIL = """## What repeats, and what does not

- A seed's trajectory is the same, to the bit, whether it is trained alone or in company, as long as
  the engine is the same. `--engine auto` chooses by the number of environments (EnvPool from 8 up),
  which depends on the number of seeds: name the engine to compare such runs. Every manifest does.
- The two engines agree on observations, with `mujoco==3.6.0`, but EnvPool's rewards are float32 and
  it draws other initial states: two samples of the same distribution, not the same numbers.
- Other processors, PyTorch versions, or a compiled update instead of a plain one round differently;
  training amplifies that. Expect the same distribution over seeds, not the same seeds.
"""


# Pages whose numbers are no rows of seeds: folder of results -> (algorithm, what it shows)
PAGES = {
    "tabular": ("reload", "ReLOAD where the optimum is known exactly, and sampled with networks")
}


def papers(root: Path) -> str:
    """The registry: a table per family, with the benchmarks that have rows of each algorithm."""
    found, parts = generated.papers(root / "results"), []
    for family in dict.fromkeys(paper.family for paper in found):
        lines = []
        for paper in (paper for paper in found if paper.family == family):
            places = [f"[{name}](results/README.md{anchor(name)})" for name in paper.benchmarks]
            places += [
                f"[{name}](results/{name}/README.md)"
                for name, (whose, _) in PAGES.items()
                if whose == paper.name
            ]
            file = link(paper.name, root / paper.file, root)
            lines.append([file, markdown_text(paper.title), ", ".join(places) or NONE])
        parts.append(f"{family}\n\n{markdown(['File', 'Paper', 'Numbers'], lines)}")
    return "\n\n".join(parts)


def results_page(results: Path) -> str:
    """results/README.md: contents, every benchmark, every measurement of speed."""
    folders = sorted({file.parents[1] for file in results.glob("*/*/*.json")})
    speeds = sorted((results / "speed").glob("*.csv"))
    words = "\n".join(f"  - {line}" for line in generated.explained())
    names = [f"- [{folder.name}]({anchor(folder.name)})" for folder in folders]
    names += [f"- [{name}]({name}/README.md): {text}" for name, (_, text) in PAGES.items()]
    names += [f"- [Speed](#speed): {', '.join(file.stem for file in speeds)}"] if speeds else []
    parts = [HEAD, "\n".join(names), WORDS + words]
    parts += [benchmark(folder, results) for folder in folders]
    parts += ["## Speed", *(speed(file, results) for file in speeds)] if speeds else []
    return "\n\n".join([*parts, TAIL])


def benchmark(folder: Path, results: Path) -> str:
    """One benchmark: what is shown, a line per algorithm, a row per algorithm and task, notes."""
    manifest = generated.benchmark(folder, results / "published")
    pages = [
        link(word, folder / name, results)
        for word, name in SHOWN.items()
        if (folder / name).exists()
    ]
    lead = f"{manifest.quantity[0].upper()}{manifest.quantity[1:]}. {' · '.join(pages)}"
    header = ["Algorithm", "Seeds x steps", f"All {manifest.kind}s", "Wall time"]
    totals = [
        [link(one.algorithm, one.folder, results), one.trained, one.score, one.wall_time]
        for one in manifest.totals
    ]
    if all(one.score == NONE for one in manifest.totals):
        header, *totals = ([*line[:2], *line[3:]] for line in (header, *totals))
    columns = [
        manifest.kind.capitalize(),
        "Ours",
        "IQM [95%]",
        "Published",
        "Source, and what is unlike",
    ]
    lines = []
    for task in dict.fromkeys(row.task for row in manifest.rows):
        lines.append([f"**{markdown_text(task)}**", "", "", "", ""])
        lines += [cells(row, results) for row in manifest.rows if row.task == task]
    notes = "\n".join(f"- {markdown_text(note)}" for note in manifest.notes)
    tables = [markdown(header, totals), markdown(columns, lines)]
    parts = [f"## {markdown_text(folder.name)}", lead.rstrip(), *tables, notes]
    return "\n\n".join(part for part in parts if part)


def cells(row: generated.Row, results: Path) -> list[str]:
    """An algorithm's row under the name of its task."""
    numbers = [link(unbroken(row.mean), row.file, results), unbroken(row.iqm)]
    numbers.append(unbroken(row.published))
    return [markdown_text(row.algorithm), *numbers, markdown_text(row.source)]


def speed(file: Path, results: Path) -> str:
    """One measurement as it stands, with a link to its page."""
    with file.open(newline="", encoding="utf-8") as stream:
        header, *lines = csv.reader(stream)
    page = link("how it was measured", file.with_suffix(".md"), results)
    return f"### Speed of {file.stem}\n\n{page}\n\n{markdown(header, lines)}"


def unbroken(text: str) -> str:
    """`text` that stays on one line, however narrow its column."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def anchor(heading: str) -> str:
    """What a link to a heading ends with: GitHub leaves out its dots, for example."""
    return "#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def link(text: str, path: Path, root: Path) -> str:
    return f"[{text}]({quote(path.relative_to(root).as_posix())})"


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
    return f"{parts[0]}{start}\n{content}\n\n{end}{parts[2]}"


def pages(root: Path) -> dict[Path, str]:
    """Both pages of the checkout `root` as its registry and its results say they should be."""
    front = root / "README.md"
    text = filled(front.read_text(encoding="utf-8"), "papers", papers(root))
    return {front: text, root / "results" / "README.md": results_page(root / "results")}


def pictured(results: Path) -> list[Path]:
    return [results / name for name in PICTURED]


def main(argv: list[str] | None = None) -> None:
    """Write the pages and the picture of this checkout."""
    argparse.ArgumentParser(
        description="Write the table of papers, results/README.md and results/overview.png.",
    ).parse_args(argv)
    results = ROOT / "results"
    picture = overview.picture(pictured(results), results / "published")
    for file, text in pages(ROOT).items():
        file.write_text(text, encoding="utf-8")
    (results / "overview.png").write_bytes(picture)


if __name__ == "__main__":
    main()
