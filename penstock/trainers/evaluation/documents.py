"""What each document cost the model that was trained on it, through packing.

One pass over the shards: the very sequences that were trained on, documents kept apart as there,
so a document that lies in several sequences is read span by span, each without the ones before it.
A document's nats are the sum over the predicted tokens of all of its spans. A pass costs about a
third of training on the same tokens.

The documents of a shard set follow each other in its stream and so do their spans, which makes one
pass in order enough: held at a time are the sums of :data:`CHUNK_TOKENS` tokens, whatever the
corpus. Micro-batches are dealt to ranks, and are the same for any number of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from penstock.trainers.data.batch import collate
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group
from penstock.trainers.modelling.model import LanguageModel

__all__ = ["FILE", "SCHEMA", "write_document_losses"]

FILE = "document_losses.parquet"

SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("nats", pa.float64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("loss", pa.float32(), nullable=False),
    ]
)
"""Rows in the order of the shards. ``tokens`` counts predicted ones: all but the first of each
span; ``loss`` is nats over tokens, NaN for a document of which none is predicted."""

CHUNK_TOKENS = 2**20
"""Tokens between two sums over ranks."""


@dataclass(frozen=True, slots=True)
class _Spans:
    """Sums of some documents, or of parts of them, in order."""

    ids: pa.StringArray
    begins: np.ndarray
    """(n,) bool: whether a document begins here, or the one before goes on."""
    nats: np.ndarray
    """(n,) float64."""
    tokens: np.ndarray
    """(n,) int64."""


def write_document_losses(
    model: LanguageModel,
    shards: ShardSet,
    path: Path,
    *,
    micro_batch: int,
    group: Group,
) -> None:
    """Read all sequences once and write a row for each document; all workers call this together.

    Args:
        model: In evaluation mode, on the group's device.
        shards: What it was trained on.
        path: The Parquet file, as :data:`SCHEMA`; rank 0 writes it.
        micro_batch: Sequences that go through the model at once.
        group: The workers.
    """
    reader = _Reader(model, shards, micro_batch, group)
    chunks = reader.chunks()
    if group.rank:
        for _ in chunks:
            pass
        return
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for whole in _joined(chunks):
            writer.write_table(_table(whole))


@dataclass(frozen=True, slots=True)
class _Reader:
    model: LanguageModel
    shards: ShardSet
    micro_batch: int
    group: Group

    def chunks(self) -> Iterator[_Spans]:
        """All spans in order, the same on every rank."""
        size = max(1, CHUNK_TOKENS // self.shards.sequence_length)
        for first in range(0, len(self.shards), size):
            last = min(first + size, len(self.shards))
            spans = self.shards.documents(first, last)
            nats, tokens = self._sums(first, last, spans.counts)
            yield _Spans(spans.ids, spans.offsets == 0, nats, tokens)

    def _sums(self, first: int, last: int, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nats and predicted tokens of the spans of these sequences, ``counts`` of each."""
        ends = np.concatenate([[0], np.cumsum(counts)])
        sums = np.zeros((2, ends[-1]))
        blocks = range(first, last, self.micro_batch)
        for start in blocks[self.group.rank :: self.group.workers]:
            stop = min(start + self.micro_batch, last)
            place = slice(ends[start - first], ends[stop - first])
            sums[:, place] = self._read(start, stop)
        nats, tokens = self.group.all_sum(torch.from_numpy(sums)).cpu().numpy()
        return nats, tokens.astype(np.int64)

    @torch.inference_mode()
    def _read(self, start: int, stop: int) -> np.ndarray:
        """Of each span in these sequences its nats and predicted tokens: (2, spans) float64."""
        batch = collate([self.shards[index] for index in range(start, stop)])
        predicted = np.diff(batch.spans.numpy()) - 1
        tokens = self.model.label_nats(batch.to(self.group.device)).double().cpu().numpy()
        # bincount adds in the order of the tokens.
        owners = np.repeat(np.arange(len(predicted)), predicted)
        return np.stack([np.bincount(owners, tokens, minlength=len(predicted)), predicted])


def _joined(chunks: Iterator[_Spans]) -> Iterator[_Spans]:
    """The same spans, so that no document goes on from one piece to the next."""
    left: _Spans | None = None
    for chunk in chunks:
        spans = chunk if left is None else _after(left, chunk)
        begins = np.flatnonzero(spans.begins)
        cut = int(begins[-1]) if len(begins) else 0
        if cut:
            yield _part(spans, 0, cut)
        left = _sum(_part(spans, cut, len(spans.nats)))
    if left is not None:
        yield left


def _after(left: _Spans, right: _Spans) -> _Spans:
    return _Spans(
        pa.concat_arrays([left.ids, right.ids]),
        *(
            np.concatenate([getattr(left, name), getattr(right, name)])
            for name in ("begins", "nats", "tokens")
        ),
    )


def _part(spans: _Spans, first: int, last: int) -> _Spans:
    rows = slice(first, last)
    return _Spans(spans.ids[rows], spans.begins[rows], spans.nats[rows], spans.tokens[rows])


def _sum(spans: _Spans) -> _Spans:
    """Spans, of which the first begins a document, as one span for each document."""
    begins = spans.begins.copy()
    begins[:1] = True
    owners = np.cumsum(begins) - 1
    return _Spans(
        spans.ids.filter(pa.array(begins)),
        begins[begins],
        np.bincount(owners, spans.nats),
        np.bincount(owners, spans.tokens).astype(np.int64),
    )


def _table(spans: _Spans) -> pa.Table:
    documents = _sum(spans)
    with np.errstate(invalid="ignore"):
        losses = (documents.nats / documents.tokens).astype(np.float32)
    return pa.table([documents.ids, documents.nats, documents.tokens, losses], schema=SCHEMA)
