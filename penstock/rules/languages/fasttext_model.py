"""Read a classifier of fastText, full (``.bin``) or quantised (``.ftz``), such as lid.176.

The file is that of fastText's ``saveModel``, version 12: arguments, dictionary, input and output
matrix, little-endian. Every length in it is compared with the bytes that are left before anything
is allocated. A quantised matrix (Jégou et al. 2011, "Product Quantization for Nearest Neighbor
Search") is unpacked to float32.

Facebook's lid.176 models are under CC-BY-SA 3.0; Penstock ships none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from penstock.arrow_text import read_only
from penstock.rules.kernels.subwords import (
    SubwordScratch,
    SubwordTable,
    add_known_words,
    classify_words,
    fill_slots,
)

__all__ = ["WordModel", "is_fasttext"]

_MAGIC, _VERSION = 793712314, 12
_HIERARCHICAL, _SOFTMAX = 1, 3
_SUPERVISED = 3
_LONGEST_NGRAM = 64
"""Characters or words; time grows with it. fastText's default is 6 characters."""

_LABEL_PREFIX = b"__label__"
_EOS = b"</s>"


def is_fasttext(content: bytes) -> bool:
    """Return whether a file begins as those of fastText do."""
    return content[:4] == struct.pack("<i", _MAGIC)


