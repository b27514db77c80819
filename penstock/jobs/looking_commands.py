"""Commands that look before and after the work: they run no stage of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from penstock.jobs.options import on_recipe
from penstock.recipe import Recipe

if TYPE_CHECKING:  # commands import what they use
    from penstock.jobs.console import Console

__all__ = ["LOOKING"]


@click.command()
@on_recipe
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="For how many processes time and memory are estimated. [default: all CPUs]",
)
def check(recipe: Recipe, console: Console, workers: int | None) -> None:
    """Look at a recipe and its inputs without running anything; exit with 2 if it cannot work.

    Reads a sample of the inputs: fields and types, sources, files passed over, values that rules
    and conditions name, and estimates of tokens, time, memory and disk.
    """
    from penstock.jobs.checking.check import check_recipe
    from penstock.jobs.checking.printing import print_check

    checked = check_recipe(recipe, workers=workers)
    print_check(checked, console)
    console.result(checked.summary())
    if checked.errors:
        click.get_current_context().exit(2)


LOOKING = (check,)
"""The commands, which :mod:`penstock.jobs.cli` adds to its group."""
