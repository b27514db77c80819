"""Changes of a user's scorer since a column of its name was scored, for ``curate`` and ``why``.

A column is named by the code of its scorer and by the contents of its files, so after an edit it is
made again. Which edit it was is found by comparing the identities of the two models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.artefact import Workspace
from penstock.errors import ArtefactError
from penstock.pipeline.edited_code import edited_modules, made_before, plain_identity
from penstock.pipeline.scoring.models import Column

__all__ = ["Changes", "changes_of"]


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between a scorer and the one of its name that scored last; false for nothing."""

    modules: tuple[str, ...] = ()
    """Modules that were edited, sorted."""
    files: tuple[tuple[str, str], ...] = ()
    """Parameters whose files have other contents, and the name of each file, sorted."""

    def __bool__(self) -> bool:
        return bool(self.modules or self.files)

    def lines(self, key: str, ending: str) -> Iterator[str]:
        """Yield a line for each.

        Args:
            key: The scorer's in the recipe, as ``select.mine``.
            ending: Of each line, after ``changed``.
        """
        for parameter, name in self.files:
            yield f"{key}.{parameter}: {name} changed{ending}"
        if self.modules:
            yield f"{key}: the code of {', '.join(self.modules)} changed{ending}"


def changes_of(workspace: Workspace, column: Column) -> Changes:
    """Compare a scorer with the one that scored a column of its name last.

    Nothing for a plug-in that was not scored here before, for one of Penstock's own, where a column
    of the same scorer is there, and where the work directory is in a store: there it would cost a
    request for each column.

    Args:
        workspace: Holds the columns.
        column: A column of the recipe.
    """
    own = plain_identity(column.selector.identity())
    if not own.get("code", {}).get("modules"):
        return Changes()
    before: list[dict[str, Any]] = []
    for scored in made_before(workspace, "columns"):
        if scored.manifest["config"] != {"selector": column.name}:
            continue
        try:
            model = workspace.find("model", scored.manifest["inputs"]["model"])
        except ArtefactError:  # of an old column, which nothing reads here
            continue
        identity = {} if model is None else dict(model.manifest["config"]["identity"])
        if identity.get("use", identity.get("class")) == own.get("use", own.get("class")):
            before.append(identity)
    if not before or own in before:
        return Changes()
    return Changes(edited_modules(own, before), tuple(_other_files(column, own, before[0])))


def _other_files(
    column: Column, own: Mapping[str, Any], before: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield parameters and the file of each, for files of other contents."""
    now, then = own.get("parameters", {}), before.get("parameters", {})
    for parameter, paths in sorted(column.files.items()):
        hashes, earlier = _listed(now.get(parameter)), _listed(then.get(parameter))
        for index, path in enumerate(paths):
            if hashes[index : index + 1] != earlier[index : index + 1]:
                yield parameter, Path(path).name


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
