"""Scores of one batch by several scorers, with one pass over the texts for all classifiers.

Most scorers of a recipe are fastText classifiers, and most of their work is the same: K of them
together cost little more than one (:mod:`penstock.selectors.classifiers.fasttext_panel`). A scorer
takes part through :attr:`penstock.selectors.base.Requirements.classifier`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from penstock.selectors.base import Documents, Scorer
from penstock.selectors.classifiers.classifier import Texts
from penstock.selectors.classifiers.fasttext_panel import score_together

__all__ = ["BatchScorer"]


class BatchScorer:
    """A batch of documents under several scorers."""

    def __init__(self, scorers: Sequence[Scorer], documents: Documents) -> None:
        self._documents = documents
        self._texts = Texts(documents.column("text"))
        asked = [scorer.requirements.classifier for scorer in scorers]
        self._classifiers = [one.classifier for one in asked if one is not None]

    def score(self, scorer: Scorer) -> np.ndarray:
        """Return the scores of ``scorer.score(documents)``, for one of the scorers."""
        asked = scorer.requirements.classifier
        if len(self._classifiers) > 1 and asked is not None:
            for classifier, scores in zip(self._classifiers, self._scores, strict=True):
                if classifier is asked.classifier:
                    return asked.finish(scores, self._texts)
        return scorer.score(self._documents)

    @cached_property
    def _scores(self) -> np.ndarray:
        """(classifiers, n) float32, computed at the first use."""
        scores = score_together(self._classifiers, self._texts.array)
        scores.flags.writeable = False
        return scores
