"""Loader: each rank's part of a global batch as tensors, read ahead of the step that uses it.

Reading a sequence compares its checksum and casts its tokens from the mapped file into the batch,
the only copy. One thread reads ahead of the trainer; the metrics hold the seconds that the trainer
waited.
"""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.trainers.data.batch import Batch
from penstock.trainers.data.plan import BatchPlan, GlobalBatch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group

__all__ = ["LoadedStep", "Loader", "split_micro_batches"]

HANDED_OVER = 4
"""Micro-batches that the thread passes on at a time, because waking a thread costs as much as
reading one (docs/lab.md). At most twice as many are in memory."""


def split_micro_batches(count: int, group: Group, micro_batch: int) -> list[np.ndarray]:
    """Split the indices 0 to ``count`` of a global batch: the micro-batches of one rank.

    Every rank gets equally many micro-batches, since each is a collective operation; their sizes
    differ by at most one and may be 0.
    """
    pieces = max(1, -(-count // (group.workers * micro_batch)))
    mine = np.arange(group.rank, count, group.workers)
    ends = [-(-len(mine) * piece // pieces) for piece in range(pieces + 1)]
    return [mine[begin:end] for begin, end in itertools.pairwise(ends)]


@dataclass(frozen=True, kw_only=True)
class LoadedStep:
    """One rank's part of a step."""

    batch: GlobalBatch
    predicted: int
    """Number of labels in the whole global batch."""
    digest: str
    """Digest of the global batch's token ids, in order: 16 hexadecimal digits."""
    pieces: list[np.ndarray]
    """Indices of this rank into the global batch, for each micro-batch."""
    micro_batches: Iterator[Batch]
    """This rank's micro-batches, in the order of ``pieces``: read once, before the next step."""


class Loader:
    """Reads a plan's steps for one rank.

    Args:
        shards: Shards that sequences are read from.
        plan: The global batches.
        group: The workers.
        micro_batch: Sequences in a forward pass.
    """

    def __init__(self, shards: ShardSet, plan: BatchPlan, group: Group, micro_batch: int) -> None:
        self.shards = shards
        self.plan = plan
        self.group = group
        self.micro_batch = micro_batch
        self.waited = 0.0
        """Seconds that the trainer has waited for batches."""

    def steps(self, start: int = 0) -> Iterator[LoadedStep]:
        """Read every step from ``start`` on.

        Raises:
            ArtefactError: A sequence does not match its checksum.
        """
        with closing(self._ahead(self._read(start))) as made:
            for facts in made:
                taken = itertools.islice(made, len(facts["pieces"]))
                yield LoadedStep(**facts, micro_batches=taken)
                for _ in taken:  # micro-batches that the trainer did not read
                    pass

    def collate(self, batch: GlobalBatch, places: np.ndarray) -> Batch:
        """Read sequences of a global batch as tensors.

        Args:
            batch: The global batch.
            places: (n,) integers below ``len(batch)``; if empty, the batch holds one sequence of
                which no token counts.

        Raises:
            ArtefactError: A sequence does not match its checksum.
        """
        chosen = places if len(places) else np.zeros(1, np.int64)
        ids, spans = self.shards.read(batch.sequences[chosen])
        counted = batch.counted[chosen] if len(places) else np.zeros(1, np.int64)
        made = Batch.of(ids, spans, counted)
        return made.pinned() if self.group.device.type == "cuda" else made

    def _read(self, start: int) -> Iterator[Any]:
        """Yield for each step the fields of :class:`LoadedStep`, then its micro-batches."""
        for step in range(start, self.plan.steps):
            batch = self.plan.global_batch(step)
            pieces = split_micro_batches(len(batch), self.group, self.micro_batch)
            yield {
                "batch": batch,
                "predicted": int(self.shards.predicted(batch.sequences, batch.counted).sum()),
                "digest": self._digest(batch),
                "pieces": pieces,
            }
            for places in pieces:
                yield self.collate(batch, places)

    def _digest(self, batch: GlobalBatch) -> str:
        facts = [self.shards.checksums(batch.sequences), batch.counted.astype(np.uint64)]
        return hashlib.blake2b(np.stack(facts).astype("<u8").tobytes(), digest_size=8).hexdigest()

    def _ahead(self, items: Iterator[Any]) -> Generator[Any, None, None]:
        """Yield the same items, read ahead by a thread."""
        made: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        room: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def read() -> None:
            try:
                while room.get() and (some := list(itertools.islice(items, HANDED_OVER))):
                    made.put(some)
                made.put([])
            except Exception as error:
                made.put([error])

        thread = threading.Thread(target=read, name="loader", daemon=True)
        thread.start()
        try:
            room.put(True)
            room.put(True)
            while some := self._timed_get(made):
                for item in some:
                    if isinstance(item, Exception):
                        raise item
                    yield item
                room.put(True)
        finally:
            while thread.is_alive():  # it may still fill the room that it was given
                room.put(False)
                thread.join(0.01)

    def _timed_get(self, made: queue.SimpleQueue[list[Any]]) -> list[Any]:
        began = time.perf_counter()
        some = made.get()
        self.waited += time.perf_counter() - began
        return some
