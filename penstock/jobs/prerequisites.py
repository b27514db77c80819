"""Prerequisites of a plan's columns, checked before the first stage.

Cleaning and rewriting may take hours, so what would stop a run after them stops it before: a
library that is not installed, a plug-in that cannot be sent to a worker. ``penstock check`` finds
the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from penstock.jobs.plan import Plan
from penstock.pipeline.plug_in_checks import check_sendable
from penstock.pipeline.rewriting.answers import Rewrite
from penstock.pipeline.rewriting.edits import Edit
from penstock.pipeline.scoring.models import Column
from penstock.plugin_code import hidden_neighbours
from penstock.selectors.adapter import code_behind

__all__ = ["check_plug_ins", "check_prerequisites", "describe_hidden"]


def check_prerequisites(plan: Plan) -> None:
    """Check what a plan's columns and rewriters need; nothing is read, imported or written.

    Args:
        plan: Plan of the recipe.

    Raises:
        ScoringError: As :func:`check_plug_ins`.
        BadInput: A library of a column that is not made yet is not installed.
    """
    from penstock.jobs.checking.libraries import require_libraries  # it imports the trainers

    check_plug_ins(plan.columns, plan.rewrites)
    require_libraries(plan.recipe, plan.columns)


def check_plug_ins(columns: Iterable[Column], rewrites: Iterable[Rewrite | Edit]) -> None:
    """Check that the selectors and rewriters of a recipe can be sent to workers.

    Raises:
        ScoringError: One cannot; key ``select.<name>`` or ``rewrite.<name>``.
    """
    for column in columns:
        check_sendable(f"select.{column.name}", column.selector)
    for rewrite in rewrites:
        check_sendable(f"rewrite.{rewrite.name}", rewrite.rewriter)


def describe_hidden(columns: Iterable[Column]) -> Iterator[tuple[str, str]]:
    """Yield the key of each selector and a warning for each neighbour that it cannot import."""
    for column in columns:
        for name, file in hidden_neighbours(code_behind(column.selector)):
            yield (
                f"select.{column.name}.use",
                f"select.{column.name}.use: {file} is not used: another module is called {name}, "
                f"and comes first; give {file.name} another name",
            )
