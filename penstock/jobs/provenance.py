"""Where a document of a corpus came from: a record of a part, and a file of the pool.

A corpus knows its inputs by the hashes of their bytes and never by name, so that it is the same
wherever they lie. Its work directory remembers which files had those hashes; a file that was not
seen from this work directory has no name here.
"""

from __future__ import annotations

import bisect
import functools
import json
from typing import Any

import pyarrow.parquet as pq

from penstock.artefact import Artefact, FileRecord
from penstock.pipeline.units import Unit, units_of

__all__ = ["Origins", "part_of"]


class Origins:
    """Looks records up by ``part`` and ``row``, the record's number within its part from 0.

    Args:
        corpus: As it was read from files, before any rewriter.
    """

    def __init__(self, corpus: Artefact) -> None:
        self._corpus = corpus
        self._units: dict[str, list[Unit]] = {}
        for unit in units_of(corpus):
            self._units.setdefault(part_of(unit.record), []).append(unit)

    def file(self, part: str, row: int) -> str | None:
        """The input file that a record was read from, or None where its name is not known."""
        (record,) = self._corpus.named(f"dropped-{part}.")
        for number, count in record.facts["inputs"]:
            if row < count:
                digest = self._corpus.manifest["inputs"]["files"][number][0]
                return self._paths.get(digest)
            row -= count
        return None

    def file_of(self, unit: Unit, row: int) -> str | None:
        """The input file of a unit's document; None, too, where a rewriter wrote the unit."""
        if unit.corpus != self._corpus.path:
            return None
        return self.file(part_of(unit.record), self.row_of(unit, row))

    def row_of(self, unit: Unit, row: int) -> int:
        """The record, within its part, of a unit's document."""
        part = part_of(unit.record)
        place = row + sum(u.documents for u in self._units[part] if u.number < unit.number)
        gone = self._gone(part)
        # As many records are before it as documents kept and records not kept together.
        return bisect.bisect_right(range(len(gone)), place, key=lambda k: gone[k] - k) + place

    def id_at(self, part: str, row: int) -> str:
        """The id of the kept document that is record ``row`` of a part."""
        place = row - bisect.bisect_left(self._gone(part), row)
        for unit in self._units[part]:
            if place < unit.documents:
                with pq.ParquetFile(unit.path()) as file:
                    return str(file.read(["id"]).column("id")[place])
            place -= unit.documents
        raise LookupError(f"{part}:{row}")

    @functools.lru_cache(maxsize=16)  # noqa: B019  lives as long as one answer
    def _gone(self, part: str) -> list[int]:
        """The records of a part that were not kept, in order."""
        (record,) = self._corpus.named(f"dropped-{part}.")
        rows = pq.read_table(self._corpus.verified(record), columns=["row"])["row"].to_pylist()
        for bad in self._corpus.named(f"quarantine-{part}."):
            with open(self._corpus.verified(bad), encoding="utf-8") as lines:
                rows.extend(json.loads(line)["row"] for line in lines)
        return sorted(rows)

    @functools.cached_property
    def _paths(self) -> dict[str, str]:
        """Files of this work directory's memory by the hash of their bytes."""
        memory = self._corpus.path.parent.parent / "inputs.json"
        try:
            known: dict[str, Any] = json.loads(memory.read_bytes())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return {entry[-1]: path for path, entry in sorted(known.items(), reverse=True)}


def part_of(record: FileRecord) -> str:
    """The part that a file of a corpus belongs to."""
    return record.path.partition(".")[0].split("-")[1]
