"""Headers of safetensors files, compared with the file before a library reads it.

A file is 8 bytes with the length of its header (little-endian), the header (a JSON object: of each
tensor its type, its shape and the range of its bytes), and the bytes of all tensors, one after the
other. Source: the format's description in the repository of safetensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from penstock.errors import StorageError
from penstock.opening import open_plain

__all__ = ["HeaderError", "WeightTotals", "opened_plain", "read_header"]

_MOST_HEADER = 2**24
"""Bytes of a header; a tensor takes about 100. The library allows 100 MB, which take 1 GB here."""

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
"""Bits of a number of each type; one that is not here is left to the library."""


class HeaderError(ValueError):
    """A file is not safetensors, or its header claims what the file does not hold."""


@dataclass(frozen=True, slots=True)
class WeightTotals:
    """The tensors of some files."""

    tensors: int = 0
    numbers: int = 0
    bytes: int = 0

    def __add__(self, other: WeightTotals) -> WeightTotals:
        return WeightTotals(
            self.tensors + other.tensors, self.numbers + other.numbers, self.bytes + other.bytes
        )


@contextmanager
def opened_plain(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file; a pipe in its place would wait for a writer.

    Raises:
        InputError: Another user made a link to it.
        OSError: It cannot be opened, or is none.
    """
    try:
        source = open_plain(path)
    except StorageError:
        raise OSError("not a regular file") from None
    with source:
        yield source


def read_header(source: IO[bytes]) -> WeightTotals:
    """Read the header of a file and compare it with the file's length.

    Args:
        source: The file, at its first byte, where it is left.

    Raises:
        HeaderError: It is longer than the file or 16 MiB, is not a header, or the ranges of the
            tensors have not the lengths of their shapes, overlap, or leave bytes out.
    """
    size = os.fstat(source.fileno()).st_size
    length = int.from_bytes(source.read(8), "little")
    most = min(_MOST_HEADER, size - 8)
    if not 2 <= length <= most:
        raise HeaderError(f"a header of {length:,} bytes, in a file of {size:,} bytes")
    try:
        header = json.loads(source.read(length))
    except (ValueError, RecursionError):
        raise HeaderError("the header is not JSON") from None
    source.seek(0)
    if not isinstance(header, dict):
        raise HeaderError("the header is not a JSON object")
    header.pop("__metadata__", None)
    data = size - 8 - length
    ranges = []
    numbers = 0
    for name, entry in header.items():
        found = _tensor(entry)
        if found is None:
            raise HeaderError(f"the entry of {name[:80]!r} is not that of a tensor")
        count, bits, start, end = found
        if bits is not None and count * bits != 8 * (end - start):
            raise HeaderError(f"{name[:80]!r} has {end - start:,} bytes, not those of its shape")
        numbers += count
        ranges.append((start, end))
    reached = 0
    for start, end in sorted(ranges):
        if start != reached:
            raise HeaderError("the ranges of tensors overlap, or leave bytes out")
        reached = end
    if reached != data:
        raise HeaderError(f"tensors of {reached:,} bytes, in a file that has {data:,} for them")
    return WeightTotals(len(ranges), numbers, data)


def _tensor(entry: Any) -> tuple[int, int | None, int, int] | None:
    """Return the numbers, the bits of one and the range of a tensor; None if it is none."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return None
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        return None
    count = 0 if 0 in shape else 1
    for number in shape:
        count *= number
        if count >= 2**63:
            return None
    if offsets[0] > offsets[1]:
        return None
    return count, _BITS.get(entry["dtype"]), offsets[0], offsets[1]


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(number) is int and 0 <= number < 2**63 for number in value
    )
