"""The character as which each character is compared: lower case, no final sigma, no white space.

Texts that are equal after ``" ".join(text.lower().split())`` have equal words here. ``str.lower``
maps a capital sigma by its position in the word; here both small sigmas are one.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from penstock.arrow_text import read_only
from penstock.rules.characters import DIGIT, LETTER, SPACE, UNSPACED, classes

__all__ = ["ALONE", "CODE", "DOTTED_I", "DOT_ABOVE", "WORDY", "folded"]

CODE = np.uint32(0x3FFFFF)
"""Mask of the code point plus 1 within an entry of :func:`folded`."""

ALONE, WORDY = np.uint32(1 << 31), np.uint32(1 << 30)
"""Flags of an entry: a letter of a script without spaces; any letter or digit."""

DOTTED_I, DOT_ABOVE = 0x130, np.uint32(0x307 + 1)
"""The one character whose lower case is two: ``i`` and this mark."""

_FINAL_SIGMA, _SIGMA = 0x3C2, 0x3C3


@cache
def folded() -> np.ndarray:
    """Return an entry for each code point: (2^21,) uint32, read-only; 0 for white space.

    Made once in a process, in about 0.1 s.
    """
    kinds = classes()
    lower = np.arange(len(kinds), dtype=np.uint32)
    characters = np.arange(0x110000, dtype=np.uint32)
    characters[0xD800:0xE000] = 0xFFFD  # surrogates, which UTF-8 has not
    changed = np.flatnonzero(np.char.isupper(characters.view("U1")))
    changed = np.union1d(changed, np.flatnonzero(np.char.istitle(characters.view("U1"))))
    lower[changed] = [ord(chr(code).lower()[0]) for code in changed.tolist()]
    lower[_FINAL_SIGMA] = _SIGMA
    own = kinds[lower]
    entries = lower + np.uint32(1)
    entries[own & UNSPACED > 0] |= ALONE
    entries[own & (LETTER | DIGIT) > 0] |= WORDY
    entries[own & SPACE > 0] = 0
    return read_only(entries)
