"""The number of distinct words of a text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from penstock import arrow_text, hashing
from penstock.arrow_text import is_white_space, text_view
from penstock.compiling import compiler
from penstock.hashing import FNV_OFFSET, FNV_PRIME

__all__ = ["count_distinct_words"]

_PLACES = 4096

_compiled = compiler(arrow_text, hashing)


def count_distinct_words(texts: pa.Array) -> np.ndarray:
    """Count the distinct words of (n,) string or large_string: (n,) int64.

    Words end at ASCII white space and NUL, as in fastText. They are marked in 4,096 places by
    FNV-1a: two words in one place count as one. So counts are exact up to a few hundred, and beyond
    that :func:`penstock.selectors.classifiers.classifier.shrink` hardly depends on them.
    """
    view = text_view(texts)
    counts = np.zeros(len(texts), np.int64)
    _count_words(*view, np.full(_PLACES, -1, np.int64), counts)
    return counts


@_compiled
def _count_words(
    data: np.ndarray, offsets: np.ndarray, marked_by: np.ndarray, counts: np.ndarray
) -> None:
    """Count; ``marked_by`` is (4096,) int64, the last text with a word in each place."""
    for row in range(counts.shape[0]):
        inside = False
        state = FNV_OFFSET
        end = offsets[row + 1]
        for position in range(offsets[row], end + 1):
            byte = data[position] if position < end else np.uint8(32)
            if not is_white_space(byte):
                state = (state ^ np.uint64(byte)) * FNV_PRIME
                inside = True
            elif inside:
                place = np.int64((state ^ (state >> np.uint64(32))) & np.uint64(_PLACES - 1))
                if marked_by[place] != row:
                    marked_by[place] = row
                    counts[row] += 1
                state = FNV_OFFSET
                inside = False
