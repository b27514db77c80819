"""Compiled search for the text of each line of JSON: it is found, unescaped and copied in one loop.

The loop decides nothing about JSON. It looks for the first member of a line's object that has the
wanted name and a string as value, and leaves every line it does not understand to a full decoder:
keys with escapes, damaged UTF-8, halves of surrogate pairs. What it copies is what a JSON decoder
(RFC 8259) and Python's strict UTF-8 decoder would make of that string; all else of the line, with a
mark in place of the string, has still to be decoded (:mod:`penstock.pipeline.reading.json_lines`).

It goes over 1.6 GB/s of web text a core, and JSON lines become batches at 1.1, where records as
Python objects are made at 0.47 and have still to become columns.
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers int)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock import arrow_text, machine_words
from penstock.arrow_text import encode_utf8, read_only
from penstock.compiling import compiler
from penstock.machine_words import first_byte, load_word, not_plain, store_word

__all__ = ["BLANK", "FOUND", "UNKNOWN", "Copies", "find_member", "find_texts"]

FOUND, UNKNOWN, BLANK = 1, 0, -1
"""Kinds of lines: its text is copied, it needs a full decoder, it is blank."""


class Copies(NamedTuple):
    """Parts of lines, one after another."""

    data: np.ndarray
    """uint8."""
    ends: np.ndarray
    """(n + 1,) int64: part ``i`` is ``data[ends[i]:ends[i + 1]]``."""


_inlined = compiler(arrow_text, machine_words, inlined=True)
_compiled = compiler(arrow_text, machine_words)

_FEED, _QUOTE, _BACKSLASH = np.uint8(10), np.uint8(ord('"')), np.uint8(ord("\\"))
_COLON, _COMMA = np.uint8(ord(":")), np.uint8(ord(","))

_ESCAPES = np.zeros(256, np.uint8)
for _name, _byte in zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t'):
    _ESCAPES[_name] = _byte
_ESCAPES = read_only(_ESCAPES)
"""The character of an escape by its letter; 0 where there is none."""

_DIGITS = np.full(256, 255, np.uint8)
for _value, _pair in enumerate(zip(b"0123456789abcdef", b"0123456789ABCDEF")):
    _DIGITS[list(_pair)] = _value
_DIGITS = read_only(_DIGITS)
"""The value of a hexadecimal digit; 255 of others."""


@_inlined
def _skip_space(data: np.ndarray, at: int) -> int:
    while data[at] == 32 or data[at] == 9 or data[at] == 13:
        at += 1
    return at


@_inlined
def _skip_string(data: np.ndarray, at: int) -> int:
    """Return the index after the closing quote of the string whose first byte is at ``at``.

    That of the line feed where the string does not end.
    """
    while data[at] != _QUOTE and data[at] != _FEED:
        at += 1 + (data[at] == _BACKSLASH and data[at + 1] != _FEED)
    return at + (data[at] == _QUOTE)


@_compiled
def _skip_value(data: np.ndarray, at: int) -> int:
    """Return the index of the comma after a member's value, or of a byte that is none."""
    depth = 0
    while True:
        byte = data[at]
        if byte == _FEED:
            return at
        if byte == _QUOTE:
            at = _skip_string(data, at + 1)
            continue
        if byte in (0x5B, 0x7B):  # [ {
            depth += 1
        elif byte in (0x5D, 0x7D):
            depth -= 1
            if depth < 0:
                return at
        elif byte == _COMMA and depth == 0:
            return at
        at += 1


@_compiled
def _find_value(data: np.ndarray, at: int, key: np.ndarray) -> int:
    """Return the index of the first byte of the value of the member ``key``, or -1."""
    at = _skip_space(data, at)
    if data[at] != 0x7B:
        return -1
    while True:
        at = _skip_space(data, at + 1)
        if data[at] != _QUOTE:
            return -1
        begin = at + 1
        at = _skip_string(data, begin)
        same = at - begin == key.shape[0] + 1
        if same:
            for k in range(key.shape[0]):
                same &= data[begin + k] == key[k]
        at = _skip_space(data, at)
        if data[at] != _COLON:
            return -1
        at = _skip_space(data, at + 1)
        if same:
            return at
        at = _skip_value(data, at)
        if data[at] != _COMMA:
            return -1


@_compiled
def find_member(data: np.ndarray, key: np.ndarray) -> tuple[int, int]:
    """Find the value of the first member ``key`` of an object, which may be damaged behind it.

    Args:
        data: (b,) uint8: a line with its line feed.
        key: (k,) uint8: UTF-8 of the name, without escapes.

    Returns:
        The index of the value's first byte, and that after its last; both are -1 without it.
    """
    begin = _find_value(data, 0, key)
    if begin < 0:
        return -1, -1
    return begin, _skip_value(data, begin)


@_inlined
def _hexadecimal(data: np.ndarray, at: int) -> int:
    """Return the number of four digits, or -1. No byte after one that is no digit is read."""
    code = 0
    for k in range(4):
        digit = _DIGITS[data[at + k]]
        if digit > 15:
            return -1
        code = code << 4 | digit
    return code


