"""What is trained in order to select must not have seen what is selected by it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from penstock.hashing import hash_ids, mix, uniform
from penstock.pipeline.sample import FIT, inside
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.parameters import whole

__all__ = ["OutsideSample", "outside", "random_outside"]


class OutsideSample:
    """Ranks documents at random, without those that other selectors are fitted on.

    Args:
        sample: As the other selector asks for.
        part, parts: Only one of so many parts of the pool, by hash.
    """

    summary: ClassVar[str] = "at random, without the documents that selectors are fitted on"
    paper: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def __init__(self, *, sample: int, part: int = 0, parts: int = 1) -> None:
        self.sample = whole("sample", sample)
        self.part = whole("part", part, least=0)
        self.parts = whole("parts", parts)
        self.pool_ = np.zeros(2, np.uint64)

    def identity(self) -> Mapping[str, Any]:
        """How large the sample is, and which part is meant."""
        part = {"part": self.part, "parts": self.parts} if self.parts > 1 else {}
        return {"sample": self.sample, **part}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Remember what the sample was drawn from."""
        self.pool_ = np.array([fitting.pool_size, fitting.seed], np.uint64)
        return {}

    def score(self, documents: Documents) -> np.ndarray:
        """(n,) float32, uniform; NaN inside the sample and in other parts."""
        size, seed = map(int, self.pool_)
        ids = documents.column("id")
        ranks = uniform(hash_ids(ids, mix(seed, "ladder"))).astype(np.float32)
        elsewhere = hash_ids(ids, mix(seed, "part")) % np.uint64(self.parts) != self.part
        never = inside(ids, self.sample, size, seed, FIT) | elsewhere
        return np.where(never, np.float32(np.nan), ranks)

    def save(self, directory: Path) -> None:
        """Write the pool's size and the seed."""
        np.save(directory / "pool.npy", self.pool_)

    def load(self, directory: Path) -> None:
        """Read back what :meth:`save` wrote."""
        self.pool_ = np.load(directory / "pool.npy", allow_pickle=False)


def outside(sample: int, **part: int) -> dict[str, Any]:
    """The entry under ``select`` that names :class:`OutsideSample`."""
    use = f"{OutsideSample.__module__}:{OutsideSample.__qualname__}"
    return {"use": use, "sample": sample, **part}


def random_outside(recipe: Recipe, sample: int, tokens: int) -> Recipe:
    """The recipe of a random cut outside the sample; of the given one's corpus and tokenizer."""
    tree: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True)
    tree["select"] = {"outside": outside(sample)}
    tree["compare"] = {}  # arms may name columns that are not here
    tree["budget"] = {"tokens": tokens, "rank": "outside", "seed": recipe.seed}
    return parse_recipe(tree, recipe.directory)
