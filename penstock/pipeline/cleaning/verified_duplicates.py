"""Components of documents that are alike by their text, not only by band hashes.

Only components of signatures are looked at, and of documents of equal normalised text one. A light
pass marks the documents whose text is needed; a task for each unit reads those texts and writes
their n-grams by range of the component; a task for each range compares them
(:mod:`.minhash.verification`). Components of more than :data:`MOST_TEXTS` different texts stay as
they are, and are counted: their n-grams would not fit a task's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.artefact import Draft, FileRecord
from penstock.columnar import OwnParquet
from penstock.pipeline.cleaning.components import EDGE, link_equal, number_documents, unite
from penstock.pipeline.cleaning.minhash.signatures import shingle_sets
from penstock.pipeline.cleaning.minhash.verification import Sets, join_similar
from penstock.pipeline.cleaning.near_duplicates import (
    RANGE_BYTES,
    KeyFiles,
    gather_components,
    read_components,
    read_keys,
    write_stars,
)
from penstock.pipeline.runner import Runner
from penstock.pipeline.shuffle import Shuffle, range_of_number
from penstock.storage import AnyPath

__all__ = ["MOST_TEXTS", "TextFiles", "fill_verified"]

MOST_TEXTS = 2**15
"""Different texts of a component that are compared: about 50 MiB of n-grams of web pages."""

_MEMBER = np.dtype([("component", "<i8"), ("document", "<i8"), ("key", "<u8"), ("check", "<u8")])
_SHINGLE = np.dtype("<u4")
_MARK = np.dtype("<u4")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles:
    """A unit with its keys, its components and its texts: the item of a task."""

    keys: KeyFiles
    components: tuple[AnyPath, FileRecord]
    """Directory and file of :func:`~penstock.pipeline.cleaning.near_duplicates.fill_components`."""
    texts: tuple[AnyPath, FileRecord]
    """Directory and Parquet file with ``text``."""
    bytes: int
    """Of all texts."""

    @property
    def label(self) -> str:
        """Name in messages."""
        return self.keys.label


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verification:
    """The state that all tasks share."""

    directory: AnyPath
    units: int
    ranges: int
    bands: int
    ngram: int
    threshold: float

    @property
    def members(self) -> Shuffle:
        """Documents of components, from units to ranges of components."""
        return self._shuffle("alike", _MEMBER, self.ranges, self.units)

    @property
    def marks(self) -> Shuffle:
        """Rows whose text is needed, from ranges to units."""
        return self._shuffle("marks", _MARK, self.units, self.ranges)

    @property
    def texts(self) -> Shuffle:
        """Documents whose text was read, from units to ranges."""
        kind = [
            ("component", "<i8"),
            ("document", "<i8"),
            ("size", "<u4"),
            ("bands", "<u8", (self.bands,)),
        ]
        return self._shuffle("texts", np.dtype(kind), self.ranges, self.units)

    @property
    def shingles(self) -> Shuffle:
        """Their n-grams, in the same order."""
        return self._shuffle("shingles", _SHINGLE, self.ranges, self.units)

    @property
    def stars(self) -> Shuffle:
        """Each document's component, from ranges to units."""
        return self._shuffle("verified", EDGE, self.units, self.ranges)

    def _shuffle(self, name: str, dtype: np.dtype, groups: int, sources: int) -> Shuffle:
        return Shuffle(
            directory=self.directory, name=name, dtype=dtype, groups=groups, sources=sources
        )


