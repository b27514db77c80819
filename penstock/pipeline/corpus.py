"""The corpus stage: read input files, quarantine bad records, drop duplicates, write units.

Inputs are read twice; no copy is kept in between. The first pass writes a hash of each document's
normalised text and counts records and lines; duplicates are found among the hashes; the second pass
writes the documents that are kept. Reading is cheap (about 300 MB/s a core decompressed) next to a
second copy of the text. Both passes work on splits, parts of the input of about one unit, so one
large file is read by many workers, and a resumed run goes on inside it.

Every record has one fate: kept in a unit, dropped by a named rule, or quarantined with its error
and its bytes. A worker holds a row group and a document, for a split of any size.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.errors import InputError
from penstock.pipeline.checking import RecordTally, check_sum, sum_by_source
from penstock.pipeline.cleaning.dropped import Dropped, Quarantine
from penstock.pipeline.cleaning.duplicates import (
    Hashes,
    Range,
    Repeats,
    find_repeats,
    normalise,
    ranges_for,
)
from penstock.pipeline.reading.inputs import Input, find_inputs, hash_inputs
from penstock.pipeline.reading.records import Bad, Extent, Record
from penstock.pipeline.reading.splits import InputPiece, Split, plan_splits
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import UNIT_BYTES, UnitWriter
from penstock.recipe import Clean, Recipe
from penstock.storage import (
    AnyPath,
    store_of,
)

__all__ = ["STAGE", "VERSION", "CorpusSettings", "make_corpus", "normalise"]

STAGE = "corpus"
VERSION = 2

_CAP_TIMES, _CAP_PLUS = 4, 2**20
"""A line is read up to this many times ``max_document_bytes`` and this much more: room for escapes
and for other fields. (A largest document with every character written as ``\\u0041``, six bytes
for one, would be over the cap and quarantined.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSettings:
    """Settings of the corpus stage, from a recipe."""

    inputs: tuple[Input, ...]
    """The files, found and not yet hashed."""
    clean: Clean
    unit_bytes: int = UNIT_BYTES
    """Bytes of text after which a unit ends. No key of a recipe sets it; tests do."""

    @classmethod
    def of(cls, recipe: Recipe, unit_bytes: int = UNIT_BYTES) -> CorpusSettings:
        """Find the recipe's input files.

        Raises:
            InputError: As :func:`~penstock.pipeline.reading.inputs.find_inputs`.
        """
        return cls(inputs=tuple(find_inputs(recipe)), clean=recipe.clean, unit_bytes=unit_bytes)

    def config(self) -> dict[str, Any]:
        """Return the stage's part of the fingerprint, beside the hashes of the inputs."""
        return {"clean": self.clean.model_dump(mode="json"), "unit_bytes": self.unit_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """The state that every task of the stage shares."""

    directory: AnyPath
    clean: Clean
    unit_bytes: int
    ranges: Range | None = None
    """The ranges in which repeats were found; None before that, and without deduplication."""

    @property
    def cap(self) -> int:
        return _CAP_TIMES * self.clean.max_document_bytes + _CAP_PLUS


def make_corpus(settings: CorpusSettings, workspace: Workspace, runner: Runner) -> Artefact:
    """Find the corpus of these input files, or make it.

    Raises:
        InputError: A file is missing, truncated or unreadable, lacks the text field, or no
            document is left.
        ArtefactError: The records that were read are not all accounted for.
    """
    clean, unit_bytes = settings.clean, settings.unit_bytes
    inputs = hash_inputs(settings.inputs, workspace, runner)
    names = {"files": [[item.digest, item.reading] for item in inputs]}

    def work(draft: Draft) -> Artefact:
        stage = _Stage(directory=draft.path, clean=clean, unit_bytes=unit_bytes)
        splits = plan_splits(inputs, draft.path, unit_bytes, runner)
        if clean.dedup.exact and any(draft.done(split.part) is None for split in splits):
            splits = _run_hash_pass(splits, stage, draft, runner)
            stage = replace(stage, ranges=_find_duplicates(splits, draft, runner))
        by_part = {split.part: split for split in splits}
        facts = _facts(str(draft.path), draft.fill(runner.run, _write_split, by_part, stage))
        if not facts["documents"]["kept"]:
            raise _nothing_kept(facts["documents"])
        return draft.publish(by_part, facts)

    return workspace.make(STAGE, VERSION, settings.config(), names, work)


# -- reading ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _CheckedRecord:
    """A record of a split, with the verdict that depends on it alone."""

    piece: InputPiece
    record: Record | Bad
    size: int = 0
    """Bytes of a good record's text in UTF-8."""
    rule: str | None = None
    """The rule that drops it, or None."""


def _check_records(split: Split, stage: _Stage, extents: list[Extent]) -> Iterator[_CheckedRecord]:
    """Yield the records of a split, in order; ``extents`` gets the counts of each piece."""
    limit = stage.clean.max_document_bytes
    for piece in split.pieces:
        _check_unchanged(piece.item)
        extents.append(extent := Extent())
        for record in piece.records(stage.cap, extent):
            if isinstance(record, Bad):
                yield _CheckedRecord(piece, record)
                continue
            text = record.text
            try:
                size = len(text) if text.isascii() else len(text.encode())
                (record.id or "").encode()
                record.source.encode()
            except UnicodeEncodeError as error:
                yield _CheckedRecord(piece, _refused(piece, record, f"not Unicode text: {error}"))
                continue
            if size > limit:
                message = f"{size:,} bytes of text, more than clean.max_document_bytes = {limit:,}"
                yield _CheckedRecord(piece, _refused(piece, record, message))
            else:
                yield _CheckedRecord(
                    piece, record, size, "empty" if not text or text.isspace() else None
                )
        _check_unchanged(piece.item)


def _check_unchanged(item: Input) -> None:
    if store_of(item.path).version(item.path) != item.stamp:
        raise InputError("changed since its bytes were hashed", file=item.path, fix="run again")


def _refused(piece: InputPiece, record: Record, error: str) -> Bad:
    """Make a bad record of the whole record in ASCII, which keeps lone surrogates."""
    return Bad(
        piece.span.place(piece.reader.noun, record.number),
        error,
        json.dumps(asdict(record)).encode(),
    )


# -- the first pass ---------------------------------------------------------------------------


def _run_hash_pass(
    splits: Sequence[Split], stage: _Stage, draft: Draft, runner: Runner
) -> list[Split]:
    """Run the first pass; returns the splits with its counts. The hashes are in scratch."""
    records = draft.fill(
        runner.run, _hash_split, {f"hashes-{split.part}": split for split in splits}, stage
    )
    counted = []
    before: dict[int, tuple[int, int]] = {}
    for split, record in zip(splits, records):
        pieces = []
        for piece, (lines, size) in zip(split.pieces, record.facts["pieces"]):
            span = piece.span
            rows, start = before.get(piece.input, (0, 0))
            before[piece.input] = rows + lines, start + size
            if not span.counted:
                span = replace(span, rows=rows, bytes=start, counted=True)
            pieces.append(replace(piece, span=span))
        counted.append(replace(split, pieces=tuple(pieces), read=record.facts["read"]))
    return counted


def _hash_split(split: Split, stage: _Stage) -> FileRecord:
    """Hash the texts of a split that may be kept, and count its records."""
    hashes = Hashes()
    extents: list[Extent] = []
    read = 0
    for checked in _check_records(split, stage, extents):
        if isinstance(checked.record, Record) and not checked.rule:
            hashes.add(read, checked.record.text)
        read += 1
    return hashes.write(
        stage.directory,
        split.number,
        read=read,
        pieces=[[extent.lines, extent.bytes] for extent in extents],
    )


def _find_duplicates(splits: Sequence[Split], draft: Draft, runner: Runner) -> Range:
    """Find duplicates, written to scratch; returns the first of the ranges."""
    count = ranges_for(sum(split.read or 0 for split in splits))
    first = Range(number=0, ranges=count, splits=len(splits), draft=draft.path)
    for _ in runner.run(find_repeats, [replace(first, number=n) for n in range(count)]):
        pass
    return first


# -- the second pass --------------------------------------------------------------------------


def _write_split(split: Split, stage: _Stage) -> list[FileRecord]:
    """Write a split: its units, its dropped documents and its quarantine."""
    repeats = None
    if stage.ranges is not None and split.read is not None:
        repeats = Repeats(stage.ranges, split.number, split.read)
    row = -1
    read_of: Counter[int] = Counter()
    with (
        UnitWriter(stage.directory, split.part, stage.unit_bytes) as units,
        Dropped(stage.directory, split.part, stage.clean.keep_dropped) as dropped,
        Quarantine(stage.directory, split.part) as quarantine,
    ):
        for row, checked in enumerate(_check_records(split, stage, [])):
            record, rule, of = checked.record, checked.rule, None
            read_of[checked.piece.input] += 1
            if isinstance(record, Bad):
                quarantine.add(checked.piece.item.path.name, row, record)
                continue
            if repeats is not None and rule is None:
                if row == split.read:
                    break  # counted below
                of = repeats.of(row)
                rule = "duplicate" if of is not None else None
            name = record.id if record.id is not None else _name_of(record.text)
            if rule:
                dropped.add(name, record, checked.size, rule, row, of)
            else:
                units.add(name, record, checked.size)
    if split.read is not None:
        check_sum(
            split.label, ("records in the first pass", split.read), {"in the second": row + 1}
        )
    tally = RecordTally(
        read=row + 1,
        kept=sum(record.facts["documents"] for record in units.records),
        quarantined=quarantine.count,
        dropped_by=dropped.rules,
    )
    tally.check(split.label)
    return [
        *units.records,
        dropped.record(**tally.facts(), inputs=[*read_of.items()]),
        *quarantine.records(),
    ]


def _name_of(text: str) -> str:
    """Make the id of a document that has none: a hash of its text, equal in any input."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


# -- the whole --------------------------------------------------------------------------------


def _facts(directory: str, records: Sequence[FileRecord]) -> dict[str, Any]:
    """Add up the accounting of all splits."""
    whole = RecordTally()
    units = [record for record in records if record.path.startswith("unit-")]
    for record in records:
        if record.path.startswith("dropped-"):
            whole.add(RecordTally.of(record.facts))
    whole.check(directory)
    in_units = sum(record.facts["documents"] for record in units)
    check_sum(directory, ("documents kept", whole.kept), {"in units": in_units})
    return {"documents": whole.facts(), "by_source": sum_by_source(units)}


def _nothing_kept(documents: dict[str, Any]) -> InputError:
    rules = documents["dropped_by"].items()
    by_rule = ", ".join(f"{count:,} by the rule {rule}" for rule, count in rules)
    return InputError(
        f"no document is left of {documents['read']:,} read: "
        f"{documents['quarantined']:,} quarantined, {documents['dropped']:,} dropped"
        f"{f' ({by_rule})' if by_rule else ''}",
        key="corpus",
        fix="check corpus.text and the files",
    )
