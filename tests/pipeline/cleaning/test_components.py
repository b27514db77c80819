"""Components: equal to a search through the graph, in one piece and by stars."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.cleaning.components import (
    EDGE,
    large_star,
    link_equal,
    number_documents,
    small_star,
    unite,
)

PAIRS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40)
KEY = np.dtype([("key", "<u8"), ("document", "<i8")])
CHECKED = np.dtype([("key", "<u8"), ("check", "<u8"), ("document", "<i8")])


def edges_of(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    return np.array(list(pairs), EDGE)


def stars_of(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Find the components by a search: (document, least of its component) but for the least."""
    near = defaultdict(set)
    for one, other in pairs:
        near[one].add(other)
        near[other].add(one)
    found, seen = [], set()
    for start in sorted(near):
        waiting = [] if start in seen else [start]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += near[node]
                found.append((node, start))
    return sorted(pair for pair in found if pair[0] != pair[1])


def scattered(number: int) -> int:
    """Make a document number of several units, in another order."""
    return int(number_documents(number % 3, np.array([number * 7 % 31]))[0])


@settings(max_examples=300)
@given(PAIRS)
def test_components_are_those_of_a_search(pairs: list[tuple[int, int]]) -> None:
    pairs = [(scattered(one), scattered(other)) for one, other in pairs]
    assert unite(edges_of(pairs)).tolist() == stars_of(pairs)
    assert unite(edges_of(pairs[::-1])).tolist() == stars_of(pairs)


def by_stars(edges: np.ndarray, parts: int) -> tuple[np.ndarray, int]:
    """Apply both stars in turns, to nodes in parts, until neither changes an edge."""
    rounds = 0
    while True:
        changes = 0
        for star in (large_star, small_star):
            document, first = edges["document"], edges["first"]
            if star is large_star:
                nodes = np.concatenate([document, first])
                neighbours = np.concatenate([first, document])
            else:
                nodes, neighbours = np.maximum(document, first), np.minimum(document, first)
            found = []
            for part in range(parts):
                own = nodes % parts == part
                made, changed = star(nodes[own], neighbours[own])
                found.append(made)
                changes += changed
            edges = np.concatenate(found)
        rounds += 1
        if not changes:
            return edges, rounds


@settings(max_examples=200)
@given(PAIRS, st.integers(1, 3))
def test_stars_come_to_the_same_components(pairs: list[tuple[int, int]], parts: int) -> None:
    pairs = [(one, other) for one, other in pairs if one != other]
    edges, _ = by_stars(edges_of(pairs), parts)
    assert sorted(edges.tolist()) == stars_of(pairs)


def test_a_chain_takes_few_rounds() -> None:
    order = np.random.default_rng(0).permutation(4096).tolist()
    pairs = list(itertools.pairwise(order))
    edges, rounds = by_stars(edges_of(pairs), 2)
    assert sorted(edges.tolist()) == stars_of(pairs)
    assert rounds <= 14


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 12)), max_size=40))
def test_equal_keys_are_stars(rows: list[tuple[int, int, int]]) -> None:
    for kind, entries in (
        (CHECKED, rows),
        (KEY, [(key, document) for key, _, document in rows]),
    ):
        groups = defaultdict(set)
        for *key, document in entries:
            groups[tuple(key)].add(document)
        least, edges = link_equal(np.array(entries, kind))
        assert least.dtype == kind
        assert least.tolist() == [(*key, min(groups[key])) for key in sorted(groups)]
        expected = {(one, min(own)) for own in groups.values() for one in own if one != min(own)}
        assert edges.tolist() == sorted(expected)


@pytest.mark.parametrize("count", [1_000_000])
def test_a_million_equal_documents_are_a_million_edges(count: int) -> None:
    rows = np.zeros(count, KEY)
    rows["document"] = number_documents(5, count)[::-1]
    least, edges = link_equal(rows)
    assert least["document"].tolist() == [5 << 32]
    assert len(edges) == count - 1
    stars = unite(edges[::-1])
    assert (stars == edges).all()


def test_documents_are_numbered_in_corpus_order() -> None:
    numbers = np.concatenate([number_documents(0, 2), number_documents(3, 2)])
    assert numbers.tolist() == [0, 1, 3 * 2**32, 3 * 2**32 + 1]
    assert numbers.dtype == np.int64
    assert number_documents(2, np.array([7], np.uint32)).tolist() == [2 * 2**32 + 7]
