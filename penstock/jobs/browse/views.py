"""Histograms, lists and searches of documents under an answer; lists by DuckDB over Arrow.

A histogram has fixed bins, whose number of each document is one byte. Another cut counts the bytes
of the documents that came or went, and reads no value: of a million documents and 15 columns
DuckDB took 20 times as long to group all of them. Texts are read only of documents that are shown
or searched.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from penstock import extras
from penstock.errors import PenstockError
from penstock.jobs.browse.cutting import MemoryCut
from penstock.jobs.browse.preview import BrowsedRecipe, Previewed
from penstock.pipeline.cutting.ordering import RANDOM
from penstock.pipeline.pages import read_texts

__all__ = ["SIDES", "Bins", "DocumentViews", "FoundDocuments", "ListedDocument"]

SIDES = {
    "above": ("taken", "key, tie, row DESC"),
    "below": ("NOT taken AND may", "key DESC, tie DESC, row"),
    "first": ("taken", "key DESC, tie DESC, row"),
    "came": ("taken AND NOT before", "key DESC, tie DESC, row"),
    "went": ("before AND NOT taken", "key DESC, tie DESC, row"),
    "dropped": ("reason > 0", "row"),
}
"""The lists of documents: a condition and an order of DuckDB. ``above`` begins with the last
document that is taken, ``below`` with the first that is not."""

_BINS, _NONE = 48, 255
"""Bins of a histogram, and the number of documents without a value."""

_TAIL = 0.002
"""Share of the documents in the first and in the last bin at least: the bins have equal widths
between these quantiles, so that one page of a gigabyte does not flatten the others."""

_SECONDS = 2.0
"""Time of a search in texts, after which it returns what it has found."""

_SEARCHED = 20_000
"""Documents that a search in texts looks at, at most."""

_SHOWN = 1200
"""Characters of a text that are shown."""

_MOST_SOURCES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """The bins of one column's histogram."""

    name: str
    kind: str
    """``score``, ``rule``, ``condition``, ``length``, or ``label`` of texts."""
    edges: tuple[float, ...]
    """(bins + 1,) ascending; of labels none. The first and the last bin have all beyond, too."""
    lowest: float | None = None
    """The least value of a document that the recipe keeps; None of labels, or if none has one."""
    highest: float | None = None
    """The greatest."""
    labels: tuple[str, ...] = ()
    """Of a column of texts: the most frequent, and ``others``."""
    threshold: float | None = None
    """Of a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDocument:
    """A document as the page shows it."""

    id: str
    source: str
    bytes: int
    tokens: int | None
    """Of the whole text; None where they are not counted."""
    taken: bool
    taken_tokens: int | None
    """Those that the cut takes: fewer of the document in which a budget ends. None where it is not
    taken, or not counted."""
    reason: str | None
    score: float | None
    """By which it is ordered; None where it may not be taken."""
    scores: Mapping[str, float | None]
    text: str
    """The first 1,200 characters."""
    cut: bool
    """Whether the text goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDocuments:
    """A list of documents."""

    documents: tuple[ListedDocument, ...]
    searched: int | None = None
    """Texts that a search has read; None without one."""
    complete: bool = True
    """Whether the search has read all texts of the list, or found as many as were wanted."""

    def summary(self) -> dict[str, Any]:
        """Return the values as JSON has them."""
        return asdict(self)


