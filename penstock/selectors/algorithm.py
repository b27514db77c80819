"""Bases of the built-in selectors: kind, default requirements, and state."""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from penstock.array_files import load_array
from penstock.errors import ArtefactError
from penstock.selectors.base import ClassifierScores, Documents, Fitting, Requirements
from penstock.selectors.classifiers.classifier import Texts, mean_log_odds, shrink
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.parameters import Algorithm, EncoderModel, Natural, fitted

__all__ = [
    "BuiltInScorer",
    "BuiltInSetSelector",
    "CentredScorer",
    "ClassifierScorer",
    "draw_pool",
    "read_array",
    "read_json",
]

_CENTRE = "centre.json"
"""The file of the pool's mean log odds."""

_DRAWN, _CHARACTERS = 20_000, 2**14
"""Documents that a pool's mean log odds are estimated from, to about 0.01 of their standard
deviation, and characters of each, so that they take 330 MB of ASCII at most."""


class BuiltInScorer(Algorithm):
    """A scorer that requires documents only."""

    kind: ClassVar[Literal["scorer"]] = "scorer"

    @property
    def requirements(self) -> Requirements:
        return Requirements()


class ClassifierScorer(BuiltInScorer):
    """A scorer by a fastText classifier, which shares a pass over the texts with others."""

    _classifier: CollapsedFastText | None = None

    @property
    def requirements(self) -> Requirements:
        if self._classifier is None:  # before the fit
            return Requirements()
        scores = ClassifierScores(classifier=self._classifier, finish=self.finish)
        return Requirements(classifier=scores)

    @abstractmethod
    def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        """Turn p(positive) into scores: (n,) float32 to (n,) float32."""

    def score(self, documents: Documents) -> np.ndarray:
        """Return scores from p(positive), (n,) float32; NaN for a blank document."""
        texts = documents.column("text")
        scores = fitted(self._classifier, self.name).score(texts)
        return self.finish(scores, Texts(texts))

    def save(self, directory: Path) -> None:
        if self._classifier is not None:
            self._classifier.save(directory)

    def load(self, directory: Path) -> None:
        self._classifier = CollapsedFastText.load(directory)


class CentredScorer(ClassifierScorer):
    """A scorer by a fastText classifier whose log odds are shrunk towards the pool's mean.

    A subclass declares ``prior_words``, the number of words that the mean weighs as much as
    (:func:`~penstock.selectors.classifiers.classifier.shrunk_log_odds`). A score is p(positive).
    """

    prior_words: Natural
    _centre: float = 0.0

    def centre_on(self, texts: pa.Array | pa.ChunkedArray) -> None:
        """Set the centre to the mean log odds of texts of the pool, (n,) large_string."""
        classifier = fitted(self._classifier, self.name)
        chunk = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
        self._centre = mean_log_odds(classifier, chunk) if self.prior_words else 0.0

    def log_odds(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        """Return shrunk log odds from p(positive): (n,) float32 to (n,) float32; NaN if blank."""
        log_odds = shrink(scores, texts, self.prior_words, self._centre)
        return np.where(texts.blank, np.float32(np.nan), log_odds)

    def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        if not self.prior_words:
            return np.where(texts.blank, np.float32(np.nan), scores)
        log_odds = self.log_odds(scores, texts).astype(np.float64)
        return (1 / (1 + np.exp(-log_odds))).astype(np.float32)

    def save(self, directory: Path) -> None:
        super().save(directory)
        if self._classifier is not None:
            (directory / _CENTRE).write_text(json.dumps({"centre": self._centre}) + "\n")

    def load(self, directory: Path) -> None:
        centre = read_json(directory / _CENTRE, "centre", float)
        super().load(directory)
        self._centre = centre


def draw_pool(fitting: Fitting) -> pa.ChunkedArray:
    """Draw texts to estimate the pool's mean log odds by: about 20,000 documents' beginnings."""
    return fitting.sample(_DRAWN, characters=_CHARACTERS)["text"]


class BuiltInSetSelector(Algorithm):
    """A set selector that requires the vectors of an encoder."""

    kind: ClassVar[Literal["set"]] = "set"

    encoder: EncoderModel = Field(
        default="static", description="As in :mod:`penstock.selectors.encoders.embedding`."
    )

    def describe_unscored(self, text: str, known: bool | None = None) -> str:
        """Name the vector and the quality that a document of a partition needs."""
        column = self.requirements.quality
        quality = f"the document has no score in {column}" if column else ""
        if known:
            return quality or "the selector leaves it out"
        unknown = "the encoder knows no token of its text"
        return f"{unknown}, or {quality}" if quality and known is None else unknown

    @property
    def requirements(self) -> Requirements:
        return Requirements(encoder=self.encoder)


def read_array(path: Path, mapped: bool = False) -> np.ndarray:
    """Read an array of fitted state, or map it, read-only.

    Raises:
        ArtefactError: There is none.
    """
    try:
        return load_array(path, "r" if mapped else None)
    except (OSError, ValueError) as error:
        raise ArtefactError(f"not the state of a fitted selector: {error}", file=path) from error


def read_json(path: Path, key: str, kind: type) -> Any:
    """Read the value of a key of fitted state.

    Raises:
        ArtefactError: There is none of that kind.
    """
    try:
        value = json.loads(path.read_text())[key]
        if not isinstance(value, kind):
            raise TypeError(f"{key}: {value!r}")
        return value
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"not the state of a fitted selector: {error}", file=path) from error
