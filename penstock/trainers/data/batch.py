"""Batches: packed sequences as tensors, without attention between documents.

Several documents share a sequence, so that no token is padding. Three things keep them apart:
attention is causal within a document only, positions restart at 0 in each document, and the first
token of a document has no label. All three follow from where documents begin. So a batch carries
that and the places of its labels, and the rest is derived on the device that uses it. The places
are found on the CPU, by the loader: a GPU that picks labels out by a mask first waits until their
number is known, and the CPU with it. The dense mask is for models that
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
    labelled: torch.Tensor
    """(labels,) int64: the places, in the n * L tokens, of those that are to be predicted from the
    tokens before them, in order."""

    @classmethod
    def of(cls, ids: np.ndarray, spans: np.ndarray, counted: np.ndarray | None = None) -> Batch:
        """Build a batch of what :meth:`~.shards.ShardSet.read` returns.

        Args:
            ids: (n, L) int64.
            spans: (documents + 1,) int32, as :attr:`spans`.
            counted: (n,) integers: how many tokens of each sequence are trained on, from its
                beginning; by default all.
        """
        wanted = np.ones(ids.shape, bool)
        if counted is not None:
            wanted = np.arange(ids.shape[1]) < np.asarray(counted)[:, None]
        wanted.reshape(-1)[spans[:-1]] = False
        return cls(
            input_ids=torch.from_numpy(ids),
            spans=torch.from_numpy(spans),
            labelled=torch.from_numpy(np.flatnonzero(wanted)),
        )

    @property
    def targets(self) -> torch.Tensor:
        """(labels,) int64: the tokens to be predicted."""
        return self.input_ids.flatten().index_select(0, self.labelled)

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
        labels = torch.full_like(self.input_ids, IGNORED)
        labels.view(-1).index_copy_(0, self.labelled, self.targets)
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
            labelled=self.labelled.to(device, non_blocking=True),
        )

    def pinned(self) -> Batch:
        """Copy the batch to memory from which a GPU copies while the CPU goes on."""
        return Batch(
            input_ids=self.input_ids.pin_memory(),
            spans=self.spans.pin_memory(),
            labelled=self.labelled.pin_memory(),
        )
