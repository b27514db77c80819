"""Find cards, IBANs and telephone numbers: see ``KINDS``."""

# mypy: disable-error-code="no-any-return, assignment, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers not int)

from __future__ import annotations

import numpy as np

from penstock.arrow_text import read_only
from penstock.compiling import compiler
from penstock.personal_data import tables
from penstock.personal_data.tables import (
    ALNUM,
    CLASSES,
    DIGIT,
    IN_CARDS,
    IN_PHONES,
    JOINS_LEFT,
    JOINS_RIGHT,
    UPPER,
    WORD,
)

__all__ = ["find_card", "find_iban", "find_international", "find_north_american"]

_compiled = compiler(tables)

_SPACE, _HYPHEN, _SLASH, _PLUS = np.uint8(32), np.uint8(45), np.uint8(47), np.uint8(43)
_OPEN, _CLOSE = np.uint8(40), np.uint8(41)
_NONE, _AT, _ZERO, _ONE, _TWO = np.uint8(0), np.uint8(64), np.uint8(48), np.uint8(49), np.uint8(50)
_SHORTEST_CARD, _LONGEST_CARD = 13, 19
_ANY_DIGIT, _TO_NINE = np.uint8(ord("0")), np.uint8(ord("2"))


def _shapes(*shapes: str) -> np.ndarray:
    """Pack shapes, padded with zeros: ``0`` is any digit, ``2`` one of 2 to 9."""
    table = np.zeros((len(shapes), 14), np.uint8)
    for number, shape in enumerate(shapes):
        table[number, : len(shape)] = list(shape.encode())
    return read_only(table)


_SHAPES = _shapes(
    "200-200-0000",
    "200.200.0000",
    "200 200-0000",
    "(200) 200-0000",
    "(200) 200.0000",
    "(200) 200 0000",
    "(200)200-0000",
    "(200)200.0000",
    "(200)200 0000",
)
_LEAST_PHONE, _MOST_PHONE = 8, 15


@_compiled
def _is_digit(text: np.ndarray, at: int) -> bool:
    return bool(0 <= at < len(text) and CLASSES[text[at]] & DIGIT != 0)


@_compiled
def _begins(text: np.ndarray, at: int) -> bool:
    """Test that a number does not go on to the left: in a word, or after ``.-+,`` and a digit."""
    if at == 0:
        return True
    before = text[at - 1]
    if CLASSES[before] & WORD:
        return False
    joins = CLASSES[before] & JOINS_LEFT != 0
    return not (joins and at > 1 and CLASSES[text[at - 2]] & WORD)


@_compiled
def _ends(text: np.ndarray, end: int) -> bool:
    """Test that a number does not go on to the right: in a word, or ``.-,/`` and a digit."""
    if end == len(text):
        return True
    after = text[end]
    if CLASSES[after] & WORD or after == _AT:
        return False
    return not (CLASSES[after] & JOINS_RIGHT and _is_digit(text, end + 1))


@_compiled
def find_card(text: np.ndarray, at: int) -> int:
    """Return the end of the card number that begins at a digit, or ``at``."""
    if not _begins(text, at) or (at > 0 and text[at - 1] == _SLASH):  # a name in an address
        return at
    end, place, digits, group, groups, sizes = at, at, 0, 0, 0, 0
    separator = _NONE
    total, doubled, prefix = 0, 0, 0  # Luhn's sums with the last digit as it is, and doubled
    while place < len(text) and digits <= _LONGEST_CARD:
        byte = text[place]
        if CLASSES[byte] & DIGIT:
            value = np.int64(byte - _ZERO)
            twice = 2 * value - (9 if value > 4 else 0)
            total, doubled = doubled + value, total + twice
            if digits < 4:
                prefix = prefix * 10 + value
            digits += 1
            group += 1
            place += 1
            if total % 10 == 0 and digits >= _SHORTEST_CARD and not _is_digit(text, place):
                grouped = groups == 0 or _is_grouped(sizes * 32 + group, groups + 1)
                if grouped and _is_issued(prefix, digits) and _ends(text, place):
                    end = place
            continue
        separates = CLASSES[byte] & IN_CARDS and separator in (_NONE, byte)
        if not separates or not _is_digit(text, place + 1) or groups > 3:
            break
        separator = byte
        sizes = sizes * 32 + group
        group, groups = 0, groups + 1
        place += 1
    return end


@_compiled
def _is_grouped(sizes: int, groups: int) -> bool:
    """Test for 4-6-5, 4-6-4, or fours of which the last may be shorter; five bits a group."""
    if groups == 3 and sizes >> 5 == (4 << 5 | 6):
        return bool(sizes & 31 == 5 or sizes & 31 == 4)
    last = sizes & 31
    for _ in range(groups - 1):
        sizes >>= 5
        if sizes & 31 != 4:
            return False
    return bool(1 <= last <= 4 and groups >= 4)


@_compiled
def _is_issued(prefix: int, digits: int) -> bool:
    """Test the first four digits and the length against the ranges of issuers."""
    two = prefix // 100
    if prefix >= 4000 and prefix < 5000:  # Visa
        return digits in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= prefix <= 2720:  # Mastercard
        return digits == 16
    if two in (34, 37):  # American Express
        return digits == 15
    if two in (36, 38, 39) or 3000 <= prefix <= 3059:  # Diners Club
        return digits == 14
    # Discover, JCB, UnionPay
    others = prefix == 6011 or 6440 <= prefix <= 6599 or 3528 <= prefix <= 3589 or two == 62
    return bool(others and 16 <= digits <= _LONGEST_CARD)


