"""The report: one file, nothing outside it, nothing unescaped, and the caveats."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from evidence_samples import finals, published_line, write_benchmark, write_published, write_run

from rlsuite.evidence import report, rows

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects tags and attributes, and checks that every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.urls = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.urls += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def published_dir(tmp_path):
    return write_published(tmp_path / "published", published_line("A<b>le", citation="x & y"))


@pytest.fixture
def bench(tmp_path):
    runs = {(name, "Hopper-v4"): finals(1, 5, 2000.0) for name in ("ppo", "trpo")}
    return write_benchmark(tmp_path / "bench", runs)


def test_page_is_whole_and_self_contained(bench, published_dir, tmp_path):
    out = report.write(bench, tmp_path / "deep" / "report.html", published_dir)
    page = Page(out.read_text())
    assert page.seen.count("h1") == 1 and page.seen.count("details") == 3
    assert page.seen.count("script") == 1 and not {"link", "iframe"} & set(page.seen)
    pictures = [url for url in page.urls if not url.startswith("#")]
    # Training return, evaluation return, aggregate; the seeds of each of the two algorithms
    assert len(pictures) == 3 + 2
    for url in pictures:
        kind, data = url.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    assert not re.search(r"url\(|@import", out.read_text())
    assert "prefers-color-scheme: dark" in out.read_text()


def test_everything_is_escaped(bench, published_dir, tmp_path):
    manifest = bench / "ppo" / "Hopper-v4.json"
    facts = json.loads(manifest.read_text())
    facts["command"] = "rlsuite train <script>alert(1)</script>"
    facts["config"] = {"note": "</pre><script>"}
    manifest.write_text(json.dumps(facts))
    text = report.write(bench, tmp_path / "report.html", published_dir).read_text()
    assert text.count("<script") == 1 and "<script>\nconst units" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "A&lt;b&gt;le" in text and "x &amp; y" in text


def test_run_folder(published_dir, tmp_path):
    run = write_run(tmp_path / "run", finals(2, 5, 2000.0))
    text = report.write(run, tmp_path / "report.html", published_dir).read_text()
    assert "<h1>ppo on Hopper-v4</h1>" in text
    for fact in ("rlsuite train ppo --env Hopper-v4", "c0ffee", "torch 2.13.0", "memory_gib 24"):
        assert fact in text
    assert "5 trained agents, 4,997,120 environment steps" in text  # 5 * 999424


def test_manifest_gaps_are_named(published_dir, tmp_path):
    run = write_run(tmp_path / "run", [1.0, 2.0])
    (run / "config.json").write_text(json.dumps({"algorithm": "ppo", "task": "Hopper-v4"}))
    text = report.write(run, tmp_path / "report.html", published_dir).read_text()
    assert f"<dt>commit</dt><dd>{report.NOT_RECORDED}</dd>" in text


def test_caveats(tmp_path):
    runs = {("ppo", "Hopper-v4"): [1.0, 2.0], ("trpo", "Hopper-v4"): finals(1, 5, 2.0)}
    folder = write_benchmark(tmp_path / "b", runs, planned=2_000_000)
    for name, change in (("ppo", {"commit": "ab-dirty"}), ("trpo", {"versions": {"torch": "1"}})):
        manifest = folder / name / "Hopper-v4.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    found = "\n".join(report.caveats(rows.read(folder)))
    assert "UNFINISHED: ppo on Hopper-v4 stands at step 999,424 of 2,000,000" in found
    assert "Fewer than 5 seeds: ppo on Hopper-v4 (2)." in found
    assert "2 different commits" in found and "ab-dirty" in found
    assert "differ in versions" in found and "differ in hardware" not in found


def test_caveats_name_what_aggregates_leave_out(tmp_path):
    runs = {("ppo", "A-v1"): finals(1, 5, 2.0), ("trpo", "B-v1"): finals(1, 5, 2.0)}
    folder = write_benchmark(tmp_path, runs)
    found = report.caveats(rows.read(folder))
    assert found[0] == "No aggregate: no task is shared: A-v1 (trpo lacking); B-v1 (ppo lacking)."
    write_benchmark(folder, {("trpo", "A-v1"): finals(1, 5, 2.0)})
    found = report.caveats(rows.read(folder))
    assert found[0] == "Aggregates over tasks leave out: B-v1 (ppo lacking)."


def test_no_alarm_where_there_is_no_cause(bench):
    assert len(report.caveats(rows.read(bench))) == 2  # the two that hold for every report


def test_videos_of_a_run_are_in_its_page_unless_they_are_too_long(
    published_dir, tmp_path, monkeypatch
):
    run = write_run(tmp_path / "run", finals(2, 5, 2000.0))
    (run / "walk.mp4").write_bytes(b"a film")
    (run / "notes.avi").write_bytes(b"no browser shows it")
    (run / "long.webm").write_bytes(b"longer than allowed here")
    monkeypatch.setattr(report, "LARGEST_VIDEO", 10)
    text = report.write(run, tmp_path / "report.html", published_dir).read_text()
    page = Page(text)
    assert page.seen.count("video") == 1
    assert f"data:video/mp4;base64,{base64.b64encode(b'a film').decode()}" in page.urls
    assert "long.webm has more than 0 MiB and is not in this page" in text
    assert "notes.avi" not in text


def test_settings_that_differ_between_runs_and_from_the_preset_are_shown(published_dir, tmp_path):
    folder = write_benchmark(
        tmp_path / "bench", {("ppo", "Hopper-v4"): [1.0, 2.0], ("ppo", "Ant-v4"): [3.0, 4.0]}
    )
    for task, clip in (("Hopper-v4", 0.2), ("Ant-v4", 0.1)):
        manifest = folder / "ppo" / f"{task}.json"
        facts = json.loads(manifest.read_text()) | {"config": {"clip": clip, "gae_lambda": 0.95}}
        manifest.write_text(json.dumps(facts))
    text = report.write(folder, tmp_path / "report.html", published_dir).read_text()
    table = text.partition("<h2>ppo: settings that differ</h2>")[2].partition("</table>")[0]
    assert re.findall(r"<th[^>]*>([^<]*)</th>", table)[:2] == ["Run", "clip"]
    assert '<th scope="row">ppo on Ant-v4</th><td>0.1</td>' in table
    assert "<dt>unlike its preset</dt><dd>clip 0.1, not 0.2</dd>" in text
    assert "<dt>unlike its preset</dt><dd>nothing that is known</dd>" in text
