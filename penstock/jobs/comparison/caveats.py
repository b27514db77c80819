"""Limits of a comparison: its size, pool, seeds and mixture, with the figures."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.display import numbered
from penstock.jobs.comparison.arms import ArmsAtSize
from penstock.jobs.curate import Curated
from penstock.recipe import ModelShape

__all__ = ["caveats"]

SMALLEST_WEIGHTS, SMALLEST_TOKENS = 3_700_000, 400_000_000
"""The smallest of the 14 sizes at which orders of 25 datasets were compared with those at a billion
weights (Magnusson et al., *DataDecide*, 2025): weights without embeddings, and tokens."""

ENOUGH_POOL = 10
"""Times the budget that a pool should hold, so that a selector may leave most of it."""

ENOUGH_SEEDS = 5


def caveats(size: ArmsAtSize, selected: Curated) -> Iterator[str]:
    """Yield a sentence for each limit that applies."""
    recipe = size.recipe
    tokens, model = size.point("selected").tokens, recipe.train.model
    weights = model.parameters if isinstance(model, ModelShape) else SMALLEST_WEIGHTS
    if weights < SMALLEST_WEIGHTS or tokens < SMALLEST_TOKENS:
        of = f"{weights:,} weights without embeddings, " if isinstance(model, ModelShape) else ""
        yield (
            f"This proof ({of}{tokens:,} tokens) is below every validated scale: the smallest at "
            "which orders of datasets were compared with those of large models had 3.7 million "
            "weights without embeddings and 400 million tokens (DataDecide). It shows whether "
            "selection helps this model on these evaluations, and no more."
        )
    held = selected.pool.bytes / selected.tokenizer.facts["bytes_per_token"]
    requested = selected.cut.facts["requested"]
    if held < ENOUGH_POOL * requested:
        yield (
            f"The pool holds about {held / requested:.1f} times the budget; below "
            f"{ENOUGH_POOL} times, a selector has little to choose from."
        )
    seeds = len(recipe.compare.seeds)
    if seeds < ENOUGH_SEEDS:
        yield (
            f"{numbered(seeds, 'seed does', 'seeds do')} not tell small differences from chance; "
            f"{ENOUGH_SEEDS} or more are better (compare.seeds)."
        )
    if len(selected.pool.by_source) > 1 and recipe.budget.shares != "pool":
        yield (
            f"The pool has {len(selected.pool.by_source)} sources, and arms may take them in "
            "different shares, so that mixtures are compared, too; budget.shares: pool gives all "
            "arms one mixture."
        )
    if recipe.evaluate and recipe.clean.decontaminate.action != "drop":
        yield "Copies of the evaluation's examples stay in the pool (clean.decontaminate)."
