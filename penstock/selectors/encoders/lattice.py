"""Unit vectors on a lattice of integers, so that every product of two is exact.

The last bits of a matrix product in floats change with its shape, its threads and the processor.
Similarities are therefore taken between vectors of integers (:func:`on_lattice`).
"""

from __future__ import annotations

import numpy as np

__all__ = ["mean_vector", "normalised", "on_lattice", "shrunk_vectors"]


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


def mean_vector(vectors: np.ndarray) -> np.ndarray:
    """Return the mean of (n, d) int16 rows that are not zero, rounded: (d,) int16."""
    count = np.count_nonzero(vectors.any(axis=1))
    return np.rint(vectors.sum(axis=0, dtype=np.int64) / max(1, count)).astype(np.int16)


def shrunk_vectors(
    vectors: np.ndarray, words: np.ndarray, prior_words: float, mean: np.ndarray
) -> np.ndarray:
    """Move vectors of few words towards a mean, so that their similarities are not extreme.

    The vector of a text is a mean over its words, so the fewer there are, the more it is noise.
    With a prior at ``mean`` that weighs as much as k words, the posterior mean of x, of w words,
    is ``mean + (x - mean) w / (w + k)``. All are scaled alike to keep their norm below 4096 when
    rounded, and are no unit vectors any more.

    Args:
        vectors: (n, d) int16 on the lattice.
        words: (n,) int64, the distinct words of each text.
        prior_words: k; with 0 the vectors are returned as they are.
        mean: (d,) int16, of :func:`mean_vector`.

    Returns:
        (n, d) int16; zero where the vector was.
    """
    if not prior_words:
        return vectors
    scale = 1 - np.sqrt(vectors.shape[1]) / (2 * 4095)
    weights = (scale * words / (words + prior_words))[:, None]
    shrunk = np.rint(weights * vectors + (scale - weights) * mean).astype(np.int16)
    shrunk[~vectors.any(axis=1)] = 0
    return shrunk


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Scale (n, d) float32 rows to length 1; zero stays zero. Lengths are float64, row by row."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    lengths[lengths == 0] = 1
    return (vectors / lengths[:, None]).astype(np.float32)
