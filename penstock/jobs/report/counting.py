"""Counts over all documents of a recipe, for histograms: by source, score, length and language.

One pass over the units reads rows, scores and the cut, and no text: about 40 bytes a document. With
rewriters the documents that earlier verdicts dropped are counted from the rows of their corpora.
What is held does not depend on the number of documents. The edges of histograms come from a sample
of at most :data:`SAMPLE` documents, every k-th one of the pool, which also serves the agreement
between selectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, Workspace
from penstock.columnar import read_parquet
from penstock.jobs.curate import Curated
from penstock.jobs.unit_fates import dropped_earlier
from penstock.pipeline.checking import largest_sources
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cleaning.text_columns import ColumnFile, TextColumn, find_text_columns
from penstock.pipeline.grouped import read_scores

__all__ = ["SAMPLE", "PoolCounts", "ScoreSample", "count_pool", "edges_of", "sample_scores"]

SAMPLE = 1 << 20
"""Documents of a sample of scores at most: 4 MiB for each column."""

_BINS = 48

_OCTAVES = 24
"""Lengths are counted up to 2**24 bytes, in two bins for each octave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSample:
    """The scores of every k-th document of a pool."""

    step: int
    """k; 1 where all documents are in it."""
    scores: Mapping[str, np.ndarray]
    """By column (m,) float32, NaN where a document has no score; the same documents in each."""


