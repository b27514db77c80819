"""The command line: one command a job; exit status 0 done, 1 failed, 2 bad input."""

from __future__ import annotations

import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import penstock
from penstock import extras
from penstock.display import terminal_text
from penstock.errors import PenstockError, RecipeError, SelectorError, UnmadeError, did_you_mean
from penstock.jobs.browse_commands import SERVING
from penstock.jobs.document_commands import DOCUMENTS
from penstock.jobs.job_commands import INTERRUPTED, JOBS
from penstock.jobs.looking_commands import LOOKING
from penstock.jobs.options import on_console as _on_console
from penstock.jobs.options import on_recipe as _on_recipe
from penstock.jobs.options import on_runner as _on_runner
from penstock.jobs.options import on_trust as _on_trust
from penstock.jobs.options import with_recipe
from penstock.jobs.os_errors import os_error_text
from penstock.jobs.terminal import prepare_streams, write_error, write_line
from penstock.panics import is_panic, panic_reason
from penstock.recipe import Recipe

if TYPE_CHECKING:  # commands import what they use: starting takes 0.3 s less
    from penstock.jobs.comparison.results import Comparison
    from penstock.jobs.console import Console
    from penstock.trainers.spec import RunResult

__all__ = ["main"]


_INTERRUPTED = "interrupted; run the same command to continue"


class CommandGroup(click.Group):
    """Commands whose errors become a line on stderr and an exit status."""

    def invoke(self, context: click.Context) -> Any:
        prepare_streams()
        try:
            with extras.named():
                return super().invoke(context)
        except PenstockError as error:
            write_error(f"penstock: {error}")
            context.exit(error.exit_status)
        except OSError as error:
            write_error(f"penstock: {os_error_text(error)}")
            context.exit(1)
        except click.ClickException as error:  # a shell may have put names of files in place of *
            error.message = terminal_text(error.message)  # type: ignore[misc]
            raise
        except click.exceptions.Exit:
            raise
        except (KeyboardInterrupt, click.Abort):  # Abort: at a question
            write_line("", sys.stderr)
            write_error(f"penstock: {INTERRUPTED.get(context.invoked_subcommand, _INTERRUPTED)}")
            context.exit(130)
        except Exception:  # a fault of ours, whose message may quote the input
            write_error(traceback.format_exc().rstrip("\n"))
            context.exit(1)
        except BaseException as error:
            if not is_panic(error):
                raise
            write_error(f"penstock: a library panicked ({panic_reason(error)})")
            context.exit(1)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(penstock.__version__, prog_name="penstock")
def main() -> None:
    """Decide which documents a language model is trained on, and prove that it paid."""


_UNDER = {"rewriter": " (under rewrite)", "reweighter": " (under train.reweight)"}


@main.command()
@_on_recipe
@_on_runner
@_on_trust
@click.option(
    "--rescore",
    multiple=True,
    metavar="NAME",
    help="First delete what this selector, rule or rewriter made, and all made of that.",
)
def curate(recipe: Recipe, console: Console, **running: Any) -> None:
    """Make shards of raw text: score, cut to the budget, tokenise, pack."""
    curated = penstock.curate(recipe, progress=console.progress, **running)
    console.curated(curated)
    console.result(curated.summary())


@main.command()
@_on_recipe
@_on_runner
@click.option(
    "--examples",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Documents on either side of each threshold.",
)
def clean(recipe: Recipe, console: Console, examples: int, **running: Any) -> None:
    """Judge the documents by the rules and show what each excludes; score and cut nothing."""
    cleaned = penstock.clean(recipe, examples=examples, progress=console.progress, **running)
    console.cleaned(cleaned)
    console.result(cleaned.summary())


@main.command()
@_on_recipe
@_on_runner
@click.option("--column", metavar="NAME", required=True, help="The scorer, as under select.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Documents, about.",
)
def score(
    recipe: Recipe, console: Console, column: str, sample: int, runner: str, workers: int | None
) -> None:
    """Run one scorer on a sample in this process: scores, extremes, time; breakpoint() works."""
    from penstock.jobs.plan import Plan
    from penstock.jobs.score import score as run
    from penstock.pipeline.runner import open_runner

    with closing(open_runner(runner, workers)) as opened:
        scored = run(Plan.of(recipe), column, opened, console.progress, sample)
    for line in scored.lines():
        console.write(line)
    console.result(scored.summary())


_FORMATS = ("parquet", "jsonl", "datasets", "megatron", "mds", "numpy")


