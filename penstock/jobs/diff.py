"""Compare two curated datasets: which documents came in, which went out, and why.

A document is the same on both sides if its id is; of equal ids the k-th in the order of one corpus
is the k-th of the other. The sides are joined in parts (:mod:`.joined_fates`), so that memory is
that of :data:`PART` documents of each side, about 80 bytes each. No text is read.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from penstock.jobs.causes import CAUSES, Same, cause_of
from penstock.jobs.changed_keys import ChangedKey, changed_keys
from penstock.jobs.joined_fates import JoinPart, Names, SideReader
from penstock.jobs.sides import Side
from penstock.jobs.unit_fates import Fate, UnitFates
from penstock.pipeline.checking import largest_sources
from penstock.pipeline.cleaning.explaining import Explanations
from penstock.pipeline.cleaning.settings import CleanSettings

__all__ = ["PART", "Moved", "MovedDocument", "SidesDifference", "compare_sides"]

PART = 1 << 20
"""Documents of each side that are held at once, about."""

_SOURCES = 20
"""Most sources that are listed; the others are summed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedDocument:
    """A document that one side takes and the other does not."""

    id: str
    source: str
    reason: str
    """A name of :data:`.causes.CAUSES`."""
    a: Mapping[str, Any]
    """``fate``: ``taken``, ``left``, ``dropped``, ``quarantined`` or ``absent``. ``tokens`` that
    are taken; ``scores`` by column; ``lowest``, the lowest score that is taken, where one column
    orders, and ``tie``, true where a document that is left has this score, too. Of a document that
    is dropped, ``rule``, with ``value``, ``limit`` and ``threshold`` where it compares numbers and
    the side is a recipe; ``repeats``, the id of the document that stays."""
    b: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The documents that came in, or those that went out."""

    documents: int
    tokens: int
    by_reason: Mapping[str, Mapping[str, int]]
    """``documents`` and ``tokens``; the most documents first."""
    by_source: Mapping[str, Mapping[str, int]]
    """Likewise: the 20 largest sources by name, and one entry for all others."""
    listed: Sequence[MovedDocument]
    """Some of them: of each reason in turn the first by a hash of the id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SidesDifference:
    """The difference of two curated datasets."""

    a: Side
    b: Side
    keys: Sequence[ChangedKey]
    both: Mapping[str, int]
    """``documents`` that both take; ``tokens_a`` and ``tokens_b``, what each takes of them."""
    came_in: Moved
    """What ``b`` alone takes."""
    went_out: Moved
    """What ``a`` alone takes."""

    def summary(self) -> dict[str, Any]:
        """Return the object that ``penstock diff --json`` prints."""
        return {
            "a": _described(self.a),
            "b": _described(self.b),
            "keys": [asdict(one) for one in self.keys],
            "both": dict(self.both),
            "in": asdict(self.came_in),
            "out": asdict(self.went_out),
        }


def _described(side: Side) -> dict[str, Any]:
    facts = side.cut.facts
    return {
        "name": side.name,
        "cut": str(side.cut.path),
        "documents": facts["documents"],
        "tokens": facts["delivered"],
    }


