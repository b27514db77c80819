"""PreSelect: documents on which better language models do better, as a fastText classifier.

Shum et al. 2025, *Predictive Data Selection: The Data That Predicts Is the Data That Teaches*.
Models of known order read a sample; a document's *predictive strength* is the share of pairs of
models that its losses put in that order::

    S(d) = 1/Z * sum over i < j of 1[C_i > C_j],    Z = N (N - 1) / 2

where C_i is the loss of d under model i, and models go from worst to best. A fastText classifier
is trained on documents of strength 1 against as many of the least, and scores the pool in one
cheap pass.

Trade-off: the models read a sample only, and the classifier uses words where the models read
documents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, Field, PrivateAttr

from penstock.errors import SelectorError
from penstock.hashing import hash_documents, hash_ids, mix
from penstock.selectors.algorithm import ClassifierScorer
from penstock.selectors.base import (
    Fitting,
    ModelLadder,
    Requirements,
)
from penstock.selectors.classifiers.classifier import (
    HELD_OUT,
    Texts,
    area_under_curve,
    blank,
    fit_classifier,
    shrink,
)
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.encoders.embedding import contents_of
from penstock.selectors.losses import STRIDE, WINDOW, CausalModel, read_losses
from penstock.selectors.parameters import (
    File,
    ModelName,
    ModelShape,
    Natural,
    OneOrMore,
    Optional,
    Options,
    Positive,
    Whole,
)

__all__ = ["LadderParameters", "PreSelect", "pairs_in_order"]

_LEAST = 100
"""The minimum number of documents of each label: ten of each are held out."""


def pairs_in_order(nats: np.ndarray) -> np.ndarray:
    """Count the pairs of models that each document's losses put in order; a tie is out of order.

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


def _ordered_models(models: tuple[str, ...]) -> tuple[str, ...]:
    """Check for at least two different models."""
    if len(models) < 2 or len(set(models)) < len(models):
        raise SelectorError(
            expected="a list of at least two different models, from worst to best",
            got=repr(list(models)),
        )
    return models


ModelNames = Annotated[OneOrMore[ModelName], AfterValidator(_ordered_models)]


class LadderParameters(Options):
    """Parameters of the models that are trained and ranked: every shape on every budget.

    Published: six models of one family, from 7 to 65 billion parameters. Their order must be
    certain, and they must not differ otherwise; so here, too, they are of one family, with sizes
    far apart.
    """

    shapes: OneOrMore[ModelShape] = Field(
        default=((1, 64, 2), (2, 128, 4), (3, 192, 6)),
        description="(layers, width, heads) of each size.",
    )
    tokens: OneOrMore[Whole] = Field(
        default=(500_000, 2_000_000),
        description="Training budgets of each size.",
    )
    batch_tokens: Whole = Field(
        default=2048,
        description="Tokens of a step. With 8,192, 400,000 tokens were 49 steps, in which four "
        "layers of 192 learned no more than one of 64.",
    )
    lr: Positive = Field(
        default=3e-3,
        description="The highest learning rate.",
    )

    def model_post_init(self, context: Any) -> None:
        count = len(set(self.shapes)) * len(set(self.tokens))
        if count < max(2, len(self.shapes) * len(self.tokens)):
            raise SelectorError(
                expected="at least two models, each once",
                got=f"shapes {[list(one) for one in self.shapes]} and tokens {list(self.tokens)}",
            )


