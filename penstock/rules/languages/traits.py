"""Traits of texts that decide how a text is prepared: letters, their case, composed characters."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np

from penstock.arrow_text import read_only

__all__ = ["COMPOSING", "LETTER", "LOWER", "UPPER", "traits_of_characters"]

LETTER = np.uint8(1)
"""``str.isalpha``."""
LOWER = np.uint8(2)
"""Lower or title case: one such character, and ``str.isupper`` is false for the text."""
UPPER = np.uint8(4)
"""Upper case: with at least one, and none in lower case, ``str.isupper`` is true."""
COMPOSING = np.uint8(8)
"""Characters that normal form C changes, reorders, or composes with one before.

A text without them is in normal form C: none of its characters has the property ``NFC_Quick_Check``
No or Maybe, or a combining class (Unicode Standard Annex 15, section 9).
"""

_FIRST_COMPOSING = 0x300
_HANGUL = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))
"""Vowels and final consonants, which compose with a syllable before, by rule."""


@cache
def traits_of_characters() -> np.ndarray:
    """Return the traits of each code point: (2^21,) uint8, read-only. Made once, in 0.1 s."""
    table = np.zeros(0x200000, np.uint8)
    codes = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    codes[0xD800:0xE000] = 0xFFFD  # surrogates, which UTF-8 has not
    characters = codes.view("U1")
    upper = np.char.isupper(characters)
    table[: len(codes)][np.char.isalpha(characters)] |= LETTER
    table[: len(codes)][upper] |= UPPER
    table[: len(codes)][np.char.islower(characters) | (np.char.istitle(characters) & ~upper)] |= (
        LOWER
    )
    table[list(_HANGUL)] |= COMPOSING
    for code in range(_FIRST_COMPOSING, sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.combining(character):
            table[code] |= COMPOSING
        parts = unicodedata.decomposition(character)
        if parts and parts[0] != "<":
            if not unicodedata.is_normalized("NFC", character):
                table[code] |= COMPOSING
            table[[int(part, 16) for part in parts.split()[1:]]] |= COMPOSING
    return read_only(table)