@dataclass(frozen=True, kw_only=True)
class PoolCounts:
    """What was counted; axes of arrays are named in their docstrings."""

    sources: tuple[str, ...]
    """The largest sources of the pool by bytes; the last axis entry, if :attr:`others`, is of all
    others."""
    others: int
    """Sources that are counted together."""
    edges: Mapping[str, np.ndarray]
    """By column (bins + 1,) float64, rising; the first and last bin also have what is beyond."""
    scores: Mapping[str, np.ndarray]
    """By column (sources, 2, bins) int64: documents that the cut left, then those it took."""
    unscored: Mapping[str, np.ndarray]
    """By column (sources,) int64: documents without a score."""
    lowest: Mapping[str, np.ndarray]
    """By column (sources,) float64: the lowest score that was taken; infinite where none was."""
    length_edges: np.ndarray
    """(bins + 1,) int64 bytes."""
    lengths: np.ndarray
    """(3, bins) int64: documents that rules excluded, before a rewriter or after it, that the cut
    left, and that it took. Each counts once, at the length that its last verdict judged."""
    languages: Mapping[str, tuple[int, int, int]]
    """Documents excluded, left and taken, by language; empty where no language was computed."""
    excluded: int
    """Kept documents that may not be taken: without a score in a column that ranks."""
    taken: int
    kept: int

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the source axis."""
        return (*self.sources, *([f"{self.others:,} other sources"] if self.others else []))


def sample_scores(curated: Curated, most: int = SAMPLE) -> ScoreSample:
    """Read the scores of every k-th document, with the least k that gives at most ``most``."""
    step = max(1, -(-curated.pool.kept // most))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in curated.columns}
    start = 0
    for unit in curated.pool.units:
        for name, column in curated.columns.items() if unit.documents else ():
            values = read_scores(column.path, column.files[unit.number])
            parts[name].append(values[-start % step :: step])
        start += unit.documents
    none = np.empty(0, np.float32)
    return ScoreSample(
        step=step, scores={name: np.concatenate([none, *own]) for name, own in parts.items()}
    )


def edges_of(values: np.ndarray, bins: int = _BINS) -> np.ndarray:
    """Return the edges of a histogram that a few extreme values do not make empty.

    Args:
        values: (m,) float32; NaN is left out.
        bins: The number of bins.

    Returns:
        (bins + 1,) float64, from the 0.2 % to the 99.8 % quantile; the range of the values where
        these are equal, and a range of 1 around a single value.
    """
    known = values[~np.isnan(values)].astype(np.float64)
    if not len(known):
        return np.linspace(0.0, 1.0, bins + 1)
    low, high = np.quantile(known, [0.002, 0.998])
    if high <= low:
        low, high = known.min(), known.max()
    if high <= low:
        low, high = low - 0.5, low + 0.5
    if not np.isfinite(high - low) or low + (high - low) / bins == low:
        return np.linspace(0.0, 1.0, bins + 1)
    return np.linspace(low, high, bins + 1)


def count_pool(curated: Curated, sample: ScoreSample, sources: int = 8) -> PoolCounts:
    """Count all documents of a recipe.

    Args:
        curated: What is counted.
        sample: Gives the edges of the histograms of scores.
        sources: Sources that are counted one by one, the largest ones.
    """
    pool, cut = curated.pool, curated.cut
    largest = largest_sources(pool.by_source, "bytes", sources)
    named = [name for name in largest if name in pool.by_source]
    names = tuple(sorted(named, key=lambda name: (-pool.by_source[name]["bytes"], name)))
    others = len(pool.by_source) - len(names)
    width = len(names) + bool(others)
    place = {name: number for number, name in enumerate(names)}
    edges = {name: edges_of(own) for name, own in sample.scores.items()}
    scores = {name: np.zeros((width, 2, len(own) - 1), np.int64) for name, own in edges.items()}
    unscored = {name: np.zeros(width, np.int64) for name in edges}
    lowest = {name: np.full(width, np.inf) for name in edges}
    ranks = [name for name in curated.recipe.budget.ranks if name in curated.columns]
    length_edges = np.unique((2 ** (np.arange(2 * _OCTAVES + 1) / 2)).astype(np.int64))
    lengths = np.zeros((3, len(length_edges) - 1), np.int64)
    languages: dict[str, Counter[str]] = {}
    language_of = _languages(curated, pool.corpus, len(pool.units))
    excluded = 0
    for unit in pool.units:
        whole = replace(unit, kept=None)
        table, rows = whole.read_rows(["source", "bytes"]), unit.numbers()
        chosen = read_parquet(cut.verified(cut.files[unit.number]), ["row"]).column("row")
        fate = np.zeros(unit.of, np.int64)  # 0 excluded, 1 left, 2 taken
        fate[rows] = 1
        fate[chosen.to_numpy()] = 2
        sizes = np.searchsorted(length_edges, table.column("bytes").to_numpy(), side="right") - 1
        np.add.at(lengths, (fate, sizes.clip(0, lengths.shape[1] - 1)), 1)
        if language_of is not None:
            own = language_of[unit.name].read(["language"]).column("language")
            for number in range(3):
                few = own.filter(fate == number).value_counts().to_pylist()
                counted = languages.setdefault(str(number), Counter())
                counted.update({str(one["values"]): one["counts"] for one in few})
        encoded = table.column("source").combine_chunks().dictionary_encode()
        codes = np.array(
            [place.get(name, len(names)) for name in encoded.dictionary.to_pylist()], np.int64
        )
        of_source = codes[encoded.indices.to_numpy()][rows] if len(codes) else codes
        taken = (fate[rows] == 2).astype(np.int64)
        outside = np.zeros(len(rows), bool)
        for name, column in curated.columns.items() if len(rows) else ():
            values = read_scores(column.path, column.files[unit.number]).astype(np.float64)
            missing = np.isnan(values)
            outside |= missing if name in ranks else False
            unscored[name] += np.bincount(of_source[missing], minlength=width)
            bins = np.searchsorted(edges[name], values, side="right") - 1
            bins = bins.clip(0, scores[name].shape[2] - 1)[~missing]
            np.add.at(scores[name], (of_source[~missing], taken[~missing], bins), 1)
            some = ~missing & (taken == 1)
            np.minimum.at(lowest[name], of_source[some], values[some])
        excluded += int(outside.sum())
    _add_earlier(curated, lengths, length_edges, languages, language_of is not None)
    return PoolCounts(
        sources=names,
        others=others,
        edges=edges,
        scores=scores,
        unscored=unscored,
        lowest=lowest,
        length_edges=length_edges,
        lengths=lengths,
        languages=_by_language(languages),
        excluded=excluded,
        taken=int(cut.facts["documents"]),
        kept=pool.kept,
    )


def _add_earlier(
    curated: Curated,
    lengths: np.ndarray,
    length_edges: np.ndarray,
    languages: dict[str, Counter[str]],
    with_languages: bool,
) -> None:
    """Count the documents that were dropped before the last rewriter among those excluded."""
    known: dict[str, Mapping[str, ColumnFile] | None] = {}
    for gone in dropped_earlier(curated.pool):
        size = gone.documents.column("bytes").to_numpy()
        bins = np.searchsorted(length_edges, size, side="right") - 1
        np.add.at(lengths[0], bins.clip(0, lengths.shape[1] - 1), 1)
        path = gone.unit.corpus
        if with_languages and str(path) not in known:
            known[str(path)] = _languages(curated, Artefact.open(path))
        if with_languages and (found := known[str(path)]) and gone.unit.name in found:
            own = found[gone.unit.name].read(["language"]).column("language")
            few = own.take(pa.array(gone.rows)).value_counts().to_pylist()
            counted = languages.setdefault("0", Counter())
            counted.update({str(one["values"]): one["counts"] for one in few})


def _languages(
    curated: Curated, corpus: Artefact, units: int = 0
) -> Mapping[str, ColumnFile] | None:
    """Find the files of the column of languages by unit of a corpus.

    None where a recipe needs none, or where there are fewer than ``units``.
    """
    settings = CleanSettings.of(curated.recipe)
    if settings.languages is None:
        return None
    workspace = Workspace(curated.recipe.work_directory, read_only=True)
    columns: Sequence[TextColumn] = [settings.languages]
    found = find_text_columns(columns, corpus, workspace).get(settings.languages.name)
    return found if found is not None and len(found) >= units else None


def _by_language(counted: Mapping[str, Counter[str]]) -> dict[str, tuple[int, int, int]]:
    names = {name for own in counted.values() for name in own}
    return {
        name: tuple(counted[str(fate)][name] for fate in range(3))  # type: ignore[misc]
        for name in sorted(names, key=lambda name: (-sum(o[name] for o in counted.values()), name))
    }
