"""Sinkhorn against the golden, against plain sums in extended precision, and against exact OT."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.special import logsumexp

from penstock.selectors.kernels import transport as module
from penstock.selectors.kernels.transport import (
    calibrated,
    extend,
    sinkhorn,
    target_potentials,
)
from tests.selectors.kernels.test_kmeans import directions, unit


def test_the_golden() -> None:
    """Points 0 and 10, the target 0, cost |x - y|."""
    f, g, done, error = sinkhorn(np.array([[0.0], [10.0]]), 0.1, tolerance=1e-9, iterations=9)
    np.testing.assert_allclose(f, [0, 10])
    assert (g.tolist(), done) == ([0.0], 1) and error < 1e-12
    np.testing.assert_allclose(calibrated(f), [-10, 10])


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.floats(-1e3, 1e3))
def test_a_constant_leaves_the_gradient(values: list[float], constant: float) -> None:
    f = np.array(values)
    found = calibrated(f)
    np.testing.assert_allclose(calibrated(f + constant), found, atol=1e-9)
    others = [(f.sum() - one) / (len(f) - 1) for one in f]
    np.testing.assert_allclose(found, f - others, atol=1e-9)


def reference(costs: np.ndarray, eps: float, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Alternate both updates by scipy's logsumexp, as they are written."""
    count, width = costs.shape
    g = np.zeros(width)
    for step in range(iterations):
        f = -eps * logsumexp((g - costs) / eps - np.log(width), axis=1)
        if step < iterations - 1:
            g = -eps * logsumexp((f[:, None] - costs) / eps - np.log(count), axis=0)
    return f + g.mean(), g - g.mean()


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.02, 0.3]))
@settings(max_examples=40)
def test_each_iteration_is_sinkhorns(seed: int, count: int, width: int, eps: float) -> None:
    costs = np.random.default_rng(seed).random((count, width)) * 4
    for iterations in (1, 2, 15):
        f, g, *_ = sinkhorn(costs, eps, tolerance=1e-300, iterations=iterations)
        expected = reference(costs, eps, iterations)
        np.testing.assert_allclose(f, expected[0], atol=1e-10)
        np.testing.assert_allclose(g, expected[1], atol=1e-10)


def test_far_examples_underflow_and_still_get_their_mass() -> None:
    """At eps .01 the second example's terms are exp(-1e5): 0 in float64."""
    costs = np.array([[0.0, 1000.0], [0.0, 1000.1]])
    f, g, _, error = sinkhorn(costs, 0.01, tolerance=1e-6, iterations=20_000)
    assert np.isfinite([*f, *g]).all() and error < 1e-6
    plan = np.exp((f[:, None] + g - costs) / 0.01) / 4
    np.testing.assert_allclose(plan.sum(axis=0), 0.5, atol=1e-6)
    np.testing.assert_allclose(plan, [[0, 0.5], [0.5, 0]], atol=0.01)


def test_towards_zero_it_is_exact_transport() -> None:
    random = np.random.default_rng(5)
    costs = random.random((6, 4))
    f, g, _, error = sinkhorn(costs, 5e-3, tolerance=1e-4, iterations=20_000)
    assert error < 1e-4
    masses = np.zeros((10, 24))
    for row in range(6):
        masses[row, row * 4 : row * 4 + 4] = 1
    for column in range(4):
        masses[6 + column, column::4] = 1
    exact = linprog(costs.ravel(), A_eq=masses, b_eq=[1 / 6] * 6 + [1 / 4] * 4)
    assert f.mean() + g.mean() == pytest.approx(exact.fun, abs=0.01)


def test_potentials_of_documents_and_their_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    documents, examples = directions(60, seed=1), directions(12, seed=1)[:7]
    found = target_potentials(documents, examples, eps=0.05, tolerance=1e-6, iterations=5000)
    x, y = unit(documents.astype(float)).astype(float), unit(examples.astype(float)).astype(float)
    costs = ((x[:, None] - y) ** 2).sum(axis=2)
    assert found.eps == pytest.approx(0.05 * costs.mean(), rel=1e-4)
    f, g = reference(costs, found.eps, found.iterations)
    np.testing.assert_allclose(found.documents, f, atol=2e-4)  # vectors are rounded to integers
    np.testing.assert_allclose(found.examples, g, atol=2e-4)
    assert found.error < 1e-6 and abs(found.examples.mean()) < 1e-9
    # The extension to a document of the sample is its own potential.
    again = extend(documents, examples, found.examples, found.eps)
    np.testing.assert_allclose(again, found.documents, atol=1e-6)
    # Blocks of any size give the same bytes.
    monkeypatch.setattr(module, "_PAIRS", 20)
    assert extend(documents, examples, found.examples, found.eps).tobytes() == again.tobytes()
    one = np.concatenate(
        [extend(documents[row : row + 1], examples, found.examples, found.eps) for row in range(60)]
    )
    assert one.tobytes() == again.tobytes()
    other = target_potentials(documents, examples, eps=0.05, tolerance=1e-6, iterations=5000)
    np.testing.assert_allclose(other.documents, found.documents, atol=1e-8)


def test_documents_that_are_all_alike() -> None:
    documents = np.repeat(directions(1), 5, axis=0)
    found = target_potentials(documents, documents[:2], eps=0.05, tolerance=1e-3, iterations=10)
    np.testing.assert_allclose(found.documents, 0, atol=1e-6)
    assert found.error == pytest.approx(0, abs=1e-9)
