"""Connected components of documents: from equal keys to the first document of each component.

A *document* is an int64, unit x 2^32 + row (:func:`number_documents`), so the least of a component
is the first in corpus order. An *edge* is a pair of documents that belong together. Documents with
an equal key (a hash) are linked as a star, each to the least (:func:`link_equal`), so a million
equal documents make a million edges. :func:`unite` finds the components of edges that fit in
memory; of more, :func:`large_star` and :func:`small_star` make stars when applied in turns to the
edges of each node (Kiveris et al. 2014, "Connected components in MapReduce and beyond": O(log^2 n)
rounds), since either needs one node's edges only.

Results are sets: no function depends on the order of its input.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

import numpy as np

from penstock.compiling import compiler

__all__ = [
    "EDGE",
    "large_star",
    "link_equal",
    "number_documents",
    "small_star",
    "unite",
]

EDGE = np.dtype([("document", "<i8"), ("first", "<i8")])
"""A document, and an earlier one of its component."""

_compiled = compiler()


def number_documents(unit: int, rows: np.ndarray | int) -> np.ndarray:
    """Number the documents of a unit: (n,) integers, or how many there are, to (n,) int64."""
    rows = np.arange(rows) if isinstance(rows, int) else rows
    return np.int64(unit) << np.int64(32) | rows.astype(np.int64)


def link_equal(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Link the documents of each key to the least of them.

    Args:
        rows: (n,) records with ``key`` uint64, ``document`` int64 and, if keys are equal only where
            it is, too, ``check`` uint64.

    Returns:
        A record for each key, by key, with its least document; and the others' edges to that,
        :data:`EDGE`.
    """
    checked = "check" in (rows.dtype.names or ())
    keys = rows["key"]
    rows = rows[np.lexsort((rows["check"], keys)) if checked else np.argsort(keys)]
    begins = np.ones(len(rows), bool)
    begins[1:] = rows["key"][1:] != rows["key"][:-1]
    if checked:
        begins[1:] |= rows["check"][1:] != rows["check"][:-1]
    starts = np.flatnonzero(begins)
    documents = rows["document"]
    least = np.minimum.reduceat(documents, starts) if len(starts) else documents
    first = least[np.cumsum(begins) - 1]
    linked = documents != first
    edges = _edges(documents[linked], first[linked])
    rows = rows[starts]
    rows["document"] = least
    return rows, edges


def unite(edges: np.ndarray) -> np.ndarray:
    """Find the connected components of edges, by union-find (Tarjan 1975).

    Args:
        edges: (n,) :data:`EDGE`, either end first.

    Returns:
        Stars, (m,) :data:`EDGE`, by document: each document of a component but its least, and
        that.
    """
    nodes, ends = np.unique(
        np.concatenate([edges["document"], edges["first"]]), return_inverse=True
    )
    parents = np.arange(len(nodes))
    _unite(ends[: len(edges)], ends[len(edges) :], parents)
    leaves = parents != np.arange(len(nodes))
    return _edges(nodes[leaves], nodes[parents[leaves]])


def large_star(nodes: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, int]:
    """Link each node's larger neighbours to the least of the node and its neighbours.

    Args:
        nodes: (2 n,) int64: both ends of each edge, with all edges of each node.
        neighbours: (2 n,) int64: the other ends.

    Returns:
        Edges, :data:`EDGE`, different; and how many of them are not edges of the input.
    """
    nodes, neighbours, least = _by_node(nodes, neighbours)
    least = np.minimum(least, nodes)
    larger = neighbours > nodes
    changed = int(np.count_nonzero(larger & (least != nodes)))
    return _edges(neighbours[larger], least[larger]), changed


def small_star(nodes: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, int]:
    """Link each node and its smaller neighbours to the least of these.

    Args:
        nodes: (n,) int64: the larger end of each edge, with all such edges of each node.
        neighbours: (n,) int64: the smaller ends.

    Returns:
        As :func:`large_star`.
    """
    nodes, neighbours, least = _by_node(nodes, neighbours)
    others = neighbours != least
    changed = int(np.count_nonzero(others))
    documents = np.concatenate([nodes, neighbours[others]])
    return _edges(documents, np.concatenate([least, least[others]])), changed


def _by_node(nodes: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sort different edges by node, and return the least neighbour with each."""
    order = np.lexsort((neighbours, nodes))
    nodes, neighbours = nodes[order], neighbours[order]
    fresh = np.ones(len(nodes), bool)
    fresh[1:] = (nodes[1:] != nodes[:-1]) | (neighbours[1:] != neighbours[:-1])
    nodes, neighbours = nodes[fresh], neighbours[fresh]
    begins = np.ones(len(nodes), bool)
    begins[1:] = nodes[1:] != nodes[:-1]
    least = neighbours[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return nodes, neighbours, least


def _edges(documents: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return different edges, sorted: (m,) :data:`EDGE`."""
    order = np.lexsort((first, documents))
    documents, first = documents[order], first[order]
    fresh = np.ones(len(documents), bool)
    fresh[1:] = (documents[1:] != documents[:-1]) | (first[1:] != first[:-1])
    edges = np.empty(np.count_nonzero(fresh), EDGE)
    edges["document"], edges["first"] = documents[fresh], first[fresh]
    return edges


@_compiled
def _unite(one: np.ndarray, other: np.ndarray, parents: np.ndarray) -> None:
    """Write to ``parents``, (n,) int64, the least number of each number's component.

    A root is linked below the lesser root, and paths are halved.
    """
    for edge in range(len(one)):
        here, there = _root(one[edge], parents), _root(other[edge], parents)
        if here < there:
            parents[there] = here
        else:
            parents[here] = there
    for number in range(len(parents)):
        parents[number] = parents[parents[number]]


@_compiled
def _root(number: int, parents: np.ndarray) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number
