"""True similarity: equal to a search over all pairs of a band; bounded for large bands."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.cleaning.components import EDGE, unite
from penstock.pipeline.cleaning.minhash.verification import MOST_COMPARED, Sets, join_similar


def sets_of(sets: list[set[int]]) -> Sets:
    starts = np.cumsum([0, *map(len, sets)])
    values = [value for own in sets for value in sorted(own)]
    return Sets(starts, np.array(values, np.uint32))


DOCUMENTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.tuples(st.integers(1, 3), st.integers(1, 3)),
        st.sets(st.integers(0, 8), min_size=1),
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(DOCUMENTS, st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0]))
def test_components_are_those_of_all_similar_pairs(rows: list[Any], threshold: float) -> None:
    pairs = [
        (at, other)
        for at, (component, bands, own) in enumerate(rows)
        for other, (its, its_bands, theirs) in enumerate(rows[:at])
        if component == its
        and any(a == b for a, b in zip(bands, its_bands))
        and len(own & theirs) / len(own | theirs) >= threshold
    ]
    stars = dict(unite(np.array(pairs, EDGE)).tolist())
    components, bands, sets = zip(*rows) if rows else ((), (), ())
    found = join_similar(
        np.array(components, np.int64),
        np.array(bands, np.uint64).reshape(-1, 2),
        sets_of(list(sets)),
        threshold,
    )
    assert found.tolist() == [stars.get(at, at) for at in range(len(rows))]


def test_a_threshold_that_is_met_exactly_joins() -> None:
    same = np.zeros(2, np.int64), np.ones((2, 1), np.uint64)
    for common, size, threshold in ((4, 5, 0.8), (21, 30, 0.7), (9, 10, 0.9), (3, 5, 0.6)):
        sets = sets_of([set(range(size)), set(range(common))])
        assert join_similar(*same, sets, threshold).tolist() == [0, 0]
        assert join_similar(*same, sets, threshold + 1e-9).tolist() == [0, 1]


def test_many_strangers_of_a_band_take_linear_time() -> None:
    """Each is compared with the first 64, to one of which a late one is similar."""
    count = 100_000
    sets = Sets(np.arange(count + 1) * 4, np.arange(4 * count, dtype=np.uint32))
    sets.shingles[-4:] = sets.shingles[4 * 63 : 4 * 64]
    components, bands = np.zeros(count, np.int64), np.ones((count, 1), np.uint64)
    join_similar(components[:2], bands[:2], sets, 0.5)
    began = time.process_time()
    found = join_similar(components, bands, sets, 0.5)
    assert time.process_time() - began < 5
    assert MOST_COMPARED == 64
    assert np.flatnonzero(found != np.arange(count)).tolist() == [count - 1]
    assert found[-1] == 63
