"""A curated pool whose documents are explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penstock.jobs.curate import Curated
from tests.pools import make, recipe_of

SCORES = {f"d{number:04d}": float(number % 23) for number in range(150)}
SCORES["a\x1b[31m\u202eb"] = SCORES.pop("d0020")
SCORES |= {"long": 50.0, "twin": 22.5, "excluded": float("nan")}


def curated(
    directory: Path,
    tokens: int = 6_000,
    clean: Any = None,
    columns: Any = None,
    **budget: Any,
) -> Curated:
    recipe = recipe_of(
        directory,
        tokens,
        list(columns or "s"),
        budget={"rank": "s", **budget},
        shards={"tokens_per_shard": 20 * 16},
        clean=clean or {},
    )
    return make(recipe, columns or {"s": SCORES}).curated()
