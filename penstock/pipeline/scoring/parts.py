"""Parts of units: a work whose documents take long is divided and committed in parts.

A sentence encoder reads 8 documents a second, so a unit would take an hour, be lost as a whole with
its worker, and be all the work that a small pool has. A part has a 1,024th of the pool's documents,
from 32 to a batch of 1,024: two workers that are killed lose 2 of 63 parts of 2,000 documents. A
part of a smaller pool's would cost more in commits than in work.

When all parts are recorded, the file of each unit is joined from them. They are scratch: the
finished artefact is without them. How documents are divided depends on the pool alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from penstock.artefact import Draft, FileRecord
from penstock.display import numbered
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import BATCH, Unit, iter_documents
from penstock.resources import Resources
from penstock.storage import AnyPath

__all__ = ["Joined", "UnitPart", "fill_parts"]

_PARTS = 1024
"""Parts of a pool, about."""

_LEAST = 32
"""Documents of a part, at least."""


@dataclass(frozen=True, slots=True)
class UnitPart:
    """Documents of a unit that one task works on."""

    unit: Unit
    start: int
    """The first of the unit's documents, those that are kept."""
    end: int

    @property
    def name(self) -> str:
        return f"{self.unit.name}-{self.start:08d}"

    @property
    def label(self) -> str:
        return f"documents {self.start:,} to {self.end - 1:,} of {self.unit.name}"

    def read(self, columns: Sequence[str]) -> pa.RecordBatch:
        """Read columns of its documents; of none, where the unit has none."""
        return next(iter_documents(self.unit, columns, self.start, self.end))

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Joined:
    """A unit, and the files of its parts: the item of the task that joins them."""

    unit: Unit
    files: Sequence[FileRecord]

    @property
    def label(self) -> str:
        return self.unit.label


def _part_size(documents: int) -> int:
    """Return the documents of a part of a pool: a power of two."""
    size = max(_LEAST, documents // _PARTS)
    return min(BATCH, 1 << (size.bit_length() - 1))


def _parts_of(unit: Unit, size: int) -> Iterator[UnitPart]:
    for start in range(0, unit.documents, size):
        yield UnitPart(unit, start, min(start + size, unit.documents))


def fill_parts(
    draft: Draft,
    runner: Runner,
    work: Callable[[UnitPart, Any], FileRecord],
    join: Callable[[Joined, AnyPath], FileRecord],
    units: Sequence[Unit],
    state: Any,
    progress: Callable[[str], None],
    needs: Resources | None,
) -> None:
    """Write and record the file of each unit, by its parts.

    Args:
        draft: The artefact.
        runner: Runs the tasks.
        work: Module-level; writes the file of a part below ``scratch`` of the draft.
        join: Module-level; writes the file of a unit from those of its parts.
        units: All units of the pool.
        state: The second argument of ``work``.
        progress: Called with a line when a unit is finished, and at first of what is done already.
        needs: Resources of a worker.
    """
    size = _part_size(sum(unit.documents for unit in units))
    parts = {
        unit.name: list(_parts_of(unit, size)) for unit in units if draft.done(unit.name) is None
    }
    items = {part.name: part for own in parts.values() for part in own}
    total = sum(unit.documents for unit in units)
    left = sum(part.documents for name, part in items.items() if draft.done(name) is None)
    if already := total - left:
        progress(f"{already:,} of {total:,} documents already")
    draft.fill(runner.run, work, items, state, keep_state=True, needs=needs)
    joined = {
        unit.name: Joined(unit, draft.files(part.name for part in parts[unit.name]))
        for unit in units
        if unit.name in parts
    }
    draft.fill(
        runner.run,
        join,
        joined,
        draft.path,
        lambda item, _: progress(
            f"{numbered(item.unit.documents, 'document')} of {item.unit.name}"
        ),
    )
