"""Traits of the characters of each text, and where a text is cut."""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

import numpy as np

from penstock import arrow_text
from penstock.arrow_text import decode_utf8
from penstock.compiling import compiler

__all__ = ["find_traits"]

_compiled = compiler(arrow_text)


@_compiled
def find_traits(
    data: np.ndarray,
    offsets: np.ndarray,
    first_bytes: int,
    traits: np.ndarray,
    ends: np.ndarray,
    found: np.ndarray,
) -> None:
    """Write where the first bytes of each text end, and the traits of their characters.

    Args:
        data: UTF-8 of all texts, valid.
        offsets: (n + 1,) int64, where each text begins.
        first_bytes: The bytes of a text that count, at most; a character that does not fit whole
            does not count.
        traits: (2^21,) uint8, flags of each code point.
        ends: (n,) int64, the result.
        found: (n,) uint8, the flags of all characters, the result.
    """
    for row in range(len(found)):
        begin, end = offsets[row], offsets[row + 1]
        if end - begin > first_bytes:
            end = begin + first_bytes
            while end > begin and data[end] & 0xC0 == 0x80:
                end -= 1
        together = np.uint8(0)
        at = begin
        while at < end:
            byte = data[at]
            if byte < 0x80:
                together |= traits[byte]
                at += 1
            else:
                code, at = decode_utf8(data, at)
                together |= traits[code]
        ends[row] = end
        found[row] = together
