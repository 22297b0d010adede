"""Streams: reproducible, one per seed and purpose, and none moved by another."""

import numpy as np
import pytest

from rlsuite.core import streams
from rlsuite.core.streams import PURPOSES, Streams


def draws(generator: np.random.Generator) -> list[float]:
    return generator.standard_normal(5).tolist()


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_seed_draws_the_same_alone_and_in_company(purpose):
    alone, company = Streams([7])[purpose], Streams([3, 7, 11])[purpose]
    expected = draws(alone[0])
    assert [draws(generator) for generator in company].index(expected) == 1


def test_a_purpose_is_not_moved_by_what_the_others_consume():
    quiet, busy = Streams([0, 1]), Streams([0, 1])
    for purpose in PURPOSES[1:]:
        busy[purpose][0].standard_normal(1000)
    assert [draws(g) for g in busy["init"]] == [draws(g) for g in quiet["init"]]
    # Nor is seed 1 by what seed 0 consumed of the same purpose
    assert draws(busy["action"][1]) == draws(quiet["action"][1])
    assert draws(busy["action"][0]) != draws(quiet["action"][0])


def test_every_seed_and_purpose_has_its_own_numbers():
    some = Streams([0, 1, 2, 2**31, 2**32 + 1])
    first = [g.standard_normal() for purpose in PURPOSES for g in some[purpose]]
    assert len(set(first)) == 5 * len(PURPOSES)


def test_a_new_purpose_leaves_the_others_as_they_were(monkeypatch):
    before = {purpose: draws(Streams([4])[purpose][0]) for purpose in PURPOSES}
    monkeypatch.setattr(streams, "PURPOSES", ("replay", *PURPOSES))
    after = Streams([4])
    assert {purpose: draws(after[purpose][0]) for purpose in PURPOSES} == before


def test_environment_seeds_are_valid_and_per_slot():
    got = Streams([5, 6]).integers("environment", 400)
    assert (got.shape, got.dtype) == ((2, 400), np.int64)
    # Uniform on 0 .. 2^31 - 2: of 800 draws, some in the top tenth and some in the lowest
    assert 0 <= got.min() < 0.1 * 2**31 < 0.9 * 2**31 < got.max() < 2**31
    alone = Streams([6])
    np.testing.assert_array_equal(alone.integers("environment", 400), got[1:])
    assert not np.array_equal(alone.integers("environment", 400), got[1:])  # the stream went on


def test_a_restored_state_goes_on_where_it_was_taken():
    one = Streams([0, 9])
    one.integers("evaluation", 3)
    state = one.state_dict()
    expected = {purpose: [draws(g) for g in one[purpose]] for purpose in PURPOSES}
    other = Streams([0, 9])
    other.load_state_dict(state)
    assert {purpose: [draws(g) for g in other[purpose]] for purpose in PURPOSES} == expected


def test_the_state_of_another_number_of_seeds_is_refused():
    with pytest.raises(ValueError, match="zip"):
        Streams([0, 1]).load_state_dict(Streams([0]).state_dict())
