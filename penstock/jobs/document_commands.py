"""Commands that look at the documents of curated datasets: they write nothing."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from penstock.artefact.journal import named
from penstock.display import numbered
from penstock.jobs.options import on_console, on_recipe

if TYPE_CHECKING:  # commands import what they use
    from penstock.jobs.console import Console
    from penstock.recipe import Recipe

__all__ = ["DOCUMENTS"]


@click.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY.PATH=VALUE", help="Override a key of B."
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Most documents that are listed of each direction.",
)
@on_console
def diff(console: Console, a: str, b: str, settings: tuple[str, ...], limit: int) -> None:
    """Show which documents B takes and A does not, which went out, and why.

    A and B are recipes that were curated, or directories of cuts, as work/cut/0123456789abcdef.
    """
    from penstock.jobs.diff import compare_sides
    from penstock.jobs.printed_diff import print_difference
    from penstock.jobs.sides import open_side

    first = open_side(a)
    with named(os.path.abspath(b), settings):
        found = compare_sides(first, open_side(b, settings), limit)
    print_difference(found, console)
    console.result(found.summary())


@click.command()
@on_recipe
@click.option(
    "--count", "-n", type=click.IntRange(min=1), default=10, show_default=True, help="Documents."
)
@click.option(
    "--from",
    "place",
    type=click.Choice(["kept", "taken", "left", "dropped", "quarantined"]),
    help="What happened to them. [default: anything]",
)
@click.option("--rule", help="The rule that drops them, as 'gopher: min_words' or duplicate.")
@click.option("--source", help="Their source.")
@click.option("--near-cut", is_flag=True, help="Those just above and just below the cut.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another draw.")
def sample(recipe: Recipe, console: Console, count: int, **wanted: Any) -> None:
    """Print documents with what happened to them, drawn by a hash of their ids and texts.

    With --json each document is a line, with its whole text.
    """
    from penstock.jobs.curate import inspect
    from penstock.jobs.sample import Sample, sample_documents
    from penstock.pipeline.runner import open_runner

    with closing(open_runner("local", 1)) as opened:
        curated = inspect(recipe, opened)
    drawn = sample_documents(curated, count, Sample(**wanted))
    for document in drawn.documents:
        console.sampled(document)
        console.result(document)
    console.write(f"{len(drawn.documents):,} of {numbered(drawn.of, 'document')}")
    console.result({"sampled": len(drawn.documents), "of": drawn.of})


DOCUMENTS = (diff, sample)
"""The commands, which :mod:`penstock.jobs.cli` adds to its group."""
