"""Cuts for auxiliary models of selectors, without the documents that selectors are fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr

from penstock.array_files import load_array
from penstock.hashing import hash_documents, mix, uniform
from penstock.pipeline.samples import FIT, inside
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors.algorithm import BuiltInScorer
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.parameters import Natural, Whole

__all__ = ["OutsideSample", "cut_outside"]


class OutsideSample(BuiltInScorer):
    """Ranks documents at random, without those that another selector is fitted on."""

    name: ClassVar[str] = "outside-sample"
    summary: ClassVar[str] = "at random, without the documents that selectors are fitted on"
    paper: ClassVar[str] = ""
    version: ClassVar[int] = 1

    sample: Whole = Field(description="Documents in the other selector's sample.")
    part: Natural = Field(default=0, description="The part of the pool that is used.")
    parts: Whole = Field(default=1, description="Number of parts of the pool, by hash.")

    _pool: np.ndarray = PrivateAttr(default_factory=lambda: np.zeros(2, np.uint64))

    def identity(self) -> Mapping[str, Any]:
        """Return the size of the sample, and the part."""
        part = {"part": self.part, "parts": self.parts} if self.parts > 1 else {}
        return {"sample": self.sample, **part}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Store the pool size and the seed that the sample was drawn with."""
        self._pool = np.array([fitting.pool_size, fitting.seed], np.uint64)
        return {}

    def score(self, documents: Documents) -> np.ndarray:
        """Return (n,) float32, uniform; NaN inside the sample and in other parts."""
        size, seed = map(int, self._pool)
        ranks = uniform(hash_documents(documents, mix(seed, "ladder"))).astype(np.float32)
        elsewhere = (
            hash_documents(documents, mix(seed, "part")) % np.uint64(self.parts) != self.part
        )
        never = inside(documents, self.sample, size, seed, FIT) | elsewhere
        return np.where(never, np.float32(np.nan), ranks)

    def save(self, directory: Path) -> None:
        """Write the pool's size and the seed."""
        np.save(directory / "pool.npy", self._pool)

    def load(self, directory: Path) -> None:
        """Read the files of :meth:`save`."""
        self._pool = load_array(directory / "pool.npy")


def cut_outside(
    recipe: Recipe,
    sample: int,
    tokens: int,
    rank: str | dict[str, float] = "outside",
    select: Mapping[str, Any] = MappingProxyType({}),
    **part: int,
) -> Recipe:
    """Return the recipe of a cut outside a sample, with the same corpus and tokenizer.

    Args:
        recipe: The recipe of which a selector needs models.
        sample: Documents in the selector's sample.
        tokens: The cut's budget.
        rank: The recipe's ``budget.rank``; the column ``outside`` is random.
        select: Selectors beside ``outside``.
        part: Parameters ``part`` and ``parts`` of :class:`OutsideSample`.
    """
    use = f"{OutsideSample.__module__}:{OutsideSample.__qualname__}"
    tree: dict[str, Any] = recipe.model_dump(mode="json")
    tree["select"] = {**select, "outside": {"use": use, "sample": sample, **part}}
    tree["compare"] = {}  # arms may name columns that are not here
    tree["budget"] = {"tokens": tokens, "rank": rank, "seed": recipe.seed}
    return parse_recipe(tree, recipe.directory)
