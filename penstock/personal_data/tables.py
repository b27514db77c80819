"""Tables that the compiled loops look up: classes of bytes, countries, prefixes of keys."""

from __future__ import annotations

import string
from functools import cache
from typing import NamedTuple

import numpy as np

from penstock.arrow_text import read_only

__all__ = [
    "ALNUM",
    "BASE64URL",
    "CLASSES",
    "DIGIT",
    "HEX",
    "IN_CARDS",
    "IN_PHONES",
    "JOINS_LEFT",
    "JOINS_RIGHT",
    "LETTER",
    "LOCAL",
    "UPPER",
    "WORD",
    "LookUps",
    "TokenTable",
    "tables",
]

LETTER, DIGIT, HEX, UPPER = np.uint16(1), np.uint16(2), np.uint16(4), np.uint16(8)
ALNUM, WORD = np.uint16(LETTER | DIGIT), np.uint16(64)
LOCAL, BASE64URL = np.uint16(16), np.uint16(32)
JOINS_LEFT, JOINS_RIGHT = np.uint16(128), np.uint16(256)
IN_CARDS, IN_PHONES = np.uint16(512), np.uint16(1024)

_SETS = {
    LETTER: string.ascii_letters,
    DIGIT: string.digits,
    HEX: string.hexdigits,
    UPPER: string.ascii_uppercase,
    LOCAL: string.ascii_letters + string.digits + "._%+-",
    BASE64URL: string.ascii_letters + string.digits + "-_",
    WORD: string.ascii_letters + string.digits + "_",
    JOINS_LEFT: ".-+,",
    JOINS_RIGHT: ".-,/",
    IN_CARDS: " -",
    IN_PHONES: " -./()",
}
"""Characters of each class. Others of UTF-8 are in none, and so end every item."""


def _classes() -> np.ndarray:
    table = np.zeros(256, np.uint16)
    for flag, members in _SETS.items():
        table[list(members.encode())] |= flag
    return read_only(table)


CLASSES = _classes()
"""(256,) uint16: the flags of each byte."""

_IBAN_LENGTHS = """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18
    DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23
    IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27
    MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19
    SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
"""Characters of an IBAN by country: SWIFT's IBAN registry, release 99."""

_CALLING_CODES = """
    1 7 20 211 212 213 216 218 22 23 24 250 251 252 253 254 255 256 257 258 260 261 262 263 264
    265 266 267 268 269 27 290 291 297 298 299 30 31 32 33 34 350 351 352 353 354 355 356 357
    358 359 36 370 371 372 373 374 375 376 377 378 380 381 382 383 385 386 387 389 39 40 41 420
    421 423 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 590 591 592 593 594 595 596 597 598
    599 60 61 62 63 64 65 66 670 672 673 674 675 676 677 678 679 68 690 691 692 800 808 81 82 84
    850 852 853 855 856 86 870 878 880 881 882 883 886 888 90 91 92 93 94 95 960 961 962 963 964
    965 966 967 968 970 971 972 973 974 975 976 977 979 98 992 993 994 995 996 998
"""
"""Prefixes of assigned calling codes: ITU-T E.164, list of 2016; of full zones the zone."""

_TOKENS: tuple[tuple[str, int, np.uint16, int, int], ...] = (
    ("AKIA", 1, ALNUM, 16, 16),
    ("ASIA", 1, ALNUM, 16, 16),
    ("AIza", 3, BASE64URL, 35, 35),
    ("ghp_", 3, ALNUM, 36, 255),
    ("gho_", 3, ALNUM, 36, 255),
    ("ghu_", 3, ALNUM, 36, 255),
    ("ghs_", 3, ALNUM, 36, 255),
    ("ghr_", 3, ALNUM, 36, 255),
    ("github_pat_", 6, WORD, 82, 82),
    ("glpat-", 5, BASE64URL, 20, 255),
    ("xoxa-", 4, BASE64URL, 20, 255),
    ("xoxb-", 4, BASE64URL, 20, 255),
    ("xoxe-", 4, BASE64URL, 20, 255),
    ("xoxp-", 4, BASE64URL, 20, 255),
    ("xoxr-", 4, BASE64URL, 20, 255),
    ("xoxs-", 4, BASE64URL, 20, 255),
    ("sk-proj-", 2, BASE64URL, 40, 255),
    ("sk-svcacct-", 2, BASE64URL, 40, 255),
    ("sk-ant-", 2, BASE64URL, 40, 255),
    ("sk-", 2, ALNUM, 48, 48),
    ("hf_", 2, ALNUM, 34, 34),
    ("sk_live_", 2, ALNUM, 24, 255),
    ("rk_live_", 2, ALNUM, 24, 255),
    ("npm_", 3, ALNUM, 36, 36),
)
"""Prefix, place of its rarest character, class of the characters after it, how many at least and
at most. All but ``hf_`` need a digit among them; AWS's have no small letter."""


class TokenTable(NamedTuple):
    """Prefixes of tokens, padded with zeros; ``t`` of them."""

    letters: np.ndarray  # (t, 16) uint8
    lengths: np.ndarray  # (t,) int64
    places: np.ndarray  # (t,) int64, of the rarest character
    members: np.ndarray  # (t,) uint16, the class of the characters after the prefix
    least: np.ndarray  # (t,) int64
    most: np.ndarray  # (t,) int64
    by_byte: np.ndarray  # (256,) uint32: bit k where a byte is the rarest character of prefix k


class LookUps(NamedTuple):
    """All tables, read-only."""

    triggers: np.ndarray  # (256,) bool: bytes at which an item may be found
    iban_lengths: np.ndarray  # (676,) uint8, by country, 0 where there is none
    calling_codes: np.ndarray  # (1000,) bool: whether three digits begin with an assigned code
    tokens: TokenTable


@cache
def tables() -> LookUps:
    """Return the tables."""
    triggers = np.zeros(256, np.bool_)
    triggers[list(b"@+(0123456789")] = True
    tokens = _token_table()
    triggers |= tokens.by_byte != 0
    triggers[list(b"J-")] = True  # of JSON web tokens and PEM
    lengths = np.zeros(26 * 26, np.uint8)
    for country in _IBAN_LENGTHS.split():
        lengths[(ord(country[0]) - 65) * 26 + ord(country[1]) - 65] = int(country[2:])
    codes = np.zeros(1000, np.bool_)
    for code in _CALLING_CODES.split():
        first = int(code.ljust(3, "0"))
        codes[first : first + 10 ** (3 - len(code))] = True
    return LookUps(read_only(triggers), read_only(lengths), read_only(codes), tokens)


def _token_table() -> TokenTable:
    letters = np.zeros((len(_TOKENS), 16), np.uint8)
    by_byte = np.zeros(256, np.uint32)
    for number, (prefix, place, *_) in enumerate(_TOKENS):
        letters[number, : len(prefix)] = list(prefix.encode())
        by_byte[ord(prefix[place])] |= np.uint32(1 << number)
    columns = list(zip(*_TOKENS))
    return TokenTable(
        read_only(letters),
        read_only(np.array([len(prefix) for prefix in columns[0]])),
        read_only(np.array(columns[1])),
        read_only(np.array(columns[2], np.uint16)),
        read_only(np.array(columns[3])),
        read_only(np.array(columns[4])),
        read_only(by_byte),
    )
