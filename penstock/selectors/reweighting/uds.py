"""UDS: train on the part of each batch with the most utility and diversity.

*Utility-Diversity Aware Online Batch Selection for LLM Supervised Fine-tuning*, 2025,
arXiv:2510.16882. A sample's utility is the nuclear norm of its logits; its diversity the mean
distance, after a random projection, to a memory of samples chosen before. Samples of one batch are
not compared.

Logits of T tokens over a vocabulary of V are hidden states times a head, ``H W'``, and neither
number needs them. With ``W = QR``, Q's columns orthonormal, the singular values of ``H W'`` are
those of ``H R'``, T by width; and the projection, linear from both sides, is ``P' H (W' S)``. At a
width of 128 and a vocabulary of 4,096 that is a thirtieth of the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, PrivateAttr

from penstock.hashing import mix
from penstock.selectors.parameters import Algorithm, Natural, Positive, Share, Whole
from penstock.selectors.reweighting.base import BatchRequirements, ScoredBatch, TrainingProgress

if TYPE_CHECKING:
    import torch

__all__ = ["Uds", "nuclear_norm", "transform"]

COORDINATES = 8, 128
"""Dimensions of the projection over time and over the vocabulary, as published."""

FEATURES = 1 + COORDINATES[0] * COORDINATES[1]
"""Features of a sample: the nuclear norm, then the projection."""


class Uds(
    Algorithm,
    name="uds",
    summary="trains on the most useful and diverse part of each batch, by logits",
    paper="Utility-Diversity Aware Online Batch Selection, 2025, arXiv:2510.16882",
    version=1,
):
    """Trains on the samples with the most utility and diversity of each batch, equally on each.

    Made for fine-tuning. The norm grows with a sample's length: packed sequences are equally long.
    """

    share: Share = Field(
        default=0.25,
        description="Of the batch's samples that are trained on, at least one. Published: 0.125 "
        "in its README, 0.25 in its script.",
    )
    alpha: Positive = Field(
        default=0.0025,
        description="The value of a unit of diversity in units of utility. Published: 0.0025, "
        "and 0.0015 in one script.",
    )
    memory: Whole = Field(
        default=1024,
        description="Samples chosen last that others are compared with, as published.",
    )
    seed: Natural = Field(
        default=0,
        description="Of the projection.",
    )

    _chosen: np.ndarray = PrivateAttr(
        default_factory=lambda: np.empty((0, FEATURES - 1), np.float32)
    )

    def identity(self) -> Mapping[str, Any]:
        return self.model_dump()

    @property
    def requirements(self) -> BatchRequirements:
        """Requirements: the nuclear norm and the projection of each sample's logits."""
        return BatchRequirements(describe=self.describe)

    def is_uniform(self, moment: TrainingProgress) -> bool:
        return False

    def describe(self, samples: Sequence[torch.Tensor], head: torch.Tensor | None) -> torch.Tensor:
        """Return nuclear norm, then 8 by 128 projected logits: (samples, 1025) float32."""
        import torch

        length, width = samples[0].shape
        factor = None
        if head is not None:
            head = head.float()
            factor = torch.linalg.qr(head, mode="r").R
            width = head.shape[0]
        over_time = transform(length, COORDINATES[0], mix("uds", "time", self.seed))
        over_words = transform(width, COORDINATES[1], mix("uds", "vocabulary", self.seed))
        left = torch.from_numpy(over_time).to(samples[0].device)
        right = torch.from_numpy(over_words).to(samples[0].device)
        if head is not None:
            right = head.T @ right
        rows = []
        for sample in samples:
            states = sample.float()
            norm = nuclear_norm(states if factor is None else states @ factor.T)
            rows.append(torch.cat([norm[None], (left.T @ states @ right).flatten()]))
        return torch.stack(rows)

    def weights(self, batch: ScoredBatch) -> np.ndarray:
        """Return 1/K for the K samples of greatest ``utility + alpha * diversity``, else 0.

        Of tied samples the first in the batch is taken; the batch is in a random order already.
        """
        assert batch.features is not None
        projected = batch.features[:, 1:]
        scores = batch.features[:, 0] + self.alpha * self._diversity(projected)
        count = max(1, round(self.share * len(scores)))
        taken = np.sort(np.argsort(-scores, kind="stable")[:count])
        self._chosen = np.concatenate([self._chosen, projected[taken]])[-self.memory :]
        weights = np.zeros(len(scores))
        weights[taken] = 1 / count
        return weights

    def facts(self, moment: TrainingProgress) -> Mapping[str, float]:
        return {}

    def state(self) -> Mapping[str, np.ndarray]:
        """Return ``memory``: (up to ``memory``, 1024) float32, the latest last."""
        return {"memory": self._chosen}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self._chosen = np.array(state["memory"], np.float32)

    def _diversity(self, projected: np.ndarray) -> np.ndarray:
        """Compute the mean distance to the memory, (n,) float64; 0 while it is empty."""
        if not len(self._chosen):
            return np.zeros(len(projected))
        here, there = projected.astype(np.float64), self._chosen.astype(np.float64)
        squares = (here**2).sum(1)[:, None] + (there**2).sum(1) - 2 * here @ there.T
        means: np.ndarray = np.sqrt(np.maximum(squares, 0)).mean(1)
        return means


def nuclear_norm(matrix: torch.Tensor) -> torch.Tensor:
    """Compute the sum of the singular values of a (rows, columns) float32 matrix: () float32."""
    import torch

    return torch.linalg.svdvals(matrix).sum()


@lru_cache(maxsize=4)
def transform(size: int, coordinates: int, seed: int) -> np.ndarray:
    """Make a subsampled randomised Fourier transform, as a matrix to multiply with from the right.

    Random signs, the real part of the discrete Fourier transform, some of its coordinates, times
    ``sqrt(size / coordinates)``. The transform is the plain sum, as NumPy and PyTorch have it; with
    a unitary one, diversity would be smaller by the root of ``size``, negligible beside utility.

    Returns:
        (size, coordinates) float32, kept: not to be written to.
    """
    draws = np.random.Philox(key=seed).random_raw(2 * size)
    signs = 1.0 - 2.0 * (draws[:size] >> np.uint64(63)).astype(np.float64)
    picked = np.argsort(draws[size:], kind="stable")[:coordinates]
    # Turns are reduced as integers: at a vocabulary of 128,000 a float would lose five digits.
    turns = (np.arange(size)[:, None] * picked) % size
    waves = np.cos(2 * np.pi / size * turns) * np.sqrt(size / coordinates)
    return (signs[:, None] * waves).astype(np.float32)
