"""Findings of a check: each an error or a warning with the recipe key, the problem and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from penstock.errors import PenstockError

__all__ = ["Finding", "error_of", "near_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found wrong, or likely to be wrong."""

    level: Literal["error", "warning"]
    """``error`` where a command would stop, or where a key names something that is not there."""
    kind: str
    """A name for programs, as ``missing_field``."""
    key: str | None
    """The recipe key, dotted."""
    text: str
    """The whole message, with the fix."""
    names: Sequence[str] = ()
    """The nearest names that exist, the best first; empty where none is near."""

    def summary(self) -> dict[str, Any]:
        """Return the entry of ``findings`` in the JSON of the command."""
        return {
            "level": self.level,
            "kind": self.kind,
            "key": self.key,
            "text": self.text,
            "names": list(self.names),
        }


def error_of(error: PenstockError) -> Finding:
    """Return an error that a part of the plan raised as a finding."""
    return Finding(level="error", kind="refused", key=error.key, text=str(error))


def near_names(name: str, known: Sequence[str]) -> list[str]:
    """Return the known names that are nearest to a name, the best first; at most three."""
    return difflib.get_close_matches(name, known, n=3)