@dataclass(frozen=True, eq=False, slots=True)
class WordModel:
    """A fastText classifier."""

    prepares: ClassVar[bool] = False
    """Whether texts in capitals and not in normal form C are changed first."""

    labels: tuple[str, ...]
    """Labels without the prefix ``__label__``."""
    table: SubwordTable
    eos: int
    """The word of the end of a line, or -1."""

    @classmethod
    def read(cls, content: bytes) -> WordModel:
        """Read a model.

        Raises:
            ValueError: It is not one, or of a kind that is not supported.
        """
        reader = _ModelBytes(content)
        magic, version = reader.numbers("2i")
        _require(magic == _MAGIC and version == _VERSION, f"version {_VERSION}, got {version}")
        arguments = _Arguments(*reader.numbers("12i"))
        reader.numbers("d")
        _require(arguments.model == _SUPERVISED, "a supervised model")
        _require(arguments.loss in (_HIERARCHICAL, _SOFTMAX), "the loss softmax or hs")
        lengths = arguments.shortest, arguments.longest, arguments.word_ngrams
        _require(min(lengths) >= 0 and max(lengths) <= _LONGEST_NGRAM, "shorter n-grams")
        dictionary = _Dictionary.read(reader)
        quantised = reader.flag()
        rows = reader.quantised() if quantised else reader.matrix()
        output = reader.quantised() if reader.flag() and quantised else reader.matrix()
        return _model(arguments, dictionary, rows, output)

    def classify(
        self, data: np.ndarray, begins: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the label of each text, (n,) int64 or -1, and its probability, (n,) float32."""
        classes, probabilities = np.empty(len(begins), np.int64), np.empty(len(begins), np.float32)
        scratch = SubwordScratch.of(self.table, int((ends - begins).max(initial=0)))
        found = classes, probabilities
        classify_words(data, begins, ends, self.table, self.eos, scratch, *found)
        return found


@dataclass(frozen=True, slots=True)
class _Arguments:
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


class _ModelBytes:
    """Reads numbers and arrays; a length beyond the end of the file is an error."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, size: int) -> int:
        """Return the place of the next bytes, and go on behind them."""
        _require(0 <= size <= len(self.content) - self.at, "more bytes")
        self.at += size
        return self.at - size

    def numbers(self, kinds: str) -> tuple[Any, ...]:
        kinds = f"<{kinds}"
        return struct.unpack_from(kinds, self.content, self.take(struct.calcsize(kinds)))

    def flag(self) -> bool:
        return bool(self.numbers("?")[0])

    def array(self, kind: Any, count: int) -> np.ndarray:
        dtype = np.dtype(kind)
        _require(count >= 0, "a length")
        return np.frombuffer(self.content, dtype, count, self.take(dtype.itemsize * count))

    def word(self) -> bytes:
        end = self.content.find(b"\0", self.at)
        _require(end >= 0, "the end of a word")
        word = self.content[self.at : end]
        self.at = end + 1
        return word

    def matrix(self) -> np.ndarray:
        rows, columns = self.numbers("2q")
        _require(rows >= 0 and columns > 0, "a matrix")
        return self.array("<f4", rows * columns).reshape(rows, columns)

    def quantised(self) -> np.ndarray:
        """Read a matrix of codes and unpack it: (rows, columns) float32."""
        with_norms = self.flag()
        rows, columns, size = self.numbers("2qi")
        codes = self.array(np.uint8, size)
        centroids = self._quantiser()
        _require(columns > 0 and sum(part.shape[1] for part in centroids) == columns, "columns")
        _require(rows >= 0 and size == rows * len(centroids), "codes")
        codes = codes.reshape(rows, len(centroids))
        whole = np.concatenate([part[codes[:, k]] for k, part in enumerate(centroids)], axis=1)
        if with_norms:
            norm_codes = self.array(np.uint8, rows)
            (norms,) = self._quantiser()
            whole = whole * norms[norm_codes]
        return np.ascontiguousarray(whole, np.float32)

    def _quantiser(self) -> list[np.ndarray]:
        """Read the centroids of each part of the columns: (256, columns of the part) float32."""
        dim, parts, columns, last = self.numbers("4i")
        _require(parts > 0 and columns > 0 and 0 < last <= columns, "centroids")
        _require((parts - 1) * columns + last == dim, "centroids")
        values = self.array("<f4", dim * 256)
        found = []
        for part in range(parts):
            width = last if part == parts - 1 else columns
            begin = part * 256 * columns
            found.append(values[begin : begin + 256 * width].reshape(256, width))
        return found


@dataclass(frozen=True, slots=True)
class _Dictionary:
    words: list[bytes]
    labels: list[bytes]
    counts: list[int]
    """Of the labels."""
    pruned: np.ndarray | None
    """(p, 2) int32, the buckets that are left and their rows; None if all are."""

    @classmethod
    def read(cls, reader: _ModelBytes) -> _Dictionary:
        size, n_words, n_labels, _, n_pruned = reader.numbers("3i2q")
        _require(size == n_words + n_labels and n_words >= 0, "words and labels")
        _require(0 < n_labels <= np.iinfo(np.int16).max, "1 to 32,767 labels")
        _require(size <= len(reader.content), "fewer words")
        entries = []
        for number in range(size):
            word = reader.word()
            count, kind = reader.numbers("qb")
            _require(kind == (number >= n_words), "words before labels")
            entries.append((word, count))
        pruned = None
        if n_pruned >= 0:
            pruned = reader.array("<i4", 2 * n_pruned).reshape(n_pruned, 2)
        words = [word for word, _ in entries[:n_words]]
        labels = [word for word, _ in entries[n_words:]]
        return cls(words, labels, [count for _, count in entries[n_words:]], pruned)


def _require(holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"expected {expected}")


def _model(
    arguments: _Arguments, dictionary: _Dictionary, rows: np.ndarray, output: np.ndarray
) -> WordModel:
    n_words, n_labels = len(dictionary.words), len(dictionary.labels)
    uses_ngrams = arguments.longest > 0 or arguments.word_ngrams > 1
    buckets = arguments.bucket if uses_ngrams else 0
    row_of, present = np.empty(0, np.int32), np.empty(0, np.uint32)
    left = buckets
    if dictionary.pruned is not None:
        row_of = np.zeros(max(buckets, 0), np.int32)
        left = len(dictionary.pruned)
        for column, end in ((0, buckets), (1, left)):
            numbers = dictionary.pruned[:, column]
            _require(left == 0 or (numbers.min() >= 0 and numbers.max() < end), "buckets")
        row_of[dictionary.pruned[:, 0]] = dictionary.pruned[:, 1]
        bits = np.zeros(-(-max(buckets, 0) // 32) * 32, np.bool_)
        bits[dictionary.pruned[:, 0]] = True
        present = np.packbits(bits, bitorder="little").view("<u4")
    _require(buckets >= 0 and arguments.dim == rows.shape[1], "dimensions")
    _require(buckets > 0 or not uses_ngrams, "buckets")
    _require(len(rows) >= n_words + left and np.isfinite(rows).all(), "rows")
    tree = np.empty((0, 2), np.int32)
    if arguments.loss == _HIERARCHICAL:
        tree = _tree(dictionary.counts)
    _require(len(output) >= n_labels - (len(tree) > 0), "labels of the output")
    _require(output.shape[1] == arguments.dim and bool(np.isfinite(output).all()), "output")
    words = np.frombuffer(b"".join(dictionary.words) or b"\0", np.uint8)
    starts = np.cumsum([0, *map(len, dictionary.words)], dtype=np.int64)
    slots = np.full(1 << (2 * n_words + 1).bit_length(), -1, np.int32)
    fill_slots(read_only(words), read_only(starts), slots)
    sums, parts = rows[:n_words].copy(), np.ones(n_words, np.int64)
    table = SubwordTable(
        words=read_only(words),
        starts=read_only(starts),
        slots=read_only(slots),
        sums=sums,
        parts=parts,
        rows=read_only(np.ascontiguousarray(rows[n_words:])),
        row_of=read_only(row_of),
        present=read_only(present),
        buckets=np.uint64(0 if dictionary.pruned is not None and left == 0 else buckets),
        shortest=arguments.shortest,
        longest=arguments.longest,
        word_ngrams=arguments.word_ngrams,
        label_prefix=read_only(np.frombuffer(_LABEL_PREFIX, np.uint8)),
        output=read_only(np.ascontiguousarray(output[:n_labels])),
        tree=read_only(tree),
    )
    eos = dictionary.words.index(_EOS) if _EOS in dictionary.words else -1
    longest = max(map(len, dictionary.words), default=0)
    if arguments.longest > 0:
        add_known_words(table, eos, np.empty(longest + 2, np.uint8))
    labels = tuple(
        label.removeprefix(_LABEL_PREFIX).decode(errors="replace") for label in dictionary.labels
    )
    return WordModel(labels, table._replace(sums=read_only(sums), parts=read_only(parts)), eos)


def _tree(counts: list[int]) -> np.ndarray:
    """Build the Huffman tree of labels, which come with falling counts.

    Returns:
        (2 c - 1, 2) int32: the children of each node; leaves come first, the root last.
    """
    leaves = len(counts)
    total = [*counts, *[10**15] * (leaves - 1)]
    children = np.full((2 * leaves - 1, 2), -1, np.int32)
    leaf, node = leaves - 1, leaves
    for parent in range(leaves, 2 * leaves - 1):
        for side in range(2):
            if leaf >= 0 and total[leaf] < total[node]:
                children[parent, side] = leaf
                leaf -= 1
            else:
                children[parent, side] = node
                node += 1
        total[parent] = total[children[parent, 0]] + total[children[parent, 1]]
    return children
