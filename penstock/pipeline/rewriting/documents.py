"""The rewriting stage: answers, or edits without a model, to a corpus of rewritten documents.

A rewriter sees the documents that the pool keeps, and what it makes is judged by the same rules. A
rewriter that adds keeps the corpus: the new corpus has new units beside the old ones, which are not
copied. A rewriter that replaces writes what the pool keeps of every unit anew, and inherits a unit
of which nothing changes; a document whose text becomes empty is dropped by a rule of the rewriter's
name. Both passes are functions of the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace, fingerprint
from penstock.errors import ArtefactError, InputError, ScoringError, UnmadeError
from penstock.pipeline.checking import (
    RecordTally,
    call_plugin,
    check_sum,
    largest_sources,
    sum_by_source,
)
from penstock.pipeline.corpus import STAGE, digests
from penstock.pipeline.pool import Pool
from penstock.pipeline.reading.records import Record
from penstock.pipeline.rewriting.answers import Rewrite, answers_of, draw, make_answers
from penstock.pipeline.rewriting.edits import Edit, edit_unit, rewriter_changes
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import (
    SCHEMA,
    UNIT_BYTES,
    Origin,
    Unit,
    UnitWriter,
    iter_documents,
    units_of,
)
from penstock.plugin_code import code_notes
from penstock.selectors.adapter import class_of
from penstock.selectors.rewriting.base import Document, Rewritten
from penstock.storage import AnyPath, atomic_file, copy_file

__all__ = ["DROPPED", "REJECTED", "rewrite_corpus"]

_VERSION = 3

DROPPED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ]
)
"""A document of which a rewriter that replaces left nothing; ``row`` is that in the unit of the
corpus before, kept rows or not."""

REJECTED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""An answer that was not used, or a document without a request."""


_ASKED = ("requests", "prompt_tokens", "completion_tokens")
"""Counts of a model's work; 0 for a rewriter without a model."""

_COLUMNS = (*SCHEMA.names, "hash", "input", "line")


def rewrite_corpus(
    rewrite: Rewrite | Edit,
    pool: Pool,
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None] = lambda line: None,
) -> Artefact:
    """Find or make the corpus that a rewriter makes of a pool.

    A rewriter that adds does not get documents that others added; the source of its own documents
    is its name.

    Raises:
        CompletionError: The model cannot be reached; the answers so far are kept.
        InputError: A source of the corpus has the rewriter's name already.
        ScoringError: The rewriter raised.
        UnmadeError: It has to be made, and the workspace is read-only.
    """
    replaces, corpus = rewrite.rewriter.replaces, pool.corpus
    if not replaces and rewrite.name in sum_by_source(unit.record for unit in pool.units):
        raise InputError(
            "the corpus has a source of this name already",
            key=f"rewrite.{rewrite.name}",
            fix="give the rewriter another name, by which budget.shares can tell the two apart",
        )
    units = [unit for unit in pool.units if replaces or not unit.record.facts.get("added")]
    answers = None
    if isinstance(rewrite, Rewrite):
        answers = make_answers(rewrite.questions, pool, units, workspace, runner, progress)
    config = {
        "rewrite": rewrite.name,
        "version": [_VERSION, rewrite.rewriter.version],
        "identity": rewrite.identity(),
    }
    inputs = {
        "corpus": corpus.fingerprint,
        # A corpus that is replaced has lost what the pool drops, and its reasons.
        "pool": pool.verdicts.fingerprint if replaces else pool.fingerprint,
        **({"answers": answers.fingerprint} if answers else {}),
    }

    def work(draft: Draft) -> Artefact:
        state = (rewrite, answers.path if answers else None, draft.path)
        records = answers.files if answers else repeat(None)
        items = {pair[0].name: pair for pair in zip(units, records)}
        facts = _facts(
            draft,
            draft.fill(runner.run, _replace if replaces else _add, items, state),
            rewrite,
            pool,
            answers,
        )
        if not facts["documents"]["kept"]:
            raise InputError("no document is left of the corpus", key=f"rewrite.{rewrite.name}")
        return draft.publish(items, facts)

    changed: list[str] = []
    if rewrite.code.roots:
        kept = workspace.find(STAGE, fingerprint(STAGE, 0, config, inputs)) is not None
        for line in code_notes(f"rewrite.{rewrite.name}", rewrite.identity(), kept):
            progress(line)
        changed = [] if kept else list(rewriter_changes(rewrite, workspace, STAGE))
    for line in changed:
        progress(f"{line}, so it rewrites again")
    try:
        return workspace.make(STAGE, 0, config, inputs, work)
    except UnmadeError as error:  # the corpus that was read is made
        error.problem = f"{STAGE} that {rewrite.name} rewrites: not made yet"
        error.problem += f" ({changed[0]} since it was made)" if changed else ""
        raise


