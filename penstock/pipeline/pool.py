"""Pools: the documents of a corpus that cleaning keeps, which is what all later stages see.

A pool is named by its corpus and by which rows it keeps, not by the rules that chose them: recipes
whose different rules keep the same documents share every score and every token after cleaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.artefact import Artefact, FileRecord, canonical
from penstock.pipeline.checking import RecordTally, check_sum, sum_by_source
from penstock.pipeline.units import Kept, Unit, units_of

__all__ = ["Pool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A corpus with the rows that are kept."""

    corpus: Artefact
    verdicts: Artefact
    """Why each document is kept or not (:mod:`penstock.pipeline.cleaning.verdicts`)."""
    units: tuple[Unit, ...]
    """All units of the corpus, each with the rows that are kept of it, which may be none."""
    fingerprint: str
    """Names the corpus and the rows that are kept: 64 hexadecimal digits."""
    documents: Mapping[str, Any]
    """The accounting: read + added = kept + dropped + quarantined, with ``dropped_by`` reason."""
    by_source: Mapping[str, Mapping[str, int]]
    """``documents`` and ``bytes`` that are kept of each source."""

    @classmethod
    def of(cls, corpus: Artefact, verdicts: Artefact) -> Pool:
        """Open the pool of a corpus by its verdicts.

        Raises:
            ArtefactError: The documents are not all accounted for.
        """
        units = units_of(corpus)
        files = verdicts.named("reasons-")
        tally = RecordTally.of(corpus.facts["documents"])
        kept: list[Unit] = []
        for record in files:
            tally.dropped_by.update(record.facts["dropped_by"])
            start = 0
            for documents in record.facts["units"]:
                unit = units[len(kept)]
                own = Kept(directory=verdicts.path, record=record, start=start, documents=documents)
                kept.append(replace(unit, kept=own))
                start += unit.of
        tally.kept = sum(unit.documents for unit in kept)
        tally.check(str(verdicts.path))
        check_sum(str(verdicts.path), ("units of the corpus", len(units)), {"judged": len(kept)})
        return cls(
            corpus=corpus,
            verdicts=verdicts,
            units=tuple(kept),
            fingerprint=_name(corpus.fingerprint, files),
            documents=tally.facts(),
            by_source=sum_by_source(files),
        )

    @property
    def texts(self) -> str:
        """Names the texts that are kept, whatever their labels: 64 hexadecimal digits."""
        return _name(self.corpus.facts["text"], self.verdicts.named("reasons-"))

    @property
    def bytes(self) -> int:
        """Bytes of the texts that are kept."""
        return sum(tally["bytes"] for tally in self.by_source.values())

    @property
    def kept(self) -> int:
        """Documents that are kept."""
        return int(self.documents["kept"])


def _name(rows: str, files: tuple[FileRecord, ...]) -> str:
    bits = [record.facts["kept"] for record in files]
    return hashlib.sha256(canonical([rows, bits])).hexdigest()
