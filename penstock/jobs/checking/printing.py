"""A check as lines and tables for people."""

from __future__ import annotations

import itertools
from typing import Any

from penstock.display import numbered, shortened
from penstock.jobs.checking.check import RecipeCheck
from penstock.jobs.checking.estimates import Estimate
from penstock.jobs.console import Console

__all__ = ["print_check", "size_words", "time_words"]

_FIELDS, _SOURCES, _RULES = 30, 20, 20


def print_check(checked: RecipeCheck, console: Console) -> None:
    """Print a check: files, fields, sources, rules, values, estimates, and last the findings."""
    sample = checked.sample
    if checked.found is not None and sample is not None:
        console.write(
            f"{numbered(len(checked.found.inputs), 'input file')}, "
            f"{size_words(sample.bytes_of_files)}"
        )
        for note in checked.found.notes:
            console.write(note)
        records = sum(one.records for one in sample.files)
        console.write(
            f"read {numbered(records, 'record')} "
            + (
                "of all files, each to its end"
                if sample.whole
                else f"from the beginning of {numbered(len(sample.files), 'file')}"
            )
        )
        _fields(checked, console)
        _sources(checked, console)
    for name, count in checked.targets.items():
        console.write(f"select.{name}: {numbered(count, 'target example')}")
    if checked.judged is not None and checked.judged.documents:
        _judged(checked, console)
    if checked.estimate is not None:
        _estimate(checked.estimate, console)
    if checked.without:
        console.write(
            f"looked at without these keys, which are wrong: {shortened(checked.without)}"
        )
    for finding in checked.findings:
        console.write(f"{finding.level}: {finding.text}")
    errors = len(checked.errors)
    warnings = len(checked.findings) - errors
    console.write(
        f"{numbered(errors, 'error')}, {numbered(warnings, 'warning')}; nothing was run or written"
    )


def _fields(checked: RecipeCheck, console: Console) -> None:
    assert checked.sample is not None
    for number, spec in enumerate(checked.recipe.corpus):
        fields = checked.sample.fields(number)
        used = {spec.text: "text", spec.id: "id"}
        if isinstance(spec.source, str):
            used[spec.source] = "source"
        rows = [
            (name, ", ".join(f"{kind} {count:,}" for kind, count in types.items()), used.get(name))
            for name, types in itertools.islice(sorted(fields.items()), _FIELDS)
        ]
        if rows:
            examined = sum(one.examined for one in checked.sample.files if one.item == number)
            console.table(
                ("field", f"types, in {numbered(examined, 'record')}", "is"),
                [
                    (name, types, use or ("" if len(name) > 40 else f"meta.{name}"))
                    for name, types, use in rows
                ],
                title=f"corpus.{number}: {spec.path}",
            )
        if len(fields) > _FIELDS:
            console.write(f"and {len(fields) - _FIELDS:,} more fields")


def _sources(checked: RecipeCheck, console: Console) -> None:
    sources = checked.sources()
    whole = sum(tally["bytes"] for tally in sources.values())
    read = sum(tally["documents"] for tally in sources.values())
    rows = [
        (name, f"{tally['documents']:,}", f"{tally['bytes'] / max(1, whole):.1%}")
        for name, tally in itertools.islice(sources.items(), _SOURCES)
    ]
    if rows:
        console.table(("source", f"of {read:,} documents read", "of their text"), rows)
    if len(sources) > _SOURCES:
        console.write(f"and {len(sources) - _SOURCES:,} more sources")


def _judged(checked: RecipeCheck, console: Console) -> None:
    judged = checked.judged
    assert judged is not None
    ordered = sorted(judged.dropped_by.items(), key=lambda own: (-own[1], own[0]))
    if ordered:
        console.table(
            ("rule", "drops", f"of {judged.documents:,} judged"),
            [
                (rule, f"{count:,}", f"{count / judged.documents:.1%}")
                for rule, count in ordered[:_RULES]
            ],
        )
    for name, values in judged.values.items():
        console.write(f"{name}: {_value_words(values)}")
    console.write(
        f"{judged.kept:,} of {numbered(judged.documents, 'document')} that were judged are kept, "
        f"{judged.kept_share:.1%} of their text; duplicates and overlaps are found in a run only"
    )


def _value_words(values: dict[str, Any]) -> str:
    words = f"in {numbered(values['documents'], 'document')}"
    if values["missing"]:
        words += f", missing or of another kind in {values['missing']:,}"
    if "median" in values:
        words += f"; {values['least']} to {values['greatest']}, median {values['median']}"
    elif "most" in values:
        shown = ", ".join(f"{name!r} {count:,}" for name, count in values["most"].items())
        words += f"; {numbered(values['distinct'], 'value')}: {shown}"
    return words


def _estimate(own: Estimate, console: Console) -> None:
    about = "" if own.exact else "about "
    if own.text_bytes is None or own.documents is None:
        console.write("the inputs do not tell their size, so that nothing is estimated")
        return
    console.write(
        f"the pool: {about}{numbered(own.documents, 'document')}, {size_words(own.text_bytes)} of "
        "text"
        + (
            f"; estimated {own.tokens:,} tokens kept, of which the budget takes {own.budget:,}"
            if own.tokens is not None and own.budget is not None
            else ""
        )
        + (
            "; the rules cannot be built, so that what they keep is not estimated"
            if own.kept_share is None
            else ""
        )
    )
    without = ""
    if own.not_included:
        without = f", without the work of {', '.join(own.not_included)}"
    console.write(
        f"estimated for `penstock curate` with {numbered(own.workers, 'worker')}: "
        f"{time_words(own.seconds or 0)}, {size_words(own.memory_bytes)} of memory, "
        f"{size_words(own.disk_bytes or 0)} of disk{without}; an estimate from the sample, which "
        "may be wrong by a factor of two"
    )
    if own.compiling_seconds:
        console.write(
            "no cut was made on this machine yet: the first run compiles loops, for about "
            f"{time_words(own.compiling_seconds)} of CPU time more, once"
        )


def size_words(size: float) -> str:
    """Return a size in words: ``812 bytes``, ``3.4 MB``."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} bytes"


def time_words(seconds: float) -> str:
    """Return a duration in words: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
