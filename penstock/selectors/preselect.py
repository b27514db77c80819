"""PreSelect: documents on which better language models do better, as a fastText classifier.

Shum et al. 2025, *Predictive Data Selection: The Data That Predicts Is the Data That Teaches*.
Models of known order read a sample; a document's *predictive strength* is the share of pairs of
models that its losses put in that order::

    S(d) = 1/Z * sum over i < j of 1[C_i > C_j],    Z = N (N - 1) / 2

where C_i is what d costs model i, and models go from worst to best. A fastText classifier is
taught documents of strength 1 against as many of the least, and scores the pool in one cheap pass.

What is traded away: the models read a sample only, and the classifier sees words where they saw
documents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.errors import SelectorError
from penstock.hashing import hash_ids, mix
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.classifiers.classifier import (
    HELD_OUT,
    FastTextScorer,
    Texts,
    TrainingSet,
    area_under_curve,
    best_of,
    blank,
    settings_of,
    shrink,
    train_classifier,
)
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.encoders.encoders import contents_of
from penstock.selectors.losses import STRIDE, WINDOW, CausalModel, read_losses
from penstock.selectors.parameters import flag, listed, model_shape, number, options, whole

__all__ = ["Ladder", "PreSelect", "pairs_in_order", "predictive_strength"]

_LEAST = 100
"""Documents of each label without which nothing is taught: ten of each judge the classifier."""


def pairs_in_order(nats: np.ndarray) -> np.ndarray:
    """How many pairs of models each document's losses put in order; a tie is out of order.

    Args:
        nats: (N, n) float64, a row for each model, from worst to best; in any unit, as long as a
            document's is the same under all models.

    Returns:
        (n,) int64, from 0 to N (N - 1) / 2.
    """
    counts = np.zeros(nats.shape[1], np.int64)
    for worse, better in itertools.combinations(nats, 2):
        counts += worse > better
    return counts


def predictive_strength(nats: np.ndarray) -> np.ndarray:
    """S(d) of each document: (N, n) float64 as in :func:`pairs_in_order` to (n,) float64."""
    return pairs_in_order(nats) / math.comb(len(nats), 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Models that are trained in order to be put in order: every shape on every budget.

    Published: six models of one family, from 7 to 65 billion parameters. What matters is that
    their order is beyond doubt and that they are alike otherwise; so one family, here too, and
    rungs that lie far apart.

    Args:
        shapes: (layers, width, heads) of each size.
        tokens: What each size is trained on.
        batch_tokens: Of a step. With 8,192, 400,000 tokens were 49 steps, in which four layers of
            192 learned no more than one of 64.
        lr: The highest learning rate.
    """

    shapes: Sequence[Sequence[int]] = ((1, 64, 2), (2, 128, 4), (3, 192, 6))
    tokens: Sequence[int] = (500_000, 2_000_000)
    batch_tokens: int = 2048
    lr: float = 3e-3

    @classmethod
    def of(cls, given: Any) -> Ladder:
        """Of a recipe's ``true`` or mapping.

        Raises:
            SelectorError: A key or a value of it is wrong; begins with ``ladder``.
        """
        own = cls(**options("ladder", given, [field.name for field in fields(cls)]))
        shapes = tuple(
            model_shape("ladder.shapes", one) for one in listed("ladder.shapes", own.shapes)
        )
        tokens = tuple(whole("ladder.tokens", one) for one in listed("ladder.tokens", own.tokens))
        if len(set(shapes)) * len(set(tokens)) < max(2, len(shapes) * len(tokens)):
            raise SelectorError(
                "ladder: expected at least two models, each once, got shapes "
                f"{list(shapes)} and tokens {list(tokens)}"
            )
        return cls(
            shapes=shapes,
            tokens=tokens,
            batch_tokens=whole("ladder.batch_tokens", own.batch_tokens),
            lr=number("ladder.lr", own.lr),
        )


