"""Find the libraries and models that a recipe's parts need and that are not on this machine.

Nothing is imported for it: modules are looked for. Each part states its own needs, beside the code
that imports (:attr:`penstock.selectors.parameters.Declared.imports` and the marks of parameters
that name models).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from penstock.artefact import Workspace
from penstock.errors import BadInput, PenstockError
from penstock.extras import missing_module
from penstock.jobs.checking.findings import Finding
from penstock.jobs.train import training_modules
from penstock.pipeline.rewriting.answers import Rewrite
from penstock.pipeline.rewriting.edits import Edit
from penstock.pipeline.scoring.models import Column
from penstock.recipe import Recipe
from penstock.selectors.parameters import Declared

__all__ = ["missing_libraries"]


def missing_libraries(
    recipe: Recipe, columns: Iterable[Column], rewrites: Iterable[Rewrite | Edit]
) -> Iterator[Finding]:
    """Yield a finding for each library and model that is missing, with the words of the command.

    It is an error where the command would end with it; a warning where the column was made before,
    where a model is fetched from the hub, and of the extra ``train``, without which ``curate``
    works.

    Args:
        recipe: The recipe.
        columns: Its selectors.
        rewrites: Its rewriters.
    """
    for column in columns:
        made, key = _is_made(recipe, column), f"select.{column.name}"
        yield from _of_part(column.selector, key, made)
        asked = column.selector.requirements
        if asked.model_ladder is not None or asked.cluster_weights is not None:
            modules = {"train": training_modules(recipe.train)}
            yield from _of_modules(missing_module(modules, f"{key}.use"), made)
        if asked.answers is not None:
            yield from _of_part(asked.answers.completions, key, made)
    for rewrite in rewrites:
        yield from _of_part(rewrite.rewriter, f"rewrite.{rewrite.name}")
        if isinstance(rewrite, Rewrite):
            yield from _of_part(rewrite.completions, f"rewrite.{rewrite.name}")
    if {"train", "compare"} & recipe.model_fields_set:
        modules = {"train": training_modules(recipe.train)}
        for one in _of_modules(missing_module(modules, "train"), optional=True):
            yield replace(one, text=f"{one.text}; `penstock curate` needs none of it")


def _of_part(part: object, key: str, made: bool = False) -> Iterator[Finding]:
    """Yield what a selector, rewriter or model of a recipe lacks; users' classes state nothing."""
    if not isinstance(part, Declared):
        return
    for parameter, needs in part.installation_needs():
        yield from _of_modules(missing_module(needs.modules, f"{key}.use"), made)
        if needs.fetched is not None:
            yield _fetched(f"{key}.{parameter}", needs.fetched, needs.fix, made)


def _of_modules(error: BadInput | None, optional: bool) -> Iterator[Finding]:
    if error is not None:
        yield Finding(
            level="warning" if optional else "error",
            kind="missing_library",
            key=error.key,
            text=str(error),
        )


def _fetched(key: str, model: str, fix: str, made: bool) -> Finding:
    """Make the finding of a model that is on no disk of this machine."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    where = "fetched from the hub when it is first used"
    if HF_HUB_OFFLINE:
        where = "HF_HUB_OFFLINE forbids to fetch it from the hub"
    return Finding(
        level="error" if HF_HUB_OFFLINE and not made else "warning",
        kind="missing_model",
        key=key,
        text=f"{key}: the model {model} is not on this machine: {where}; {fix}, to need no network",
    )


def _is_made(recipe: Recipe, column: Column) -> bool:
    """Return whether a column of this name was made in the work directory, by this algorithm."""
    try:
        algorithm = column.selector.identity().get("algorithm")
        workspace = Workspace(recipe.work_directory, read_only=True)
        models = {
            one.fingerprint
            for one in workspace.finished("model")
            if one.manifest["config"].get("identity", {}).get("algorithm") == algorithm
        }
        return any(
            one.manifest["config"] == {"selector": column.name}
            and one.manifest["inputs"].get("model") in models
            for one in workspace.finished("columns")
        )
    except (PenstockError, OSError):
        return False
