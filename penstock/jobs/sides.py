"""One of two curated datasets that ``penstock diff`` compares: of a recipe, or of a cut.

A cut names its inputs by their fingerprints, so that the directory of a cut is enough, also after
its recipe was edited: the pool is found among the verdicts of the work directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.artefact import Artefact, Workspace
from penstock.errors import ArtefactError, InputError
from penstock.jobs.curate import Curated, PartiallyCurated, inspect
from penstock.jobs.plan import Plan
from penstock.jobs.unit_fates import UnitFates, iter_fates
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Recipe
from penstock.recipe_file import load_recipe, naming
from penstock.redaction import mask_values
from penstock.storage import AnyPath, as_path, is_uri, kind_of

__all__ = ["Side", "open_side", "side_of"]

_DIGITS = 16
"""Digits of a fingerprint in the name of its directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A curated dataset, with the settings that decide which documents it takes."""

    name: str
    """The recipe or directory, as it was given."""
    pool: Pool
    columns: Mapping[str, Artefact]
    """The columns that rank, by name."""
    tokenizer: Artefact
    cut: Artefact
    recipe: Recipe | None = None
    """None of a directory."""

    @property
    def clean(self) -> Mapping[str, Any]:
        """The configuration of the verdicts."""
        config: Mapping[str, Any] = self.pool.verdicts.manifest["config"]
        return config

    @property
    def budget(self) -> Mapping[str, Any]:
        """``budget`` with ``tokens`` as a number, as the cut was made by it."""
        budget: Mapping[str, Any] = self.cut.manifest["config"]["budget"]
        return budget

    @property
    def ranks(self) -> Mapping[str, float]:
        """The weight of each column that ranks documents."""
        rank = self.budget["rank"]
        return {rank: 1.0} if isinstance(rank, str) else rank

    def limit(self, rule: str) -> Any:
        """Return what a rule compares with: a threshold, the identity of a function or condition.

        None where this side has no such rule.

        Args:
            rule: A reason for which a document is dropped, as ``gopher: min_words``.
        """
        if rule.startswith("where"):
            return self.clean["where"]
        for own in self.clean["functions"]:
            if own["name"] == rule:
                return own
        name, _, key = rule.partition(": ")
        return next((own.get(key) for own in self.clean["rules"] if own["rules"] == name), None)

    def fates(self) -> Iterator[UnitFates]:
        """Read the fates of all documents; see :func:`.unit_fates.iter_fates`."""
        return iter_fates(self.pool, self.columns, self.cut)

    def tree(self, as_written: bool) -> dict[str, Any]:
        """Return the settings as nested mappings.

        Args:
            as_written: True for the recipe's keys, with secrets masked; False for what the
                artefacts were made with, which the directory of a cut has, too.
        """
        if as_written and self.recipe is not None:
            masked: dict[str, Any] = mask_values(self.recipe.model_dump(mode="json"))
            return masked
        inputs = self.cut.manifest["inputs"]
        return {
            **self.cut.manifest["config"],
            "clean": dict(self.clean),
            "corpus": self.pool.corpus.fingerprint[:_DIGITS],
            "tokenizer": inputs["tokenizer"][:_DIGITS],
            "columns": {name: own[:_DIGITS] for name, own in inputs["columns"].items()},
        }


def open_side(what: str, settings: tuple[str, ...] = ()) -> Side:
    """Open the curated dataset of a recipe, or of a cut's directory.

    Args:
        what: The file of a recipe that was curated, or a directory as ``work/cut/…``.
        settings: ``key.path=value`` overrides of a recipe.

    Raises:
        InputError: It is neither.
        UnmadeError: The recipe is not curated.
        ArtefactError: An artefact is missing or damaged.
    """
    if is_uri(what) or Path(what).is_dir():
        if settings:
            raise InputError(
                "a directory has no keys to override",
                file=what,
                fix="give the recipe's file instead",
            )
        return _of_cut(what, as_path(what))
    with naming(what, settings), closing(LocalRunner(1)) as runner:
        plan = Plan.of(load_recipe(Path(what), settings))
        curated = inspect(plan, runner)
        if isinstance(curated, PartiallyCurated):
            raise curated.lacks
    return side_of(curated, what)


def side_of(curated: Curated, name: str) -> Side:
    """Return a recipe's dataset as a side; ``name`` is that of the recipe."""
    ranks = curated.cut.manifest["inputs"]["columns"]
    return Side(
        name=name,
        pool=curated.pool,
        columns={own: curated.columns[own] for own in ranks},
        tokenizer=curated.tokenizer,
        cut=curated.cut,
        recipe=curated.recipe,
    )


def _of_cut(name: str, path: AnyPath) -> Side:
    cuts = path / "cut"
    if not (path / "manifest.json").exists() and kind_of(cuts) == "directory":
        found = [own.path for own in Workspace(path).entries() if own.stage == "cut"]
        if len(found) != 1:
            raise InputError(
                file=path,
                expected="a recipe's file or the directory of a cut",
                got=f"a work directory with {len(found):,} cuts",
                fix=f"give one of {cuts}/*; `penstock ls {name}` names their recipes",
            )
        path = found[0]
    cut = Artefact.open(path)
    if cut.manifest["stage"] != "cut":
        raise InputError(
            file=path,
            expected="a recipe's file or the directory of a cut",
            got=f"the stage {cut.manifest['stage']}",
        )
    root = path.parent.parent
    inputs = cut.manifest["inputs"]
    columns = {
        column: Artefact.open(root / "columns" / fingerprint[:_DIGITS])
        for column, fingerprint in inputs["columns"].items()
    }
    return Side(
        name=name,
        pool=_pool_of(root, inputs["pool"]),
        columns=columns,
        tokenizer=Artefact.open(root / "tokenizer" / inputs["tokenizer"][:_DIGITS]),
        cut=cut,
    )


def _pool_of(root: AnyPath, fingerprint: str) -> Pool:
    """Find the pool of a fingerprint among the verdicts of a work directory.

    Rules that keep the same documents make one pool; the first of them by name is found.
    """
    for entry in Workspace(root).entries():
        if entry.stage != "verdicts" or not entry.finished:
            continue
        try:
            verdicts = Artefact.open(entry.path)
            name = verdicts.manifest["inputs"]["corpus"][:_DIGITS]
            corpus = Artefact.open(root / "corpus" / name)
            pool = Pool.of(corpus, verdicts)
        except ArtefactError:
            continue
        if pool.fingerprint == fingerprint:
            return pool
    raise InputError(
        "the verdicts of this cut are no longer in the work directory",
        file=root,
        fix="run `penstock curate` with its recipe, and give the recipe here",
    )
