from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.hashing import factors, sequence_checksums


def by_hand(tokens: list[int], starts: list[int]) -> int:
    keys = factors(len(tokens)).tolist()
    values = [*tokens, *starts]
    return sum((value + 1) * key for value, key in zip(values, keys)) % 2**64


@given(data=st.data(), wide=st.booleans())
def test_it_is_the_published_sum_whatever_the_type(data: st.DataObject, wide: bool) -> None:
    top = 2**32 - 1 if wide else 2**16 - 1
    rows = data.draw(st.lists(st.lists(st.integers(0, top), min_size=5, max_size=5), min_size=1))
    starts = [sorted(data.draw(st.sets(st.integers(1, 4)))) for _ in rows]
    starts = [[0, *own] for own in starts]
    offsets = np.cumsum([0, *map(len, starts)])
    flat = np.concatenate(starts).astype(np.int32)
    tokens = np.array(rows, np.uint32 if wide else np.uint16)
    expected = [by_hand(row, own) for row, own in zip(rows, starts)]
    assert sequence_checksums(tokens, flat, offsets).tolist() == expected


def test_every_single_bit_counts() -> None:
    tokens = np.random.default_rng(0).integers(0, 2**16, (1, 64)).astype(np.uint16)
    starts, offsets = np.array([0, 9], np.int32), np.array([0, 2])
    (whole,) = sequence_checksums(tokens, starts, offsets)
    for place in range(64):
        for bit in range(16):
            changed = tokens.copy()
            changed[0, place] ^= np.uint16(1 << bit)
            assert sequence_checksums(changed, starts, offsets)[0] != whole
    for bit in range(31):
        changed = starts.copy()
        changed[1] ^= 1 << bit
        assert sequence_checksums(tokens, changed, offsets)[0] != whole


def test_factors_golden() -> None:
    """Splitmix64 from 0 begins with 0xE220A8397B1DCDAF (its reference code), made odd."""
    assert factors(2)[0] == 0xE220A8397B1DCDAF
    assert factors(2)[1] == 0x6E789E6AA1B965F4 | 1
