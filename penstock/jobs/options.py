"""Options that several commands share, as decorators of click commands."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.artefact.journal import named
from penstock.cluster import DEBUG
from penstock.errors import PenstockError
from penstock.garbage import collection_paused
from penstock.recipe_file import command_words, load_recipe, naming

if TYPE_CHECKING:
    from penstock.jobs.console import Console

__all__ = [
    "Command",
    "on_console",
    "on_debug",
    "on_recipe",
    "on_recipe_file",
    "on_runner",
    "on_trust",
    "with_recipe",
]

Command = Callable[..., Any]


def on_console(command: Command) -> Command:
    """Give a command the option --json and a console, which prints its result.

    With --json, what scorers and libraries print goes to stderr: Ray reports lost nodes, also after
    the command is done.
    """

    @click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line.")
    @functools.wraps(command)
    def wrapped(as_json: bool, **options: Any) -> Any:
        from penstock.jobs.console import Console

        console = Console(json_to=sys.stdout if as_json else None)
        if as_json:
            sys.stdout = sys.stderr
        return command(console=console, **options)

    return wrapped


def on_recipe(command: Command) -> Command:
    """Give a command the argument RECIPE, a console and the options --set and --json."""

    @on_recipe_file
    @functools.wraps(command)
    def wrapped(recipe: Path, settings: tuple[str, ...], **options: Any) -> Any:
        return command(recipe=load_recipe(recipe, settings), **options)

    return wrapped


def on_recipe_file(command: Command) -> Command:
    """Give a command the path of RECIPE, the options --set and --json and a console."""

    @click.argument("recipe", type=click.Path(path_type=Path))
    @click.option(
        "--set", "settings", multiple=True, metavar="KEY.PATH=VALUE", help="Override a key."
    )
    @on_console
    @functools.wraps(command)
    def wrapped(recipe: Path, settings: tuple[str, ...], **options: Any) -> Any:
        with named(os.path.abspath(recipe), settings), naming(recipe, settings):
            return command(recipe=recipe, settings=settings, **options)

    return wrapped


def with_recipe(error: PenstockError) -> PenstockError:
    """Put the recipe of this command, and its --set, in place of RECIPE in an error's fix."""
    context = click.get_current_context(silent=True)
    given = context.params if context else {}
    if given.get("recipe"):
        error.on_recipe(command_words(given["recipe"], given.get("settings", ())))
    return error


def on_runner(command: Command) -> Command:
    """Give a command that does work the options --runner, --workers, --debug, and a heartbeat."""

    @on_debug
    @functools.wraps(command)
    def wrapped(console: Console, debug: bool, **options: Any) -> Any:
        if debug:
            os.environ[DEBUG] = "1"  # workers inherit it
        with collection_paused():
            importlib.import_module("penstock.jobs.plan")  # most of what these commands import
        with console.working(command.__name__):
            return command(console=console, **options)

    kind = click.option(
        "--runner",
        type=click.Choice(["auto", "local", "ray"]),
        default="auto",
        show_default=True,
        help="auto: Ray where RAY_ADDRESS is set, else processes on this machine.",
    )
    workers = click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Processes, or CPUs of a Ray started here. [default: all CPUs]",
    )
    return kind(workers(wrapped))


on_debug = click.option("--debug", is_flag=True, help="Show all that Ray and other libraries log.")
"""Gives a command the option --debug."""

on_trust = click.option(
    "--trust",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Resume from checkpoints below DIR that you did not sign: their writers can run code.",
)
"""Gives a command that trains the option --trust."""
