"""Static encoders: one vector a token, summed in the order of the text's tokens.

A sentence encoder reads 20 documents a second on a core; a static encoder reads 2,400. It is
distilled from a sentence encoder (:mod:`penstock.selectors.encoders.distillation`) and agrees with
it only in part. Over 4,000 documents and four targets of 284 to 800 examples, the mean rank
correlation of similarities is 0.39 to 0.41. Of the tenth that is ranked best by some example, 33 to
48 % is the same (chance: 10 %; ``benchmarks/agreement.py``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.array_files import load_array
from penstock.compiling import cached
from penstock.errors import ArtefactError
from penstock.panics import panics_as_errors
from penstock.resources import Resources
from penstock.selectors.encoders.lattice import normalised
from penstock.selectors.kernels.wordpiece import WordPiece
from penstock.tokenization.examining import examined

__all__ = ["AGREEMENT", "StaticEncoder", "token_ids"]

AGREEMENT = 0.40
"""The share of the sentence encoder's best tenth that a static encoder's best tenth holds: the mean
over four targets. No variant that costs as little was clearly better (``docs/lab.md``)."""

_TEXTS_AT_ONCE = 1024
"""Texts whose tokens are held at a time."""


class StaticEncoder:
    """One vector a token; a text's vector is the direction of its tokens' mean from the centre.

    Args:
        name: The encoder it was distilled from.
        tokenizer: A ``tokenizers.Tokenizer`` without truncation and padding.
        table: (v, d) float32, a vector for each token id, weighted; unused ids are zero.
        centre: (d,) float32, the mean of the directions of a pool's texts.
    """

    def __init__(self, name: str, tokenizer: Any, table: np.ndarray, centre: np.ndarray) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.resources = Resources()
        # A product of float16 is hundreds of times slower in NumPy, so tables are cast on entry.
        self.table = np.ascontiguousarray(table, np.float32)
        self.centre = np.ascontiguousarray(centre, np.float32)
        self._wordpiece = WordPiece.of(tokenizer)

    def encode(self, texts: pa.Array) -> np.ndarray:
        """Encode (n,) large_string as (n, d) float32, L2-normalised; zeros without a token."""
        sums = np.zeros((len(texts), self.table.shape[1]), np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = texts.slice(start, _TEXTS_AT_ONCE)
            tokens, offsets = _token_ids(self.tokenizer, self._wordpiece, part)
            _sum_rows(self.table, tokens, offsets, sums[start : start + len(part)])
        vectors = normalised(sums)
        some = vectors.any(axis=1)
        vectors[some] -= self.centre
        return normalised(vectors)

    def save(self, directory: Path) -> None:
        """Write ``encoder.json``, ``tokenizer.json`` and two arrays."""
        (directory / "encoder.json").write_text(json.dumps({"name": self.name, "static": True}))
        self.tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
        np.save(directory / "encoder.table.npy", self.table)
        np.save(directory / "encoder.centre.npy", self.centre)

    @classmethod
    def load(cls, directory: Path) -> StaticEncoder:
        from tokenizers import Tokenizer

        try:
            name = json.loads((directory / "encoder.json").read_text())["name"]
            tokenizer = Tokenizer.from_str(examined(directory / "tokenizer.json"))
            table = load_array(directory / "encoder.table.npy")
            centre = load_array(directory / "encoder.centre.npy")
        except Exception as error:  # tokenizers raises bare Exceptions
            raise ArtefactError(f"not a static encoder: {error}", file=directory) from error
        if table.ndim != 2 or centre.shape != table.shape[1:]:
            raise ArtefactError("the encoder's arrays do not fit together", file=directory)
        if max(tokenizer.get_vocab().values(), default=-1) >= len(table):
            raise ArtefactError("the tokenizer has more tokens than the encoder", file=directory)
        return cls(name, tokenizer, table, centre)


def token_ids(tokenizer: Any, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return all texts' tokens, (t,) int32, and where each text's begin, (n + 1,) int64."""
    return _token_ids(tokenizer, WordPiece.of(tokenizer), texts)


def _token_ids(
    tokenizer: Any, wordpiece: WordPiece | None, texts: pa.Array
) -> tuple[np.ndarray, np.ndarray]:
    if wordpiece is None or texts.type != pa.large_string() or texts.null_count:
        return _library_token_ids(tokenizer, texts)
    tokens, offsets, left = wordpiece.token_ids(texts)
    if not len(left):
        return tokens, offsets
    ids, ends = _library_token_ids(tokenizer, texts.take(pa.array(left)))
    counts = np.diff(ends)
    tokens = np.insert(tokens, np.repeat(offsets[left], counts), ids)
    offsets[1:] += np.cumsum(np.bincount(left, counts, len(texts)).astype(np.int64))
    return tokens, offsets


def _library_token_ids(tokenizer: Any, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    with panics_as_errors("encoder"):
        ids = [
            np.array(encoded.ids, np.int32)
            for start in range(0, len(texts), _TEXTS_AT_ONCE)
            for encoded in tokenizer.encode_batch_fast(
                texts.slice(start, _TEXTS_AT_ONCE).to_pylist(), add_special_tokens=False
            )
        ]
    return np.concatenate([np.empty(0, np.int32), *ids]), np.cumsum([0, *map(len, ids)])


@cached(nogil=True, _nrt=False)
def _sum_rows(table: np.ndarray, tokens: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> None:
    """Add rows of ``table`` to ``out`` in text order, four rows for each load of a sum."""
    for row in range(out.shape[0]):
        at, end = offsets[row], offsets[row + 1]
        while at + 4 <= end:
            a, b, c, d = tokens[at], tokens[at + 1], tokens[at + 2], tokens[at + 3]
            for column in range(out.shape[1]):
                sums = out[row, column] + table[a, column] + table[b, column]
                out[row, column] = sums + table[c, column] + table[d, column]
            at += 4
        for position in range(at, end):
            for column in range(out.shape[1]):
                out[row, column] += table[tokens[position], column]
