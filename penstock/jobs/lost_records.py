"""Records that are in no corpus any more: quarantined, or emptied by a rewriter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact
from penstock.columnar import OwnParquet, read_parquet
from penstock.jobs.origins import Origins, part_of
from penstock.jobs.wanted import Wanted
from penstock.pipeline.cleaning.quarantine import raw_text
from penstock.pipeline.units import base_of, units_of

__all__ = ["iter_emptied", "iter_quarantined"]


def iter_emptied(corpus: Artefact, wanted: Wanted, origins: Origins) -> Iterator[dict[str, Any]]:
    """Yield the documents of which a rewriter left nothing, as they were before."""
    base = base_of(corpus)
    units = {} if base is None else {unit.name: unit for unit in units_of(base)}
    for record in corpus.named("dropped-"):
        table = read_parquet(corpus.verified(record))
        unit = units[f"unit-{record.path[8:].partition('.')[0]}"]
        gone = table.column("row").to_numpy()
        places = wanted.rows(unit, origins)
        for found in table.filter(pa.array(np.isin(gone, places))).to_pylist():
            row = found["row"]
            own = unit.read_rows(["source", "input", "line"]).slice(row, 1).to_pylist()[0]
            with OwnParquet(unit.path()) as file:
                text = file.read(["text"]).column("text")[row].as_py()
            yield {
                "id": found["id"],
                "source": own["source"],
                **origins.of(unit, own["input"], own["line"]),
                "text": text,
                "unit": unit.name,
                "row": row,
                "fate": "dropped",
                "why": _emptied_by(found["rule"]),
                "fails": (found["rule"],),
            }


def _emptied_by(rule: str) -> str:
    """Describe the rule ``NAME: blank`` or ``NAME: REASON`` by which a rewriter drops."""
    name, _, reason = rule.partition(": ")
    return f"emptied by the rewriter {name}" if reason == "blank" else f"rule {rule}"


def iter_quarantined(
    corpus: Artefact, wanted: Wanted, origins: Origins
) -> Iterator[dict[str, Any]]:
    """Yield the quarantined records that are looked for.

    They have no ``source``, and an ``id`` where one can be read; ``text`` is the raw record, in
    which bytes that are not UTF-8 are escapes.
    """
    for record in corpus.named("quarantine-"):
        with open(corpus.verified(record), encoding="utf-8") as lines:
            for line in lines:
                bad = json.loads(line)
                if wanted.is_quarantined(bad, record, origins):
                    found = origins.of_bad(part_of(record), bad["input"], bad["place"])
                    yield {
                        "id": bad.get("id"),
                        "source": None,
                        **found,
                        "text": raw_text(bad),
                        "fate": "quarantined",
                        "why": f"{found['place']}: {bad['error']}",
                    }
