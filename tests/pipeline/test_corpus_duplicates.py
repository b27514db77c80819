"""Exact duplicates: of equal documents one stays, whatever the listing."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from penstock.pipeline.cleaning import verdicts
from penstock.pipeline.cleaning.fates import Failed, failed_rules
from penstock.pipeline.units import (
    UNIT_BYTES,
)
from penstock.text_hashes import normalise
from tests.pipeline.corpora import (
    Counting,
    check_accounting,
    documents,
    dropped,
    jsonl,
    make,
    write_pool,
)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path)


def test_normalised_texts_are_compared() -> None:
    assert normalise(" The\tQuick\r\n\u00a0FOX ") == "the quick fox"
    assert normalise("thequick") != normalise("the quick")


def test_exactly_one_of_equal_documents_stays_the_same_for_any_listing(tmp_path: Path) -> None:
    for number in range(4):
        jsonl(
            tmp_path / f"{number}.jsonl",
            [{"id": f"d{number}", "text": "Same  text"}, {"text": f"own {number}"}],
        )
    order = [f"{number}.jsonl" for number in range(4)]
    kept = set()
    for turn in range(4):
        made = make(tmp_path, *order[turn:], *order[:turn], work=f"work-{turn}")
        (same,) = [row["id"] for row in documents(made) if normalise(row["text"]) == "same text"]
        kept.add(same)
        assert {row["id"] for row in dropped(made)} == {"d0", "d1", "d2", "d3"} - {same}
        assert {row["rule"] for row in dropped(made)} == {"duplicate"}
    assert len(kept) == 1


def test_duplicates_stay_where_they_are_wanted(pool: Path) -> None:
    made = make(pool, dedup={"exact": False})
    assert check_accounting(made)["dropped_by"] == {"empty": 1}


def test_many_ranges_and_groups_find_the_same_duplicates_as_one(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(pool, unit_bytes=500)
    monkeypatch.setattr(verdicts, "_RANGE_DOCUMENTS", 10)
    monkeypatch.setattr(verdicts, "_GROUP_DOCUMENTS", 30)
    runner = Counting()
    many = make(pool, unit_bytes=500, runner=runner, work="other")
    assert len([name for name, _ in runner.done if name == "_find_repeats"]) == 16
    assert len([name for name, _ in runner.done if name == "_settle"]) > 3
    assert dropped(many) == dropped(one)
    assert documents(many) == documents(one)


@pytest.mark.parametrize("unit_bytes", [150, UNIT_BYTES])
def test_a_duplicate_names_the_document_that_it_repeats(
    tmp_path: Path, unit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "_RANGE_DOCUMENTS", 5)
    chance = random.Random(4)
    for number in range(3):
        rows = [
            {"id": f"{number}-{k}", "text": f"text {chance.randrange(15)}  "} for k in range(20)
        ]
        rows[3:3] = [b"bad"]
        rows[9:9] = [{"id": f"e{number}", "text": " "}]
        jsonl(tmp_path / "pool" / f"{number}.jsonl", rows)
    made = make(tmp_path, unit_bytes=unit_bytes)
    first: dict[str, str] = {}
    order = [row for unit in made.units for row in pq.read_table(unit.path()).to_pylist()]
    for row in order:
        first.setdefault(normalise(row["text"]), row["id"])
    gone = dropped(made)
    assert len(gone) == 63 - 15
    for row in gone:
        if row["rule"] == "duplicate":
            assert row["repeats"] == first[normalise(row["text"])]
            assert row["repeats"] != row["id"]
        else:
            assert (row["rule"], row["repeats"]) == ("empty", None)


def test_a_copy_never_loses_to_one_that_is_excluded_itself(tmp_path: Path) -> None:
    """Equal when normalised; stop words are counted with their case."""
    text = "the quick brown fox and the lazy dog have to be with that " * 5
    rows = [
        {"id": "loud", "text": text.upper()},
        {"id": "plain", "text": text},
        {"id": "wide", "text": text.replace(" ", "  ")},
    ]
    jsonl(tmp_path / "pool" / "x.jsonl", rows)
    made = make(tmp_path, rules=["gopher_quality"])
    assert [row["id"] for row in documents(made)] == ["plain"]
    assert check_accounting(made)["dropped_by"] == {
        "duplicate": 1,
        "gopher_quality: min_stop_words": 1,
    }
    assert [(row["id"], row["repeats"]) for row in dropped(made)] == [
        ("loud", None),
        ("wide", "plain"),
    ]
    (unit,) = made.units
    assert failed_rules(made, unit, 0).rules == ("gopher_quality: min_stop_words",)
    assert failed_rules(made, unit, 2) == Failed("duplicate", ())
