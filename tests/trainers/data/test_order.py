from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.trainers.data.order import permute


@settings(deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_every_index_is_hit_once(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@settings(deadline=None)
@given(size=st.integers(1, 2**40), key=st.integers(0, 2**32))
def test_an_index_maps_alone_as_it_maps_in_an_array(size: int, key: int) -> None:
    places = np.unique(np.array([0, size // 3, size - 1]))
    together = permute(places, size, key)
    assert [int(permute(places[i : i + 1], size, key)[0]) for i in range(len(places))] == list(
        together
    )
    assert ((together >= 0) & (together < size)).all()


def test_indices_are_spread_evenly() -> None:
    """Over 4,000 keys each of 5 indices maps to each of 5 values about 800 times (sd 25)."""
    moved = np.stack([permute(np.arange(5), 5, key) for key in range(4000)])
    counts = np.stack([np.bincount(column, minlength=5) for column in moved.T])
    assert np.abs(counts - 800).max() < 125
