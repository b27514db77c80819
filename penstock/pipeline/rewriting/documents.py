"""Answers to documents: a corpus that has what a rewriter made, with its ``parent``.

A rewriter that adds leaves the corpus as it is: the new one has units of its own beside the old
one's, which are not copied. One that replaces writes every unit anew, and documents that nothing
is left of are dropped by a rule of its name. Both passes are functions of the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.errors import ArtefactError, InputError, ScoringError
from penstock.pipeline.accounting import Tally, check_sum
from penstock.pipeline.cleaning.fates import Dropped
from penstock.pipeline.corpus import STAGE
from penstock.pipeline.reading.records import Record
from penstock.pipeline.rewriting.answers import Rewrite, answers_of, drawn, make_answers, named
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import UNIT_BYTES, Unit, UnitWriter, iter_documents, units_of
from penstock.selectors.rewriting.base import Document, Rewritten
from penstock.storage import AnyPath, atomic_file

__all__ = ["REJECTED", "rewrite_corpus"]

_VERSION = 1

REJECTED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""An answer that was not used, or a document that nothing was asked about."""


def rewrite_corpus(
    rewrite: Rewrite,
    corpus: Artefact,
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None] = lambda line: None,
) -> Artefact:
    """The corpus with what a rewriter made of it, found or made.

    A rewriter that adds is not shown what others added; its documents' source is its name.

    Raises:
        CompletionError: The model cannot be asked; what it had answered is kept.
        InputError: A source of the corpus has the rewriter's name already.
        ScoringError: The rewriter raised.
    """
    replaces = type(rewrite.rewriter).replaces
    if not replaces and rewrite.name in corpus.facts["by_source"]:
        raise InputError(
            f"rewrite.{rewrite.name}: the corpus has a source of this name already; call the "
            "rewriter by another, so that budget.shares can tell the two apart"
        )
    units = [unit for unit in units_of(corpus) if replaces or not unit.record.facts.get("added")]
    answers = make_answers(rewrite, corpus, units, workspace, runner, progress)
    config = {
        "rewrite": rewrite.name,
        "version": [_VERSION, type(rewrite.rewriter).version],
        "identity": rewrite.identity(),
    }
    inputs = {"corpus": corpus.fingerprint, "answers": answers.fingerprint}

    def work(draft: Draft) -> Artefact:
        state = (rewrite, answers.path, draft.path)
        items = list(zip(units, answers.files))
        left = [item for item in items if draft.done(item[0].name) is None]
        for index, files in runner.run(_replace if replaces else _add, left, state):
            draft.record(left[index][0].name, files)
        parts = [unit.name for unit in units]
        facts = _facts(draft, parts, rewrite, corpus, answers)
        if not facts["documents"]["kept"]:
            raise InputError(f"rewrite.{rewrite.name}: no document is left of the corpus")
        return draft.publish(parts, facts)

    return workspace.make(STAGE, 0, config, inputs, work)


def _assembled(
    unit: Unit, record: FileRecord, state: tuple[Rewrite, AnyPath, AnyPath]
) -> Iterator[tuple[int, dict[str, Any], Rewritten | None]]:
    """The documents of a unit with what became of them; None for those that were not drawn."""
    rewrite, answers, _ = state
    rewriter = rewrite.rewriter
    found = answers_of(answers, record)
    following = next(found, None)
    start = 0
    for batch in iter_documents(unit, ("id", "text", "source", "meta", "parent")):
        chosen = drawn(batch.column("id"), rewrite).tolist()
        for row, fields in enumerate(batch.to_pylist(), start):
            if not chosen[row - start]:
                yield row, fields, None
                continue
            document = Document(id=fields["id"], text=fields["text"])
            place = f"rewrite.{rewrite.name}: document {document.id} of {unit.name}"
            digests = [ask.digest for ask in named(place, rewriter.requests, document)]
            mine = []
            if following is not None and following[0] == row:
                mine, following = following[1], next(found, None)
            if digests != [digest for digest, _ in mine]:
                raise ArtefactError(
                    f"{place}: its answers are to other requests than are made now; the rewriter "
                    f"changed without its identity: delete {answers} and run again"
                )
            yield (
                row,
                fields,
                _checked(
                    place, named(place, rewriter.assemble, document, [answer for _, answer in mine])
                ),
            )
        start += len(batch)
    check_sum(unit.label, ("rows answered", 0), {"left over": int(following is not None)})


def _checked(place: str, rewritten: Any) -> Rewritten:
    if not isinstance(rewritten, Rewritten):
        raise ScoringError(f"{place}: expected a Rewritten, got {type(rewritten).__name__}")
    for text in rewritten.texts:
        try:
            if not text.strip():
                raise ScoringError(f"{place}: expected texts that are not blank, got {text!r}")
            text.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise ScoringError(f"{place}: expected texts in Unicode: {error}") from None
    return rewritten


def _add(
    item: tuple[Unit, FileRecord], state: tuple[Rewrite, AnyPath, AnyPath]
) -> list[FileRecord]:
    """The units of what was made of one, and its rejections."""
    unit, record = item
    rewrite, _, directory = state
    rejected = _Rejected(directory, unit)
    part = f"{unit.name.removeprefix('unit-')}-{rewrite.name}"
    tally = Counter(documents=0, accepted=0)
    with UnitWriter(directory, part, UNIT_BYTES) as units:
        for _, fields, rewritten in _assembled(unit, record, state):
            if rewritten is None:
                continue
            tally["documents"] += 1
            tally["accepted"] += len(rewritten.texts)
            rejected.add(fields["id"], rewritten)
            for place, text in enumerate(rewritten.texts):
                name = f"{fields['id']}+{rewrite.name}.{place}"
                added = Record(text=text, id=name, source=rewrite.name, meta="")
                units.add(name, added, len(text.encode()), parent=fields["id"])
    added_by = [_with(own, added=rewrite.name) for own in units.records]
    return [*added_by, rejected.written(**tally)]


