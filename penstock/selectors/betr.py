"""BETR: documents ranked by their nearness to any one example of the target.

Mizrahi et al. 2025, *Language Models Improve When Pretraining Data Matches Target Tasks*. Texts and
examples are embedded; each example ranks all documents; a document's score is its best rank
(:mod:`penstock.selectors.kernels.ranking`). The published selector then trains a fastText
classifier to find the top tenth of a sample, so that a pool of any size costs one cheap pass
(``mode: classifier``). Where the sample can be the whole pool, the ranks themselves are the score
(``mode: direct``).

Trade-off: the classifier is right about three documents in four, and scores 40,000 a second on a
core; the ranks are BETR's own, but every document is embedded, 2,400 a second.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from penstock.display import numbered, shortened
from penstock.errors import SelectorError
from penstock.hashing import hash_documents, hash_ids, mix
from penstock.resources import Resources
from penstock.selectors.algorithm import CentredScorer, draw_pool, read_array, read_json
from penstock.selectors.base import (
    Documents,
    EmbeddingScores,
    Encoder,
    Fitting,
    Nearness,
    Requirements,
    Target,
)
from penstock.selectors.classifiers.classifier import (
    Texts,
    balanced_rows,
    blank,
    fit_classifier,
    is_held_out,
)
from penstock.selectors.encoders.embedding import (
    CHARACTERS,
    EncoderName,
    beginning,
    embed,
    embed_texts,
    load_encoder,
)
from penstock.selectors.encoders.static import StaticEncoder
from penstock.selectors.kernels.ranking import (
    Ranker,
    leave_out,
    rank_by_example,
    rank_sample,
    rank_scores,
)
from penstock.selectors.parameters import (
    EncoderModel,
    Natural,
    OneOrMore,
    Positive,
    Share,
    Whole,
    fitted,
)

__all__ = ["Betr", "filter_rate"]

_FEW_TEXTS = 1000
"""Texts that ``encoder: auto`` gives to the sentence encoder: about a minute."""

_POSITIVES = 1000
"""The least number of positives for which ``mode: auto`` trains a classifier: with 100 of them held
out and as many others, an accuracy of 0.75 is measured to 0.03."""


def filter_rate(flops: float) -> float:
    """Return the share of a pool's tokens that is best kept for a compute budget, at most 1.

    The paper's fit, 4e-5 C^0.25 in percent, C being the FLOPs of a training run whose size and
    tokens are compute-optimal: 0.04 for 1e20, 0.126 for 1e22. Over-training drifts more slowly.
    """
    return float(min(1.0, 4e-7 * flops**0.25))


class Betr(
    CentredScorer,
    name="betr",
    summary="documents nearest to any example of the target benchmarks",
    meaning="log odds that a classifier finds it among the documents nearest to the target",
    paper="Mizrahi et al. 2025, BETR: benchmark-targeted ranking",
    version=6,
    imports={"encoders": ("faiss",)},
):
    """Scores documents by their best rank among the neighbours of the target's examples.

    Where a default differs from the paper, the paper's is given as "published", with the reason.
    The paper fits on 10 million documents; figures are from a pool of 65,686, of which the
    classifier was trained on the best tenth against as many others, by accuracy on a held-out
    tenth.
    """

    mode: Literal["auto", "classifier", "direct"] = Field(
        default="auto",
        description="``classifier`` (as published), ``direct``, or ``auto``: a classifier where "
        "the sample's top holds a thousand documents to train on, else direct.",
    )
    encoder: EncoderModel = Field(
        default="auto",
        description="``sentence`` (all-MiniLM-L6-v2), ``static`` (distilled from it), the "
        "directory of a sentence-transformers model or of a saved static encoder, a hub name, "
        "or ``auto``: sentence for at most 1,000 texts, else static. Published: Arctic-Embed L "
        "v2, which needs a GPU.",
    )
    max_characters: Whole = Field(
        default=CHARACTERS,
        description="Characters of a text that are embedded and trained on. Published: 8,192 "
        "tokens, and all words for the classifier. The first 2,048 characters are twice what "
        "MiniLM reads and 43 % of the pool's text; a classifier of whole documents was no "
        "better (0.756 for 0.762) and took 12 s for 5.",
    )
    sample: Whole = Field(
        default=100_000,
        description="Documents to fit on, about. Published: 10 million; a static encoder reads "
        "100,000 in a minute on one core.",
    )
    aggregate: Literal["max", "mean"] = Field(
        default="max",
        description="``max`` (as published) or ``mean`` over examples.",
    )
    value: Literal["rank", "log2", "reciprocal"] = Field(
        default="rank",
        description="``rank``, ``log2`` or ``reciprocal``; under ``max`` they rank documents "
        "alike.",
    )
    top_share: Share = Field(
        default=0.1,
        description="Share of the sample that is the classifier's positives, as published.",
    )
    rungs: Whole = Field(
        default=512,
        description="R, the ranks that are kept of each example, at first; doubled until "
        "``top_share`` of the sample is within the top R of some example.",
    )
    balanced: bool = Field(
        default=True,
        description="Equal numbers of examples for each benchmark, drawn by hash, as published "
        "where the benchmarks are the goal.",
    )
    lr: OneOrMore[Positive] = Field(
        default=(0.1, 0.5),
        description="The classifier's learning rates; the grid with ``epoch`` is chosen from on "
        "a held-out tenth. Published: 0.03 and 5 epochs, for a million positives; 6,500 leave "
        "it at its initialisation (0.55), where 0.1 x 5, 0.1 x 10, 0.5 x 5 and 0.5 x 10 gave "
        "0.66, 0.75, 0.76 and 0.77.",
    )
    epoch: OneOrMore[Whole] = Field(
        default=(5, 10),
        description="The classifier's epochs; see ``lr``.",
    )
    word_ngrams: Whole = Field(
        default=2,
        description="The classifier's n-grams, as published.",
    )
    dim: Whole = Field(
        default=16,
        description="The classifier's dimensions. Published: 128, of which two labels use one "
        "direction. 16 found as much (0.761 for 0.762) in 2 s for 4, and in 128 MB for 1 GB.",
    )
    min_count: Whole = Field(
        default=5,
        description="The least count of a word of the classifier, as published.",
    )
    bucket: Whole = Field(
        default=2_000_000,
        description="The classifier's buckets of n-grams; fastText's default.",
    )
    prior_words: Natural = Field(
        default=50,
        description="The distance of the classifier's log odds from the pool's mean is shrunk by n "
        "/ (n + ``prior_words``), n distinct words. Published: not at all, which puts stubs "
        "first: of the pool's best 2 % by characters 41 % were shorter than 200 characters, and "
        "of those that the classifier had not been trained on 10 % belonged to the tenth it was "
        "to find. Shrunk with 50: 0 % and 45 % "
        "(:func:`~penstock.selectors.classifiers.classifier.shrunk_log_odds`).",
    )

    _ranking: tuple[Encoder, Ranker] | None = None
    _chosen: str = ""
    # The encoder chosen by ``auto``, once fitted.

    def describe_score(self, facts: Mapping[str, Any]) -> str:
        """Say what a score means: in direct mode a rank, else log odds."""
        mode = facts.get("mode", self.mode)
        rank = f"{self.value} among the documents by nearness, {self.aggregate} over the examples"
        if mode == "auto":
            return f"{self.meaning}, or {rank}, as the fit chose"
        return rank if mode == "direct" else self.meaning

    @property
    def requirements(self) -> Requirements:
        """Requirements on the engine; in direct mode shared vectors, where they suffice."""
        shared = self.max_characters == CHARACTERS  # the engine has made the vectors
        embeds = not shared and self.mode == "direct" and EncoderName.of(self.encoder).gpu
        embeddings, slow = None, False
        if self._ranking is not None:
            slow = not shared and self._ranking[0].resources.slow
        if shared and self._ranking is not None:
            embeddings = EmbeddingScores(encoder=self._chosen, score=self.score_vectors)
        return replace(
            super().requirements,
            target=True,
            resources=Resources(gpus=1 if embeds else 0, slow=slow),
            embeddings=embeddings,
            nearness=self._nearness(),
            leave_out=None if self._ranking is None else self._leave_out,
        )

    def _leave_out(self, document: Documents) -> Betr:
        encoder, ranker = fitted(self._ranking, self.name)
        text = beginning(document.column("text"), self.max_characters)
        others = self.model_copy()
        others._ranking = encoder, leave_out(embed(text, encoder)[0], ranker)
        return others

    def _nearness(self) -> Nearness:
        encoder, ranker = self._ranking or (None, None)
        ranks = None
        if ranker is not None and self.aggregate == "max":
            ranks = partial(rank_by_example, ranker=ranker)
        return Nearness(
            encoder=self._chosen or self.encoder,
            compared=self._compared,
            vectors=None if ranker is None else ranker.examples,
            loaded=encoder,
            characters=self.max_characters,
            ranks=ranks,
            last_rank=0 if ranker is None else ranker.kept,
        )

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Rank a sample, and train a classifier on its top unless the ranks are the score.

        Returns:
            Facts: the sample, examples that rank by benchmark, encoder, R, coverage; and the
            classifier's held-out accuracy, the grid's figures and what was chosen.

        Raises:
            SelectorError: There are no examples or no documents, the encoder knows no token of any
                example, or the classifier does not separate the top from the rest.
        """
        self._classifier = self._ranking = None
        targets = self._examples(fitting)
        sample = fitting.sample(self.sample, characters=self.max_characters)
        sample = sample.filter(pa.array(~blank(sample["text"])))
        if not len(sample):
            raise SelectorError(key="sample", expected="documents with text to fit on", got="none")
        mode = self.mode
        if mode == "auto":
            enough = self.top_share * len(sample) >= _POSITIVES
            mode = "classifier" if enough else "direct"
        hashes = hash_documents(sample, mix(fitting.seed, "betr"))
        self._chosen = self._encoder(fitting, len(sample), len(targets), mode)
        encoder = fitting.encoder(self._chosen)

        fitting.progress(f"embedding {len(sample):,} documents and {len(targets):,} examples")
        texts = pa.array([target.text for target in targets], pa.large_string())
        spread, characters = fitting.spread, self.max_characters
        examples = embed_texts(texts, encoder, characters=characters, spread=spread)
        ranking = _rankable(examples, targets, encoder, fitting)
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
            "examples": dict(Counter(target.benchmark for target in ranking)),
            "encoder": encoder.name,
            "encoder_kind": "static" if isinstance(encoder, StaticEncoder) else "sentence",
            "rungs": ranked.ranker.kept,
            "coverage": round(ranked.coverage, 4),
        }
        if mode == "direct":
            self._ranking = (encoder, ranked.ranker)
            return facts
        return {**facts, **self._train(sample["text"], ranked.scores, hashes, fitting)}

    def score(self, documents: Documents) -> np.ndarray:
        """Return log odds of the top, or v of the rank, (n,) float32; NaN for a blank document."""
        if self._ranking is None:
            return super().score(documents)
        texts = beginning(documents.column("text"), self.max_characters)
        return self.score_vectors(documents, embed(texts, self._ranking[0]))

    def score_vectors(self, documents: Documents, vectors: np.ndarray) -> np.ndarray:
        """Compute the scores of direct mode from vectors: (n, d) int16 to (n,) float32."""
        ranker = fitted(self._ranking, self.name)[1]
        scores = rank_scores(vectors, ranker).astype(np.float32)
        return np.where(blank(documents.column("text")), np.float32(np.nan), scores)

    def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        return self.log_odds(scores, texts)

    def save(self, directory: Path) -> None:
        super().save(directory)
        if self._ranking is not None:
            encoder, ranker = self._ranking
            encoder.save(directory)
            np.save(directory / "examples.npy", ranker.examples)
            np.save(directory / "ladders.npy", ranker.top_r)
            # By name only where it is built in: a directory may have another path elsewhere.
            chosen = self._chosen if self.encoder == "auto" else ""
            (directory / "betr.json").write_text(json.dumps({"encoder": chosen}) + "\n")

    def load(self, directory: Path) -> None:
        self._classifier = self._ranking = None
        self._chosen = ""
        if (directory / "fasttext.json").exists():
            super().load(directory)
            return
        ranker = Ranker(
            examples=read_array(directory / "examples.npy"),
            top_r=read_array(directory / "ladders.npy"),
            aggregate=self.aggregate,
            value=self.value,
        )
        self._chosen = read_json(directory / "betr.json", "encoder", str) or self.encoder
        self._ranking = (load_encoder(directory), ranker)

    def _examples(self, fitting: Fitting) -> list[Target]:
        """Return the target's examples; equally many of each benchmark, by hash, if balanced."""
        if not fitting.target:
            raise SelectorError(key="target", expected="files with examples to aim at", got="none")
        chosen = self._compared(fitting.target, fitting.seed)
        if len(chosen) < len(fitting.target):
            counts = Counter(target.benchmark for target in fitting.target)
            fitting.progress(f"{min(counts.values()):,} examples of each of {', '.join(counts)}")
        return [fitting.target[row] for row in chosen]

    def _compared(self, targets: Sequence[Target], seed: int) -> Sequence[int]:
        """Return the positions of the examples that rank documents, ascending."""
        counts = Counter(target.benchmark for target in targets)
        if not self.balanced or len(counts) == 1:
            return range(len(targets))
        least = min(counts.values())
        texts = pa.array([target.text for target in targets], pa.large_string())
        hashes = hash_ids(texts, mix(seed, "betr", "balance"))
        chosen: list[int] = []
        for benchmark in counts:
            rows = [at for at, one in enumerate(targets) if one.benchmark == benchmark]
            chosen += sorted(rows, key=hashes.__getitem__)[:least]
        return sorted(chosen)

    def _encoder(self, fitting: Fitting, sample: int, examples: int, mode: str) -> str:
        if self.encoder != "auto":
            return self.encoder
        texts = examples + max(sample, fitting.pool_size if mode == "direct" else 0)
        return "sentence" if texts <= _FEW_TEXTS else "static"

    def _train(
        self, texts: pa.ChunkedArray, scores: np.ndarray, hashes: np.ndarray, fitting: Fitting
    ) -> dict[str, Any]:
        """Train a classifier to find the top of the ranking (BETR steps 5 and 6)."""
        top = np.zeros(len(scores), bool)
        top[np.lexsort((hashes, -scores))[: max(1, round(self.top_share * len(scores)))]] = True
        rows = balanced_rows(top, hashes)
        # Hashed again: the hash itself has just chosen the negatives.
        again = hash_ids(pa.array(hashes[rows].astype(str)), mix(fitting.seed, "held out"))
        chosen = beginning(texts.take(pa.array(rows)), self.max_characters).to_pylist()
        best, facts = fit_classifier(self, chosen, top[rows], is_held_out(again), fitting)
        self._classifier = best.classifier
        self.centre_on(draw_pool(fitting))
        return {"positives": int(top.sum()), "centre": round(self._centre, 4), **facts}


