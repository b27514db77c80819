"""Rules and sets of rules: from statistics to one verdict for each document.

A rule compares one number of a document, its *value*, with one threshold. Values are computed from
counts in float64: ``count / count`` is what Python computes from two integers, so that a decision
at equality is the same. A share of nothing is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.errors import PenstockError, RecipeError, did_you_mean
from penstock.rules.statistics import Counting

__all__ = ["Counts", "Rule", "RuleSet", "Verdicts", "count", "counting_for", "is_unspaced", "share"]

Counts = Mapping[str, np.ndarray]
"""Counts by name: (n,) uint32 each."""

_MOST_RULES = 64


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: a document fails if its value is beyond the threshold."""

    name: str
    """The name in verdicts, and the recipe key of the threshold; ``null`` there turns it off."""
    limit: Literal["least", "most"]
    """Whether the threshold is the least or the most that a document may have."""
    value: Callable[[Counts], np.ndarray]
    """Counts to (n,) float64."""
    source: str
    """The publication and its section."""
    by_words: bool = False
    """Whether the rule counts words, and so abstains where a script has no spaces."""
    unit: str = ""
    """The unit of the value. Of a share empty, or what it is of, where the name does not tell."""

    def fails(self, counts: Counts, threshold: float) -> np.ndarray:
        """Return which documents fail: (n,) bool. A value equal to the threshold passes."""
        return self.beyond(self.value(counts), threshold)

    def beyond(self, value: np.ndarray, threshold: float) -> np.ndarray:
        """Compare (n,) float64 values with a threshold: (n,) bool, true where a document fails."""
        return value < threshold if self.limit == "least" else value > threshold


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a set of rules decides about ``n`` documents."""

    rules: tuple[str, ...]
    """The rule of each bit."""
    bits: np.ndarray
    """(n,) uint64: bit k is set if the document fails the k-th rule; 0 keeps it."""
    abstained: np.ndarray
    """(n,) bool: the rules that count words were not applied."""

    def tally(self) -> dict[str, dict[str, int]]:
        """Count for each rule the documents that it excludes ``alone``, ``first`` and ``only``.

        ``alone`` counts all documents that fail the rule; ``first`` those that fail none before;
        ``only`` those that fail no other.
        """
        found = {}
        for number, rule in enumerate(self.rules):
            bit = np.uint64(1 << number)
            fails = self.bits & bit != 0
            found[rule] = {
                "alone": int(fails.sum()),
                "first": int((fails & (self.bits & (bit - np.uint64(1)) == 0)).sum()),
                "only": int((self.bits == bit).sum()),
            }
        return found


class RuleSet(BaseModel):
    """A set of rules with a name; its fields are its parameters in a recipe.

    A subclass gives :attr:`name`, :attr:`version`, :attr:`summary` and :attr:`rules`, and a field
    for each rule's threshold. Other fields are parameters of counting, which :meth:`counting`
    returns.

    Raises:
        RecipeError: A parameter is unknown or its value is wrong; the key is ``name.parameter``.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    name: ClassVar[str]
    """The name in recipes."""
    version: ClassVar[int]
    """Raised whenever the same counts would give other verdicts."""
    summary: ClassVar[str]
    """One line about the set."""
    rules: ClassVar[tuple[Rule, ...]]
    """At most 64, in the order of the bits."""

    def __init__(self, **parameters: Any) -> None:
        try:
            super().__init__(**parameters)
        except ValidationError as error:
            raise _recipe_error(error, type(self)) from None

    def threshold_of(self, rule: Rule) -> float | None:
        """Return the threshold of one of the set's rules; None if it is off."""
        threshold: float | None = getattr(self, rule.name)
        return threshold

    def counting(self) -> dict[str, Any]:
        """Return the arguments of :class:`Counting` that the set fixes."""
        return {"ngrams": False}

    def identity(self) -> dict[str, Any]:
        """Return name, version and parameters, for a fingerprint of verdicts."""
        return {"rules": self.name, "version": self.version, **self.model_dump(mode="json")}

    def judge(self, statistics: pa.RecordBatch | pa.Table, *, abstain: bool = True) -> Verdicts:
        """Judge documents by their statistics.

        Args:
            statistics: n rows of :func:`~penstock.rules.statistics.count_statistics`, counted with
                the parameters of :meth:`counting`.
            abstain: False to apply the rules for words to scripts without spaces, too.
        """
        assert len(self.rules) <= _MOST_RULES
        counts = _Counts(statistics)
        bits = np.zeros(statistics.num_rows, np.uint64)
        unspaced = is_unspaced(counts) & abstain
        abstains = False
        for number, rule in enumerate(self.rules):
            threshold = self.threshold_of(rule)
            if threshold is None:
                continue
            fails = rule.fails(counts, threshold)
            if rule.by_words:
                fails &= ~unspaced
                abstains = True
            bits |= fails.astype(np.uint64) << np.uint64(number)
        names = tuple(rule.name for rule in self.rules)
        return Verdicts(names, bits, unspaced if abstains else np.zeros_like(unspaced))

    def values(self, statistics: pa.RecordBatch | pa.Table) -> dict[str, np.ndarray]:
        """Return the value of each rule that is on, to compare with its threshold: (n,) float64."""
        counts = _Counts(statistics)
        return {
            rule.name: rule.value(counts)
            for rule in self.rules
            if self.threshold_of(rule) is not None
        }