@main.command()
@_on_recipe
@_on_runner
@click.option("--to", type=click.Choice(_FORMATS), required=True, help="The format.")
@click.option(
    "--out",
    metavar="DIR",
    help="An empty directory or URI. [default: a directory of the work directory]",
)
@click.option("--overwrite", is_flag=True, help="Delete another export in --out; nothing else.")
def export(recipe: Recipe, console: Console, to: str, out: str | None, **running: Any) -> None:
    """Write the curated documents or sequences for other trainers and libraries."""
    exported = penstock.export(recipe, to, out, progress=console.progress, **running)
    console.exported(exported)
    console.result(exported.summary())


@main.command()
@_on_recipe
@_on_runner
@_on_trust
def train(recipe: Recipe, console: Console, **running: Any) -> None:
    """Train on the curated shards, curating first what is missing."""
    result: RunResult = console.follow(penstock.train, recipe, **running)
    console.trained(result)
    console.result(result.summary())


@main.command()
@_on_recipe
@_on_runner
@_on_trust
def compare(recipe: Recipe, console: Console, **running: Any) -> None:
    """Train the arms at equal tokens and show whether the selection paid."""
    comparison: Comparison = console.follow(penstock.compare, recipe, **running)
    console.curated(comparison.selected, comparison.selected_arm)
    console.compared(comparison)
    console.written(comparison.files)
    console.result(comparison.summary())


@main.command()
@_on_recipe
@_on_runner
def report(recipe: Recipe, console: Console, runner: str, workers: int | None) -> None:
    """Write a page of HTML on a curated dataset: counts, sources, documents, proof."""
    from penstock.jobs.curate import Curated, PartiallyCurated, inspect
    from penstock.jobs.plan import as_compared
    from penstock.jobs.report.page import has_comparison, write_report
    from penstock.pipeline.checking import check_files
    from penstock.pipeline.runner import open_runner

    with closing(open_runner(runner, workers)) as opened:
        curated, compared = inspect(recipe, opened), inspect(as_compared(recipe), opened)
        if isinstance(compared, Curated) and has_comparison(compared):
            curated = compared
        if isinstance(curated, PartiallyCurated):
            raise curated.lacks
        check_files(curated.shards, opened)
    path = write_report(curated)
    console.curated(curated)
    console.excerpts(curated)
    console.text(f"report  {path}")
    console.result({"report": str(path)})


_MOST = 10
"""Documents that ``why --text`` shows."""


@main.command()
@_on_recipe
@_on_runner
@click.argument("doc_id", required=False)
@click.option("--text", help="Find documents that contain this text instead, the first ten.")
@click.option("--rules", "all_rules", is_flag=True, help="Show the rules that it passes, too.")
def why(
    recipe: Recipe,
    console: Console,
    runner: str,
    workers: int | None,
    doc_id: str | None,
    text: str | None,
    all_rules: bool,
) -> None:
    """Show what happened to one document: values of rules, scores, rank, sequences and shards.

    DOC_ID is its id, also as it is printed, the path of a file that is one document, or PATH:17,
    a line or row of another.
    """
    from penstock.jobs.curate import PartiallyCurated, inspect
    from penstock.jobs.reasons import add_reasons, changed_code
    from penstock.jobs.training_losses import add_training_losses
    from penstock.jobs.why import fates_of, fates_with
    from penstock.pipeline.runner import open_runner

    if bool(doc_id) == bool(text):
        raise click.UsageError("expected DOC_ID or --text TEXT, one of them")
    with closing(open_runner(runner, workers)) as opened:
        curated = inspect(recipe, opened)
    found = fates_with(curated, text, _MOST + 1) if text else fates_of(curated, str(doc_id))
    fates, more = (found[:_MOST], len(found) > _MOST) if text else (found, False)
    add_reasons(curated, fates)
    add_training_losses(curated, fates)
    for fate in fates:
        if lost := fate.get("not_kept"):
            lost["fix"] = with_recipe(UnmadeError("deleted", fix=lost["fix"])).fix
        console.fate(fate, all_rules)
    unmade = None
    if isinstance(curated, PartiallyCurated):
        unmade = str(with_recipe(curated.lacks))
        if any(fate["fate"] == "kept" for fate in fates):
            for line in (*(own for own in changed_code(curated) if own not in unmade), unmade):
                console.write(line)
    if more:
        console.write(f"more documents contain it: {_MOST} are shown; give more of its words")
    console.result({"fates": fates, "more": more, "unmade": unmade})


def _recipes_words(recipes: list[str]) -> str:
    """Return the name of the recipe that used an artefact last, and how many others did."""
    more = f" and {len(recipes) - 1:,} more" if len(recipes) > 1 else ""
    return f"{Path(recipes[0]).name}{more}" if recipes else ""


