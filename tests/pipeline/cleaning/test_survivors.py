"""Which copy stays: equal to a choice in plain Python, in any order and in parts."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.artefact import Draft
from penstock.pipeline.cleaning import survivor_passes
from penstock.pipeline.cleaning.components import EDGE, number_documents, unite
from penstock.pipeline.cleaning.survivor_passes import fill_survivors, read_survivors
from penstock.pipeline.cleaning.survivors import (
    STAYS,
    Members,
    choose_survivors,
    count_bridged,
)
from penstock.pipeline.runner import LocalRunner

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
    return Members(
        components=np.array(columns[0], np.int64),
        kept=np.array(columns[1], bool),
        best=np.array(columns[2], np.float64),
        ties=np.array([columns[3], columns[4]], np.uint64).T,
        keys=keys,
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


@dataclass(frozen=True)
class Source:
    """A unit whose rows are numbers drawn from its own seed."""

    unit: int
    documents: int
    components: int

    @property
    def name(self) -> str:
        return f"unit-{self.unit:05d}"

    def read(self) -> Members:
        rng = np.random.default_rng(self.unit)
        components = rng.integers(0, self.components, self.documents)
        components[rng.random(self.documents) < 0.3] = -1
        return Members(
            components=components,
            kept=rng.random(self.documents) < 0.6,
            best=rng.integers(0, 3, self.documents).astype(np.float64),
            ties=rng.integers(0, 2, (self.documents, 2)).astype(np.uint64),
            keys=rng.integers(0, 30, (self.documents, 3)).astype(np.uint64),
        )


def joined(sources: list[Source]) -> tuple[Members, np.ndarray]:
    parts = [source.read() for source in sources]
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("components", "kept", "best", "ties", "keys")
    }
    documents = [number_documents(one.unit, one.documents) for one in sources]
    return Members(**columns), np.concatenate(documents)


@pytest.mark.parametrize("task_bytes", [10_000, survivor_passes.RANGE_BYTES])
def test_the_same_through_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task_bytes: int
) -> None:
    sources = [Source(unit, documents, 60) for unit, documents in enumerate((80, 0, 100, 120))]
    members, documents = joined(sources)
    expected = choose_survivors(members, documents)
    bridges = count_bridged(members)
    assert 0 < bridges.components < bridges.documents
    monkeypatch.setattr(survivor_passes, "RANGE_BYTES", task_bytes)
    monkeypatch.setattr(survivor_passes, "RUN", 150)
    for workers in (1, 2):
        with closing(LocalRunner(workers)) as runner:
            draft = Draft(tmp_path / str(workers), {"fingerprint": "0" * 64})
            inside = int(np.count_nonzero(members.components >= 0))
            records, found = fill_survivors(draft, sources, inside, 3, runner)
            assert fill_survivors(draft, sources, inside, 3, runner) == (records, found)
        assert found == bridges
        stays = [read_survivors(draft.path, record) for record in records]
        assert np.concatenate(stays).tolist() == expected.tolist()
        assert [record.facts["documents"] for record in records] == [80, 0, 100, 120]
        repeats = int(np.count_nonzero((expected != STAYS) & members.kept))
        assert sum(record.facts["repeats"] for record in records) == repeats
