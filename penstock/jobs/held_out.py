"""Cuts for auxiliary models of selectors, without the documents that selectors are fitted on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr

from penstock.hashing import hash_documents, mix, uniform
from penstock.pipeline.samples import FIT, inside
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors.algorithm import BuiltInScorer, read_json
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.parameters import Natural, Share, Whole

__all__ = ["OutsideSample", "cut_outside"]

_STATE = "outside.json"


class OutsideSample(BuiltInScorer):
    """Ranks documents at random, without those that another selector is fitted on."""

    name: ClassVar[str] = "outside-sample"
    summary: ClassVar[str] = "at random, without the documents that selectors are fitted on"
    paper: ClassVar[str] = ""
    version: ClassVar[int] = 2

    sample: Natural = Field(default=0, description="Documents in the other selector's sample.")
    share: Share | None = Field(
        default=None, description="Instead, the share of each source that it may be drawn from."
    )
    balanced: bool = Field(
        default=False,
        description="Rank so that a cut has as many bytes of each source, and all of a source "
        "that has fewer.",
    )
    part: Natural = Field(default=0, description="The part of the pool that is used.")
    parts: Whole = Field(default=1, description="Number of parts of the pool, by hash.")

    _seed: int = 0
    _share: float = 0.0
    _bytes: dict[str, int] = PrivateAttr(default_factory=dict)

    def identity(self) -> Mapping[str, Any]:
        """Return the parameters that are not at their defaults."""
        return self.model_dump(exclude_defaults=True)

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Store the seed, the share of the sample, and the bytes of each source."""
        own = self.sample / max(1, fitting.pool_size) if self.share is None else self.share
        self._seed, self._share = fitting.seed, own
        self._bytes = dict(fitting.sources) if self.balanced else {}
        return {}

    def score(self, documents: Documents) -> np.ndarray:
        """Return (n,) float32, random; NaN inside the sample and in other parts.

        Balanced scores are -u b, u uniform in [0, 1) and b the bytes of the document's source.
        Those above -c are the share c / b of a source, hence c bytes of it, whatever its size.
        """
        ranks = uniform(hash_documents(documents, mix(self._seed, "ladder")))
        if self.balanced:
            sources = documents.column("source").to_pylist()
            ranks *= np.array([-self._bytes.get(source, 0) for source in sources], np.float64)
        elsewhere = (
            hash_documents(documents, mix(self._seed, "part")) % np.uint64(self.parts) != self.part
        )
        never = inside(documents, self._share, self._seed, FIT) | elsewhere
        return np.where(never, np.float32(np.nan), ranks.astype(np.float32))

    def save(self, directory: Path) -> None:
        """Write what the fit stored."""
        state = {"seed": self._seed, "share": self._share, "bytes": self._bytes}
        (directory / _STATE).write_text(json.dumps(state) + "\n")

    def load(self, directory: Path) -> None:
        """Read the files of :meth:`save`."""
        path = directory / _STATE
        self._seed = read_json(path, "seed", int)
        self._share = read_json(path, "share", float)
        self._bytes = read_json(path, "bytes", dict)


def cut_outside(
    recipe: Recipe,
    tokens: int,
    rank: str | dict[str, float] = "outside",
    select: Mapping[str, Any] = MappingProxyType({}),
    **parameters: float,
) -> Recipe:
    """Return the recipe of a cut outside a sample, with the same corpus and tokenizer.

    Args:
        recipe: The recipe of which a selector needs models.
        tokens: The cut's budget.
        rank: The recipe's ``budget.rank``; the column ``outside`` is random.
        select: Selectors beside ``outside``.
        parameters: Those of :class:`OutsideSample`.
    """
    use = f"{OutsideSample.__module__}:{OutsideSample.__qualname__}"
    tree: dict[str, Any] = recipe.model_dump(mode="json")
    tree["select"] = {**select, "outside": {"use": use, **parameters}}
    tree["compare"] = {}  # arms may name columns that are not here
    tree["budget"] = {"tokens": tokens, "rank": rank, "seed": recipe.seed}
    return parse_recipe(tree, recipe.directory)
