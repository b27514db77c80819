"""The words of a document that weigh most in its score, found by leaving out one at a time.

It holds for any scorer that reads texts, whatever it computes: the score is computed again without
all places of a word, and the difference is that word's. Differences of single words need not add up
to the score, as a classifier's of word pairs do not. Where a score is a place among the documents
of the fit, the shorter text is compared with the others: its own first place would still be taken
by the document itself. It costs a score for each distinct word, so
scorers that need a GPU, a server or a large model are not asked.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from penstock.errors import ScoringError
from penstock.selectors.base import Documents, Scorer

__all__ = ["Influence", "can_be_asked", "influential_words"]

_TOKENS = re.compile(r"\S+|\s+")

_DISTINCT = 400
"""Distinct words that are left out in turn, the first ones of the text."""

_BYTES = 1 << 24
"""Characters of all texts that are scored, about; of a longer text fewer words are left out."""


class Influence(NamedTuple):
    """A word, and what it adds to the score."""

    word: str
    change: float
    """The score less the score without the word."""


def can_be_asked(scorer: Scorer) -> bool:
    """Return whether a few hundred texts are scored within about a second."""
    needs = scorer.requirements
    resources = needs.resources
    return needs.answers is None and not resources.gpus and not resources.slow


def influential_words(scorer: Scorer, document: Documents, most: int = 8) -> list[Influence]:
    """Return the words that change the score most, the largest change first.

    Args:
        scorer: A fitted scorer.
        document: A batch of one document.
        most: The number of words.

    Returns:
        Words as they stand in the text, without the punctuation around them; a word in capitals is
        another one. Those without any change are left out, and so are those without which there is
        no score. Empty where the document itself has no score.

    Raises:
        ScoringError: The scorer did not return one number for each text. An error of the scorer's
            own is raised as it is.
    """
    text = document.column("text")[0].as_py()
    tokens = _TOKENS.findall(text)
    names = [_name(token) for token in tokens]
    words = list(dict.fromkeys(name for name in names if name))
    words = words[: max(1, min(_DISTINCT, _BYTES // max(1, len(text))))]
    texts = ["".join(token for token, name in zip(tokens, names) if name != word) for word in words]
    texts.append(text)
    rows = pa.array(np.zeros(len(texts), np.int64))
    column = pa.array(texts, pa.large_string())
    at = document.schema.get_field_index("text")
    others = scorer.requirements.leave_out
    judge = scorer if others is None else others(document)
    returned = judge.score(document.take(rows).set_column(at, "text", column))
    scores = np.asarray(returned, np.float64)  # of a class it may be a list, None for NaN
    if scores.shape != (len(texts),):
        raise ScoringError(
            expected=f"{len(texts)} scores, one for each text",
            got=f"an array of shape {scores.shape}",
        )
    changes = scores[-1] - scores[:-1]
    found = [Influence(word, float(change)) for word, change in zip(words, changes) if change]
    found = [one for one in found if np.isfinite(one.change)]
    return sorted(found, key=lambda one: -abs(one.change))[:most]


def _name(token: str) -> str:
    """Return a word without the punctuation around it; a token of punctuation alone as it is."""
    stripped = token.strip()
    return re.sub(r"^[^\w]+|[^\w]+$", "", stripped) or stripped
