"""Packed sequences as tensors, such that no document sees another.

Several documents share a sequence, so that no token is padding. They are kept apart three times:
the mask is causal within a document only, positions begin again at 0, and a document's first token
has no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from penstock.trainers.data.shards import PackedSequence

__all__ = ["IGNORED", "Batch", "collate"]

IGNORED = -100
"""The label of a token that is not predicted; what PyTorch and transformers call ignore_index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """``n`` sequences of ``L`` tokens."""

    input_ids: torch.Tensor
    """(n, L) int64."""
    labels: torch.Tensor
    """(n, L) int64: the token itself, to be predicted from those before it, or IGNORED."""
    positions: torch.Tensor
    """(n, L) int64, from 0 in each document."""
    mask: torch.Tensor
    """(n, 1, L, L) bool: whether query i may attend to key j."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        return Batch(
            input_ids=self.input_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
        )


def collate(sequences: Sequence[PackedSequence]) -> Batch:
    """Stack sequences of equal length; the cast to int64 is the only copy of the tokens."""
    shape = len(sequences), len(sequences[0].tokens)
    ids = np.empty(shape, np.int64)
    first = np.zeros(shape, np.int64)
    for row, sequence in enumerate(sequences):
        ids[row] = sequence.tokens
        first[row, sequence.starts] = sequence.starts
    first = np.maximum.accumulate(first, axis=1)
    place = np.arange(shape[1])
    positions = torch.from_numpy(place - first)
    input_ids = torch.from_numpy(ids)
    start = torch.from_numpy(first)
    seen = torch.from_numpy(place) >= start[:, :, None]
    return Batch(
        input_ids=input_ids,
        labels=input_ids.masked_fill(positions == 0, IGNORED),
        positions=positions,
        mask=seen.tril_()[:, None],
    )
