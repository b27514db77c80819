"""Packed sequences, one by one, for tests that put batches together by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.trainers.data.batch import Batch
from penstock.trainers.data.shards import ShardSet


@dataclass(frozen=True)
class PackedSequence:
    """One row of a shard."""

    tokens: np.ndarray
    """(L,) integers."""
    starts: np.ndarray
    """(documents,) int32, rising from 0: where each document's span begins."""


def row_of(shards: ShardSet, index: int) -> PackedSequence:
    """Read one sequence."""
    ids, spans = shards.read(np.array([index]))
    return PackedSequence(ids[0], spans[:-1])


def collate(sequences: Sequence[PackedSequence]) -> Batch:
    """Build a batch of sequences of equal length, all of whose tokens count."""
    ids = np.stack([sequence.tokens for sequence in sequences]).astype(np.int64)
    starts = [sequence.starts + row * ids.shape[1] for row, sequence in enumerate(sequences)]
    return Batch.of(ids, np.concatenate([*starts, [ids.size]]).astype(np.int32))
