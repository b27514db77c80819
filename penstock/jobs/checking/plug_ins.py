"""Findings of a check on users' own code: what workers cannot get, and files that are not used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.errors import PenstockError
from penstock.jobs.checking.findings import Finding, error_of
from penstock.jobs.prerequisites import check_plug_ins, describe_hidden
from penstock.pipeline.rewriting.answers import Rewrite
from penstock.pipeline.rewriting.edits import Edit
from penstock.pipeline.scoring.models import Column
from penstock.plugin_code import absent_packages
from penstock.selectors.adapter import code_behind
from penstock.selectors.misspelt import misspelt_members

__all__ = ["plug_in_findings"]


def plug_in_findings(
    columns: Sequence[Column], rewrites: Sequence[Rewrite | Edit]
) -> Iterator[Finding]:
    """Yield a finding for each plug-in that cannot be sent to workers, and each hidden neighbour.

    Packages that are missing and members that are misspelt, as far as the source shows, are others.

    Args:
        columns: The selectors of the recipe.
        rewrites: Its rewriters.
    """
    parts: list[tuple[Sequence[Column], Sequence[Rewrite | Edit]]] = []
    parts += [([column], ()) for column in columns]
    parts += [((), [rewrite]) for rewrite in rewrites]
    for part in parts:
        try:
            check_plug_ins(*part)
        except PenstockError as error:
            yield error_of(error)
    for column in columns:
        use = f"select.{column.name}.use"
        for name in absent_packages(code_behind(column.selector)):
            text = f"{use}: a function of its code imports {name}, which is not installed"
            yield Finding(level="warning", kind="missing_library", key=use, text=text)
        for name, member in misspelt_members(column.selector):
            text = f"{use}: {name} is no member of a selector; is it meant for {member}?"
            yield Finding(
                level="warning", kind="misspelt_member", key=use, text=text, names=[member]
            )
    for key, text in describe_hidden(columns):
        yield Finding(level="warning", kind="hidden_module", key=key, text=text)
