"""Provenance of a document: the record of a part that it was, and its input file.

A corpus stores the hashes of its inputs' bytes and not their names, so that it does not depend on
their directory. The work directory stores which files had those hashes; a file that it has not read
has no name here.
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
    """Finds the file and the id of a record by ``part`` and ``row``, its number in the part from 0.

    Args:
        corpus: The corpus before any rewriter.
    """

    def __init__(self, corpus: Artefact) -> None:
        self._corpus = corpus
        self._units: dict[str, list[Unit]] = {}
        for unit in units_of(corpus):
            self._units.setdefault(part_of(unit.record), []).append(unit)

    def file(self, part: str, row: int) -> str | None:
        """Return the input file of a record, or None where its name is not stored."""
        (record,) = self._corpus.named(f"dropped-{part}.")
        for number, count in record.facts["inputs"]:
            if row < count:
                digest = self._corpus.manifest["inputs"]["files"][number][0]
                return self._paths.get(digest)
            row -= count
        return None

    def file_of(self, unit: Unit, row: int) -> str | None:
        """Return the input file of a unit's document; None where a rewriter wrote the unit."""
        if unit.corpus != self._corpus.path:
            return None
        return self.file(part_of(unit.record), self.row_of(unit, row))

    def row_of(self, unit: Unit, row: int) -> int:
        """Return the row, within its part, of a unit's document."""
        part = part_of(unit.record)
        position = row + sum(u.documents for u in self._units[part] if u.number < unit.number)
        dropped = self._dropped(part)
        # Before it are the kept documents and the dropped records of smaller rows.
        return position + bisect.bisect_right(
            range(len(dropped)), position, key=lambda k: dropped[k] - k
        )

    def id_at(self, part: str, row: int) -> str:
        """Return the id of the kept document that is record ``row`` of a part."""
        position = row - bisect.bisect_left(self._dropped(part), row)
        for unit in self._units[part]:
            if position < unit.documents:
                with pq.ParquetFile(unit.path()) as file:
                    return str(file.read(["id"]).column("id")[position])
            position -= unit.documents
        raise LookupError(f"{part}:{row}")

    @functools.lru_cache(maxsize=16)  # noqa: B019  an object serves one command
    def _dropped(self, part: str) -> list[int]:
        """Return the rows of a part that were not kept, rising."""
        (record,) = self._corpus.named(f"dropped-{part}.")
        rows = pq.read_table(self._corpus.verified(record), columns=["row"])["row"].to_pylist()
        for bad in self._corpus.named(f"quarantine-{part}."):
            with open(self._corpus.verified(bad), encoding="utf-8") as lines:
                rows.extend(json.loads(line)["row"] for line in lines)
        return sorted(rows)

    @functools.cached_property
    def _paths(self) -> dict[str, str]:
        """The input files that this work directory has read, by the hash of their bytes."""
        stored = self._corpus.path.parent.parent / "inputs.json"
        try:
            known: dict[str, Any] = json.loads(stored.read_bytes())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return {entry[-1]: path for path, entry in sorted(known.items(), reverse=True)}


def part_of(record: FileRecord) -> str:
    """Return the part of a file of a corpus."""
    return record.path.partition(".")[0].split("-")[1]
