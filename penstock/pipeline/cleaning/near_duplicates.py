"""The component of each document: documents with equal normalised text or an equal band hash.

A task for a run of units writes the keys of its documents by range of the key, each key once, and
links documents of equal keys; a task for each range links those of different runs. From all edges
one task finds the components, or, of more than :data:`EDGES`, rounds of stars do
(:mod:`.components`). A task for each unit then writes its documents' components. Only hashes are
read, never text.

The memory of a task depends on neither the corpus nor the frequency of a key: a range holds a key
at most once for each run of units. Components of several hundred million documents are the
exception: all edges to one document are in one task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Draft, FileRecord
from penstock.columnar import read_parquet
from penstock.display import numbered
from penstock.pipeline.cleaning.components import (
    EDGE,
    large_star,
    link_equal,
    number_documents,
    small_star,
    unite,
)
from penstock.pipeline.cleaning.minhash.signatures import band_hashes
from penstock.pipeline.grouped import packed
from penstock.pipeline.runner import Runner
from penstock.pipeline.shuffle import Shuffle, range_of, range_of_number, ranges_for
from penstock.storage import AnyPath, atomic_file
from penstock.text_hashes import EMPTY, hash_words

__all__ = [
    "ALONE",
    "EDGES",
    "RANGE_BYTES",
    "RUN",
    "KeyFiles",
    "fill_components",
    "gather_components",
    "read_components",
    "read_keys",
    "write_stars",
]

ALONE = -1
"""The component of a document that no other is like."""

EDGES = 2**23
"""Edges that one task unites, at most: 128 MiB, and five times as much to sort them."""

RUN, _MOST_RUN = 2**17, 2**20
"""Documents of the units that one task reads, about, and at most: a 512th of a larger corpus."""

RANGE_BYTES, _MOST_RANGE_BYTES = 2**25, 2**27
"""Bytes of keys that one task links, likewise; it needs four times as much. Without more in larger
corpora small reads, one for each run and range, would take longest."""

_EXACT = np.dtype([("key", "<u8"), ("check", "<u8"), ("document", "<i8")])
_NEAR = np.dtype([("key", "<u8"), ("document", "<i8")])
_NODE = np.dtype([("node", "<i8"), ("neighbour", "<i8")])


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFiles:
    """A unit, and the files with its documents' keys: the item of a task."""

    unit: int
    """Position of the unit in the corpus."""
    name: str
    documents: int
    normal: tuple[AnyPath, FileRecord] | None
    """Directory and Parquet file with ``normal``, 128-bit hashes of normalised texts; None to leave
    exact duplicates out."""
    bands: tuple[AnyPath, FileRecord] | None
    """Directory and Parquet file with ``bands``, a column of signatures; None to leave near
    duplicates out."""

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"{self.name} ({numbered(self.documents, 'document')})"


@dataclass(frozen=True, slots=True)
class _Run:
    """Units that one task reads."""

    number: int
    files: Sequence[KeyFiles]

    @property
    def label(self) -> str:
        return f"{self.files[0].name} to {self.files[-1].name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passes:
    """The state that all tasks of the passes over keys share."""

    directory: AnyPath
    runs: int
    units: int
    exact_ranges: int
    near_ranges: int

    @property
    def exact(self) -> Shuffle:
        return self._shuffle("exact", _EXACT, self.exact_ranges, self.runs)

    @property
    def near(self) -> Shuffle:
        return self._shuffle("near", _NEAR, self.near_ranges, self.runs)

    @property
    def edges(self) -> Shuffle:
        """Edges within runs, then those within ranges."""
        return self._shuffle("edges", EDGE, 1, self.runs + self.exact_ranges + self.near_ranges)

    def stars(self, sources: int) -> Shuffle:
        """Each document's component, from the last edges to units."""
        return self._shuffle("stars", EDGE, self.units, sources)

    def _shuffle(self, name: str, dtype: np.dtype, groups: int, sources: int) -> Shuffle:
        return Shuffle(
            directory=self.directory, name=name, dtype=dtype, groups=groups, sources=sources
        )


