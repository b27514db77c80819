"""Pools: the documents of a corpus that cleaning keeps, which is what all later stages see.

A pool is named by its corpus and by which rows it keeps, not by the rules that chose them: recipes
whose different rules keep the same documents share every score and every token after cleaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.artefact import Artefact, FileRecord, canonical
from penstock.errors import InputError
from penstock.pipeline.checking import RecordTally, check_sum, sum_by_source
from penstock.pipeline.cleaning.quarantine import first_error
from penstock.pipeline.units import Kept, Unit, base_of, units_of

__all__ = ["Pool", "pools_of"]


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
            for documents, digest in zip(record.facts["units"], record.facts["kept"], strict=True):
                unit = units[len(kept)]
                own = Kept(
                    directory=verdicts.path,
                    record=record,
                    start=start,
                    documents=documents,
                    digest=digest,
                )
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

    def checked(self) -> Pool:
        """Return the pool, which keeps a document.

        Raises:
            InputError: It keeps none.
        """
        if self.kept:
            return self
        counts = self.documents
        by_rule = ", ".join(
            f"{count:,} by the rule {rule}" for rule, count in counts["dropped_by"].items()
        )
        first = first_error(self.corpus.path, self.corpus.files)
        raise InputError(
            f"no document is left of {counts['read']:,} read: "
            f"{counts['quarantined']:,} quarantined, {counts['dropped']:,} dropped"
            f"{f' ({by_rule})' if by_rule else ''}"
            f"{f'; the first in quarantine: {first.text}' if first else ''}",
            key="corpus",
            file=first and first.path,
            fix="check corpus.text and the files; `penstock clean` shows what each rule drops",
        )

    @property
    def texts(self) -> str:
        """Names the texts that are kept, whatever their labels: 64 hexadecimal digits."""
        return _name(self.corpus.facts["text"], self.verdicts.named("reasons-"))

    @property
    def sampled(self) -> str:
        """Names the texts that are kept and their ids, all that a sample's texts depend on."""
        both = canonical([self.corpus.facts["ids"], self.texts])
        return hashlib.sha256(both).hexdigest()

    @property
    def bytes(self) -> int:
        """Bytes of the texts that are kept."""
        return sum(tally["bytes"] for tally in self.by_source.values())

    @property
    def kept(self) -> int:
        """Documents that are kept."""
        return int(self.documents["kept"])


def _name(rows: str, files: tuple[FileRecord, ...]) -> str:
    bits = [digest for record in files for digest in record.facts["kept"]]  # one for each unit
    return hashlib.sha256(canonical([rows, bits])).hexdigest()


def pools_of(pool: Pool) -> Iterator[Pool]:
    """Yield a pool, and those that rewriters replaced: what they drop is in no later corpus."""
    yield pool
    corpus = pool.corpus
    while (base := base_of(corpus)) is not None:
        if not corpus.facts["adds"]:
            verdicts = pool.verdicts.path.parent / corpus.manifest["inputs"]["pool"][:16]
            yield Pool.of(base, Artefact.open(verdicts))
        corpus = base
