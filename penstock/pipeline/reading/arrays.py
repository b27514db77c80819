"""Read JSON arrays of objects as JSON lines, in bounded memory.

``json.dumps`` of a list, ``to_json(orient="records")`` and exports of databases write one array, on
one line or on many. :func:`content_of` writes each element on one line: the commas between
elements become line feeds, and line feeds inside elements become spaces, which mean the same in
JSON. All other bytes stay where they are. So an element is bounded, counted and quarantined as a
line is. A compiled loop over quotes and brackets does it; what is JSON is decided later.

A file is one of arrays if it begins with ``[`` and ``{`` (or ``]``), with white space at most
around them. Arrays may follow one another, and so may lines of objects after an array.
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers int)

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from penstock.compiling import compiler
from penstock.errors import InputError
from penstock.pipeline.reading.streams import blocks
from penstock.storage import AnyPath

__all__ = ["Content", "content_of"]

_compiled = compiler()
_inlined = compiler(inlined=True)

_HEAD = 1 << 16
"""Bytes of a file in which its first two brackets are looked for."""


class Content(NamedTuple):
    """The text of a file of JSON, as lines."""

    elements: bool
    """True if its lines are elements of arrays."""
    blocks: Iterator[bytes]
    """Consecutive parts of the lines, of any size."""


def content_of(where: AnyPath, end: int | None = None) -> Content:
    """Open a file of JSON lines, or of JSON arrays, up to ``end`` bytes of the file.

    Raises:
        InputError: As :func:`~penstock.pipeline.reading.streams.blocks`; while it is read also that
            the file ends inside an array.
    """
    read = blocks(where, 0, end)
    head: list[bytes] = []
    elements: bool | None = None
    for block in read:
        head.append(block)
        elements = _begins_array(b"".join(head)[:_HEAD])
        if elements is not None:
            break
    if elements is None:
        elements = _begins_array(b"".join(head)[:_HEAD], whole=True)
    content = itertools.chain(head, read)
    return Content(True, _elements(where, content)) if elements else Content(False, content)


def _begins_array(head: bytes, whole: bool = False) -> bool | None:
    """Return whether a file of arrays begins with ``head``, or is it ``whole``; None: unknown."""
    first = head.removeprefix(codecs.BOM_UTF8).lstrip()
    inner = first[1:].lstrip()
    if not whole and len(head) < _HEAD and (len(head) <= len(codecs.BOM_UTF8) or not inner):
        return False if first and first[:1] not in b"[\xef" else None
    return first[:1] == b"[" and inner[:1] in (b"{", b"]")


def _elements(where: AnyPath, content: Iterable[bytes]) -> Iterator[bytes]:
    state = np.zeros(3, np.int64)
    for block in content:
        data = bytearray(block)
        _split_elements(np.frombuffer(data, np.uint8), state)
        yield bytes(data)
    if state[_DEPTH]:
        raise InputError(
            "truncated: the file ends inside a JSON array",
            file=where,
            fix="fetch the file again, or close the array",
        )


_DEPTH, _STRING, _LINE = 0, 1, 2
"""The state between two bytes: open brackets; 1 inside a string and 2 behind a backslash there;
1 inside a line that is not of an array, 2 at the beginning of one, 0 before the first array."""


@_inlined
def _step_in_string(data: np.ndarray, at: int, string: int) -> int:
    """Return the state of a string after a byte.

    A line feed inside a string is no JSON: it becomes a vertical tab, which is none either.
    """
    byte = data[at]
    if byte == 10:
        data[at] = 11
    if string == 2 or byte not in (0x22, 0x5C):
        return 1
    return 2 if byte == 0x5C else 0


@_inlined
def _step_in_array(data: np.ndarray, at: int, depth: int) -> int:
    """Return the depth after a byte, which ends a line if it ends an element."""
    byte = data[at]
    if byte in (0x5B, 0x7B):  # [ {
        return depth + 1
    if byte in (0x5D, 0x7D):  # ] }
        if depth == 1:
            data[at] = 10
        return depth - 1
    if byte == 0x2C and depth == 1:  # ,
        data[at] = 10
    elif byte == 10:
        data[at] = 32
    return depth


@_compiled
def _split_elements(data: np.ndarray, state: np.ndarray) -> None:
    """Write each element of arrays on one line, in place.

    Args:
        data: (n,) uint8: the next bytes of a file.
        state: (3,) int64: the state before them, and then after them; at first 0.
    """
    depth, string, line = state[_DEPTH], state[_STRING], state[_LINE]
    for at in range(data.shape[0]):
        byte = data[at]
        if string:
            string = _step_in_string(data, at, string)
        elif depth:
            string = byte == 0x22
            depth = _step_in_array(data, at, depth)
        elif line == 1:
            line += byte == 10
        elif byte == 0x5B:
            depth, line = 1, 2
            data[at] = 32
        elif byte == 10:
            data[at] = 10 if line else 32
        elif byte not in (32, 9, 13, 0xEF, 0xBB, 0xBF):  # blanks, a byte order mark
            line = 1
    state[_DEPTH], state[_STRING], state[_LINE] = depth, string, line
