"""Perplexity bands: documents of low, ordinary or high perplexity under a small language model.

Ankner et al. 2024, *Perplexed by Perplexity: Perplexity-Based Data Pruning With Small Reference
Models*. A reference model of 125 million parameters, trained on a random part of the corpus, reads
each document; a share of the documents is kept from the low, the middle or the high end of their
perplexities. Which end is best depends on the corpus: high for the Pile, middle for Dolma.

Trade-off: a model reads every token of the pool, at a thousand times the cost of a fastText
classifier. Perplexity measures how unusual a text is, not how good: both ends collect useless text
(repetition at the low end, other languages and tables at the high end), so clean first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr

from penstock.resources import Resources
from penstock.selectors.algorithm import BuiltInScorer
from penstock.selectors.bands import Band, BandName
from penstock.selectors.base import Documents, Fitting, Requirements
from penstock.selectors.classifiers.classifier import blank
from penstock.selectors.losses import STRIDE, WINDOW, CausalModel, read_losses
from penstock.selectors.parameters import ModelName, Whole

__all__ = ["Perplexity"]


class Perplexity(
    BuiltInScorer,
    name="perplexity",
    summary="documents a small language model finds easy, ordinary or hard",
    meaning="log perplexity, minus it, or minus its distance from the median, as `band` says",
    paper="Ankner et al. 2024, Perplexed by Perplexity",
    version=1,
):
    """Scores documents so that a budget of any size takes a band of perplexity.

    :mod:`penstock.selectors.bands` explains how a band becomes a score.
    """

    model: ModelName = Field(
        description="The reference model: a directory with ``config.json``, ``tokenizer.json`` "
        "and safetensors, or a hub name. Published: 125M parameters, 26B tokens of the corpus.",
    )
    band: BandName = Field(
        default="middle",
        description="``low``, ``middle`` or ``high``.",
    )
    max_characters: Whole = Field(
        default=2048,
        description="Characters of a document that are read. Published: all of it. A forward "
        "pass costs time for every token that is read, and the beginning shows which kind of "
        "text it is.",
    )
    sample: Whole = Field(
        default=10_000,
        description="Documents whose quantiles define the middle, about.",
    )
    window: Whole = Field(
        default=WINDOW,
        description="Tokens that the model sees at once; see "
        ":class:`~penstock.selectors.losses.CausalModel`.",
    )
    stride: Whole = Field(
        default=STRIDE,
        description="Tokens between two windows; see "
        ":class:`~penstock.selectors.losses.CausalModel`.",
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="``cpu`` or ``cuda``; scores differ in their last bits.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="``float32`` or ``bfloat16``.",
    )

    _model: CausalModel = PrivateAttr()
    _band: Band = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        self._model = CausalModel(
            self.model,
            window=self.window,
            stride=self.stride,
            device=self.device,
            dtype=self.dtype,
        )
        self._band = Band(self.band, self.name)

    @property
    def requirements(self) -> Requirements:
        return Requirements(resources=Resources(gpus=int(self.device == "cuda"), slow=True))

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Read a sample for the quantiles of its perplexities, where the band needs them.

        Raises:
            SelectorError: The sample has no text.
        """
        if not self._band.wants_sample:
            return {"band": self.band}
        sample = fitting.sample(self.sample)
        texts = sample["text"].filter(pa.array(~blank(sample["text"])))
        fitting.progress(f"reading {len(texts):,} documents with {self.model}")
        losses = read_losses(self._cut(texts), self._model, fitting.spread)
        read = losses.nats_per_token[losses.tokens > 0]
        perplexities = self._band.place(read)
        return {"band": self.band, "sample": len(read), "perplexity": perplexities}

    def score(self, documents: Documents) -> np.ndarray:
        """Return the scores, (n,) float32; NaN for a blank document."""
        texts = documents.column("text")
        nats = self._model.losses(self._cut(texts)).nats_per_token
        nats[blank(texts)] = np.nan
        return self._band.scores(nats)

    def save(self, directory: Path) -> None:
        """Write the quantiles, if there are any; the model is not copied."""
        self._band.save(directory)

    def load(self, directory: Path) -> None:
        self._band.load(directory)

    def _cut(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.utf8_slice_codeunits(texts, 0, self.max_characters)
