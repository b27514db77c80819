"""Naive Bayes over n-grams of bytes, which an automaton finds: the method of langid.

Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool", ACL; the weight
``log(1 + count)`` of an n-gram is that of py3langid 0.4.

For each byte the automaton goes to another state, and each state may complete one n-gram. Its table
is larger than a processor's caches, so a walk waits for memory at every byte, and one walk is slow:
25 MB/s for web pages, and 21 for pages in 200 languages. Three things make it faster:

- One entry holds both the n-gram and where the next state's entries begin: a byte costs one load
  that depends on the one before, instead of two (57 MB/s; and 25).
- A text is walked in eight parts at once, so that eight loads are in flight (131; and 102). Each
  part but the first begins a few bytes early, in the first state. An automaton that searches for
  n-grams of up to six bytes is then in its true state; where it is not, the part is walked again.
- ``No n-gram`` is counted like an n-gram, so that there is no branch to mispredict.
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's numbers not float)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock.compiling import compiler

__all__ = ["LOGARITHMS", "ByteScratch", "NgramTable", "classify_bytes"]

_compiled = compiler()

LOGARITHMS = 2**16
"""Counts whose logarithm is looked up."""

_PARTS = 8
_EARLIER = 8
"""Bytes before a part at which its walk begins."""

_SHORTEST = 32
"""Bytes of a part: of less, more would be walked twice than is gained."""

_NGRAM = np.uint64(0xFFFFFFFF)
_NEXT = np.uint64(32)


class NgramTable(NamedTuple):
    """The arrays of a model of ``f`` n-grams and ``c`` classes, read-only."""

    entries: np.ndarray
    """(256 rows,) uint64, for each byte in each state: the n-gram that is completed, from 1, or 0;
    and in the upper half the index of the first entry of the next state."""
    first: np.uint64  # the first entry of the first state
    weights: np.ndarray  # (f + 1, width) int16 or float32; row 0 and columns from c on are zeros
    scale: np.float32  # of the weights
    priors: np.ndarray  # (c,) float32
    labels: np.ndarray  # (c,) int64, the class whose label each class shares: itself or one before
    logarithms: np.ndarray  # (LOGARITHMS,) float32, log(1 + n)


class ByteScratch(NamedTuple):
    """Buffers for one text; the counts of n-grams are zero before and after."""

    counts: np.ndarray  # (f + 1,) uint32
    found: np.ndarray  # (f + 2,) uint32, the n-grams that occur, in the order of the text
    walked: np.ndarray  # (longest text,) uint32, the n-gram at each byte, or 0
    states: np.ndarray  # (parts,) uint64
    starts: np.ndarray  # (parts,) uint64
    sums: np.ndarray  # (width,) float32

    @classmethod
    def of(cls, table: NgramTable, longest: int) -> ByteScratch:
        """Allocate for a model, and texts of at most so many bytes."""
        n_ngrams, width = table.weights.shape
        return cls(
            np.zeros(n_ngrams, np.uint32),
            np.zeros(n_ngrams + 1, np.uint32),
            np.empty(longest, np.uint32),
            np.empty(_PARTS, np.uint64),
            np.empty(_PARTS, np.uint64),
            np.zeros(width, np.float32),
        )


@_compiled
def classify_bytes(
    data: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    table: NgramTable,
    scratch: ByteScratch,
    classes: np.ndarray,
    probabilities: np.ndarray,
) -> None:
    """Write the most probable class of each text, and its probability.

    Probabilities are a softmax of the scores over the square root of the text's bytes. Classes
    that share a label are added up; of equal ones the first is taken.

    Args:
        data: Bytes of all texts.
        begins: (n,) int64.
        ends: (n,) int64.
        table: The model.
        scratch: Buffers.
        classes: (n,) int64, the result; -1 for a text without a known n-gram.
        probabilities: (n,) float32, the result.
    """
    for row in range(len(begins)):
        _walk(data[begins[row] : ends[row]], table, scratch)
        n_found = _count_ngrams(ends[row] - begins[row], scratch)
        if n_found == 0:
            classes[row] = -1
            probabilities[row] = 0
            continue
        _add_weights(n_found, table, scratch)
        temperature = np.sqrt(np.float64(ends[row] - begins[row]))
        classes[row], probabilities[row] = _most_probable(table, temperature, scratch.sums)


@_compiled
def _walk(text: np.ndarray, table: NgramTable, scratch: ByteScratch) -> None:
    """Write the n-gram that each byte completes."""
    entries, walked, states, starts = table.entries, scratch.walked, scratch.states, scratch.starts
    part = len(text) // _PARTS
    if part < _SHORTEST:
        _walk_on(text, 0, len(text), table.first, entries, walked)
        return
    states[:] = table.first
    for at in range(part - _EARLIER, part):
        for k in range(1, _PARTS):
            byte = text[(k - 1) * part + at]
            states[k] = entries[states[k] + np.uint64(byte)] >> _NEXT
    for k in range(_PARTS):
        starts[k] = states[k]
    for at in range(part):
        for k in range(_PARTS):
            entry = entries[states[k] + np.uint64(text[k * part + at])]
            walked[k * part + at] = entry & _NGRAM
            states[k] = entry >> _NEXT
    state = states[0]
    for k in range(1, _PARTS):
        if starts[k] == state:
            state = states[k]
        else:
            state = _walk_on(text, k * part, (k + 1) * part, state, entries, walked)
    _walk_on(text, _PARTS * part, len(text), state, entries, walked)


@_compiled
def _walk_on(
    text: np.ndarray, begin: int, end: int, state: int, entries: np.ndarray, walked: np.ndarray
) -> int:
    """Write the n-grams of a range of bytes, from a state on, and return the last state."""
    for at in range(begin, end):
        entry = entries[state + np.uint64(text[at])]
        walked[at] = entry & _NGRAM
        state = entry >> _NEXT
    return state


@_compiled
def _count_ngrams(length: int, scratch: ByteScratch) -> int:
    """Count n-grams, write those that occur, and return their number."""
    counts, found = scratch.counts, scratch.found
    counts[0] = 1  # not an n-gram, and so not found
    n_found = 0
    for at in range(length):
        ngram = scratch.walked[at]
        count = counts[ngram]
        found[n_found] = ngram
        n_found += count == 0
        counts[ngram] = count + np.uint32(1)
    return n_found


@_compiled
def _add_weights(n_found: int, table: NgramTable, scratch: ByteScratch) -> None:
    """Sum the weighted rows of the n-grams that occur, four at a time, and reset their counts.

    The order is that of the text, so that float32 sums do not depend on the batch.
    """
    weights, found, sums = table.weights, scratch.found, scratch.sums
    sums[:] = np.float32(0)
    in_fours = n_found & ~3
    for at in range(0, in_fours, 4):
        a, b, c, d = found[at], found[at + 1], found[at + 2], found[at + 3]
        of_a, of_b = _weight_of(a, table, scratch), _weight_of(b, table, scratch)
        of_c, of_d = _weight_of(c, table, scratch), _weight_of(d, table, scratch)
        for k in range(len(sums)):
            sums[k] += (of_a * np.float32(weights[a, k]) + of_b * np.float32(weights[b, k])) + (
                of_c * np.float32(weights[c, k]) + of_d * np.float32(weights[d, k])
            )
    for at in range(in_fours, n_found):
        a = found[at]
        of_a = _weight_of(a, table, scratch)
        for k in range(len(sums)):
            sums[k] += of_a * np.float32(weights[a, k])


@_compiled
def _weight_of(ngram: int, table: NgramTable, scratch: ByteScratch) -> float:
    """Return log(1 + count), and reset the count."""
    count = scratch.counts[ngram]
    scratch.counts[ngram] = 0
    if count < LOGARITHMS:
        return table.logarithms[count]
    return np.float32(np.log1p(np.float64(count)))


@_compiled
def _most_probable(table: NgramTable, temperature: float, sums: np.ndarray) -> tuple[int, float]:
    """Return the class of the highest probability and that probability."""
    highest = -np.inf
    n_classes = len(table.priors)
    for k in range(n_classes):
        sums[k] = sums[k] * table.scale + table.priors[k]
        highest = max(highest, np.float64(sums[k]))
    total = 0.0
    for k in range(n_classes):
        share = np.exp((np.float64(sums[k]) - highest) / temperature)
        total += share
        sums[k] = np.float32(share)
    for k in range(n_classes):
        first = table.labels[k]
        if first != k:
            sums[first] += sums[k]
            sums[k] = np.float32(0)
    best = 0
    for k in range(1, n_classes):
        if sums[k] > sums[best]:
            best = k
    return best, np.float32(sums[best] / total)
