"""Which copy stays: equal to a choice in plain Python, in any order and in parts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.cleaning import choice
from penstock.pipeline.cleaning.choice import Choice
from penstock.pipeline.cleaning.components import EDGE, number_documents, unite
from penstock.pipeline.cleaning.survivors import (
    STAYS,
    Members,
    choose_survivors,
    count_bridged,
)

ROWS = st.lists(
    st.tuples(
        st.integers(-1, 5),
        st.booleans(),
        st.sampled_from([0.0, -0.0, 1.5, -2.0, math.nan, math.inf, -math.inf]),
        st.integers(0, 1),
        st.integers(2**63, 2**63 + 1),
    ),
    max_size=30,
)


def members_of(rows: list[Any], keys: np.ndarray | None = None) -> Members:
    columns = list(zip(*rows)) if rows else [()] * 5
    none = np.empty((len(rows), 0), np.uint64)
    return Members(
        components=np.array(columns[0], np.int64),
        kept=np.array(columns[1], bool),
        best=np.array(columns[2], np.float64),
        ties=np.array([columns[3], columns[4]], np.uint64).T,
        normal=none,
        keys=none if keys is None else keys,
    )


def chosen(rows: list[Any]) -> list[int]:
    """Return the row that stays in place of each row."""
    found = [STAYS] * len(rows)
    for component in {row[0] for row in rows} - {-1}:
        own = [number for number, row in enumerate(rows) if row[0] == component]
        kept = [number for number in own if rows[number][1]]
        if kept:

            def rank(number: int) -> Any:
                best = rows[number][2]
                return -(-math.inf if math.isnan(best) else best), *rows[number][3:], number

            stays = min(kept, key=rank)
            for number in own:
                found[number] = STAYS if number == stays else stays
    return found


@settings(max_examples=300)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_best_kept_document_stays(rows: list[Any], random: Any) -> None:
    expected = chosen(rows)
    documents = np.arange(len(rows)) * 10
    found = choose_survivors(members_of(rows), documents)
    assert found.dtype == np.int64
    assert found.tolist() == [-1 if row == STAYS else row * 10 for row in expected]
    order = list(range(len(rows)))
    random.shuffle(order)
    again = choose_survivors(members_of([rows[at] for at in order]), documents[order])
    assert again.tolist() == found[order].tolist()


@given(ROWS)
def test_every_component_with_a_kept_document_has_one_that_stays(rows: list[Any]) -> None:
    found = choose_survivors(members_of(rows), np.arange(len(rows)))
    for component in range(6):
        kept = [at for at, row in enumerate(rows) if row[0] == component and row[1]]
        staying = [at for at in kept if found[at] == STAYS]
        assert len(staying) == (len(kept) > 0)
        assert {int(found[at]) for at in kept if at not in staying} <= set(staying)


def bridged(rows: list[Any], keys: list[list[int]]) -> tuple[int, int]:
    """Count by a search among kept documents."""
    components = documents = 0
    for component in {row[0] for row in rows} - {-1}:
        own = [at for at, row in enumerate(rows) if row[0] == component]
        left = [at for at in own if rows[at][1]]
        if len(left) == len(own):
            continue
        parts = 0
        while left:
            parts += 1
            waiting = [left.pop()]
            while waiting:
                one = waiting.pop()
                near = [at for at in left if any(a == b and a for a, b in zip(keys[one], keys[at]))]
                left = [at for at in left if at not in near]
                waiting += near
        components += parts > 1
        documents += max(parts - 1, 0)
    return components, documents


@settings(max_examples=300)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 3), min_size=2, max_size=2))))
def test_bridges_are_those_of_a_search(pairs: list[tuple[bool, list[int]]]) -> None:
    """Components are made of keys, as the engine makes them; columns have different keys."""
    keys = [[key and key + 10 * column for column, key in enumerate(own)] for _, own in pairs]
    edges = [
        (one, other)
        for one in range(len(keys))
        for other in range(one)
        if any(a == b and a for a, b in zip(keys[one], keys[other]))
    ]
    stars = dict(unite(np.array(edges, EDGE)).tolist())
    stars |= {first: first for first in stars.values()}
    rows = [(stars.get(at, -1), kept, 0.0, 0, 0) for at, (kept, _) in enumerate(pairs)]
    found = count_bridged(members_of(rows, np.array(keys, np.uint64).reshape(-1, 2)))
    assert (found.components, found.documents) == bridged(rows, keys)


def test_a_bridge_by_hand() -> None:
    """Rows 0 and 2 are alike only through row 1, which a rule excludes; 3 is like 2 itself."""
    keys = np.array([[1, 0], [1, 2], [0, 2], [0, 2]], np.uint64)
    rows = [(0, True, 0.0, 0, 0), (0, False, 9.0, 0, 0), (0, True, 1.0, 0, 0), (0, True, 0, 0, 0)]
    members = members_of(rows, keys)
    assert choose_survivors(members, np.arange(4)).tolist() == [2, 2, STAYS, 2]
    found = count_bridged(members)
    assert (found.components, found.documents) == (1, 1)


def drawn(source: int, count: int) -> tuple[np.ndarray, Members]:
    """Draw documents of a source: their rows, and what the choice depends on."""
    rng = np.random.default_rng(source)
    rows = np.flatnonzero(rng.random(count) < 0.7)
    return rows, Members(
        components=rng.integers(0, 60, len(rows)),
        kept=rng.random(len(rows)) < 0.6,
        best=rng.integers(0, 3, len(rows)).astype(np.float64),
        ties=rng.integers(0, 2, (len(rows), 2)).astype(np.uint64),
        normal=rng.integers(0, 2, (len(rows), 2)).astype(np.uint64),
        keys=rng.integers(0, 30, (len(rows), 3)).astype(np.uint64),
    )


@pytest.mark.parametrize("range_bytes", [5_000, choice.RANGE_BYTES])
def test_the_same_through_a_shuffle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range_bytes: int
) -> None:
    sources = [drawn(source, count) for source, count in enumerate((80, 0, 100, 120))]
    members = Members.joined([own for _, own in sources])
    documents = np.concatenate([number_documents(at, rows) for at, (rows, _) in enumerate(sources)])
    expected = choose_survivors(members, documents)
    bridges = count_bridged(members)
    assert 0 < bridges.components < bridges.documents
    monkeypatch.setattr(choice, "RANGE_BYTES", range_bytes)
    made = Choice.of(tmp_path, len(sources), len(documents), keys=3)
    assert made.ranges == (1 if range_bytes > 5_000 else 4)
    for source, (rows, own) in reversed(list(enumerate(sources))):
        made.send(source, rows, own)
    assert Choice.bridged([made.choose(number) for number in range(made.ranges)]) == bridges
    normal = dict(zip(documents.tolist(), members.normal.tolist()))
    found = {}
    for source, (rows, own) in enumerate(sources):
        asked = own.kept
        repeats = made.repeats(source, rows[asked], own.components[asked], own.normal[asked])
        stays = number_documents(0, repeats.of_row) + (repeats.of_source.astype(np.int64) << 32)
        for row, other, equal in zip(repeats.rows, stays.tolist(), repeats.equal):
            number = (source << 32) + int(row)
            found[number] = other
            assert equal == (normal[number] == normal[other])
    wanted = zip(documents.tolist(), expected.tolist(), members.kept)
    assert found == {number: other for number, other, kept in wanted if kept and other != STAYS}


def test_a_million_equal_documents_are_one_row(tmp_path: Path) -> None:
    count = 1_000_000
    members = Members(
        components=np.zeros(count, np.int64),
        kept=np.arange(count) % 3 > 0,
        best=np.ones(count),
        ties=np.arange(count, 0, -1, dtype=np.uint64).repeat(2).reshape(-1, 2),
        normal=np.zeros((count, 2), np.uint64),
        keys=np.ones((count, 9), np.uint64),
    )
    made = Choice.of(tmp_path, 1, count, keys=9)
    assert made.send(0, np.arange(count), members).facts["rows"] <= 3
    for number in range(made.ranges):
        made.choose(number)
    kept = np.flatnonzero(members.kept)
    repeats = made.repeats(0, kept, members.components[kept], members.normal[kept])
    assert len(repeats.rows) == len(kept) - 1
    assert set(repeats.of_row.tolist()) == {kept[-1]}
    assert repeats.equal.all()