@main.command()
@click.argument("work")
@_on_console
def ls(work: str, console: Console) -> None:
    """List the artefacts of WORK, a work directory or a recipe, and whether files are there."""
    from penstock.jobs.listing import list_artefacts

    rows = list_artefacts(work)
    console.table(
        ("artefact", "state", "files", "bytes", "name", "last used (UTC)", "recipe"),
        [
            (
                f"{row['stage']}/{row['fingerprint'][:16]}",
                row["state"],
                str(row["files"]),
                f"{row['bytes']:,}",
                row["name"],
                (row["last_used"] or "")[:19],
                _recipes_words(row["recipes"]),
            )
            for row in rows
        ],
        fits=True,
    )
    for row in rows:
        if "fault" in row:
            console.write(row["fault"])
        elif "fix" in row:
            console.write(f"{row['stage']}/{row['fingerprint'][:16]} is unfinished: {row['fix']}")
    console.result({"artefacts": rows})


@main.command()
@click.argument("name", required=False)
@_on_console
def selectors(name: str | None, console: Console) -> None:
    """List the selectors and rewriters of recipes; with a NAME or module:Class, describe it."""
    import inspect
    from dataclasses import asdict

    from penstock.examined_source import defined_names
    from penstock.opening import read_plain
    from penstock.selectors.registry import available, own_plug_in

    known = [own_plug_in(name, [Path.cwd()])] if name and ":" in name else available()
    rows = [asdict(item) for item in known if name in (None, item.name)]
    if not rows:
        names = [item.name for item in known]
        file = Path(str(name)).with_suffix(".py")
        if file.is_file() and (own := defined_names(read_plain(file))):
            listed = ", ".join(f"{file.stem}:{one}" for one in own[:5])
            raise SelectorError(f"{name}: no such selector", fix=f"{file} has {listed}")
        raise SelectorError(f"{name}: no such selector{did_you_mean(str(name), names)}")
    for row in rows:
        row["parameters"] = {
            key: "required" if value is inspect.Parameter.empty else value
            for key, value in row["parameters"].items()
        }
        summary = row["summary"] or "no docstring"
        console.write(f"{row['name']}{_UNDER.get(row['kind'], '')}: {summary}")
        if row["paper"]:
            console.write(f"    {row['paper']}")
        for key, value in row["parameters"].items():
            about = [row["types"].get(key), "a path" if key in row["paths"] else None]
            kind = ", ".join(filter(None, about))
            console.write(f"    {key}{f' ({kind})' if kind else ''}: {value}")
        if name is not None:
            console.text(row["doc"].removeprefix(row["summary"]).lstrip("\n"))
    console.result({"selectors": rows})


@main.command()
@click.argument("name", required=False)
@_on_console
def rules(name: str | None, console: Console) -> None:
    """List the sets of clean.rules and what clean.where can name; with a NAME, a set's rules."""
    from penstock.personal_data import KINDS
    from penstock.rules import FIELDS, built_in

    known = built_in()
    if name is not None and name not in known:
        raise RecipeError(f"{name}: no such set of rules{did_you_mean(name, known)}")
    rows: list[dict[str, Any]] = []
    for own in [known[name]] if name is not None else known.values():
        fields = own.model_fields
        listed = [
            {
                "rule": rule.name,
                "limit": rule.limit,
                "threshold": fields[rule.name].default,
                "description": fields[rule.name].description,
                "source": rule.source,
            }
            for rule in own.rules
        ]
        rows.append({"name": own.name, "summary": own.summary, "rules": listed})
        console.write(f"{own.name}: {own.summary}")
        for rule in listed if name is not None else ():
            console.write(f"    {rule['rule']}: {rule['threshold']}  {rule['description']}")
    if name is None:
        console.text("A condition (clean.where) can name:")
        for column, field in FIELDS.items():
            console.write(f"    {column}: {field.definition} ({field.unit})")
        others = ("language", "language_probability", *KINDS, "id", "source", "bytes", "meta.FIELD")
        console.write(f"    {', '.join(others)}")
    console.result({"rules": rows})


@main.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Where its text, recipe and results go.",
)
@_on_console
@_on_runner
@_on_trust
def demo(directory: Path, console: Console, **running: Any) -> None:
    """Compare selection with random on text of this machine: Python packages and their docs."""
    from penstock.jobs.demo.gather import DURATION, prepare

    console.progress(DURATION)
    recipe_path = prepare(directory, console.progress)
    comparison: Comparison = console.follow(penstock.compare, recipe_path, **running)
    console.curated(comparison.selected, comparison.selected_arm)
    console.compared(comparison)
    console.excerpts(comparison.selected)
    console.write()
    console.written([recipe_path, comparison.selected.shards.path, *comparison.files])
    console.write()
    for target in comparison.judged:
        console.write(comparison.conclusion(target))
    for page in comparison.files:
        if page.suffix == ".html":
            console.write(
                "To see how, with every error and what so small a proof does not show, open"
            )
            console.write(f"  {page}")
    console.result(comparison.summary())


for _command in (*LOOKING, *DOCUMENTS, *JOBS, *SERVING):
    main.add_command(_command)