@_inlined
def _length(data: np.ndarray, at: int) -> int:
    """Return the bytes of the character at ``at``, from 2, or 0 where it is not strict UTF-8."""
    first, second = data[at], data[at + 1]
    if first < 0xC2 or first > 0xF4:
        return 0
    # E0 begins none below U+0800, ED no surrogates, F0 none below U+10000, F4 none above U+10FFFF.
    low = 0xA0 if first == 0xE0 else 0x90 if first == 0xF0 else 0x80
    high = 0x9F if first == 0xED else 0x8F if first == 0xF4 else 0xBF
    length = 2 + (first >= 0xE0) + (first >= 0xF0)
    whole = low <= second <= high
    if whole and length > 2:
        whole = data[at + 2] & 0xC0 == 0x80
    if whole and length > 3:
        whole = data[at + 3] & 0xC0 == 0x80
    return length if whole else 0


@_inlined
def _copy_plain(data: np.ndarray, at: int, stop: int, out: np.ndarray, to: int) -> tuple[int, int]:
    """Copy ASCII that stands for itself in a string; returns the index of another byte."""
    while at + 8 <= stop:
        word = load_word(data, at)
        store_word(out, to, word)
        count = first_byte(not_plain(word))
        at += count
        to += count
        if count < 8:
            return at, to
    byte = data[at]
    while (byte > 31) & (byte < 128) & (byte != _QUOTE) & (byte != _BACKSLASH):
        out[to] = byte
        to += 1
        at += 1
        byte = data[at]
    return at, to


@_inlined
def _copy_wide(data: np.ndarray, at: int, out: np.ndarray, to: int) -> tuple[int, int]:
    """Copy characters outside of ASCII; returns the index of another byte."""
    while data[at] > 127:
        length = _length(data, at)
        if length == 0:
            break
        for k in range(length):
            out[to + k] = data[at + k]
        at += length
        to += length
    return at, to


@_inlined
def _copy_escape(data: np.ndarray, at: int, out: np.ndarray, to: int) -> tuple[int, int]:
    """Copy what the escape at ``at`` stands for; returns ``at`` where it stands for nothing."""
    letter = data[at + 1]
    if letter != 0x75:  # u
        out[to] = _ESCAPES[letter]
        known = _ESCAPES[letter] > 0
        return at + 2 * known, to + known
    code, end = _hexadecimal(data, at + 2), at + 6
    if 0xD800 <= code < 0xDC00 and data[end] == _BACKSLASH and data[end + 1] == 0x75:
        low = _hexadecimal(data, end + 2) - 0xDC00
        code = 0x10000 + ((code - 0xD800) << 10) + low if 0 <= low < 0x400 else -1
        end += 6
    if code < 0 or 0xD800 <= code < 0xE000:
        return at, to
    return end, encode_utf8(code, out, to)


@_compiled
def _copy_string(
    data: np.ndarray, at: int, stop: int, out: np.ndarray, to: int
) -> tuple[int, int, bool]:
    """Unescape the string whose first byte is at ``at``.

    Returns:
        The index after its closing quote, or of a byte that cannot be in one; the index after the
        copy; True for the first.
    """
    while True:
        at, to = _copy_plain(data, at, stop, out, to)
        begin = at
        if data[at] == _QUOTE:
            return at + 1, to, True
        if data[at] == _BACKSLASH:
            at, to = _copy_escape(data, at, out, to)
        else:
            at, to = _copy_wide(data, at, out, to)
        if at == begin:
            return at, to, False


@_inlined
def _copy(data: np.ndarray, at: int, stop: int, out: np.ndarray, to: int) -> int:
    """Copy bytes, and return the index after the copy."""
    for k in range(stop - at):
        out[to + k] = data[at + k]
    return to + stop - at


@_compiled
def find_texts(
    data: np.ndarray,
    at: int,
    stop: int,
    cap: int,
    key: np.ndarray,
    marks: np.ndarray,
    lines: np.ndarray,
    texts: Copies,
    rests: Copies,
) -> tuple[int, int, int]:
    """Find and copy the texts of lines.

    Args:
        data: (b,) uint8: whole lines, the last with its line feed.
        at: Where the first line begins.
        stop: Where the last ends, after its line feed.
        cap: A longer line is ``UNKNOWN``.
        key: (k,) uint8: UTF-8 of the name of the member with the text.
        marks: (n, m) uint8: what stands for each text in the rest of its line.
        lines: (n, 3) int64, gets for each line its first byte, its line feed, and ``FOUND``,
            ``UNKNOWN`` or ``BLANK``.
        texts: Gets the text of each line that is ``FOUND``: ``stop - at`` bytes are enough.
        rests: Gets the rests of those lines, with line feeds: there, ``m`` more for each line.

    Returns:
        Number of lines, at most n; of those that are ``FOUND``; where the next line begins.
    """
    row = found = 0
    texts.ends[0] = rests.ends[0] = 0
    while at < stop and row < lines.shape[0]:
        begin, kind, to = at, UNKNOWN, texts.ends[found]
        value = _find_value(data, at, key) + 1
        closed = value
        if value > 0 and data[value - 1] == _QUOTE:
            at, to, whole = _copy_string(data, value, stop, texts.data, to)
            closed = at
            if whole:
                kind = FOUND
        elif data[_skip_space(data, at)] == _FEED:
            kind = BLANK
        while data[at] != _FEED:
            at += 1
        if kind == FOUND and at - begin <= cap:
            rest = _copy(data, begin, value - 1, rests.data, rests.ends[found])
            rest = _copy(marks[found], 0, marks.shape[1], rests.data, rest)
            rest = _copy(data, closed, at + 1, rests.data, rest)
            found += 1
            texts.ends[found], rests.ends[found] = to, rest
        elif kind == FOUND:
            kind = UNKNOWN
        lines[row, 0], lines[row, 1], lines[row, 2] = begin, at, kind
        row += 1
        at += 1
    return row, found, at
