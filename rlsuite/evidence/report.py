"""One self-contained HTML page of a benchmark or of runs: caveats, curves, tables, manifests.

The page holds everything inside itself (pictures and videos as base64, nothing fetched), follows
the reader's light or dark scheme, and prints. Its script sorts tables by a column that is clicked;
without it all can be read.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlsuite import algorithms
from rlsuite.evidence import aggregates, curves, heatmaps, page, published, rows, several
from rlsuite.evidence.published import Published
from rlsuite.evidence.rows import QUANTITIES, Result, named
from rlsuite.evidence.tables import benchmark as tables
from rlsuite.evidence.tables import tabular
from rlsuite.evidence.tables.runs import headline
from rlsuite.evidence.tables.summaries import duration_text, failings, task_words
from rlsuite.evidence.tables.tabular import NONE, Cell, Table
from rlsuite.runs.logs import EVALUATIONS
from rlsuite.runs.settings import preset

FEW_SEEDS = 5
NOT_RECORDED = "not recorded"
_FACTS = ("preset", "command", "commit", "config_hash", "engine", "versions", "hardware")
_FIGURES = {
    **{f"curves_{column}.png": words.capitalize() for column, words in QUANTITIES.items()},
    "aggregate.png": "Algorithms over all shared tasks",
}
VIDEOS = (".mp4", ".webm")  # what browsers show
LARGEST_VIDEO = 20 * 2**20  # bytes of one that the page holds


def write(source_dir: Path, out_file: Path, published_dir: Path) -> Path:
    """Write the page of a benchmark or run folder to `out_file`; returns it.

    Raises RowsError or PublishedError, before anything is written, for input that does not hold.
    """
    title = f"Benchmark {source_dir.resolve().name}"
    text = render(rows.read(source_dir), published.read(published_dir), title)
    return write_page(text, out_file)


def write_page(text: str, out_file: Path) -> Path:
    out_file.parent.mkdir(parents=True, exist_ok=True)
    out_file.write_text(text, encoding="utf-8")
    return out_file


def render(
    results: Sequence[Result],
    values: Sequence[Published],
    title: str,
    built: Sequence[Table] | None = None,
) -> str:
    """The whole page as HTML text, with the tables of a benchmark or those that are `built`.

    The title of a single result is its own.
    """
    if len(results) == 1:
        title = f"{results[0].algorithm} on {results[0].task}"
    built = tables.build(results, values) if built is None else built
    videos = _videos(results)
    of_settings = not _are_algorithms(results)
    shown = curves.figures(results, values, pairs=not of_settings)
    shown |= heatmaps.figures(results) if of_settings else {}
    links = ["curves", *["videos"] * bool(videos), "tables", "runs"]
    anchors = "".join(f'<a href="#{each}">{each.capitalize()}</a>' for each in links)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="lead">{html.escape(_lead(results))}</p>',
        f"<nav>{anchors}</nav>",
        _caveats(results),
        '<section id="curves">',
        *[_figure(name, data) for name, data in shown.items()],
        _seeds_of_each(results, values),
        "</section>",
        *(['<section id="videos"><h2>Videos</h2>', *videos, "</section>"] if videos else []),
        '<section id="tables">',
        tabular.html_tables([*built, *_differing(results)]),
        '</section>\n<section id="runs"><h2>Runs</h2>',
        *[_run(result, len(results) == 1) for result in results],
        "</section>",
    ]
    return page.whole(title, parts)


def _are_algorithms(results: Sequence[Result]) -> bool:
    """Whether these are algorithms, of which pairs are compared, and not settings of one."""
    return any(result.algorithm == named(result.manifest) for result in results)


def _seeds_of_each(results: Sequence[Result], values: Sequence[Published]) -> str:
    """Every seed, of one algorithm after the other: together they would hide one another.

    The curves of one alone show its seeds anyway.
    """
    names = list(dict.fromkeys(result.algorithm for result in results))
    if len(names) == 1:
        return ""
    blocks = []
    for name in names:
        ours = [result for result in results if result.algorithm == name]
        shown = curves.figures(ours, values, columns=[headline(ours)], pairs=False)
        blocks += [_picture(data, f"every seed of {name}") for data in shown.values()]
    return f"<details><summary>Every seed</summary>{''.join(blocks)}</details>"


def _videos(results: Sequence[Result]) -> list[str]:
    """The videos that lie in the run folders, or beside exported rows under their name."""
    found = {}
    for result in results:
        run = result.file.name == EVALUATIONS
        for file in sorted(result.file.parent.glob("*" if run else f"{result.file.stem}*")):
            if file.suffix in VIDEOS:
                found.setdefault(
                    file.resolve(), f"{result.algorithm} on {result.task}: {file.name}"
                )
    return [_video(file, html.escape(words)) for file, words in found.items()]


def _video(file: Path, words: str) -> str:
    if file.stat().st_size > LARGEST_VIDEO:
        most = LARGEST_VIDEO // 2**20
        return f"<p>{words} has more than {most} MiB and is not in this page.</p>"
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    source = f"data:video/{file.suffix[1:]};base64,{data}"
    return (
        f'<figure><video controls playsinline src="{source}"></video>'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _differing(results: Sequence[Result]) -> list[Table]:
    """Per algorithm a table of the settings in which its runs differ."""
    found = []
    for name in dict.fromkeys(named(result.manifest) for result in results):
        ours = [result for result in results if named(result.manifest) == name]
        fields = several.changing(ours)
        if not fields:
            continue
        known = [several.settings(result) for result in ours]
        lines = [
            [
                Cell(f"{result.algorithm} on {result.task}"),
                *(Cell(several.text(own[field]) if field in own else NONE) for field in fields),
            ]
            for result, own in zip(ours, known, strict=True)
        ]
        found.append(Table(f"{name}: settings that differ", ["Run", *fields], lines))
    return found


def caveats(results: Sequence[Result]) -> list[str]:
    """What a reader must know before believing the numbers, one sentence each."""
    found = failings(results)
    if len({result.algorithm for result in results}) > 1:
        tasks, left_out = aggregates.comparable(results, aggregates.headline(results))
        start = "Aggregates over tasks leave out" if tasks else "No aggregate: no task is shared"
        found += [f"{start}: {'; '.join(left_out)}."] if left_out else []
    few = [result for result in results if len(result.seeds) < FEW_SEEDS]
    if few:
        which = ", ".join(f"{r.algorithm} on {r.task} ({len(r.seeds)})" for r in few)
        which = which if len(few) < max(2, len(results)) else "all"
        found.append(
            f"Fewer than {FEW_SEEDS} seeds: {which}. Their intervals are too narrow or absent."
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
    own = _are_algorithms(results)
    names = list(dict.fromkeys(r.algorithm if own else named(r.manifest) for r in results))
    names += [] if own else [f"{len(results)} runs"]
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
    other = name.removeprefix("curves_").removesuffix(".png").replace("_", " ").capitalize()
    words = _FIGURES.get(name, other)
    return f"<h2>{html.escape(words)}</h2>\n{_picture(picture, words)}"


def _picture(picture: bytes, words: str) -> str:
    data = base64.b64encode(picture).decode("ascii")
    source = f"data:image/png;base64,{data}"
    return f'<figure><img alt="{html.escape(words)}" src="{source}"></figure>'


def _run(result: Result, alone: bool) -> str:
    """The manifest of one file of rows, folded unless it is the only one."""
    facts = {
        "file": f"{result.file.parent.name}/{result.file.name}",
        "seeds": _seeds(result.seeds),
        "steps per seed": f"{result.last_step:,} of {result.planned_steps:,}",
        "wall time": duration_text(result.wall_seconds),
        **{name.replace("_", " "): _recorded(result, name) for name in _FACTS},
        "unlike its preset": "; ".join(unlike_preset(result.manifest)) or "nothing that is known",
        **({"data": _fact(result.manifest["data"])} if result.data else {}),
    }
    lines = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items()
    )
    config = json.dumps(result.manifest.get("config", {}), indent=2, sort_keys=True)
    return (
        f"<details{' open' * alone}><summary>{html.escape(result.algorithm)} on "
        f"{html.escape(result.task)}</summary>\n<dl>{lines}</dl>\n"
        f"<pre>{html.escape(config)}</pre></details>"
    )


def unlike_preset(manifest: dict) -> list[str]:
    """The settings that are not those of the run's preset: "clip 0.1, not 0.2".

    Empty also where the preset or the algorithm is not known here.
    """
    given, name = manifest.get("config") or {}, manifest.get("preset")
    data = (manifest.get("data") or {}).get("name")
    try:
        module = algorithms.load(manifest["algorithm"])
        usual = asdict(module.Config(**preset(module, name or "", manifest["task"], data)))
    except (ValueError, TypeError):
        return []
    return [
        f"{field} {several.text(value)}, not {several.text(usual[field])}"
        for field, value in given.items()
        if field in usual and several.text(value) != several.text(usual[field])
    ]


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
