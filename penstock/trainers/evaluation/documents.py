"""Losses of documents: the nats of every document of the shards under a trained model.

The sequences that were trained on are read once, with documents kept apart as in training. So a
document in several sequences is read span by span, each without the spans before it; its nats are
the sum over the predicted tokens of all its spans. A pass costs about a third of training on the
same tokens.

Documents are stored in the shards one after another, and so are their spans. So one pass in order
is enough, and memory holds the sums of :data:`CHUNK_TOKENS` tokens, whatever the corpus. Ranks take
turns with micro-batches, which are the same for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from penstock.storage import atomic_file
from penstock.trainers.data.batch import Batch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group
from penstock.trainers.modelling.model import LanguageModel

__all__ = ["SCHEMA", "write_document_losses"]

SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("nats", pa.float64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("loss", pa.float32(), nullable=False),
    ]
)
"""One row a document, in the order of the shards. ``tokens`` counts predicted tokens, all but
the first of each span; ``loss`` is nats over tokens, NaN if no token is predicted."""

CHUNK_TOKENS = 2**20
"""Tokens between two all-reduces."""


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
        model: Model in evaluation mode, on the group's device.
        shards: Training data of the model.
        path: The Parquet file, as :data:`SCHEMA`; rank 0 writes it.
        micro_batch: Sequences in a forward pass.
        group: The workers.
    """
    chunks = _chunks(model, shards, micro_batch, group)
    if group.rank:
        for _ in chunks:
            pass
        return
    with atomic_file(path) as sink, pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
        for documents in _whole_documents(chunks):
            nats, tokens = (documents[name].to_numpy() for name in ("nats", "tokens"))
            with np.errstate(invalid="ignore"):
                losses = (nats / tokens).astype(np.float32)
            columns = [documents["doc_id"], nats, tokens, losses]
            writer.write_table(pa.table(columns, schema=SCHEMA))


def _chunks(
    model: LanguageModel, shards: ShardSet, micro_batch: int, group: Group
) -> Iterator[pa.Table]:
    """Read all spans in order, the same on every rank.

    Returns:
        Tables of ``doc_id``, ``begins`` (bool: the span begins its document), ``nats`` (float64)
        and ``tokens`` (int64), a row for each span.
    """
    size = max(1, CHUNK_TOKENS // shards.sequence_length)
    for first in range(0, len(shards), size):
        last = min(first + size, len(shards))
        spans = shards.documents(first, last)
        ends = np.concatenate([[0], np.cumsum(spans.counts)])
        sums = np.zeros((2, ends[-1]))
        for start in range(first, last, micro_batch)[group.rank :: group.workers]:
            stop = min(start + micro_batch, last)
            part = slice(ends[start - first], ends[stop - first])
            sums[:, part] = _span_sums(model, shards, start, stop, group.device)
        nats, tokens = group.all_sum(torch.from_numpy(sums)).cpu().numpy()
        yield _table(spans.ids, spans.offsets == 0, nats, tokens.astype(np.int64))


@torch.inference_mode()
def _span_sums(
    model: LanguageModel, shards: ShardSet, start: int, stop: int, device: torch.device
) -> np.ndarray:
    """Compute nats and predicted tokens of each span in these sequences: (2, spans) float64."""
    batch = Batch.of(*shards.read(np.arange(start, stop)))
    predicted = np.diff(batch.spans.numpy()) - 1
    tokens = model.label_nats(batch.to(device)).double().cpu().numpy()
    # bincount adds in the order of the tokens.
    owners = np.repeat(np.arange(len(predicted)), predicted)
    return np.stack([np.bincount(owners, tokens, minlength=len(predicted)), predicted])


def _whole_documents(chunks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Sum spans to documents; the last document of a chunk waits for the next chunk."""
    left: pa.Table | None = None
    for chunk in chunks:
        spans = chunk if left is None else pa.concat_tables([left, chunk])
        begins = np.flatnonzero(spans["begins"].to_numpy())
        cut = int(begins[-1]) if len(begins) else 0
        if cut:
            yield _documents(spans.slice(0, cut))
        left = _documents(spans.slice(cut))
    if left is not None:
        yield left


def _documents(spans: pa.Table) -> pa.Table:
    """Sum spans, of which the first counts as the beginning of a document."""
    begins = spans["begins"].to_numpy().copy()
    begins[:1] = True
    owners = np.cumsum(begins) - 1
    return _table(
        spans["doc_id"].filter(pa.array(begins)).combine_chunks(),
        begins[begins],
        np.bincount(owners, spans["nats"].to_numpy()),
        np.bincount(owners, spans["tokens"].to_numpy()).astype(np.int64),
    )


def _table(ids: pa.Array, begins: np.ndarray, nats: np.ndarray, tokens: np.ndarray) -> pa.Table:
    return pa.table({"doc_id": ids, "begins": begins, "nats": nats, "tokens": tokens})
