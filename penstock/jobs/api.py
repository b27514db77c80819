"""The functions of the front door: ``penstock.curate``, ``train``, ``compare`` and ``open``.

Each takes a recipe or the path of its file, raises Penstock's errors, and leaves no setting of the
process behind; results print their main numbers, as a table in a notebook.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from penstock import extras
from penstock.artefact import Artefact, Workspace
from penstock.artefact.journal import named
from penstock.errors import InputError
from penstock.jobs import curate as curating
from penstock.jobs.curate import Curated, PartiallyCurated, Progress
from penstock.jobs.plan import Plan
from penstock.jobs.progress import follow_in_log
from penstock.pipeline.runner import Runner, open_runner
from penstock.recipe import Recipe
from penstock.recipe_file import command_words, load_recipe, naming
from penstock.storage import as_path, is_uri
from penstock.trainers.checkpoints.signing import trusting

if TYPE_CHECKING:  # they need the extra `train`, but for the first
    from penstock.jobs.clean import Cleaned
    from penstock.jobs.comparison.results import Comparison
    from penstock.jobs.export import Exported
    from penstock.trainers.spec import OnMetrics, RunResult

__all__ = ["clean", "compare", "curate", "export", "open", "train"]

RecipeLike: TypeAlias = Recipe | str | Path
"""A recipe, or the path of its file."""

RunnerLike: TypeAlias = Runner | str
"""``local``, ``ray``, ``auto`` (Ray where ``RAY_ADDRESS`` is set, else local), or a runner that the
caller closes."""


def _ignore(line: str) -> None:
    """Ignore progress: the default callback."""


def curate(
    recipe: RecipeLike,
    *,
    settings: Sequence[str] = (),
    runner: RunnerLike = "auto",
    workers: int | None = None,
    trust: Sequence[str | Path] = (),
    progress: Progress = _ignore,
    rescore: Sequence[str] = (),
) -> Curated:
    """Make everything from the corpus to the shards of a recipe; what exists is not made again.

    Args:
        recipe: A recipe, or the path of its file.
        settings: ``key.path=value`` overrides of a recipe's file.
        runner: ``local``, ``ray``, ``auto``, or a runner of the caller's.
        workers: Processes of a local runner, or CPUs of a Ray started here; all CPUs by default.
        trust: Directories whose checkpoints are read though this user did not sign them: those
            who can write there can run code.
        progress: Called with a line for each event.
        rescore: Selectors, rules of one's own and rewriters whose results are deleted first, with
            their models and all that was made of them, to be made again; each a name, or one with
            its section, as ``clean.rules.mine``.

    Raises:
        BadInput: The recipe or something that it names cannot be used.
        Failure: The work did not succeed; what was finished is kept.
    """
    label, recipe = _label(recipe), _recipe(recipe, settings)
    with named(label, settings), _running(runner, workers, trust) as (opened, free):
        return curating.curate(recipe, opened, progress, free, rescore=rescore)


def clean(
    recipe: RecipeLike,
    *,
    settings: Sequence[str] = (),
    runner: RunnerLike = "auto",
    workers: int | None = None,
    progress: Progress = _ignore,
    examples: int = 2,
) -> Cleaned:
    """Judge the documents of a recipe by its rules: a dry run that scores and cuts nothing.

    Args:
        recipe, settings, runner, workers, progress: As of :func:`curate`.
        examples: Documents on either side of each threshold.

    Raises:
        BadInput: As :func:`curate`.
        Failure: The work did not succeed; what was finished is kept.
    """
    from penstock.jobs import clean as cleaning

    label, recipe = _label(recipe), _recipe(recipe, settings)
    with named(label, settings), _running(runner, workers) as (opened, _):
        return cleaning.clean(Plan.of(recipe), opened, progress, examples)


def train(
    recipe: RecipeLike,
    *,
    settings: Sequence[str] = (),
    runner: RunnerLike = "auto",
    workers: int | None = None,
    trust: Sequence[str | Path] = (),
    progress: Progress = _ignore,
    on_metrics: OnMetrics | None = None,
) -> RunResult:
    """Train a model on a recipe's shards; curate first if they are missing.

    Args:
        recipe, settings, runner, workers, trust, progress: As of :func:`curate`.
        on_metrics: Called with the run and each line of its ``metrics.jsonl``; by default
            ``progress`` gets a line every 15 seconds.

    Raises:
        BadInput: As :func:`curate`; the extra ``train`` is not installed.
        Failure: The work did not succeed; what was finished is kept.
    """
    label, recipe = _label(recipe), _recipe(recipe, settings)
    with extras.named("train", "train"), named(label, settings):
        from penstock.jobs.parent_run import with_parent
        from penstock.jobs.train import check_training, read_evaluations, run_spec
        from penstock.trainers.run import device_words, train_all

        plan = Plan.of(recipe)
        check_training(recipe.train)
        evaluations = read_evaluations(plan.evaluate)
        with _running(runner, workers, trust) as (opened, free), ExitStack() as stack:
            plan = with_parent(plan, opened)
            for line in plan.train.code_lines():
                progress(line)
            curated = curating.curate(plan, opened, progress, free)
            free()  # the training's workers need its CPUs and memory
            where = device_words(plan.train.train)
            progress(f"train: {where}; starting the workers, which import PyTorch")
            on_metrics = on_metrics or stack.enter_context(follow_in_log(progress))
            workspace = stack.enter_context(Workspace.driving(plan.work))
            spec = run_spec(plan.train, curated.shards.path, evaluations)
            (result,) = train_all([spec], workspace, on_metrics=on_metrics)
    return result


def compare(
    recipe: RecipeLike,
    *,
    settings: Sequence[str] = (),
    runner: RunnerLike = "auto",
    workers: int | None = None,
    trust: Sequence[str | Path] = (),
    progress: Progress = _ignore,
    on_metrics: OnMetrics | None = None,
) -> Comparison:
    """Train the arms of a recipe at equal tokens, and write the summary, the plot and the report.

    Args:
        recipe, settings, runner, workers, trust, progress, on_metrics: As of
            :func:`train`.

    Raises:
        BadInput: As :func:`train`; there is nothing to evaluate on, or an arm is wrong.
        Failure: The work did not succeed; what was finished is kept.
    """
    label, recipe = _label(recipe), _recipe(recipe, settings)
    with extras.named("train", "compare"), named(label, settings):
        from penstock.jobs.compare import compare as run
        from penstock.jobs.report.page import write_comparison

        with _running(runner, workers, trust) as (opened, free), ExitStack() as stack:
            on_metrics = on_metrics or stack.enter_context(follow_in_log(progress))
            comparison = run(recipe, opened, progress, on_metrics, free)
        return replace(comparison, files=tuple(write_comparison(comparison)))


def export(
    recipe: RecipeLike,
    to: str,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    settings: Sequence[str] = (),
    runner: RunnerLike = "auto",
    workers: int | None = None,
    progress: Progress = _ignore,
) -> Exported:
    """Write what a recipe's cut takes in a format of other trainers and libraries.

    Args:
        recipe: A recipe, or the path of its file; its shards are made.
        to: ``parquet``, ``jsonl``, ``datasets``, ``megatron``, ``mds`` or ``numpy``.
        out: A directory or URI, empty or with an unfinished export of the same; by default an
            artefact of the work directory.
        overwrite: Whether another export in ``out`` is deleted first; nothing else is.
        settings, runner, workers, progress: As of :func:`curate`.

    Raises:
        BadInput: As :func:`curate`; there is no such format, or ``out`` has something else.
        UnmadeError: The shards are not made yet.
        Failure: The work did not succeed; what was finished is kept.
    """
    from penstock.jobs.export import export as run

    file, recipe = _file(recipe), _recipe(recipe, settings)
    with naming(file, settings), _running(runner, workers) as (opened, _):
        curated = curating.inspect(recipe, opened)
        if isinstance(curated, PartiallyCurated):
            raise curated.lacks
        where = None if out is None else str(out)
        return run(curated, to, where, opened, progress, overwrite)


def open(
    what: RecipeLike, *, settings: Sequence[str] = ()
) -> Curated | PartiallyCurated | RunResult | Artefact:
    """Open existing results: those of a recipe, or the artefact in a directory; write nothing.

    Args:
        what: A recipe, the path of its file, or the directory or URI of an artefact.
        settings: ``key.path=value`` overrides of a recipe's file.

    Returns:
        Of a recipe everything from its corpus to its shards, as far as it is made; of a run's
        directory its result; of another artefact's directory the artefact.

    Raises:
        BadInput: There is no such file or directory, or the recipe cannot be used.
        UnmadeError: Not even the corpus of the recipe is made.
        ArtefactError: The directory's manifest cannot be read.
    """
    if not isinstance(what, Recipe) and (is_uri(str(what)) or Path(what).is_dir()):
        path = as_path(str(what))
        if not (path / "manifest.json").exists():
            raise InputError(
                file=path, expected="a recipe's file, or an artefact's directory with a manifest"
            )
        artefact = Artefact.open(path)
        if artefact.manifest["stage"] != "run":
            return artefact
        with extras.named("train", "open"):
            from penstock.trainers.spec import RunResult
        return RunResult.of(artefact)
    file = _file(what)
    with naming(file, settings), closing(open_runner("local", 1)) as runner:
        found = curating.inspect(_recipe(what, settings), runner)
    if isinstance(found, PartiallyCurated):
        found.lacks.on_recipe(None if file is None else command_words(file, settings))
    return found


def _file(recipe: RecipeLike) -> str | Path | None:
    """Return a recipe's file as it was given; None of a recipe without one."""
    return None if isinstance(recipe, Recipe) else recipe


def _label(recipe: RecipeLike) -> str | None:
    """Return the name of a recipe's file for the journal; None of a recipe without one."""
    return None if isinstance(recipe, Recipe) else os.path.abspath(recipe)


def _recipe(recipe: RecipeLike, settings: Sequence[str]) -> Recipe:
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, settings)
    if settings:
        raise InputError("settings: expected none beside a recipe; use load_recipe(path, settings)")
    return recipe


@contextmanager
def _running(
    runner: RunnerLike, workers: int | None, trust: Sequence[str | Path] = ()
) -> Iterator[tuple[Runner, Callable[[], None]]]:
    """Open the runner of this name, and close it at the end; a runner of the caller's stays open.

    Yields:
        The runner, and a function that stops its workers for a while, if they are not the caller's.
    """
    with trusting(trust):
        if isinstance(runner, str):
            with closing(open_runner(runner, workers)) as opened:
                yield opened, opened.close
        else:
            yield runner, lambda: None
