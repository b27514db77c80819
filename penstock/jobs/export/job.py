"""Export a curated recipe: plan the files, write those that are missing, describe them, publish."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

import penstock
from penstock.artefact import (
    FORMAT,
    Artefact,
    Draft,
    FileRecord,
    Workspace,
    canonical,
    fingerprint,
)
from penstock.display import html_table, numbered, text_table
from penstock.errors import InputError, did_you_mean
from penstock.jobs.curate import Curated
from penstock.jobs.export.card import card
from penstock.jobs.export.destination import Destination
from penstock.jobs.export.formats import FORMATS, ExportFormat, Exporting
from penstock.jobs.export.ids import token_facts
from penstock.jobs.export.sources import (
    SourceFacts,
    count_sources,
    described,
    gather_sources,
)
from penstock.jobs.origins import Origins
from penstock.pipeline.checking import check_sum
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import generations
from penstock.redaction import mask_addresses, mask_values
from penstock.storage import atomic_file

__all__ = ["Exported", "export"]

STAGE = "export"
VERSION = 5

_KEYS = {
    *("seed", "corpus", "unit_bytes", "clean", "rewrite", "select", "budget", "tokenizer"),
    *("shards", "evaluate"),
}
"""The recipe's keys that decide what is in an export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A finished export."""

    artefact: Artefact
    format: str

    def __repr__(self) -> str:
        return text_table("Exported", (f"  {name}: {value}" for name, value in self._rows()))

    def _repr_html_(self) -> str:
        return html_table("Exported", (), self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        return [
            (name, f"{value:,}" if isinstance(value, int) else str(value))
            for name, value in self.summary().items()
        ]

    def summary(self) -> dict[str, Any]:
        """Return the object that ``penstock export --json`` prints."""
        facts = self.artefact.facts
        return {
            "out": str(self.artefact.path),
            "format": self.format,
            "documents": facts["documents"],
            "tokens": facts["tokens"],
            "bytes": sum(record.bytes for record in self.artefact.files)
            + len(canonical(self.artefact.manifest)),
        }


def export(
    curated: Curated,
    to: str,
    out: str | None,
    runner: Runner,
    progress: Callable[[str], None] = lambda line: None,
    overwrite: bool = False,
) -> Exported:
    """Export what a cut takes, unless it is exported already.

    Args:
        curated: The artefacts of a recipe.
        to: A name of :data:`~penstock.jobs.export.formats.FORMATS`.
        out: A directory or URI, empty or with an export that was begun there; an artefact of the
            work directory by default.
        runner: Runs the tasks, one for each file.
        progress: Called with a line for each event.
        overwrite: Whether another export in ``out`` is deleted first, or the same one where a file
            of it was changed; nothing else is.

    Raises:
        InputError: There is no such format, ``out`` has something else, or there is no ``out`` to
            overwrite.
        ArtefactError: A file that is read, or of the finished export, is missing or was changed.
        LeaseError: Another process exports to ``out``; without ``out``: another driver holds the
            work directory.
    """
    form = FORMATS.get(to)
    if form is None:
        names = ", ".join(FORMATS)
        raise InputError(
            key="--to", expected=f"one of {names}", got=f"{to!r}{did_you_mean(to, FORMATS)}"
        )
    if overwrite and out is None:
        raise InputError(
            "has no effect without --out: an export in the work directory replaces none",
            key="--overwrite",
            fix="leave it out, or name a directory with --out",
        )
    table = curated.documents(text=True)
    recipe = _recipe_of(curated)
    config = {"format": to, "recipe": recipe, "penstock": penstock.__version__}
    inputs = {
        "shards": curated.shards.fingerprint,
        "columns": {name: own.fingerprint for name, own in sorted(curated.columns.items())},
    }

    def work(draft: Draft) -> Artefact:
        exporting = Exporting(
            curated=curated,
            units=table.units,
            directory=draft.path,
            fingerprint=draft.fingerprint,
        )
        return _write(exporting, to, form, recipe, draft, runner, progress)

    if out is None:
        with Workspace.driving(curated.corpus.path.parent.parent) as workspace:
            made = workspace.make(STAGE, VERSION, config, inputs, work)
        return Exported(artefact=made, format=to)
    name = fingerprint(STAGE, VERSION, config, inputs)
    header = {
        "format": FORMAT,
        "stage": STAGE,
        "stage_version": VERSION,
        "fingerprint": name,
        "config": mask_values(config),
        "inputs": inputs,
    }
    with Destination(out, overwrite) as destination:
        made_before = destination.found(name)
        if made_before is None:
            made = work(destination.draft(header))
            destination.tidy()
            return Exported(artefact=made, format=to)
    progress(f"export: {destination.path} is complete: nothing to write")
    return Exported(artefact=made_before, format=to)


def _recipe_of(curated: Curated) -> str:
    """Return the recipe's keys that decide what is in an export, as YAML without secrets."""
    tree = curated.recipe.model_dump(mode="json", include=_KEYS, exclude_defaults=True)
    text = yaml.safe_dump(mask_values(tree), sort_keys=False, allow_unicode=True)
    return mask_addresses(text)


def _write(
    exporting: Exporting,
    to: str,
    form: ExportFormat,
    recipe: str,
    draft: Draft,
    runner: Runner,
    progress: Callable[[str], None],
) -> Artefact:
    curated, prefix = exporting.curated, f"{draft.fingerprint[:16]}-"
    items, shared = form.files(exporting)
    parts = {f"{prefix}{name.replace('/', '-')}": item for name, item in items.items()}
    done = sum(draft.done(part) is not None for part in parts)
    several = numbered(len(parts), "file")
    progress(f"export: {several} of {to} to {draft.path}, {done:,} of them there")

    def wrote(item: Any, records: Sequence[FileRecord]) -> None:
        nonlocal done
        done += 1
        progress(f"export: {done:,} of {several}")

    records = draft.fill(runner.run, form.write, parts, shared, wrote)
    data = [record for record in records if "tokens" in record.facts]
    written = {
        name: sum(own.facts.get(name, 0) for own in data) for name in ("documents", "tokens")
    }
    check_sum(f"{draft.path}", ("tokens of the cut", curated.cut.facts["delivered"]),
              {"written": written["tokens"]})  # fmt: skip
    if to != "mds":  # whose samples are sequences
        check_sum(f"{draft.path}", ("documents of the cut", curated.cut.facts["documents"]),
                  {"written": written["documents"]})  # fmt: skip
    sources = _sources(exporting, draft, prefix, runner)
    described_part = f"{prefix}described"
    if draft.done(described_part) is None:
        files = dict(form.finish(exporting, data))
        columns = tuple(curated.columns)
        names = _input_names(curated, sources)
        files["README.md"] = card(curated, to, form, recipe, sources, columns).encode()
        files["sources.json"] = json.dumps(
            described(sources, names), indent=2, ensure_ascii=False
        ).encode("utf-8", "backslashreplace")
        if form.tokens:
            (record,) = curated.shards.named("tokenizer/tokenizer.json")
            files[record.path] = curated.shards.verified(record).read_bytes()
            facts = token_facts(curated, form.large_ids)
            files["tokens.json"] = json.dumps(facts, indent=2, ensure_ascii=False).encode()
        draft.record(described_part, [_put(draft, name, own) for name, own in files.items()])
    return draft.publish(
        [*parts, described_part],
        {"documents": curated.cut.facts["documents"], "tokens": curated.cut.facts["delivered"]},
    )


def _put(draft: Draft, name: str, content: bytes) -> FileRecord:
    with atomic_file(draft.path / name) as sink:
        sink.write(content)
    return FileRecord.of(name, sink)


def _sources(
    exporting: Exporting, draft: Draft, prefix: str, runner: Runner
) -> dict[str, SourceFacts]:
    """Count sources, licences and inputs; the counts of units are scratch."""
    items = {
        f"{prefix}sources-{unit.unit.name}": (draft.path, f"scratch/{unit.unit.name}.json", unit)
        for unit in exporting.units
        if unit.cut[1].facts["documents"]
    }
    return gather_sources(draft.path, draft.fill(runner.run, count_sources, items))


def _input_names(curated: Curated, sources: Mapping[str, SourceFacts]) -> dict[int, str]:
    origins = Origins(generations(curated.corpus)[-1], curated.recipe)
    numbers = {number for facts in sources.values() for number in facts.inputs}
    return {
        number: name
        for number in sorted(number for number in numbers if number is not None)
        if (name := origins.name(number)) is not None
    }
