"""Entropic optimal transport between documents and examples: potentials, and their extension.

Sinkhorn's algorithm (Cuturi 2013) in the log domain, float64. With masses a of documents and b of
examples, costs c and a temperature eps, it alternates

    f_i = -eps log sum_j b_j exp((g_j - c_ij) / eps)
    g_j = -eps log sum_i a_i exp((f_i - c_ij) / eps)

Both masses are uniform. The cost is the squared Euclidean distance of unit vectors, 2 - 2 cos. The
first line extends f to any document, given g alone.

Vectors are on the lattice, so cosines are the same on every machine; sums are taken in one order.
The last bits of ``exp`` differ between processors, so potentials are rounded to multiples of 2^-30.
Memory: 4 bytes a pair, and 16 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.selectors.kernels.kmeans import lengths

__all__ = ["Potentials", "calibrated", "extend", "sinkhorn", "target_potentials"]

_PAIRS = 1 << 20
"""Pairs of float64 at once: 8 MiB, twice."""

_STEPS = 2.0**30

_TINY = 1e-300
"""The least mass of an example before its potential rises: the sum of terms that underflowed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Potentials:
    """The solution for a sample of documents."""

    documents: np.ndarray
    """(n,) float64, f, in units of the cost."""
    examples: np.ndarray
    """(m,) float64, g, whose mean is 0."""
    eps: float
    iterations: int
    error: float
    """The sum over examples of the difference between the mass that they get and 1/m."""


def calibrated(potentials: np.ndarray) -> np.ndarray:
    """Compute g_i = f_i - mean of f_j over j != i: (n,) float64; n is at least 2."""
    count = len(potentials)
    result: np.ndarray = (potentials - potentials.mean()) * (count / (count - 1))
    return result


def sinkhorn(
    costs: np.ndarray, eps: float, *, tolerance: float, iterations: int
) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Solve for the potentials under uniform masses.

    Args:
        costs: (n, m) float32 or float64.
        eps: In units of the costs.
        tolerance: Stops where the masses of examples differ from theirs by less, in all.
        iterations: Stops after as many.

    Returns:
        f (n,) and g (m,) float64, of which g's mean is 0; iterations; and the difference left.
    """
    width = costs.shape[1]
    g = np.zeros(width)
    for done in range(1, iterations + 1):
        f, masses = _row_potentials(costs, g, eps)
        error = float(np.abs(masses - 1 / width).sum())
        if error < tolerance or done == iterations:
            break
        g -= eps * np.log(np.maximum(masses * width, _TINY))
    shift = float(g.mean())
    return f + shift, g - shift, done, error


def target_potentials(
    documents: np.ndarray, examples: np.ndarray, *, eps: float, tolerance: float, iterations: int
) -> Potentials:
    """Solve for a sample of documents.

    Args:
        documents: (n, d) int16 on the lattice, none zero; n at least 2.
        examples: (m, d) int16 on the lattice, none zero.
        eps: In units of the mean cost.
        tolerance: As in :func:`sinkhorn`.
        iterations: As in :func:`sinkhorn`.
    """
    costs = np.empty((len(documents), len(examples)), np.float32)
    for rows in _blocks(len(documents), len(examples)):
        costs[rows] = _costs(documents[rows], examples)
    eps = max(eps * float(costs.mean(axis=1, dtype=np.float64).mean()), 1 / _STEPS)
    f, g, done, error = sinkhorn(costs, eps, tolerance=tolerance, iterations=iterations)
    return Potentials(
        documents=_rounded(f), examples=_rounded(g), eps=eps, iterations=done, error=error
    )


def extend(
    documents: np.ndarray, examples: np.ndarray, potentials: np.ndarray, eps: float
) -> np.ndarray:
    """Compute f of any documents.

    Args:
        documents: (n, d) int16 on the lattice, none zero.
        examples: (m, d) int16 on the lattice, none zero.
        potentials: (m,) float64, g.
        eps: In units of the cost.

    Returns:
        (n,) float64.
    """
    found = np.empty(len(documents))
    for rows in _blocks(len(documents), len(examples)):
        costs = _costs(documents[rows], examples)
        found[rows] = _row_potentials(costs, potentials, eps)[0]
    return _rounded(found)


def _row_potentials(costs: np.ndarray, g: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute f (n,) from g, and the mass that each example then gets, (m,); both float64."""
    count, width = costs.shape
    f, masses = np.empty(count), np.zeros(width)
    for rows in _blocks(count, width):
        exponents = (g - costs[rows]) / eps
        highest = exponents.max(axis=1)
        np.exp(exponents - highest[:, None], out=exponents)
        sums = exponents.sum(axis=1)
        f[rows] = -eps * (highest + np.log(sums / width))
        masses += (exponents / sums[:, None]).sum(axis=0)
    return f, masses / count


def _costs(documents: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """Compute 2 - 2 cos, (n, m) float32, from exact products."""
    products = documents.astype(np.float32) @ examples.astype(np.float32).T
    away = lengths(documents)[:, None] * lengths(examples)
    return (2 - 2 * (products / away)).astype(np.float32)


def _blocks(count: int, width: int) -> list[slice]:
    rows = max(1, _PAIRS // width)
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _rounded(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.rint(values * _STEPS) / _STEPS
    return result
