"""The data set of an offline run: its names, whose it is, and how good the data are."""

import pytest
from offline_samples import MEDIUM, data_facts

from rlsuite.evidence import dataset


def described(name, **facts):
    return dataset.of_manifest({"task": "Hopper-v4", "data": data_facts(name, **facts)})


@pytest.mark.parametrize(
    ("name", "source", "short", "origin", "version", "level"),
    [
        (MEDIUM, "rlsuite", "hopper-medium-v0", "deep-ope", "deep-ope-v0", "hopper-medium"),
        ("mine/set-v3", "me", "set-v3", "mine", "mine-v3", "set"),
        ("hopper_medium_replay-v2", None, "hopper-medium-replay-v2", "D4RL", "D4RL-v2", None),
        # Written by `rlsuite data convert`, which says who made the data: not D4RL's own file.
        ("hopper_medium-v2", "rlsuite", "hopper-medium-v2", "file", "file-v2", "hopper-medium"),
        ("hopper", None, "hopper", "file", "file", "hopper"),
        ("robot-v2", None, "robot-v2", "file", "file-v2", "robot"),
    ],
)
def test_names(name, source, short, origin, version, level):
    data = described(name, source=source)
    assert (data.short_name, data.origin, data.version) == (short, origin, version)
    assert data.level == (level or "hopper-medium-replay")


def test_a_small_file_does_not_pass_for_one_of_d4rl():
    small = described("hopper_medium-v2", source=None, transitions=300)
    assert (small.origin, small.version) == ("file", "file-v2")


def test_score_of_the_data():
    # (1607.0137 + 20.2723) / (3234.3 + 20.2723) = 1627.286 / 3254.572 = 0.5000
    assert described(MEDIUM).score() == pytest.approx(50, abs=1e-3)
    assert described(MEDIUM, mean_return=None).score() is None
    unknown = dataset.of_manifest({"task": "Mine-v1", "data": data_facts(MEDIUM)})
    assert unknown.score() is None


def test_runs_without_data_and_data_without_a_name():
    assert dataset.of_manifest({"task": "Hopper-v4"}) is None
    assert dataset.of_manifest({"task": "Hopper-v4", "data": None}) is None
    for bad in ({"sha256": "ab"}, "hopper"):
        with pytest.raises(ValueError, match="it needs 'name', the name of the data set"):
            dataset.of_manifest({"task": "Hopper-v4", "data": bad})


def test_notes_name_every_origin_once():
    sets = [described(MEDIUM), described("deep-ope/hopper/expert-v0"), described("other/a/b-v1")]
    first, second = dataset.notes(sets)
    assert first.startswith("Data: deep-ope-v0: rolled out anew from public policies; not D4RL's")
    assert "Evaluated in Hopper-v4." in first and second.startswith("Data: other-v1: ")
