"""Mutations of bytes, drawn by a seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

__all__ = ["MOST", "TOKENS", "mutated"]

MOST = 2**18
"""Bytes of an input, at most."""

TOKENS = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r\n", b"\r", b'"', b"'", b",", b"\t", b"\\"),
    *(b"[", b"]", b"{", b"}", b":", b"null", b"NaN", b"-Infinity", b"1e999", b"\\ud800", b"-0"),
    *(b"<", b">", b"&#x110000;", b"<!--", b"</p>", b"<script>", b"<![CDATA[", b"&amp;"),
    *(b"WARC/1.0\r\n", b"Content-Length: ", b"\r\n\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"&a ", b"*a", b"<<: ", b"!!int ", b"? ", b"- ", b"---\n", b"%YAML 9.9\n", b"|\n ", b">-\n"),
    *(b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"),
    *(b"language == 'en'", b" and ", b" not ", b"(", b")", b"meta.a.b", b" in ", b"number("),
    *("\u202e".encode(), "é".encode(), b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"),
    *(b"9" * 25, b"-9223372036854775809", b"18446744073709551616", b"3000000000", b"2147483648"),
]
"""Words and marks of the formats."""

_NUMBERS = [0, 1, -1, 127, 128, 255, 2**15, 2**16, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**62]
_KINDS = ["<i", "<I", "<q", "<Q", ">I", "<H", "<B"]


def _flip(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _set(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(len(content))] = chance.choice([0, 1, 127, 128, 255, 10, 34])


def _cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def _remove(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    del content[start : start + chance.choice([1, 2, 4, 8, 100])]


def _repeat(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    part = content[start : start + chance.choice([1, 2, 8, 64, 512])]
    content[start:start] = part * chance.choice([1, 2, 50, 2000])


def _number(content: bytearray, chance: random.Random) -> None:
    kind = chance.choice(_KINDS)
    size = struct.calcsize(kind)
    start = chance.randrange(len(content))
    number = chance.choice(_NUMBERS) + chance.choice([0, 0, 1, -1])
    content[start : start + size] = (number % (1 << 8 * size)).to_bytes(
        size, "big" if kind[0] == ">" else "little"
    )


def _token(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    token = chance.choice(TOKENS) * chance.choice([1, 1, 1, 3, 300])
    content[start : start + chance.choice([0, 0, len(token)])] = token


def _digits(content: bytearray, chance: random.Random) -> None:
    """Replace a run of digits, where there is one, by another number."""
    places = [at for at, byte in enumerate(content) if 48 <= byte <= 57]
    if places:
        start = end = chance.choice(places)
        while end < len(content) and 48 <= content[end] <= 57:
            end += 1
        content[start:end] = str(chance.choice(_NUMBERS)).encode()


_WAYS: list[Callable[[bytearray, random.Random], None]] = [
    *(_flip, _flip, _set, _cut, _remove, _repeat, _number, _number, _token, _token, _digits),
]


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Take a seed, sometimes the halves of two, and change it up to eight times.

    Args:
        seeds: Sound inputs.
        chance: The source of all draws.
    """
    content = bytearray(chance.choice(seeds))
    if chance.random() < 0.15:
        other = chance.choice(seeds)
        start = chance.randrange(len(content) + 1)
        content[start:] = other[chance.randrange(len(other) + 1) :]
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3, 5, 8])):
        if content:
            chance.choice(_WAYS)(content, chance)
    return bytes(content[:MOST])
