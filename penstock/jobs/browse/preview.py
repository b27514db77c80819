"""Preview a change of a recipe: what ``curate`` would take and drop, from columns alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from penstock.artefact import Artefact
from penstock.errors import ArtefactError, BadInput, RecipeError
from penstock.jobs.browse.changes import apply_change
from penstock.jobs.browse.columns import UNKNOWN, DocumentColumns, read_columns
from penstock.jobs.browse.cutting import MemoryCut, MemoryPool, cut_in_memory
from penstock.jobs.browse.exclusions import CleanColumns
from penstock.jobs.curate import Curated
from penstock.jobs.plan import Plan
from penstock.pipeline.cleaning.settings import DUPLICATE, NEAR_DUPLICATE, CleanSettings
from penstock.pipeline.cut import CutSettings
from penstock.pipeline.cutting.ordering import RANDOM
from penstock.pipeline.tokens import count_tokens
from penstock.recipe import Recipe
from penstock.rules import Expression, rule_sets

__all__ = ["BrowsedRecipe", "GroupLine", "Preview", "Previewed", "SourceCount"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCount:
    """The documents of one source under a change."""

    kept: int
    taken: int
    tokens: int
    came: int
    """Taken now, and not by the recipe as it is."""
    went: int
    """Taken by the recipe as it is, and not now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLine:
    """The line between taken and left of one group of sources."""

    source: str | None
    """None for all sources without a share of their own."""
    requested: int
    delivered: int
    lowest: float | None
    """The score of the last document that is taken; None where none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a change would take and drop."""

    kept: int
    dropped_by: Mapping[str, int]
    """Documents by their first reason, as in the accounting of ``curate``: with rewriters those
    that were dropped before one, too."""
    taken: int
    requested: int
    delivered: int
    came: int
    went: int
    by_source: Mapping[str, SourceCount]
    groups: tuple[GroupLine, ...]
    needs: tuple[str, ...]
    """Why the documents that are taken are only estimated, and ``curate`` has to tell."""
    uncounted: int
    """Documents whose tokens are estimated by their bytes: counting them makes the cut exact."""
    problem: str | None = None
    """Why the recipe cannot be cut so; then nothing is taken."""

    @property
    def exact(self) -> bool:
        """Whether ``curate`` takes exactly these documents."""
        return not (self.needs or self.uncounted or self.problem)

    def summary(self) -> dict[str, Any]:
        """Return the values as JSON has them."""
        return {**asdict(self), "exact": self.exact}


@dataclass(frozen=True, slots=True, kw_only=True)
class Previewed:
    """A preview and the documents behind it, n of the corpus."""

    recipe: Recipe
    preview: Preview
    kept: np.ndarray
    """(n,) bool."""
    reasons: np.ndarray
    """(n,) uint16: 0, or 1 and the position in :attr:`names`."""
    names: tuple[str, ...]
    """The reasons for which a document can be dropped."""
    cut: MemoryCut | None
    """None where the recipe cannot be cut so."""
    taken: np.ndarray
    """(n,) bool."""