def _assemble_unit(
    unit: Unit, record: FileRecord, state: tuple[Rewrite, AnyPath, AnyPath]
) -> Iterator[tuple[int, dict[str, Any], Rewritten | None]]:
    """Yield the documents of a unit with their rewritten texts; None for those not drawn."""
    rewrite, answers, _ = state
    rewriter = rewrite.rewriter
    found = answers_of(answers, record)
    following = next(found, None)
    start, numbers = 0, unit.numbers().tolist()
    for batch in iter_documents(unit, _COLUMNS):
        chosen = draw(batch, rewrite.share, rewrite.seed).tolist()
        for row, fields in enumerate(batch.to_pylist(), start):
            if not chosen[row - start]:
                yield row, fields, None
                continue
            document = Document(id=fields["id"], text=fields["text"])
            key, at = f"rewrite.{rewrite.name}", f"document {document.id} of {unit.name}"
            requests = call_plugin(key, at, rewriter.requests, document)
            digests = [request.digest for request in requests]
            mine = []
            if following is not None and following[0] == numbers[row]:
                mine, following = following[1], next(found, None)
            if digests != [digest for digest, _ in mine]:
                raise ArtefactError(
                    "its answers are to other requests than are made now: the rewriter changed and "
                    "its identity did not",
                    key=key,
                    file=at,
                    fix=f"delete {answers} and run again",
                )
            rewritten = call_plugin(
                key, at, rewriter.assemble, document, [answer for _, answer in mine]
            )
            yield row, fields, _check_texts(rewritten, key, at)
        start += len(batch)
    check_sum(unit.label, ("rows answered", 0), {"left over": int(following is not None)})


def _check_texts(rewritten: Any, key: str, at: str) -> Rewritten:
    wrong: str | None = type(rewritten).__name__
    if isinstance(rewritten, Rewritten):
        wrong = next((repr(text) for text in rewritten.texts if not _is_text(text)), None)
    if wrong is not None:
        raise ScoringError(
            key=key,
            file=at,
            expected="a Rewritten with texts in Unicode that are not blank",
            got=wrong,
        )
    return rewritten


def _is_text(text: Any) -> bool:
    """Return whether a value is a text, not blank, without lone surrogates (not encodable)."""
    try:
        return isinstance(text, str) and bool(text.strip()) and bool(text.encode())
    except UnicodeEncodeError:
        return False


def _add(
    item: tuple[Unit, FileRecord], state: tuple[Rewrite, AnyPath, AnyPath]
) -> list[FileRecord]:
    """Write the units of the texts that were made of a unit, and its rejections."""
    unit, record = item
    rewrite, _, directory = state
    rejected: list[tuple[str, str]] = []
    part = f"{unit.name.removeprefix('unit-')}-{rewrite.name}"
    tally = Counter(documents=0, accepted=0)
    with UnitWriter(directory, part, UNIT_BYTES) as units:
        for _, fields, rewritten in _assemble_unit(unit, record, state):
            if rewritten is None:
                continue
            tally["documents"] += 1
            tally["accepted"] += len(rewritten.texts)
            rejected += [(fields["id"], reason) for reason in rewritten.rejected]
            for place, text in enumerate(rewritten.texts):
                name = f"{fields['id']}+{rewrite.name}.{place}"
                units.add(
                    name,
                    Record(text=text, id=name, source=rewrite.name, meta=""),
                    len(text.encode()),
                    parent=fields["id"],
                )
    return [
        *(_with(own, added=rewrite.name) for own in units.records),
        _write_rejected(directory, unit, rejected, tally),
    ]


