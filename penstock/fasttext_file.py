"""Read the file of a fastText classifier, full (``.bin``) or quantised (``.ftz``), as arrays.

The file is that of fastText's ``saveModel``, versions 11 and 12: arguments, dictionary, input and
output matrix, little-endian. Every length in it is compared with the bytes that are left before
anything is allocated. fastText's own ``loadModel`` believes them: a negative size or a false one
ends the process, or it loops for hours.

A quantised matrix (Jégou et al. 2011, "Product Quantization for Nearest Neighbor Search") is
unpacked to float32.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "HIERARCHICAL",
    "LABEL_PREFIX",
    "SOFTMAX",
    "SUPERVISED",
    "Arguments",
    "Dictionary",
    "FastTextFile",
    "is_fasttext",
    "require",
]

_MAGIC, _VERSIONS = 793712314, (11, 12)

HIERARCHICAL, SOFTMAX = 1, 3
"""Losses, as the file numbers them."""

SUPERVISED = 3
"""The kind of model that is a classifier."""

LABEL_PREFIX = b"__label__"
"""What a label begins with; the file has no other."""

_UNPACKED = 2**30
"""Most bytes of a quantised matrix that is unpacked; a row of 50 kB may claim 50 MB of them."""

_SMALL, _GROWTH = 2**26, 64
"""Bytes that any quantised matrix may unpack to, and how many for each byte of a larger one. A code
of one byte stands for 4 x ``dsub`` of them: 8 by default, 64 where ``dsub`` is 16."""

_BUCKETS = 2**26
"""Most buckets of n-grams of which a file keeps some; fastText's default is 2,000,000."""

_ENTRY = re.compile(rb"([^\0]*)\0(.{8}[\0\1])", re.DOTALL)
"""A word or label, and its count and kind."""


def is_fasttext(content: bytes) -> bool:
    """Return whether a file begins as those of fastText do."""
    return content[:4] == struct.pack("<i", _MAGIC)


def require(holds: bool, expected: str) -> None:
    """Raise ValueError if a condition of the format does not hold."""
    if not holds:
        raise ValueError(f"expected {expected}")


