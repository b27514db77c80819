"""Eight bytes at a time: the first byte of a kind, at any place of any array."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from penstock.machine_words import first_byte, load_word, not_plain, store_word


@njit
def _first(data: np.ndarray, at: int) -> int:
    return first_byte(not_plain(load_word(data, at)))


@njit
def _copy(data: np.ndarray, at: int, out: np.ndarray, to: int) -> None:
    store_word(out, to, load_word(data, at))


EDGES = st.sampled_from(b'\x00\x1f !"#Z[\\]~\x7f\x80\x81\xa0\xa2\xdc\xff')


@settings(max_examples=300, deadline=None)
@given(st.lists(EDGES, min_size=8, max_size=20), st.data())
def test_the_first_byte_that_is_not_plain(content: list[int], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(content) - 8))
    other = [byte < 32 or byte > 127 or byte in b'"\\' for byte in content[at : at + 8]]
    expected = other.index(True) if any(other) else 8
    assert _first(np.array(content, np.uint8), at) == expected


def test_every_byte_alone_in_every_place() -> None:
    for place in range(8):
        for byte in range(256):
            content = np.full(8, ord("a"), np.uint8)
            content[place] = byte
            plain = 32 <= byte <= 127 and byte not in b'"\\'
            assert _first(content, 0) == (8 if plain else place)


def test_words_are_copied_at_any_place() -> None:
    content = np.arange(20, dtype=np.uint8)
    for at in range(13):
        out = np.zeros(21, np.uint8)
        _copy(content, at, out, 12 - at)
        assert out.tolist() == [0] * (12 - at) + list(range(at, at + 8)) + [0] * (at + 1)
