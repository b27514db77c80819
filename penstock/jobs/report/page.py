"""The report: one page of HTML on a curated dataset, which loads nothing and can be sent by mail.

Texts, ids and names are data of strangers. The template escapes all of them, controls and overrides
of direction are written out, and the page's policy lets only its own script and style sheet run, by
their hashes, and requests nothing. What is shown of a pool does not grow with it: histograms, and
about a hundred documents.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from markupsafe import Markup

import penstock
from penstock.artefact import canonical
from penstock.display import printable
from penstock.errors import PenstockError
from penstock.jobs.build import build_columns
from penstock.jobs.curate import Curated
from penstock.jobs.edge import order_name
from penstock.jobs.plots import plot
from penstock.jobs.reasons import add_reasons, describe_reasons, describe_score
from penstock.jobs.report.charts import shown
from penstock.jobs.report.comparison_figures import judged_targets
from penstock.jobs.report.counting import PoolCounts, ScoreSample, count_pool, sample_scores
from penstock.jobs.report.curves import curve_figures, read_curves
from penstock.jobs.report.excerpts import (
    Excerpt,
    about_the_cut,
    first_taken,
    some_dropped,
    some_left,
)
from penstock.jobs.report.figures import bar_rows, flow_figure, length_figure, score_figure
from penstock.jobs.report.flow import document_flow
from penstock.jobs.report.repeats import count_copies
from penstock.jobs.report.selector_agreement import selector_agreement
from penstock.jobs.stage_lines import describe_draw
from penstock.pipeline.pool import pools_of
from penstock.recipe import Recipe
from penstock.redaction import mask_addresses, mask_values
from penstock.selectors.parameters import Algorithm
from penstock.storage import AnyPath, atomic_file

if TYPE_CHECKING:  # it needs the extra `train`
    from penstock.jobs.comparison.results import Comparison

__all__ = ["has_comparison", "render", "report_directory", "write_comparison", "write_report"]

_GROUPS = {
    "first": ("Taken first", 20),
    "above": ("Just above the cut", 15),
    "below": ("Just below the cut", 15),
    "left": ("Left, drawn at random", 20),
    "dropped": ("Dropped by rules", 20),
}
"""Groups of documents, and how many are shown."""

_TEXT, _RECIPE, _FACTS = 1_500, 100_000, 40_000
"""Characters of a document, of the recipe and of the facts of columns."""

_EXPLAINED, _EXPLAINED_BYTES = 8, 20_000
"""Documents of a group whose scores are explained by their words, and the characters of the longest
one: a score is computed for each distinct word."""

_PACKAGES = ("numpy", "pyarrow", "tokenizers", "torch", "ray")


def report_directory(curated: Curated) -> AnyPath:
    """Return the directory of a cut's report and comparison."""
    return curated.recipe.work_directory / "report" / curated.cut.fingerprint[:16]


def has_comparison(curated: Curated) -> bool:
    """Return whether ``penstock compare`` has evaluated this cut."""
    return (report_directory(curated) / "comparison.json").exists()


def write_comparison(comparison: Comparison) -> list[AnyPath]:
    """Write a comparison's summary and plots, and the report of its selected cut."""
    directory = report_directory(comparison.selected)
    summary = directory / "comparison.json"
    with atomic_file(summary) as sink:
        sink.write(canonical(comparison.summary()))
    return [summary, *plot(comparison, directory), write_report(comparison.selected)]


def write_report(curated: Curated) -> AnyPath:
    """Write ``report.html``, with the comparison and training curves of the same cut if any.

    Raises:
        ArtefactError: A file is missing or was changed, or the counts do not add up.
    """
    path = report_directory(curated) / "report.html"
    with atomic_file(path) as sink:
        sink.write(render(curated).encode())
    return path


