"""DCLM's quality filter: a fastText classifier of good examples against the pool's documents.

Li et al. 2024, *DataComp-LM: In Search of the Next Generation of Training Sets for Language
Models*, section 4.4. Unigrams and bigrams of 200,000 texts of known quality (instructions
and well-received explanations) against as many random pages; a document's score is p(hq). The
published threshold, 0.018112, is the top tenth of their pool and of no other: facts name the top
tenth of yours, and 0.5 means nothing.

Trade-off: a linear classifier learns any difference of the two sets, intended or not. Lengths
separate them best where the examples are a benchmark's, so both texts of a pair are passages of one
length (``match_lengths``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from penstock.errors import SelectorError
from penstock.hashing import hash_documents, hash_ids, mix, uniform
from penstock.selectors.algorithm import CentredScorer
from penstock.selectors.base import Fitting, Requirements
from penstock.selectors.classifiers.classifier import (
    LEAST_EXAMPLES,
    Texts,
    blank,
    fit_classifier,
    hold_out,
)
from penstock.selectors.parameters import (
    File,
    Natural,
    OneOrMore,
    Positive,
    Text,
    Whole,
    recipe_default,
)
from penstock.selectors.targets import texts_in

__all__ = ["DclmQuality"]

_JUDGED = 20_000
"""Documents of the sample from which the pool's mean and its top tenth are estimated."""

_WHITESPACE = re.compile("[ \t\n\v\f\r\0]+")
"""Separators of words in fastText."""


