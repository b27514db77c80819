"""DCLM's quality filter: a fastText classifier of good examples against the pool's documents.

Li et al. 2024, *DataComp-LM: In Search of the Next Generation of Training Sets for Language
Models*, section 4.4. Unigrams and bigrams of 200,000 texts that are known to be good (instructions
and well-received explanations) against as many random pages; a document's score is p(hq). The
published threshold, 0.018112, is the top tenth of their pool and of no other: facts name the top
tenth of yours, and 0.5 means nothing.

What is traded away: a linear classifier learns whatever tells the two sets apart, wanted or not.
Lengths tell them apart best where the examples are a benchmark's, so negatives are passages of
the same lengths (``match_lengths``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.errors import ArtefactError, InputError, SelectorError
from penstock.hashing import hash_ids, mix, uniform
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.classifiers.classifier import (
    Texts,
    TrainingSet,
    area_under_curve,
    best_of,
    blank,
    is_held_out,
    settings_of,
    shrink,
    shrunk_log_odds,
    train_classifier,
)
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.parameters import flag, listed, number, whole
from penstock.selectors.targets import examples_in, render
from penstock.storage import sha256_file

__all__ = ["DclmQuality"]

_JUDGED = 20_000
"""Documents of the sample that tell where the pool's mean and its top tenth are."""

_TIMES = 64
"""What is read for negatives of one source, in multiples of what is wanted: it is held at once."""

_WHITESPACE = re.compile("[ \t\n\v\f\r\0]+")
"""Where fastText parts words."""