def render(curated: Curated) -> str:
    """Return the page; arguments and errors as of :func:`write_report`."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "number": "{:,}".format, "percent": "{:.1%}".format}
    sample = sample_scores(curated)
    counts = count_pool(curated, sample)
    flow = document_flow(curated, counts.excluded)
    marked = {name: _marks(name, curated, counts) for name in curated.columns}
    comparison = _comparison(report_directory(curated) / "comparison.json")
    style, script = _own("report.css"), _own("report.js")
    return environment.from_string(_own("report.html.jinja")).render(
        policy="; ".join(
            (
                "default-src 'none'",
                f"style-src {_hash_of(style)}",
                f"script-src {_hash_of(script)}",
                "base-uri 'none'",
                "form-action 'none'",
                "require-trusted-types-for 'script'",
            )
        ),
        style=Markup(style),
        script=Markup(script),
        summary=curated.summary(),
        sequences=curated.shards.facts.get("sequences"),
        flow=flow,
        flow_figure=flow_figure(flow),
        sources=curated.source_shares(),
        score_figures=[
            (name, score_figure(name, counts, marks), table)
            for name, (marks, table) in marked.items()
        ],
        marked=any(mark is not None for marks, _ in marked.values() for mark in marks),
        ranks=curated.recipe.budget.ranks,
        lengths=length_figure(counts),
        languages=_languages(counts),
        rules=_rules(curated),
        copies=count_copies(curated),
        agreement=selector_agreement(sample),
        sample_step=sample.step,
        meanings=_meanings(curated),
        draw=describe_draw(curated.cut, curated.recipe.budget),
        order=None if curated.recipe.budget.uniform else order_name(curated.recipe.budget),
        groups={name: title for name, (title, _) in _GROUPS.items()},
        documents=list(_documents(curated, sample)),
        comparison=comparison,
        judged=judged_targets(comparison) if comparison else [],
        curves=curve_figures(read_curves(curated, comparison)),
        facts=_shortened(
            json.dumps({name: own.facts for name, own in curated.columns.items()}, indent=1), _FACTS
        ),
        recipe=_shortened(_shown(curated.recipe), _RECIPE),
        versions=_versions(),
        date=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    )


def _own(name: str) -> str:
    return files("penstock.jobs.report").joinpath(name).read_text(encoding="utf-8")


def _hash_of(text: str) -> str:
    """Return the source of a policy that lets an element with exactly this text run."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _shortened(text: str, most: int) -> str:
    shown = printable(text, keep="\n\t")
    return shown if len(shown) <= most else f"{shown[:most]}\n… {len(shown) - most:,} more"


def _comparison(path: AnyPath) -> dict[str, Any] | None:
    """Read a comparison's summary; None where there is none, or one without verdicts."""
    found = json.loads(path.read_bytes()) if path.exists() else {}
    return found if "verdict" in found else None


