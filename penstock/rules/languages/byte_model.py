"""Read a model of py3langid: the one in its package, or a file of its format.

The file (``model.npz.xz``) is an LZMA-compressed ``.npz`` of six arrays. Only numbers and labels
are read, never a pickle, and every index is checked before the kernel follows it. py3langid's model
is under the BSD licence; the package is an optional dependency (``penstock[language]``).
"""

from __future__ import annotations

import io
import lzma
import zipfile
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penstock.arrow_text import read_only
from penstock.rules.kernels.byte_ngrams import (
    LOGARITHMS,
    ByteScratch,
    NgramTable,
    classify_bytes,
)

__all__ = ["ByteModel"]

_LARGEST = 2**30
"""Bytes of an unpacked model; py3langid's has 69 million."""

_WIDTH = 16
"""Columns of the weights are a multiple of this, so that loops over them are whole vectors."""

_SCALE = np.float32(2.0**-9)
"""py3langid's weights are float16 between -15 and -2.7: multiples of 2^-9, exact as int16."""


@dataclass(frozen=True, eq=False, slots=True)
class ByteModel:
    """A naive Bayes model over n-grams of bytes."""

    prepares: ClassVar[bool] = True
    """Whether texts in capitals and not in normal form C are changed first."""

    labels: tuple[str, ...]
    """The label of each class; several classes may share one."""
    table: NgramTable

    @classmethod
    def read(cls, content: bytes) -> ByteModel:
        """Read a model: 0.7 s and 110 MB for py3langid's.

        Raises:
            ValueError: It is not one of py3langid.
        """
        try:
            return _model(_unpacked(content))
        except (lzma.LZMAError, zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None

    def classify(
        self, data: np.ndarray, begins: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the class of each text, (n,) int64 or -1, and its probability, (n,) float32."""
        classes, probabilities = np.empty(len(begins), np.int64), np.empty(len(begins), np.float32)
        scratch = ByteScratch.of(self.table, int((ends - begins).max(initial=0)))
        classify_bytes(data, begins, ends, self.table, scratch, classes, probabilities)
        return classes, probabilities


def _unpacked(content: bytes) -> dict[str, np.ndarray]:
    packed = lzma.LZMADecompressor(memlimit=_LARGEST)
    plain = packed.decompress(content, _LARGEST)
    if not packed.eof:
        raise ValueError(f"it ends early, or has more than {_LARGEST:,} bytes")
    with zipfile.ZipFile(io.BytesIO(plain)) as parts:
        if sum(part.file_size for part in parts.infolist()) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
    with np.load(io.BytesIO(plain), allow_pickle=False) as arrays:
        names = ("ptc", "pc", "classes", "nextmove", "nextmove_row", "out_feat")
        return {name: arrays[name] for name in names}


def _model(arrays: dict[str, np.ndarray]) -> ByteModel:
    weights, priors = arrays["ptc"], arrays["pc"].astype(np.float32)
    labels = tuple(map(str, arrays["classes"]))
    next_state, row_of = arrays["nextmove"].reshape(-1, 256), arrays["nextmove_row"]
    ngram_of = arrays["out_feat"]
    n_ngrams, n_classes = weights.shape
    _check(priors.shape == (n_classes,) == (len(labels),) and n_classes > 0, "classes")
    _check(row_of.ndim == 1 and row_of.shape == ngram_of.shape and len(row_of) > 0, "states")
    for indices, end in ((next_state, len(row_of)), (row_of, len(next_state))):
        _check(indices.dtype.kind == "u" and int(indices.max(initial=0)) < end, "transitions")
    _check(ngram_of.dtype.kind == "i" and ngram_of.min() >= -1, "n-grams")
    _check(int(ngram_of.max()) < n_ngrams < 2**32 - 1, "n-grams")
    _check(bool(np.isfinite(weights).all() and np.isfinite(priors).all()), "weights")
    starts = row_of.astype(np.uint64) << np.uint64(8)
    of_states = starts << np.uint64(32) | (ngram_of + 1).astype(np.uint64)
    first_of = {label: k for k, label in reversed(list(enumerate(labels)))}
    packed, scale = _packed(weights)
    table = NgramTable(
        entries=read_only(of_states[next_state.ravel()]),
        first=starts[0],
        weights=read_only(packed),
        scale=scale,
        priors=read_only(priors),
        labels=read_only(np.array([first_of[label] for label in labels], np.int64)),
        logarithms=read_only(np.log1p(np.arange(LOGARITHMS)).astype(np.float32)),
    )
    return ByteModel(labels, table)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"its {what} do not fit together")


def _packed(weights: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Return weights with a row of zeros in front, and their scale: int16 if that is exact."""
    n_ngrams, n_classes = weights.shape
    width = -(-n_classes // _WIDTH) * _WIDTH
    scaled = weights.astype(np.float32) / _SCALE
    exact = bool((np.abs(scaled) < 2**15).all() and (scaled == np.round(scaled)).all())
    packed = np.zeros((n_ngrams + 1, width), np.int16 if exact else np.float32)
    packed[1:, :n_classes] = scaled if exact else weights
    return packed, _SCALE if exact else np.float32(1)
