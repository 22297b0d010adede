"""The presets that the rows in results/ were made with still say what those runs were."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from rlsuite import algorithms
from rlsuite.runs.settings import preset

RESULTS = Path(__file__).parents[2] / "results"
MANIFESTS = [
    path for path in sorted(RESULTS.glob("*/*/*.json")) if "config_hash" in path.read_text()
]


def test_there_are_rows() -> None:
    assert len(MANIFESTS) > 60


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.relative_to(RESULTS).as_posix())
def test_a_preset_is_what_its_rows_were_made_with(path: Path) -> None:
    """Every setting that the command does not name itself; those added since have no old value."""
    about = json.loads(path.read_text())
    module, data = algorithms.load(about["algorithm"]), about.get("data") or {}
    named = {flag.replace("-", "_") for flag in re.findall(r"--(?:no-)?([\w-]+)", about["command"])}
    config = module.Config(**preset(module, about["preset"], about["task"], data.get("name")))
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    then = about["config"]
    shared = (now.keys() & then.keys()) - named
    if about["algorithm"] == "fixpo":  # its coefficient has counted half the squared error since
        shared -= {"value_coef"}
    assert {k: now[k] for k in shared} == {k: then[k] for k in shared}
