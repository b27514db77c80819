"""Verdicts: for each document of a corpus every rule that excludes it, and the first reason.

Three passes over groups of about a million documents read the files of rows and text columns, and
no text, so that a changed threshold takes seconds:

1. Every rule judges every document, and the 128-bit hashes of normalised texts are written sorted.
2. Each range of hashes finds documents of equal text. The first that no rule excludes stays; a copy
   never loses to one that is excluded itself. With near-duplicates, ranges of components take the
   place of hashes (:mod:`.choice`), whose documents are made of signatures (:mod:`.duplicates`).
3. Each document gets its first reason, 0 if it is kept.

No task holds more than a group or a range (4 million documents), and the driver holds no document.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, Draft, FileRecord, Workspace, fingerprint
from penstock.errors import ArtefactError, UnmadeError
from penstock.pipeline.cleaning.choice import Choice
from penstock.pipeline.cleaning.duplicates import (
    COMPONENTS,
    NearDuplicates,
    make_components,
    names_of_components,
)
from penstock.pipeline.cleaning.judging import (
    BUCKETS,
    ENTRY,
    Judging,
    UnitGroup,
    judge,
    kept_files,
)
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cleaning.text_columns import (
    ColumnFile,
    find_text_columns,
    make_text_columns,
)
from penstock.pipeline.grouped import packed, read_groups, write_groups
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit, units_of
from penstock.plugin_code import code_notes
from penstock.storage import atomic_file
from penstock.text_hashes import hash_words

__all__ = ["STAGE", "find_evidence", "make_pool"]

STAGE = "verdicts"
VERSION = 1

_GROUP_DOCUMENTS = 1 << 20
"""Documents of a group of units: the item of a task, and a file of verdicts."""

_RANGE_DOCUMENTS = 1 << 22
"""Most documents of a range of hashes, about."""

_REPEAT = np.dtype([("row", "<u4"), ("of_group", "<u4"), ("of_row", "<u4")])


def make_pool(
    settings: CleanSettings,
    corpus: Artefact,
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None] = lambda line: None,
) -> Pool:
    """Find or make the verdicts about a corpus; return the pool that they keep, which may be empty.

    Raises:
        ArtefactError: The documents are not all accounted for.
    """
    inputs = {"corpus": corpus.fingerprint}

    def work(draft: Draft) -> Artefact:
        columns = make_text_columns(settings.text_columns(), corpus, workspace, runner, progress)
        units = units_of(corpus)
        near = settings.near
        if near is not None:
            signatures = columns[near.signatures.name]
            found = make_components(near, corpus, signatures, workspace, runner, progress)
            columns = {**columns, COMPONENTS: found}
        groups: list[UnitGroup] = []
        for own in packed(units, lambda unit: unit.of, _GROUP_DOCUMENTS):
            files = {name: [of[unit.name] for unit in own] for name, of in columns.items()}
            group = UnitGroup(len(groups), tuple(own), files)
            written = [name for name in kept_files(settings, group) if draft.done(name)]
            groups.append(replace(group, written=tuple(written)))
        shared = Judging(
            settings=settings.for_judging(),
            directory=draft.path,
            groups=len(groups),
            ranges=_ranges_for(sum(unit.of for unit in units)) if settings.exact else 0,
        )
        if near is not None:
            choice = _choice(near, columns[COMPONENTS], len(groups), draft)
            shared = replace(shared, ranges=0, choice=choice)
        items = {f"judged-{group.part}": group for group in groups}
        judged = draft.fill(runner.run, judge, items, shared)
        kept = [name for group in groups for name in kept_files(settings, group)]
        for record in judged:
            if record.path in kept and draft.done(record.path) is None:
                draft.record(record.path, [record])
        valued = [record.facts["valued"] for record in judged if "valued" in record.facts]
        if near is not None and valued and not any(valued):
            progress(f"clean.dedup.minhash.keep: {near.no_value}; a hash decides which stays")
        ranges = [_Range(number, shared) for number in range(shared.ranges)]
        draft.fill(runner.run, _find_repeats, {one.part: one for one in ranges}, shared)
        facts: dict[str, Any] = {"reasons": list(settings.reasons), "rules": settings.bits}
        if shared.choice is not None:
            numbers = {f"chosen-{number:05d}": number for number in range(shared.choice.ranges)}
            bridged = Choice.bridged(draft.fill(runner.run, _choose, numbers, shared))
            facts["bridged"] = asdict(bridged)
            if bridged.documents:
                progress(
                    f"{bridged.documents:,} near-duplicates are like those that stay only through "
                    "excluded documents"
                )
        parts = {f"settled-{group.part}": group for group in groups}
        draft.fill(runner.run, _settle, parts, shared)
        return draft.publish([*parts, *kept], facts)

    config = settings.config()
    kept = workspace.find(STAGE, fingerprint(STAGE, VERSION, config, inputs)) is not None
    changed: list[str] = []
    for own in settings.functions:
        for line in code_notes(f"clean.rules.{own.rule}", own.config(), kept):
            progress(line)
        changed += [] if kept else own.changes(workspace)
    for line in changed:
        progress(f"{line}, so it is applied again")
    try:
        return Pool.of(corpus, workspace.make(STAGE, VERSION, config, inputs, work))
    except UnmadeError as error:
        error.problem += f" ({'; '.join(changed)} since it was applied)" if changed else ""
        raise


def find_evidence(settings: CleanSettings, corpus: Artefact, workspace: Workspace) -> None:
    """Look for all that the verdicts about a corpus are made of: their manifest names none.

    The names are in :attr:`.Workspace.used` afterwards, made or not.

    Args:
        settings: As of :func:`make_pool`.
        corpus: The corpus.
        workspace: Of the work directory.
    """
    for column in settings.text_columns():
        with contextlib.suppress(ArtefactError):  # what cannot be read has a name, too
            find_text_columns([column], corpus, workspace)
    if settings.near is not None:
        for name in names_of_components(settings.near, corpus):
            workspace.directory(COMPONENTS, name)


def _choice(
    near: NearDuplicates, components: Mapping[str, ColumnFile], groups: int, draft: Draft
) -> Choice:
    facts = [file.record.facts for file in components.values()]
    members = sum(int(one["documents"]) - int(one["alone"]) for one in facts)
    return Choice.of(draft.path, groups, members, near.signatures.banding.bands)


def _choose(number: int, shared: Judging) -> FileRecord:
    """Choose which documents of a range of components stay."""
    assert shared.choice is not None
    return shared.choice.choose(number)


@dataclass(frozen=True, slots=True)
class _Range:
    """A range of hash values over all groups: the item of a task."""

    number: int
    shared: Judging

    @property
    def part(self) -> str:
        return f"repeats-{self.number:05d}"

    @property
    def label(self) -> str:
        return f"range {self.number + 1} of {self.shared.ranges} of the documents' hashes"


def _ranges_for(documents: int) -> int:
    """Return the number of ranges for so many documents: a power of two."""
    return min(BUCKETS, 1 << math.ceil(math.log2(max(1, documents / _RANGE_DOCUMENTS))))


def _find_repeats(item: _Range, shared: Judging) -> FileRecord:
    """Find the documents of a range that repeat one that stays, sorted by group."""
    first, last = (n * BUCKETS // shared.ranges for n in (item.number, item.number + 1))
    parts = [
        read_groups(shared.directory / shared.scratch("hashes", group), ENTRY, first, last)
        for group in range(shared.groups)
    ]
    entries = np.concatenate(parts)
    groups = np.repeat(np.arange(len(parts), dtype="<u4"), [len(part) for part in parts])
    # Stable: of equal hashes those that no rule excludes come first, in the order of the corpus.
    order = np.lexsort((entries["excluded"], entries["low"], entries["high"]))
    entries, groups = entries[order], groups[order]
    fresh = np.ones(len(entries), dtype=bool)
    fresh[1:] = (entries["high"][1:] != entries["high"][:-1]) | (
        entries["low"][1:] != entries["low"][:-1]
    )
    stays = np.flatnonzero(fresh)[np.cumsum(fresh) - 1] if len(entries) else order
    repeats = np.flatnonzero(~fresh & (entries["excluded"] == 0))
    found = np.empty(len(repeats), dtype=_REPEAT)
    found["row"] = entries["row"][repeats]
    found["of_group"], found["of_row"] = groups[stays[repeats]], entries["row"][stays[repeats]]
    by_group = np.argsort(groups[repeats], kind="stable")
    name = shared.scratch("repeats", item.number)
    sink = write_groups(
        shared.directory / name, found[by_group], groups[repeats][by_group], shared.groups
    )
    return FileRecord.of(name, sink)


_REASONS = pa.schema(
    [
        pa.field("reason", pa.uint16(), nullable=False),
        pa.field("of_group", pa.uint32()),
        pa.field("of_row", pa.uint32()),
    ]
)
"""``reason`` is 0, or 1 and the position in the fact ``reasons``; of a duplicate, the document that
stays, by its group of units and its row there."""


def _settle(group: UnitGroup, shared: Judging) -> FileRecord:
    """Write the first reason of each document of a group, and the counts of what is kept."""
    names, first = shared.settings.reasons, 1 + len(shared.settings.reasons)
    first -= len(shared.settings.duplicates)
    data = (shared.directory / shared.scratch("judged", group.number)).read_bytes()
    reasons = np.frombuffer(data, np.uint16).copy()
    of = np.zeros((2, len(reasons)), dtype=np.uint32)
    for number in range(shared.ranges):
        found = read_groups(
            shared.directory / shared.scratch("repeats", number), _REPEAT, group.number
        )
        reasons[found["row"]] = first
        of[:, found["row"]] = found["of_group"], found["of_row"]
    if shared.choice is not None:
        repeats = shared.choice.repeats(group.number, *_members_of(group, reasons == 0))
        reasons[repeats.rows] = np.where(repeats.equal, first, first + 1)
        of[:, repeats.rows] = repeats.of_source, repeats.of_row
    columns = [pa.array(reasons), *(pa.array(one, mask=reasons < first) for one in of)]
    name = f"reasons-{group.part}.arrow"
    with (
        atomic_file(shared.directory / name) as sink,
        pa.ipc.new_file(sink, _REASONS) as writer,
    ):
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_REASONS))
    kept = reasons == 0
    counts = np.bincount(reasons, minlength=len(names) + 1)[1:].tolist()
    ends = np.cumsum([unit.of for unit in group.units])
    by_unit = np.split(kept, ends[:-1])
    return FileRecord.of(
        name,
        sink,
        units=[int(own.sum()) for own in by_unit],
        dropped_by={name: count for name, count in zip(names, counts) if count},
        sources=_by_source(group.units, kept),
        kept=[hashlib.sha256(np.packbits(own).tobytes()).hexdigest() for own in by_unit],
    )


def _members_of(group: UnitGroup, kept: np.ndarray) -> list[np.ndarray]:
    """Read rows, components and normalised hashes of the kept documents that others are like."""
    found: list[tuple[np.ndarray, ...]] = []
    start = 0
    for unit, file in zip(group.units, group.columns[COMPONENTS], strict=True):
        components = file.read().column("component").to_numpy()
        own = np.flatnonzero((components >= 0) & kept[start : start + unit.of])
        normal = hash_words(unit.read_rows(["normal"]).column("normal"))
        found.append((own + start, components[own], normal[own]))
        start += unit.of
    return [np.concatenate(parts) for parts in zip(*found)]


def _by_source(units: Sequence[Unit], kept: np.ndarray) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    start = 0
    for unit in units:
        rows = unit.read_rows(["source", "bytes"])
        rows = rows.filter(pa.array(kept[start : start + unit.of]))
        start += unit.of
        sums = rows.group_by("source").aggregate([("bytes", "count"), ("bytes", "sum")])
        for row in sums.to_pylist():
            own = {"documents": row["bytes_count"], "bytes": row["bytes_sum"]}
            counts.setdefault(row["source"], Counter()).update(own)
    return {source: dict(own) for source, own in sorted(counts.items())}
