"""Global batches as tensors: each rank's part of a step, made while the step before it runs.

Reading a sequence is a view into a mapped file and the comparison of its checksum; the one copy is
the cast of its tokens into the batch. One thread does it, at most :data:`AHEAD` micro-batches
ahead; what the trainer waits for it is told in the metrics.
"""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.trainers.data.batch import IGNORED, Batch, collate
from penstock.trainers.data.plan import GlobalBatch, Plan
from penstock.trainers.data.shards import ShardSet

__all__ = ["LoadedStep", "Loader", "deal"]

AHEAD = 4
"""Micro-batches that wait for the trainer: enough to even out a slow disk, few enough to hold."""


def deal(count: int, *, rank: int, workers: int, micro_batch: int) -> list[np.ndarray]:
    """Places 0 to ``count`` of a global batch that ``rank`` takes, in micro-batches.

    Every rank gets equally many pieces, since each is a collective operation; their sizes differ
    by at most one and may be 0.
    """
    pieces = max(1, -(-count // (workers * micro_batch)))
    return np.array_split(np.arange(rank, count, workers), pieces)


@dataclass(frozen=True, kw_only=True)
class LoadedStep:
    """A step as one rank sees it."""

    batch: GlobalBatch
    predicted: int
    """Labels of the whole global batch."""
    digest: str
    """Names the global batch's token ids, in order: 16 hexadecimal digits."""
    pieces: list[np.ndarray]
    """This rank's places in the global batch, for each micro-batch."""
    micro_batches: Iterator[Batch]
    """This rank's, in the order of ``pieces``, once; before the next step is asked for."""


class Loader:
    """Reads a plan's steps for one rank.

    Args:
        shards: What is read.
        plan: Which sequences, when.
        rank: This worker.
        workers: All of them.
        micro_batch: Sequences that go through the model at once.
    """

    def __init__(
        self, shards: ShardSet, plan: Plan, *, rank: int, workers: int, micro_batch: int
    ) -> None:
        self.shards = shards
        self.plan = plan
        self.rank = rank
        self.workers = workers
        self.micro_batch = micro_batch
        self.waited = 0.0
        """Seconds that the trainer has waited for batches."""

    def steps(self, start: int = 0) -> Iterator[LoadedStep]:
        """Every step from ``start`` on.

        Raises:
            ArtefactError: A sequence is not what was written.
        """
        with closing(_ahead(self._read(start))) as made:
            timed = self._timed(made)
            for facts in timed:
                taken = itertools.islice(timed, len(facts["pieces"]))
                yield LoadedStep(**facts, micro_batches=taken)
                for _ in taken:  # what the trainer left
                    pass

    def collate(self, batch: GlobalBatch, places: np.ndarray) -> Batch:
        """Sequences of a global batch as tensors; with none asked for, one that counts for nothing.

        Args:
            batch: The step's.
            places: (n,) integers below ``len(batch)``.

        Raises:
            ArtefactError: A sequence is not what was written.
        """
        if not len(places):
            made = collate([self.shards[int(batch.sequences[0])]])
            made.labels.fill_(IGNORED)
            return made
        made = collate([self.shards[index] for index in batch.sequences[places].tolist()])
        for row, counted in enumerate(batch.counted[places].tolist()):
            made.labels[row, counted:] = IGNORED
        return made

    def predicted(self, batch: GlobalBatch) -> np.ndarray:
        """Labels of each sequence of a global batch: (n,) int64."""
        pairs = zip(batch.sequences.tolist(), batch.counted.tolist())
        return np.array([self.shards.predicted(*pair) for pair in pairs], np.int64)

    def _read(self, start: int) -> Iterator[Any]:
        """Of each step what :class:`LoadedStep` says of it, then its micro-batches."""
        share = {"rank": self.rank, "workers": self.workers, "micro_batch": self.micro_batch}
        for step in range(start, self.plan.steps):
            batch = self.plan.global_batch(step)
            pieces = deal(len(batch), **share)
            yield {
                "batch": batch,
                "predicted": int(self.predicted(batch).sum()),
                "digest": self._digest(batch),
                "pieces": pieces,
            }
            for places in pieces:
                yield self.collate(batch, places)

    def _digest(self, batch: GlobalBatch) -> str:
        sums = [self.shards.checksum(index) for index in batch.sequences.tolist()]
        facts = np.stack([np.array(sums, np.int64), batch.counted])
        return hashlib.blake2b(facts.astype("<i8").tobytes(), digest_size=8).hexdigest()

    def _timed(self, made: Iterator[Any]) -> Iterator[Any]:
        while True:
            began = time.perf_counter()
            item = next(made, None)
            self.waited += time.perf_counter() - began
            if item is None:
                return
            yield item


def _ahead(items: Iterator[Any]) -> Generator[Any, None, None]:
    """The same items, made by a thread while the one who asks is busy."""
    made: queue.Queue[Any] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def make() -> None:
        last: Any = None
        try:
            for item in items:
                made.put(item)
                if stopped.is_set():
                    return
        except Exception as error:
            last = error
        made.put(last)

    thread = threading.Thread(target=make, name="loader", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        while thread.is_alive():
            with suppress(queue.Empty):
                made.get(timeout=0.01)
