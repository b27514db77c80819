"""Batches: packed sequences as tensors, without attention between documents.

Several documents share a sequence, so that no token is padding. Three things keep them apart:
attention is causal within a document only, positions restart at 0 in each document, and the first
token of a document has no label. All three follow from where documents begin. So a batch carries
only that, and the rest is derived on the device that uses it. The dense mask is for models that
cannot attend by spans: at 4,096 tokens it takes 16 MiB a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from penstock.language_models.windows import IGNORED

__all__ = ["IGNORED", "Batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """``n`` sequences of ``L`` tokens."""

    input_ids: torch.Tensor
    """(n, L) int64."""
    spans: torch.Tensor
    """(documents + 1,) int32: where each document begins in the n * L tokens, in order, and the
    end; the cumulative sequence lengths of flash attention."""
    counted: torch.Tensor
    """(n,) int64: how many tokens of each sequence are trained on, from its beginning."""

    @classmethod
    def of(cls, ids: np.ndarray, spans: np.ndarray, counted: np.ndarray | None = None) -> Batch:
        """Build a batch of what :meth:`~.shards.ShardSet.read` returns; by default all counts."""
        if counted is None:
            counted = np.full(len(ids), ids.shape[1])
        return cls(
            input_ids=torch.from_numpy(ids),
            spans=torch.from_numpy(spans),
            counted=torch.from_numpy(counted),
        )

    @property
    def positions(self) -> torch.Tensor:
        """(n, L) int64: positions, from 0 in each document."""
        lengths = self.spans.diff()
        first = self.spans[:-1].repeat_interleave(lengths, output_size=self.input_ids.numel())
        index = torch.arange(self.input_ids.numel(), device=self.spans.device)
        return (index - first).view(self.input_ids.shape)

    @property
    def labels(self) -> torch.Tensor:
        """(n, L) int64: each token itself, to be predicted from those before it, or IGNORED."""
        index = torch.arange(self.input_ids.shape[1], device=self.spans.device)
        labels = self.input_ids.masked_fill(index >= self.counted[:, None], IGNORED)
        labels.view(-1)[self.spans[:-1].long()] = IGNORED
        return labels

    @property
    def mask(self) -> torch.Tensor:
        """(n, 1, L, L) bool: whether query i may attend to key j."""
        index = torch.arange(self.input_ids.shape[1], device=self.spans.device)
        first = index - self.positions
        return ((index >= first[:, :, None]) & (index <= index[:, None]))[:, None]

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to ``device``."""
        return Batch(
            input_ids=self.input_ids.to(device, non_blocking=True),
            spans=self.spans.to(device, non_blocking=True),
            counted=self.counted.to(device, non_blocking=True),
        )