def compare_sides(a: Side, b: Side, limit: int = 20, part: int = PART) -> SidesDifference:
    """Compare two curated datasets.

    Args:
        a, b: The datasets; a document came in if ``b`` takes it and ``a`` does not.
        limit: Most documents that are listed of each direction.
        part: Documents of each side that are held at once, about.

    Raises:
        ArtefactError: A file is missing or was changed.
    """
    sources = Names()
    old, new = SideReader(a, sources), SideReader(b, sources)
    parts = max(1, *(-(-sum(unit.of for unit in side.pool.units) // part) for side in (a, b)))
    both = Counter({"documents": 0, "tokens_a": 0, "tokens_b": 0})
    went_out, came_in = (_MovedTally(*own, sources, limit) for own in ((old, new), (new, old)))
    for number in range(parts):
        own_a, own_b = old.part(number, parts), new.part(number, parts)
        _, in_a, in_b = np.intersect1d(
            own_a.key, own_b.key, assume_unique=True, return_indices=True
        )
        to_b, to_a = np.full(len(own_a.key), -1), np.full(len(own_b.key), -1)
        to_b[in_a], to_a[in_b] = in_b, in_a
        tokens = own_a.tokens[in_a], own_b.tokens[in_b]
        taken = (tokens[0] > 0) & (tokens[1] > 0)
        both["documents"] += int(taken.sum())
        both["tokens_a"] += int(tokens[0][taken].sum())
        both["tokens_b"] += int(tokens[1][taken].sum())
        went_out.add(own_a, own_b, to_b)
        came_in.add(own_b, own_a, to_a)
    return SidesDifference(
        a=a,
        b=b,
        keys=changed_keys(a, b),
        both=dict(both),
        came_in=came_in.moved(taker_is_a=False),
        went_out=went_out.moved(taker_is_a=True),
    )


_Listed = tuple[int, tuple[int, int], tuple[int, int] | None, int]
"""The complement of a key, the place at the taker and at the other side, the status there."""


class _MovedTally:
    """Counts the documents that one side takes and the other does not."""

    def __init__(self, taker: SideReader, other: SideReader, sources: Names, limit: int) -> None:
        self._taker, self._other = taker, other
        self._sources, self._limit = sources, limit
        self._by_reason: dict[str, Counter[str]] = {}
        self._by_source: dict[str, Counter[str]] = {}
        self._listed: dict[str, list[_Listed]] = {}

    def add(self, own: JoinPart, its: JoinPart, place: np.ndarray) -> None:
        """Count the documents of a part.

        Args:
            own: The taker's n documents.
            its: The other side's.
            place: (n,) int64, the position of each in ``its``, or -1.
        """
        held = place >= 0
        moved = np.flatnonzero((own.tokens > 0) & ~(held & (_at(its.tokens, place) > 0)))
        if not len(moved):
            return
        held, place = held[moved], place[moved]
        absent = self._other.status_without(own.key[moved])
        status = np.where(held, _at(its.status, place), absent)
        source = np.where(held, _at(its.source, place), own.source[moved])
        facts = [
            status,
            source,
            _at(its.text, place) == own.text[moved],
            _at(its.source, place) == own.source[moved],
            _same_scores(own, its, moved, place),
        ]
        kinds, kind = np.unique(
            np.stack([one.astype(np.int64) for one in facts], axis=1), axis=0, return_inverse=True
        )
        names = [
            cause_of(
                self._taker.side,
                self._other.side,
                self._other.outcomes[int(one[0])],
                Same(*(bool(same) for same in one[2:])),
                self._sources.all[int(one[1])],
            )
            for one in kinds
        ]
        numbers = {name: number for number, name in enumerate(CAUSES)}
        cause = np.array([numbers[name] for name in names])[kind.reshape(-1)]
        tokens = own.tokens[moved]
        for name, number in numbers.items():
            if len(mine := np.flatnonzero(cause == number)):
                _tally(self._by_reason, name, tokens[mine])
                self._list(name, own, its, moved[mine], place[mine], status[mine])
        by_source = own.source[moved]
        for number in np.unique(by_source).tolist():
            _tally(self._by_source, self._sources.all[number], tokens[by_source == number])

    def _list(
        self,
        cause: str,
        own: JoinPart,
        its: JoinPart,
        moved: np.ndarray,
        place: np.ndarray,
        status: np.ndarray,
    ) -> None:
        few = np.argsort(own.key[moved], kind="stable")[: self._limit]
        found = [
            (
                int(own.key[at]),
                (int(own.batch[at]), int(own.row[at])),
                (int(its.batch[to]), int(its.row[to])) if to >= 0 else None,
                int(code),
            )
            for at, to, code in zip(moved[few], place[few], status[few])
        ]
        self._listed[cause] = heapq.nsmallest(
            self._limit, [*self._listed.get(cause, ()), *found], key=lambda one: one[0]
        )

    def moved(self, taker_is_a: bool) -> Moved:
        """Return the counts, and some documents with what happened to them on both sides."""
        chosen: list[tuple[str, _Listed]] = []
        for turn in range(self._limit):
            for cause, listed in self._listed.items():
                if turn < len(listed) and len(chosen) < self._limit:
                    chosen.append((cause, listed[turn]))
        at_taker = _records(self._taker, [one[1] for _, one in chosen])
        at_other = _records(self._other, [one[2] for _, one in chosen if one[2] is not None])
        documents = []
        for cause, (_, own, its, status) in chosen:
            name, source, taken = at_taker[own]
            outcome = self._other.outcomes[status]
            absent = {"fate": "quarantined" if outcome.quarantined else "absent"}
            fates = [taken, absent if its is None else at_other[its][2]]
            first, second = fates if taker_is_a else fates[::-1]
            documents.append(MovedDocument(id=name, source=source, reason=cause, a=first, b=second))
        most = sorted(self._by_reason, key=lambda name: (-self._by_reason[name]["documents"], name))
        sums: Counter[str] = Counter({"documents": 0, "tokens": 0})
        for own_sums in self._by_reason.values():
            sums.update(own_sums)
        return Moved(
            documents=sums["documents"],
            tokens=sums["tokens"],
            by_reason={name: dict(self._by_reason[name]) for name in most},
            by_source=largest_sources(self._by_source, "documents", _SOURCES),
            listed=documents,
        )


def _at(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return values at places; at -1 the last, or 0 where there is none: the caller masks these."""
    return values[place] if len(values) else np.zeros(len(place), values.dtype)


def _same_scores(own: JoinPart, its: JoinPart, moved: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return whether the scores in the columns of both sides are equal: (m,) bool."""
    same = np.ones(len(moved), bool)
    for name in own.scores.keys() & its.scores.keys():
        one, two = own.scores[name][moved], _at(its.scores[name], place)
        same &= (one == two) | (np.isnan(one) & np.isnan(two))
    return same


def _tally(counts: dict[str, Counter[str]], name: str, tokens: np.ndarray) -> None:
    own = counts.setdefault(name, Counter())
    own.update({"documents": len(tokens), "tokens": int(tokens.sum())})


def _records(
    reader: SideReader, places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], tuple[str, str, dict[str, Any]]]:
    """Return the id, the source and the fate of the documents at some places."""
    found = {}
    for place, fates in reader.read(places):
        row = place[1]
        name, source = (fates.documents.column(own)[row].as_py() for own in ("id", "source"))
        found[place] = name, source, dict(_fate(reader, fates, row, source))
    return found


def _fate(reader: SideReader, fates: UnitFates, row: int, source: str) -> Iterator[tuple[str, Any]]:
    fate = Fate(fates.fate[row])
    yield "fate", fate.word
    if fate is Fate.DROPPED:
        yield from _dropped(reader.side, fates, row)
        return
    if fate is Fate.TAKEN:
        yield "tokens", int(fates.tokens[row])
    scores = {name: float(own[row]) for name, own in fates.scores.items()}
    if scores:
        yield "scores", {name: None if np.isnan(own) else own for name, own in scores.items()}
    if fate is Fate.LEFT and len(scores) == 1 and reader.side.budget["draw"] == "top":
        group = source if source in reader.lowest else None
        if group in reader.lowest:
            yield "lowest", reader.lowest[group]
            if reader.lowest[group] in scores.values():
                yield "tie", True


def _dropped(side: Side, fates: UnitFates, row: int) -> Iterator[tuple[str, Any]]:
    rule = fates.reasons[int(fates.reason[row])]
    yield "rule", rule
    if fates.pool is None or side.recipe is None:
        return
    explanations = Explanations(CleanSettings.of(side.recipe), fates.pool)
    at = int(fates.rows[row])
    for own in explanations.rules(fates.unit, at):
        if own.rule == rule and own.value is not None:
            yield from {"value": own.value, "limit": own.limit, "threshold": own.threshold}.items()
    repeated = explanations.repeated(fates.unit, at)
    if repeated is not None:
        yield "repeats", repeated.id