def fill_verified(
    draft: Draft,
    files: Sequence[TextFiles],
    bands: int,
    ngram: int,
    threshold: float,
    runner: Runner,
) -> tuple[list[FileRecord], int]:
    """Write the component of each document anew, a file for each unit, as parts named by unit.

    Args:
        draft: The artefact.
        files: All units, in the order of the corpus, numbered from 0; with bands.
        bands: Bands of a signature.
        ngram: Words of an n-gram, as of the signatures.
        threshold: Jaccard similarity of documents that belong together, at least.
        runner: Runs the tasks.

    Returns:
        Records as of :func:`~penstock.pipeline.cleaning.near_duplicates.fill_components`, and the
        number of components that are too large to be verified.
    """
    alike = sum(_alike(item) for item in files)
    documents = max(1, sum(item.keys.documents for item in files))
    # A word has about six bytes, and a shingle four.
    size = sum(item.bytes for item in files) * 4 // 6 * alike // documents
    verification = _Verification(
        directory=draft.path,
        units=len(files),
        ranges=max(1, -(-size // RANGE_BYTES)),
        bands=bands,
        ngram=ngram,
        threshold=threshold,
    )
    units = [(f"{item.keys.unit:05d}", item) for item in files]
    ranges = [(f"{number:05d}", number) for number in range(verification.ranges)]
    unverified = 0
    for name, function, items in (
        ("alike", _send_members, units),
        ("marks", _mark_texts, ranges),
        ("texts", _send_texts, units),
        ("verified", _verify_range, ranges),
    ):
        parts: dict[str, object] = {f"{name}-{number}": item for number, item in items}
        records = draft.fill(runner.run, function, parts, verification)
        unverified += sum(record.facts.get("unverified", 0) for record in records)
    shared = draft.path, verification.stars
    keys = {item.keys.name: item.keys for item in files}
    return draft.fill(runner.run, gather_components, keys, shared), unverified


def _alike(item: TextFiles) -> int:
    facts = item.components[1].facts
    return int(facts["documents"] - facts["alone"])


def _send_members(item: TextFiles, shared: _Verification) -> FileRecord:
    """Write the documents of components, with the hash of their normalised text."""
    components = read_components(*item.components)
    inside = np.flatnonzero(components >= 0)
    rows = np.empty(len(inside), _MEMBER)
    rows["component"] = components[inside]
    rows["document"] = number_documents(item.keys.unit, inside)
    normal, _ = read_keys(item.keys)
    if normal is None:  # no two are equal
        rows["key"], rows["check"] = rows["document"], 0
    else:
        rows["key"], rows["check"] = normal[inside].T
    ranges = range_of_number(rows["component"], shared.ranges)
    return shared.members.write(item.keys.unit, rows, ranges)


def _mark_texts(number: int, shared: _Verification) -> FileRecord:
    """Mark a document of each text of the components in a range that have several."""
    rows, _ = link_equal(shared.members.read(number))
    _, own, counts = np.unique(rows["component"], return_inverse=True, return_counts=True)
    marked = (counts[own] > 1) & (counts[own] <= MOST_TEXTS)
    documents = np.sort(rows["document"][marked])
    large = int(np.count_nonzero(counts > MOST_TEXTS))
    found = (documents & 0xFFFFFFFF).astype(_MARK)
    return shared.marks.write(number, found, documents >> 32, unverified=large)


def _send_texts(item: TextFiles, shared: _Verification) -> list[FileRecord]:
    """Write the n-grams and band hashes of the marked documents."""
    marked = np.sort(shared.marks.read(item.keys.unit)).astype(np.int64)
    rows = np.empty(len(marked), shared.texts.dtype)
    sets: list[np.ndarray] = []
    if len(marked):
        _, bands = read_keys(item.keys)
        assert bands is not None
        rows["component"] = read_components(*item.components)[marked]
        rows["document"] = number_documents(item.keys.unit, marked)
        rows["bands"] = bands[marked]
        sets = _sets_of(item, marked, shared.ngram)
        rows["size"] = [len(own) for own in sets]
    ranges = range_of_number(rows["component"], shared.ranges)
    order = np.argsort(ranges, kind="stable")  # of texts: n-grams are hundreds of times as many
    rows, ranges = rows[order], ranges[order]
    shingles = np.concatenate([np.empty(0, _SHINGLE), *(sets[text] for text in order.tolist())])
    return [
        shared.texts.write(item.keys.unit, rows, ranges),
        shared.shingles.write(item.keys.unit, shingles, np.repeat(ranges, rows["size"])),
    ]


def _sets_of(item: TextFiles, marked: np.ndarray, ngram: int) -> list[np.ndarray]:
    """Read the texts of some rows, a row group at a time, and return their n-grams."""
    directory, record = item.texts
    sets: list[np.ndarray] = []
    start = 0
    with OwnParquet(record.verified(directory)) as file:
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            own = marked[(marked >= start) & (marked < end)] - start
            start = end
            if len(own):
                texts = file.read_row_group(group, ["text"], use_threads=False).column("text")
                sets += shingle_sets(texts.take(pa.array(own)).combine_chunks(), ngram)
    return sets


def _verify_range(number: int, shared: _Verification) -> FileRecord:
    """Compare the documents of a range of components, and write their new components."""
    members = shared.members.read(number)
    texts = shared.texts.read(number)
    sets = Sets(np.cumsum([0, *texts["size"]]), shared.shingles.read(number))
    joined = join_similar(texts["component"], texts["bands"], sets, shared.threshold)
    similar = _pairs(texts["document"], texts["document"][joined])
    _, equal = link_equal(members)
    # Components without a text that was read: of one text, or of too many.
    whole = members[~np.isin(members["component"], texts["component"])]
    left = _pairs(whole["document"], whole["component"])
    return write_stars(shared.stars, number, unite(np.concatenate([similar, equal, left])))


def _pairs(documents: np.ndarray, first: np.ndarray) -> np.ndarray:
    edges = np.empty(len(documents), EDGE)
    edges["document"], edges["first"] = documents, first
    return edges[documents != first]
