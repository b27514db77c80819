"""BETR: documents ranked by how near they come to any one example of what is wanted.

Mizrahi et al. 2025, *Language Models Improve When Pretraining Data Matches Target Tasks*. Texts
and examples are embedded; each example ranks all documents; a document's score is its best rank
(:mod:`penstock.selectors.kernels.ranking`). The published selector then teaches a fastText
classifier the
top tenth of a sample, so that a pool of any size costs one cheap pass (``mode: classifier``).
Where the sample can be the whole pool, the ranks themselves are the score (``mode: direct``).

What is traded away: the classifier is right about three documents in four, and scores 40,000 a
second on a core; the ranks are BETR's own, but every document is embedded, 2,400 a second.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from penstock.errors import ArtefactError, SelectorError
from penstock.hashing import hash_ids, mix
from penstock.resources import Resources
from penstock.selectors.base import Documents, Encoder, Fitting, Target
from penstock.selectors.classifiers.classifier import (
    Texts,
    TrainingSet,
    balanced_rows,
    best_of,
    blank,
    is_held_out,
    settings_of,
    shrink,
    train_classifier,
)
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.encoders.embedding import CHARACTERS, beginning, embed, embed_texts
from penstock.selectors.encoders.encoders import EncoderName, contents_of, load_encoder
from penstock.selectors.encoders.static import StaticEncoder
from penstock.selectors.kernels.ranking import Ranker, rank_sample, rank_scores
from penstock.selectors.parameters import flag, listed, model_name, number, one_of, whole

__all__ = ["Betr", "filter_rate"]

_FEW_TEXTS = 1000
"""Texts that ``encoder: auto`` gives to the sentence encoder: about a minute."""

_POSITIVES = 1000
"""Documents that ``mode: auto`` wants the classifier to learn from: with 100 of them held out and
as many others, an accuracy of 0.75 is known to 0.03."""


def filter_rate(flops: float) -> float:
    """The share of a pool's tokens that is best kept for a compute budget, at most 1.

    The paper's fit, 4e-5 C^0.25 in percent, C being the FLOPs of a training run whose size and
    tokens are compute-optimal: 0.04 for 1e20, 0.126 for 1e22. Over-training drifts more slowly.
    """
    return float(min(1.0, 4e-7 * flops**0.25))


class Betr:
    """Scores documents by their best rank among the neighbours of the target's examples.

    Where a default differs from the paper, the paper's is given as "published", with the reason.
    The paper fits on 10 million documents; figures are from a pool of 65,686, of which the
    classifier was taught the best tenth against as many others, by accuracy on a held-out tenth.

    Args:
        mode: ``classifier`` (as published), ``direct``, or ``auto``: a classifier where the
            sample's top holds a thousand documents to learn from, else direct.
        encoder: ``sentence`` (all-MiniLM-L6-v2), ``static`` (distilled from it), the directory
            of a sentence-transformers model or of a saved static encoder, a hub name, or
            ``auto``: sentence for at most 1,000 texts, else static. Published: Arctic-Embed L v2,
            which wants a GPU.
        max_characters: What is embedded, and learned from, of a text. Published: 8,192 tokens,
            and all words for the classifier. The first 2,048 characters are twice what MiniLM
            reads and 43 % of the pool's text; a classifier of whole documents was no better
            (0.756 for 0.762) and took 12 s for 5.
        sample: Documents to fit on, about. Published: 10 million; a static encoder reads 100,000
            in a minute on one core.
        aggregate: ``max`` (as published) or ``mean`` over examples.
        value: ``rank``, ``log2`` or ``reciprocal``; under max they rank documents alike.
        top_share: Of the sample: what the classifier learns to find, as published.
        rungs: R at first; doubled until ``top_share`` of the sample is in some top R.
        balanced: Equal numbers of examples for each benchmark, drawn by hash, as published where
            the benchmarks are the goal.
        lr, epoch: The classifier's grid, chosen from on a held-out tenth. Published: 0.03 and 5,
            for a million positives; 6,500 leave it at its initialisation (0.55), where 0.1 x 5,
            0.1 x 10, 0.5 x 5 and 0.5 x 10 gave 0.66, 0.75, 0.76 and 0.77.
        word_ngrams, min_count: The classifier's, as published.
        dim: The classifier's. Published: 128, of which two labels use one direction. 16 found as
            much (0.761 for 0.762) in 2 s for 4, and in 128 MB for 1 GB.
        bucket: The classifier's; fastText's default.
        prior_words: Log odds are shrunk by n / (n + ``prior_words``), n distinct words. Published:
            not at all, which puts stubs first: of the pool's best 2 % by characters 41 % were
            shorter than 200 characters, and of those that the classifier had not been taught 10 %
            belonged to the tenth it was to find. Shrunk with 50: 0 % and 45 %
            (:func:`~penstock.selectors.classifiers.classifier.shrunk_log_odds`).
    """

    summary: ClassVar[str] = "documents nearest to any example of the target benchmarks"
    paper: ClassVar[str] = "Mizrahi et al. 2025, BETR: benchmark-targeted ranking"
    version: ClassVar[int] = 3
    paths: ClassVar[tuple[str, ...]] = ("encoder",)

    def __init__(
        self,
        *,
        mode: str = "auto",
        encoder: str = "auto",
        max_characters: int = CHARACTERS,
        sample: int = 100_000,
        aggregate: str = "max",
        value: str = "rank",
        top_share: float = 0.1,
        rungs: int = 512,
        balanced: bool = True,
        lr: float | Sequence[float] = (0.1, 0.5),
        epoch: int | Sequence[int] = (5, 10),
        word_ngrams: int = 2,
        dim: int = 16,
        min_count: int = 5,
        bucket: int = 2_000_000,
        prior_words: int = 50,
    ) -> None:
        self.mode = one_of("mode", mode, "auto", "classifier", "direct")
        self.encoder = model_name("encoder", encoder)
        self.max_characters = whole("max_characters", max_characters)
        self.sample = whole("sample", sample)
        self.aggregate = one_of("aggregate", aggregate, "max", "mean")
        self.value = one_of("value", value, "rank", "log2", "reciprocal")
        self.top_share = number("top_share", top_share, below=1)
        self.rungs = whole("rungs", rungs)
        self.balanced = flag("balanced", balanced)
        self.lr = tuple(number("lr", item) for item in listed("lr", lr))
        self.epoch = tuple(whole("epoch", item) for item in listed("epoch", epoch))
        self.word_ngrams = whole("word_ngrams", word_ngrams)
        self.dim = whole("dim", dim)
        self.min_count = whole("min_count", min_count)
        self.bucket = whole("bucket", bucket)
        self.prior_words = whole("prior_words", prior_words, least=0)
        self.classifier_: CollapsedFastText | None = None
        self.ranking_: tuple[Encoder, Ranker] | None = None
        self.chosen_ = self.encoder

    @property
    def needs(self) -> Resources:
        """What a worker must have that scores."""
        own = self.max_characters != CHARACTERS  # else the engine has made the vectors
        embeds = own and self.mode == "direct" and EncoderName.of(self.encoder).gpu
        return Resources(gpus=1 if embeds else 0)

    @property
    def wants_target(self) -> bool:
        """Whether it is of no use without examples to aim at."""
        return True

    def identity(self) -> Mapping[str, Any]:
        """The hyperparameters, and the contents of the encoder's directory if it is one."""
        own = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        return {**own, "encoder": contents_of(self.encoder)}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Rank a sample, and teach a classifier its top unless the ranks are the score.

        Returns:
            Facts: the sample, examples by benchmark, encoder, R, coverage; and the classifier's
            held-out accuracy, the grid's figures and what was chosen.

        Raises:
            SelectorError: There is nothing to aim at or to learn from, or the classifier does not
                tell the top from the rest.
        """
        self.classifier_ = self.ranking_ = None
        targets = self._examples(fitting)
        sample = fitting.sample(self.sample)
        some = pa.array(~blank(sample["text"]))
        # What is not looked at need not be held, nor kept by the allocator: a quarter of the peak.
        text = sample.schema.get_field_index("text")
        sample = sample.set_column(
            text, "text", beginning(sample["text"], self.max_characters)
        ).filter(some)
        pa.default_memory_pool().release_unused()
        if not len(sample):
            raise SelectorError("sample: expected documents with text to fit on, got none")
        mode = self.mode
        if mode == "auto":
            enough = self.top_share * len(sample) >= _POSITIVES
            mode = "classifier" if enough else "direct"
        hashes = hash_ids(sample["id"], mix(fitting.seed, "betr"))
        self.chosen_ = self._encoder(fitting, len(sample), len(targets), mode)
        encoder = fitting.encoder(self.chosen_)

        fitting.progress(f"embedding {len(sample):,} documents and {len(targets):,} examples")
        texts = pa.array([target.text for target in targets], pa.large_string())
        spread, characters = fitting.spread, self.max_characters
        examples = embed_texts(texts, encoder, characters=characters, spread=spread)
        documents = embed_texts(sample["text"], encoder, characters=characters, spread=spread)
        fitting.progress(f"ranking by {encoder.name}")
        ranked = rank_sample(
            examples,
            documents,
            top_r=self.rungs,
            coverage=self.top_share,
            aggregate=self.aggregate,
            value=self.value,
            spread=fitting.spread,
        )
        facts = {
            "mode": mode,
            "sample": len(sample),
            "examples": dict(Counter(target.benchmark for target in targets)),
            "encoder": encoder.name,
            "encoder_kind": "static" if isinstance(encoder, StaticEncoder) else "sentence",
            "rungs": ranked.ranker.kept,
            "coverage": round(ranked.coverage, 4),
        }
        if mode == "direct":
            self.ranking_ = (encoder, ranked.ranker)
            return facts
        return {**facts, **self._taught(sample["text"], ranked.scores, hashes, fitting)}

    def score(self, documents: Documents) -> np.ndarray:
        """(n,) float32: log odds of the top, or v of the rank; NaN for a blank document."""
        texts = documents.column("text")
        if self.classifier_ is not None:
            return self.finish(self.classifier_.score(texts), Texts(texts))
        if self.ranking_ is None:
            raise SelectorError("betr: expected a fitted selector; call fit or load first")
        encoder, _ = self.ranking_
        return self.score_vectors(documents, embed(beginning(texts, self.max_characters), encoder))

    @property
    def embeds(self) -> str | None:
        """As :attr:`penstock.selectors.base.EmbeddingScorer.embeds`: where ranks are the score."""
        same = self.ranking_ is not None and self.max_characters == CHARACTERS
        return self.chosen_ if same else None

    def score_vectors(self, documents: Documents, vectors: np.ndarray) -> np.ndarray:
        """As :meth:`penstock.selectors.base.EmbeddingScorer.score_vectors`."""
        if self.ranking_ is None:
            raise SelectorError("betr: expected a selector fitted in direct mode")
        scores = rank_scores(vectors, self.ranking_[1]).astype(np.float32)
        return np.where(blank(documents.column("text")), np.float32(np.nan), scores)

    @property
    def classifier(self) -> CollapsedFastText | None:
        """As :attr:`penstock.selectors.batch_scorer.FastTextBased.classifier`."""
        return self.classifier_

    def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        """As :meth:`penstock.selectors.batch_scorer.FastTextBased.finish`."""
        return np.where(texts.blank, np.float32(np.nan), shrink(scores, texts, self.prior_words))

    def save(self, directory: Path) -> None:
        """Write the classifier, or the encoder with the examples and their top R."""
        if self.classifier_ is not None:
            self.classifier_.save(directory)
        elif self.ranking_ is not None:
            encoder, ranker = self.ranking_
            encoder.save(directory)
            np.save(directory / "examples.npy", ranker.examples)
            np.save(directory / "ladders.npy", ranker.top_r)
            # By name only where it is one of ours: a directory may lie elsewhere for others.
            chosen = self.chosen_ if self.encoder == "auto" else None
            (directory / "betr.json").write_text(json.dumps({"encoder": chosen}) + "\n")

    def load(self, directory: Path) -> None:
        """Read back what :meth:`save` wrote."""
        self.classifier_ = self.ranking_ = None
        if (directory / "fasttext.json").exists():
            self.classifier_ = CollapsedFastText.load(directory)
            return
        try:
            ranker = Ranker(
                examples=np.load(directory / "examples.npy", allow_pickle=False),
                top_r=np.load(directory / "ladders.npy", allow_pickle=False),
                aggregate=self.aggregate,
                value=self.value,
            )
            chosen = json.loads((directory / "betr.json").read_text())["encoder"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"{directory}: not a fitted betr: {error}") from error
        self.chosen_ = chosen or self.encoder
        self.ranking_ = (load_encoder(directory), ranker)

    def _examples(self, fitting: Fitting) -> list[Target]:
        """The target's examples; equally many of each benchmark, by hash, if balanced."""
        if not fitting.target:
            raise SelectorError("target: expected files with examples to aim at, got none")
        counts = Counter(target.benchmark for target in fitting.target)
        if not self.balanced or len(counts) == 1:
            return list(fitting.target)
        least = min(counts.values())
        fitting.progress(f"{least:,} examples of each of {', '.join(counts)}")
        texts = pa.array([target.text for target in fitting.target], pa.large_string())
        hashes = hash_ids(texts, mix(fitting.seed, "betr", "balance"))
        chosen: list[int] = []
        for benchmark in counts:
            rows = [at for at, one in enumerate(fitting.target) if one.benchmark == benchmark]
            chosen += sorted(rows, key=hashes.__getitem__)[:least]
        return [fitting.target[row] for row in sorted(chosen)]

    def _encoder(self, fitting: Fitting, sample: int, examples: int, mode: str) -> str:
        """What ``encoder: auto`` stands for."""
        if self.encoder != "auto":
            return self.encoder
        texts = examples + max(sample, fitting.pool_size if mode == "direct" else 0)
        return "sentence" if texts <= _FEW_TEXTS else "static"

    def _taught(
        self, texts: pa.ChunkedArray, scores: np.ndarray, hashes: np.ndarray, fitting: Fitting
    ) -> dict[str, Any]:
        """Teach a classifier the top of the ranking (BETR steps 5 and 6)."""
        top = np.zeros(len(scores), bool)
        top[np.lexsort((hashes, -scores))[: max(1, round(self.top_share * len(scores)))]] = True
        rows = balanced_rows(top, hashes)
        # Hashed again: the hash itself has just chosen the negatives.
        again = hash_ids(pa.array(hashes[rows].astype(str)), mix(fitting.seed, "held out"))
        lesson = TrainingSet(
            texts=beginning(texts.take(pa.array(rows)), self.max_characters).to_pylist(),
            labels=top[rows],
            held_out=is_held_out(again),
            settings=settings_of(self, fitting.seed),
        )
        fitting.progress(
            f"training {len(self.lr) * len(self.epoch)} classifiers on {len(rows):,} documents"
        )
        trials = train_classifier(lesson, self.lr, self.epoch, fitting.spread)
        best = best_of(trials, lesson)
        self.classifier_ = best.classifier
        return {
            "positives": int(top.sum()),
            "held_out": int(lesson.held_out.sum()),
            "accuracy": best.facts["accuracy"],
            "lr": best.lr,
            "epoch": best.epoch,
            "trials": [trial.facts for trial in trials],
        }
