"""The card of an export: ``README.md`` with the front matter that Hugging Face's hub reads.

Names of sources and licences are data of strangers. In the body they are escaped; in the front
matter there are only licences of the hub's own list.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

import penstock
from penstock.display import numbered, printable
from penstock.jobs.curate import Curated
from penstock.jobs.export.formats import ExportFormat
from penstock.jobs.export.ids import token_facts
from penstock.jobs.export.sources import SourceFacts
from penstock.jobs.export.texts import card_features, document_schema
from penstock.jobs.stage_lines import describe_draw

__all__ = ["card", "hub_licence"]

_NOT_LOADED = " `datasets.load_dataset`, which the hub may show, does not read these files."

_SOURCES = 100
"""Most sources of the table; ``sources.json`` has more."""

# fmt: off
_LICENCES = {
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1",
    "lgpl-3.0", "agpl-3.0", "mpl-2.0", "odc-by", "odbl", "pddl", "unlicense", "isc", "zlib",
    "wtfpl", "artistic-2.0", "gfdl",
}
# fmt: on
"""Licences that the hub knows by these names, in lower case."""

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_LARGE = ((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"))


def card(
    curated: Curated,
    to: str,
    form: ExportFormat,
    recipe: str,
    sources: Mapping[str, SourceFacts],
    columns: Sequence[str],
) -> str:
    """Return the text of ``README.md``.

    Args:
        curated: What is exported.
        to: Name of the format.
        form: The format.
        recipe: The recipe's keys that decide what is in the export, as YAML without secrets.
        sources: Counts of all sources.
        columns: Names of the columns of scores.
    """
    cut, pool = curated.cut.facts, curated.pool.documents
    licences = {licence for facts in sources.values() for licence in facts.licences}
    front: dict[str, Any] = {
        "license": hub_licence(licences),
        "task_categories": ["text-generation"],
        "size_categories": [_size(cut["documents"])],
    }
    if form.pattern is not None:
        split = {"split": "train", "path": form.pattern}
        front["configs"] = [{"config_name": "default", "data_files": [split]}]
        front["dataset_info"] = {"features": card_features(document_schema(columns))}
    reading = form.reading.replace("OUT", ".")
    about = _columns(columns)
    if form.tokens:
        facts = token_facts(curated, form.large_ids)
        reading, about = reading.replace("DTYPE", facts["dtype"]), _ids(facts)
    drawn = describe_draw(curated.cut, curated.recipe.budget)
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {numbered(cut['documents'], 'document')}, {cut['delivered']:,} tokens",
        "",
        f"Curated by Penstock {penstock.__version__}: {pool['read']:,} records were read, "
        f"{pool['kept']:,} documents kept, {cut['documents']:,} taken"
        f"{drawn and f', {_escaped(drawn)}'} "
        f"(ranked by {', '.join(f'`{name}`' for name in curated.recipe.budget.ranks)}).",
        "",
        f"Format: {form.summary} (`{to}`). {reading}{'' if form.pattern else _NOT_LOADED}",
        "",
        *about,
        "",
        "## Counts",
        "",
        *_table(
            ("", "count"),
            (
                ("records read", pool["read"]),
                ("in quarantine: they could not be read", pool["quarantined"]),
                *((f"dropped: {rule}", count) for rule, count in pool["dropped_by"].items()),
                ("kept", pool["kept"]),
                ("taken", cut["documents"]),
                ("tokens requested", cut["requested"]),
                ("tokens delivered, whole sequences", cut["delivered"]),
                ("tokens of a sequence", curated.shards.facts["sequence_length"]),
                ("entries of the vocabulary", curated.shards.facts["vocab_size"]),
            ),
        ),
        "",
        "## Sources",
        "",
        "Licences are as the records or the recipe give them; nobody has checked them. Inputs are "
        "in `sources.json`.",
        "",
        *_table(
            ("source", "documents", "tokens", "bytes of text", "licence (documents)"),
            _sources(sources),
        ),
        "",
        "## Recipe",
        "",
        *(f"    {line}" for line in recipe.rstrip("\n").split("\n")),
        "",
        f"Shards `{curated.shards.digest}`. `manifest.json` has the sha256 of each file.",
        "",
    ]
    return "\n".join(lines)


def hub_licence(licences: set[str | None]) -> str | list[str]:
    """Return the licence of a card's front matter, by the names that the hub knows.

    Args:
        licences: Those of the documents; None among them for documents that give none.
    """
    given = {licence.lower() for licence in licences if licence is not None}
    if not given:
        return "unknown"
    if None in licences or not given <= _LICENCES:
        return "other"
    return min(given) if len(given) == 1 else sorted(given)


def _size(documents: int) -> str:
    for below, name in (*_SIZES, *_LARGE):
        if documents < below:
            return name
    return "n>10B"


def _ids(facts: Mapping[str, Any]) -> list[str]:
    name = f" ({_escaped(facts['eos_token'])})" if facts["eos_token"] else ""
    return [
        f"Ids are `{facts['dtype']}`, little-endian, of `tokenizer/tokenizer.json`. The end of "
        f"text, before and after each document, is the id {facts['eos_token_id']}{name}; the "
        "document of lowest rank in each share may be shortened, and then has none after it. "
        "`tokens.json` has these values."
    ]


def _columns(columns: Sequence[str]) -> list[str]:
    scores = f", `scores` ({', '.join(f'`{name}`' for name in columns)})" if columns else ""
    return [
        "A document has `id`, `text`, `source`, `license` as given, `parent` (the id of the "
        "document that a rewriter made it from), `meta` (the record's other fields), "
        "`tokens` (taken of it: fewer than it has, of the document of lowest rank in a share)"
        f"{scores}"
        f"{'; null: it has no score' if columns else ''}."
    ]


def _sources(sources: Mapping[str, SourceFacts]) -> Iterable[Sequence[object]]:
    ordered = sorted(sources.items(), key=lambda own: (-own[1].tokens, own[0]))
    for source, facts in ordered[:_SOURCES]:
        licences = sorted(facts.licences.items(), key=lambda own: (-own[1], own[0] or ""))
        words = [f"{name or 'none given'} ({count:,})" for name, count in licences[:5]]
        more = ", …" if len(licences) > 5 else ""
        yield source, facts.documents, facts.tokens, facts.text_bytes, ", ".join(words) + more
    if rest := [facts for _, facts in ordered[_SOURCES:]]:
        yield (
            f"{len(rest):,} other sources",
            sum(facts.documents for facts in rest),
            sum(facts.tokens for facts in rest),
            sum(facts.text_bytes for facts in rest),
            "",
        )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    shown = [
        line(f"{cell:,}" if isinstance(cell, int) else _escaped(str(cell)) for cell in row)
        for row in rows
    ]
    return [line(head), line("---" for _ in head), *shown]


def _escaped(text: str) -> str:
    """Return a text that is no markup in a cell of a table in Markdown."""
    plain = html.escape(printable(text), quote=False)
    return "".join(f"&#{ord(one)};" if one in "\\`*_[]|~#!" else one for one in plain)
