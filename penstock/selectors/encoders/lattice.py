"""Unit vectors on a lattice of integers, so that every product of two is exact.

The last bits of a matrix product in floats change with its shape, its threads and the processor.
Similarities are therefore taken between vectors of integers (:func:`on_lattice`).
"""

from __future__ import annotations

import numpy as np

__all__ = ["normalised", "on_lattice"]


def on_lattice(vectors: np.ndarray) -> np.ndarray:
    """Round unit vectors to integers of norm below 4096, so that products are exact.

    By Cauchy-Schwarz any partial sum of a dot product of two such vectors is at most 2^24, up to
    which float32 holds every integer. So no order of summation, fused multiply-add, batch shape,
    thread count or library can change a bit. Rounding moves a cosine by about 1e-4.

    Args:
        vectors: (n, d) float32, L2-normalised or zero.

    Returns:
        (n, d) int16; multiply as float32.
    """
    scale = 4095 - np.sqrt(vectors.shape[1]) / 2
    return np.rint(vectors * np.float32(scale)).astype(np.int16)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Scale (n, d) float32 rows to length 1; zero stays zero. Lengths are float64, row by row."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    lengths[lengths == 0] = 1
    return (vectors / lengths[:, None]).astype(np.float32)
