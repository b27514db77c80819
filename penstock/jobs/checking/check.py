"""Check a recipe against its inputs without running anything.

Every part of the plan is built by itself, so that one check finds the faults of all of them. Then
the keys that name fields are compared with a sample of the inputs, the budget with the text that
the pool is estimated to hold, and the training with the budget.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from penstock.cluster import cpus
from penstock.display import numbered, shortened
from penstock.errors import PenstockError, did_you_mean
from penstock.jobs.build import (
    build_columns,
    build_overlaps,
    build_reweighter,
    build_rewrites,
    find_evaluation_files,
)
from penstock.jobs.checking.budgets import check_budget, check_training
from penstock.jobs.checking.conditions import Judged, judge_sample
from penstock.jobs.checking.encodings import check_encodings
from penstock.jobs.checking.estimates import Estimate, estimate, measure_tokens
from penstock.jobs.checking.findings import Finding, error_of, near_names
from penstock.jobs.checking.large_documents import find_large_documents
from penstock.jobs.checking.libraries import missing_libraries
from penstock.jobs.checking.plug_ins import plug_in_findings
from penstock.jobs.checking.sampling import FieldTypes, InputSample, sample_inputs
from penstock.jobs.checking.valid_part import load_valid_part
from penstock.language_models.model_directory import check_model
from penstock.pipeline.checking import check_sources
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.corpus import CorpusSettings
from penstock.pipeline.cutting.budget import check_shares
from penstock.pipeline.reading.finding import FoundInputs
from penstock.pipeline.tokenizer import TokenizerSettings
from penstock.recipe import ModelFrom, Recipe

__all__ = ["RecipeCheck", "check_recipe"]

_Part = TypeVar("_Part")

_MOST_FIELDS = 100
_MOST_SOURCES = 20
_TOKENIZED = 2 * 2**20
"""Bytes of text on which a tokenizer is measured."""


@dataclass(slots=True, kw_only=True)
class RecipeCheck:
    """The result of a check."""

    recipe: Recipe
    findings: list[Finding] = field(default_factory=list)
    found: FoundInputs | None = None
    """The input files, and what was passed over."""
    sample: InputSample | None = None
    judged: Judged | None = None
    estimate: Estimate | None = None
    evaluation_files: int = 0
    targets: dict[str, int] = field(default_factory=dict)
    """Examples of each selector's ``target``."""
    without: tuple[str, ...] = ()
    """Keys of the recipe that are wrong, so that all else was looked at without them."""

    def add(self, findings: Iterable[Finding]) -> None:
        """Add findings, each text once."""
        known = {one.text for one in self.findings}
        for one in findings:
            if one.text not in known:
                self.findings.append(one)
                known.add(one.text)

    @property
    def errors(self) -> list[Finding]:
        """The findings that stop a command, or name what is not there."""
        return [one for one in self.findings if one.level == "error"]

    def sources(self) -> dict[str, dict[str, int]]:
        """Return ``documents`` and ``bytes`` of each source in the sample, the largest first."""
        if self.sample is None:
            return {}
        documents, sizes = Counter[str](), Counter[str]()
        table = self.sample.documents
        for source, text in zip(table["source"].to_pylist(), table["text"].to_pylist()):
            documents[source or "unknown"] += 1
            sizes[source or "unknown"] += len(text.encode())
        return {
            name: {"documents": documents[name], "bytes": size}
            for name, size in sorted(sizes.items(), key=lambda own: (-own[1], own[0]))
        }

    def summary(self) -> dict[str, Any]:
        """Return the object that ``penstock check --json`` prints."""
        sample, sources = self.sample, self.sources()
        return {
            "findings": [one.summary() for one in self.findings],
            "without": list(self.without),
            "fields": [
                {"corpus": number, "path": spec.path, "fields": _plain(sample.fields(number))}
                for number, spec in enumerate(self.recipe.corpus)
                if sample is not None
            ],
            "sources": dict(itertools.islice(sources.items(), 100)),
            "files": {
                "found": len(self.found.inputs) if self.found else 0,
                "bytes": sample.bytes_of_files if sample else 0,
                "passed_over": dict(self.found.left_out) if self.found else {},
            },
            "sample": {
                "files": len(sample.files) if sample else 0,
                "records": sum(one.records for one in sample.files) if sample else 0,
                "bad": sum(one.bad for one in sample.files) if sample else 0,
                "whole": sample is not None and sample.whole,
            },
            "dropped_by": dict(self.judged.dropped_by) if self.judged else {},
            "values": dict(self.judged.values) if self.judged else {},
            "targets": dict(self.targets),
            "evaluation_files": self.evaluation_files,
            "estimate": self.estimate.summary() if self.estimate else None,
        }