class PreSelect:
    """p(positive) by a classifier of documents whose losses rank models as benchmarks do.

    Where a default differs from the paper, the paper's is given as "published", with the reason.

    Args:
        models: Language models from worst to best on what matters: directories with
            ``config.json``, ``tokenizer.json`` and safetensors, or hub names. Published: LLaMA-1
            and 2 of 7 to 65 billion parameters, six of one family, ordered by the average of
            twelve benchmarks.
        ladder: Instead, small models that Penstock trains on documents of the pool outside the
            sample, ordered by their bits per byte on the ``target`` files: ``true``, or a mapping
            with :class:`Ladder`'s keys.
        model: Instead, a ready fastText ``.bin`` of this kind, such as the published one,
            relative to the recipe. Nothing is fitted, and of the other parameters only
            ``zero_eos`` and ``prior_words`` count.
        sample: Documents that the models read, about. Published: 900,000, of 3,000 domains.
        max_characters: What is read, and learned from, of a document. Published: all of it.
        window, stride: Tokens seen at once, and moved on by, as published where a model's context
            allows (:class:`~penstock.selectors.losses.CausalModel`).
        device: ``cpu`` or ``cuda``, for the models.
        dtype: ``float32``, or ``bfloat16`` as published, whose 8 bits decide near ties by chance.
        lr, epoch: The classifier's grid, chosen from on a held-out tenth. Published: 0.1, and 5
            (paper) or 3 (repository).
        word_ngrams, min_count: The classifier's, as published.
        dim: The classifier's. Published: 100.
        bucket: The classifier's; fastText's default.
        zero_eos: Set the end-of-line token's row to zero after training, against a bias by
            length, as in the paper; the repository does not show it.
        prior_words: Log odds are shrunk by n / (n + ``prior_words``), n distinct words
            (:func:`~penstock.selectors.classifiers.classifier.shrunk_log_odds`); with 0
            (published) the score
            is p.
    """

    summary: ClassVar[str] = "documents whose losses rank language models as benchmarks do"
    paper: ClassVar[str] = "Shum et al. 2025, Predictive Data Selection (PreSelect)"
    version: ClassVar[int] = 1
    paths: ClassVar[tuple[str, ...]] = ("models", "model")

    def __init__(
        self,
        *,
        models: Sequence[str] | None = None,
        ladder: bool | Mapping[str, Any] | None = None,
        model: str | None = None,
        sample: int = 20_000,
        max_characters: int = 4096,
        window: int = WINDOW,
        stride: int = STRIDE,
        device: str = "cpu",
        dtype: str = "float32",
        lr: float | Sequence[float] = (0.1, 0.5),
        epoch: int | Sequence[int] = (5, 10),
        word_ngrams: int = 2,
        dim: int = 16,
        min_count: int = 1,
        bucket: int = 2_000_000,
        zero_eos: bool = True,
        prior_words: int = 0,
    ) -> None:
        ways = {"models": models, "ladder": ladder or None, "model": model}
        given = [way for way, value in ways.items() if value is not None]
        if len(given) != 1:
            raise SelectorError(
                "models: expected language models from worst to best, or `ladder`, or `model`, a "
                f"ready classifier, got {' and '.join(given) or 'none of them'}; give one"
            )
        self.zero_eos = flag("zero_eos", zero_eos)
        self.sample = whole("sample", sample)
        self.max_characters = whole("max_characters", max_characters)
        self.lr = tuple(number("lr", item) for item in listed("lr", lr))
        self.epoch = tuple(whole("epoch", item) for item in listed("epoch", epoch))
        self.word_ngrams = whole("word_ngrams", word_ngrams)
        self.dim = whole("dim", dim)
        self.min_count = whole("min_count", min_count)
        self.bucket = whole("bucket", bucket)
        self.prior_words = whole("prior_words", prior_words, least=0)
        self._reading: dict[str, Any] = {
            "window": window,
            "stride": stride,
            "device": device,
            "dtype": dtype,
        }
        self._models: list[CausalModel] = []
        self._ladder = None if not ladder else Ladder.of(ladder)
        if models is not None:
            self.give(_several(models))
        self._ready = None if model is None else FastTextScorer(model=model, zero_eos=self.zero_eos)
        self.classifier_: CollapsedFastText | None = None

    @property
    def ladder(self) -> Ladder | None:
        """What has to be trained, and then given, before anything is fitted."""
        return self._ladder

    @property
    def models(self) -> tuple[str, ...]:
        """What reads the sample: directories or names, from worst to best."""
        return tuple(model.name for model in self._models)

    def give(self, models: Sequence[str]) -> None:
        """Have these read the sample: directories or names, from worst to best."""
        self._models = [CausalModel(name, key="models", **self._reading) for name in models]

    @property
    def wants_target(self) -> bool:
        """Whether it is of no use without examples to aim at."""
        return self._ladder is not None

    def identity(self) -> Mapping[str, Any]:
        """The hyperparameters, and the files of the models, or of the classifier, by sha256.

        Raises:
            SelectorError: The ladder's models were not given yet.
        """
        if self._ready:
            return {**self._ready.identity(), "prior_words": self.prior_words}
        if not self._models:
            raise SelectorError(
                "ladder: expected its models, which `penstock curate` trains first; here, call "
                "`give` or name `models`"
            )
        return {
            **{
                name: value
                for name, value in vars(self).items()
                if not name.startswith("_") and not name.endswith("_")
            },
            "models": [contents_of(model.name) for model in self._models],
            "reading": self._models[0].settings,
        }

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Have the models read a sample, and teach a classifier which documents rank them right.

        Returns:
            Facts: the sample; each model's bits per character on it; documents by how many pairs
            of models they put in order; what was taught, how well, and what was chosen.

        Raises:
            SelectorError: There are too few documents of either kind, or the classifier does not
                tell them apart.
        """
        self.classifier_ = None
        if self._ready:
            facts = self._ready.fit(fitting)
            self.classifier_ = self._ready.classifier_
            return facts
        sample = fitting.sample(self.sample)
        texts = pc.utf8_slice_codeunits(sample["text"], 0, self.max_characters)
        some = pa.array(~blank(texts))
        texts = texts.filter(some)
        if not len(texts):
            raise SelectorError("sample: expected documents with text to fit on, got none")
        hashes = hash_ids(sample["id"].filter(some), mix(fitting.seed, "preselect"))
        nats, bits = [], []
        for place, model in enumerate(self._models, 1):
            fitting.progress(f"model {place} of {len(self._models)} reads {len(texts):,} documents")
            losses = read_losses(texts, model, fitting.spread)
            nats.append(losses.nats)
            bits.append(float(losses.nats.sum() / math.log(2) / losses.characters.sum()))
        if bits[-1] >= bits[0]:
            fitting.progress(
                f"the best model needs {bits[-1]:.3f} bits a character and the worst {bits[0]:.3f}"
                "; are they listed from worst to best?"
            )
        pairs = pairs_in_order(np.stack(nats))
        facts = {
            "sample": len(texts),
            "bits_per_character": [round(value, 4) for value in bits],
            "by_pairs_in_order": np.bincount(
                pairs, minlength=math.comb(len(self._models), 2) + 1
            ).tolist(),
        }
        return {**facts, **self._taught(texts, pairs, hashes, fitting)}

    def score(self, documents: Documents) -> np.ndarray:
        """p(positive), or shrunk log odds: (n,) float32; NaN for a blank document."""
        if self.classifier_ is None:
            raise SelectorError("preselect: expected a fitted selector; call fit or load first")
        texts = documents.column("text")
        return self.finish(self.classifier_.score(texts), Texts(texts))

    @property
    def classifier(self) -> CollapsedFastText | None:
        """As :attr:`penstock.selectors.batch_scorer.FastTextBased.classifier`."""
        return self.classifier_

    def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        """As :meth:`penstock.selectors.batch_scorer.FastTextBased.finish`."""
        if self.prior_words:
            scores = shrink(scores, texts, self.prior_words)
        return np.where(texts.blank, np.float32(np.nan), scores)

    def save(self, directory: Path) -> None:
        """Write the classifier."""
        if self.classifier_ is not None:
            self.classifier_.save(directory)

    def load(self, directory: Path) -> None:
        """Read back what :meth:`save` wrote."""
        self.classifier_ = CollapsedFastText.load(directory)

    def _taught(
        self, texts: pa.ChunkedArray, pairs: np.ndarray, hashes: np.ndarray, fitting: Fitting
    ) -> dict[str, Any]:
        """Teach a classifier the documents of strength 1 against as many of the least."""
        positives, negatives = _sides(pairs, math.comb(len(self._models), 2), hashes)
        rows = np.sort(np.concatenate([positives, negatives]))
        labels = np.isin(rows, positives)
        # Hashed again: the hash itself has just chosen documents.
        again = hash_ids(pa.array(hashes[rows].astype(str)), mix(fitting.seed, "held out"))
        lesson = TrainingSet(
            texts=texts.take(pa.array(rows)).to_pylist(),
            labels=labels,
            held_out=_held_out(labels, again),
            settings=settings_of(self, fitting.seed),
        )
        fitting.progress(
            f"training {len(self.lr) * len(self.epoch)} classifiers on {len(rows):,} documents"
        )
        trials = train_classifier(lesson, self.lr, self.epoch, fitting.spread)
        best = best_of(trials, lesson)
        self.classifier_ = _without_end(best.classifier) if self.zero_eos else best.classifier
        judged = np.flatnonzero(lesson.held_out)
        unseen = pa.array([lesson.texts[row] for row in judged], pa.large_string())
        scores = self.finish(self.classifier_.score(unseen), Texts(unseen))
        return {
            "positives": len(positives),
            "negatives_up_to": int(pairs[negatives].max()),
            "held_out": len(judged),
            "accuracy": best.facts["accuracy"],
            "area_under_curve": round(area_under_curve(scores, labels[judged]), 4),
            "lr": best.lr,
            "epoch": best.epoch,
            "trials": [trial.facts for trial in trials],
        }


def _several(models: Any) -> Sequence[Any]:
    """The names of at least two different models."""
    if not isinstance(models, (list, tuple)) or len(models) < 2:
        raise SelectorError(
            f"models: expected a list of at least two, from worst to best, got {models!r}"
        )
    for name in models:
        if models.count(name) > 1:
            raise SelectorError(f"models: expected each model once, got {name} twice")
    return models


def _sides(pairs: np.ndarray, most: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of positives and of as many negatives: (n,) int64 pairs in order to (k,) and (k,).

    Negatives climb from strength 0, and are drawn by hash from the last strength they reach.
    Where few documents are left to be negatives, positives are drawn by hash.

    Raises:
        SelectorError: There are too few of either to learn from.
    """
    positives, rest = np.flatnonzero(pairs == most), np.flatnonzero(pairs < most)
    if len(positives) < _LEAST:
        raise SelectorError(
            f"sample: expected at least {_LEAST} documents whose losses put all {most} pairs of "
            f"models in order, got {len(positives)} of {len(pairs):,}; use a larger sample or "
            "fewer models, and list them from worst to best"
        )
    if len(rest) < _LEAST:
        raise SelectorError(
            f"sample: expected at least {_LEAST} documents whose losses do not put all {most} "
            f"pairs of models in order, got {len(rest)} of {len(pairs):,}: too few documents, or "
            "models too far apart to tell them by; use a larger sample, or models (rungs of a "
            "ladder) that are nearer to each other"
        )
    count = min(len(positives), len(rest))
    positives = positives[np.argsort(hashes[positives], kind="stable")[:count]]
    return positives, rest[np.lexsort((hashes[rest], pairs[rest]))[:count]]


def _held_out(labels: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """A tenth of each label, by hash: (n,) bool and (n,) uint64 to (n,) bool."""
    held_out = np.zeros(len(labels), bool)
    for label in (False, True):
        rows = np.flatnonzero(labels == label)
        count = math.ceil(HELD_OUT * len(rows))
        held_out[rows[np.argsort(hashes[rows], kind="stable")[:count]]] = True
    return held_out


def _without_end(classifier: CollapsedFastText) -> CollapsedFastText:
    """The classifier with the end-of-line token's row at zero, where it has one."""
    weights = classifier.weights.copy()
    if classifier.eos_row >= 0:
        weights[classifier.eos_row] = 0
    return replace(classifier, weights=weights)
