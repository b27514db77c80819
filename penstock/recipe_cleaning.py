"""The models of a recipe's key ``clean``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from penstock.recipe_training import MAPPING, PLAIN, Location, Model, Names, listed, require, shaped

__all__ = ["Clean", "Decontaminate", "Dedup", "KeepBest", "LanguageSpec", "MinHash"]


class KeepBest(Model):
    """``{highest: COLUMN}`` or ``{lowest: COLUMN}``: a column of numbers, or ``meta.NAME``.

    Dates of a field are days since 1970-01-01, and compared with its numbers.
    """

    highest: str | None = None
    lowest: str | None = None

    @model_validator(mode="after")
    def _one(self) -> KeepBest:
        given = sum(own is not None for own in (self.highest, self.lowest))
        require(given == 1, expected="highest or lowest", got="both" if given else "neither")
        return self


class MinHash(Model):
    """Near-duplicates: documents whose word n-grams are mostly the same."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Jaccard similarity of the sets of n-grams from which documents are alike."""
    ngram: Annotated[int, Field(ge=1, le=1000)] = 5
    """Words of an n-gram; in scripts without spaces, characters."""
    keep: Annotated[
        Annotated[Literal["longest", "first"], PLAIN] | Annotated[KeepBest, MAPPING], shaped
    ] = "longest"
    """Which of the documents that are alike stays, of those that nothing else excludes."""
    verify: bool = False
    """Compute the similarity of candidates, where otherwise it is estimated."""


class Dedup(Model):
    """Deduplication of the pool."""

    exact: bool = True
    """Drop all but one of the documents whose normalised texts are equal."""
    minhash: MinHash | None = None
    """Drop all but one of the documents that are alike, equal ones included."""


class LanguageSpec(Model):
    """The model that tells the language of a text."""

    model: Location | None = None
    """A file of py3langid's format, or a classifier of fastText; by default py3langid's own."""
    first_bytes: PositiveInt | None = None
    """Bytes of a text that are read, at most; 65,536 by default."""


def _off(value: Any) -> Any:
    return "off" if value is False else value  # as YAML reads it


class Decontaminate(Model):
    """Documents that hold a copy of an evaluation example, in whole or in part."""

    ngram: Annotated[int, Field(ge=5, le=1000)] = 13
    """Words in a row that a document and an example share; all words of a shorter example."""
    action: Annotated[Literal["drop", "audit", "off"], BeforeValidator(_off)] = "drop"
    """What is done with such documents: dropped, or only counted."""
    files: Names = ()
    """Evaluation files; by default those of ``evaluate``."""


class Clean(Model):
    """Cleaning of the pool, before anything is scored. The corpus keeps what is dropped."""

    rules: Annotated[
        Annotated[Annotated[tuple[str, ...], BeforeValidator(listed)], PLAIN]
        | Annotated[dict[str, dict[str, Any] | None], MAPPING],
        shaped,
    ] = ()
    """Names of sets of rules, or names and the parameters that differ from their defaults."""
    where: str | None = None
    """A condition over columns, as ``words > 50 and meta.stars >= 10``."""
    language: LanguageSpec = LanguageSpec()
    """Of the columns ``language`` and ``language_probability``, which `where` may name."""
    dedup: Dedup = Dedup()
    decontaminate: Decontaminate = Decontaminate()
    max_document_bytes: Annotated[int, Field(gt=0, le=2**29)] = 64 * 2**20
    """UTF-8 bytes; a longer document is quarantined, since it would be a unit of its own."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_lost(cls, tree: Any) -> Any:
        require(
            not isinstance(tree, dict) or "keep_dropped" not in tree,
            "no longer a key",
            key="keep_dropped",
            fix="remove it: the corpus keeps what is dropped, with its text",
        )
        require(
            not isinstance(tree, dict) or "min_document_bytes" not in tree,
            "no key: short documents are dropped by a rule or a condition",
            key="min_document_bytes",
            fix='write where: "bytes >= 200", or rules: {gopher: {min_words: 50}}',
        )
        return tree