class DclmQuality:
    """Scores documents by p(hq): how much they are like good examples, and unlike the pool.

    Where a default differs from DCLM, theirs is given as "published", with the reason. Figures are
    of 16,254 examples of five benchmarks against a pool of 65,686 documents; "agreement" is the
    area under the curve on 261 pages that people labelled good or bad, known to 0.03: 0.70 with
    these defaults and 0.56 with the published ones, which were made for other positives. (It is
    0.76 for the number of words alone.)

    Args:
        positives: A file of JSON lines, ``{"text": ...}`` or question and answer, perhaps
            with a ``label``: lines whose label is 0 or false are negatives. Without a file, the
            examples of the selector's ``target`` are what is good. Published: OpenHermes 2.5 and
            ELI5, 200,000 texts.
        negatives: The source whose documents are the negatives; by default the pool. With the key
            of a rewriter this is REWIRE's filter (Nguyen et al. 2025): good examples against
            random rewrites, whose best tenth is kept.
        sample: Positives at most, and as many negatives, by hash; as published.
        match_lengths: A negative is a passage of a random document, with as many words as a
            positive. Published: whole documents, for positives that are about as long. Against
            whole documents, the length of a benchmark's examples gave them away: of the pool's
            best 2 % of documents 94 % were then Chinese, so of few words.
        lr, epoch: A grid, chosen from on a held-out tenth. Published: 0.1 and 5, fastText's
            defaults, which left 284 examples at their initialisation (0.49, where 0.5 gave 0.71).
        word_ngrams, min_count, bucket: As published.
        dim: Published: 100, fastText's default, of which two labels use one direction. 16 found
            as much (0.957 and 0.957) in 13 s for 21, and in 130 MB for 800.
        prior_words: The distance of a document's log odds from the pool's mean is shrunk by
            n / (n + ``prior_words``), n distinct words: of a document with few, little is known
            but that it is one of the pool's. Published: 0, not at all, which agreed 0.64 for 0.70
            and, taught by 284 examples, put stubs first: of the best 2 % by characters 22 % were
            shorter than 200 characters, and none with 50.
    """

    summary: ClassVar[str] = "p(hq) by a classifier of good examples against the pool"
    paper: ClassVar[str] = "Li et al. 2024, DataComp-LM (DCLM)"
    version: ClassVar[int] = 1
    paths: ClassVar[tuple[str, ...]] = ("positives",)

    def __init__(
        self,
        *,
        positives: str | None = None,
        negatives: str | None = None,
        sample: int = 200_000,
        match_lengths: bool = True,
        lr: float | Sequence[float] = (0.1, 0.5),
        epoch: int | Sequence[int] = 5,
        word_ngrams: int = 2,
        dim: int = 16,
        min_count: int = 1,
        bucket: int = 2_000_000,
        prior_words: int = 50,
    ) -> None:
        if positives is not None and not (isinstance(positives, str) and Path(positives).is_file()):
            raise SelectorError(f"positives: expected a file of JSON lines, got {positives!r}")
        if negatives is not None and not (isinstance(negatives, str) and negatives):
            raise SelectorError(f"negatives: expected the name of a source, got {negatives!r}")
        self.positives = positives
        self.negatives = negatives
        self.sample = whole("sample", sample)
        self.match_lengths = flag("match_lengths", match_lengths)
        self.lr = tuple(number("lr", item) for item in listed("lr", lr))
        self.epoch = tuple(whole("epoch", item) for item in listed("epoch", epoch))
        self.word_ngrams = whole("word_ngrams", word_ngrams)
        self.dim = whole("dim", dim)
        self.min_count = whole("min_count", min_count)
        self.bucket = whole("bucket", bucket)
        self.prior_words = whole("prior_words", prior_words, least=0)
        self.classifier_: CollapsedFastText | None = None
        self.centre_ = 0.0

    @property
    def wants_target(self) -> bool:
        """Whether it is of no use without examples to aim at."""
        return self.positives is None

    def identity(self) -> Mapping[str, Any]:
        """The hyperparameters, and the sha256 of the positives' file."""
        own = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        return {**own, "positives": self.positives and sha256_file(Path(self.positives))}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Teach a classifier the positives against passages of the pool's documents.

        Returns:
            Facts: what was taught, held-out accuracy (at 0.5, of balanced labels) and area under
            the curve, the grid's figures, and the score that a tenth of the pool reaches.

        Raises:
            SelectorError: There are no positives or no documents, or the classifier does not tell
                them apart.
        """
        self.classifier_ = None
        good, bad = (self._drawn(texts, fitting.seed) for texts in self._labelled(fitting))
        missing = max(0, len(good) - len(bad))
        sample = self._negatives(fitting, missing + _JUDGED)
        order = np.argsort(hash_ids(sample["id"], mix(fitting.seed, "dclm")), kind="stable")
        random = sample["text"].take(pa.array(order[:missing]))
        # From the end, where they were least likely taught.
        judged = sample["text"].take(pa.array(order[::-1][:_JUDGED])).combine_chunks()
        del sample, order
        good = good[: len(bad) + len(random)]
        bad = bad[: len(good)]
        drawn = _passages(random, good[len(bad) :], fitting.seed)
        others = list(drawn) if self.match_lengths else random.to_pylist()

        lesson = self._lesson(good, bad + others, fitting.seed)
        fitting.progress(
            f"training {len(self.lr) * len(self.epoch)} classifiers on {2 * len(good):,} texts"
        )
        trials = train_classifier(lesson, self.lr, self.epoch, fitting.spread)
        best = best_of(trials, lesson)
        self._centre_on(judged, best.classifier)
        unseen = pa.array(lesson.texts, pa.large_string()).filter(pa.array(lesson.held_out))
        assert self.classifier_ is not None
        scores = self.finish(self.classifier_.score(judged), Texts(judged))
        auc = area_under_curve(best.classifier.score(unseen), lesson.labels[lesson.held_out])
        return {
            "positives": len(good),
            "labelled_negatives": len(bad),
            "held_out": int(lesson.held_out.sum()),
            "accuracy": best.facts["accuracy"],
            "auc": round(auc, 4),
            "lr": best.lr,
            "epoch": best.epoch,
            "trials": [trial.facts for trial in trials],
            "top_tenth": round(float(np.quantile(scores, 0.9)), 6),
        }

    def score(self, documents: Documents) -> np.ndarray:
        """p(hq), shrunk towards the pool's mean: (n,) float32; NaN for a blank document."""
        if self.classifier_ is None:
            raise SelectorError("dclm: expected a fitted selector; call fit or load first")
        texts = documents.column("text")
        return self.finish(self.classifier_.score(texts), Texts(texts))

    @property
    def classifier(self) -> CollapsedFastText | None:
        """As :attr:`penstock.selectors.batch_scorer.FastTextBased.classifier`."""
        return self.classifier_

    def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        """As :meth:`penstock.selectors.batch_scorer.FastTextBased.finish`."""
        log_odds = shrink(scores, texts, self.prior_words).astype(np.float64) + self.centre_
        shares = (1 / (1 + np.exp(-log_odds))).astype(np.float32)
        return np.where(texts.blank, np.float32(np.nan), shares)

    def save(self, directory: Path) -> None:
        """Write the classifier and the pool's mean."""
        if self.classifier_ is not None:
            self.classifier_.save(directory)
            (directory / "dclm.json").write_text(json.dumps({"centre": self.centre_}) + "\n")

    def load(self, directory: Path) -> None:
        """Read back what :meth:`save` wrote."""
        try:
            centre = float(json.loads((directory / "dclm.json").read_text())["centre"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"{directory}: not a fitted dclm: {error}") from error
        self.classifier_, self.centre_ = CollapsedFastText.load(directory), centre

    def _labelled(self, fitting: Fitting) -> tuple[list[str], list[str]]:
        """Texts that are known to be good, and others that are known not to be."""
        if self.positives is None:
            if not fitting.target:
                raise SelectorError(
                    "positives: expected a file, or target files with examples, got neither"
                )
            return [example.text for example in fitting.target], []
        texts: tuple[list[str], list[str]] = ([], [])
        try:
            for place, line in examples_in(Path(self.positives)):
                if line.get("label", 1) not in (0, 1):
                    raise InputError(f"{place}: label: expected 0 or 1, got {line['label']!r}")
                try:
                    texts[1 - int(line.get("label", 1))].append(render(line))
                except ValueError as error:
                    raise InputError(f"{place}: {error}") from None
        except InputError as error:
            raise SelectorError(f"positives: {error}") from None
        if not texts[0]:
            raise SelectorError(f"positives: expected good examples, got none in {self.positives}")
        return texts

    def _negatives(self, fitting: Fitting, count: int) -> pa.Table:
        """About ``count`` documents with text, all of the source that is to be learned against."""
        asked = count
        while True:
            sample = fitting.sample(asked)
            names = sample["source"].unique().to_pylist()
            if self.negatives is not None:
                sample = sample.filter(pc.equal(sample["source"], self.negatives))
            sample = sample.filter(pa.array(~blank(sample["text"])))
            most = min(fitting.pool_size, _TIMES * count)
            if self.negatives is None or len(sample) >= count or asked >= most:
                break
            asked *= 4  # a source is a part of the pool, and a sample knows no sources
        if not len(sample) and self.negatives is not None:
            raise SelectorError(
                f"negatives: expected documents of the source {self.negatives}, got none; sources "
                f"there are {', '.join(map(str, names[:8]))}"
            )
        if not len(sample):
            raise SelectorError("sample: expected documents with text to fit on, got none")
        return sample

    def _drawn(self, texts: list[str], seed: int) -> list[str]:
        """The first ``sample`` by hash, equal texts once."""
        texts = list(dict.fromkeys(texts))
        hashes = _hashes(texts, seed, "dclm")
        return [texts[row] for row in np.argsort(hashes, kind="stable")[: self.sample]]

    def _lesson(self, good: list[str], bad: list[str], seed: int) -> TrainingSet:
        """In the order of their hashes: what fastText reads last, it remembers best. With all
        negatives last, accuracy was 0.77 for 0.96."""
        texts = good + bad
        order = np.argsort(_hashes(texts, seed, "order"), kind="stable")
        texts = [texts[row] for row in order]
        return TrainingSet(
            texts=texts,
            labels=order < len(good),
            held_out=is_held_out(_hashes(texts, seed, "held out")),
            settings=settings_of(self, seed),
        )

    def _centre_on(self, texts: pa.Array, classifier: CollapsedFastText) -> None:
        """Count every row's weight from the pool's mean log odds: theirs is a mean over rows."""
        log_odds = shrunk_log_odds(classifier, texts, 0)
        self.centre_ = math.fsum(log_odds.tolist()) / len(log_odds) if self.prior_words else 0.0
        weights = classifier.weights - np.float32(self.centre_)
        self.classifier_ = replace(classifier, weights=weights)


def _hashes(texts: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    return hash_ids(pa.array(texts, pa.large_string()), mix(seed, purpose))


def _passages(documents: pa.ChunkedArray, like: Sequence[str], seed: int) -> Iterator[str]:
    """Of each document as many words as the text beside it has, from a place drawn by hash."""
    places = uniform(hash_ids(documents, mix(seed, "passage")))
    for document, text, place in zip(documents, like, places):
        words = _WHITESPACE.split(document.as_py())
        count = len(_WHITESPACE.split(text))
        start = int(place * max(1, len(words) - count + 1))
        yield " ".join(words[start : start + count])
