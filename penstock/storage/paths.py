"""Paths as recipes write them: a local path, or a URI such as ``s3://bucket/work``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeAlias

from upath import UPath

__all__ = ["AnyPath", "is_uri", "real_path"]

AnyPath: TypeAlias = Path | UPath
"""A local path is a :class:`pathlib.Path`; any other is a :class:`upath.UPath` over fsspec, with
the same methods."""


def is_uri(text: str | os.PathLike[str] | UPath) -> bool:
    """Return whether the text of a path is a URI."""
    return re.match(r"[A-Za-z][\w+.-]+://", str(text)) is not None


def real_path(path: AnyPath) -> str:
    """Return a path as text, with the symbolic links of a local one resolved."""
    return str(path.resolve() if isinstance(path, Path) else path)
