"""Files to corpus: read, quarantine, drop duplicates, write units.

Inputs are read twice rather than kept in between. The first pass leaves a hash of each document's
normalised text; duplicates are found among the hashes, one range of hash values at a time; the
second pass writes what stays. Reading is cheap (about 300 MB/s a core decompressed) next to a
second copy of the text. Every record has a fate: kept in a unit, dropped with the rule that
dropped it, or quarantined with its error and its bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace, atomic_file
from penstock.errors import ArtefactError, InputError
from penstock.pipeline.inputs import Input, find_inputs, hash_inputs, stamp
from penstock.pipeline.readers import Bad, Record, read_records
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import UNIT_BYTES, UnitWriter
from penstock.recipe import Recipe

__all__ = ["STAGE", "VERSION", "make_corpus", "normalise"]

STAGE = "corpus"
VERSION = 1

_DOCUMENTS_PER_RANGE = 20_000_000
"""Hashes compared at a time: 16 bytes each, so about 1 GB with the sort."""

_FATES = 65_536
"""Dropped documents held before they are written, as a row group."""

_DROPPED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What a task of this stage is told."""

    number: int
    item: Input
    directory: Path
    max_bytes: int
    exact: bool
    unit_bytes: int

    @property
    def part(self) -> str:
        return f"{self.number:05d}"

    @property
    def hashes(self) -> Path:
        return self.directory / "hashes" / f"{self.part}.npy"

    @property
    def duplicates(self) -> Path:
        return self.directory / "duplicates"


def make_corpus(
    recipe: Recipe, workspace: Workspace, runner: Runner, unit_bytes: int = UNIT_BYTES
) -> Artefact:
    """The corpus that a recipe names, found or made.

    Raises:
        InputError: A file is missing, truncated or unreadable, or no document is left.
    """
    inputs = hash_inputs(find_inputs(recipe), workspace.root, runner)
    config = {"clean": recipe.clean.model_dump(mode="json"), "unit_bytes": unit_bytes}
    names = {"files": [[item.sha256, item.reading] for item in inputs]}

    def work(draft: Draft) -> Artefact:
        jobs = [
            _Job(
                number=number,
                item=item,
                directory=draft.path,
                max_bytes=recipe.clean.max_document_bytes,
                exact=recipe.clean.dedup.exact,
                unit_bytes=unit_bytes,
            )
            for number, item in enumerate(inputs)
        ]
        left = [job for job in jobs if draft.done(job.part) is None]
        if left and recipe.clean.dedup.exact:
            _find_duplicates(jobs, runner)
        for index, files in runner.run(_write_units, left):
            draft.record(left[index].part, files)
        facts = _tally(draft, [job.part for job in jobs])
        if not facts["documents"]["kept"]:
            raise InputError(_nothing_kept(facts))
        return draft.publish([job.part for job in jobs], facts)

    return workspace.make(STAGE, VERSION, config, names, work)


def normalise(text: str) -> str:
    """The form in which texts are compared: lower case, runs of white space as one space."""
    return " ".join(text.lower().split())


