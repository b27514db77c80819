"""Commands that look at the documents of curated datasets: they write nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from penstock.artefact.journal import named
from penstock.jobs.options import on_console

if TYPE_CHECKING:  # commands import what they use
    from penstock.jobs.console import Console

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
    with named(os.path.abspath(b)):
        found = compare_sides(first, open_side(b, settings), limit)
    print_difference(found, console)
    console.result(found.summary())


DOCUMENTS = (diff,)
"""The commands, which :mod:`penstock.jobs.cli` adds to its group."""