@dataclass(frozen=True, slots=True)
class Arguments:
    """The settings that a model was trained by, in the order of the file."""

    dim: int
    window: int
    epoch: int
    least_count: int
    negatives: int
    word_ngrams: int
    loss: int
    model: int
    bucket: int
    shortest: int
    longest: int
    rate: int


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Words and labels."""

    words: list[bytes]
    labels: list[bytes]
    counts: list[int]
    """Of the labels."""
    pruned: np.ndarray | None
    """(p, 2) int32, the buckets that are left and their rows; None if all are."""


@dataclass(frozen=True, eq=False, slots=True)
class FastTextFile:
    """A model as it is in its file."""

    arguments: Arguments
    dictionary: Dictionary
    rows: np.ndarray
    """(words + buckets, dim) float32, finite: the input matrix; may be a view of the file."""
    output: np.ndarray
    """(labels, dim) float32, finite."""
    quantised: bool

    @classmethod
    def read(cls, content: bytes) -> FastTextFile:
        """Read a file.

        Raises:
            ValueError: It is none, its version is another, or a length in it is false.
        """
        reader = _ModelBytes(content)
        magic, version = reader.numbers("2i")
        require(magic == _MAGIC, "a file of fastText")
        require(version in _VERSIONS, f"version 11 or 12, got {version}")
        settings = reader.numbers("12i")
        reader.numbers("d")
        if version == _VERSIONS[0]:  # its classifiers had no n-grams of characters
            settings = (*settings[:10], 0, settings[11])
        arguments = Arguments(*settings)
        require(0 < arguments.dim <= len(content), "dimensions")
        require(arguments.bucket >= 0 and arguments.word_ngrams >= 0, "buckets")
        dictionary = reader.dictionary()
        require(dictionary.pruned is None or arguments.bucket <= _BUCKETS, "fewer buckets")
        quantised = reader.flag()
        rows = reader.quantised() if quantised else reader.matrix()
        output = reader.quantised() if reader.flag() and quantised else reader.matrix()
        require(rows.shape[1] == output.shape[1] == arguments.dim, "dimensions")
        for matrix in (rows, output):
            # Of float32, a sum in float64 is finite only if all are; no second matrix is made.
            require(bool(np.isfinite(matrix.sum(axis=1, dtype=np.float64)).all()), "finite numbers")
        return cls(arguments, dictionary, rows, output, quantised)


class _ModelBytes:
    """Reads numbers and arrays; a length beyond the end of the file is an error."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, size: int) -> int:
        """Return the place of the next bytes, and go on behind them."""
        require(0 <= size <= len(self.content) - self.at, "more bytes")
        self.at += size
        return self.at - size

    def numbers(self, kinds: str) -> tuple[Any, ...]:
        kinds = f"<{kinds}"
        return struct.unpack_from(kinds, self.content, self.take(struct.calcsize(kinds)))

    def flag(self) -> bool:
        return bool(self.numbers("?")[0])

    def array(self, kind: Any, count: int) -> np.ndarray:
        dtype = np.dtype(kind)
        require(count >= 0, "a length")
        return np.frombuffer(self.content, dtype, count, self.take(dtype.itemsize * count))

    def dictionary(self) -> Dictionary:
        size, n_words, n_labels, _, n_pruned = self.numbers("3i2q")
        require(size == n_words + n_labels and n_words >= 0, "words and labels")
        require(0 <= n_labels <= np.iinfo(np.int16).max, "at most 32,767 labels")
        words: list[bytes] = []
        facts: list[bytes] = []
        scanner = _ENTRY.scanner(self.content, self.at)  # type: ignore[attr-defined]
        for _ in range(size):
            found = scanner.match()
            require(found is not None, "the end of a word, its count and its kind")
            word, fact = found.groups()
            words.append(word)
            facts.append(fact)
            self.at = found.end()
        kinds = b"".join(fact[8:] for fact in facts)
        require((b"\0" * n_words + b"\1" * n_labels) == kinds, "words before labels")
        require(all(words), "words that are not empty")
        pruned = None
        if n_pruned >= 0:
            pruned = self.array("<i4", 2 * n_pruned).reshape(n_pruned, 2)
        counts = [struct.unpack_from("<q", fact)[0] for fact in facts[n_words:]]
        require(all(count >= 0 for count in counts) and sum(counts) < 10**15, "counts of labels")
        return Dictionary(words[:n_words], words[n_words:], counts, pruned)

    def matrix(self) -> np.ndarray:
        rows, columns = self.numbers("2q")
        require(rows >= 0 and columns > 0, "a matrix")
        return self.array("<f4", rows * columns).reshape(rows, columns)

    def quantised(self) -> np.ndarray:
        """Read a matrix of codes and unpack it: (rows, columns) float32."""
        with_norms = self.flag()
        rows, columns, size = self.numbers("2qi")
        codes = self.array(np.uint8, size)
        centroids = self._quantiser()
        require(columns > 0 and sum(part.shape[1] for part in centroids) == columns, "columns")
        require(rows >= 0 and size == rows * len(centroids), "codes")
        limit = min(_UNPACKED, max(_SMALL, _GROWTH * len(self.content)))
        require(
            4 * rows * columns <= limit,
            f"a quantised matrix of at most {limit:,} bytes, got {rows:,} rows of {columns:,} "
            f"float32, {4 * rows * columns:,} bytes, in a file of {len(self.content):,} bytes; "
            "quantise it with a smaller `-dsub`, or give the model that is not quantised",
        )
        codes = codes.reshape(rows, len(centroids))
        whole = np.empty((rows, columns), np.float32)
        ends = np.cumsum([part.shape[1] for part in centroids])
        for k, (part, end) in enumerate(zip(centroids, ends, strict=True)):
            whole[:, end - part.shape[1] : end] = part[codes[:, k]]
        if with_norms:
            norm_codes = self.array(np.uint8, rows)
            (norms,) = self._quantiser()
            whole *= norms[norm_codes]
        return whole

    def _quantiser(self) -> list[np.ndarray]:
        """Read the centroids of each part of the columns: (256, columns of the part) float32."""
        dim, parts, columns, last = self.numbers("4i")
        require(parts > 0 and columns > 0 and 0 < last <= columns, "centroids")
        require((parts - 1) * columns + last == dim, "centroids")
        values = self.array("<f4", dim * 256)
        found = []
        for part in range(parts):
            width = last if part == parts - 1 else columns
            begin = part * 256 * columns
            found.append(values[begin : begin + 256 * width].reshape(256, width))
        return found