def _find_duplicates(jobs: Sequence[_Job], runner: Runner) -> None:
    """Leave, for each input, the rows that repeat an earlier document of the corpus."""
    fresh = [job for job in jobs if not job.hashes.exists()]
    for _ in runner.run(_hash_texts, fresh):
        pass
    rows = sum(len(np.load(job.hashes, mmap_mode="r")) for job in jobs)
    ranges = max(1, -(-rows // _DOCUMENTS_PER_RANGE))
    for _ in runner.run(_compare_range, [(number, ranges) for number in range(ranges)], list(jobs)):
        pass


def _judged(job: _Job) -> Iterator[tuple[Record | Bad, str | None]]:
    """Every record of an input with the rule that drops it, as far as it alone can tell."""
    _check_unchanged(job.item)
    for number, record in enumerate(read_records(job.item.path, job.item.spec), 1):
        if isinstance(record, Bad):
            yield record, None
            continue
        try:
            size = len(record.text.encode())
            (record.id or "").encode()
            record.source.encode()
        except UnicodeEncodeError as error:
            yield Bad(f"record {number}", f"not Unicode text: {error}", _escaped(record)), None
            continue
        if size > job.max_bytes:
            message = (
                f"{size:,} bytes of text, more than clean.max_document_bytes = {job.max_bytes:,}"
            )
            yield Bad(f"record {number}", message, _escaped(record)), None
        else:
            yield record, None if record.text.strip() else "empty"
    _check_unchanged(job.item)


def _check_unchanged(item: Input) -> None:
    if stamp(item.path) != item.stamp:
        raise InputError(f"{item.path}: changed since its bytes were hashed; run again")


def _escaped(record: Record) -> bytes:
    """A whole record in ASCII, which lone surrogates survive."""
    return json.dumps(asdict(record)).encode()


def _hash_texts(job: _Job, _: object) -> None:
    """128 bits for each record that may be kept, zero for the others."""
    hashes = bytearray()
    for record, rule in _judged(job):
        if isinstance(record, Bad) or rule:
            hashes += bytes(16)
        else:
            text = normalise(record.text).encode()
            hashes += hashlib.blake2b(text, digest_size=16).digest()
    with atomic_file(job.hashes) as sink:
        np.save(sink, np.frombuffer(hashes, dtype=np.uint64).reshape(-1, 2), allow_pickle=False)


def _compare_range(item: tuple[int, int], jobs: list[_Job]) -> None:
    """Find the repeats among the hashes of one range; the first in corpus order stays."""
    number, ranges = item
    parts: list[np.ndarray] = []
    places: list[np.ndarray] = []
    for job in jobs:
        hashes = np.load(job.hashes)
        inside = np.flatnonzero((hashes[:, 0] % np.uint64(ranges) == number) & hashes.any(axis=1))
        parts.append(hashes[inside])
        places.append(np.stack([np.full(len(inside), job.number, dtype=np.int64), inside], axis=1))
    hashes, where = np.concatenate(parts), np.concatenate(places)
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: corpus order within equals
    ordered = hashes[order]
    repeats = np.zeros(len(order), dtype=bool)
    repeats[1:] = (ordered[1:] == ordered[:-1]).all(axis=1)
    found = where[order[repeats]]
    with atomic_file(jobs[0].duplicates / f"{number:05d}-of-{ranges:05d}.npy") as sink:
        np.save(sink, found[np.lexsort((found[:, 1], found[:, 0]))], allow_pickle=False)


def _repeats(job: _Job) -> np.ndarray:
    """Whether each record of an input repeats an earlier document: (records,) bool."""
    repeats = np.zeros(len(np.load(job.hashes)), dtype=bool)
    for path in sorted(job.duplicates.glob("*.npy")):
        found = np.load(path)
        repeats[found[found[:, 0] == job.number, 1]] = True
    return repeats


class _Dropped:
    """Writes which documents were dropped, and by which rule, as they come."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self.rules: Counter[str] = Counter()
        self._rows: list[tuple[str, str, str]] = []
        self._writer = writer

    def add(self, name: str, source: str, rule: str) -> None:
        self.rules[rule] += 1
        self._rows.append((name, source, rule))
        if len(self._rows) == _FATES:
            self.flush()

    def flush(self) -> None:
        columns = [pa.array(column, pa.string()) for column in zip(*self._rows)]
        self._rows = []
        if columns:
            self._writer.write_table(pa.Table.from_arrays(columns, schema=_DROPPED))


def _write_units(job: _Job, _: object) -> list[FileRecord]:
    """The second pass over one input: units, the dropped, the quarantined."""
    repeats = _repeats(job) if job.exact else None
    units = UnitWriter(job.directory, job.part, job.unit_bytes)
    fates = job.directory / f"dropped-{job.part}.parquet"
    quarantine = job.directory / f"quarantine-{job.part}.jsonl"
    read = bad = 0
    with (
        atomic_file(quarantine) as sink,
        atomic_file(fates) as table,
        pq.ParquetWriter(table, _DROPPED, compression="zstd") as writer,
    ):
        dropped = _Dropped(writer)
        for row, (record, rule) in enumerate(_judged(job)):
            read += 1
            if isinstance(record, Bad):
                bad += 1
                sink.write(_quarantined(job, record))
                continue
            name = record.id if record.id is not None else _name_of(record.text)
            why = rule or ("duplicate" if repeats is not None and repeats[row] else None)
            if why:
                dropped.add(name, record.source, why)
            else:
                units.add(name, record)
        dropped.flush()
    files = units.close()
    tally = {
        "read": read,
        "kept": sum(record.facts["documents"] for record in files),
        "dropped": dropped.rules.total(),
        "dropped_by": dict(sorted(dropped.rules.items())),
        "quarantined": bad,
    }
    _check(tally, str(job.item.path))
    return [
        *files,
        FileRecord.of(job.directory, fates.name, **tally),
        FileRecord.of(job.directory, quarantine.name, documents=bad),
    ]


def _name_of(text: str) -> str:
    """The id of a document that has none: a hash of its text, so it is the same wherever found."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _quarantined(job: _Job, bad: Bad) -> bytes:
    raw: dict[str, str]
    try:
        raw = {"raw": bad.raw.decode("utf-8")}
    except UnicodeDecodeError:
        raw = {"raw_base64": base64.b64encode(bad.raw).decode()}
    line = {"file": job.item.path.name, "place": bad.place, "error": bad.error, **raw}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _check(tally: dict[str, Any], place: str) -> None:
    """read = kept + dropped + quarantined, or the count is refused."""
    accounted = tally["kept"] + tally["dropped"] + tally["quarantined"]
    if tally["read"] != accounted or tally["dropped"] != sum(tally["dropped_by"].values()):
        raise ArtefactError(f"{place}: {tally['read']} records read, {accounted} accounted for")


def _tally(draft: Draft, parts: Sequence[str]) -> dict[str, Any]:
    """The accounting over all inputs."""
    documents: dict[str, Any] = dict.fromkeys(("read", "kept", "dropped", "quarantined"), 0)
    rules: Counter[str] = Counter()
    sources: dict[str, dict[str, int]] = {}
    for part in parts:
        for record in draft.done(part) or ():
            facts = record.facts
            if record.path.startswith("dropped-"):
                for key in documents:
                    documents[key] += facts[key]
                rules.update(facts["dropped_by"])
            elif record.path.startswith("unit-"):
                for source, tally in facts["sources"].items():
                    total = sources.setdefault(source, {"documents": 0, "bytes": 0})
                    total["documents"] += tally["documents"]
                    total["bytes"] += tally["bytes"]
    documents["dropped_by"] = dict(sorted(rules.items()))
    _check(documents, str(draft.path))
    return {"documents": documents, "by_source": dict(sorted(sources.items()))}


def _nothing_kept(facts: dict[str, Any]) -> str:
    documents = facts["documents"]
    return (
        f"corpus: no document is left of {documents['read']} read: "
        f"{documents['quarantined']} quarantined, dropped by rule {documents['dropped_by']}; "
        "check corpus.text and the files"
    )
