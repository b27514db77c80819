from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.trainers.data.order import Mixture, Phase

WEIGHTS = st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda ws: sum(ws) > 1e-3)


def mixture(*phases: tuple[int, list[float]]) -> Mixture:
    names = [f"s{number}" for number in range(len(phases[0][1]))]
    made = [Phase(first=first, weights=dict(zip(names, weights))) for first, weights in phases]
    return Mixture(sources=names, phases=made)


@settings(max_examples=60)
@given(first=WEIGHTS, second=WEIGHTS, boundary=st.integers(1, 400), begin=st.integers(0, 500))
def test_every_source_is_read_in_order_and_in_its_share(
    first: list[float], second: list[float], boundary: int, begin: int
) -> None:
    second = (second * 6)[: len(first)]
    if sum(second) <= 1e-3:
        second = [1.0] * len(first)
    made = mixture((0, first), (boundary, second))
    source, rank = made.sources_at(0, 700)
    for number in range(len(first)):
        assert np.array_equal(rank[source == number], np.arange((source == number).sum()))
    for weights, piece in ((first, slice(0, boundary)), (second, slice(boundary, 700))):
        shares = np.array(weights) / sum(weights)
        taken = source[piece, None] == np.arange(len(weights))
        drift = np.cumsum(taken, axis=0) - shares * np.arange(1, len(taken) + 1)[:, None]
        assert np.abs(drift).max() <= len(weights)
        assert not taken[:, shares == 0].any()
    # Any range computed alone is the same, which a resumed run relies on.
    again, ranks = made.sources_at(begin, 700)
    assert np.array_equal(again, source[begin:]) and np.array_equal(ranks, rank[begin:])
    assert made.read(begin).tolist() == np.bincount(source[:begin], minlength=len(first)).tolist()


def test_shares_hold_far_out() -> None:
    made = mixture((0, [0.3, 0.7]))
    assert abs(made.read(10**9)[0] - 3 * 10**8) <= 3
    source, rank = made.sources_at(10**9, 10**9 + 1000)
    assert (source == 0).sum() == 300
    assert rank[source == 0][0] == made.read(10**9)[0]


def test_two_phases_golden() -> None:
    source, _ = mixture((0, [1.0, 0.0]), (3, [0.5, 0.5])).sources_at(0, 9)
    assert source.tolist() == [0, 0, 0, 0, 1, 0, 1, 0, 1]
