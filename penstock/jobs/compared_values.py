"""Describe in lines the values that the verdicts about one document compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["describe_limit", "describe_values"]

_LONGEST = 80
"""Characters of a value of the condition that are shown."""

_JOINED = {
    "pair": "alike by the estimate of the signatures (`verify: true` compares the texts)",
    "path": "not alike themselves, but through other documents that are",
    None: "alike through others, or by estimate; the signatures were deleted",
}
"""Why near duplicates are joined whose similarity is below the threshold."""

_EXACT = 2**53
"""Below it a float64 without a fraction is one integer."""


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
            first = len(fate.get("fails", ())) > 1 and fate.get("reason") == rule["rule"]
            counted = "; the first, under which it is counted" if first else ""
            yield f"{'fails' if rule['fails'] else 'passes'} {_rule(rule)}{counted}"
    # Where a text column was deleted, or a rewriter dropped the document.
    for name in fate.get("fails", ()):
        if name not in described:
            yield f"fails {name}"
    if own := fate.get("not_kept"):
        yield f"{', '.join(own['columns'])}: deleted, so that values are missing; {own['fix']}"
    if "where" in fate and (all_rules or not fate["where"]["holds"]):
        yield _condition(fate["where"])
    repeats = fate.get("repeats", {})
    if repeats.get("similarity") is not None:
        yield from _repeated(repeats)
    if repeats.get("file") is not None:
        place = f", {repeats['place']}" if repeats["place"] else ""
        yield f"the one that stays: {repeats['file']}{place}"


def describe_limit(rule: Mapping[str, Any]) -> str:
    """Describe a rule with ``value``, ``limit``, ``threshold``, and ``unit`` if there is one."""
    value, threshold = _numbers(rule["value"], rule["threshold"])
    unit = f" {rule['unit']}" if rule.get("unit") else ""
    return f"{rule['rule']}: {value}{unit}, at {rule['limit']} {threshold}"


def _rule(rule: Mapping[str, Any]) -> str:
    if rule["value"] is None:
        if rule.get("threshold") is None:
            return str(rule["rule"])
        unit = f" {rule['unit']}" if rule.get("unit") else ""
        threshold, _ = _numbers(rule["threshold"], rule["threshold"])
        return f"{rule['rule']}: at {rule['limit']} {threshold}{unit}; the value is not kept"
    applied = "" if rule["applied"] else "; not applied to a script without spaces"
    return f"{describe_limit(rule)}{applied}"


def _condition(where: Mapping[str, Any]) -> str:
    others = where["other_kinds"]
    values = ", ".join(
        f"{name} {_short(value)}{_other_kind(name, others.get(name))}"
        for name, value in where["values"].items()
    )
    said = f"where: {where['condition']}: {values}"
    if where["holds"] is not None:
        return f"{'meets' if where['holds'] else 'fails'} {said}"
    unknown = [name for name, value in where["values"].items() if value is None]
    missing = [name for name in unknown if name not in others]
    causes = {"missing": missing, "of another kind": list(others)}
    because = " and ".join(
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {cause}"
        for cause, names in causes.items()
        if names
    )
    return f"clean.where has no value for it{f', since {because}' if because else ''}; {said}"


def _other_kind(name: str, own: Mapping[str, Any] | None) -> str:
    """Describe a value that is of another kind than the condition needs; empty for None."""
    if own is None:
        return ""
    text = isinstance(own["got"], str)
    remedy = f"; number({name}) reads it" if text and own["expected"] == "a number" else ""
    got = f"{'the text ' if text else ''}{_short(own['got'])}"
    return f" (expected {own['expected']}, got {got}{remedy})"


def _short(value: Any) -> str:
    """Return a value as Python writes it, of a long text the beginning; 2019.0 as 2019."""
    if isinstance(value, float) and abs(value) < _EXACT and value == int(value):
        value = int(value)
    text = "unknown" if value is None else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _repeated(repeated: Mapping[str, Any]) -> Iterator[str]:
    value, threshold = _numbers(repeated["similarity"], repeated["threshold"])
    limit = f"at least {threshold}"
    if repeated["similarity"] < repeated["threshold"]:
        limit = f"below {threshold}: {_JOINED[repeated.get('joined')]}"
    grams = f"{value} of {repeated['ngram']}-grams, {limit}"
    yield f"similarity to {repeated['id']}: {'equal text' if repeated.get('equal') else grams}"
    name, rule = repeated["id"], repeated["keep"]
    if rule == "first":
        yield f"kept: {name}, the first"
        return
    own, best = (_ranked(repeated[key], rule) for key in ("own", "best"))
    if own == best:
        yield f"kept: {name}; {rule}: equal, both {best}; a hash decides"
    else:
        yield f"kept: {name} with {best}; this one has {own} ({rule})"


def _ranked(value: float | str | None, rule: str) -> str:
    """Return the value by which a near-duplicate is chosen."""
    if value is None:
        return "no value"
    text = value if isinstance(value, str) else f"{value:,.17g}"
    if not isinstance(value, str) and float(f"{value:.15g}") == value:
        text = f"{value:,.15g}"
    return f"{text} bytes" if rule == "longest" else text


def _numbers(value: float, threshold: float) -> tuple[str, str]:
    """Format two numbers in few digits, but in all where they would look equal and are not."""
    short = f"{value:,.4g}", f"{threshold:,.4g}"
    if value == int(value):
        short = f"{int(value):,}", short[1]
    if threshold == int(threshold):
        short = short[0], f"{int(threshold):,}"
    return short if value == threshold or short[0] != short[1] else (repr(value), repr(threshold))
