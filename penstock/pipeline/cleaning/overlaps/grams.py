"""The word n-grams of evaluation examples, indexed by hash.

n-grams of 13 words are those of Brown et al. 2020 (*Language Models are Few-Shot Learners*,
appendix C) and of most decontamination since. There an example shorter than that is not looked for;
here it is one gram of all its words, from five on. Below that, a match would say nothing, and the
example is counted as not checkable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.arrow_text import read_only, text_view
from penstock.errors import RecipeError
from penstock.pipeline.cleaning.overlaps.comparison import letters_of
from penstock.pipeline.cleaning.overlaps.kernels import (
    SHORTEST,
    GramIndex,
    GramScratch,
    count_overlaps,
    index_grams,
)
from penstock.pipeline.cleaning.overlaps.words import Spelling, spell_texts

__all__ = ["MOST_WORDS", "NGRAM", "Grams", "OverlapCounts"]

NGRAM = 13
"""Words of a gram by default."""

MOST_WORDS = 1000
"""Words of a gram, at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OverlapCounts:
    """The overlap of n documents with the examples."""

    share: np.ndarray
    """(n,) float32: the share of a document's words that are in a gram of an example."""
    example: np.ndarray
    """(n,) int32: the example with the most grams in the document, the first of equals; -1 of
    none. A gram that several examples have counts for the first of them."""
    grams: np.ndarray
    """(n,) uint32: the words of the document at which a gram of an example begins."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grams:
    """The different grams of some examples: arrays, so it can be sent to workers."""

    ngram: int
    """Words of a gram, but for shorter examples."""
    examples: int
    """Number of examples."""
    unchecked: tuple[int, ...]
    """Examples that are too short to be looked for: their first text has fewer than five words."""
    letters: np.ndarray
    """(c,) uint32: the words of all texts, as they are compared; see
    :class:`~penstock.pipeline.cleaning.overlaps.words.Spelling`."""
    starts: np.ndarray
    """(g,) int64."""
    stops: np.ndarray
    """(g,) int64: gram ``i`` is ``letters[starts[i]:stops[i]]``."""
    hashes: np.ndarray
    """(g,) uint64."""
    origins: np.ndarray
    """(g,) int32: the first example that has the gram."""
    slots: np.ndarray
    """(a power of two,) int32."""
    bloom: np.ndarray
    """(a power of two,) uint64."""
    lengths: np.ndarray
    """(n + 1,) bool: the numbers of words that grams have."""

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, examples: Sequence[Sequence[str]], ngram: int = NGRAM) -> Grams:
        """GramIndex the grams of examples.

        Args:
            examples: The texts of each example: first as it is right, then with each other choice.
            ngram: Words of a gram, 5 to 1,000.

        Raises:
            RecipeError: ``ngram`` is out of range.
        """
        if not SHORTEST <= ngram <= MOST_WORDS:
            raise RecipeError(
                key="ngram", expected=f"{SHORTEST} to {MOST_WORDS:,} words", got=ngram
            )
        texts = pa.array([text for example in examples for text in example], pa.large_string())
        sizes = [len(example) for example in examples]
        spelling = _spelled(texts)
        counts = np.diff(spelling.offsets)
        firsts = np.cumsum([0, *sizes])[:-1]
        # An example without a text has no words either.
        words = [counts[at] if size else 0 for at, size in zip(firsts, sizes)]

        most = len(spelling.starts)
        bits = max(1, (2 * most - 1).bit_length()) if most else 1
        index = GramIndex(
            letters=spelling.letters,
            starts=np.zeros(most, np.int64),
            stops=np.zeros(most, np.int64),
            hashes=np.zeros(most, np.uint64),
            examples=np.zeros(most, np.int32),
            slots=np.full(1 << bits, -1, np.int32),
            bloom=np.zeros(1 << max(0, bits - 2), np.uint64),  # 32 bits a word of the examples
            lengths=np.zeros(ngram + 1, np.bool_),
        )
        origins = np.repeat(np.arange(len(examples), dtype=np.int32), sizes)
        count = index_grams(spelling, origins, ngram, index)
        return cls(
            ngram=ngram,
            examples=len(examples),
            unchecked=tuple(int(row) for row in np.flatnonzero(np.array(words) < SHORTEST)),
            letters=spelling.letters,
            starts=index.starts[:count].copy(),
            stops=index.stops[:count].copy(),
            hashes=index.hashes[:count].copy(),
            origins=index.examples[:count].copy(),
            slots=index.slots,
            bloom=index.bloom,
            lengths=index.lengths,
        )

    def count(self, texts: pa.Array) -> OverlapCounts:
        """Count the overlap of documents with the examples.

        Args:
            texts: (n,) string or large_string, without nulls.

        Raises:
            SelectorError: The array is of another type.
        """
        view = text_view(texts)
        found = OverlapCounts(
            share=np.empty(len(texts), np.float32),
            example=np.empty(len(texts), np.int32),
            grams=np.empty(len(texts), np.uint32),
        )
        count_overlaps(
            view.data,
            view.offsets,
            letters_of(),
            self._index(),
            GramScratch.of(self.ngram, self.examples),
            found.share,
            found.example,
            found.grams,
        )
        return found

    def _index(self) -> GramIndex:
        return GramIndex(
            letters=read_only(self.letters),
            starts=read_only(self.starts),
            stops=read_only(self.stops),
            hashes=read_only(self.hashes),
            examples=read_only(self.origins),
            slots=read_only(self.slots),
            bloom=read_only(self.bloom),
            lengths=read_only(self.lengths),
        )


def _spelled(texts: Any) -> Spelling:
    view = text_view(texts)
    size = int(view.offsets[-1] - view.offsets[0])
    letters = np.empty(3 * size + len(texts), np.uint32)
    starts = np.empty(size, np.int64)
    hashes = np.empty(size, np.uint64)
    offsets = np.empty(len(texts) + 1, np.int64)
    n_letters, n_words = spell_texts(
        view.data, view.offsets, letters_of(), letters, starts, hashes, offsets
    )
    return Spelling(letters[:n_letters].copy(), starts[:n_words], hashes[:n_words], offsets)