def _replace(
    item: tuple[Unit, FileRecord | None], state: tuple[Rewrite | Edit, AnyPath | None, AnyPath]
) -> list[FileRecord]:
    """Write a unit with its rewritten documents, the dropped documents, and the rejections.

    A unit of which the pool keeps every document, and in which nothing changes, is inherited: its
    files are linked or copied as they are. Written anew, they would have the same bytes.
    """
    unit, record = item
    rewrite, answers, directory = state
    part = unit.name.removeprefix("unit-")
    if isinstance(rewrite, Edit):
        rows = edit_unit(unit, rewrite, _COLUMNS)
    else:
        assert record is not None and answers is not None
        rows = _assemble_unit(unit, record, (rewrite, answers, directory))
    replacing = _Replacing(rewrite.name)
    outcomes = replacing.outcomes(rows)
    same, changed = 0, None
    if unit.documents == unit.of:
        for fields, text in outcomes:
            if text != fields["text"]:
                changed = fields, text
                break
            same += 1
    if same == unit.of:
        files = _inherit(unit, directory, f"{part}-000")
    else:
        again = ((fields, fields["text"]) for fields in islice(_documents(unit), same))
        files = _write(unit, directory, part, chain(again, [changed] if changed else [], outcomes))
    kept = sum(own.facts.get("documents", 0) for own in files)
    by_rule = dict(sorted(Counter(own["rule"] for own in replacing.dropped).items()))
    check_sum(unit.label, ("documents", unit.documents), {"kept": kept, **by_rule})
    numbers = unit.numbers()
    for own in replacing.dropped:
        own["row"] = int(numbers[own["row"]])
    return [
        *files,
        _write_dropped(directory, part, replacing.dropped, by_rule),
        _write_rejected(directory, unit, replacing.rejected, replacing.tally),
    ]


def _documents(unit: Unit) -> Iterator[dict[str, Any]]:
    for batch in iter_documents(unit, _COLUMNS):
        yield from batch.to_pylist()


class _Replacing:
    """The texts that take the place of a unit's documents, and the counts of its work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.tally = Counter(documents=0, accepted=0, changed=0)
        self.rejected: list[tuple[str, str]] = []
        self.dropped: list[dict[str, Any]] = []
        """Rows of :data:`DROPPED`; ``row`` among the documents that are kept."""

    def outcomes(
        self, rows: Iterator[tuple[int, dict[str, Any], Rewritten | None]]
    ) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Yield each document's columns and new text; None where nothing is left."""
        for row, fields, rewritten in rows:
            name, text = fields["id"], fields["text"]
            if rewritten is None:
                yield fields, text
                continue
            self.tally["documents"] += 1
            self.rejected += [(name, reason) for reason in rewritten.rejected]
            if not rewritten.texts:
                reason = rewritten.rejected[0] if rewritten.rejected else "nothing"
                rule = f"{self._name}: {reason}"
                own = {"id": name, "source": fields["source"], "rule": rule, "row": row}
                self.dropped.append(own)
                yield fields, None
                continue
            if len(rewritten.texts) > 1:
                raise ScoringError(
                    key=f"rewrite.{self._name}",
                    file=f"document {name}",
                    expected="one text in its place",
                    got=len(rewritten.texts),
                )
            (new,) = rewritten.texts
            self.tally["accepted"] += 1
            self.tally["changed"] += new != text
            yield fields, new


def _write(
    unit: Unit,
    directory: AnyPath,
    part: str,
    outcomes: Iterable[tuple[dict[str, Any], str | None]],
) -> list[FileRecord]:
    """Write a unit's documents with their new texts; without those of which nothing is left."""
    # A unit stays one unit, so that the number of a unit stays its own.
    with UnitWriter(directory, part, 2**62) as units:
        for fields, text in outcomes:
            if text is None:
                continue
            name, origin = fields["id"], None
            if fields["input"] is not None:
                origin = Origin(fields["input"], fields["line"])
            units.add(
                name,
                Record(text=text, id=name, source=fields["source"], meta=fields["meta"] or ""),
                len(text.encode()),
                parent=fields["parent"] if text == fields["text"] else name,
                origin=origin,
            )
    inherited = {"added": unit.record.facts["added"]} if "added" in unit.record.facts else {}
    return [_with(own, **inherited) for own in units.records]