class BrowsedRecipe:
    """A finished recipe whose changes are previewed; it writes nothing.

    Args:
        plan: Plan of the recipe.
        curated: Its finished artefacts.

    Raises:
        ArtefactError: A file is missing or was changed, or the recipe's own cut is not what its
            columns give.
    """

    def __init__(self, plan: Plan, curated: Curated) -> None:
        self.recipe = plan.recipe
        self.curated = curated
        self.columns: DocumentColumns = read_columns(curated, plan.recipe.draw_seed)
        self.clean: CleanColumns = CleanColumns.read(plan.clean, self.columns)
        self._fitted = frozenset(_fitted_on_pool(plan, curated))
        self._bytes_per_token = float(curated.tokenizer.facts["bytes_per_token"])
        self._pool = MemoryPool(self.columns, self.columns.kept)
        self._before = np.zeros(len(self.columns), bool)
        self.base = self.answer({})
        """The recipe as it is."""
        self._before = self.base.taken
        self._check_base()

    def answer(self, change: Mapping[str, Any]) -> Previewed:
        """Preview a change.

        Args:
            change: As of :func:`~penstock.jobs.browse.changes.apply_change`.

        Raises:
            BadInput: A key or value of the change is wrong.
            UnmadeError: A column that the change names is not made.
        """
        recipe = apply_change(self.recipe, change)
        for name in recipe.budget.ranks:
            if name not in self.columns.scores:
                raise RecipeError(
                    "has no column yet",
                    key=f"select.{name}",
                    fix="name it in budget.rank and run `penstock curate RECIPE`",
                )
        reasons, names, needs = self._reasons(recipe)
        kept = reasons == 0
        changed = not np.array_equal(kept, self.columns.kept)
        pool = MemoryPool(self.columns, kept) if changed else self._pool
        if changed:
            needs += tuple(self._needs(recipe, kept))
        settings = CutSettings.of(recipe)
        own = sum(tally["bytes"] for tally in pool.by_source.values())
        settings = replace(settings, budget=settings.budget.resolve(own, self._bytes_per_token))
        cut, problem = None, None
        try:
            cut = cut_in_memory(settings, pool, self._bytes_per_token)
        except BadInput as error:
            problem = str(error)
        taken = np.zeros(len(kept), bool)
        if cut is not None:
            taken[cut.rows] = True
        counts = np.bincount(reasons, minlength=len(names) + 1)[1:].tolist()
        preview = self._preview(cut, pool, taken)
        return Previewed(
            recipe=recipe,
            preview=replace(
                preview,
                dropped_by={name: number for name, number in zip(names, counts) if number},
                requested=settings.budget.count or 0,
                needs=needs,
                problem=problem,
            ),
            kept=kept,
            reasons=reasons,
            names=names,
            cut=cut,
            taken=taken,
        )

    def count_tokens(self, answer: Previewed, most_bytes: int = 2**24) -> int:
        """Count tokens that an answer lacks, in memory, of about ``most_bytes`` of text.

        Returns:
            Documents whose tokens are still not counted.
        """
        assert answer.cut is not None
        columns = self.columns
        missing = answer.cut.uncounted
        missing = missing[columns.tokens[missing] == UNKNOWN]
        few = missing[: 1 + int(np.searchsorted(np.cumsum(columns.bytes[missing]), most_bytes))]
        for unit, rows, places in columns.by_unit(few):
            columns.tokens[few[places]] = count_tokens(unit, rows, self.curated.tokenizer)
        return len(missing) - len(few)

    def _reasons(self, recipe: Recipe) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
        """Return the first reasons, their names, and what makes them an estimate."""
        own, base = recipe.clean, self.recipe.clean
        if own == base:
            return self.columns.reasons, self.columns.reason_names, ()
        if recipe.rewrite:
            raise RecipeError(
                "cannot be previewed: the rewriters of this recipe would see other documents",
                key="clean",
                fix="change the recipe and run `penstock curate RECIPE`",
            )
        settings = self._settings(recipe)
        if settings.near is None:
            return self.clean.reasons(settings), settings.reasons, ()
        reasons = self.clean.reasons(replace(settings, near=None, exact=False))
        repeats = [settings.reasons.index(name) + 1 for name in (DUPLICATE, NEAR_DUPLICATE)]
        before = self.columns.reasons
        reasons = np.where((reasons == 0) & np.isin(before, repeats), before, reasons)
        same = np.array_equal(reasons == 0, self.columns.kept)
        words = "which of the near-duplicates stays depends on which documents are kept"
        return reasons, settings.reasons, () if same else (words,)

    def _settings(self, recipe: Recipe) -> CleanSettings:
        """Return the settings of cleaning with the condition and the thresholds of a recipe."""
        settings = self.clean.settings
        where = recipe.clean.where
        rules = recipe.clean.rules
        named = rules if isinstance(rules, dict) else dict.fromkeys(rules)
        functions = [own.rule for own in settings.functions]
        sets = {name: given for name, given in named.items() if name not in functions}
        if [*sets] != [one.name for one in settings.rules]:
            raise RecipeError(
                "sets of rules cannot be added or removed in a preview",
                key="clean.rules",
                fix="change the recipe and run `penstock curate RECIPE`",
            )
        try:
            found = rule_sets(sets)
        except BadInput as error:
            raise error.under("clean.rules") from None
        expression = None if where is None else Expression.of(where)
        return replace(settings, rules=found, where=expression)

    def _needs(self, recipe: Recipe, kept: np.ndarray) -> Iterator[str]:
        """Say why the cut of another pool is an estimate."""
        if self.curated.tokenizer.manifest["config"].get("train") is not None:
            yield "the tokenizer is trained on the documents that are kept"
        if recipe.budget.count is None:
            yield "bytes per token are measured on the documents that are kept"
        ranked = [name for name in recipe.budget.ranks if name != RANDOM]
        for name in ranked:
            if name in self._fitted:
                yield f"select.{name} is fitted on the documents that are kept"
        unscored = int(np.count_nonzero(kept & ~self.columns.kept))
        if ranked and unscored:
            yield f"{unscored:,} documents that were dropped have no score yet"

    def _preview(
        self,
        cut: MemoryCut | None,
        pool: MemoryPool,
        taken: np.ndarray,
    ) -> Preview:
        """Count what a cut takes; the caller fills in the other fields."""
        columns, before = self.columns, self._before
        count = len(columns.sources)

        def by_source(rows: np.ndarray, weights: np.ndarray | None = None) -> list[int]:
            found = np.bincount(columns.source[rows], weights, minlength=count)
            return found.astype(np.int64).tolist()

        rows = np.flatnonzero(taken) if cut is None else cut.rows
        tokens = None if cut is None else cut.tokens
        came, went = np.flatnonzero(taken & ~before), np.flatnonzero(before & ~taken)
        kept = {name: tally["documents"] for name, tally in pool.by_source.items()}
        each = zip(
            columns.sources,
            [kept.get(name, 0) for name in columns.sources],
            by_source(rows),
            by_source(rows, tokens),
            by_source(came),
            by_source(went),
        )
        return Preview(
            kept=sum(kept.values()),
            dropped_by={},
            taken=len(rows),
            requested=0,
            delivered=0 if cut is None else sum(cut.delivered),
            came=len(came),
            went=len(went),
            by_source={
                name: SourceCount(kept=have, taken=own, tokens=size, came=new, went=old)
                for name, have, own, size, new, old in each
            },
            groups=tuple(_lines(cut)) if cut is not None else (),
            needs=(),
            uncounted=0 if cut is None else len(cut.uncounted),
        )

    def _check_base(self) -> None:
        """Compare the recipe's own preview with its cut."""
        cut, preview = self.curated.cut, self.base.preview
        wanted = cut.facts["documents"], cut.facts["delivered"]
        if (preview.taken, preview.delivered) != wanted or not preview.exact:
            raise ArtefactError(
                "is not the cut that its columns give",
                file=cut.path,
                expected=f"{preview.taken:,} documents, {preview.delivered:,} tokens",
                got=f"{wanted[0]:,} documents, {wanted[1]:,} tokens",
                fix=f"delete {cut.path} and run `penstock curate RECIPE`",
            )


def _lines(cut: MemoryCut) -> Iterator[GroupLine]:
    group = cut.order.group[cut.rows]
    lowest = np.full(len(cut.quotas), np.inf, np.float32)
    np.minimum.at(lowest, group, cut.scores[cut.rows])
    for quota, delivered, score in zip(cut.quotas, cut.delivered, lowest.tolist()):
        yield GroupLine(
            source=quota.name,
            requested=quota.tokens,
            delivered=delivered,
            lowest=score if delivered else None,
        )


def _fitted_on_pool(plan: Plan, curated: Curated) -> Iterator[str]:
    """Yield the selectors whose scores depend on which documents the pool has.

    A scorer that saved no state scores each document from that document alone.
    """
    for column in plan.columns:
        artefact = curated.columns[column.name]
        model = artefact.manifest["inputs"].get("model")
        needs = column.selector.requirements
        alone = (
            column.selector.kind == "scorer"
            and model is not None
            and needs.embeddings is None
            and needs.answers is None
        )
        if alone:
            path = artefact.path.parent.parent / "model" / model[:16]
            alone = len(Artefact.open(path).files) == 1
        if not alone:
            yield column.name
