"""The corpus stage: read input files, quarantine bad records, write all others as units.

Inputs are read once, and nothing is judged here: also empty documents and duplicates are rows of a
unit, and :mod:`penstock.pipeline.cleaning` decides which of them a pool keeps. The work is divided
into splits, parts of the input of about one unit, so one large file is read by many workers, and a
resumed run goes on inside it.

Every record is in a unit, or quarantined with its error and its bytes. A worker holds a row group
and a document, for a split of any size.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.activity import count_documents
from penstock.artefact import Artefact, Draft, FileRecord, Workspace, canonical
from penstock.errors import InputError
from penstock.pipeline.checking import (
    RecordTally,
    check_sources,
    check_sum,
    largest_sources,
    sum_by_source,
)
from penstock.pipeline.cleaning.quarantine import FirstError, Quarantine, first_error
from penstock.pipeline.reading.batches import ParsedBatch
from penstock.pipeline.reading.finding import FoundInputs, find_inputs
from penstock.pipeline.reading.hugging_face import unread_splits
from penstock.pipeline.reading.inputs import Input, hash_inputs, unchanged
from penstock.pipeline.reading.left_out import LeftOut, describe
from penstock.pipeline.reading.readers import reader_of
from penstock.pipeline.reading.records import Bad, Extent, refused
from penstock.pipeline.reading.splits import InputPiece, Split, plan_splits
from penstock.pipeline.reading.streams import EXPANSION, compression_of
from penstock.pipeline.repeated_examples import describe_repeated, find_repeated
from penstock.pipeline.repeated_ids import count_repeated_ids
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import GIVEN, UNIT_BYTES, UnitWriter
from penstock.recipe import CorpusSource, Recipe
from penstock.storage import AnyPath, atomic_file
from penstock.text_hashes import name_texts

__all__ = [
    "STAGE",
    "VERSION",
    "CorpusSettings",
    "digests",
    "make_corpus",
    "text_digest",
    "unit_bytes_for",
]

STAGE = "corpus"
VERSION = 12

_LEAST_UNIT_BYTES = 16 * 2**20
"""Bytes of text after which a unit of a small corpus ends: 0.1 s of work. Each unit costs 11 ms of
this stage, so that with 4 MiB it took 1.4 times as long."""

_UNITS = 16
"""Units of a corpus, at least, where they are not smaller than that: work for as many cores."""

_NO_SOURCE = "unknown"
"""The source of a document whose record has none."""

_CAP_TIMES, _CAP_PLUS = 4, 2**20
"""A line is read up to this many times ``max_document_bytes`` and this much more: room for escapes
and for other fields. (A largest document with every character written as ``\\u0041``, six bytes
for one, would be over the cap and quarantined.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSettings:
    """Settings of the corpus stage, from a recipe."""

    found: FoundInputs
    """The files, not yet hashed, and what was left out."""
    max_document_bytes: int
    """UTF-8 bytes; a longer document is quarantined."""
    unit_bytes: int | None = None
    """Bytes of text after which a unit ends; by default they follow from the inputs' bytes."""

    @classmethod
    def of(cls, recipe: Recipe, unit_bytes: int | None = None) -> CorpusSettings:
        """Find the recipe's input files.

        Args:
            recipe: The recipe.
            unit_bytes: Bytes in place of the recipe's ``unit_bytes``.

        Raises:
            InputError: As :func:`~penstock.pipeline.reading.finding.find_inputs`.
            BadInput: A module that reads a file is not installed.
        """
        found = find_inputs(recipe)
        for item in found.inputs:
            if reader := reader_of(item.path, item.spec):
                reader.require(item.path, item.spec)
        return cls(
            found=found,
            max_document_bytes=recipe.clean.max_document_bytes,
            unit_bytes=unit_bytes or recipe.unit_bytes,
        )

    def sized(self, inputs: Sequence[Input]) -> CorpusSettings:
        """Return the settings with the bytes of a unit, for inputs that were hashed."""
        if self.unit_bytes is not None:
            return self
        known = all(item.size for item in inputs)  # not of a dataset
        size = sum(item.size * (EXPANSION if compression_of(item.path) else 1) for item in inputs)
        return replace(self, unit_bytes=unit_bytes_for(size) if known else UNIT_BYTES)

    def config(self) -> dict[str, Any]:
        """Return the stage's part of the fingerprint, beside the hashes of the inputs."""
        return {"max_document_bytes": self.max_document_bytes, "unit_bytes": self.unit_bytes}


def unit_bytes_for(size: int) -> int:
    """Return after how many bytes of text a unit ends, in a corpus of about ``size`` bytes.

    It is a power of two, and depends on the inputs alone, as all that is made of units must.
    """
    share = max(1, size // _UNITS)
    return min(max(1 << (share.bit_length() - 1), _LEAST_UNIT_BYTES), UNIT_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """The state that every task of the stage shares."""

    directory: AnyPath
    limit: int
    """Most bytes of a document's text."""
    unit_bytes: int

    @property
    def cap(self) -> int:
        return _CAP_TIMES * self.limit + _CAP_PLUS


def make_corpus(
    settings: CorpusSettings,
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None] = lambda line: None,
) -> Artefact:
    """Find the corpus of these input files, or make it.

    Raises:
        InputError: A file is missing, truncated or unreadable, lacks the text field, or no record
            of all can be read.
        ArtefactError: The records that were read are not all accounted for.
    """
    for note in settings.found.notes:
        progress(note)
    inputs = hash_inputs(settings.found.inputs, workspace, runner)
    settings = settings.sized(inputs)
    assert settings.unit_bytes is not None
    unit_bytes = settings.unit_bytes
    names = {"files": [[item.digest, item.reading] for item in inputs]}

    def work(draft: Draft) -> Artefact:
        if old := [own for own in workspace.finished(STAGE) if 0 < _version(own) < VERSION]:
            progress(
                f"{workspace.root}: {len(old)} corpora of an earlier version of Penstock are not "
                "used, nor what was made of them; delete the directory to free the space"
            )
        left_out = settings.found.left_out
        if unread := unread_splits((item.spec, item.path) for item in inputs):
            more, lines = describe(LeftOut(splits=unread), Path())
            for line in lines:
                progress(line)
            left_out = left_out | {"splits": left_out.get("splits", 0) + more["splits"]}
        splits = plan_splits(inputs, draft.path, unit_bytes, runner)
        by_part = {split.part: split for split in splits}
        stage = _Stage(
            directory=draft.path,
            limit=settings.max_document_bytes,
            unit_bytes=unit_bytes,
        )
        records = draft.fill(runner.run, _write_split, by_part, stage)
        facts = _facts(str(draft.path), records, inputs)
        if not facts["documents"]["kept"]:
            raise _nothing_read(facts["documents"], first_error(draft.path, records))
        if others := facts["other_records"]:
            told = ", ".join(f"{kind} {count:,}" for kind, count in others.items())
            progress(f"records of web archives that are not documents: {told}")
        for label, counts in facts["without_field"].items():
            for name, count in counts.items():
                if name != CorpusSource.model_fields[label].default:
                    progress(
                        f"documents without the field {name!r} (corpus.{label}): {count:,}, "
                        f"{_LABELS[label]}"
                    )
        if repeated := count_repeated_ids(records, draft, runner):
            found = find_repeated(records, draft.path)
            progress(describe_repeated(repeated, found, inputs))
        facts |= {"repeated_ids": repeated, "left_out": left_out}
        return draft.publish(by_part, facts)

    return workspace.make(STAGE, VERSION, settings.config(), names, work)


def _version(corpus: Artefact) -> int:
    """Return the version of the stage; 0 of a corpus that a rewriter made."""
    return int(corpus.manifest["stage_version"])


# -- reading ----------------------------------------------------------------------------------


def _readable(
    batch: ParsedBatch, piece: InputPiece, noun: str, limit: int
) -> tuple[pa.RecordBatch, Sequence[Bad]]:
    """Return the documents of a batch up to the limit, and its bad records with all others."""
    sizes = pc.binary_length(batch.documents["text"]).to_numpy()
    over = np.flatnonzero(sizes > limit)
    if not len(over):
        return batch.documents, batch.bad
    bad = [*batch.bad]
    for row in over.tolist():
        record = batch.document(row)
        error = f"{sizes[row]:,} bytes of text, more than clean.max_document_bytes = {limit:,}"
        bad.append(refused(record, piece.span.place(noun, record.number), error))
    bad.sort(key=lambda one: one.number)
    return batch.documents.filter(pa.array(sizes <= limit)), bad


def _columns(documents: pa.RecordBatch, number: int, add: int) -> pa.RecordBatch:
    """Return the documents of input ``number`` as units have them.

    Args:
        documents: Of the schema :data:`~penstock.pipeline.reading.batches.DOCUMENTS`.
        number: Number of the input.
        add: Lines before those that are counted in ``documents``.
    """
    texts, ids = documents["text"], documents["id"]
    if ids.null_count:
        missing = ids.is_null()
        ids = pc.replace_with_mask(ids, missing, name_texts(texts.filter(missing)))
    count = len(documents)
    columns = [
        *(ids, texts, pc.fill_null(documents["source"], _NO_SOURCE)),
        *(documents["meta"], pa.nulls(count, pa.string())),
        pc.binary_length(texts).cast(pa.int64()),
        pa.array(np.full(count, number, np.int32)),
        pc.add(documents["number"], add),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=GIVEN)


# -- writing ----------------------------------------------------------------------------------


def _write_split(split: Split, stage: _Stage) -> list[FileRecord]:
    """Write a split: its units, its quarantine, and the counts of its inputs."""
    tally = RecordTally()
    before: Counter[int] = Counter()
    inputs = []
    with (
        UnitWriter(stage.directory, split.part, stage.unit_bytes) as units,
        Quarantine(stage.directory, split.part) as quarantine,
    ):
        for piece in split.pieces:
            extent, first = Extent(), tally.read
            without = dict.fromkeys(_LABELS, 0)
            # Lines of a span are counted from its beginning, unless it begins the file.
            add = 0 if piece.span.counted else before[piece.input]
            with unchanged(piece.item):
                for batch in piece.batches(stage.cap, extent):
                    noun = extent.noun or piece.reader.noun
                    documents, bad = _readable(batch, piece, noun, stage.limit)
                    tally.read += len(documents) + len(bad)
                    for label in without:
                        without[label] += documents[label].null_count
                    for record in bad:
                        quarantine.add(piece.item.label, piece.input, record)
                    units.write(_columns(documents, piece.input, add))
                    count_documents(len(documents), documents["text"].nbytes)
                    column = piece.item.spec.source
                    own = column if isinstance(column, str) else None
                    check_sources(units.sources, own, piece.item.path)
            before[piece.input] += extent.lines
            inputs.append(
                {
                    "input": piece.input,
                    "records": tally.read - first,
                    "lines": extent.lines,
                    "counted": piece.span.counted,
                    "others": dict(sorted(extent.others.items())),
                    "without": without,
                }
            )
    tally.kept = sum(record.facts.get("documents", 0) for record in units.records)
    tally.quarantined = quarantine.count
    tally.check(split.label)
    facts = {**tally.facts(), "inputs": inputs}
    with atomic_file(stage.directory / f"part-{split.part}.json") as sink:
        sink.write(canonical(facts))
    return [
        *units.records,
        FileRecord.of(f"part-{split.part}.json", sink, **facts),
        *quarantine.records(),
    ]


# -- the whole --------------------------------------------------------------------------------


_LABELS = {
    "id": "named by a hash of their text",
    "source": f"whose source is {_NO_SOURCE!r}",
}
"""Keys of an item of ``corpus`` that name a field, and what documents without the field get."""


def _facts(
    directory: str, records: Sequence[FileRecord], inputs: Sequence[Input]
) -> dict[str, Any]:
    """Add up the accounting of all splits."""
    whole = RecordTally()
    others: Counter[str] = Counter()
    without: dict[str, Counter[str]] = {label: Counter() for label in _LABELS}
    units = [record for record in records if record.path.startswith("unit-")]
    for record in records:
        if record.path.startswith("part-"):
            whole.add(RecordTally.of(record.facts))
            for item in record.facts["inputs"]:
                others.update(item["others"])
                for label, count in item["without"].items():
                    spec = inputs[item["input"]].spec
                    name = str(spec.id if label == "id" else spec.source)
                    without[label] += Counter({name: count})
    whole.check(directory)
    in_units = sum(record.facts["documents"] for record in units)
    check_sum(directory, ("records that can be read", whole.kept), {"in units": in_units})
    by_source = sum_by_source(units)
    check_sources(by_source)
    return {
        "documents": whole.facts(),
        "by_source": largest_sources(by_source, "bytes"),
        "other_records": dict(sorted(others.items())),
        "without_field": {label: dict(sorted(own.items())) for label, own in without.items()},
        **digests(units),
    }


def digests(units: Sequence[FileRecord]) -> dict[str, str]:
    """Name the texts of units, and their ids: equal whatever the other labels are.

    Args:
        units: Records of the files of texts.

    Returns:
        ``text`` and ``ids``: 64 hexadecimal digits each.
    """
    return {"text": text_digest(units), "ids": _digest(units, "ids")}


def text_digest(units: Sequence[FileRecord]) -> str:
    """Name the texts of units by their hashes: 64 hexadecimal digits."""
    return _digest(units, "texts")


def _digest(units: Sequence[FileRecord], fact: str) -> str:
    names = [[record.path, record.facts["documents"], record.facts[fact]] for record in units]
    return hashlib.sha256(canonical(names)).hexdigest()


def _nothing_read(documents: dict[str, Any], first: FirstError | None) -> InputError:
    return InputError(
        f"no document is left of {documents['read']:,} read: "
        f"{documents['quarantined']:,} quarantined"
        f"{f'; the first in quarantine: {first.text}' if first else ''}",
        key="corpus",
        file=first and first.path,
        fix="check corpus.text and the files",
    )
