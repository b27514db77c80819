"""Read verdicts: why one document is not kept."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.pipeline.pool import Pool
from penstock.pipeline.units import Unit

__all__ = ["Failed", "failed_rules", "repeated_by"]


@dataclass(frozen=True, slots=True)
class Failed:
    """What the verdicts say of one document."""

    reason: str | None
    """The first reason; None if it is kept."""
    rules: tuple[str, ...]
    """Every rule of a set that it fails, ``set: rule``."""


def failed_rules(pool: Pool, unit: Unit, row: int) -> Failed:
    """Read why a document of a corpus's unit is dropped, and all rules that it fails.

    Args:
        pool: The pool.
        unit: A unit of the pool.
        row: Row of the document in the corpus's unit.
    """
    names = pool.verdicts.facts["reasons"]
    assert unit.kept is not None
    code = int(unit.kept.reasons(unit.of)[row])
    rules: list[str] = []
    number = pool.verdicts.named("reasons-").index(unit.kept.record)
    for record in pool.verdicts.named(f"verdicts-{number:05d}"):
        table = pq.read_table(pool.verdicts.verified(record)).slice(unit.kept.start + row, 1)
        for one in table.column_names:
            bits = table.column(one)[0].as_py()
            named = enumerate(pool.verdicts.facts["rules"][one])
            failed = [rule for bit, rule in named if bits >> bit & 1]
            rules += [rule if rule == one else f"{one}: {rule}" for rule in failed]
    return Failed(names[code - 1] if code else None, tuple(rules))


def repeated_by(pool: Pool, unit: Unit, row: int) -> tuple[Unit, int] | None:
    """Return the unit and row of the document that stays, of one dropped as its duplicate."""
    assert unit.kept is not None
    files = pool.verdicts.named("reasons-")
    with pa.memory_map(str(pool.verdicts.verified(unit.kept.record))) as source:
        own = pa.ipc.open_file(source).get_batch(0).slice(unit.kept.start + row, 1).to_pylist()[0]
    if own["of_group"] is None:
        return None
    record, at = files[own["of_group"]], own["of_row"]
    for other in pool.units:
        if other.kept is not None and other.kept.record is record:
            place = at - other.kept.start
            if 0 <= place < other.of:
                return other, place
    raise LookupError(f"{unit.name}:{row}")
