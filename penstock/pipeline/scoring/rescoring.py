"""Scoring anew: a column is deleted with its model and all that was made of them.

Two contents never have one name. So what is named by a deleted artefact's fingerprint goes, too:
other columns of the model, columns that depend on one of them, cuts and shards. Runs stay: their
names have the digest of the shards' bytes, so that a run is found again only for equal shards.
Answers of language models stay, too: they are named by the prompts.

The inputs of an unfinished artefact are not stored. Those of columns, cuts and shards are deleted,
but for columns of this recipe that depend on none of the deleted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from penstock.artefact import Artefact, Workspace
from penstock.display import numbered
from penstock.errors import SelectorError, did_you_mean
from penstock.pipeline.scoring.models import Column, Models

__all__ = ["check_rescored", "delete_made", "forget_scores"]


def check_rescored(names: Sequence[str], columns: Sequence[Column]) -> None:
    """Check the names of columns that are to be made again, before any work starts.

    Args:
        names: Selectors of the recipe.
        columns: All columns of the recipe.

    Raises:
        SelectorError: No column of the recipe has such a name; key ``--rescore``.
    """
    known = [column.name for column in columns]
    for name in names:
        if name not in known:
            raise SelectorError(
                key="--rescore",
                expected="a selector that budget.rank or shards.carry names",
                got=repr(name),
                fix=did_you_mean(name, known).lstrip("; "),
            )


def forget_scores(
    names: Sequence[str],
    columns: Sequence[Column],
    models: Models,
    unfinished: Callable[[Column], str | None],
    deleting: Callable[[Artefact], object],
) -> None:
    """Delete the columns of selectors, their models, and all that was made of them.

    Args:
        names: Selectors of the recipe.
        columns: All columns of the recipe.
        models: Models of the pool whose documents are scored.
        unfinished: Called with a column; returns the fingerprint of its artefact where that follows
            from the model alone, else None.
        deleting: Called with each finished artefact before it is deleted; those that are made of
            others come before these.

    Raises:
        SelectorError: No column of the recipe has such a name.
        LeaseError: Another driver holds the work directory.
    """
    check_rescored(names, columns)
    known = {column.name: column for column in columns}
    workspace = models.workspace
    workspace.hold()
    models_of = {name: models.name_of(column) for name, column in known.items()}
    roots = {models_of[name] for name in names}
    again = {name for name, model in models_of.items() if model in roots}
    independent = {
        own[:16]
        for name, column in known.items()
        if name not in again and (own := unfinished(column))
    }
    begun = {name[:16] for name in roots}
    drafts = [
        *workspace.remove_unfinished("shards"),
        *workspace.remove_unfinished("cut"),
        *workspace.remove_unfinished("columns", lambda name: name not in independent),
        *workspace.remove_unfinished("model", begun.__contains__),
    ]
    delete_made(workspace, roots, len(drafts), models.progress, deleting)


def delete_made(
    workspace: Workspace,
    roots: Collection[str],
    drafts: int,
    progress: Callable[[str], None],
    deleting: Callable[[Artefact], object],
) -> None:
    """Delete artefacts and all that was made of them, with a line for each.

    Args:
        workspace: Holds them; it is held by this driver.
        roots: Their fingerprints.
        drafts: Unfinished artefacts that were deleted before, for a line.
        progress: Called with the lines.
        deleting: As of :func:`forget_scores`.
    """
    for artefact in workspace.made_of(roots):
        size = sum(record.bytes for record in artefact.files)
        progress(f"deleting {artefact.path} ({size:,} bytes)")
        deleting(artefact)
        workspace.remove(artefact)
    if drafts:
        progress(f"deleted {numbered(drafts, 'unfinished artefact')}")
