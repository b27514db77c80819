"""Plan of a recipe: all that its stages need, built and checked once, before any work starts.

A plan reads targets and the code of plug-ins, and no document of the pool. Each stage gets its part
and no recipe. Plans of similar recipes, such as the arms of a comparison, share the parts whose
keys are equal. So 200 arms that differ in their budget find input files and build selectors once.
What depends on the pool, such as the sources that shares name, is checked after cleaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from penstock.artefact import canonical
from penstock.jobs.build import (
    build_columns,
    build_reweighter,
    build_rewrites,
    find_evaluation_files,
)
from penstock.pipeline.corpus import CorpusSettings
from penstock.pipeline.cut import CutSettings
from penstock.pipeline.rewriting.answers import Rewrite
from penstock.pipeline.scoring.models import Column
from penstock.pipeline.tokenizer import TokenizerSettings
from penstock.recipe import Recipe, Shards, Train
from penstock.selectors.reweighting.planned import PlannedReweighter
from penstock.storage import AnyPath

__all__ = ["Plan", "TrainSettings"]

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of training, from a recipe."""

    train: Train
    seed: int
    """Seed of the initial weights and of the data order."""
    reweighter: PlannedReweighter | None


class _Parts:
    """Parts that plans have built, by the values of the recipe's keys that each depends on."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def once(self, build: Callable[[Recipe], Part], recipe: Recipe, *depends: Any) -> Part:
        """Return ``build(recipe)``, built once for equal values in ``depends``."""
        key = repr((build.__qualname__, recipe.directory, Path.cwd(), depends))
        if key not in self._built:
            self._built[key] = build(recipe)
        part: Part = self._built[key]
        return part


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A recipe with one part for each stage; paths are resolved, plug-ins are built."""

    recipe: Recipe
    """The recipe, for reports; stages do not read it."""
    work: AnyPath
    """The directory of the artefacts."""
    corpus: CorpusSettings
    rewrites: tuple[Rewrite, ...]
    columns: tuple[Column, ...]
    """Unfitted selectors, each after those that it depends on. Stages fit copies of them."""
    tokenizer: TokenizerSettings
    cut: CutSettings
    shards: Shards
    train: TrainSettings
    evaluate: tuple[AnyPath, ...]
    """The files that runs are evaluated on."""
    _parts: _Parts = field(default_factory=_Parts, repr=False, compare=False)

    @classmethod
    def of(cls, recipe: Recipe) -> Plan:
        """Build and check every part of a recipe.

        Raises:
            RecipeError: ``work`` cannot be used, or a target is also an ``evaluate`` file.
            InputError: An input, target, evaluation or tokenizer file is missing.
            SelectorError: A selector, rewriter, reweighter or parameter is not known.
        """
        return cls._of(recipe, _Parts())

    def derive(self, recipe: Recipe) -> Plan:
        """Plan another recipe, building only the parts whose keys differ from this plan's.

        Raises:
            BadInput: As :meth:`of`.
        """
        return self._of(recipe, self._parts)

    @classmethod
    def _of(cls, recipe: Recipe, parts: _Parts) -> Plan:
        once = parts.once
        keys = recipe.model_dump(
            mode="json",
            include={"corpus", "clean", "rewrite", "select", "tokenizer", "evaluate"},
        )
        reweight = recipe.train.reweight and recipe.train.reweight.model_dump(mode="json")
        return cls(
            recipe=recipe,
            work=recipe.work_directory,
            corpus=once(CorpusSettings.of, recipe, keys["corpus"], keys["clean"]),
            tokenizer=once(TokenizerSettings.of, recipe, keys["tokenizer"], recipe.seed),
            evaluate=tuple(once(find_evaluation_files, recipe, keys["evaluate"])),
            rewrites=tuple(once(build_rewrites, recipe, keys["rewrite"], recipe.seed)),
            columns=tuple(
                once(
                    build_columns,
                    recipe,
                    keys["select"],
                    keys["evaluate"],
                    sorted(recipe.budget.ranks),
                )
            ),
            cut=CutSettings.of(recipe),
            shards=recipe.shards,
            train=TrainSettings(
                train=recipe.train,
                seed=recipe.train_seed,
                reweighter=once(build_reweighter, recipe, reweight),
            ),
            _parts=parts,
        )

    @property
    def unranked(self) -> list[str]:
        """Selectors that no column of ``budget.rank`` depends on."""
        ranked = {column.name for column in self.columns}
        return [name for name in self.recipe.select if name not in ranked]

    def fingerprints(self) -> dict[str, str]:
        """Return a sha256 of each part, equal for equal settings, on any machine.

        Input files count by name, not by content: the pool is not read.
        """
        parts: dict[str, Any] = {
            "corpus": [
                [item.path.name for item in self.corpus.inputs],
                self.corpus.config(),
            ],
            "rewrite": [rewrite.identity() for rewrite in self.rewrites],
            "columns": [
                [column.name, dict(column.selector.identity()), list(column.target.hashes)]
                for column in self.columns
            ],
            "tokenizer": [self.tokenizer.config(), self.tokenizer.seed],
            "cut": self.cut.config(),
            "shards": self.shards.model_dump(mode="json"),
            "train": [
                self.train.train.model_dump(mode="json"),
                self.train.seed,
                self.train.reweighter and dict(self.train.reweighter.identity),
            ],
            "evaluate": [file.name for file in self.evaluate],
        }
        return {
            name: hashlib.sha256(canonical(config)).hexdigest() for name, config in parts.items()
        }
