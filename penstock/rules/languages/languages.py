"""Columns ``language`` and ``language_probability``, which depend on the text alone."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from typing_extensions import Self

from penstock.arrow_text import TextView, checked_view, text_view
from penstock.errors import InputError
from penstock.fasttext_file import is_fasttext
from penstock.rules.kernels.traits import find_traits
from penstock.rules.languages.byte_model import ByteModel
from penstock.rules.languages.fasttext_model import WordModel
from penstock.rules.languages.model_file import ModelFile
from penstock.rules.languages.traits import (
    COMPOSING,
    LETTER,
    LOWER,
    UPPER,
    traits_of_characters,
)

__all__ = ["FIRST_BYTES", "Languages"]

FIRST_BYTES = 2**16
"""Bytes of a text that are read, by default."""

_SCHEMA = pa.schema(
    [
        pa.field("language", pa.dictionary(pa.int16(), pa.string())),
        pa.field("language_probability", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Languages:
    """The language of each text, by py3langid's model: 139 languages, and ``zxx`` for none.

    A label and its probability are those of py3langid 0.4 with ``norm_probs=True`` for the first
    bytes of the text, but for float32 sums in another order. A text without a letter, and one
    without any n-gram of the model, has neither. A probability says how far the best label is in
    front, divided by the square root of the length; it is not calibrated.

    A classifier of fastText, such as lid.176, may be given instead, with the loss ``softmax`` or
    ``hs``. Its labels are those of fastText's ``predict`` for the text as one line, without the
    prefix ``__label__``; its probabilities are, too, but for the 1e-5 that it adds for ``softmax``.
    """

    name: ClassVar[str] = "languages"
    version: ClassVar[int] = 1

    model: ModelFile
    first_bytes: int = FIRST_BYTES

    @classmethod
    def of(
        cls,
        model: str | None = None,
        *,
        first_bytes: int = FIRST_BYTES,
        key: str = "clean.language",
    ) -> Self:
        """Find the model, and hash its file.

        Args:
            model: A file of py3langid's format or of fastText's; None for the one in py3langid.
            first_bytes: The bytes of a text that are read, at most, cut at a character.
            key: The recipe key, for errors.

        Raises:
            BadInput: py3langid is not installed.
            InputError: The model cannot be read, or ``first_bytes`` is not positive.
        """
        if first_bytes < 1:
            raise InputError(
                key=f"{key}.first_bytes", expected="a positive integer", got=first_bytes
            )
        return cls(ModelFile.find(model, f"{key}.model"), first_bytes)

    def config(self) -> dict[str, Any]:
        """Return what the columns depend on beside the text."""
        return {
            "model": self.model.sha256,
            "library": self.model.library,
            "first_bytes": self.first_bytes,
            "unicode": unicodedata.unidata_version,
        }

    def compute(self, texts: pa.Array) -> pa.RecordBatch:
        """Find the language of each text.

        Args:
            texts: (n,) string or large_string, without nulls; may be a slice.

        Returns:
            n rows: ``language``, a dictionary of ISO 639 codes, and ``language_probability``,
            float32 from 0 to 1. Both are null for a text without letters or known n-grams.

        Raises:
            InputError: A text is null or not UTF-8, or the model's file has changed.
        """
        model, view, n_texts = _load(self.model), checked_view(texts), len(texts)
        ends, traits = np.empty(n_texts, np.int64), np.empty(n_texts, np.uint8)
        find_traits(view.data, view.offsets, self.first_bytes, traits_of_characters(), ends, traits)
        classes, probabilities = np.full(n_texts, -1), np.zeros(n_texts, np.float32)
        rows, prepared = _prepared(view, ends, traits if model.prepares else np.zeros_like(traits))
        plain = traits & LETTER != 0
        plain[rows] = False
        plain_rows = np.flatnonzero(plain)
        for where, *batch in (
            (plain_rows, view.data, view.offsets[plain_rows], ends[plain_rows]),
            (rows, prepared.data, prepared.offsets[:-1], prepared.offsets[1:]),
        ):
            classes[where], probabilities[where] = model.classify(*batch)
        return _batch(model, classes, probabilities)


@lru_cache(maxsize=2)
def _load(file: ModelFile) -> ByteModel | WordModel:
    """Read a model, once in a process."""
    content = file.read()
    try:
        return WordModel.read(content) if is_fasttext(content) else ByteModel.read(content)
    except ValueError as error:
        raise InputError(
            f"cannot be used: {error}",
            file=file.path,
            fix="give a model.npz.xz of py3langid 0.4, or a .bin or .ftz of fastText",
        ) from None


def _prepared(view: TextView, ends: np.ndarray, traits: np.ndarray) -> tuple[np.ndarray, TextView]:
    """Return the rows of texts that are changed before they are read, and these texts.

    A text in capitals is read in small letters, and every text in normal form C.
    """
    capitals = traits & (LETTER | UPPER | LOWER) == LETTER | UPPER
    composing = traits & (LETTER | COMPOSING) == LETTER | COMPOSING
    rows, changed = [], []
    for row in np.flatnonzero(capitals | composing):
        before = view.data[view.offsets[row] : ends[row]].tobytes().decode()
        text = before.lower() if capitals[row] else before
        text = unicodedata.normalize("NFC", text)
        if text != before:
            rows.append(row)
            changed.append(text)
    return np.array(rows, np.int64), text_view(pa.array(changed, pa.large_string()))


def _batch(
    model: ByteModel | WordModel, classes: np.ndarray, probabilities: np.ndarray
) -> pa.RecordBatch:
    labels = list(dict.fromkeys(model.labels))
    label_of = np.array([labels.index(label) for label in model.labels], np.int16)
    unknown = classes < 0
    indices = pa.array(label_of[np.maximum(classes, 0)], mask=unknown)
    language = pa.DictionaryArray.from_arrays(indices, pa.array(labels, pa.string()))
    return pa.RecordBatch.from_arrays(
        [language, pa.array(probabilities, mask=unknown)], schema=_SCHEMA
    )
