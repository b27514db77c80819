"""The functions ``penstock.why``, ``sample`` and ``diff``: what the commands print with ``--json``.

They look at what exists and write nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.errors import InputError
from penstock.jobs.api import RecipeLike
from penstock.jobs.api import open as open_results
from penstock.jobs.curate import Curated, PartiallyCurated
from penstock.jobs.diff import compare_sides
from penstock.jobs.reasons import add_reasons
from penstock.jobs.sample import Sample, sample_documents
from penstock.jobs.sides import open_side
from penstock.jobs.training_losses import add_training_losses
from penstock.jobs.why import fates_of, fates_with

__all__ = ["diff", "sample", "why"]


def why(
    recipe: RecipeLike, name: str, *, text: bool = False, settings: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return what happened to a document: the ``fates`` of ``penstock why --json``.

    Args:
        recipe: A recipe, or the path of its file.
        name: An id, the path of a file that is one document, or PATH:17.
        text: Whether ``name`` is a text that the documents contain; the first ten are returned.
        settings: ``key.path=value`` overrides of a recipe's file.

    Raises:
        BadInput: No document has the name, or the recipe cannot be used.
        UnmadeError: Not even the corpus of the recipe is made.
    """
    curated = _curated(recipe, settings)
    fates = fates_with(curated, name) if text else fates_of(curated, name)
    add_reasons(curated, fates)
    add_training_losses(curated, fates)
    return fates


def sample(
    recipe: RecipeLike, count: int = 10, *, settings: Sequence[str] = (), **wanted: Any
) -> list[dict[str, Any]]:
    """Draw documents with what happened to them: the lines of ``penstock sample --json``.

    Args:
        recipe: A recipe, or the path of its file.
        count: Documents at most.
        settings: ``key.path=value`` overrides of a recipe's file.
        wanted: ``place``, ``rule``, ``source``, ``near_cut`` and ``seed``
            (:class:`penstock.jobs.sample.Sample`).

    Raises:
        BadInput: No rule or source has the name, or the recipe cannot be used.
        UnmadeError: A condition depends on a cut that is not made.
    """
    return sample_documents(_curated(recipe, settings), count, Sample(**wanted)).documents


def diff(a: str, b: str, *, settings: Sequence[str] = (), limit: int = 20) -> dict[str, Any]:
    """Compare what two recipes take: the object of ``penstock diff --json``.

    Args:
        a: The path of a recipe that was curated, or the directory of a cut.
        b: The same of the other side.
        settings: ``key.path=value`` overrides of ``b``.
        limit: Most documents that are listed of each direction.

    Raises:
        BadInput: A side is neither, or its recipe cannot be used.
        UnmadeError: A side has no cut.
    """
    return compare_sides(open_side(a), open_side(b, tuple(settings)), limit).summary()


def _curated(recipe: RecipeLike, settings: Sequence[str]) -> Curated | PartiallyCurated:
    found = open_results(recipe, settings=settings)
    if not isinstance(found, Curated | PartiallyCurated):
        raise InputError(file=str(recipe), expected="a recipe", got="the directory of an artefact")
    return found
