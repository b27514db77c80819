"""The letters as which each character is compared, so that re-typed copies have equal words.

A *word* is a run of letters, digits and marks. All other characters are between words, so
``well-known`` equals ``well known``, and ``don't`` its copy with a typographic apostrophe. Case,
accents and compatible forms do not count: a character is compared as the letters of its NFKD
without combining accents, case-folded, so ``ﬁ`` equals ``fi`` and ``STRASSE`` equals ``straße``.
Invisible characters (soft hyphen, joiners, variation selectors, byte-order mark;
:func:`~penstock.rules.characters.invisible`) are passed over. A letter of a script without spaces
(Han, kana, Thai, Khmer, ...) is a word of its own, with the marks behind it. So there a gram of 13
words is one of 13 characters.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np

from penstock.arrow_text import read_only
from penstock.rules.characters import UNSPACED, classes, invisible

__all__ = ["ALONE", "CODE", "EXPANDS", "MARK", "PASSED_OVER", "Letters", "letters_of"]

CODE = np.uint32(0x3FFFFF)
"""Mask of the letter, a code point plus 1, within an entry."""

ALONE, MARK = np.uint32(1 << 31), np.uint32(1 << 30)
"""Flags of an entry: a letter of a script without spaces; a mark, which begins no word."""

EXPANDS = np.uint32(1 << 29)
"""Flag of an entry: its code is that of a row of ``Letters.expansions``."""

PASSED_OVER = np.uint32(1 << 28)
"""The entry of characters that neither belong to a word nor end one."""

_MOST_LETTERS = 3
"""Letters of an expansion, at most: those of a Hangul syllable."""

_ACCENTS = range(0x300, 0x370)
"""Combining Diacritical Marks. Marks of other blocks, such as the vowel signs of Indic scripts, are
part of the word."""


class Letters(NamedTuple):
    """The letters of each character, read-only."""

    entries: np.ndarray  # (2^21,) uint32, a letter and flags; 0 between words
    expansions: np.ndarray  # (e, 3) uint32, letters of characters with several; then zeros


@cache
def letters_of() -> Letters:
    """Return the letters of all characters. Made once in a process, in about 0.5 s."""
    entries = np.zeros(len(classes()), np.uint32)
    expansions: list[list[int]] = []
    unseen = invisible()
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if code in unseen or code in _ACCENTS:
            entries[code] = PASSED_OVER
        elif category[0] in "LNM":
            letters = _fold(chr(code))
            if len(letters) == 1:
                entries[code] = letters[0] + 1
            else:
                entries[code] = np.uint32(len(expansions)) | EXPANDS
                padding = [-1] * (_MOST_LETTERS - len(letters))
                expansions.append([*letters, *padding])
            if category[0] == "M":
                entries[code] |= MARK
    entries[classes() & UNSPACED > 0] |= ALONE
    rows = (np.array(expansions, np.int64) + 1).astype(np.uint32)
    return Letters(read_only(entries), read_only(rows))


def _fold(character: str) -> list[int]:
    """Return the code points that a letter, digit or mark is compared as; at least one."""
    plain = _without_accents(_without_accents(character).casefold())
    known = all(unicodedata.category(part)[0] in "LNM" for part in plain)
    if not known or not 0 < len(plain) <= _MOST_LETTERS:
        plain = character
    return [ord(part) for part in plain.replace("ς", "σ")]


def _without_accents(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if ord(part) not in _ACCENTS)