def check_recipe(
    recipe: Recipe | str | Path, settings: Sequence[str] = (), workers: int | None = None
) -> RecipeCheck:
    """Check a recipe without running anything; nothing is written.

    Args:
        recipe: A recipe, or the path of its file.
        settings: ``key.path=value`` overrides of a recipe's file.
        workers: Processes for the estimate of time and memory; all CPUs by default.

    Raises:
        RecipeError: The file cannot be read, or so much of the recipe is wrong that no input can
            be looked at. Other errors in keys and values are findings, and the check goes on
            without these keys.
    """
    if isinstance(recipe, Recipe):
        return _check(recipe, workers)
    part = load_valid_part(Path(recipe), settings)
    checked = _check(part.recipe, workers)
    checked.without = part.removed
    others = [one for one in checked.findings if not part.concerns(one.key)]
    checked.findings = []
    checked.add([error_of(error) for error in part.errors])
    checked.add(others)
    if checked.estimate is not None and part.concerns("budget.tokens"):
        checked.estimate = replace(checked.estimate, budget=None)
    return checked


def _check(recipe: Recipe, workers: int | None) -> RecipeCheck:
    """Check a recipe whose keys and values are valid; as :func:`check_recipe`."""
    checked = RecipeCheck(recipe=recipe)
    attempt = _Attempt(checked.findings)
    attempt(lambda: recipe.work_directory)
    tokenizer = attempt(lambda: TokenizerSettings.of(recipe))
    evaluations = attempt(lambda: find_evaluation_files(recipe))
    checked.evaluation_files = len(evaluations or ())
    overlaps = attempt(lambda: build_overlaps(recipe))
    # Where the files of one key are missing, the other parts are checked without them.
    without = recipe if evaluations is not None else recipe.model_copy(update={"evaluate": ()})
    clean = attempt(lambda: CleanSettings.of(recipe, overlaps or ()))
    rewrites = attempt(lambda: build_rewrites(recipe)) or ()
    columns = attempt(lambda: build_columns(without)) or ()
    for column in columns:
        if column.target.examples:
            checked.targets[column.name] = len(column.target.examples)
    checked.add(missing_libraries(recipe, columns, rewrites))
    checked.add(plug_in_findings(columns, rewrites))
    attempt(lambda: build_reweighter(recipe))
    if isinstance(model := recipe.train.model, ModelFrom):
        attempt(lambda: check_model(model.hf, key="train.model.hf"))
    corpus = attempt(lambda: CorpusSettings.of(recipe))
    if corpus is None:
        check_training(recipe, recipe.budget.count, checked.findings)
        return checked
    checked.found = corpus.found
    checked.sample = sample = sample_inputs(recipe, corpus.found)
    attempt(lambda: check_sources(_known_sources(checked)))
    _check_source_fields(recipe, sample, checked.findings)
    _check_fields(recipe, sample, checked.findings)
    checked.findings += check_encodings(recipe, sample)
    if clean is not None:
        checked.judged = judge_sample(clean, sample)
        checked.findings += checked.judged.findings
    measured = None
    if tokenizer is not None:
        measured = attempt(lambda: measure_tokens(tokenizer, _texts(sample)))
    checked.estimate = estimate(recipe, sample, checked.judged, clean, measured, workers or cpus())
    check_training(recipe, checked.estimate.budget, checked.findings)
    check_budget(recipe, checked.estimate, checked.findings)
    checked.findings += find_large_documents(sample, checked.estimate)
    _check_shares(checked, attempt)
    return checked


class _Attempt:
    """Build parts of a plan; an error becomes a finding, once for each text."""

    def __init__(self, findings: list[Finding]) -> None:
        self._findings = findings

    def __call__(self, build: Callable[[], _Part]) -> _Part | None:
        try:
            return build()
        except PenstockError as error:
            finding = error_of(error)
            if finding.text not in {one.text for one in self._findings}:
                self._findings.append(finding)
            return None


def _texts(sample: InputSample) -> list[str]:
    """Return texts of the sample, evenly over it, of about 2 MiB in all."""
    table = sample.documents
    step = max(1, round(sum(one.text_bytes for one in sample.files) / _TOKENIZED))
    rows = list(range(0, len(table), step))
    texts: list[str] = table["text"].take(rows).to_pylist() if rows else []
    return [text for text in texts if text]


def _plain(fields: FieldTypes) -> dict[str, dict[str, int]]:
    return {name: dict(types) for name, types in itertools.islice(fields.items(), _MOST_FIELDS)}


# -- fields -----------------------------------------------------------------------------------