def _shown(recipe: Recipe) -> str:
    """Return a recipe's text without the secrets that a parameter or an address may hold."""
    tree = mask_values(recipe.model_dump(mode="json"))
    return mask_addresses(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _versions() -> dict[str, str]:
    found = {"penstock": penstock.__version__, "Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# -- scores -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _SourceRow:
    """The scores of one source in a column, as numbers."""

    source: str
    documents: int
    unscored: int
    taken: int
    lowest: float | None


def _marks(
    name: str, curated: Curated, counts: PoolCounts
) -> tuple[list[float | None], list[_SourceRow]]:
    """Return the cut of each source in a column, and its numbers.

    There is a cut where documents are taken by this score alone, from the highest down: then it is
    the lowest score that is taken, of a source with a share its own, of the others one of all.
    """
    budget, lowest = curated.recipe.budget, counts.lowest[name]
    alone = list(budget.ranks) == [name] and budget.temperature is None
    shared = {group["source"] for group in curated.cut.facts["groups"][:-1]}
    rest = [value for label, value in zip(counts.labels, lowest.tolist()) if label not in shared]
    marks: list[float | None] = []
    rows = []
    for number, label in enumerate(counts.labels):
        own = float(lowest[number])
        mark = own if label in shared else min(rest)
        marks.append(mark if alone and np.isfinite(mark) else None)
        left, taken = counts.scores[name][number].sum(axis=1).tolist()
        rows.append(
            _SourceRow(
                source=label,
                documents=left + taken,
                unscored=int(counts.unscored[name][number]),
                taken=taken,
                lowest=own if np.isfinite(own) else None,
            )
        )
    return marks, rows


def _meanings(curated: Curated) -> list[dict[str, str]]:
    """Return for each column its selector and what a score means, in the selector's own words."""
    try:
        built = {column.name: column.selector for column in build_columns(curated.recipe)}
    except PenstockError:  # a file that it names is gone since
        built = {}
    found = []
    for name in curated.columns:
        selector = built.get(name)
        own = curated.recipe.select.get(name)
        about = {"name": name, "use": str(own.use) if own else name, "meaning": "", "summary": ""}
        if isinstance(selector, Algorithm):
            meaning = describe_score(selector, curated.columns[name])
            about |= {"meaning": meaning, "summary": selector.summary or ""}
        found.append(about)
    return found


# -- documents ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShownDocument:
    """A document of the page."""

    group: str
    id: str
    source: str
    rank: int | None
    reason: str | None
    order: str | None
    """The score by which it is ordered, where the page names one (:func:`.edge.order_name`)."""
    scores: list[tuple[str, str, str]]
    """Column, score, and the share of documents that score lower."""
    text: str
    more: int
    """Characters of the text that are not shown."""
    why: list[tuple[str, list[str]]]
    """Column, and lines on what its score means."""


def _documents(curated: Curated, sample: ScoreSample) -> Iterator[_ShownDocument]:
    above, below = about_the_cut(curated, _GROUPS["above"][1])
    found = {
        "first": first_taken(curated, _GROUPS["first"][1]),
        "above": above,
        "below": below,
        "left": some_left(curated, _GROUPS["left"][1]),
        "dropped": some_dropped(curated, _GROUPS["dropped"][1]),
    }
    ordered = {name: np.sort(own[~np.isnan(own)]) for name, own in sample.scores.items()}
    seen: set[tuple[int, int]] = set()
    for group, some in found.items():
        # A row of a corpus before a rewriter is no row of the pool: it may have the same number.
        dropped = group == "dropped"
        own = [one for one in some if dropped or (one.unit, one.row) not in seen]
        seen |= {(one.unit, one.row) for one in own}
        explained = [] if group in ("left", "dropped") else own[:_EXPLAINED]
        reasons = _reasons(curated, explained)
        for number, one in enumerate(own):
            yield _ShownDocument(
                group=group,
                id=shown(one.id, 120),
                source=shown(one.source, 60),
                rank=one.rank,
                reason=None if one.reason is None else shown(one.reason, 80),
                order=None if one.cut_score is None else f"{one.cut_score:.4g}",
                scores=[_score(name, value, ordered) for name, value in one.scores.items()],
                text=printable(one.text[:_TEXT], keep="\n\t"),
                more=max(0, len(one.text) - _TEXT),
                why=reasons[number] if number < len(reasons) else [],
            )


def _score(
    name: str, value: float | None, ordered: Mapping[str, np.ndarray]
) -> tuple[str, str, str]:
    if value is None:
        return name, "no score", ""
    values = ordered[name]
    below = np.searchsorted(values, np.float32(value)) / max(1, len(values))
    return name, f"{value:.4g}", f"{below:.1%}"


def _reasons(curated: Curated, some: list[Excerpt]) -> list[list[tuple[str, list[str]]]]:
    """Explain the scores of documents; those of users' own code are not computed again."""
    units = curated.pool.units
    fates: list[dict[str, Any]] = [
        {
            "id": one.id,
            "source": one.source,
            "text": one.text,
            "unit": units[one.unit].name,
            "row": one.row,
            "scores": {name: {"score": value} for name, value in one.scores.items()},
        }
        for one in some
    ]
    short = [own for own in fates if len(own["text"]) <= _EXPLAINED_BYTES]
    try:
        add_reasons(curated, short, own_code=False)
    except PenstockError:  # a file that a selector needs is gone since
        return []
    return [
        [
            (name, [printable(line) for line in lines][1:])
            for name, own in fate.get("reasons", {}).items()
            if len(lines := list(describe_reasons(own))) > 1
        ]
        for fate in fates
    ]


# -- cleaning -----------------------------------------------------------------------------------


def _rules(curated: Curated) -> Markup | None:
    """Draw the documents that each rule drops: those that fail it, and those it is first for."""
    counts = curated.pool.documents
    alone: dict[str, int] = {}
    # What an earlier verdict keeps fails no rule there, so that no document is counted twice.
    for pool in pools_of(curated.pool):
        for record in pool.verdicts.named("verdicts-"):
            for name, own in record.facts["sets"].items():
                for rule, tally in own["rules"].items():
                    whole = f"{name}: {rule}"
                    alone[whole] = alone.get(whole, 0) + tally["alone"]
    first = counts["dropped_by"]
    names = sorted({*first, *(name for name, count in alone.items() if count)})
    names = sorted(names, key=lambda name: -max(first.get(name, 0), alone.get(name, 0)))[:24]
    rows = []
    for name in names:
        own, all_ = first.get(name, 0), max(alone.get(name, 0), first.get(name, 0))
        rest = f" of {all_:,} that fail it" if name in alone else ""
        rows.append((name, f"first for {own:,}{rest}", [(own, "dropped"), (all_ - own, "left")]))
    most = max([sum(value for value, _ in parts) for *_, parts in rows] or [0])
    return bar_rows(rows, "documents that each rule excludes", most) if rows else None


def _languages(counts: PoolCounts) -> Markup | None:
    """Draw the documents of the fifteen most frequent languages, by fate."""
    rows = list(counts.languages.items())
    if not rows:
        return None
    named, others = rows[:15], rows[15:]
    if others:
        sums = [sum(own[fate] for _, own in others) for fate in range(3)]
        named.append((f"{len(others):,} others", (sums[0], sums[1], sums[2])))
    most = max(sum(own) for _, own in named)
    drawn = [
        (
            name,
            f"{own[2]:,} taken of {sum(own):,}",
            [(own[2], "taken"), (own[1], "left"), (own[0], "dropped")],
        )
        for name, own in named
    ]
    return bar_rows(drawn, "documents by language", most)