class _Counts(dict[str, np.ndarray]):
    """Counts of a batch, converted when they are first used."""

    def __init__(self, statistics: pa.RecordBatch | pa.Table) -> None:
        super().__init__()
        self._statistics = statistics

    def __missing__(self, name: str) -> np.ndarray:
        values: np.ndarray = self._statistics.column(name).to_numpy()
        self[name] = values
        return values


def count(name: str) -> Callable[[Counts], np.ndarray]:
    """Return the value that is one count."""
    return lambda counts: counts[name].astype(np.float64)


def share(part: str, *whole: str) -> Callable[[Counts], np.ndarray]:
    """Return the value ``part / whole``; of several names after ``part``, the first minus the rest.

    It is 0 where the whole is 0.
    """

    def value(counts: Counts) -> np.ndarray:
        total = counts[whole[0]].astype(np.float64)
        for name in whole[1:]:
            total = total - counts[name]
        return np.divide(counts[part], total, out=np.zeros(len(total)), where=total > 0)

    return value


def is_unspaced(counts: Counts) -> np.ndarray:
    """Return where most letters are of scripts without spaces between words: (n,) bool."""
    return 2 * counts["unspaced_letters"].astype(np.int64) > counts["letters"]


_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "string_type": "a text",
}


def _recipe_error(error: ValidationError, kind: type[RuleSet]) -> RecipeError:
    """Return the first problem that pydantic found, as an error with fields."""
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    name, context = str(problem["loc"][0]), problem.get("ctx", {})
    key = f"{kind.name}.{name}"
    cause = context.get("error")
    if isinstance(cause, PenstockError):
        return RecipeError(cause.problem, key=key, expected=cause.expected, got=cause.got)
    if problem["type"] == "extra_forbidden":
        fix = did_you_mean(name, kind.model_fields).lstrip("; ")
        return RecipeError("unknown key", key=key, fix=fix)
    bounds = {"ge": "of at least", "le": "of at most", "gt": "above", "lt": "below"}
    expected = _EXPECTED.get(problem["type"]) or problem["msg"].removeprefix("Input should be ")
    for bound, words in bounds.items():
        if bound in context:
            expected = f"a number {words} {context[bound]}"
    return RecipeError(key=key, expected=expected, got=repr(problem["input"]))


def counting_for(sets: tuple[RuleSet, ...]) -> Counting:
    """Return what statistics must count for several sets, each of which fixes its own part."""
    merged: dict[str, Any] = {}
    for one in sets:
        own = one.counting()
        ngrams = merged.get("ngrams", False) or own.get("ngrams", False)
        merged |= {**own, "ngrams": ngrams}
    return Counting(**merged)
