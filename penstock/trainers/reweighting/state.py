"""A reweighter's arrays as the bytes of one file, without pickles."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

__all__ = ["pack", "unpack"]


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pack arrays of plain numbers as NumPy's ``.npz``.

    Raises:
        ValueError: An array holds objects.
    """
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **{name: np.asarray(own) for name, own in arrays.items()})
    return sink.getvalue()


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays that :func:`pack` was given."""
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}
