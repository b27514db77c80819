"""A fastText classifier over words, their character n-grams and word n-grams.

Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification", EACL; Bojanowski et al. 2017,
"Enriching Word Vectors with Subword Information", TACL, for the character n-grams. A text is one
line: its words are divided at ASCII white space and NUL, and the end of the line is a word. The
vector of a text is the mean of the vectors of its parts; the rows of a known word and of its
character n-grams are added up once, when the model is read. Integers wrap as in fastText's C++
(``src/dictionary.cc``).
"""

# mypy: disable-error-code="no-any-return, return-value, assignment"
# (numba's decorated functions are Any to mypy, and NumPy's numbers not int)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock import arrow_text
from penstock.arrow_text import is_white_space
from penstock.compiling import compiler

__all__ = ["SubwordScratch", "SubwordTable", "add_known_words", "classify_words", "fill_slots"]

_compiled = compiler(arrow_text)

_BASIS, _PRIME = np.uint32(2166136261), np.uint32(16777619)
_FIVE, _LOW, _ONE = np.uint64(5), np.uint32(31), np.uint32(1)
_USUAL = np.uint64(2_000_000)
"""fastText's default number of buckets, which lid.176 has."""

_FACTOR = np.uint64(116049371)
_END_OF_LINE = np.uint32(0xD79C9359)
"""The hash of ``</s>``."""

_OPEN, _CLOSE = np.uint8(ord("<")), np.uint8(ord(">"))


class SubwordTable(NamedTuple):
    """The arrays of a model of ``w`` words, ``c`` labels and ``d`` dimensions, read-only."""

    words: np.ndarray  # (b,) uint8, the words one after the other
    starts: np.ndarray  # (w + 1,) int64
    slots: np.ndarray  # (a power of two,) int32, word or -1, by hash
    sums: np.ndarray  # (w, d) float32, the rows of each word and of its n-grams, added up
    parts: np.ndarray  # (w,) int64, how many rows these are
    rows: np.ndarray  # (r, d) float32, of n-grams
    row_of: np.ndarray  # (buckets,) int32, the row of each bucket; empty: bucket b has row b
    present: np.ndarray  # (buckets / 32 rounded up,) uint32, bit b: bucket b has a row; or empty
    buckets: np.uint64  # 0 if there are no n-grams
    shortest: int  # characters of an n-gram, at least
    longest: int  # and at most; 0 for none
    word_ngrams: int  # words of an n-gram, at most
    label_prefix: np.ndarray  # (p,) uint8, words that begin with it are skipped
    output: np.ndarray  # (c, d) float32, or of the inner nodes of the tree
    tree: np.ndarray  # (2 c - 1, 2) int32, the children of each node; empty for a softmax


