"""What cleaning needs of a recipe: sets of rules, a condition, and the columns that they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from penstock.errors import PenstockError, RecipeError, SelectorError
from penstock.personal_data import KINDS, PersonalData
from penstock.pipeline.cleaning.best_column import BestColumn
from penstock.pipeline.cleaning.duplicates import MISSED, Keep, NearDuplicates
from penstock.pipeline.cleaning.function_rule import FunctionRule
from penstock.pipeline.cleaning.minhash.signatures import Signatures
from penstock.pipeline.cleaning.overlaps.overlaps import Overlaps
from penstock.pipeline.cleaning.text_columns import TextColumn
from penstock.pipeline.units import ROWS
from penstock.recipe import Dedup, KeepBest, Recipe
from penstock.rules import (
    FIELDS,
    Counting,
    Expression,
    RuleSet,
    count_statistics,
    counting_for,
    rule_sets,
)
from penstock.rules.languages import FIRST_BYTES, Languages

__all__ = [
    "DUPLICATE",
    "LABELS",
    "NEAR_DUPLICATE",
    "OVERLAP",
    "CleanSettings",
    "StatisticsColumn",
]

DUPLICATE = "duplicate"
"""The reason of a document whose normalised text is that of one that stays."""

OVERLAP = "overlap"
"""The reason of a document that holds a copy of an evaluation example, in whole or in part."""

NEAR_DUPLICATE = "near duplicate"
"""The reason of a document that is like one that stays, whose normalised text is another."""

_EMPTY = "empty"
_WHERE = ("where", "where: unknown")
"""The condition does not hold; or a value that it depends on is unknown."""

LABELS = ("id", "source", "bytes")
"""Columns of the file of rows that conditions may name."""

_N_GRAM = "_gram_"

_LANGUAGE = {"language": pa.string(), "language_probability": pa.float32()}
"""Columns of :class:`~penstock.rules.languages.Languages`, as conditions see them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSettings:
    """Settings of cleaning, from a recipe."""

    rules: tuple[RuleSet, ...] = ()
    functions: tuple[FunctionRule, ...] = ()
    """The user's own rules, applied after the sets."""
    languages: Languages | None = None
    """The languages of texts, if the condition or ``keep`` names them."""
    where: Expression | None = None
    """A condition over columns; a document for which it does not hold is dropped."""
    overlaps: tuple[Overlaps, ...] = ()
    """Overlaps with evaluation files."""
    drop_overlaps: bool = True
    """Whether documents with an overlap are dropped, not only counted."""
    exact: bool = True
    """Whether all but one of the documents whose normalised texts are equal are dropped."""
    near: NearDuplicates | None = None
    """Whether all but one of the documents that are alike are dropped; equal texts always are."""

    @classmethod
    def of(cls, recipe: Recipe, overlaps: Sequence[Overlaps] = ()) -> CleanSettings:
        """Build the sets of rules.

        Args:
            recipe: The recipe.
            overlaps: One for each of its evaluation files.

        Raises:
            RecipeError: A set, a parameter or a column is unknown, or a value is wrong.
        """
        clean = recipe.clean
        wanted = clean.rules if isinstance(clean.rules, dict) else dict.fromkeys(clean.rules)
        own = {name: given for name, given in wanted.items() if given and "use" in given}
        try:
            sets = {name: given for name, given in wanted.items() if name not in own}
            rules = rule_sets(sets if isinstance(clean.rules, dict) else clean.rules)
            functions = tuple(
                _function(name, given, recipe.directory) for name, given in own.items()
            )
        except PenstockError as error:
            raise error.under("clean.rules") from None
        where = None if clean.where is None else Expression.of(clean.where)
        near = _near(clean.dedup)
        languages = None
        if not _names(where, near).isdisjoint(_LANGUAGE):
            model = clean.language.model
            languages = Languages.of(
                None if model is None else str(recipe.resolve(model)),
                first_bytes=clean.language.first_bytes or FIRST_BYTES,
            )
        made = cls(
            rules=rules,
            functions=functions,
            languages=languages,
            where=where,
            overlaps=tuple(overlaps),
            drop_overlaps=clean.decontaminate.action == "drop",
            exact=clean.dedup.exact,
            near=near,
        )
        if near is not None and isinstance(near.keep, BestColumn):
            near.keep.check(made.columns())
        if where is not None:
            where.planned(made.columns())
            if not where.names:
                expected = "a condition over at least one column"
                raise RecipeError(key=where.key, expected=expected, got=repr(where.text))
        return made

    def config(self) -> dict[str, Any]:
        """Return the stage's part of the fingerprint."""
        return {
            "rules": [one.identity() for one in self.rules],
            "functions": [{"name": own.rule, **own.config()} for own in self.functions],
            "where": None if self.where is None else self.where.identity(),
            "languages": None if self.languages is None else self.languages.config(),
            "personal_data": PersonalData.version if self._personal_data else None,
            "overlaps": [{"file": one.file, **one.config()} for one in self.overlaps],
            "drop_overlaps": self.drop_overlaps,
            "exact": self.exact,
            "near": None if self.near is None else self.near.config(),
        }

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons for which a document can be dropped, in the order of accounting."""
        named = (f"{one.name}: {rule.name}" for one in self.rules for rule in one.rules)
        where = () if self.where is None else _WHERE
        functions = (own.rule for own in self.functions)
        overlap = (OVERLAP,) if self.overlaps and self.drop_overlaps else ()
        return (_EMPTY, *named, *functions, *where, *overlap, *self.duplicates)

    @property
    def duplicates(self) -> tuple[str, ...]:
        """The last of the reasons: the document is like one that stays."""
        return (DUPLICATE,) if self.near is None else (DUPLICATE, NEAR_DUPLICATE)

    @property
    def bits(self) -> dict[str, list[str]]:
        """The rule of each bit of each set's verdict."""
        sets = {one.name: [rule.name for rule in one.rules] for one in self.rules}
        return sets | {own.rule: [own.rule] for own in self.functions}

    def text_columns(self) -> list[TextColumn]:
        """Return the columns that verdicts read."""
        asked = _names(self.where, self.near)
        found: list[TextColumn] = [*self.functions]
        if self.rules or asked.intersection(FIELDS):
            found.append(StatisticsColumn(self._counting()))
        if self.languages is not None:
            found.append(self.languages)
        if self._personal_data:
            found.append(PersonalData())
        if self.near is not None:
            found.append(self.near.signatures)
        return [*found, *self.overlaps]

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that :attr:`where` and ``keep`` may name, with their types."""
        labels = {name: ROWS.field(name).type for name in LABELS}
        statistics = StatisticsColumn(self._counting()).types()
        personal = dict.fromkeys(KINDS, pa.uint32())
        return {**labels, "meta": pa.large_string(), **statistics, **_LANGUAGE, **personal}

    def for_judging(self) -> CleanSettings:
        """Return the settings without evaluation examples, which only text columns need."""
        return replace(self, overlaps=tuple(one.without_examples() for one in self.overlaps))

    @property
    def _personal_data(self) -> bool:
        return not _names(self.where, self.near).isdisjoint(KINDS)

    def _counting(self) -> Counting:
        counting = counting_for(self.rules)
        if _N_GRAM in " ".join(_names(self.where, self.near)):
            counting = replace(counting, ngrams=True)
        return counting


def _names(where: Expression | None, near: NearDuplicates | None) -> set[str]:
    """Return the columns that a condition and the choice among near-duplicates name."""
    names = set() if where is None else set(where.names)
    if near is not None and isinstance(near.keep, BestColumn):
        names.update(near.keep.names)
    return names


_RESERVED = ("empty", "where", "overlap", "duplicate")


def _function(name: str, given: Mapping[str, Any], directory: Path) -> FunctionRule:
    if name in _RESERVED:
        raise RecipeError(
            "the name of a reason that Penstock uses", key=name, fix="give the rule another name"
        )
    try:
        return FunctionRule(name, given, [directory])
    except SelectorError as error:
        if error.expected and error.expected.startswith("package.module"):
            error.expected = _FUNCTION
        raise error.under(name) from None
    except PenstockError as error:
        raise error.under(name) from None


_FUNCTION = "package.module:function with def drop(texts: list[str]) -> Sequence[bool]"


def _near(dedup: Dedup) -> NearDuplicates | None:
    asked = dedup.minhash
    if asked is None:
        return None
    weight = MISSED if asked.verify else 0.5
    keep: Keep
    if isinstance(asked.keep, KeepBest):
        order: Literal["highest", "lowest"] = "lowest" if asked.keep.highest is None else "highest"
        text = asked.keep.lowest if order == "lowest" else asked.keep.highest
        assert text is not None  # the recipe names one of them
        keep = BestColumn.of(order, text, f"clean.dedup.minhash.keep.{order}")
    else:
        keep = asked.keep
    return NearDuplicates(
        signatures=Signatures(threshold=asked.threshold, ngram=asked.ngram, false_negatives=weight),
        keep=keep,
        verify=asked.verify,
    )


@dataclass(frozen=True, slots=True)
class StatisticsColumn:
    """The counts that rules compare with their thresholds."""

    counting: Counting
    name = "statistics"
    version = 1

    def types(self) -> dict[str, pa.DataType]:
        """Return each count's type."""
        return dict.fromkeys(FIELDS, pa.uint32())

    def config(self) -> dict[str, Any]:
        """Return what is counted, and how."""
        return self.counting.identity()

    def compute(self, texts: pa.Array) -> pa.RecordBatch:
        """Count; see :func:`~penstock.rules.statistics.count_statistics`."""
        return count_statistics(texts, self.counting)