@_compiled
def find_iban(text: np.ndarray, at: int, lengths: np.ndarray) -> int:
    """Return the end of the IBAN whose check digits begin at ``at``, or ``at``."""
    if at < 2 or (at > 2 and CLASSES[text[at - 3]] & WORD) or not _is_digit(text, at + 1):
        return at
    if not (CLASSES[text[at - 2]] & UPPER and CLASSES[text[at - 1]] & UPPER):
        return at
    length = lengths[np.int64(text[at - 2] - 65) * 26 + np.int64(text[at - 1] - 65)]
    end = _end_of_account(text, at + 2, np.int64(length))
    if length == 0 or end == 0:
        return at
    remainder = 0
    for place in range(at + 2, end):
        if text[place] != _SPACE:
            remainder = _modulo(remainder, text[place])
    for place in range(at - 2, at + 2):
        remainder = _modulo(remainder, text[place])
    return end if remainder == 1 else at


@_compiled
def _end_of_account(text: np.ndarray, start: int, length: int) -> int:
    """Return the end of the characters after the check digits, with or without spaces, or 0."""
    place = start
    spaced = place < len(text) and text[place] == _SPACE
    for number in range(4, length):
        if spaced and number % 4 == 0:
            if place == len(text) or text[place] != _SPACE:
                return 0
            place += 1
        if place == len(text) or not CLASSES[text[place]] & (DIGIT | UPPER):
            return 0
        place += 1
    return 0 if place < len(text) and CLASSES[text[place]] & WORD else place


@_compiled
def _modulo(remainder: int, byte: int) -> int:
    """Append a character to a number modulo 97; A is 10, Z is 35."""
    if CLASSES[byte] & DIGIT:
        return (remainder * 10 + np.int64(byte) - 48) % 97
    return (remainder * 100 + np.int64(byte) - 55) % 97


@_compiled
def find_international(text: np.ndarray, at: int, codes: np.ndarray) -> int:
    """Return the end of the telephone number that begins with the ``+`` at ``at``, or ``at``."""
    if at > 0 and (CLASSES[text[at - 1]] & WORD or text[at - 1] == _PLUS):
        return at
    place, digits, code, end = at + 1, 0, 0, at
    north_american = False
    while place < len(text):
        byte = text[place]
        if CLASSES[byte] & DIGIT:
            if digits < 3:
                code = code * 10 + np.int64(byte - _ZERO)
            north_american = byte == _ONE if digits == 0 else north_american
            digits += 1
            place += 1
            most = 11 if north_american else _MOST_PHONE
            if digits > most:
                break
            least = 11 if north_american else _LEAST_PHONE
            if digits >= least and not _is_digit(text, place):
                end = place
            continue
        between = 0
        while (
            between < 2
            and place + between < len(text)
            and CLASSES[text[place + between]] & IN_PHONES
        ):
            between += 1
        if between == 0 or not _is_digit(text, place + between):
            break
        place += between
    if end == at or not codes[code] or text[at + 1] == _ZERO:
        return at
    return end if _ends_phone(text, end) else at


@_compiled
def _is_in_phones(text: np.ndarray, at: int) -> bool:
    return bool(at < len(text) and CLASSES[text[at]] & IN_PHONES != 0)


@_compiled
def _ends_phone(text: np.ndarray, end: int) -> bool:
    return bool(end == len(text) or not (CLASSES[text[end]] & WORD or text[end] == _AT))


@_compiled
def find_north_american(text: np.ndarray, at: int) -> int:
    """Return the end of the number that begins at a digit or ``(``, or ``at``."""
    if not _begins(text, at) or (at > 0 and text[at - 1] == _SLASH):
        return at
    start = at
    if text[at] == _ONE and _is_in_phones(text, at + 1) and text[at + 1] != _CLOSE:
        start += 1 if text[at + 1] == _OPEN else 2
    for shape in range(len(_SHAPES)):
        if _has_shape(text, start, _SHAPES[shape]):
            end = start + len(_SHAPES[shape])
            while _SHAPES[shape, end - start - 1] == 0:
                end -= 1
            if _ends(text, end) and not _ends_in_hyphen(text, end):
                return end
    return at


@_compiled
def _has_shape(text: np.ndarray, start: int, shape: np.ndarray) -> bool:
    for place in range(len(shape)):
        wanted = shape[place]
        if wanted == 0:
            return True
        if start + place == len(text):
            return False
        byte = text[start + place]
        if wanted in (_ANY_DIGIT, _TO_NINE):
            if not CLASSES[byte] & DIGIT or (wanted == _TO_NINE and byte < _TWO):
                return False
        elif wanted != byte:
            return False
    return True


@_compiled
def _ends_in_hyphen(text: np.ndarray, end: int) -> bool:
    """Test for a hyphen and a letter: part of a name, such as that of a product."""
    return bool(
        end + 1 < len(text) and text[end] == _HYPHEN and CLASSES[text[end + 1]] & ALNUM != 0
    )
