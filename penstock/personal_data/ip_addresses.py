"""Find an IP address that begins at a digit: see ``KINDS["ip"]``."""

# mypy: disable-error-code="no-any-return, assignment, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers not int)

from __future__ import annotations

import numpy as np

from penstock.compiling import compiler
from penstock.personal_data import tables
from penstock.personal_data.tables import ALNUM, CLASSES, DIGIT, HEX, LETTER, WORD

__all__ = ["find_ip"]

_compiled = compiler(tables)

_DOT, _COLON, _HYPHEN = np.uint8(ord(".")), np.uint8(ord(":")), np.uint8(ord("-"))
_ZERO = np.uint8(ord("0"))
_FEWEST_DIGITS = 8
"""Digits of an address of version 4. Section numbers have fewer, and so do 1.2 % of addresses."""


@_compiled
def find_ip(text: np.ndarray, at: int) -> int:
    """Return the end of the address that begins at a digit, or ``at``."""
    colon = at > 0 and text[at - 1] == _COLON
    if at > 0 and not colon and (CLASSES[text[at - 1]] & WORD or text[at - 1] == _DOT):
        return at
    if not colon:
        end = _find_version_6(text, at)
        if end > at:
            return end
    # In `ip:93.184.216.34` an address begins after the colon, in `10:93.184.216.34` none.
    if colon and (at == 1 or not CLASSES[text[at - 2]] & LETTER):
        return at
    return _find_version_4(text, at)


@_compiled
def _find_version_4(text: np.ndarray, at: int) -> int:
    place, packed, all_digits = at, 0, 0
    for number in range(4):
        if number > 0:
            if place == len(text) or text[place] != _DOT:
                return at
            place += 1
        begin, value = place, 0
        while place < len(text) and CLASSES[text[place]] & DIGIT and place - begin < 4:
            value = value * 10 + np.int64(text[place] - _ZERO)
            place += 1
        digits = place - begin
        if digits == 0 or value > 255 or (digits > 1 and text[begin] == _ZERO):
            return at
        all_digits += digits
        packed = packed << 8 | value
    if all_digits < _FEWEST_DIGITS or _continues(text, place) or not _is_public(packed):
        return at
    return place


@_compiled
def _continues(text: np.ndarray, end: int) -> bool:
    """Test whether a number goes on: as a word, ``.5``, or a version such as ``-beta``."""
    if end == len(text):
        return False
    if CLASSES[text[end]] & WORD:
        return True
    more = end + 1 < len(text)
    if text[end] == _DOT:
        return bool(more and CLASSES[text[end + 1]] & DIGIT != 0)
    return bool(more and text[end] == _HYPHEN and CLASSES[text[end + 1]] & LETTER != 0)


@_compiled
def _is_public(packed: int) -> bool:
    """Test an address of version 4 against the networks of RFC 6890."""
    first, two, three = packed >> 24, packed >> 16, packed >> 8
    if first in (0, 10, 127) or first >= 224:
        return False
    if two in (0xA9FE, 0xC0A8) or 0xAC10 <= two <= 0xAC1F:  # 169.254, 192.168, 172.16 to 172.31
        return False
    if 0x6440 <= two <= 0x647F or 0xC612 <= two <= 0xC613:  # 100.64 to 100.127, 198.18, 198.19
        return False
    # 192.0.0, 192.0.2, 198.51.100 and 203.0.113
    return three not in (0xC00000, 0xC00002, 0xC63364, 0xCB0071)


@_compiled
def _find_version_6(text: np.ndarray, at: int) -> int:
    if text[at] != ord("2") and text[at] != ord("3"):
        return at
    place, groups, gap, packed = at, 0, False, np.int64(0)
    while True:
        begin, value = place, np.int64(0)
        while place < len(text) and CLASSES[text[place]] & HEX and place - begin < 5:
            byte = text[place]
            digit = np.int64(byte & 15) + (9 if CLASSES[byte] & LETTER else 0)
            value = value << 4 | digit
            place += 1
        digits = place - begin
        if digits > 4 or (groups == 0 and digits != 4):
            return at
        if digits == 0:  # after `::` at the end
            break
        groups += 1
        if groups <= 2:
            packed = packed << 16 | value
        if groups == 8 or place == len(text) or text[place] != _COLON:
            break
        if place + 1 < len(text) and text[place + 1] == _COLON:
            if gap:
                return at
            gap = True
            place += 2
        elif place + 1 < len(text) and CLASSES[text[place + 1]] & HEX:
            place += 1
        else:
            break
    whole = groups >= 3 if gap else groups == 8
    ended = place == len(text) or not (CLASSES[text[place]] & ALNUM or text[place] == _COLON)
    documentation = packed == 0x20010DB8
    return place if whole and ended and not documentation else at
