"""Counts that do not add up are refused, with what was counted."""

from __future__ import annotations

from collections import Counter

import pytest

from penstock.artefact import FileRecord
from penstock.errors import ArtefactError
from penstock.pipeline.checking import RecordTally, check_sum, largest_sources, sum_by_source


def test_sums_that_hold_pass() -> None:
    check_sum("x", ("documents", 0), {})
    check_sum("x", ("documents", 5), {"scored": 3, "excluded": 2})
    RecordTally(read=6, kept=3, quarantined=1, dropped_by=Counter(empty=2)).check("x")


def test_sums_that_are_off_are_refused_with_every_part() -> None:
    with pytest.raises(ArtefactError) as caught:
        check_sum("unit-0", ("documents", 5), {"scored": 3, "excluded": 1})
    error = caught.value
    assert (error.file, error.expected) == ("unit-0", "5 documents")
    assert error.got == "3 scored + 1 excluded = 4"
    with pytest.raises(ArtefactError) as caught:
        check_sum("x", ("documents", 1), {})
    assert (caught.value.expected, caught.value.got) == ("1 documents", "0 = 0")


def test_counts_of_sources_are_added_up() -> None:
    def record(**sources: dict[str, int]) -> FileRecord:
        return FileRecord(path="x", bytes=0, sha256="", facts={"sources": sources})

    web = {"documents": 2, "bytes": 7}
    records = [record(wiki={"documents": 1, "bytes": 3}, web=web), record(web=web)]
    before = {"code": {"documents": 1, "bytes": 1}, "web": web}
    assert list(sum_by_source(records).items()) == [
        ("web", {"documents": 4, "bytes": 14}),
        ("wiki", {"documents": 1, "bytes": 3}),
    ]
    assert sum_by_source(records, before)["web"] == {"documents": 6, "bytes": 21}
    assert sum_by_source([], before) == before


def test_the_largest_sources_are_listed_and_the_others_summed() -> None:
    counts = {f"s{n:03d}": {"documents": 1, "bytes": n % 7 * 1000 + n} for n in range(300)}
    found = largest_sources(counts, "bytes", 10)
    wanted = sorted(counts, key=lambda own: counts[own]["bytes"])[-10:]
    assert list(found) == [*sorted(wanted), "290 other sources"]
    for key in ("documents", "bytes"):
        assert sum(own[key] for own in found.values()) == sum(own[key] for own in counts.values())
    assert len(largest_sources(counts, "bytes")) == 101
    assert largest_sources(counts, "bytes", 300) == counts


@pytest.mark.parametrize("off", ["read", "kept", "quarantined"])
@pytest.mark.parametrize("by", [1, -1])
def test_a_tally_checks_every_count(off: str, by: int) -> None:
    tally = RecordTally(read=6, kept=3, quarantined=1, dropped_by=Counter(empty=2))
    setattr(tally, off, getattr(tally, off) + by)
    with pytest.raises(ArtefactError) as caught:
        tally.check("part 3")
    assert caught.value.file == "part 3"
    assert "2 dropped (empty)" in str(caught.value.got)


def test_tallies_add_up_and_travel_as_facts() -> None:
    one = RecordTally(read=6, kept=3, quarantined=1, dropped_by=Counter(empty=2))
    one.add(RecordTally(read=2, dropped_by=Counter(empty=1, duplicate=1)))
    assert one.facts() == {
        "read": 8,
        "kept": 3,
        "dropped": 4,
        "dropped_by": {"duplicate": 1, "empty": 3},
        "quarantined": 1,
    }
    assert RecordTally.of(one.facts()) == one
