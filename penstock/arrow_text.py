"""Texts of Arrow arrays for compiled loops: views of the buffers, UTF-8, white space."""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's booleans bool)

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from penstock.compiling import compiler
from penstock.errors import InputError, SelectorError

__all__ = [
    "TextView",
    "checked_view",
    "decode_utf8",
    "encode_utf8",
    "is_white_space",
    "read_only",
    "text_view",
]

_compiled = compiler(inlined=True)


class TextView(NamedTuple):
    """The buffers of ``n`` texts, not copied and read-only."""

    data: np.ndarray
    """(b,) uint8: UTF-8 of all texts; of a sliced array also of the texts before and after."""
    offsets: np.ndarray
    """(n + 1,) int64: text ``i`` is ``data[offsets[i]:offsets[i + 1]]``."""

    @property
    def longest(self) -> int:
        """Bytes of the longest text; 0 of none."""
        return int(np.diff(self.offsets).max(initial=0))


def text_view(texts: pa.Array) -> TextView:
    """View (n,) string or large_string, which may be a slice. The text of a null is arbitrary.

    Raises:
        SelectorError: The array is of another type.
    """
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise SelectorError(expected="an array of string or large_string", got=texts.type)
    if len(texts) == 0:
        return TextView(read_only(np.empty(0, np.uint8)), read_only(np.zeros(1, np.int64)))
    _, offsets, data = texts.buffers()
    dtype = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    own = np.frombuffer(offsets, dtype)[texts.offset : texts.offset + len(texts) + 1]
    return TextView(
        read_only(np.frombuffer(data or b"", np.uint8)),
        read_only(own.astype(np.int64, copy=False)),
    )


def checked_view(texts: pa.Array) -> TextView:
    """View texts as :func:`text_view` does, after checking them.

    Raises:
        InputError: A text is null or not UTF-8.
        SelectorError: The array is of another type.
    """
    if texts.null_count:
        raise InputError(expected="texts", got=f"{texts.null_count} nulls")
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"a text is damaged: {error}") from None
    return text_view(texts)


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a read-only view, so that numba compiles one version for every origin of an array."""
    view = array.view()
    view.flags.writeable = False
    return view


@_compiled
def decode_utf8(data: np.ndarray, at: int) -> tuple[int, int]:
    """Return the code point at ``at`` of valid UTF-8, and the index of the next."""
    first = data[at]
    if first < 0x80:
        return first, at + 1
    second = data[at + 1] & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, at + 2
    third = data[at + 2] & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, at + 3
    fourth = data[at + 3] & 0x3F
    return (first & 0x07) << 18 | second << 12 | third << 6 | fourth, at + 4


@_compiled
def encode_utf8(code: int, out: np.ndarray, to: int) -> int:
    """Write the UTF-8 of a code point to ``out[to:]``, and return the index after it."""
    if code < 0x80:
        out[to] = code
        return to + 1
    if code < 0x800:
        out[to] = 0xC0 | code >> 6
        out[to + 1] = 0x80 | code & 0x3F
        return to + 2
    if code < 0x10000:
        out[to] = 0xE0 | code >> 12
        out[to + 1] = 0x80 | code >> 6 & 0x3F
        out[to + 2] = 0x80 | code & 0x3F
        return to + 3
    out[to] = 0xF0 | code >> 18
    out[to + 1] = 0x80 | code >> 12 & 0x3F
    out[to + 2] = 0x80 | code >> 6 & 0x3F
    out[to + 3] = 0x80 | code & 0x3F
    return to + 4


@_compiled
def is_white_space(byte: int) -> bool:
    """Test for the seven bytes at which fastText splits; Unicode's other spaces are part of a word.

    ``byte`` is int8 or uint8.
    """
    is_tab_to_return = np.uint8(byte - 9) < np.uint8(5)  # \t \n \v \f \r
    return is_tab_to_return | (byte == 32) | (byte == 0)
