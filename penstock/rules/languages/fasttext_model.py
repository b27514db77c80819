"""Classify texts by a model of fastText, full (``.bin``) or quantised (``.ftz``), such as lid.176.

Facebook's lid.176 models are under CC-BY-SA 3.0; Penstock ships none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penstock.arrow_text import read_only
from penstock.fasttext_file import (
    HIERARCHICAL,
    LABEL_PREFIX,
    SOFTMAX,
    SUPERVISED,
    FastTextFile,
    require,
)
from penstock.rules.kernels.subwords import (
    SubwordScratch,
    SubwordTable,
    add_known_words,
    classify_words,
    fill_slots,
)

__all__ = ["WordModel"]

_LONGEST_NGRAM = 64
"""Characters or words; time grows with it. fastText's default is 6 characters."""

_EOS = b"</s>"


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
        file = FastTextFile.read(content)
        arguments = file.arguments
        require(arguments.model == SUPERVISED, "a supervised model")
        require(arguments.loss in (HIERARCHICAL, SOFTMAX), "the loss softmax or hs")
        lengths = arguments.shortest, arguments.longest, arguments.word_ngrams
        require(min(lengths) >= 0 and max(lengths) <= _LONGEST_NGRAM, "shorter n-grams")
        require(len(file.dictionary.labels) > 0, "a label")
        return _model(file)

    def classify(
        self, data: np.ndarray, begins: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the label of each text, (n,) int64 or -1, and its probability, (n,) float32."""
        classes, probabilities = np.empty(len(begins), np.int64), np.empty(len(begins), np.float32)
        scratch = SubwordScratch.of(self.table, int((ends - begins).max(initial=0)))
        found = classes, probabilities
        classify_words(data, begins, ends, self.table, self.eos, scratch, *found)
        return found


def _model(file: FastTextFile) -> WordModel:
    arguments, dictionary, rows, output = file.arguments, file.dictionary, file.rows, file.output
    n_words, n_labels = len(dictionary.words), len(dictionary.labels)
    uses_ngrams = arguments.longest > 0 or arguments.word_ngrams > 1
    buckets = arguments.bucket if uses_ngrams else 0
    row_of, present = np.empty(0, np.int32), np.empty(0, np.uint32)
    left = buckets
    if dictionary.pruned is not None:
        row_of = np.zeros(buckets, np.int32)
        left = len(dictionary.pruned)
        for column, end in ((0, buckets), (1, left)):
            numbers = dictionary.pruned[:, column]
            require(left == 0 or (numbers.min() >= 0 and numbers.max() < end), "buckets")
        row_of[dictionary.pruned[:, 0]] = dictionary.pruned[:, 1]
        bits = np.zeros(-(-buckets // 32) * 32, np.bool_)
        bits[dictionary.pruned[:, 0]] = True
        present = np.packbits(bits, bitorder="little").view("<u4")
    require(buckets > 0 or not uses_ngrams, "buckets")
    require(len(rows) >= n_words + left, "rows")
    tree = np.empty((0, 2), np.int32)
    if arguments.loss == HIERARCHICAL:
        tree = _tree(dictionary.counts)
    require(len(output) >= n_labels - (len(tree) > 0), "labels of the output")
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
        label_prefix=read_only(np.frombuffer(LABEL_PREFIX, np.uint8)),
        output=read_only(np.ascontiguousarray(output[:n_labels])),
        tree=read_only(tree),
    )
    eos = dictionary.words.index(_EOS) if _EOS in dictionary.words else -1
    longest = max(map(len, dictionary.words), default=0)
    if arguments.longest > 0:
        add_known_words(table, eos, np.empty(longest + 2, np.uint8))
    labels = tuple(
        label.removeprefix(LABEL_PREFIX).decode(errors="replace") for label in dictionary.labels
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
