"""Classes of Unicode code points: white space, letters, symbols, ends of sentences and lines.

Python's own ``str`` methods define white space, letters, decimal digits and line breaks, so that
counts equal those of a filter written in Python. Their answers depend on Python's version of
Unicode: :data:`UNICODE` is therefore part of the identity of statistics.

Symbols and ends of sentences are the sets of datatrove 0.10 (``datatrove/utils/text.py``), given
here as ranges of code points. The second is Unicode's property ``Sentence_Terminal`` of 2023 with
three signs of Khmer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np

from penstock.arrow_text import read_only

__all__ = [
    "BREAK",
    "CONTINUED",
    "DIGIT",
    "LETTER",
    "SPACE",
    "SYMBOL",
    "TERMINAL",
    "UNICODE",
    "UNSPACED",
    "classes",
    "invisible",
]

UNICODE = unicodedata.unidata_version

SPACE, LETTER, SYMBOL, TERMINAL = np.uint8(1), np.uint8(2), np.uint8(4), np.uint8(8)
DIGIT, UNSPACED, BREAK = np.uint8(16), np.uint8(32), np.uint8(64)
CONTINUED = np.uint8(128)
"""Flag of the second to fourth byte of a character, set by the kernels beside its classes."""

_CODES = 0x200000
"""Values that four bytes of damaged UTF-8 may decode to; above Unicode's there are no classes."""

_BREAKS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"
"""Characters at which ``str.splitlines`` ends a line."""

_SYMBOLS = """
    0-8 B-1F 21-2F 3A-40 5B-60 7B-9F AB B4 BB 2013-2014 2019 201C-201E 2026 2236 2501 25BA 3001-3002
    3008-300D 3010-3011 FF01 FF05 FF08-FF09 FF0C FF0E FF11 FF1A-FF1B FF1F FF5E
"""
"""Symbols that end no sentence, and some that do: ASCII punctuation, controls, quotation marks."""

_TERMINALS = """
    21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E
    1735-1736 17D4-17D6 17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E
    1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7
    A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61
    10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD
    111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642
    1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F
    16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88
"""
"""Characters that end a sentence."""

_UNSPACED = """
    E00-EFF F00-FFF 1000-109F 1780-17FF 1950-19DF 1A20-1AAF 1B00-1B7F 2E80-2FDF 3005-3007 3021-3029
    3031-3035 3038-303C 3041-30FF 3105-312F 31A0-31BF 31F0-31FF 3400-4DBF 4E00-9FFF A000-A4CF
    A980-A9DF A9E0-A9FF AA60-AA7F AA80-AADF F900-FAFF FF66-FF9F 16FE0-18DFF 1AFF0-1B16F 20000-3FFFF
"""
"""Blocks of scripts without spaces between words, of which only letters count: Thai, Lao, Tibetan,
Myanmar, Khmer, Tai, Balinese, Javanese, Han, kana, Bopomofo, Yi, Tangut."""

_IGNORABLE = """
    AD 34F 61C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF FFA0
    FFF0-FFF8 1BCA0-1BCA3 1D173-1D17A E0000-E0FFF
"""
"""Unicode's property ``Default_Ignorable_Code_Point`` (DerivedCoreProperties.txt, the same from
version 14 to 16): joiners, variation selectors, fillers of Hangul, tags, and reserved codes."""


def _codes(ranges: str) -> Iterable[int]:
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


@cache
def classes() -> np.ndarray:
    """Return the flags of each code point: (2^21,) uint8, read-only. Made once, in 40 ms."""
    table = np.zeros(_CODES, np.uint8)
    codes = np.arange(0x110000, dtype=np.uint32)
    codes[0xD800:0xE000] = 0xFFFD  # surrogates, which UTF-8 has not
    characters = codes.view("U1")
    for flag, test in (
        (SPACE, np.char.isspace),
        (LETTER, np.char.isalpha),
        (DIGIT, np.char.isdecimal),
    ):
        table[: len(codes)][test(characters)] |= flag
    for flag, members in (
        (SYMBOL, _codes(_SYMBOLS)),
        (SYMBOL | TERMINAL, _codes(_TERMINALS)),
        (BREAK, map(ord, _BREAKS)),
    ):
        table[list(members)] |= flag
    unspaced = np.array(list(_codes(_UNSPACED)))
    table[unspaced[table[unspaced] & LETTER > 0]] |= UNSPACED
    return read_only(table)


@cache
def invisible() -> Mapping[int, None]:
    """Return the characters that are not shown, as a table for ``str.translate`` that removes them.

    They are the code points that Unicode lets a display ignore, and all of the category Cf.
    """
    formats = (code for code in range(0x110000) if unicodedata.category(chr(code)) == "Cf")
    return MappingProxyType(dict.fromkeys([*_codes(_IGNORABLE), *formats]))
