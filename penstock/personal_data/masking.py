"""Masking: texts in which placeholders stand for personal data and secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.arrow_text import checked_view
from penstock.personal_data.kinds import KINDS, check_kinds
from penstock.personal_data.scanning import find_items
from penstock.personal_data.tables import tables

__all__ = ["mask"]

_PLACEHOLDERS = [kind.placeholder.encode() for kind in KINDS.values()]


def mask(texts: pa.Array, kinds: Iterable[str] = KINDS) -> pa.Array:
    """Put each kind's placeholder in the place of its items.

    Masked texts are masked to themselves.

    Args:
        texts: (n,) string or large_string, without nulls; may be a slice.
        kinds: Some of ``KINDS``.

    Returns:
        (n,) large_string.

    Raises:
        InputError: A text is null or not UTF-8.
        RecipeError: A kind is unknown, or there is none.
    """
    wanted = sum(1 << list(KINDS).index(kind) for kind in check_kinds(kinds))
    view, known = checked_view(texts), tables()
    counts = np.empty((len(texts), len(KINDS)), np.uint32)
    items = np.empty((len(texts), 3), np.int64)
    found = find_items(view.data, view.offsets, wanted, known, counts, items)
    if not found:
        return texts.cast(pa.large_string())
    if found > len(items):
        items = np.empty((found, 3), np.int64)
        find_items(view.data, view.offsets, wanted, known, counts, items)
    items = items[:found]
    begins, ends, numbers = items.T
    sizes = np.array([len(one) for one in _PLACEHOLDERS])[numbers]
    growth = np.concatenate([[0], np.cumsum(sizes - (ends - begins))])
    of_texts = np.concatenate([[0], np.cumsum(counts.sum(axis=1, dtype=np.int64))])
    pieces: list[Any] = []
    last = view.offsets[0]
    data = memoryview(view.data)  # type: ignore[arg-type]
    for begin, end, number in items.tolist():
        pieces += (data[last:begin], _PLACEHOLDERS[number])
        last = end
    pieces.append(data[last : view.offsets[-1]])
    offsets = view.offsets - view.offsets[0] + growth[of_texts]
    return pa.Array.from_buffers(
        pa.large_string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(pieces))]
    )
