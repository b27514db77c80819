"""The command line: one command a job; exit status 0 done, 1 failed, 2 bad input."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import penstock
from penstock import extras
from penstock.errors import PenstockError, SelectorError, did_you_mean
from penstock.recipe import Recipe
from penstock.recipe_file import load_recipe

if TYPE_CHECKING:  # commands import what they use: starting takes 0.3 s less
    from penstock.jobs.compare import Comparison
    from penstock.jobs.console import Console

__all__ = ["main"]

Command = Callable[..., Any]


class CommandGroup(click.Group):
    """Commands whose errors become a line on stderr and an exit status."""

    def invoke(self, context: click.Context) -> Any:
        try:
            with extras.named():
                return super().invoke(context)
        except PenstockError as error:
            print(f"penstock: {error}", file=sys.stderr)
            context.exit(error.exit_status)
        except OSError as error:
            print(f"penstock: {error}", file=sys.stderr)
            context.exit(1)
        except KeyboardInterrupt:
            print("\npenstock: interrupted; run the same command to continue", file=sys.stderr)
            context.exit(130)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(penstock.__version__, prog_name="penstock")
def main() -> None:
    """Decide which documents a language model is trained on, and prove that it paid."""
    # A scorer in a file of the user's is imported from the current directory.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def _alone_on_stdout(context: click.Context, _: click.Parameter, as_json: bool) -> bool:
    """With --json, send to stderr what scorers and libraries print: Ray reports lost nodes, also
    after the command is done."""
    if as_json:
        context.meta[_OUT] = sys.stdout
        sys.stdout = sys.stderr
    return as_json


_OUT = "penstock.stdout"

_UNDER = {"rewriter": " (under rewrite)", "reweighter": " (under train.reweight)"}

_json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_alone_on_stdout,
    help="One JSON object as the last line.",
)


def _on_recipe(command: Command) -> Command:
    """Give a command the argument RECIPE and the options --set and --json."""

    @click.argument("recipe", type=click.Path(path_type=Path))
    @click.option(
        "--set", "settings", multiple=True, metavar="KEY.PATH=VALUE", help="Override a key."
    )
    @_json_option
    @functools.wraps(command)
    def wrapped(recipe: Path, settings: tuple[str, ...], **options: Any) -> Any:
        return command(recipe=load_recipe(recipe, settings), **options)

    return wrapped


def _on_runner(command: Command) -> Command:
    """Give a command that does work the options --runner and --workers."""

    @click.option(
        "--runner",
        "kind",
        type=click.Choice(["auto", "local", "ray"]),
        default="auto",
        show_default=True,
        help="auto: Ray where RAY_ADDRESS is set, else processes on this machine.",
    )
    @click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Processes, or CPUs of a Ray started here. [default: all CPUs]",
    )
    @functools.wraps(command)
    def wrapped(kind: str, workers: int | None, **options: Any) -> Any:
        from penstock.pipeline.runner import open_runner

        with closing(open_runner(kind, workers)) as runner:
            return command(runner=runner, **options)

    return wrapped


def _print_json(value: Any) -> None:
    out = click.get_current_context().meta[_OUT]
    click.echo(json.dumps(value, ensure_ascii=False), file=out)


def _console(as_json: bool) -> Console:
    from penstock.jobs.console import Console

    return Console(quiet=as_json)


@main.command()
@_on_recipe
@_on_runner
def curate(recipe: Recipe, runner: Any, as_json: bool) -> None:
    """Make shards of raw text: score, cut to the budget, tokenise, pack."""
    console = _console(as_json)
    curated = penstock.curate(recipe, runner=runner, progress=console.progress)
    console.curated(curated)
    if as_json:
        _print_json(curated.summary())


@main.command()
@_on_recipe
@_on_runner
def train(recipe: Recipe, runner: Any, as_json: bool) -> None:
    """Train on the curated shards, curating first what is missing."""
    console = _console(as_json)
    with console.training() as on_metrics:
        result = penstock.train(
            recipe, runner=runner, progress=console.progress, on_metrics=on_metrics
        )
    console.trained(result)
    if as_json:
        _print_json(
            {
                "run": str(result.path),
                "tokens": result.tokens,
                "loss": result.loss,
                "epochs": result.epochs,
                "repeated_tokens": result.repeated_tokens,
                "bits_per_byte": {
                    name: values["mean"] for name, values in result.bits_per_byte.items()
                },
                "accuracy": result.accuracy,
            }
        )


@main.command()
@_on_recipe
@_on_runner
def compare(recipe: Recipe, runner: Any, as_json: bool) -> None:
    """Train the arms at equal tokens and show whether the selection paid."""
    console = _console(as_json)
    comparison = _compared(recipe, runner, console)
    for file in comparison.files:
        console.write(f"written  {file}")
    if as_json:
        _print_json(comparison.summary())


def _compared(recipe: Recipe, runner: Any, console: Console) -> Comparison:
    """Run a comparison and print it."""
    with console.training() as on_metrics:
        comparison = penstock.compare(
            recipe, runner=runner, progress=console.progress, on_metrics=on_metrics
        )
    console.curated(comparison.selected)
    console.compared(comparison)
    return comparison


@main.command()
@_on_recipe
@_on_runner
def report(recipe: Recipe, runner: Any, as_json: bool) -> None:
    """Write a page of HTML on a curated dataset: counts, sources, documents, proof."""
    from penstock.jobs.arms import as_compared
    from penstock.jobs.curate import Curated, PartiallyCurated, inspect
    from penstock.jobs.report import has_comparison, write_report
    from penstock.pipeline.checking import check_files

    console = _console(as_json)
    curated, compared = inspect(recipe, runner), inspect(as_compared(recipe), runner)
    if isinstance(compared, Curated) and has_comparison(compared):
        curated = compared
    if isinstance(curated, PartiallyCurated):
        raise curated.lacks
    check_files(curated.shards, runner)
    path = write_report(curated)
    console.curated(curated)
    console.excerpts(curated)
    console.write(f"\nreport  {path}")
    if as_json:
        _print_json({"report": str(path)})


@main.command()
@_on_recipe
@_on_runner
@click.argument("doc_id")
def why(recipe: Recipe, runner: Any, doc_id: str, as_json: bool) -> None:
    """Show what happened to one document: its scores, its rank, its sequences and shards."""
    from penstock.jobs.curate import PartiallyCurated, inspect
    from penstock.jobs.why import fates_of

    console = _console(as_json)
    curated = inspect(recipe, runner)
    fates = fates_of(curated, doc_id)
    for fate in fates:
        console.fate(fate)
    if as_json:
        _print_json({"fates": fates})
    if isinstance(curated, PartiallyCurated) and any(fate["fate"] == "kept" for fate in fates):
        raise curated.lacks


@main.command()
@click.argument("work")
@_json_option
def ls(work: str, as_json: bool) -> None:
    """List the artefacts of a work directory, and whether their files are there."""
    from penstock.jobs.listing import list_artefacts

    rows = list_artefacts(work)
    console = _console(as_json)
    console.table(
        ("artefact", "state", "files", "bytes"),
        [
            (
                f"{row['stage']}/{row['fingerprint'][:16]}",
                row["state"],
                str(row["files"]),
                f"{row['bytes']:,}",
            )
            for row in rows
        ],
    )
    for row in rows:
        if "fault" in row:
            console.write(row["fault"])
    if as_json:
        _print_json({"artefacts": rows})


@main.command()
@click.argument("name", required=False)
@_json_option
def selectors(name: str | None, as_json: bool) -> None:
    """List the selectors and rewriters of recipes; with a NAME, describe its parameters."""
    import inspect
    from dataclasses import asdict

    from penstock.selectors.registry import available

    console = _console(as_json)
    found = available()
    if name is not None:
        known = [item.name for item in found]
        if name not in known:
            raise SelectorError(f"{name}: no such selector{did_you_mean(name, known)}")
        found = [item for item in found if item.name == name]
    rows = [asdict(item) for item in found]
    for row in rows:
        row["parameters"] = {
            key: "required" if value is inspect.Parameter.empty else value
            for key, value in row["parameters"].items()
        }
        under = _UNDER.get(row["kind"], "")
        console.write(f"{row['name']}{under}: {row['summary']}")
        if row["paper"]:
            console.write(f"    {row['paper']}")
        for key, value in row["parameters"].items():
            console.write(f"    {key}: {value}")
        if name is not None:
            console.write(f"\n{row['doc']}")
    if as_json:
        _print_json({"selectors": rows})


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--address", required=True, help="The job server, as http://127.0.0.1:8265.")
@click.option(
    "--job",
    type=click.Choice(["curate", "train", "compare"]),
    default="curate",
    show_default=True,
)
@click.option("--set", "settings", multiple=True, metavar="KEY.PATH=VALUE", help="Override a key.")
@click.option("--id", "submission_id", help="Names the job; the same name is never run twice.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the job is accepted.")
@click.option("--json", "as_json", is_flag=True, help="The job's JSON is the last line as it is.")
def submit(
    recipe: Path,
    address: str,
    job: str,
    settings: tuple[str, ...],
    submission_id: str | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Run a command on a Ray cluster, follow its log, exit with its status."""
    from penstock.jobs.submit import submit as run

    status = run(
        recipe,
        job,
        address,
        settings=settings,
        submission_id=submission_id,
        follow=not no_wait,
        on_line=click.echo,
        progress=lambda line: click.echo(line, err=True),
    )
    sys.exit(status)


@main.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Where its text, recipe and results go.",
)
@_json_option
@_on_runner
def demo(runner: Any, directory: Path, as_json: bool) -> None:
    """Compare selection with random on text of this machine: Python packages and their docs."""
    from penstock.jobs.demo.prepare import prepare

    console = _console(as_json)
    recipe_path = prepare(directory, console.progress)
    comparison = _compared(load_recipe(recipe_path), runner, console)
    console.excerpts(comparison.selected)
    console.write("")
    for file in (recipe_path, comparison.selected.shards.path, *comparison.files):
        console.write(f"written  {file}")
    if as_json:
        _print_json(comparison.summary())
