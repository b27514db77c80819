"""Find pages that an HTML parser takes more than linear time or memory for, before it gets them.

A compiled loop divides a page into tags, as a browser does (the HTML standard, section 13.2.5), and
counts what resiliparse 2.0 was measured to be quadratic in: attributes of one tag (18 s for
100,000), open ``div`` and ``article`` elements (1 s for 10,000), and formatting elements that are
not closed: by the standard each paragraph gets a copy of all of them (of equal ones, of three), so
that a page of 50,000 bytes takes all memory. Where they are many, tags of formatting, which have no
text, are replaced by ``<wbr>``. Tags, a few hundred bytes of memory each, have a limit, too.

Contents of scripts and styles are passed over, except in pages with ``svg``, ``math`` or
``select``, where they may be parsed.
"""

# mypy: disable-error-code="no-any-return"
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from penstock.arrow_text import read_only
from penstock.compiling import compiler

__all__ = ["Markup", "bounded", "measure"]

MOST_TAGS = 500_000
MOST_ATTRIBUTES = 2_000
"""Attributes of one tag: 7 ms."""
MOST_DEPTH = 2_000
"""Open ``div`` and ``article`` elements: 40 ms."""
MOST_COPIES = 5_000_000
"""Tags times formatting elements that may be open, from which on those are removed."""

_FORMATTING = (b"b", b"big", b"code", b"em", b"font", b"i", b"nobr", b"s", b"small", b"strike",
               b"strong", b"tt", b"u")  # fmt: skip
_FORMATTING_TAG = re.compile(
    rb"</?(?:%s)(?:[\s/][^>]*)?(?:>|\Z)" % b"|".join(_FORMATTING), re.IGNORECASE
)

_PLAIN, _NESTED, _FORMAT, _ROOT, _RAW, _FOREIGN, _REST = range(7)


def _packed(name: bytes) -> int:
    return int.from_bytes(name.ljust(8, b"\0")[:8], "little") ^ len(name)


_NAMES: dict[int, int] = {
    **dict.fromkeys(map(_packed, (b"div", b"article")), _NESTED),
    **dict.fromkeys(map(_packed, _FORMATTING), _FORMAT),
    **dict.fromkeys(map(_packed, (b"html", b"body")), _ROOT),
    **dict.fromkeys(
        map(_packed, (b"script", b"style", b"textarea", b"title", b"xmp", b"iframe", b"noembed",
                      b"noframes")), _RAW),
    **dict.fromkeys(map(_packed, (b"svg", b"math", b"select", b"frameset")), _FOREIGN),
    _packed(b"plaintext"): _REST,
}  # fmt: skip
_KEYS = read_only(np.array(list(_NAMES), np.uint64))
_KINDS = read_only(np.array(list(_NAMES.values()), np.int64))


class Markup(NamedTuple):
    """Counts of a page."""

    tags: int
    attributes: int
    """Most of one tag; all tags ``body`` and ``html`` count as one."""
    depth: int
    """Most open ``div`` and ``article`` elements, if each end tag closes one."""
    formatting: int
    """Most formatting elements that can be open: those with attributes, and three of each name."""


_inlined = compiler(inlined=True)
_compiled = compiler()


@_inlined
def _is_letter(byte: int) -> bool:
    return 97 <= byte | 32 <= 122


@_inlined
def _is_space(byte: int) -> bool:
    return (byte == 32) | (byte == 9) | (byte == 10) | (byte == 12) | (byte == 13)


@_compiled
def _find(data: np.ndarray, at: int, byte: int) -> int:
    while at < data.shape[0] and data[at] != byte:
        at += 1
    return at


@_compiled
def _skip_comment(data: np.ndarray, at: int) -> int:
    """Return the index behind the comment whose text begins at ``at``, after ``<!--``."""
    size = data.shape[0]
    if at < size and data[at] == 0x3E:  # <!-->
        return at + 1
    if at + 1 < size and data[at] == 0x2D and data[at + 1] == 0x3E:  # <!--->
        return at + 2
    while at < size:
        at = _find(data, at, 0x2D)
        if at + 2 < size and data[at + 1] == 0x2D:
            if data[at + 2] == 0x3E:
                return at + 3
            if data[at + 2] == 0x21 and at + 3 < size and data[at + 3] == 0x3E:
                return at + 4
        at += 1
    return size


