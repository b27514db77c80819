"""A curated dataset as one page of HTML that stands alone: counts, sources, documents, proof.

Document text is a stranger's: the template escapes everything, and the page loads nothing.
"""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from typing import Any

import jinja2

from penstock.jobs.curate import Curated
from penstock.jobs.curve import learning_curve
from penstock.jobs.excerpts import first_taken, some_left
from penstock.storage import AnyPath, atomic_file

__all__ = ["has_comparison", "report_directory", "source_shares", "write_report"]

_LOOKS = 10


def report_directory(curated: Curated) -> AnyPath:
    """Where a cut's report and comparison go."""
    return curated.recipe.work_directory / "report" / curated.cut.fingerprint[:16]


def has_comparison(curated: Curated) -> bool:
    """Whether ``penstock compare`` has judged this cut."""
    return (report_directory(curated) / "comparison.json").exists()


def source_shares(curated: Curated) -> list[dict[str, Any]]:
    """For each source its share of the pool's bytes and of the cut's tokens, largest cut first."""
    pool = curated.corpus.facts["by_source"]
    taken = curated.cut.facts["by_source"]
    all_bytes = sum(tally["bytes"] for tally in pool.values())
    delivered = max(1, curated.cut.facts["delivered"])
    rows = [
        {
            "source": source,
            "pool": tally["bytes"] / all_bytes,
            "cut": taken.get(source, {"tokens": 0})["tokens"] / delivered,
            "documents": taken.get(source, {"documents": 0})["documents"],
        }
        for source, tally in pool.items()
    ]
    return sorted(rows, key=lambda row: (-row["cut"], row["source"]))


def write_report(curated: Curated) -> AnyPath:
    """Write ``report.html``, with a comparison and learning curves of the same cut if there are."""
    directory = report_directory(curated)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("penstock.jobs").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    curve = learning_curve(curated)
    picture, comparison = directory / "comparison.png", directory / "comparison.json"
    page = template.render(
        summary=curated.summary(),
        columns={name: column.facts for name, column in curated.columns.items()},
        recipe=curated.recipe.to_yaml(),
        sources=source_shares(curated),
        taken=first_taken(curated, _LOOKS),
        left=some_left(curated, _LOOKS),
        comparison=json.loads(comparison.read_bytes()) if comparison.exists() else None,
        curve=base64.b64encode(curve).decode() if curve else None,
        picture=base64.b64encode(picture.read_bytes()).decode() if picture.exists() else None,
    )
    path = directory / "report.html"
    with atomic_file(path) as sink:
        sink.write(page.encode())
    return path
