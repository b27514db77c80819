"""A curated dataset as one page of HTML that loads nothing: counts, sources, documents, proof.

The documents are those that the cut takes first, and some that it leaves. Their text is untrusted,
so the template escapes everything.
"""

from __future__ import annotations

import base64
import heapq
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import yaml

from penstock.artefact import canonical
from penstock.columnar import OwnParquet, read_parquet
from penstock.hashing import hash_documents, mix
from penstock.jobs.curate import Curated, describe_draw
from penstock.jobs.plots import learning_curve, plot
from penstock.pipeline.cutting.ranks import first_ranked
from penstock.pipeline.units import Unit
from penstock.recipe import Recipe
from penstock.redaction import mask_addresses, mask_values
from penstock.storage import AnyPath, atomic_file

if TYPE_CHECKING:  # it needs the extra `train`
    from penstock.jobs.comparison.results import Comparison

__all__ = [
    "Excerpt",
    "excerpt",
    "first_taken",
    "has_comparison",
    "report_directory",
    "some_left",
    "write_comparison",
    "write_report",
]

_EXCERPTS = 10


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
    """Write ``report.html``, with the comparison and learning curves of the same cut if any."""
    import jinja2

    directory = report_directory(curated)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("penstock.jobs").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    curve = learning_curve(curated)
    picture, comparison = directory / "comparison.png", directory / "comparison.json"
    page = template.render(
        summary=curated.summary(),
        columns={name: column.facts for name, column in curated.columns.items()},
        recipe=_shown(curated.recipe),
        draw=describe_draw(curated.cut, curated.recipe.budget),
        sources=curated.source_shares(),
        taken=first_taken(curated, _EXCERPTS),
        left=some_left(curated, _EXCERPTS),
        comparison=_comparison(comparison),
        curve=base64.b64encode(curve).decode() if curve else None,
        picture=base64.b64encode(picture.read_bytes()).decode() if picture.exists() else None,
    )
    path = directory / "report.html"
    with atomic_file(path) as sink:
        sink.write(page.encode())
    return path


def _comparison(path: AnyPath) -> dict[str, Any] | None:
    """Read a comparison's summary; None where there is none, or one without verdicts."""
    found = json.loads(path.read_bytes()) if path.exists() else {}
    return found if "verdict" in found else None


def _shown(recipe: Recipe) -> str:
    """Return a recipe's text without the secrets that a parameter or an address may hold."""
    tree = mask_values(recipe.model_dump(mode="json"))
    return mask_addresses(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """One document of a report."""

    id: str
    source: str
    text: str
    rank: int | None = None

    def excerpt(self, length: int = 240) -> str:
        """Return the beginning of the text, on one line."""
        return excerpt(self.text, length)


def excerpt(text: str, length: int = 240) -> str:
    """Return the beginning of a text, on one line, cut between words."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length].rsplit(" ", 1)[0] + " …"


def first_taken(curated: Curated, count: int) -> list[Excerpt]:
    """Read the ``count`` documents that the cut takes first, in the order of their ranks."""
    units = curated.pool.units
    first = first_ranked(curated.cut, count)
    return [_read(units[number], row, rank) for rank, (number, row) in enumerate(first, 1)]


def some_left(curated: Curated, count: int) -> list[Excerpt]:
    """Read ``count`` documents that were not taken, drawn by hash of id."""
    key = mix(curated.recipe.seed, "look")
    drawn: list[tuple[int, int, int]] = []
    units = curated.pool.units
    for unit, record in zip(units, curated.cut.files):
        hashes, rows = hash_documents(unit.read_rows(["id", "hash"]), key), unit.numbers()
        table = read_parquet(curated.cut.verified(record), ["row"])
        left = np.flatnonzero(~np.isin(rows, table.column("row").to_numpy()))
        few = left[np.argsort(hashes[left], kind="stable")[:count]].tolist()
        drawn = heapq.nsmallest(
            count, [*drawn, *((int(hashes[at]), unit.number, int(rows[at])) for at in few)]
        )
    return [_read(units[number], row) for _, number, row in drawn]


def _read(unit: Unit, row: int, rank: int | None = None) -> Excerpt:
    with OwnParquet(unit.path()) as file:
        document = file.read(["id", "source", "text"]).take(pa.array([row])).to_pylist()[0]
    return Excerpt(**document, rank=rank)
