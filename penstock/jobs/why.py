"""Find out what happened to a document: taken, left, dropped or quarantined, and why.

A corpus stores the hashes of its inputs' bytes and not their names, so that it does not depend on
their directory. The work directory stores which files had those hashes; a file that it has not read
has no name here.
"""

from __future__ import annotations

import bisect
import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.artefact import Artefact, FileRecord
from penstock.errors import InputError
from penstock.jobs.curate import Curated, PartiallyCurated
from penstock.pipeline.cutting.ranks import rank_of
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.units import Unit, generations, units_of

__all__ = ["Origins", "fates_of", "part_of"]


def fates_of(curated: Curated | PartiallyCurated, name: str) -> list[dict[str, Any]]:
    """Return an entry for each record with an id: its fate, scores, rank and sequences.

    Where the cut is not made yet, the fate of a document that was not dropped is ``kept``.

    Raises:
        InputError: No record of the corpus has that id.
    """
    *rewritten, read = generations(curated.corpus)
    origins = Origins(read)
    found = [
        *_kept(curated, name, origins),
        *(fate for corpus in rewritten for fate in _dropped(corpus, name, None)),
        *_dropped(read, name, origins),
        *_quarantined(read, name, origins),
    ]
    if not found:
        raise InputError(
            f"{name}: no document of the corpus has this id",
            fix=f"ids are those of the input's {curated.recipe.corpus[0].id!r} column, or a hash "
            "of the text where it has none",
        )
    return found


def _kept(
    curated: Curated | PartiallyCurated, name: str, origins: Origins
) -> Iterator[dict[str, Any]]:
    for unit in units_of(curated.corpus):
        with pq.ParquetFile(unit.path()) as file:
            ids = file.read(["id"]).column("id")
            rows = np.flatnonzero(pc.equal(ids, name).to_numpy())
            if not len(rows):
                continue
            wanted = file.read(["source", "text", "parent"])
            documents = wanted.take(pa.array(rows)).to_pylist()
        for row, document in zip(rows.tolist(), documents):
            parent = document["parent"]
            yield {
                "id": name,
                "source": document["source"],
                "file": origins.file_of(unit, row),
                **({} if parent is None else {"parent": parent}),
                "text": document["text"],
                "unit": unit.name,
                "row": row,
                "scores": _scores(curated, unit, row),
                **(
                    _choice(curated, unit, row, document["source"])
                    if isinstance(curated, Curated)
                    else {"fate": "kept", "why": "what is taken was not decided yet"}
                ),
            }


def _scores(
    curated: Curated | PartiallyCurated, unit: Unit, row: int
) -> dict[str, dict[str, float | None]]:
    """Read the document's score in each column, and the share of the pool that scores lower."""
    scores: dict[str, dict[str, float | None]] = {}
    for column, artefact in curated.columns.items():
        own = read_scores(artefact.path, artefact.files[unit.number])[row]
        if np.isnan(own):
            scores[column] = {"score": None, "quantile": None}
            continue
        below = total = 0
        for record in artefact.files:
            values = read_scores(artefact.path, record)
            below += int((values < own).sum())
            total += int((~np.isnan(values)).sum())
        scores[column] = {"score": float(own), "quantile": below / total}
    return scores


def _choice(curated: Curated, unit: Unit, row: int, source: str) -> dict[str, Any]:
    """Return whether the cut takes the document, its rank, and its sequences and shards."""
    cut = curated.cut
    table = pq.read_table(cut.verified(cut.files[unit.number]))
    mine = np.flatnonzero(table.column("row").to_numpy() == row)
    facts = cut.facts
    if not len(mine):
        excluded = [
            name
            for name, artefact in curated.columns.items()
            if np.isnan(read_scores(artefact.path, artefact.files[unit.number])[row])
        ]
        reason = (
            f"excluded: no score in {', '.join(excluded)}" if excluded else _below(facts, source)
        )
        return {"fate": "left", "why": reason}
    entry = table.slice(int(mine[0]), 1).to_pylist()[0]
    group = entry["group"]
    before = sum(
        record.facts["tokens"][group]
        for record in cut.files[: unit.number]
        if group < len(record.facts["tokens"])
    )
    same = table.filter(pa.array(table.column("group").to_numpy() == group))
    position = int(np.searchsorted(same.column("row").to_numpy(), row))
    start = before + int(same.column("tokens").to_numpy()[:position].sum())
    length = curated.recipe.shards.sequence_length
    offset = sum(item["tokens"] for item in facts["groups"][:group]) // length
    first, last = start // length, (start + entry["tokens"] - 1) // length
    rank = rank_of(cut, unit.number, row)
    return {
        "fate": "taken",
        "why": f"rank {rank:,} of {facts['documents']:,} taken",
        "rank": rank,
        "tokens": entry["tokens"],
        "sequences": [offset + first, offset + last],
        "shards": _shards_with(curated, offset + first, offset + last),
    }


