"""Counts that do not add up are refused, with what was counted."""

from __future__ import annotations

from collections import Counter

import pytest

from penstock.errors import ArtefactError
from penstock.pipeline.accounting import Tally, check_sum


def test_sums_that_hold_pass() -> None:
    check_sum("x", ("documents", 0), {})
    check_sum("x", ("documents", 5), {"scored": 3, "excluded": 2})
    Tally(read=6, kept=3, quarantined=1, dropped_by=Counter(empty=2)).check("x")


def test_sums_that_are_off_are_refused_with_every_part() -> None:
    with pytest.raises(
        ArtefactError, match=r"unit-0: 5 documents, but 3 scored \+ 1 excluded = 4: .*nothing was"
    ):
        check_sum("unit-0", ("documents", 5), {"scored": 3, "excluded": 1})
    with pytest.raises(ArtefactError, match=r"1 documents, but 0 = 0"):
        check_sum("x", ("documents", 1), {})


@pytest.mark.parametrize("off", ["read", "kept", "quarantined"])
@pytest.mark.parametrize("by", [1, -1])
def test_a_tally_checks_every_count(off: str, by: int) -> None:
    tally = Tally(read=6, kept=3, quarantined=1, dropped_by=Counter(empty=2))
    setattr(tally, off, getattr(tally, off) + by)
    with pytest.raises(ArtefactError, match=r"part 3: .* 2 dropped \(empty\)"):
        tally.check("part 3")


def test_tallies_add_up_and_travel_as_facts() -> None:
    one = Tally(read=6, kept=3, quarantined=1, dropped_by=Counter(empty=2))
    one.add(Tally(read=2, dropped_by=Counter(empty=1, duplicate=1)))
    assert one.facts() == {
        "read": 8,
        "kept": 3,
        "dropped": 4,
        "dropped_by": {"duplicate": 1, "empty": 3},
        "quarantined": 1,
    }
    assert Tally.of(one.facts()) == one