class DclmQuality(
    CentredScorer,
    name="dclm",
    summary="p(hq) by a classifier of good examples against the pool",
    meaning="probability that a classifier finds it among the good examples, not among the pool",
    paper="Li et al. 2024, DataComp-LM (DCLM)",
    version=3,
):
    """Scores documents by p(hq): how much they are like good examples, and unlike the pool.

    Where a default differs from DCLM, theirs is given as "published", with the reason. Figures are
    of 16,254 examples of five benchmarks against a pool of 65,686 documents; "agreement" is the
    area under the curve on 261 pages that people labelled good or bad, measured to 0.03: 0.66 with
    these defaults (0.70 where negatives alone were cut to the words of their pair) and 0.56 with
    the published ones, which were made for other positives. (It is 0.76 for the number of words
    alone.)
    """

    positives: File | None = Field(
        default=None,
        description='A file of JSON lines, ``{"text": ...}`` or question and answer, '
        "optionally with a ``label``: lines whose label is 0 or false are negatives. Without a "
        "file, the examples of the selector's ``target`` are the positives. Published: "
        "OpenHermes 2.5 and ELI5, 200,000 texts.",
    )
    negatives: Text | None = Field(
        default=None,
        description="The source whose documents are the negatives; by default the pool. With "
        "the key of a rewriter this is REWIRE's filter (Nguyen et al. 2025): good examples "
        "against random rewrites, whose best tenth is kept.",
    )
    sample: Whole = Field(
        default=200_000,
        description="Positives at most, and as many negatives, by hash; as published.",
    )
    match_lengths: bool = Field(
        default=True,
        description="Positives and negatives are paired, and both texts of a pair are cut to the "
        "words of the shorter, at a random position. Published: whole documents, for positives "
        "that are about as long. Against whole documents, the length of a benchmark's examples "
        "gave them away: of the pool's best 2 % of documents 94 % were then Chinese, so of few "
        "words. With negatives cut and positives not, Reddit posts cut at 200 words were told "
        "from Reddit posts (area under the curve 0.79).",
    )
    lr: OneOrMore[Positive] = Field(
        default=(0.1, 0.5),
        description="Learning rates; the grid with ``epoch`` is chosen from on a held-out "
        "tenth. Published: 0.1 and 5 epochs, fastText's defaults, which left 284 examples at "
        "their initialisation (0.49, where 0.5 gave 0.71).",
    )
    epoch: OneOrMore[Whole] = recipe_default(
        5,
        description="Epochs; see ``lr``.",
    )
    word_ngrams: Whole = Field(
        default=2,
        description="The classifier's n-grams, as published.",
    )
    dim: Whole = Field(
        default=16,
        description="Published: 100, fastText's default, of which two labels use one direction. "
        "16 found as much (0.957 and 0.957) in 13 s for 21, and in 130 MB for 800.",
    )
    min_count: Whole = Field(
        default=1,
        description="The least count of a word, as published.",
    )
    bucket: Whole = Field(
        default=2_000_000,
        description="Buckets of n-grams, as published.",
    )
    prior_words: Natural = Field(
        default=50,
        description="The distance of a document's log odds from the pool's mean is shrunk by n "
        "/ (n + ``prior_words``), n distinct words: a document with few words gives little "
        "evidence beyond being one of the pool's. Published: 0, not at all, which agreed 0.64 "
        "for 0.70 and, trained on 284 examples, put stubs first: of the best 2 % by characters "
        "22 % were shorter than 200 characters, and none with 50.",
    )

    @property
    def requirements(self) -> Requirements:
        examples = {"positives": self.positives} if self.positives else {}
        return replace(
            super().requirements,
            target=not examples,
            least_examples=1 if examples else LEAST_EXAMPLES,
            examples=examples,
        )

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Train a classifier on the positives against passages of the pool's documents.

        Returns:
            Facts: the training set's sizes, held-out accuracy (at 0.5, of balanced labels) and
            area under the curve, the grid's figures, and the score that a tenth of the pool
            reaches.

        Raises:
            SelectorError: There are no positives or no documents, or the classifier does not
                separate them.
        """
        self._classifier = None
        good, labelled = (self._drawn(texts, fitting.seed) for texts in self._labelled(fitting))
        missing = max(0, len(good) - len(labelled))
        sample = self._negatives(fitting, missing + _JUDGED)
        order = np.argsort(hash_documents(sample, mix(fitting.seed, "dclm")), kind="stable")
        random = sample["text"].take(pa.array(order[:missing]))
        # From the end, which is least likely in the training set.
        judged = sample["text"].take(pa.array(order[::-1][:_JUDGED])).combine_chunks()
        del sample, order
        good = good[: len(labelled) + len(random)]
        labelled = labelled[: len(good)]
        bad = chain(labelled, (text.as_py() for text in random))
        pairs: Iterable[tuple[str, str]] = zip(good, bad)
        if self.match_lengths:
            pairs = (_matched(pair, fitting.seed) for pair in pairs)

        # In the order of hashes, since the last texts weigh most in fastText's training. With all
        # negatives last, accuracy was 0.77 for 0.96.
        texts = [text for side in zip(*pairs) for text in side]
        order = np.argsort(_hashes(texts, fitting.seed, "order"), kind="stable")
        texts, labels = [texts[row] for row in order], order < len(good)
        held_out = hold_out(labels, _hashes(texts, fitting.seed, "held out"))
        best, facts = fit_classifier(self, texts, labels, held_out, fitting)
        self._classifier = best.classifier
        self.centre_on(judged)
        scores = self.finish(best.classifier.score(judged), Texts(judged))
        return {
            "positives": len(good),
            "labelled_negatives": len(labelled),
            **facts,
            "top_tenth": round(float(np.quantile(scores, 0.9)), 6),
        }

    def _labelled(self, fitting: Fitting) -> tuple[list[str], list[str]]:
        """Return the labelled texts: positives and negatives."""
        if self.positives is None:
            if not fitting.target:
                raise SelectorError(
                    key="positives", expected="a file, or target files with examples", got="neither"
                )
            return [example.text for example in fitting.target], []
        texts: tuple[list[str], list[str]] = ([], [])
        for place, line, text in texts_in(Path(self.positives), "positives"):
            label = line.get("label", 1)
            if label not in (0, 1):
                raise SelectorError(
                    "label", key="positives", file=place, expected="0 or 1", got=repr(label)
                )
            texts[1 - int(label)].append(text)
        if not texts[0]:
            raise SelectorError(
                key="positives", expected="good examples", got=f"none in {self.positives}"
            )
        return texts

    def _negatives(self, fitting: Fitting, count: int) -> pa.Table:
        """Read about ``count`` documents with text, all of the source ``negatives``."""
        sample = fitting.sample(count, source=self.negatives)
        sample = sample.filter(pa.array(~blank(sample["text"])))
        if not len(sample) and self.negatives is not None:
            names = fitting.sample(_JUDGED)["source"].unique().to_pylist()
            raise SelectorError(
                key="negatives",
                expected=f"documents of the source {self.negatives}",
                got="none",
                fix=f"sources there are {', '.join(map(str, names[:8]))}",
            )
        if not len(sample):
            raise SelectorError(key="sample", expected="documents with text to fit on", got="none")
        return sample

    def _drawn(self, texts: list[str], seed: int) -> list[str]:
        """Draw the first ``sample`` texts by hash, equal texts once."""
        texts = list(dict.fromkeys(texts))
        hashes = _hashes(texts, seed, "dclm")
        return [texts[row] for row in np.argsort(hashes, kind="stable")[: self.sample]]


def _hashes(texts: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    return hash_ids(pa.array(texts, pa.large_string()), mix(seed, purpose))


def _matched(pair: tuple[str, str], seed: int) -> tuple[str, str]:
    """Cut both texts to the words of the shorter, at hashed positions."""
    words = [[word for word in _WHITESPACE.split(text) if word] for text in pair]
    count = min(map(len, words))
    places = uniform(_hashes(pair, seed, "passage"))
    starts = [int(place * (len(own) - count + 1)) for place, own in zip(places, words)]
    good, bad = (" ".join(own[start : start + count]) for start, own in zip(starts, words))
    return good, bad
