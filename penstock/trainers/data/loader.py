"""Global batches as tensors: each rank's part of a step, made while the step before it runs.

Reading a sequence is a view into a mapped file and the comparison of its checksum; the one copy is
the cast of its tokens into the batch. One thread does it ahead of the trainer, which tells in its
metrics what it waits.
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
import torch

from penstock.trainers.data.batch import Batch
from penstock.trainers.data.plan import BatchPlan, GlobalBatch
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group

__all__ = ["LoadedStep", "Loader", "split_micro_batches"]

TOGETHER = 4
"""Micro-batches that the thread hands over at a time: to wake somebody costs as much as to make
one. Twice as many are held at most."""


def split_micro_batches(count: int, group: Group, micro_batch: int) -> list[np.ndarray]:
    """Deal places 0 to ``count`` of a global batch: those of one worker, in micro-batches.

    Every rank gets equally many pieces, since each is a collective operation; their sizes differ
    by at most one and may be 0.
    """
    pieces = max(1, -(-count // (group.workers * micro_batch)))
    mine = np.arange(group.rank, count, group.workers)
    ends = [-(-len(mine) * piece // pieces) for piece in range(pieces + 1)]
    return [mine[begin:end] for begin, end in itertools.pairwise(ends)]


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
        group: The workers.
        micro_batch: Sequences that go through the model at once.
    """

    def __init__(self, shards: ShardSet, plan: BatchPlan, group: Group, micro_batch: int) -> None:
        self.shards = shards
        self.plan = plan
        self.group = group
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
        chosen = places if len(places) else np.zeros(1, np.int64)
        ids, spans = self.shards.read(batch.sequences[chosen])
        counted = batch.counted[chosen] if len(places) else np.zeros(1, np.int64)
        return Batch(
            input_ids=torch.from_numpy(ids),
            spans=torch.from_numpy(spans),
            counted=torch.from_numpy(counted),
        )

    def _read(self, start: int) -> Iterator[Any]:
        """Of each step what :class:`LoadedStep` says of it, then its micro-batches."""
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
    made: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
    room: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def make() -> None:
        try:
            while room.get() and (some := list(itertools.islice(items, TOGETHER))):
                made.put(some)
            made.put([])
        except Exception as error:
            made.put([error])

    thread = threading.Thread(target=make, name="loader", daemon=True)
    thread.start()
    try:
        room.put(True)
        room.put(True)
        while some := made.get():
            for item in some:
                if isinstance(item, Exception):
                    raise item
                yield item
            room.put(True)
    finally:
        while thread.is_alive():  # it may have room left to fill before it sees this
            room.put(False)
            thread.join(0.01)
