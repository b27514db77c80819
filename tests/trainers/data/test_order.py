from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.trainers.data.order import Order, permute


@settings(deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_every_place_is_taken_once(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@settings(deadline=None)
@given(size=st.integers(1, 2**40), key=st.integers(0, 2**32))
def test_a_place_goes_where_it_goes_alone_too(size: int, key: int) -> None:
    places = np.unique(np.array([0, size // 3, size - 1]))
    together = permute(places, size, key)
    assert [int(permute(places[i : i + 1], size, key)[0]) for i in range(len(places))] == list(
        together
    )
    assert ((together >= 0) & (together < size)).all()


def test_places_are_spread_evenly() -> None:
    """Over 4,000 keys each of 5 places takes each of 5 values about 800 times (sd 25)."""
    moved = np.stack([permute(np.arange(5), 5, key) for key in range(4000)])
    counts = np.stack([np.bincount(column, minlength=5) for column in moved.T])
    assert np.abs(counts - 800).max() < 125


@settings(deadline=None, max_examples=50)
@given(
    sequences=st.integers(1, 300),
    batch=st.integers(1, 40),
    micro=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_workers_change_only_the_slicing(sequences: int, batch: int, micro: int, seed: int) -> None:
    order = Order(sequences=sequences, batch=batch, seed=seed)
    seen: list[int] = []
    for step in range(order.steps):
        expected = order.global_batch(step)
        seen.extend(expected.tolist())
        for workers in (1, 2, 4):
            shares = [
                order.micro_batches(step, rank=rank, workers=workers, micro_batch=micro)
                for rank in range(workers)
            ]
            assert len({len(share) for share in shares}) == 1
            assert max(len(piece) for share in shares for piece in share) <= micro
            ranks = [np.concatenate(share) for share in shares]
            together = np.full(len(expected), -1)
            for rank, mine in enumerate(ranks):
                together[rank::workers] = mine
            assert np.array_equal(together, expected)
    assert sorted(seen) == list(range(sequences))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order = Order(sequences=100, batch=100, seed=3)
    again = Order(sequences=100, batch=100, seed=3)
    other = Order(sequences=100, batch=100, seed=4)
    assert np.array_equal(order.global_batch(0), again.global_batch(0))
    assert not np.array_equal(order.global_batch(0), order.global_batch(1))
    assert not np.array_equal(order.global_batch(0), other.global_batch(0))


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_an_epoch_may_end_with_a_smaller_batch(batch: int) -> None:
    order = Order(sequences=50, batch=batch, seed=0)
    sizes = [len(order.global_batch(step)) for step in range(order.steps)]
    assert sum(sizes) == 50 and all(size == batch for size in sizes[:-1])
