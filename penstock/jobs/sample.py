"""Draw documents of a recipe from any place: kept, taken, left, dropped or quarantined.

Documents are drawn by a hash of their ids and texts, in one pass over what is known of them without
their texts, so that a draw depends on the seed and the documents alone. Only the texts of those
drawn are read.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.errors import InputError, did_you_mean
from penstock.hashing import hash_documents, hash_ids, mix
from penstock.jobs.curate import Curated, PartiallyCurated
from penstock.jobs.edge import nearest_to_cut, order_name
from penstock.jobs.unit_fates import Fate, UnitFates, iter_fates, read_texts
from penstock.pipeline.cleaning.quarantine import raw_text
from penstock.pipeline.pool import pools_of
from penstock.pipeline.units import Unit, generations

__all__ = ["PLACES", "Drawn", "Sample", "sample_documents"]

PLACES = ("kept", "taken", "left", "dropped", "quarantined")
"""Where documents can be drawn from. ``kept`` by cleaning are those that are taken and those that
are left."""

_FATES = {
    "kept": {Fate.KEPT, Fate.TAKEN, Fate.LEFT, Fate.EXCLUDED},
    "taken": {Fate.TAKEN},
    "left": {Fate.LEFT, Fate.EXCLUDED},
    "dropped": {Fate.DROPPED},
    "quarantined": set(),
    None: set(Fate),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Where to draw documents from; every condition that is given has to hold."""

    place: str | None = None
    """One of :data:`PLACES`; None for all."""
    rule: str | None = None
    """The first rule that drops a document, as ``gopher: min_words`` or ``duplicate``."""
    source: str | None = None
    """The source; of a quarantined record the file."""
    near_cut: bool = False
    """The documents that were taken with the lowest scores, and those that were left with the
    highest, half of each; of each source with a share and of all others in turn."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The documents that were drawn."""

    documents: list[dict[str, Any]]
    """``id``, ``source``, ``fate``, and ``text``. ``bytes`` of the text; ``rule`` that drops it;
    ``tokens`` that the cut takes; ``scores`` by column, None where there is none; near the cut
    ``ordered_by``, the ``name`` and ``score`` of a mixture or of a score with noise. Of a
    quarantined record ``file``, ``place`` and ``error``; ``text`` is what the record holds, with
    bytes that are not UTF-8 as escapes (``\\xe9``)."""
    of: int
    """The documents that meet the conditions."""


def sample_documents(
    curated: Curated | PartiallyCurated, count: int = 10, sample: Sample | None = None
) -> Drawn:
    """Draw documents of a recipe.

    Args:
        curated: What is made of the recipe.
        count: Documents at most; all where there are fewer.
        sample: Where to draw from; by default from everything that was read.

    Raises:
        InputError: No rule or source has the name; or the draw has no edge.
        UnmadeError: There is no cut yet, and a condition depends on it.
    """
    sample = sample or Sample()
    needs_cut = sample.near_cut or sample.place in ("taken", "left")
    if needs_cut and isinstance(curated, PartiallyCurated):
        raise curated.lacks
    _check(curated, sample)
    if sample.near_cut:
        assert isinstance(curated, Curated)
        places, of = nearest_to_cut(curated, count, sample.place, sample.source)
        return Drawn(documents=_read_places(curated, places), of=of)
    hashed, of = _by_hash(curated, count, sample)
    return Drawn(documents=hashed, of=of)


def _check(curated: Curated | PartiallyCurated, sample: Sample) -> None:
    if sample.rule is not None:
        known = {name for pool in pools_of(curated.pool) for name in pool.documents["dropped_by"]}
        known |= set(curated.pool.documents["dropped_by"])
        if sample.rule not in known:
            raise InputError(
                f"no document is dropped by the rule {sample.rule!r}"
                f"{did_you_mean(sample.rule, sorted(known))}",
                fix="`penstock clean` lists the rules with what each drops",
            )
        if sample.place not in (None, "dropped"):
            raise InputError(
                "--rule is the rule that drops a document",
                got=f"--from {sample.place}",
                fix="leave --from out",
            )
    if sample.near_cut and (sample.rule is not None or sample.place in ("dropped", "quarantined")):
        raise InputError(
            "only documents that are kept are near the cut",
            fix="leave --rule and --from out, or take --from taken, --from left",
        )
    if sample.near_cut and curated.recipe.budget.uniform is not None:
        raise InputError(
            "budget.draw.uniform draws at random from the best, so that no score is near the cut",
            fix="leave --near-cut out",
        )


@dataclass(frozen=True, slots=True)
class _MayBeDrawn:
    """A document that may be drawn."""

    unit: Unit
    row: int
    record: Mapping[str, Any]


