"""Hashes of texts equal those of Python's hashlib and str, for every character and any mix."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import text_hashes
from penstock.arrow_text import read_only
from penstock.blake2b import blake2b
from penstock.errors import SelectorError
from penstock.text_hashes import (
    HASH,
    hash_normalised,
    hash_texts,
    hash_words,
    name_texts,
    normalise,
)

SIGMA, DOTTED = "\u03a3", "\u0130"
CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


def reference(texts: Sequence[str]) -> list[bytes]:
    return [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]


def normalised(texts: Sequence[str]) -> list[bytes]:
    return reference([" ".join(text.lower().split()) for text in texts])


def large(texts: Sequence[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def test_known_hashes() -> None:
    # RFC 7693 has no example of 16 bytes; these are of b2sum -l 128.
    found = hash_texts(large(["", "abc"]))
    assert found.type == HASH == pa.binary(16)
    assert [one.hex() for one in found.to_pylist()] == [
        "cae66941d9efbd404e4d88758ea67670",
        "cf4ab791c62b8d2b2109c90275287816",
    ]


@pytest.mark.parametrize("around", ["A {} {}b", "{}"])
def test_every_character_is_normalised_as_by_python(around: str) -> None:
    """32 characters a text, so that a text holds few others; those of Python are apart."""
    plain = [c for c in CHARACTERS if c not in (SIGMA, DOTTED)]
    groups = [plain[at : at + 32] for at in range(0, len(plain), 32)]
    texts = ["".join(around.format(c, c) for c in group) for group in groups]
    texts += [around.format(c, c) for c in (SIGMA, DOTTED)]
    assert hash_normalised(large(texts)).to_pylist() == normalised(texts)


def test_two_characters_are_left_to_python() -> None:
    table = text_hashes._lower_case()
    assert [chr(code) for code in np.flatnonzero(table == 2**32 - 1)] == [DOTTED, SIGMA]
    # The lower case of any other is the same in every text, and has room.
    for character in CHARACTERS:
        lower = character.lower()
        assert 2 * len(lower.encode()) <= 3 * len(character.encode())


def test_lower_case_that_depends_on_neighbours() -> None:
    texts = [
        a + SIGMA + b for a in ("", "A", "a.", "1", " ", DOTTED) for b in ("", "b", ".", ".B", " c")
    ]
    assert hash_normalised(large(texts)).to_pylist() == normalised(texts)
    assert normalise("A\u03a3") == "a\u03c2" and normalise("\u03a3") == "\u03c3"


CASES = st.text(
    st.one_of(
        st.sampled_from(" \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028\u3000\x00aAzZ.'\u00ad"),
        st.sampled_from("\u0130\u03a3\u03c2\u212a\u023a\u1e9e\u00df\u00c9\u0416\ua7ae\U00010400"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(CASES, max_size=12),
    st.sampled_from([pa.string(), pa.large_string()]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([1, 16, 1 << 20]),
)
def test_any_texts_in_any_slice(
    texts: list[str], kind: pa.DataType, before: int, after: int, page: int
) -> None:
    own = texts[before : max(before, len(texts) - after)]
    array = pa.array(texts, kind)[before : max(before, len(texts) - after)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_hashes, "_PAGE", page)
        assert hash_normalised(array).to_pylist() == normalised(own)
    found = hash_texts(array)
    assert found.to_pylist() == reference(own)
    assert name_texts(array).to_pylist() == [
        hashlib.blake2b(text.encode(), digest_size=12).hexdigest() for text in own
    ]
    words = hash_words(found[len(own) // 2 :])
    assert words.tobytes() == b"".join(reference(own[len(own) // 2 :]))
    assert words.shape == (len(own) - len(own) // 2, 2) and words.dtype == np.uint64
    chunks = pa.chunked_array([found[: len(own) // 2], found[len(own) // 2 :]])
    assert hash_words(chunks).tobytes() == b"".join(reference(own))
    assert hash_words(chunks[len(own) // 2 :]).tobytes() == words.tobytes()


@pytest.mark.parametrize("unit", ["a", " ", "\u023a", "\u212a ", "\x00", "\U0001f600", "A\u03a3 "])
def test_texts_longer_than_a_page(unit: str) -> None:
    texts = ["X", unit * (1 << 20), "", unit * ((1 << 20) - 1) + "y"]
    assert hash_normalised(large(texts)).to_pylist() == normalised(texts)
    assert hash_texts(large(texts)).to_pylist() == reference(texts)


@pytest.mark.parametrize("size", [1, 12, 16])
def test_texts_of_every_length_side_by_side(size: int) -> None:
    """Lanes end at different steps; blocks of 128 bytes end before, at and after a text's end."""
    data = np.frombuffer(np.random.default_rng(0).bytes(5000), np.uint8)
    for ends in (list(range(400)), [0] * 30, [384, 0, 1, 128, 129, 4096, 256, 255, 257] * 3, []):
        begins = [(7 * row) % 800 for row in range(len(ends))]
        stops = [begin + length for begin, length in zip(begins, ends)]
        found = blake2b(data, _places(begins), _places(stops), size).view(np.uint8)
        assert [one.tobytes() for one in found[:, :size]] == [
            hashlib.blake2b(data[begin:stop].tobytes(), digest_size=size).digest()
            for begin, stop in zip(begins, stops)
        ]


def _places(values: list[int]) -> np.ndarray:
    return read_only(np.array(values, np.int64))


def test_other_types_are_refused() -> None:
    for function in (hash_texts, hash_normalised, name_texts):
        with pytest.raises(SelectorError) as info:
            function(pa.array([1]))
        assert info.value.got == "int64"
