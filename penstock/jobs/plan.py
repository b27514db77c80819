"""Plan of a recipe: all that its stages need, built and checked once, before any work starts.

A plan reads targets and the code of plug-ins, and no document of the pool. Each stage gets its part
and no recipe. Plans of similar recipes, such as the arms of a comparison, share the parts whose
keys are equal. So 200 arms that differ in their budget find input files and build selectors once.
What depends on the pool, such as the sources that shares name, is checked after cleaning.

The *arms* of a comparison are recipes that differ from one recipe in named overrides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from penstock.errors import BadInput, RecipeError
from penstock.jobs.build import (
    build_columns,
    build_overlaps,
    build_reweighter,
    build_rewrites,
    find_evaluation_files,
)
from penstock.language_models.model_directory import check_model
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.corpus import CorpusSettings
from penstock.pipeline.cut import CutSettings
from penstock.pipeline.rewriting.answers import Rewrite
from penstock.pipeline.rewriting.edits import Edit
from penstock.pipeline.scoring.models import Column
from penstock.pipeline.tokenizer import TokenizerSettings
from penstock.plugin_code import code_notes
from penstock.recipe import ModelFrom, Recipe, Rung, Shards, Train
from penstock.recipe_amounts import share_of
from penstock.recipe_file import override, validate
from penstock.selectors.reweighting.planned import PlannedReweighter
from penstock.storage import AnyPath

__all__ = [
    "SELECTED",
    "Arm",
    "Plan",
    "TrainSettings",
    "as_compared",
    "plan_arms",
    "recipes_of_arms",
]

SELECTED = "selected"
"""The arm that is the recipe as it stands."""


class Arm(NamedTuple):
    """One run of a comparison."""

    name: str
    multiple: float
    """Tokens of the arm over the recipe's budget."""
    seed: int
    """Seed of the draw, the initial weights and the data order."""
    rung: int = 0
    """The size: 0 is the recipe's own, then those of ``compare.rungs``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Settings of training, from a recipe."""

    train: Train
    seed: int
    """Seed of the initial weights and of the data order."""
    reweighter: PlannedReweighter | None

    def code_lines(self) -> list[str]:
        """Return a line that names the reweighter's code, if it is a user's."""
        if self.reweighter is None:
            return []
        return [*code_notes("train.reweight", self.reweighter.code_identity, False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A recipe with one part for each stage; paths are resolved, plug-ins are built."""

    recipe: Recipe
    """The recipe, for reports; stages do not read it."""
    work: AnyPath
    """The directory of the artefacts."""
    corpus: CorpusSettings
    clean: CleanSettings
    rewrites: tuple[Rewrite | Edit, ...]
    columns: tuple[Column, ...]
    """Unfitted selectors, each after those that it depends on. Stages fit copies of them."""
    tokenizer: TokenizerSettings
    cut: CutSettings
    shards: Shards
    train: TrainSettings
    evaluate: tuple[AnyPath, ...]
    """The files that runs are evaluated on."""
    _built: dict[str, Any] = field(repr=False, compare=False)
    """Parts that this plan and those derived from it have built, by the values of the recipe's keys
    that each depends on."""

    @classmethod
    def of(cls, recipe: Recipe) -> Plan:
        """Build and check every part of a recipe.

        Raises:
            RecipeError: ``work`` cannot be used, or a target is also an ``evaluate`` file.
            InputError: An input, target, evaluation or tokenizer file is missing, or a local
                directory of a model or tokenizer is refused.
            SelectorError: A selector, rewriter, reweighter or parameter is not known.
        """
        return cls._of(recipe, {})

    def derive(self, recipe: Recipe) -> Plan:
        """Plan another recipe, building only the parts whose keys differ from this plan's.

        Raises:
            BadInput: As :meth:`of`.
        """
        return self._of(recipe, self._built)

    @classmethod
    def _of(cls, recipe: Recipe, built: dict[str, Any]) -> Plan:
        def once(build: Callable[[Recipe], Any], *depends: Any) -> Any:
            key = repr((build.__qualname__, recipe.directory, Path.cwd(), depends))
            if key not in built:
                built[key] = build(recipe)
            return built[key]

        keys = recipe.model_dump(
            mode="json",
            include={"corpus", "unit_bytes", "clean", "rewrite", "select", "tokenizer", "evaluate"},
        )
        reweight = recipe.train.reweight and recipe.train.reweight.model_dump(mode="json")
        return cls(
            recipe=recipe,
            work=recipe.work_directory,
            corpus=once(
                CorpusSettings.of,
                keys["corpus"],
                keys["unit_bytes"],
                keys["clean"]["max_document_bytes"],
                keys["clean"]["decontaminate"]["files"],
                keys["evaluate"],
                keys["tokenizer"],
                [selector["target"] for selector in keys["select"].values()],
            ),
            clean=once(_clean_settings, keys["clean"], keys["evaluate"]),
            tokenizer=once(TokenizerSettings.of, keys["tokenizer"], recipe.seed),
            evaluate=tuple(once(find_evaluation_files, keys["evaluate"])),
            rewrites=tuple(once(build_rewrites, keys["rewrite"], recipe.seed)),
            columns=tuple(
                once(
                    build_columns,
                    keys["select"],
                    keys["evaluate"],
                    sorted(recipe.budget.ranks),
                    recipe.shards.carry,
                )
            ),
            cut=CutSettings.of(recipe),
            shards=recipe.shards,
            train=TrainSettings(
                train=once(_checked_training, recipe.train.model_dump(mode="json")),
                seed=recipe.train_seed,
                reweighter=once(build_reweighter, reweight, recipe.shards.carry),
            ),
            _built=built,
        )

    def as_arm(self, multiple: float, first: Recipe, requested: int) -> Plan:
        """Return the plan of an arm, with a share of the pool as a number of tokens.

        So arms have equal tokens, also where they clean otherwise.

        Args:
            multiple: The arm's multiple of the budget.
            first: The recipe of the first arm.
            requested: Tokens of the first arm's cut.
        """
        share, of_first = share_of(self.recipe.budget.tokens), share_of(first.budget.tokens)
        if share is None or of_first is None:
            return self
        return self.with_tokens(int(share / of_first * requested * Fraction(repr(multiple))))

    def with_tokens(self, tokens: int) -> Plan:
        """Return the plan with a number of tokens in place of a share of the pool."""
        budget = self.cut.budget.model_copy(update={"tokens": tokens})
        return replace(self, cut=replace(self.cut, budget=budget))

    @property
    def unranked(self) -> list[str]:
        """Selectors that no column of ``budget.rank`` depends on."""
        ranked = {column.name for column in self.columns}
        return [name for name in self.recipe.select if name not in ranked]


def _checked_training(recipe: Recipe) -> Train:
    """Return the settings of training after a look at the model's directory, if they name one."""
    if isinstance(recipe.train.model, ModelFrom):
        check_model(recipe.train.model.hf, key="train.model.hf")
    return recipe.train


def _clean_settings(recipe: Recipe) -> CleanSettings:
    return CleanSettings.of(recipe, build_overlaps(recipe))


def plan_arms(recipe: Recipe) -> dict[Arm, Plan]:
    """Plan every arm, building a part again only where an arm changes its keys.

    Raises:
        BadInput: As :meth:`Plan.of`; the key begins with the arm's.
    """
    plan = Plan.of(recipe)
    plans = {}
    for arm, own in recipes_of_arms(recipe).items():
        try:
            plans[arm] = plan.derive(own)
        except BadInput as error:
            raise error.under(f"compare.arms.{arm.name}") from error.__cause__
    return plans


def recipes_of_arms(recipe: Recipe) -> dict[Arm, Recipe]:
    """Return the recipe of every arm, multiple, seed and rung, in the order of training.

    An arm was validated when the recipe was loaded; here each is validated once at each of its
    budgets, and its seeds only replace numbers.

    Raises:
        RecipeError: An arm is wrong at a multiple of its budget, or at a rung.
    """
    settings = recipe.compare
    tree = recipe.model_dump(mode="json", exclude={"compare"})
    found = {}
    for number, rung in enumerate((None, *settings.rungs)):
        multiples = [] if rung else settings.baseline_multiples[1:]
        names = settings.arms if rung is None or rung.arms is None else rung.arms
        points = [
            (SELECTED, 1.0),
            *((name, 1.0) for name in settings.arms if name in {*names, settings.baseline}),
            *((settings.baseline, float(multiple)) for multiple in multiples),
        ]
        for name, multiple in points:
            under = f"compare.arms.{name}"
            own = _at_multiple(recipe, tree, name, multiple)
            if rung:
                own = _at_rung(own, recipe, rung, f"compare.rungs.{number - 1}: {under}")
            for seed in (rung and rung.seeds) or settings.seeds:
                found[Arm(name, multiple, seed, number)] = _with_seed(own, seed)
    return found


def _at_rung(own: Recipe, recipe: Recipe, rung: Rung, under: str) -> Recipe:
    """Return an arm's recipe at another size: its budget and rate change as the recipe's do."""
    assert recipe.budget.count is not None  # checked with the recipe
    factor = Fraction(rung.tokens, recipe.budget.count)
    train: dict[str, Any] = {"model": rung.model.model_dump(mode="json")}
    if own.train.tokens:
        train["tokens"] = round(own.train.tokens * factor)
    if rung.lr is not None:
        train["lr"] = rung.lr * (own.train.lr / recipe.train.lr)
    assert own.budget.count is not None
    size = {"budget": {"tokens": round(own.budget.count * factor)}, "train": train}
    tree = own.model_dump(mode="json", exclude={"compare"})
    return validate(override(tree, size), recipe.directory, under=under)


def as_compared(recipe: Recipe) -> Recipe:
    """Return the recipe with the first seed of its comparison: a report is about its cut."""
    return _with_seed(recipe, recipe.compare.seeds[0])


def _at_multiple(recipe: Recipe, tree: dict[str, Any], name: str, multiple: float) -> Recipe:
    if name == SELECTED:
        return recipe
    arm = override(tree, recipe.compare.arms[name])
    under = f"compare.arms.{name}"
    own = validate(arm, recipe.directory, under=under)
    if (own.budget.count is None) != (recipe.budget.count is None):
        raise RecipeError(
            key=f"{under}.budget.tokens",
            expected="a number or a share of the pool, as in the recipe itself: arms are compared "
            "at known multiples of its tokens",
            got=own.budget.tokens,
        )
    if multiple == 1:
        return own
    tokens: dict[str, Any] = {}
    if own.budget.count is not None:  # that of a share is known when the first arm is curated
        tokens["budget"] = {"tokens": round(own.budget.count * multiple)}
    if own.train.tokens:
        tokens["train"] = {"tokens": round(own.train.tokens * multiple)}
    return validate(override(arm, tokens), recipe.directory, under=under)


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    parts = {"budget": recipe.budget, "train": recipe.train}
    return recipe.model_copy(
        update={name: own.model_copy(update={"seed": seed}) for name, own in parts.items()}
    )