class SubwordScratch(NamedTuple):
    """Buffers for one text."""

    word: np.ndarray  # (longest text + 2,) uint8, a word between brackets
    hashes: np.ndarray  # (words of the longest text,) uint32
    sum: np.ndarray  # (d,) float32
    scores: np.ndarray  # (2 c - 1,) float64

    @classmethod
    def of(cls, table: SubwordTable, longest: int) -> SubwordScratch:
        """Allocate for a model, and texts of at most so many bytes."""
        return cls(
            np.empty(longest + 2, np.uint8),
            np.empty(longest // 2 + 2, np.uint32),
            np.empty(table.rows.shape[1], np.float32),
            np.empty(2 * len(table.output) + 1, np.float64),
        )


@_compiled
def _step(state: int, byte: int) -> int:
    """Take a step of FNV-1a over a signed byte."""
    return np.uint32((state ^ np.uint32(np.int8(byte))) * _PRIME)


@_compiled
def _hash(text: np.ndarray, begin: int, end: int) -> int:
    state = _BASIS
    for at in range(begin, end):
        state = _step(state, text[at])
    return state


@_compiled
def fill_slots(words: np.ndarray, starts: np.ndarray, slots: np.ndarray) -> None:
    """Write words to slots, which come filled with -1 and are at least twice as many."""
    mask = len(slots) - 1
    for number in range(len(starts) - 1):
        at = np.int64(_hash(words, starts[number], starts[number + 1])) & mask
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = number


@_compiled
def add_known_words(table: SubwordTable, eos: int, word: np.ndarray) -> None:
    """Add the n-grams of known words to their sums and parts.

    Args:
        table: The model, whose ``sums`` come as the rows of the words, and whose ``parts`` as 1.
        eos: The word of the end of a line, which has no n-grams, or -1.
        word: (longest word + 2,) uint8, scratch.
    """
    for number in range(len(table.parts)):
        if number != eos:
            length = _bracket(table.words, table.starts[number], table.starts[number + 1], word)
            table.parts[number] += _add_ngrams(word, length, table, table.sums[number])


@_compiled
def _bracket(text: np.ndarray, begin: int, end: int, word: np.ndarray) -> int:
    """Copy a word between brackets, and return its length."""
    word[0] = _OPEN
    for at in range(begin, end):
        word[at - begin + 1] = text[at]
    word[end - begin + 1] = _CLOSE
    return end - begin + 2


@_compiled
def _add_ngrams(word: np.ndarray, length: int, table: SubwordTable, total: np.ndarray) -> int:
    """Add the rows of a word's character n-grams to ``total``, and return their number."""
    added = 0
    for begin in range(length):
        if word[begin] & 0xC0 == 0x80:
            continue
        state = _BASIS
        at, characters = begin, 0
        while at < length and characters < table.longest:
            state = _step(state, word[at])
            at += 1
            while at < length and word[at] & 0xC0 == 0x80:
                state = _step(state, word[at])
                at += 1
            characters += 1
            bracket = characters == 1 and (begin == 0 or at == length)
            if characters >= table.shortest and not bracket:
                added += _add_bucket(np.uint64(state), table, total)
    return added


@_compiled
def _add_bucket(hashed: int, table: SubwordTable, total: np.ndarray) -> int:
    """Add the row of a hash's bucket, and return 1; 0 if the bucket was pruned."""
    if table.buckets == 0:
        return 0
    # By a constant the compiler multiplies instead of dividing.
    row = hashed % _USUAL if table.buckets == _USUAL else hashed % table.buckets
    if len(table.row_of) > 0:
        if table.present[row >> _FIVE] >> (np.uint32(row) & _LOW) & _ONE == 0:
            return 0
        row = np.uint64(table.row_of[row])
    for k in range(len(total)):
        total[k] += table.rows[row, k]
    return 1


@_compiled
def _find_word(text: np.ndarray, begin: int, end: int, hashed: int, table: SubwordTable) -> int:
    """Return the number of a word, or -1."""
    mask = len(table.slots) - 1
    at = np.int64(hashed) & mask
    while table.slots[at] >= 0:
        number = table.slots[at]
        start = table.starts[number]
        if table.starts[number + 1] - start == end - begin:
            equal = True
            for place in range(end - begin):
                if table.words[start + place] != text[begin + place]:
                    equal = False
                    break
            if equal:
                return np.int64(number)
        at = (at + 1) & mask
    return -1


@_compiled
def classify_words(
    data: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    table: SubwordTable,
    eos: int,
    scratch: SubwordScratch,
    classes: np.ndarray,
    probabilities: np.ndarray,
) -> None:
    """Write the most probable label of each text, and its probability.

    Args:
        data: UTF-8 of all texts.
        begins: (n,) int64.
        ends: (n,) int64.
        table: The model.
        eos: The word of the end of a line, or -1.
        scratch: Buffers.
        classes: (n,) int64, the result; -1 for a text none of whose parts is known.
        probabilities: (n,) float32, the result.
    """
    for row in range(len(begins)):
        parts = _add_words(data, begins[row], ends[row], table, eos, scratch)
        classes[row], probabilities[row] = -1, 0
        if parts > 0:
            for k in range(len(scratch.sum)):
                scratch.sum[k] /= np.float32(parts)
            if len(table.tree) > 0:
                classes[row], probabilities[row] = _likeliest_leaf(table, scratch)
            else:
                classes[row], probabilities[row] = _likeliest_label(table, scratch)


@_compiled
def _add_words(
    data: np.ndarray,
    begin: int,
    end: int,
    table: SubwordTable,
    eos: int,
    scratch: SubwordScratch,
) -> int:
    """Add the rows of a text's parts, and return their number."""
    total = scratch.sum
    for k in range(len(total)):
        total[k] = np.float32(0)
    parts, words, at, ended = 0, 0, begin, False
    while not ended:
        while at < end and is_white_space(data[at]):
            at += 1
        start = at
        while at < end and not is_white_space(data[at]):
            at += 1
        ended = start == at
        number, hashed = eos, _END_OF_LINE
        if not ended:
            hashed = _hash(data, start, at)
            number = _find_word(data, start, at, hashed, table)
            if number < 0 and _is_label(data, start, at, table.label_prefix):
                continue
            ended = _is_end_of_line(data, start, at)
        if number >= 0:
            for k in range(len(total)):
                total[k] += table.sums[number, k]
            parts += table.parts[number]
        elif not ended and table.longest > 0:
            length = _bracket(data, start, at, scratch.word)
            parts += _add_ngrams(scratch.word, length, table, total)
        scratch.hashes[words] = hashed
        words += 1
    if table.word_ngrams > 1:
        parts += _add_word_ngrams(words, table, scratch)
    return parts


@_compiled
def _is_end_of_line(data: np.ndarray, begin: int, end: int) -> bool:
    return bool(
        end - begin == 4
        and data[begin] == _OPEN
        and data[begin + 1] == ord("/")
        and data[begin + 2] == ord("s")
        and data[begin + 3] == _CLOSE
    )


@_compiled
def _is_label(data: np.ndarray, begin: int, end: int, prefix: np.ndarray) -> bool:
    if end - begin < len(prefix):
        return False
    equal = True
    for place in range(len(prefix)):
        equal &= data[begin + place] == prefix[place]
    return equal


@_compiled
def _add_word_ngrams(words: int, table: SubwordTable, scratch: SubwordScratch) -> int:
    """Add the rows of n-grams of two words and more, and return their number."""
    added = 0
    for first in range(words):
        state = np.uint64(np.int64(np.int32(scratch.hashes[first])))
        for other in range(first + 1, min(first + table.word_ngrams, words)):
            state = state * _FACTOR + np.uint64(np.int64(np.int32(scratch.hashes[other])))
            added += _add_bucket(state, table, scratch.sum)
    return added


@_compiled
def _product(table: SubwordTable, row: int, vector: np.ndarray) -> float:
    total = 0.0
    for k in range(len(vector)):
        total += np.float64(table.output[row, k]) * np.float64(vector[k])
    return total


@_compiled
def _likeliest_label(table: SubwordTable, scratch: SubwordScratch) -> tuple[int, float]:
    """Return the label of the highest softmax, the first of equal ones."""
    best, scores = 0, scratch.scores
    for label in range(len(table.output)):
        scores[label] = _product(table, label, scratch.sum)
        best = label if scores[label] > scores[best] else best
    total = 0.0
    for label in range(len(table.output)):
        total += np.exp(scores[label] - scores[best])
    return best, 1.0 / total


@_compiled
def _likeliest_leaf(table: SubwordTable, scratch: SubwordScratch) -> tuple[int, float]:
    """Return the leaf of the tree with the highest probability.

    A branch has the logistic probability plus 1e-5, as in fastText.
    """
    scores, nodes = scratch.scores, len(table.tree)
    leaves = (nodes + 1) // 2
    scores[nodes - 1] = 1.0
    for node in range(nodes - 1, leaves - 1, -1):  # children come before their parents
        right = 1.0 / (1.0 + np.exp(-_product(table, node - leaves, scratch.sum)))
        scores[table.tree[node, 0]] = scores[node] * (1.0 - right + 1e-5)
        scores[table.tree[node, 1]] = scores[node] * (right + 1e-5)
    best = 0
    for leaf in range(leaves):
        best = leaf if scores[leaf] > scores[best] else best
    return best, scores[best]