class PreSelect(
    ClassifierScorer,
    name="preselect",
    summary="documents whose losses rank language models as benchmarks do",
    paper="Shum et al. 2025, Predictive Data Selection (PreSelect)",
    version=1,
):
    """p(positive) by a classifier of documents whose losses rank models as benchmarks do.

    Where a default differs from the paper, the paper's is given as "published", with the reason.
    Give one of ``models``, ``ladder`` and ``model``.
    """

    models: ModelNames | None = Field(
        default=None,
        description="Language models from worst to best on the benchmarks: directories with "
        "``config.json``, ``tokenizer.json`` and safetensors, or hub names. Published: LLaMA-1 "
        "and 2 of 7 to 65 billion parameters, six of one family, ordered by the average of "
        "twelve benchmarks.",
    )
    ladder: Optional[LadderParameters] = Field(
        default=None,
        description="Instead, small models that Penstock trains on documents of the pool "
        "outside the sample, ordered by their bits per byte on the ``target`` files: ``true``, "
        "or a mapping with :class:`LadderParameters`'s keys.",
    )
    model: File | None = Field(
        default=None,
        description="Instead, a ready fastText ``.bin`` of this kind, such as the published "
        "one, relative to the recipe. Nothing is fitted, and of the other parameters only "
        "``zero_eos`` and ``prior_words`` count.",
    )
    sample: Whole = Field(
        default=20_000,
        description="Documents that the models read, about. Published: 900,000, of 3,000 domains.",
    )
    max_characters: Whole = Field(
        default=4096,
        description="Characters of a document that are read and trained on. Published: all of it.",
    )
    window: Whole = Field(
        default=WINDOW,
        description="Tokens that a model sees at once, as published where its context allows "
        "(:class:`~penstock.selectors.losses.CausalModel`).",
    )
    stride: Whole = Field(
        default=STRIDE,
        description="Tokens between two windows, as published; see ``window``.",
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="``cpu`` or ``cuda``, for the models.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="``float32``, or ``bfloat16`` as published, whose 8 bits decide near ties "
        "by chance.",
    )
    lr: OneOrMore[Positive] = Field(
        default=(0.1, 0.5),
        description="The classifier's learning rates; the grid with ``epoch`` is chosen from on "
        "a held-out tenth. Published: 0.1, and 5 epochs (paper) or 3 (repository).",
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
        description="The classifier's dimensions. Published: 100.",
    )
    min_count: Whole = Field(
        default=1,
        description="The least count of a word of the classifier, as published.",
    )
    bucket: Whole = Field(
        default=2_000_000,
        description="The classifier's buckets of n-grams; fastText's default.",
    )
    zero_eos: bool = Field(
        default=True,
        description="Set the end-of-line token's row to zero after training, against a bias by "
        "length, as in the paper; the repository does not show it.",
    )
    prior_words: Natural = Field(
        default=0,
        description="Log odds are shrunk by n / (n + ``prior_words``), n distinct words "
        "(:func:`~penstock.selectors.classifiers.classifier.shrunk_log_odds`); with 0 "
        "(published) the score is p.",
    )

    _readers: list[CausalModel] = PrivateAttr(default_factory=list)

    def model_post_init(self, context: Any) -> None:
        ways = {"models": self.models, "ladder": self.ladder, "model": self.model}
        given = [way for way, value in ways.items() if value is not None]
        if len(given) != 1:
            raise SelectorError(
                key="models",
                expected="language models from worst to best, or `ladder`, or `model`, a ready "
                "classifier",
                got=" and ".join(given) or "none of them",
                fix="give one",
            )
        if self.models is not None:
            self.give_models(self.models)

    @property
    def requirements(self) -> Requirements:
        own = super().requirements
        plan = self.ladder
        if plan is None:
            return own
        ladder = ModelLadder(
            shapes=plan.shapes,
            tokens=plan.tokens,
            batch_tokens=plan.batch_tokens,
            lr=plan.lr,
            sample=self.sample,
            give=self.give_models,
        )
        return replace(own, target=True, model_ladder=ladder)

    @property
    def readers(self) -> tuple[str, ...]:
        """The models that read the sample: directories or names, from worst to best."""
        return tuple(model.name for model in self._readers)

    def give_models(self, models: Sequence[str]) -> None:
        """Receive the models that read the sample: directories or names, from worst to best."""
        self._readers = [
            CausalModel(
                name,
                key="models",
                window=self.window,
                stride=self.stride,
                device=self.device,
                dtype=self.dtype,
            )
            for name in models
        ]

    def identity(self) -> Mapping[str, Any]:
        """Return the parameters; of models and classifier the sha256 of their files.

        Raises:
            SelectorError: The ladder's models were not given yet.
        """
        own = super().identity()
        if self.model is not None:
            return {key: own[key] for key in ("algorithm", "model", "zero_eos", "prior_words")}
        if not self._readers:
            raise SelectorError(
                key="ladder",
                expected="its models, which `penstock curate` trains first",
                got="none",
                fix="call `give_models`, or name `models`",
            )
        models = [contents_of(name) for name in self.readers]
        return {**own, "ladder": None, "models": models}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Read a sample with the models, and train a classifier on how they rank its documents.

        Returns:
            Facts: the sample; each model's bits per character on it; documents by how many pairs of
            models they put in order; the training set, the accuracy, and what was chosen.

        Raises:
            SelectorError: There are too few documents of either kind, or the classifier does not
                separate them.
        """
        self._classifier = None
        if self.model is not None:
            ready = CollapsedFastText.from_file(self.model, "__label__1", zero_eos=self.zero_eos)
            self._classifier = ready
            return {"words": len(ready.starts) - 1, "bucket": ready.bucket}
        sample = fitting.sample(self.sample, characters=self.max_characters)
        texts = sample["text"]
        some = pa.array(~blank(texts))
        texts = texts.filter(some)
        if not len(texts):
            raise SelectorError(key="sample", expected="documents with text to fit on", got="none")
        hashes = hash_documents(sample.filter(some), mix(fitting.seed, "preselect"))
        nats, bits = [], []
        for place, model in enumerate(self._readers, 1):
            fitting.progress(
                f"model {place} of {len(self._readers)} reads {len(texts):,} documents"
            )
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
                pairs, minlength=math.comb(len(self._readers), 2) + 1
            ).tolist(),
        }
        return {**facts, **self._train(texts, pairs, hashes, fitting)}

    def finish(self, scores: np.ndarray, texts: Texts) -> np.ndarray:
        if self.prior_words:
            scores = shrink(scores, texts, self.prior_words)
        return np.where(texts.blank, np.float32(np.nan), scores)

    def _train(
        self, texts: pa.ChunkedArray, pairs: np.ndarray, hashes: np.ndarray, fitting: Fitting
    ) -> dict[str, Any]:
        """Train a classifier on the documents of strength 1 against as many of the least."""
        positives, negatives = _sides(pairs, math.comb(len(self._readers), 2), hashes)
        rows = np.sort(np.concatenate([positives, negatives]))
        labels = np.isin(rows, positives)
        # Hashed again: the hash itself has just chosen documents.
        again = hash_ids(pa.array(hashes[rows].astype(str)), mix(fitting.seed, "held out"))
        held_out = _held_out(labels, again)
        chosen = texts.take(pa.array(rows)).to_pylist()
        best, facts = fit_classifier(self, chosen, labels, held_out, fitting)
        self._classifier = _without_end(best.classifier) if self.zero_eos else best.classifier
        unseen = texts.take(pa.array(rows[held_out])).combine_chunks()
        scores = self.finish(self._classifier.score(unseen), Texts(unseen))
        return {
            "positives": len(positives),
            "negatives_up_to": int(pairs[negatives].max()),
            "area_under_curve": round(area_under_curve(scores, labels[held_out]), 4),
            **facts,
        }


def _sides(pairs: np.ndarray, most: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose rows of positives and of as many negatives: (n,) int64 pairs in order to (k,) and
    (k,).

    Negatives climb from strength 0, and are drawn by hash from the last strength they reach.
    Where few documents are left to be negatives, positives are drawn by hash.

    Raises:
        SelectorError: There are too few of either to learn from.
    """
    positives, rest = np.flatnonzero(pairs == most), np.flatnonzero(pairs < most)
    if len(positives) < _LEAST:
        raise SelectorError(
            key="sample",
            expected=f"at least {_LEAST} documents whose losses put all {most} pairs of "
            "models in order",
            got=f"{len(positives)} of {len(pairs):,}",
            fix="use a larger sample or fewer models, and list them from worst to best",
        )
    if len(rest) < _LEAST:
        raise SelectorError(
            key="sample",
            expected=f"at least {_LEAST} documents whose losses do not put all {most} "
            "pairs of models in order",
            got=f"{len(rest)} of {len(pairs):,}: too few documents, or models too far "
            "apart to tell them by",
            fix="use a larger sample, or models (rungs of a ladder) that are nearer to each other",
        )
    count = min(len(positives), len(rest))
    positives = positives[np.argsort(hashes[positives], kind="stable")[:count]]
    return positives, rest[np.lexsort((hashes[rest], pairs[rest]))[:count]]


def _held_out(labels: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Hold out a tenth of each label, by hash: (n,) bool and (n,) uint64 to (n,) bool."""
    held_out = np.zeros(len(labels), bool)
    for label in (False, True):
        rows = np.flatnonzero(labels == label)
        count = math.ceil(HELD_OUT * len(rows))
        held_out[rows[np.argsort(hashes[rows], kind="stable")[:count]]] = True
    return held_out


def _without_end(classifier: CollapsedFastText) -> CollapsedFastText:
    """Set the row of the end-of-line token to zero, where there is one."""
    weights = classifier.weights.copy()
    if classifier.eos_row >= 0:
        weights[classifier.eos_row] = 0
    return replace(classifier, weights=weights)