def _below(facts: dict[str, Any], source: str) -> str:
    """Describe why a document with a rank was left: the tokens of its group, which were filled.

    The groups of a cut are the sources with a share, then all others.
    """
    *shares, rest = facts["groups"]
    group = next((own for own in shares if own["source"] == source), rest)
    if not group["tokens"]:
        return f"below the cut: budget.shares leaves no tokens for {source}"
    group_of = "" if not shares else f" for {group['source'] or 'sources without a share'}"
    return (
        f"below the cut: the {group['tokens']:,} tokens{group_of} were filled by documents that "
        "rank higher"
    )


def _shards_with(curated: Curated, first: int, last: int) -> list[str]:
    """Return the shard files with the sequences ``first`` to ``last``."""
    names = []
    start = 0
    for record in curated.shards.named("shard-"):
        end = start + record.facts["sequences"]
        if start <= last and end > first:
            names.append(record.path)
        start = end
    return names


def _dropped(corpus: Artefact, name: str, origins: Origins | None) -> Iterator[dict[str, Any]]:
    """Yield the dropped records; ``origins`` is None for a corpus that a rewriter made."""
    for record in corpus.named("dropped-"):
        table = pq.read_table(corpus.verified(record))
        for row in table.filter(pc.equal(table.column("id"), name)).to_pylist():
            repeated = ""
            if origins is not None and row["of"] is not None:
                part, _, number = row["of"].partition(":")
                repeated = f": repeats {origins.id_at(part, int(number))}"
            yield {
                "id": name,
                "source": row["source"],
                "file": origins.file(part_of(record), row["row"]) if origins else None,
                "fate": "dropped",
                "why": f"rule {row['rule']}{repeated}",
                **({"text": row["text"]} if "text" in row else {}),
            }


def _quarantined(corpus: Artefact, name: str, origins: Origins) -> Iterator[dict[str, Any]]:
    for record in corpus.named("quarantine-"):
        with open(corpus.verified(record), encoding="utf-8") as lines:
            for line in lines:
                bad = json.loads(line)
                if json.dumps(name, ensure_ascii=False) in bad.get("raw", ""):
                    yield {
                        "id": name,
                        "source": bad["file"],
                        "file": origins.file(part_of(record), bad["row"]),
                        "fate": "quarantined",
                        "why": f"{bad['place']}: {bad['error']}",
                    }


class Origins:
    """Finds the file and the id of a record by ``part`` and ``row``, its number in the part from 0.

    Args:
        corpus: The corpus before any rewriter.
    """

    def __init__(self, corpus: Artefact) -> None:
        self._corpus = corpus
        self._units: dict[str, list[Unit]] = {}
        for unit in units_of(corpus):
            self._units.setdefault(part_of(unit.record), []).append(unit)

    def file(self, part: str, row: int) -> str | None:
        """Return the input file of a record, or None where its name is not stored."""
        (record,) = self._corpus.named(f"dropped-{part}.")
        for number, count in record.facts["inputs"]:
            if row < count:
                digest = self._corpus.manifest["inputs"]["files"][number][0]
                return self._paths.get(digest)
            row -= count
        return None

    def file_of(self, unit: Unit, row: int) -> str | None:
        """Return the input file of a unit's document; None where a rewriter wrote the unit."""
        if unit.corpus != self._corpus.path:
            return None
        return self.file(part_of(unit.record), self.row_of(unit, row))

    def row_of(self, unit: Unit, row: int) -> int:
        """Return the row, within its part, of a unit's document."""
        part = part_of(unit.record)
        position = row + sum(u.documents for u in self._units[part] if u.number < unit.number)
        dropped = self._dropped(part)
        # Before it are the kept documents and the dropped records of smaller rows.
        return position + bisect.bisect_right(
            range(len(dropped)), position, key=lambda k: dropped[k] - k
        )

    def id_at(self, part: str, row: int) -> str:
        """Return the id of the kept document that is record ``row`` of a part."""
        position = row - bisect.bisect_left(self._dropped(part), row)
        for unit in self._units[part]:
            if position < unit.documents:
                with pq.ParquetFile(unit.path()) as file:
                    return str(file.read(["id"]).column("id")[position])
            position -= unit.documents
        raise LookupError(f"{part}:{row}")

    @functools.lru_cache(maxsize=16)  # noqa: B019  an object serves one command
    def _dropped(self, part: str) -> list[int]:
        """Return the rows of a part that were not kept, rising."""
        (record,) = self._corpus.named(f"dropped-{part}.")
        rows = pq.read_table(self._corpus.verified(record), columns=["row"])["row"].to_pylist()
        for bad in self._corpus.named(f"quarantine-{part}."):
            with open(self._corpus.verified(bad), encoding="utf-8") as lines:
                rows.extend(json.loads(line)["row"] for line in lines)
        return sorted(rows)

    @functools.cached_property
    def _paths(self) -> dict[str, str]:
        """The input files that this work directory has read, by the hash of their bytes."""
        stored = self._corpus.path.parent.parent / "inputs.json"
        try:
            known: dict[str, Any] = json.loads(stored.read_bytes())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return {entry[-1]: path for path, entry in sorted(known.items(), reverse=True)}


def part_of(record: FileRecord) -> str:
    """Return the part of a file of a corpus."""
    return record.path.partition(".")[0].split("-")[1]
