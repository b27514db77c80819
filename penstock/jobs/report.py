"""A curated dataset as one page of HTML that loads nothing: counts, sources, documents, proof.

Document text is untrusted, so the template escapes everything.
"""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from typing import TYPE_CHECKING

import jinja2

from penstock.jobs.curate import Curated
from penstock.jobs.curve import learning_curve
from penstock.jobs.excerpts import first_taken, some_left
from penstock.storage import AnyPath, atomic_file

if TYPE_CHECKING:  # it needs the extra `train`
    from penstock.jobs.compare import Comparison

__all__ = ["has_comparison", "report_directory", "write_comparison", "write_report"]

_EXCERPTS = 10


def report_directory(curated: Curated) -> AnyPath:
    """Return the directory of a cut's report and comparison."""
    return curated.recipe.work_directory / "report" / curated.cut.fingerprint[:16]


def has_comparison(curated: Curated) -> bool:
    """Return whether ``penstock compare`` has evaluated this cut."""
    return (report_directory(curated) / "comparison.json").exists()


def write_comparison(comparison: Comparison) -> list[AnyPath]:
    """Write a comparison's summary and plots, and the report of its selected cut."""
    from penstock.jobs.compare import save
    from penstock.jobs.plot import plot

    directory = report_directory(comparison.selected)
    written = [save(comparison, directory), *plot(comparison, directory)]
    return [*written, write_report(comparison.selected)]


def write_report(curated: Curated) -> AnyPath:
    """Write ``report.html``, with the comparison and learning curves of the same cut if any."""
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
        sources=curated.source_shares(),
        taken=first_taken(curated, _EXCERPTS),
        left=some_left(curated, _EXCERPTS),
        comparison=json.loads(comparison.read_bytes()) if comparison.exists() else None,
        curve=base64.b64encode(curve).decode() if curve else None,
        picture=base64.b64encode(picture.read_bytes()).decode() if picture.exists() else None,
    )
    path = directory / "report.html"
    with atomic_file(path) as sink:
        sink.write(page.encode())
    return path
