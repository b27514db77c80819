"""Commands that look before and after the work: they run no stage of a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.display import numbered, terminal_text
from penstock.jobs.options import on_console, on_recipe_file

if TYPE_CHECKING:  # commands import what they use
    from penstock.jobs.console import Console

__all__ = ["LOOKING"]


@click.command()
@on_recipe_file
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="For how many processes time and memory are estimated. [default: all CPUs]",
)
def check(recipe: Path, settings: tuple[str, ...], console: Console, workers: int | None) -> None:
    """Look at a recipe and its inputs without running anything; exit with 2 if it cannot work.

    Reads a sample of the inputs: fields and types, sources, files passed over, values that rules
    and conditions name, and estimates of tokens, time, memory and disk.
    """
    from penstock.jobs.checking.check import check_recipe
    from penstock.jobs.checking.printing import print_check

    with console.working("check"):
        checked = check_recipe(recipe, settings, workers=workers)
    print_check(checked, console)
    console.result(checked.summary())
    if checked.errors:
        click.get_current_context().exit(2)


@click.command()
@click.argument("paths", nargs=-1)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("recipe.yaml"),
    show_default=True,
    help="The recipe to write; an existing file is never overwritten.",
)
@click.option("--text", help="The field of the text. [default: guessed]")
@click.option("--id", help="The field of the id. [default: guessed]")
@click.option("--source", help="The field of the source. [default: guessed]")
@click.option("--target", multiple=True, help="A file of target examples; may be repeated.")
@click.option("--evaluate", multiple=True, help="A file of held-out examples; may be repeated.")
@click.option("--tokens", help="The budget. [default: 30%]")
@on_console
def init(console: Console, paths: tuple[str, ...], out: Path, **options: Any) -> None:
    """Look at files and write a commented recipe for them; exit with 2 if `check` refuses it.

    PATHS are files, directories or patterns. On a terminal it asks what it cannot tell.
    """
    from penstock.jobs.checking.init import init_recipe

    asks = sys.stdin.isatty() and sys.stdout.isatty()

    def ask(question: str, default: str) -> str:
        if not asks:
            return default
        with console.asking():
            answer: str = click.prompt(terminal_text(question), default=default, show_default=True)
        return answer

    if not paths and asks:
        paths = (ask("Files or directory to look at", "."),)
    with console.working("init"):
        made = init_recipe(paths, out, ask=ask, **options)
    for note in made.notes:
        console.write(note)
    for finding in made.checked.findings:
        console.write(f"{finding.level}: {finding.text}")
    console.written([made.path])
    errors = len(made.checked.errors)
    if errors:
        words = f"{numbered(errors, 'error')} above: no command runs it before "
        words += f"{'it is' if errors == 1 else 'they are'} corrected"
        console.write(f"{words}; penstock check {made.path} looks again")
    else:
        console.write(f"next: penstock check {made.path}, then penstock curate {made.path}")
    console.result(made.summary())
    if errors:
        click.get_current_context().exit(2)


@click.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--unused",
    is_flag=True,
    required=True,
    help="Of the work directories of RECIPES, what none of them reaches.",
)
@click.option("--yes", is_flag=True, help="Delete; without it artefacts are only listed.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY.PATH=VALUE",
    help="Of the runs with --set, keep only what RECIPES reach with all of these.",
)
@click.option("--no-sets", is_flag=True, help="Keep nothing that only runs with --set used.")
@on_console
def rm(
    console: Console,
    recipes: tuple[Path, ...],
    unused: bool,
    yes: bool,
    settings: tuple[str, ...],
    no_sets: bool,
) -> None:
    """List, and with --yes delete, the artefacts that none of these recipes reaches.

    Name every recipe whose results are to stay: what only another recipe uses is deleted. What runs
    of them with --set used stays, by the journal, unless --set or --no-sets says otherwise.
    """
    from penstock.jobs.unused import find_unused, remove_unused

    assert unused
    if settings and no_sets:
        raise click.UsageError("expected --set or --no-sets, one of them")
    find = remove_unused if yes else find_unused
    found = find(recipes, () if no_sets else settings or None)
    console.table(
        ("artefact", "state", "bytes", "last used (UTC)", "recipe"),
        [
            (
                one.name,
                one.state,
                f"{one.bytes:,}",
                (one.last_used or "")[:19],
                ", ".join(one.recipes),
            )
            for one in found.unused
        ],
        fits=True,
    )
    for note in found.notes:
        console.write(note)
    done = "deleted" if yes else "would be deleted, with --yes"
    size = sum(one.bytes for one in found.unused)
    console.write(
        f"{numbered(len(found.unused), 'artefact')} of {size:,} bytes {done}; "
        f"{numbered(found.kept, 'artefact')} kept"
    )
    if found.kept_by_settings:
        console.write("--set names the run with --set whose results stay, --no-sets keeps none")
    console.result(found.summary(deleted=yes))


LOOKING = (check, init, rm)
"""The commands, which :mod:`penstock.jobs.cli` adds to its group."""
