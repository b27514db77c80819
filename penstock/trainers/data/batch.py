"""Packed sequences as tensors, such that no document sees another.

Several documents share a sequence, so that no token is padding. They are kept apart three times:
attention is causal within a document only, positions begin again at 0, and a document's first token
has no label. All of it follows from where documents begin, so that is what a batch carries; the
rest is derived on the device where it is used. The dense mask is for models that know no spans: at
4,096 tokens it is 16 MiB a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

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
    spans: torch.Tensor
    """(documents + 1,) int32: where each document begins in the n * L tokens, in order, and the
    end; what flash attention calls cumulative sequence lengths."""
    counted: torch.Tensor
    """(n,) int64: how many tokens of each sequence are trained on, from its beginning."""

    @property
    def positions(self) -> torch.Tensor:
        """(n, L) int64, from 0 in each document."""
        lengths = self.spans.diff()
        first = self.spans[:-1].repeat_interleave(lengths, output_size=self.input_ids.numel())
        place = torch.arange(self.input_ids.numel(), device=self.spans.device)
        return (place - first).view(self.input_ids.shape)

    @property
    def labels(self) -> torch.Tensor:
        """(n, L) int64: the token itself, to be predicted from those before it, or IGNORED."""
        place = torch.arange(self.input_ids.shape[1], device=self.spans.device)
        labels = self.input_ids.masked_fill(place >= self.counted[:, None], IGNORED)
        labels.view(-1)[self.spans[:-1].long()] = IGNORED
        return labels

    @property
    def mask(self) -> torch.Tensor:
        """(n, 1, L, L) bool: whether query i may attend to key j."""
        place = torch.arange(self.input_ids.shape[1], device=self.spans.device)
        first = place - self.positions
        return ((place >= first[:, :, None]) & (place <= place[:, None]))[:, None]

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in fields(self)
        }
        return Batch(**moved)


def collate(sequences: Sequence[PackedSequence]) -> Batch:
    """Sequences of equal length, all of whose tokens count."""
    ids = np.stack([sequence.tokens for sequence in sequences]).astype(np.int64)
    length = ids.shape[1]
    starts = [sequence.starts + row * length for row, sequence in enumerate(sequences)]
    spans = np.concatenate([*starts, [ids.size]]).astype(np.int32)
    return Batch(
        input_ids=torch.from_numpy(ids),
        spans=torch.from_numpy(spans),
        counted=torch.full((len(ids),), length),
    )
