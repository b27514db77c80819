"""Browse: a page on loopback that previews changes of a finished recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from penstock import extras
from penstock.display import numbered
from penstock.jobs.browse.preview import BrowsedRecipe
from penstock.jobs.browse.server import BrowseServer
from penstock.jobs.curate import PartiallyCurated, inspect
from penstock.jobs.plan import Plan
from penstock.pipeline.runner import open_runner
from penstock.recipe import Recipe

__all__ = ["open_browse"]


def open_browse(
    recipe: Recipe,
    name: str,
    settings: Sequence[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> BrowseServer:
    """Read the columns of a finished recipe, and return the server of its page; write nothing.

    Args:
        recipe: The recipe.
        name: Its file, as the copied command names it.
        settings: Options ``--set`` that the recipe was read with.
        progress: Called with a line for each event.

    Raises:
        BadInput: The recipe cannot be used, or a library of the extra ``browse`` is missing.
        UnmadeError: Not all of its artefacts are made.
        ArtefactError: A file is missing or was changed.
    """
    with extras.named("browse", "browse"):
        import duckdb  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    plan = Plan.of(recipe)
    with closing(open_runner("local", 1)) as runner:
        found = inspect(plan, runner)
    if isinstance(found, PartiallyCurated):
        raise found.lacks
    progress("columns ...")
    browsed = BrowsedRecipe(plan, found)
    progress(f"{numbered(len(browsed.columns), 'document')} with their columns")
    return BrowseServer(browsed, name, settings)
