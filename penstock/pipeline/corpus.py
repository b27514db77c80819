"""Files to corpus: read, quarantine, drop duplicates, write units.

Inputs are read twice rather than kept in between. The first pass leaves a hash of each document's
normalised text and counts records and lines; duplicates are found among the hashes; the second
pass writes what stays. Reading is cheap (about 300 MB/s a core decompressed) next to a second
copy of the text. Both passes work on splits, parts of the input of about one unit, so one large
file is read by many workers and a resume goes on inside it.

Every record has a fate: kept in a unit, dropped with the rule that dropped it, or quarantined
with its error and its bytes. A worker holds a row group and a document, however large its split.
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
from penstock.pipeline.accounting import Tally, check_sum
from penstock.pipeline.cleaning.duplicates import (
    Hashes,
    Range,
    Repeats,
    find_repeats,
    normalise,
    ranges_for,
)
from penstock.pipeline.cleaning.fates import Dropped, Quarantine
from penstock.pipeline.reading.digests import hash_inputs, stamp
from penstock.pipeline.reading.inputs import Input, find_inputs
from penstock.pipeline.reading.records import Bad, Record
from penstock.pipeline.reading.spans import Extent
from penstock.pipeline.reading.splits import Piece, Split, plan_splits
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import UNIT_BYTES, UnitWriter
from penstock.recipe import Clean, Recipe
from penstock.storage import AnyPath

__all__ = ["STAGE", "VERSION", "CorpusSettings", "make_corpus", "normalise"]

STAGE = "corpus"
VERSION = 2

_CAP_TIMES, _CAP_PLUS = 4, 2**20
"""A line is read up to this many times ``max_document_bytes`` and this more: room for escapes and
for other fields. (Were every character of the largest document written as ``\\u0041``, six bytes
for one, it would be over the cap and quarantined.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSettings:
    """All that the corpus stage needs of a recipe."""

    inputs: tuple[Input, ...]
    """The files, found and not yet hashed."""
    clean: Clean = Clean()
    unit_bytes: int = UNIT_BYTES
    """Bytes of text after which a unit ends. No key of a recipe sets it; tests do."""

    @classmethod
    def of(cls, recipe: Recipe, unit_bytes: int = UNIT_BYTES) -> CorpusSettings:
        """Find the recipe's input files.

        Raises:
            InputError: As :func:`~penstock.pipeline.reading.inputs.find_inputs`.
        """
        inputs = tuple(find_inputs(recipe))
        return cls(inputs=inputs, clean=recipe.clean, unit_bytes=unit_bytes)

    def config(self) -> dict[str, Any]:
        """Return the stage's part of the fingerprint, beside the hashes of the inputs."""
        return {"clean": self.clean.model_dump(mode="json"), "unit_bytes": self.unit_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What every task of this stage is told."""

    directory: AnyPath
    clean: Clean
    unit_bytes: int
    ranges: Range | None = None
    """Where repeats were found; None before they are, or where they stay."""

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
        parts = [split.part for split in splits]
        if clean.dedup.exact and any(draft.done(part) is None for part in parts):
            splits = _surveyed(splits, stage, draft, runner)
            stage = replace(stage, ranges=_compared(splits, draft, runner))
        left = [split for split in splits if draft.done(split.part) is None]
        for index, files in runner.run(_write_split, left, stage):
            draft.record(left[index].part, files)
        facts = _facts(draft, parts)
        if not facts["documents"]["kept"]:
            raise InputError(_nothing_kept(facts["documents"]))
        return draft.publish(parts, facts)

    return workspace.make(STAGE, VERSION, settings.config(), names, work)


# -- reading ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Judged:
    """A record of a split, with what can be said of it by itself."""

    piece: Piece
    record: Record | Bad
    size: int = 0
    """Bytes of a good record's text in UTF-8."""
    rule: str | None = None
    """The rule that drops it."""


def _judged(split: Split, stage: _Stage, extents: list[Extent]) -> Iterator[_Judged]:
    """The records of a split, in order; ``extents`` gets what was found in each piece."""
    limit = stage.clean.max_document_bytes
    for piece in split.pieces:
        _check_unchanged(piece.item)
        extents.append(extent := Extent())
        for record in piece.records(stage.cap, extent):
            if isinstance(record, Bad):
                yield _Judged(piece, record)
                continue
            text = record.text
            try:
                size = len(text) if text.isascii() else len(text.encode())
                (record.id or "").encode()
                record.source.encode()
            except UnicodeEncodeError as error:
                yield _Judged(piece, _refused(piece, record, f"not Unicode text: {error}"))
                continue
            if size > limit:
                message = f"{size:,} bytes of text, more than clean.max_document_bytes = {limit:,}"
                yield _Judged(piece, _refused(piece, record, message))
            else:
                yield _Judged(piece, record, size, "empty" if not text or text.isspace() else None)
        _check_unchanged(piece.item)


def _check_unchanged(item: Input) -> None:
    if stamp(item.path) != item.stamp:
        raise InputError(f"{item.path}: changed since its bytes were hashed; run again")


def _refused(piece: Piece, record: Record, error: str) -> Bad:
    """With the whole record in ASCII, which lone surrogates survive."""
    place = piece.span.place(piece.reader.noun, record.number)
    return Bad(place, error, json.dumps(asdict(record)).encode())


# -- the first pass ---------------------------------------------------------------------------


def _surveyed(splits: Sequence[Split], stage: _Stage, draft: Draft, runner: Runner) -> list[Split]:
    """The splits with what the first pass counted in them; their hashes are in scratch."""
    fresh = [split for split in splits if draft.done(f"hashes-{split.part}") is None]
    for index, record in runner.run(_hash_split, fresh, stage):
        draft.record(f"hashes-{fresh[index].part}", [record])
    surveyed = []
    before: dict[int, tuple[int, int]] = {}
    for split in splits:
        (record,) = draft.done(f"hashes-{split.part}") or ()
        pieces = []
        for piece, (lines, size) in zip(split.pieces, record.facts["pieces"]):
            span = piece.span
            rows, start = before.get(piece.input, (0, 0))
            before[piece.input] = rows + lines, start + size
            if not span.counted:
                span = replace(span, rows=rows, bytes=start, counted=True)
            pieces.append(replace(piece, span=span))
        surveyed.append(replace(split, pieces=tuple(pieces), read=record.facts["read"]))
    return surveyed


def _hash_split(split: Split, stage: _Stage) -> FileRecord:
    """The first pass over a split: hashes of what may be kept, and counts."""
    hashes = Hashes()
    extents: list[Extent] = []
    read = 0
    for judged in _judged(split, stage, extents):
        if isinstance(judged.record, Record) and not judged.rule:
            hashes.add(read, judged.record.text)
        read += 1
    counts = [[extent.lines, extent.bytes] for extent in extents]
    return hashes.write(stage.directory, split.number, read=read, pieces=counts)


def _compared(splits: Sequence[Split], draft: Draft, runner: Runner) -> Range:
    """Leave in scratch which records repeat which; the first of the ranges this took."""
    count = ranges_for(sum(split.read or 0 for split in splits))
    first = Range(number=0, ranges=count, splits=len(splits), draft=draft.path)
    for _ in runner.run(find_repeats, [replace(first, number=n) for n in range(count)]):
        pass
    return first


# -- the second pass --------------------------------------------------------------------------


def _write_split(split: Split, stage: _Stage) -> list[FileRecord]:
    """The second pass over a split: units, the dropped, the quarantined."""
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
        for row, judged in enumerate(_judged(split, stage, [])):
            record, rule, of = judged.record, judged.rule, None
            read_of[judged.piece.input] += 1
            if isinstance(record, Bad):
                quarantine.add(judged.piece.item.path.name, row, record)
                continue
            if repeats is not None and rule is None:
                if row == split.read:
                    break  # counted below
                of = repeats.of(row)
                rule = "duplicate" if of is not None else None
            name = record.id if record.id is not None else _name_of(record.text)
            if rule:
                dropped.add(name, record, judged.size, rule, row, of)
            else:
                units.add(name, record, judged.size)
    if split.read is not None:
        check_sum(
            split.label, ("records in the first pass", split.read), {"in the second": row + 1}
        )
    tally = Tally(
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
    """The id of a document that has none: a hash of its text, so it is the same wherever found."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


# -- the whole --------------------------------------------------------------------------------


def _facts(draft: Draft, parts: Sequence[str]) -> dict[str, Any]:
    """The accounting over all splits."""
    whole = Tally()
    sources: dict[str, dict[str, int]] = {}
    units = 0
    for part in parts:
        for record in draft.done(part) or ():
            if record.path.startswith("dropped-"):
                whole.add(Tally.of(record.facts))
            elif record.path.startswith("unit-"):
                units += record.facts["documents"]
                for source, tally in record.facts["sources"].items():
                    total = sources.setdefault(source, {"documents": 0, "bytes": 0})
                    total["documents"] += tally["documents"]
                    total["bytes"] += tally["bytes"]
    whole.check(str(draft.path))
    check_sum(str(draft.path), ("documents kept", whole.kept), {"in units": units})
    return {"documents": whole.facts(), "by_source": dict(sorted(sources.items()))}


def _nothing_kept(documents: dict[str, Any]) -> str:
    rules = documents["dropped_by"].items()
    said = ", ".join(f"{count:,} by the rule {rule}" for rule, count in rules)
    return (
        f"corpus: no document is left of {documents['read']:,} read: "
        f"{documents['quarantined']:,} quarantined, {documents['dropped']:,} dropped"
        f"{f' ({said})' if said else ''}; check corpus.text and the files"
    )
