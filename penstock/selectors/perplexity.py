"""Perplexity bands: documents that a small language model finds easy, ordinary or hard.

Ankner et al. 2024, *Perplexed by Perplexity: Perplexity-Based Data Pruning With Small Reference
Models*. A reference model of 125 million parameters, trained on a random part of the corpus, reads
each document; a share of the documents is kept from the low, the middle or the high end of their
perplexities. Which end is best depends on the corpus: high for the Pile, middle for Dolma.

What is traded away: whoever reads with a model pays for every token of the pool, a thousand times
what a fastText classifier costs. And perplexity says what is unusual, not what is good: both ends
collect what no one wants (repetition at the low end, other languages and tables at the high end),
so clean first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.resources import Resources
from penstock.selectors.bands import Band
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.classifiers.classifier import blank
from penstock.selectors.encoders.encoders import contents_of
from penstock.selectors.losses import STRIDE, WINDOW, CausalModel, read_losses
from penstock.selectors.parameters import whole

__all__ = ["Perplexity"]


class Perplexity:
    """Scores documents so that a budget of any size takes a band of perplexity.

    How a band becomes a score is told in :mod:`penstock.selectors.bands`.

    Args:
        model: The reference model: a directory with ``config.json``, ``tokenizer.json`` and
            safetensors, or a hub name. Published: 125M parameters, 26B tokens of the corpus.
        band: ``low``, ``middle`` or ``high``.
        max_characters: What is read of a document. Published: all of it. A
            forward pass is paid for every token that is read, and the beginning says what kind of
            text it is.
        sample: Documents whose quantiles place the middle, about.
        window, stride: Tokens seen at once, and moved on by; see
            :class:`~penstock.selectors.losses.CausalModel`.
        device: ``cpu`` or ``cuda``; scores differ in their last bits.
        dtype: ``float32`` or ``bfloat16``.
    """

    summary: ClassVar[str] = "documents a small language model finds easy, ordinary or hard"
    paper: ClassVar[str] = "Ankner et al. 2024, Perplexed by Perplexity"
    version: ClassVar[int] = 1
    paths: ClassVar[tuple[str, ...]] = ("model",)

    def __init__(
        self,
        *,
        model: str,
        band: str = "middle",
        max_characters: int = 2048,
        sample: int = 10_000,
        window: int = WINDOW,
        stride: int = STRIDE,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.model = CausalModel(model, window=window, stride=stride, device=device, dtype=dtype)
        self.band = Band(band, "perplexity")
        self.max_characters = whole("max_characters", max_characters)
        self.sample = whole("sample", sample)
        self.needs = Resources(gpus=1 if device == "cuda" else 0)

    def identity(self) -> Mapping[str, Any]:
        """The model's files by sha256, how it reads, and the band."""
        return {
            "model": contents_of(self.model.name),
            "reading": self.model.settings,
            "band": self.band.name,
            "max_characters": self.max_characters,
            "sample": self.sample,
        }

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Read a sample for the quantiles of its perplexities, where the band needs them.

        Raises:
            SelectorError: The sample has no text.
        """
        if not self.band.wants_sample:
            return {"band": self.band.name}
        sample = fitting.sample(self.sample)
        texts = sample["text"].filter(pa.array(~blank(sample["text"])))
        fitting.progress(f"reading {len(texts):,} documents with {self.model.name}")
        losses = read_losses(self._cut(texts), self.model, fitting.spread)
        read = losses.nats_per_token[losses.tokens > 0]
        perplexities = self.band.place(read)
        return {"band": self.band.name, "sample": len(read), "perplexity": perplexities}

    def score(self, documents: Documents) -> np.ndarray:
        """(n,) float32; NaN for a blank document."""
        texts = documents.column("text")
        nats = self.model.losses(self._cut(texts)).nats_per_token
        nats[blank(texts)] = np.nan
        return self.band.scores(nats)

    def save(self, directory: Path) -> None:
        """Write the quantiles, if there are any; the model is not ours to copy."""
        self.band.save(directory)

    def load(self, directory: Path) -> None:
        """Read back what :meth:`save` wrote."""
        self.band.load(directory)

    def _cut(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pc.utf8_slice_codeunits(texts, 0, self.max_characters)
