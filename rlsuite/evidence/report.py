"""One self-contained HTML page of a benchmark or a run: caveats, curves, tables, manifests.

The page holds everything inside itself (pictures as base64, no script, nothing fetched), follows
the reader's light or dark scheme, and prints.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

from rlsuite.evidence import aggregates, curves, published, rows
from rlsuite.evidence.rows import QUANTITIES, Result
from rlsuite.evidence.tables import benchmark as tables
from rlsuite.evidence.tables import tabular
from rlsuite.evidence.tables.summaries import duration_text, failings, task_words

FEW_SEEDS = 5
NOT_RECORDED = "not recorded"
_FACTS = ("preset", "command", "commit", "config_hash", "engine", "versions", "hardware")
_FIGURES = {
    **{f"curves_{column}.png": words.capitalize() for column, words in QUANTITIES.items()},
    "aggregate.png": "Algorithms over all shared tasks",
}
_STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #1c1d1f; --soft: #5c6066;
  --line: #d9dbde; --card: #ffffff; --warn: #fff4d6; --link: #0b62a8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181b; --ink: #e7e8ea; --soft: #a5abb3; --line: #383c42;
    --card: #1f2226; --warn: #3a2f12; --link: #7db8ee; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.lead { color: var(--soft); margin: 0 0 1rem; }
nav a { color: var(--link); margin-right: 1.1rem; }
section.caveats { background: var(--warn); border-radius: 8px; padding: .3rem 1.2rem .8rem;
  margin: 1.5rem 0; }
section.caveats h2 { margin-top: .7rem; }
figure { margin: 0 0 1.5rem; padding: .75rem; background: #ffffff; border: 1px solid var(--line);
  border-radius: 8px; overflow-x: auto; }
figure img { display: block; margin: 0 auto; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .84rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .6rem; text-align: right; white-space: nowrap; }
th[scope=row], th:first-child { text-align: left; position: sticky; left: 0;
  background: var(--card); font-weight: 600; }
thead th { border-bottom: 2px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
sup { color: var(--soft); padding-left: .2em; line-height: 0; }
ul.notes { color: var(--soft); font-size: .85rem; padding-left: 1.2rem; }
details { border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  padding: .5rem .9rem; margin: .5rem 0; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; font-size: .875rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: .8rem; }
@media print { details, figure { break-inside: avoid; } nav { display: none; } }
"""


def write(source_dir: Path, out_file: Path, published_dir: Path) -> Path:
    """Write the page of a benchmark or run folder to `out_file`; returns it.

    Raises RowsError or PublishedError, before anything is written, for input that does not hold.
    """
    page = render(rows.read(source_dir), published.read(published_dir), source_dir.resolve().name)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    out_file.write_text(page, encoding="utf-8")
    return out_file


