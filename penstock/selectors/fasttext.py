"""fastText: documents by a ready classifier.

Joulin et al. 2017, *Bag of Tricks for Efficient Text Classification*. Binary models are published
by PreSelect and by DCLM; one of your own does as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from penstock.selectors.algorithm import ClassifierScorer
from penstock.selectors.base import Fitting
from penstock.selectors.classifiers.classifier import Texts
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.parameters import File, Text

__all__ = ["FastTextScorer"]


class FastTextScorer(
    ClassifierScorer,
    name="fasttext",
    summary="a ready fastText model: PreSelect, DCLM, or your own",
    meaning="probability of the label that the model calls positive",
    paper="Joulin et al. 2017, Bag of Tricks for Efficient Text Classification",
    version=1,
):
    """p(positive) by a binary fastText model: PreSelect's, DCLM's, or one of your own."""

    model: File = Field(
        description="A ``.bin`` file of fastText, relative to the recipe.",
    )
    positive: Text = Field(
        default="__label__1",
        description="The label whose probability is the score.",
    )
    zero_eos: bool = Field(
        default=False,
        description="Set the end-of-line token's weight to zero, as PreSelect does.",
    )

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Collapse the model to one float a row; nothing is learned."""
        self._classifier = CollapsedFastText.from_file(
            self.model, self.positive, zero_eos=self.zero_eos
        )
        return {"words": len(self._classifier.starts) - 1, "bucket": self._classifier.bucket}

    def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        return np.where(texts.blank, np.float32(np.nan), scores)