def _check_fields(recipe: Recipe, sample: InputSample, findings: list[Finding]) -> None:
    """Compare the keys that name fields with the fields of the sample."""
    for number, spec in enumerate(recipe.corpus):
        files = [one for one in sample.files if one.item == number]
        records = sum(one.records for one in files)
        bad = sum(one.bad for one in files)
        key = f"corpus.{number}"
        fields = sample.fields(number)
        known = sorted(fields)
        failed = [one for one in files if one.damaged]
        lacking = [one for one in failed if one.fields and spec.text not in one.fields]
        if lacking:
            findings.append(_missing(f"{key}.text", spec.text, sorted(lacking[0].fields)))
        for one in failed:
            if one not in lacking:
                findings.append(
                    Finding(
                        level="error", kind="unreadable", key=f"{key}.path", text=str(one.error)
                    )
                )
        if not records:
            continue
        if bad == records:
            if spec.text in fields:
                findings.append(_all_bad(key, spec.text, files[0].error))
            else:
                findings.append(_missing(f"{key}.text", spec.text, known))
            continue
        if bad:
            first = next(one for one in files if one.bad)
            own = f"; the key is {key}.encoding" if "`encoding`" in (first.error or "") else ""
            findings.append(
                Finding(
                    level="warning",
                    kind="bad_records",
                    key=key,
                    text=f"{key}: {bad:,} of {numbered(records, 'record')} of the sample "
                    f"{'is' if bad == 1 else 'are'} no document and would be quarantined; the "
                    f"first: {first.input.name}, {first.error}{own}",
                )
            )
        labels = [("id", spec.id)]
        if isinstance(spec.source, str):
            labels.append(("source", spec.source))
        for label, name in labels:
            if label in spec.model_fields_set and name not in fields:
                others = [one for one in known if one != spec.text]
                findings.append(_missing(f"{key}.{label}", name, others))


def _missing(key: str, name: str, known: Sequence[str]) -> Finding:
    """Make the finding of a key that names a field which no record of the sample has."""
    near = near_names(name, known)
    return Finding(
        level="error",
        kind="missing_field",
        key=key,
        text=f"{key}: no record of the sample has the field {name!r}"
        f"{did_you_mean(name, list(known)[:30], '' if known else 'the records have no fields')}",
        names=near,
    )


def _all_bad(key: str, name: str, error: str | None) -> Finding:
    return Finding(
        level="error",
        kind="bad_records",
        key=key,
        text=f"{key}: no record of the sample is a document with a text in {name!r}; the first: "
        f"{error}",
    )


_UNLIKE = 50
"""Sources of an item's sample above which they may be values of a field such as ``url``."""


def _known_sources(checked: RecipeCheck) -> set[str]:
    """Return the sources of the sample, and those that the recipe and names of directories give."""
    found = set(checked.sources())
    for one in checked.found.inputs if checked.found else ():
        source = one.spec.source
        if not isinstance(source, str):
            found.add(source.name)
        elif source in one.spec.fields:
            found.add(str(one.spec.fields[source]))
    return found


def _check_source_fields(recipe: Recipe, sample: InputSample, findings: list[Finding]) -> None:
    """Warn of a field of sources that has another value in most records of the sample."""
    sources, files = sample.documents["source"].to_pylist(), sample.documents["file"].to_pylist()
    values: dict[int, set[str]] = {}
    counts = Counter[int]()
    for source, file in zip(sources, files):
        if source is not None:
            item = sample.files[file].item
            values.setdefault(item, set()).add(source)
            counts[item] += 1
    for item, own in sorted(values.items()):
        if len(own) <= _UNLIKE or 2 * len(own) < counts[item] or sample.whole:
            continue
        field_name = recipe.corpus[item].source
        findings.append(
            Finding(
                level="warning",
                kind="many_sources",
                key=f"corpus.{item}.source",
                text=f"corpus.{item}.source: {len(own):,} values of {field_name!r} in "
                f"{numbered(counts[item], 'record')} of the sample; a corpus has at most "
                "1,000 sources: name another field, or write source: {name: web}",
            )
        )


# -- shares -------------------------------------------------------------------------------------


def _check_shares(checked: RecipeCheck, attempt: _Attempt) -> None:
    """Compare the sources that ``budget.shares`` names with those of the sample."""
    recipe, sample = checked.recipe, checked.sample
    sources = [*checked.sources(), *recipe.rewrite]
    if sample is None or not checked.sources():
        return
    _check_quotas(checked)
    if sample.whole:
        attempt(lambda: check_shares(recipe.budget, sources))
        return
    for name in recipe.budget.named_shares:
        if name not in sources:
            checked.findings.append(
                Finding(
                    level="warning",
                    kind="missing_source",
                    key=f"budget.shares.{name}",
                    text=f"budget.shares.{name}: no document of the sample is of this source; the "
                    f"sample has {shortened(sources, _MOST_SOURCES)}",
                    names=near_names(name, sources),
                )
            )


def _check_quotas(checked: RecipeCheck) -> None:
    """Compare each share with the tokens that its source is estimated to hold."""
    own, sources = checked.estimate, checked.sources()
    if own is None or not own.tokens or own.budget is None or checked.recipe.rewrite:
        return
    if checked.recipe.budget.allow_short:
        return
    whole = max(1, sum(tally["bytes"] for tally in sources.values()))
    for name, share in checked.recipe.budget.named_shares.items():
        if name not in sources:
            continue
        wanted, held = int(share * own.budget), int(own.tokens * sources[name]["bytes"] / whole)
        if wanted > held:
            checked.findings.append(
                Finding(
                    level="warning",
                    kind="share_above_source",
                    key=f"budget.shares.{name}",
                    text=f"budget.shares.{name}: {wanted:,} tokens, and {name} is estimated to "
                    f"hold {held:,}; lower the share, add text of this source, or write "
                    "budget.allow_short: true",
                )
            )
