"""Documents sorted by partition: what the passes of a set selector share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from penstock.errors import ScoringError
from penstock.pipeline.shuffle import Shuffle
from penstock.selectors.base import Partition, SetSelector
from penstock.storage import AnyPath

__all__ = ["SCORE", "Limit", "PartitionPlan", "PartitionRange", "document_type"]

_PARTITION_BYTES = 2**32
"""Bytes of the partitions of a task, at most; it holds twice as much. A cluster may have many times
the average, which is 512 MiB at most."""

SCORE = np.dtype([("unit", "<u4"), ("row", "<u4"), ("score", "<f4")])
"""The record of a score in the shuffle back to units."""


def document_type(width: int) -> np.dtype:
    """Return the record of a document with a vector of so many coordinates."""
    return np.dtype(
        [
            ("partition", "<u4"),
            ("unit", "<u4"),
            ("row", "<u4"),
            ("quality", "<f4"),
            ("hash", "<u8"),
            ("score", "<f4"),
            ("vector", "<i2", (width,)),
        ]
    )


_NEARNESS = np.dtype([("nearness", "<f4")])


@dataclass(frozen=True, slots=True)
class PartitionRange:
    """The partitions of one task."""

    task: int
    first: int
    last: int

    @property
    def label(self) -> str:
        return f"partitions {self.first} to {self.last - 1}"


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit of a thinning: documents of a higher nearness are left out."""

    value: float
    round: int
    """Round of :meth:`PartitionPlan.nearness` with the nearness under this limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    """The state that every task of the passes shares."""

    name: str
    selector: SetSelector
    seed: int
    width: int
    units: int
    runs: int
    partitions: int
    tasks: int
    directory: AnyPath
    embeddings: AnyPath
    quality: AnyPath | None
    quality_scale: float
    limit: Limit | None = None
    """Which documents stay, once :mod:`.thinning` has found it."""

    @property
    def key(self) -> str:
        return f"select.{self.name}"

    @property
    def dtype(self) -> np.dtype:
        """The record of a document in the shuffle to partitions."""
        return document_type(self.width)

    @property
    def placed(self) -> Shuffle:
        """Documents, from runs of units to partitions."""
        return self._shuffle("placed", self.dtype, self.partitions, self.runs)

    @property
    def scored(self) -> Shuffle:
        """Scores, from tasks of partitions to units."""
        return self._shuffle("scored", SCORE, self.units, self.tasks)

    @property
    def candidates(self) -> Shuffle:
        """Documents, from tasks of partitions to the one that merges."""
        return self._shuffle("candidates", self.dtype, 1, self.tasks)

    @property
    def merged(self) -> Shuffle:
        """Scores, from there to units."""
        return self._shuffle("merged", SCORE, self.units, 1)

    @property
    def survivors(self) -> Shuffle:
        """A sample of the documents that stay, from tasks of partitions to the driver."""
        return self._shuffle("survivors", self.dtype, 1, self.tasks)

    def nearness(self, round: int) -> Shuffle:
        """Nearness of documents, in the order of :meth:`read`: a file for each task."""
        return self._shuffle(f"nearness-{round:02d}", _NEARNESS, 1, self.tasks)

    def _shuffle(self, name: str, dtype: np.dtype, groups: int, sources: int) -> Shuffle:
        return Shuffle(
            directory=self.directory, name=name, dtype=dtype, groups=groups, sources=sources
        )

    @property
    def merges(self) -> bool:
        """True if candidates of all partitions are scored again together."""
        return self.partitions > 1 and self.selector.requirements.merge is not None

    @property
    def ranges(self) -> dict[str, PartitionRange]:
        """The partitions of each task, by a name for its part."""
        bounds = [self.partitions * task // self.tasks for task in range(self.tasks + 1)]
        return {
            f"{task:05d}": PartitionRange(task, first, last)
            for task, (first, last) in enumerate(itertools.pairwise(bounds))
        }

    def read(self, item: PartitionRange) -> np.ndarray:
        """Read the documents of partitions, by partition and hash: (n,) of :attr:`dtype`.

        Raises:
            ScoringError: They are more than a task holds.
        """
        parts = [np.empty(0, self.dtype)]
        left = _PARTITION_BYTES
        for part in self.placed.parts(item.first, item.last):
            parts.append(part)
            left -= part.nbytes
            if left < 0:
                raise ScoringError(
                    key=self.key,
                    file=item.label,
                    expected=f"at most {_PARTITION_BYTES // self.dtype.itemsize:,} documents",
                    got="more",
                    fix="use more partitions (for clusters, a larger `sample`): the encoder's "
                    "vectors of these documents are alike",
                )
        rows = np.concatenate(parts)
        # Units come in the corpus's order, so equal hashes stay in it.
        return rows[np.lexsort((rows["hash"], rows["partition"]))]

    def read_staying(self, item: PartitionRange) -> np.ndarray:
        """Read as :meth:`read`, without the documents above the limit."""
        rows = self.read(item)
        if self.limit is None:
            return rows
        near = self.nearness(self.limit.round).read_source(item.task)["nearness"]
        return rows[near <= np.float32(self.limit.value)]

    def each(self, item: PartitionRange, rows: np.ndarray) -> Iterator[tuple[int, slice]]:
        """Yield the number of each partition that is not empty, and its rows of :meth:`read`."""
        starts = np.searchsorted(rows["partition"], np.arange(item.first, item.last + 1))
        for number, start, end in zip(range(item.first, item.last), starts, starts[1:]):
            if start < end:
                yield number, slice(start, end)

    def partition(self, rows: np.ndarray, number: int) -> Partition:
        """Return (n,) rows of one partition as the selector receives them."""
        return Partition(
            number=number,
            hashes=np.ascontiguousarray(rows["hash"]),
            vectors=np.ascontiguousarray(rows["vector"]),
            quality=None if self.quality is None else np.ascontiguousarray(rows["quality"]),
            quality_scale=self.quality_scale,
        )
