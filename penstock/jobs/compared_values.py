"""Describe in lines the values that the verdicts about one document compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["describe_values"]

_LONGEST = 80
"""Characters of a value of the condition that are shown."""


def describe_values(fate: Mapping[str, Any], all_rules: bool = False) -> Iterator[str]:
    """Yield a line for each rule that a document fails, the condition, and its duplicate.

    Args:
        fate: An entry of :func:`~penstock.jobs.why.fates_of`.
        all_rules: True for a line for each rule that it passes, too.
    """
    described = set()
    for rule in fate.get("rules", ()):
        described.add(rule["rule"])
        if rule["fails"] or all_rules:
            yield f"{'fails' if rule['fails'] else 'passes'} {_rule(rule)}"
    # Where a text column was deleted, or a rewriter dropped the document.
    for name in fate.get("fails", ()):
        if name not in described:
            yield f"fails {name}"
    if "where" in fate and (all_rules or not fate["where"]["holds"]):
        yield _condition(fate["where"])
    if fate.get("repeats", {}).get("similarity") is not None:
        yield from _repeated(fate["repeats"])


def _rule(rule: Mapping[str, Any]) -> str:
    if rule["value"] is None:
        return str(rule["rule"])
    value, threshold = _numbers(rule["value"], rule["threshold"])
    unit = f" {rule['unit']}" if rule["unit"] else ""
    applied = "" if rule["applied"] else "; not applied to a script without spaces"
    return f"{rule['rule']}: {value}{unit}, at {rule['limit']} {threshold}{applied}"


def _condition(where: Mapping[str, Any]) -> str:
    words = {True: "meets", False: "fails", None: "cannot be told by"}[where["holds"]]
    values = ", ".join(
        f"{name} {_short(value)}{_other_kind(name, where['other_kinds'].get(name))}"
        for name, value in where["values"].items()
    )
    return f"{words} where: {where['condition']}: {values}"


def _other_kind(name: str, own: Mapping[str, Any] | None) -> str:
    """Describe a value that is of another kind than the condition needs; empty for None."""
    if own is None:
        return ""
    text = isinstance(own["got"], str)
    remedy = f"; number({name}) reads it" if text and own["expected"] == "a number" else ""
    got = f"{'the text ' if text else ''}{_short(own['got'])}"
    return f" (expected {own['expected']}, got {got}{remedy})"


def _short(value: Any) -> str:
    """Return a value as Python writes it, of a long text the beginning."""
    text = "unknown" if value is None else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _repeated(repeated: Mapping[str, Any]) -> Iterator[str]:
    value, threshold = _numbers(repeated["similarity"], repeated["threshold"])
    less = repeated["similarity"] < repeated["threshold"]
    through = "; alike through others, or by estimate" if less else ""
    yield (
        f"similarity to {repeated['id']}: {value} of {repeated['ngram']}-grams, "
        f"at least {threshold}{through}"
    )
    if repeated["keep"] == "first":
        yield f"keep: first, {repeated['id']}"
    else:
        own, best = (
            "unknown" if value is None else f"{value:,.15g}"
            for value in (repeated["own"], repeated["best"])
        )
        yield f"keep: {repeated['keep']}, {best} of {repeated['id']} to {own}"


def _numbers(value: float, threshold: float) -> tuple[str, str]:
    """Format two numbers in few digits, but in all where they would look equal and are not."""
    short = f"{value:,.4g}", f"{threshold:,.4g}"
    if value == int(value):
        short = f"{int(value):,}", short[1]
    if threshold == int(threshold):
        short = short[0], f"{int(threshold):,}"
    return short if value == threshold or short[0] != short[1] else (repr(value), repr(threshold))
