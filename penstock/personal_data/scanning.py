"""Find all items of a text in one pass over its bytes.

Few bytes decide whether there is an item: an ``@``, a ``+``, a ``(``, the first digit of a number,
and the rarest character of each prefix of a key. At these the functions of the other files look
back and ahead. They read a bounded number of bytes, or bytes that no second item can begin in, so
that time is linear in the text. Items do not overlap: of two the one is taken whose deciding byte
comes first.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

import numpy as np

from penstock.compiling import compiler
from penstock.personal_data import e_mails, ip_addresses, numbers, secret_keys, tables
from penstock.personal_data.e_mails import find_e_mail
from penstock.personal_data.ip_addresses import find_ip
from penstock.personal_data.numbers import (
    find_card,
    find_iban,
    find_international,
    find_north_american,
)
from penstock.personal_data.secret_keys import find_private_key, find_token, find_web_token
from penstock.personal_data.tables import ALNUM, CLASSES, DIGIT, UPPER, LookUps

__all__ = ["find_items"]

_compiled = compiler(e_mails, ip_addresses, numbers, secret_keys, tables)

_E_MAIL, _PHONE, _IP, _CARD, _IBAN, _KEY = range(6)

_AT, _PLUS, _OPEN = np.uint8(ord("@")), np.uint8(ord("+")), np.uint8(ord("("))
_J, _HYPHEN = np.uint8(ord("J")), np.uint8(ord("-"))


@_compiled
def _wants(kinds: int, kind: int) -> bool:
    return bool(kinds >> kind & 1)


@_compiled
def _find(text: np.ndarray, at: int, kinds: int, known: LookUps) -> tuple[int, int, int]:
    """Return begin, end and kind of the item that the byte at ``at`` decides; begin = end: none."""
    byte = text[at]
    if CLASSES[byte] & DIGIT:
        return _find_number(text, at, kinds, known)
    begin, end, kind = at, at, _KEY
    if byte == _AT:
        kind = _E_MAIL
        if _wants(kinds, kind):
            begin, end = find_e_mail(text, at)
    elif byte in (_PLUS, _OPEN):
        kind = _PHONE
        if not _wants(kinds, kind):
            return at, at, kind
        if byte == _PLUS:
            end = find_international(text, at, known.calling_codes)
        else:
            end = find_north_american(text, at)
    elif _wants(kinds, kind):
        begin, end = _find_key(text, at, known)
    return begin, end, kind


@_compiled
def _find_key(text: np.ndarray, at: int, known: LookUps) -> tuple[int, int]:
    if text[at] == _J:
        return find_web_token(text, at)
    if text[at] == _HYPHEN:
        end = find_private_key(text, at)
        if end > at:
            return at, end
    return find_token(text, at, known.tokens)


@_compiled
def _find_number(text: np.ndarray, at: int, kinds: int, known: LookUps) -> tuple[int, int, int]:
    """Find what begins at a digit; of an IBAN the check digits do."""
    if at > 0 and CLASSES[text[at - 1]] & ALNUM:
        if _wants(kinds, _IBAN) and CLASSES[text[at - 1]] & UPPER:
            end = find_iban(text, at, known.iban_lengths)
            if end > at:
                return at - 2, end, _IBAN
        return at, at, _IBAN
    if _wants(kinds, _CARD):
        end = find_card(text, at)
        if end > at:
            return at, end, _CARD
    if _wants(kinds, _IP):
        end = find_ip(text, at)
        if end > at:
            return at, end, _IP
    if _wants(kinds, _PHONE):
        return at, find_north_american(text, at), _PHONE
    return at, at, _PHONE


@_compiled
def find_items(
    data: np.ndarray,
    offsets: np.ndarray,
    kinds: int,
    known: LookUps,
    counts: np.ndarray,
    items: np.ndarray,
) -> int:
    """Count the items of each text, and write them as far as there is room.

    Args:
        data: UTF-8 of all texts.
        offsets: (n + 1,) int64.
        kinds: Bit ``k`` is set where kind ``k`` of ``KINDS`` is wanted.
        known: Tables to look up in.
        counts: (n, 6) uint32, the counts by kind, the result.
        items: (m, 3) int64, begin and end in ``data``, and kind, in order; the result.

    Returns:
        The number of all items.
    """
    total = 0
    for row in range(len(counts)):
        text = data[offsets[row] : offsets[row + 1]]
        counts[row, :] = 0
        at, floor = 0, 0
        while at < len(text):
            if not known.triggers[text[at]]:
                at += 1
                continue
            begin, end, kind = _find(text, at, kinds, known)
            if not end > begin >= floor:
                at += 1
                continue
            counts[row, kind] += np.uint32(1)
            if total < len(items):
                items[total, 0] = offsets[row] + begin
                items[total, 1] = offsets[row] + end
                items[total, 2] = kind
            total += 1
            floor = end
            at = end
    return total