class DocumentViews:
    """The columns of a recipe as DuckDB reads them.

    Args:
        browsed: The recipe.

    Raises:
        BadInput: DuckDB is not installed; ``fix`` names the extra.
    """

    def __init__(self, browsed: BrowsedRecipe) -> None:
        with extras.named("browse", "duckdb"):
            import duckdb
        self._browsed = browsed
        self._database = duckdb.connect(
            config={"enable_external_access": False, "autoload_known_extensions": False}
        )
        self._codes: list[np.ndarray] = []
        """Of each of :attr:`bins`, (n,) uint8."""
        self.bins: list[Bins] = []
        self._base: dict[str, list[np.ndarray]] = {}
        for name, kind, values, threshold in self._values():
            self._add(name, kind, values, threshold)
        self._add_label("source", browsed.columns.source, browsed.columns.sources)
        try:
            language = browsed.clean.column("language").dictionary_encode()
        except PenstockError:
            pass  # no column of languages
        else:
            codes = language.indices.fill_null(-1).to_numpy()
            self._add_label("language", codes, language.dictionary.to_pylist())
        browsed.clean.forget()
        base = browsed.base
        for name, chosen in (("kept", base.kept), ("taken", base.taken)):
            rows = np.flatnonzero(chosen)
            self._base[name] = [np.bincount(own[rows], minlength=256) for own in self._codes]

    def _values(self) -> Iterator[tuple[str, str, np.ndarray, float | None]]:
        """Yield name, kind, (n,) values and threshold of each column of numbers."""
        columns, clean = self._browsed.columns, self._browsed.clean
        for name, column in columns.scores.items():
            if name != RANDOM:
                yield name, "score", column.scores, None
        yield "bytes", "length", columns.bytes, None
        for one in clean.settings.rules:
            for rule in one.rules:
                threshold = one.threshold_of(rule)
                if threshold is not None:
                    yield f"{one.name}.{rule.name}", "rule", clean.value(rule), threshold
        if clean.settings.where is not None:
            for name, values in clean.numbers(clean.settings.where).items():
                if name != "bytes":
                    yield name, "condition", values, None

    def _add(self, name: str, kind: str, values: np.ndarray, threshold: float | None) -> None:
        known = np.isfinite(values)
        some = values[known]
        low, high = (
            np.quantile(some[:: 1 + len(some) // 10**5], [_TAIL, 1 - _TAIL])
            if len(some)
            else (0.0, 1.0)
        )
        if threshold is not None:
            low, high = min(low, threshold), max(high, threshold)
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
        codes = np.full(len(values), _NONE, np.uint8)
        place = (some - edges[0]) * (_BINS / (edges[-1] - edges[0]))
        codes[known] = np.clip(place, 0, _BINS - 1).astype(np.uint8)
        self._codes.append(codes)
        # Documents that were dropped before a rewriter come last, and have no values here.
        drawn = values[known & self._browsed.base.kept[: len(values)]]
        self.bins.append(
            Bins(
                name=name,
                kind=kind,
                edges=tuple(edges.tolist()),
                lowest=float(drawn.min()) if len(drawn) else None,
                highest=float(drawn.max()) if len(drawn) else None,
                threshold=threshold,
            )
        )

    def _add_label(self, name: str, codes: np.ndarray, labels: Sequence[str]) -> None:
        """Add a column of (n,) positions in labels, -1 of none."""
        counts = np.bincount(codes[codes >= 0], minlength=len(labels))
        often = np.argsort(-counts, kind="stable")[: _BINS - 1]
        place = np.full(len(labels) + 1, len(often), np.uint8)
        place[often] = np.arange(len(often))
        place[-1] = _NONE
        own = tuple(str(labels[at]) for at in often)
        self._codes.append(place[codes])
        rest = ("others",) if len(labels) > len(often) else ()
        self.bins.append(Bins(name=name, kind="label", edges=(), labels=own + rest))

    def histograms(self, answer: Previewed) -> list[dict[str, list[int]]]:
        """Count documents by bin, for each of :attr:`bins`: ``kept`` and ``taken``."""
        base = self._browsed.base
        found: list[dict[str, list[int]]] = [{} for _ in self.bins]
        # Only the documents that a change moves are counted.
        for name, now, before in (
            ("kept", answer.kept, base.kept),
            ("taken", answer.taken, base.taken),
        ):
            new, gone = np.flatnonzero(now & ~before), np.flatnonzero(before & ~now)
            for at, (bins, codes) in enumerate(zip(self.bins, self._codes)):
                counts = self._base[name][at] + np.bincount(codes[new], minlength=256)
                counts -= np.bincount(codes[gone], minlength=256)
                found[at][name] = counts[: self._size(bins)].tolist()
        return found

    @staticmethod
    def _size(bins: Bins) -> int:
        return len(bins.labels) or _BINS

    def documents(
        self,
        answer: Previewed,
        side: str,
        *,
        source: str | None = None,
        text: str = "",
        count: int = 20,
    ) -> FoundDocuments:
        """List documents.

        Args:
            answer: The answer that says which are taken.
            side: A key of :data:`SIDES`.
            source: Only those of this source.
            text: Only those with this in their id or text, in any case.
            count: At most so many.

        Raises:
            ArtefactError: A file is missing or was changed.
        """
        columns, cut = self._browsed.columns, answer.cut
        if cut is None and side != "dropped":
            return FoundDocuments(documents=())
        marks: dict[str, Any] = {
            "row": np.arange(len(columns)),
            "source": columns.source,
            "taken": answer.taken,
            "before": self._browsed.base.taken,
            "reason": answer.reasons,
        }
        if cut is not None:
            marks |= {"key": cut.order.key, "tie": cut.order.tie, "may": cut.order.group >= 0}
        where, order = SIDES[side]
        values: list[Any] = []
        if source is not None:
            where += " AND source = ?"
            values.append(columns.sources.index(source) if source in columns.sources else -1)
        limit = _SEARCHED if text else count
        query = f"SELECT row FROM marks WHERE {where} ORDER BY {order} LIMIT {int(limit)}"
        rows = [row for (row,) in self._rows(query, pa.table(marks), values)]
        if not text:
            return FoundDocuments(documents=tuple(self._shown(answer, rows)))
        return self._search(answer, rows, text.casefold(), count)

    def _search(self, answer: Previewed, rows: list[int], text: str, count: int) -> FoundDocuments:
        end, searched = time.monotonic() + _SECONDS, 0
        found: list[int] = []
        while searched < len(rows) and len(found) < count and time.monotonic() < end:
            some = rows[searched : searched + 200]
            texts = self._texts(some)
            names = self._browsed.columns.ids.take(pa.array(some)).to_pylist()
            found += [
                row
                for row, name in zip(some, names)
                if text in texts[row].casefold() or text in name.casefold()
            ]
            searched += len(some)
        complete = searched == len(rows) < _SEARCHED or len(found) >= count
        shown = tuple(self._shown(answer, found[:count]))
        return FoundDocuments(documents=shown, searched=searched, complete=complete)

    def _shown(self, answer: Previewed, rows: Sequence[int]) -> Iterator[ListedDocument]:
        columns, cut = self._browsed.columns, answer.cut
        texts = self._texts(rows)
        for row in rows:
            reason = int(answer.reasons[row])
            score = None if cut is None else float(cut.scores[row])
            tokens, text = int(columns.tokens[row]), texts[row]
            of_cut = _taken_tokens(cut, row) if tokens >= 0 else None
            yield ListedDocument(
                id=columns.ids[row].as_py(),
                source=columns.sources[columns.source[row]],
                bytes=int(columns.bytes[row]),
                tokens=tokens if tokens >= 0 else None,
                taken=bool(answer.taken[row]),
                taken_tokens=of_cut,
                reason=answer.names[reason - 1] if reason else None,
                score=_number(score),
                scores={
                    name: _number(float(own.scores[row]))
                    for name, own in columns.scores.items()
                    if name != RANDOM
                },
                text=text[:_SHOWN],
                cut=len(text) > _SHOWN,
            )

    def _texts(self, rows: Sequence[int]) -> dict[int, str]:
        """Read the texts of documents, by the pages that hold them."""
        columns = self._browsed.columns
        ordered = np.unique(np.array(rows, dtype=np.int64))
        found: dict[int, str] = {}
        for unit, rows_of, places in columns.by_unit(ordered):
            texts = read_texts(unit.path(), unit.record.bytes, 1, rows_of)
            found |= dict(zip(ordered[places].tolist(), texts.to_pylist()))
        return found

    def _rows(
        self, query: str, marks: pa.Table, values: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a query of ours over a table; what users type is among ``values`` alone."""
        with self._database.cursor() as cursor:
            cursor.register("marks", marks)
            rows: list[tuple[Any, ...]] = cursor.execute(query, list(values)).fetchall()
        return rows


def _taken_tokens(cut: MemoryCut | None, row: int) -> int | None:
    """Return the tokens that a cut takes of a document; None where it takes none."""
    if cut is None:
        return None
    place = int(np.searchsorted(cut.rows, row))
    return int(cut.tokens[place]) if place < len(cut.rows) and cut.rows[place] == row else None


def _number(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
