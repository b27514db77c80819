"""Near-duplicates of a corpus: components of documents that are alike, and which of them stays.

Components hang on text alone, like the signatures that they are made from: no rule or threshold of
another kind makes them anew. Which document stays is chosen by the verdicts, among the documents
that nothing else excludes (:mod:`.choice`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, Draft, Workspace, fingerprint
from penstock.hashing import hash_documents, hash_ids, mix
from penstock.pipeline.checking import check_sum
from penstock.pipeline.cleaning.best_column import BestColumn
from penstock.pipeline.cleaning.minhash.signatures import Signatures, band_hashes
from penstock.pipeline.cleaning.near_duplicates import KeyFiles, fill_components
from penstock.pipeline.cleaning.survivors import Members
from penstock.pipeline.cleaning.text_columns import ColumnFile
from penstock.pipeline.cleaning.verified_duplicates import TextFiles, fill_verified
from penstock.pipeline.corpus import text_digest
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit, units_of
from penstock.text_hashes import hash_words

__all__ = [
    "COMPONENTS",
    "LABELS_OF_MEMBERS",
    "MISSED",
    "Keep",
    "NearDuplicates",
    "make_components",
    "names_of_components",
]

COMPONENTS = "components"
"""Stage of the artefact, and name of the column."""

VERSION = 1

MISSED = 0.95
"""Weight of missed pairs where candidates are verified, so that false ones cost time only: with a
threshold of 0.8, 95 % of the pairs at it are found, without 40 %."""

Keep = Literal["longest", "first"] | BestColumn

LABELS_OF_MEMBERS = ("id", "source", "bytes", "hash", "normal")
"""Columns of the file of rows that :meth:`NearDuplicates.members` reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """Settings of near-duplicates, from a recipe."""

    signatures: Signatures
    keep: Keep = "longest"
    """Which document of a component stays: the one of most bytes, the first of the corpus, or the
    one with the best value of a column."""
    verify: bool = False
    """Whether the true similarity of documents that agree in a band is compared with the threshold
    of the signatures."""

    @property
    def no_value(self) -> str:
        """Message that no document has a value of the column of :attr:`keep`."""
        name = self.keep.column.text.strip() if isinstance(self.keep, BestColumn) else self.keep
        return f"no document has a number or date in {name}"

    def config(self) -> dict[str, Any]:
        """Return the part of the verdicts' fingerprint."""
        keep = self.keep.config() if isinstance(self.keep, BestColumn) else self.keep
        return {**self.components(), "keep": keep}

    def components(self) -> dict[str, Any]:
        """Return what the components depend on beside the texts."""
        verified = {"threshold": self.signatures.threshold} if self.verify else {}
        return {"signatures": self.signatures.config(), **verified}

    def members(
        self,
        documents: pa.Table,
        components: np.ndarray,
        bands: pa.Array,
        kept: np.ndarray,
        ranks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Members]:
        """Gather what the choice depends on, of the documents that belong to a component.

        Args:
            documents: n documents, with :data:`LABELS_OF_MEMBERS`.
            components: (n,) int64.
            bands: (n,) of their signatures.
            kept: (n,) bool: no other reason excludes them.
            ranks: (n,) float64: of :meth:`BestColumn.ranks`, if that is :attr:`keep`.

        Returns:
            Their rows, (m,) int64, and m members.
        """
        inside = np.flatnonzero(components >= 0)
        chosen = pa.array(inside)
        own = documents.take(chosen).combine_chunks()
        if self.keep == "first":
            best, ties = np.zeros(len(own)), np.zeros((len(own), 2), np.uint64)
        else:
            best = own.column("bytes").to_numpy().astype(np.float64)
            if isinstance(self.keep, BestColumn):
                assert ranks is not None
                best = ranks[inside]
            seed = mix("duplicates")
            ties = np.stack(
                [hash_documents(own, seed), hash_ids(own.column("source"), seed)], axis=1
            )
        return inside, Members(
            components=components[inside],
            kept=kept[inside],
            best=best,
            ties=ties,
            normal=hash_words(own.column("normal")),
            keys=band_hashes(bands.take(chosen)),
        )


def make_components(
    near: NearDuplicates,
    corpus: Artefact,
    signatures: Mapping[str, ColumnFile],
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, ColumnFile]:
    """Find or make the components of all documents of a corpus.

    Args:
        near: Settings.
        corpus: Corpus.
        signatures: The files of their column, by the names of the units.
        workspace: Where components are found and made.
        runner: Runs the tasks.
        progress: Called with a line about each step.

    Returns:
        The files of the column ``component``, by the names of the units.
    """
    units = units_of(corpus)
    inputs = {"text": text_digest([unit.record for unit in units])}
    files = [_key_files(unit, signatures[unit.name]) for unit in units]
    bands = near.signatures.banding.bands

    def find(draft: Draft) -> Artefact:
        fill_components(draft, files, bands, runner, progress)
        return _publish(draft, units, {})

    config = {"signatures": near.signatures.config()}
    made = workspace.make(COMPONENTS, VERSION, config, inputs, find)

    def verify(draft: Draft) -> Artefact:
        progress("similarities of texts that agree in a band")
        items = [
            TextFiles(
                keys=keys,
                components=(made.path, record),
                texts=(unit.corpus, unit.record),
                bytes=int(unit.record.facts["bytes"]),
            )
            for keys, record, unit in zip(files, made.files, units, strict=True)
        ]
        column = near.signatures
        _, unverified = fill_verified(draft, items, bands, column.ngram, column.threshold, runner)
        return _publish(draft, units, {"unverified": unverified})

    if near.verify:
        inputs = {COMPONENTS: made.fingerprint, **inputs}
        made = workspace.make(COMPONENTS, VERSION, near.components(), inputs, verify)
    own = zip(units, made.files, strict=True)
    return {unit.name: ColumnFile(made.path, record) for unit, record in own}


def names_of_components(near: NearDuplicates, corpus: Artefact) -> list[str]:
    """Return the fingerprints of the artefacts of :func:`make_components`, made or not."""
    inputs = {"text": text_digest([unit.record for unit in units_of(corpus)])}
    config = {"signatures": near.signatures.config()}
    names = [fingerprint(COMPONENTS, VERSION, config, inputs)]
    if near.verify:
        inputs = {COMPONENTS: names[0], **inputs}
        names.append(fingerprint(COMPONENTS, VERSION, near.components(), inputs))
    return names


def _key_files(unit: Unit, signatures: ColumnFile) -> KeyFiles:
    return KeyFiles(
        unit=unit.number,
        name=unit.name,
        documents=unit.of,
        normal=(unit.corpus, unit.rows),
        bands=(signatures.directory, signatures.record),
    )


def _publish(draft: Draft, units: Sequence[Unit], facts: Mapping[str, int]) -> Artefact:
    parts = [unit.name for unit in units]
    records = draft.files(parts)
    counts = {
        name: sum(record.facts[name] for record in records)
        for name in ("documents", "alone", "components")
    }
    wanted = "documents of the corpus", sum(unit.of for unit in units)
    check_sum(f"{draft.path}", wanted, {"in components or alone": counts["documents"]})
    return draft.publish(parts, {**counts, **facts})