def _inherit(unit: Unit, directory: AnyPath, part: str) -> list[FileRecord]:
    """Link or copy the two files of a unit, which had other names in the corpus before."""
    records = []
    for kind, record in (("unit", unit.record), ("rows", unit.rows)):
        own = replace(record, path=f"{kind}-{part}.parquet")
        copy_file(record.verified(unit.corpus), directory / own.path)
        records.append(own)
    return records


def _with(record: FileRecord, **facts: Any) -> FileRecord:
    is_texts = record.path.startswith("unit-")
    return replace(record, facts={**record.facts, **facts}) if is_texts else record


def _write_dropped(
    directory: AnyPath, part: str, dropped: Sequence[dict[str, Any]], by_rule: dict[str, int]
) -> FileRecord:
    """Write a unit's documents of which nothing was left."""
    name = f"dropped-{part}.parquet"
    with atomic_file(directory / name) as sink:
        pq.write_table(pa.Table.from_pylist(list(dropped), DROPPED), sink, compression="zstd")
    return FileRecord.of(name, sink, dropped_by=by_rule)


def _write_rejected(
    directory: AnyPath, unit: Unit, rejected: Sequence[tuple[str, str]], tally: Counter[str]
) -> FileRecord:
    """Write (id, reason) of a unit's rejected answers, with the unit's counts as facts."""
    name = f"rejected-{unit.name.removeprefix('unit-')}.parquet"
    ids, reasons = [row[0] for row in rejected], [row[1] for row in rejected]
    with atomic_file(directory / name) as sink:
        pq.write_table(pa.table([ids, reasons], REJECTED), sink, compression="zstd")
    return FileRecord.of(name, sink, **tally, rejected=dict(sorted(Counter(reasons).items())))


def _facts(
    draft: Draft,
    records: Sequence[FileRecord],
    rewrite: Rewrite | Edit,
    pool: Pool,
    answers: Artefact | None,
) -> dict[str, Any]:
    """Count the documents: those of the corpus before, with those added to it or dropped.

    A corpus that was added to has the documents that its pool drops; one that was replaced has lost
    them, and counts them.
    """
    replaces = rewrite.rewriter.replaces
    before = pool.corpus.facts
    whole = RecordTally.of(pool.documents if replaces else before["documents"])
    units = [record for record in records if record.path.startswith("unit-")]
    in_units = sum(record.facts["documents"] for record in units)
    if not replaces:
        in_units += whole.kept
    counts: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for record in records:
        if record.path.startswith("dropped-"):
            gone: Mapping[str, int] = record.facts["dropped_by"]
            whole.dropped_by.update(gone)
            whole.kept -= sum(gone.values())
        elif record.path.startswith("rejected-"):
            counts.update({key: n for key, n in record.facts.items() if key != "rejected"})
            rejected.update(record.facts["rejected"])
    if not replaces:
        whole.added += counts["accepted"]
        whole.kept += counts["accepted"]
    whole.check(str(draft.path))
    check_sum(str(draft.path), ("documents kept", whole.kept), {"in units": in_units})
    made = {
        "rewriter": class_of(rewrite.rewriter).__qualname__,
        **counts,
        **{key: answers.facts[key] if answers else 0 for key in _ASKED},
        "rejected": dict(sorted(rejected.items())),
    }
    all_of = units if replaces else [unit.record for unit in units_of(pool.corpus)] + units
    return {
        "documents": whole.facts(),
        "by_source": largest_sources(sum_by_source(all_of), "bytes"),
        **digests(all_of),
        "adds": not replaces,
        "rewrites": {**before.get("rewrites", {}), rewrite.name: made},
    }
