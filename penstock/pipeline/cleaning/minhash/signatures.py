"""Signatures of texts: a column of band hashes, equal in a band for texts that are alike.

:class:`Signatures` hashes the word n-grams of each text by k functions, keeps the minimum of each
(Broder 1997, "On the resemblance and containment of documents"), and hashes the minima of each
band. Two texts are candidates if they agree in a band. Words are those of the text in lower case,
divided at white space and, in scripts without spaces, before each letter
(:mod:`~penstock.pipeline.cleaning.minhash.kernels`), so texts that are equal after
:func:`penstock.text_hashes.normalise` have equal bands. A text of fewer than n
words has one n-gram, all its words. A text without a word has none, and is no candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from penstock.arrow_text import checked_view
from penstock.errors import RecipeError
from penstock.hashing import avalanche, mix
from penstock.pipeline.cleaning.minhash.folding import folded
from penstock.pipeline.cleaning.minhash.kernels import (
    Permutations,
    Scratch,
    count_shingles,
    list_shingles,
    sign_texts,
)
from penstock.pipeline.cleaning.minhash.threshold import Banding, choose_banding
from penstock.rules.characters import UNICODE

__all__ = ["Signatures", "band_hashes", "shingle_sets"]

_LANES = 16
"""Hash functions that an instruction computes: a number that is no multiple takes longer."""

_MOST_WORDS = 1000
"""Words of an n-gram, at most."""


@dataclass(frozen=True, kw_only=True)
class Signatures:
    """A text column: the band hashes of each text.

    Raises:
        RecipeError: A value is outside its range.
    """

    name: ClassVar[str] = "signatures"
    version: ClassVar[int] = 1

    threshold: float = 0.8
    """Jaccard similarity from which pairs should be candidates; it chooses bands and rows."""
    ngram: int = 5
    """Words of an n-gram."""
    permutations: int = 128
    """Hash functions, at most."""
    false_negatives: float = 0.5
    """Weight of missed pairs in the choice of bands and rows; false positives have the rest."""
    seed: int = 0
    """Of the hash functions. It is part of the column's identity."""

    def __post_init__(self) -> None:
        if not 1 <= self.ngram <= _MOST_WORDS:
            raise RecipeError(key="ngram", expected=f"1 to {_MOST_WORDS} words", got=self.ngram)
        choose_banding(self.threshold, self.permutations, self.false_negatives)

    @property
    def banding(self) -> Banding:
        """Bands and rows."""
        return choose_banding(self.threshold, self.permutations, self.false_negatives)

    def config(self) -> dict[str, Any]:
        """Return what the hashes depend on beside the text, for a fingerprint.

        Two thresholds with the same bands and rows share a column.
        """
        return {
            "ngram": self.ngram,
            "bands": self.banding.bands,
            "rows": self.banding.rows,
            "seed": self.seed,
            "unicode": UNICODE,
        }

    @property
    def schema(self) -> pa.Schema:
        """``bands``: fixed_size_list of b uint64; all 0 for a text without a word, else none is."""
        kind = pa.list_(pa.field("item", pa.uint64(), nullable=False), self.banding.bands)
        return pa.schema([pa.field("bands", kind, nullable=False)])

    def compute(self, texts: pa.Array) -> pa.RecordBatch:
        """Compute the band hashes.

        Args:
            texts: (n,) string or large_string, without nulls; may be a slice.

        Returns:
            n rows with :attr:`schema`.

        Raises:
            InputError: A text is null, or not UTF-8.
        """
        view = checked_view(texts)
        bands, rows = self.banding.bands, self.banding.rows
        hashes = np.empty((len(texts), bands), np.uint64)
        permutations = _permutations(-(-bands * rows // _LANES) * _LANES, self.seed)
        scratch = Scratch.of(self.ngram, len(permutations.factors))
        sign_texts(*view, folded(), self.ngram, permutations, rows, scratch, hashes)
        bands = pa.FixedSizeListArray.from_arrays(
            pa.array(hashes.reshape(-1)), type=self.schema.field("bands").type
        )
        return pa.RecordBatch.from_arrays([bands], schema=self.schema)


def band_hashes(column: pa.Array) -> np.ndarray:
    """View the ``bands`` of a column of signatures, without a copy: (n, b) uint64."""
    return np.asarray(column.flatten()).reshape(-1, column.type.list_size)


def shingle_sets(texts: pa.Array, ngram: int) -> list[np.ndarray]:
    """Return the set of n-grams of each text, as which true similarities are computed.

    Args:
        texts: (n,) string or large_string, without nulls; may be a slice.
        ngram: Words of an n-gram.

    Returns:
        n arrays of uint32, ascending and different: hashes of the n-grams. Two n-grams of different
        words are equal here with a probability of 2^-32.

    Raises:
        InputError: A text is null, or not UTF-8.
    """
    view = checked_view(texts)
    scratch = Scratch.of(ngram, 0)
    counts = np.empty(len(texts), np.int64)
    count_shingles(*view, folded(), ngram, scratch, counts)
    found = []
    for start, stop, count in zip(view.offsets, view.offsets[1:], counts):
        shingles = np.empty(count, np.uint32)
        list_shingles(view.data, start, stop, folded(), ngram, scratch, shingles)
        shingles.sort()
        # np.unique takes five times as long: it counts by a table of hashes first.
        fresh = np.ones(count, bool)
        np.not_equal(shingles[1:], shingles[:-1], out=fresh[1:])
        found.append(shingles[fresh])
    return found


@cache
def _permutations(count: int, seed: int) -> Permutations:
    """Draw the constants of so many hash functions; the first are the same for any count."""
    with np.errstate(over="ignore"):
        draws = [avalanche(np.uint64(mix(seed, "minhash", number))) for number in range(count)]
    values = np.array(draws, np.uint64)
    factors = (values >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    return Permutations(factors, values.astype(np.uint32))
