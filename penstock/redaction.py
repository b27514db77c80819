"""Secrets in texts from elsewhere, masked before the texts are shown, logged or stored.

A server may repeat the key that it was sent, and not as it was sent: with escapes of JSON, of URLs
or of HTML, or within a base64 of the whole header. :class:`Secret` finds a secret in which every
character has any of these forms. Addresses carry secrets, too (:func:`mask_addresses`), and so do
settings that are stored or shown (:func:`mask_values`).
"""

from __future__ import annotations

import base64
import html.entities
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from typing import Any

__all__ = ["Secret", "mask_addresses", "mask_values"]

_MASK = "***"

_SHORTEST = 8
"""Characters of a base64 or hexadecimal form that is looked for; fewer occur by chance."""

_SPELLED = 64
"""Characters for each byte of a secret, at most: those of base64, each with its longest escape."""

_NAMED: dict[str, list[str]] = defaultdict(list)
"""Names of HTML's characters, such as ``lowbar`` for ``_``."""
for _name, _character in html.entities.html5.items():
    _NAMED[_character].append(_name.rstrip(";"))

_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s\"'<>]+")

_USER = re.compile(r"(?<=://)[^/@?#]+@")

_PARAMETER = re.compile(
    r"(?i)(?<=[?&;])"
    r"([a-z0-9_.-]*(?:signature|credential|token|secret|password|passwd|api-?_?key|access-?_?key"
    r"|accesskeyid)[a-z0-9_.-]*|sig|key|auth|pwd)=[^&;#]+"
)
"""Parameters of addresses that grant access, those of presigned ones among them."""

_KEY = re.compile(
    r"(?i)(.*[._-])?(api-?_?keys?|access-?_?keys?|secrets?(-?_?keys?)?|private-?_?keys?|passwords?"
    r"|passwd|credentials?|(auth|access|api|bearer|hf|hub|session|security)-?_?tokens?)"
)
"""Keys of settings whose values are secrets; ``key_variable`` and ``eos_token`` are none."""


class Secret:
    """A secret to find in texts.

    Args:
        value: The secret; an empty one is never found.
    """

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "<Secret>"

    def mask(self, text: str) -> str:
        """Replace the secret in each of its forms by ``***``, in time linear in the text."""
        return self._pattern.sub(_MASK, text) if self._value else text

    @property
    def longest(self) -> int:
        """Characters that a form of the secret has, at most."""
        return _SPELLED * len(self._value.encode("utf-8", "surrogatepass"))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        value = self._value.encode("utf-8", "surrogatepass")
        forms = [_spelled(self._value)]
        for encoded in sorted(set(_base64_forms(value)), key=len, reverse=True):
            # Up to two characters beside it are made of bits of the secret and of others.
            rest = "[A-Za-z0-9+/_-]{0,2}"
            forms.append(f"{rest}{_spelled(encoded)}{rest}={{0,2}}")
        if len(value.hex()) >= _SHORTEST:
            forms.append(f"(?i:{value.hex()})")
        return re.compile("|".join(forms))


def mask_addresses(text: str) -> str:
    """Mask users and passwords, and the signatures and tokens of presigned addresses, in a text."""

    def masked(address: re.Match[str]) -> str:
        without = _USER.sub(f"{_MASK}@", address[0], count=1)
        return _PARAMETER.sub(lambda one: f"{one[1]}={_MASK}", without)

    return _ADDRESS.sub(masked, text) if "://" in text else text


def mask_values(tree: Any) -> Any:
    """Return plain data in which texts under keys such as ``api_key`` and ``password`` are masked.

    A parameter of a user's own function may be a secret, and settings are stored beside results.
    """
    if isinstance(tree, Mapping):
        return {
            key: _MASK
            if isinstance(value, str) and value and _KEY.fullmatch(str(key))
            else mask_values(value)
            for key, value in tree.items()
        }
    return [mask_values(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def _spelled(text: str) -> str:
    """Return a pattern of a text in which each character may be escaped, also more than once.

    Every repetition is bounded, so that a run of backslashes costs linear time.
    """
    return "".join(map(_character_pattern, text))


def _character_pattern(character: str) -> str:
    code = ord(character)
    units = character.encode("utf-16-be", "surrogatepass").hex()
    pairs = [units[at : at + 4] for at in range(0, len(units), 4)]
    data = character.encode("utf-8", "surrogatepass").hex()
    octets = [data[at : at + 2] for at in range(0, len(data), 2)]
    names = "|".join(map(re.escape, sorted(_NAMED.get(character, ()), key=len, reverse=True)))
    amp = "&(?:amp;){0,4}"
    return (
        rf"(?:\\{{0,8}}{re.escape(character)}"
        + "|"
        + "".join(rf"\\{{1,8}}(?i:u{unit})" for unit in pairs)
        + "|"
        + "".join(rf"(?i:(?:\\{{1,8}}x|%(?:25){{0,4}}|=){octet})" for octet in octets)
        + rf"|\\{{1,8}}(?i:u\{{0{{0,6}}{code:x}\}})"
        + rf"|{amp}(?i:#0{{0,6}}{code}|#x0{{0,6}}{code:x});?"
        + (f"|{amp}(?:{names});?" if names else "")
        + ")"
    )


def _base64_forms(value: bytes) -> list[str]:
    """Return the characters that a secret alone decides, of each place in a longer base64."""
    forms = []
    for offset in range(3):
        first, last = -(-8 * offset // 6), 8 * (offset + len(value)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found = encode(bytes(offset) + value).decode()[first:last]
            if len(found) >= _SHORTEST:
                forms.append(found)
    return forms
