"""PreSelect: documents on which better language models do better, as a fastText classifier.

Shum et al. 2025, *Predictive Data Selection: The Data That Predicts Is the Data That Teaches*.
Models of known order read a sample; a document's *predictive strength* is the share of pairs of
models that its losses put in that order::

    S(d) = 1/Z * sum over i < j of 1[C_i > C_j],    Z = N (N - 1) / 2

where C_i is the loss of d under model i, and models go from worst to best. A fastText classifier
is trained on documents of strength 1 against as many of the least, and scores the pool in one
cheap pass.

Two things decide a pair of models that say nothing about a document's worth. A long document
averages more tokens, so all pairs are more often in order; and the models gain most on what most of
their training text was. So the models read passages of one length, equally many of each source,
and each source has as many positives as negatives; and a ladder is trained on equally many bytes of
each source (measured: docs/lab.md).

Trade-off: the models read a sample only, of long documents, and the classifier uses words where the
models read documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, Field, PrivateAttr

from penstock.errors import SelectorError
from penstock.hashing import hash_documents, hash_ids, mix
from penstock.selectors.algorithm import CentredScorer, draw_pool
from penstock.selectors.base import (
    Fitting,
    ModelLadder,
    Requirements,
)
from penstock.selectors.classifiers.classifier import (
    blank,
    fit_classifier,
    hold_out,
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
from penstock.selectors.predictive_strength import choose_sides, pairs_in_order

__all__ = ["LadderParameters", "PreSelect"]

_READ = 0.75
"""Share of each source that a ladder's models may read; they are trained on the rest."""

_MUCH = 0.4
"""Share of passages of strength 1 from which on the models are too far apart. Published: 0.22. On
the way from 0.2 to 0.8 the share by source spreads, and the least strength of the negatives rises
to all pairs but one, which near ties decide."""

