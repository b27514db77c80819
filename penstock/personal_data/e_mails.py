"""Find an e-mail address around an ``@``: see ``KINDS["e_mail"]``."""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's booleans bool)

from __future__ import annotations

import numpy as np

from penstock.arrow_text import read_only
from penstock.compiling import compiler
from penstock.personal_data import tables
from penstock.personal_data.tables import ALNUM, CLASSES, LETTER, LOCAL

__all__ = ["find_e_mail"]

_compiled = compiler(tables)

_AT, _DOT, _HYPHEN = np.uint8(ord("@")), np.uint8(ord(".")), np.uint8(ord("-"))
_UNDERSCORE = np.uint8(ord("_"))
_LOCAL_LENGTH, _LABEL_LENGTH, _DOMAIN_LENGTH = 64, 63, 255

_IMAGES = ("png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "ico")
"""Suffixes of names such as ``logo@2x.png``; none is a top-level domain."""


def _packed(word: str) -> int:
    return int.from_bytes(word.encode(), "big")


_SUFFIXES = read_only(np.array([_packed(word) for word in _IMAGES], np.uint64))


@_compiled
def find_e_mail(text: np.ndarray, at: int) -> tuple[int, int]:
    """Return begin and end of the address whose ``@`` is at ``at``; equal if there is none."""
    begin = at
    while begin > 0 and CLASSES[text[begin - 1]] & LOCAL:
        begin -= 1
        if at - begin > _LOCAL_LENGTH:
            return at, at
    while begin < at and not (CLASSES[text[begin]] & ALNUM or text[begin] == _UNDERSCORE):
        begin += 1
    if begin == at or text[at - 1] == _DOT:
        return at, at
    for place in range(begin, at - 1):
        if text[place] == _DOT and text[place + 1] == _DOT:
            return at, at
    end = _end_of_domain(text, at + 1)
    return (begin, end) if end > 0 else (at, at)


@_compiled
def _end_of_domain(text: np.ndarray, start: int) -> int:
    """Return the end of the longest domain that begins here, or 0."""
    end, labels, place = 0, 0, start
    while place < len(text):
        label = place
        letters = True
        while place < len(text) and (CLASSES[text[place]] & ALNUM or text[place] == _HYPHEN):
            letters &= (CLASSES[text[place]] & LETTER) != 0
            place += 1
            if place - start > _DOMAIN_LENGTH or place - label > _LABEL_LENGTH:
                return 0
        if place == label or text[label] == _HYPHEN or text[place - 1] == _HYPHEN:
            break
        labels += 1
        last = letters and place - label >= 2
        if (last or _is_punycode(text, label, place)) and labels >= 2:
            end = 0 if _is_image(text, label, place) else place
        if place == len(text) or text[place] != _DOT:
            break
        place += 1
    followed = end < len(text) and (text[end] == _AT or text[end] == _UNDERSCORE)
    return 0 if followed else end


@_compiled
def _is_punycode(text: np.ndarray, begin: int, end: int) -> bool:
    return bool(
        end - begin > 4
        and text[begin] | np.uint8(32) == ord("x")
        and text[begin + 1] | np.uint8(32) == ord("n")
        and text[begin + 2] == _HYPHEN
        and text[begin + 3] == _HYPHEN
    )


@_compiled
def _is_image(text: np.ndarray, begin: int, end: int) -> bool:
    if end - begin > 4:
        return False
    packed = np.uint64(0)
    for place in range(begin, end):
        packed = packed << np.uint64(8) | np.uint64(text[place] | np.uint8(32))
    found = False
    for suffix in _SUFFIXES:
        found |= suffix == packed
    return found
