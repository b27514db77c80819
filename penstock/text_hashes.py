"""128-bit hashes of texts, as they are and normalised, over Arrow buffers.

The first is the identity of a text, the second finds duplicates that differ in case and white
space. Both are BLAKE2b of 16 bytes, as ``hashlib`` gives it.

Normalisation is ``" ".join(text.lower().split())``, compiled with a table of Python's lower case
and white space of each code point. Two characters have no single lower case: the capital sigma's
depends on its neighbours, and that of ``U+0130`` is two characters. A text with one of them is
normalised by Python, which is slower (100 MB/s with the hash; 1,100 compiled).
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers int)

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pyarrow as pa

from penstock import arrow_text, machine_words
from penstock.arrow_text import decode_utf8, encode_utf8, read_only, text_view
from penstock.blake2b import blake2b
from penstock.compiling import compiler
from penstock.machine_words import load_word, store_word

__all__ = [
    "EMPTY",
    "HASH",
    "hash_normalised",
    "hash_texts",
    "hash_words",
    "name_texts",
    "normalise",
]

HASH = pa.binary(16)
"""The type of hashes: fixed_size_binary, 16 bytes."""

EMPTY = np.frombuffer(hashlib.blake2b(b"", digest_size=HASH.byte_width).digest(), "<u8")
"""The hash of a text without characters, as :func:`hash_words` has it: (2,) uint64. It is made by
``hashlib``, for a compiled function would cost every process that imports this 0.7 s."""

_NAME_BYTES = 12

_PAGE = 1 << 20
"""Bytes of texts that are normalised at a time; a longer text is alone."""


def normalise(text: str) -> str:
    """Normalise a text for comparison: lower case, runs of white space as one space."""
    return " ".join(text.lower().split())


def hash_texts(texts: pa.Array) -> pa.FixedSizeBinaryArray:
    """Hash the UTF-8 of each text.

    Args:
        texts: (n,) string or large_string, without nulls.

    Returns:
        (n,) fixed_size_binary(16), without nulls.

    Raises:
        SelectorError: The array is of another type.
    """
    return _as_array(_hashes(texts, HASH.byte_width))


def name_texts(texts: pa.Array) -> pa.StringArray:
    """Make the id of documents that have none: 24 hexadecimal digits, equal for equal texts.

    Args:
        texts: (n,) string or large_string, without nulls.

    Returns:
        (n,) string, without nulls: BLAKE2b of 12 bytes.

    Raises:
        SelectorError: The array is of another type.
    """
    digests = _hashes(texts, _NAME_BYTES).view(np.uint8)[:, :_NAME_BYTES]
    return pa.array([digest.tobytes().hex() for digest in digests], pa.string())


def hash_normalised(texts: pa.Array) -> pa.FixedSizeBinaryArray:
    """Hash :func:`normalise` of each text.

    Args:
        texts: (n,) string or large_string, valid UTF-8, without nulls.

    Returns:
        (n,) fixed_size_binary(16), without nulls.

    Raises:
        SelectorError: The array is of another type.
    """
    data, offsets = text_view(texts)
    found = [np.empty((0, 2), np.uint64)]
    first = 0
    while first < len(texts):
        last = int(np.searchsorted(offsets, offsets[first] + _PAGE, "right")) - 1
        last = max(last, first + 1)
        # Lower case has at most 3 bytes for 2 (test_text_hashes.py looks at every character).
        page = np.empty((offsets[last] - offsets[first]) * 3 // 2 + 1, np.uint8)
        ends = np.zeros(last - first + 1, np.int64)
        left = np.zeros(last - first, np.bool_)
        _normalise(data, offsets[first : last + 1], _lower_case(), page, ends, left)
        ends = read_only(ends)
        hashes = blake2b(read_only(page), ends[:-1], ends[1:], HASH.byte_width)
        for row in np.flatnonzero(left).tolist():
            text = normalise(texts[first + row].as_py()).encode()
            digest = hashlib.blake2b(text, digest_size=HASH.byte_width).digest()
            hashes[row] = np.frombuffer(digest, "<u8")
        found.append(hashes)
        first = last
    return _as_array(np.concatenate(found))


def hash_words(hashes: pa.FixedSizeBinaryArray | pa.ChunkedArray) -> np.ndarray:
    """View (n,) hashes without nulls as (n, 2) uint64, little-endian; read-only."""
    if isinstance(hashes, pa.ChunkedArray):
        hashes = hashes.combine_chunks()
    _, data = hashes.buffers()
    words = np.frombuffer(data or b"", "<u8").reshape(-1, 2)
    return words[hashes.offset : hashes.offset + len(hashes)]


def _hashes(texts: pa.Array, size: int) -> np.ndarray:
    data, offsets = text_view(texts)
    return blake2b(data, offsets[:-1], offsets[1:], size)


def _as_array(words: np.ndarray) -> pa.FixedSizeBinaryArray:
    """Return (n, 2) uint64 as an array."""
    return pa.Array.from_buffers(HASH, len(words), [None, pa.py_buffer(words)])


# -- normalisation ----------------------------------------------------------------------------

_CODES = 0x200000
"""Values that four bytes of damaged UTF-8 may decode to."""

_SPACE = np.uint32(0x20)
_BY_PYTHON = np.uint32(0xFFFFFFFF)
_SIGMA = 0x3A3

_U = np.uint64
_HIGH, _SEVENS = _U(0x8080808080808080), _U(0x7F7F7F7F7F7F7F7F)
_SPACES = _U(0x2020202020202020)

_inlined = compiler(arrow_text, machine_words, inlined=True)
_compiled = compiler(arrow_text, machine_words)


@cache
def _lower_case() -> np.ndarray:
    """Return the lower case of each code point: (2^21,) uint32, read-only. Made once, in 90 ms.

    White space becomes a space. The two characters without a single lower case are ``_BY_PYTHON``.
    """
    table = np.arange(_CODES, dtype=np.uint32)
    for code in range(0x110000):
        character = chr(code)
        lower = character.lower()
        if lower != character:
            table[code] = ord(lower) if len(lower) == 1 else _BY_PYTHON
        elif character.isspace():
            table[code] = _SPACE
    table[_SIGMA] = _BY_PYTHON
    return read_only(table)


@_inlined
def _marks(word: np.uint64, after_space: bool) -> np.uint64:
    """Return other than 0 unless eight bytes are ASCII from 32 on, with single spaces.

    Args:
        word: The bytes.
        after_space: The byte before them is a space.
    """
    no_spaces = (word ^ _SPACES) + _SEVENS  # the highest bit of each byte, where all are ASCII
    spaces = ~no_spaces & _HIGH
    return (word | (word - _SPACES)) & _HIGH | spaces & (spaces << _U(8) | _U(after_space) << _U(7))


@_inlined
def _lowered(word: np.uint64) -> np.uint64:
    """Return eight bytes of ASCII in lower case."""
    from_a = word + _U(0x3F3F3F3F3F3F3F3F)
    after_z = word + _U(0x2525252525252525)
    return word | (from_a & ~after_z & _HIGH) >> _U(2)


@_inlined
def _copy_words(
    data: np.ndarray, at: int, stop: int, out: np.ndarray, to: int, before: np.uint32
) -> tuple[int, int, np.uint32]:
    """Copy ASCII eight bytes at a time, as long as spaces are single; ``before`` is the last."""
    while at + 8 <= stop:
        word = load_word(data, at)
        if _marks(word, before == _SPACE):
            break
        store_word(out, to, _lowered(word))
        before = np.uint32(word >> _U(56))
        at += 8
        to += 8
    return at, to, before


@_compiled
def _normalise(
    data: np.ndarray,
    offsets: np.ndarray,
    lower: np.ndarray,
    out: np.ndarray,
    ends: np.ndarray,
    left: np.ndarray,
) -> None:
    """Write normalised texts one after another.

    Args:
        data: (b,) uint8: UTF-8.
        offsets: (n + 1,) int64 into ``data``.
        lower: :func:`_lower_case`.
        out: uint8, at least 3 bytes for 2 of the texts: gets the normalised texts.
        ends: (n + 1,) int64: gets the end of each text in ``out``, behind a zero.
        left: (n,) bool, False: becomes True where nothing is written and Python must do it.
    """
    to = 0
    for row in range(left.shape[0]):
        at, stop = offsets[row], offsets[row + 1]
        begin = to
        before = _SPACE
        while at < stop:
            at, to, before = _copy_words(data, at, stop, out, to, before)
            if at == stop:
                break
            wide, at = decode_utf8(data, at)
            code = lower[wide]
            if code == _BY_PYTHON:
                left[row] = True
                break
            if code != _SPACE or before != _SPACE:
                to = encode_utf8(code, out, to)
            before = code
        if left[row]:
            to = begin
        else:
            to -= (before == _SPACE) & (to > begin)
        ends[row + 1] = to
