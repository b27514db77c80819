"""The documents of one side of a comparison in parts, each sorted by a key, for a join of both.

The key is a hash of the id; of equal ids the k-th in the order of the corpus has a key of its own.
A part is what falls to one remainder of the key, so that memory is bounded by the size of parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.hashing import hash_ids, mix
from penstock.jobs.causes import Outcome
from penstock.jobs.sides import Side
from penstock.jobs.unit_fates import Fate, UnitFates
from penstock.pipeline.units import generations
from penstock.text_hashes import hash_words

__all__ = ["ABSENT", "QUARANTINED", "JoinPart", "Names", "SideReader"]

ABSENT, QUARANTINED = 0, 1
"""Statuses of a document that a side's corpus does not hold."""

_STEP = 0x9E3779B97F4A7C15
"""An odd number: key + k * step is the key of the k-th document of one id, from 0."""


class Names:
    """Numbers for names, in the order in which they are found."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}

    def numbers(self, names: pa.ChunkedArray) -> np.ndarray:
        """Return the number of each name: (n,) int64."""
        coded = names.combine_chunks().dictionary_encode()
        own = [self._number(name) for name in coded.dictionary.to_pylist()]
        return np.array(own, np.int64)[coded.indices.to_numpy()]

    def _number(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self.all))
        if number == len(self.all):
            self.all.append(name)
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPart:
    """n documents of a side."""

    key: np.ndarray
    """(n,) uint64, ascending and distinct."""
    text: np.ndarray
    """(n,) uint64, half of the hash of the text."""
    source: np.ndarray
    """(n,) int64, by :class:`Names` that both sides share."""
    status: np.ndarray
    """(n,) int64, the position in :attr:`SideReader.outcomes`."""
    tokens: np.ndarray
    """(n,) int64, those that the cut takes; 0 of a document that it does not take."""
    scores: Mapping[str, np.ndarray]
    """(n,) float32 for each column that ranks."""
    batch: np.ndarray
    """(n,) int64, the position of the document's :class:`.UnitFates` in the side's stream."""
    row: np.ndarray
    """(n,) int64, the position in it."""


class SideReader:
    """Reads the documents of a side.

    Args:
        side: The side.
        sources: Numbers of the names of sources.
    """

    def __init__(self, side: Side, sources: Names) -> None:
        self.side = side
        self.outcomes = [Outcome(None), Outcome(None, quarantined=True)]
        """The outcomes by status."""
        self.lowest: dict[str | None, float] = {}
        """The lowest score that the cut takes, by source with a share; None for all others."""
        self._sources = sources
        self._statuses: dict[tuple[int, str | None], int] = {}

    def part(self, number: int, parts: int) -> JoinPart:
        """Read the documents whose key has a remainder.

        Args:
            number: The remainder.
            parts: The divisor.
        """
        found: list[dict[str, np.ndarray]] = []
        for batch, fates in enumerate(self.side.fates()):
            self._note_lowest(fates)
            key = hash_ids(fates.documents.column("id"), mix("diff"))
            own = np.flatnonzero(key % np.uint64(parts) == number)
            if not len(own):
                continue
            none = np.full(len(fates.rows), np.nan, np.float32)
            columns = {
                "key": key,
                "text": hash_words(fates.documents.column("hash"))[:, 0],
                "source": self._sources.numbers(fates.documents.column("source")),
                "status": self._status(fates),
                "tokens": fates.tokens,
                "batch": np.full(len(key), batch),
                "row": np.arange(len(key)),
                **{f"score {name}": fates.scores.get(name, none) for name in self.side.columns},
            }
            found.append({name: values[own] for name, values in columns.items()})
        whole = {
            name: np.concatenate([one[name] for one in found])
            for name in (found[0] if found else ())
        }
        if not found:
            whole = {name: np.empty(0, np.int64) for name in JoinPart.__dataclass_fields__}
            whole["key"] = whole["text"] = np.empty(0, np.uint64)
        return self._sorted(whole)

    def _sorted(self, whole: dict[str, np.ndarray]) -> JoinPart:
        order = np.argsort(whole["key"], kind="stable")
        key = whole["key"][order]
        again = np.flatnonzero(key[1:] == key[:-1]) + 1
        if len(again):
            place = np.arange(len(key))
            first = np.where(np.concatenate([[True], key[1:] != key[:-1]]), place, 0)
            nth = (place - np.maximum.accumulate(first)).astype(np.uint64)
            key = key + nth * np.uint64(_STEP)
            by_key = np.argsort(key, kind="stable")
            key, order = key[by_key], order[by_key]
        scores = [name for name in whole if name.startswith("score ")]
        plain = {
            name: values[order]
            for name, values in whole.items()
            if name not in (*scores, "key", "scores")
        }
        return JoinPart(key=key, scores={name[6:]: whole[name][order] for name in scores}, **plain)

    def status_without(self, keys: np.ndarray) -> np.ndarray:
        """Return the status of documents that the corpus does not hold, by their keys."""
        return np.where(np.isin(keys, self._quarantined), QUARANTINED, ABSENT)

    def read(
        self, places: Iterable[tuple[int, int]]
    ) -> Iterator[tuple[tuple[int, int], UnitFates]]:
        """Yield each place, (batch, row), with the fates of its unit, in order."""
        wanted: dict[int, list[int]] = {}
        for batch, row in sorted(set(places)):
            wanted.setdefault(batch, []).append(row)
        for batch, fates in enumerate(self.side.fates() if wanted else ()):
            for row in wanted.pop(batch, ()):
                yield (batch, row), fates
            if not wanted:
                return

    def _status(self, fates: UnitFates) -> np.ndarray:
        width = len(fates.reasons) + 1
        both = fates.fate.astype(np.int64) * width + fates.reason + 1
        values, inverse = np.unique(both, return_inverse=True)
        own = []
        for value in values.tolist():
            fate, rule = divmod(value, width)
            name = fates.reasons[rule - 1] if rule else None
            known = self._statuses.setdefault((fate, name), len(self.outcomes))
            if known == len(self.outcomes):
                self.outcomes.append(Outcome(Fate(fate), name))
            own.append(known)
        return np.array(own, np.int64)[inverse]

    def _note_lowest(self, fates: UnitFates) -> None:
        taken = np.flatnonzero(fates.fate == Fate.TAKEN)
        if not len(taken):
            return
        groups = [own["source"] for own in self.side.cut.facts["groups"][:-1]]
        sources = fates.documents.column("source").take(pa.array(taken)).to_numpy()
        scores = fates.cut_score[taken]
        rest = np.ones(len(taken), bool)
        for source in groups:
            mine = sources == source
            rest &= ~mine
            self._lower(source, scores[mine])
        self._lower(None, scores[rest])

    def _lower(self, group: str | None, scores: np.ndarray) -> None:
        if len(scores):
            own = float(scores.min())
            self.lowest[group] = min(own, self.lowest.get(group, own))

    @cached_property
    def _quarantined(self) -> np.ndarray:
        """The keys of the ids of quarantined records, (m,) uint64, where these could be read."""
        *_, read = generations(self.side.pool.corpus)
        found = []
        for record in read.named("quarantine-"):
            with open(read.verified(record), encoding="utf-8") as lines:
                names = [_id_of(line) for line in lines]
            ids = pa.array([name for name in names if name is not None], pa.string())
            found.append(hash_ids(ids, mix("diff")))
        return np.concatenate(found) if found else np.empty(0, np.uint64)


def _id_of(line: str) -> str | None:
    bad: dict[str, Any] = json.loads(line)
    name = bad.get("id")
    return None if name is None else str(name)
