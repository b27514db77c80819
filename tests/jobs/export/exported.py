"""A small curated recipe to export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penstock.jobs.curate import Curated
from tests.pools import documents, make, recipe_of, write_jsonl

HOSTILE = "<script>|`*\n\x1b[31m\u202e"
"""A name of a source that is markup, and commands for a terminal."""

SCORES = {f"d{number:04d}": float(number % 23) for number in range(150)} | {"long": 50.0}


def curated_of(directory: Path, tokens: int = 3_000, **budget: Any) -> Curated:
    """Curate 150 documents of several units, some of them with licences, one of them long."""
    rows: list[dict[str, Any]] = [dict(row) for row in documents(150, seed=6)]
    rights: list[dict[str, Any]] = [
        {"license": "mit"},
        {"metadata": {"licence": "CC-BY-4.0"}},
        {"licenses": ["mit", "isc"]},
        {"stars": 3.5, "note": "a\nb"},
    ]
    rows = [{**row, **rights[number % 4]} for number, row in enumerate(rows)]
    rows[5] = {"id": "long", "text": "turbine water " * 700, "source": "web"}
    rows[12]["source"] = HOSTILE
    rows[12]["text"] = "größe 水力\r\n\t\u2028 \U0001f300 " + rows[12]["text"]
    write_jsonl(directory / "pool" / "a.jsonl", rows)
    recipe = recipe_of(directory, tokens, "s", budget=budget, shards={"tokens_per_shard": 20 * 16})
    return make(recipe, {"s": SCORES | {"d0012": 49.0}}).curated()
