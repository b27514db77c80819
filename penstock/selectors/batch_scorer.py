"""Scorers that read a batch's texts once for all of them.

The scorers of a recipe are fastText classifiers more often than not, and most of what they do is
the same: K of them together cost little more than one
(:mod:`penstock.selectors.classifiers.fasttext_panel`).
A scorer takes part by saying which classifier is its own and what it makes of the scores; who
runs scorers asks :class:`BatchScorer` for each one's scores, and need not know who takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from penstock.selectors.base import Documents, Scorer
from penstock.selectors.classifiers.classifier import Texts
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.classifiers.fasttext_panel import score_together

__all__ = ["BatchScorer", "FastTextBased"]


@runtime_checkable
class FastTextBased(Protocol):
    """A scorer whose scores are made of a fastText classifier's.

    ``score(documents)`` equals ``finish(classifier.score(texts), Texts(texts))``, ``texts`` being
    the documents' column: to the last bit, since either may be what a column is made by.
    """

    @property
    def classifier(self) -> CollapsedFastText | None:
        """The same object for every batch; None where ``score`` has to be called."""
        ...

    def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        """(n,) float32 p(positive), not to be written to, to the scorer's own (n,) float32."""
        ...


class BatchScorer:
    """A batch of documents under several scorers, in one pass over the text where they can."""

    def __init__(self, scorers: Sequence[Scorer], documents: Documents) -> None:
        self._documents = documents
        self._texts = Texts(documents.column("text"))
        self._classifiers = [
            scorer.classifier
            for scorer in scorers
            if isinstance(scorer, FastTextBased) and scorer.classifier is not None
        ]

    def score(self, scorer: Scorer) -> np.ndarray:
        """What ``scorer.score(documents)`` returns, for one of the scorers."""
        if len(self._classifiers) > 1 and isinstance(scorer, FastTextBased):
            for classifier, scores in zip(self._classifiers, self._scores, strict=True):
                if classifier is scorer.classifier:
                    return scorer.finish(scores, self._texts)
        return scorer.score(self._documents)

    @cached_property
    def _scores(self) -> np.ndarray:
        """(classifiers, n) float32, once the first of them is asked for."""
        scores = score_together(self._classifiers, self._texts.array)
        scores.flags.writeable = False
        return scores