def _replace(
    item: tuple[Unit, FileRecord], state: tuple[Rewrite, AnyPath, AnyPath]
) -> list[FileRecord]:
    """The unit with its documents as they are now, those that are gone, and the rejections."""
    unit, record = item
    rewrite, _, directory = state
    rejected = _Rejected(directory, unit)
    part = unit.name.removeprefix("unit-")
    tally = Counter(documents=0, accepted=0, changed=0)
    with (
        # A unit stays one: rows of others' columns are counted by it.
        UnitWriter(directory, part, 2**62) as units,
        Dropped(directory, part, keep=False) as dropped,
    ):
        for row, fields, rewritten in _assembled(unit, record, state):
            name, text, parent = fields["id"], fields["text"], fields["parent"]
            own = Record(text=text, id=name, source=fields["source"], meta=fields["meta"] or "")
            if rewritten is None:
                units.add(name, own, len(text.encode()), parent=parent)
                continue
            tally["documents"] += 1
            rejected.add(name, rewritten)
            if not rewritten.texts:
                reason = rewritten.rejected[0] if rewritten.rejected else "nothing"
                rule = f"{rewrite.name}: {reason}"
                dropped.add(name, own, len(text.encode()), rule, row, None)
                continue
            if len(rewritten.texts) > 1:
                raise ScoringError(
                    f"rewrite.{rewrite.name}: document {name}: expected one text in its place, "
                    f"got {len(rewritten.texts)}"
                )
            (new,) = rewritten.texts
            tally["accepted"] += 1
            tally["changed"] += new != text
            now = Record(text=new, id=name, source=own.source, meta=own.meta)
            units.add(name, now, len(new.encode()), parent=parent if new == text else name)
    kept = sum(own.facts["documents"] for own in units.records)
    check_sum(unit.label, ("documents", unit.documents), {"kept": kept, **dropped.rules})
    inherited = {"added": unit.record.facts["added"]} if "added" in unit.record.facts else {}
    return [
        *(_with(own, **inherited) for own in units.records),
        dropped.record(read=unit.documents, kept=kept, dropped_by=dict(dropped.rules)),
        rejected.written(**tally),
    ]


def _with(record: FileRecord, **facts: Any) -> FileRecord:
    return FileRecord(
        path=record.path,
        bytes=record.bytes,
        sha256=record.sha256,
        facts={**record.facts, **facts},
    )


class _Rejected:
    """The file of a unit's rejections."""

    def __init__(self, directory: AnyPath, unit: Unit) -> None:
        self._directory = directory
        self._name = f"rejected-{unit.name.removeprefix('unit-')}.parquet"
        self._ids: list[str] = []
        self._reasons: list[str] = []

    def add(self, name: str, rewritten: Rewritten) -> None:
        self._ids.extend([name] * len(rewritten.rejected))
        self._reasons.extend(rewritten.rejected)

    def written(self, **facts: int) -> FileRecord:
        table = pa.table([self._ids, self._reasons], REJECTED)
        with atomic_file(self._directory / self._name) as sink:
            pq.write_table(table, sink, compression="zstd")
        reasons = dict(sorted(Counter(self._reasons).items()))
        return FileRecord.of(self._name, sink, **facts, rejected=reasons)


def _facts(
    draft: Draft, parts: Sequence[str], rewrite: Rewrite, corpus: Artefact, answers: Artefact
) -> dict[str, Any]:
    """The accounting: that of the corpus before, and what was added to it or dropped from it."""
    replaces = type(rewrite.rewriter).replaces
    whole = Tally.of(corpus.facts["documents"])
    sources: dict[str, dict[str, int]] = {}
    if not replaces:
        sources = {name: dict(tally) for name, tally in corpus.facts["by_source"].items()}
    done = [record for part in parts for record in draft.done(part) or ()]
    counts: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    units = 0 if replaces else whole.kept
    for record in done:
        if record.path.startswith("unit-"):
            units += record.facts["documents"]
            for source, tally in record.facts["sources"].items():
                total = sources.setdefault(source, {"documents": 0, "bytes": 0})
                total["documents"] += tally["documents"]
                total["bytes"] += tally["bytes"]
        elif record.path.startswith("dropped-"):
            gone: Mapping[str, int] = record.facts["dropped_by"]
            whole.dropped_by.update(gone)
            whole.kept -= sum(gone.values())
        else:
            counts.update({key: n for key, n in record.facts.items() if key != "rejected"})
            rejected.update(record.facts["rejected"])
    if not replaces:
        whole.added += counts["accepted"]
        whole.kept += counts["accepted"]
    whole.check(str(draft.path))
    check_sum(str(draft.path), ("documents kept", whole.kept), {"in units": units})
    made = {
        "rewriter": type(rewrite.rewriter).__qualname__,
        **counts,
        **{key: answers.facts[key] for key in ("requests", "prompt_tokens", "completion_tokens")},
        "rejected": dict(sorted(rejected.items())),
    }
    return {
        "documents": whole.facts(),
        "by_source": dict(sorted(sources.items())),
        "adds": not replaces,
        "rewrites": {**corpus.facts.get("rewrites", {}), rewrite.name: made},
    }