@_compiled
def _skip_attributes(data: np.ndarray, at: int) -> tuple[int, int]:
    """Return the index behind the tag, and its attributes."""
    size = data.shape[0]
    count = 0
    while at < size:
        byte = data[at]
        if byte == 0x3E:
            return at + 1, count
        if byte == 0x2F or _is_space(byte):
            at += 1
            continue
        count += 1
        at += 1  # also an equals sign is the first character of a name
        while at < size:
            byte = data[at]
            if byte in (0x3D, 0x2F, 0x3E) or _is_space(byte):
                break
            at += 1
        while at < size and _is_space(data[at]):
            at += 1
        if at < size and data[at] == 0x3D:
            at += 1
            while at < size and _is_space(data[at]):
                at += 1
            if at < size and (data[at] == 0x22 or data[at] == 0x27):
                at = _find(data, at + 1, data[at]) + 1
            else:
                while at < size and data[at] != 0x3E and not _is_space(data[at]):
                    at += 1
    return size, count


@_compiled
def _skip_raw(data: np.ndarray, at: int, begin: int, length: int) -> int:
    """Return the index of the end tag of the element whose name is at ``begin``."""
    size = data.shape[0]
    while at < size:
        at = _find(data, at, 0x3C)
        if at + 2 + length >= size:
            return size
        same = data[at + 1] == 0x2F
        k = 0
        while same and k < length:
            same = data[at + 2 + k] | 32 == data[begin + k] | 32
            k += 1
        if same and not _is_letter(data[at + 2 + length]):
            return at
        at += 1
    return size


@_compiled
def _next_tag(data: np.ndarray, at: int) -> int:
    """Return the index of the name of the next tag, start or end; the size where there is none."""
    size = data.shape[0]
    while True:
        at = _find(data, at, 0x3C) + 1
        if at >= size:
            return size
        if _is_letter(data[at]):
            return at
        if data[at] == 0x2F:
            at += 1
            if at < size and _is_letter(data[at]):
                return at
            at = _find(data, at, 0x3E)
        elif at + 2 < size and data[at] == 0x21 and data[at + 1] == 0x2D and data[at + 2] == 0x2D:
            at = _skip_comment(data, at + 3)
        elif data[at] in (0x21, 0x3F):  # ! ?
            at = _find(data, at, 0x3E)


@_compiled
def _kind_of(data: np.ndarray, at: int, stop: int, keys: np.ndarray, kinds: np.ndarray) -> int:
    """Return the kind of the element whose name is from ``at`` to ``stop``."""
    packed = np.uint64(0)
    for k in range(min(stop - at, 8)):
        byte = data[at + k]
        byte += 32 * (65 <= byte <= 90)
        packed |= np.uint64(byte) << np.uint64(8 * k)
    packed ^= np.uint64(stop - at)
    for k in range(keys.shape[0]):
        if keys[k] == packed:
            return kinds[k]
    return 0


@_compiled
def _measure(data: np.ndarray, keys: np.ndarray, kinds: np.ndarray, counts: np.ndarray) -> None:
    size = data.shape[0]
    tags = most = depth = deepest = formatting = plain = root = 0
    foreign = False
    at = _next_tag(data, 0)
    while at < size:
        begin, ends = at, data[at - 1] == 0x2F
        while at < size and data[at] != 0x2F and data[at] != 0x3E and not _is_space(data[at]):
            at += 1
        stop = at
        kind = _kind_of(data, begin, stop, keys, kinds)
        at, attributes = _skip_attributes(data, at)
        tags += 1
        root += attributes * (kind == _ROOT) * (not ends)
        most = max(most, attributes, root)
        depth = max(0, depth + (kind == _NESTED) * (1 - 2 * ends))
        deepest = max(deepest, depth)
        if not ends:
            formatting += (kind == _FORMAT) * (attributes > 0)
            plain += (kind == _FORMAT) * (attributes == 0)
            foreign |= kind == _FOREIGN
            if kind == _RAW and not foreign:
                at = _skip_raw(data, at, begin, stop - begin)
            elif kind == _REST and not foreign:
                break
        at = _next_tag(data, at)
    counts[0], counts[1], counts[2], counts[3] = tags, most, deepest, formatting
    counts[3] += min(plain, 3 * 13)


def measure(page: bytes) -> Markup:
    """Count the markup of a page in UTF-8."""
    counts = np.zeros(4, np.int64)
    _measure(read_only(np.frombuffer(page, np.uint8)), _KEYS, _KINDS, counts)
    return Markup(*counts.tolist())


def bounded(page: str) -> str:
    """Return a page whose parsing costs linear time and memory: itself, with rare exceptions.

    Raises:
        ValueError: There is none; the message is the reason.
    """
    data = page.encode("utf-8", "surrogatepass")
    found = measure(data)
    for count, most, what in (
        (found.tags, MOST_TAGS, "tags"),
        (found.attributes, MOST_ATTRIBUTES, "attributes in one tag"),
        (found.depth, MOST_DEPTH, "nested div and article elements"),
    ):
        if count > most:
            raise ValueError(f"{count:,} {what}, more than the {most:,} that are parsed")
    if found.tags * found.formatting <= MOST_COPIES:
        return page
    return _FORMATTING_TAG.sub(b"<wbr>", data).decode("utf-8", "surrogatepass")
