"""Bases of the built-in selectors: kind, default requirements, and state."""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from penstock.array_files import load_array
from penstock.errors import ArtefactError
from penstock.selectors.base import ClassifierScores, Documents, Requirements
from penstock.selectors.classifiers.classifier import Texts
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.parameters import Algorithm, ModelName, fitted

__all__ = [
    "BuiltInScorer",
    "BuiltInSetSelector",
    "ClassifierScorer",
    "read_array",
    "read_json",
]


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


class BuiltInSetSelector(Algorithm):
    """A set selector that requires the vectors of an encoder."""

    kind: ClassVar[Literal["set"]] = "set"

    encoder: ModelName = Field(
        default="static", description="As in :mod:`penstock.selectors.encoders.embedding`."
    )

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
