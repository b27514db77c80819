"""DSIR: documents weighted by how much likelier their n-grams are in the target than in the pool.

Xie et al. 2023, *Data Selection for Language Models via Importance Resampling*. Unigrams and
bigrams of lower-cased words and runs of punctuation fall into 10,000 buckets by SHA-256. With p
the target's shares of the buckets and q the pool's, a document's log importance weight is the sum
over its n-grams of log(p + 1e-8) - log(q + 1e-8) (section 4, and the authors' code). A draw with
Gumbel noise at temperature 1 then samples by importance, without replacement: that is the budget's
``draw: {gumbel: {temperature: 1}}``.

SHA-256 of every n-gram takes most of the time. It takes 26 ns each
(:mod:`penstock.selectors.kernels.hashed_ngrams`) where ``hashlib`` takes 560 ns, so a core scores
14,000 documents a second instead of 1,200.

Trade-off: targets are one mixture, where the authors can also draw for each in turn (a selector for
each does that). The sum is not divided by length, as published. Aimed at ARC-Easy and OpenBookQA,
99.9 % of a pool of 65,686 documents had a negative weight, so the best 2 % were those just above
the least length (105 words in the median, 196 in all). The noise of a draw at temperature 1 hardly
changed the order of weights that differ by thousands. See ``per_ngram``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from penstock.errors import ArtefactError, SelectorError
from penstock.hashing import hash_documents, mix
from penstock.selectors.algorithm import BuiltInScorer, read_array
from penstock.selectors.base import Documents, Fitting, Requirements
from penstock.selectors.classifiers.classifier import blank
from penstock.selectors.kernels.hashed_ngrams import MOST_BUCKETS, count_ngrams, sum_log_ratios
from penstock.selectors.parameters import Natural, Positive, Whole, fitted

__all__ = ["Dsir"]

_BLOCK = 4096
"""Documents that are counted at a time."""

_STEPS = 2.0**24
"""Steps of a log ratio: whole multiples of the inverse, so that sums of millions are exact. The
last bit of a logarithm, which differs between processors, changes none of them."""


class Dsir(
    BuiltInScorer,
    name="dsir",
    summary="importance weights of hashed n-grams, target over pool",
    meaning="log importance weight: how much likelier its n-grams are in the target",
    paper="Xie et al. 2023, DSIR: data selection via importance resampling",
    version=1,
):
    """Scores documents by their log importance weight under hashed n-grams.

    Where a default differs from the authors', theirs is given as "published", with the reason.
    """

    buckets: Whole = Field(
        default=10_000,
        le=MOST_BUCKETS,
        description="Buckets of n-grams, as published.",
    )
    ngrams: Whole = Field(
        default=2,
        description="The longest n-grams, in tokens; all shorter ones count too, as published (2).",
    )
    min_tokens: Natural = Field(
        default=100,
        description="Documents of fewer tokens are never taken, as published (100).",
    )
    smoothing: Positive = Field(
        default=1e-8,
        description="Added to every share before its logarithm, as published. A bucket that the "
        "target never met costs an n-gram about 9; facts give the number of such buckets.",
    )
    sample: Whole = Field(
        default=100_000,
        description="Documents that q is counted on, about. Published: all, up to "
        "``max_ngrams``. 100,000 are 10^8 n-grams, 10,000 a bucket, which measures an average "
        "share to 1 %.",
    )
    max_ngrams: Whole = Field(
        default=1_000_000_000,
        description="Counting stops after the document in which this many n-grams are reached. "
        "Published: 100,000 for each bucket, which is the same for 10,000 buckets. Documents "
        "are taken in the order of a hash of their ids and texts, not of the corpus.",
    )
    per_ngram: bool = Field(
        default=False,
        description="Divide a weight by its n-grams. Not published, and a draw then needs a "
        "much smaller temperature. On 261 pages that people labelled good or bad the area under "
        "the curve was 0.70, and 0.33 for sums.",
    )

    _log_ratios: np.ndarray | None = None

    @property
    def requirements(self) -> Requirements:
        return Requirements(target=True)

    def identity(self) -> Mapping[str, Any]:
        """Return the parameters, and the version of Unicode, which defines letters."""
        return {**super().identity(), "unicode": unicodedata.unidata_version}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Count the n-grams of the target and of a sample of the pool.

        Returns:
            Facts: the n-grams counted of either, the documents of the sample, the share of them
            that is too short to be taken, and the buckets that the target never met.

        Raises:
            SelectorError: There are no n-grams to count in the target or in the sample.
        """
        target = np.zeros(self.buckets, np.int64)
        texts = pa.array([example.text for example in fitting.target], pa.large_string())
        count_ngrams(texts, target, self.ngrams, np.iinfo(np.int64).max)
        if not target.any():
            raise SelectorError(
                key="target", expected="files with examples to aim at", got="no words"
            )

        sample = fitting.sample(self.sample)
        order = np.argsort(hash_documents(sample, mix(fitting.seed, "dsir")), kind="stable")
        raw = np.zeros(self.buckets, np.int64)
        documents = short = 0
        for at in range(0, len(order), _BLOCK):
            block = sample["text"].take(pa.array(order[at : at + _BLOCK])).combine_chunks()
            tokens = count_ngrams(block, raw, self.ngrams, self.max_ngrams)
            documents += len(tokens)
            short += int((tokens < self.min_tokens).sum())
            if raw.sum() >= self.max_ngrams:
                break
        if not raw.any():
            raise SelectorError(key="sample", expected="documents with text to fit on", got="none")

        p, q = target / target.sum(), raw / raw.sum()
        log_ratios = np.log(p + self.smoothing) - np.log(q + self.smoothing)
        self._log_ratios = np.rint(log_ratios * _STEPS) / _STEPS
        return {
            "target_ngrams": int(target.sum()),
            "sample_ngrams": int(raw.sum()),
            "sample": documents,
            "short_share": round(short / documents, 4),
            "unseen_buckets": int((target == 0).sum()),
        }

    def score(self, documents: Documents) -> np.ndarray:
        """Return log importance weights, (n,) float32; NaN for a blank or too short document."""
        texts = documents.column("text")
        log_ratios = fitted(self._log_ratios, self.name)
        weights, tokens = sum_log_ratios(texts, log_ratios, self.ngrams)
        if self.per_ngram:
            orders = np.arange(self.ngrams)
            weights /= np.maximum(np.maximum(tokens[:, None] - orders, 0).sum(axis=1), 1)
        taken = (tokens >= self.min_tokens) & ~blank(texts)
        return np.where(taken, weights, np.nan).astype(np.float32)

    def describe_unscored(self, text: str, known: bool | None = None) -> str:
        """Name the words of the text and :attr:`min_tokens`."""
        log_ratios = fitted(self._log_ratios, self.name)
        texts = pa.array([text], pa.large_string())
        count = int(sum_log_ratios(texts, log_ratios, self.ngrams)[1][0])
        if count >= self.min_tokens:
            return super().describe_unscored(text, known)
        return (
            f"it has {count:,} tokens (words and marks), fewer than min_tokens: {self.min_tokens:,}"
        )

    def save(self, directory: Path) -> None:
        """Write the buckets' log ratios, (buckets,) float64."""
        if self._log_ratios is not None:
            np.save(directory / "log_ratios.npy", self._log_ratios)

    def load(self, directory: Path) -> None:
        log_ratios = read_array(directory / "log_ratios.npy")
        if log_ratios.dtype != np.float64 or log_ratios.shape != (self.buckets,):
            raise ArtefactError(
                file=directory,
                expected=f"{self.buckets} log ratios",
                got=f"{log_ratios.dtype} of shape {log_ratios.shape}",
                fix="fit it again",
            )
        self._log_ratios = log_ratios
