"""The command that serves a page: it runs until it is interrupted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.artefact.journal import named
from penstock.jobs.options import on_console
from penstock.recipe_file import load_recipe, naming

if TYPE_CHECKING:  # commands import what they use
    from penstock.jobs.console import Console

__all__ = ["SERVING"]


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY.PATH=VALUE", help="Override a key.")
@click.option(
    "--port",
    type=click.IntRange(min=0, max=65535),
    default=0,
    help="The port on 127.0.0.1. [default: a free one]",
)
@on_console
def browse(console: Console, recipe: Path, settings: tuple[str, ...], port: int) -> None:
    """Preview changes of a curated recipe in a browser: what each would take and drop, at once.

    Serves a page on 127.0.0.1 until Ctrl-C; its URL has a token, without which nothing is
    answered. Nothing is written.
    """
    from penstock.jobs.browse.job import open_browse
    from penstock.jobs.browse.server import listen

    with named(os.path.abspath(recipe), settings), naming(recipe, settings):
        server = open_browse(load_recipe(recipe, settings), str(recipe), settings, console.progress)
    listening = listen(port)
    console.write(f"open {listening.url}")
    console.write("Ctrl-C ends it; nothing is written")
    console.result({"url": listening.url, "documents": server.documents_read})
    server.serve(listening)


SERVING = (browse,)
"""The commands, which :mod:`penstock.jobs.cli` adds to its group."""