def render(
    results: Sequence[Result], values: Sequence[published.Published], folder_name: str
) -> str:
    """The whole page as HTML text."""
    if len(results) == 1:
        title = f"{results[0].algorithm} on {results[0].task}"
    else:
        title = f"Benchmark {folder_name}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="lead">{html.escape(_lead(results))}</p>',
        '<nav><a href="#curves">Curves</a><a href="#tables">Tables</a>'
        '<a href="#runs">Runs</a></nav>',
        _caveats(results),
        '<section id="curves">',
        *[_figure(name, data) for name, data in curves.figures(results, values).items()],
        '</section>\n<section id="tables">',
        tabular.html_tables(tables.build(results, values)),
        '</section>\n<section id="runs"><h2>Runs</h2>',
        *[_run(result) for result in results],
        "</section>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def caveats(results: Sequence[Result]) -> list[str]:
    """What a reader must know before believing the numbers, one sentence each."""
    found = failings(results)
    if len({result.algorithm for result in results}) > 1:
        tasks, left_out = aggregates.comparable(results, aggregates.headline(results))
        start = "Aggregates over tasks leave out" if tasks else "No aggregate: no task is shared"
        found += [f"{start}: {'; '.join(left_out)}."] if left_out else []
    few = [result for result in results if len(result.seeds) < FEW_SEEDS]
    if few:
        named = ", ".join(f"{r.algorithm} on {r.task} ({len(r.seeds)})" for r in few)
        found.append(
            f"Fewer than {FEW_SEEDS} seeds: {named}. Their intervals are too narrow or absent."
        )
    runs = [run for result in results for run in result.runs]
    commits = {str(run.get("commit") or NOT_RECORDED) for run in runs}
    if len(commits) > 1:
        found.append(f"The runs come from {len(commits)} different commits (see Runs).")
    for commit in sorted(commits):
        if commit.endswith("-dirty"):
            found.append(f"Commit {commit}: the source had been edited, so it cannot be looked up.")
    for fact in ("versions", "hardware"):
        kinds = {json.dumps(run.get(fact), sort_keys=True) for run in runs}
        if len(kinds) > 1:
            found.append(f"The runs differ in {fact} (see Runs).")
    origins = dict.fromkeys(r.data.version for r in results if r.data)
    if origins:
        found.append(
            f"Offline: {', '.join(origins)} is what was learned from. A published value is of the "
            "data that its row names: where these differ, a gap is not due to the algorithm "
            "alone. Best evaluations are optimistic and stand apart."
        )
    found.append(
        "A published value with marks is not like ours: the notes below its table say how it "
        "differs in environment version, steps, metric or spread, or how well it was checked."
    )
    found.append(
        "Intervals tell how far the result would move with other seeds of the same code; they say "
        "nothing about other tasks, versions or hyper-parameters."
    )
    return found


def _lead(results: Sequence[Result]) -> str:
    names = list(dict.fromkeys(result.algorithm for result in results))
    tasks = {result.task for result in results}
    trained = sum(len(result.seeds) for result in results)
    counted = {}
    for result in results:
        taken = len(result.seeds) * result.last_step
        counted[result.step_unit] = counted.get(result.step_unit, 0) + taken
    steps = ", ".join(f"{count:,} {unit}" for unit, count in counted.items())
    hours = sum(result.wall_seconds for result in results)
    return (
        f"{', '.join(names)}; {task_words(results, len(tasks))}; {trained} trained "
        f"agent{'s' * (trained > 1)}, {steps}, wall time {duration_text(hours)}."
    )


def _caveats(results: Sequence[Result]) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in caveats(results))
    return f'<section class="caveats"><h2>Before reading on</h2><ul>{items}</ul></section>'


def _figure(name: str, picture: bytes) -> str:
    data = base64.b64encode(picture).decode("ascii")
    other = name.removeprefix("curves_").removesuffix(".png").replace("_", " ").capitalize()
    words = html.escape(_FIGURES.get(name, other))
    return (
        f'<h2>{words}</h2>\n<figure><img alt="{words}" src="data:image/png;base64,{data}"></figure>'
    )


def _run(result: Result) -> str:
    """The manifest of one file of rows, folded."""
    facts = {
        "file": f"{result.file.parent.name}/{result.file.name}",
        "seeds": _seeds(result.seeds),
        "steps per seed": f"{result.last_step:,} of {result.planned_steps:,}",
        "wall time": duration_text(result.wall_seconds),
        **{name.replace("_", " "): _recorded(result, name) for name in _FACTS},
        **({"data": _fact(result.manifest["data"])} if result.data else {}),
    }
    lines = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items()
    )
    config = json.dumps(result.manifest.get("config", {}), indent=2, sort_keys=True)
    return (
        f"<details><summary>{html.escape(result.algorithm)} on {html.escape(result.task)}"
        f"</summary>\n<dl>{lines}</dl>\n<pre>{html.escape(config)}</pre></details>"
    )


def _recorded(result: Result, name: str) -> str:
    """What a manifest says of `name`; where its runs differ in that, what each says."""
    if name in result.manifest or len(result.runs) < 2:
        return _fact(result.manifest.get(name))
    facts = [(_seeds(run["seeds"]), _fact(run.get(name))) for run in result.runs]
    return "; ".join(f"seeds {seeds}: {text}" for seeds, text in facts)


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _fact(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {text}" for name, text in value.items())
    return str(value) if value not in (None, "") else NOT_RECORDED
