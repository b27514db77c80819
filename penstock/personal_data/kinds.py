"""The kinds of personal data and secrets: names, placeholders and definitions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from penstock.errors import RecipeError, did_you_mean

__all__ = ["KINDS", "VERSION", "Kind", "check_kinds"]

VERSION = 1
"""Raised whenever other items would be found in the same text."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of item."""

    placeholder: str
    """The text that masking puts in its place."""
    definition: str


KINDS: Mapping[str, Kind] = {
    "e_mail": Kind(
        "<EMAIL>",
        "A local part of 1 to 64 letters, digits and `._%+-`, which begins with a letter, a digit "
        "or `_`, ends in no dot and has no two dots in a row; `@`; labels of letters, digits and "
        "hyphens with dots between, the last of at least two letters (or `xn--...`) and no suffix "
        "of an image file.",
    ),
    "phone": Kind(
        "<PHONE>",
        "`+`, an assigned calling code and 8 to 15 digits in all (ITU-T E.164), for +1 exactly 11, "
        "in groups with up to two of ` -./()` between; or a number of North America, `(212) "
        "555-0123`, `212-555-0123`, `212.555.0123` or `212 555-0123`, also after `1` and a "
        "separator, whose area and exchange begin with 2 to 9. Other numbers without `+` are not "
        "found.",
    ),
    "ip": Kind(
        "<IP>",
        "A public address of version 4, four numbers of 0 to 255 without leading zeros and of at "
        "least eight digits in all; or a global unicast address of version 6 (2000::/3, RFC 4291) "
        "with eight groups, or with `::` and at least three. Addresses of private, local and "
        "reserved networks and of documentation are not counted (RFC 6890, RFC 3849).",
    ),
    "card_number": Kind(
        "<CARD>",
        "13 to 19 digits of an issuer's range and length (Visa, Mastercard, American Express, "
        "Diners Club, Discover, JCB, UnionPay) with a valid Luhn digit (ISO/IEC 7812-1), without "
        "separators or in the groups of a card with single spaces or hyphens, not after `/`.",
    ),
    "iban": Kind(
        "<IBAN>",
        "Country, check digits and account of the country's length in capitals, without spaces or "
        "in groups of four, whose remainder by 97 is 1 (ISO 13616, ISO 7064).",
    ),
    "key_like": Kind(
        "<KEY>",
        "Access keys and tokens by prefix and length: AWS (`AKIA`, `ASIA`), GitHub, GitLab, Slack, "
        "OpenAI and Anthropic (`sk-`), Hugging Face (`hf_`), Google (`AIza`), Stripe and npm; JSON "
        "web tokens; and private keys in PEM (RFC 7468), from `-----BEGIN` to `-----END`, or the "
        "first line where that is missing.",
    ),
}
"""Each kind, in the order of the columns."""


def check_kinds(kinds: Iterable[str], key: str | None = "kinds") -> tuple[str, ...]:
    """Return kinds in the order of :data:`KINDS`.

    Raises:
        RecipeError: One is unknown, or there is none.
    """
    wanted = set(kinds)
    for kind in sorted(wanted - KINDS.keys()):
        fix = did_you_mean(kind, KINDS).lstrip("; ")
        raise RecipeError(f"unknown kind `{kind}`", key=key, fix=fix)
    if not wanted:
        raise RecipeError(key=key, expected=f"some of {', '.join(KINDS)}", got="none")
    return tuple(kind for kind in KINDS if kind in wanted)