def fill_components(
    draft: Draft,
    files: Sequence[KeyFiles],
    bands: int,
    runner: Runner,
    progress: Callable[[str], None] = lambda _: None,
) -> list[FileRecord]:
    """Write the component of each document, a file for each unit, as parts named by unit.

    Args:
        draft: The artefact.
        files: All units, in the order of the corpus.
        bands: Bands of a signature.
        runner: Runs the tasks.
        progress: Called with a line about each step.

    Returns:
        Their records, in the order of units. Facts: ``documents``; ``alone``, how many of them are
        like no other; ``components``, how many are the first of several.
    """
    if any(draft.done(item.name) is None for item in files):
        documents = sum(item.documents for item in files)
        size = min(max(RUN, documents // 512), _MOST_RUN)
        runs = [_Run(*run) for run in enumerate(packed(files, lambda item: item.documents, size))]
        exact = any(item.normal is not None for item in files)
        near = any(item.bands is not None for item in files)
        passes = _Passes(
            directory=draft.path,
            runs=len(runs),
            units=1 + max(item.unit for item in files),
            exact_ranges=_ranges(documents, _EXACT) if exact else 0,
            near_ranges=_ranges(documents * bands, _NEAR) if near else 0,
        )
        found = draft.fill(
            runner.run, _link_run, {f"run-{run.number:05d}": run for run in runs}, passes
        )
        numbers = range(passes.exact_ranges + passes.near_ranges)
        found += draft.fill(
            runner.run, _link_range, {f"range-{number:05d}": number for number in numbers}, passes
        )
        count = _total(found, "edges")
        progress(
            f"{numbered(documents, 'document')} compared; "
            f"{numbered(count, 'link joins', 'links join')} those that are alike into groups"
        )
        stars = _find_stars(draft, passes, count, runner, progress)
        shared: Any = draft.path, stars
        draft.fill(runner.run, gather_components, {item.name: item for item in files}, shared)
    return draft.files(item.name for item in files)


def read_components(directory: AnyPath, record: FileRecord) -> np.ndarray:
    """Read a unit's components, after comparing the checksum: (n,) int64.

    The number of the first document of each document's component, or :data:`ALONE`.
    """
    table = read_parquet(record.verified(directory), ["component"])
    return table.column("component").to_numpy()


def read_keys(item: KeyFiles) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read a unit's keys: (n, 2) uint64 of the normalised texts, and (n, b) uint64 of bands."""
    normal = bands = None
    if item.normal is not None:
        normal = hash_words(_read_column(item.normal, "normal"))
    if item.bands is not None:
        bands = band_hashes(_read_column(item.bands, "bands"))
    return normal, bands


def _read_column(where: tuple[AnyPath, FileRecord], name: str) -> pa.Array:
    directory, record = where
    column = read_parquet(record.verified(directory), [name]).column(name)
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _ranges(rows: int, dtype: np.dtype) -> int:
    size = rows * dtype.itemsize // 512
    return ranges_for(rows, dtype, min(max(RANGE_BYTES, size), _MOST_RANGE_BYTES))


def _link_run(run: _Run, passes: _Passes) -> list[FileRecord]:
    """Write the keys of a run of units, each once, and the edges within it."""
    exact: list[np.ndarray] = [np.empty(0, _EXACT)]
    near: list[np.ndarray] = [np.empty(0, _NEAR)]
    for item in run.files:
        documents = number_documents(item.unit, item.documents)
        normal, bands = read_keys(item)
        if normal is not None:
            own = (normal != EMPTY).any(axis=1)
            rows = np.empty(np.count_nonzero(own), _EXACT)
            rows["key"], rows["check"] = normal[own, 0], normal[own, 1]
            rows["document"] = documents[own]
            exact.append(rows)
        if bands is not None:
            own = bands[:, 0] != 0
            rows = np.empty((np.count_nonzero(own), bands.shape[1]), _NEAR)
            rows["key"] = bands[own]
            rows["document"] = documents[own, np.newaxis]
            near.append(rows.reshape(-1))
    records, edges = [], []
    for shuffle, parts in ((passes.exact, exact), (passes.near, near)):
        if shuffle.groups:
            rows, linked = link_equal(np.concatenate(parts))
            parts.clear()
            records.append(shuffle.write(run.number, rows, range_of(rows["key"], shuffle.groups)))
            edges.append(linked)
    return [*records, _write_edges(passes.edges, run.number, unite(np.concatenate(edges)))]


def _link_range(number: int, passes: _Passes) -> FileRecord:
    """Write the edges between documents whose keys are in a range: first exact ones, then bands."""
    exact = passes.exact_ranges
    rows = passes.exact.read(number) if number < exact else passes.near.read(number - exact)
    _, edges = link_equal(rows)
    return _write_edges(passes.edges, passes.runs + number, unite(edges))


def _write_edges(shuffle: Shuffle, source: int, edges: np.ndarray, changed: int = 0) -> FileRecord:
    groups = np.zeros(len(edges), np.int64)
    return shuffle.write(source, edges, groups, edges=len(edges), changed=changed)


def _total(records: Iterable[FileRecord], fact: str) -> int:
    return sum(record.facts.get(fact, 0) for record in records)


def _find_stars(
    draft: Draft, passes: _Passes, count: int, runner: Runner, progress: Callable[[str], None]
) -> Shuffle:
    """Find the components of ``count`` edges; return the shuffle that brings them to units."""
    edges = passes.edges
    if count <= EDGES:
        stars = passes.stars(1)
        draft.fill(runner.run, _unite_all, {"united": 0}, (edges, stars))
        return stars
    ranges = _ranges(2 * count, EDGE)
    for edges in _star_rounds(draft, passes, ranges, runner):
        progress(f"{edges.name} of components")
    stars = passes.stars(edges.sources)
    sources = {f"stars-{source:05d}": source for source in range(edges.sources)}
    draft.fill(runner.run, _send_stars, sources, (edges, stars))
    return stars


def _unite_all(_: int, shared: tuple[Shuffle, Shuffle]) -> FileRecord:
    """Unite all edges in one task."""
    edges, stars = shared
    return write_stars(stars, 0, unite(edges.read(0)))


def _send_stars(source: int, shared: tuple[Shuffle, Shuffle]) -> FileRecord:
    """Write the edges that one task of the last round left, by unit."""
    edges, stars = shared
    return write_stars(stars, source, edges.read_source(source))


def write_stars(stars: Shuffle, source: int, edges: np.ndarray) -> FileRecord:
    """Write edges of stars by the document's unit, and the first documents themselves."""
    first = np.unique(edges["first"])
    own = np.empty(len(first), EDGE)
    own["document"] = own["first"] = first
    rows = np.concatenate([edges, own])
    return stars.write(source, rows, rows["document"] >> 32)


@dataclass(frozen=True, slots=True)
class _Half:
    """Half a round: one of the two stars."""

    small: bool
    edges: Shuffle
    nodes: Shuffle
    results: Shuffle


def _star_rounds(draft: Draft, passes: _Passes, ranges: int, runner: Runner) -> Iterator[Shuffle]:
    """Apply large and small stars in turns, until nothing changes; yield the edges after each."""
    edges, quiet, number = passes.edges, 0, 0
    while quiet < 2:
        name = f"{number:03d}"
        half = _Half(
            number % 2 == 1,
            edges,
            passes._shuffle(f"nodes-{name}", _NODE, ranges, edges.sources),
            passes._shuffle(f"edges-{name}", EDGE, 1, ranges),
        )
        sources = {f"nodes-{name}-{source:05d}": source for source in range(edges.sources)}
        draft.fill(runner.run, _send_edges, sources, half)
        groups = {f"edges-{name}-{group:05d}": group for group in range(ranges)}
        changed = _total(draft.fill(runner.run, _apply_star, groups, half), "changed")
        quiet = 0 if changed else quiet + 1
        number += 1
        edges = half.results
        yield edges


def _send_edges(source: int, half: _Half) -> FileRecord:
    """Write the edges of a source by node: for a large star by both, for a small by the larger."""
    edges = half.edges.read_source(source)
    document, first = edges["document"], edges["first"]
    rows = np.empty(len(edges) * (1 if half.small else 2), _NODE)
    if half.small:
        rows["node"], rows["neighbour"] = np.maximum(document, first), np.minimum(document, first)
    else:
        rows["node"] = np.concatenate([document, first])
        rows["neighbour"] = np.concatenate([first, document])
    return half.nodes.write(source, rows, range_of_number(rows["node"], half.nodes.groups))


def _apply_star(group: int, half: _Half) -> FileRecord:
    """Apply the star to the nodes of a range."""
    rows = half.nodes.read(group)
    star = small_star if half.small else large_star
    edges, changed = star(rows["node"], rows["neighbour"])
    return _write_edges(half.results, group, edges, changed)


def gather_components(item: KeyFiles, shared: tuple[AnyPath, Shuffle]) -> FileRecord:
    """Write the components of a unit's documents, from a shuffle of stars to units."""
    directory, stars = shared
    components = np.full(item.documents, ALONE, np.int64)
    rows = stars.read(item.unit)
    components[rows["document"] & 0xFFFFFFFF] = rows["first"]
    alone = int(np.count_nonzero(components == ALONE))
    first = int(np.count_nonzero(components == number_documents(item.unit, item.documents)))
    name = f"{item.name}.parquet"
    with atomic_file(directory / name) as sink:
        pq.write_table(
            pa.table(
                [pa.array(components)],
                pa.schema([pa.field("component", pa.int64(), nullable=False)]),
            ),
            sink,
            compression="zstd",
            write_statistics=False,
        )
    facts = {"documents": item.documents, "alone": alone, "components": first}
    return FileRecord.of(name, sink, **facts)
