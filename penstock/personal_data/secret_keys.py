"""Find keys and tokens by their prefix: see ``KINDS["key_like"]``."""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

import numpy as np

from penstock.compiling import compiler
from penstock.personal_data import tables
from penstock.personal_data.tables import BASE64URL, CLASSES, DIGIT, LETTER, UPPER, TokenTable

__all__ = ["find_private_key", "find_token", "find_web_token"]

_compiled = compiler(tables)

_DOT, _HYPHEN, _SPACE = np.uint8(46), np.uint8(45), np.uint8(32)
_SEGMENT = 10
"""Characters of each of the three parts of a JSON web token, at least."""

_BEGIN, _END, _KEY = b"-----BEGIN ", b"-----END ", b"PRIVATE KEY"
_LONGEST_TITLE = 40


@_compiled
def _equals(text: np.ndarray, at: int, word: bytes) -> bool:
    if at + len(word) > len(text):
        return False
    equal = True
    for place in range(len(word)):
        equal &= text[at + place] == word[place]
    return equal


@_compiled
def find_token(text: np.ndarray, at: int, tokens: TokenTable) -> tuple[int, int]:
    """Return begin and end of the token whose prefix's rarest character is at ``at``."""
    candidates = tokens.by_byte[text[at]]
    for number in range(len(tokens.lengths)):
        if candidates >> np.uint32(number) & np.uint32(1):
            begin = at - tokens.places[number]
            end = _end_of_token(text, begin, number, tokens)
            if end > begin:
                return begin, end
    return at, at


@_compiled
def _end_of_token(text: np.ndarray, begin: int, number: int, tokens: TokenTable) -> int:
    length = tokens.lengths[number]
    if begin < 0 or begin + length > len(text):
        return begin
    for place in range(length):
        if text[begin + place] != tokens.letters[number, place]:
            return begin
    if begin > 0 and CLASSES[text[begin - 1]] & BASE64URL:
        return begin
    place, members = begin + length, tokens.members[number]
    digits, small = 0, 0
    while place < len(text) and CLASSES[text[place]] & members:
        kind = CLASSES[text[place]]
        digits += (kind & DIGIT) != 0
        small += (kind & LETTER) != 0 and (kind & UPPER) == 0
        place += 1
    least, most = tokens.least[number], tokens.most[number]
    right = least <= place - begin - length <= most
    if place < len(text) and CLASSES[text[place]] & BASE64URL:
        return begin
    is_aws = tokens.letters[number, 1] == ord("K") or tokens.letters[number, 1] == ord("S")
    is_hugging_face = tokens.letters[number, 1] == ord("f")
    if (is_aws and small > 0) or (digits == 0 and not is_hugging_face):
        return begin
    return place if right else begin


@_compiled
def find_web_token(text: np.ndarray, at: int) -> tuple[int, int]:
    """Return begin and end of the JSON web token whose first ``J`` is at ``at``.

    Header and payload are JSON objects, which begin with ``eyJ`` in base64.
    """
    begin = at - 2
    if begin < 0 or text[begin] != ord("e") or text[begin + 1] != ord("y"):
        return at, at
    if begin > 0 and (CLASSES[text[begin - 1]] & BASE64URL or text[begin - 1] == _DOT):
        return at, at
    place = begin
    for part in range(3):
        start = place
        while place < len(text) and CLASSES[text[place]] & BASE64URL:
            place += 1
        if place - start < _SEGMENT or (part < 2 and not _equals(text, start, b"eyJ")):
            return at, at
        if part < 2:
            if place == len(text) or text[place] != _DOT:
                return at, at
            place += 1
    return begin, place


@_compiled
def find_private_key(text: np.ndarray, at: int) -> int:
    """Return the end of the private key whose first hyphen is at ``at``, or ``at``.

    The end is that of the ``-----END`` line if five hyphens come next there, and that of the first
    line otherwise. So every byte is looked at once for each line of hyphens before it.
    """
    if at > 0 and text[at - 1] == _HYPHEN:
        return at
    if not _equals(text, at, _BEGIN):
        return at
    end = _end_of_title(text, at + len(_BEGIN))
    if end == 0:
        return at
    place = end
    while place < len(text) and not _equals(text, place, b"-----"):
        place += 1
    if _equals(text, place, _END):
        last = _end_of_title(text, place + len(_END))
        if last > 0:
            return last
    return end


@_compiled
def _end_of_title(text: np.ndarray, start: int) -> int:
    """Return the end of ``RSA PRIVATE KEY-----`` or ``PRIVATE KEY BLOCK-----``, or 0."""
    found = False
    for place in range(start, min(start + _LONGEST_TITLE, len(text))):
        if text[place] == _HYPHEN:
            return place + 5 if found and _equals(text, place, b"-----") else 0
        if not (CLASSES[text[place]] & (UPPER | DIGIT) or text[place] == _SPACE):
            return 0
        found |= _equals(text, place, _KEY)
    return 0