def _by_hash(
    curated: Curated | PartiallyCurated, count: int, sample: Sample
) -> tuple[list[dict[str, Any]], int]:
    """Return the documents with the lowest hashes, and the number of all."""
    key = mix(sample.seed, "sample")
    best: list[tuple[int, int, _MayBeDrawn | dict[str, Any]]] = []
    of = serial = 0
    sources: set[str] = set()
    cut = curated.cut if isinstance(curated, Curated) else None
    wanted = np.array([int(fate) for fate in _FATES[sample.place]], np.uint8)
    for fates in iter_fates(curated.pool, curated.columns, cut) if len(wanted) else ():
        rows = np.flatnonzero(_chosen(fates, sample, wanted, sources))
        of += len(rows)
        hashes = hash_documents(fates.documents.take(pa.array(rows)), key)
        few = np.argsort(hashes, kind="stable")[:count]
        found = []
        for at in few.tolist():
            serial += 1
            place = _MayBeDrawn(
                fates.unit, int(fates.rows[rows[at]]), _record(fates, int(rows[at]))
            )
            found.append((int(hashes[at]), serial, place))
        best = heapq.nsmallest(count, [*best, *found], key=lambda one: one[:2])
    if sample.place in (None, "quarantined") and sample.rule is None:
        for bad in _quarantined(curated):
            sources.add(bad["source"])
            if sample.source in (None, bad["source"]):
                of, serial = of + 1, serial + 1
                own = int(hash_ids(pa.array([json.dumps(bad)]), key)[0])
                best = heapq.nsmallest(count, [*best, (own, serial, bad)], key=lambda one: one[:2])
    if not of and sample.source is not None and sample.source not in sources:
        raise InputError(
            f"no document has the source {sample.source!r}"
            f"{did_you_mean(sample.source, sorted(sources))}"
        )
    return [one if isinstance(one, dict) else _with_text(one) for _, _, one in best], of


def _chosen(fates: UnitFates, sample: Sample, wanted: np.ndarray, sources: set[str]) -> np.ndarray:
    """Return which documents of a unit meet the conditions: (n,) bool."""
    chosen = np.isin(fates.fate, wanted)
    if sample.rule is not None:
        own = [number for number, name in enumerate(fates.reasons) if name == sample.rule]
        chosen &= np.isin(fates.reason, own)
    if sample.source is not None:
        names = fates.documents.column("source").to_numpy()
        sources.update(set(names.tolist()))
        chosen &= names == sample.source
    return chosen


def _read_places(curated: Curated, places: list[tuple[int, int, float]]) -> list[dict[str, Any]]:
    """Return documents of the pool's units: unit number, row in the corpus's unit, score each."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    wanted: dict[int, list[int]] = {}
    name = order_name(curated.recipe.budget)
    for number, row, _ in places:
        wanted.setdefault(number, []).append(row)
    for fates in iter_fates(curated.pool, curated.columns, curated.cut):
        for row in wanted.pop(fates.unit.number, ()):
            found[fates.unit.number, row] = _with_text(
                _MayBeDrawn(fates.unit, row, _record(fates, row))
            )
        if not wanted:
            break
    for number, row, score in places if name else ():
        found[number, row]["ordered_by"] = {"name": name, "score": score}
    return [found[number, row] for number, row, _ in places]


def _record(fates: UnitFates, row: int) -> dict[str, Any]:
    """Return what is known of a document without its text; ``row`` is its position in `fates`."""
    own = fates.documents.select(["id", "source", "bytes"]).slice(row, 1).to_pylist()[0]
    fate = Fate(fates.fate[row])
    record = {**own, "fate": fate.word}
    if fate is Fate.DROPPED:
        return record | {"rule": fates.reasons[int(fates.reason[row])]}
    if fate is Fate.TAKEN:
        record["tokens"] = int(fates.tokens[row])
    scores = {name: float(values[row]) for name, values in fates.scores.items()}
    record["scores"] = {name: None if np.isnan(own) else own for name, own in scores.items()}
    return record


def _with_text(place: _MayBeDrawn) -> dict[str, Any]:
    (text,) = read_texts(place.unit, np.array([place.row]))
    return {**place.record, "text": text}


def _quarantined(curated: Curated | PartiallyCurated) -> Iterator[dict[str, Any]]:
    *_, read = generations(curated.corpus)
    for record in read.named("quarantine-"):
        with open(read.verified(record), encoding="utf-8") as lines:
            for line in lines:
                bad = json.loads(line)
                yield {
                    "id": bad.get("id") or bad["file"],
                    "source": bad["file"],
                    "fate": "quarantined",
                    "file": bad["file"],
                    "place": bad["place"],
                    "error": bad["error"],
                    "text": raw_text(bad),
                }
