"""Edits: rewriters without a model, applied to the texts of a unit batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from penstock.artefact import Workspace
from penstock.errors import ScoringError
from penstock.pipeline.checking import call_on_documents
from penstock.pipeline.edited_code import edited_lines
from penstock.pipeline.rewriting.answers import Rewrite, draw, identity_of
from penstock.pipeline.units import Unit, iter_documents
from penstock.plugin_code import PluginCode, code_of
from penstock.selectors.adapter import class_of
from penstock.selectors.rewriting.base import BLANK, Editor, Rewritten

__all__ = ["Edit", "edit_unit", "rewriter_changes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A rewriter of the recipe that needs no model."""

    name: str
    """Key of the rewriter under ``rewrite``."""
    rewriter: Editor
    share: float
    """Share of the documents that are edited, drawn by hash of the document."""
    seed: int
    code: PluginCode = field(init=False, repr=False, compare=False)
    """The rewriter's code, which must be the same in every worker."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", code_of(class_of(self.rewriter)))

    def identity(self) -> dict[str, Any]:
        """Identify what the texts depend on besides the documents."""
        return identity_of(self.rewriter, self.code, self.share, self.seed)


def edit_unit(
    unit: Unit, edit: Edit, columns: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, Any], Rewritten | None]]:
    """Yield the row of each document of a unit, its columns, and its text; None if not drawn.

    Raises:
        ScoringError: The editor raised, or returned anything but one text for each text.
    """
    key = f"rewrite.{edit.name}"
    start = 0
    for batch in iter_documents(unit, columns):
        drawn = draw(batch, edit.share, edit.seed)
        mask = pa.array(drawn)
        texts = batch.column("text").filter(mask).cast(pa.large_string())
        ids = batch.column("id").filter(mask)
        returned = call_on_documents(key, unit.name, ids, edit.rewriter.edit, texts)
        at = f"documents {ids[0]} to {ids[-1]} of {unit.name}" if len(ids) else unit.name
        edited = _checked(returned, len(texts), key, at)
        found = iter(edited.to_pylist())
        for row, fields in enumerate(batch.to_pylist()):
            yield start + row, fields, _rewritten(next(found)) if drawn[row] else None
        start += len(batch)


def rewriter_changes(rewrite: Rewrite | Edit, workspace: Workspace, stage: str) -> Iterator[str]:
    """Yield a line if the code of a rewriter was edited since it made a corpus.

    Args:
        rewrite: The rewriter, with or without a model.
        workspace: Holds the corpora.
        stage: Their stage.
    """
    own = rewrite.identity()

    def of_rewriter(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
        found = config.get("identity") if config.get("rewrite") == rewrite.name else None
        return found if found and found.get("rewriter") == own["rewriter"] else None

    return edited_lines(f"rewrite.{rewrite.name}", workspace, stage, own, of_rewriter)


def _checked(edited: Any, wanted: int, key: str, at: str) -> pa.Array:
    texts = pa.types.is_string, pa.types.is_large_string
    if isinstance(edited, pa.Array) and any(test(edited.type) for test in texts):
        if len(edited) == wanted:
            return edited
        got = f"{len(edited)} texts"
    else:
        got = f"{type(edited).__name__} of {getattr(edited, 'type', 'another type')}"
    raise ScoringError(key=key, file=at, expected=f"an Arrow array of {wanted} texts", got=got)


def _rewritten(text: str | None) -> Rewritten:
    if text is None or not text.strip():
        return Rewritten(rejected=(BLANK,))
    return Rewritten(texts=(text,))