def _rankable(
    vectors: np.ndarray, targets: Sequence[Target], encoder: Encoder, fitting: Fitting
) -> list[Target]:
    """Return the examples that rank documents: those of which the encoder knows a token.

    Args:
        vectors: (e, d) int16, on the lattice; zero without a token.
        targets: The examples.
        encoder: It made the vectors.
        fitting: Gets a note where examples rank nothing.

    Raises:
        SelectorError: None is left.
    """
    some = np.asarray(vectors.any(axis=1)).tolist()
    known = [target for target, knows in zip(targets, some, strict=True) if knows]
    unknown = [target for target, knows in zip(targets, some, strict=True) if not knows]
    if not unknown:
        return known
    one = unknown[0]
    first = f"{f'{one.place}: ' if one.place else ''}{shortened([repr(one.text)])}"
    if not known:
        raise SelectorError(
            f"the encoder {encoder.name} knows no token of any example",
            key="target",
            expected="examples in a script that the encoder knows",
            got=f"{numbered(len(unknown), 'example')}, the first {first}",
            fix="give other examples, or another encoder",
        )
    fitting.progress(
        f"note: {len(unknown):,} of {numbered(len(targets), 'example')} left out: the encoder "
        f"{encoder.name} knows no token of them, so that all documents would be equally near; "
        f"the first is {first}"
    )
    return known
