"""Find the libraries and models that a recipe's parts need and that are not on this machine.

Nothing is imported for it: modules are looked for. Each part states its own needs, beside the code
that imports (:attr:`penstock.selectors.parameters.Declared.imports` and the marks of parameters
that name models).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial

from penstock.artefact import Workspace
from penstock.errors import BadInput, PenstockError
from penstock.extras import missing_module
from penstock.jobs.checking.findings import Finding
from penstock.jobs.train import training_modules
from penstock.pipeline.rewriting.answers import Rewrite
from penstock.pipeline.rewriting.edits import Edit
from penstock.pipeline.scoring.models import Column
from penstock.recipe import Recipe
from penstock.selectors.encoders.embedding import contents_of, encoder_needs
from penstock.selectors.parameters import Declared, ModelNeeds

__all__ = ["missing_libraries", "require_libraries"]


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
        yield from _of_column(recipe, column)
    for rewrite in rewrites:
        yield from _of_part(rewrite.rewriter, f"rewrite.{rewrite.name}")
        if isinstance(rewrite, Rewrite):
            yield from _of_part(rewrite.completions, f"rewrite.{rewrite.name}")
    if {"train", "compare"} & recipe.model_fields_set:
        modules = {"train": training_modules(recipe.train)}
        for one in _of_modules(missing_module(modules, "train"), optional=True):
            yield replace(one, text=f"{one.text}; `penstock curate` needs none of it")


def require_libraries(recipe: Recipe, columns: Iterable[Column]) -> None:
    """Check that the libraries of all columns that are not made are installed; imports nothing.

    Args:
        recipe: The recipe.
        columns: Its selectors.

    Raises:
        BadInput: One is not installed; key ``select.<name>.use``, ``fix`` names the extra.
    """
    for column in columns:
        made = cache(partial(_is_made, recipe, column))
        for error in _errors_of_column(recipe, column):
            if not made():
                raise error


def _of_column(recipe: Recipe, column: Column) -> Iterator[Finding]:
    made, key = cache(partial(_is_made, recipe, column)), f"select.{column.name}"
    for error in _errors_of_column(recipe, column):
        yield from _of_modules(error, made())
    asked = column.selector.requirements
    for part in (column.selector, asked.answers and asked.answers.completions):
        yield from _models_of_part(part, key, made)
    if (needs := _needs_of_sets(recipe, column)) and needs.fetched is not None:
        yield _fetched(key, needs.fetched, needs.fix, made())


def _errors_of_column(recipe: Recipe, column: Column) -> Iterator[BadInput]:
    """Yield an error for each part of a column that lacks a module."""
    key, asked = f"select.{column.name}.use", column.selector.requirements
    every = [needs.modules for _, needs in _needs_of_part(column.selector)]
    if sets := _needs_of_sets(recipe, column):
        every.append(sets.modules)
    if asked.model_ladder is not None or asked.cluster_weights is not None:
        every.append({"train": training_modules(recipe.train)})
    if asked.answers is not None:
        every += [needs.modules for _, needs in _needs_of_part(asked.answers.completions)]
    for modules in every:
        if error := missing_module(modules, key):
            yield error


def _needs_of_part(part: object) -> Iterator[tuple[str, ModelNeeds]]:
    """Yield the needs of a selector, rewriter or model; users' classes state none."""
    if isinstance(part, Declared):
        yield from part.installation_needs()


def _needs_of_sets(recipe: Recipe, column: Column) -> ModelNeeds | None:
    """Return the needs of the encoder whose vectors a user's class reads; None where it has them.

    A built-in selector states its encoder among its parameters.
    """
    selector = column.selector
    if isinstance(selector, Declared):
        return None
    embeddings = selector.requirements.embeddings
    if selector.kind != "set" and embeddings is None:
        return None
    name = selector.requirements.encoder if embeddings is None else embeddings.encoder
    return None if _is_embedded(recipe, name) else encoder_needs(name)


def _models_of_part(part: object, key: str, made: Callable[[], bool]) -> Iterator[Finding]:
    for parameter, needs in _needs_of_part(part):
        if needs.fetched is not None:
            yield _fetched(f"{key}.{parameter}", needs.fetched, needs.fix, made())


def _of_part(part: object, key: str) -> Iterator[Finding]:
    """Yield what a rewriter or a model of a recipe lacks."""
    for _, needs in _needs_of_part(part):
        yield from _of_modules(missing_module(needs.modules, f"{key}.use"), optional=False)
    yield from _models_of_part(part, key, lambda: False)


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
        own = column.selector.identity()
        algorithm = [own.get(key) for key in _NAMES]
        workspace = Workspace(recipe.work_directory, read_only=True)
        models = {
            one.fingerprint
            for one in workspace.finished("model")
            if [one.manifest["config"].get("identity", {}).get(key) for key in _NAMES] == algorithm
        }
        return any(
            one.manifest["config"] == {"selector": column.name}
            and one.manifest["inputs"].get("model") in models
            for one in workspace.finished("columns")
        )
    except (PenstockError, OSError):
        return False


_NAMES = ("algorithm", "class", "use")
"""Where the identity of a selector has its name: of a built-in one, a class, a function."""


def _is_embedded(recipe: Recipe, encoder: str) -> bool:
    """Return whether a pool was embedded in the work directory by the encoder of this name."""
    try:
        contents = contents_of(encoder)
        workspace = Workspace(recipe.work_directory, read_only=True)
        made = {
            one.fingerprint
            for one in workspace.finished("model")
            if one.manifest["config"].get("encoder") == contents
        }
        embedded = workspace.finished("embeddings")
        return any(one.manifest["inputs"].get("encoder") in made for one in embedded)
    except (PenstockError, OSError):
        return False