_LITTLE = 0.15
"""Share of passages of strength 1 below which pairs that are hardly in order decide."""


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

    Published: six models of one family, from 7 to 65 billion parameters, whose losses hardly
    differ: they put all pairs in order on 22 % of 900,000 documents. So here, too, they are of one
    family, a single shape, and near to each other: 15 to 30 % of the passages should put all pairs
    in order. The fit tells the share.
    """

    shapes: OneOrMore[ModelShape] = Field(
        default=((2, 128, 4),),
        description="(layers, width, heads) of each size. One size with several budgets: with "
        "three sizes 76 % of the documents put all pairs in order.",
    )
    tokens: OneOrMore[Whole] = Field(
        default=(680_000, 735_000, 795_000, 860_000, 925_000, 1_000_000),
        description="Training budgets of each size, each 1.08 times the one before. All models "
        "begin with the same weights and read the same sequences in the same order. With six "
        "such models 1.05 times apart 4 % of the passages put all pairs in order, 1.08 apart 7 to "
        "30 %, 1.12 apart 62 %.",
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
    CentredScorer,
    name="preselect",
    summary="documents whose losses rank language models as benchmarks do",
    meaning="probability that a classifier finds it among texts on which better models do better",
    paper="Shum et al. 2025, Predictive Data Selection (PreSelect)",
    version=2,
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
        description="Instead, small models that Penstock trains on a quarter of the pool's "
        "documents, which are not in the sample, and on as many bytes of each source; ordered by "
        "their bits per byte on the ``target`` files: ``true``, or a mapping with "
        ":class:`LadderParameters`'s keys.",
    )
    model: File | None = Field(
        default=None,
        description="Instead, a ready fastText ``.bin`` of this kind, such as the published "
        "one, relative to the recipe. Nothing is trained, and of the other parameters only "
        "``zero_eos`` and ``prior_words`` count.",
    )
    sample: Whole = Field(
        default=20_000,
        description="Documents that the models read, about, equally many of each source, as far "
        "as it has them. Published: 900,000, 300 of each of 3,000 domains.",
    )
    max_characters: Whole = Field(
        default=1024,
        description="Characters of each passage that is read and trained on: the beginning of a "
        "document that has as many. Shorter documents are not in the sample, since longer ones "
        "put more pairs in order: of Reddit's longest fifth 87 %, and of its shortest 58 %. "
        "Published: whole documents of any length.",
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
        description="The classifier's learning rates; the grid with ``epoch`` is chosen from by "
        "the area under the curve on a held-out tenth. Published: 0.1, and 5 epochs (paper) or 3 "
        "(repository).",
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
        default=50,
        description="The distance of a document's log odds from the pool's mean is shrunk by n "
        "/ (n + ``prior_words``), n distinct words "
        "(:func:`~penstock.selectors.classifiers.classifier.shrunk_log_odds`). Published: 0, not "
        "at all, which puts documents of few words first and last.",
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
            share=_READ,
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
        # A ladder's models are trained on a part of the pool, and read the other.
        return {**own, "ladder": self.ladder is not None, "models": models}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Read a sample with the models, and train a classifier on how they rank its documents.

        Returns:
            Facts: the sample; each model's bits per character on it; passages by how many pairs of
            models they put in order, and the share that puts all in order, by source; the training
            set, the area under the curve, and what was chosen.

        Raises:
            SelectorError: There are too few documents of either kind, or the classifier does not
                separate them.
        """
        self._classifier = None
        if self.model is not None:
            ready = CollapsedFastText.from_file(self.model, "__label__1", zero_eos=self.zero_eos)
            self._classifier = ready
            self._centre_on_pool(fitting)
            return {"words": len(ready.starts) - 1, "bucket": ready.bucket}
        sample = fitting.sample(
            self.sample,
            characters=self.max_characters,
            shortest=self.max_characters,
            balanced=True,
            most=1.0 if self.ladder is None else _READ,
        )
        sample = sample.filter(pa.array(~blank(sample["text"])))
        texts = sample["text"]
        if not len(texts):
            raise SelectorError(
                key="sample",
                expected=f"documents of at least {self.max_characters:,} characters to fit on",
                got="none",
                fix="make `max_characters` smaller",
            )
        nats, bits = [], []
        for place, model in enumerate(self._readers, 1):
            fitting.progress(f"model {place} of {len(self._readers)} reads {len(texts):,} passages")
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
        return {**facts, **self._train(sample, pairs, fitting)}

    def _centre_on_pool(self, fitting: Fitting) -> None:
        if self.prior_words:
            self.centre_on(draw_pool(fitting))

    def _train(self, sample: pa.Table, pairs: np.ndarray, fitting: Fitting) -> dict[str, Any]:
        """Train a classifier on the passages of strength 1 against as many of the least."""
        most = math.comb(len(self._readers), 2)
        hashes = hash_documents(sample, mix(fitting.seed, "preselect"))
        groups = sample["source"].combine_chunks().dictionary_encode()
        strongest = {
            name: round(float((pairs[groups.indices.to_numpy() == code] == most).mean()), 4)
            for code, name in enumerate(groups.dictionary.to_pylist())
        }
        share = float((pairs == most).mean())
        fitting.progress(_strengths(share, strongest))
        positives, negatives = choose_sides(pairs, most, groups.indices.to_numpy(), hashes)
        climbed = int(pairs[negatives].max())
        if share > _MUCH or climbed >= most - 3:
            far = share >= _LITTLE
            fitting.progress(
                f"warning: {'the' if far else 'some'} models are too "
                f"{'far apart' if far else 'near to each other'}: {share:.0%} of the passages put "
                "all pairs of them in order (15 to 30 % are good; published: 22 %), and there are "
                f"negatives with {climbed} of {most} pairs in order; use models, or budgets of the "
                f"ladder, that are {'nearer to' if far else 'further from'} each other"
            )
        rows = np.sort(np.concatenate([positives, negatives]))
        labels = np.isin(rows, positives)
        # Hashed again: the hash itself has just chosen documents.
        again = hash_ids(pa.array(hashes[rows].astype(str)), mix(fitting.seed, "held out"))
        held_out = hold_out(labels, again)
        chosen = sample["text"].take(pa.array(rows)).to_pylist()
        best, facts = fit_classifier(
            self, chosen, labels, held_out, fitting, by="auc", zero_eos=self.zero_eos
        )
        self._classifier = best.classifier
        self._centre_on_pool(fitting)
        return {
            "strength_one": round(share, 4),
            "strength_one_by_source": strongest,
            "positives": len(positives),
            "negatives_up_to": climbed,
            "centre": round(self._centre, 4),
            **facts,
        }


def _strengths(share: float, by_source: Mapping[str, float]) -> str:
    """Word the share of passages of strength 1, and that of the sources at either end."""
    ends = sorted(by_source.items(), key=lambda one: (-one[1], one[0]))
    told = ends if len(ends) <= 8 else [*ends[:4], *ends[-4:]]
    return f"{share:.0%} of the passages have strength 1: " + ", ".join(
        f"{name} {own:.0%}" for name, own in told
    )
